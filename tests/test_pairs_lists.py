"""Lists of pairs as people write them: names with spaces, quotes, commas, headers, other names."""

import random
import shutil

import numpy as np
import pytest
import tiny_viton as tiny

from omfa_jax.cli.main import main
from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.name_lists import format_list_line, read_name_list
from omfa_jax.data.builders.build_records import build_records
from omfa_jax.data.builders.dresscode import DressCode
from omfa_jax.data.builders.paired_items import NO_OWN_GARMENT
from omfa_jax.data.builders.raw_files import Pair, find_category_word, read_pairs
from omfa_jax.data.builders.viton_hd import VitonHD
from omfa_jax.data.checks.check_records import check_records
from omfa_jax.data.pipeline.decode_record import decode_record
from omfa_jax.data.pipeline.latent_writer import write_latents
from omfa_jax.data.pipeline.settings import PipelineSettings
from omfa_jax.data.records.contact_sheet import write_contact_sheet
from omfa_jax.data.records.record_schema import open_records, read_manifest
from omfa_jax.evals.split_examples import EvalSplit

SLOTS = {"garment": (64, 48), "person": (64, 48), "face": (16, 16)}
ONE = [Pair("b (1).jpg", "c.jpg", "upper")]
FORMS = {
    "unquoted": "b (1).jpg c.jpg upper",
    "quoted": '"b (1).jpg" "c.jpg" upper',
    "half quoted": '"b (1).jpg"   c.jpg 0',
    "single quotes": "'b (1).jpg' c.jpg 0",
    "tab": "b (1).jpg\tc.jpg\tupper_body",
    "tab quoted": '"b (1).jpg"\t"c.jpg"\t"0"',
    "csv": "b (1).jpg,c.jpg,Upper-Body",
    "csv with spaces": '"b (1).jpg" , c.jpg , tops',
    "semicolons": "b (1).jpg;c.jpg;upperbody",
    "header": "cloth,person,category\nc.jpg,b (1).jpg,0",
    "pandas": ",image_name,cloth_name,cloth_type\n0,b (1).jpg,c.jpg,upper",
    "unknown header": "first second\nb (1).jpg c.jpg 0",
    "windows": "\ufeffb (1).jpg c.jpg 0\r\n\r\n",
    "old mac": "b (1).jpg c.jpg 0\r",
    "comment": "# people and what they put on\nb (1).jpg c.jpg 0",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_forms_of_a_line(tmp_path, form, encoding):
    path = tmp_path / "pairs.txt"
    path.write_bytes(FORMS[form].encode(encoding))
    warnings: list[str] = []
    assert list(read_pairs(path, warnings)) == ONE
    # what was taken for a header is said
    assert len(warnings) == ("header" in form or form == "pandas")
    assert all("line 1: " in line and "header" in line for line in warnings)


def test_names_without_suffix_are_no_header(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("00034_00 04469_00\n00035_00.jpg 04469_00.jpg\n")
    warnings: list[str] = []
    first, second = read_pairs(path, warnings)
    assert (first.person, first.garment, second.person) == ("00034_00", "04469_00", "00035_00.jpg")
    assert not warnings


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("00034_00 04469_00", ("00034_00", "04469_00")),
        ("00034_00,04469_00", ("00034_00", "04469_00")),
        ("a, b.jpg c d.PNG", ("a, b.jpg", "c d.PNG")),
        ("women's top.jpg b's.png", ("women's top.jpg", "b's.png")),
        ("a.jpg.png b.tar.jpeg", ("a.jpg.png", "b.tar.jpeg")),
        ("a.jpg,b.jpg,,", ("a.jpg", "b.jpg")),
        ("写真 1.jpg 服.heic", ("写真 1.jpg", "服.heic")),
        ("a.jpg b.jpg c.jpg", ("a.jpg", "b.jpg", "c.jpg")),
    ],
)
def test_fields_of_a_line(tmp_path, line, fields):
    (tmp_path / "list.txt").write_text(line)
    assert [one.fields for one in read_name_list(tmp_path / "list.txt")] == [fields]


def test_what_is_written_is_read_again(tmp_path):
    names = ["a", "a b", "it 'is' b", 'say "a"', "a, b", "a;b c", "#1", "1.jpg 2", "a\tb", "写 真"]
    random.seed(1)
    rows = [
        (f"{random.choice(names)}.png", f"{random.choice(names)}.png", random.choice(["", "upper"]))
        for _ in range(300)
    ]
    (tmp_path / "list.txt").write_text("\n".join(format_list_line(*row) for row in rows))
    read = [line.fields for line in read_name_list(tmp_path / "list.txt")]
    assert read == [tuple(filter(None, row)) for row in rows]
    assert format_list_line("a.png", "b.png", "upper") == "a.png b.png upper"


@pytest.mark.parametrize(
    ("words", "category"),
    [
        (("upper", "upper_body", "Upper Body", "UPPERBODY", "tops", "0"), "upper"),
        (("lower", "lower_body", "lower-body", "bottoms", "1"), "lower"),
        (("dress", "dresses", "one-pieces", "overall", "2"), "dress"),
        (("shoes", "3", "", "up"), None),
    ],
)
def test_category_words(words, category):
    assert {find_category_word(word) for word in words} == {category}


