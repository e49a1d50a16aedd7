"""The conversion bench at a small size: everything but the cost bounds of full SDXL."""

import importlib.util
from pathlib import Path

import pytest
from small_models import SMALL_UNET, SMALL_VAE

SCRIPT = Path(__file__).parents[1] / "bench" / "convert.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_convert", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_row_holds_but_those_of_cost(bench, tmp_path):
    rows = {row.what: row for row in bench.bench(SMALL_UNET, SMALL_VAE, tmp_path / "work")}
    # a few megabytes are lost beside what Python itself takes
    costs = [row for what, row in rows.items() if what.startswith(("import:", "export:"))]
    assert len(costs) == 4
    assert all(row.holds for row in rows.values() if row not in costs), rows
    assert rows["unet tensors bit-equal after export"].figure == "292"
    assert rows["13 channels: conv_in back bit-equal"].figure.endswith("clean 4, pose 4")
    assert {"unet: relative L2", "vae encoder: relative L2", "vae decoder: relative L2"} <= set(
        rows
    )
    assert not (tmp_path / "work").exists()


def test_a_failure_is_seen(bench, tmp_path, monkeypatch, capsys):
    row = bench.Row("this", "1", "2", holds=False)
    monkeypatch.setattr(bench, "bench", lambda *_: [row])
    assert bench.main(["--workdir", str(tmp_path), "--preset", "xs"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "| this | 1 | 2 | FAILS |"
    assert (
        bench.equal_tensors(
            bench.LazyTensors("a", {"x": (1,)}, bench.np.ones),
            bench.LazyTensors("b", {"y": (1,)}, bench.np.ones),
        )
        == 0
    )
