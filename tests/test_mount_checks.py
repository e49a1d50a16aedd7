"""What a mounted workdir must be able to do is tried at the start."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from omfa_jax.core import mount_checks, mounts
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.mount_checks import check_mount
from omfa_jax.core.mounts import find_file_system

TABLE = b"""\
22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:30 / /mnt rw - nfs4 host:/x rw
31 30 0:31 / /mnt/my\\040bucket rw master:1 shared:2 - fuse.gcsfuse bucket rw
"""


def test_a_disk_passes_and_nothing_is_left(tmp_path, caplog):
    check_mount(tmp_path, "--workdir")
    assert not caplog.records and not list(tmp_path.iterdir())


def test_the_file_system_is_that_of_the_innermost_mount(tmp_path, monkeypatch):
    (tmp_path / "table").write_bytes(TABLE)
    monkeypatch.setattr(mounts, "_TABLE", tmp_path / "table")
    found = {
        place: find_file_system(Path(place)) for place in ("/x", "/mnt/a", "/mnt/my bucket/runs")
    }
    assert found == {"/x": "ext4", "/mnt/a": "nfs4", "/mnt/my bucket/runs": "fuse.gcsfuse"}
    monkeypatch.setattr(mounts, "_TABLE", tmp_path / "none")
    assert find_file_system(Path("/x")) == ""


@pytest.mark.parametrize(
    ("kind", "advice"), [("fuse.gcsfuse", "--rename-dir-limit"), ("ext4", "give gs:// or another")]
)
def test_a_folder_that_cannot_be_renamed_is_said(tmp_path, monkeypatch, kind, advice):
    def refuse(*names):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(mount_checks, "find_file_system", lambda folder: kind)
    monkeypatch.setattr(mount_checks.os, "rename", refuse)
    with pytest.raises(OmfaError, match=f"cannot be renamed in .*{advice}.* to --workdir"):
        check_mount(tmp_path, "--workdir")
    assert not list(tmp_path.iterdir())


def test_what_only_costs_safety_is_a_line_each(tmp_path, monkeypatch, caplog):
    def no_locks(*of):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(mount_checks, "find_file_system", lambda folder: "fuse.gcsfuse")
    check_mount(tmp_path, "--workdir")
    locks, renames = [record.getMessage() for record in caplog.records]
    assert "(fuse.gcsfuse) has no locks: two runs" in locks and "file by file" in renames
