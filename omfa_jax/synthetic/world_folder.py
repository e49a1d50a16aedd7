"""What all layouts share: claiming a folder, the layout interface, and writing missing files."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.paths import AnyPath
from omfa_jax.synthetic.world import World

VERSION = 1
# numbers of the people and garments of a split start here: five digits, without overlap
SPLIT_STARTS = {"train": 0, "val": 80_000, "test": 90_000}
SPLIT_LIMITS = {"train": 80_000, "val": 9_999, "test": 9_999}
FINISHED_FILE, UNFINISHED_FILE = "world.json", ".world.json"
OLDEST_LAYOUT = "viton_hd"

# the palette of CIHP tools for the ids 0 to 19, for viewers; readers use the ids
CIHP_PALETTE = bytes.fromhex(
    "000000800000fe0000005500a90033fe5500000055"
    "0077dc5555000055555533003456800080000000fe"
    "33a9dc00fefe55fea9a9fe55fefe00fea900"
)

JobT = TypeVar("JobT")


@dataclass(frozen=True)
class WorldSettings:
    """The settings that determine a world, apart from its layout; saved in world.json."""

    seed: int
    height_px: int
    width_px: int
    supersample: int = 2


@dataclass(frozen=True)
class FolderLayout(Generic[JobT]):
    """Functions that write a world in the layout of a data set.

    `jobs(split, count, settings)` lists the photos to render. `write(root, settings, job)` writes
    the missing files of one job and returns whether any was missing. `finish(root, settings,
    {split: jobs})` writes the lists. All three are module-level functions, so that they pickle.
    """

    jobs: Callable[[str, int, WorldSettings], list[JobT]]
    write: Callable[[AnyPath, WorldSettings, JobT], bool]
    finish: Callable[[AnyPath, WorldSettings, Mapping[str, Sequence[JobT]]], None]


def check_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the counts above 0 in the order of the splits; OmfaError if out of range."""
    for split, count in counts.items():
        if split not in SPLIT_STARTS:
            raise make_unknown_name_error("split", split, SPLIT_STARTS)
        if not 0 <= count <= SPLIT_LIMITS[split]:
            limit = SPLIT_LIMITS[split]
            raise OmfaError(f"--{split}: expected 0 to {limit} people, got {count}")
    return {split: int(counts.get(split, 0)) for split in SPLIT_STARTS if counts.get(split, 0)}


def claim_folder(root: AnyPath, settings: WorldSettings, layout: str) -> dict[str, int]:
    """Mark the folder as this world's, and return the counts written before.

    Raises OmfaError if it holds another synthetic data set or other files.
    """
    expected = {"version": VERSION, "layout": layout, **asdict(settings)}
    counts: dict[str, int] = {}
    for path in (root / UNFINISHED_FILE, root / FINISHED_FILE):
        if not path.is_file():
            continue
        try:
            # a world that states no layout has the first one that there was
            found = {"layout": OLDEST_LAYOUT, **parse_json(path.read_text())}
        except (ValueError, TypeError):
            raise OmfaError(f"{path}: not valid JSON; change --out") from None
        for key, value in expected.items():
            if found.get(key) != value:
                differs = f"expected {key} {value}, found {found.get(key)}"
                raise OmfaError(
                    f"{root} holds another synthetic data set ({differs}); change --out"
                )
        counts = found.get("counts", {})
    others = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    if others and not any((root / name).is_file() for name in (UNFINISHED_FILE, FINISHED_FILE)):
        # never mix synthetic files into a downloaded data set
        raise OmfaError(
            f"{root} holds files that do not belong to a synthetic data set"
            f" ({', '.join(others[:5])}); change --out"
        )
    # the mark of an unfinished world: a second call with other settings is refused
    if not counts:
        write_json(root / UNFINISHED_FILE, expected)
    return counts


def write_finished_marker(
    root: AnyPath, settings: WorldSettings, layout: str, counts: Mapping[str, int]
) -> None:
    """Write `world.json`, which marks the folder as complete."""
    description = {"version": VERSION, "layout": layout, **asdict(settings), "counts": dict(counts)}
    write_json(root / FINISHED_FILE, description)
    (root / UNFINISHED_FILE).unlink(missing_ok=True)


_worlds: dict[WorldSettings, World] = {}


def get_world(settings: WorldSettings) -> World:
    """Return this process's world, cached because its buffers are large."""
    if settings not in _worlds:
        _worlds[settings] = World(**asdict(settings))
    return _worlds[settings]


def write_missing_files(
    files: Mapping[str, AnyPath],
    draw: Callable[[], Any],
    writers: Mapping[str, Callable[[AnyPath, Any], None]],
) -> bool:
    """Render once and write every missing file; return whether any was missing."""
    missing = {name: path for name, path in files.items() if not path.exists()}
    if missing:
        rendered = draw()
        for name, path in missing.items():
            writers[name](path, rendered)
    return bool(missing)


def write_text(path: AnyPath, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def write_json(path: AnyPath, value: object) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_labels(path: AnyPath, labels: UInt8[np.ndarray, "h w"]) -> None:
    """Write label ids as a palette PNG, as parsing tools do."""
    image = Image.fromarray(labels)
    image.putpalette(CIHP_PALETTE)
    with atomic_write(path) as temporary:
        image.save(temporary, "PNG")
