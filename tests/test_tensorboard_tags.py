"""What TensorBoard shows of a run: curves in groups, images, and the config as a text."""

import json

import numpy as np
import pytest
from event_files import read_events

from omfa_jax.train.monitoring.goodput import Clock
from omfa_jax.train.monitoring.mfu import RunCost
from omfa_jax.train.monitoring.tensorboard_tags import format_config, get_scalar_tag
from omfa_jax.train.monitoring.writers import Writers

CONFIG = {"seed": 1, "data": {"records": "", "mixture": "a|b"}, "canvas": {"face": (16, 12)}}


@pytest.mark.parametrize(
    ("key", "tag"),
    [
        ("loss", "loss"),
        ("loss/try_on", "loss/try_on"),
        ("loss_at/t000-249", "loss_at/t000-249"),
        ("eval/psnr/try_on", "eval/psnr/try_on"),
        ("learning_rate", "learning/learning_rate"),
        ("step_seconds/p50", "time/step_seconds/p50"),
        ("seconds/save", "time/seconds/save"),
        ("hbm_peak_gb", "perf/hbm_peak_gb"),
        ("kl", "loss/kl"),
    ],
)
def test_a_tag_starts_with_its_group(key, tag):
    assert get_scalar_tag(key) == tag


def test_no_timing_and_no_cost_is_without_a_group():
    clock = Clock(0.0)
    for kind in ("data", "save", "restore", "pictures", "evaluation"):
        with clock.measure(kind):
            pass
    for _ in range(2):
        clock.record_step()
    cost = RunCost(10, 2e12, 8, 4, peak_flops=1e12, frozen_flops_per_example=1.0)
    keys = {**clock.compute_metrics(2), **cost.compute_metrics(5, 0.5)}
    assert len(keys) > 12
    groups = {key: get_scalar_tag(key).split("/")[0] for key in keys}
    assert set(groups.values()) == {"time", "perf", "progress"}, groups


def test_curves_are_grouped_and_metrics_jsonl_keeps_its_keys(tmp_path):
    writers = Writers(tmp_path, enabled=True, config=CONFIG, step=3)
    row = {"loss": 0.5, "loss/try_on": 0.25, "learning_rate": 1e-4, "data_wait": float("nan")}
    writers.write_scalars(4, row)
    writers.write_image(4, "joint", np.zeros((2, 3, 3), np.uint8))
    writers.close()
    written = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert set(written) == {"step", "time", "loss", "loss/try_on", "learning_rate"}
    events = list(read_events(tmp_path / "tensorboard"))
    tags = [(event.step, value.tag) for event in events for value in event.summary.value]
    assert tags == [
        (3, "config/text_summary"),
        (4, "loss"),
        (4, "loss/try_on"),
        (4, "learning/learning_rate"),
        (4, "samples/joint"),
    ]
    (text,) = [v for e in events for v in e.summary.value if v.tag.startswith("config")]
    assert text.metadata.plugin_data.plugin_name == "text"
    assert text.tensor.string_val[0].decode() == format_config(CONFIG)


def test_the_config_is_a_table_with_the_keys_of_the_flags():
    assert format_config(CONFIG).splitlines() == [
        "| key | value |",
        "| --- | --- |",
        "| `config.seed` | `1` |",
        '| `config.data.records` | `""` |',
        "| `config.data.mixture` | `a\\|b` |",
        "| `config.canvas.face` | `(16, 12)` |",
    ]
