"""A run on a disk that fills, in four stages: it goes on, or ends in a line and at once."""

import json
import os
import subprocess

import processes
import pytest
import tiny_viton as tiny

from omfa_jax.cli.main import main
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.train.checkpoints.integrity import find_newest_complete_step

# what fills the disk, and what makes room again
FILL = """
if step == {step}:
    with open(r"{disk}/filler", "ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
"""
FREE = """
if step == {step}:
    os.unlink(r"{disk}/filler")
"""
SIGTERM = """
if step == {step}:
    os.kill(os.getpid(), 15)
"""


SMALL = [
    "--config=configs/tiny_vae.py",
    "--config.canvas.garment=(64,48)",
    "--config.canvas.person=(64,48)",
    "--config.canvas.face=(16,16)",
    "--config.autoencoder.crop_px=16",
]


@pytest.fixture
def disk(tmp_path):
    """A disk of 3 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(path)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk, and not in every container")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def trained(disk, steps, *events, **environment):
    """Train on the disk; return (exit status, what was said but for the steps, the workdir)."""
    each = "".join(event.format(disk=disk, step=step) for event, step in events)
    workdir = disk / "run"
    # that it ends at all is what is tested: a writer that waits would hold it for ever
    running = processes.start(workdir, steps, 1, EACH=each, **environment)
    ((status, _, err),) = processes.finish(running, timeout=300)
    assert "Traceback" not in err, err[-3000:]
    said = [line for line in err.splitlines() if not line.startswith("step ")]
    return status, said, workdir


def steps_of(workdir):
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").open()]


def newest(workdir):
    return find_newest_complete_step(workdir / "checkpoints", warn=False)


def test_full_before_the_start(disk, tmp_path, capsys):
    records = tmp_path / "records"
    build_records(tiny.write_raw(tmp_path / "raw", {"train": 2}), records)
    fill = FILL.format(disk=disk, step=0)
    exec(fill, {"step": 0})
    flags = [*SMALL, f"--workdir={disk / 'run'}", f"--config.data.records={records}"]
    assert main(["train", *flags]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and f"{disk}/run" in said[0] and "No space left" in said[0], said


def test_full_once_the_model_folder_is_written(disk):
    """Nothing of the run itself can be written: it trains until it has to save, and says so."""
    before = FILL.format(disk=disk, step=0).replace("step == 0", "True")
    status, said, workdir = trained(disk, 4, SAVE="4", BEFORE=before)
    assert status == 2 and newest(workdir) is None
    assert sum("could not save" in line for line in said) == 1 and "could not save" in said[-1]
    assert sum("metrics.jsonl: cannot be written" in line for line in said) == 1


def test_full_while_logging_only_and_room_again(disk):
    status, said, workdir = trained(disk, 30, (FILL, 3), (FREE, 25), SAVE="30")
    assert status == 0 and newest(workdir) == 30, said
    assert steps_of(workdir) == list(range(1, 31))
    rows = [line for line in said if "metrics.jsonl" in line]
    assert len(rows) == 2 and "No space left on device" in rows[0]
    assert rows[1].endswith("metrics.jsonl: writing works again; none was lost")


def test_full_at_a_save(disk):
    status, said, workdir = trained(disk, 30, (FILL, 6), SAVE="4", PAUSE="0.1")
    assert status == 2 and newest(workdir) == 4
    assert "could not save" in said[-1] and "No space left" in said[-1], said
    os.unlink(disk / "filler")
    status, said, workdir = trained(disk, 12, SAVE="4")
    assert status == 0 and newest(workdir) == 12, said


def test_sigterm_on_a_full_disk_ends_the_run_and_says_that_nothing_was_saved(disk):
    status, said, workdir = trained(disk, 5000, (FILL, 3), (SIGTERM, 6), SAVE="4000")
    assert status == 2 and newest(workdir) is None
    assert "could not save" in said[-1] and "No space left" in said[-1], said
