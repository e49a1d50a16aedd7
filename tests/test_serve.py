"""The script beside an export: the same pictures in PyTorch as here, from image files."""

import ast
import dataclasses
import importlib.util
import inspect
import shutil
import sys
from pathlib import Path

import icc_profiles as icc
import jax
import numpy as np
import pytest
from PIL import Image
from small_models import SMALL_UNET, SMALL_VAE
from torch_models import params_of, torch_unet, torch_vae

import omfa_jax
from omfa_jax.core import images
from omfa_jax.core.tasks import Task
from omfa_jax.diffusion.denoising_loop import SamplerSettings
from omfa_jax.diffusion.schedule import ScheduleSettings
from omfa_jax.diffusion.settings import DiffusionSettings
from omfa_jax.evals.psnr import psnr
from omfa_jax.model_loading import load_model
from omfa_jax.sampling.image_inputs import SlotFitter
from omfa_jax.sampling.sampler import Sampler
from omfa_jax.weights.diffusers_folder import save_diffusers
from omfa_jax.weights.imported_folder import get_export_fields, load_weights
from omfa_jax.weights.model_folder import make_ddim_config
from omfa_jax.weights.prompt_table import make_seeded_prompts

ASSETS = Path(omfa_jax.__file__).parent / "assets"
TINY = ASSETS / "tiny"
TASKS = {"try_on": ("garment", "face"), "try_off": ("person", "face")}
SEED = 3


def random_channel_model() -> dict:
    """A model whose slots are stacked on channels and whose UNet sees every kind of input."""
    tasks = (Task("try_on", ("person",), 1.0, "on"), Task("try_off", ("garment",), 1.0, "off"))
    settings = DiffusionSettings(
        tasks,
        slots_px=((16, 12),) * 3,
        stride=2,
        layout="channel",
        unet_inputs=("noisy", "mask", "clean", "pose"),
        prediction="epsilon",
        # as IDM-VTON's
        schedule=ScheduleSettings(zero_terminal_snr=True),
    )
    unet = dataclasses.replace(
        SMALL_UNET, in_channels=settings.in_channels, out_channels=settings.out_channels
    )
    vae = SMALL_VAE
    return {
        "unet_config": unet,
        "unet_params": params_of(unet, torch_unet(unet)),
        "vae_config": vae,
        "vae_params": params_of(vae, torch_vae(vae)),
        "scheduler": make_ddim_config(settings),
        "omfa": settings.to_json(),
        "prompts": make_seeded_prompts(["on", "off"], 5, 24, 8),
    }


