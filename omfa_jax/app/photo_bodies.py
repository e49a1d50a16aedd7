"""The bodies of uploaded photos: beside the photo, or fitted to the landmarks found in it."""

import json
from pathlib import Path

from omfa_jax.body.body_file import save_body
from omfa_jax.body.landmarks import find_person
from omfa_jax.body.landmarks.landmark_json import make_document
from omfa_jax.body.target_poses import make_library_targets
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import read_rgb
from omfa_jax.sampling.photo_files import PersonFiles, find_files_beside, read_photo_keypoints
from omfa_jax.sampling.pose_sources import fit_body


def find_body(photo: Path, style: str, name: str) -> Path | None:
    """Return the body file of DIR/image/NAME, after fitting it if there is none; None: rejected.

    Landmarks and body are written beside the photo, where `omfa sample` finds them. `name` is what
    messages call the photo. OmfaError if it shows nobody.
    """
    folder = photo.parent.parent
    body = folder / "smplx" / f"{photo.stem}.npz"
    if body.is_file():
        return body
    image = read_rgb(photo)
    height, width = image.shape[:2]
    person = find_person(image, name)
    keypoints = folder / "openpose_json" / f"{photo.stem}_keypoints.json"
    keypoints.parent.mkdir(exist_ok=True)
    document = make_document([person], photo.name, (width, height))
    keypoints.write_text(json.dumps(document))
    files = find_files_beside(PersonFiles(photo), style)
    rows = read_photo_keypoints(files, height, width)
    fitted = None if rows is None else fit_body(rows, (height, width), None, name)
    if fitted is None:
        return None
    body.parent.mkdir(exist_ok=True)
    save_body(body, fitted.bodies[0], fitted.camera, source="keypoints")
    return body


def pose_body(pose: str, body: Path | None, place: Path, size_px: tuple[int, int]) -> Path:
    """Write the body of a named pose to `place`: of the person of `body`, or of the mean body.

    `size_px` is the (height, width) of the picture without a body.
    """
    given = {"library": None, "smplx_model": None, "size_px": size_px[::-1]}
    bodies, camera = make_library_targets([pose], body=str(body) if body else None, **given)
    save_body(place, bodies[pose], camera)
    return place


def require_body(photo: Path, style: str, name: str) -> Path:
    """Return the body of a photo whose pose is asked for; OmfaError if none can be fitted."""
    body = find_body(photo, style, name)
    if body is None:
        raise OmfaError(f"{name}: no body fits this person; give a photo that shows more of them")
    return body
