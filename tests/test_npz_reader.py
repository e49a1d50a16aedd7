"""Files of a few kilobytes that say they are gigabytes: told before the memory is taken."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import resource
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from omfa_jax.body.body_file import read_npz
from omfa_jax.body.safe_pickle import read_pickle
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.npz_reader import UNCONDITIONAL_BYTES, get_size_limit, read_npy
from omfa_jax.evals.metric_cache import MetricCache
from omfa_jax.evals.metric_weights import read_state
from omfa_jax.weights.tensor_files import read_tensors
from omfa_jax.weights.torch_tensors import open_pickled

GB = 2**30


def npy_header(shape, descr="<f4"):
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


@pytest.fixture(scope="module")
def bomb(tmp_path_factory):
    """An .npz of some megabytes that unpacks to 700."""
    path, size, block = tmp_path_factory.mktemp("bombs") / "a.npz", 700 * 2**20, bytes(2**22)
    archive = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with archive, archive.open("betas.npy", "w", force_zip64=True) as member:
        member.write(npy_header((size // 4,)))
        for _ in range(size // len(block)):
            member.write(block)
    return path


@pytest.fixture
def little_memory():
    """Let this process take 400 MB more than it has: what takes a bomb's is a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    old = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + 400 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, old)


def test_an_npz_that_unpacks_to_too_much_is_refused_by_its_directory(bomb, little_memory):
    with pytest.raises(OmfaError, match=r"unpacks to 0.7 GB, over the limit of 0.\d+ GB"):
        read_npz(bomb, "body file")
    with pytest.raises(OmfaError, match=r"unpacks to 0.7 GB"):
        read_pickle(bomb, "bodies", allow_pickle=False)


def test_the_scores_cache_and_groups_are_read_as_carefully(bomb, little_memory, tmp_path):
    space = MetricCache(tmp_path, {"a": 1})
    space.folder.mkdir()
    (space.folder / "x.npz").write_bytes(bomb.read_bytes())
    with pytest.raises(OmfaError, match=r"damaged .it unpacks to 0.7 GB"):
        MetricCache(tmp_path, {"a": 1})
    (space.folder / "x.npz").write_bytes(bomb.read_bytes()[:1000])
    with pytest.raises(OmfaError, match="damaged"):
        MetricCache(tmp_path, {"a": 1})


def test_a_member_is_unpacked_no_further_than_its_directory_says(tmp_path, little_memory):
    said = npy_header((4096,)) + bytes(4 * 4096)
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("betas.npy", said)
    raw = path.read_bytes()
    # another, much longer deflated content under the same directory entry
    start = raw.index(b"PK\x01\x02")
    local, central = bytearray(raw[: 30 + len("betas.npy")]), bytearray(raw[start:])
    packed = zlib.compressobj(1, zlib.DEFLATED, -15)
    content = packed.compress(said)
    for _ in range(150):
        content += packed.compress(bytes(2**22))
    content += packed.flush()
    for header, offset in ((local, 8), (central, 10)):
        struct.pack_into("<H", header, offset, 8)
        struct.pack_into("<I", header, offset + 10, len(content))
    end = central.index(b"PK\x05\x06")
    struct.pack_into("<I", central, end + 16, len(local) + len(content))
    path.write_bytes(bytes(local) + content + bytes(central))
    assert read_npz(path, "body file")["betas"].shape == (4096,)


@pytest.mark.parametrize(
    "shape", [(10**10,), (10**15,), (2**62, 4), (10**5, 10**5), (-1, 5), (10**30,)]
)
def test_a_header_whose_shape_has_no_room_in_the_file_is_refused(tmp_path, shape, little_memory):
    for name in ("a.npz", "a.npy"):
        path = tmp_path / name
        if name == "a.npz":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("betas.npy", npy_header(shape) + bytes(64))
            with pytest.raises(OmfaError, match="header has shape"):
                read_npz(path, "body file")
        else:
            path.write_bytes(npy_header(shape) + bytes(64))
            with pytest.raises(ValueError, match="header has shape"):
                read_npy(path)
        with pytest.raises(OmfaError, match="header has shape"):
            read_pickle(path, "bodies", allow_pickle=False)


