"""Compare one UNet with partial diffusion and a reference UNet: cost and quality on the same data.

    PYTHONPATH=. python bench/dual_vs_single.py --raw WORLD --records RECORDS --workdir DIR \
        [--only cost|train|score] [--step N] [--config.train.steps=N ...]

Trains both from scratch with the loop of `omfa train` (a finished workdir is not trained again),
scores both on the held-out people and prints a table. Data, seeds, steps, batch size, learning
rate, VAE, prompts, sampler and the noise of the scores are the same; only `config.model.reference`
differs.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from omfa_jax.cli import config_lib
from omfa_jax.cli.train import train_diffusion
from omfa_jax.core.images import from_signed, read_labels
from omfa_jax.core.path_checks import require_writable_dir
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.core.trees import flatten
from omfa_jax.data.builders.label_sets import CIHP
from omfa_jax.data.pipeline.grain_pipeline import PipelineSettings, make_eval_iterator
from omfa_jax.diffusion.denoising_loop import SamplerSettings
from omfa_jax.diffusion.schedule import TimestepDistribution
from omfa_jax.evals.influence import measure_influence
from omfa_jax.evals.psnr import mean_psnr
from omfa_jax.models import Compute, encode, get_vae_config
from omfa_jax.models.reference_unet import init_network_params
from omfa_jax.parallel.mesh import MeshSettings, make_mesh, make_replicated_sharding
from omfa_jax.planning.flops import count_network_flops
from omfa_jax.sampling.encode_records import encode_records
from omfa_jax.sampling.sampler import Sampler
from omfa_jax.sampling.task_functions import try_off, try_on
from omfa_jax.train.aot_step import make_aot_step
from omfa_jax.train.checkpoints.checkpoint_weights import load_checkpoint_model
from omfa_jax.train.network import make_unet_config
from omfa_jax.train.objective import make_diffusion_objective
from omfa_jax.train.optimizer import make_optimizer
from omfa_jax.train.settings import LossSettings
from omfa_jax.train.state import init_sharded_state
from omfa_jax.weights.omfa_model import Model, make_apply_fn

SIDES = {"single": False, "reference": True}
TINY = "omfa_jax/assets/tiny"
# as the seeded prompts of the tiny model have
TEXT_TOKENS = 4
SEED = 11
# draws of noise and timestep for every held-out person and task
DRAWS = 8
SAMPLING = SamplerSettings(steps=20, guidance=2.0)
TURNS, STEPS_A_TURN = 3, 5


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/ablation.py")
    parser.add_argument("--raw", type=Path, help="the synthetic world, for garment regions")
    parser.add_argument("--records", type=Path)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--test", type=int, default=64, help="held-out people")
    parser.add_argument("--only", choices=("cost", "train", "score"), help="run one part only")
    parser.add_argument("--step", type=int, help="step to score (default: the newest)")
    options, overrides = parser.parse_known_args()
    figures: dict[str, dict[str, float]] = {name: {} for name in SIDES}
    configs = {
        name: config_lib.load_config(
            options.config, [*overrides, f"--config.model.reference={reference}"]
        )
        for name, reference in SIDES.items()
    }
    if options.only in (None, "cost"):
        for name, config in configs.items():
            figures[name] |= cost(config)
            print(name, json.dumps(figures[name], indent=2), flush=True)
        for name, seconds in step_seconds(configs).items():
            figures[name] |= seconds
    if options.only in (None, "train"):
        train_both(configs, options)
    if options.only in (None, "score"):
        for name in SIDES:
            folder = options.workdir / name
            if options.step:
                folder = folder / "checkpoints" / str(options.step)
            figures[name] |= quality(folder, options)
            print(name, json.dumps(figures[name], indent=2), flush=True)
    options.workdir.mkdir(parents=True, exist_ok=True)
    (options.workdir / f"ablation_{options.only or 'all'}.json").write_text(
        json.dumps(figures, indent=2) + "\n"
    )
    print("| | single | with reference UNet | ratio |\n| --- | --- | --- | --- |")
    for row in figures["single"]:
        one, two = (figures[name][row] for name in SIDES)
        ratio = "" if "dB" in row else f"{two / one:.3f}"
        print(f"| {row} | {one:,.4g} | {two:,.4g} | {ratio} |")


def train_both(configs: dict[str, Any], options: argparse.Namespace) -> None:
    """Train one after the other on the same latents; an interrupted run resumes."""
    latents = options.workdir / "latents"
    if not latents.is_dir():
        diffusion_for = config_lib.make_weights_source(configs["single"]).diffusion_for
        encode_records(diffusion_for, str(options.records), TINY, str(latents), batch_size=32)
    for name, config in configs.items():
        config.data.latents, config.model.init = str(latents), TINY
        begin = time.perf_counter()
        train_diffusion(config, require_writable_dir(options.workdir / name, "--workdir"))
        print(f"{name}: trained in {time.perf_counter() - begin:.0f} s", flush=True)


def cost(config: Any) -> dict[str, float]:
    """Return parameters, FLOPs and XLA's memory of the step on one device."""
    diffusion = config_lib.make_diffusion_settings(config, get_vae_config(config.model.vae))
    unet, train = (
        make_unet_config(config.model.unet, diffusion),
        config_lib.make_train_settings(config),
    )
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    ahead = make_aot_step(diffusion, unet, train, mesh, text_tokens=TEXT_TOKENS)
    memory: Any = ahead.lower().compile().memory_analysis()
    main, *reference = count_network_flops(diffusion, unet, text_tokens=TEXT_TOKENS)
    once, every = sum(part.total.forward for part in reference), main.total.forward
    branches = 1 if SAMPLING.guidance == 1 else 2
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    return {
        "parameters, M": sum(leaf.size for _, leaf in flatten(ahead.state.params)) / 1e6,
        "training FLOPs per example, G": (
            sum(part.total.step for part in (main, *reference)) / 1e9
        ),
        f"sampling FLOPs per image ({SAMPLING.steps} steps, guidance), G": branches
        * (once + SAMPLING.steps * every)
        / 1e9,
        "state and batch, MB": arguments / 1e6,
        "temporaries of a step, MB": temporary / 1e6,
        "peak of a step, MB": (memory.peak_memory_in_bytes or arguments + temporary + outputs)
        / 1e6,
    }


