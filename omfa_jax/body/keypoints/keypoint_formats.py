"""Find the people in a keypoints file's JSON, whichever tool wrote it.

Read are OpenPose (`people`), ControlNet and ComfyUI (the same with a canvas, or a list of frames),
DWPose (`bodies` with `candidate` and `subset`), AlphaPose (a list with `image_id`, or a dictionary
by photo), MMPose (`instance_info`, `predictions`, lists of instances), COCO (`annotations`), and
single people with `keypoints`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from omfa_jax.body.keypoints.file_people import (
    FilePerson,
    describe_value,
    find_key,
    read_arrays,
    read_indexed_people,
    read_person,
)
from omfa_jax.body.keypoints.joint_orders import BODY_25
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
IMAGE_KEYS = ("image_id", "image_name", "file_name", "img_path", "image_path", "imgname")
FRAME_KEYS = (
    *(("canvas_width", "canvas_height"), ("image_width", "image_height")),
    *(("imageWidth", "imageHeight"), ("img_width", "img_height"), ("frame_width", "frame_height")),
)
# what may also be a person's box, so that it counts for a file, a frame or a photo only
PLAIN_FRAME_KEYS = ("width", "height")
# MMPose's and MMDetection's (height, width); of the first that is there
SHAPE_KEYS = ("ori_shape", "img_shape")


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
        if any(person.image for person in people):
            wanted = f"none of them of {photo or 'this photo'}; call the photo as the file does, or"
        else:
            wanted = "none with the name of its photo; keep the frame of this photo alone, add"
            wanted += " names as image_id, or"
        raise OmfaError(
            f"expected the keypoints of one photo, found those of {len(groups)}, {wanted} write a"
            " file per photo"
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
        yield from read_arrays(node, None, context)


def _walk_items(items: Sequence[Mapping], context: FilePerson) -> Iterator[FilePerson]:
    for number, item in enumerate(items):
        if find_key(item, BODY_KEYS):
            yield from _walk(item, context)
            continue
        # a frame: one without people counts too, because another frame's may not be the photo's
        inner = _add_context(item, replace(context, group=f"{context.group}/{number}"))
        yield from list(_walk(item, inner)) or [inner]


def _walk_mapping(node: Mapping, context: FilePerson) -> Iterator[FilePerson]:
    if key := find_key(node, LIST_KEYS):
        children = [] if node[key] is None else node[key]
        if key == "annotations":
            children = _add_images(children, node.get("images"))
        if not isinstance(children, list | Mapping):
            raise OmfaError(f"expected a list as {key}, found {describe_value(children)}")
        yield from _walk(children, context)
    elif "bodies" in node:
        bodies = node["bodies"]
        is_list = isinstance(bodies, list) and _has_mappings(bodies)
        yield from _walk(bodies, context) if is_list else read_indexed_people(node, context)
    elif key := find_key(node, BODY_KEYS):
        yield from read_person(node, key, context)
    elif node and all(isinstance(child, Mapping) for child in node.values()):
        # AlphaPose's --format open: a dictionary by photo
        for name, child in node.items():
            yield from _walk(child, replace(context, image=str(name), group=str(name)))
    else:
        raise _make_form_error(node)


def _add_context(node: Mapping, context: FilePerson) -> FilePerson:
    is_person = find_key(node, BODY_KEYS) is not None
    for keys in FRAME_KEYS if is_person else (*FRAME_KEYS, PLAIN_FRAME_KEYS):
        size = [node.get(key) for key in keys]
        if any(value is not None for value in size):
            context = replace(context, frame_px=_read_frame(keys, size))
            break
    else:
        shape = node.get(find_key(node, SHAPE_KEYS) or "")
        if isinstance(shape, list) and len(shape) in (2, 3):
            context = replace(context, frame_px=_read_frame(("width", "height"), shape[1::-1]))
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
            raise OmfaError(f"expected a size in pixels as {key}, found {describe_value(value)}")
    return float(size[0]), float(size[1])


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


def _has_mappings(node: Any) -> bool:
    return bool(node) and all(isinstance(child, Mapping) for child in node)


def _get_stem(name: str) -> str:
    # results written on Windows have backslashes
    return PurePosixPath(name.replace("\\", "/")).stem


def _make_form_error(node: Any) -> OmfaError:
    found = describe_value(node)
    if isinstance(node, Mapping) and node:
        keys = [" ".join(str(key).split())[:20] for key in list(node)[:4]]
        found += f" with {', '.join(keys)}{', ...' if len(node) > 4 else ''}"
    return OmfaError(
        "expected the JSON of a pose tool, with people, keypoints, instances, predictions or"
        f" bodies, found {found}"
    )
