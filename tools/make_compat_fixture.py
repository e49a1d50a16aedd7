"""Make tests/fixtures/before_renaming.tar.xz: small files of every kind that a release must read.

    git worktree add /tmp/old 3825719
    cp tools/make_compat_fixture.py /tmp/old/
    cd /tmp/old && python make_compat_fixture.py --out before_renaming.tar.xz

The archive in the tree was written by commit 3825719, before the renaming of flags, config keys,
modules and classes. The script uses the command line only, and no flag that was renamed, so it runs
at that commit and at later ones alike. It takes a few minutes on two cores and needs the
packages `diffusers` and `torch`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path.cwd()
CONFIG = str(ROOT / "configs" / "tiny.py")
CANVAS = (
    "--config.canvas.garment=(64, 48)",
    "--config.canvas.person=(64, 48)",
    "--config.canvas.face=(32, 32)",
    "--config.model.init_unet=true",
)
TRAIN = (
    *CANVAS,
    "--config.model.init=imported",
    "--config.data.latents=latents",
    "--config.train.batch_size=8",
    "--config.log.every_steps=1",
    "--config.log.samples_every_steps=0",
)
KEPT = ("records", "latents", "imported", "exported", "run", "study", "scores.json")


def main() -> None:
    """Make the files in a temporary folder and pack them."""
    parser = argparse.ArgumentParser(description="Make files that later releases must read.")
    parser.add_argument("--out", type=Path, required=True, help="archive to write (.tar.xz)")
    out = parser.parse_args().out.absolute()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_sources(folder)
        make_data(folder)
        make_models(folder)
        make_study(folder)
        pack(folder, out)
    print(f"{out}: {out.stat().st_size} bytes")


def run(folder: Path, *command: str) -> None:
    """Run one command of the package with `folder` as the working directory."""
    # relative paths keep the names of this machine's folders out of the archive
    python_path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {"JAX_PLATFORMS": "cpu", "TQDM_DISABLE": "1", "PYTHONPATH": python_path}
    print("$", *command, flush=True)
    subprocess.run(command, cwd=folder, check=True, env=os.environ | environment)


def omfa(folder: Path, *arguments: str) -> None:
    """Run `omfa` with these arguments."""
    run(folder, sys.executable, "-m", "omfa_jax.cli.main", *arguments)


def make_sources(folder: Path) -> None:
    """Write a diffusers folder of random networks, as small as SDXL's layout allows."""
    import diffusers as untyped
    import torch

    # its annotations name one-level networks only
    diffusers: Any = untyped
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1),
        attention_head_dim=(1, 2),
        cross_attention_dim=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=8 + 6 * 4,
        norm_num_groups=4,
        use_linear_projection=True,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 4, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        scaling_factor=0.13025,
    )
    unet.save_pretrained(folder / "source" / "unet")
    vae.save_pretrained(folder / "source" / "vae")
    scheduler = folder / "source" / "scheduler" / "scheduler_config.json"
    scheduler.parent.mkdir()
    fields = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
    scheduler.write_text(json.dumps(fields))


def make_data(folder: Path) -> None:
    """Write a raw folder, its records, and scores of images that do not match."""
    people = ("--train", "8", "--val", "2", "--test", "2", "--height", "64", "--width", "48")
    omfa(folder, "data", "synthesize", "--out", "raw", *people, "--processes", "1")
    omfa(folder, "data", "poses", "--raw", "raw", "--style", "positions", "--processes", "1")
    omfa(folder, "data", "build", "--raw", "raw", "--out", "records", "--processes", "1")
    truth = folder / "raw" / "test" / "image"
    names = sorted(path.name for path in truth.iterdir())
    (folder / "predicted").mkdir()
    for name, other in zip(names, names[::-1], strict=True):
        shutil.copyfile(truth / other, folder / "predicted" / name)
    flags = ("--protocol", "omfa", "--setting", "paired", "--metrics", "ssim,psnr")
    where = ("--pred", "predicted", "--gt", "raw/test/image", "--out", "scores.json")
    omfa(folder, "eval", *where, *flags)


def make_models(folder: Path) -> None:
    """Write the imported folder, the latents, a run of two steps, and its export."""
    convert = (sys.executable, str(ROOT / "convert_weights.py"))
    config = ("--config", CONFIG, *CANVAS)
    flags = ("--out", "imported", "--null-prompts")
    run(folder, *convert, "import", "source", *flags, *config)
    latents = ("--records", "records", "--model", "imported", "--out", "latents")
    omfa(folder, "data", "latents", *latents, *config)
    steps = ("--config.train.steps=2", "--config.checkpoint.every_steps=1")
    omfa(folder, "train", "--config", CONFIG, "--workdir", "run", *TRAIN, *steps)
    # one checkpoint is enough
    shutil.rmtree(folder / "run" / "checkpoints" / "1")
    run(folder, *convert, "export", "run", "--out", "exported", "--dtype", "fp16")


def make_study(folder: Path) -> None:
    """Write a study of two runs, one of which is finished."""
    sizes = ("--sizes", "tiny", "--samples", "400,408")
    flags = (*TRAIN, "--config.model.init_unet=false")
    omfa(folder, "scaling", "plan", "--config", CONFIG, "--out", "study", *sizes, *flags)
    omfa(folder, "scaling", "run", "study", "--index", "0")
    for path in (folder / "study" / "runs").glob("*/*"):
        if path.name != "result.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def pack(folder: Path, out: Path) -> None:
    """Pack the kept files with fixed times and owners."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime, member.uid, member.gid, member.uname, member.gname = 0, 0, 0, "", ""
        return member

    with tarfile.open(out, "w:xz", preset=9) as archive:
        for name in KEPT:
            archive.add(folder / name, f"before_renaming/{name}", filter=plain)


if __name__ == "__main__":
    main()
