"""Weights on gs:// and s3://: imports, exports and checks, the loading of models, and faults."""

import errno
import tempfile
from pathlib import Path

import pytest
from tiny_model import save_tiny_model

import convert_weights
from omfa_jax.app.job_runner import JobRunner
from omfa_jax.cli.config_lib import load_config, make_weights_source
from omfa_jax.core import paths, remote_path
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import RemotePath, local_copy, local_copy_of_folder
from omfa_jax.core.trees import flatten
from omfa_jax.model_loading import TINY_FOLDER, load_model, read_settings
from omfa_jax.train.initial_weights import load_initial_model
from omfa_jax.weights.weights_digest import compute_weights_digest

TINY_CONFIG = Path(__file__).parents[1] / "configs" / "tiny.py"


def put(folder: Path, place: RemotePath) -> RemotePath:
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            (place / file.relative_to(folder).as_posix()).upload(file)
    return place


def read_all(folder) -> dict[str, bytes]:
    if isinstance(folder, RemotePath):
        return {name: (folder / name).read_bytes() for name in folder.list_tree()}
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def convert(capsys, *words) -> tuple[int, str, str]:
    status = convert_weights.main([str(word) for word in words])
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture(scope="module")
def tiny_digest():
    return compute_weights_digest(load_model(TINY_FOLDER))


def test_conversions_on_storage_have_the_bytes_of_local_ones(store, tmp_path, capsys, tiny_digest):
    source = put(TINY_FOLDER, store / "tiny")
    for out in (tmp_path, store):
        given = TINY_FOLDER if out is tmp_path else source
        assert convert(capsys, "import", given, "--out", out / "imported")[0] == 0
        assert convert(capsys, "export", out / "imported", "--out", out / "exported")[0] == 0
    for name in ("imported", "exported"):
        assert read_all(store / name) == read_all(tmp_path / name)
    # and again, over what is there
    status, said, _ = convert(capsys, "import", source, "--out", store / "imported")
    assert status == 0 and f"-> {store / 'imported'}" in said
    for place in (source, store / "imported", store / "exported"):
        model = load_model(str(place))
        assert compute_weights_digest(model) == tiny_digest
        assert read_settings(place) == model.settings
    # memory maps of a file whose name is gone
    leaf = next(leaf for _, leaf in flatten(load_model(store / "imported").vae_params))
    assert not leaf.flags.owndata and not list(Path(tempfile.gettempdir()).glob("omfa-*/unet*"))


def test_a_check_reads_both_models_from_storage(gs, capsys):
    pytest.importorskip("diffusers")
    source = put(TINY_FOLDER, gs / "tiny")
    status, said, _ = convert(capsys, "check", source, source)
    assert status == 0 and said.endswith("agree\n")


@pytest.mark.parametrize("fails_at", ["vae.safetensors", "prompts.safetensors", "omfa_import.json"])
def test_an_interrupted_import_is_never_loaded(fails_at, gs, monkeypatch, capsys):
    upload = RemotePath.upload

    def cut(self, file):
        if self.name == fails_at:
            raise KeyboardInterrupt
        upload(self, file)

    out = gs / "imported"
    for before in (False, True):
        if before:
            assert convert(capsys, "import", TINY_FOLDER, "--out", out)[0] == 0
        with monkeypatch.context() as patch:
            patch.setattr(RemotePath, "upload", cut)
            assert convert(capsys, "import", TINY_FOLDER, "--out", out)[0] == 130
        for load in (load_model, read_settings):
            with pytest.raises(
                OmfaError, match=f"{out} (was not written to its end|is not a model|has no)"
            ):
                load(out)
    assert convert(capsys, "import", TINY_FOLDER, "--out", out)[0] == 0
    load_model(out)


@pytest.mark.parametrize("fails_at", ["unet/config.json", "omfa_export.json"])
def test_an_interrupted_export_is_loaded_only_if_it_is_whole(
    fails_at, gs, monkeypatch, capsys, tiny_digest
):
    upload, model = RemotePath.upload, load_model(TINY_FOLDER)

    def cut(self, file):
        if self == gs / "out" / fails_at:
            raise OSError(errno.EACCES, "permission denied")
        upload(self, file)

    save_tiny_model(gs / "out", model)
    with monkeypatch.context() as patch:
        patch.setattr(RemotePath, "upload", cut)
        with pytest.raises(OmfaError, match=f"cannot write {gs}/out: permission denied"):
            save_tiny_model(gs / "out", model)
    if fails_at == "omfa_export.json":
        # this mark of ours comes after all that makes the model
        assert compute_weights_digest(load_model(gs / "out")) == tiny_digest
    else:
        with pytest.raises(OmfaError, match=r"unet/config.json, found nothing"):
            load_model(gs / "out")
    save_tiny_model(gs / "out", model)
    assert compute_weights_digest(load_model(gs / "out")) == tiny_digest


