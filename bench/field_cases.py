"""What the commands say and get on a folder of inputs as people bring them: a table of cases.

    python bench/field_cases.py FOLDER --workdir DIR [--only 21]

FOLDER is not part of the repository; its cases are the subfolders named in CASES, and each test of
the last column builds an input of the same kind itself. The folder is copied to DIR first.
"""

import argparse
import contextlib
import importlib.util
import io
import logging
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

import omfa_jax
from omfa_jax.body.body_file import load_body
from omfa_jax.body.body_model import load_body_model
from omfa_jax.body.smplx_forward import forward
from omfa_jax.cli.main import main as omfa
from omfa_jax.core.images import read_rgb

TINY = Path(omfa_jax.__file__).parent / "assets" / "tiny"
# bars, sizes of the model's own report, and what is no answer to the case
NOISE = re.compile(
    r"%\||without --smplx-model|no test_pairs|no (parse|pose|label) map|^wrote |is blank"
    r"|^duplicate,|bits apart|^absent,|^missing,|^empty_garment,|^no_face,|found \d+ faults"
    r"|^checked|no face found; its|: no keypoints$|no in-shop garment|fitting the body|the pose is"
    r"|progress bar|^sampling in|\.partial was not|^\.\.\. and"
)
Row = tuple[str, str, str]


def ask(*words: str | Path) -> str:
    """Run a command in this process; return what it says about the case, in one line."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger("omfa_jax").addHandler(handler)
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        try:
            status = omfa([str(word) for word in words])
        except SystemExit as error:
            status = error.code
    logging.getLogger("omfa_jax").removeHandler(handler)
    lines = [re.sub(r" \([\d.]+ s\)", "", line.strip()) for line in stream.getvalue().splitlines()]
    said = [line for line in dict.fromkeys(lines) if line and not NOISE.search(line)]
    return f"{' / '.join(said[:6]) or 'nothing'} (status {status})"


def see_body(raw: Path, name: str) -> str:
    """Return where the head and the pelvis of a photo's body are, in pixels."""
    path = next(raw.glob(f"*/smplx/{name}.npz"), None)
    if path is None:
        return "no body"
    params, camera = load_body(path)
    _, joints = forward(load_body_model(), params)
    pixels, _ = camera.project(joints[[15, 0]])
    head, pelvis = pixels.astype(int).tolist()
    return "head at {},{}, pelvis at {},{}".format(*head, *pelvis)


def sample(case: Path, *words: str | Path, task: str = "try_on") -> str:
    """Sample with the shipped model in one step; return what is said, and the result's size."""
    out = case / f"out_{task}"
    shutil.rmtree(out, ignore_errors=True)
    garment = case / "garment.png"
    Image.fromarray(np.full((64, 48, 3), (200, 40, 40), np.uint8)).save(garment)
    more = [] if task == "try_off" else ["--garment", garment]
    said = ask(
        *("sample", "--checkpoint", TINY, "--task", task, "--out", out, "--steps=1"),
        *("--guidance=1", *more, *words),
    )
    found = [read_rgb(path).shape for path in sorted(out.glob(f"{task}_00*.png"))]
    sizes = " ".join(f"{shape[1]}x{shape[0]}" for shape in found)
    return f"{sizes or 'no image'}: {said}"


def see_aspects(case: Path) -> Iterator[Row]:
    raw = case / "raw"
    yield "fit", ask("data", "fit", "--raw", raw), "test_body_fit.py"
    for photo in sorted(raw.glob("test/image/*")):
        height, width, _ = read_rgb(photo).shape
        yield (
            f"sample {photo.stem} {width}x{height}",
            sample(case, "--person", photo),
            "test_person_inputs.py",
        )


def see_profiles(case: Path) -> Iterator[Row]:
    places = ((20, 20), (20, 80), (100, 20), (100, 80))
    truth = read_rgb(case / "truth_srgb.png").astype(int)
    raw = case / "raw" / "test" / "image"
    raw.mkdir(parents=True)
    for path in sorted(case.glob("[!t]*.[jp][pn]g")):
        shutil.copy(path, raw / f"{path.stem}_{path.suffix[1:]}{path.suffix}")
        shutil.copytree(raw, raw.with_name("cloth"), dirs_exist_ok=True)
        found = read_rgb(path).astype(int)
        most = max(np.abs(found[at] - truth[at]).max() for at in places)
        yield path.name, f"{most} of 255 levels from the truth", "test_srgb.py"
    records = case / "records"
    said = ask("data", "build", "--raw", raw.parents[1], "--out", records)
    from omfa_jax.data.records.record_schema import open_records

    source = open_records(records, "test")
    for record in (source[i] for i in range(len(source))):
        found = read_rgb(record.person).astype(int)
        most = max(np.abs(found[at] - truth[at]).max() for at in places)
        yield f"record of {record.key}", f"{most} of 255 levels from the truth", "test_srgb.py"
    yield "build", said, "test_srgb.py"


