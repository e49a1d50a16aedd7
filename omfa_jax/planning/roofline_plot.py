"""A roofline's picture: one bar of a step's time, stacked by part of the network."""

import io
from typing import Any


def draw_parts(found: dict[str, Any], title: str, form: str) -> bytes:
    """Return the picture of `roofline_report.summarize`'s figures, encoded as "png" or "svg".

    Two bars: the shares of the step's time and of the bytes moved.
    """
    from matplotlib import colormaps, rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # without pyplot, which looks for a display and keeps global state
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    names = {"seconds": "time", "moved_bytes": "bytes moved"}
    left = dict.fromkeys(names, 0.0)
    for index, (part, costs) in enumerate(found["parts"].items()):
        shares = []
        for kind in names:
            total = sum(other[kind] for other in found["parts"].values())
            shares.append(100 * costs[kind] / total if total else 0.0)
        bars = axis.barh(
            list(names.values()),
            shares,
            left=list(left.values()),
            color=colormaps["tab10"](index),
            label=part,
        )
        axis.bar_label(
            bars, [f"{share:.0f}%" if share >= 4 else "" for share in shares], label_type="center"
        )
        left = {kind: left[kind] + share for kind, share in zip(names, shares, strict=True)}
    axis.set_xlim(0, 100)
    axis.set_xlabel("share, %")
    axis.set_title(f"{title}: {found['seconds'] * 1e3:.0f} ms, MFU bound {found['mfu_bound']:.1%}")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    buffer = io.BytesIO()
    # without the date and random ids, the same roofline gives the same bytes
    metadata = {"Date": None} if form == "svg" else {}
    with rc_context({"svg.hashsalt": "roofline", "svg.fonttype": "none"}):
        figure.savefig(buffer, format=form, dpi=130, metadata=metadata)
    return buffer.getvalue()
