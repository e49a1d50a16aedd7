"""Load images and bodies from files into arrays at the model's slot sizes."""

import logging
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from omfa_jax.body.body_file import load_body
from omfa_jax.body.body_model import load_body_model
from omfa_jax.body.body_params import BodyParams
from omfa_jax.body.camera import Camera
from omfa_jax.body.keypoints.keypoint_reader import KeypointsError, NoPersonError, read_keypoints
from omfa_jax.body.render_body import render
from omfa_jax.body.smplx_forward import forward
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import letterbox, read_labels, read_rgb, to_signed
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.builders.face_box import find_face_box
from omfa_jax.data.builders.viton_hd import KEYPOINT_DIRS, PARSE_DIRS
from omfa_jax.data.records.face_crop import crop_face
from omfa_jax.diffusion.settings import DiffusionSettings

log = logging.getLogger(__name__)

WHITE, BLACK = 255, 0


class SlotFitter:
    """Fits images into a model's slots: letter-boxed, RGB, float32 in [-1, 1].

    `settings` is `model.settings`; `sizes` maps garment, person and face to (height, width) in
    pixels. A pose map has the person's size.

        slots = SlotFitter(model.settings)
        garment = slots.load_image("garment", "shirt.jpg")
        pose = slots.load_pose("me.npz")
    """

    def __init__(self, settings: DiffusionSettings):
        self.pose_style = settings.pose_style
        self.sizes = dict(zip(COMPONENTS, settings.slots_px, strict=True))

    def fit_image(
        self, component: str, image: UInt8[np.ndarray, "_ _ 3"]
    ) -> Float[np.ndarray, "1 h w 3"]:
        """Letter-box an image into its slot, in [-1, 1]; margins are white."""
        return to_signed(letterbox(image, *self.sizes[component], fill=WHITE))[None]

    def load_image(
        self, component: str, path: str | Path, flag: str | None = None
    ) -> Float[np.ndarray, "1 h w 3"]:
        """Read an image file into the slot of garment, person or face.

        `flag` is the command-line flag that error messages name. OmfaError if the file cannot be
        read.
        """
        what = f"{component} ({flag})" if flag else f"{component} image"
        return self.fit_image(component, read_rgb(path, what))

    def load_pose(
        self, path: str | Path, smplx_model: str | None = None
    ) -> Float[np.ndarray, "1 h w 3"]:
        """Read a pose map, or render one of SMPL-X parameters with their camera (.npz).

        The body is rendered in the model's pose style, with the SMPL-X model of the file
        `smplx_model` or with the free body. OmfaError if a file cannot be read or the camera does
        not see the body.
        """
        return self.fit_pose_map(load_pose_map(path, self.pose_style, smplx_model))

    def fit_pose_map(self, image: UInt8[np.ndarray, "_ _ 3"]) -> Float[np.ndarray, "1 h w 3"]:
        """Letter-box a pose map into the person's slot; margins are black, like its background."""
        return to_signed(letterbox(image, *self.sizes["person"], fill=BLACK))[None]


def load_face(
    person: str,
    face: str | None,
    keypoints: str | None,
    parse: str | None,
    prefix: str = "--",
    *,
    needed: bool = True,
    person_index: int | None = None,
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Return the face image: `face` itself, or a crop of the person's photo.

    The crop follows the 2D keypoints or the parse map. Without either, those next to the photo are
    used, where a VITON-HD folder of either layout has them. `person_index`: the person of keypoints
    with several, None for the largest. `prefix` is that of the flags. If no face is found, that is
    an OmfaError, or a white image as in training if it is not `needed`.
    """
    if face:
        return read_rgb(face, f"face ({prefix}face)")
    photo = read_rgb(person, f"person ({prefix}person)")
    # DIR/image/NAME.jpg: the other folders of a VITON-HD split are next to `image`
    path = Path(person)
    beside = path.parent.parent
    found_points = keypoints or _find_keypoints(beside, path.stem)
    found_parse = parse or _find_first(beside, PARSE_DIRS, f"{path.stem}.png")
    points = None
    if found_points:
        points = _read_points(found_points, photo, path, person_index, is_given=bool(keypoints))
    labels = read_labels(Path(found_parse), "parse map (--parse)") if found_parse else None
    box = find_face_box(points, labels, *photo.shape[:2])
    if box is None and not needed:
        log.warning(
            "no face found for %s: its slot stays white; pass %sface to set it", person, prefix
        )
        # of any size, because the margins of a letterbox are white too
        return np.full((8, 8, 3), WHITE, np.uint8)
    if box is None:
        raise OmfaError(
            f"no face found for {person}: give {prefix}face IMAGE, or {prefix}keypoints JSON or"
            f" {prefix}parse PNG that show one"
        )
    return crop_face(photo, box)


def _find_keypoints(folder: Path, name: str) -> Path | None:
    files = (_find_first(folder, KEYPOINT_DIRS, f"{name}{end}.json") for end in ("_keypoints", ""))
    return next(filter(None, files), None)


def _read_points(
    file: str | Path,
    photo: UInt8[np.ndarray, "h w 3"],
    path: Path,
    person_index: int | None,
    *,
    is_given: bool,
) -> Float[np.ndarray, "25 3"] | None:
    """Return the person's keypoints.

    None, with a warning, for a file with nobody in it, and for an unusable one that was not given.
    """
    height_px, width_px = photo.shape[:2]
    try:
        found = read_keypoints(file, (width_px, height_px), photo=path, person_index=person_index)
    except KeypointsError as error:
        # a file without a person says that much: the parse map may show the face
        is_empty = isinstance(error, NoPersonError)
        if person_index is not None or (is_given and not is_empty):
            raise
        log.warning("%s; not used", error)
        return None
    for note in found.notes:
        log.warning("%s: %s", file, note)
    return found.rows


def _find_first(folder: Path, names: tuple[str, ...], file: str) -> Path | None:
    return next((path for name in names if (path := folder / name / file).is_file()), None)


def render_pose(
    params: BodyParams, camera: Camera, style: str, model_path: str | None
) -> UInt8[np.ndarray, "h w 3"]:
    """Render a pose map in the style that the model was trained on (`settings.pose_style`)."""
    model = load_body_model(model_path)
    vertices, _ = forward(model, params)
    image = render(vertices, model.faces, camera, style, body=model)
    # an empty pose map would be taken for a pose and not for the null pose
    if not image.any():
        raise OmfaError(
            "the body of --pose lies outside the image: its camera must look along +z with y"
            " down, the body in front of it"
        )
    return image


def load_pose_map(
    path: str | Path, style: str, model_path: str | None
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pose map of `--pose`: an image unchanged, or a rendered SMPL-X .npz."""
    if Path(path).suffix == ".npz":
        return render_pose(*load_body(path), style, model_path)
    return read_rgb(path, "pose map (--pose)")
