"""Tables of runs: reading, exclusions with their reasons, and when no law is fitted."""

import dataclasses
import json
import re

import numpy as np
import pytest
from scaling_tables import SIX, TRUE_LAW, places, runs_of, write_csv

from omfa_jax.core.errors import OmfaError
from omfa_jax.studies.fit_scaling import LawFitSettings, fit_scaling
from omfa_jax.studies.isoflop import fit_isoflop, group_by_budget
from omfa_jax.studies.loss_envelope import fit_envelope
from omfa_jax.studies.loss_law import compute_exponents, compute_optimum
from omfa_jax.studies.run_cleaning import CleaningRules, clean_runs, find_obstacle
from omfa_jax.studies.runs_table import RunsTable, parse_number, read_runs_table


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("1e9", 1e9), ("70B", 7e10), ("1.4T", 1.4e12), ("400 m", 4e8), ("12k", 12e3), ("1,000", 1000)],
)
def test_numbers_have_suffixes(text, wanted):
    assert parse_number(text) == wanted


@pytest.mark.parametrize("text", ["0,438", "1,5", "12,34,567", "1,0000", ",5", "1.5,000,0"])
def test_a_decimal_comma_is_no_number(text):
    with pytest.raises(ValueError, match="is not a number"):
        parse_number(text)


def test_lines_beyond_the_header_are_left_out_and_double_columns_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("params,samples,loss\n908,020,4104,0.438\n1e6,2e6,0.5,\n1e6,4e6,0.4\n")
    table = read_runs_table(path)
    assert list(table.runs.loss) == [0.5, 0.4] and list(table.runs.line) == [3, 4]
    assert table.excluded[0].reason == "4 cells under a header of 3"
    path.write_text("params;samples;loss\n1000;2000;0,43828\n1000;3000;0,43\n")
    assert [one.line for one in read_runs_table(path).excluded] == [2, 3]
    for header in ("params,samples,loss,loss", "params,samples,loss,Loss"):
        path.write_text(f"{header}\n1e6,2e6,0.5,0.6\n")
        with pytest.raises(OmfaError, match="may all hold the loss"):
            read_runs_table(path)
    path.write_text("params,samples,loss,loss\n1e6,2e6,0.5,0.6\n")
    with pytest.raises(OmfaError, match="several columns 'loss'"):
        read_runs_table(path, columns={"loss": "loss"})


@pytest.mark.parametrize("text", ["", "nan", "None", "-"])
def test_missing_numbers(text):
    assert np.isnan(parse_number(text))


@pytest.mark.parametrize("text", ["70 billion", "1e", "12kB", "--3"])
def test_other_words_are_no_numbers(text):
    with pytest.raises(ValueError, match="not a number"):
        parse_number(text)


