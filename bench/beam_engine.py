"""Build records and latents with Apache Beam on a Dask cluster of processes, and compare the bytes.

    pip install -e '.[beam]' 'apache-beam[dask]'
    PYTHONPATH=.:tests:tools python bench/beam_engine.py --workers 2

starts a scheduler and workers with Dask's own commands, writes a synthetic data set, and builds it
on this machine and on the cluster: on a disk, in a bucket on loopback (extra `gcs`), and with a
worker killed (SIGKILL) when two shards are finished, in both. Prints a row for each with whether
all files are equal byte for byte.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from gs_emulator import make_environment, start_server

from omfa_jax.cli.main import main as omfa
from omfa_jax.core.paths import AnyPath, to_path

RUNNER = "apache_beam.runners.dask.dask_runner.DaskRunner"
# or Beam's runner hands all shards of a small data set to one worker
SPREAD = "--dask_partition_size=1"
TEST, PER_SHARD = 8, 4
SHARD = ("--shard-records", str(PER_SHARD))
MODEL = str(Path(__file__).parents[1] / "omfa_jax/assets/tiny")


@contextmanager
def start_cluster(workers: int, folder: Path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """Yield a scheduler's address and its workers, each a process of its own."""
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    log = (folder / "dask.log").open("a")

    def launch(what: str, *flags: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *flags]
        return subprocess.Popen(command, stdout=log, stderr=log)

    started = [launch("scheduler", "--scheduler-file", str(file), "--port", "0", "--no-dashboard")]
    try:
        while not file.exists():
            time.sleep(0.1)
        flags = ("--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard")
        made = [launch("worker", *flags, "--no-nanny") for _ in range(workers)]
        started += made
        from distributed import Client

        with Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(workers, timeout=120)
            address = client.scheduler.address
        yield address, made
    finally:
        for process in started:
            process.kill()
            process.wait()
        log.close()


def kill_in_the_middle(
    progress: AnyPath, workers: list[subprocess.Popen], shards: int, at: list[int]
) -> None:
    """Kill the first worker when two of the shards are finished; add how many were to `at`."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        found = sum(1 for _ in progress.glob("*.json"))
        if 2 <= found < shards:
            workers[0].send_signal(signal.SIGKILL)
            at.append(found)
            return
        time.sleep(0.05)


def read(folder: AnyPath) -> dict[str, bytes]:
    """Return all files of a folder by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def main() -> int:
    """Print the table; return 1 if a byte differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--people", type=int, default=60, help="of which 8 in the test split")
    options = parser.parse_args()
    train = options.people - TEST
    shards = -(-train // PER_SHARD) + TEST // PER_SHARD
    names = ("apache-beam", "dask", "distributed")
    print(", ".join(f"{name} {version(name)}" for name in names), flush=True)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    bad = 0
    with tempfile.TemporaryDirectory() as name, start_server() as url:
        folder = Path(name)
        os.environ.update(make_environment(url))
        raw = str(folder / "raw")
        call("data", "synthesize", "--out", raw, "--train", str(train), "--test", str(TEST))
        build = ("data", "build", "--raw", raw, *SHARD)
        latents = ("data", "latents", "--model", MODEL, "--config", "configs/tiny.py", *SHARD)
        local = folder / "local"
        timed("records, this machine", lambda: call(*build, "--out", f"{local}/records"))
        encode = (*latents, "--records", f"{local}/records", "--out", f"{local}/latents")
        timed("latents, this machine", lambda: call(*encode))
        want = {kind: read(local / kind) for kind in ("records", "latents")}

        with start_cluster(options.workers, folder) as (address, workers):
            beam = ("--runner", "beam", "--beam-options")
            dask = (*beam, f"--runner={RUNNER} --dask_client_address={address} {SPREAD}")
            for place in (f"{folder}/dask", "gs://bucket/dask"):
                for kind, command in (
                    ("records", build),
                    ("latents", (*latents, "--records", f"{place}/records")),
                ):
                    out = f"{place}/{kind}"
                    row = f"{kind}, Dask, {'a bucket' if 'gs:' in out else 'a disk'}"
                    timed(row, lambda c=command, o=out: call(*c, "--out", o, *dask))
                    bad += say_equal(row, read(to_path(out)), want[kind])
            kills = ((folder / "killed", "records"), (to_path("gs://bucket/killed"), "records"))
        for place, kind in (*kills, (folder / "killed", "latents")):
            with start_cluster(options.workers, folder) as (address, workers):
                dask = (*beam, f"--runner={RUNNER} --dask_client_address={address} {SPREAD}")
                kept = f"{local}/records"
                command = build if kind == "records" else (*latents, "--records", kept)
                where = "a disk" if isinstance(place, Path) else "a bucket"
                row = f"{kind}, Dask, {where}, a worker killed"
                progress = place / f".{kind}.partial/progress"
                at: list[int] = []
                watching = (progress, workers, shards, at)
                watch = threading.Thread(target=kill_in_the_middle, args=watching)
                watch.start()
                timed(row, lambda c=command, o=place / kind, d=dask: call(*c, "--out", str(o), *d))
                watch.join(timeout=60)
                print(f"| {row} | at {at} of {shards} shards, status {workers[0].poll()} |")
                bad += not at or say_equal(row, read(place / kind), want[kind])
        direct = (*beam, "--runner=FnApiRunner --direct_num_workers=2")
        row = "records, Beam's own runner, a bucket"
        out = "gs://bucket/own/records"
        timed(row, lambda: call(*build, "--out", out, *direct))
        bad += say_equal(row, read(to_path(out)), want["records"])
    return 1 if bad else 0


def call(*arguments: str) -> None:
    """Run an omfa command in this process."""
    if status := omfa(list(arguments)):
        raise SystemExit(f"omfa {' '.join(arguments)}: status {status}")


def timed(row: str, run: Callable[[], None]) -> None:
    """Run and print the seconds."""
    start = time.monotonic()
    run()
    print(f"| {row} | {time.monotonic() - start:.0f} s |", flush=True)


def say_equal(row: str, found: dict[str, bytes], want: dict[str, bytes]) -> bool:
    """Print whether all files are equal; return whether any is not."""
    same = found == want
    words = f"{len(found)} files, {'the same bytes' if same else 'DIFFERENT'}"
    print(f"| {row} | {words} |", flush=True)
    if not same:
        names = found.keys() ^ want.keys() or {n for n in found if found[n] != want[n]}
        print("  ", *sorted(names)[:8])
    return not same


if __name__ == "__main__":
    sys.exit(main())
