"""The judge's flags, and how its scores enter a scores file."""

import base64
import dataclasses
import io
import json

import numpy as np
import pytest
from judge_server import Answer, serving, some_pairs
from PIL import Image

from omfa_jax.cli.eval_judge import add_judge_arguments, make_judge_settings
from omfa_jax.cli.flags import Parser
from omfa_jax.cli.main import main
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import write_image
from omfa_jax.evals.judge.judge_prompts import TRY_OFF, TRY_ON
from omfa_jax.evals.judge.judge_results import add_judge_results
from omfa_jax.evals.judge.judge_session import run_judge
from omfa_jax.evals.scores_file import (
    Category,
    Counts,
    Folders,
    Metric,
    PerImage,
    ProtocolRecord,
    Scores,
    read_scores,
    write_scores,
)


def options(*flags):
    parser = Parser()
    add_judge_arguments(parser)
    return parser.parse_args(flags)


def settings(*flags, tmp_path, setting="paired"):
    return make_judge_settings(options(*flags), setting=setting, out=tmp_path / "a.json")


def scores_of(names, categories):
    ssim = Metric(0.9, "higher", "SSIM")
    return Scores(
        method="m",
        created="2026-11-28T13:00:00Z",
        protocol=ProtocolRecord("omfa", "paired"),
        versions={},
        weights={},
        seed=0,
        folders=Folders("pred", "gt"),
        counts=Counts(len(names), len(names)),
        metrics={"ssim": ssim},
        categories={c: Category(categories.count(c), {"ssim": ssim}) for c in set(categories)},
        per_image=PerImage(tuple(names), tuple(categories), {"ssim": (0.9,) * len(names)}),
    )


def test_a_judge_enters_the_scores_file(tmp_path, monkeypatch):
    pairs = some_pairs(tmp_path, 4)
    answers = [Answer(json.dumps({"score": s, "reason": "r"})) for s in (2, 4, 9)]
    with serving(lambda n, _: answers[n] if n < 3 else Answer("no", status=400)) as server:
        monkeypatch.setenv("OMFA_JUDGE_URL", server.url)
        monkeypatch.setenv("OMFA_JUDGE_KEY", "from-environment\n")
        given = settings(
            *("--judge-model", "local", "--judge-prices", "9,10", "--judge-concurrency", "1"),
            tmp_path=tmp_path,
        )
        before = scores_of([p.name for p in pairs], ["upper", "upper", "dress", "shoes"])
        judged = add_judge_results(before, run_judge(pairs, given))
    assert server.headers[0]["Authorization"] == "Bearer from-environment"
    write_scores(tmp_path / "a.json", judged)
    read = read_scores(tmp_path / "a.json")
    assert read.metrics["judge"].value == 5 and read.metrics["ssim"] == before.metrics["ssim"]
    low, high = read.metrics["judge"].interval
    assert 2 <= low < 5 < high <= 9 and "bootstrap 95%" in read.metrics["judge"].interval_kind
    assert read.per_image.values["judge"] == (2, 4, 9, None)
    assert read.categories["upper"].metrics["judge"].value == 3
    assert "HTTP 400" in read.categories["shoes"].metrics["judge"].not_computed
    assert read.judge["prompt"] == TRY_ON and read.judge["model"] == "local"
    assert len(read.judge["failures"]) == 1
    assert read.judge["failures"][0].startswith("00003: HTTP 400: {")
    assert read.judge["reasons"] == {p.name: "r" for p in pairs[:3]}
    assert (read.judge["requests"], read.judge["scored"]) == (3, 3)
    assert read.judge["cost_usd"] == pytest.approx(0.03) and read.judge["cost_cap_usd"] == 5
    assert (tmp_path / "a.judge.jsonl").is_file()
    assert "from-environment" not in (tmp_path / "a.json").read_text()


def test_the_bootstrap_interval_is_the_means(tmp_path):
    """Against the normal approximation of a mean of many."""
    pairs = some_pairs(tmp_path, 1)
    with serving(lambda n, _: Answer()) as server:
        given = settings(
            *("--judge-url", server.url, "--judge-model", "x", "--judge-prices", "0,0"),
            tmp_path=tmp_path,
        )
        one = run_judge(pairs, given)
    drawn = np.random.default_rng(0).uniform(0, 10, 400)
    names = tuple(f"{i}" for i in range(400))
    many = dataclasses.replace(one, names=names, scores=tuple(drawn), reasons=("",) * 400)
    metric = add_judge_results(scores_of(names, []), many).metrics["judge"]
    half = 1.96 * drawn.std() / 20
    assert metric.value == pytest.approx(drawn.mean())
    assert metric.interval == pytest.approx((drawn.mean() - half, drawn.mean() + half), abs=0.05)
    alone = add_judge_results(scores_of(["00000"], []), one).metrics["judge"]
    assert alone.value == 7.5 and alone.interval is None
    with pytest.raises(OmfaError, match="not in the scores file"):
        add_judge_results(scores_of(["else"], []), one)


