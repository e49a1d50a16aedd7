"""The results of a judge run, and how they are added to a scores file."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from omfa_jax.core.errors import OmfaError
from omfa_jax.evals.metric_aggregation import RESAMPLES, bootstrap_interval
from omfa_jax.evals.scores_file import Metric, Scores


@dataclass(frozen=True)
class JudgeResults:
    """Scores (0 to 10) and reasons in the order of `names`; None for images without a score.

    `failures` has the reasons by name; `not_asked` are the images that the run did not reach, and
    `stopped` is why it ended early. Requests, tokens and cost include earlier runs on these images;
    `new_requests` and `new_cost_usd` are those of this run. A lost answer counts with its upper
    bound, because it may have been charged.
    """

    model: str
    prompt: str
    names: tuple[str, ...]
    scores: tuple[float | None, ...]
    reasons: tuple[str | None, ...]
    failures: dict[str, str]
    not_asked: tuple[str, ...]
    stopped: str | None
    requests: int
    new_requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    new_cost_usd: float
    cost_cap_usd: float

    @property
    def scores_by_name(self) -> dict[str, float]:
        """The scores by image name."""
        return {n: s for n, s in zip(self.names, self.scores, strict=True) if s is not None}

    @property
    def complete(self) -> bool:
        """Whether every image has a score."""
        return len(self.scores_by_name) == len(self.names)

    def format_summary(self) -> str:
        """Return a one-line summary for the terminal."""
        mean = (
            f", mean {np.mean(list(self.scores_by_name.values())):.2f}"
            if self.scores_by_name
            else ""
        )
        line = (
            f"judge {self.model}: {len(self.scores_by_name)} of {len(self.names)} images{mean};"
            f" ${self.cost_usd:.4f} in {self.requests} requests, ${self.new_cost_usd:.4f} in"
            f" {self.new_requests} now"
        )
        if self.failures:
            name, reason = next(iter(self.failures.items()))
            line += f"; {len(self.failures)} failed ({name}: {reason})"
        return line + (f"; stopped: {self.stopped}" if self.stopped else "")


def make_judge_metric(judged: JudgeResults, seed: int) -> Metric:
    """Return the mean score with a bootstrap interval over the images."""
    label = "Judge (0-10)"
    values = np.array(list(judged.scores_by_name.values()), np.float64)
    if len(values) == 0:
        reason = judged.stopped or next(iter(judged.failures.values()), "there were no images")
        return Metric(None, "higher", label, not_computed=f"the judge scored nothing: {reason}")
    # a bootstrap and not a normal interval: scores pile up at the ends of the scale
    interval = bootstrap_interval(values, seed) if len(values) > 1 else None
    kind = f"bootstrap 95%, {RESAMPLES} resamples" if interval else None
    return Metric(float(values.mean()), "higher", label, interval=interval, interval_kind=kind)


def add_judge_results(scores: Scores, judged: JudgeResults) -> Scores:
    """Return the scores with the judge's block, metric, per-image values and category means.

    Raises OmfaError for names that the scores do not have. `complete` is not changed, because it
    describes the other metrics; the block has the judge's own counts.
    """
    # images of another split would silently change the mean
    foreign = set(judged.names) - set(scores.per_image.names)
    if foreign:
        raise OmfaError(
            f"the judge has scores of {len(foreign)} images that are not in the scores file"
            f" ({', '.join(sorted(foreign)[:3])})"
        )
    block = {
        "model": judged.model,
        "prompt": judged.prompt,
        "requests": judged.requests,
        "failures": [f"{name}: {reason}" for name, reason in judged.failures.items()],
        "cost_usd": judged.cost_usd,
        "cost_cap_usd": judged.cost_cap_usd,
        "input_tokens": judged.input_tokens,
        "output_tokens": judged.output_tokens,
        "scored": len(judged.scores_by_name),
        "not_asked": len(judged.not_asked),
        "stopped": judged.stopped,
        # the report shows them below the images
        "reasons": {n: r for n, r in zip(judged.names, judged.reasons, strict=True) if r},
    }
    rows, found = scores.per_image, judged.scores_by_name
    values = {**rows.values, "judge": tuple(map(found.get, rows.names))}
    categories = {
        name: dataclasses.replace(
            category,
            metrics={
                **category.metrics,
                "judge": make_judge_metric(_select_category(judged, name, scores), scores.seed),
            },
        )
        for name, category in scores.categories.items()
    }
    return dataclasses.replace(
        scores,
        judge=block,
        metrics={**scores.metrics, "judge": make_judge_metric(judged, scores.seed)},
        categories=categories,
        per_image=dataclasses.replace(rows, values=values),
    )


def _select_category(judged: JudgeResults, category: str, scores: Scores) -> JudgeResults:
    """Return the results restricted to one category."""
    rows = scores.per_image
    inside = {n for n, c in zip(rows.names, rows.categories, strict=True) if c == category}
    kept = [index for index, name in enumerate(judged.names) if name in inside]
    return dataclasses.replace(
        judged,
        names=tuple(judged.names[i] for i in kept),
        scores=tuple(judged.scores[i] for i in kept),
        reasons=tuple(judged.reasons[i] for i in kept),
        failures={name: why for name, why in judged.failures.items() if name in inside},
    )
