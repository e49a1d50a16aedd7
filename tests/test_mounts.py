"""Mounts, other users' files and guests in what is replaced stay; real binds where they may be."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import tiny_viton as tiny
from out_arrangements import MINE, write_output
from test_restart import SHARD, interrupted

import convert_weights
from omfa_jax.core import mounts
from omfa_jax.core.atomic_dirs import (
    atomic_dir,
    delete_matching,
    list_tree,
    replace_dir,
    resolve_target,
)
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.mounts import find_mount
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.records.staging import open_staging_folder
from omfa_jax.weights.imported_folder import CONTENTS, MANIFEST_FILE

TINY = Path(__file__).parents[1] / "omfa_jax" / "assets" / "tiny"
NOBODY = 65534


@pytest.fixture
def bind(tmp_path):
    """Return a function that binds one place to another, on the same file system."""

    def bind(source, target):
        command = ["mount", "--bind", str(source), str(target)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting is not allowed here")

    yield bind
    # all below tmp_path, wherever the code has moved them; not by the code that is tested
    table = Path("/proc/self/mountinfo").read_text().splitlines()
    places = [line.split()[4].encode().decode("unicode_escape") for line in table]
    for place in reversed([place for place in places if place.startswith(f"{tmp_path}/")]):
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def give():
    """Return a function that makes files another user's."""

    def give(*paths):
        if os.geteuid() != 0:
            pytest.skip("only root may give files away")
        for path in paths:
            os.chown(path, NOBODY, -1)

    return give


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return tiny.write_raw(tmp_path_factory.mktemp("raw") / "raw", {"train": 9})


def contents(folder):
    return {p.relative_to(folder): p.is_dir() or p.read_bytes() for p in folder.rglob("*")}


def test_a_mount_in_an_import_stays(tmp_path, bind, capsys):
    out, theirs = write_output(tmp_path / "with blank" / "out"), tmp_path / "theirs"
    shutil.copytree(out / "params", theirs)
    bind(theirs, out / "params")
    before = contents(tmp_path)
    assert convert_weights.main(["import", str(TINY), "--out", str(out)]) == 2
    assert f"{out / 'params'} is a mount point" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_mount_in_a_folder_that_was_begun_stays(tmp_path, bind, caplog):
    theirs = write_output(tmp_path / "theirs")
    with pytest.raises(KeyboardInterrupt), atomic_dir(tmp_path / "out", CONTENTS) as made:
        (made / "params").mkdir()
        bind(theirs / "params", made / "params")
        raise KeyboardInterrupt
    assert contents(theirs) == contents(write_output(tmp_path / "same"))
    assert f"{made} was not deleted" in caplog.text


@pytest.mark.parametrize("what", ["file", "folder", "itself"])
def test_a_mount_that_comes_meanwhile_stays(tmp_path, bind, what):
    out, theirs = write_output(tmp_path / "out"), write_output(tmp_path / "theirs")
    name = {"file": MANIFEST_FILE, "folder": "params", "itself": ""}[what]
    before = contents(theirs)
    with pytest.raises(OmfaError, match="mount point"), atomic_dir(out, CONTENTS) as made:
        (made / MANIFEST_FILE).write_text("new")
        bind(theirs / name, out / name)
    assert contents(theirs) == before and contents(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "theirs"]


def test_a_mount_at_the_last_moment_stays(tmp_path, bind, monkeypatch):
    """After the last look at the place: it is seen where the folder lies aside."""
    out, theirs = write_output(tmp_path / "out"), write_output(tmp_path / "theirs")
    made, before, rename = tmp_path / "made", contents(theirs), Path.rename
    made.mkdir()

    def mount_first(self, target):
        if self == out:
            bind(theirs / "params", out / "params")
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(OmfaError, match="out/params is a mount"):
        patch.setattr(Path, "rename", mount_first)
        replace_dir(made, out, CONTENTS, tmp_path / "aside")
    assert contents(theirs) == before and contents(out) == before


