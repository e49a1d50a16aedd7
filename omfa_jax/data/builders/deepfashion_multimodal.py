"""Build records from DeepFashion-MultiModal (Jiang et al., SIGGRAPH 2022) and its layout.

    <root>/images/NAME.jpg          NAME = GENDER-Category-id_IIIIIIII-CC_V_view
        segm/NAME_segm.png          label maps, for full-body photos only
        keypoints/keypoints_{loc,vis}.txt   21 landmarks, see `landmark_files.py`
        densepose/NAME_densepose.png        the part index is the third channel
        captions.json               {"NAME.jpg": "text"}
        pose/NAME.png               pose maps, rendered from SMPL-X (not part of the set)

Photos with the same gender, category, id and CC form a group: one person in one outfit. The set has
no photos of garments alone, so the garment is cut out of a photo with a label map: the item's own,
or the clearest of the group (`VIEWS`). The set has no splits either, see `assign_split`.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float32, UInt8

from omfa_jax.body.body_file import read_body_source
from omfa_jax.body.keypoints.keypoint_reader import KeypointsError, require_photo_size
from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.path_checks import require_any_dir
from omfa_jax.core.paths import AnyPath
from omfa_jax.data.builders import face_box
from omfa_jax.data.builders.deepfashion_names import (
    DEFAULT_SHARES,
    VIEWS,
    PhotoName,
    assign_split,
    get_garment_category,
    parse_photo_name,
)
from omfa_jax.data.builders.exclusion_list import drop_excluded
from omfa_jax.data.builders.garment_cutout import MIN_GARMENT_AREA, cut_out_garment
from omfa_jax.data.builders.label_sets import DEEPFASHION, DENSEPOSE, Category
from omfa_jax.data.builders.landmark_files import read_landmarks
from omfa_jax.data.builders.raw_files import (
    list_files_by_stem,
    read_image_and_bytes,
    read_image_bytes,
    read_optional,
    read_optional_labels,
)
from omfa_jax.data.builders.raw_layouts import make_layout_error
from omfa_jax.data.builders.records_builder import RecordsBuilder
from omfa_jax.data.records.face_crop import FaceBox
from omfa_jax.data.records.record_schema import SPLITS, Record


@dataclass(frozen=True)
class DeepFashionItem:
    """The files of one photo; None for missing files.

    `sources`: (photo, label map) pairs to cut the garment out of, best first. `name`: None if the
    file name cannot be parsed.
    """

    key: str
    split: str
    name: PhotoName | None
    person: AnyPath
    segm: AnyPath | None
    densepose: AnyPath | None
    pose: AnyPath | None
    caption: str
    # == of arrays is no bool, so the generated __eq__ must skip it
    landmarks: Float32[np.ndarray, "21 3"] | None = field(compare=False)
    sources: tuple[tuple[AnyPath, AnyPath], ...]


class DeepFashionMultiModal(RecordsBuilder):
    """TFDS builder of DeepFashion-MultiModal's layout, see the module's docstring."""

    name = "deepfashion_multimodal"
    item_option_names = ("clean", "split_shares", "split_seed")

    @staticmethod
    def list_items(
        raw_dir: str,
        warnings: list[str],
        *,
        clean: str | os.PathLike | None = None,
        split_shares: Sequence[float] = DEFAULT_SHARES,
        split_seed: int = 0,
    ) -> Mapping[str, Sequence[DeepFashionItem]]:
        """Return {split: items} in the order of names; irregularities go to `warnings`.

        `clean`: list of photos to leave out (see `exclusion_list.py`), also as sources of garments.
        `split_shares`: the shares of train, val and test, see `assign_split`.
        """
        root = require_any_dir(raw_dir, "raw data set", "--raw")
        if not (root / "images").is_dir():
            raise make_layout_error(root, "images/GENDER-Category-id_IIIIIIII-CC_V_view.jpg")
        if len(split_shares) != 3 or min(split_shares) < 0 or abs(sum(split_shares) - 1) > 1e-6:
            came = ", ".join(map(str, split_shares))
            raise OmfaError(f"--split-shares: expected three numbers that sum to 1, got {came}")
        photos = list_files_by_stem(root / "images")
        folders = {name: list_files_by_stem(root / name) for name in ("segm", "densepose", "pose")}
        landmarks = read_landmarks(root / "keypoints", warnings)
        captions = read_captions(root / "captions.json", warnings)
        splits: dict[str, list[DeepFashionItem]] = {split: [] for split in SPLITS}
        for stem, photo in photos.items():
            name = parse_photo_name(stem)
            split = (
                # an unparsable name is an item all the same: reading it reports and skips it
                "train" if name is None else assign_split(name.person_id, split_seed, split_shares)
            )
            splits[split].append(
                DeepFashionItem(
                    key=stem,
                    split=split,
                    name=name,
                    person=photo,
                    segm=folders["segm"].get(f"{stem}_segm"),
                    densepose=folders["densepose"].get(f"{stem}_densepose"),
                    pose=folders["pose"].get(stem),
                    caption=captions.get(photo.name, ""),
                    landmarks=landmarks.get(stem),
                    sources=(),
                )
            )
        # before the sources are assigned: an excluded photo must not lend its garment either
        kept = drop_excluded(splits, clean, warnings)
        return {split: _assign_sources(items) for split, items in kept.items() if items}

    @staticmethod
    def read(item: DeepFashionItem) -> tuple[Record, Sequence[str]]:
        """Return the item's record and its flaws; OmfaError if photo or garment are unusable."""
        if item.name is None:
            raise OmfaError(
                f"{item.person.name}: expected a name like"
                " WOMEN-Tees_Tanks-id_00000001-01_1_front.jpg; rename or remove the file"
            )
        flaws: list[str] = []
        person, photo = read_image_and_bytes(item.person, "person photo")
        height_px, width_px = size_px = (photo.shape[0], photo.shape[1])
        labels = None
        if item.segm is not None:
            labels = read_optional_labels(item.segm, DEEPFASHION, size_px, flaws, "label map")
        garment, category = _cut_out_garment(item, photo, labels, flaws)
        box = _find_face_box(item, item.name, labels, size_px, flaws)
        if box is None:
            flaws.append("no face found; its image is white")
        pose = read_optional(read_image_bytes, item.pose, "pose map", flaws)
        record = Record(
            key=item.key,
            split=item.split,
            person=person,
            height_px=height_px,
            width_px=width_px,
            garment=images.encode_jpeg(garment),
            garment_source="worn",
            category=category,
            has_face=box is not None,
            face_box_px=box or (0.0, 0.0, 0.0, 0.0),
            has_pose=pose is not None,
            pose=pose or b"",
            body_source=read_body_source(item.pose) if pose else "",
            # nobody's garment is photographed alone, so there is none to try on
            unpaired_garment_key="",
            unpaired_garment=b"",
            caption=item.caption,
            person_id=item.name.person_id,
            group=item.name.group,
        )
        return record, flaws


