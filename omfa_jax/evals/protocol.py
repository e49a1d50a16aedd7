"""What a protocol is: every choice between two folders of pictures and a number, as data."""

import dataclasses
import importlib
from dataclasses import dataclass, field
from typing import Any, Literal

from omfa_jax.core.errors import OmfaError, unknown

PROTOCOLS = ("omfa", "ladi512", "catvton1024", "tryoffdiff", "temu")

Filter = Literal["bilinear", "bicubic", "lanczos"]
Kind = Literal["ssim", "psnr", "lpips", "dists", "fid", "kid", "clip_fid", "clip_i", "dino"]


@dataclass(frozen=True)
class Prepare:
    """How a decoded picture (upright, RGB, 8 bits) becomes the one that a metric sees.

    `size_px` is (height, width): None leaves a prediction at the size of what it is compared with,
    and a picture of a set as it is. All filters are Pillow's, on 8 bits, with antialiasing.
    `pred_fit` holds for square predictions beside an upright ground truth: "stretch"; or
    "resize_then_crop", to a square of the height, then the middle columns; or "crop_then_resize",
    the middle columns in the size's aspect, then to the size. The background is never touched.
    """

    size_px: tuple[int, int] | None = None
    filter: Filter = "lanczos"
    pred_fit: Literal["stretch", "resize_then_crop", "crop_then_resize"] = "stretch"


AS_IT_IS = Prepare()


@dataclass(frozen=True)
class MetricChoice:
    """One number of a protocol: what computes it, from which pictures, and how it is printed.

    `against` says what a prediction is compared with: "truth" (its own ground truth picture),
    "garment" (the garment it was given) or "all_truth" (a set with a set). `options` are the
    metric's own, see `evals/metrics`.
    """

    kind: Kind
    label: str
    better: Literal["higher", "lower"]
    against: Literal["truth", "garment", "all_truth"]
    prepare: Prepare = AS_IT_IS
    scale: float = 1
    options: dict[str, Any] = field(default_factory=dict)

    def flat(self, key: str) -> dict[str, Any]:
        """Return the choices as {"key.choice": printable}."""
        size = self.prepare.size_px
        return {
            f"{key}.against": self.against,
            f"{key}.size": f"{size[0]}x{size[1]}" if size else "as it is",
            f"{key}.filter": self.prepare.filter,
            f"{key}.pred_fit": self.prepare.pred_fit,
            f"{key}.scale": self.scale,
            **{f"{key}.{name}": value for name, value in self.options.items()},
        }


@dataclass(frozen=True)
class Protocol:
    """A named protocol: its source, which sizes predictions may have, and its metrics by setting.

    `size_rule` holds for each prediction beside its ground truth: "same" size, "same_aspect"
    (within 1%), or "square_or_same_aspect". `deviations` are what the source does and we don't.
    """

    name: str
    source: str
    size_rule: Literal["same", "same_aspect", "square_or_same_aspect"]
    settings: dict[str, dict[str, MetricChoice]]
    deviations: tuple[str, ...] = ()

    def metrics(self, setting: str) -> dict[str, MetricChoice]:
        """Return {key: choice} of a setting; OmfaError if the protocol does not have it."""
        if setting not in self.settings:
            known = ", ".join(self.settings)
            raise OmfaError(
                f"protocol {self.name} has no setting {setting!r} (it has: {known});"
                " change --setting or --protocol"
            )
        return self.settings[setting]

    def choices(self, setting: str) -> dict[str, Any]:
        """Return every choice of a setting, flat and printable, for the scores file."""
        made: dict[str, Any] = {
            "source": self.source,
            "size_rule": self.size_rule,
            "colour": "RGB, 8 bits; transparency over white, EXIF rotation applied",
            "background": "as it is",
            "average": "each picture once",
        }
        if self.deviations:
            made["deviations"] = "; ".join(self.deviations)
        for key, choice in self.metrics(setting).items():
            made |= choice.flat(key)
        return made


def protocol(name: str) -> Protocol:
    """Return the protocol of that name; OmfaError with the nearest names if there is none."""
    if name not in PROTOCOLS:
        raise unknown("protocol (--protocol)", name, PROTOCOLS)
    return importlib.import_module(f"omfa_jax.evals.protocols.{name}").PROTOCOL


def with_options(choice: MetricChoice, **options: Any) -> MetricChoice:
    """Return the choice with some of its options changed."""
    return dataclasses.replace(choice, options={**choice.options, **options})
