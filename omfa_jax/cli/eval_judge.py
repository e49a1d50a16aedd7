"""The judge's flags of `omfa eval`, and what they come to."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omfa_jax.cli.flags import number, to_path, whole
from omfa_jax.core.errors import OmfaError
from omfa_jax.evals.judge.judged import add_judged
from omfa_jax.evals.judge.run import judge
from omfa_jax.evals.judge.settings import KNOWN_PRICES, JudgeSettings, Pair, Prices
from omfa_jax.evals.matching import Match, Names, match
from omfa_jax.evals.scores import Scores, write_scores

NO_GARMENT = "the judge looks at each picture's garment: give --garments DIR and --pairs FILE"
URL, MODEL, KEY = "OMFA_JUDGE_URL", "OMFA_JUDGE_MODEL", "OMFA_JUDGE_KEY"


def add_judge_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the judge's flags; without --judge, --judge-url or --judge-model nobody is asked."""
    group = parser.add_argument_group(
        "judge", "a 0-10 score by a vision-language model; costs money (docs/judge.md)"
    )
    add = group.add_argument
    add("--judge", action="store_true", help=f"ask the judge that {URL} and {MODEL} name")
    add("--judge-url", metavar="URL", help=f"an OpenAI-compatible API, .../v1 ({URL})")
    add("--judge-model", metavar="NAME", help=f"the model's name there ({MODEL})")
    add(
        "--judge-key-env",
        metavar="VARIABLE",
        default=KEY,
        help=f"the environment variable that holds the key ({KEY}); none: no key is sent",
    )
    add(
        "--judge-prices",
        metavar="IN,OUT",
        help="USD for a million tokens; 0,0 for a server of your own (known: gpt-4o-mini's)",
    )
    add("--judge-cost-cap", type=number(0, 1e9), default=5.0, metavar="USD", help="stop there (5)")
    add(
        "--judge-cache",
        type=to_path,
        metavar="FILE",
        help="paid answers (--out's NAME.judge.jsonl)",
    )
    add(
        "--judge-concurrency",
        type=whole(1, 1000),
        default=4,
        metavar="N",
        help="requests at once (4)",
    )
    add(
        "--judge-attempts",
        type=whole(1, 1000),
        default=6,
        metavar="N",
        help="tries of a request (6)",
    )
    add(
        "--judge-asks",
        type=whole(1, 1000),
        default=3,
        metavar="N",
        help="answers that may be unusable (3)",
    )
    add(
        "--judge-timeout",
        type=number(0, 86400, above=True),
        default=120.0,
        metavar="S",
        help="for one answer (120)",
    )
    add(
        "--judge-max-tokens",
        type=whole(1, 10**6),
        default=300,
        metavar="N",
        help="of an answer (300)",
    )
    add("--judge-detail", default="high", metavar="low|high|auto", help="of pictures (high)")
    add(
        "--judge-extra",
        default="{}",
        metavar="JSON",
        help="fields laid over the request's; null takes one out, such as"
        ' \'{"max_tokens": null, "max_completion_tokens": 4000, "temperature": null}\'',
    )


def judge_settings(
    options: argparse.Namespace, *, setting: str, out: Path | None
) -> JudgeSettings | None:
    """Return what the flags and the environment say, None if no judge is asked for.

    `setting` is the protocol's; `out` the scores file, beside which the cache lies by default.
    """
    if not (options.judge or options.judge_url or options.judge_model):
        return None
    url = options.judge_url or os.environ.get(URL, "")
    model = options.judge_model or os.environ.get(MODEL, "")
    if not url:
        raise OmfaError(f"the judge needs --judge-url URL (or {URL} in the environment)")
    if not model:
        raise OmfaError(f"the judge needs --judge-model NAME (or {MODEL} in the environment)")
    cache = options.judge_cache or (out and out.with_suffix(".judge.jsonl"))
    if cache is None:
        raise OmfaError("the judge needs --judge-cache FILE, or --out beside which it can lie")
    return JudgeSettings(
        url=url,
        model=model,
        setting=setting,
        cache=cache,
        prices=_prices(options.judge_prices, model),
        cost_cap_usd=options.judge_cost_cap,
        key=os.environ.get(options.judge_key_env, "").strip(),
        detail=options.judge_detail,
        concurrency=options.judge_concurrency,
        asks=options.judge_asks,
        attempts=options.judge_attempts,
        timeout_s=options.judge_timeout,
        max_tokens=options.judge_max_tokens,
        extra=_extra(options.judge_extra),
    )


def judge_of_folder(options: argparse.Namespace) -> JudgeSettings | None:
    """Return the judge that `omfa eval --pred` is asked for; call it before anything is scored."""
    settings = judge_settings(options, setting=options.setting, out=options.out)
    if settings and options.setting != "try_off" and not (options.garments and options.pairs):
        raise OmfaError(NO_GARMENT)
    return settings


def judge_folder(options: argparse.Namespace, settings: JudgeSettings, scores: Scores) -> Scores:
    """Judge the folder that has just been scored; return its scores, written to --out anew."""
    matched = match(
        options.pred,
        options.gt,
        garments=options.garments,
        pairs=options.pairs,
        categories=options.categories,
        names=Names(options.pred_name, options.gt_name, options.garment_name),
        allow_missing=options.allow_missing,
    )
    judged = judge(judge_pairs(matched.scored, options.setting), settings)
    scores = add_judged(scores, judged)
    write_scores(options.out, scores)
    return scores


def judge_pairs(matches: Sequence[Match], setting: str) -> list[Pair]:
    """Return what the judge looks at: prediction and garment, for try-off the true garment.

    OmfaError if a match has no garment.
    """
    pairs = []
    for row in matches:
        garment = row.truth if setting == "try_off" else row.garment
        if garment is None:
            raise OmfaError(NO_GARMENT)
        if row.pred is not None:
            pairs.append(Pair(row.name, garment, row.pred))
    return pairs


def _prices(text: str | None, model: str) -> Prices:
    if text is None:
        if model in KNOWN_PRICES:
            return KNOWN_PRICES[model]
        raise OmfaError(
            f"the price of {model} is not known here, so its cost cannot be capped: give"
            " --judge-prices IN,OUT in USD for a million tokens (0,0 for a server of your own)"
        )
    try:
        cost_in, cost_out = (float(part) for part in text.split(","))
    except ValueError:
        raise OmfaError(f"--judge-prices: expected two numbers IN,OUT, got {text!r}") from None
    return Prices(cost_in, cost_out)


def _extra(text: str) -> dict[str, Any]:
    try:
        extra = json.loads(text)
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise OmfaError(f"--judge-extra: expected a JSON object, got {text!r}")
    for ours in ("messages", "model", "stream", "n"):
        if ours in extra:
            raise OmfaError(f"--judge-extra must not change {ours!r}")
    return extra
