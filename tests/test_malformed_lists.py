"""Seeded malformed lists, environments and paths: each is one clear line, never a traceback."""

import random
import string

import numpy as np
import pytest
import tiny_viton as tiny

from omfa_jax.cli.main import main
from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.data.records.record_schema import read_manifest
from omfa_jax.parallel.job_place import ADDRESS, COUNT, INDEX, MPI, find_job_place
from omfa_jax.parallel.local_gpus import choose_local_gpus

SEED = 17
REPR = ("Path(", "PosixPath", "b'", "<class", "Traceback", "object at", "dtype=")


def is_clear(line):
    assert line and "\n" not in line and len(line) < 500, line
    assert not any(word in line for word in REPR), line


# what becomes of a sound list; `random` is seeded
LISTS = {
    "cut in the middle": lambda text, rng: text[: rng.randrange(16, 20)],
    "other columns": lambda text, rng: "".join(
        f"{i} {line}\n" for i, line in enumerate(text.split("\n"))
    ),
    "one column": lambda text, rng: "\n".join(line.split()[0] for line in text.split("\n") if line),
    "binary": lambda text, rng: rng.randbytes(300),
    "a picture": lambda text, rng: images.encode_jpeg(np.zeros((32, 32, 3), np.uint8)),
    "utf-16 without mark": lambda text, rng: text.encode("utf-16-le"),
    "latin-1": lambda text, rng: text.replace("0", "é").encode("latin-1"),
    "json": lambda text, rng: '[["00000_00.jpg", "00001_00.jpg"]]',
    "json lines": lambda text, rng: '{"person": "00000_00.jpg", "cloth": "00001_00.jpg"}\n',
    "html": lambda text, rng: "<html><body>404 not found</body></html>",
    "git lfs": lambda text, rng: "version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
    "empty": lambda text, rng: "",
    "blank": lambda text, rng: " \r\n\t\r\n",
    "open quote": lambda text, rng: f'"{text}',
    "quotes inside": lambda text, rng: text.replace("_", ' "_'),
    "paths": lambda text, rng: text.replace("0000", "../0000"),
    "windows paths": lambda text, rng: text.replace("0000", "C:\\raw\\0000"),
    "other names": lambda text, rng: text.translate(str.maketrans(string.digits, "9876543210")),
    "other category": lambda text, rng: text.replace(".jpg\n", ".jpg shoes\n"),
    "one long line": lambda text, rng: text.replace("\n", " ") * 40,
    "control characters": lambda text, rng: text.replace("_", "\x1b[31m"),
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return tiny.write_raw(tmp_path_factory.mktemp("raw"), {"test": 2})


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("command", ["build", "eval"])
def test_malformed_lists(raw, tmp_path, capsys, record_property, kind, command):
    made = LISTS[kind]((raw / "test_pairs.txt").read_text(), random.Random(SEED))
    listing = tmp_path / "list.txt"
    listing.write_bytes(made if isinstance(made, bytes) else made.encode())
    if command == "build":
        words = [
            "data",
            "build",
            f"--raw={raw}",
            f"--out={tmp_path / 'out'}",
            "--pairs",
            str(listing),
        ]
    else:
        (tmp_path / "pred").mkdir()
        for path in (raw / "test" / "image").iterdir():
            (tmp_path / "pred" / path.name).write_bytes(path.read_bytes())
        words = ["eval", "--protocol=omfa", f"--pred={tmp_path / 'pred'}", f"--pairs={listing}"]
        words += [f"--gt={raw}/test/image", f"--out={tmp_path / 's.json'}", "--metrics=psnr"]
    status = main(words)
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if line.startswith("omfa ")]
    assert status in (0, 2) and "Traceback" not in told.err
    if status == 2:
        assert len(lines) == 1
        is_clear(lines[0])
        record_property("said", lines[0])
        assert not (tmp_path / "out").exists() and not (tmp_path / "s.json").exists()
    else:
        # a build goes on without the lines or files that it names
        assert command == "build"
        told = "\n".join(read_manifest(tmp_path / "out")["report"]["warnings"])
        assert "list.txt line" in told or "file is missing" in told
        record_property("said", told)


def random_environment(rng):
    """A launcher's variables with one of them spoiled, dropped or contradicted."""
    address = {ADDRESS: "host:1234", COUNT: "4", INDEX: "1"}
    slurm = {"SLURM_JOB_ID": "9", "SLURM_NTASKS": "4", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
    slurm |= {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "4"}
    mpi = dict(zip(rng.choice(list(MPI.values())), "1414", strict=True))
    tpu = {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1", "MEGASCALE_NUM_SLICES": "2"}
    torch = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "host", "MASTER_PORT": "1234"}
    chosen = dict(rng.choice([address, slurm, mpi, tpu, torch]))
    chosen |= dict(rng.choice([{}, {}, slurm, mpi]))
    chosen["CUDA_VISIBLE_DEVICES"] = rng.choice(["", "0", "0,1,2", "0,1,2,3", "-1", "x", ","])
    chosen["SLURM_GPUS_ON_NODE"] = rng.choice(["", "1", "4", "x"])
    for _ in range(rng.randrange(1, 3)):
        name = rng.choice(sorted(chosen))
        if rng.random() < 0.3:
            del chosen[name]
        else:
            chosen[name] = rng.choice(["", "-1", "4", "99", "x", "1.5", "1e9", "9" * 40, " 1", "é"])
    return chosen


@pytest.mark.parametrize("number", range(60))
def test_malformed_environments(record_property, number):
    environment = random_environment(random.Random(SEED + number))
    try:
        place = find_job_place(environment)
        gpus = place and choose_local_gpus(place, environment)
    except OmfaError as error:
        is_clear(str(error))
        record_property("said", f"{environment}: {error}")
    else:
        record_property("said", f"{environment}: {place}, GPUs {gpus}")
        assert place is None or 0 <= place.index < place.count
        assert gpus is None or len(set(gpus)) == len(gpus) > 0


@pytest.mark.parametrize("number", range(40))
def test_malformed_paths(tmp_path, monkeypatch, capsys, record_property, number):
    rng = random.Random(SEED + number)
    monkeypatch.chdir(tmp_path)
    start = rng.choice(
        ["gs", "s3", "hf", "http", "https", "file", "az", "ftp", "abfss", "GS", "x2"]
    )
    text = rng.choice(
        [
            f"{start}://{'/'.join(rng.choices(['a', 'b c', '..', '', 'ü'], k=3))}",
            f"./{start}://bucket",
            f" {start}://bucket",
            f"{rng.choice('CDz')}:{rng.choice(['/', chr(92)])}data",
            f"${rng.choice(['A', '{B}', 'HOME'])}/runs",
            f"runs/a{chr(rng.randrange(1, 32))}",
        ]
    )
    words = rng.choice(
        [
            ["data", "synthesize", "--train=1", f"--out={text}"],
            ["train", f"--config={text}", "--workdir=run"],
            ["eval", f"--pred={text}", "--gt=gt", "--protocol=omfa", "--out=s.json"],
            ["data", "build", f"--raw={text}", "--out=out"],
            ["data", "build", "--raw=raw", "--out=out", f"--pairs=test={text}"],
        ]
    )
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    is_clear(line)
    assert "expected the name of a file or folder" in line
    record_property("said", f"{words}: {line}")
    assert list(tmp_path.iterdir()) == []
