"""Call every command with hostile input, and list the calls that end in a way they should not.

    python bench/hostile_calls.py [--only PATTERN] [--verbose]

Each call runs in a process forked from this one, which has imported what commands import; some run
without root's right to write what belongs to others. A call fails if it prints a traceback or more
than a few lines of errors, has another status than its case names, takes longer than a minute or
more than 6 GB, or changes an input. Prints a table of the failures, and the counts.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO))
TINY = str(REPO / "omfa_jax/assets/tiny")
TINY_CONFIG, BASE = "configs/tiny.py", "configs/base.py"
NOBODY = 65534
SECONDS, MOST_BYTES, MOST_LINES = 60, 6 * 2**30, 6
REFUSED = frozenset({2})
# refused, or done with a line about what was wrong
EITHER = frozenset({0, 2})


@dataclass(frozen=True)
class Case:
    """One call: `words` with {w} for the inputs' folder and {o} for an empty output folder.

    `make` prepares a copy of the inputs' folder. `convert`: of convert_weights.py. `uid`: the other
    user, to whom an empty folder, a photo and the manifest belong. `shell`: a command line that has
    the call as `$OMFA`.
    """

    name: str
    words: tuple[str, ...]
    wanted: frozenset[int] = REFUSED
    make: Callable[[Path], None] | None = None
    convert: bool = False
    uid: int = 0
    environment: dict[str, str | None] = field(default_factory=dict)
    shell: str = ""


# ---------------------------------------------------------------------------------------- inputs


def make_world(folder: Path) -> None:
    """Write valid inputs of every kind, next to no size each."""
    quiet("data", "synthesize", "--out", f"{folder}/raw", "--train", "4", "--test", "3")
    quiet("data", "build", "--raw", f"{folder}/raw", "--out", f"{folder}/records")
    photo = next((folder / "raw/train/image").iterdir())
    shutil.copy(photo, folder / "photo.jpg")
    garment = next((folder / "raw/train/cloth").iterdir())
    shutil.copy(garment, folder / "garment.jpg")
    (folder / "pairs.txt").write_text("a.jpg b.jpg\n")
    (folder / "table.csv").write_text("params,samples,loss\n1e6,1e6,3\n2e6,1e6,2.9\n")
    (folder / "empty").mkdir()


def quiet(*words: str) -> None:
    """Run a command that must succeed, in a process of its own."""
    command = [sys.executable, "-m", "omfa_jax.cli.main", *words]
    subprocess.run(command, check=True, capture_output=True, cwd=REPO)


def manifest(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Return a change of the records' manifest."""

    def make(world: Path) -> None:
        path = world / "records/omfa_records.json"
        data = json.loads(path.read_text())
        found = change(data)
        path.write_text(found if isinstance(found, str) else json.dumps(data))

    return make


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Return a preparation that writes a file."""

    def make(world: Path) -> None:
        path = world / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def make_png(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


def make_npz(shape: str) -> bytes:
    """Return an npz whose only array claims a shape."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 64
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("betas.npy", array)
    return out.getvalue()


def make_safetensors(length: int, header: bytes = b"{}") -> bytes:
    """Return a safetensors file whose header claims a length."""
    return struct.pack("<Q", length) + header


# ----------------------------------------------------------------------------------------- cases

SAMPLE = ("sample", "--checkpoint", TINY, "--steps", "1", "--out", "{o}/s")
GIVEN = ("--garment", "{w}/garment.jpg", "--person", "{w}/photo.jpg", "--null-pose")
LATENTS = ("data", "latents", "--model", TINY, "--config", TINY_CONFIG, "--out", "{o}/l")
TRAIN = ("train", "--config", TINY_CONFIG, "--workdir", "{o}/run")
PLAN = ("plan", "--config", TINY_CONFIG, "--topology", "h100-8")
SCALING = ("scaling", "plan", "--config", TINY_CONFIG, "--sizes", "tiny", "--out", "{o}/study")
EVAL = ("eval", "--pred", "{w}/raw/test/image", "--gt", "{w}/raw/test/image", "--out")
BUILD = ("data", "build", "--raw", "{w}/raw", "--out", "{o}/r")
NESTED = "[" * 100_000
DICTS = '{"a":' * 50_000


