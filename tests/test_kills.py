"""Data commands that are killed in the middle of a file end as if nobody had disturbed them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import members

from omfa_jax.body.body_file import load_body, save_body
from omfa_jax.body.fit.fit_folder import fit_folder
from omfa_jax.body.fit.fit_quality import FitReport
from omfa_jax.body.fit.fitter import FitResult
from omfa_jax.cli.main import main
from omfa_jax.core.atomic_files import atomic_write, delete_stale_temporaries, exclusive_lock
from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.synthetic.world_writer import write_world

WORLD = {"seed": 1, "counts": {"train": 8}, "height_px": 64, "width_px": 48, "supersample": 1}

# the real command, slowed down where a file is whole but not yet in place; workers run this too
SLOW = """
import pathlib, sys, time
from omfa_jax.body import pose_maps

place = pathlib.Path.replace

def slowly(path, target):
    time.sleep(0.2)
    return place(path, target)

pathlib.Path.replace = slowly
pose_maps._FILES_PER_PROCESS = 1
"""
COMMAND = """
from omfa_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""
FIT = """
from test_kills import fit

fit(sys.argv[1])
"""
LEFTOVER = "-omfa-"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world") / "raw"
    write_world(root, **WORLD)
    return root


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def leftovers(root: Path) -> list[Path]:
    return [path for path in root.rglob(f".*{LEFTOVER}*") if path.is_file()]


def killed(root: Path, arguments: list[str], finished: int, ending: str, script: str = COMMAND):
    """Run a command, kill -9 it while it writes a file after so many finished ones."""
    path = root.parent / "script.py"
    path.write_text(SLOW + script)
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}:{here.parent}"}
    command = [sys.executable, str(path), *arguments]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    deadline = time.monotonic() + 60
    before = set(root.rglob(f"*{ending}"))
    while True:
        new = set(root.rglob(f"*{ending}")) - before
        if len([p for p in new if LEFTOVER not in p.name]) >= finished and leftovers(root):
            break
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while members(process.pid):
        assert time.monotonic() < deadline, "workers live on"
        time.sleep(0.02)
    # a worker may have ended its file in its last moment
    return bool(leftovers(root))


def test_a_killed_synthesize_ends_in_the_same_bytes(world, tmp_path):
    root = tmp_path / "raw"
    flags = ["--train=8", "--val=0", "--test=0", "--height=64", "--width=48", "--seed=1"]
    command = ["data", "synthesize", f"--out={root}", *flags, "--processes=2"]
    root.mkdir()
    killed(root, command, finished=1, ending="_keypoints.json")
    stray = root / "train/image/.00000_00-omfa-abcdefgh.jpg"
    stray.write_bytes(b"half")
    # two processes began it and one ends it
    assert main([*command[:-1], "--processes=1"]) == 0
    straight = tmp_path / "straight"
    assert main([*command[:2], f"--out={straight}", *flags, "--processes=1"]) == 0
    assert files(root) == files(straight)


def test_killed_poses_end_in_the_same_bytes(world, tmp_path):
    root, straight = tmp_path / "raw", tmp_path / "straight"
    for folder in (root, straight):
        (folder / "train").mkdir(parents=True)
        shutil.copytree(world / "train/smplx", folder / "train/smplx")
    command = ["data", "poses", "--backend=zbuffer"]
    killed(root, [*command, f"--raw={root}", "--processes=2"], finished=2, ending=".png")
    # as a kill of `omfa data fit` leaves it: no body of the data set
    (root / "train/smplx/.00000_00-omfa-abcdefgh.npz").write_bytes(b"half")
    for folder in (root, straight):
        assert main([*command, "--processes=1", f"--raw={folder}"]) == 0
    assert files(root / "train/pose") == files(straight / "train/pose")
    assert len(files(root / "train/pose")) == 8 + 1


def test_killed_bodies_end_in_the_same_bytes(world, tmp_path):
    root, straight = tmp_path / "raw", tmp_path / "straight"
    for folder in (root, straight):
        (folder / "train").mkdir(parents=True)
        shutil.copytree(world / "train/image", folder / "train/image")
    command = ["data", "bodies", "--from=smplx", f"--in={world / 'train/smplx'}"]
    assert killed(root, [*command, f"--raw={root}"], finished=2, ending=".npz")
    assert main([*command, f"--raw={root}"]) == 0
    assert main([*command, f"--raw={straight}"]) == 0
    assert files(root) == files(straight) and len(files(root / "train/smplx")) == 8


def test_lists_and_sheets_leave_no_half_of_them(world, tmp_path):
    records = tmp_path / "records"
    build_records(world, records)
    for name, command in (
        ("sheet.png", ["data", "show", f"--records={records}"]),
        ("list.json", ["data", "duplicates", f"--raw={world}", "--processes=1"]),
    ):
        out = tmp_path / name.partition(".")[0]
        out.mkdir()
        assert killed(out, [*command, f"--out={out / name}"], finished=0, ending=name)
        assert not (out / name).exists()
        assert main([*command, f"--out={out / name}"]) == 0
        assert main([*command, f"--out={tmp_path / name}"]) == 0
        assert files(out) == {name: (tmp_path / name).read_bytes()}


