"""The record schema, the same for every data set, and access to a folder of records.

A records folder holds a manifest, `omfa_records.json` (written last), and a TFDS data set in
ArrayRecord files, `<name>/<version>/`.
"""

import contextlib
import dataclasses
import hashlib
import json
import operator
import os
import pickle
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets import proto

from omfa_jax.core.errors import OmfaError, describe_damage, make_unknown_name_error
from omfa_jax.core.exit_status import is_transient
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.path_checks import require_any_dir
from omfa_jax.core.paths import AnyPath, RemotePath, to_path
from omfa_jax.core.retry import call_with_retries
from omfa_jax.core.value_rules import format_value
from omfa_jax.data.records.shard_reader import ShardReader, require_whole

# TFDS's own copy of tf.train.Example, without TensorFlow; type checkers cannot see its fields
TfExample: Any = vars(proto)["tf_example_pb2"].Example

MANIFEST = "omfa_records.json"
# TFDS's own files
DATASET_INFO, FEATURES = "dataset_info.json", "features.json"
FORMAT = 2
SPLITS = ("train", "val", "test")

Kind = Literal["images", "latents"]


@dataclass(frozen=True)
class Record:
    """One example; images are encoded PNG or JPEG bytes, upright RGB.

    `key`: unique in its split. `face_box_px`: (left, top, right, bottom) in pixels of the person's
    photo, may reach over its edges; valid only if `has_face`. `pose`: empty unless `has_pose`.
    `unpaired_garment`: a garment that the person does not wear, for evaluation; bytes and key are
    empty without one. `garment` and `garment_source` are empty if only an unpaired one is known.
    `category`: where the garment is worn. `group`: the records of one person in one outfit, in
    several poses. `person_id`: the same in all groups of a person. `body_source`: where the body of
    the pose map comes from (`body.body_file.BODY_SOURCES`). Unknown strings are "".
    """

    key: str
    split: str
    person: bytes = field(repr=False)
    height_px: int
    width_px: int
    garment: bytes = field(repr=False)
    garment_source: Literal["in_shop", "worn", ""]
    category: Literal["upper", "lower", "dress", ""]
    has_face: bool
    face_box_px: tuple[float, float, float, float]
    has_pose: bool
    pose: bytes = field(repr=False)
    unpaired_garment_key: str
    unpaired_garment: bytes = field(repr=False)
    caption: str = ""
    person_id: str = ""
    group: str = ""
    body_source: str = ""


@dataclass(frozen=True)
class LatentRecord:
    """The VAE latents of one record: bytes of little-endian float16 in (h, w, c) order.

    The manifest has the shapes. `pose` is empty unless `has_pose`.
    """

    key: str
    garment: bytes = field(repr=False)
    person: bytes = field(repr=False)
    face: bytes = field(repr=False)
    has_pose: bool
    pose: bytes = field(repr=False)
    group: str = ""


RECORD_TYPES: dict[Kind, type] = {"images": Record, "latents": LatentRecord}


def make_features(kind: Kind) -> tfds.features.FeaturesDict:
    """Return the TFDS features of a record type; images are stored as encoded bytes."""
    scalar = tfds.features.Scalar
    kinds = {
        str: tfds.features.Text(),
        # an object scalar stores bytes unchanged, without TFDS's image decoder
        bytes: scalar(np.object_),
        int: scalar(np.int32),
        bool: scalar(np.bool_),
    }
    box = tfds.features.Tensor(shape=(4,), dtype=np.float32)
    fields = dataclasses.fields(RECORD_TYPES[kind])
    special = {"garment_source": kinds[str], "category": kinds[str], "face_box_px": box}
    return tfds.features.FeaturesDict(
        {f.name: special.get(f.name) or kinds[f.type] for f in fields}
    )


def to_example(record: Record | LatentRecord) -> dict[str, Any]:
    """Return the record as a dict for TFDS's encoder."""
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}