@pytest.mark.parametrize(
    "length", [b"(" * 9000, b"(" + b"-" * 9000 + b"1,)", b"(True, True)", b"'x'"]
)
def test_a_header_that_is_no_header_is_one_line(tmp_path, length):
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': " + length + b"}\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("betas.npy", array)
    (tmp_path / "a.npy").write_bytes(array)
    for name in ("a.npz", "a.npy"):
        with pytest.raises(OmfaError, match=r"header|shape"):
            read_pickle(tmp_path / name, "bodies", allow_pickle=False)
    with pytest.raises(OmfaError, match=r"header|shape"):
        read_npz(tmp_path / "a.npz", "body file")


def test_a_header_of_gigabytes_and_an_encrypted_member_are_refused(tmp_path, little_memory):
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31))
    with pytest.raises(ValueError, match="header has 2,147,483,648 bytes"):
        read_npy(path)
    path = tmp_path / "a.npz"
    np.savez(path, betas=np.zeros(10, np.float32))
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(OmfaError, match="encrypted"):
        read_npz(path, "body file")


def test_whole_files_come_back_as_they_were(tmp_path):
    arrays = {
        "a": np.arange(12.0).reshape(3, 4).T,
        "b": np.array("exact"),
        "c": np.zeros((0, 3), np.int32),
        "d": np.array([True, False]),
        "e": np.array([("x", 1)], [("n", "U1"), ("v", "<i8")]),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays, objects=np.array([{}], object))  # type: ignore[arg-type]
        read = read_npz(tmp_path / "a.npz", "body file")
        assert read.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(read[name], array)
            assert read[name].dtype == array.dtype
    read["a"][0, 0] = 1.0
    with pytest.raises(OmfaError, match="single array"):
        np.save(tmp_path / "b.npy", arrays["a"])
        read_npz(tmp_path / "b.npy", "body file")
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "c.npz", "w", method) as archive:
            archive.writestr("betas.npy", npy_header((4,)) + bytes(16))
        with pytest.raises(OmfaError, match="compression method other"):
            read_npz(tmp_path / "c.npz", "body file")


PACKERS = {
    "gz": lambda data: gzip.compress(data, 1),
    "bz2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zlib": lambda data: zlib.compress(data, 1),
}


@pytest.mark.parametrize("way", PACKERS)
def test_a_packed_pickle_that_unpacks_to_too_much(tmp_path, way, monkeypatch):
    path = tmp_path / "a.pkl"
    monkeypatch.setattr("omfa_jax.core.npz_reader.UNCONDITIONAL_BYTES", 2**20)
    path.write_bytes(PACKERS[way](bytes(2**25)))
    with pytest.raises(OmfaError, match=r"it unpacks to more, over the limit of 0.\d+ GB"):
        read_pickle(path, "bodies", allow_pickle=True)
    path.write_bytes(PACKERS[way](pickle.dumps({"a": [1, 2]})))
    assert read_pickle(path, "bodies", allow_pickle=True) == {"a": [1, 2]}


class Asks:
    def __init__(self, kind, argument):
        self.asked = (kind, (argument,))

    def __reduce__(self):
        return self.asked


@pytest.mark.parametrize(
    "asks",
    [
        Asks(bytes, 10**11),
        Asks(bytearray, 10**11),
        *(Asks(kind, range(10**9)) for kind in (list, set, tuple)),
    ],
)
def test_a_pickle_that_asks_for_more_than_it_holds(tmp_path, asks, little_memory):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(asks, protocol=3))
    with pytest.raises(OmfaError, match="items that it does not contain"):
        read_pickle(path, "bodies", allow_pickle=True)


def test_packed_torch_files_and_long_safetensors_headers(tmp_path, bomb):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.bin"
    torch.save({"x": torch.zeros(1000)}, path)
    assert read_state(path)["x"].shape == (1000,)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    for read in (read_state, lambda file: open_pickled([file], "x")):
        with pytest.raises(OmfaError, match="its members are compressed"):
            read(path)
    tensor = {"x": {"dtype": "F32", "shape": [10**10], "data_offsets": [0, 4 * 10**10]}}
    header = json.dumps(tensor).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    with pytest.raises(OmfaError, match="not a complete safetensors file"):
        read_tensors(path)


def test_the_limit_follows_the_files_size():
    assert get_size_limit(0) == UNCONDITIONAL_BYTES and get_size_limit(10 * 2**20) == 1000 * 2**20
    assert get_size_limit(GB) == 2 * GB
