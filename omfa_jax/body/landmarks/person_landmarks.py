"""Find the people in a photo with their 33 landmarks, a person mask and points in metres.

BlazePose (Bazarevsky et al. 2020, arXiv 2006.10204): a detector finds people, and a second network
looks at each one's rotated square. Weights: `omfa_jax/assets/landmarks`, made by
`tools/bake_landmarks.py`.
"""

import functools
import logging
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from omfa_jax.body.landmarks.conv_network import ConvNetwork, load_network
from omfa_jax.body.landmarks.landmark_names import LANDMARK_INDEX
from omfa_jax.body.landmarks.person_detector import MIN_SCORE, Detection, detect, sigmoid
from omfa_jax.body.landmarks.square_crop import SquareCrop, cut, paste_mask
from omfa_jax.core.errors import OmfaError

log = logging.getLogger(__name__)

INPUT_PX = 256
LANDMARKS = 33
# the networks see 256 px of a person: of a larger photo they would see single pixels
MAX_SIDE_PX = 1536
# each costs a tenth of a second and a mask in the photo's size
MAX_PEOPLE = 8
# a landmark is refined where its heatmap is at least this sure, over this many cells
MIN_HEAT, HEAT_CELLS = 0.5, 7
# Of a hand or garment taken for a person, few landmarks are sure, or the hips are not where
# the detector saw them (a share of the crop's side). Cuts of photos of real people have at least 9
# and at most 0.07; a hand in photos without the head 1 to 16, and 0.06 to 0.14.
MIN_SURE, MAX_HIP_SHIFT = 8, 0.08
SURE = 0.5
# Nose to mouth. Without the face one body in ten is taken for its back: left and right exchanged.
FACE_LANDMARKS, MIN_FACE = slice(0, 11), 6
# The nose is farther from the camera than the ears by this much: in profile it is by at most 0.005,
# from behind by 0.10 to 0.17 (synthetic people).
MIN_AWAY_M = 0.05
# Shares of the trunk's length. Of a head that the photo's edge cuts off (its landmarks end this
# close to it) at the eyes or below, what is left is at times taken for a face between the shoulders
# or a head seen from behind, or the body for one seen from the side, without shoulders (metres).
# In 190 whole photos the head is at least 0.2 from the edge and the nose 0.24 above the shoulders,
# which are 0.2 m wide; in cuts above the eyes the last two are 0.33 and 0.28 m.
CUT_HEAD, MIN_NOSE_HEIGHT, MIN_SHOULDERS_M = 0.1, 0.25, 0.15
# the left ear this far to the right of the other is of a head seen from behind; in profile 0.09
MIN_EARS = -0.1
# two crops whose landmarks are this close (a share of the crop's side) show one person
SAME_PERSON = 0.05


@dataclass(frozen=True)
class PersonLandmarks:
    """A person's landmarks in BlazePose's order (`landmark_names.LANDMARK_NAMES`).

    `points_px`: x, y in the photo's pixels, which may lie outside of it. `world_m`: metres from
    the middle of the hips; x right and y down in the photo, z away from the camera. `visibility`
    and `presence`: 0..1, whether a landmark can be seen and whether it is in the crop. `score`:
    0..1, the landmark network's, that there is a person. `box_px`: (x0, y0, x1, y1) of the person
    within the photo. `mask`: 0..1 in the photo's size.
    """

    points_px: Float[np.ndarray, "33 2"]
    world_m: Float[np.ndarray, "33 3"]
    visibility: Float[np.ndarray, "33"]
    presence: Float[np.ndarray, "33"]
    score: float
    box_px: tuple[float, float, float, float]
    mask: Float[np.ndarray, "h w"]

    @property
    def confidence(self) -> Float[np.ndarray, "33"]:
        """The smaller of visibility and presence."""
        return np.minimum(self.visibility, self.presence)

    @property
    def looks_away(self) -> bool:
        """Whether the back of the head is seen; the network is as sure of the hidden face."""
        nose, *ears = (LANDMARK_INDEX[name] for name in ("nose", "left_ear", "right_ear"))
        return bool(self.world_m[nose, 2] - self.world_m[ears, 2].mean() > MIN_AWAY_M)