class RecordSource:
    """Random access to the records of one split: `len(source)` and `source[i]`.

    Reading a damaged record raises an OmfaError. Thread-safe and picklable.
    """

    def __init__(self, kind: Kind, source: Any, place: str, size_bytes: int = 0) -> None:
        self._type = RECORD_TYPES[kind]
        self._fields = [(f.name, f.type) for f in dataclasses.fields(self._type)]
        self._source = source
        self._place, self._size_bytes = place, size_bytes

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> Any:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self._place}, which has {len(self)}")
        try:
            # parsed here: TFDS's own decoder takes four times as long
            stored = call_with_retries(f"{self._place}: record {index}", lambda: self._read(index))
            features = TfExample.FromString(stored).features.feature
            return self._type(**{name: _value(features[name], kind) for name, kind in self._fields})
        except Exception as error:  # damaged files raise many exception types
            raise self._make_unreadable_error(index, error) from error

    def _make_unreadable_error(self, index: int, error: Exception) -> OmfaError:
        reason = " ".join(str(error).split())[:200]
        advice = "" if is_transient(error) else "; build again"
        return OmfaError(f"{self._place}: record {index} cannot be read ({reason}){advice}")

    def copy_in_background(self) -> None:
        """Copy shards of gs:// to this machine while they are read, if there is room for them."""
        self._source.copy_in_background(self._size_bytes)

    def read_encoded(self, index: int) -> bytes:
        """Return the stored bytes of one record, a serialized tf.train.Example."""
        return self._source[index]

    def compute_digest(self, sampled: int = 64) -> str:
        """Return a digest of the number and size of records and of `sampled`, evenly spread."""
        digest = hashlib.sha256(f"{len(self)} {self._size_bytes}".encode())
        spread = np.unique(np.linspace(0, max(len(self) - 1, 0), sampled, dtype=int))
        for index in spread.tolist()[: len(self)]:
            try:
                where = f"{self._place}: record {index}"
                stored = call_with_retries(where, lambda index=index: self._read(index))
            except Exception as error:  # as in __getitem__
                raise self._make_unreadable_error(index, error) from error
            digest.update(hashlib.sha256(stored).digest())
        return digest.hexdigest()[:12]

    def _read(self, index: int) -> bytes:
        try:
            return self.read_encoded(index)
        except Exception as error:
            if is_transient(error):
                # unpickling reopens the files: a stale file handle never recovers
                self._source = pickle.loads(pickle.dumps(self._source))
            raise

    def __repr__(self) -> str:
        return f"RecordSource({self._place}, {len(self)} records)"


def _value(feature: Any, kind: Any) -> Any:
    """Return one field of a stored example in the type of the record's field."""
    if kind is bytes:
        return feature.bytes_list.value[0]
    if kind is bool:
        return bool(feature.int64_list.value[0])
    if kind is int:
        return feature.int64_list.value[0]
    # the face box is the only float field
    if feature.HasField("float_list"):
        return tuple(feature.float_list.value)
    return feature.bytes_list.value[0].decode()


