"""Fit of bodies to the landmarks of people in photos: points, depths of bones, then outlines."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from omfa_jax.body.body_model import BodyModel
from omfa_jax.body.fit.bone_depths import read_bone_depths
from omfa_jax.body.fit.fitter import FitResult, Fitter
from omfa_jax.body.fit.keypoints import BLAZEPOSE
from omfa_jax.body.fit.outline_rows import make_no_points
from omfa_jax.body.fit.silhouette import find_outline_points
from omfa_jax.body.landmarks import PersonLandmarks

# how often the outline is looked for again on the body that the last one gave
OUTLINE_ROUNDS = 3


class PhotoFitter:
    """Fits bodies to people that `find_people` found; compiled once per batch size."""

    def __init__(self, model: BodyModel) -> None:
        self.model = model
        self.fitter = Fitter(model, BLAZEPOSE)

    def __call__(
        self, people: Sequence[PersonLandmarks], *, use_depth: bool = True, use_mask: bool = True
    ) -> list[FitResult]:
        """Return a body and camera for each person, in the photo of the person's mask.

        The first fit has no outline; then the mask's beside the body's moves it in a few rounds.
        Bad fits are returned as well; their reports have the reason of the rejection. `use_depth`
        and `use_mask` leave out the detector's depths and mask, for comparisons.
        """
        rows = np.stack([make_rows(person) for person in people])
        sizes = [person.mask.shape[::-1] for person in people]
        read = [read_bone_depths(BLAZEPOSE, p.world_m, p.confidence) for p in people]
        values, weights = (np.stack(column) for column in zip(*read, strict=True))
        depths = (values, weights * use_depth)
        fits = self.fitter(rows, sizes, depths)
        for _ in range(OUTLINE_ROUNDS if use_mask else 0):
            outlines = make_no_points(len(people))
            for i, (fit, person) in enumerate(zip(fits, people, strict=True)):
                # of a body that is elsewhere the outline says nothing
                if fit.report.accepted:
                    found = find_outline_points(self.model, fit.params, fit.camera, person.mask)
                    for array, given in zip(outlines, found, strict=True):
                        array[i] = given
            fits = self.fitter.refine(fits, outlines, rows, sizes, depths)
        return fits


def make_rows(person: PersonLandmarks) -> Float[np.ndarray, "33 3"]:
    """Return (x px, y px, confidence) of a person's landmarks, the rows of BLAZEPOSE."""
    return np.concatenate([person.points_px, person.confidence[:, None]], axis=1)
