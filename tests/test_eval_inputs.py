"""`omfa eval` on bad input: one line that says what to change, exit status 2, nothing lost."""

import json

import numpy as np
import pytest
from eval_folders import folder, pair_of_folders, picture
from PIL import Image

from omfa_jax.cli import eval as cli
from omfa_jax.cli.main import main
from omfa_jax.core.errors import OmfaError
from omfa_jax.evals.image_preparation import prepare_image, resize_with_filter
from omfa_jax.evals.protocol_spec import PROTOCOLS, load_protocol
from omfa_jax.evals.scores_file import SETTINGS, read_scores


def run(root, *flags: str, protocol: str = "omfa", out: str = "s.json") -> int:
    folders = ["--pred", str(root / "pred"), "--gt", str(root / "gt")]
    return main(["eval", *folders, "--protocol", protocol, "--out", str(root / out), *flags])


def refused(capsys, root, *flags: str, **names: str) -> str:
    """Run; return the one line of its error."""
    assert run(root, *flags, **names) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("omfa eval:")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name in ("TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    pair_of_folders(tmp_path, count=3)
    return tmp_path


def test_it_works_and_says_what_it_did(root, capsys):
    assert run(root) == 0
    shown = capsys.readouterr().out
    assert "SSIM" in shown and "3 of 3 images" in shown and "not computed" in shown
    scores = read_scores(root / "s.json")
    assert scores.method == "pred" and scores.counts.formats == {"PNG": 3}
    assert scores.protocol.choices["ssim.border"] == "reflect"
    assert {"scikit-image", "numpy", "omfa_jax"} <= set(scores.versions)


def test_some_metrics_only(root, capsys):
    assert run(root, "--metrics", "psnr") == 0
    metrics = read_scores(root / "s.json").metrics
    assert metrics["psnr"].value and metrics["ssim"].not_computed == "excluded by --metrics"
    assert "did you mean 'ssim'" in refused(capsys, root, "--metrics", "sim")


def test_folders_that_are_empty_not_there_or_the_same(root, capsys):
    assert "same folder" in refused(capsys, root, "--gt", str(root / "pred"))
    assert "--pred" in refused(capsys, root, "--pred", str(root / "nowhere"))
    (root / "empty" / "inner").mkdir(parents=True)
    line = refused(capsys, root, "--pred", str(root / "empty"))
    assert "no images" in line and "inner" in line
    assert "protocol" in refused(capsys, root, protocol="ladi")
    assert "--setting" in refused(capsys, root, "--setting", "try_on")
    assert "--workers" in refused(capsys, root, "--workers", "0")
    assert "--device" in refused(capsys, root, "--device", "tpu")
    assert "--metric-weights" in refused(capsys, root, "--metric-weights", str(root / "nowhere"))


def test_two_files_of_one_name(root, capsys):
    Image.fromarray(picture(1)).save(root / "pred/001.jpg")
    assert "001.jpg and 001.png" in refused(capsys, root)


def test_pairs_files_of_every_kind(root, capsys):
    good = ["000.png 001.png", "001.png 002.png", "002.png 000.png"]
    bad = {
        # lists with commas are read
        "000.png,002.png": "same prediction",
        "'000.png' ; '001.png' ; upper": "occurs twice, with two categories: none and upper",
        '"000.png,001.png': "its quotes do not match",
        "image/000.png 001.png": "names without a path",
        "000.png 001.png shoes": "expected a category (upper, lower or dress;",
        "000.png": "expected two names",
        "000.png 001.png 002.png 003.png": "expected two names",
        "000.png 002.png": "same prediction",
        "009.png 001.png": "'009'",
    }
    file = root / "pairs.txt"
    for line, message in bad.items():
        file.write_text("\n".join([*good, line]))
        assert message in refused(capsys, root, "--pairs", str(file)), line
    file.write_text("\n\n")
    assert "no pairs" in refused(capsys, root, "--pairs", str(file))
    assert "--pairs" in refused(capsys, root, "--pairs", str(root / "none.txt"))
    file.write_text("\n".join(good))
    folder(root / "cloth", {"000.png": picture(8), "001.png": picture(9)})
    flags = ["--pairs", str(file), "--garments", str(root / "cloth")]
    assert "garment '002'" in refused(capsys, root, *flags)
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(good).replace(" ", "\t").encode())
    assert run(root, "--pairs", str(file)) == 0
    # as spreadsheets write them, with a header in another order
    rows = ["cloth;person;category", *(f"{b};{a};Upper-body" for a, b in map(str.split, good))]
    file.write_text("\n".join(rows), "utf-16")
    assert run(root, "--pairs", str(file)) == 0
    assert set(read_scores(root / "s.json").categories) == {"upper"}


def test_names_by_rule(root, capsys):
    (root / "pairs.txt").write_text("000.jpg 00.jpg\n001.jpg 01.jpg\n002.jpg 02.jpg\n")
    for index in range(3):
        (root / f"pred/{index:03}.png").rename(root / f"pred/{index:03}_{index:02}.png")
    flags = ["--pairs", str(root / "pairs.txt")]
    assert "3 missing" in refused(capsys, root, *flags)
    assert run(root, *flags, "--pred-name", "{person}_{garment}") == 0
    assert read_scores(root / "s.json").per_image.names[0] == "000_00"
    assert "placeholder" in refused(capsys, root, *flags, "--pred-name", "{cloth}")


