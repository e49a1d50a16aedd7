"""Conversion of SMPL estimates to SMPL-X parameters, by joint rotations or by a mesh fit."""

import os
from dataclasses import dataclass, replace

import numpy as np

from omfa_jax.body.body_model import BodyModel
from omfa_jax.body.body_params import BodyParams, make_neutral_params
from omfa_jax.body.mesh_fit import fit_mesh
from omfa_jax.body.smpl_model import (
    SMPL_DOWNLOAD,
    SmplBody,
    SmplModel,
    forward_smpl,
    load_smpl_model,
)
from omfa_jax.body.vertex_correspondence import Correspondence, load_correspondence
from omfa_jax.core.errors import OmfaError, make_unknown_name_error

METHODS = ("copy21", "fit")

# SMPL's rest pelvis for the mean shape, metres; the genders' files differ by about 1 cm
MEAN_REST_PELVIS_M = np.array([-0.002, -0.23, 0.028])

_FIT_NEEDS = (
    "--smpl-to-smplx fit fits a mesh and needs --smplx-model SMPLX_NEUTRAL.npz, --smpl-model"
    " SMPL_NEUTRAL.pkl and --correspondence smpl2smplx_deftrafo_setup.pkl; missing: {missing}."
    f" SMPL: {SMPL_DOWNLOAD}; SMPL-X and its model_transfer.zip: https://smpl-x.is.tue.mpg.de"
)


@dataclass(frozen=True, eq=False)
class SmplConverter:
    """Converts SMPL bodies to parameters of one SMPL-X model.

    `copy_joint_rotations` copies the rotations of the pelvis and the first 21 joints, which have
    the same names in both models, and keeps the mean shape. It is approximate, since joints and
    rest poses differ. `fit` maps SMPL's mesh to SMPL-X's topology and fits SMPL-X to it.
    """

    method: str
    model: BodyModel
    smpl: SmplModel | None = None
    correspondence: Correspondence | None = None

    @property
    def source(self) -> str:
        """The body source, as stored in body files."""
        return f"smpl_{self.method}"

    def __call__(self, body: SmplBody) -> BodyParams:
        """Return the SMPL-X parameters, in camera axes as `body`."""
        # the position of the pelvis is exact, that of the model's origin follows from the shape
        if self.smpl is not None and body.pelvis is not None:
            rest = self.smpl.compute_rest_pelvis(body.betas)
            body = replace(body, transl=body.pelvis - rest)
        # the mesh fit is a local search and starts from these
        start = copy_joint_rotations(body, self.model, self.smpl)
        if self.method == "copy21":
            return start
        assert self.smpl is not None and self.correspondence is not None
        target = self.correspondence(forward_smpl(self.smpl, body)[0])
        return fit_mesh(self.model, target, start, self.correspondence.valid)


def load_converter(
    method: str,
    model: BodyModel,
    *,
    smpl_path: str | os.PathLike | None,
    correspondence_path: str | os.PathLike | None,
    has_smplx_file: bool,
    allow_pickle: bool,
) -> SmplConverter:
    """Load a converter; OmfaError lists the files that method "fit" lacks and where to get them."""
    if method not in METHODS:
        raise make_unknown_name_error("conversion from SMPL to SMPL-X", method, METHODS)
    if method == "fit":
        given = {
            "--smplx-model": has_smplx_file,
            "--smpl-model": smpl_path is not None,
            "--correspondence": correspondence_path is not None,
        }
        missing = [flag for flag, is_there in given.items() if not is_there]
        if missing:
            raise OmfaError(_FIT_NEEDS.format(missing=", ".join(missing)))
    # also for copy21, which takes the pelvis of the body's own shape from it
    smpl = None if smpl_path is None else load_smpl_model(smpl_path, allow_pickle=allow_pickle)
    if method == "copy21":
        return SmplConverter(method, model, smpl)
    assert smpl is not None and correspondence_path is not None
    correspondence = load_correspondence(
        correspondence_path,
        source_vertices=len(smpl.v_template),
        target_vertices=len(model.v_template),
        allow_pickle=allow_pickle,
    )
    return SmplConverter(method, model, smpl, correspondence)


def copy_joint_rotations(
    body: SmplBody, model: BodyModel, smpl: SmplModel | None = None
) -> BodyParams:
    """Return mean-shaped SMPL-X parameters with SMPL's first 21 joint rotations and its pelvis.

    The pelvis position comes from `smpl` if given, else from the estimate's file, else from SMPL's
    mean shape. Both models rotate the body about the pelvis, but their origins differ by 12 cm:
    without aligning the pelvis the person would be misplaced by that.
    """
    if smpl is not None:
        pelvis = body.transl + smpl.compute_rest_pelvis(body.betas)
    elif body.pelvis is not None:
        pelvis = body.pelvis
    else:
        pelvis = body.transl + MEAN_REST_PELVIS_M
    return make_neutral_params().replace(
        global_orient=body.global_orient,
        # SMPL's last two joints are the hands, which SMPL-X articulates instead
        body_pose=body.body_pose[:21],
        transl=pelvis - model.joint_template[0],
    )
