"""Pickles of numbers are read whole; pickles of anything else run nothing."""

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from scipy.sparse import csc_matrix

from omfa_jax.body.safe_pickle import read_pickle
from omfa_jax.body.smpl_model import load_smpl_model
from omfa_jax.body.vertex_correspondence import load_correspondence
from omfa_jax.core.errors import OmfaError

DATA = {
    "floats": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "scalar": np.float64(0.5),
    "flag": np.bool_(True),
    "names": ["a", ("b", 2), {"c": None}, {1, 2}, b"bytes", 1 + 2j],
    "objects": np.array([{"x": np.ones(2)}, [1, 2]], dtype=object),
    "ordered": OrderedDict(k=np.zeros((0, 3))),
}


class Attack:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def write(path: Path, way: str, value) -> Path:
    if way.startswith("pickle"):
        with path.open("wb") as file:
            pickle.dump(value, file, protocol=int(way[-1]))
    elif way == "npy":
        path = path.with_suffix(".npy")
        np.save(path, np.array(value, dtype=object), allow_pickle=True)
    else:
        compress: Any = {"joblib": 0, "zlib": 3}.get(way, (way, 3))
        joblib.dump(value, path, compress=compress)
    return path


WAYS = ["pickle2", "pickle4", "pickle5", "npy", "joblib", "zlib", "gzip", "bz2", "xz"]


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        a, b = list(a.values()), list(b.values())
    if isinstance(a, (list, tuple)) or (isinstance(a, np.ndarray) and a.dtype.hasobject):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        np.testing.assert_array_equal(a, b)
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None)


@pytest.mark.parametrize("way", WAYS)
def test_numbers_and_containers_come_back_as_they_were(tmp_path: Path, way: str):
    path = write(tmp_path / "a.pkl", way, DATA)
    assert_same(read_pickle(path, "body file", allow_pickle=True), DATA)
    with pytest.raises(OmfaError, match="pickled Python objects; add --allow-pickle"):
        read_pickle(path, "body file", allow_pickle=False)


def test_plain_npz_needs_no_trust_and_objects_in_one_do(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x=DATA["floats"], name=np.array("b"))
    assert set(read_pickle(tmp_path / "a.npz", "file", allow_pickle=False)) == {"x", "name"}
    np.savez(tmp_path / "b.npz", smpl=np.array([{"x": 1}, {"x": 2}]))
    assert list(read_pickle(tmp_path / "b.npz", "file", allow_pickle=True)["smpl"]) == [
        {"x": 1},
        {"x": 2},
    ]
    with pytest.raises(OmfaError, match="--allow-pickle"):
        read_pickle(tmp_path / "b.npz", "file", allow_pickle=False)


@pytest.mark.parametrize("inside", ["alone", "beside arrays", "in an array of objects"])
@pytest.mark.parametrize("way", WAYS)
def test_an_attack_is_named_and_does_not_run(tmp_path: Path, way: str, inside: str):
    mark = tmp_path / "ran"
    attack = Attack(f"touch {mark}")
    value = {
        "alone": attack,
        "beside arrays": {"x": np.ones(3), "y": attack},
        "in an array of objects": {"x": np.ones(3), "y": np.array([attack, 1], dtype=object)},
    }[inside]
    path = write(tmp_path / "a.pkl", way, value)
    for allow_pickle in (False, True):
        with pytest.raises(OmfaError, match=r"posix.system, which is not allowed|--allow-pickle"):
            read_pickle(path, "body file", allow_pickle=allow_pickle)
    assert not mark.exists()
    # the mark is what the attack leaves where nothing holds it back
    if way == "npy":
        np.load(path, allow_pickle=True)
    else:
        joblib.load(path)
    assert mark.exists()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (eval, "builtins.eval"),
        (np.load, "numpy.load"),
        (Path("a"), "pathlib"),
        (np.ma.masked_array([1]), "numpy.ma"),
        (np.matrix([1]), "numpy.matrix"),
    ],
)
def test_what_is_not_allowed_is_named(tmp_path: Path, value, name: str):
    path = write(tmp_path / "a.pkl", "pickle4", {"x": value})
    with pytest.raises(OmfaError, match=f"needs {name}.* is not allowed"):
        read_pickle(path, "body file", allow_pickle=True)


def test_tensors_get_a_hint(tmp_path: Path):
    torch = pytest.importorskip("torch", reason="needs torch, which is not installed")
    path = write(tmp_path / "a.pkl", "pickle4", [{"rotvec": torch.zeros(53, 3)}])
    with pytest.raises(OmfaError, match=r"torch.*tensor.cpu\(\).numpy\(\)"):
        read_pickle(path, "body file", allow_pickle=True)


@pytest.mark.parametrize("way", ["pickle4", "zlib", "gzip", "xz", "npy"])
def test_damaged_files_are_one_line(tmp_path: Path, way: str):
    path = write(tmp_path / "a.pkl", way, DATA)
    whole = path.read_bytes()
    for cut in (0, 3, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:cut])
        with pytest.raises(OmfaError, match="damaged or not of this format") as error:
            read_pickle(path, "body file", allow_pickle=True)
        assert "\n" not in str(error.value)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"nothing")
    with pytest.raises(OmfaError, match="damaged"):
        read_pickle(tmp_path / "a.npz", "body file", allow_pickle=True)


def test_official_model_pickles_with_sparse_matrices_are_read_without_their_classes(tmp_path: Path):
    rng = np.random.default_rng(0)
    regressor = rng.random((24, 30)) * (rng.random((24, 30)) < 0.2)
    parents = [
        2**32 - 1,
        0,
        0,
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        9,
        9,
        9,
        12,
        13,
        14,
        16,
        17,
        18,
        19,
        20,
        21,
    ]
    raw = {
        "v_template": rng.normal(size=(30, 3)),
        "shapedirs": rng.normal(size=(30, 3, 10)),
        "posedirs": rng.normal(size=(30, 3, 207)),
        "J_regressor": csc_matrix(regressor),
        "weights": rng.random((30, 24)),
        "kintree_table": np.array([parents, range(24)], np.uint32),
    }
    model = load_smpl_model(write(tmp_path / "a.pkl", "pickle2", raw), allow_pickle=True)
    np.testing.assert_allclose(model.joint_regressor, regressor, rtol=1e-6)
    assert model.posedirs is not None and model.parents[0] == -1
    with pytest.raises(OmfaError, match="--allow-pickle"):
        load_smpl_model(tmp_path / "a.pkl")
    matrix = csc_matrix(rng.random((40, 60)) * (rng.random((40, 60)) < 0.1))
    path = write(tmp_path / "map.pkl", "pickle2", {"mtx": matrix})
    np.save(tmp_path / "smplx_mask_ids.npy", np.arange(0, 40, 2))
    found = load_correspondence(path, source_vertices=30, target_vertices=40, allow_pickle=True)
    points = rng.normal(size=(30, 3)).astype(np.float32)
    want = (matrix.toarray()[:, :30] @ points)[::2]
    np.testing.assert_allclose(found(points), want, rtol=1e-5, atol=1e-6)
    with pytest.raises(OmfaError, match=r"expected \(40, 31\)"):
        load_correspondence(path, source_vertices=31, target_vertices=40, allow_pickle=True)