def test_tables_of_three_kinds_are_one(tmp_path):
    (tmp_path / "a.csv").write_text("Model Size,Tokens,Val Loss\n70M,1.4B,3.5\n1e8,2e9,3.25\n")
    (tmp_path / "a.tsv").write_text("n_params\ttokens\tloss\n7e7\t1.4e9\t3.5\n\n1e8\t2e9\t3.25\n")
    rows = [{"n": "70M", "d": 1.4e9, "loss": 3.5}, {"n": 1e8, "d": "2B", "loss": 3.25}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("a.csv", "a.tsv", "a.jsonl"):
        runs = read_runs_table(tmp_path / name).runs
        np.testing.assert_allclose(runs.params, [7e7, 1e8])
        np.testing.assert_allclose(runs.samples, [1.4e9, 2e9])
        np.testing.assert_allclose(runs.loss, [3.5, 3.25])
        np.testing.assert_allclose(runs.flops, 6 * runs.params * runs.samples)


def test_columns_by_flags_and_flops(tmp_path):
    file = tmp_path / "runs.csv"
    file.write_text("size,images,fid,loss,cost\n1e6,1e5,30,0.5,7e12\n")
    columns = {"params": "size", "samples": "images", "loss": "fid", "flops": "cost"}
    assert read_runs_table(file, columns=columns).runs.loss == 30
    assert read_runs_table(file, columns=columns).runs.flops == 7e12
    assert read_runs_table(file, flops_per_param_sample=50).runs.flops == 50 * 1e11
    # samples follow from FLOPs where the table has only those
    file.write_text("model_size,loss,training_flop\n1e6,0.5,6e12\n")
    assert read_runs_table(file).runs.samples == 1e6


@pytest.mark.parametrize(
    ("text", "columns", "wanted"),
    [
        ("a,b,loss\n1,2,3\n", {}, "no column for params, samples"),
        ("params,samples,tokens,loss\n1,2,3,4\n", {}, "--samples-column"),
        ("params,samples,loss\n1,2,3\n", {"loss": "los"}, "did you mean 'loss'"),
        ("params,samples,loss\n", {}, "found no runs"),
        ("", {}, "found no runs"),
    ],
)
def test_tables_that_are_none(tmp_path, text, columns, wanted):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(OmfaError, match=wanted):
        read_runs_table(tmp_path / "t.csv", columns=columns)


def test_every_exclusion_has_its_line_and_reason(tmp_path):
    params, samples = places("grid")
    good = write_csv(tmp_path / "t.csv", runs_of(params, samples), flops="")
    bad = [
        "1e8,1e9,nan",
        "1e8,1e9,",
        "1e8,1e9,inf",
        "1e8,1e9,-2.5",
        "1e8,1e9,0",
        "0,1e9,3",
        "1e8,many,3",
        good.read_text().splitlines()[3],
        "5e9,1e11,9.5",
    ]
    good.write_text(good.read_text() + "\n".join(bad) + "\n")
    table = read_runs_table(good)
    kept, excluded, _ = clean_runs(table.runs, CleaningRules())
    reasons = {one.line: one.reason for one in (*table.excluded, *excluded)}
    wanted = [
        "loss is missing",
        "loss is missing",
        "loss is infinite",
        "loss is -2.5",
        "loss is 0",
        "params is 0",
        "samples 'many' is not a number",
        "the same numbers as line 4",
        "diverged: loss 9.5",
    ]
    assert len(kept) == 30 and sorted(reasons) == list(range(32, 41))
    for at, text in enumerate(wanted, start=32):
        assert text in reasons[at], reasons[at]


def test_exclusions_on_the_users_word():
    runs = runs_of(*places("grid"))
    kept, excluded, _ = clean_runs(runs, CleaningRules(drop_highest=2))
    assert len(kept) == 28 and kept.loss.max() < np.sort(runs.loss)[-2]
    assert all("--drop-highest" in one.reason for one in excluded)
    kept, excluded, _ = clean_runs(runs, CleaningRules(max_loss=3.0))
    assert kept.loss.max() <= 3 and all("--max-loss" in one.reason for one in excluded)
    wild = runs_of(*places("grid"), noise=0.002 * np.random.default_rng(0).standard_normal(30))
    wild.loss[11] *= 1.1
    found = fit_scaling(
        table_of(wild), LawFitSettings(rules=CleaningRules(outlier_mad=8), resamples=100)
    )
    assert [one.line for one in found.excluded] == [13]
    assert "--outlier-mad" in found.excluded[0].reason and len(found.fresh) == 29
    # without the flag it is used, and named
    found = fit_scaling(table_of(wild), LawFitSettings(resamples=100))
    assert not found.excluded and any("line 13 (+" in text for text in found.warnings)


def table_of(runs):
    return RunsTable(runs, (), {}, "flops = 6 params samples")


ONES = np.ones(12)
SIZES, AMOUNTS = np.geomspace(1e7, 1e9, 12), np.geomspace(1e8, 1e10, 12)


@pytest.mark.parametrize(
    ("params", "samples", "wanted"),
    [
        (1e8 * ONES, AMOUNTS, "only one model size"),
        (np.repeat([1e8, 1e9], 6), AMOUNTS, "only 2 model sizes"),
        (SIZES, 1e9 * ONES, "only one data size"),
        (SIZES, 1e18 / SIZES, "the same compute"),
        (SIZES, 20 * SIZES, "fixed ratio of samples to parameters"),
        (SIZES, SIZES**1.6, r"collinear: log D = 1.60 log N"),
        (SIZES[:5], AMOUNTS[[3, 0, 4, 1, 2]], "5 usable runs for 5 coefficients"),
        (SIZES[:1], AMOUNTS[:1], "1 usable run"),
    ],
)
def test_tables_that_support_no_law(params, samples, wanted):
    runs = runs_of(params, samples)
    found = fit_scaling(table_of(runs), LawFitSettings(resamples=100, budgets=(1e22,)))
    assert found.refused is not None and find_obstacle(runs, unknowns=5) == found.refused
    assert re.search(wanted, found.refused), found.refused
    assert found.fit is None and not found.coefficients and not found.optima


def test_losses_that_do_not_fall():
    rng = np.random.default_rng(0)
    runs = runs_of(*places("grid"), loss=rng.uniform(2, 2.2, 30))
    kept, _, warnings = clean_runs(runs, CleaningRules())
    assert "does not decrease" in (find_obstacle(kept, unknowns=5) or "")
    assert any("not monotone" in text for text in warnings)
    noisy = runs_of(*places("grid"), noise=0.06 * rng.standard_normal(30))
    kept, _, warnings = clean_runs(noisy, CleaningRules())
    assert find_obstacle(kept, unknowns=5) is None
    assert any("not monotone" in text for text in warnings)


def test_a_weak_fit_says_so():
    rng = np.random.default_rng(1)
    # sizes within a factor 1.6 and samples within 100: alpha cannot be known from noisy losses
    params, samples = (
        np.tile(np.geomspace(1e8, 1.6e8, 4), 5),
        np.repeat(np.geomspace(1e9, 1e11, 5), 4),
    )
    runs = runs_of(params, samples, noise=0.02 * rng.standard_normal(20))
    found = fit_scaling(table_of(runs), LawFitSettings(resamples=100))
    assert any("WEAK: the interval of alpha" in text for text in found.warnings), found.warnings
    assert find_obstacle(runs_of(*places("grid"), loss=np.full(30, 3.0)), unknowns=5) is not None


def test_nothing_left_is_an_error():
    runs = runs_of(*places("grid"), loss=np.full(30, np.nan))
    with pytest.raises(OmfaError, match="no usable runs: loss is missing"):
        fit_scaling(table_of(runs), LawFitSettings())


def test_budgets_are_grouped_by_the_tolerance():
    flops = np.array([1.0, 1.05, 0.97, 1.5, 10, 10.5, 11.9])
    found = [sorted(rows.tolist()) for rows in group_by_budget(flops, 0.1)]
    assert found == [[0, 1, 2], [3], [4, 5], [6]]
    assert len(group_by_budget(flops, 0.001)) == 7


def test_parabolas_find_the_exponents():
    runs = runs_of(*places("isoflop"))
    found = fit_isoflop(runs)
    a, b = compute_exponents(TRUE_LAW, SIX)
    assert found.a and found.b and found.sum and not found.alone
    np.testing.assert_allclose([found.a.estimate, found.b.estimate], [a, b], rtol=0.02)
    np.testing.assert_allclose(found.sum.estimate, 1, atol=0.01)
    for one in found.parabolas:
        # a parabola is not the law's curve, but its lowest point is near
        log_n, log_d = compute_optimum(TRUE_LAW, SIX, one.flops)
        assert abs(one.log_params - log_n) < 0.1 and abs(one.log_samples - log_d) < 0.1


def test_parabolas_that_show_no_optimum_are_named():
    params, samples = places("isoflop")
    runs = runs_of(params, samples)
    # the second budget's models are all too large, the third's losses are upside down
    runs.params[6:12] *= 30
    runs.samples[6:12] /= 30
    runs.loss[6:12] = runs_of(runs.params[6:12], runs.samples[6:12]).loss
    runs.loss[12:18] = runs.loss[12:18].max() + 2 - runs.loss[12:18]
    found = fit_isoflop(runs.take(np.r_[0:27]))
    reasons = [one.refused or "used" for one in found.parabolas]
    assert "outside its runs: smaller" in reasons[1], reasons
    assert "opens downward" in reasons[2]
    assert "3 model size(s)" in reasons[4]
    assert reasons[0] == reasons[3] == "used" and found.a is not None
    # with two of those alone there is no power law, and it says so
    none = fit_isoflop(runs.take(np.r_[0:12]))
    assert none.a is None and "needs 2" in (none.refused or "")


def test_the_envelope_is_what_no_run_as_cheap_beats():
    runs = runs_of(*places("isoflop"))
    # whole batches make equal budgets a little unequal
    rounded = 1 + 0.005 * np.random.default_rng(0).uniform(-1, 1, len(runs))
    runs = dataclasses.replace(runs, flops=runs.flops * rounded)
    found = fit_envelope(runs)
    for at in range(len(runs)):
        beaten = (runs.loss[runs.flops < 1.02 * runs.flops[at]] < runs.loss[at]).any()
        assert (at in found.rows) != beaten
    assert len(found.rows) == 5  # one of each budget
    assert found.a is not None and found.b is not None
    np.testing.assert_allclose(found.a.estimate + found.b.estimate, 1, rtol=1e-2)
    assert abs(found.a.estimate - compute_exponents(TRUE_LAW, SIX)[0]) < 0.1
    assert "are needed" in (fit_envelope(runs.take(np.arange(6))).refused or "")