def _find_face_box(
    item: DeepFashionItem,
    name: PhotoName,
    labels: UInt8[np.ndarray, "h w"] | None,
    size_px: tuple[int, int],
    flaws: list[str],
) -> FaceBox | None:
    """Return the face box from landmarks and label map, otherwise from DensePose's head."""
    # landmarks and DensePose also mark the head seen from behind: use the label map alone there
    is_back = name.view == "back"
    rows = None if is_back else item.landmarks
    try:
        if rows is not None:
            require_photo_size(rows, (size_px[1], size_px[0]))
    except KeypointsError as error:
        flaws.append(error.summary)
        rows = None
    box = face_box.find_face_box(rows, labels, *size_px, DEEPFASHION)
    # a label map without a face is believed: DensePose marks heads that show none
    if box is None and labels is None and item.densepose is not None and not is_back:
        parts = read_optional(read_densepose, item.densepose, "densepose", flaws)
        if parts is not None:
            box = face_box.find_box_from_labels(parts, *size_px, DENSEPOSE)
    return box


def read_captions(path: AnyPath, warnings: list[str]) -> dict[str, str]:
    """Return {photo's name: caption}; empty, with a warning, if the file is missing or damaged."""
    try:
        captions = parse_json(path.read_text("utf-8-sig"))
        return {str(name): str(text) for name, text in captions.items()}
    except FileNotFoundError:
        warnings.append(f"no {path.name}: captions are empty")
    except (OSError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:100]
        warnings.append(f"{path.name} is damaged ({reason}): captions are empty")
    return {}