def see_heic(case: Path) -> Iterator[Row]:
    words = ["--person", next(case.glob("*.HEIC"))]
    yield "sample try_off", sample(case, *words, task="try_off"), "test_heic.py"
    find = importlib.util.find_spec
    with mock.patch("importlib.util.find_spec", lambda n: None if n == "pillow_heif" else find(n)):
        said = sample(case, *words, task="try_off")
    yield "sample try_off without pillow-heif", said, "test_heic.py"


def see_own_folder(case: Path) -> Iterator[Row]:
    raw, test = case / "raw", "test_pairs_lists.py"
    pairs = ["--pairs", f"test={raw}/test_pair.txt"]
    yield "build", ask("data", "build", "--raw", raw, "--out", case / "a"), test
    yield "build --pairs", ask("data", "build", "--raw", raw, "--out", case / "b", *pairs), test
    yield "check", ask("data", "check", "--raw", raw), test
    yield "check --pairs", ask("data", "check", "--raw", raw, *pairs), test


def see_bodies(case: Path) -> Iterator[Row]:
    raw = case / "raw"
    for tool, source, *more in (
        ("hmr2", "hmr2dict/00034_00.npy", "--allow-pickle"),
        ("hmr2", "hmr2dict/00034_00.npy"),
        ("hmr2", "hmr2dict/00034_00.npz"),
        ("hmr2", "hmr2dict", "--allow-pickle"),
        ("amass", "amass"),
        ("amass", "amass/00034_00.npz", "--frame=0"),
        ("amass", "amass/00034_00.npz", "--frame=3"),
        ("smplifyx", "smplifyx", "--allow-pickle"),
        ("smplifyx", "smplifyx/results", "--allow-pickle"),
        ("smplifyx", "smplifyx/results/00034_00/000.pkl", "--allow-pickle"),
        ("smplx", "amass"),
        ("hmr2", "smplifyx/results/00034_00/000.pkl", "--allow-pickle"),
    ):
        shutil.rmtree(raw / "test" / "smplx", ignore_errors=True)
        said = ask("data", "bodies", "--from", tool, "--in", case / source, "--raw", raw, *more)
        yield (
            " ".join(["--from", tool, source, *more]),
            f"{see_body(raw, '00034_00')}: {said}",
            "test_body_tools.py, test_body_import_bodies.py",
        )


def see_keypoints(case: Path) -> Iterator[Row]:
    test = "test_keypoint_reader.py, test_keypoint_borders.py"
    for raw in sorted(path.parent for path in case.glob("*/test")):
        photo = next(raw.glob("test/image/*"))
        said = ask("data", "fit", "--raw", raw)
        yield f"{raw.name} fit", f"{see_body(raw, photo.stem)}: {said}", test
        yield f"{raw.name} check", ask("data", "check", "--raw", raw), test
        if (raw / "test" / "cloth").is_dir():
            yield (
                f"{raw.name} build",
                ask("data", "build", "--raw", raw, "--out", case.parent / "records" / raw.name),
                test,
            )
        # beside the photo lie bodies now; the keypoints are given
        keypoints = next(raw.glob("test/openpose_json/*"))
        words = ["--person", photo, "--keypoints", keypoints]
        yield f"{raw.name} sample", sample(raw, *words), "test_photo_poses.py"


def see_half_photos(case: Path) -> Iterator[Row]:
    raw, test = case / "raw", "test_keypoint_borders.py, test_keypoint_reader.py"
    records = case / "records"
    yield "check", ask("data", "check", "--raw", raw), test
    yield "fit", ask("data", "fit", "--raw", raw), test
    yield "build", ask("data", "build", "--raw", raw, "--out", records), test
    sheet = case / "sheet.png"
    yield "show", ask("data", "show", "--records", records, "--split=test", "--out", sheet), test
    photo = next(raw.glob("test/image/00891*"))
    yield "sample", sample(case, "--person", photo, "--face", photo), "test_photo_poses.py"


def see_dresscode(case: Path) -> Iterator[Row]:
    words = ["--raw", case / "raw", "--dataset", "dresscode"]
    test = "test_dresscode.py, test_pairs_lists.py"
    yield "build", ask("data", "build", *words, "--out", case / "records"), test
    yield "check", ask("data", "check", *words), test


CASES = {
    "01_aspect": see_aspects,
    "04_icc": see_profiles,
    "05_heic": see_heic,
    "06_own_folder": see_own_folder,
    "20_bodies": see_bodies,
    "21_keypoints": see_keypoints,
    "22_half_photos": see_half_photos,
    "23_dresscode": see_dresscode,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--only", default="", help="start of the cases' names (default: all)")
    options = parser.parse_args()
    work = shutil.copytree(options.folder, options.workdir / "cases")
    print("| case | got | test |\n| --- | --- | --- |")
    for name, see in CASES.items():
        if not name.startswith(options.only) or not (work / name).is_dir():
            continue
        try:
            for title, got, test in see(work / name):
                got = got.replace(f"{work / name}/", "").replace(f"{work}/", "").replace("|", "/")
                print(f"| {name}: {title} | {got} | {test} |", flush=True)
        except Exception as error:
            print(f"| {name} | {type(error).__name__}: {error} | |", file=sys.stdout, flush=True)


if __name__ == "__main__":
    main()