def write_manifest(records_dir: AnyPath, kind: Kind, builder: str, **facts: Any) -> None:
    """Write the manifest. It must be written last: a folder with a manifest counts as complete."""
    manifest = {"format": FORMAT, "kind": kind, "builder": builder, **facts}
    (records_dir / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def read_manifest(records_dir: str | os.PathLike) -> dict[str, Any]:
    """Return the manifest of a records folder; OmfaError if it is missing, damaged or outdated."""
    folder = require_any_dir(records_dir, "records", "the records folder")
    try:
        manifest = parse_json(
            call_with_retries(str(folder / MANIFEST), (folder / MANIFEST).read_text)
        )
        kind, written = manifest["kind"], manifest["format"]
        current = written == FORMAT and kind in RECORD_TYPES
        if current and (fault := _find_fault(manifest)):
            raise ValueError(fault)
    except FileNotFoundError:
        hint = f"no {MANIFEST} there; build it with `omfa data build`"
        raise OmfaError(f"{folder} is not a complete records folder: {hint}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OmfaError(
            f"{folder / MANIFEST} is damaged ({describe_damage(error)}); build again"
        ) from None
    if not current:
        came = f"kind {kind!r}, format {written}"
        raise OmfaError(f"{folder}: expected records of format {FORMAT}, found {came}; build again")
    return manifest


def _find_fault(manifest: dict[str, Any]) -> str:
    """Return what is wrong with a manifest of the present format; "" if nothing is."""
    splits, builder = manifest.get("splits"), manifest.get("builder")
    counted = isinstance(splits, dict) and all(
        type(count) is int and count >= 0 and re.fullmatch(r"\w+", name)
        for name, count in splits.items()
    )
    if not counted:
        return f"splits: expected the number of records by split, found {format_value(splits)}"
    # the name of a folder below this one
    if not isinstance(builder, str) or not re.fullmatch(r"\w+/[\d.]+", builder):
        return f"builder: expected name/version, found {format_value(builder)}"
    for name, kind in {
        "latents": dict,
        "report": dict,
        "without_garment": dict,
        "pose_style": str,
    }.items():
        if manifest.get(name) is not None and not isinstance(manifest[name], kind):
            return f"{name}: expected {kind.__name__}, found {format_value(manifest[name])}"
    latents = manifest.get("latents") or {}
    lacking = [name for name in ("vae_id", "slots", "shapes") if name not in latents]
    return f"latents: without {lacking[0]}" if manifest["kind"] == "latents" and lacking else ""


def open_records(records_dir: str | os.PathLike, split: str, counted: bool = True) -> RecordSource:
    """Open one split of image or latent records.

    Raises OmfaError if the folder is not a complete records folder or lacks the split, and with
    `counted` if the split has another number of records than the manifest says.
    """
    folder = to_path(records_dir)
    manifest = read_manifest(folder)
    if split not in manifest["splits"]:
        raise make_unknown_name_error(f"split of {folder}", split, manifest["splits"])
    place = folder / manifest["builder"]
    try:
        info = call_with_retries(f"{folder}:{split}", lambda: _read_split_info(place, split))
    except Exception as error:  # TFDS raises many exception types on a damaged folder
        reason = " ".join(str(error).split())[:200]
        raise OmfaError(f"{folder}: the records cannot be read ({reason}); build again") from None
    if counted and manifest["splits"][split] != sum(info.shard_lengths):
        came = f"{manifest['splits'][split]} records of {split}, its shards {info.num_examples}"
        raise OmfaError(f"{folder}: {MANIFEST} has {came}; build again")
    names = sorted(info.filenames)
    sizes = call_with_retries(f"{place}", lambda: list_sizes(place))
    require_whole(place, names, info.num_bytes, sizes)
    paths = [place / name for name in names]
    source = ShardReader(list(zip(paths, info.shard_lengths, strict=True)))
    return RecordSource(manifest["kind"], source, f"{folder}:{split}", info.num_bytes)


def _read_split_info(place: AnyPath, split: str) -> Any:
    """Return TFDS's description of a split: the names and lengths of its shards, and their size."""
    # TFDS finds its files by their names in a folder: of a bucket they are copied
    with contextlib.ExitStack() as stack:
        local = place
        if isinstance(place, RemotePath):
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="omfa-"))
            local = Path(temporary) / place.parent.name / place.name
            local.mkdir(parents=True)
            for name in (DATASET_INFO, FEATURES):
                (place / name).download(local / name)
        return tfds.builder_from_directory(local).info.splits[split]


def list_sizes(place: AnyPath) -> dict[str, int | None]:
    """Return {file name: bytes} of a folder, in one listing."""
    if isinstance(place, RemotePath):
        return dict(place.list_sizes())
    return {entry.name: entry.stat().st_size for entry in os.scandir(place)}
