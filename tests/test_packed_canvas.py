"""Two canvases of one: components packed for a reference UNet and laid back in their places."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_problem import TASKS, settings

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.tasks import COMPONENTS, Task
from omfa_jax.diffusion.packed_canvas import make_packed_canvases, read_noised
from omfa_jax.diffusion.partial import make_network_input

PLAIN = settings(tasks=TASKS[:2], reference=True)


def test_tasks_share_slots():
    noised, clean = make_packed_canvases(PLAIN)
    assert (noised.slots, noised.size) == (((4, 3),), (4, 3))
    assert (clean.slots, clean.size) == (((4, 3), (2, 2)), (4, 5))
    # joint noises two, and nothing larger than the face is ever clean beside it
    noised, clean = make_packed_canvases(settings(reference=True))
    assert noised.slots == ((4, 3), (4, 3)) and clean.slots == ((4, 3), (2, 2))
    face = Task("face", ("face",), 1.0, "")
    noised, clean = make_packed_canvases(settings(tasks=(face, TASKS[0]), reference=True))
    assert noised.slots == ((4, 3),) and clean.slots == ((4, 3), (4, 3))


@pytest.mark.parametrize("tasks", [TASKS[:2], TASKS, (Task("face", ("face",), 1.0, ""), TASKS[0])])
def test_components_come_back_to_their_places(tasks):
    s = settings(tasks=tasks, reference=True)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(tasks), 7)
    flags = np.array([[c in tasks[row].noised for c in COMPONENTS] for row in rows])
    sizes = zip(COMPONENTS, s.canvas.slots, strict=True)
    parts = {n: jnp.asarray(rng.standard_normal((7, *size, 4), np.float32)) for n, size in sizes}
    joint = s.canvas.assemble(parts)
    for packing, chosen in zip(make_packed_canvases(s), (flags, ~flags), strict=True):
        packed = packing.pack(joint, jnp.asarray(chosen))
        assert packed.shape == (7, *packing.size, 4)
        back = s.canvas.split(packing.unpack(packed, jnp.asarray(chosen)))
        for index, name in enumerate(COMPONENTS):
            wanted = np.where(chosen[:, index, None, None, None], parts[name], 0.0)
            np.testing.assert_array_equal(back[name], wanted)
        areas = sum(
            np.abs(parts[name][chosen[:, index]]).sum() for index, name in enumerate(COMPONENTS)
        )
        # nothing is there twice, nothing else is there
        assert np.abs(np.asarray(packed)).sum() == pytest.approx(areas, rel=1e-5)


def test_the_noised_components_are_read_off_the_input():
    for inputs in (("noisy", "mask", "pose"), ("noisy", "clean", "pose", "mask")):
        s = dataclasses.replace(PLAIN, unet_inputs=inputs)
        flags = jnp.array([[False, True, False], [True, False, False]])
        mask = s.canvas.make_mask(flags)
        xt = 5 * jnp.ones((2, *s.canvas.shape))
        seen = read_noised(s, make_network_input(inputs, s.canvas, xt, mask, xt))
        np.testing.assert_array_equal(seen, flags)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "channel", "slots_px": ((32, 24),) * 3}, "layout 'spatial'"),
        ({"tasks": (Task("all", COMPONENTS, 1.0, ""),)}, "noise every component"),
    ],
)
def test_what_a_reference_cannot_do_is_said(changes, message):
    with pytest.raises(OmfaError, match=message):
        settings(reference=True, **changes)