def records_cases() -> Iterator[Case]:
    """Records whose manifest is not what was written."""
    changes: dict[str, Callable[[dict], object]] = {
        "without splits": lambda m: m.pop("splits"),
        "splits of None": lambda m: m.update(splits=None),
        "splits as a list": lambda m: m.update(splits=["train"]),
        "splits with text": lambda m: m.update(splits={"train": "4", "test": "3"}),
        "a negative count": lambda m: m["splits"].update(train=-4),
        "a huge count": lambda m: m["splits"].update(train=10**18),
        "a count of 1.5": lambda m: m["splits"].update(train=1.5),
        "a split that escapes": lambda m: m["splits"].update({"../../x": 4}),
        "without kind": lambda m: m.pop("kind"),
        "another kind": lambda m: m.update(kind="videos"),
        "of a later format": lambda m: m.update(format=99),
        "a format of text": lambda m: m.update(format="x"),
        "a builder that escapes": lambda m: m.update(builder="../../../etc/1.0.0"),
        "a builder of 3": lambda m: m.update(builder=3),
        "without builder": lambda m: m.pop("builder"),
        "a report of text": lambda m: m.update(report="fine"),
        "a pose style of 7": lambda m: m.update(pose_style=7),
        "empty": lambda m: m.clear(),
        "a list": lambda m: "[]",
        "a number": lambda m: "7",
        "null": lambda m: "null",
        "no JSON": lambda m: "not json",
        "of no bytes": lambda m: "",
        "nested without end": lambda m: NESTED,
        "dicts without end": lambda m: DICTS,
        "a NUL in it": lambda m: '{"kind": "\\u0000", "splits": {"\\u0000": 3}}',
        "everything None": lambda m: m.update(dict.fromkeys(m)),
        "everything a list": lambda m: m.update({key: [] for key in m}),
    }
    for name, change in changes.items():
        make = manifest(change)
        here = ("--records", "{w}/records")
        yield Case(f"check, manifest {name}", ("data", "check", *here), make=make)
        show = ("data", "show", *here, "--out", "{o}/s.png")
        yield Case(f"show, manifest {name}", show, make=make)
        yield Case(f"latents, manifest {name}", (*LATENTS, *here), make=make)
        train = (*TRAIN, "--config.data.records={w}/records", "--config.train.steps=1")
        yield Case(f"train, manifest {name}", train, make=make)

    info = "records/viton_hd/1.0.0/dataset_info.json"
    for name, make in {
        "no dataset_info": lambda world: (world / info).unlink(),
        "dataset_info of text": write(info, "x"),
        "dataset_info nested without end": write(info, NESTED),
        "dataset_info of another schema": write(info, '{"splits": 3}'),
        "features of text": write("records/viton_hd/1.0.0/features.json", "x"),
        "groups of text": write("records/viton_hd/1.0.0/groups-train.npy", "x"),
        "an npy of 10**15 groups": write(
            "records/viton_hd/1.0.0/groups-train.npy",
            b"\x93NUMPY\x01\x00v\x00"
            + b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000000,), }".ljust(117)
            + b"\n",
        ),
    }.items():
        train = (*TRAIN, "--config.data.records={w}/records", "--config.train.steps=1")
        yield Case(f"train, {name}", train, make=make)
        check = ("data", "check", "--records", "{w}/records")
        yield Case(f"check, {name}", check, EITHER, make=make)


