"""Build records and latents with Apache Beam on a Spark cluster of processes; compare the bytes.

    pip install -e '.[beam]'
    pip install --no-deps beam-pyspark-runner==0.0.3 pyspark==3.5.1 py4j==0.10.9.7    # Java 17
    PYTHONPATH=.:tests:tools python bench/beam_spark.py

starts Spark's master and two workers, each a process with a directory of its own. Not Beam's own
runner for Spark, which needs a job server of Maven Central.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from beam_engine import MODEL, SHARD, TEST, call, read, say_equal, timed
from gs_emulator import find_free_port, make_environment, start_server

from omfa_jax.core.paths import to_path

RUNNER = "beam_pyspark_runner.pyspark_runner.PySparkRunner"
DEPLOY = "org.apache.spark.deploy"


@contextmanager
def start_spark(workers: int, folder: Path) -> Iterator[str]:
    """Yield the URL of a Spark master with workers of one core each."""
    import pyspark

    command = [str(Path(pyspark.__file__).parent / "bin/spark-class")]
    port, host = find_free_port(), ("--host", "127.0.0.1", "--webui-port", "0")
    url = f"spark://127.0.0.1:{port}"
    log = (folder / "spark.log").open("w")

    def launch(what: str, *flags: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*command, f"{DEPLOY}.{what}", *host, *flags], stdout=log, stderr=log
        )

    started = [launch("master.Master", "--port", str(port))]
    try:
        for index in range(workers):
            flags = ("-c", "1", "-m", "2G", "-d", str(folder / f"spark-{index}"), url)
            started.append(launch("worker.Worker", *flags))
        end = time.monotonic() + 120
        while (folder / "spark.log").read_text().count("Registering worker") < workers:
            if time.monotonic() > end:
                raise SystemExit((folder / "spark.log").read_text()[-2000:])
            time.sleep(0.5)
        yield url
    finally:
        for process in started:
            process.terminate()
            process.wait()
        log.close()


def main() -> int:
    """Print the table; return 1 if a byte differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--people", type=int, default=32, help="of which 8 in the test split")
    options = parser.parse_args()
    names = ("apache-beam", "pyspark", "beam-pyspark-runner")
    print(", ".join(f"{name} {version(name)}" for name in names), flush=True)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # workers run in other directories
    root = Path(__file__).parents[1]
    os.environ |= {"PYTHONPATH": str(root), "PYSPARK_PYTHON": sys.executable}
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    bad = 0
    with tempfile.TemporaryDirectory() as name, start_server() as gs:
        folder = Path(name)
        os.environ.update(make_environment(gs))
        raw, local = str(folder / "raw"), folder / "local"
        train = str(options.people - TEST)
        call("data", "synthesize", "--out", raw, "--train", train, "--test", str(TEST))
        # relative: a worker must find it all the same
        build = ("data", "build", "--raw", os.path.relpath(raw), *SHARD)
        config = str(root / "configs/tiny.py")
        latents = ("data", "latents", "--model", MODEL, "--config", config, *SHARD)
        timed("records, this machine", lambda: call(*build, "--out", f"{local}/records"))
        encode = (*latents, "--records", f"{local}/records", "--out", f"{local}/latents")
        timed("latents, this machine", lambda: call(*encode))
        want = {kind: read(local / kind) for kind in ("records", "latents")}
        with start_spark(2, folder) as url:
            flags = f"--master {url} --conf spark.executor.memory=1g"
            flags += " --conf spark.default.parallelism=4 pyspark-shell"
            os.environ["PYSPARK_SUBMIT_ARGS"] = flags
            beam = ("--runner", "beam", "--beam-options", f"--runner={RUNNER}")
            for place in (f"{folder}/spark", "gs://bucket/spark"):
                steps = (
                    ("records", build),
                    ("latents", (*latents, "--records", f"{place}/records")),
                )
                for kind, command in steps:
                    out = f"{place}/{kind}"
                    row = f"{kind}, Spark, {'a bucket' if 'gs:' in out else 'a disk'}"
                    timed(row, lambda c=command, o=out: call(*c, "--out", o, *beam))
                    bad += say_equal(row, read(to_path(out)), want[kind])
            from pyspark.sql import SparkSession

            SparkSession.builder.getOrCreate().stop()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