def test_the_table_of_mounts_is_read(tmp_path, monkeypatch):
    table = tmp_path / "mountinfo"
    monkeypatch.setattr(mounts, "_TABLE", table)
    folder = tmp_path / "a b\\c\nd"
    folder.mkdir()
    name = str(folder).replace("\\", "\\134").replace(" ", "\\040").replace("\n", "\\012")
    table.write_text(f"22 27 0:21 / {name}x rw - proc proc rw\n22 27 0:21 /\n")
    assert find_mount(folder) is None
    table.write_text(f"22 27 0:21 /{name}/in /mnt rw - proc {name}/in rw\n")
    assert find_mount(folder) is None
    table.write_text(f"22 27 0:21 / {name}/in/side rw - proc proc rw\n")
    assert find_mount(folder) == find_mount(folder / "in") == f"{folder}/in/side"
    with pytest.raises(OmfaError, match="side is a mount point; unmount it"):
        resolve_target(folder)
    table.unlink()
    assert find_mount(folder) is None and find_mount(Path("/")) == "/"


def test_without_a_table_devices_tell(tmp_path, monkeypatch):
    folder = write_output(tmp_path / "out")
    lstat = os.lstat

    def elsewhere(path, **options):
        found = lstat(path, **options)
        if Path(path).name == "params":
            found = os.stat_result((*found[:2], found.st_dev + 1, *found[3:]))
        return found

    assert "params/" in list_tree(folder)
    monkeypatch.setattr(os, "lstat", elsewhere)
    with pytest.raises(OmfaError, match="params is on another file system"):
        list_tree(folder)


def test_a_mount_in_records_stays(raw, tmp_path, bind):
    out, theirs = tmp_path / "records", tmp_path / "theirs"
    build_records(raw, out)
    shutil.copytree(out / "viton_hd/1.0.0", theirs)
    bind(theirs, out / "viton_hd/1.0.0")
    before = contents(tmp_path)
    with pytest.raises(OmfaError, match="mount point"):
        build_records(raw, out, overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    [
        "records/mine/thesis.tex",
        "records/viton_hd/1.0.0/thesis.tex",
        "progress/thesis.json",
        "progress/mine/thesis.tex",
        "temporary/thesis",
        "old/thesis.tex",
        "mine/thesis.tex",
    ],
)
def test_guests_of_an_interrupted_build_stay(raw, tmp_path, monkeypatch, name):
    out, hidden = tmp_path / "out", tmp_path / ".out.partial"
    interrupted(raw, out, 2, monkeypatch)
    (hidden / name).parent.mkdir(exist_ok=True, parents=True)
    (hidden / name).write_text(MINE)
    before = contents(hidden)
    with pytest.raises(OmfaError, match=name):
        build_records(raw, out, shard_records=SHARD)
    assert contents(hidden) == before and not out.exists()
    (hidden / name).unlink()
    if "mine" in name:
        (hidden / name).parent.rmdir()
    # and what it finds of its own it goes on from
    build_records(raw, out, shard_records=SHARD)
    assert out.is_dir() and not hidden.exists()


def test_what_a_kill_leaves_is_no_guest(tmp_path):
    hidden = tmp_path / ".out.partial"
    torn = ("tmp12345678", "temporary/tmp12345678", "progress/.x-omfa-12345678.json")
    for name in torn:
        (hidden / name).parent.mkdir(parents=True, exist_ok=True)
        (hidden / name).write_text("")
    with open_staging_folder(tmp_path / "out", "viton_hd/1.0.0") as partial:
        assert not any(partial.temporary.iterdir())
        partial.discard()
    assert not hidden.exists()
    hidden.write_text(MINE)
    refused = pytest.raises(OmfaError, match="expected a folder")
    with refused, open_staging_folder(tmp_path / "out", "x/1"):
        pytest.fail("work was begun")


@pytest.mark.parametrize("name", ["records", "records/viton_hd", "progress", "temporary"])
def test_a_link_in_an_interrupted_build_leads_nowhere(raw, tmp_path, name):
    place, elsewhere = tmp_path / ".out.partial" / name, tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "tmp12345678").write_text(MINE)
    place.parent.mkdir(parents=True)
    place.symlink_to(elsewhere)
    with pytest.raises(OmfaError, match=name):
        build_records(raw, tmp_path / "out")
    assert place.is_symlink() and [p.name for p in elsewhere.iterdir()] == ["tmp12345678"]