def path_cases() -> Iterator[Case]:
    """Names that are no names of files, in every flag that takes one."""
    strange = {
        "a NUL": "a\0b",
        "nothing": "",
        "5,000 characters": "x" * 5000,
        "a newline": "a\nb/c",
        "no UTF-8": "caf\udce9/x",
        "another user's home": "~nosuchuser/x",
        "a web address": "http://127.0.0.1:1/x",
        "a bucket without name": "gs://",
        "another scheme": "ftp://host/x",
    }
    commands = {
        "build --raw": ("data", "build", "--raw", "{x}", "--out", "{o}/r"),
        "check --records": ("data", "check", "--records", "{x}"),
        "sample --checkpoint": ("sample", "--checkpoint", "{x}", *GIVEN, "--out", "{o}/s"),
        "sample --garment": (*SAMPLE, "--garment", "{x}", "--null-pose"),
        "sample --keypoints": (*SAMPLE, *GIVEN[:4], "--keypoints", "{x}"),
        "eval --pred": ("eval", "--pred", "{x}", "--gt", "{w}/raw", "--out", "{o}/e.json"),
        "scaling run": ("scaling", "run", "{x}"),
        "scaling fit --table": ("scaling", "fit", "--table", "{x}"),
        "plan --config": ("plan", "--topology", "h100-8", "--config", "{x}"),
        "plan --topology": ("plan", "--config", TINY_CONFIG, "--topology", "{x}.json"),
        "train --workdir": ("train", "--config", TINY_CONFIG, "--workdir", "{x}"),
    }
    for flag, words in commands.items():
        for kind, text in strange.items():
            filled = tuple(word.replace("{x}", text) for word in words)
            yield Case(f"{flag}, {kind}", filled)


def file_cases() -> Iterator[Case]:
    """Files that lie about themselves, or are no files."""

    def fifo(world: Path) -> None:
        os.mkfifo(world / "fifo.jpg")

    def loop(world: Path) -> None:
        (world / "loop").symlink_to(world / "loop")

    for name, data in {
        "of 100000x100000": make_png(100_000, 100_000),
        "of 0x0": make_png(0, 0),
        "of 1x60000": make_png(1, 60_000),
        "cut": make_png(64, 48)[:40],
        "of text": b"hello",
        "of no bytes": b"",
        "of SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }.items():
        words = (*SAMPLE, "--person", "{w}/photo.jpg", "--null-pose", "--garment", "{w}/g.png")
        yield Case(f"sample, a picture {name}", words, make=write("g.png", data))
    for name, path in {
        "a FIFO": "{w}/fifo.jpg",
        "a device": "/dev/zero",
        "a loop": "{w}/loop",
    }.items():
        make = fifo if "FIFO" in name else loop
        words = (*SAMPLE, "--person", "{w}/photo.jpg", "--null-pose", "--garment", path)
        yield Case(f"sample, the garment is {name}", words, make=make)
        yield Case(
            f"build, the raw folder is {name}",
            ("data", "build", "--raw", path, "--out", "{o}/r"),
            make=make,
        )
        yield Case(f"fit, the table is {name}", ("scaling", "fit", "--table", path), make=make)
        yield Case(
            f"plan, the machine is {name}", (*PLAN[:3], "--topology", path + ".json"), make=make
        )
    for name, shape in {
        "10**12 values": "(1000000000000,)",
        "negative": "(-3,)",
        "no tuple": "'x'",
        "nested": "(" * 200 + ")" * 200,
    }.items():
        make = write("body.npz", make_npz(shape))
        yield Case(
            f"poses, a body of {name}",
            ("data", "poses", "--poses", "a-pose", "--out", "{o}/p", "--body", "{w}/body.npz"),
            make=make,
        )
        yield Case(
            f"sample, a pose of {name}", (*SAMPLE, *GIVEN[:4], "--pose", "{w}/body.npz"), make=make
        )
    for name, data in {
        "a header of 2**60 bytes": make_safetensors(2**60),
        "a header of -1": b"\xff" * 8 + b"{}",
        "a header nested without end": make_safetensors(100_000, NESTED.encode()),
        "three bytes": b"abc",
        "a shape of 10**15": make_safetensors(
            73, b'{"a":{"dtype":"F32","shape":[1000000000000000],"data_offsets":[0,4]}}'
        ),
        "offsets that overlap": make_safetensors(
            60, b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[9,4]}}       '
        ),
    }.items():
        make = write("model.safetensors", data)
        yield Case(
            f"import, {name}",
            ("import", "{w}/model.safetensors", "--out", "{o}/m", "--config", BASE),
            make=make,
            convert=True,
        )
        yield Case(
            f"sample, a model of {name}",
            ("sample", "--checkpoint", "{w}/m", *GIVEN, "--out", "{o}/s"),
            make=damaged_model(data),
        )
    for name, text in {
        "brackets": NESTED,
        "dicts": DICTS,
        "a NUL": '{"a": "\\u0000"}',
        "a list": "[1, 2]",
        "UTF-16": "\ufeff{}",
    }.items():
        make = write("x.json", text)
        yield Case(
            f"sample, keypoints of {name}",
            (*SAMPLE, *GIVEN[:4], "--keypoints", "{w}/x.json"),
            make=make,
        )
        yield Case(
            f"poses, a library of {name}",
            ("data", "poses", "--poses", "all", "--out", "{o}/p", "--library", "{w}/x.json"),
            make=make,
        )
        yield Case(f"plan, a machine of {name}", (*PLAN[:3], "--topology", "{w}/x.json"), make=make)
        yield Case(
            f"report, scores of {name}",
            ("eval", "report", "{w}/x.json", "--out", "{o}/r.html"),
            make=make,
        )
        yield Case(
            f"plot, a fit of {name}",
            ("scaling", "plot", "--fit", "{w}/x.json", "--out", "{o}/p.png"),
            make=make,
        )
        study = write("study/study.json", text)
        yield Case(f"run, a study of {name}", ("scaling", "run", "{w}/study"), make=study)
        yield Case(f"table, a study of {name}", ("scaling", "table", "{w}/study"), make=study)
    for name, text in {
        "a NUL": "a\0 b\n",
        "no second name": "a.jpg\n",
        "5,000 names": "a b " * 2500,
        "names that escape": "../../../etc/passwd b.jpg\n",
        "UTF-16": "\ufeffa.jpg\0b.jpg",
    }.items():
        make = write("pairs.txt", text)
        yield Case(
            f"sample --pairs, {name}",
            (
                "sample",
                "--checkpoint",
                TINY,
                "--steps",
                "1",
                "--pairs",
                "{w}/pairs.txt",
                "--persons",
                "{w}/raw/test/image",
                "--garments",
                "{w}/raw/test/cloth",
                "--out",
                "{o}/s",
                "--null-pose",
            ),
            make=make,
        )
        yield Case(
            f"build --pairs, {name}",
            (*BUILD, "--pairs", "test={w}/pairs.txt"),
            make=make,
            wanted=EITHER,
        )


