"""diffusers' side of `bench/gpu.py`: its training step and its sampler, with torch.compile."""

import time
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from bench.gpu_pictures import make_pictures
from bench.gpu_settings import Case, get_unet, get_vae, make_diffusion, make_job
from bench.torch_step import TorchStep
from omfa_jax.assets.omfa_torch import DTYPES, Model
from omfa_jax.weights.diffusers_configs import make_diffusers_unet_config, make_diffusers_vae_config
from omfa_jax.weights.model_folder import make_ddim_config
from omfa_jax.weights.text_encoders import TEXT_TOKENS

WARM_UP_STEPS = 2


def set_fast_math() -> str:
    """Choose TF32 products, as XLA does, and cuDNN's search; return the device."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    return "cuda" if torch.cuda.is_available() else "cpu"


class TrainingSide:
    """diffusers' UNet with its optimizer and a batch; remat other than none checkpoints blocks."""

    def __init__(self, case: Case, *, tiny: bool):
        job = make_job(case, tiny=tiny)
        start = time.perf_counter()
        # weights are drawn on the device: on the CPU that takes a minute
        with torch.device(set_fast_math()):
            self.step = TorchStep(job.unet, job.diffusion, job.train, TEXT_TOKENS)
        self.facts: dict[str, Any] = describe_versions() | {"init_s": time.perf_counter() - start}
        start = time.perf_counter()
        self.turn(1)
        self.facts |= {"first_step_s": time.perf_counter() - start}
        self.turn(WARM_UP_STEPS)

    def turn(self, steps: int) -> dict[str, Any]:
        """Train `steps` steps without waiting between them; return the seconds of one."""
        start = time.perf_counter()
        for _ in range(steps):
            loss = self.step()
        # waits for the device
        value = float(loss)
        return {"seconds": (time.perf_counter() - start) / steps, "loss": value}

    def peak(self) -> dict[str, Any]:
        """Return the peak memory of the process."""
        return {"peak_bytes": get_peak_bytes()}


class SamplingSide:
    """The exported script's model with random weights, channels_last, its UNet compiled."""

    def __init__(self, *, steps: int, tiny: bool):
        device = set_fast_math()
        diffusion = make_diffusion(tiny=tiny)
        self.model = build_model(device, tiny=tiny)
        self.steps = steps
        self.pictures = make_pictures(diffusion.slots_px)
        start = time.perf_counter()
        self.turn(1)
        self.facts = describe_versions() | {"first_picture_s": time.perf_counter() - start}

    def turn(self, pictures: int) -> dict[str, Any]:
        """Generate `pictures` pictures; return the seconds of one."""
        given, pose = self.pictures
        start = time.perf_counter()
        for _ in range(pictures):
            self.model.generate("try_on", given, pose, steps=self.steps, guidance=2.0)
        return {"seconds": (time.perf_counter() - start) / pictures}

    def peak(self) -> dict[str, Any]:
        """Return the peak memory of the process."""
        return {"peak_bytes": get_peak_bytes()}


def build_model(device: str, *, tiny: bool) -> Model:
    """Return the model of the exported script, with random weights instead of a folder's."""
    diffusion = make_diffusion(tiny=tiny)
    unet, vae = get_unet(diffusion, tiny=tiny), get_vae(tiny=tiny)
    model = Model.__new__(Model)
    dtype = DTYPES["bfloat16" if device == "cuda" else "float32"]
    model.dtype = model.vae_dtype = dtype
    model.device = torch.device(device)
    model.omfa = diffusion.to_json()
    model.slots_px = dict(zip(("garment", "person", "face"), diffusion.slots_px, strict=True))
    height, width, depth = diffusion.canvas.shape
    model.canvas_shape, model.slots, left = (height, width, depth), {}, 0
    for name, (rows, columns) in zip(model.slots_px, diffusion.canvas.slots, strict=True):
        model.slots[name] = (slice(None), slice(None), slice(rows), slice(left, left + columns))
        left += columns
    with torch.device(device):
        model.unet = UNet2DConditionModel.from_config(make_diffusers_unet_config(unet))
        model.vae = AutoencoderKL.from_config(make_diffusers_vae_config(vae))
        prompts = [task.prompt for task in diffusion.tasks] + [""]
        model.prompts = {
            prompt: (
                torch.randn(1, TEXT_TOKENS, unet.context_dim, dtype=dtype),
                torch.randn(1, unet.pooled_dim, dtype=dtype),
            )
            for prompt in prompts
        }
    for name in ("unet", "vae"):
        network = getattr(model, name).to(device, dtype).eval()
        setattr(model, name, network.to(memory_format=torch.channels_last))
    if device == "cuda":
        model.unet = torch.compile(model.unet)
    model.scheduler_config = DDIMScheduler.from_config(make_ddim_config(diffusion)).config
    return model


def describe_versions() -> dict[str, Any]:
    """Return the versions, and whether torch compiles."""
    import diffusers

    return {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "compiled": torch.cuda.is_available(),
    }


def get_peak_bytes() -> int | None:
    """Return the peak GPU memory in bytes; None on a CPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
