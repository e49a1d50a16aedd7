"""Scoring a folder of images under a protocol: checked first, resumable, in bounded memory."""

import datetime
import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.paths import AnyPath, is_remote
from omfa_jax.evals.file_matching import Match, MatchResult, NameRules, match_files
from omfa_jax.evals.image_preparation import FileFacts, inspect_files
from omfa_jax.evals.kept_blocks import compute_judged_digests, keep_earlier_blocks
from omfa_jax.evals.library_versions import get_base_versions
from omfa_jax.evals.metric_aggregation import (
    compute_mean,
    compute_per_image,
    compute_set_distance,
    make_missing_metric,
)
from omfa_jax.evals.metric_fns import MetricFns, load_metric_fns
from omfa_jax.evals.metric_runner import MetricRunner
from omfa_jax.evals.metric_weights import MetricWeights
from omfa_jax.evals.protocol_spec import MetricSpec, Protocol, load_protocol
from omfa_jax.evals.scores_file import (
    SETTINGS,
    Category,
    Counts,
    Folders,
    Metric,
    PerImage,
    Scores,
    WeightsFile,
    read_scores,
    write_scores,
)
from omfa_jax.evals.scores_file import ProtocolRecord as ProtocolEntry

log = logging.getLogger(__name__)

MAX_ASPECT_ERROR = 0.01


@dataclass(frozen=True)
class ScoreRequest:
    """What to score, how, and where the result is written (see `omfa eval --help`)."""

    pred: AnyPath
    gt: AnyPath
    out: AnyPath
    protocol: str
    setting: str = "paired"
    garments: AnyPath | None = None
    pairs: AnyPath | None = None
    categories: AnyPath | None = None
    names: NameRules = field(default_factory=NameRules)
    method: str | None = None
    metrics: tuple[str, ...] = ()  # a subset of the protocol's metrics; () means all
    metric_weights: Path | None = None
    skip_checksum: bool = False
    allow_missing: bool = False
    seed: int = 0
    device: str = "cpu"
    workers: int = 2
    batch_size: int = 32
    originals: Mapping[AnyPath, str] = field(default_factory=dict)

    def get_name(self, path: AnyPath | None) -> Any:
        """Return a folder's or file's name in the scores: that of the original of a copy."""
        return self.originals.get(path, str(path)) if path else None


def score_folder(request: ScoreRequest) -> Scores:
    """Score the folder, write the scores file and return its content.

    Values are cached in OUT.cache as they are computed, so a killed run resumes. Blocks that others
    have added to the file (`kept_blocks`) are kept if the images are the same. Raises OmfaError
    before any work if files are damaged or do not match, or if --out holds something else.
    """
    chosen = load_protocol(request.protocol)
    choices = chosen.get_metrics(request.setting)
    for key in request.metrics:
        if key not in choices:
            raise make_unknown_name_error(
                f"metric of {chosen.name} {request.setting} (--metrics)", key, choices
            )
    # before the files are hashed: a wrong --out would be found after minutes otherwise
    require_scores_path(request)
    matched = match_files(
        request.pred,
        request.gt,
        garments=request.garments,
        pairs=request.pairs,
        categories=request.categories,
        names=request.names,
        allow_missing=request.allow_missing,
    )
    # all files first: a damaged one must not stop a run after hours
    facts = inspect_files(_files(matched), request.workers)
    wrong = find_wrong_sizes(chosen, matched, facts)
    if wrong and not request.allow_missing:
        raise OmfaError(
            f"{len(wrong)} of {len(matched.scored)} predictions have a wrong size: {wrong[0]}"
            f" (protocol {chosen.name}: {chosen.size_rule}); change --pred or --protocol, or give"
            " --allow-missing to have them resized"
        )
    networks = MetricWeights(request.metric_weights, skip_checksum=request.skip_checksum)
    # a mean over the examples that have a garment would not be comparable
    garment = all(row.garment for row in matched.matches)
    computable = {
        key: choice
        for key, choice in choices.items()
        if (choice.against != "garment" or garment)
        and (not request.metrics or key in request.metrics)
    }
    computers = load_metric_fns(computable, networks, request.device)
    # next to the scores and not in a user cache: one can see it and delete it
    cache = request.out.with_name(f"{request.out.name}.cache")
    results = MetricRunner(computers.distinct, facts, cache)
    works = results.plan(matched)
    # says why a resumed run starts with fewer images than the folder has
    if len(works) < len(matched.matches) and computers.distinct:
        cached = len(matched.matches) - len(works)
        log.info("%d of %d examples are cached in %s", cached, len(matched.matches), cache)
    results.run(works, workers=request.workers, batch_size=request.batch_size)
    scored = _ScoredFolder(
        request=request,
        chosen=chosen,
        matched=matched,
        facts=facts,
        computers=computers,
        results=results,
        networks=networks,
        resized=len(wrong),
    )
    digests = compute_judged_digests(
        matched.scored, request.setting, lambda path: facts[path].sha256
    )
    scores = keep_earlier_blocks(request.out, _scores(scored), digests)
    write_scores(request.out, scores)
    return scores


def require_scores_path(request: ScoreRequest) -> None:
    """Raise an OmfaError unless --out can be written, or holds scores of the same kind."""
    if request.setting not in SETTINGS:
        raise OmfaError(f"--setting must be one of {', '.join(SETTINGS)}, got {request.setting!r}")
    out = request.out
    if not is_remote(out) and not out.parent.is_dir():
        raise OmfaError(f"--out: the folder {out.parent} does not exist; create it or change --out")
    if out.is_dir():
        raise OmfaError(f"--out must be a file, {out} is a folder; change --out")
    if out.exists():
        entry = read_scores(out).protocol
        if (entry.name, entry.setting) != (request.protocol, request.setting):
            raise OmfaError(
                f"{out} holds scores of protocol {entry.name}, {entry.setting}, and this run makes"
                f" scores of {request.protocol}, {request.setting}: change --out"
            )


