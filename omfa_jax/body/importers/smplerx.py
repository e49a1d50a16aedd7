"""SMPLer-X: smplx/FRAME_BOX.npz per person, and its camera in meta/FRAME_BOX.json.

The .npz has smplx's names, axis-angle rotations, `transl` to camera axes (OpenCV), and hands
relative to the relaxed hand (smplx's default, flat_hand_mean=False). The .json has `focal` and
`princpt` in the photo's pixels, `bbox_mmdet` [x y w h] and `img_path`, which identifies the photo:
FRAME has five digits and names of photos have six.
"""

from pathlib import Path
from typing import Any

from omfa_jax.body.importers.importer_common import (
    Estimate,
    ImportOptions,
    find_files,
    find_largest,
    get_field,
    make_pinhole_camera,
    parse_numbers,
)
from omfa_jax.body.importers.smplx_params import parse_smplx_params
from omfa_jax.body.safe_pickle import read_pickle
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.json_text import parse_json


class SmplerXImporter:
    """Importer of the output folder or its smplx/ folder."""

    def __init__(self, path: Path, reading: ImportOptions) -> None:
        self._reading = reading
        path = path / "smplx" if (path / "smplx").is_dir() else path
        self.frames: dict[str, list[Path]] = {}
        for file in find_files(path, ".npz"):
            try:
                frame = Path(str(get_field(_read_meta(file), "img_path"))).stem
            except OmfaError:
                # read() reports the error, so that the other frames are imported
                frame = file.stem.rpartition("_")[0] or file.stem
            self.frames.setdefault(frame, []).append(file)

    def read(self, frame: str, size_px: tuple[int, int]) -> Estimate:
        """Return the person with the largest detection box."""
        files = self.frames[frame]
        metas = [_read_meta(file) for file in files]
        boxes = [
            parse_numbers(get_field(m, "bbox_mmdet", "bbox"), "bbox_mmdet", (4,)) for m in metas
        ]
        index = find_largest([box[2] * box[3] for box in boxes])
        focal_px = parse_numbers(get_field(metas[index], "focal"), "focal", (2,))
        center_px = parse_numbers(get_field(metas[index], "princpt"), "princpt", (2,))
        raw = read_pickle(files[index], "body file", allow_pickle=self._reading.allow_pickle)
        try:
            body = parse_smplx_params(raw, self._reading, hands_from_mean=True)
        except OmfaError as error:
            raise OmfaError(f"{files[index].name}: {error}") from None
        return Estimate(body, make_pinhole_camera(focal_px, center_px, size_px), people=len(files))


def _read_meta(file: Path) -> dict[str, Any]:
    places = (file.parent.parent / "meta" / f"{file.stem}.json", file.with_suffix(".json"))
    for place in places:
        if place.is_file():
            try:
                return parse_json(place.read_text())
            except ValueError as error:
                raise OmfaError(f"{place}: not JSON: {error}") from None
    raise OmfaError(f"no camera for {file.name}: expected {places[0]} next to it")
