"""One process of `bench/gpu.py`: it compiles one thing, then answers requests for timed turns.

    python bench/gpu_worker.py '{"kind": "train", "batch": 4, "remat": "block", "tiny": false}'

It prints lines "@ {...}": one when it is ready, then one for each request on its standard input
("turn N", "peak", "profile DIR"). Each kind runs in a process of its own, so that peak memory is
that kind's, and that neither an out-of-memory error nor a crash ends anything else.
"""

import ctypes
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PREFIX = "@ "


def make_side(spec: dict[str, Any]) -> Any:
    """Return the compiled side that a request describes."""
    tiny, kind = spec["tiny"], spec["kind"]
    if kind in ("train", "torch_train"):
        from bench.gpu_settings import Case

        case = Case(spec["batch"], spec["remat"])
        if kind == "train":
            from bench.gpu_ours import TrainingSide as Side
        else:
            from bench.gpu_torch import TrainingSide as Side
        return Side(case, tiny=tiny)
    if kind == "sample":
        from bench.gpu_ours import SamplingSide as Side
    else:
        from bench.gpu_torch import SamplingSide as Side
    return Side(steps=spec["steps"], tiny=tiny)


def answer_once(spec: dict[str, Any]) -> dict[str, Any] | None:
    """Return the answer of a kind that has no turns; None for the others."""
    kind, tiny = spec["kind"], spec["tiny"]
    if kind == "device":
        from bench.gpu_ours import describe_device

        return describe_device()
    if kind == "torch":
        import diffusers
        import torch

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        return {"torch": torch.__version__, "diffusers": diffusers.__version__, "device": device}
    if kind.startswith("check "):
        from bench import gpu_checks

        return getattr(gpu_checks, f"check_{kind.removeprefix('check ')}")(tiny=tiny)
    return None


def serve(spec: dict[str, Any], requests: Any, say: Callable[[dict[str, Any]], None]) -> None:
    """Do what `spec` says and answer `requests`, lines of text, with `say`."""
    start = time.perf_counter()
    once = answer_once(spec)
    if once is not None:
        say(once)
        return
    side = make_side(spec)
    say(side.facts | {"ready_s": time.perf_counter() - start})
    for line in requests:
        verb, _, value = line.strip().partition(" ")
        if verb == "turn":
            say(side.turn(int(value)))
        elif verb == "peak":
            say(side.peak())
        elif verb == "profile":
            try:
                say(side.profile(Path(value)))
            except Exception as error:  # a profiler that does not run here ends nothing else
                say({"failure": describe_error(error)})


def describe_error(error: Exception) -> str:
    """Return an error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def main() -> int:
    """Serve one request line after the other; errors are answers, too."""
    if sys.platform == "linux":
        # dies with its parent, even one that is killed: it may hold a whole GPU's memory
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)

    def say(answer: dict[str, Any]) -> None:
        print(PREFIX + json.dumps(answer), flush=True)

    try:
        serve(json.loads(sys.argv[1]), sys.stdin, say)
    except Exception as error:  # whatever a compiler or a driver raises is one line of the table
        import traceback

        traceback.print_exc()
        say({"failure": describe_error(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
