"""Kill a data command at random moments: resumed, it must end as if it had not been interrupted.

    PYTHONPATH=.:tests python bench/kills_data.py --workdir DIR [--stages build,poses] [--kills 40]

Every stage runs once without a kill. Then it is started again and again and its main process killed
(SIGKILL) after 0.2 to 6 s. Every other start follows the kill at once, while workers may still be
exiting. A run that ends before its kill is checked, and its output deleted. Every fourth kill hits
a worker, after which the run must exit. The last run is not killed. Prints the longest time that a
worker outlived its parent, and the runs that hung or differ; the exit status is 1 if there are any.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from processes import members

HANG_S = 240.0
LINGER_S = 30.0
OMFA = [sys.executable, "-m", "omfa_jax.cli.main", "data"]
# latents are block means, so that everything except the VAE is tested
LATENTS = """
import sys
from omfa_jax.data.pipeline.latent_writer import write_latents
from record_memory import encode

slots = {"garment": (64, 48), "person": (64, 48), "face": (16, 16)}
if __name__ == "__main__":
    write_latents(*sys.argv[1:], encode, slots=slots, vae_id="v", batch_size=4, shard_records=16)
"""

# from the folder with the inputs: the command, and the folders or files that it writes
Stage = Callable[[Path, str], tuple[list[str], list[str]]]


def synthesize(root: Path, processes: str) -> tuple[list[str], list[str]]:
    counts = ["--train", "120", "--val", "4", "--test", "4"]
    flags = ["synthesize", "--out", f"{root}/world", *counts, "--processes", processes]
    return OMFA + flags, ["world"]


def fit(root: Path, _: str) -> tuple[list[str], list[str]]:
    flags = ["fit", "--raw", f"{root}/raw", "--batch-size", "8"]
    return OMFA + flags, ["raw/train/smplx", "raw/train/fit_report.json"]


def bodies(root: Path, _: str) -> tuple[list[str], list[str]]:
    flags = ["bodies", "--from", "smplx", "--in", f"{root}/bodies", "--raw", f"{root}/raw"]
    return OMFA + flags, ["raw/train/smplx"]


def poses(root: Path, processes: str) -> tuple[list[str], list[str]]:
    flags = ["poses", "--raw", f"{root}/posed", "--processes", processes]
    return OMFA + flags, ["posed/train/pose"]


def build(root: Path, processes: str) -> tuple[list[str], list[str]]:
    out = ["--out", f"{root}/records", "--shard-records", "8", "--processes", processes]
    return OMFA + ["build", "--raw", f"{root}/posed", *out], ["records"]


def latents(root: Path, _: str) -> tuple[list[str], list[str]]:
    (root / "latents.py").write_text(LATENTS)
    command = [sys.executable, f"{root}/latents.py", f"{root}/images", f"{root}/latents"]
    return command, ["latents"]


def duplicates(root: Path, processes: str) -> tuple[list[str], list[str]]:
    flags = ["duplicates", "--raw", f"{root}/posed", "--processes", processes]
    return OMFA + flags + ["--out", f"{root}/duplicates.json"], ["duplicates.json"]


def check(root: Path, processes: str) -> tuple[list[str], list[str]]:
    return OMFA + ["check", "--raw", f"{root}/posed", "--processes", processes], []


def show(root: Path, _: str) -> tuple[list[str], list[str]]:
    flags = ["show", "--records", f"{root}/images", "--out", f"{root}/sheet.png", "--count", "64"]
    return OMFA + flags, ["sheet.png"]


STAGES: dict[str, Stage] = {
    stage.__name__: stage
    for stage in (synthesize, fit, bodies, poses, build, latents, duplicates, check, show)
}


def main() -> int:
    """Run every stage; return 1 if a run hung or its output differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="a new folder")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--people", type=int, default=160)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument(
        "--longest", type=float, default=6.0, help="longest time until a kill, seconds"
    )
    options = parser.parse_args()
    inputs = options.workdir / "inputs"
    if not inputs.exists():
        prepare(inputs, options.people)
    print("| stage | kills | ended before | longest outliving, s | hung | same bytes |")
    print("| --- | --- | --- | --- | --- | --- |")
    held = [row(name, options) for name in options.stages.split(",")]
    return 0 if all(held) else 1