def damaged_model(data: bytes) -> Callable[[Path], None]:
    """Return a preparation of a model folder whose UNet's weights are `data`."""

    def make(world: Path) -> None:
        shutil.copytree(TINY, world / "m")
        weights = next((world / "m/unet").glob("*.safetensors"))
        weights.write_bytes(data)

    return make


def number_cases() -> Iterator[Case]:
    """Numbers that are none, and sizes beyond any memory."""
    for flag, words in {
        "--steps": (*SAMPLE[:3], "--out", "{o}/s", *GIVEN, "--steps", "{x}"),
        "--seed": (*SAMPLE, *GIVEN, "--seed", "{x}"),
        "--guidance": (*SAMPLE, *GIVEN, "--guidance", "{x}"),
        "--shard-records": (*BUILD, "--shard-records", "{x}"),
        "--processes": (*BUILD, "--processes", "{x}"),
        "--config.train.batch_size": (*TRAIN, "--config.train.batch_size={x}"),
        "--efficiency": (*PLAN, "--efficiency", "{x}"),
    }.items():
        for text in ("nan", "1e400", "0x10", "-1", "10" * 12, "\u0661x"):
            yield Case(f"{flag} {text}", tuple(word.replace("{x}", text) for word in words))
    huge = {
        "batch": "--config.train.batch_size=2000000000",
        "canvas": "--config.canvas.person=(99999968, 99999968)",
        "learning rate": "--config.optimizer.learning_rate=inf",
        "steps": f"--config.train.steps={10**18}",
        "mesh": "--config.mesh.fsdp=1000000007",
        "threads": f"--config.data.threads={10**7}",
        "processes": f"--config.data.processes={10**7}",
        "a tuple": "--config.canvas.person=((1, 2), 3)",
        "a dict": "--config.train={}",
        "code": "--config.train.steps=__import__('os').getpid()",
        "a deep name": "--config." + "a." * 500 + "b=1",
        "an empty name": "--config.=1",
    }
    for name, flag in huge.items():
        data = "--config.data.records={w}/records"
        yield Case(f"train, {name}", (*TRAIN, data, flag))
        yield Case(f"plan, {name}", (*PLAN, flag), wanted=EITHER)
    yield Case(
        "synthesize beyond memory",
        (
            "data",
            "synthesize",
            "--out",
            "{o}/x",
            "--train",
            "1",
            "--height",
            "1000000",
            "--width",
            "1000000",
        ),
    )
    yield Case("sample --views beyond memory", (*SAMPLE, *GIVEN, "--views", str(10**9)))
    yield Case(
        "poses --size beyond memory",
        ("data", "poses", "--turntable", "3", "--out", "{o}/p", "--size", "999999x999999"),
    )
    yield Case(
        "poses --turntable 10**12", ("data", "poses", "--turntable", str(10**12), "--out", "{o}/p")
    )
    yield Case("check --tolerance nan", ("check", TINY, TINY, "--tolerance", "nan"), convert=True)
    yield Case("check --seed -1", ("check", TINY, TINY, "--seed", "-1"), convert=True)
    yield Case(
        "export --max-shard-size 0",
        ("export", TINY, "--out", "{o}/x", "--max-shard-size", "0"),
        convert=True,
    )
    yield Case(
        "export --max-shard-size huge",
        ("export", TINY, "--out", "{o}/x", "--max-shard-size", "9" * 50 + "GB"),
        convert=True,
        wanted=EITHER,
    )


