"""`omfa train`: train the model that a config file describes."""

import argparse
import contextlib
import dataclasses
import json
import logging
from pathlib import Path

import jax
from jax.sharding import Mesh

from omfa_jax.cli import config_lib
from omfa_jax.cli.config_flag import add_config_flags
from omfa_jax.cli.flags import parse_any_path_text
from omfa_jax.cli.next_commands import format_end
from omfa_jax.core.atomic_files import LOCK_NAME, atomic_write, exclusive_lock
from omfa_jax.core.code_revision import get_code_revision
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.mount_checks import check_mount
from omfa_jax.core.path_checks import require_any_writable_dir
from omfa_jax.core.paths import AnyPath, to_path
from omfa_jax.core.retry import call_with_retries
from omfa_jax.core.tasks import Task
from omfa_jax.data.pipeline.grain_pipeline import (
    PipelineSettings,
    describe_training_records,
    make_train_iterator,
)
from omfa_jax.parallel import distributed
from omfa_jax.parallel.global_arrays import get_data_shard
from omfa_jax.parallel.shared_workdir import find_hosts
from omfa_jax.planning.run_cost import compute_unet_cost, compute_vae_cost
from omfa_jax.train.checkpoints.orbax_paths import require_checkpoint_storage
from omfa_jax.train.initial_weights import load_initial_model, write_model_folder
from omfa_jax.train.loop import Batches, DrawImages, Evaluate, train
from omfa_jax.train.meshes import explain_sharding, make_network_mesh, make_replicated_mesh
from omfa_jax.train.monitoring.profiler import ProfileSteps
from omfa_jax.train.monitoring.start_record import record_start
from omfa_jax.train.resume import require_same_run
from omfa_jax.train.state import TrainState
from omfa_jax.train.task_changes import format_task_shares
from omfa_jax.train.unet_run import make_unet_run
from omfa_jax.train.vae_run import check_crop, load_initial_vae, make_vae_run, publish_vae
from omfa_jax.weights.omfa_model import Model
from omfa_jax.weights.vae_fingerprint import fingerprint_vae

log = logging.getLogger(__name__)

