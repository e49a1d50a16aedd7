"""The page under load: seconds from click to result, memory after many runs, people in the queue.

    PYTHONPATH=. python bench/app_load.py

Each visitor is a client of the page's own interface on this machine, with the small model, two
example photos and 20 steps. `limit` bounds the cores that the page and its clients share.
"""

import argparse
import os
import statistics
import threading
import time
from pathlib import Path

from omfa_jax.app.example_photos import list_examples
from omfa_jax.app.job_form import AS_IN_PHOTO
from omfa_jax.app.settings import AppLimits
from omfa_jax.app.web_server import serve


def measure_resident_mb() -> float:
    """Return this process's memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Visitor:
    """Clicks the button, and waits for the result."""

    def __init__(self, address: str, person: Path, garment: Path):
        from gradio_client import Client, handle_file

        self._client = Client(address, verbose=False, analytics_enabled=False)
        self._photos = [handle_file(str(path)) for path in (person, garment)]

    def click(self, seed: int) -> float:
        """Return the seconds from the click to the result; raise for a refusal."""
        start = time.perf_counter()
        person, garment = self._photos
        values = ["try_on", None, person, garment, None, AS_IN_PHOTO, 20, 2.0, seed, 1, 8]
        self._client.predict(*values, api_name="/run")
        return time.perf_counter() - start


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: options.cores]))
    people, garments = list_examples("image"), list_examples("cloth")
    start = time.perf_counter()
    with serve(None, port=0, limits=AppLimits(queue=options.people)) as address:
        print(f"| the page answers after | {time.perf_counter() - start:.1f} s |")
        visitor = Visitor(address, people[0], garments[0])
        print(f"| the first click, which compiles | {visitor.click(0):.1f} s |", flush=True)
        seconds, memory = [], []
        for index in range(options.runs):
            seconds.append(visitor.click(index))
            memory.append(measure_resident_mb())
        middle = statistics.median(seconds)
        print(f"| click to result, median and worst | {middle:.2f} s, {max(seconds):.2f} s |")
        after = f"{memory[0]:.0f} MB, {memory[len(memory) // 2]:.0f} MB, {memory[-1]:.0f} MB"
        print(f"| memory after 1, {len(memory) // 2 + 1} and {len(memory)} runs | {after} |")
        crowd = [
            Visitor(address, people[i % len(people)], garments[i % len(garments)])
            for i in range(options.people)
        ]
        waited: list[float] = []
        refused: list[str] = []

        def visit(one: Visitor, seed: int) -> None:
            try:
                waited.append(one.click(seed))
            except Exception as error:
                refused.append(str(error))

        threads = [threading.Thread(target=visit, args=pair[::-1]) for pair in enumerate(crowd)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        first, last = f"{min(waited):.1f} s", f"{max(waited):.1f} s"
        print(f"| {options.people} people at once: first and last result | {first}, {last} |")
        print(f"| refused | {len(refused)} {set(refused) or ''} |")


if __name__ == "__main__":
    main()
