"""Try-on and try-off from this folder, in PyTorch: diffusers runs the networks, this file OMFA.

python omfa_torch.py try_on --garment shirt.png --face face.png --pose pose.png --out person.png
python omfa_torch.py try_off --person photo.png --face face.png --pose pose.png --out garment.png

One UNet denoises a canvas on which garment, person and face have a slot each. A task noises some of
them and is given the others, which stay clean and are the condition. omfa.json, next to this file,
says where the slots are, which task noises what and what the UNet sees; prompts.safetensors holds
the text embeddings, so that no text encoder is needed. Needs torch, diffusers, safetensors, Pillow.

From Python: `Model(folder).generate("try_on", {"garment": image, "face": image}, pose)`.
"""

# diffusers' annotations say less than its functions do
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.utils import is_accelerate_available
from PIL import Image, ImageOps
from safetensors import safe_open

COMPONENTS = ("garment", "person", "face")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SUFFIXES = (".png", ".jpg", ".jpeg")
WHITE, BLACK = 255, 0


class Fault(Exception):
    """An error that the user can fix; one line."""


class Model:
    """The networks of an exported folder and what they mean.

    `dtype` is the UNet's. The VAE follows it, but runs in float32 where that is float16 and its
    config's force_upcast says that it would overflow. Latents are float32 throughout.
    """

    def __init__(self, folder: Path, device: str = "cpu", dtype: str = "float32"):
        folder = Path(folder)
        for name in ("omfa.json", "prompts.safetensors", "unet/config.json", "vae/config.json"):
            if not (folder / name).is_file():
                raise Fault(f"{folder} has no {name}; --model takes an exported folder")
        self.dtype = DTYPES[dtype]
        try:
            self.device = torch.device(device)
            self._load(folder)
        except Exception as error:  # whatever a damaged file or an absent device provokes
            raise Fault(f"cannot load {folder} on {device}: {one_line(error)}") from None

    def _load(self, folder: Path) -> None:
        self.omfa = json.loads((folder / "omfa.json").read_text())
        overflows = AutoencoderKL.load_config(folder / "vae").get("force_upcast", True)
        upcast = overflows and self.dtype == torch.float16
        self.vae_dtype = torch.float32 if upcast else self.dtype
        self.vae = self._network(AutoencoderKL, folder / "vae", self.vae_dtype)
        self.unet = self._network(UNet2DConditionModel, folder / "unet", self.dtype)
        with safe_open(folder / "prompts.safetensors", framework="pt") as file:
            texts = json.loads(file.metadata()["prompts"])
            rows = [file.get_tensor(name) for name in ("context", "pooled")]
        context, pooled = (row.to(self.device, self.dtype).split(1) for row in rows)
        self.prompts = dict(zip(texts, zip(context, pooled, strict=True), strict=True))

    def _network(self, kind: Any, folder: Path, dtype: torch.dtype) -> Any:
        # without accelerate diffusers cannot avoid a second copy, and prints a long warning
        spare = is_accelerate_available()
        network = kind.from_pretrained(folder, torch_dtype=dtype, low_cpu_mem_usage=spare)
        return network.to(self.device).eval()

    @property
    def slots_px(self) -> dict[str, tuple[int, int]]:
        """(height, width) of each component's image."""
        return {
            name: tuple(size) for name, size in zip(COMPONENTS, self.omfa["slots_px"], strict=True)
        }

    @property
    def canvas_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the canvas: the shape of the noise."""
        sizes = [
            (h // self.omfa["stride"], w // self.omfa["stride"]) for h, w in self.slots_px.values()
        ]
        height, channels = max(h for h, _ in sizes), self.omfa["latent_channels"]
        if self.omfa["layout"] == "channel":
            return height, sizes[0][1], channels * len(sizes)
        return height, sum(w for _, w in sizes), channels

    def task(self, name: str) -> dict[str, Any]:
        """Return the row of the task table; its `noised` components are generated."""
        known = {task["name"]: task for task in self.omfa["tasks"]}
        if name not in known:
            raise Fault(f"unknown task {name!r} (known: {', '.join(known)})")
        return known[name]

    @torch.no_grad()
    def generate(
        self,
        task: str,
        given: Mapping[str, np.ndarray],
        pose: np.ndarray | None,
        *,
        steps: int = 50,
        guidance: float = 2.0,
        seed: int = 0,
        noise: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the task's noised components as uint8 (h, w, 3).

        `given` holds its other components and `pose` a pose map in the person's frame (None: the
        model chooses), uint8 (h, w, 3), of any size. `noise`, of `canvas_shape`, replaces `seed`.
        """
        row = self.task(task)
        missing = [c for c in COMPONENTS if c not in row["noised"] and c not in given]
        if missing:
            raise Fault(f"{task} needs {' and '.join(f'--{name}' for name in missing)}")
        scheduler = self._scheduler(steps)
        clean = self._empty()
        for name, image in given.items():
            if name not in row["noised"]:
                self._slot(clean, name)[:] = self._encode(
                    letterbox(image, *self.slots_px[name], WHITE)
                )
        mask = self._empty()
        for name in row["noised"]:
            self._slot(mask, name)[:] = 1
        poses = self._empty()
        if pose is not None:
            size = self.slots_px["person"]
            self._slot(poses, "person")[:] = self._encode(letterbox(pose, *size, BLACK))

        x = torch.where(mask > 0, self._noise(seed, noise), clean)
        for t in scheduler.timesteps:
            if guidance == 1:
                output = self._predict(x, mask, poses, t, [row["prompt"]])
            else:
                # the second of the batch has no condition: what is given and the pose are zero
                both = self._predict(
                    torch.cat([x, x * mask]),
                    torch.cat([mask, mask]),
                    torch.cat([poses, torch.zeros_like(poses)]),
                    t,
                    [row["prompt"], ""],
                )
                output, null = both.chunk(2)
                output = null + guidance * (output - null)
            x = torch.where(mask > 0, scheduler.step(output, t, x).prev_sample, clean)
        return {name: self._decode(self._slot(x, name)) for name in row["noised"]}

    def _scheduler(self, steps: int) -> DDIMScheduler:
        schedule = self.omfa["schedule"]
        if not 1 <= steps <= schedule["train_steps"]:
            raise Fault(f"--steps must be in 1..{schedule['train_steps']}, got {steps}")
        scheduler = DDIMScheduler(
            num_train_timesteps=schedule["train_steps"],
            beta_start=schedule["beta_start"],
            beta_end=schedule["beta_end"],
            beta_schedule="scaled_linear",
            prediction_type={"epsilon": "epsilon", "v": "v_prediction"}[self.omfa["prediction"]],
            timestep_spacing=schedule["spacing"],
            steps_offset=schedule["steps_offset"],
            rescale_betas_zero_snr=schedule["zero_terminal_snr"],
            clip_sample=False,
            set_alpha_to_one=False,
        )
        scheduler.set_timesteps(steps)
        if scheduler.alphas_cumprod[scheduler.timesteps[0]] == 0 and (
            self.omfa["prediction"] == "epsilon"
        ):
            raise Fault(
                f"--steps {steps} start in pure noise, where epsilon carries no information"
            )
        return scheduler

    def _empty(self) -> torch.Tensor:
        height, width, channels = self.canvas_shape
        return torch.zeros(1, channels, height, width, device=self.device)

    def _slot(self, canvas: torch.Tensor, name: str) -> torch.Tensor:
        """Return the view of a component's part of a canvas (1, c, h, w)."""
        index, stride = COMPONENTS.index(name), self.omfa["stride"]
        if self.omfa["layout"] == "channel":
            return canvas.chunk(len(COMPONENTS), dim=1)[index]
        sizes = [(h // stride, w // stride) for h, w in self.slots_px.values()]
        left = sum(width for _, width in sizes[:index])
        height, width = sizes[index]
        return canvas[:, :, :height, left : left + width]

    def _noise(self, seed: int, noise: np.ndarray | None) -> torch.Tensor:
        shape = self.canvas_shape
        if noise is None:
            # sampled on the CPU, so that a seed gives the same noise on every device
            drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        elif noise.shape != shape:
            raise Fault(f"--noise must have the canvas's shape {shape}, got {noise.shape}")
        else:
            drawn = torch.from_numpy(noise)
        return drawn.permute(2, 0, 1)[None].to(self.device)

    def _predict(
        self,
        x: torch.Tensor,
        mask: torch.Tensor,
        poses: torch.Tensor,
        t: torch.Tensor,
        prompts: list[str],
    ) -> torch.Tensor:
        parts = {
            "noisy": x,
            # one channel, or one for each component where they are stacked on channels
            "mask": mask[:, :: self.omfa["latent_channels"]],
            "clean": torch.where(mask > 0, 0.0, x),
            "pose": poses,
        }
        inputs = torch.cat([parts[name] for name in self.omfa["unet_inputs"]], dim=1)
        context, pooled = (
            torch.cat(rows) for rows in zip(*(self.prompts[text] for text in prompts), strict=True)
        )
        height, width = self.slots_px["person"]
        sizes = torch.tensor([[height, width, 0, 0, height, width]] * len(x), device=self.device)
        output = self.unet(
            inputs.to(self.dtype),
            t.to(self.device),
            context,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
        )
        return output.sample.float()

    def _encode(self, image: np.ndarray) -> torch.Tensor:
        signed = torch.from_numpy(image).permute(2, 0, 1)[None].float() * (2 / 255) - 1
        posterior = self.vae.encode(signed.to(self.device, self.vae_dtype)).latent_dist
        return posterior.mean.float() * self.vae.config.scaling_factor

    def _decode(self, latents: torch.Tensor) -> np.ndarray:
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae_dtype)
        image = self.vae.decode(scaled).sample[0].float().permute(1, 2, 0).cpu()
        return ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def read_picture(path: str | Path, what: str = "image") -> np.ndarray:
    """Return an image file as upright RGB, uint8 (h, w, 3); transparency is laid over white."""
    try:
        image = ImageOps.exif_transpose(Image.open(path))
        if image.mode.startswith("I"):
            # 16-bit grey
            image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (255,) * 4), image)
        return np.array(image.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise whatever a damaged file provokes
        raise Fault(f"{what}: cannot read an image from {path}: {one_line(error)}") from None


def read_noise(path: str | Path) -> np.ndarray:
    """Return the array of a .npy file."""
    try:
        return np.asarray(np.load(path), np.float32)
    except Exception as error:
        raise Fault(f"--noise: cannot read an array from {path}: {one_line(error)}") from None


def one_line(error: Exception) -> str:
    """Return an error's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def letterbox(image: np.ndarray, height_px: int, width_px: int, fill: int) -> np.ndarray:
    """Return the full image, aspect ratio kept, centred in a frame whose margins are `fill`."""
    scale = min(height_px / image.shape[0], width_px / image.shape[1])
    height = min(height_px, max(1, round(image.shape[0] * scale)))
    width = min(width_px, max(1, round(image.shape[1] * scale)))
    if image.shape[:2] != (height, width):
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
        image = np.array(resized)
    frame = np.full((height_px, width_px, 3), fill, np.uint8)
    top, left = (height_px - height) // 2, (width_px - width) // 2
    frame[top : top + height, left : left + width] = image
    return frame


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", help="try_on, try_off, or another task of omfa.json")
    for name in COMPONENTS:
        parser.add_argument(f"--{name}", metavar="IMAGE")
    parser.add_argument("--pose", metavar="IMAGE", help="pose map (default: the model chooses)")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.png")
    parser.add_argument("--model", type=Path, default=Path(__file__).parent, metavar="DIR")
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps (default: %(default)s)")
    parser.add_argument(
        "--guidance", type=float, default=2.0, help="guidance scale, 1: off (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--noise", metavar="FILE.npy", help="noise (h, w, channels), replaces --seed"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Read the images, generate, write the results."""
    if options.out.suffix.lower() not in SUFFIXES:
        raise Fault(f"--out must end in {', '.join(SUFFIXES)}, got {options.out}")
    if not 0 <= options.guidance <= 1000:
        raise Fault(f"--guidance must be 0 to 1000, got {options.guidance}")
    if not 0 <= options.seed < 2**32:
        raise Fault(f"--seed must be 0 to {2**32 - 1}, got {options.seed}")
    files = {name: getattr(options, name) for name in COMPONENTS if getattr(options, name)}
    given = {name: read_picture(path, f"--{name}") for name, path in files.items()}
    pose = read_picture(options.pose, "--pose") if options.pose else None
    noise = read_noise(options.noise) if options.noise else None
    model = Model(options.model, options.device, options.dtype)
    made = model.generate(
        options.task,
        given,
        pose,
        steps=options.steps,
        guidance=options.guidance,
        seed=options.seed,
        noise=noise,
    )
    for name, image in made.items():
        # a task that generates several components writes a file for each
        path = (
            options.out if len(made) == 1 else options.out.with_stem(f"{options.out.stem}_{name}")
        )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        except OSError as error:
            raise Fault(f"--out: cannot write {path}: {one_line(error)}") from None
        print(f"wrote {path}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status (2: an error that the user can fix)."""
    try:
        run(parse(arguments))
    except Fault as fault:
        print(f"omfa_torch: {fault}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