def place_cases() -> Iterator[Case]:
    """Places that cannot be written or read, and environments that are broken."""
    outputs = {
        "build": (*BUILD[:4], "--out", "{x}/r"),
        "synthesize": ("data", "synthesize", "--train", "1", "--out", "{x}/raw"),
        "latents": (*LATENTS[:-1], "{x}/l", "--records", "{w}/records"),
        "show": ("data", "show", "--records", "{w}/records", "--out", "{x}/s.png"),
        "sample": (*SAMPLE[:-1], "{x}/s", *GIVEN),
        "plan --json": (*PLAN, "--json", "{x}/p.json"),
        "scaling plan": (*SCALING[:-1], "{x}/study", "--samples", "8,16"),
        "duplicates": ("data", "duplicates", "--raw", "{w}/raw", "--out", "{x}/d.json"),
        "poses": ("data", "poses", "--turntable", "1", "--size", "48x64", "--out", "{x}/p"),
        "train": (
            "train",
            "--config",
            TINY_CONFIG,
            "--workdir",
            "{x}/run",
            "--config.data.records={w}/records",
        ),
    }
    for name, words in outputs.items():
        theirs = tuple(word.replace("{x}", "{w}/empty") for word in words)
        yield Case(f"{name} to another user's folder", theirs, uid=NOBODY)
        onto = tuple(word.replace("{x}", "{w}/photo.jpg") for word in words)
        yield Case(f"{name} to a folder that is a file", onto)
        null = tuple(word.replace("{x}", "/dev/null") for word in words)
        yield Case(f"{name} to /dev/null", null)
        proc = tuple(word.replace("{x}", "/proc/1") for word in words)
        yield Case(f"{name} to /proc", proc)

    def closed(world: Path) -> None:
        os.chmod(world / "records/omfa_records.json", 0)
        os.chmod(world / "photo.jpg", 0)

    yield Case(
        "check of unreadable records",
        ("data", "check", "--records", "{w}/records"),
        make=closed,
        uid=NOBODY,
    )
    yield Case("sample of an unreadable photo", (*SAMPLE, *GIVEN), make=closed, uid=NOBODY)
    for variable, value in {
        "HOME": None,
        "TMPDIR": "/nowhere",
        "JAX_PLATFORMS": "bogus",
        "OMP_NUM_THREADS": "-1",
        "LC_ALL": "xx_XX",
        "SLURM_NTASKS": "x",
        "WORLD_SIZE": "2",
        "XLA_FLAGS": "--xla_no_such_flag=1",
        "OMFA_SHARD_CACHE_GB": "x",
        "COLUMNS": "-5",
    }.items():
        words = ("data", "check", "--records", "{w}/records")
        yield Case(f"check with {variable}={value}", words, EITHER, environment={variable: value})
        words = (*TRAIN, "--config.data.records={w}/records", "--config.train.steps=0")
        yield Case(f"train with {variable}={value}", words, EITHER, environment={variable: value})
    check = ("data", "check", "--records", "{w}/records")
    poses = ("data", "poses", "--list")
    yield Case("stdout closed", check, frozenset({0, 2, 1}), shell="$OMFA >&-")
    yield Case("stdin closed", check, frozenset({0}), shell="$OMFA <&-")
    yield Case("stderr closed", check, frozenset({0}), shell="$OMFA 2>&-")
    yield Case(
        "a reader that leaves", poses, frozenset({0, 141}), shell="$OMFA | head -1 >/dev/null"
    )
    yield Case("stdout is full", poses, frozenset({2, 75}), shell="$OMFA >/dev/full")
    yield Case("64 open files", check, EITHER, shell="ulimit -n 64; $OMFA")
    build = (*BUILD, "--processes", "1")
    yield Case("24 open files", build, frozenset({0, 2, 75}), shell="ulimit -n 24; $OMFA")
    yield Case("files of 4 kB at most", build, frozenset({2, 75}), shell="ulimit -f 4; $OMFA")
    yield Case("an argument of 100 kB", (*check, "y" * 100_000))
    yield Case("an unknown command", ("trian",))
    yield Case("no command", ())


