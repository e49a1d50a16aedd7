"""What a run has cost so far, and how busy it keeps its devices; in every line of the log."""

from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class Cost:
    """The model's size and the FLOPs of one training example (forward and backward).

    FLOPs are those of the mathematics: what is computed twice (remat) or off the loss counts once
    or not at all, so that MFU can be compared between settings (PaLM, arXiv 2204.02311, appendix
    B). `frozen_flops_per_example` are those of networks that are only run, the VAE where pictures
    are encoded in the step; they are logged beside and stay out of the rates. `peak_flops` is one
    device's peak in bfloat16; None where it is not known.
    """

    params: int
    flops_per_example: float
    batch_size: int
    devices: int
    peak_flops: float | None = None
    frozen_flops_per_example: float = 0.0

    def row(self, step: int, step_seconds: float | None) -> dict[str, float]:
        """Return the figures at `step`; the rates need the seconds of a step."""
        samples = step * self.batch_size
        row = {
            "params": float(self.params),
            "samples": float(samples),
            "flops": samples * self.flops_per_example,
        }
        if self.frozen_flops_per_example:
            row["frozen_flops"] = samples * self.frozen_flops_per_example
        if step_seconds:
            rate = self.batch_size * self.flops_per_example / self.devices / step_seconds
            row["tflops_per_second_per_device"] = rate / 1e12
            if self.peak_flops:
                row["mfu"] = rate / self.peak_flops
        return row | memory_row()


def memory_row() -> dict[str, float]:
    """Return the most memory that this process's fullest device has held, GB; none on a CPU."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    return {"hbm_peak_gb": max(peaks) / 1e9} if peaks else {}
