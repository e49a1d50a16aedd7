"""The demo's report: results, image sheets, and commands to try next."""

from pathlib import Path
from typing import Any

from omfa_jax.core.images import write_image
from omfa_jax.evals.demo_photo import FOUND, KNOWN, OTHER, PHOTO_ALONE
from omfa_jax.evals.report.example_gallery import GallerySettings
from omfa_jax.evals.report.html_page import HtmlPage
from omfa_jax.evals.report.report_page import add_report_sections
from omfa_jax.evals.report.svg_curves import read_loss_curve
from omfa_jax.evals.scores_file import read_scores
from omfa_jax.sampling.image_sheet import draw_sheet

CELL_PX = (128, 96)

NEXT_COMMANDS = """export PATH=.venv/bin:$PATH
# put a garment on a person: two pictures are enough; use your own (any format that Pillow reads)
omfa sample --checkpoint {workdir}/train --task try_on --out {workdir}/mine \\
    --garment {workdir}/world/test/cloth/90001_00.jpg --person {workdir}/photo_alone/90000_00.jpg

# the same in a pose of the library, or in that of another photo or of a body (.npz)
omfa sample --checkpoint {workdir}/train --task try_on --out {workdir}/posed \\
    --garment {workdir}/world/test/cloth/90001_00.jpg --person {workdir}/photo_alone/90000_00.jpg \\
    --pose hands_on_hips

# take a garment off
omfa sample --checkpoint {workdir}/train --task try_off --out {workdir}/mine \\
    --person {workdir}/world/test/image/90001_00.jpg

# continue training: the same command resumes after an interruption
omfa train --config configs/demo.py --workdir {workdir}/train \\
    --config.model.init={workdir}/imported --config.data.records={workdir}/records \\
    --config.data.latents={workdir}/latents --config.train.steps=500

# export to PyTorch
python convert_weights.py export {workdir}/train --out exported --dtype fp16"""


def format_path(workdir: Path) -> str:
    """Return the folder relative to the current one, where possible."""
    here = Path.cwd()
    # short in the commands of the report, which are copied and run from here
    return str(workdir.relative_to(here) if workdir.is_relative_to(here) else workdir)


def write_report(
    workdir: Path, trained: Path, sheets: dict[str, Any], scores: dict[str, Any]
) -> None:
    """Write report.html, and each image sheet as a PNG under sheets/."""
    seconds = scores["seconds"]
    page = HtmlPage(
        "omfa_jax demo",
        f"Held-out synthetic people and garments, scored against exact ground truth. "
        f"{scores['examples']} held-out examples, {scores['sampling_steps']} DDIM steps, guidance"
        f" 2.0; {sum(seconds.values()):.0f} s on {scores['machine']['cores']} cores.",
    )
    page.add_heading("Influence of each condition")
    page.add_text(
        "PSNR in dB with the right condition, and with another person's. The gain is 0 if the model"
        " ignores the condition."
    )
    page.add_table(
        ("condition", "right (dB)", "wrong (dB)", "gain (dB)", "at least 3 dB"),
        [
            (name, f["right_db"], f["wrong_db"], f["gain_db"], scores["bars"][name])
            for name, f in scores["influence"].items()
        ],
    )
    for index, (title, columns) in enumerate(sheets.items()):
        page.add_heading(title)
        if title == PHOTO_ALONE:
            add_photo_alone(page, scores["photo_alone"])
        sheet = draw_sheet(columns, *CELL_PX)
        name = f"{index + 1}_{title.split(':')[0].lower().replace(' ', '_')}.png"
        write_image(workdir / "sheets" / name, sheet)
        page.add_image(sheet, ", ".join(columns))
    page.add_heading("PSNR against exact ground truth (dB)")
    page.add_table(
        ("task", "image", "garment region"),
        [
            (name, f["whole"], f.get("garment_region", ""))
            for name, f in scores["exact_truth_psnr_db"].items()
        ],
    )
    ceiling = ", ".join(f"{name} {db}" for name, db in scores["vae_psnr_db"].items())
    page.add_text(f"Upper bound, the VAE's own reconstruction: {ceiling}.")
    against = scores["against_untrained"]
    page.add_text(
        f"Trained and untrained weights on the first {against['examples']} examples: try_on"
        f" {against['try_on_db'][0]} and {against['try_on_db'][1]}, try_off"
        f" {against['try_off_db'][0]} and {against['try_off_db'][1]}."
    )
    add_evaluation(page, workdir / "eval")
    page.add_heading("Training")
    page.add_line_plot(read_loss_curve(trained / "metrics.jsonl"), "steps", "loss")
    page.add_heading("Export to PyTorch")
    page.add_text(
        f"Outputs of the exported folder in diffusers, compared with JAX: {scores['export']}."
    )
    page.add_heading("Timings")
    page.add_table(("stage", "seconds"), list(seconds.items()))
    page.add_heading("Next")
    page.add_commands(NEXT_COMMANDS.format(workdir=format_path(workdir)))
    page.write(workdir / "report.html")


def add_photo_alone(page: HtmlPage, found: dict[str, Any]) -> None:
    """Add what was made from a photo alone: the loss against the known pose, or why nothing was."""
    width, height = found["photo_px"]
    page.add_text(
        f"A photo of a held-out person ({width}x{height} px, like a camera's) and a garment that"
        " they never wore are all that is given: face, body and pose are found in the photo. `omfa"
        " sample` does the same with your two pictures (see Next)."
    )
    if "reason" in found:
        page.add_warnings("Nothing was made of this photo", [found["reason"]])
        return
    rows = found["psnr_db"]
    page.add_table(
        ("pose", "PSNR over the person (dB)", "over the whole image (dB)"),
        [(name, rows[name]["person"], rows[name]["whole"]) for name in (FOUND, KNOWN, OTHER)],
    )
    other_loss = rows[KNOWN]["person"] - rows[OTHER]["person"]
    page.add_text(
        "Compared with the picture in the known pose, over the person, the picture from the photo"
        f" alone is {format_loss(found['loss_db'])}, the one in another person's pose"
        f" {format_loss(other_loss)}. The three differ in the pose alone (same garment, face and"
        " noise); the truth is the person rendered in this garment. One person says little:"
        " bench/photo_influence.py measures many."
    )


def format_loss(loss_db: float) -> str:
    """Return "1.50 dB worse", or "better" for a negative loss."""
    return f"{abs(loss_db):.2f} dB {'worse' if loss_db >= 0 else 'better'}"


def add_evaluation(page: HtmlPage, folder: Path) -> None:
    """Add the sections of `omfa eval report` for the scores files of both models in `folder`."""
    files = [folder / f"{name}.json" for name in ("tiny", "untrained")]
    page.add_heading("Trained and untrained weights, scored by omfa eval")
    page.add_text(
        f"`omfa eval report {format_path(files[0])} {format_path(files[1])} --out page.html` writes"
        " this section. Metrics that need a pretrained network (--metric-weights) are left out."
    )
    add_report_sections(
        page,
        [read_scores(file) for file in files],
        beside=[file.parent for file in files],
        examples=GallerySettings(count=2, height_px=192),
    )
