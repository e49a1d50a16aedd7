"""Safe reading of other tools' pickles: nothing in them is executed."""

import bz2
import functools
import gzip
import io
import lzma
import os
import pickle
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any, BinaryIO

import numpy as np

from omfa_jax.core.errors import OmfaError, require_modules
from omfa_jax.core.npz_reader import (
    UNCONDITIONAL_BYTES,
    UNPACK_ERRORS,
    UnpackedSizeError,
    get_file_size,
    get_size_limit,
    iter_members,
    read_array,
    read_bounded,
)
from omfa_jax.core.path_checks import require_any_file

Name = tuple[str, str]

_JOBLIB_ARRAY: Name = ("joblib.numpy_pickle", "NumpyArrayWrapper")
_TENSOR_HINT = "; save numpy arrays instead: {name: tensor.cpu().numpy() for ...}"
# exceptions of the unpicklers and of numpy's header reader for damaged or mislabelled files
_DAMAGE = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, KeyError),
    *(IndexError, ImportError, OverflowError, OSError, RecursionError, MemoryError),
    *(*UNPACK_ERRORS, lzma.LZMAError),
)


class StandIn:
    """Replaces an object whose class is not loaded: it has its state and none of its code."""

    def __init__(self, *arguments: Any) -> None:
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_pickle(
    path: str | os.PathLike, what: str, *, allow_pickle: bool, stand_ins: Collection[Name] = ()
) -> Any:
    """Return the object in a .pkl (plain or joblib's, compressed or not), an .npy or an .npz.

    An .npz becomes a dict of its arrays. Plain arrays are always read. Pickled objects are read
    only with `allow_pickle`, and even then only numpy's arrays, scalars and dtypes and Python's
    containers, numbers and strings are allowed, so that no code of the file runs. Objects of the
    classes in `stand_ins` become StandIn. Raises OmfaError for a damaged file, and naming the first
    class or function that is not allowed.
    """
    path = require_any_file(path, what, "--in")
    load = functools.partial(_load, allow_pickle=allow_pickle, stand_ins=frozenset(stand_ins))
    try:
        with path.open("rb") as file:
            if path.suffix == ".npz":
                return _read_npz(file, load)
            if path.suffix == ".npy":
                return _unwrap(_read_npy(file, load))
            return load(_decompress(file))
    except OmfaError as error:
        raise OmfaError(f"{what} {path}: {error}") from None
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise OmfaError(f"{what} {path}: damaged or not of this format: {reason}") from None


def _read_npz(file: BinaryIO, load: Callable[[BinaryIO], Any]) -> dict[str, Any]:
    arrays = {}
    for name, stream, size in iter_members(file):
        arrays[name] = _unwrap(_read_npy(io.BytesIO(stream.read(size)), load))
    return arrays


def _read_npy(file: BinaryIO, load: Callable[[BinaryIO], Any]) -> Any:
    array = read_array(file, get_file_size(file))
    # read_array has left the file at its pickle
    return load(file) if array is None else array


def _unwrap(array: Any) -> Any:
    """Return what np.save was given: it wraps objects that are not arrays in 0-d arrays."""
    is_wrapped = isinstance(array, np.ndarray) and array.dtype.hasobject and array.ndim == 0
    return array.item() if is_wrapped else array


def _decompress(file: BinaryIO) -> BinaryIO:
    size = get_file_size(file)
    start = file.read(6)
    file.seek(0)
    if start[:2] == b"\x1f\x8b":
        return io.BytesIO(read_bounded(gzip.GzipFile(fileobj=file), size))
    if start[:3] == b"BZh":
        return io.BytesIO(read_bounded(bz2.BZ2File(file), size))
    if start == b"\xfd7zXZ\x00" or start[:5] == b"]\x00\x00\x80\x00":
        return io.BytesIO(read_bounded(lzma.LZMAFile(file), size))
    if start[:1] == b"x":
        return io.BytesIO(_inflate(file.read()))
    return file


def _inflate(data: bytes) -> bytes:
    unpacker, limit = zlib.decompressobj(), get_size_limit(len(data))
    found = unpacker.decompress(data, limit)
    if unpacker.unconsumed_tail:
        raise UnpackedSizeError("more", len(data))
    return found + unpacker.flush()


class _JoblibArray(Exception):
    """Raised for joblib's pickles, which have array data between the opcodes."""