def read_densepose(path: AnyPath) -> UInt8[np.ndarray, "h w"]:
    """Return DensePose's part index (0 to 24) of every pixel; OmfaError for other images."""
    parts = np.ascontiguousarray(images.read_rgb(path, "densepose")[..., 2])
    DENSEPOSE.require_known_ids(parts, "densepose")
    return parts


def _assign_sources(items: Sequence[DeepFashionItem]) -> list[DeepFashionItem]:
    """Return the items with `sources` filled in from their groups, best first."""
    groups: dict[str, list[DeepFashionItem]] = defaultdict(list)
    for item in items:
        if item.name is not None and item.segm is not None:
            groups[item.name.group].append(item)
    for members in groups.values():
        members.sort(key=lambda member: (_rank_view(member), member.key))
    completed = []
    # within one split: `items` are those of a split, so no garment crosses splits
    for item in items:
        members = groups.get(item.name.group, []) if item.name else []
        # the item's own map is not among them: _cut_out_garment tries it first
        pairs = [(other.person, other.segm) for other in members if other.key != item.key]
        sources = tuple((photo, segm) for photo, segm in pairs if segm is not None)
        completed.append(replace(item, sources=sources))
    return completed


def _rank_view(item: DeepFashionItem) -> int:
    return VIEWS.index(item.name.view) if item.name and item.name.view in VIEWS else len(VIEWS)


def _cut_out_garment(
    item: DeepFashionItem, photo: np.ndarray, labels: np.ndarray | None, flaws: Sequence[str]
) -> tuple[UInt8[np.ndarray, "h w 3"], Category]:
    """Return the worn garment and its category; OmfaError if no photo of the group shows one.

    It is the garment of the file name's category word, from the first photo whose label map shows
    it. If the word is ambiguous or no map shows it, it is the largest garment of the first map.
    """
    seen = [] if labels is None else [(photo, labels)]
    troubles = [] if item.segm is None else list(flaws)
    for source, segm in item.sources:
        try:
            seen.append(_load_source(source, segm))
        except OmfaError as error:
            troubles.append(str(error))
    sold = get_garment_category(item.name.category) if item.name else ""
    for wanted in (sold, ""):
        for image, shown in seen:
            category = wanted or DEEPFASHION.find_category(shown, least_area=MIN_GARMENT_AREA)
            if not category:
                continue
            worn = cut_out_garment(image, shown, DEEPFASHION, category)
            if worn is not None:
                return worn, category
    group = item.name.group if item.name else ""
    reasons = f" ({'; '.join(troubles)})" if troubles else ""
    raise OmfaError(
        f"no garment: no photo of {group} has a label map in segm/ that shows one{reasons}"
    )


def _load_source(photo: AnyPath, segm: AnyPath) -> tuple[np.ndarray, np.ndarray]:
    image = images.read_rgb(photo, "photo")
    flaws: list[str] = []
    shown = read_optional_labels(segm, DEEPFASHION, image.shape[:2], flaws, "label map")
    if shown is None:
        raise OmfaError(f"{segm.name}: {flaws[0]}")
    return image, shown
