"""`omfa eval report` of several settings, and of methods without categories."""

import dataclasses
import re

from some_scores import KID, LPIPS, SSIM, some_scores

from omfa_jax.evals.report.example_gallery import GallerySettings
from omfa_jax.evals.report.report_page import build_report_page, collect_warnings
from omfa_jax.evals.report.scores_table import make_categories_table
from omfa_jax.evals.scores_file import Category, Counts, PerImage, ProtocolRecord, WeightsFile


def text_of(*scores, **settings):
    page = build_report_page(scores, beside=None, examples=GallerySettings(**settings))
    return "\n".join([page.title, page.lead, *page.parts])


def of_setting(method, setting):
    """Scores as `omfa eval` writes them: choices, libraries and weights of their own metrics."""
    metrics = {"fid": dataclasses.replace(SSIM, label="FID"), "kid": KID}
    weights = {"inception": WeightsFile("inception.pth", "cd" * 32)}
    names, values = ("x", "y"), {}
    if setting == "paired":
        metrics |= {"ssim": SSIM, "lpips": LPIPS}
        weights["alex"] = WeightsFile("alex.pth", "ab" * 32)
        values = {"lpips": (0.1, 0.2)}
    choices = {f"{name}.{what}": name for name in metrics for what in ("size", "filter", "net")}
    return some_scores(
        method,
        protocol=ProtocolRecord("omfa", setting, choices),
        metrics=metrics,
        weights=weights,
        versions={"omfa_jax": "0.1.0"} | ({"lpips": "0.1.4"} if "alex" in weights else {}),
        counts=Counts(2 if setting == "paired" else 2032, 2, formats={setting: 2}),
        per_image=PerImage(names, (), values),
    )


def test_paired_and_unpaired_scores_of_one_model_are_two_tables_without_a_warning():
    both = [of_setting("m", "paired"), of_setting("m", "unpaired")]
    assert collect_warnings(both) == []
    text = text_of(*both)
    assert re.findall("<h2>(Scores.*?)</h2>", text) == [
        "Scores: omfa, paired",
        "Scores: omfa, unpaired",
    ]
    assert "own garment): 2 images; omfa, unpaired (another garment): 2,032 images" in text
    # the worst and best of the setting that has values per image, and a word on the other
    assert text.count('<div class="example">') == 2
    assert "No examples for omfa, unpaired: no values of any metric per image." in text
    assert "no values of lpips per image" in text_of(*both, metrics=("lpips",))
    later = dataclasses.replace(both[1], method="n", seed=7)
    assert collect_warnings([*both, later]) == ["omfa, unpaired: seed differs: 0 (m), 7 (n)"]


def test_a_difference_is_one_line_whatever_the_number_of_methods():
    files = [some_scores(name, seed=len(name)) for name in ("a", "b", "cc", "dd")]
    assert collect_warnings(files) == ["seed differs: 1 (a, b), 2 (cc, dd)"]
    more = [some_scores(name, seed=0) for name in "efgh"] + files[:1]
    assert collect_warnings(more) == ["seed differs: 0 (4 methods), 1 (a)"]
    new = {f"{name}.{what}": 2 for name in ("ssim", "lpips") for what in ("size", "filter", "net")}
    other = some_scores("b", protocol=ProtocolRecord("omfa", "paired", new | {"lpips_net": "alex"}))
    (line,) = collect_warnings([some_scores("a"), other])
    assert line.startswith(
        "6 choices of the protocol differ: lpips.filter, lpips.net, lpips.size, "
    )
    text = text_of(
        some_scores("a", protocol=ProtocolRecord("omfa", "paired", {"ssim.size": [4, 3]})), other
    )
    assert "size 4, 3 (a) or 2 (b)" in text


def test_a_metric_of_one_method_alone_is_missing_in_the_table_and_no_warning():
    paired = of_setting("m", "paired")
    fewer = dataclasses.replace(of_setting("n", "unpaired"), protocol=paired.protocol)
    fewer = dataclasses.replace(fewer, counts=paired.counts)
    assert collect_warnings([paired, fewer]) == []
    assert "SSIM, LPIPS: not in this scores file" in text_of(paired, fewer)


def test_a_method_without_categories_keeps_its_row():
    upper = Category(1200, {"ssim": SSIM})
    files = [
        some_scores("none"),
        some_scores("both", categories={"upper": upper, "dresses": upper}),
        some_scores("one", categories={"upper": upper}),
    ]
    table = make_categories_table(files)
    assert [row.labels for row in table.rows] == [
        ("upper", "none", "unknown"),
        ("upper", "both", "1,200"),
        ("upper", "one", "1,200"),
        ("dresses", "none", "unknown"),
        ("dresses", "both", "1,200"),
        ("dresses", "one", "0"),
    ]
    assert [column.name for column in table.columns] == ["ssim"]
    assert [row.cells[0].text for row in table.rows] == ["", "0.9000", "0.9000", "", "0.9000", ""]
    text = text_of(*files)
    assert "1. SSIM: no categories in this scores file" in text
    assert "2. SSIM: no images of this category" in text
