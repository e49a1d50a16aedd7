"""Hostile calls by their flags, the places they name, and their environment."""

import os
from collections.abc import Iterator
from pathlib import Path

from hostile_inputs import (
    BUILD,
    EITHER,
    GIVEN,
    LATENTS,
    NOBODY,
    PLAN,
    SAMPLE,
    SCALING,
    TINY,
    TINY_CONFIG,
    TRAIN,
    Case,
)


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
