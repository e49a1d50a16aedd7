"""Statements of source weights about their noise schedule and prediction type.

A UNet's tensors do not show whether it predicts noise or v, nor how noisy its last timestep is.
Diffusers folders state it in scheduler/scheduler_config.json; single files in a few extra tensors
and in their metadata (Stability's modelspec, sd-scripts' ss_*, ComfyUI's).
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from omfa_jax.core.errors import OmfaError
from omfa_jax.diffusion.schedule import ScheduleSettings, compute_alphas_cumprod
from omfa_jax.models import VAEConfig
from omfa_jax.weights.torch_tensors import LazyTensors

SCHEDULER_FILE = "scheduler_config.json"
# tensors of single files that belong to no network: schedule constants, markers, text encoder
# buffers
CONSTANTS = re.compile(
    r"betas|(\w+_)?alphas_cumprod(_\w+)?|posterior_\w+|lvlb_weights|logvar|global_step"
    r"|scale_factor|v_pred|ztsnr|edm_\w+(\.\w+)?|(log_)?sigmas|(.+\.)?(logit_scale|position_ids)"
)
# relative tolerance for a table of alphas stored in half precision
ROUNDING = 1e-2

SDXL = ScheduleSettings()
# our name -> (diffusers' name, all names found in sources)
PREDICTIONS = {
    "epsilon": ("epsilon", ("epsilon", "eps")),
    "v": ("v_prediction", ("v_prediction", "v", "v-prediction", "vpred", "v_pred", "velocity")),
}
# values that mean "not set"
UNSET_WORDS = ("", "none", "null")
# metadata without an equivalent here -> its usual values
IGNORED_METADATA = {
    "modelspec.architecture": ("stable-diffusion-xl-v1-base",),
    "modelspec.timestep_range": ("0,1000", "0,999"),
    "modelspec.encoder_layer": ("2", "None"),
    "ss_clip_skip": ("2", "None"),
}
# diffusers' schedulers for SDXL's kind of process: discrete steps, variance preserving
DISCRETE_SCHEDULERS = (
    *("DDIM", "DDIMParallel", "DDIMInverse", "DDPM", "DDPMParallel", "PNDM", "LMSDiscrete"),
    *("EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete"),
    *("KDPM2AncestralDiscrete", "DPMSolverMultistep", "DPMSolverMultistepInverse"),
    *("DPMSolverSinglestep", "DPMSolverSDE", "DEISMultistep", "UniPCMultistep", "SASolver"),
    *("LCM", "TCD"),
)
OTHER_SCHEDULE = "a noise schedule other than SDXL's"
EDM = "EDM's noise levels"
# the tensors edm_mean and edm_std are the latents' statistics
PLAYGROUND = "EDM on latents normalised channel by channel, as Playground v2.5 was"
# the keys of a scheduler_config.json that `parse_scheduler_config` reads
READ_KEYS = (
    *("prediction_type", "rescale_betas_zero_snr", "trained_betas", "use_flow_sigmas"),
    *("beta_schedule", "beta_start", "beta_end", "num_train_timesteps"),
    *("timestep_type", "sigma_min", "sigma_max", "snr_shift_scale", "shift"),
    *("timestep_spacing", "steps_offset"),
)


@dataclass(frozen=True)
class Statement:
    """One statement of a source; `quote` is the text that states it, with its place.

    `field` is a key of config.diffusion (prediction, zero_terminal_snr, spacing, steps_offset) and
    `value` its value; or "process", with the name of a diffusion process that is not supported.
    The fields' names are saved in omfa_import.json (older ones have "said" for `quote`).
    """

    field: str
    value: Any
    quote: str

    @property
    def words(self) -> str:
        """The statement as text, with its place in parentheses."""
        words = {
            "prediction": f"{self.value}-prediction",
            "zero_terminal_snr": f"{'' if self.value else 'no '}zero terminal SNR",
        }
        return f"{words.get(self.field, self.value)} ({self.quote})"


def parse_scheduler_config(fields: Mapping[str, Any]) -> tuple[Statement, ...]:
    """Return the statements in a scheduler_config.json; absent and null keys state nothing."""
    stated = {name: value for name, value in fields.items() if not is_unset(value)}
    found = []

    def make_quote(*names: str) -> str:
        return f"{SCHEDULER_FILE}: {', '.join(f'{name}={shorten(stated[name])}' for name in names)}"

    process = get_process(str(stated.get("_class_name", "DDIMScheduler")))
    if process:
        found.append(Statement("process", process, make_quote("_class_name")))
    if parse_flag(stated.get("use_flow_sigmas", False)) is not False:
        found.append(Statement("process", "flow matching", make_quote("use_flow_sigmas")))
    if "prediction_type" in stated:
        found += parse_prediction(stated["prediction_type"], make_quote("prediction_type"))
    if "rescale_betas_zero_snr" in stated:
        flag, words = (
            parse_flag(stated["rescale_betas_zero_snr"]),
            make_quote("rescale_betas_zero_snr"),
        )
        unclear = Statement("process", "an unclear setting of zero terminal SNR", words)
        found.append(unclear if flag is None else Statement("zero_terminal_snr", flag, words))
    levels = {"timestep_type": "discrete", "sigma_min": None, "sigma_max": None}
    if other := [n for n, value in levels.items() if stated.get(n, value) != value]:
        found.append(Statement("process", EDM, make_quote(*other)))
    # these shift the schedule whatever the betas are
    if other := [n for n in ("snr_shift_scale", "shift") if not is_same(stated.get(n, 1.0), 1.0)]:
        found.append(Statement("process", OTHER_SCHEDULE, make_quote(*other)))
    usual = {
        "beta_schedule": "scaled_linear",
        "beta_start": SDXL.beta_start,
        "beta_end": SDXL.beta_end,
        "num_train_timesteps": SDXL.train_steps,
    }
    if "trained_betas" in stated:
        betas = parse_numbers(stated["trained_betas"])
        found += parse_alphas(np.cumprod(1 - betas), make_quote("trained_betas"))
    # trained_betas, handled above, override beta_schedule and the rest
    elif other := [n for n, value in usual.items() if not is_same(stated.get(n, value), value)]:
        found.append(Statement("process", OTHER_SCHEDULE, make_quote(*other)))
    for name, field in (("timestep_spacing", "spacing"), ("steps_offset", "steps_offset")):
        if name in stated:
            found.append(Statement(field, stated[name], make_quote(name)))
    return tuple(found)


def parse_single_file(tensors: LazyTensors) -> tuple[Statement, ...]:
    """Return the statements of an original single file: its metadata and extra tensors."""
    metadata, found = tensors.metadata, []

    def make_quote(name: str) -> str:
        return f"metadata {name}={shorten(metadata[name])}"

    for name in ("modelspec.prediction_type", "modelspec.predict_key"):
        if name in metadata:
            found += parse_prediction(metadata[name], make_quote(name))
    flag = parse_flag(metadata.get("ss_v_parameterization"))
    if flag is not None:
        value = "v" if flag else "epsilon"
        found.append(Statement("prediction", value, make_quote("ss_v_parameterization")))
    flag = parse_flag(metadata.get("ss_zero_terminal_snr"))
    if flag is not None:
        found.append(Statement("zero_terminal_snr", flag, make_quote("ss_zero_terminal_snr")))
    for name, field, value in (
        ("v_pred", "prediction", "v"),
        ("ztsnr", "zero_terminal_snr", True),
        ("edm_mean" if "edm_mean" in tensors.shapes else "edm_std", "process", PLAYGROUND),
        ("edm_vpred.sigma_max", "process", f"{EDM}, as CosXL was"),
    ):
        if name in tensors.shapes:
            found.append(Statement(field, value, f"its tensor {name}"))
    # alpha_bar from betas is their running product, from sigma 1 / (1 + sigma^2)
    for name, alphas in (
        ("alphas_cumprod", lambda x: x),
        ("betas", lambda x: np.cumprod(1 - x)),
        ("denoiser.sigmas", lambda x: 1 / (1 + np.sort(x) ** 2)),
        ("sigmas", lambda x: 1 / (1 + np.sort(x) ** 2)),
    ):
        # some files store the few sigmas of a sampling run under these names
        few = name.endswith("sigmas") and tensors.shapes.get(name) != (SDXL.train_steps,)
        if name in tensors.shapes and name not in tensors.faulty and not few:
            values = tensors.read(name).astype(np.float64)
            found += parse_alphas(alphas(values), f"its tensor {name}")
    return tuple(found)


def is_constant(key: str) -> bool:
    """Return True for a tensor of a single file that belongs to no network."""
    return CONSTANTS.fullmatch(key) is not None


def read_vae_scale(tensors: LazyTensors) -> float | None:
    """Return the VAE's scaling factor from a single file's buffer, None without one.

    SDXL's own value is returned where half precision has rounded it.
    """
    name = "scale_factor"
    if tensors.shapes.get(name) not in ((), (1,)) or name in tensors.faulty:
        return None
    scale, usual = float(tensors.read(name).reshape(())), VAEConfig.scaling_factor
    if not 0 < scale < math.inf:
        raise OmfaError(f"{tensors.where}: scale_factor is {scale}, expected a number above 0")
    return usual if math.isclose(scale, usual, rel_tol=ROUNDING) else scale


def list_ignored_metadata(metadata: Mapping[str, str]) -> list[str]:
    """Return a note for each unusual metadata entry that has no effect here."""
    return [
        f"metadata {name}={shorten(metadata[name])} is ignored"
        for name, usual in IGNORED_METADATA.items()
        if metadata.get(name, usual[0]) not in usual
    ]


def parse_alphas(alpha_bar: np.ndarray, said: str) -> list[Statement]:
    """Return the statements of a table of alpha_bar; SDXL's own may be a leftover and has none."""
    for zero in (False, True):
        ours = compute_alphas_cumprod(dataclasses.replace(SDXL, zero_terminal_snr=zero))
        if alpha_bar.shape == ours.shape and np.allclose(alpha_bar, ours, ROUNDING, 1e-4):
            return [Statement("zero_terminal_snr", True, said)] if zero else []
    return [Statement("process", OTHER_SCHEDULE, said)]