@pytest.fixture(scope="module", params=["spatial", "channel"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "out"
    spatial = request.param == "spatial"
    save_diffusers(
        folder, **(get_export_fields(load_weights(TINY)) if spatial else random_channel_model())
    )
    return folder


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("omfa_torch", ASSETS / "omfa_torch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Smooth pictures of sizes that no slot has."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    sizes = {"garment": (150, 90), "person": (110, 140), "face": (40, 52), "pose": (170, 120)}
    for name, (height, width) in sizes.items():
        coarse = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(folder / f"{name}.png")
    return folder


def ours(folder, files, task, sampler):
    slots = SlotFitter(sampler.model.settings)
    given = {n: slots.load_image(n, str(files / f"{n}.png"), n) for n in TASKS[task]}
    pose = slots.fit_pose_map(images.read_rgb(files / "pose.png"))
    return sampler(task, given, pose, seed=SEED)


def flags(files, task):
    return [f"--{name}={files / name}.png" for name in (*TASKS[task], "pose")]


def test_the_same_pictures_in_pytorch(exported, script, files, tmp_path):
    for name in ("omfa_torch.py", "omfa_frame.py"):
        assert (exported / name).read_bytes() == (ASSETS / name).read_bytes()
    model = load_model(exported)
    steps = 12
    sampler = Sampler(model, SamplerSettings(steps, guidance=2.0))
    shape = model.settings.canvas.shape
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(SEED), 0), shape)
    np.save(tmp_path / "noise.npy", noise)
    for task, made in {"try_on": "person", "try_off": "garment"}.items():
        out = tmp_path / f"{task}.png"
        arguments = [f"--model={exported}", f"--noise={tmp_path}/noise.npy", f"--out={out}"]
        arguments += [f"--steps={steps}", "--guidance=2.0", "--device=cpu", "--native-size"]
        assert script.main([task, *flags(files, task), *arguments]) == 0
        expected = ours(exported, files, task, sampler)[made][0]
        came = np.array(Image.open(out))
        assert came.shape == expected.shape and np.std(expected) > 5
        assert psnr(came, expected) >= 50


def test_epsilon_is_never_asked_of_pure_noise(script, tmp_path):
    save_diffusers(tmp_path / "out", **random_channel_model())
    given = dict.fromkeys(TASKS["try_on"], np.zeros((16, 12, 3), np.uint8))
    with pytest.raises(
        script.InputError, match="500 starts at pure noise, where epsilon is undefined"
    ):
        script.Model(tmp_path / "out").generate("try_on", given, None, steps=500)


def test_a_seed_is_its_picture(script, files):
    model = script.Model(TINY)
    given = {name: script.load_image(files / f"{name}.png") for name in TASKS["try_on"]}

    def person(**settings):
        made = model.generate("try_on", given, None, steps=1, **settings)["person"]
        return made.astype(int)

    np.testing.assert_array_equal(person(seed=1), person(seed=1))
    assert np.abs(person(seed=1) - person(seed=2)).max() > 2


def test_pictures_are_read_and_fitted_as_here(script, tmp_path):
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = 6
    alpha = rgb.convert("RGBA")
    alpha.putalpha(rgb.convert("L"))
    wide = Image.fromarray(rng.integers(0, 65536, (40, 30), dtype=np.uint16))
    p3 = {"icc_profile": icc.make_rgb_profile("display_p3")}
    grey = {"icc_profile": icc.make_grey_profile(1.8)}
    saved = {
        "rgb.png": (rgb, {}),
        "turned.jpg": (rgb, {"exif": exif}),
        "alpha.png": (alpha, {}),
        "grey.png": (rgb.convert("L"), {}),
        "wide.png": (wide, {}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "palette.png": (rgb.convert("P"), {}),
        "p3.png": (rgb, p3),
        "p3_alpha.png": (alpha, p3),
        "p3_palette.png": (rgb.convert("P"), p3),
        "p3_grey.jpg": (rgb.convert("L"), p3),
        "grey_profile.png": (wide, grey),
        "cmyk_profile.jpg": (
            rgb.convert("CMYK"),
            {"icc_profile": icc.make_cmyk_profile(lambda c, m, y, k: (90 - 80 * k, c, m - y))},
        ),
        "srgb.png": (rgb, {"icc_profile": icc.make_rgb_profile("srgb")}),
        "other_profile.png": (rgb, grey),
        "damaged_profile.png": (rgb, {"icc_profile": b"garbage"}),
    }
    for name, (image, options) in saved.items():
        image.save(tmp_path / name, **options)
        expected = images.read_rgb(tmp_path / name)
        came = script.load_image(tmp_path / name)
        np.testing.assert_array_equal(came, expected, err_msg=name)
        for size in ((64, 48), (20, 50), came.shape[:2]):
            fitted = script.letterbox(came, *size, 255)
            np.testing.assert_array_equal(fitted, images.letterbox(came, *size))


def test_heic_without_its_package_is_one_line(script, tmp_path, monkeypatch):
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(script.InputError, match=r"--person: cannot read .*HEIC: .*pillow_heif"):
        script.read(path, "--person", script.load_image)


def list_imports(path, *, left_out=()):
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", "") not in left_out]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_the_scripts_need_nothing_of_ours():
    """But for the function that asks our package, where it is installed, for face and pose."""
    frame = list_imports(ASSETS / "omfa_frame.py", left_out=["draw_person"])
    names = {*list_imports(ASSETS / "omfa_torch.py"), *frame}
    roots = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    assert roots == {"numpy", "torch", "diffusers", "PIL", "safetensors", "omfa_frame"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "try_onn"}, "unknown task 'try_onn'; this model has try_off, try_on"),
        ({"face": None}, "try_on needs --face"),
        ({"garment": "missing.png"}, "--garment: cannot read missing.png"),
        ({"garment": "text.png"}, "--garment: cannot read"),
        ({"model": "."}, "has no omfa.json"),
        ({"model": "damaged"}, "cannot load"),
        ({"noise": "missing.npy"}, "--noise: cannot read missing.npy"),
        ({"noise": "small.npy"}, "--noise must have shape (16, 32, 16), got (2, 2)"),
        ({"steps": 1001}, "--steps must be 1 to 1000, got 1001"),
        ({"guidance": -1}, "--guidance must be 0 to 1000"),
        ({"out": "picture.gif"}, "--out must end in .png, .jpg, .jpeg"),
        ({"device": "abacus"}, "on abacus"),
        ({"out": "gs://bucket/a.png"}, "--out: gs:// is not supported"),
        ({"garment": "https://host/a.png"}, "--garment: https:// is not supported"),
    ],
    ids=str,
)
def test_faults_are_one_line(script, files, tmp_path, monkeypatch, capsys, changes, message):
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("no picture")
    np.save("small.npy", np.zeros((2, 2)))
    shutil.copytree(TINY, "damaged")
    weights = Path("damaged/unet/diffusion_pytorch_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:5000])
    options = {
        "task": "try_on",
        "garment": files / "garment.png",
        "face": files / "face.png",
        "model": TINY,
        "out": "out.png",
        "steps": 1,
        "device": "cpu",
        **changes,
    }
    task = options.pop("task")
    arguments = [f"--{name}={value}" for name, value in options.items() if value is not None]
    assert script.main([task, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("omfa_torch: ") and message in error
    assert error.count("\n") == 1
    assert not Path("out.png").exists()


def test_the_scripts_defaults_are_the_samplers(script):
    defaults = inspect.signature(script.Model.generate).parameters
    flags = script.parse_arguments(["try_on", "--out=person.png"])
    for name in ("steps", "guidance"):
        value = getattr(SamplerSettings, name)
        assert defaults[name].default == getattr(flags, name) == value