GROUPS = (records_cases, path_cases, file_cases, number_cases, place_cases)


# ------------------------------------------------------------------------------------------ runs


def main() -> int:
    """Run all cases; print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="pattern of names of cases (default: all)")
    parser.add_argument("--verbose", action="store_true", help="print what every call said")
    options = parser.parse_args()
    os.chdir(REPO)
    os.environ["JAX_PLATFORMS"] = "cpu"
    import_everything()
    cases = [case for group in GROUPS for case in group() if re.search(options.only, case.name)]
    random.Random(0).shuffle(cases)
    failed = []
    with tempfile.TemporaryDirectory() as name:
        # what a few calls compile is compiled once
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{name}/compiled"
        os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
        world = Path(name) / "world"
        world.mkdir()
        make_world(world)
        os.chmod(name, 0o755)
        for case in cases:
            fault, said = run(case, world, Path(name))
            if fault:
                failed.append((case, fault, said))
            if options.verbose or fault:
                print(f"{'FAILED' if fault else 'ok'}: {case.name}: {fault}", flush=True)
                print("\n".join(f"    {line[:300]}" for line in said.splitlines()[-4:]), flush=True)
    print(f"{len(cases)} calls, {len(failed)} failed")
    return 1 if failed else 0


def import_everything() -> None:
    """Import what commands import, so that a forked call starts at once."""
    import jax

    import convert_weights
    from omfa_jax.cli import main as omfa

    for name in omfa.COMMANDS:
        with contextlib.suppress(Exception):
            omfa.make_parser(name, [])
    del jax, convert_weights


def run(case: Case, world: Path, folder: Path) -> tuple[str, str]:
    """Run one case; return what is wrong with it, "" if nothing is, and what it said."""
    if case.make or case.uid:
        own = folder / "own"
        shutil.copytree(world, own, symlinks=True)
        if case.make:
            case.make(own)
        if case.uid:
            for path in (own / "empty", own / "photo.jpg", own / "records/omfa_records.json"):
                os.chown(path, case.uid, case.uid)
        world = own
    out = folder / "out"
    out.mkdir()
    os.chmod(out, 0o777)
    before = digest(world)
    words = [word.replace("{w}", str(world)).replace("{o}", str(out)) for word in case.words]
    start = time.monotonic()
    try:
        status, said, used = (run_shell if case.shell else run_fork)(case, words, folder)
        faults = []
        if "Traceback" in said or re.search(r"\b\w+(Error|Exception)\b: ", said):
            faults.append("a traceback or a bare exception")
        if status not in case.wanted:
            faults.append(f"status {status}")
        if len(said.splitlines()) > MOST_LINES and status:
            faults.append(f"{len(said.splitlines())} lines")
        if status and not said.strip() and not case.shell:
            faults.append("silent")
        if time.monotonic() - start > SECONDS:
            faults.append("took more than a minute")
        if used > MOST_BYTES:
            faults.append(f"{used / 2**30:.1f} GB")
        if digest(world) != before:
            faults.append("changed an input")
        return ", ".join(faults), said
    finally:
        for made in (out, folder / "own"):
            shutil.rmtree(made, ignore_errors=True)


def run_fork(case: Case, words: list[str], folder: Path) -> tuple[int, str, int]:
    """Run a call in a forked process; return (status, stderr, peak bytes)."""
    errors = folder / "stderr"
    child = os.fork()
    if not child:
        status = 1
        try:
            os.setsid()
            with open(errors, "w") as err, open(os.devnull) as none:
                os.dup2(none.fileno(), 0)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                os.dup2(err.fileno(), 2)
            # this process's own are pipes that Python has buffered
            sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
            sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
            for name, value in case.environment.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
            if case.uid:
                obey_permissions()
            status = call(case, words)
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os._exit(status)
    return wait(child, errors)


def obey_permissions() -> None:
    """Give up root's right to read and write what belongs to others (capset(2))."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    header, held = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    libc.capget(header, held)
    # effective, permitted and inheritable of capabilities 0 to 31, then of the others
    words = list(struct.unpack("6I", held.raw))
    # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    words[:3] = (word & ~0b110 for word in words[:3])
    if libc.capset(header, struct.pack("6I", *words)):
        raise OSError(ctypes.get_errno(), "capset")