def write_own_folder(root):
    """People without label maps and keypoints, garments of other names, and a list of both."""
    people, garments = ["b (1).jpg", "c 2.JPG", "d-.jpeg"], ["x.jpg", "y (1).jpg", "z.png"]
    for number, (person, garment) in enumerate(zip(people, garments, strict=True)):
        for folder, name, pixels in (
            ("image", person, tiny.photo(number)),
            ("cloth", garment, tiny.garment(number)),
        ):
            images.write_image(root / "test" / folder / f"{number}.png", pixels)
            (root / "test" / folder / f"{number}.png").rename(root / "test" / folder / name)
    lines = [f"{a} {b}" for a, b in zip(people, garments, strict=True)]
    (root / "my list.txt").write_text("\r\n".join(lines))
    return root


def test_a_list_under_another_name_is_pointed_to_and_read(tmp_path, capsys):
    raw = write_own_folder(tmp_path / "raw")
    build = ["data", "build", f"--raw={raw}", f"--out={tmp_path / 'out'}"]
    for command in (build, ["data", "check", f"--raw={raw}"]):
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"give --pairs test={raw}/my list.txt" in line
    assert not (tmp_path / "out").exists()
    # the only split with photos: named or not
    assert main([*build, f"--pairs={raw}/my list.txt"]) == 0
    assert main([*build, f"--pairs=test={raw}/my list.txt", "--overwrite"]) == 0
    records = open_records(tmp_path / "out", "test")
    keys = [(records[i].key, records[i].unpaired_garment_key) for i in range(3)]
    assert keys == [("b (1)", "x"), ("c 2", "y (1)"), ("d-", "z")]
    out = tmp_path / "duplicates.json"
    command = ["data", "duplicates", f"--raw={raw}", f"--out={out}", "--processes=1"]
    assert main([*command, f"--pairs={raw}/my list.txt"]) == 0


def test_lists_of_other_photos_are_not_taken_for_one(tmp_path):
    raw = tiny.write_raw(tmp_path, {"train": 2, "test": 2})
    (raw / "train_pairs.txt").unlink()
    (raw / "clean.txt").write_text("00000_00.jpg\n")
    (raw / "captions.txt").write_text("00000_00.jpg a red shirt with buttons\n")
    (raw / "others.csv").write_text("a.jpg,b.jpg\n")
    (raw / "test_pairs_unpaired.txt").write_text("00000_00.jpg 00001_00.jpg\n")
    warnings: list[str] = []
    assert len(VitonHD.list_items(str(raw), warnings)["train"]) == 2
    assert warnings == ["train: no train_pairs.txt; using every photo in train/image"]
    (raw / "train" / "pairs.csv").write_text("00000_00.jpg,00001_00.jpg\n")
    with pytest.raises(OmfaError, match=r"give --pairs train=.*train/pairs.csv"):
        VitonHD.list_items(str(raw), [])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            ["absent.txt"],
            "pairs list: expected a file at absent.txt, found nothing; change --pairs",
        ),
        (["list.txt"], "of which split is this the list? write one of train=list.txt, test="),
        (["val=list.txt"], "there are no photos of val (found train, test)"),
        (["test=list.txt", "test=list.txt"], "test has two lists"),
        (["test=binary.txt"], "expected a text file"),
        (
            ["test=words.txt"],
            "none of its lines is a pair of names: words.txt line 1: expected two",
        ),
    ],
)
def test_lists_that_cannot_be_assigned(tmp_path, monkeypatch, given, words):
    tiny.write_raw(tmp_path, {"train": 1, "test": 1})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("00000_00.jpg 00000_00.jpg\n")
    (tmp_path / "binary.txt").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "words.txt").write_text("just words without any name\n")
    with pytest.raises(OmfaError) as told:
        VitonHD.list_items(str(tmp_path), [], pairs=given)
    assert words in str(told.value) and "\n" not in str(told.value)


