"""How `omfa data build` and `omfa data latents` write: their flags, and the VAE that encodes."""

import argparse
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omfa_jax.cli.flags import whole
from omfa_jax.data.writing import RUNNERS, SHARD_RECORDS

if TYPE_CHECKING:
    import jax

log = logging.getLogger(__name__)


def add_writing(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a command that writes records."""
    parser.add_argument(
        "--shard-records",
        type=whole(1, 10**7),
        default=SHARD_RECORDS,
        metavar="N",
        help="items per shard (default: %(default)s)",
    )
    parser.add_argument(
        "--runner", default="local", help=f"{' or '.join(RUNNERS)} (default: %(default)s)"
    )
    parser.add_argument(
        "--beam-options",
        default="",
        metavar="TEXT",
        help="pipeline options of Apache Beam, see docs/records.md",
    )


def writing(options: argparse.Namespace) -> dict[str, Any]:
    """Return what those flags say, as keywords of `build` and `write_latents`."""
    names = ("shard_records", "runner", "beam_options")
    return {name: getattr(options, name) for name in names}


@dataclass(frozen=True)
class FolderEncoder:
    """The VAE of a model folder, loaded by each process that encodes; picklable.

    Call it with (b, H, W, 3) float32 pictures in [-1, 1] for mean and standard deviation of the
    scaled latents, (b, h, w, c) each. The batch is dealt to the process's devices if it divides
    evenly. Raises OmfaError if the folder's VAE is not the one of `vae_id`.
    """

    folder: str
    vae_id: str

    def __call__(self, pictures: Any) -> tuple["jax.Array", "jax.Array"]:
        return loaded(self)(pictures)


@functools.lru_cache(maxsize=1)
def loaded(encoder: FolderEncoder) -> Callable[[Any], tuple["jax.Array", "jax.Array"]]:
    """Return the function behind a `FolderEncoder`, on the devices."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from omfa_jax.cli.startup import vae_fingerprint
    from omfa_jax.core.errors import OmfaError
    from omfa_jax.models import posterior
    from omfa_jax.weights.description import read_description
    from omfa_jax.weights.frozen import load_vae

    config = read_description(Path(encoder.folder)).vae_config
    params: Any = load_vae(Path(encoder.folder), config)
    if (found := vae_fingerprint(config, params)) != encoder.vae_id:
        raise OmfaError(
            f"{encoder.folder}: the VAE there is {found}, the latents are of {encoder.vae_id};"
            " give every worker the same --model"
        )
    devices = np.array(jax.local_devices())
    everywhere = NamedSharding(Mesh(devices, ("data",)), PartitionSpec())
    dealt = NamedSharding(everywhere.mesh, PartitionSpec("data"))
    params = jax.device_put(params, everywhere)

    @jax.jit
    def moments(params: Any, pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, logvar = posterior(config, params, pictures)
        scale = config.scaling_factor
        return scale * mean, scale * jnp.exp(0.5 * logvar)

    def encode(pictures: Any) -> tuple[jax.Array, jax.Array]:
        place = everywhere if len(pictures) % len(devices) else dealt
        return moments(params, jax.device_put(pictures, place))

    return encode


def encode_records(
    config: Any, records: str, model: str, out: str, *, batch_size: int, **how: Any
) -> None:
    """Write the VAE latents of a records folder (`omfa data latents`).

    `how`: overwrite, and what `writing` returns.
    """
    from omfa_jax.cli.config import diffusion_settings
    from omfa_jax.cli.startup import vae_fingerprint
    from omfa_jax.core.tasks import COMPONENTS
    from omfa_jax.data.latents import write_latents
    from omfa_jax.weights.description import read_description
    from omfa_jax.weights.frozen import load_vae

    folder = Path(model).absolute()
    vae_config = read_description(folder).vae_config
    # slots that are no multiples of the stride are refused here, before hours of encoding
    diffusion_settings(config, vae_config)
    vae_id = vae_fingerprint(vae_config, load_vae(folder, vae_config))
    manifest = write_latents(
        records,
        out,
        FolderEncoder(str(folder), vae_id),
        slots={name: tuple(config.canvas[name]) for name in COMPONENTS},
        vae_id=vae_id,
        batch_size=batch_size,
        **how,
    )
    log.info("%s: latents of %s", out, manifest["splits"])
