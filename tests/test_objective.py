"""What the training objective shows the network, and what it asks of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_settings import make_loss_settings
from tiny_training import BATCH, SETTINGS, CountingBatches

from omfa_jax.core.tasks import make_noised_table
from omfa_jax.diffusion.loss import compute_loss_weight
from omfa_jax.diffusion.schedule import get_alpha_sigma
from omfa_jax.train.objective import make_diffusion_objective
from omfa_jax.train.rng import make_row_keys

ROOT = jax.random.key(3)
ROWS = jnp.arange(BATCH)
CANVAS = SETTINGS.canvas
CHANNELS = SETTINGS.latent_channels


def run(dropout=0.0, output=0.0, step=0, gamma=0.0):
    """Return (loss, metrics, what the network was shown, the batch, the canvas of x0)."""
    shown = {}

    def apply(params, inputs, t, rows, prompts):
        shown.update(inputs=inputs, t=t, rows=rows)
        return params + jnp.zeros((BATCH, *CANVAS.shape))

    objective = make_diffusion_objective(
        SETTINGS,
        make_loss_settings(min_snr_gamma=gamma, condition_dropout=dropout),
        apply,
        lambda frozen, images: images,
    )
    batch = jax.tree.map(jnp.asarray, {**next(CountingBatches()), "row": ROWS})
    loss, metrics = objective(jnp.float32(output), {"vae": {}, "prompts": {}}, batch, ROOT, step)
    x0 = CANVAS.assemble({n: batch[f"{n}_latents"] for n in ("garment", "person", "face")})
    return loss, metrics, shown, batch, x0


def draw_noise(step, x0):
    """What each example draws by its own key."""
    keys = make_row_keys(ROOT, "noise", step, ROWS)
    return jnp.stack([jax.random.normal(key, x0.shape[1:]) for key in keys])


def masks(batch):
    mask = CANVAS.make_mask(jnp.asarray(make_noised_table(SETTINGS.tasks))[batch["task"]])
    return mask, jnp.broadcast_to(mask, (BATCH, *CANVAS.shape))


def test_clean_components_are_shown_clean_and_noised_ones_noised():
    _, _, shown, batch, x0 = run()
    mask, inside = masks(batch)
    xt = shown["inputs"][..., :CHANNELS]
    np.testing.assert_array_equal(xt[~inside], x0[~inside])
    np.testing.assert_array_equal(shown["inputs"][..., CHANNELS : CHANNELS + 1], mask)
    alpha, sigma = get_alpha_sigma(SETTINGS.schedule, shown["t"])
    eps = draw_noise(0, x0)
    expected = alpha[:, None, None, None] * x0 + sigma[:, None, None, None] * eps
    np.testing.assert_allclose(xt[inside], expected[inside], atol=1e-6)


def test_a_missing_pose_is_zero_and_a_given_one_lies_in_the_persons_slot():
    _, _, shown, batch, _ = run()
    pose = CANVAS.split(shown["inputs"][..., CHANNELS + 1 :])
    assert not pose["garment"].any() and not pose["face"].any()
    for row, has_pose in enumerate(batch["has_pose"]):
        expected = batch["pose_latents"][row] if has_pose else 0 * batch["pose_latents"][row]
        np.testing.assert_array_equal(pose["person"][row], expected)


def test_dropout_hides_clean_components_pose_and_prompt():
    _, _, shown, batch, _ = run(dropout=0.999999)
    _, inside = masks(batch)
    xt = shown["inputs"][..., :CHANNELS]
    assert not xt[~inside].any() and xt[inside].all()
    assert not shown["inputs"][..., CHANNELS + 1 :].any()
    np.testing.assert_array_equal(shown["rows"], len(SETTINGS.tasks))
    _, _, undropped, batch, _ = run()
    np.testing.assert_array_equal(undropped["rows"], batch["task"])


def test_the_loss_is_the_masked_error_of_v():
    loss, sums, shown, batch, x0 = run(output=0.25)
    metrics = {name: total / count for name, (total, count) in sums.items()}
    _, inside = masks(batch)
    alpha, sigma = (a[:, None, None, None] for a in get_alpha_sigma(SETTINGS.schedule, shown["t"]))
    eps = draw_noise(0, x0)
    squared = np.asarray((0.25 - (alpha * eps - sigma * x0)) ** 2)
    each = np.array([squared[i][np.asarray(inside[i])].mean() for i in range(BATCH)])
    assert float(loss) == pytest.approx(each.mean(), rel=1e-5)
    for index, task in enumerate(SETTINGS.tasks):
        expected = each[batch["task"] == index].mean()
        assert float(metrics[f"loss/{task.name}"]) == pytest.approx(expected, rel=1e-5)
    t = np.asarray(shown["t"])
    for low in (0, 250, 500, 750):
        expected = each[(t >= low) & (t < low + 250)]
        came = float(metrics[f"loss_at/t{low:03d}-{low + 249:03d}"])
        assert came == pytest.approx(expected.mean() if expected.size else np.nan, nan_ok=True)
    weighted, *_ = run(output=0.25, gamma=5.0)
    by_snr = compute_loss_weight("v", 5.0, alpha[:, 0, 0, 0], sigma[:, 0, 0, 0])
    assert float(weighted) == pytest.approx(float((by_snr * each).mean()), rel=1e-5)


def test_each_example_is_dropped_by_itself_anew_at_every_step():
    """Dropped rows are those that see the empty prompt."""
    dropped = []
    for step in range(30):
        shown = run(dropout=0.3, step=step)[2]
        rows = np.asarray(shown["rows"] == len(SETTINGS.tasks))
        pose = np.asarray(shown["inputs"][..., CHANNELS + 1 :])
        assert not pose[rows].any()
        dropped.append(rows)
    keys = make_row_keys(ROOT, "dropout", 0, ROWS)
    expected = [bool(jax.random.bernoulli(key, 0.3)) for key in keys]
    np.testing.assert_array_equal(dropped[0], expected)
    assert len({tuple(rows) for rows in dropped}) > 10
    assert 0.2 < np.mean(dropped) < 0.4


def test_each_example_draws_its_own_timestep_from_the_whole_schedule():
    times = np.array([run(step=step)[2]["t"] for step in range(30)])
    assert all(len(set(row)) > BATCH // 2 for row in times.tolist())
    assert times.min() < 50 and times.max() > 949


def test_images_are_encoded_and_the_frozen_vae_gets_no_gradient():
    shown = {}

    def apply(params, inputs, t, rows, prompts):
        shown["inputs"] = inputs
        return jnp.zeros((BATCH, *CANVAS.shape))

    objective = make_diffusion_objective(
        SETTINGS,
        make_loss_settings(condition_dropout=0.0),
        apply,
        lambda vae, images: vae["scale"] * images,
    )
    batch = {name.removesuffix("_latents"): v for name, v in next(CountingBatches()).items()}
    batch = jax.tree.map(jnp.asarray, batch | {"row": ROWS})
    frozen = {"vae": {"scale": jnp.float32(2.0)}, "prompts": {}}
    gradient = jax.grad(lambda f: objective(None, f, batch, ROOT, 0)[0])(frozen)
    assert float(gradient["vae"]["scale"]) == 0.0
    _, inside = masks(batch)
    x0 = 2.0 * CANVAS.assemble({n: batch[n] for n in ("garment", "person", "face")})
    np.testing.assert_array_equal(shown["inputs"][..., :CHANNELS][~inside], x0[~inside])


def test_noise_and_timesteps_change_with_the_step():
    first, second = run(step=0)[2], run(step=1)[2]
    assert (first["t"] != second["t"]).any()
    _, _, shown, batch, x0 = run(step=1)
    _, inside = masks(batch)
    alpha, sigma = (a[:, None, None, None] for a in get_alpha_sigma(SETTINGS.schedule, shown["t"]))
    noise = ((shown["inputs"][..., :CHANNELS] - alpha * x0) / sigma)[inside]
    expected = draw_noise(1, x0)[inside]
    np.testing.assert_allclose(noise, expected, atol=1e-3)