# this command may be one process of a distributed job: a failure ends all of them
JOINS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa train`."""
    add_config_flags(parser, "config file, such as configs/vitonhd.py")
    parser.add_argument(
        "--workdir",
        required=True,
        type=parse_any_path_text,
        metavar="DIR",
        help="folder for checkpoints and logs, also on gs://; a run in it is resumed",
    )
    parser.add_argument(
        "--explain-sharding",
        action="store_true",
        help="print the sharding of each parameter and exit",
    )
    parser.add_argument(
        "--profile",
        default="",
        metavar="STEPS",
        help="write a profiler trace of a step or a range of steps, such as 20 or 20-25",
    )
    parser.epilog = "Override any config value with --config.KEY=VALUE: --config.train.steps=1000."


def run(options: argparse.Namespace) -> None:
    """Train, or resume the run in --workdir."""
    config = call_with_retries(
        str(options.config), lambda: config_lib.load_config(options.config, options.overrides)
    )
    # before any process of the job is waited for: the table needs shapes only
    if options.explain_sharding:
        model = load_initial_model(config_lib.make_weights_source(config), None, abstract=True)
        print(explain_sharding(config_lib.make_mesh_settings(config), model))
        return
    # parsed before the processes of a job wait for each other
    profile = ProfileSteps.parse(options.profile) if options.profile else None
    require_checkpoint_storage(to_path(options.workdir), "--workdir")
    workdir = require_any_writable_dir(options.workdir, "--workdir")
    if isinstance(workdir, Path):
        check_mount(workdir, "--workdir")
    # before anything touches the devices: jax.distributed cannot be initialised after them
    distributed.initialize(workdir)
    revision = get_code_revision()
    distributed.check_equal_across_processes(
        {
            "the code's revision": revision,
            "the config": json.dumps(config.to_dict(), sort_keys=True, default=str),
            "--workdir": str(workdir.absolute()),
        }
    )
    refusal = f"another run is using {workdir}: stop it, or give another folder to --workdir"
    lock = exclusive_lock(workdir / LOCK_NAME, refusal)
    # one lock per job: its processes share the workdir on purpose
    with lock if jax.process_index() == 0 else contextlib.nullcontext():
        # under the lock: another job could start a run in the folder between check and use
        require_same_run(config.to_dict(), workdir)
        if jax.process_index() == 0:
            record_start(workdir, revision, find_hosts())
        if config.objective == "autoencoder":
            train_autoencoder(config, workdir)
        else:
            train_diffusion(config, workdir, profile=profile)
        if jax.process_index() == 0:
            for line in format_end(config, workdir):
                log.info("%s", line)


def train_diffusion(
    config: config_lib.Config, workdir: AnyPath, *, profile: ProfileSteps | None = None
) -> TrainState:
    """Train the UNet by partial diffusion."""
    settings = config_lib.make_train_settings(config)
    model = load_initial_model(config_lib.make_weights_source(config), workdir)
    mesh = make_network_mesh(config_lib.make_mesh_settings(config), model)
    # latents of another VAE are refused by this id, and hosts may have read different folders
    vae_id = fingerprint_vae(model.vae_config, model.vae_params)
    prompts = b"".join(model.prompts[name].tobytes() for name in sorted(model.prompts))
    distributed.check_equal_across_processes(
        {"the VAE": vae_id, "the prompts' embeddings": prompts.hex()}
    )
    pipeline = config_lib.make_pipeline_settings(config, vae_id=vae_id)
    batches = make_batches(config, pipeline, model.settings.tasks, mesh)
    log.info("training examples by task: %s", format_task_shares(model.settings.tasks))
    # after the data has been opened: a run without data leaves no model behind
    write_model_folder(model, workdir)
    encodes = not config_lib.uses_latents(config)
    run = make_unet_run(
        model,
        settings,
        mesh,
        batches,
        workdir=workdir,
        config=config.to_dict(),
        encodes=encodes,
    )
    save_config(config, workdir)
    devices = list(mesh.devices.flat)
    return train(
        dataclasses.replace(
            run,
            draw_images=make_sample_images(config, model),
            evaluate=make_evaluation(config, model, mesh, vae_id),
            cost=compute_unet_cost(model, settings.batch_size, encodes=encodes, devices=devices),
            profile=profile,
        )
    )


def train_autoencoder(config: config_lib.Config, workdir: AnyPath) -> TrainState:
    """Train a VAE or a decoder, then write the VAE in diffusers form to workdir/model."""
    settings, source = (
        config_lib.make_train_settings(config),
        config_lib.make_weights_source(config),
    )
    training = load_initial_vae(source, **config.autoencoder.to_dict())
    mesh = make_replicated_mesh(config_lib.make_mesh_settings(config), training.param_shapes)
    pipeline = config_lib.make_pipeline_settings(config)
    diffusion = source.diffusion_for(training.vae_config)
    check_crop(training.crop_px, diffusion)
    batches = make_batches(config, pipeline, diffusion.tasks, mesh)
    save_config(config, workdir)
    run = make_vae_run(training, settings, mesh, batches, workdir=workdir, config=config.to_dict())
    cost = compute_vae_cost(
        training.vae_config,
        training.crop_px,
        settings.batch_size,
        decoder_only=bool(training.constants),
        devices=list(mesh.devices.flat),
    )
    state = train(dataclasses.replace(run, cost=cost))
    publish_vae(source, training, state, pipeline, config.data.split, workdir)
    return state


def make_batches(
    config: config_lib.Config, pipeline: PipelineSettings, tasks: tuple[Task, ...], mesh: Mesh
) -> Batches:
    """Return this process's training batches, from the first one on."""
    if jax.process_count() > 1:
        described = describe_training_records(pipeline, config.data.split)
        distributed.check_equal_across_processes(
            {f"the data in {folder}:{config.data.split}": t for folder, t in described.items()},
            "copy one host's folder to the others, or put it where all hosts see it",
            shown=True,
        )
    shard, shards = get_data_shard(mesh)
    return make_train_iterator(
        pipeline,
        split=config.data.split,
        batch_size=config.train.batch_size,
        seed=config.seed,
        tasks=tasks,
        shard=shard,
        shards=shards,
    )


def save_config(config: config_lib.Config, workdir: AnyPath) -> None:
    """Write the resolved config next to the logs, for readers; a full disk is only a warning."""
    if jax.process_index() == 0:
        try:
            with atomic_write(workdir / "config.json") as temporary:
                temporary.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
        except OmfaError as error:
            log.warning("%s; training continues: checkpoints have the config too", error)


def make_sample_images(config: config_lib.Config, model: Model) -> DrawImages | None:
    """Return the loop's image function, or None when no sample images are asked for."""
    if not config.log.samples_every_steps:
        return None
    from omfa_jax.evals.training_images import make_training_images

    return make_training_images(
        model,
        config_lib.make_sampler_settings(config),
        records=config.data.records,
        split=config.data.split,
        count=config.log.samples,
        seed=config.seed,
        dtype=config.train.compute_dtype,
        attention=config.train.attention,
    )


def make_evaluation(
    config: config_lib.Config, model: Model, mesh: Mesh, vae_id: str
) -> Evaluate | None:
    """Return the loop's evaluation, or None when none is asked for."""
    if not config.eval.every_steps:
        return None
    from omfa_jax.evals.training_evaluation import make_training_evaluation

    return make_training_evaluation(
        model,
        config_lib.make_evaluation_settings(config),
        config_lib.make_pipeline_settings(config, vae_id=vae_id),
        mesh,
    )