def find_people(photo: UInt8[np.ndarray, "h w 3"]) -> list[PersonLandmarks]:
    """Return the people in an upright RGB photo, the largest first; empty if there are none.

    At most 8: those of the best detections. Nothing is random: equal photos give equal landmarks.
    """
    return _search(photo)[0]


def find_person(photo: UInt8[np.ndarray, "h w 3"], name: str) -> PersonLandmarks:
    """Return the largest person, with a warning if there are several.

    `name`: the photo in messages. Raises OmfaError if nobody is found.
    """
    people, best, doubt = _search(photo)
    if not people:
        found = f"best score {best:.2f}, at least {MIN_SCORE:g} is needed"
        if doubt:
            found = f"{doubt}, score {best:.2f}"
        raise OmfaError(
            f"{name}: no person found ({found}); give a photo that shows one person from head to"
            " hips or more, over at least a quarter of its height"
        )
    if len(people) > 1:
        log.warning("%s: %d people found; the largest is used", name, len(people))
    return people[0]


def find_landmarks(
    photo: UInt8[np.ndarray, "h w 3"],
    detection: Detection,
    network: ConvNetwork,
    factor: float,
    size_px: tuple[int, int],
) -> tuple[PersonLandmarks, str]:
    """Return the person of a detection, and why it should not be used, "" if it should.

    `photo` is `factor` times smaller than the one of `size_px` (width, height) that the result is
    for.
    """
    found = network(cut(photo, detection.crop, INPUT_PX, "edge") / np.float32(255))
    # the row after the landmarks is the middle of the hips, where the detector put the crop's
    rows = found["landmarks"].reshape(-1, 5)[: LANDMARKS + 1].astype(np.float64)
    places = _refine(rows[:, :2] / INPUT_PX, found["heatmaps"])
    hip_shift = np.linalg.norm(places[LANDMARKS] - 0.5)
    rows, places = rows[:LANDMARKS], places[:LANDMARKS]
    crop = detection.crop.scale(factor)
    world = found["world"].reshape(-1, 3)[:LANDMARKS].astype(np.float64)
    world[:, :2] = world[:, :2] @ crop.rotation.T
    mask = sigmoid(found["mask"][..., 0])
    points = crop.to_photo(places)
    visibility, presence = sigmoid(rows[:, 3]), sigmoid(rows[:, 4])
    person = PersonLandmarks(
        points_px=points,
        world_m=world,
        visibility=visibility,
        presence=presence,
        score=float(found["score"][0]),
        box_px=_find_box(mask, crop, points, size_px),
        mask=paste_mask(mask, crop, size_px),
    )
    sure = int((person.confidence >= SURE).sum())
    if person.score < MIN_SCORE:
        return person, "not a person"
    if sure < MIN_SURE or hip_shift > MAX_HIP_SHIFT:
        return person, "landmarks that contradict each other"
    face = points[FACE_LANDMARKS]
    if ((face >= 0) & (face <= size_px)).all(axis=1).sum() < MIN_FACE:
        return person, "a body whose face is mostly outside of the photo"
    if _has_wrong_head(person, size_px):
        return person, "a head that the photo's edge cuts off, and a body that does not fit to it"
    return person, ""


def _has_wrong_head(person: PersonLandmarks, size_px: tuple[int, int]) -> bool:
    """Return whether the head is cut off and what is left of it was misunderstood."""
    points = person.points_px
    shoulders, hips = (
        points[[LANDMARK_INDEX[f"{side}_{part}"] for side in ("left", "right")]]
        for part in ("shoulder", "hip")
    )
    up = shoulders.mean(axis=0) - hips.mean(axis=0)
    trunk = max(float(np.linalg.norm(up)), 1e-6)
    up /= trunk
    face = points[FACE_LANDMARKS]
    from_edge = min(face.min(), (np.array(size_px) - face).min()) / trunk
    nose_height = (points[LANDMARK_INDEX["nose"]] - shoulders.mean(axis=0)) @ up / trunk
    ears = points[LANDMARK_INDEX["left_ear"]] - points[LANDMARK_INDEX["right_ear"]]
    is_seen_from_behind = ears @ np.array([-up[1], up[0]]) / trunk < MIN_EARS
    across = (
        person.world_m[LANDMARK_INDEX["left_shoulder"]]
        - person.world_m[LANDMARK_INDEX["right_shoulder"]]
    )
    return bool(
        from_edge < CUT_HEAD
        and (
            nose_height < MIN_NOSE_HEIGHT
            or is_seen_from_behind
            or np.linalg.norm(across) < MIN_SHOULDERS_M
        )
    )


