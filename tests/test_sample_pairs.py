"""`omfa sample --pairs`: bytes depend on the pair alone; what failed is named and retried."""

import json
import shutil

import jax
import pytest
import tiny_viton as tiny
from tiny_model import make_tiny_model, save_tiny_model
from tiny_training import UNET

from omfa_jax.cli.main import main
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import read_rgb, write_image
from omfa_jax.data.builders.raw_files import Pair, read_pair_list
from omfa_jax.diffusion.denoising_loop import SamplerSettings
from omfa_jax.sampling.pair_names import name_pictures
from omfa_jax.sampling.pairs_folder import RUN_FILE, PairsFolder
from omfa_jax.sampling.pairs_sampling import PairInputs, PhotoFolder, sample_pairs
from omfa_jax.sampling.sampler import Sampler

PEOPLE = 7
STEPS = SamplerSettings(steps=2, guidance=1.5)
FACTS = {"seed": 3}
SPACED = "my aunt 2nd.photo"


@pytest.fixture(scope="module")
def model():
    # with attention: what depends on the batch most easily
    return make_tiny_model(config=UNET)


@pytest.fixture(scope="module")
def one_device(model):
    return Sampler(model, STEPS, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Seven people, one of them with spaces and a dot in the name; eleven pairs."""
    raw = tiny.write_raw(tmp_path_factory.mktemp("data"), {"test": PEOPLE}) / "test"
    for path in raw.rglob("00006_00*"):
        path.rename(path.with_name(path.name.replace("00006_00", SPACED)))
    lines = [f"{a:05d}_00.jpg {b:05d}_00.jpg" for a in range(3) for b in range(3)]
    lines += [f'"{SPACED}.jpg"\t"00004_00.jpg"\r', f"00004_00.jpg,{SPACED}.jpg"]
    (raw / "my list.txt").write_text("\n".join(lines) + "\n")
    return raw


@pytest.fixture
def raw(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "raw")


def sample(sampler, raw, out, *, overwrite=False, facts=FACTS, task="try_on", **options):
    row = next(t for t in sampler.model.settings.tasks if t.name == task)
    pictures = name_pictures(read_pair_list(raw / "my list.txt", "--pairs"))
    garments = PhotoFolder(raw / "cloth", "--garments")
    inputs = PairInputs(row, PhotoFolder(raw / "image", "--persons"), garments)
    out.mkdir(exist_ok=True)
    folder = PairsFolder(out, pictures, row.noised)
    folder.claim(facts, overwrite=overwrite)
    places = folder.list_missing()
    folder.open_ledger(0)
    sample_pairs(sampler, folder, inputs, places, seed=3, **options)
    return places, folder.close(facts)


def files(out):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file()}


def pictures(out):
    return {name: content for name, content in files(out).items() if name != RUN_FILE}


@pytest.fixture(scope="module")
def alone(whole, one_device, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    places, failed = sample(one_device, whole, out)
    assert places == list(range(11)) and failed == []
    return files(out)


def lines_of(out):
    return {line["name"]: line for line in json.loads((out / RUN_FILE).read_text())["pictures"]}


def test_a_picture_for_every_pair_in_the_photos_frame(alone, tmp_path):
    names = [f"0000{a}_00__0000{b}_00.png" for a in range(3) for b in range(3)]
    names += [f"00004_00__{SPACED}.png", f"{SPACED}__00004_00.png"]
    assert [*alone] == sorted([*names, RUN_FILE])
    assert len({*alone.values()}) == 12
    assert read_rgb(alone[f"{SPACED}__00004_00.png"]).shape == (64, 48, 3)
    (tmp_path / RUN_FILE).write_bytes(alone[RUN_FILE])
    line = lines_of(tmp_path)[f"{SPACED}__00004_00"]
    assert line["status"] == "done" and line["inputs"]["pose"].endswith(f"pose/{SPACED}.png")
    assert line["sizes_px"] == {"person": [48, 64]}


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 1), (1, 3), (1, 8), (8, 3)])
def test_neither_the_batch_nor_the_devices_change_a_byte(
    alone, whole, model, one_device, tmp_path, devices, batch_size
):
    sampler = one_device
    if devices > 1:
        sampler = Sampler(model, STEPS, devices=jax.devices()[:devices])
    sample(sampler, whole, tmp_path / "out", batch_size=batch_size)
    assert files(tmp_path / "out") == alone


def test_what_a_kill_leaves_is_finished_with_the_same_bytes(
    alone, whole, one_device, tmp_path, monkeypatch
):
    out, wrote = tmp_path / "out", []

    def stop(path, image):
        if len(wrote) == 5:
            raise KeyboardInterrupt
        wrote.append(path)
        write_image(path, image)

    monkeypatch.setattr("omfa_jax.sampling.pairs_sampling.write_image", stop)
    with pytest.raises(KeyboardInterrupt):
        sample(one_device, whole, out)
    monkeypatch.undo()
    # cut short, as by a kill while it was written
    with (out / ".pictures.0.jsonl").open("ab") as ledger:
        ledger.write(b'{"name": "00000')
    (out / f".00000_00-omfa-{'x' * 8}.png").write_bytes(b"half")
    places, _ = sample(one_device, whole, out)
    assert len(places) == 6 and not {*wrote} & {out / f"{n}.png" for n in places}
    assert files(out) == alone
    # a finished folder is left as it is, and a picture that went is made again
    (out / "00000_00__00001_00.png").unlink()
    assert sample(one_device, whole, out) == ([1], [])
    assert files(out) == alone
    assert sample(one_device, whole, out) == ([], [])
    assert files(out) == alone


def test_failures_are_named_and_tried_again(alone, raw, one_device, tmp_path, caplog):
    out = tmp_path / "out"
    kept = tmp_path / "kept"
    kept.mkdir()
    hidden = [raw / "image/00000_00.jpg", raw / "cloth/00004_00.jpg"]
    hidden += sorted(raw.rglob(f"{SPACED}*_keypoints.json"))
    hidden += [raw / f"image-parse-v3/{SPACED}.png"]
    for number, path in enumerate(hidden):
        shutil.move(path, kept / str(number))
    hidden[0].write_bytes((kept / "0").read_bytes()[:200])
    places, failed = sample(one_device, raw, out)
    whys = {line["name"]: line["why"] for line in failed}
    assert len(whys) == 4 and places == list(range(11))
    assert "damaged" in whys["00000_00__00001_00"]
    assert "00004_00.jpg" in whys[f"{SPACED}__00004_00"]
    listed = (out / "failed_pairs.txt").read_text()
    assert all(f"# {why}" in listed for why in whys.values())
    # the list of failures is a list of pairs
    again = [p.name for p in name_pictures(read_pair_list(out / "failed_pairs.txt", "--pairs"))]
    assert again == [*whys]
    assert "failed, the first one" in caplog.text
    shutil.move(kept / "1", hidden[1])
    _, failed = sample(one_device, raw, out)
    assert [line["name"] for line in failed] == [*whys]
    assert f"{raw}/image/{SPACED}.jpg: no person found" in failed[-1]["why"]
    for number, path in enumerate(hidden):
        if number != 1:
            shutil.move(kept / str(number), path)
    assert sample(one_device, raw, out) == ([0, 1, 2, 9], [])
    assert pictures(out).items() == {n: b for n, b in alone.items() if n != RUN_FILE}.items()


def test_another_run_is_refused_by_what_differs(alone, raw, one_device, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name, content in alone.items():
        (out / name).write_bytes(content)
    with pytest.raises(OmfaError, match=r"another run \(seed: was 3, now 4\).*--overwrite"):
        sample(one_device, raw, out, facts={"seed": 4})
    listed = (raw / "my list.txt").read_text().splitlines()
    (raw / "my list.txt").write_text("\n".join(listed[:2] + listed[3:]) + "\n")
    with pytest.raises(OmfaError, match="pairs: were 11, now 10, which differ from number 3 on"):
        sample(one_device, raw, out)
    assert files(out) == alone
    # a list that has grown goes on
    (raw / "my list.txt").write_text("\n".join([*listed, "00005_00.jpg 00005_00.jpg"]) + "\n")
    assert sample(one_device, raw, out) == ([11], [])
    assert pictures(out).items() > {n: b for n, b in alone.items() if n != RUN_FILE}.items()
    (out / "mine.png").write_bytes(b"mine")
    (raw / "my list.txt").write_text("00005_00 00001_00\n")
    assert sample(one_device, raw, out, facts={"seed": 4}, overwrite=True) == ([0], [])
    assert [*files(out)] == ["00005_00__00001_00.png", "mine.png", RUN_FILE]
    (out / RUN_FILE).unlink()
    with pytest.raises(OmfaError, match=r"00005_00__00001_00.png exists.*no pairs.json"):
        sample(one_device, raw, out)


def test_the_command(alone, raw, model, tmp_path, capsys, caplog):
    folder = save_tiny_model(tmp_path / "model", model)
    (raw / "four.csv").write_text(
        "model,cloth\n" + "".join(f"0000{i}_00.jpg,00001_00.jpg\n" for i in (0, 1, 2))
    )
    out = tmp_path / "out"
    words = ["sample", f"--checkpoint={folder}", f"--pairs={raw}/four.csv", f"--out={out}"]
    words += [f"--persons={raw}/image", f"--garments={raw}/cloth", "--steps=2", "--guidance=1.5"]
    words += ["--seed=3"]
    caplog.set_level("INFO")
    assert main(words) == 0
    assert "compiling the sampler" in caplog.text and "pictures/s on 1 x" in caplog.text
    # the place in the list may change how sums are rounded, not the noise
    made = read_rgb(out / "00002_00__00001_00.png").astype(int)
    assert abs(made - read_rgb(alone["00002_00__00001_00.png"])).max() <= 1
    settings = json.loads((out / RUN_FILE).read_text())["settings"]
    assert settings["seed"] == 3 and settings["sampler"]["steps"] == 2
    capsys.readouterr()
    assert main([*words, "--steps=3"]) == 2
    assert "'steps': 2" in capsys.readouterr().err
    (raw / "image/00003_00.jpg").write_bytes(b"")
    with (raw / "four.csv").open("a") as listed:
        listed.write("00003_00.jpg,00001_00.jpg\n")
    assert main(words) == 2
    assert "1 of 4 pictures failed" in capsys.readouterr().err
    assert lines_of(out)["00003_00__00001_00"]["status"] == "failed"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--task=transfer"], "--task transfer is for one person"),
        (["--task=x"], "try_off, try_on"),
        (["--garments={raw}/image-parse-v3"], "has none of the 11 images"),
        (["--persons={raw}/absent"], "--persons"),
        (["--out={raw}"], "is or contains what --persons reads"),
        (["--pairs={raw}/list"], "line 1: expected two names"),
        (["--dtype=int8"], "dtype (--dtype)"),
    ],
)
def test_wrong_flags_are_refused_before_the_weights_are_read(
    raw, model, tmp_path, capsys, changes, said
):
    folder = save_tiny_model(tmp_path / "model", model)
    for path in folder.rglob("*model*.safetensors"):
        path.write_bytes(b"damaged")
    (raw / "list").write_text("one\n")
    for path in (raw / "image-parse-v3").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    words = [f"--checkpoint={folder}", f"--pairs={raw}/my list.txt", f"--out={tmp_path}/out"]
    words += [f"--persons={raw}/image", f"--garments={raw}/cloth"]
    assert main(["sample", *words, *(text.format(raw=raw) for text in changes)]) == 2
    assert said in capsys.readouterr().err


def test_try_off_takes_every_photo_without_a_list(raw, one_device, tmp_path):
    row = next(t for t in one_device.model.settings.tasks if t.name == "try_off")
    people = PhotoFolder(raw / "image", "--persons")
    pictures = name_pictures([Pair(path.name, "") for path in people.by_stem.values()])[:2]
    folder = PairsFolder(tmp_path, pictures, row.noised)
    folder.claim(FACTS, overwrite=False)
    folder.open_ledger(0)
    assert sample_pairs(one_device, folder, PairInputs(row, people, None), [0, 1], seed=3) == 0
    assert folder.close(FACTS) == []
    assert read_rgb(tmp_path / "00000_00.png").shape == (32, 32, 3)


def test_messages_of_thousands_of_people_stay_with_their_pictures(
    raw, one_device, tmp_path, caplog
):
    shutil.rmtree(raw / "pose")
    places, failed = sample(one_device, raw, tmp_path / "out")
    assert len(places) == 11 and failed == []
    lines = lines_of(tmp_path / "out").values()
    assert all("the model chooses one" in " ".join(line["notes"]) for line in lines)
    told = [r.getMessage() for r in caplog.records if "no body from" in r.getMessage()]
    assert len(told) == 1 and told[0].startswith("11 pictures have notes in pairs.json")
