"""Real processes that train together on this machine, as the hosts of a cluster would."""

import os
import socket
import subprocess
from pathlib import Path

from warm_process import WarmProcess

HERE = Path(__file__).parent

# trains tiny_training's run with a matrix for a network, which compiles in no time; every process
# feeds its own rows of the global batch
TRAINING = """
import dataclasses, os, sys, time
from pathlib import Path
import jax, numpy as np
import jax.numpy as jnp
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(os.environ["DEVICES"]))
from omfa_jax.cli.logs import set_up_logs
from omfa_jax.cli.main import report_error
set_up_logs()
from omfa_jax.core.startup_signals import watch_startup_signals
watch_startup_signals()
from omfa_jax.parallel import distributed
# faults, as expressions: before the processes have joined, and in the third step
if "EARLY" in os.environ:
    sys.exit(report_error("train", eval(os.environ["EARLY"]), joins=True))
from omfa_jax.core.paths import to_path
distributed.initialize(to_path(sys.argv[1]))
from tiny_training import SETTINGS, CountingBatches, make_run
from omfa_jax.core.errors import OmfaError
from omfa_jax.parallel.global_arrays import get_data_shard
from omfa_jax.parallel.fsdp import make_all_gather_params
from omfa_jax.train.loop import train
from omfa_jax.train.signals import TrainingInterrupt

class Rows(CountingBatches):
    def __next__(self):
        time.sleep(float(os.environ.get("PAUSE", "0")))
        if self.position == 2 and "FAULT" in os.environ:
            raise eval(os.environ["FAULT"])
        # a program that knows `step`, the one to come: what happens to the run
        exec(os.environ.get("EACH", ""), {"step": self.position + 1, "os": os, "Path": Path})
        whole = super().__next__()
        shard, shards = get_data_shard(run.mesh)
        mine = np.array_split(np.arange(8), shards)[shard]
        return {name: value[mine] for name, value in whole.items()}

workdir, steps = to_path(sys.argv[1]), int(sys.argv[2])
mesh = tuple(map(int, os.environ["MESH"].split(",")))
every = {f"{name}_every_steps": int(os.environ.get(name.upper(), default))
         for name, default in (("save", "100"), ("log", "1"), ("samples", "0"))}

RULES = ((r"kernel$", ("fsdp", None)), (r"bias$", ()))

def apply(params, inputs, t, rows, prompts):
    kernel = fetch(("kernel",), params["kernel"], jnp.float32) if fetch else params["kernel"]
    mixed = jnp.tanh(inputs @ kernel + params["bias"])
    return mixed * (1 + prompts["pooled"][rows].mean(-1) + t / 1000)[:, None, None, None]

def start():
    kernel = jax.random.normal(jax.random.key(0), (SETTINGS.in_channels, SETTINGS.out_channels))
    return {"kernel": jnp.pad(kernel, ((0, 1), (0, 0))) / 3, "bias": jnp.zeros(kernel.shape[1])}

def padded(params, inputs, *rest):
    # an even number of rows, so that fsdp cuts the matrix
    return apply(params, jnp.pad(inputs, ((0, 0),) * 3 + ((0, 1),)), *rest)

def pictures(state, step):
    print("pictures", step, flush=True)
    if str(jax.process_index()) == os.environ["FULL"]:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    return {}

run = make_run(workdir, steps, mesh, apply=padded, **every)
fetch = make_all_gather_params(RULES, jax.eval_shape(start), run.mesh)
run = dataclasses.replace(
    run,
    batches=Rows(),
    start=start,
    rules=RULES,
    draw_images=pictures if "FULL" in os.environ else None,
)
try:
    distributed.check_equal_across_processes({"the config": os.environ.get("FACT", "same")})
    exec(os.environ.get("BEFORE", ""))
    state = train(run)
    print("done", int(state.step), flush=True)
except TrainingInterrupt as stopped:
    print(stopped, flush=True)
    code = stopped.exit_status
except Exception as error:
    code = report_error("train", error, joins=True)
else:
    code = 0
sys.exit(code)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(
    workdir: str | os.PathLike,
    steps: int,
    count: int,
    *,
    devices: int = 4,
    program: str = TRAINING,
    **environment: str,
):
    """Start `count` processes with `devices` devices in all; return them in order."""
    address = f"localhost:{free_port()}"
    running = []
    for index in range(count):
        own = {name[:-2]: v for name, v in environment.items() if name.endswith(f"_{index}")}
        shared = {n: v for n, v in environment.items() if not n[-1].isdigit()}
        env = {
            **os.environ,
            "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}",
            "DEVICES": str(devices // count),
            "MESH": "2,2,1",
            "OMFA_JOIN_TIMEOUT_S": "120",
            **shared,
            **own,
        }
        if count > 1:
            env |= {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(index),
            }
        running.append(WarmProcess(program, [str(workdir), str(steps)], env))
    return running


def finish(running, timeout: float = 300) -> list[tuple[int, str, str]]:
    """Return (exit status, stdout, stderr) of each process."""
    ended = []
    for process in running:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            for other in running:
                other.kill()
            out, err = process.communicate()
        ended.append((process.returncode, out, err))
    return ended


def members(session: int) -> list[int]:
    """Return the living processes of a session (Linux)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, leader = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(leader) == session and state != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)