def _search(photo: UInt8[np.ndarray, "h w 3"]) -> tuple[list[PersonLandmarks], float, str]:
    """Return the people, the best score, and why the one who has it is not used.

    The score is the detector's if it found nobody.
    """
    small, factor = _reduce(photo)
    detections, best = detect(small, _load("pose_detection"))
    network = _load("pose_landmark_full")
    size_px = (photo.shape[1], photo.shape[0])
    people: list[PersonLandmarks] = []
    found: list[tuple[float, str]] = []
    for detection in detections[:MAX_PEOPLE]:
        person, doubt = find_landmarks(small, detection, network, factor, size_px)
        found.append((person.score, doubt if person.score >= MIN_SCORE else ""))
        if not doubt and not any(_is_same(person, other) for other in people):
            people.append(person)
    score, doubt = max(found, default=(best, ""))
    return sorted(people, key=_get_area, reverse=True), score, doubt


def _reduce(photo: UInt8[np.ndarray, "h w 3"]) -> tuple[UInt8[np.ndarray, "h2 w2 3"], float]:
    """Return the photo with its longer side at most MAX_SIDE_PX, and the factor back."""
    height, width = photo.shape[:2]
    factor = max(height, width) / MAX_SIDE_PX
    if factor <= 1:
        return photo, 1.0
    size = max(1, round(width / factor)), max(1, round(height / factor))
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BOX)), factor


def _refine(
    places: Float[np.ndarray, "k 2"], heatmaps: Float[np.ndarray, "n n m"]
) -> Float[np.ndarray, "k 2"]:
    """Return the places (0..1), moved to the mean of their heatmap where that is sure."""
    count, reach = len(heatmaps), HEAT_CELLS // 2
    refined = places.copy()
    for place, moved, heat in zip(places, refined, np.moveaxis(heatmaps, -1, 0), strict=False):
        x, y = (int(value) for value in place * count)
        if not (0 <= x < count and 0 <= y < count):
            continue
        rows, columns = (slice(max(0, at - reach), at + reach + 1) for at in (y, x))
        shares = sigmoid(heat[rows, columns].astype(np.float64))
        if shares.max() >= MIN_HEAT:
            at = np.mgrid[rows, columns][:, : shares.shape[0], : shares.shape[1]]
            moved[:] = np.average(at[::-1].reshape(2, -1), axis=1, weights=shares.ravel()) / count
    return refined


def _find_box(
    mask: Float[np.ndarray, "n n"],
    crop: SquareCrop,
    points: Float[np.ndarray, "k 2"],
    size_px: tuple[int, int],
) -> tuple[float, float, float, float]:
    """Return the box of the mask within the photo, or of the points if the mask is empty."""
    rows, columns = np.nonzero(mask >= 0.5)
    if len(rows):
        points = crop.to_photo((np.stack([columns, rows], axis=1) + 0.5) / len(mask))
    points = points.clip(0, size_px)
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def _get_area(person: PersonLandmarks) -> float:
    x0, y0, x1, y1 = person.box_px
    return (x1 - x0) * (y1 - y0)


def _is_same(one: PersonLandmarks, other: PersonLandmarks) -> bool:
    distance = np.linalg.norm(one.points_px - other.points_px, axis=1).mean()
    return bool(distance < SAME_PERSON * np.ptp(other.points_px, axis=0).max())


@functools.cache
def _load(name: str) -> ConvNetwork:
    return load_network(Path(str(resources.files("omfa_jax") / "assets" / "landmarks")), name)
