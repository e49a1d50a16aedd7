"""The FLOPs a run has spent so far and its MFU, for every row of the log."""

from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class RunCost:
    """The model's size and the FLOPs of one training example (forward and backward).

    Model FLOPs, not executed ones: recomputation (remat) does not count, so that MFU can be
    compared between settings (PaLM, arXiv 2204.02311, appendix B). `frozen_flops_per_example` are
    those of networks that only run forward, such as the VAE if the step encodes images. They are
    logged separately and not part of the rates. `peak_flops` is one device's peak in bfloat16, None
    if unknown.
    """

    params: int
    flops_per_example: float
    batch_size: int
    devices: int
    peak_flops: float | None = None
    frozen_flops_per_example: float = 0.0

    def compute_metrics(self, step: int, step_seconds: float | None) -> dict[str, float]:
        """Return the metrics at `step`; rates only if `step_seconds` is known."""
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
        return row | get_memory_metrics()


def get_memory_metrics() -> dict[str, float]:
    """Return the peak memory of this process's fullest device in GB; {} on a CPU."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    return {"hbm_peak_gb": max(peaks) / 1e9} if peaks else {}