def step_seconds(configs: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return each side's step times on random latents; the sides are interleaved."""
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    run: dict[str, Any] = {}
    rng = np.random.default_rng(0)

    def drawn(leaf: Any) -> np.ndarray:
        if np.issubdtype(leaf.dtype, np.floating):
            return rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype)
        return (np.arange(leaf.shape[0]) % 2 + (leaf.dtype == bool)).astype(leaf.dtype)

    for name, config in configs.items():
        diffusion = config_lib.make_diffusion_settings(config, get_vae_config(config.model.vae))
        unet, train = (
            make_unet_config(config.model.unet, diffusion),
            config_lib.make_train_settings(config),
        )
        ahead = make_aot_step(diffusion, unet, train, mesh, text_tokens=TEXT_TOKENS)
        state = init_sharded_state(
            lambda d=diffusion, u=unet: init_network_params(
                u, jax.random.key(0), has_reference=d.reference
            ),
            make_optimizer(train.optimizer, train.steps),
            train.ema_decay,
            ahead.shardings,
        )
        frozen, batch = jax.tree.map(drawn, (ahead.constants, ahead.batch))
        given = jax.device_put((frozen, batch, jax.random.key(0)), make_replicated_sharding(mesh))
        run[name] = [ahead.step, state, given]
    times: dict[str, list[float]] = {name: [] for name in configs}
    for turn in range(TURNS + 1):
        for name, (step, state, given) in run.items():
            for _ in range(STEPS_A_TURN):
                begin = time.perf_counter()
                state, metrics = step(state, *given)
                jax.block_until_ready((state, metrics))
                # the first turn compiles
                times[name] += [time.perf_counter() - begin] * (turn > 0)
            run[name][1] = state
    return {
        name: {
            "seconds per step, median": statistics.median(found),
            "seconds per step, least": min(found),
        }
        for name, found in times.items()
    }