def test_no_flag_no_judge_and_try_off_has_its_prompt(tmp_path, monkeypatch):
    monkeypatch.setenv("OMFA_JUDGE_URL", "http://localhost:1/v1")
    monkeypatch.setenv("OMFA_JUDGE_MODEL", "gpt-4o-mini")
    monkeypatch.delenv("OMFA_JUDGE_KEY", raising=False)
    assert settings(tmp_path=tmp_path) is None
    given = settings("--judge", tmp_path=tmp_path, setting="try_off")
    assert (given.model, given.prompt, given.key) == ("gpt-4o-mini", TRY_OFF, "")
    assert given.prices.compute_cost(1_000_000, 1_000_000) == pytest.approx(0.75)
    fewer = settings(
        "--judge",
        *("--judge-extra", '{"max_tokens": null, "max_completion_tokens": 9, "temperature": null}'),
        tmp_path=tmp_path,
    )
    assert fewer.fields == {"model": "gpt-4o-mini", "max_completion_tokens": 9}
    assert fewer.output_bound == 9


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--judge"], "needs --judge-url"),
        (["--judge-url", "http://h/v1"], "needs --judge-model"),
        (["--judge-url", "ftp://h", "--judge-model", "gpt-4o-mini"], "http"),
        (["--judge-url", "h/v1", "--judge-model", "gpt-4o-mini"], "http"),
        (["--judge-url", "http://h:x/v1", "--judge-model", "gpt-4o-mini"], "http"),
        (["--judge-url", "http://me:pw@h/v1", "--judge-model", "gpt-4o-mini"], "password"),
        (["--judge-url", "http://h/v1", "--judge-model", "unheard"], "--judge-prices"),
        (["--judge-prices", "1"], "two numbers"),
        (["--judge-prices", "1,-2"], "0 or more"),
        (["--judge-prices", "1,nan"], "0 or more"),
        (["--judge-cost-cap", "-1"], "--judge-cost-cap: expected a number from 0"),
        (["--judge-concurrency", "0"], "--judge-concurrency: expected an integer from 1"),
        (["--judge-timeout", "0"], "--judge-timeout: expected a number above 0"),
        (["--judge-detail", "hihg"], "low, high"),
        (["--judge-extra", "[]"], "JSON object"),
        (["--judge-extra", '{"model": "x"}'], "must not change"),
        (["--judge-extra", '{"max_tokens": null}'], "max_completion_tokens"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, monkeypatch, flags, said):
    for name in ("OMFA_JUDGE_URL", "OMFA_JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    if flags[0] not in ("--judge", "--judge-url"):
        flags = ["--judge-url", "http://h/v1", "--judge-model", "gpt-4o-mini", *flags]
    with pytest.raises(OmfaError, match=said) as error:
        settings(*flags, tmp_path=tmp_path)
    assert "\n" not in str(error.value) and "pw" not in str(error.value).split("password")[0]


def test_a_key_that_no_header_may_have_is_not_quoted(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-se\ncret")
    with pytest.raises(OmfaError, match="the judge's key") as error:
        settings(
            *("--judge-url", "http://h/v1", "--judge-model", "gpt-4o-mini"),
            *("--judge-key-env", "MY_KEY"),
            tmp_path=tmp_path,
        )
    assert "cret" not in str(error.value)


def test_omfa_eval_asks_the_judge(tmp_path, capsys):
    """From the command line: unpaired garments, try-off's true garment, and what is refused."""
    folders = [tmp_path / kind for kind in ("pred", "people", "garments")]
    for number, folder in enumerate(folders):
        for index in range(2):
            grey = np.full((32, 24, 3), 100 * index + 10 * number, np.uint8)
            write_image(folder / f"{index}.png", grey)
    (tmp_path / "pairs.txt").write_text("0.png 1.png\n1.png 0.png\n")
    seen = []

    def script(number, fields):
        for part in (2, 4):
            url = fields["messages"][0]["content"][part]["image_url"]["url"]
            picture = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))
            seen.append(picture.getpixel((384, 512))[0])
        return Answer()

    with serving(script) as server:

        def run(setting, metric, *flags):
            out = tmp_path / f"{setting}.json"
            command = [
                *("eval", "--pred", str(folders[0]), "--protocol", "omfa", "--setting", setting),
                *("--metrics", metric, "--out", str(out), "--workers", "1", *flags),
                *("--judge-url", server.url, "--judge-model", "m", "--judge-prices", "0,0"),
                *("--judge-concurrency", "1"),
            ]
            return main(command), out

        pairs = ("--garments", str(folders[2]), "--pairs", str(tmp_path / "pairs.txt"))
        status, out = run("paired", "psnr", "--gt", str(folders[1]), *pairs)
        assert status == 0 and seen == [120, 0, 20, 100]
        assert "Judge (0-10)       ↑  7.5000" in capsys.readouterr().out
        assert read_scores(out).judge["prompt"] == TRY_ON
        status, out = run("try_off", "psnr", "--gt", str(folders[2]))
        assert status == 0 and seen[4:] == [20, 0, 120, 100]
        assert read_scores(out).judge["prompt"] == TRY_OFF
        # a rerun without the judge's flags asks nobody and keeps what was paid for
        before = read_scores(out)
        command = ["eval", "--pred", str(folders[0]), "--gt", str(folders[2]), "--out", str(out)]
        command += ["--protocol", "omfa", "--setting", "try_off", "--metrics", "psnr"]
        assert main([*command, "--workers", "1"]) == 0 and len(seen) == 8
        after = read_scores(out)
        assert (after.judge, after.metrics["judge"]) == (before.judge, before.metrics["judge"])
        assert after.per_image == before.per_image
        status, out = run("multi_pose", "psnr", "--gt", str(folders[1]))
        assert status == 2 and not out.exists(), "refused before anything is scored"
        assert "--garments DIR and --pairs FILE" in capsys.readouterr().err
