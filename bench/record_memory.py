"""Peak memory and speed of `omfa data build` and of writing latents, for two numbers of records.

    python bench/record_memory.py [--few 300 --many 3000 --height 256 --width 192]

All records' files are hard links to a few files, so that the raw folder takes no space but is read
in full. Latents are block means, so everything except the VAE is measured. glibc is configured to
return freed batches at once, so that the peak shows what was in use.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from omfa_jax.core.images import write_image
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.pipeline.latent_writer import write_latents

PICTURES = {"image": ".jpg", "cloth": ".jpg", "pose": ".png"}


def write_raw(root: Path, count: int, height: int, width: int) -> Path:
    """Write a raw folder of `count` people who look alike."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (height // 16, width // 16, 3), np.uint8)
    picture = coarse.repeat(16, 0).repeat(16, 1)
    for name, suffix in PICTURES.items():
        first = root / "train" / name / f"p000000{suffix}"
        write_image(first, picture)
        for number in range(1, count):
            os.link(first, first.with_name(f"p{number:06d}{suffix}"))
    return root


def encode(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return four numbers per 8 x 8 block and their halves."""
    latents = np.repeat(pictures[:, ::8, ::8, :1], 4, axis=-1)
    return latents, latents / 2


def stage(name: str, root: str, slots: dict, processes: int, answer) -> None:
    """Run one stage in this process and print its peak memory in MiB and its time."""
    folder, start = Path(root), time.perf_counter()
    if name == "build":
        build_records(folder / "raw", folder / "records", processes=processes, overwrite=True)
    else:
        write_latents(
            folder / "records", folder / "latents", encode, slots=slots, vae_id="v", overwrite=True
        )
    seconds = time.perf_counter() - start
    answer.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--few", type=int, default=300)
    parser.add_argument("--many", type=int, default=3000)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=192)
    options = parser.parse_args()
    size = (options.height, options.width)
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "1000000"
    slots = {"garment": size, "person": size, "face": (64, 64)}
    context = multiprocessing.get_context("spawn")
    print("| stage | processes | records | peak MiB | records/s |")
    print("| --- | --- | --- | --- | --- |")
    for count in (options.few, options.many):
        with tempfile.TemporaryDirectory() as root:
            write_raw(Path(root) / "raw", count, *size)
            for name, processes in (("build", 1), ("build", 2), ("latents", 1)):
                answer = context.Queue()
                process = context.Process(target=stage, args=(name, root, slots, processes, answer))
                process.start()
                peak, seconds = answer.get()
                process.join()
                rate = f"{count / seconds:.0f}"
                print(f"| {name} | {processes} | {count} | {peak:.0f} | {rate} |", flush=True)


if __name__ == "__main__":
    main()