def quality(trained: Path, options: argparse.Namespace) -> dict[str, float]:
    """Return held-out loss, PSNR and influence of the EMA model of a workdir or of one step."""
    model, step = load_checkpoint_model(trained)
    slots = dict(zip(COMPONENTS, model.settings.slots_px, strict=True))
    settings = PipelineSettings(str(options.records), slots, threads=0)
    take: dict[str, Any] = {"split": "test", "batch_size": options.test, "limit": options.test}
    batch = next(iter(make_eval_iterator(settings, **take)))
    given = {name: batch[name] for name in (*COMPONENTS, "pose")}
    people, garments = from_signed(given["person"]), from_signed(given["garment"])
    keys = [str(key).split("/")[-1] for key in batch["key"]]
    folder = options.raw / "test" / "image-parse-v3"
    regions = [
        resized(
            CIHP.make_garment_mask(read_labels(folder / f"{key}.png"), "upper"), slots["person"]
        )
        for key in keys
    ]
    kept = [region.any() for region in regions]
    assert all(kept), "a held-out person without a visible garment"
    sampler = Sampler(model, SAMPLING)

    def dress(c):
        return try_on(sampler, c["garment"], c["face"], c["pose"], seed=SEED)

    def undress(c):
        return try_off(sampler, c["person"], c["face"], c["pose"], seed=SEED)

    worn, taken = dress(given), undress(given)
    garment, _ = measure_influence(
        dress, given, ["garment"], people, regions, seed=SEED, right=worn
    )
    pose, _ = measure_influence(dress, given, ["pose"], people, None, seed=SEED, right=worn)
    person, _ = measure_influence(
        undress, given, ["person", "face", "pose"], garments, None, seed=SEED, right=taken
    )
    return {
        "steps trained": float(step),
        **measure_heldout_losses(model, batch),
        "try-on PSNR, whole, dB": mean_psnr(worn, people),
        "try-on PSNR, garment region, dB": mean_psnr(worn, people, regions),
        "try-off PSNR, dB": mean_psnr(taken, garments),
        "influence of the garment (its region), dB": garment.gain_db,
        "influence of the pose, dB": pose.gain_db,
        "influence of the person on try-off, dB": person.gain_db,
    }


def measure_heldout_losses(model: Model, batch: Any) -> dict[str, float]:
    """Return each task's loss on the held-out people, with fixed noise and timesteps."""
    apply = make_apply_fn(model.settings, model.unet_config, Compute())
    loss = LossSettings(min_snr_gamma=0.0, condition_dropout=0.0, timesteps=TimestepDistribution())
    objective = make_diffusion_objective(
        model.settings, loss, apply, lambda p, x: encode(model.vae_config, p, x)
    )
    frozen = {"vae": model.vae_params, "prompts": model.prompts}
    run = jax.jit(objective)
    count = len(batch["person"])
    pictures = {name: jnp.asarray(batch[name]) for name in (*COMPONENTS, "pose", "has_pose")}
    losses = {}
    for task, row in enumerate(model.settings.tasks):
        rows = {**pictures, "task": jnp.full(count, task), "row": jnp.arange(count)}
        values = [
            run(model.unet_params, frozen, rows, jax.random.key(SEED), jnp.int32(draw))[0]
            for draw in range(DRAWS)
        ]
        losses[f"held-out loss, {row.name}"] = float(np.mean(values))
    return losses


def resized(region: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a region resized (nearest neighbour) to another size of the same aspect."""
    rows, columns = (
        ((np.arange(to) + 0.5) * of / to).astype(int)
        for to, of in zip(size, region.shape, strict=True)
    )
    return region[np.ix_(rows, columns)]


if __name__ == "__main__":
    main()
