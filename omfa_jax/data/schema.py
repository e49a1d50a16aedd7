"""The record: one person, the garment worn in the photo, face box and pose map; one for all data.

A records folder is `<folder>/omfa_records.json` (written last) beside a TFDS data set in
ArrayRecord files, `<folder>/<name>/<version>/`.
"""

import dataclasses
import json
import operator
import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets import proto

from omfa_jax.core.errors import OmfaError, unknown
from omfa_jax.core.exit_status import is_transient
from omfa_jax.core.files import parse_json, require_dir
from omfa_jax.core.retry import retried

# TFDS's own copy of tf.train.Example; its fields are made at run time, unknown to type checkers
EXAMPLE: Any = vars(proto)["tf_example_pb2"].Example

MANIFEST = "omfa_records.json"
FORMAT = 2

Kind = Literal["images", "latents"]


@dataclass(frozen=True)
class Record:
    """One example; pictures are encoded PNG or JPEG bytes, upright RGB.

    `key` is unique in its split. `face_box_px` is (left, top, right, bottom) in the pixels of the
    person's photo and may reach over its edges; it counts only if `has_face`. `pose` is empty
    unless `has_pose`. The unpaired garment (evaluation splits only) is one that the person does
    not wear; its key and bytes are empty when there is none. `category` is where the garment is
    worn, "" when unknown. Records of one `group` show one person in one outfit, in several poses;
    `person_id` is the person's alone. `body_source` says where the body behind the pose map comes
    from (`body.params_file.SOURCES`). All of these are "" when unknown, as `caption` is.
    """

    key: str
    split: str
    person: bytes = field(repr=False)
    height_px: int
    width_px: int
    garment: bytes = field(repr=False)
    garment_source: Literal["in_shop", "worn"]
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
    """The VAE latents of one record: little-endian float16 in (h, w, c) order, as bytes.

    Shapes are in the manifest. `pose` is empty unless `has_pose`; `group` is the record's.
    """

    key: str
    garment: bytes = field(repr=False)
    person: bytes = field(repr=False)
    face: bytes = field(repr=False)
    has_pose: bool
    pose: bytes = field(repr=False)
    group: str = ""


RECORD_TYPES: dict[Kind, type] = {"images": Record, "latents": LatentRecord}


def features(kind: Kind) -> tfds.features.FeaturesDict:
    """Return the TFDS features of a record type: pictures stay encoded bytes."""
    scalar = tfds.features.Scalar
    kinds = {
        str: tfds.features.Text(),
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
    """Return the record as the dict that TFDS encodes."""
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}


class RecordSource:
    """Random access to the records of one split: `len(source)` and `source[i]`.

    A record that is damaged, or whose file is, is an OmfaError when it is asked for. It can be
    read from several threads and pickled.
    """

    def __init__(self, kind: Kind, source: Any, place: str) -> None:
        self._type = RECORD_TYPES[kind]
        self._fields = [(f.name, f.type) for f in dataclasses.fields(self._type)]
        self._source = source
        self._place = place

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> Any:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self._place}, which has {len(self)}")
        try:
            # TFDS's own way from these bytes to numpy takes four times as long
            stored = retried(f"{self._place}: record {index}", lambda: self._read(index))
            features = EXAMPLE.FromString(stored).features.feature
            return self._type(**{name: _value(features[name], kind) for name, kind in self._fields})
        except Exception as error:  # a damaged file provokes many exception types
            reason = " ".join(str(error).split())[:200]
            where = f"{self._place}: record {index}"
            advice = "" if is_transient(error) else "; build again"
            raise OmfaError(f"{where} cannot be read ({reason}){advice}") from error

    def encoded(self, index: int) -> bytes:
        """Return one record as it is stored, a serialized tf.train.Example."""
        return self._source[index]

    def _read(self, index: int) -> bytes:
        try:
            return self.encoded(index)
        except Exception as error:
            if is_transient(error):
                # a copy opens the files anew: a handle that went stale stays so
                self._source = pickle.loads(pickle.dumps(self._source))
            raise

    def __repr__(self) -> str:
        return f"RecordSource({self._place}, {len(self)} records)"


def _value(feature: Any, kind: Any) -> Any:
    """Return one field of a stored example as the type that the record declares."""
    if kind is bytes:
        return feature.bytes_list.value[0]
    if kind is bool:
        return bool(feature.int64_list.value[0])
    if kind is int:
        return feature.int64_list.value[0]
    if feature.HasField("float_list"):
        return tuple(feature.float_list.value)
    return feature.bytes_list.value[0].decode()


def write_manifest(records_dir: Path, kind: Kind, builder: str, **facts: Any) -> None:
    """Write the manifest; it comes last, so a folder that has one is complete."""
    manifest = {"format": FORMAT, "kind": kind, "builder": builder, **facts}
    (records_dir / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def read_manifest(records_dir: str | os.PathLike) -> dict[str, Any]:
    """Return the manifest of a records folder, or raise an OmfaError that says what is wrong."""
    folder = require_dir(records_dir, "records", "the records folder")
    try:
        manifest = parse_json(retried(str(folder / MANIFEST), (folder / MANIFEST).read_text))
        kind, written = manifest["kind"], manifest["format"]
    except FileNotFoundError:
        hint = f"no {MANIFEST} there; build it with `omfa data build`"
        raise OmfaError(f"{folder} is not a complete records folder: {hint}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OmfaError(f"{folder / MANIFEST} is damaged ({error!r}); build again") from None
    if written != FORMAT or kind not in RECORD_TYPES:
        came = f"kind {kind!r}, format {written}"
        raise OmfaError(f"{folder}: expected records of format {FORMAT}, found {came}; build again")
    return manifest


def open_records(records_dir: str | os.PathLike, split: str) -> RecordSource:
    """Return random access to one split's records, image records or latents alike.

    Raises OmfaError if the folder is not a complete records folder or has no such split.
    """
    folder = Path(records_dir)
    manifest = read_manifest(folder)
    if split not in manifest["splits"]:
        raise unknown(f"split of {folder}", split, manifest["splits"])
    try:
        raw = tfds.decode.DeserializeMethod.RAW_BYTES

        def opened() -> Any:
            builder: Any = tfds.builder_from_directory(folder / manifest["builder"])
            return builder.as_data_source(split=split, deserialize_method=raw)

        source = retried(f"{folder}:{split}", opened)
    except Exception as error:  # TFDS meets a damaged folder with many exception types
        reason = " ".join(str(error).split())[:200]
        raise OmfaError(f"{folder}: the records cannot be read ({reason}); build again") from None
    return RecordSource(manifest["kind"], source, f"{folder}:{split}")
