"""muP's coordinate check and the best learning rate by width, as a plot and a table.

    PYTHONPATH=.:tests python bench/mup_sweep.py --out docs/mup.png [--json FILE]

A UNet of two levels at several widths (tests/coordinates.py), AdamW, one batch. Needs matplotlib.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from coordinates import add_base, moved, slopes, trained

MODES = {"without muP": False, "with muP": True}
CHECK_RATE, CHECK_STEPS = 1e-3, 4


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--rates", type=float, nargs="*", default=[2.0**k for k in range(-12, -5)])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--json", type=Path, help="cache of the figures, written as they are measured"
    )
    options = parser.parse_args()
    add_base()
    figures = {"moved": {}, "losses": {}}
    if options.json and options.json.exists():
        figures = json.loads(options.json.read_text())

    def keep() -> None:
        if options.json:
            options.json.write_text(json.dumps(figures))

    for width in options.widths:
        for mode, with_mup in MODES.items():
            key = f"{mode}, {width}"
            if key not in figures["moved"]:
                figures["moved"][key] = moved(width, CHECK_RATE, CHECK_STEPS, with_mup=with_mup)
                keep()
                print("moved", key, flush=True)
    for mode in MODES:
        found = {w: figures["moved"][f"{mode}, {w}"] for w in options.widths}
        for which, what in enumerate(("size", "change")):
            exponents = slopes(found, which)
            print(f"{mode}, {what}: exponents {summary(exponents)}", flush=True)
    for width in options.widths:
        for mode, with_mup in MODES.items():
            for rate in options.rates:
                key = f"{mode}, {width}, {rate}"
                if key not in figures["losses"]:
                    losses = trained(width, rate, options.steps, with_mup=with_mup)[0]
                    figures["losses"][key] = float(np.mean(losses[-5:]))
                    keep()
            row = {r: figures["losses"][f"{mode}, {width}, {r}"] for r in options.rates}
            if row:
                best = min(row, key=lambda rate: row[rate])
                print(f"{mode}, width {width}: best rate 2^{np.log2(best):.0f},", end=" ")
                print(" ".join(f"{loss:.4f}" for loss in row.values()), flush=True)
    draw(options, figures)


def summary(exponents: dict[str, float]) -> str:
    """Return the minimum, median and maximum of the exponents, and the last layer's."""
    values = np.array(list(exponents.values()))
    return (
        f"{values.min():.2f} to {values.max():.2f}, median {np.median(values):.2f},"
        f" conv_out {exponents['conv_out']:.2f}"
    )


def draw(options: argparse.Namespace, figures: dict) -> None:
    """Write the plot: change of outputs by width above, loss by learning rate below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = 2 if options.rates else 1
    figure, axes = plt.subplots(rows, 2, figsize=(9, 3.6 * rows), squeeze=False, sharey="row")
    for column, mode in enumerate(MODES):
        axis = axes[0, column]
        names = figures["moved"][f"{mode}, {options.widths[0]}"]
        for name in names:
            line = [figures["moved"][f"{mode}, {w}"][name][1] for w in options.widths]
            last = name == "conv_out"
            axis.loglog(
                options.widths,
                line,
                color="crimson" if last else "steelblue",
                linewidth=2 if last else 0.7,
                alpha=1 if last else 0.5,
            )
        axis.set_xticks(options.widths, [str(w) for w in options.widths])
        axis.minorticks_off()
        axis.set_title(f"{mode}: mean change of each layer's output\n{CHECK_STEPS} steps")
        axis.set_xlabel("width (red: the last convolution)")
        if rows == 1:
            continue
        axis = axes[1, column]
        for width in options.widths:
            line = [figures["losses"][f"{mode}, {width}, {rate}"] for rate in options.rates]
            axis.plot(np.log2(options.rates), line, marker=".", label=f"width {width}")
        axis.set_title(f"{mode}: loss after {options.steps} steps")
        axis.set_xlabel("log2 of the learning rate")
        axis.set_yscale("log")
        axis.legend()
    figure.tight_layout()
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
