"""Bodies written as other tools write them land on the pixels where those tools show them."""

import pickle
from pathlib import Path

import body_estimates as dumps
import numpy as np
import pytest
from PIL import Image, ImageOps

from omfa_jax.body.body_params import BodyParams
from omfa_jax.body.hand_pose import HandBasis
from omfa_jax.body.importers.champ import ChampImporter, convert_crop_to_photo
from omfa_jax.body.importers.multihmr import MultiHmrImporter
from omfa_jax.body.importers.phalp import PhalpImporter
from omfa_jax.body.importers.smplerx import SmplerXImporter
from omfa_jax.body.importers.smplx_params import SmplxImporter
from omfa_jax.body.rotations import axis_angle_to_matrix
from omfa_jax.body.smpl_model import SmplBody
from omfa_jax.body.smpl_to_smplx import SmplConverter
from omfa_jax.core.errors import OmfaError

SIZES = [(768, 1024), (1001, 750), (512, 512)]
BODY = dumps.BODY
TIGHT_PX = 0.02


@pytest.fixture(scope="module")
def smpl():
    return dumps.fake_smpl()[0]


def two_crops(size_px):
    width, height = size_px
    small = dumps.Crop((0.2 * width, 0.4 * height), 0.3 * height, (0.9, 0.1, -0.05))
    large = dumps.Crop((0.6 * width, 0.55 * height), 0.8 * height, (0.8, -0.07, 0.12))
    return small, large


def copied(smpl):
    way = SmplConverter("copy21", dumps.free_body(), smpl)

    def convert(body):
        assert isinstance(body, SmplBody)
        return way(body)

    return convert


