"""From SMPL estimates to SMPL-X parameters: joint by joint, or mesh to mesh."""

import os
from dataclasses import dataclass

import numpy as np

from omfa_jax.body.correspondence import Correspondence, load_correspondence
from omfa_jax.body.model import BodyModel
from omfa_jax.body.params import BodyParams, neutral
from omfa_jax.body.smpl import WHERE_FROM, SmplBody, SmplModel, forward_smpl, load_smpl
from omfa_jax.body.smpl_fit import fit_mesh
from omfa_jax.core.errors import OmfaError, unknown

METHODS = ("copy21", "fit")

# SMPL's pelvis before posing, mean shape, metres: its files differ by gender, by 1 cm or so
MEAN_REST_PELVIS = np.array([-0.002, -0.23, 0.028])

_FIT_NEEDS = (
    "--smpl-to-smplx fit compares meshes and needs --smplx-model SMPLX_NEUTRAL.npz, --smpl-model"
    " SMPL_NEUTRAL.pkl and --correspondence smpl2smplx_deftrafo_setup.pkl; missing: {missing}."
    f" SMPL: {WHERE_FROM}; SMPL-X and its model_transfer.zip: https://smpl-x.is.tue.mpg.de"
)


@dataclass(frozen=True, eq=False)
class SmplToSmplx:
    """How SMPL bodies become SMPL-X parameters for one SMPL-X model.

    `copy21` copies the rotations of the pelvis and the first 21 joints, which the two models name
    alike, and leaves the shape at the mean: approximate, since joints and rest poses differ. `fit`
    moves SMPL's mesh into SMPL-X's topology and fits SMPL-X to it.
    """

    method: str
    model: BodyModel
    smpl: SmplModel | None = None
    correspondence: Correspondence | None = None

    @property
    def source(self) -> str:
        """The body source to write into files."""
        return f"smpl_{self.method}"

    def __call__(self, body: SmplBody) -> BodyParams:
        """Return the SMPL-X parameters, in the camera's axes as `body`."""
        start = copy21(body, self.model, self.smpl)
        if self.method == "copy21":
            return start
        assert self.smpl is not None and self.correspondence is not None
        target = self.correspondence(forward_smpl(self.smpl, body)[0])
        return fit_mesh(self.model, target, start, self.correspondence.valid)


def load_conversion(
    method: str,
    model: BodyModel,
    *,
    smpl_path: str | os.PathLike | None,
    correspondence_path: str | os.PathLike | None,
    has_smplx_file: bool,
    trust: bool,
) -> SmplToSmplx:
    """Return the conversion with its files read; OmfaError says what `fit` lacks and whence."""
    if method not in METHODS:
        raise unknown("way from SMPL to SMPL-X", method, METHODS)
    if method == "fit":
        given = {
            "--smplx-model": has_smplx_file,
            "--smpl-model": smpl_path is not None,
            "--correspondence": correspondence_path is not None,
        }
        missing = [flag for flag, is_there in given.items() if not is_there]
        if missing:
            raise OmfaError(_FIT_NEEDS.format(missing=", ".join(missing)))
    smpl = None if smpl_path is None else load_smpl(smpl_path, trust=trust)
    if method == "copy21":
        return SmplToSmplx(method, model, smpl)
    assert smpl is not None and correspondence_path is not None
    correspondence = load_correspondence(
        correspondence_path,
        source_vertices=len(smpl.v_template),
        target_vertices=len(model.v_template),
        trust=trust,
    )
    return SmplToSmplx(method, model, smpl, correspondence)


def copy21(body: SmplBody, model: BodyModel, smpl: SmplModel | None = None) -> BodyParams:
    """Return mean-shaped SMPL-X parameters with SMPL's first 21 joint rotations, pelvis on pelvis.

    The pelvis is where `smpl` puts it, else where the estimate's file says, else where SMPL's mean
    shape would have it. Both models turn the body about the pelvis, which therefore decides where
    it lands; without this the person would hang 12 cm off, the distance of the models' origins.
    """
    if smpl is not None:
        pelvis = body.transl + smpl.rest_pelvis(body.betas)
    elif body.pelvis is not None:
        pelvis = body.pelvis
    else:
        pelvis = body.transl + MEAN_REST_PELVIS
    return neutral().replace(
        global_orient=body.global_orient,
        body_pose=body.body_pose[:21],
        transl=pelvis - model.joint_template[0],
    )
