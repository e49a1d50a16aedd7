"""Several processes take the same checkpoint, whichever of them meets the damage."""

import os
import shutil

import processes
import pytest
from test_damage import cut, flip

from omfa_jax.core.errors import OmfaError
from omfa_jax.train.checkpoints import process_agreement
from omfa_jax.train.checkpoints.integrity import DamagedCheckpointError
from omfa_jax.train.checkpoints.process_agreement import run_on_all_processes

# with an array too large for the index, of which each process holds and writes its own half
PROGRAM = processes.TRAINING.replace(
    '"bias": jnp.zeros(',
    '"spare": jax.random.normal(jax.random.key(1), (64, 64)), "bias": jnp.zeros(',
).replace('r"kernel$"', 'r"(kernel|spare)$"')


def run(workdir, steps, count):
    running = processes.start(workdir, steps, count, program=PROGRAM, SAVE="1", MESH="1,4,1")
    ended = processes.finish(running)
    for status, out, err in ended:
        assert status == 0 and f"done {steps}" in out, err[-3000:]
    return [err for _, _, err in ended]


def written_by(process, item):
    """The file of arrays that one process wrote, and that it alone reads."""
    return max((item / f"ocdbt.process_{process}" / "d").iterdir(), key=os.path.getsize)


def names(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def test_what_one_process_cannot_read_none_takes(tmp_path):
    run(tmp_path, 3, 2)
    shutil.rmtree(tmp_path / "checkpoints/3/ema")
    cut(written_by(1, tmp_path / "checkpoints/2/state"))
    said = run(tmp_path, 4, 2)
    assert names(tmp_path) == ["2", "3", "4", "aside-2", "aside-3"]
    # one of them renames
    assert [text.count("renamed to") for text in said] == [2, 0]
    assert "process 1 cannot read it" in said[0] or "2/state is damaged" in said[0]
    # which Orbax reads without a word
    flip(written_by(1, tmp_path / "checkpoints/4/state"))
    said = run(tmp_path, 5, 2)
    assert names(tmp_path) == ["3", "4", "5", "aside-2", "aside-3", "aside-4"]
    assert "4/state is damaged: " in said[0] and "differs from what was saved" in said[0]


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([0, 0], None),
        ([0, -1], DamagedCheckpointError),
        ([0, 5], OSError),
        ([-1, 116], OSError),
        ([0, -2], 0),
    ],
)
def test_all_processes_return_or_raise_alike(monkeypatch, codes, expected):
    """As the first process sees it; `codes` are what the two of them tell each other."""
    monkeypatch.setattr(process_agreement, "allgather_int", lambda code: codes)
    work = raising(DamagedCheckpointError("x")) if codes[0] == -1 else lambda: [7]
    if expected is OSError:
        with pytest.raises(OSError, match="in process 1") as raised:
            run_on_all_processes(work)
        assert raised.value.errno == codes[1]
    elif expected == 0:
        with pytest.raises(OmfaError, match="process 1 cannot restore"):
            run_on_all_processes(work)
    elif expected is DamagedCheckpointError:
        assert isinstance(run_on_all_processes(work), DamagedCheckpointError)
    else:
        assert run_on_all_processes(work) == [7]


def test_what_a_process_tells_the_others(monkeypatch):
    told = []
    monkeypatch.setattr(
        process_agreement, "allgather_int", lambda code: told.append(code) or [code]
    )
    assert isinstance(
        run_on_all_processes(raising(DamagedCheckpointError("x"))), DamagedCheckpointError
    )
    for error in (OSError(5, "x"), OmfaError("x"), OSError("no number")):
        with pytest.raises(type(error)):
            run_on_all_processes(raising(error))
    assert told == [-1, 5, -2, 5]
