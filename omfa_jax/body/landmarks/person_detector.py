"""Find people in a photo: BlazePose's detector, which sees the whole photo at 224 px.

Decoding follows MediaPipe's `pose_detection` graph: SSD anchors of one size, boxes as offsets from
them, and non-maximum suppression that averages what it merges.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from omfa_jax.body.landmarks.conv_network import ConvNetwork
from omfa_jax.body.landmarks.square_crop import SquareCrop, cut

INPUT_PX = 224
# of each layer with anchors; layers of one stride share a grid
STRIDES_PX, ANCHORS_PER_LAYER = (8, 16, 32, 32, 32), 2
MIN_SCORE, MAX_IOU = 0.5, 0.3
# the landmark network's crop is this much wider than the circle around the person
CROP_MARGIN = 1.25


@dataclass(frozen=True)
class Detection:
    """A person's score and the crop in which the landmark network looks for the landmarks."""

    score: float
    crop: SquareCrop


def detect(
    photo: UInt8[np.ndarray, "h w 3"], network: ConvNetwork
) -> tuple[list[Detection], float]:
    """Return the people, the best first, and the best score in 0..1 of any place in the photo."""
    height, width = photo.shape[:2]
    side = max(height, width)
    whole = SquareCrop((width / 2, height / 2), side)
    found = network(cut(photo, whole, INPUT_PX, "zero") / np.float32(127.5) - 1)
    scores = sigmoid(found["scores"].ravel().astype(np.float64))
    kept = scores >= MIN_SCORE
    # rows: centre, size, then the hips' middle, a point on the circle around the person, and two
    # more; all relative to the anchor
    rows = found["boxes"][kept].astype(np.float64).reshape(-1, 6, 2) / INPUT_PX
    anchors = make_anchors()[kept]
    middle, size, *points = np.moveaxis(rows, 1, 0)
    middle = middle + anchors
    places = [middle - size / 2, middle + size / 2, points[0] + anchors, points[1] + anchors]
    merged = merge_overlapping(scores[kept], whole.to_photo(np.stack(places, axis=1)))
    people = [Detection(score, _make_crop(*rows[2:])) for score, rows in merged]
    return people, float(scores.max())


def make_anchors() -> Float[np.ndarray, "2254 2"]:
    """Return the anchors' centres (x, y) as shares of the input's sides."""
    found = []
    for stride in dict.fromkeys(STRIDES_PX):
        count = INPUT_PX // stride
        shares = (np.arange(count) + 0.5) / count
        centers = np.stack(np.meshgrid(shares, shares), axis=-1).reshape(-1, 2)
        found.append(np.repeat(centers, ANCHORS_PER_LAYER * STRIDES_PX.count(stride), axis=0))
    return np.concatenate(found)


def merge_overlapping(
    scores: Float[np.ndarray, "n"], places: Float[np.ndarray, "n 4 2"]
) -> list[tuple[float, Float[np.ndarray, "4 2"]]]:
    """Return (score, places) of each group of overlapping boxes, the best first.

    `places`: a box's corners, then the points that belong to it. Those of a group are averaged by
    score.
    """
    left = np.argsort(-scores, kind="stable")
    merged = []
    while len(left):
        best, boxes = left[0], places[left, :2]
        corners = np.maximum(boxes[:, 0], boxes[0, 0]), np.minimum(boxes[:, 1], boxes[0, 1])
        shared = np.prod(np.maximum(corners[1] - corners[0], 0), axis=1)
        areas = np.prod(boxes[:, 1] - boxes[:, 0], axis=1)
        overlaps = shared > MAX_IOU * (areas + areas[0] - shared)
        overlaps[0] = True
        group = left[overlaps]
        mean = np.average(places[group], axis=0, weights=scores[group])
        merged.append((float(scores[best]), mean))
        left = left[~overlaps]
    return merged


def _make_crop(hips: Float[np.ndarray, "2"], circle: Float[np.ndarray, "2"]) -> SquareCrop:
    """Return the crop around the hips; the point on the circle is above an upright person's."""
    x, y = circle - hips
    side = 2 * CROP_MARGIN * float(np.hypot(x, y))
    return SquareCrop((float(hips[0]), float(hips[1])), side, float(np.arctan2(x, -y)))


def sigmoid(x: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Return the logistic function, without overflow for any finite x."""
    return 1 / (1 + np.exp(-np.clip(x, -80, 80)))
