"""Small studies for tests: planned from the base config, nothing trained."""

from omfa_jax.cli.main import main
from omfa_jax.studies.study_manifest import read_study

BASE = "configs/base.py"
SMALL = (
    "--config.canvas.garment=(128, 96)",
    "--config.canvas.person=(128, 96)",
    "--config.canvas.face=(64, 64)",
    "--config.model.init_unet=false",
)
RATES = ("--flops-per-second", "1e12")


def plan(out, *flags, sizes="tiny,xs", status=0):
    command = ["scaling", "plan", "--config", BASE, "--out", str(out), "--sizes", sizes]
    assert main([*command, "--dataset-size", "640", *RATES, *SMALL, *flags]) == status
    return read_study(out) if status == 0 else None
