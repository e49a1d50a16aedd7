"""VAE latents of a records folder: the encoder that each worker loads, and the call that writes."""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from omfa_jax.core.compile_notice import CompilationNotice
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import to_path
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.data.pipeline.example_reader import require_pose_style
from omfa_jax.data.pipeline.latent_writer import write_latents
from omfa_jax.data.records.record_schema import read_manifest
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.models import VAEConfig, encode_posterior
from omfa_jax.weights.model_description import read_description
from omfa_jax.weights.model_folder import load_vae
from omfa_jax.weights.vae_fingerprint import fingerprint_vae

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderEncoder:
    """The VAE of a model folder, loaded by each process that encodes; picklable.

    Call it with (b, H, W, 3) float32 images in [-1, 1] for mean and standard deviation of the
    scaled latents, (b, h, w, c) each. The batch is split over the process's devices if it divides
    evenly. Raises OmfaError if the folder's VAE is not the one of `vae_id`.
    """

    folder: str
    vae_id: str

    def __call__(self, images: Any) -> tuple[jax.Array, jax.Array]:
        return load_encoder(self)(images)


@functools.lru_cache(maxsize=1)
def load_encoder(encoder: FolderEncoder) -> Callable[[Any], tuple[jax.Array, jax.Array]]:
    """Return the function behind a `FolderEncoder`, on the devices."""
    config = read_description(to_path(encoder.folder)).vae_config
    params: Any = load_vae(to_path(encoder.folder), config)
    if (found := fingerprint_vae(config, params)) != encoder.vae_id:
        raise OmfaError(
            f"{encoder.folder} has VAE {found}, but the latents were made with {encoder.vae_id};"
            " give every worker the same --model"
        )
    devices = np.array(jax.local_devices())
    replicated = NamedSharding(Mesh(devices, ("data",)), PartitionSpec())
    split = NamedSharding(replicated.mesh, PartitionSpec("data"))
    # once, not with every batch
    params = jax.device_put(params, replicated)

    @jax.jit
    def compute_moments(params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, logvar = encode_posterior(config, params, images)
        # deviation and not log-variance: float16 then rounds it far below the mean
        scale = config.scaling_factor
        return scale * mean, scale * jnp.exp(0.5 * logvar)

    notice = CompilationNotice("the VAE's encoder")

    def encode(images: Any) -> tuple[jax.Array, jax.Array]:
        # a split's last batch may be short: every device then computes all of it
        sharding = replicated if len(images) % len(devices) else split
        with notice(images.shape):
            return compute_moments(params, jax.device_put(images, sharding))

    return encode


def encode_records(
    diffusion_for: Callable[[VAEConfig], DiffusionSettings],
    records: str,
    model: str,
    out: str,
    *,
    batch_size: int,
    **options: Any,
) -> None:
    """Write the VAE latents of a records folder (`omfa data latents`).

    `diffusion_for` gives the settings of a model with that VAE: its slot sizes, and the style that
    the records' pose maps must have.
    `options` are passed to `write_latents`.
    """
    folder = to_path(model).absolute()
    vae_config = read_description(folder).vae_config
    # slots that are not multiples of the stride are refused here, before hours of encoding
    diffusion = diffusion_for(vae_config)
    # and so is what training with these settings would refuse afterwards
    require_pose_style(records, read_manifest(records), diffusion.pose_style)
    vae_id = fingerprint_vae(vae_config, load_vae(folder, vae_config))
    manifest = write_latents(
        records,
        out,
        FolderEncoder(str(folder), vae_id),
        slots=dict(zip(COMPONENTS, diffusion.slots_px, strict=True)),
        vae_id=vae_id,
        batch_size=batch_size,
        **options,
    )
    log.info("%s: latents of %s", out, manifest["splits"])
