"""Every config resolves: settings, shapes and shardings, without a byte of weights."""

import dataclasses
import itertools
import math
import re
from pathlib import Path

import jax
import pytest

from omfa_jax.cli import config_lib
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import COMPONENTS
from omfa_jax.core.trees import find_first_match, flatten
from omfa_jax.evals.heldout_loss import HeldOutSettings
from omfa_jax.models import get_vae_config, init_unet
from omfa_jax.models.presets import UNETS
from omfa_jax.parallel.mesh import MeshSettings, make_mesh
from omfa_jax.parallel.sharding_rules import UNET_RULES, format_sharding_table, make_param_shardings
from omfa_jax.train.initial_weights import load_initial_model
from omfa_jax.train.network import get_network_shapes, make_unet_config

CONFIGS = Path(__file__).parents[1] / "configs"
FULL_SIZE = ("base", "vitonhd", "deepfashion", "both")


def load(name, *overrides):
    return config_lib.load_config(CONFIGS / f"{name}.py", overrides)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda p: p.stem)
def test_every_config_resolves(path):
    if path.stem == "__init__":
        return
    config = config_lib.load_config(path)
    vae_config = get_vae_config(config.model.vae)
    settings = config_lib.make_diffusion_settings(config, vae_config)
    unet_config = make_unet_config(config.model.unet, settings)
    config_lib.make_train_settings(config)
    config_lib.make_mesh_settings(config)
    config_lib.make_sampler_settings(config)
    params = jax.eval_shape(lambda: init_unet(unet_config, jax.random.key(0)))
    assert params["conv_in"]["kernel"].shape[2] == settings.in_channels
    mesh = make_mesh(MeshSettings(2, 2, 2))
    for leaf, sharding in zip(
        jax.tree.leaves(params),
        jax.tree.leaves(make_param_shardings(UNET_RULES, params, mesh)),
        strict=True,
    ):
        sharding.shard_shape(leaf.shape)


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_papers_setting(name):
    config = load(name)
    settings = config_lib.make_diffusion_settings(config, get_vae_config(config.model.vae))
    assert (config.train.steps, config.train.batch_size) == (65_000, 8)
    assert (config.sample.steps, config.sample.guidance) == (50, 2.0)
    assert config.diffusion.condition_dropout == 0.05
    assert settings.slots_px[COMPONENTS.index("person")] == (1024, 768)
    assert settings.canvas.shape == (128, 96 + 96 + 48, 4)
    assert settings.in_channels == 9
    params = jax.eval_shape(
        lambda: init_unet(make_unet_config(config.model.unet, settings), jax.random.key(0))
    )
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert count == 2_567_463_684 + 5 * 9 * 320


def test_fsdp_shards_nearly_every_byte_of_sdxl():
    config = load("base")
    settings = config_lib.make_diffusion_settings(config, get_vae_config("sdxl"))
    params = jax.eval_shape(
        lambda: init_unet(make_unet_config(config.model.unet, settings), jax.random.key(0))
    )
    mesh = make_mesh(MeshSettings(1, 8, 1))
    shardings = make_param_shardings(UNET_RULES, params, mesh)
    total = local = 0
    for leaf, sharding in zip(jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True):
        total += math.prod(leaf.shape)
        local += math.prod(sharding.shard_shape(leaf.shape))
    assert local < 1.05 * total / 8
    table = format_sharding_table(UNET_RULES, params, mesh)
    assert "to_q/kernel" in table and table.splitlines()[-1].startswith("total 10.270 GB")


def test_a_rung_of_the_ladder_takes_the_shipped_vae_and_prompts():
    folder = CONFIGS.parent / "omfa_jax/assets/tiny"
    config = load("tiny", f"--config.model.init={folder}", "--config.model.unet=ladder_24")
    model = load_initial_model(config_lib.make_weights_source(config), None)
    assert model.unet_params is None and model.unet_config.context_dim == 160
    assert model.prompts["context"].shape == (3, 4, 160)
    assert model.prompts["pooled"].shape == (3, 96)
    again = load("tiny", f"--config.model.init={folder}")
    same = load_initial_model(config_lib.make_weights_source(again), None)
    assert same.prompts["context"].shape == (3, 4, 64)


def alternatives(pattern):
    """Yield a row's pattern with each alternative of each of its groups alone."""
    parts = re.split(r"\(([^()]*\|[^()]*)\)", pattern)
    yield pattern
    for group in range(1, len(parts), 2):
        for choice in parts[group].split("|"):
            shown = [*parts[:group], choice, *parts[group + 1 :]]
            yield "".join(
                part if number % 2 == 0 else f"(?:{part})" for number, part in enumerate(shown)
            )


