"""Turntables, and folders of body files to folders of pose maps."""

import os
from pathlib import Path

import numpy as np
import pytest

from omfa_jax.body import pose_maps, render_backends
from omfa_jax.body.body_file import save_body
from omfa_jax.body.body_model import load_body_model
from omfa_jax.body.body_params import make_neutral_params
from omfa_jax.body.camera import make_look_at_camera
from omfa_jax.body.pose_maps import RenderReport, render_folder
from omfa_jax.body.render_body import render
from omfa_jax.body.rotations import axis_angle_to_matrix
from omfa_jax.body.smplx_forward import forward
from omfa_jax.body.turntable import make_turntable
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import read_rgb


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_turntable_returns_to_its_start(count: int):
    params = make_neutral_params().replace(global_orient=[0.2, 0.5, -0.1], transl=[1, 2, 3])
    views = make_turntable(params, count)
    assert len(views) == count and views[0] is params
    facing = np.array([axis_angle_to_matrix(view.global_orient[None])[0] for view in views])
    step = 2 * np.pi / count
    turn = np.array([[np.cos(step), 0, np.sin(step)], [0, 1, 0], [-np.sin(step), 0, np.cos(step)]])
    for index in range(count):
        np.testing.assert_allclose(turn @ facing[index], facing[(index + 1) % count], atol=1e-6)


def test_turntable_keeps_the_pelvis_and_shows_the_left_side_first_half():
    model = load_body_model()
    views = make_turntable(make_neutral_params().replace(transl=[0.5, 0, 0]), 4)
    joints = [forward(model, view)[1] for view in views]
    for posed in joints[1:]:
        np.testing.assert_allclose(posed[0], joints[0][0], atol=1e-5)
    # a quarter turn to their own left points the nose at +x
    eyes = joints[1][[23, 24]].mean(0) - joints[1][15]
    assert eyes[0] > 0.05 and abs(eyes[2]) < 0.01
    mirrored = make_turntable(make_neutral_params(), 4, up=(0.0, -1.0, 0.0))
    np.testing.assert_allclose(mirrored[1].global_orient, -views[1].global_orient, atol=1e-6)


