"""Read one person's part of a keypoints file: its body, and feet and hands that are apart."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from omfa_jax.body.keypoints.joint_orders import BODY_18, FEET, HAND_POINTS, to_body_25
from omfa_jax.body.keypoints.keypoint_rows import NamedRows, read_named_rows, read_rows
from omfa_jax.core.errors import OmfaError

SCORE_KEYS = ("keypoint_scores", "keypoints_scores", "scores", "confidences")
FOOT_KEYS = ("foot_keypoints_2d", "foot_kpts")
HAND_KEYS = {
    side: (f"hand_{side}_keypoints_2d", f"hand_{side}_keypoints", f"{side}hand_kpts")
    for side in ("left", "right")
}
# the format of DressCode and of PyTorch ports of OpenPose: rows (x, y, score, row) in this frame
DRESSCODE_FRAME_PX = (384, 512)


@dataclass(frozen=True)
class FilePerson:
    """A person as a file has it: BODY_25 rows (x, y, confidence), in the file's own units.

    `frame_px`: the (width, height) that the coordinates refer to, None if the file does not say.
    `is_stretched`: the frame was filled whatever the photo's aspect. `image`: the photo's name in
    the file, or "". `group`: the number of the frame or photo in the file.
    """

    rows: Float[np.ndarray, "25 3"]
    frame_px: tuple[float, float] | None = None
    is_stretched: bool = False
    image: str = ""
    group: str = ""


def read_person(node: Mapping, key: str, context: FilePerson) -> Iterator[FilePerson]:
    """Yield the person whose body is at `key`, or several of an array; `context` has the rest."""
    points, scores = node[key], node.get(find_key(node, SCORE_KEYS) or "")
    if not isinstance(scores, list):
        scores = None
    if points is None or points == []:
        # the tool found a face or a hand without a body
        yield context
        return
    extra: NamedRows = {}
    for name in FOOT_KEYS:
        if (rows := _read_part(node.get(name), len(FEET))) is not None:
            extra |= dict(zip(FEET, rows, strict=True))
    for side, names in HAND_KEYS.items():
        for name in names:
            if (rows := _read_part(node.get(name), HAND_POINTS)) is not None:
                extra[f"{side}_hand_root"] = rows[0]
    yield from read_arrays(points, scores, context, extra)


def _read_part(points: Any, count: int) -> np.ndarray | None:
    """Return the rows of feet or a hand, None if there are none: the body is used without them."""
    try:
        return read_rows(points, None, (count,)) if points else None
    except OmfaError:
        return None


def read_arrays(
    points: Any, scores: Any, context: FilePerson, extra: NamedRows | None = None
) -> Iterator[FilePerson]:
    """Yield the person of an array of rows, or the people of an array of those."""
    if _get_depth(points) == 3:
        people = scores if scores and _get_depth(scores) > 1 else [None] * len(points)
        if len(people) != len(points):
            raise OmfaError(f"expected scores of {len(points)} people, found {len(people)}")
        for one, trust in zip(points, people, strict=True):
            yield from read_arrays(one, trust, context)
        return
    rows = read_named_rows(points, scores)
    body = to_body_25(dict(extra or {}) | rows)
    is_indexed = len(points) == len(BODY_18) and all(
        isinstance(row, list) and len(row) == 4 for row in points
    )
    if is_indexed and context.frame_px is None:
        yield replace(context, rows=body, frame_px=DRESSCODE_FRAME_PX, is_stretched=True)
    else:
        yield replace(context, rows=body)


def read_indexed_people(node: Mapping, context: FilePerson) -> Iterator[FilePerson]:
    """Yield the people of DWPose's `bodies`: points of all, and a row of indices for each."""
    bodies = node["bodies"]
    parts = bodies if isinstance(bodies, Mapping) else {**node, "candidate": bodies}
    points, indices = parts.get("candidate"), parts.get("subset", parts.get("body_scores")) or []
    if not points:
        return
    if _get_depth(points) != 2 or _get_depth(indices) != 2:
        raise OmfaError("expected rows of numbers as candidate and subset of bodies")
    for number, person in enumerate(indices):
        if not isinstance(person, list) or len(person) < len(BODY_18):
            raise OmfaError(f"expected at least {len(BODY_18)} numbers per row of subset")
        if _are_confidences(person[: len(BODY_18)]):
            first = number * len(BODY_18)
            rows = points[first : first + len(BODY_18)]
            yield from read_arrays(rows, person[: len(BODY_18)], context)
            continue
        rows = [[None, None]] * len(BODY_18)
        for joint, index in enumerate(person[: len(BODY_18)]):
            # -1 marks a missing point
            if not isinstance(index, int | float) or not -1 <= index < len(points):
                raise OmfaError(
                    f"expected rows of candidate in subset, found {describe_value(index)}"
                )
            if index >= 0 and isinstance(points[int(index)], list):
                rows[joint] = points[int(index)][:2]
        yield from read_arrays(rows, None, context)


def _are_confidences(values: Sequence[Any]) -> bool:
    """Whether a row of subset has confidences: no two joints of a person are the same point."""
    used = [value for value in values if isinstance(value, int | float) and value >= 0]
    return len({int(value) for value in used}) < len(used) and max(used) <= 1


def find_key(node: Mapping, keys: Sequence[str]) -> str | None:
    """Return the first of `keys` that the node has."""
    return next((key for key in keys if key in node), None)


def _get_depth(node: Any) -> int:
    depth = 0
    while isinstance(node, list) and node:
        depth, node = depth + 1, node[0]
    return depth


def describe_value(node: Any) -> str:
    """Return what a value is, in words."""
    kinds = {Mapping: "a dictionary", list: "a list", str: "text", bool: "true or false"}
    if node is None:
        return "nothing"
    if isinstance(node, int | float) and not isinstance(node, bool):
        return f"{node:.6g}" if abs(node) < 1e15 else "no usable number"
    return next((text for kind, text in kinds.items() if isinstance(node, kind)), "something else")