def get_process(class_name: str) -> str:
    """Return the name of a scheduler class's diffusion process, "" for SDXL's kind."""
    if class_name.startswith("Flow"):
        return "flow matching"
    if class_name.startswith("EDM"):
        return EDM
    known = class_name.removesuffix("Scheduler") in DISCRETE_SCHEDULERS
    return "" if known else "a scheduler for another kind of diffusion than SDXL's"


def parse_prediction(word: Any, said: str) -> list[Statement]:
    """Return the statement of a prediction type; an unsupported one becomes a process."""
    if is_unset(word):
        return []
    for ours, (_, theirs) in PREDICTIONS.items():
        if str(word).strip().lower() in theirs:
            return [Statement("prediction", ours, said)]
    return [Statement("process", "another prediction type", said)]


def make_scheduler_config(
    usual: Mapping[str, Any], statements: Iterable[Statement]
) -> dict[str, Any] | None:
    """Return `usual` with a single file's statements applied; None for an unsupported process."""
    fields = dict(usual)
    for statement in statements:
        if statement.field == "process":
            return None
        if statement.field == "prediction":
            fields["prediction_type"] = PREDICTIONS[statement.value][0]
        if statement.field == "zero_terminal_snr" and statement.value:
            fields["rescale_betas_zero_snr"] = True
    if fields["prediction_type"] != "epsilon" and fields.get("rescale_betas_zero_snr"):
        # trailing spacing visits the last timestep: pure noise, from which epsilon predicts nothing
        fields["timestep_spacing"] = "trailing"
    return fields


def is_unset(value: Any) -> bool:
    """Return True for null and for words that mean "not set"."""
    return str(value).strip().lower() in UNSET_WORDS


def parse_flag(value: Any) -> bool | None:
    """Return the truth value of a field that may be a word or a number; None if it has none."""
    words = {"true": True, "1": True, "false": False, "0": False}
    return words.get(str(value).strip().lower())


def parse_numbers(values: Any) -> np.ndarray:
    """Return a list from a JSON file as a float64 array; an empty array if it is not numeric."""
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        return np.zeros(0)


def shorten(value: Any) -> str:
    """Return the repr of a value, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_same(value: Any, expected: float | str) -> bool:
    """Return True if a JSON field equals the expected value, numbers up to rounding."""
    if isinstance(expected, str) or not isinstance(value, int | float):
        return value == expected
    return math.isclose(value, expected, rel_tol=1e-6)