class Fitter:
    """Hands out one known body, so that a folder is fitted without compiling anything."""

    def __init__(self, body: Path) -> None:
        self.params, self.camera = load_body(body)

    def __call__(self, rows: np.ndarray, sizes: list) -> list[FitResult]:
        def fit(index: int) -> FitResult:
            good = bool(rows[index, 0, 0] % 3)
            reason = "" if good else "the third"
            report = FitReport(9, 1.0, 1.0, 0.01, 0.01, 50.0, good, reason)
            return FitResult(self.params, self.camera, report)

        return [fit(index) for index in range(len(rows))]


def fit(folder: str | Path, **options):
    """Fit ten photos of a folder with `body.npz` in it; every third is rejected."""

    def reader(index):
        return lambda: (np.full((25, 3), float(index)), (48, 64))

    photos = [(f"p{index}", reader(index)) for index in range(10)]
    fitter = Fitter(Path(folder) / "body.npz")
    return fit_folder(fitter, photos, folder, batch_size=4, **options)  # type: ignore[arg-type]


def test_a_rejected_fit_deletes_the_body_of_an_earlier_fit_alone(to_fit, caplog):
    folder, _ = to_fit
    ours, theirs = (folder / "smplx" / f"p{index}.npz" for index in (0, 3))
    params, camera = load_body(folder / "body.npz")
    save_body(ours, params, camera, source="keypoints")
    save_body(theirs, params, camera, source="exact")
    report = fit(folder, overwrite=True)
    assert {"p0", "p3"} <= {name for name, _ in report.rejected}
    assert not ours.exists() and theirs.exists() and str(theirs) in caplog.text


@pytest.fixture
def to_fit(world, tmp_path):
    folders = tmp_path / "killed", tmp_path / "straight"
    for folder in folders:
        folder.mkdir()
        shutil.copy(world / "train/smplx/00000_00.npz", folder / "body.npz")
    return folders


def test_a_killed_fit_ends_in_the_same_bytes(to_fit):
    folder, straight = to_fit
    assert killed(folder, [str(folder)], finished=2, ending=".npz", script=FIT)
    again, whole = fit(folder), fit(straight)
    assert files(folder) == files(straight) and len(files(folder / "smplx")) == 6
    # nothing tells a body without a report from one that was rejected: it is fitted again
    assert (again.fitted, again.rejected) == (6, whole.rejected)


def test_a_fit_that_was_to_replace_another_goes_on_as_a_first_one(to_fit):
    folder, straight = to_fit
    fit(folder)
    report = json.loads((folder / "fit_report.json").read_text())
    # what the earlier run made of the photos is not what this one makes of them
    for entry in report["photos"].values():
        entry.update(accepted=not entry["accepted"], reason="of before")
    (folder / "fit_report.json").write_text(json.dumps(report))
    # one that a fit wrote: a body from elsewhere would stay
    shutil.copy(next((folder / "smplx").glob("*.npz")), folder / "smplx/p0.npz")

    def stop(*_, **__):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("omfa_jax.body.fit.fit_folder.save_body", stop)
        fit(folder, overwrite=True)
    fit(folder)
    fit(straight)
    assert (folder / "fit_report.json").read_bytes() == (straight / "fit_report.json").read_bytes()


def test_only_what_dead_writers_left_is_deleted(tmp_path):
    dead = tmp_path / ".a-omfa-abcdefgh.png"
    others = [tmp_path / name for name in (".a-abcdefgh.png", "a-omfa-abcdefgh.png", ".env")]
    for path in (dead, *others):
        path.write_bytes(b"x")
    with atomic_write(tmp_path / "b.png") as living:
        living.write_bytes(b"y")
        delete_stale_temporaries(tmp_path)
        assert living.exists() and not dead.exists()
    assert (tmp_path / "b.png").read_bytes() == b"y" and all(path.exists() for path in others)
    delete_stale_temporaries(tmp_path / "absent")


def test_names_as_long_as_a_file_system_takes_can_be_written(tmp_path):
    path = tmp_path / f"{'n' * 250}.png"
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"x")
    assert path.read_bytes() == b"x"


def test_two_runs_at_once_are_refused(world, tmp_path, capsys):
    root = tmp_path / "raw"
    shutil.copytree(world, root)
    (root / "train/pose").mkdir()
    shutil.copy(root / "train/smplx/00000_00.npz", root / "train/body.npz")
    with exclusive_lock(root), pytest.raises(OmfaError, match="another run is using"):
        write_world(root, **WORLD)
    with exclusive_lock(root / "train/pose"):
        assert main(["data", "poses", f"--raw={root}", "--backend=zbuffer"]) == 2
    assert "another run is using" in capsys.readouterr().err
    with exclusive_lock(root / "train"):
        with pytest.raises(OmfaError, match="another run is using"):
            fit(root / "train")
        assert main(["data", "bodies", "--from=smplx", f"--in={root}", f"--raw={root}"]) == 2
