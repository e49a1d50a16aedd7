"""One person's keypoints in the JSON of every tool that the reader knows, for tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZE_PX = (768, 1024)
# the joints of BODY_25 in its order, each with a confidence of its own
_PLACES = {
    **{"nose": (380, 150), "neck": (384, 310), "rsho": (290, 320), "relb": (250, 500)},
    **{"rwri": (240, 650), "lsho": (480, 315), "lelb": (520, 505), "lwri": (530, 655)},
    **{"mhip": (385, 640), "rhip": (330, 642), "rkne": (325, 800), "rank": (322, 930)},
    **{"lhip": (440, 638), "lkne": (445, 803), "lank": (449, 935), "reye": (360, 130)},
    **{"leye": (402, 131), "rear": (335, 145), "lear": (430, 146), "lbig": (455, 985)},
    **{"lsml": (475, 975), "lhel": (450, 955), "rbig": (315, 983), "rsml": (297, 973)},
    **{"rhel": (324, 953)},
}
PERSON = {name: (x, y, 0.5 + i / 100) for i, (name, (x, y)) in enumerate(_PLACES.items())}
ORDER_25 = tuple(PERSON)

_ORDER_18 = (*ORDER_25[:8], *ORDER_25[9:19])
_COCO = (
    *("nose", "leye", "reye", "lear", "rear", "lsho", "rsho", "lelb", "relb", "lwri", "rwri"),
    *("lhip", "rhip", "lkne", "rkne", "lank", "rank"),
)
_FEET = ("lbig", "lsml", "lhel", "rbig", "rsml", "rhel")
_HALPE = (*_COCO, "head", "neck", "mhip", "lbig", "rbig", "lsml", "rsml", "lhel", "rhel")
_FACE_AND_HANDS = ("",) * (68 + 42)
_WHOLE_BODY = (*_COCO, *_FEET, *_FACE_AND_HANDS)
_DWPOSE = (*_ORDER_18, *_FEET, *_FACE_AND_HANDS)
_HALPE_136 = (*_HALPE, *_FACE_AND_HANDS)


def rows(order: tuple[str, ...], person: dict | None = None) -> list[list[float]]:
    """Return (x, y, confidence) rows; zeros for points that the person has not."""
    return [list((person or PERSON).get(name, (0.0, 0.0, 0.0))) for name in order]


def flat(order: tuple[str, ...], person: dict | None = None) -> list[Any]:
    return [value for row in rows(order, person) for value in row]


def transform(scale: float, shift: tuple[float, float] = (0, 0)) -> dict:
    """Return the person at another size and place."""
    return {n: (x * scale + shift[0], y * scale + shift[1], c) for n, (x, y, c) in PERSON.items()}


def fractions() -> dict:
    return {n: (x / SIZE_PX[0], y / SIZE_PX[1], c) for n, (x, y, c) in PERSON.items()}


def _instance(order: tuple[str, ...]) -> dict:
    found = rows(order)
    places, scores = [row[:2] for row in found], [row[2] for row in found]
    return {"keypoints": places, "keypoint_scores": scores, "bbox": [[0, 0, 768, 1024]]}


def openpose(points: list[Any], **more: Any) -> dict:
    return {"version": 1.3, "people": [{"pose_keypoints_2d": points}], **more}


def _canvas(scale: float, points: list[float]) -> dict:
    width, height = (round(side * scale) for side in SIZE_PX)
    return openpose(points, canvas_width=width, canvas_height=height)


def _dwpose_indices() -> dict:
    person = fractions()
    points = [list(person[name][:2]) for name in _ORDER_18]
    return {"bodies": {"candidate": points, "subset": [list(range(18))]}, "hands": [], "faces": []}


def _coco_annotations() -> dict:
    flags = [value for name in _COCO for value in (*PERSON[name][:2], 2)]
    other = {"image_id": 8, "category_id": 1, "keypoints": [1, 1, 2] * 17}
    mine = {"image_id": 7, "category_id": 1, "keypoints": flags, "bbox": [0, 0, 1, 1]}
    size = {"width": SIZE_PX[0], "height": SIZE_PX[1]}
    images = [{"id": 7, "file_name": "me.jpg", **size}, {"id": 8, "file_name": "you.jpg", **size}]
    return {"images": images, "annotations": [other, mine]}


def _alphapose() -> list:
    halpe = {"category_id": 1, "keypoints": flat(_HALPE), "score": 2.7, "box": [0, 0, 9, 9]}
    other = {"image_id": "you.jpg", "keypoints": flat(_HALPE, transform(0.5)), "score": 3.0}
    return [other, halpe | {"image_id": "me.jpg"}]


def _ultralytics() -> list:
    x, y, visible = map(list, zip(*rows(_COCO), strict=True))
    return [{"name": "person", "keypoints": {"x": x, "y": y, "visible": visible}}]


def _named_points() -> dict:
    points = [dict(zip(("x", "y", "score"), row, strict=True)) for row in rows(_COCO)]
    return {"keypoints": points, "score": 0.9}


def _arrays() -> dict:
    found = rows(_DWPOSE)
    return {"keypoints": [[row[:2] for row in found]], "scores": [[row[2] for row in found]]}


def _without_confidences() -> dict:
    return openpose([value for row in rows(_ORDER_18) for value in row[:2]])


def _dresscode() -> dict:
    found = rows(_ORDER_18, transform(0.5))
    return {"keypoints": [[*row, index] for index, row in enumerate(found)]}


# name -> the file's JSON, and the joints that it has
FORMATS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "BODY_25": (lambda: openpose(flat(ORDER_25)), ORDER_25),
    "BODY_18": (lambda: openpose(flat(_ORDER_18)), _ORDER_18),
    "COCO in people": (lambda: openpose(flat(_COCO)), _COCO),
    "old name": (lambda: {"people": [{"pose_keypoints": flat(_ORDER_18)}]}, _ORDER_18),
    "canvas": (lambda: _canvas(0.5, flat(_ORDER_18, transform(0.5))), _ORDER_18),
    "list of frames": (lambda: [_canvas(2, flat(_ORDER_18, transform(2)))], _ORDER_18),
    "fractions": (lambda: openpose(flat(_ORDER_18, fractions())), _ORDER_18),
    "fractions of a canvas": (lambda: _canvas(0.5, flat(_ORDER_18, fractions())), _ORDER_18),
    "feet apart": (
        lambda: {
            "people": [{"pose_keypoints_2d": flat(_ORDER_18), "foot_keypoints_2d": flat(_FEET)}]
        },
        (*_ORDER_18, *_FEET),
    ),
    "DWPose bodies": (_dwpose_indices, _ORDER_18),
    "DWPose arrays": (_arrays, (*_ORDER_18, *_FEET)),
    "AlphaPose results": (_alphapose, ORDER_25),
    "AlphaPose 136": (lambda: [{"image_id": "me.jpg", "keypoints": flat(_HALPE_136)}], ORDER_25),
    "AlphaPose open": (
        lambda: {"me.jpg": {"version": "AlphaPose v0.3", **openpose(flat(_ORDER_18))}},
        _ORDER_18,
    ),
    "AlphaPose cmu": (lambda: {"bodies": [{"joints": flat(_ORDER_18)}]}, _ORDER_18),
    "MMPose instances": (lambda: [_instance(_COCO)], _COCO),
    "MMPose predictions": (lambda: {"predictions": [[_instance(_HALPE)]]}, ORDER_25),
    "MMPose data samples": (
        lambda: [{"img_path": "photos/me.jpg", "pred_instances": {**_arrays()}}],
        (*_ORDER_18, *_FEET),
    ),
    "MMPose whole body": (
        lambda: {"meta_info": {}, "instance_info": [_instance(_WHOLE_BODY)]},
        (*_COCO, *_FEET),
    ),
    "COCO annotations": (_coco_annotations, _COCO),
    "Ultralytics": (_ultralytics, _COCO),
    "points as dictionaries": (_named_points, _COCO),
    "bare rows": (lambda: rows(_COCO), _COCO),
    "no confidences": (_without_confidences, _ORDER_18),
    "DressCode": (_dresscode, _ORDER_18),
}
# their confidences are 1
CERTAIN = ("DWPose bodies", "COCO annotations", "no confidences")


def write(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path