def test_only_what_is_read_is_downloaded(gs, monkeypatch):
    source = put(TINY_FOLDER, gs / "tiny")
    for name in ("unet/diffusion_pytorch_model.fp16.safetensors", "unet/flax_model.msgpack"):
        (source / name).write_bytes(b"1" * 100)
    fetched, download = [], RemotePath.download
    monkeypatch.setattr(
        RemotePath, "download", lambda p, f: fetched.append(p.name) or download(p, f)
    )
    read_settings(source)
    assert fetched == ["prompts.safetensors"]
    load_model(source)
    assert sorted(fetched) == sorted(
        ["prompts.safetensors"] * 2 + ["diffusion_pytorch_model.safetensors"] * 2
    )


def test_faults_are_one_line(gs, capsys, monkeypatch, tmp_path):
    def fails(word, *words, status=2):
        came, _, error = convert(capsys, *words)
        assert (came, error.count("\n")) == (status, 1) and word in error, error

    fails("expected a folder at gs://", "import", gs / "none", "--out", tmp_path / "a")
    fails("no complete checkpoint", "export", gs / "none", "--out", tmp_path / "a")
    source = put(TINY_FOLDER, gs / "tiny")
    fails("--out", "import", source, "--out", gs)
    fails("would be replaced", "import", TINY_FOLDER, "--out", source)
    # a shard that is cut short is named by its URL, not by the copy in TMPDIR
    file = source / "unet" / "diffusion_pytorch_model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-8])
    fails(f"{file} is not a complete safetensors file", "import", source, "--out", tmp_path / "a")
    file.write_bytes(data)
    room = paths.shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(paths.shutil, "disk_usage", lambda _: room)
    fails(
        f"are free in {tempfile.gettempdir()} (TMPDIR): free some room",
        "import",
        source,
        "--out",
        tmp_path / "a",
    )
    monkeypatch.undo()
    monkeypatch.setattr(
        remote_path, "SCHEMES", {**remote_path.SCHEMES, "gs": ("no_such_client", "gcs")}
    )
    fails("no_such_client", "import", source, "--out", tmp_path / "a")


def test_a_large_download_is_announced_and_errors_name_the_url(gs, caplog, monkeypatch):
    monkeypatch.setattr(paths, "_LARGE_BYTES", 4)
    caplog.set_level("INFO")
    (gs / "d" / "big.bin").write_bytes(b"12345")
    wanted = pytest.raises(OmfaError, match=rf"{gs}/d/big\.bin is bad")
    with wanted, local_copy(gs / "d" / "big.bin") as file:
        assert file.read_bytes() == b"12345"
        raise OmfaError(f"{file} is bad")
    with local_copy_of_folder(gs / "d", "*.txt") as folder:
        assert list(folder.iterdir()) == []
    # gcsfs logs, too, when it has to log in again
    ours = [r.message for r in caplog.records if r.name.startswith("omfa_jax")]
    assert len(ours) == 1 and ours[0].startswith(f"downloading {gs}/d/big.bin, 0.0 GB")


def test_the_page_takes_a_model_from_storage(store, tmp_path):
    runner = JobRunner(str(put(TINY_FOLDER, store / "model")), tmp_path)
    # where it lies is none of a visitor's business
    assert runner.shown_checkpoint is None and runner.model.unet_params


def test_training_starts_from_a_model_in_storage(gs):
    config = load_config(TINY_CONFIG, [f"--config.model.init={put(TINY_FOLDER, gs / 'model')}"])
    model = load_initial_model(make_weights_source(config), None)
    tiny = load_model(TINY_FOLDER)
    for (_, came), (_, wanted) in zip(
        flatten(model.vae_params), flatten(tiny.vae_params), strict=True
    ):
        assert (came == wanted).all()
