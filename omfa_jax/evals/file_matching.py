"""Strict matching of predictions with ground truth and garment images, by file name."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.image_formats import READ_SUFFIXES
from omfa_jax.core.name_lists import has_image_suffix, read_name_list
from omfa_jax.core.path_checks import require_any_dir, require_any_file
from omfa_jax.core.paths import AnyPath
from omfa_jax.core.value_rules import format_value
from omfa_jax.data.builders.raw_files import find_category_word, read_pair_list

MAX_NAMES_SHOWN = 3


@dataclass(frozen=True)
class NameRules:
    """File name templates (without suffix), filled with a pair's {person} and {garment}."""

    pred: str = "{person}"
    gt: str = "{person}"
    garment: str = "{garment}"

    def __post_init__(self) -> None:
        """Raise an OmfaError for a template with another placeholder."""
        for flag, rule in (("pred", self.pred), ("gt", self.gt), ("garment", self.garment)):
            others = set(re.findall(r"{(.*?)}", rule)) - {"person", "garment"}
            if others or "{" not in rule:
                raise OmfaError(
                    f"--{flag}-name must contain {{person}} or {{garment}} and no other"
                    f" placeholder, got {rule!r}"
                )


@dataclass(frozen=True)
class Match:
    """One prediction and what it is compared with; None for a missing file."""

    name: str
    pred: Path | None
    truth: Path
    garment: Path | None
    category: str


@dataclass(frozen=True)
class MatchResult:
    """All matches in the order of their names, and the names without a counterpart."""

    matches: tuple[Match, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def scored(self) -> list[Match]:
        """The matches that have a prediction."""
        return [match for match in self.matches if match.pred is not None]


def list_images(folder: AnyPath, what: str, flag: str) -> dict[str, Any]:
    """Return {name without suffix: path} of a folder's images, sorted by name.

    Raises OmfaError if the folder has no images, or two with the same name (a.jpg and a.png).
    """
    found: dict[str, Any] = {}
    for path in sorted(require_any_dir(folder, what, flag).iterdir()):
        # hidden files are left by file managers and by interrupted atomic writes
        if (
            path.name.startswith(".")
            or path.suffix.lower() not in READ_SUFFIXES
            or not path.is_file()
        ):
            continue
        if path.stem in found:
            raise OmfaError(
                f"{what}: {found[path.stem].name} and {path.name} have the same name in {folder};"
                " remove one of them"
            )
        found[path.stem] = path
    if not found:
        inside = sorted(path.name for path in folder.iterdir() if path.is_dir())
        hint = f" (it has subfolders: {', '.join(inside[:MAX_NAMES_SHOWN])})" if inside else ""
        raise OmfaError(f"{what}: no images in {folder}{hint}; change {flag}")
    return found


def read_categories(path: AnyPath) -> dict[str, str]:
    """Return {name without suffix: category} of a file with "name category" lines."""
    found: dict[str, str] = {}
    for line in read_name_list(require_any_file(path, "categories file", "--categories")):
        fields = line.fields
        parts = line.text.rsplit(maxsplit=1)
        if len(fields) > 2 and has_image_suffix(parts[0]):
            # an unquoted name with spaces
            fields = tuple(parts)
        if line.fault or len(fields) != 2:
            raise OmfaError(
                f"{path} line {line.number}: expected a name and a category, found"
                f" {format_value(line.text[:80])}; change --categories"
            )
        name = Path(fields[0]).stem
        if name in found:
            raise OmfaError(
                f"{path} line {line.number}: {fields[0]} occurs twice; change --categories"
            )
        # other words are categories of the user's own
        found[name] = find_category_word(fields[1]) or fields[1]
    return found


def match_files(
    pred: AnyPath,
    gt: AnyPath,
    *,
    garments: AnyPath | None = None,
    pairs: AnyPath | None = None,
    categories: AnyPath | None = None,
    names: NameRules | None = None,
    allow_missing: bool = False,
) -> MatchResult:
    """Match every expected prediction with its files; OmfaError for names without a counterpart.

    One prediction is expected for each line of `pairs`, or without it for each ground truth image.
    With `allow_missing`, missing and extra predictions are returned instead of raised.
    """
    names = names or NameRules()
    # would give perfect scores without an error
    if pred.exists() and gt.exists() and pred.resolve() == gt.resolve():
        raise OmfaError(f"--pred and --gt are the same folder ({pred}); change one of them")
    preds = list_images(pred, "predictions", "--pred")
    truths = list_images(gt, "ground truth", "--gt")
    shop = list_images(garments, "garments", "--garments") if garments else None
    by_name = read_categories(categories) if categories else {}
    lines = [(name, name, "") for name in truths]
    if pairs:
        read = read_pair_list(pairs, "--pairs")
        lines = [(Path(p.person).stem, Path(p.garment).stem, p.category) for p in read]
    made: dict[str, Match] = {}
    for person, garment_name, line_category in lines:
        words = {"person": person, "garment": garment_name}
        name = names.pred.format(**words)
        if name in made:
            raise OmfaError(
                f"two lines of {pairs} expect the same prediction {name!r}: add {{garment}} to"
                " --pred-name, or change --pairs"
            )
        truth = _require(truths, names.gt.format(**words), "ground truth", gt, "--gt", pairs)
        garment = None
        if shop is not None and garments is not None and pairs:
            wanted = names.garment.format(**words)
            garment = _require(shop, wanted, "garment", garments, "--garments", pairs)
        category = line_category or by_name.get(person, by_name.get(name, ""))
        made[name] = Match(name, preds.get(name), truth, garment, category)
    matches = tuple(made[name] for name in sorted(made))
    missing = tuple(match.name for match in matches if match.pred is None)
    extra = tuple(sorted(set(preds) - set(made)))
    if categories and (unknown := [match.name for match in matches if not match.category]):
        raise OmfaError(
            f"{categories}: no category for {_format_some(unknown)}; change --categories"
        )
    if not allow_missing and (missing or extra):
        problems = [
            *([f"{len(missing)} missing ({_format_some(missing)})"] if missing else []),
            *([f"{len(extra)} extra ({_format_some(extra)})"] if extra else []),
        ]
        raise OmfaError(
            f"predictions in {pred} do not match: {', '.join(problems)} of {len(matches)} expected;"
            " change --pred, --pairs or --pred-name, or give --allow-missing"
        )
    # with --allow-missing, a wrong --pred-name would otherwise score nothing
    if len(missing) == len(matches):
        raise OmfaError(
            f"no prediction in {pred} has an expected name (expected {_format_some(missing)}, found"
            f" {_format_some(extra)}); change --pred or --pred-name"
        )
    return MatchResult(matches, missing, extra)


def _require(
    found: dict[str, Path], name: str, what: str, folder: AnyPath, flag: str, pairs: AnyPath | None
) -> Path:
    if name not in found:
        raise OmfaError(
            f"{what} {name!r}, named by {pairs}, is not in {folder}; change {flag} or --pairs"
        )
    return found[name]


def _format_some(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:MAX_NAMES_SHOWN]) + (", ..." if len(names) > MAX_NAMES_SHOWN else "")
