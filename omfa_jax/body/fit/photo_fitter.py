"""Fit of bodies to the landmarks of people in photos: points, depths of bones, then outlines."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from omfa_jax.body.body_model import BodyModel
from omfa_jax.body.fit.bone_depths import read_bone_depths
from omfa_jax.body.fit.fitter import FitResult, Fitter, PhotoHints
from omfa_jax.body.fit.keypoints import BLAZEPOSE
from omfa_jax.body.fit.outline_rows import make_no_points
from omfa_jax.body.fit.silhouette import find_outline_points
from omfa_jax.body.landmarks import PersonLandmarks


class PhotoFitter:
    """Fits bodies to people that `find_people` found; compiled once per batch size."""

    def __init__(self, model: BodyModel) -> None:
        self.model = model
        self.fitter = Fitter(model, BLAZEPOSE)

    def __call__(
        self, people: Sequence[PersonLandmarks], *, use_depth: bool = True, use_mask: bool = True
    ) -> list[FitResult]:
        """Return a body and camera for each person, in the photo of the person's mask.

        The first fit has no outline; the second has the mask's beside the first body's. Bad fits
        are returned as well; their reports have the reason of the rejection. `use_depth` and
        `use_mask` leave out the detector's depths and mask, for comparisons.
        """
        rows = np.stack([make_rows(person) for person in people])
        sizes = [person.mask.shape[::-1] for person in people]
        read = [read_bone_depths(BLAZEPOSE, p.world_m, p.confidence) for p in people]
        depths, weights = (np.stack(column) for column in zip(*read, strict=True))
        outline = make_no_points(len(people))
        hints = PhotoHints(depths, weights * use_depth, outline)
        fits = self.fitter(rows, sizes, hints)
        if not use_mask:
            return fits
        for i, (fit, person) in enumerate(zip(fits, people, strict=True)):
            # of a body that is elsewhere the outline says nothing
            if fit.report.accepted:
                found = find_outline_points(self.model, fit.params, fit.camera, person.mask)
                for array, values in zip(outline, found, strict=True):
                    array[i] = values
        return self.fitter(rows, sizes, hints)


def make_rows(person: PersonLandmarks) -> Float[np.ndarray, "33 3"]:
    """Return (x px, y px, confidence) of a person's landmarks, the rows of BLAZEPOSE."""
    return np.concatenate([person.points_px, person.confidence[:, None]], axis=1)
