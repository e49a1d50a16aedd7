"""The baseline: a training step of diffusers' SDXL UNet in PyTorch, with the same canvas and loss.

It is tuned as usual: channels_last, fused AdamW, gradients set to None, and on a GPU torch.compile,
scaled-dot-product attention and bfloat16 autocast over float32 weights.
"""

import time
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from omfa_jax.diffusion.schedule import compute_alphas_cumprod
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import UNetConfig
from omfa_jax.train.settings import TrainSettings
from omfa_jax.weights.diffusers_configs import make_diffusers_unet_config


class TorchStep:
    """The UNet, its optimizer and one batch of latents; a call trains one step."""

    def __init__(
        self, config: UNetConfig, settings: DiffusionSettings, train: TrainSettings, tokens: int
    ):
        torch.manual_seed(0)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.bfloat16 = train.compute_dtype == "bfloat16"
        self.clip_norm = train.optimizer.clip_norm
        unet = UNet2DConditionModel.from_config(make_diffusers_unet_config(config))
        unet = unet.to(self.device, memory_format=torch.channels_last).train()
        if train.remat != "none":
            unet.enable_gradient_checkpointing()
        self.unet = torch.compile(unet) if self.device == "cuda" else unet
        o = train.optimizer
        self.optimizer = torch.optim.AdamW(
            unet.parameters(),
            lr=o.learning_rate,
            betas=(o.b1, o.b2),
            weight_decay=o.weight_decay,
            fused=True,
        )
        self.batch = self._batch(config, settings, train.batch_size, tokens)
        alpha_bar = torch.tensor(compute_alphas_cumprod(settings.schedule), device=self.device)
        self.alpha, self.sigma = alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()

    def _batch(self, config: UNetConfig, settings: DiffusionSettings, size: int, tokens: int):
        height, width, channels = settings.canvas.shape
        pose = config.in_channels - channels - settings.canvas.mask_channels
        noised = torch.zeros(size, 1, height, width, dtype=torch.bool)
        noised[..., : width // 2] = True

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, device=self.device)

        return {
            "x0": normal(size, channels, height, width),
            "mask": noised.to(self.device),
            "pose": normal(size, pose, height, width),
            "context": normal(size, tokens, config.context_dim),
            "pooled": normal(size, config.pooled_dim),
            "time_ids": torch.tensor([settings.time_ids] * size, device=self.device).float(),
        }

    def __call__(self) -> torch.Tensor:
        """Train one step and return its loss, left on the device."""
        b = self.batch
        x0, mask = b["x0"], b["mask"]
        t = torch.randint(0, len(self.alpha), (len(x0),), device=self.device)
        eps = torch.randn_like(x0)
        alpha, sigma = (a[t][:, None, None, None] for a in (self.alpha, self.sigma))
        xt = torch.where(mask, alpha * x0 + sigma * eps, x0)
        inputs = torch.cat([xt, mask.to(xt.dtype), b["pose"]], 1)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
            added = {"text_embeds": b["pooled"], "time_ids": b["time_ids"]}
            output = self.unet(inputs, t, b["context"], added_cond_kwargs=added).sample
        squared = torch.where(mask, (output.float() - eps) ** 2, 0.0)
        area = mask.sum((1, 2, 3)) * x0.shape[1]
        loss = (squared.sum((1, 2, 3)) / area).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def seconds(self, steps: int) -> list[float]:
        """Return the seconds of each of `steps` steps, after two that are not counted."""
        times = []
        for index in range(steps + 2):
            start = time.perf_counter()
            loss: Any = self()
            float(loss)
            if index >= 2:
                times.append(time.perf_counter() - start)
        return times

    def peak_bytes(self) -> int | None:
        """Return the peak GPU memory in bytes; None on a CPU."""
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else None