def test_many_malformed_lines_are_cut(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("a.jpg b.jpg\n" + "a.jpg\n" * 5000)
    warnings: list[str] = []
    assert len(list(read_pairs(path, warnings))) == 1
    assert len(warnings) == 11 and warnings[-1] == "pairs.txt: 4990 more lines of such kinds"


def test_dresscodes_words_other_names_and_lost_lines(tmp_path):
    for folder in ("upper_body", "dresses"):
        for number in range(4):
            for kind, pixels in ((0, tiny.photo(number)), (1, tiny.garment(number))):
                images.write_image(
                    tmp_path / folder / "images" / f"{number:06d}_{kind}.jpg", pixels
                )
    lines = ["000000_0.jpg 000000_1.jpg upper_body", "000001_0.jpg,000001_1.jpg,dresses"]
    lines += ["000002_0.jpg 000002_1.jpg 2", "000003_0.jpg 000003_1.jpg lower_body"]
    (tmp_path / "train_pairs.txt").write_text("\n".join(lines))
    warnings: list[str] = []
    train = DressCode.list_items(str(tmp_path), warnings)["train"]
    assert [item.key for item in train] == [
        "upper_body_000000_0",
        "dresses_000001_0",
        "dresses_000002_0",
    ]
    assert warnings == [
        "train_pairs.txt: 1 lines of lower_body, which has no images/ folder",
    ]
    # a person's own garment, and another one
    mine = tmp_path / "mine.csv"
    mine.write_text("000001_0.jpg,000001_1.jpg,upper\n000002_0.jpg,000003_1.jpg,upper\n")
    warnings = []
    DressCode.list_items(str(tmp_path), warnings)
    assert any("mine.csv lists photos of upper_body/images, but is not used" in w for w in warnings)
    test = DressCode.list_items(str(tmp_path), [], pairs=[f"test={mine}"])["test"]
    found = [(item.garment and item.garment.name, item.unpaired_key) for item in test]
    assert found == [("000001_1.jpg", ""), ("000002_1.jpg", "upper_body_000003_1")]
    (tmp_path / "train_pairs.txt").unlink()
    with pytest.raises(OmfaError, match=r"upper_body: expected the list train_pairs.txt, found"):
        DressCode.list_items(str(tmp_path), [])


@pytest.fixture
def without_garments(tmp_path):
    """Records of test people without a garment of their own, and of whole training people."""
    raw = tiny.write_raw(tmp_path / "raw", {"train": 2, "test": 3})
    for path in (raw / "test" / "cloth").iterdir():
        path.rename(path.with_name(f"shop_{path.name}"))
    shutil.rmtree(raw / "test" / "image-parse-v3")
    names = ["00000_00.jpg shop_00001_00.jpg", "00001_00.jpg shop_00002_00.jpg"]
    (raw / "test_pairs.txt").write_text("\n".join([*names, "00002_00.jpg absent.jpg"]))
    report = build_records(raw, tmp_path / "out")
    return tmp_path / "out", report


def test_evaluation_needs_no_own_garment_and_no_parse_map(without_garments, tmp_path, caplog):
    out, report = without_garments
    assert report.built_per_split == {"train": 2, "test": 2}
    assert [key for key, _ in report.skipped] == ["test/00002_00"]
    assert any(
        f"2 (00000_00, 00001_00) of 2 records: {NO_OWN_GARMENT}" in w for w in report.warnings
    )
    assert read_manifest(out)["without_garment"] == {"test": 2}
    record = open_records(out, "test")[0]
    assert (record.garment, record.garment_source) == (b"", "")
    example = decode_record(record, SLOTS, unpaired=True)
    np.testing.assert_allclose(example["garment"][32, 24], tiny.colour(1), atol=6)
    with pytest.raises(OmfaError, match="test/00000_00 has no garment of its own"):
        decode_record(record, SLOTS)
    settings = PipelineSettings(str(out), SLOTS, threads=1, prefetch_batches=1)
    split = EvalSplit(settings, "test", "unpaired")
    assert [e.garment for e in split.examples] == ["shop_00001_00", "shop_00002_00"]
    split.write_ground_truth(tmp_path / "e")
    assert len(list((tmp_path / "e" / "garments").iterdir())) == 2
    with pytest.raises(OmfaError, match="no records with a garment of their own"):
        EvalSplit(settings, "test", "paired")
    assert "2 records of split 'test' have no garment of their own" in caplog.text
    # people of all splits have the same photo
    assert all("duplicates" in fault for fault in check_records(out).faults)
    write_contact_sheet(out, tmp_path / "sheet.png", split="test")


def test_latents_leave_such_a_split_out(without_garments, tmp_path, caplog):
    def encode(batch):
        return np.zeros((len(batch), batch.shape[1] // 8, batch.shape[2] // 8, 4), np.float32)

    out, _ = without_garments
    options = {"slots": SLOTS, "vae_id": "x", "batch_size": 2, "threads": 1}
    manifest = write_latents(out, tmp_path / "latents", encode, **options)
    assert manifest["splits"] == {"train": 2}
    assert "no latents of this split" in caplog.text
    with pytest.raises(OmfaError, match="no split has a garment of every person"):
        write_latents(out, tmp_path / "none", encode, splits=["test"], **options)


def test_training_people_need_their_garment(tmp_path, caplog):
    raw = tiny.write_raw(tmp_path / "raw", {"train": 2})
    (raw / "train" / "cloth" / "00000_00.jpg").unlink()
    (raw / "train" / "image-parse-v3" / "00000_00.png").unlink()
    report = build_records(raw, tmp_path / "out")
    assert [key for key, _ in report.skipped] == ["train/00000_00"]
    assert "without_garment" not in read_manifest(tmp_path / "out")
    # a build of nothing says that alone
    (raw / "train_pairs.txt").write_text("00000_00.jpg 00000_00.jpg\n")
    caplog.clear()
    with pytest.raises(OmfaError, match="none of the 1 items could be built"):
        build_records(raw, tmp_path / "none")
    assert not caplog.records
