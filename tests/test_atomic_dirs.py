"""What is not ours stays, however --out spells it, whoever looks away, whatever happens between."""

import shutil
from pathlib import Path

import pytest
from out_arrangements import (
    ARRANGEMENTS,
    MINE,
    go_through_dangling_link,
    go_through_new_folder,
    make_link,
    move_into_output,
    write_output,
)

import convert_weights
from omfa_jax.core import atomic_dirs
from omfa_jax.core.atomic_dirs import atomic_dir, contains, require_disjoint, resolve_target
from omfa_jax.core.errors import OmfaError
from omfa_jax.weights.diffusers_folder import CONTENTS as EXPORTED
from omfa_jax.weights.imported_folder import CONTENTS, MANIFEST_FILE
from omfa_jax.weights.model_folder import CONTENTS as FROZEN

TINY = Path(__file__).parents[1] / "omfa_jax" / "assets" / "tiny"


@pytest.fixture
def place(tmp_path, monkeypatch):
    folder = tmp_path / "place"
    (folder / "precious").mkdir(parents=True)
    (folder / "precious" / "thesis.tex").write_text(MINE)
    monkeypatch.chdir(folder)
    return folder


def snapshot(folder):
    return {p.relative_to(folder): p.is_symlink() or p.is_dir() for p in folder.rglob("*")}


