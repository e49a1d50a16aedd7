"""Every data set's builder against a generated folder: sound, odd, damaged in many ways."""

import shutil
from typing import Any

import numpy as np
import pytest
from damage import SKIPPED, WAYS, bad_name, file_of, spoil

from omfa_jax.core import images
from omfa_jax.core.errors import OmfaError
from omfa_jax.data.builders.build_records import BUILDERS, build_records
from omfa_jax.data.builders.raw_layouts import detect_layout
from omfa_jax.data.builders.records_builder import format_build_report
from omfa_jax.data.records.record_schema import open_records, read_manifest

pytest.importorskip("numba")
from omfa_jax.cli.main import main
from omfa_jax.synthetic import write_world
from omfa_jax.synthetic.world_writer import LAYOUTS

SIZE: dict[str, Any] = {"height_px": 96, "width_px": 72}
COUNTS = {"train": 48}
# nothing of the small set falls into another split
OPTIONS = {"deepfashion_multimodal": {"split_shares": (1.0, 0.0, 0.0)}}


@pytest.fixture(scope="module", params=sorted(LAYOUTS))
def world(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    write_world(root, seed=3, counts=COUNTS, layout=request.param, supersample=1, **SIZE)
    return request.param, root


@pytest.fixture
def raw(world, tmp_path):
    layout, root = world
    shutil.copytree(root, tmp_path / "raw")
    return layout, tmp_path / "raw"


def built(layout, raw, out, **more):
    options = OPTIONS.get(layout, {}) | more
    report = build_records(raw, out, dataset=layout, item_options=options)
    source = open_records(out, "train")
    return report, {source[i].key: source[i] for i in range(len(source))}


def items_of(layout, raw) -> Any:
    return BUILDERS[layout].list_items(str(raw), [], **OPTIONS.get(layout, {}))["train"]


def test_a_sound_folder_loses_nothing(world, tmp_path):
    layout, root = world
    assert detect_layout(root) == layout
    report, records = built(layout, root, tmp_path / "out")
    assert (report.found, report.built, report.skipped) == (48, 48, [])
    assert [line for line in report.warnings if "no pose map" not in line] == []
    assert all(record.has_face for record in records.values())
    categories = {record.category for record in records.values()}
    assert categories == ({"upper"} if layout == "viton_hd" else {"upper", "lower"})


def test_another_data_sets_folder_is_told(world, tmp_path):
    layout, root = world
    for other in set(LAYOUTS) - {layout}:
        with pytest.raises(OmfaError, match=f"--dataset {layout}"):
            build_records(root, tmp_path / "out", dataset=other)
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "inner").symlink_to(root)
    with pytest.raises(OmfaError, match=rf"inner/ has the layout of {layout}: use --raw"):
        build_records(tmp_path / "outer", tmp_path / "out", dataset=layout)


def test_damaged_files_are_named_and_the_others_built(raw, tmp_path):
    layout, root = raw
    items = items_of(layout, root)
    # far from each other: what is cut from another photo of its group stays in the group
    chosen = items[::3]
    if layout == "deepfashion_multimodal":
        chosen = [item for item in items if item.segm]
    ways = WAYS[layout]
    assert len(ways) >= 10
    expected = {}
    for item, (way, (which, do, outcome, word)) in zip(chosen, ways.items(), strict=False):
        path = file_of(item, which)
        key = item.key
        if do is bad_name:
            key = f"IMG {path.name[-24:]}".removesuffix(path.suffix)
        do(path)
        expected[key] = (way, outcome, word)
    assert len(expected) == len(ways)
    report, records = built(layout, root, tmp_path / "out")
    skipped = {key.removeprefix("train/"): reason for key, reason in report.skipped}
    for key, (way, outcome, word) in expected.items():
        if outcome == SKIPPED:
            assert word in skipped[key], (way, skipped[key])
            assert "\n" not in skipped[key] and key not in records
        else:
            told = [line for line in report.warnings if key in line and word in line]
            assert told and key in records, way
    lost = set(skipped) - set(expected)
    if layout == "deepfashion_multimodal":
        # photos whose group has lost its only label map, or the photo to it, say so
        assert all("no garment" in skipped[key] for key in lost)
        assert len(lost) == 2 * len(expected)
    else:
        assert lost == set()
    assert report.found == 48 and len(records) == 48 - len(skipped)
    assert all(key in format_build_report(report) for key in skipped)


@pytest.mark.parametrize("mode", ["grey", "CMYK", "16 bit"])
def test_unusual_pictures_are_built(raw, tmp_path, mode):
    layout, root = raw
    item = items_of(layout, root)[0]
    before = images.read_rgb(item.person).astype(int)
    spoil(item.person, mode)
    report, records = built(layout, root, tmp_path / "out")
    assert report.skipped == []
    person = images.read_rgb(records[item.key].person).astype(int)
    if mode != "CMYK":
        weights = np.array([0.299, 0.587, 0.114])
        before = np.repeat((before @ weights)[..., None], 3, axis=2)
    assert np.abs(person - before).mean() < 4


def test_flags_of_other_data_sets_are_refused(world, tmp_path):
    layout, root = world
    foreign = "split_seed" if layout != "deepfashion_multimodal" else "parse_labels"
    with pytest.raises(OmfaError, match=f"--{foreign.replace('_', '-')} does not apply"):
        build_records(root, tmp_path / "out", dataset=layout, item_options={foreign: "1"})


def test_the_command_passes_the_flags_on(world, tmp_path, capsys):
    layout, root = world
    item = items_of(layout, root)[0]
    (tmp_path / "clean.txt").write_text(f"{item.person.name}\nnobody.jpg\n")
    command = ["data", "build", f"--raw={root}", f"--out={tmp_path / 'out'}"]
    command += [f"--dataset={layout}", f"--clean={tmp_path / 'clean.txt'}"]
    if layout == "deepfashion_multimodal":
        command += ["--split-shares", "0", "0", "1", "--split-seed", "5"]
    assert main(command) == 0
    report = read_manifest(tmp_path / "out")["report"]
    assert report["built_per_split"] == {"test" if "--split-seed" in command else "train": 47}
    assert any("left out" in line for line in report["warnings"])
    assert any("nobody.jpg" in line for line in report["warnings"])
    refused = [*command[:3], f"--out={tmp_path / 'no'}", f"--dataset={layout}"]
    flag = ["--split-seed=1"] if layout != "deepfashion_multimodal" else ["--parse-labels=lip"]
    assert main([*refused, *flag]) == 2
    assert f"{flag[0].split('=')[0]} does not apply" in capsys.readouterr().err


def test_an_interrupted_world_is_completed_to_the_same_bytes(world, tmp_path):
    layout, root = world

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    small: dict[str, Any] = {
        "seed": 3,
        "counts": {"train": 6},
        "layout": layout,
        "supersample": 1,
        **SIZE,
    }
    with pytest.raises(KeyboardInterrupt):
        write_world(tmp_path, progress=stop, **small)
    assert write_world(tmp_path, **small).kept == 3
    files = [path for path in tmp_path.rglob("*") if path.suffix in (".jpg", ".png", ".npz")]
    assert len(files) >= 14
    for path in files:
        assert path.read_bytes() == (root / path.relative_to(tmp_path)).read_bytes()
    other = next(name for name in LAYOUTS if name != layout)
    with pytest.raises(OmfaError, match=f"expected layout {other}, found {layout}"):
        write_world(tmp_path, **{**small, "layout": other})
