"""The demo's report: results, image sheets, and commands to try next."""

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
# put a garment on a person; use your own images here (any format that Pillow reads)
omfa sample --checkpoint {workdir}/train --task try_on --out {workdir}/mine \\
    --garment {workdir}/world/test/cloth/90003_00.jpg \\
    --person {workdir}/world/test/image/90001_00.jpg \\
    --pose {workdir}/world/test/smplx/90001_00.npz

# take a garment off
omfa sample --checkpoint {workdir}/train --task try_off --out {workdir}/mine \\
    --person {workdir}/world/test/image/90001_00.jpg

# continue training: the same command resumes after an interruption
omfa train --config configs/demo.py --workdir {workdir}/train \\
    --config.model.init={workdir}/imported --config.data.records={workdir}/records \\
    --config.data.latents={workdir}/latents --config.train.steps=500

# export to PyTorch
python convert_weights.py export {workdir}/train --out exported --dtype fp16"""


def shown_path(workdir: Path) -> str:
    """Return the folder relative to the current one, where possible."""
    here = Path.cwd()
    return str(workdir.relative_to(here) if workdir.is_relative_to(here) else workdir)


def write_report(
    workdir: Path, trained: Path, pictures: dict[str, Any], scores: dict[str, Any]
) -> None:
    """Write report.html, and each image sheet as a PNG under sheets/."""
    seconds = scores["seconds"]
    page = Page(
        "omfa_jax demo",
        f"Held-out synthetic people and garments, scored against exact ground truth. "
        f"{scores['examples']} held-out examples, {scores['sampling_steps']} DDIM steps, guidance"
        f" 2.0; {sum(seconds.values()):.0f} s on {scores['machine']['cores']} cores.",
    )
    page.heading("Influence of each condition")
    page.text(
        "PSNR in dB with the right condition, and with another person's. The gain is 0 if the model"
        " ignores the condition."
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
    page.heading("PSNR against exact ground truth (dB)")
    page.table(
        ("task", "image", "garment region"),
        [
            (name, f["whole"], f.get("garment_region", ""))
            for name, f in scores["exact_truth_psnr_db"].items()
        ],
    )
    ceiling = ", ".join(f"{name} {db}" for name, db in scores["vae_psnr_db"].items())
    page.text(f"Upper bound, the VAE's own reconstruction: {ceiling}.")
    against = scores["against_untrained"]
    page.text(
        f"Trained and untrained weights on the first {against['examples']} examples: try_on"
        f" {against['try_on_db'][0]} and {against['try_on_db'][1]}, try_off"
        f" {against['try_off_db'][0]} and {against['try_off_db'][1]}."
    )
    evaluated(page, workdir / "eval")
    page.heading("Training")
    page.curve(loss_curve(trained / "metrics.jsonl"), "steps", "loss")
    page.heading("Export to PyTorch")
    page.text(
        f"Outputs of the exported folder in diffusers, compared with ours: {scores['export']}."
    )
    page.heading("Timings")
    page.table(("stage", "seconds"), list(seconds.items()))
    page.heading("Next")
    page.commands(NEXT.format(workdir=shown_path(workdir)))
    page.write(workdir / "report.html")


def evaluated(page: Page, folder: Path) -> None:
    """Add the sections of `omfa eval report` for the scores files of both models in `folder`."""
    files = [folder / f"{name}.json" for name in ("tiny", "untrained")]
    page.heading("Trained and untrained weights, scored by omfa eval")
    page.text(
        f"`omfa eval report {shown_path(files[0])} {shown_path(files[1])} --out page.html` writes"
        " this section. Metrics that need a pretrained network (--metric-weights) are left out."
    )
    sections(
        page,
        [read_scores(file) for file in files],
        beside=[file.parent for file in files],
        examples=ExampleSettings(count=2, height_px=192),
    )