def test_categories_by_file(root, capsys):
    file = root / "categories.txt"
    file.write_text("000.png upper\n001.png 1\n002.png dress\n")
    assert run(root, "--categories", str(file)) == 0
    assert set(read_scores(root / "s.json").categories) == {"upper", "lower", "dress"}
    file.write_text("000.png upper\n001.png 1\n")
    assert "no category for 002" in refused(capsys, root, "--categories", str(file))
    file.write_text("000.png upper\n000.png lower\n")
    assert "twice" in refused(capsys, root, "--categories", str(file))
    file.write_text("000.png,upper_body\n001.png,1\n002.png,shoes\n")
    assert run(root, "--categories", str(file)) == 0
    assert set(read_scores(root / "s.json").categories) == {"upper", "lower", "shoes"}
    file.write_text("000.png upper body\n")
    assert "line 1" in refused(capsys, root, "--categories", str(file))


def test_odd_pictures_are_converted_and_counted(root, capsys):
    truth = Image.open(root / "gt/000.png")
    truth.convert("CMYK").save(root / "pred/000.tif")
    (root / "pred/000.png").unlink()
    grey = np.array(Image.open(root / "gt/001.png").convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(root / "pred/001.png")
    alpha = Image.open(root / "gt/002.png").convert("RGBA")
    alpha.putalpha(200)
    exif = alpha.transpose(Image.Transpose.ROTATE_90).getexif()
    exif[0x0112] = 6
    alpha.transpose(Image.Transpose.ROTATE_90).save(root / "pred/002.png", exif=exif)
    assert run(root) == 0
    counts = read_scores(root / "s.json").counts
    assert counts.converted == {"CMYK": 1, "I;16": 1, "transparency, EXIF rotation": 1}
    assert counts.formats == {"PNG": 2, "TIFF": 1}
    assert read_scores(root / "s.json").per_image.values["psnr"][0] > 35


def test_out_is_looked_at_first_and_never_lost(root, capsys):
    assert "does not exist" in refused(capsys, root, out="no/where/s.json")
    assert "is a folder" in refused(capsys, root, out="pred")
    (root / "s.json").write_text("my notes")
    assert "not a scores file" in refused(capsys, root)
    assert (root / "s.json").read_text() == "my notes"
    (root / "s.json").unlink()
    assert run(root) == 0
    before = (root / "s.json").read_bytes()
    line = refused(capsys, root, protocol="ladi512")
    assert "holds scores of protocol omfa" in line and "--out" in line
    assert (root / "s.json").read_bytes() == before
    assert run(root) == 0


def test_unreadable_and_foreign_weights(root, capsys):
    from torchvision_shim import import_torchvision

    import_torchvision()
    networks = root / "networks"
    networks.mkdir()
    file = networks / "alexnet-owt-7be5be79.pth"
    file.write_bytes(b"not weights")
    flags = ["--metric-weights", str(networks)]
    assert "SHA-256" in refused(capsys, root, *flags)
    line = refused(capsys, root, *flags, "--skip-checksum")
    assert "not a readable PyTorch weights file" in line
    assert not (root / "s.json").exists()


def test_other_modes_are_dispatched_or_refused(root, capsys, monkeypatch):
    monkeypatch.setattr(cli, "REPORT", ("omfa_jax.cli.no_such_module", "omfa eval report"))
    assert main(["eval", "report", "a.json"]) == 2
    assert "omfa eval report" in capsys.readouterr().err
    # a module that is there gets the words that are left; `omfa data`'s stands for it here
    monkeypatch.setattr(cli, "CHECKPOINT", ("omfa_jax.cli.sample", "omfa eval --checkpoint"))
    assert cli.choose_module(["--checkpoint=x", "--a"]) == (
        "omfa_jax.cli.sample",
        ["--checkpoint=x", "--a"],
    )
    monkeypatch.setattr(cli, "REPORT", ("omfa_jax.cli.sample", "omfa eval report"))
    assert cli.choose_module(["report", "b"]) == ("omfa_jax.cli.sample", ["b"])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_spells_its_choices_out(name):
    chosen = load_protocol(name)
    assert chosen.name == name and chosen.source and set(chosen.settings) <= set(SETTINGS)
    for setting in chosen.settings:
        choices = chosen.flatten_choices(setting)
        json.dumps(choices)
        for key, choice in chosen.get_metrics(setting).items():
            assert choices[f"{key}.against"] == choice.against
            assert choices[f"{key}.scale"] == choice.scale
    with pytest.raises(OmfaError, match="no setting"):
        chosen.get_metrics("nothing")


def test_square_predictions_of_tryoffdiff_lose_their_margins():
    metrics = load_protocol("tryoffdiff").get_metrics("try_off")
    square = np.zeros((512, 512, 3), np.uint8)
    square[:, 64:448] = 255
    for key, size in (("ssim", (1024, 768)), ("dists", (341, 256))):
        made = prepare_image(square, metrics[key].prepare, is_prediction=True)
        assert made.shape[:2] == size
        assert made[:, 8:-8].min() == 255, "the middle 384 of 512 columns fill the picture"
    # a ground truth picture is not cut, nor an upright prediction
    upright = picture(0, 512, 384)
    for is_prediction in (True, False):
        made = prepare_image(upright, metrics["ssim"].prepare, is_prediction=is_prediction)
        assert np.array_equal(made, resize_with_filter(upright, (1024, 768), "bilinear"))
