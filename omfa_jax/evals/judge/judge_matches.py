"""Judge the predictions of a scored folder and add the results to its scores file."""

import dataclasses
from collections.abc import Sequence

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath
from omfa_jax.evals.file_matching import Match
from omfa_jax.evals.judge.judge_results import add_judge_results
from omfa_jax.evals.judge.judge_session import run_judge
from omfa_jax.evals.judge.settings import JudgePair, JudgeSettings
from omfa_jax.evals.kept_blocks import compute_judged_digests, hash_file
from omfa_jax.evals.scores_file import Scores, write_scores

NO_GARMENT = "the judge needs each image's garment: give --garments DIR and --pairs FILE"


def judge_matches(
    matches: Sequence[Match], settings: JudgeSettings, scores: Scores, out: AnyPath
) -> Scores:
    """Judge every prediction; write the scores with the judge's block to `out` and return them."""
    judged = run_judge(make_judge_pairs(matches, settings.setting), settings)
    scores = add_judge_results(scores, judged)
    assert scores.judge is not None
    # a later run without a judge keeps the block if these are the same
    digests = compute_judged_digests(matches, settings.setting, hash_file)
    scores = dataclasses.replace(scores, judge={**scores.judge, **digests})
    write_scores(out, scores)
    return scores


def make_judge_pairs(matches: Sequence[Match], setting: str) -> list[JudgePair]:
    """Return the pairs to judge: prediction and garment (for try-off, the true garment).

    Raises OmfaError if a match has no garment.
    """
    pairs = []
    for row in matches:
        garment = row.truth if setting == "try_off" else row.garment
        if garment is None:
            raise OmfaError(NO_GARMENT)
        if row.pred is not None:
            pairs.append(JudgePair(row.name, garment, row.pred))
    return pairs
