"""Find the people in a keypoints file's JSON, whichever tool wrote it.

Read are OpenPose (`people`), ControlNet and ComfyUI (the same with a canvas, or a list of frames),
DWPose (`bodies` with `candidate` and `subset`), AlphaPose (a list with `image_id`, or a dictionary
by photo), MMPose (`instance_info`, `predictions`, lists of instances), COCO (`annotations`), and
single people with `keypoints`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float

from omfa_jax.body.keypoints.joint_orders import BODY_18, BODY_25, FEET, to_body_25
from omfa_jax.body.keypoints.keypoint_rows import NamedRows, read_named_rows, read_rows
from omfa_jax.core.errors import OmfaError

# where a file, a frame or a photo lists its people; the first key found is used
LIST_KEYS = (
    "people",
    "instances",
    "instance_info",
    "pred_instances",
    "predictions",
    "annotations",
    "frames",
)
BODY_KEYS = ("pose_keypoints_2d", "pose_keypoints", "keypoints", "joints")
SCORE_KEYS = ("keypoint_scores", "keypoints_scores", "scores", "confidences")
FOOT_KEYS = ("foot_keypoints_2d", "foot_kpts")
HAND_KEYS = {
    side: (f"hand_{side}_keypoints_2d", f"hand_{side}_keypoints", f"{side}hand_kpts")
    for side in ("left", "right")
}
IMAGE_KEYS = ("image_id", "image_name", "file_name", "img_path", "image_path", "imgname")
FRAME_KEYS = (("canvas_width", "canvas_height"), ("image_width", "image_height"))
# the format of DressCode and of PyTorch ports of OpenPose: rows (x, y, score, row) in this frame
DRESSCODE_FRAME_PX = (384, 512)


@dataclass(frozen=True)
class FilePerson:
    """A person as a file has it: BODY_25 rows (x, y, confidence), in the file's own unit.

    `frame_px`: the (width, height) that the coordinates refer to, None if the file does not say.
    `is_stretched`: the frame was filled whatever the photo's aspect. `image`: the photo's name in
    the file, or "". `group`: the number of the frame or photo in the file.
    """

    rows: Float[np.ndarray, "25 3"]
    frame_px: tuple[float, float] | None = None
    is_stretched: bool = False
    image: str = ""
    group: str = ""


def list_people(document: Any, photo: str) -> list[FilePerson]:
    """Return the people of a parsed file, in its order; empty if the file has none.

    `photo`: the photo's name without suffix, which chooses among the photos of a results file.
    Raises OmfaError for JSON of another form, and for a file of several photos without this one.
    """
    people = list(_walk(document, FilePerson(np.zeros((len(BODY_25), 3)))))
    groups = list(dict.fromkeys((person.group, person.image) for person in people))
    if len(groups) < 2:
        return people
    chosen = [person for person in people if photo and _get_stem(person.image) == photo]
    if not chosen:
        wanted = f"none of them of {photo}" if photo else "not those of one"
        raise OmfaError(
            f"expected the keypoints of one photo, found those of {len(groups)}, {wanted};"
            " write a file per photo"
        )
    return chosen


def _walk(node: Any, context: FilePerson) -> Iterator[FilePerson]:
    """Yield the people below a node; `context` has what the nodes above say about them."""
    if isinstance(node, Mapping):
        yield from _walk_mapping(node, _add_context(node, context))
    elif not isinstance(node, list):
        raise _make_form_error(node)
    elif node and all(isinstance(child, Mapping) for child in node):
        yield from _walk_items(node, context)
    elif all(isinstance(child, list) for child in node) and any(map(_has_mappings, node)):
        # MMPose's predictions: a list of instances per photo
        for number, child in enumerate(node):
            inner = replace(context, group=f"{context.group}/{number}")
            yield from list(_walk(child, inner)) or [inner]
    elif node and node != [[]]:
        yield from _read_arrays(node, None, context)


def _walk_items(items: Sequence[Mapping], context: FilePerson) -> Iterator[FilePerson]:
    for number, item in enumerate(items):
        if _find_key(item, BODY_KEYS):
            yield from _walk(item, context)
            continue
        # a frame: one without people counts too, because another frame's may not be the photo's
        inner = _add_context(item, replace(context, group=f"{context.group}/{number}"))
        yield from list(_walk(item, inner)) or [inner]


def _walk_mapping(node: Mapping, context: FilePerson) -> Iterator[FilePerson]:
    if key := _find_key(node, LIST_KEYS):
        children = [] if node[key] is None else node[key]
        if key == "annotations":
            children = _add_images(children, node.get("images"))
        if not isinstance(children, list | Mapping):
            raise OmfaError(f"expected a list as {key}, found {_describe(children)}")
        yield from _walk(children, context)
    elif "bodies" in node:
        yield from _read_bodies(node, context)
    elif key := _find_key(node, BODY_KEYS):
        yield from _read_person(node, key, context)
    elif node and all(isinstance(child, Mapping) for child in node.values()):
        # AlphaPose's --format open: a dictionary by photo
        for name, child in node.items():
            yield from _walk(child, replace(context, image=str(name), group=str(name)))
    else:
        raise _make_form_error(node)


def _add_context(node: Mapping, context: FilePerson) -> FilePerson:
    for keys in FRAME_KEYS:
        size = [node.get(key) for key in keys]
        if any(value is not None for value in size):
            context = replace(context, frame_px=_read_frame(keys, size))
    name = next((node[key] for key in IMAGE_KEYS if isinstance(node.get(key), str | int)), None)
    if name is not None and not isinstance(name, bool):
        # a bare number is no name, but tells photos apart
        context = replace(
            context, image=name if isinstance(name, str) else "", group=_get_stem(str(name))
        )
    return context


def _read_frame(keys: Sequence[str], size: Sequence[Any]) -> tuple[float, float]:
    for key, value in zip(keys, size, strict=True):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 1 <= value < 1e6:
            raise OmfaError(f"expected a size in pixels as {key}, found {_describe(value)}")
    return float(size[0]), float(size[1])


def _read_person(node: Mapping, key: str, context: FilePerson) -> Iterator[FilePerson]:
    points, scores = node[key], node.get(_find_key(node, SCORE_KEYS) or "")
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
            if (rows := _read_part(node.get(name), 21)) is not None:
                extra[f"{side}_hand_root"] = rows[0]
    yield from _read_arrays(points, scores, context, extra)


def _read_part(points: Any, count: int) -> np.ndarray | None:
    """Return the rows of feet or a hand, None if there are none: the body is used without them."""
    try:
        return read_rows(points, None, (count,)) if points else None
    except OmfaError:
        return None


def _read_arrays(
    points: Any, scores: Any, context: FilePerson, extra: NamedRows | None = None
) -> Iterator[FilePerson]:
    """Yield the person of an array of rows, or the people of an array of those."""
    if _get_depth(points) == 3:
        people = scores if scores and _get_depth(scores) > 1 else [None] * len(points)
        if len(people) != len(points):
            raise OmfaError(f"expected scores of {len(points)} people, found {len(people)}")
        for one, trust in zip(points, people, strict=True):
            yield from _read_arrays(one, trust, context)
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


def _read_bodies(node: Mapping, context: FilePerson) -> Iterator[FilePerson]:
    """Yield the people of AlphaPose's `bodies` (a list) or DWPose's (points, rows of indices)."""
    bodies = node["bodies"]
    if isinstance(bodies, list) and _has_mappings(bodies):
        yield from _walk(bodies, context)
        return
    parts = bodies if isinstance(bodies, Mapping) else {**node, "candidate": bodies}
    points, indices = parts.get("candidate"), parts.get("subset", parts.get("body_scores")) or []
    if not points:
        return
    if _get_depth(points) != 2 or _get_depth(indices) != 2:
        raise OmfaError("expected rows of numbers as candidate and subset of bodies")
    for person in indices:
        if not isinstance(person, list) or len(person) < len(BODY_18):
            raise OmfaError(f"expected at least {len(BODY_18)} numbers per row of subset")
        rows = [[None, None]] * len(BODY_18)
        for joint, index in enumerate(person[: len(BODY_18)]):
            # -1 marks a missing point
            if not isinstance(index, int | float) or not -1 <= index < len(points):
                raise OmfaError(f"expected rows of candidate in subset, found {_describe(index)}")
            if index >= 0 and isinstance(points[int(index)], list):
                rows[joint] = points[int(index)][:2]
        yield from _read_arrays(rows, None, context)


def _add_images(annotations: Any, images: Any) -> Any:
    """Return COCO's annotations with the name and size of their photos.

    A photo without any gets an empty one, so that another photo's is not taken for its own.
    """
    if not isinstance(annotations, list) or not isinstance(images, list):
        return annotations
    by_id = {str(image.get("id")): image for image in images if isinstance(image, Mapping)}
    found, lacking = [], dict(by_id)
    for one in annotations:
        image = by_id.get(str(one.get("image_id"))) if isinstance(one, Mapping) else None
        if image is not None and isinstance(image.get("file_name"), str):
            sizes = {f"image_{side}": image.get(side) for side in ("width", "height")}
            one = {**one, **sizes, "image_id": image["file_name"]}
            lacking.pop(str(image.get("id")), None)
        found.append(one)
    names = (image.get("file_name") for image in lacking.values())
    return found + [{"image_id": name, "keypoints": []} for name in names]


def _find_key(node: Mapping, keys: Sequence[str]) -> str | None:
    return next((key for key in keys if key in node), None)


def _has_mappings(node: Any) -> bool:
    return bool(node) and all(isinstance(child, Mapping) for child in node)


def _get_depth(node: Any) -> int:
    depth = 0
    while isinstance(node, list) and node:
        depth, node = depth + 1, node[0]
    return depth


def _get_stem(name: str) -> str:
    # results written on Windows have backslashes
    return PurePosixPath(name.replace("\\", "/")).stem


def _describe(node: Any) -> str:
    """Return what a value is, in words."""
    kinds = {Mapping: "a dictionary", list: "a list", str: "text", bool: "true or false"}
    if node is None:
        return "nothing"
    if isinstance(node, int | float) and not isinstance(node, bool):
        return f"{node:.6g}" if abs(node) < 1e15 else "no usable number"
    return next((text for kind, text in kinds.items() if isinstance(node, kind)), "something else")


def _make_form_error(node: Any) -> OmfaError:
    found = _describe(node)
    if isinstance(node, Mapping) and node:
        keys = [" ".join(str(key).split())[:20] for key in list(node)[:4]]
        found += f" with {', '.join(keys)}{', ...' if len(node) > 4 else ''}"
    return OmfaError(
        "expected the JSON of a pose tool, with people, keypoints, instances, predictions or"
        f" bodies, found {found}"
    )