def wait(child: int, errors: Path) -> tuple[int, str, int]:
    """Wait for a child for at most a minute; return (status, stderr, peak bytes)."""
    end = time.monotonic() + SECONDS + 5
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            break
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    said = errors.read_text(errors="backslashreplace")
    return os.waitstatus_to_exitcode(status), said, usage.ru_maxrss * 1024


def call(case: Case, words: list[str]) -> int:
    """Call the command in this process; return its status."""
    import traceback

    try:
        if case.convert:
            import convert_weights

            return convert_weights.main(words)
        from omfa_jax.cli.main import main as omfa

        return omfa(words)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return ended.code or 0
    except BaseException:
        traceback.print_exc()
        return 1


def run_shell(case: Case, words: list[str], folder: Path) -> tuple[int, str, int]:
    """Run a command line of a shell; return (status, stderr, 0)."""
    import shlex

    omfa = shlex.join([sys.executable, "-m", "omfa_jax.cli.main", *words])
    script = "set -o pipefail; " + case.shell.replace("$OMFA", omfa)
    with open(folder / "stderr", "w+") as err:
        process = subprocess.Popen(
            ["bash", "-c", script],
            stdout=subprocess.DEVNULL,
            stderr=err,
            cwd=REPO,
            start_new_session=True,
        )
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        err.seek(0)
        return status, err.read(), 0


def digest(folder: Path) -> str:
    """Return a digest of a folder's names and contents."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(os.fsencode(path))
        if path.is_file() and not path.is_symlink():
            found.update(path.read_bytes())
    return found.hexdigest()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
