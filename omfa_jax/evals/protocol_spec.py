"""Evaluation protocols as data: every choice between two folders of images and a number."""

import dataclasses
import importlib
from dataclasses import dataclass, field
from typing import Any, Literal

from omfa_jax.core.errors import OmfaError, make_unknown_name_error

PROTOCOLS = ("omfa", "ladi512", "catvton1024", "tryoffdiff", "temu")

Filter = Literal["bilinear", "bicubic", "lanczos"]
Kind = Literal["ssim", "psnr", "lpips", "dists", "fid", "kid", "clip_fid", "clip_i", "dino"]


@dataclass(frozen=True)
class ImagePreparation:
    """How a decoded image (upright 8-bit RGB) is resized for a metric.

    `size_px` is (height, width). None resizes a prediction to the image that it is compared with,
    and leaves images of a set unchanged. Filters are Pillow's, on 8 bits, with antialiasing.
    `pred_fit` applies to square predictions of an upright ground truth: "stretch"; or
    "resize_then_crop": resize to a square of the height, then take the middle columns; or
    "crop_then_resize": take the middle columns in the target aspect, then resize. The background
    is never changed.
    """

    size_px: tuple[int, int] | None = None
    filter: Filter = "lanczos"
    pred_fit: Literal["stretch", "resize_then_crop", "crop_then_resize"] = "stretch"


UNCHANGED = ImagePreparation()


@dataclass(frozen=True)
class MetricSpec:
    """One metric of a protocol: what computes it, from which images, and how it is printed.

    `against` is what a prediction is compared with: "truth" (its own ground truth), "garment" (its
    input garment) or "all_truth" (the set of predictions with the set of ground truth images).
    `options` are specific to the metric, see `evals/metrics`.
    """

    kind: Kind
    label: str
    better: Literal["higher", "lower"]
    against: Literal["truth", "garment", "all_truth"]
    prepare: ImagePreparation = UNCHANGED
    scale: float = 1
    options: dict[str, Any] = field(default_factory=dict)

    def flatten(self, key: str) -> dict[str, Any]:
        """Return the choices as {"key.choice": printable value}."""
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
    """A named protocol: its source, the allowed sizes of predictions, and its metrics by setting.

    `size_rule` compares each prediction with its ground truth: "same" size, "same_aspect" (within
    1%) or "square_or_same_aspect". `deviations` list where this code differs from the source.
    """

    name: str
    source: str
    size_rule: Literal["same", "same_aspect", "square_or_same_aspect"]
    settings: dict[str, dict[str, MetricSpec]]
    deviations: tuple[str, ...] = ()

    def get_metrics(self, setting: str) -> dict[str, MetricSpec]:
        """Return {key: choice} of a setting; OmfaError if the protocol has no such setting."""
        if setting not in self.settings:
            known = ", ".join(self.settings)
            raise OmfaError(
                f"protocol {self.name} has no setting {setting!r} (it has: {known});"
                " change --setting or --protocol"
            )
        return self.settings[setting]

    def flatten_choices(self, setting: str) -> dict[str, Any]:
        """Return every choice of a setting, flat and printable, for the scores file."""
        # compared between scores files: a changed text needs a row of REWORDED_CHOICES
        made: dict[str, Any] = {
            "source": self.source,
            "size_rule": self.size_rule,
            "colour": "RGB, 8 bits; transparency over white, EXIF rotation applied",
            "background": "as it is",
            "average": "each image once",
        }
        if self.deviations:
            made["deviations"] = "; ".join(self.deviations)
        for key, choice in self.get_metrics(setting).items():
            made |= choice.flatten(key)
        return made


def load_protocol(name: str) -> Protocol:
    """Load the protocol of that name; OmfaError with the nearest names if it is unknown."""
    if name not in PROTOCOLS:
        raise make_unknown_name_error("protocol (--protocol)", name, PROTOCOLS)
    # one import per use: `omfa eval --help` needs the names only
    return importlib.import_module(f"omfa_jax.evals.protocols.{name}").PROTOCOL


def replace_options(choice: MetricSpec, **options: Any) -> MetricSpec:
    """Return a copy of the choice with some of its options replaced."""
    return dataclasses.replace(choice, options={**choice.options, **options})
