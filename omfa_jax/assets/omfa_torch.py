"""Try-on and try-off with an exported OMFA model, in PyTorch and diffusers.

python omfa_torch.py try_on --garment shirt.png --face face.png --pose pose.png --out person.png
python omfa_torch.py try_off --person photo.png --face face.png --pose pose.png --out garment.png

One UNet denoises a canvas that has a slot for each of garment, person and face. A task noises some
of them; the others are given, stay clean and act as the condition. omfa.json, next to this file,
describes slots, tasks and UNet inputs. prompts.safetensors holds the text embeddings, so no text
encoder is needed. A person is written in the frame of their pose map, or of --person if given.
Requires torch, diffusers, safetensors, Pillow; omfa_jax to find face and pose in --person alone.
From Python: `Model(folder).generate("try_on", {"garment": image, "face": image}, pose)`.
"""

# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false

import argparse
import importlib.util
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

# also where this file is loaded by its path
sys.path.append(str(Path(__file__).parent))
from omfa_frame import (
    BLACK,
    WHITE,
    InputError,
    choose_frame,
    convert_profile,
    draw_person,
    format_error,
    letterbox,
    read,
    require_local,
    require_style,
)

COMPONENTS = ("garment", "person", "face")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SUFFIXES = (".png", ".jpg", ".jpeg")


