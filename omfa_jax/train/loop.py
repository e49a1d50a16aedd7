"""The training loop: restore, next batch, step, log, save, sample images, evaluate."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from omfa_jax.core.compile_notice import announce_compilation
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath
from omfa_jax.core.startup_signals import end_startup
from omfa_jax.data.pipeline.iterator_state import get_batches_consumed
from omfa_jax.parallel.activity import PaceTable, here
from omfa_jax.parallel.distributed import any_across_processes
from omfa_jax.parallel.global_arrays import find_process_parts, make_global_batch, put_global
from omfa_jax.parallel.mesh import check_batch_size, make_replicated_sharding
from omfa_jax.parallel.sharding_rules import Rules
from omfa_jax.train.checkpoints.checkpointer import Checkpointer
from omfa_jax.train.checkpoints.finite_check import require_finite
from omfa_jax.train.checkpoints.restore import make_restore_template
from omfa_jax.train.monitoring.goodput import Clock, read_start_time
from omfa_jax.train.monitoring.metrics_buffer import MetricsBuffer
from omfa_jax.train.monitoring.mfu import RunCost
from omfa_jax.train.monitoring.pace_report import report_paces
from omfa_jax.train.monitoring.profiler import Profiler, ProfileSteps
from omfa_jax.train.monitoring.writers import Progress, Writers
from omfa_jax.train.objective import Objective
from omfa_jax.train.optimizer import make_optimizer, make_schedule
from omfa_jax.train.settings import TrainSettings
from omfa_jax.train.signals import StopRequest, TrainingInterrupt
from omfa_jax.train.state import (
    Start,
    TrainState,
    get_state_shardings,
    init_sharded_state,
    make_abstract_state,
)
from omfa_jax.train.step import make_step

log = logging.getLogger(__name__)

RunResult = TypeVar("RunResult")

# (state, step) -> {name: uint8 image}; an argument, so that train need not import sampling
DrawImages = Callable[[TrainState, int], Mapping[str, np.ndarray]]
# (state, step) -> {metric: value}; every process calls it and gets the same values
Evaluate = Callable[[TrainState, int], Mapping[str, float]]


class Batches(Protocol):
    """An iterator of host batches whose position can be saved and restored."""

    def __next__(self) -> dict[str, np.ndarray]: ...

    def get_state(self) -> Any: ...

    def set_state(self, state: Any) -> None: ...


@dataclass(frozen=True)
class TrainRun:
    """The parts of one run; `start` is parameters, or a jittable function that draws them."""

    workdir: AnyPath
    settings: TrainSettings
    objective: Objective
    start: Start
    constants: Any
    rules: Rules
    mesh: Mesh
    batches: Batches
    config: dict[str, Any]
    draw_images: DrawImages | None = None
    evaluate: Evaluate | None = None
    cost: RunCost | None = None
    profile: ProfileSteps | None = None


def train(run: TrainRun) -> TrainState:
    """Train until `settings.steps` and return the last state.

    Resume from the newest readable checkpoint of the workdir, if there is one. The state, the EMA,
    the data position and all random numbers then continue bit for bit as in an uninterrupted run.
    SIGINT, SIGTERM, SIGHUP and SIGUSR1 save a checkpoint and raise `TrainingInterrupt`.
    """
    settings, mesh = run.settings, run.mesh
    skips = settings.on_nonfinite == "skip"
    check_batch_size(mesh, settings.batch_size, settings.grad_accum_steps)
    optimizer = make_optimizer(settings.optimizer, settings.steps)
    rate = make_schedule(settings.optimizer, settings.steps)
    # under jit, because an eager key would live on one device of this host and not on the mesh
    root = jax.jit(
        lambda: jax.random.key(settings.seed), out_shardings=make_replicated_sharding(mesh)
    )()

    # everything is closed in reverse order: the logs first, then the wait for the last save
    with contextlib.ExitStack() as open_things:
        checkpoints = Checkpointer(run.workdir, settings.keep)
        open_things.callback(checkpoints.close)
        clock = Clock(read_start_time(run.workdir))
        with clock.measure("restore"):
            state, shardings = restore_or_create(run, checkpoints, optimizer)
            # after the restore, which renames damaged steps: Orbax lists the folder once, here
            checkpoints.open()
        constants_shardings = jax.tree.map(lambda _: make_replicated_sharding(mesh), run.constants)
        constants = put_global(run.constants, constants_shardings)
        step_fn = make_step(
            run.objective,
            optimizer,
            settings.ema_decay,
            shardings,
            constants_shardings,
            mesh,
            grad_accum_steps=settings.grad_accum_steps,
            skip_nonfinite=skips,
        )

        main_process = jax.process_index() == 0
        step = int(state.step)
        here.note_save(step)
        writers = Writers(
            run.workdir,
            enabled=main_process,
            wandb_project=settings.wandb_project,
            config=run.config,
            step=step,
        )
        open_things.callback(writers.close)
        profiler = Profiler(run.profile, run.workdir)
        open_things.callback(profiler.close)
        progress = Progress(step, settings.steps, settings.batch_size, enabled=main_process)
        open_things.callback(progress.close)
        window = MetricsBuffer(
            skips=skips, process_parts=find_process_parts(mesh), process=jax.process_index()
        )
        pace = PaceTable()
        saved, last, asked, row = step, False, None, {}
        compiled = False
        draw_images, evaluate = run.draw_images, run.evaluate

        # last, so that Ctrl-C during the start-up still ends it at once
        stop = open_things.enter_context(StopRequest())
        while step < settings.steps and not last:
            here.enter("data", step + 1)
            with clock.measure("data"):
                batch = next(run.batches)
                on_devices = make_global_batch(mesh, batch)
            here.enter("step", step + 1)
            if not compiled:
                compiled = True
                with (
                    clock.measure("compile"),
                    announce_compilation("the step", enabled=main_process),
                ):
                    # the call below uses this program; JAX keeps it
                    step_fn.lower(state, constants, on_devices, root).compile()
                progress.pause()
            profiler.before_step(step + 1)
            with clock.measure("device"):
                state, metrics = step_fn(state, constants, on_devices, root)
            step += 1
            end_startup()  # from here on a signal saves
            # waits for the step before this one, so the host is never more than a step ahead
            with clock.measure("device"):
                window.add(step, metrics, format_record_ids(batch))
            clock.record_step()
            here.finish_step(clock.data_s, clock.own_s)
            profiler.after_step(step, metrics)
            progress.advance()
            # at every step: otherwise a full disk would be noticed at the next save, hours later
            checkpoints.raise_if_failed()

            log_due = is_due(settings.log_every_steps, step)
            asked = stop.get_signal(step)
            last = step == settings.steps or asked is not None
            save = is_due(settings.save_every_steps, step) or last
            # before a save: the row raises at a non-finite loss, which must not be saved
            if log_due or save:
                with clock.measure("device"):
                    row = window.pop_means(saved, run.workdir)
                row["examples_per_second"] = progress.report(step, row["loss"])
                # optax counts updates from 0: step N was made with the rate of N - 1
                row["learning_rate"] = float(np.asarray(rate(step - 1)))
                row |= clock.compute_metrics(step)
                if run.cost is not None:
                    row |= run.cost.compute_metrics(step, row.get("step_seconds/p50"))
                row |= report_paces(pace, row.get("step_seconds/p50", 0.0))
                writers.write_scalars(step, row)

            if save:
                here.enter("save", step)
                with clock.measure("save"):
                    writers.flush()
                    require_finite(state, step, saved)
                    checkpoints.save(step, state, run.batches.get_state(), run.config, row)
                saved = step
                here.note_save(step)
                # the rate counts training only
                progress.pause()

            # after the save, so that an error or a kill here loses no training
            if draw_images and is_due(settings.samples_every_steps, step):
                here.enter("pictures", step)
                with clock.measure("pictures"):
                    draw_images = log_images(draw_images, state, step, writers)
                progress.pause()
            if evaluate and is_due(settings.evaluate_every_steps, step):
                here.enter("evaluation", step)
                with clock.measure("evaluation"):
                    evaluate = log_evaluation(evaluate, state, step, writers)
                progress.pause()
    here.enter("end", step)
    if asked is not None and step < settings.steps:
        raise TrainingInterrupt(asked, step)
    return state


def log_images(
    draw_images: DrawImages, state: TrainState, step: int, writers: Writers
) -> DrawImages | None:
    """Log sample images; return `draw_images` for the next time, or None if memory ran out."""
    made = skip_on_oom(lambda: draw_images(state, step))
    if made is None:
        log.warning(
            "out of memory for sample images: turned off for this run; sample fewer"
            " (config.log.samples), or turn them off (config.log.samples_every_steps=0)"
        )
        return None
    for name, image in made.items():
        writers.write_image(step, name, image)
    return draw_images


def log_evaluation(
    evaluate: Evaluate, state: TrainState, step: int, writers: Writers
) -> Evaluate | None:
    """Log an evaluation; return `evaluate` for the next time, or None if memory ran out."""
    row = skip_on_oom(lambda: evaluate(state, step))
    if row is None:
        log.warning(
            "out of memory for the evaluation: turned off for this run; computing only"
            " the loss needs less memory (config.eval.examples=0), or turn it off"
            " (config.eval.every_steps=0)"
        )
        return None
    writers.write_scalars(step, row)
    return evaluate


def skip_on_oom(work: Callable[[], RunResult]) -> RunResult | None:
    """Return the result of `work`; None on every process if one of them ran out of memory."""
    made = None
    try:
        made = work()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
    # the next one is collective (it gathers the weights), so all processes do it or none
    return None if any_across_processes(made is None) else made


def restore_or_create(
    run: TrainRun, checkpoints: Checkpointer, optimizer: optax.GradientTransformation
) -> tuple[TrainState, TrainState]:
    """Return (state, shardings): the workdir's newest checkpoint, or `run.start`."""
    ema_decay = run.settings.ema_decay
    abstract = make_abstract_state(run.start, optimizer, ema_decay)
    shardings = get_state_shardings(abstract, run.rules, run.mesh)
    found = checkpoints.restore(make_restore_template(abstract, shardings))
    if found is None:
        state, step = init_sharded_state(run.start, optimizer, ema_decay, shardings), 0
    else:
        state, position = found
        run.batches.set_state(position)
        step = int(state.step)
        log.info("resumed from step %d of %s", step, checkpoints.folder)
    # resuming needs a position of `step` batches: fail now rather than after hours of training
    if get_batches_consumed(run.batches.get_state()) != step:
        raise OmfaError(f"at step {step} the data position is {run.batches.get_state()}")
    return state, shardings


def format_record_ids(batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the indices of a batch's records, as folder:record if it mixes several folders."""
    index, dataset = batch["index"], batch.get("dataset")
    if dataset is None or not dataset.any():
        # a view would keep the batch's images in memory until the next row of the log
        return index.copy()
    return np.array([f"{d}:{i}" for d, i in zip(dataset, index, strict=True)])


def is_due(every: int, step: int) -> bool:
    """Return whether `step` is a multiple of `every` (0 = never)."""
    return every > 0 and step % every == 0