@pytest.mark.parametrize("arrange", ARRANGEMENTS, ids=lambda f: f.__name__)
def test_a_foreign_folder_stays(place, arrange):
    out = arrange(place)
    before = snapshot(place)
    with pytest.raises(OmfaError), atomic_dir(out, CONTENTS):
        pytest.fail("hours of work were begun")
    assert (place / "precious" / "thesis.tex").read_text() == MINE
    assert snapshot(place) == before


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported") / "model"
    assert convert_weights.main(["import", str(TINY), "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("command", ["import", "export"])
@pytest.mark.parametrize(
    "arrange",
    [go_through_new_folder, go_through_dangling_link, make_link, move_into_output],
    ids=lambda f: f.__name__,
)
def test_the_commands_leave_it(place, imported, command, arrange, capsys):
    source = TINY if command == "import" else imported
    out = arrange(place)
    assert convert_weights.main([command, str(source), "--out", str(out)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert (place / "precious" / "thesis.tex").read_text() == MINE


def test_the_commands_replace_their_own(imported, tmp_path, capsys):
    exported, again = tmp_path / "exported", shutil.copytree(imported, tmp_path / "again")
    (tmp_path / "link").symlink_to("exported")
    for _ in range(2):
        assert convert_weights.main(["import", str(TINY), "--out", f"{again}/"]) == 0
        out = str(tmp_path / "new" / ".." / "link")
        assert convert_weights.main(["export", str(imported), "--out", out]) == 0
    assert (tmp_path / "link").is_symlink() and (exported / "omfa_export.json").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "exported", "link"]
    # what it reads, or what that lies in, is not given way
    assert convert_weights.main(["import", str(again), "--out", str(again)]) == 2
    vae = ["import", str(TINY), "--vae", str(again / "vae"), "--out", str(again)]
    assert convert_weights.main(vae) == 2
    assert capsys.readouterr().err.count("is or contains what") == 2
    assert snapshot(again) == snapshot(imported)


@pytest.mark.parametrize("there", [False, True], ids=["a new place", "one of ours"])
def test_what_comes_meanwhile_stays(tmp_path, there):
    out = tmp_path / "out"
    if there:
        write_output(out)
    with pytest.raises(OmfaError, match=r"thesis|not a folder"), atomic_dir(out, CONTENTS) as made:
        (made / MANIFEST_FILE).write_text("new")
        out.mkdir(exist_ok=True)
        (out / "thesis.tex").write_text(MINE)
    assert (out / "thesis.tex").read_text() == MINE
    assert not there or (out / MANIFEST_FILE).read_text() == "ours"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_comes_at_the_last_moment_stays(tmp_path, monkeypatch, caplog):
    """Between the listing and the deletion, and where the folder was before the new one is."""
    rename, out = Path.rename, write_output(tmp_path / "out")

    def add(self, target):
        if self.name.startswith(".out-") and not self.name.endswith("-old"):
            (self.with_name(f"{self.name}-old") / "unet" / "late.txt").write_text(MINE)
        return rename(self, target)

    with monkeypatch.context() as patch, atomic_dir(out, CONTENTS) as made:
        (made / MANIFEST_FILE).write_text("new")
        patch.setattr(Path, "rename", add)
    (aside,) = tmp_path.glob(".out-*-old")
    assert (aside / "unet" / "late.txt").read_text() == MINE and str(aside) in caplog.text
    shutil.rmtree(aside)

    def occupy(self, target):
        found = rename(self, target)
        if target.name.endswith("-old"):
            (out / "precious").mkdir(parents=True)
        return found

    shutil.rmtree(out)
    write_output(out)
    with (
        pytest.raises(OmfaError, match=r"were moved to .*-old"),
        monkeypatch.context() as patch,
        atomic_dir(out, CONTENTS),
    ):
        patch.setattr(Path, "rename", occupy)
    (aside,) = tmp_path.glob(".out-*-old")
    assert (aside / MANIFEST_FILE).read_text() == "ours" and (out / "precious").is_dir()


def test_an_interrupt_between_the_renames_puts_the_old_one_back(tmp_path, monkeypatch):
    rename, out = Path.rename, write_output(tmp_path / "out")

    def stop(self, target):
        if target == out and not self.name.endswith("-old"):
            raise KeyboardInterrupt
        return rename(self, target)

    with (
        monkeypatch.context() as patch,
        pytest.raises(KeyboardInterrupt),
        atomic_dir(out, CONTENTS),
    ):
        patch.setattr(Path, "rename", stop)
    assert (out / MANIFEST_FILE).read_text() == "ours"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_somebody_goes_to_meanwhile_stays(tmp_path, monkeypatch):
    out = write_output(tmp_path / "out")
    with pytest.raises(OmfaError, match="the current folder"), atomic_dir(out, CONTENTS):
        monkeypatch.chdir(out / "unet")
    assert (out / MANIFEST_FILE).read_text() == "ours"


def test_nothing_is_put_back_over_what_came_in_its_place(tmp_path):
    aside, place = tmp_path / "aside", tmp_path / "place"
    aside.write_text("theirs")
    place.write_text(MINE)
    with pytest.raises(OmfaError, match="remain there"):
        atomic_dirs._put_back(aside, place)
    assert (aside.read_text(), place.read_text()) == ("theirs", MINE)


def test_no_place_of_the_system_or_the_user_gives_way(tmp_path, monkeypatch):
    here = tmp_path / "here" / "deeper"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    for out in ("", "\0", ".", "..", "../..", here, f"{here}/../../here", "/"):
        with pytest.raises(OmfaError, match="--out"):
            resolve_target(out)
    assert resolve_target("new") == here / "new"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(here))
    for out in ("here", here, "~"):
        with pytest.raises(OmfaError, match="home"):
            resolve_target(Path(out).expanduser())
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == tmp_path / "mount")
    assert resolve_target("mount") == tmp_path / "mount"
    (tmp_path / "mount").mkdir()
    with pytest.raises(OmfaError, match="mount point"):
        resolve_target("mount")


def test_another_users_folder_stays(tmp_path, monkeypatch):
    out = write_output(tmp_path / "out")
    monkeypatch.setattr(atomic_dirs, "_owner", lambda path: path.name.endswith("-old"))
    with pytest.raises(OmfaError, match="another user"), atomic_dir(out, CONTENTS):
        pass
    assert (out / MANIFEST_FILE).read_text() == "ours"


def test_what_is_read_lies_apart(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "link").symlink_to("source")
    for out in ("source", "link", ".", "absent/../source", "source/."):
        with pytest.raises(OmfaError, match="what --raw reads"):
            require_disjoint(f"{tmp_path}/{out}", {"--raw": tmp_path / "link", "--vae": None})
    require_disjoint(tmp_path / "source" / "inner", {"--raw": tmp_path / "source"})
    assert contains(tmp_path, tmp_path / "link" / "absent")


def test_a_model_folder_with_a_unet_is_no_frozen_one():
    """`save_model_folder` must not replace an export, whose marker it shares."""
    assert atomic_dirs.require_own_output(TINY / "vae" / "absent", FROZEN) == []
    with pytest.raises(OmfaError, match=r"unet/diffusion_pytorch_model\.safetensors"):
        atomic_dirs.require_own_output(TINY, FROZEN)


def test_an_export_that_python_has_imported_is_replaced(tmp_path):
    compiled = "__pycache__/omfa_torch.cpython-311.opt-1.pyc"
    out = write_output(tmp_path / "out", (*EXPORTED, compiled))
    with atomic_dir(out, EXPORTED) as made:
        (made / EXPORTED[0]).write_text("new")
    assert [path.name for path in out.iterdir()] == [EXPORTED[0]]
    write_output(out, (*EXPORTED, "__pycache__/mine.cpython-311.pyc"))
    with pytest.raises(OmfaError, match=r"mine\.cpython"), atomic_dir(out, EXPORTED):
        pytest.fail("hours of work were begun")