@pytest.mark.parametrize(("count", "up"), [(0, (0.0, 1.0, 0.0)), (3, (0.0, 0.0, 0.0))])
def test_turntable_refuses(count: int, up: tuple[float, float, float]):
    with pytest.raises(OmfaError, match="turntable"):
        make_turntable(make_neutral_params(), count, up=up)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four body files of which one is truncated and one looks the other way."""
    source = tmp_path / "smplx"
    camera = make_look_at_camera(
        (0, -0.4, 4), (0, -0.4, 0), focal_px=150.0, width_px=72, height_px=96
    )
    away = make_look_at_camera(
        (0, -0.4, 4), (0, -0.4, 8), focal_px=150.0, width_px=72, height_px=96
    )
    for index, params in enumerate(make_turntable(make_neutral_params(), 3)):
        save_body(source / f"0000{index}_00.npz", params, camera)
    save_body(source / "00003_00.npz", make_neutral_params(), away)
    damaged = source / "00001_00.npz"
    damaged.write_bytes(damaged.read_bytes()[:500])
    return source


def run(folder: Path, **changes: object) -> RenderReport:
    settings = {"backend": "zbuffer", "processes": 1} | changes
    return render_folder(folder, folder.parent / "pose", **settings)


def test_good_files_are_rendered_and_bad_ones_listed(folder: Path):
    report = run(folder)
    assert (report.rendered, report.skipped) == (2, 0)
    assert [name for name, _ in report.failed] == ["00001_00.npz", "00003_00.npz"]
    assert "not a complete .npz" in report.failed[0][1] and "outside" in report.failed[1][1]
    assert len(str(report).splitlines()) == 3
    out = folder.parent / "pose"
    assert sorted(p.name for p in out.glob("*.png")) == ["00000_00.png", "00002_00.png"]
    model = load_body_model()
    camera = make_look_at_camera(
        (0, -0.4, 4), (0, -0.4, 0), focal_px=150.0, width_px=72, height_px=96
    )
    vertices, _ = forward(model, make_turntable(make_neutral_params(), 3)[2])
    want = render(vertices, model.faces, camera, backend="zbuffer")
    np.testing.assert_array_equal(read_rgb(out / "00002_00.png"), want)


def test_a_second_run_does_only_what_is_missing_or_older(folder: Path):
    run(folder)
    out = folder.parent / "pose"
    kept = out / "00000_00.png"
    before = kept.stat().st_mtime_ns
    assert (run(folder).rendered, kept.stat().st_mtime_ns) == (0, before)
    (out / "00002_00.png").unlink()
    report = run(folder)
    assert (report.rendered, report.skipped, len(report.failed)) == (1, 1, 2)
    assert kept.stat().st_mtime_ns == before
    newer = kept.stat().st_mtime + 10
    os.utime(folder / "00000_00.npz", (newer, newer))
    assert run(folder).rendered == 1


def test_sizes_are_letterboxed_and_maps_of_two_looks_are_not_mixed(folder: Path):
    run(folder, size_px=(60, 60), style="parts")
    picture = read_rgb(folder.parent / "pose" / "00000_00.png")
    assert picture.shape == (60, 60, 3)
    assert not picture[:, :7].any() and picture[:, 8:52].any()
    with pytest.raises(OmfaError, match=r"has maps of .*parts.*--overwrite"):
        run(folder, size_px=(60, 60))


def test_overwrite_renders_all_again_in_another_style(folder: Path):
    assert run(folder, style="parts").rendered == 2
    out = folder.parent / "pose"
    gone, kept = out / "of_a_body_that_is_gone.png", out / "00000_00.png"
    gone.write_bytes(kept.read_bytes())
    before = kept.read_bytes()
    report = run(folder, style="normals", overwrite=True)
    assert (report.rendered, report.skipped) == (2, 0)
    assert kept.read_bytes() != before and not gone.exists()
    assert "normals" in (out / "pose_maps.json").read_text()
    # a damaged note too, but never the maps of another tool
    (out / "pose_maps.json").write_text("{")
    assert run(folder, overwrite=True).rendered == 2
    (out / "pose_maps.json").unlink()
    with pytest.raises(OmfaError, match="images of another tool"):
        run(folder, overwrite=True)


def test_another_tools_maps_are_not_replaced(folder: Path):
    theirs = folder.parent / "pose" / "00000_00.png"
    theirs.parent.mkdir()
    theirs.write_bytes(b"theirs")
    os.utime(theirs, (0, 0))
    with pytest.raises(OmfaError, match=r"images of another tool \(00000_00\.png"):
        run(folder)
    assert theirs.read_bytes() == b"theirs"


def test_refusals_come_before_any_work(folder: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    cases = [
        ({"smplx_dir": tmp_path / "absent"}, "--raw"),
        ({"smplx_dir": tmp_path / "empty"}, r"no \*.npz"),
        ({"style": "normal"}, "did you mean 'normals'"),
        ({"model_path": tmp_path / "none.npz"}, "--smplx-model"),
        ({"processes": 0}, "--processes"),
    ]
    for change, words in cases:
        settings = {"smplx_dir": folder, "out_dir": tmp_path / "out", "backend": "zbuffer"}
        with pytest.raises(OmfaError, match=words):
            render_folder(**(settings | change))
    assert not (tmp_path / "out").exists()


def test_a_process_that_dies_costs_its_own_map_alone(folder: Path, monkeypatch):
    """As a driver that crashes does: the pool is gone, the others are drawn by another one."""
    monkeypatch.setattr(pose_maps, "_FILES_PER_PROCESS", 1)
    monkeypatch.setattr(pose_maps, "_render_file", exit_on_second_file)
    before = dict(os.environ)
    report = render_folder(folder, folder.parent / "dying", backend="zbuffer", processes=2)
    assert dict(os.environ) == before
    names = sorted(path.name for path in folder.glob("*.npz"))
    assert [name for name, _ in report.failed] == [names[1]]
    assert "process died" in report.failed[0][1]
    assert report.rendered == len(names) - 1


def exit_on_second_file(body: Path, image: Path, settings: object) -> str | None:
    if body == sorted(body.parent.glob("*.npz"))[1]:
        os._exit(1)
    return None


@pytest.mark.parametrize(
    ("renderer", "numba", "chosen"),
    [
        ("NVIDIA H100/PCIe/SSE2", True, "pyrender"),
        ("llvmpipe (LLVM 15.0.6, 256 bits)", True, "zbuffer"),
        ("llvmpipe (LLVM 15.0.6, 256 bits)", False, "pyrender"),
    ],
)
def test_auto_takes_the_faster_renderer(monkeypatch, renderer, numba, chosen):
    gpu = not any(name in renderer.lower() for name in render_backends.SOFTWARE_GL)
    monkeypatch.setattr(render_backends, "find_pyrender_failure", lambda: None)
    monkeypatch.setattr(render_backends, "is_on_gpu", lambda: gpu)
    monkeypatch.setattr(render_backends.zbuffer, "has_numba", lambda: numba)
    assert render_backends.resolve_backend("auto") == chosen
    assert render_backends.resolve_backend("pyrender") == "pyrender"