def _load(file: BinaryIO, *, allow_pickle: bool, stand_ins: frozenset[Name]) -> Any:
    if not allow_pickle:
        raise OmfaError(
            "contains pickled Python objects; add --allow-pickle to read them (only arrays,"
            " numbers and strings: no code of the file is run)"
        )
    start = file.tell()
    if file.read(4) == b"PK\x03\x04":
        raise OmfaError(f"was saved by torch.save{_TENSOR_HINT}")
    file.seek(start)
    try:
        return _Unpickler(file, stand_ins).load()
    except _JoblibArray:
        file.seek(start)
        return _joblib_load(file, stand_ins)


class _Unpickler(pickle.Unpickler):
    """Python's unpickler with a table of allowed names instead of imports."""

    def __init__(self, file: BinaryIO, stand_ins: frozenset[Name]) -> None:
        # latin1 maps every byte: array data in pickles of Python 2 is stored as a string
        super().__init__(file, encoding="latin1")
        self._stand_ins = stand_ins

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == _JOBLIB_ARRAY:
            raise _JoblibArray
        return find_allowed(module, name, self._stand_ins)


def _joblib_load(file: BinaryIO, stand_ins: frozenset[Name]) -> Any:
    require_modules("this pickle of joblib's", "body", "joblib")
    import inspect

    from joblib.numpy_pickle import NumpyArrayWrapper, NumpyUnpickler

    class Array(NumpyArrayWrapper):
        # joblib before 1.6 reads object arrays with an unpickler that allows everything
        def read_array(self, unpickler: Any, *arguments: Any) -> np.ndarray:
            if self.dtype.hasobject:
                return _Unpickler(unpickler.file_handle, stand_ins).load()
            return super().read_array(unpickler, *arguments)

    class Reader(NumpyUnpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) == _JOBLIB_ARRAY:
                return Array
            return find_allowed(module, name, stand_ins)

    known = inspect.signature(NumpyUnpickler.__init__).parameters
    byte_order = {"ensure_native_byte_order": True} if "ensure_native_byte_order" in known else {}
    return Reader("", file, **byte_order).load()


def find_allowed(module: str, name: str, stand_ins: Collection[Name] = ()) -> Any:
    """Return the object behind a pickle's global name; OmfaError if it is not allowed."""
    if (module, name) in stand_ins:
        return StandIn
    if stand_ins and (module, name) in (
        ("copy_reg", "_reconstructor"),
        ("copyreg", "_reconstructor"),
    ):
        return _reconstruct
    table = _admitted_names()
    if (module, name) not in table:
        hint = _TENSOR_HINT if module.partition(".")[0] == "torch" else ""
        raise OmfaError(f"needs {module}.{name}, which is not allowed{hint}")
    return table[module, name]


def _reconstruct(kind: type, base: type, state: Any) -> Any:
    if kind is not StandIn:
        raise OmfaError(f"needs to rebuild a {kind.__name__}, which is not allowed")
    return StandIn()


def _encode(text: str, encoding: str) -> bytes:
    # Python 3 writes bytes for Python 2 so; other codecs could decompress data or import modules
    if encoding != "latin1":
        raise OmfaError(f"needs the codec {encoding!r}, which is not allowed")
    return text.encode("latin1")


def _limit_size(kind: Callable[..., Any]) -> Callable[..., Any]:
    """Return `kind` limited to data that is in the pickle.

    bytearray(n) and list(range(n)) would allocate n items from a few bytes of file.
    """

    def make(*arguments: Any) -> Any:
        for given in arguments:
            many = len(given) if isinstance(given, range) else given
            if isinstance(many, int) and many > UNCONDITIONAL_BYTES // 8:
                raise OmfaError(f"asks for {many:,} items that it does not contain")
        return kind(*arguments)

    return make


@functools.cache
def _admitted_names() -> dict[Name, Any]:
    """Return the globals in pickles of numpy's and Python's own values, for numpy 1 and 2."""
    array = np.zeros(1)
    numpy_functions = {
        "multiarray": (array.__reduce__()[0], np.float32(0).__reduce__()[0]),
        "numeric": (array.__reduce_ex__(5)[0],),
    }
    table: dict[Name, Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _encode,
    }
    for package in ("numpy.core", "numpy._core"):
        for module, functions in numpy_functions.items():
            table |= {(f"{package}.{module}", f.__name__): f for f in functions}
    kinds: dict[str, Any] = {kind.__name__: kind for kind in (dict, complex, slice, range)}
    kinds |= {kind.__name__: _limit_size(kind) for kind in (list, tuple, set, frozenset)}
    kinds |= {kind.__name__: _limit_size(kind) for kind in (bytes, bytearray)}
    for builtins in ("builtins", "__builtin__"):
        table |= {(builtins, name): kind for name, kind in kinds.items()}
    return table