class Model:
    """The networks and the description of an exported folder; `dtype` is that of the UNet."""

    def __init__(self, folder: Path, device: str = "cpu", dtype: str = "float32"):
        folder = Path(folder)
        for name in ("omfa.json", "prompts.safetensors", "unet/config.json", "vae/config.json"):
            if not (folder / name).is_file():
                raise InputError(f"{folder} has no {name}; --model expects an exported folder")
        self.dtype = DTYPES[dtype]
        try:
            self.device = torch.device(device)
            self._load(folder)
        except Exception as error:  # damaged files and missing devices raise errors of many types
            raise InputError(f"cannot load {folder} on {device}: {format_error(error)}") from None

    def _load(self, folder: Path) -> None:
        self.omfa = json.loads((folder / "omfa.json").read_text())
        sizes_px = map(tuple, self.omfa["slots_px"])  # (height, width) of each component's image
        self.slots_px: dict[str, tuple[int, int]] = dict(zip(COMPONENTS, sizes_px, strict=True))
        stride, channels = self.omfa["stride"], self.omfa["latent_channels"]
        sizes = [(height // stride, width // stride) for height, width in self.slots_px.values()]
        # each component's part of a canvas (1, channels, height, width)
        self.slots: dict[str, tuple[slice, ...]] = {}
        left = depth = 0
        for name, (height, width) in zip(COMPONENTS, sizes, strict=True):
            if self.omfa["layout"] == "channel":
                self.slots[name] = np.s_[:, depth : depth + channels]
                left, depth = width, depth + channels
            else:
                self.slots[name] = np.s_[:, :, :height, left : left + width]
                left, depth = left + width, channels
        # (height, width, channels), the shape of the noise
        self.canvas_shape = max(height for height, _ in sizes), left, depth
        # its config says whether float16 overflows in the VAE; latents are always float32
        upcast = AutoencoderKL.load_config(folder / "vae").get("force_upcast", True)
        self.vae_dtype = torch.float32 if upcast and self.dtype == torch.float16 else self.dtype
        # without accelerate, low_cpu_mem_usage=True only prints a long warning
        ram: dict[str, Any] = {"low_cpu_mem_usage": is_accelerate_available()}
        vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=self.vae_dtype, **ram)
        self.vae = vae.to(self.device).eval()
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=self.dtype, **ram)
        self.unet = unet.to(self.device).eval()
        self.scheduler_config = DDIMScheduler.load_config(folder / "scheduler")
        with safe_open(folder / "prompts.safetensors", framework="pt") as file:
            texts = json.loads(file.metadata()["prompts"])
            rows = [file.get_tensor(name) for name in ("context", "pooled")]
        context, pooled = (row.to(self.device, self.dtype).split(1) for row in rows)
        self.prompts = dict(zip(texts, zip(context, pooled, strict=True), strict=True))

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

        `given` holds the other components and `pose` a pose map in the person's frame, if any, as
        uint8 (h, w, 3) of any size. `noise`, of `canvas_shape`, replaces that of `seed`.
        """
        known = {row["name"]: row for row in self.omfa["tasks"]}
        if task not in known:
            raise InputError(f"unknown task {task!r}; this model has {', '.join(known)}")
        row = known[task]
        missing = [c for c in COMPONENTS if c not in row["noised"] and c not in given]
        if missing:
            raise InputError(f"{task} needs {' and '.join(f'--{name}' for name in missing)}")
        train_steps = self.omfa["schedule"]["train_steps"]
        if not 1 <= steps <= train_steps:
            raise InputError(f"--steps must be 1 to {train_steps}, got {steps}")
        scheduler = DDIMScheduler.from_config(self.scheduler_config)
        scheduler.set_timesteps(steps)
        # Tweedie's formula divides by alpha, which is zero there
        alpha = scheduler.alphas_cumprod[scheduler.timesteps[0]]
        if self.omfa["prediction"] == "epsilon" and alpha == 0:
            raise InputError(f"--steps {steps} starts at pure noise, where epsilon is undefined")
        if noise is not None and noise.shape != self.canvas_shape:
            raise InputError(f"--noise must have shape {self.canvas_shape}, got {noise.shape}")
        random = torch.Generator().manual_seed(seed)  # on the CPU: the same noise on every device
        start = torch.randn(self.canvas_shape, generator=random) if noise is None else noise
        start = torch.as_tensor(start).permute(2, 0, 1)[None].to(self.device)
        clean, mask, poses = torch.zeros(3, *start.shape, device=self.device)
        for name, image in given.items():
            if name not in row["noised"]:
                clean[self.slots[name]] = self._encode(image, name, WHITE)
        for name in row["noised"]:
            mask[self.slots[name]] = 1
        if pose is not None:
            poses[self.slots["person"]] = self._encode(pose, "person", BLACK)

        x = torch.where(mask > 0, start, clean)
        # with guidance, a second example is unconditional: its given components and pose are zero
        prompts = [row["prompt"]] if guidance == 1 else [row["prompt"], ""]
        masks = torch.cat([mask, mask])[: len(prompts)]
        poses = torch.cat([poses, torch.zeros_like(poses)])[: len(prompts)]
        for t in scheduler.timesteps:
            batch = torch.cat([x, x * mask])[: len(prompts)]
            output = self._predict(batch, masks, poses, t, prompts)
            if guidance != 1:
                output, null = output.chunk(2)
                output = null + guidance * (output - null)
            x = torch.where(mask > 0, scheduler.step(output, t, x).prev_sample, clean)
        return {name: self._decode(x[self.slots[name]]) for name in row["noised"]}

    def _predict(
        self, x: torch.Tensor, mask: torch.Tensor, poses: torch.Tensor, t: Any, prompts: list[str]
    ) -> torch.Tensor:
        parts = {
            "noisy": x,
            # one channel; one per component if components are stacked on channels
            "mask": mask[:, :: self.omfa["latent_channels"]],
            "clean": torch.where(mask > 0, 0.0, x),
            "pose": poses,
        }
        inputs = torch.cat([parts[name] for name in self.omfa["unet_inputs"]], dim=1).to(self.dtype)
        context, pooled = map(torch.cat, zip(*(self.prompts[p] for p in prompts), strict=True))
        height, width = self.slots_px["person"]
        sizes = torch.tensor([[height, width, 0, 0, height, width]] * len(x), device=self.device)
        added = {"text_embeds": pooled, "time_ids": sizes}
        return self.unet(inputs, t.to(self.device), context, added_cond_kwargs=added).sample.float()

    def _encode(self, image: np.ndarray, name: str, fill: int) -> torch.Tensor:
        pixels = torch.from_numpy(letterbox(image, *self.slots_px[name], fill))
        signed = pixels.permute(2, 0, 1)[None].float() * (2 / 255) - 1
        posterior = self.vae.encode(signed.to(self.device, self.vae_dtype)).latent_dist
        return posterior.mean.float() * self.vae.config.scaling_factor

    def _decode(self, latents: torch.Tensor) -> np.ndarray:
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae_dtype)
        image = self.vae.decode(scaled).sample[0].float().permute(1, 2, 0).cpu()
        return ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def load_image(path: str | Path) -> np.ndarray:
    """Return an image file as upright sRGB, uint8 (h, w, 3); white shows through transparency."""
    if importlib.util.find_spec("pillow_heif") or Path(path).read_bytes()[4:11] == b"ftyphei":
        importlib.import_module("pillow_heif").register_heif_opener()
    image = ImageOps.exif_transpose(Image.open(path))
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's convert would clip to 255
        image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
    layer = image.convert("RGBA") if image.has_transparency_data else None
    image = convert_profile(image, profile) if profile else image.convert("RGB")
    if layer is not None:
        image.putalpha(layer.getchannel("A"))
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255,) * 4), image)
    return np.array(image.convert("RGB"))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add, default = parser.add_argument, "(default: %(default)s)"
    add("task", help="try_on, try_off, or another task of omfa.json")
    for name in COMPONENTS:
        add(f"--{name}", metavar="IMAGE")
    add("--pose", metavar="IMAGE", help="pose map (default: of --person, drawn by omfa_jax)")
    add("--null-pose", action="store_true", help="let the model choose the pose")
    add("--out", required=True, type=Path, metavar="FILE.png")
    add("--model", type=Path, default=Path(__file__).parent, metavar="DIR", help=default)
    add("--steps", type=int, default=50, help=f"DDIM steps {default}")
    add("--guidance", type=float, default=2.0, help=f"guidance scale; 1 disables it {default}")
    add("--no-crop", action="store_true", help="letter-box all of a photo with a small person")
    add("--native-size", action="store_true", help="write people at the model's size")
    add("--seed", type=int, default=0, help=default)
    add("--noise", metavar="FILE.npy", help="noise (height, width, channels); replaces --seed")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help=default)
    add("--dtype", choices=DTYPES, default="float32", help=default)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Read the images, generate, and write the results."""
    for name in (*COMPONENTS, "pose", "noise", "model", "out"):
        require_local(getattr(options, name) or "", f"--{name}")
    if options.out.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out must end in {', '.join(SUFFIXES)}, got {options.out}")
    if not 0 <= options.guidance <= 1000:
        raise InputError(f"--guidance must be 0 to 1000, got {options.guidance}")
    if not 0 <= options.seed < 2**32:
        raise InputError(f"--seed must be 0 to {2**32 - 1}, got {options.seed}")
    files = {name: getattr(options, name) for name in COMPONENTS if getattr(options, name)}
    given = {name: read(path, f"--{name}", load_image) for name, path in files.items()}
    pose = None
    if options.person and not options.pose and not options.null_pose:
        found, pose = draw_person(options.model, options.task, options.person, "face" in given)
        given |= found
    if options.pose:
        require_style(options.pose, options.model)
        pose = read(options.pose, "--pose", load_image)
    noise = options.noise and read(options.noise, "--noise", lambda file: np.float32(np.load(file)))
    model = Model(options.model, options.device, options.dtype)
    settings = {name: getattr(options, name) for name in ("steps", "guidance", "seed")}
    photo = given.get("person")
    frame = choose_frame(photo, pose, model.slots_px["person"], crop=not options.no_crop)
    if frame and frame.crop:
        print(f"cropped to the part of the photo around the person: {frame.crop}")
        given["person"], pose = frame.cut(photo), frame.cut(pose)
    results = model.generate(options.task, given, pose, noise=noise, **settings)
    if frame and "person" in results and not options.native_size:
        results["person"] = frame.restore(results["person"], photo)
    for name, image in results.items():
        stem = options.out.stem if len(results) == 1 else f"{options.out.stem}_{name}"
        path = options.out.with_stem(stem)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        except OSError as error:
            raise InputError(f"--out: cannot write {path}: {format_error(error)}") from None
        print(f"wrote {path}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status, 2 for an error in the input."""
    try:
        run(parse_arguments(arguments))
    except InputError as error:
        print(f"omfa_torch: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