@pytest.mark.parametrize("size_px", SIZES)
def test_champ_npy_takes_the_largest_person_to_its_pixels(tmp_path: Path, smpl, size_px):
    people = [(dumps.some_smpl(i), crop) for i, crop in enumerate(two_crops(size_px))]
    saved, pixels = dumps.champ_dict(smpl, people, size_px)
    dumps.save_dict(tmp_path / "0001.npy", saved)
    found = ChampImporter(tmp_path, dumps.reading()).read("0001", size_px)
    body = copied(smpl)(found.body)
    assert found.people == 2
    seen = dumps.imported_pixels(body, found.camera)[:BODY]
    np.testing.assert_allclose(seen, pixels[1][:BODY], atol=TIGHT_PX)
    # a photo that was halved since
    half = ChampImporter(tmp_path, dumps.reading()).read("0001", (size_px[0] // 2, size_px[1] // 2))
    seen = dumps.imported_pixels(body, half.camera)[:BODY]
    np.testing.assert_allclose(2 * seen, pixels[1][:BODY], atol=1.5)
    with pytest.raises(OmfaError, match="photo is 900x300"):
        ChampImporter(tmp_path, dumps.reading()).read("0001", (900, 300))


def test_champ_group_takes_names_from_what_lies_beside_it(tmp_path: Path, smpl):
    size_px, crop = (768, 1024), two_crops((768, 1024))[1]
    (tmp_path / "images").mkdir()
    groups, shown = [], {}
    for number in (2, 10):
        saved, pixels = dumps.champ_dict(smpl, [(dumps.some_smpl(number), crop)], size_px)
        (tmp_path / "images" / f"{number}.png").touch()
        groups.append(saved)
        shown[str(number)] = pixels[0]
    (tmp_path / "smpl_results").mkdir()
    group = tmp_path / "smpl_results" / "smpls_group.npz"
    np.savez(group, smpl=[g["smpls"] for g in groups], camera=[g["cam_t"][0] for g in groups])
    source = ChampImporter(group, dumps.reading())
    assert list(source.frames) == ["2", "10"]
    for name, pixels in shown.items():
        found = source.read(name, size_px)
        seen = dumps.imported_pixels(copied(smpl)(found.body), found.camera)[:BODY]
        np.testing.assert_allclose(seen, pixels[:BODY], atol=TIGHT_PX)
    (tmp_path / "images" / "10.png").unlink()
    with pytest.raises(OmfaError, match="its 2 frames have no names"):
        ChampImporter(group, dumps.reading())


def test_a_crop_s_weak_perspective_goes_to_the_photo():
    cam, center, side, size_px, focal = (0.9, 0.1, -0.2), (610.0, 300.0), 420.0, (768, 1024), 2e4
    x, y, z = convert_crop_to_photo(np.array(cam), np.array(center), side, size_px, focal)
    # in the crop, the model's origin is s tx of half a side off the centre
    want = [center[i] + side / 2 * cam[0] * cam[i + 1] for i in range(2)]
    np.testing.assert_allclose([focal * x / z + 384, focal * y / z + 512], want)
    np.testing.assert_allclose(focal / z, side / 2 * cam[0])
    with pytest.raises(OmfaError, match="positive scale"):
        convert_crop_to_photo(np.array([-1.0, 0, 0]), np.array(center), side, size_px, focal)


def test_champ_reads_raw_network_output(tmp_path: Path, smpl):
    size_px, (crop, _) = (768, 1024), two_crops((768, 1024))
    saved, pixels = dumps.champ_dict(smpl, [(dumps.some_smpl(4), crop)], size_px)
    raw = {
        "pred_smpl_params": saved["smpls"],
        "pred_cam": np.array([crop.cam]),
        "box_center": np.array([crop.center_px]),
        "box_size": np.array([crop.side_px]),
        "img_size": np.array([size_px]),
    }
    dumps.save_dict(tmp_path / "a.npy", raw)
    found = ChampImporter(tmp_path / "a.npy", dumps.reading()).read("a", size_px)
    seen = dumps.imported_pixels(copied(smpl)(found.body), found.camera)[:BODY]
    np.testing.assert_allclose(seen, pixels[0][:BODY], atol=TIGHT_PX)


@pytest.mark.parametrize("size_px", SIZES)
def test_phalp_takes_the_largest_track_seen_in_the_frame(tmp_path: Path, smpl, size_px):
    small, large = two_crops(size_px)
    ghost = dumps.Crop((0.5 * size_px[0], 0.5 * size_px[1]), 2.0 * size_px[1], (1.0, 0.0, 0.0))
    crops = (small, large, ghost)
    made = [dumps.phalp_track(smpl, dumps.some_smpl(i), c, size_px) for i, c in enumerate(crops)]
    frame = dumps.phalp_frame(
        "x/img/000007.jpg", [(t, int(i == 2)) for i, (t, _) in enumerate(made)]
    )
    gone = dumps.phalp_frame("x/img/000008.jpg", [(made[0][0], 3)])
    path = tmp_path / "demo_x.pkl"
    dumps.dump_phalp(path, {"x/img/000007.jpg": frame, "x/img/000008.jpg": gone})
    source = PhalpImporter(path, dumps.reading())
    found = source.read("000007", size_px)
    assert found.people == 2
    # the file knows the pelvis: no SMPL model is needed
    for way in (copied(None), copied(smpl)):
        seen = dumps.imported_pixels(way(found.body), found.camera)[:BODY]
        np.testing.assert_allclose(seen, made[1][1][:BODY], atol=TIGHT_PX)
    with pytest.raises(OmfaError, match="no person detected in this frame"):
        source.read("000008", size_px)


def test_smplerx_takes_the_largest_box_and_bends_hands_from_the_relaxed_one(tmp_path: Path):
    mean = np.random.default_rng(1).normal(scale=0.3, size=(2, 45))
    focal, princpt, size_px = (4911.0, 4903.5), (401.2, 512.9), (768, 1024)
    shown = {}
    for i, box in enumerate(([10, 20, 100, 300], [200, 100, 400, 800])):
        params = dumps.some_smplx(i).replace(transl=[0.1 * i, -0.2, 9.0])
        dumps.write_smplerx(
            tmp_path, f"00003_{i}", "in/000003.jpg", params, mean, box, focal, princpt
        )
        joints = dumps.forward(dumps.free_body(), params)[1]
        shown[i] = joints[:, :2] / joints[:, 2:] * focal + princpt
    source = SmplerXImporter(tmp_path, dumps.reading(False, HandBasis(mean, None)))
    found = source.read("000003", size_px)
    assert found.people == 2
    seen = dumps.imported_pixels(found.body, found.camera)
    np.testing.assert_allclose(seen, shown[1], atol=TIGHT_PX)
    (tmp_path / "meta" / "00003_0.json").unlink()
    with pytest.raises(OmfaError, match="no camera for 00003_0"):
        SmplerXImporter(tmp_path, dumps.reading()).read("00003", size_px)


@pytest.mark.parametrize(("size_px", "side_px"), [((768, 1024), 896), ((1001, 750), 672)])
def test_multihmr_takes_the_best_score_to_the_photo_under_the_square(
    tmp_path: Path, size_px, side_px
):
    block = np.zeros((size_px[1], size_px[0]), np.uint8)
    row, column = size_px[1] // 4, size_px[0] // 3
    block[row : row + 40, column : column + 40] = 255
    # the demo's own two calls
    square = ImageOps.contain(Image.fromarray(block), (side_px, side_px))
    square = np.asarray(ImageOps.pad(square, size=(side_px, side_px)), np.float64)
    rows, columns = np.indices(square.shape) + 0.5
    at = np.array([(columns * square).sum(), (rows * square).sum()]) / square.sum()
    focal = side_px / (2 * np.tan(np.pi / 6))
    pelvis = np.array([*((at - side_px // 2) / focal * 4.0), 4.0])
    people = [
        dumps.multihmr_person(dumps.some_smplx(i), pelvis + [0.3 * (i == 0), 0, 0], score, side_px)[
            0
        ]
        for i, score in enumerate((0.4, 0.9))
    ]
    with (tmp_path / "a.pkl").open("wb") as file:
        pickle.dump(people, file)
    stacked = {name: np.stack([p[name] for p in people]) for name in people[0]}
    dumps.save_npz(tmp_path / "b.npz", stacked)
    with (tmp_path / "all.pkl").open("wb") as file:
        pickle.dump({"in/c.jpg": people}, file)
    frames = [(tmp_path, "a"), (tmp_path / "b.npz", "b"), (tmp_path / "all.pkl", "c")]
    for path, name in frames:
        found = MultiHmrImporter(path, dumps.reading()).read(name, size_px)
        assert found.people == 2 and isinstance(found.body, BodyParams)
        seen = dumps.imported_pixels(found.body, found.camera)
        np.testing.assert_allclose(seen[0], [column + 20, row + 20], atol=0.3)
        # every joint: the square's pixels, back through the same shrinking
        scale = max(size_px) / side_px
        want = (people[1]["j2d_smplx"] - at) * scale + [column + 20, row + 20]
        np.testing.assert_allclose(seen, want, atol=1.0)
        np.testing.assert_allclose(
            found.body.get_full_pose(), dumps.some_smplx(1).get_full_pose(), atol=1e-6
        )
    del people[1]["j2d_smplx"]
    with (tmp_path / "a.pkl").open("wb") as file:
        pickle.dump(people, file)
    with pytest.raises(OmfaError, match="no camera: save K"):
        MultiHmrImporter(tmp_path, dumps.reading()).read("a", size_px)


@pytest.mark.parametrize("as_matrices", [False, True])
def test_plain_smplx_in_a_world_of_its_own(tmp_path: Path, as_matrices: bool):
    params = dumps.some_smplx(3).replace(transl=[0.2, 0.1, 0.4])
    turn = axis_angle_to_matrix(np.array([[0.1, 0.4, -0.2]]))[0]
    shift, focal, center = (
        np.array([0.1, -0.1, 5.0]),
        np.array([900.0, 950.0]),
        np.array([300.0, 260.0]),
    )
    arrays = {name: value[None] for name, value in params.as_dict().items()}
    if as_matrices:
        for name in ("global_orient", "body_pose", "jaw_pose", "left_hand_pose", "right_hand_pose"):
            arrays[name] = axis_angle_to_matrix(arrays[name].reshape(-1, 3))[None]
    matrix = np.diag([*focal, 1.0])
    matrix[:2, 2] = center
    dumps.save_npz(tmp_path / "a.npz", arrays | {"K": matrix, "R": turn, "T": shift})
    found = SmplxImporter(tmp_path, dumps.reading(allow_pickle=False)).read("a", (640, 480))
    joints = dumps.forward(dumps.free_body(), params)[1] @ turn.T + shift
    want = joints[:, :2] / joints[:, 2:] * focal + center
    np.testing.assert_allclose(dumps.imported_pixels(found.body, found.camera), want, atol=TIGHT_PX)
    dumps.save_npz(tmp_path / "b.npz", arrays)
    with pytest.raises(OmfaError, match=r"no camera: add K"):
        SmplxImporter(tmp_path, dumps.reading()).read("b", (640, 480))


def test_plain_smplx_hands_follow_the_file_and_the_flag(tmp_path: Path):
    rng = np.random.default_rng(2)
    hands = HandBasis(rng.normal(size=(2, 45)), rng.normal(size=(2, 45, 45)))
    shared = {"global_orient": np.zeros(3), "body_pose": np.zeros(63), "focal": 500.0}
    coefficients = rng.normal(size=6)
    np.savez(tmp_path / "a.npz", **shared, left_hand_pose=coefficients, flat_hand_mean=False)
    found = SmplxImporter(tmp_path, dumps.reading(hands=hands)).read("a", (640, 480))
    assert isinstance(found.body, BodyParams) and hands.components is not None
    want = hands.mean[0] + sum(
        c * row for c, row in zip(coefficients, hands.components[0], strict=False)
    )
    np.testing.assert_allclose(found.body.left_hand_pose.ravel(), want, rtol=1e-5)
    np.testing.assert_allclose(found.body.right_hand_pose.ravel(), hands.mean[1], rtol=1e-5)
    assert found.camera.center_px == (320, 240)
    with pytest.raises(OmfaError, match="principal components, which need --smplx-model"):
        SmplxImporter(tmp_path, dumps.reading()).read("a", (640, 480))
