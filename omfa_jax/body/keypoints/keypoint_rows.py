"""Turn one person's keypoints, in any of the forms that JSON files have, into rows by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from omfa_jax.body.keypoints.joint_orders import BODY_18, JOINT_ORDERS, describe_orders
from omfa_jax.core.errors import OmfaError

# SimCC heads score up to about 10; larger numbers are pixels or depths
MAX_CONFIDENCE = 20.0
# a score of SimCC may be a little below 0, a depth of MediaPipe is often far below it
MIN_SCORE = -0.1
# larger ones would overflow in squares
MAX_COORDINATE = 1e9
CONFIDENCE_KEYS = ("score", "confidence", "visibility", "visible")
# COCO's flags of annotated points: 2 visible, 1 hidden, 0 absent
COCO_VISIBLE = 2

NamedRows = dict[str, Float[np.ndarray, "3"]]


def read_named_rows(points: Any, scores: Any = None) -> NamedRows:
    """Return {joint: (x, y, confidence)} of one person; OmfaError for rows that cannot be used.

    `points`: a flat list or rows of (x, y), (x, y, confidence) or (x, y, confidence, index), or the
    same as dictionaries. `scores`: the confidences, where they are apart. The number of rows says
    which joints they are.
    """
    rows = read_rows(points, scores, tuple(JOINT_ORDERS))
    order = JOINT_ORDERS[len(rows)]
    return {name: row for name, row in zip(order.names, rows, strict=True) if name}


def read_rows(points: Any, scores: Any, counts: tuple[int, ...]) -> Float[np.ndarray, "k 3"]:
    """Return (x, y, confidence) rows; OmfaError unless their number is one of `counts`.

    Confidences are 0 or more: above 1 they are what the file has.
    Missing points, which tools write as (0, 0), (-1, -1) or null, have confidence 0. Without
    confidences, the others have 1.
    """
    array = _to_array(_unpack_dictionaries(points))
    apart = None if scores is None else _to_array(scores).reshape(-1)
    if array.ndim == 1:
        array = _fold(array, counts, with_scores=apart is not None)
    if array.ndim != 2 or array.shape[1] not in (2, 3, 4):
        found = f"an array of {'x'.join(map(str, array.shape))}" if array.ndim else "one number"
        raise OmfaError(f"expected rows of (x, y, confidence), found {found}")
    if len(array) not in counts:
        raise OmfaError(f"expected {describe_orders()} rows of keypoints, found {len(array)}")
    if apart is not None and len(apart) != len(array):
        raise OmfaError(f"expected a confidence for each of {len(array)} rows, found {len(apart)}")
    if apart is None and array.shape[1] > 2:
        apart = array[:, 2]
    if array.shape[1] == 4 and len(array) != len(BODY_18):
        raise OmfaError(
            f"expected {len(BODY_18)} rows of (x, y, confidence, row), found {len(array)} of four"
            " numbers"
        )
    if array.shape[1] == 4:
        # DressCode marks missing points by a negative coordinate
        array = np.where((array < 0).any(axis=1, keepdims=True), 0.0, array)
    return _clean(array[:, :2], apart)


def _to_array(values: Any) -> np.ndarray:
    try:
        # null becomes NaN
        return np.array(values, float)
    except (ValueError, TypeError, OverflowError):
        raise OmfaError("expected rows of numbers, found rows of other things or lengths") from None


def _unpack_dictionaries(points: Any) -> Any:
    """Return the rows of columns {"x": [...], "y": [...]} or of a list of {"x": .., "y": ..}."""
    if isinstance(points, Mapping):
        columns = [points.get("x"), points.get("y"), _get_confidence(points)]
        columns = columns if columns[2] is not None else columns[:2]
        if not all(isinstance(column, list) for column in columns):
            raise OmfaError("expected lists x and y of the keypoints")
        if len({len(column) for column in columns}) > 1:
            raise OmfaError("expected lists x and y of the keypoints of one length")
        return [list(row) for row in zip(*columns, strict=True)]
    if isinstance(points, list) and points and all(isinstance(row, Mapping) for row in points):
        rows = [[row.get("x"), row.get("y"), _get_confidence(row)] for row in points]
        return rows if any(row[2] is not None for row in rows) else [row[:2] for row in rows]
    return points


def _get_confidence(row: Mapping) -> Any:
    return next((row[key] for key in CONFIDENCE_KEYS if row.get(key) is not None), None)


def _fold(array: np.ndarray, counts: tuple[int, ...], *, with_scores: bool) -> np.ndarray:
    """Return the rows of a flat list, of three numbers or, if their number fits only so, of two."""
    for columns in (2, 3) if with_scores else (3, 2):
        rows, rest = divmod(len(array), columns)
        if columns == 2 and not with_scores and _has_confidences(array):
            continue
        if not rest and rows in counts:
            return array.reshape(rows, columns)
    if len(array) % 3:
        raise OmfaError(
            f"expected {describe_orders()} rows of (x, y, confidence), found {len(array)} numbers"
        )
    return array.reshape(-1, 3)


def _has_confidences(array: np.ndarray) -> bool:
    """Return whether pixels are mixed with confidences, as in (x, y, confidence) with one lost."""
    sizes = np.abs(array[np.isfinite(array)])
    return bool(((sizes > 0) & (sizes <= COCO_VISIBLE)).any() and (sizes > COCO_VISIBLE).any())


def _clean(
    places: Float[np.ndarray, "k 2"], confidences: Float[np.ndarray, "k"] | None
) -> Float[np.ndarray, "k 3"]:
    absent = ~np.isfinite(places).all(axis=1)
    absent |= (places == 0).all(axis=1) | (places == -1).all(axis=1)
    if confidences is None or np.isnan(confidences).all():
        confidences = np.ones(len(places))
    trust = np.where(np.isfinite(confidences), confidences, 0.0)
    _require_confidences(trust[~absent])
    if trust.max(initial=0) == COCO_VISIBLE and np.isin(trust, (0, 1, COCO_VISIBLE)).all():
        trust = trust / COCO_VISIBLE
    rows = np.concatenate([places, np.maximum(trust, 0)[:, None]], axis=1)
    rows = np.where(absent[:, None], 0.0, rows)
    return np.clip(rows, -MAX_COORDINATE, MAX_COORDINATE)


def _require_confidences(values: Float[np.ndarray, "k"]) -> None:
    """Raise an OmfaError if the confidences of found points are pixels or depths."""
    least, most = values.min(initial=0), values.max(initial=0)
    if most > MAX_CONFIDENCE or least < MIN_SCORE:
        found = f"{most:.6g}" if least >= 0 else f"{least:.6g} to {most:.6g}"
        raise OmfaError(
            f"expected confidences from 0 to 1, found {found}: depths? write rows of x, y,"
            " confidence, or of x, y"
        )
