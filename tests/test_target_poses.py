"""The bodies that `omfa data poses --turntable` renders of a person with a camera."""

import numpy as np

from omfa_jax.body.body_file import save_body
from omfa_jax.body.body_params import make_neutral_params
from omfa_jax.body.camera import make_look_at_camera
from omfa_jax.body.target_poses import make_turntable_targets
from omfa_jax.body.turntable import make_turntable


def test_a_person_turns_about_what_is_up_in_their_photo(tmp_path):
    camera = make_look_at_camera((0, 0, 4), (0, 0, 0), focal_px=100.0, width_px=48, height_px=64)
    person = make_neutral_params()
    save_body(tmp_path / "me.npz", person, camera)
    bodies, seen_by = make_turntable_targets(
        3, body=str(tmp_path / "me.npz"), smplx_model=None, size_px=(8, 8)
    )
    np.testing.assert_allclose(seen_by.rotation, camera.rotation)
    expected = make_turntable(person, 3, up=(0.0, 1.0, 0.0))
    for turned, body in zip(expected, bodies.values(), strict=True):
        np.testing.assert_allclose(body.global_orient, turned.global_orient, atol=1e-6)
    # the other way round, the second view would be the third
    assert np.abs(expected[1].global_orient - expected[2].global_orient).max() > 1
