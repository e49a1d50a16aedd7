"""The demo's page: what was done, how well, and what to type next."""

from pathlib import Path
from typing import Any

from omfa_jax.core.images import write_image
from omfa_jax.evals.curves import loss_curve
from omfa_jax.evals.gallery import ExampleSettings
from omfa_jax.evals.page import Page
from omfa_jax.evals.report import sections
from omfa_jax.evals.scores import read_scores
from omfa_jax.sampling.sheet import sheet

CELL_PX = (128, 96)

NEXT = """export PATH=.venv/bin:$PATH
# try a garment on, with files of your own (any image Pillow reads)
omfa sample --checkpoint {workdir}/train --task try_on --out {workdir}/mine \\
    --garment {workdir}/world/test/cloth/90003_00.jpg \\
    --person {workdir}/world/test/image/90001_00.jpg \\
    --pose {workdir}/world/test/smplx/90001_00.npz

# take one off
omfa sample --checkpoint {workdir}/train --task try_off --out {workdir}/mine \\
    --person {workdir}/world/test/image/90001_00.jpg

# train on: the same command resumes
omfa train --config configs/demo.py --workdir {workdir}/train \\
    --config.model.init={workdir}/imported --config.data.records={workdir}/records \\
    --config.data.latents={workdir}/latents --config.train.steps=500

# serve it from PyTorch
python convert_weights.py export {workdir}/train --out exported --dtype fp16"""


def shown_path(workdir: Path) -> str:
    """Return the folder as one would type it from here."""
    here = Path.cwd()
    return str(workdir.relative_to(here) if workdir.is_relative_to(here) else workdir)


def write_report(
    workdir: Path, trained: Path, pictures: dict[str, Any], scores: dict[str, Any]
) -> None:
    """Write report.html and every sheet as a PNG of its own."""
    seconds = scores["seconds"]
    page = Page(
        "omfa_jax demo",
        f"Synthetic people and garments the model never saw, scored against exact truth. "
        f"{scores['examples']} held-out examples, {scores['sampling_steps']} DDIM steps, guidance"
        f" 2.0; {sum(seconds.values()):.0f} s on {scores['machine']['cores']} cores.",
    )
    page.heading("Does every condition count?")
    page.text(
        "PSNR in dB with the right condition and with another person's. A model that ignores the"
        " condition gains nothing."
    )
    page.table(
        ("condition", "right (dB)", "wrong (dB)", "gain (dB)", "at least 3 dB"),
        [
            (name, f["right_db"], f["wrong_db"], f["gain_db"], scores["bars"][name])
            for name, f in scores["influence"].items()
        ],
    )
    for index, (title, columns) in enumerate(pictures.items()):
        page.heading(title)
        picture = sheet(columns, *CELL_PX)
        name = f"{index + 1}_{title.split(':')[0].lower().replace(' ', '_')}.png"
        write_image(workdir / "sheets" / name, picture)
        page.picture(picture, ", ".join(columns))
    page.heading("Against exact truth (PSNR, dB)")
    page.table(
        ("task", "whole picture", "garment region"),
        [
            (name, f["whole"], f.get("garment_region", ""))
            for name, f in scores["exact_truth_psnr_db"].items()
        ],
    )
    ceiling = ", ".join(f"{name} {db}" for name, db in scores["vae_psnr_db"].items())
    page.text(f"The VAE alone, the ceiling: {ceiling}.")
    against = scores["against_untrained"]
    page.text(
        f"Trained against untrained weights, the first {against['examples']} examples: try_on"
        f" {against['try_on_db'][0]} against {against['try_on_db'][1]}, try_off"
        f" {against['try_off_db'][0]} against {against['try_off_db'][1]}."
    )
    evaluated(page, workdir / "eval")
    page.heading("Training")
    page.curve(loss_curve(trained / "metrics.jsonl"), "steps", "loss")
    page.heading("Export to PyTorch")
    page.text(f"The exported folder, run by diffusers, against this library: {scores['export']}.")
    page.heading("Timings")
    page.table(("stage", "seconds"), list(seconds.items()))
    page.heading("Next")
    page.commands(NEXT.format(workdir=shown_path(workdir)))
    page.write(workdir / "report.html")


def evaluated(page: Page, folder: Path) -> None:
    """Add what `omfa eval report` says of the try-on scores files in `folder`: both models'."""
    files = [folder / f"{name}.json" for name in ("tiny", "untrained")]
    page.heading("Trained against untrained, as omfa eval sees them")
    page.text(
        f"omfa eval report {shown_path(files[0])} {shown_path(files[1])} --out page.html makes this"
        " part alone. What needs a pretrained network (--metric-weights) is not computed here."
    )
    sections(
        page,
        [read_scores(file) for file in files],
        beside=[file.parent for file in files],
        examples=ExampleSettings(count=2, height_px=192),
    )