@pytest.mark.parametrize("name", ["", "records", "progress", "temporary", "old"])
def test_a_mount_in_an_interrupted_build_stays(raw, tmp_path, bind, name):
    place, theirs = tmp_path / ".out.partial" / name, tmp_path / "theirs"
    theirs.mkdir()
    place.mkdir(parents=True)
    bind(theirs, place)
    with pytest.raises(OmfaError, match="mount point"):
        build_records(raw, tmp_path / "out")
    assert not any(theirs.iterdir()) and not (tmp_path / "out").exists()


def test_what_comes_into_a_build_stays(tmp_path, caplog):
    """A build that fails without a finished shard deletes what it made."""
    staging = open_staging_folder(tmp_path / "out", "viton_hd/1.0.0")
    with pytest.raises(KeyboardInterrupt), staging as partial:
        (partial.records / "mine").mkdir()
        (partial.records / "mine" / "thesis.tex").write_text(MINE)
        with pytest.raises(OmfaError, match="thesis"):
            partial.delete_other_shards([])
        raise KeyboardInterrupt
    assert (partial.records / "mine" / "thesis.tex").read_text() == MINE
    assert str(partial.folder) in caplog.text


def test_a_mount_that_comes_into_a_build_stays(tmp_path, bind, caplog):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "tmp12345678").write_text(MINE)
    staging = open_staging_folder(tmp_path / "out", "viton_hd/1.0.0")
    with pytest.raises(KeyboardInterrupt), staging as partial:
        bind(theirs, partial.temporary)
        raise KeyboardInterrupt
    assert (theirs / "tmp12345678").read_text() == MINE and "mount point" in caplog.text


def test_a_folder_that_is_gone_does_not_hide_why(tmp_path, caplog):
    delete_matching(tmp_path / "absent", CONTENTS)
    assert "absent was not deleted" in caplog.text


@pytest.mark.parametrize("name", ["", "records/viton_hd", "progress"])
def test_another_users_build_stays(raw, tmp_path, monkeypatch, give, name):
    out, hidden = tmp_path / "out", tmp_path / ".out.partial"
    interrupted(raw, out, 2, monkeypatch)
    before = contents(hidden)
    give(hidden / name)
    with pytest.raises(OmfaError, match="another user"):
        build_records(raw, out, shard_records=SHARD)
    assert contents(hidden) == before and not out.exists()


@pytest.mark.parametrize("name", ["omfa.json", "params", f"params/{Path(CONTENTS[-1]).name}"])
def test_another_users_file_in_an_import_stays(tmp_path, give, name):
    out = write_output(tmp_path / "out")
    give(out / name)
    with pytest.raises(OmfaError, match=name), atomic_dir(out, CONTENTS):
        pytest.fail("hours of work were begun")
    give(out)
    with pytest.raises(OmfaError, match="out belongs to another user"), atomic_dir(out, CONTENTS):
        pytest.fail("hours of work were begun")
    assert (out / name).stat().st_uid == NOBODY
    for path in (out, *out.rglob("*")):
        os.chown(path, os.geteuid(), -1)
    with pytest.raises(OmfaError, match=name), atomic_dir(out, CONTENTS) as made:
        (made / MANIFEST_FILE).write_text("new")
        give(out / name)
    assert (out / MANIFEST_FILE).read_text() == "ours"


def test_another_users_file_in_records_stays(raw, tmp_path, give, monkeypatch):
    out = tmp_path / "records"
    build_records(raw, out)
    target = "omfa_jax.data.builders.build_records.write_shards"
    monkeypatch.setattr(target, lambda *_: pytest.fail("work was begun"))
    give(out / "viton_hd")
    with pytest.raises(OmfaError, match="another user's files"):
        build_records(raw, out, overwrite=True)
    assert (out / "viton_hd").stat().st_uid == NOBODY