def find_wrong_sizes(
    chosen: Protocol, matched: MatchResult, facts: dict[Path, FileFacts]
) -> list[str]:
    """Return one line for each prediction whose size the protocol does not allow."""
    wrong = []
    for row in matched.scored:
        assert row.pred
        came, truth = facts[row.pred].size_px, facts[row.truth].size_px
        # within 1%: rounding to a multiple of 8 px changes the aspect slightly
        same_aspect = abs(came[0] * truth[1] / (came[1] * truth[0]) - 1) <= MAX_ASPECT_ERROR
        allowed = {
            "same": came == truth,
            "same_aspect": same_aspect,
            "square_or_same_aspect": same_aspect or came[0] == came[1],
        }
        if not allowed[chosen.size_rule]:
            wrong.append(
                f"{row.pred.name} is {came[1]}x{came[0]} px, its ground truth {truth[1]}x{truth[0]}"
            )
    return wrong


def _files(matched: MatchResult) -> list[Path]:
    rows = [(row.pred, row.truth, row.garment) for row in matched.matches]
    # a garment is often shared by several rows
    return list(dict.fromkeys(path for row in rows for path in row if path))


@dataclass(frozen=True)
class _ScoredFolder:
    """A scored folder before its values are aggregated; `resized` counts wrong-size predictions."""

    request: ScoreRequest
    chosen: Protocol
    matched: MatchResult
    facts: dict[Path, FileFacts]
    computers: MetricFns
    results: MetricRunner
    networks: MetricWeights
    resized: int


def _scores(folder: _ScoredFolder) -> Scores:
    request, chosen, matched, facts = folder.request, folder.chosen, folder.matched, folder.facts
    computers, results = folder.computers, folder.results
    choices = chosen.get_metrics(request.setting)
    scored = matched.scored
    values = {
        key: compute_per_image(results, computer, choices[key], scored)
        for key, computer in computers.by_metric.items()
        if choices[key].against != "all_truth"
    }

    def table(rows: list[Match], everything: list[Match]) -> dict[str, Metric]:
        places = {row.name: place for place, row in enumerate(scored)}
        made = {}
        for key, choice in choices.items():
            if key not in computers.by_metric:
                made[key] = make_missing_metric(choice, _reason(key, request, computers, choice))
            elif key in values:
                column = [values[key][places[row.name]] for row in rows]
                made[key] = compute_mean(choice, column, request.seed)
            else:
                preds = _drop_repeats(row.pred for row in rows if row.pred)
                # papers compare with all test photos, also those without a prediction
                truths = _drop_repeats(row.truth for row in everything)
                computer = computers.by_metric[key]
                made[key] = compute_set_distance(
                    results, computer, choice, preds, truths, request.seed
                )
        return made

    categories = {}
    # a category of which no prediction exists has no mean, and gets no table
    for name in sorted({row.category for row in scored if row.category}):
        rows = [row for row in scored if row.category == name]
        everything = [row for row in matched.matches if row.category == name]
        categories[name] = Category(len(rows), table(rows, everything))
    preds = [row.pred for row in scored if row.pred]
    # names and contents: two methods must be scored against the same images
    digest = hashlib.sha256()
    for row in matched.matches:
        digest.update(f"{row.name} {facts[row.truth].sha256}\n".encode())
    formats = Counter(facts[path].format for path in preds)
    odd = Counter(fact.converted for fact in facts.values() if fact.converted)
    # papers rarely say what they did with such files, so the scores may not be comparable
    if odd:
        converted = ", ".join(f"{count} {what}" for what, count in sorted(odd.items()))
        log.warning("converted to upright 8-bit RGB: %s", converted)
    now = datetime.datetime.now(datetime.UTC)
    return Scores(
        method=request.method or request.pred.resolve().name,
        created=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        protocol=ProtocolEntry(
            chosen.name, request.setting, chosen.flatten_choices(request.setting)
        ),
        versions=get_base_versions() | computers.libraries | {"device": request.device},
        weights={
            name: WeightsFile(found.weights.name, found.sha256)
            for name, found in sorted(folder.networks.used.items())
        },
        seed=request.seed,
        folders=Folders(
            *map(request.get_name, (request.pred, request.gt, request.garments, request.pairs)),
            gt_sha256=digest.hexdigest(),
        ),
        counts=Counts(
            pairs=len(matched.matches),
            scored=len(scored),
            missing=matched.missing,
            extra=matched.extra,
            resized=folder.resized,
            formats=dict(sorted(formats.items())),
            converted=dict(sorted(odd.items())),
        ),
        metrics=table(scored, list(matched.matches)),
        categories=categories,
        per_image=PerImage(
            tuple(row.name for row in scored),
            tuple(row.category for row in scored) if categories else (),
            dict(values),
        ),
    )


def _reason(key: str, request: ScoreRequest, computers: MetricFns, choice: MetricSpec) -> str:
    if request.metrics and key not in request.metrics:
        return "excluded by --metrics"
    if key in computers.unavailable:
        return computers.unavailable[key]
    return f"{choice.label} compares with the garment: give --garments DIR and --pairs FILE"


def _drop_repeats(paths) -> list[Path]:
    return list(dict.fromkeys(paths))
