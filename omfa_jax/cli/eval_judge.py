"""The judge's flags of `omfa eval`, and judging a scored folder."""

import argparse
import os
from pathlib import Path
from typing import Any

from omfa_jax.cli.flags import float_between, int_between, parse_path
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.paths import AnyPath
from omfa_jax.evals.file_matching import NameRules, match_files
from omfa_jax.evals.judge.judge_matches import NO_GARMENT, judge_matches
from omfa_jax.evals.judge.settings import KNOWN_PRICES, JudgeSettings, TokenPrices
from omfa_jax.evals.scores_file import Scores

URL, MODEL, KEY = "OMFA_JUDGE_URL", "OMFA_JUDGE_MODEL", "OMFA_JUDGE_KEY"


def add_judge_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the judge's flags; it is off without --judge, --judge-url or --judge-model."""
    group = parser.add_argument_group(
        "judge", "score from 0 to 10 by a vision-language model; costs money (docs/judge.md)"
    )
    add = group.add_argument
    add("--judge", action="store_true", help=f"use the judge set in ${URL} and ${MODEL}")
    add("--judge-url", metavar="URL", help=f"OpenAI-compatible API, .../v1 (default: ${URL})")
    add("--judge-model", metavar="NAME", help=f"model name (default: ${MODEL})")
    add(
        "--judge-key-env",
        metavar="VARIABLE",
        default=KEY,
        help="environment variable with the API key, which may be unset",
    )
    add(
        "--judge-prices",
        metavar="IN,OUT",
        help="USD per million input and output tokens; 0,0 for a free server (default: known for"
        " gpt-4o-mini)",
    )
    add(
        "--judge-cost-cap",
        type=float_between(0, 1e9),
        default=5.0,
        metavar="USD",
        help="stop before the cost exceeds this",
    )
    add(
        "--judge-cache",
        type=parse_path,
        metavar="FILE",
        help="file of paid answers (default: NAME.judge.jsonl next to --out)",
    )
    add(
        "--judge-concurrency",
        type=int_between(1, 1000),
        default=4,
        metavar="N",
        help="concurrent requests",
    )
    add(
        "--judge-attempts",
        type=int_between(1, 1000),
        default=6,
        metavar="N",
        help="attempts per request",
    )
    add(
        "--judge-asks",
        type=int_between(1, 1000),
        default=3,
        metavar="N",
        help="maximum number of answers to request per image",
    )
    add(
        "--judge-timeout",
        type=float_between(0, 86400, above=True),
        default=120.0,
        metavar="S",
        help="time limit of one answer in seconds",
    )
    add(
        "--judge-max-tokens",
        type=int_between(1, 10**6),
        default=300,
        metavar="N",
        help="limit on the tokens of an answer",
    )
    add(
        "--judge-detail",
        default="high",
        metavar="low|high|auto",
        help="image detail",
    )
    add(
        "--judge-extra",
        default="{}",
        metavar="JSON",
        help="override fields of the request; null removes one, e.g."
        ' \'{"max_tokens": null, "max_completion_tokens": 4000, "temperature": null}\'',
    )


def make_judge_settings(
    options: argparse.Namespace, *, setting: str, out: AnyPath | None
) -> JudgeSettings | None:
    """Return the judge's settings from flags and environment, or None without a judge.

    `setting` is the protocol's; `out` is the scores file, next to which the cache is by default.
    """
    if not (options.judge or options.judge_url or options.judge_model):
        return None
    url = options.judge_url or os.environ.get(URL, "")
    model = options.judge_model or os.environ.get(MODEL, "")
    if not url:
        raise OmfaError(f"the judge needs --judge-url URL (or {URL} in the environment)")
    if not model:
        raise OmfaError(f"the judge needs --judge-model NAME (or {MODEL} in the environment)")
    # it grows by a line for each answer, which object storage cannot do
    cache: Path | None = options.judge_cache
    if cache is None and isinstance(out, Path):
        cache = out.with_suffix(".judge.jsonl")
    # answers cost money: without a file to keep them in, a restart would pay for them again
    if cache is None:
        raise OmfaError("the judge needs --judge-cache FILE, or --out on a disk")
    return JudgeSettings(
        url=url,
        model=model,
        setting=setting,
        cache=cache,
        prices=_prices(options.judge_prices, model),
        cost_cap_usd=options.judge_cost_cap,
        # from the environment: flags are visible to every user of the machine
        key=os.environ.get(options.judge_key_env, "").strip(),
        detail=options.judge_detail,
        concurrency=options.judge_concurrency,
        asks=options.judge_asks,
        attempts=options.judge_attempts,
        timeout_s=options.judge_timeout,
        max_tokens=options.judge_max_tokens,
        extra=_extra(options.judge_extra),
    )


def make_folder_judge_settings(options: argparse.Namespace) -> JudgeSettings | None:
    """Return the judge's settings for `omfa eval --pred`; call it before scoring starts."""
    settings = make_judge_settings(options, setting=options.setting, out=options.out)
    # try-off is judged against the true garment, which is in --gt
    if settings and options.setting != "try_off" and not (options.garments and options.pairs):
        raise OmfaError(NO_GARMENT)
    return settings


def judge_folder(options: argparse.Namespace, settings: JudgeSettings, scores: Scores) -> Scores:
    """Judge a folder that has been scored; write the extended scores to --out and return them."""
    # by the flags of the scoring, so that the judge sees the images that were scored
    matched = match_files(
        options.pred,
        options.gt,
        garments=options.garments,
        pairs=options.pairs,
        categories=options.categories,
        names=NameRules(options.pred_name, options.gt_name, options.garment_name),
        allow_missing=options.allow_missing,
    )
    return judge_matches(matched.scored, settings, scores, options.out)


def _prices(text: str | None, model: str) -> TokenPrices:
    if text is None:
        if model in KNOWN_PRICES:
            return KNOWN_PRICES[model]
        raise OmfaError(
            f"the price of {model} is unknown, so its cost cannot be capped: give"
            " --judge-prices IN,OUT in USD per million tokens (0,0 for a free server)"
        )
    try:
        cost_in, cost_out = (float(part) for part in text.split(","))
    except ValueError:
        raise OmfaError(f"--judge-prices: expected two numbers IN,OUT, got {text!r}") from None
    return TokenPrices(cost_in, cost_out)


def _extra(text: str) -> dict[str, Any]:
    try:
        extra = parse_json(text)
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise OmfaError(f"--judge-extra: expected a JSON object, got {text!r}")
    # the cost cap and the cache's keys rely on these
    for ours in ("messages", "model", "stream", "n"):
        if ours in extra:
            raise OmfaError(f"--judge-extra must not change {ours!r}")
    return extra