def test_every_sharding_row_is_some_weights():
    """And every alternative in a row: what matches nothing says something of no weight."""
    settings = config_lib.make_diffusion_settings(load("base"), get_vae_config("sdxl"))
    dual = dataclasses.replace(settings, reference=True)
    chosen = {pattern: set() for pattern, _ in UNET_RULES}
    for network, name in ((settings, "tiny"), (settings, "sdxl"), (dual, "xs")):
        for path, _ in flatten(get_network_shapes(network, UNETS[name])):
            weight = "/".join(path)
            chosen[find_first_match(UNET_RULES, weight)[0]].add(weight)
    idle = [
        (pattern, alternative)
        for pattern, weights in chosen.items()
        for alternative in alternatives(pattern)
        if not any(re.search(alternative, weight) for weight in weights)
    ]
    assert not idle


def test_an_unmatched_weight_is_an_error_that_names_it():
    stray = {"stray": {"table": jax.ShapeDtypeStruct((4, 4), "float32")}}
    with pytest.raises(OmfaError, match="stray/table"):
        make_param_shardings(UNET_RULES, stray, make_mesh(MeshSettings()))


def test_overrides_are_typed_and_checked():
    config = load("base", "--config.train.steps=7", "--config.optimizer.learning_rate=1")
    assert config.train.steps == 7
    assert config.optimizer.learning_rate == 1.0
    assert load("base", "--config.canvas.face=[256, 192]").canvas.face == (256, 192)
    for override, message in {
        "--config.train.step=7": "did you mean 'steps'",
        "--config.trian.steps=7": "did you mean 'train'",
        "--config.train.steps=many": "expected int",
        "--config.train=7": "is a group",
        "--steps=7": "set as --config.a.b=value",
        "--config.model.init_unet=perhaps": "expected true or false",
    }.items():
        with pytest.raises(OmfaError, match=message):
            load("base", override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.canvas.person=(1004, 768)", "multiples of the VAE stride 8"),
        ("--config.diffusion.prediction=noise", "expected one of epsilon, v, got 'noise'"),
        ("--config.canvas.layout=channel", "slots of one size"),
        ("--config.diffusion.unet_inputs=('noisy', 'pose')", "contain 'mask'"),
    ],
)
def test_impossible_settings_are_refused(override, message):
    with pytest.raises(OmfaError, match=message):
        config = load("base", override)
        _ = config_lib.make_diffusion_settings(config, get_vae_config("sdxl")).in_channels


def test_a_mesh_that_does_not_fit_says_so():
    with pytest.raises(OmfaError, match="does not cover the 8 devices"):
        make_mesh(MeshSettings(3, 1, 1))
    with pytest.raises(OmfaError, match="at most one -1"):
        make_mesh(MeshSettings(-1, -1, 1))


def find_settings(value):
    """Yield a settings dataclass and those in its fields."""
    if dataclasses.is_dataclass(value):
        yield value
        for field in dataclasses.fields(value):
            yield from find_settings(getattr(value, field.name))


def test_every_default_is_the_base_configs():
    """Another default in a dataclass would give another run from Python than from the CLI."""
    config = load("base", "--config.data.records=records")
    evaluation = config_lib.make_evaluation_settings(config)
    made = (
        config_lib.make_diffusion_settings(config, get_vae_config("sdxl")),
        config_lib.make_weights_source(config),
        config_lib.make_train_settings(config),
        config_lib.make_pipeline_settings(config),
        config_lib.make_mesh_settings(config),
        config_lib.make_sampler_settings(config),
        evaluation,
        HeldOutSettings(evaluation.loss_examples, evaluation.loss_timesteps, evaluation.seed),
    )
    # "" takes any style: records that were not drawn for the model do not say theirs
    exempt = {"PipelineSettings.pose_style"}
    checked = 0
    for settings in itertools.chain.from_iterable(map(find_settings, made)):
        for field in dataclasses.fields(settings):
            name = f"{type(settings).__name__}.{field.name}"
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            if default is dataclasses.MISSING or name in exempt:
                continue
            # the evaluation's sampler takes its steps from config.eval
            if settings is evaluation.sampler and field.name == "steps":
                continue
            assert getattr(settings, field.name) == default, name
            checked += 1
    assert checked > 30
