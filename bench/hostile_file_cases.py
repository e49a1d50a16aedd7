"""Hostile calls by what their files hold."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile_inputs import (
    BASE,
    BUILD,
    DICTS,
    EITHER,
    GIVEN,
    LATENTS,
    NESTED,
    PLAN,
    SAMPLE,
    TINY,
    TRAIN,
    Case,
    damaged_model,
    make_npz,
    make_png,
    make_safetensors,
    manifest,
    write,
)


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
        # damaged groups are made again from the records, and training goes on
        if "groups" not in name:
            train = (*TRAIN, "--config.data.records={w}/records", "--config.train.steps=1")
            yield Case(f"train, {name}", train, make=make)
        check = ("data", "check", "--records", "{w}/records")
        yield Case(f"check, {name}", check, EITHER, make=make)


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