def prepare(root: Path, people: int) -> None:
    """Write a raw folder without bodies, one with them and pose maps, and its records."""
    from omfa_jax.body.pose_maps import render_folder
    from omfa_jax.data.builders.build_records import build_records
    from omfa_jax.synthetic.world_writer import write_world

    posed = root / "posed"
    write_world(posed, seed=3, counts={"train": people}, height_px=128, width_px=96)
    shutil.copytree(posed, root / "raw")
    (root / "raw/train/smplx").rename(root / "bodies")
    render_folder(posed / "train/smplx", posed / "train/pose", processes=1)
    build_records(posed, root / "images", shard_records=16)


def row(name: str, options: argparse.Namespace) -> bool:
    rng = random.Random(name)
    straight, killed = (options.workdir / name / folder for folder in ("straight", "killed"))
    for folder in (straight, killed):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(options.workdir / "inputs", folder, copy_function=os.link)
    stage, processes = STAGES[name], str(options.processes)
    command, outputs = stage(straight, processes)
    clear(straight, outputs)
    whole(command)
    expected = contents(straight, outputs)
    command, outputs = stage(killed, processes)
    clear(killed, outputs)
    kills = early = hung = 0
    longest, same = 0.0, True
    while kills < options.kills:
        running = start(command)
        try:
            running.wait(rng.uniform(0.2, options.longest))
        except subprocess.TimeoutExpired:
            kills += 1
            workers = members(running.pid)[1:]
            if kills % 4 == 0 and workers:
                os.kill(rng.choice(workers), signal.SIGKILL)
                hung += not ended(running)
            running.kill()
            running.wait()
            if kills % 2:
                longest = max(longest, outlived(running.pid))
            continue
        early += 1
        # a run that was killed while exiting is complete, so the next one is refused
        same &= same_as(expected, contents(killed, outputs), name)
        clear(killed, outputs)
    try:
        whole(command)
    except subprocess.TimeoutExpired:
        hung += 1
    same &= same_as(expected, contents(killed, outputs), name)
    print(
        f"| {name} | {kills} | {early} | {longest:.1f} | {hung} | {'yes' if same else '**no**'} |",
        flush=True,
    )
    return same and not hung and longest < LINGER_S


def same_as(expected: dict[str, bytes], found: dict[str, bytes], name: str) -> bool:
    odd = [path for path in expected.keys() | found if expected.get(path) != found.get(path)]
    if odd:
        print(f"{name}: other or not there, or too many: {sorted(odd)[:10]}", file=sys.stderr)
    return not odd


def start(command: list[str]) -> subprocess.Popen:
    """Start a command in its own session, which identifies its workers later."""
    here = Path(__file__).parent
    paths = f"{here.parent}:{here}"
    quiet = os.environ | {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu", "TQDM_DISABLE": "1"}
    log = subprocess.DEVNULL
    return subprocess.Popen(command, env=quiet, stdout=log, stderr=log, start_new_session=True)


def ended(running: subprocess.Popen) -> bool:
    """Return whether a run that lost a worker exits, with or without an error."""
    try:
        running.wait(HANG_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def whole(command: list[str]) -> None:
    running = start(command)
    try:
        running.wait(HANG_S)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        raise
    outlived(running.pid)


def outlived(session: int) -> float:
    """Return the seconds until no process of a session is left, at most LINGER_S."""
    started = time.monotonic()
    while members(session) and time.monotonic() - started < LINGER_S:
        time.sleep(0.05)
    return time.monotonic() - started


def clear(root: Path, outputs: list[str]) -> None:
    """Delete what a stage wrote and what it left next to it."""
    for name in outputs:
        path = root / name
        for found in (path, path.with_name(f".{path.name}.partial")):
            if found.is_dir():
                shutil.rmtree(found)
            else:
                found.unlink(missing_ok=True)


def contents(root: Path, outputs: list[str]) -> dict[str, bytes]:
    """Return every file below the outputs, and hidden files next to them, which must not remain."""
    found = {}
    for path in (root / name for name in outputs):
        inside = path.rglob("*") if path.is_dir() else [path]
        beside = path.parent.glob(".*")
        for file in (*inside, *beside):
            if file.is_file():
                found[str(file.relative_to(root))] = file.read_bytes()
    return found


if __name__ == "__main__":
    raise SystemExit(main())
