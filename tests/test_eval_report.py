"""`omfa eval report`: the tables, the images shown, and errors in the flags."""

import base64
import csv
import dataclasses
import io
import re

import numpy as np
from PIL import Image
from some_scores import KID, LPIPS, NO_FID, SSIM, files_of, some_scores, with_pictures, with_values

from omfa_jax.cli.main import main
from omfa_jax.evals.report.example_gallery import GallerySettings, choose_examples
from omfa_jax.evals.report.html_page import HtmlPage
from omfa_jax.evals.report.report_page import (
    add_report_sections,
    build_report_page,
    collect_warnings,
)
from omfa_jax.evals.report.scores_table import (
    group_scores,
    make_categories_table,
    make_methods_table,
)
from omfa_jax.evals.report.table_exports import format_csv, format_latex
from omfa_jax.evals.scores_file import (
    Category,
    Folders,
    Metric,
    ProtocolRecord,
)


def text_of(*scores, **settings):
    page = build_report_page(scores, beside=None, examples=GallerySettings(**settings))
    return "\n".join([page.title, page.lead, *page.parts])


def bests(table):
    return {
        column.name: [
            row.labels[0] for row, cell in zip(table.rows, cells, strict=True) if cell.best
        ]
        for column, cells in zip(
            table.columns, zip(*(row.cells for row in table.rows), strict=True), strict=True
        )
    }


def test_the_best_follows_the_direction_and_ties_are_of_what_is_shown():
    a = some_scores("a")
    b = with_values(some_scores("b"), ssim=0.90004, lpips=0.0499, kid=1.2)
    c = with_values(some_scores("c"), ssim=0.8, lpips=0.07, kid=1.204)
    table = make_methods_table([a, b, c])
    assert bests(table) == {"ssim": ["a", "b"], "lpips": ["b"], "kid": ["b", "c"], "fid": []}
    assert [cell.text for cell in table.rows[0].cells] == ["0.9000", "0.0500", "1.25", ""]
    assert table.rows[0].cells[2].interval_text == "[1.00, 1.50]"
    assert [c.factor for c in table.columns] == ["", "", "x1000", ""]
    assert bests(make_methods_table([a])) == {"ssim": [], "lpips": [], "kid": [], "fid": []}


def test_two_scales_of_one_metric_meet_in_one_column():
    raw = dataclasses.replace(KID, value=0.0011, scale=1, interval=(0.001, 0.0012))
    table = make_methods_table([some_scores("a"), some_scores("b", metrics={"kid": raw})])
    cell = table.rows[1].cells[2]
    assert (cell.text, cell.interval_text, cell.best) == ("1.10", "[1.00, 1.20]", True)


def test_what_is_not_computed_says_why_and_is_never_a_number():
    text = text_of(some_scores("a"), some_scores("b", metrics={"ssim": SSIM}))
    assert text.count("not computed<sup>1</sup>") == 1 and text.count("computed<sup>2</sup>") == 3
    assert "1. FID: no &lt;Inception&gt; weights &amp; no luck" in text
    assert "2. LPIPS, KID, FID: not in this scores file" in text
    assert "KID \u00d71000 ↓" in text and "SSIM ↑" in text
    tiny = make_methods_table([some_scores("a"), with_values(some_scores("n"), kid=-0.001)])
    assert tiny.rows[1].cells[2].text == "0.00", "no -0.00"


def test_warnings_stand_on_top_and_nothing_is_said_of_files_that_compare():
    a = some_scores("a", ["x"])
    assert collect_warnings([a, some_scores("b", ["x"])]) == []
    b = some_scores(
        "b",
        ["y"],
        versions={"omfa_jax": "0.2.0"},
        seed=7,
        complete=False,
        counts=dataclasses.replace(a.counts, pairs=5, scored=1, missing=("u", "v", "w", "z")),
    )
    lines = collect_warnings([a, b])
    for said in (
        "version of omfa_jax differs: 0.1.0 (a), 0.2.0 (b)",
        "seed differs: 0 (a), 7 (b)",
        "number of pairs differs: 1 (a), 5 (b)",
        "scored images differ: 2 names are not in every file",
        "b is not complete",
        "b: 4 predictions missing (u, v, w, ...)",
    ):
        assert sum(said in line for line in lines) == 1, (said, lines)
    text = text_of(a, b)
    assert text.index("Read with care") < text.index("<table>")
    judged = {"model": "m", "prompt": "p", "failures": [], "stopped": "the cost cap of $1"}
    other = {**judged, "stopped": None, "model": "n", "prompt": "q"}
    lines = collect_warnings([some_scores("a", judge=judged), some_scores("b", judge=other)])
    assert "a: the judge did not score every image: the cost cap of $1" in lines
    assert "the judges differ: m, n" in lines and "had different prompts" in "".join(lines)


def test_settings_have_tables_of_their_own(tmp_path):
    paired = [some_scores("a"), with_values(some_scores("b"), ssim=0.95)]
    unpaired = [dataclasses.replace(s, protocol=ProtocolRecord("omfa", "unpaired")) for s in paired]
    assert [len(group) for group in group_scores([*paired, *unpaired])] == [2, 2]
    text = text_of(*paired, *unpaired)
    assert "Scores: omfa, paired" in text and "Scores: omfa, unpaired" in text
    assert "Read with care" not in text and "of different tables are not comparable" in text
    assert format_latex(group_scores([*paired, *unpaired])).count("\\begin{tabular}") == 2


def test_a_category_has_its_own_best():
    def one(method, upper, dresses):
        values = {"upper": upper, "dresses": dresses}
        return some_scores(
            method,
            categories={
                name: Category(3, {"ssim": dataclasses.replace(SSIM, value=value)})
                for name, value in values.items()
            },
        )

    table = make_categories_table([one("a", 0.9, 0.7), one("b", 0.8, 0.75)])
    assert [(*row.labels, row.cells[0].best) for row in table.rows] == [
        ("upper", "a", "3", True),
        ("upper", "b", "3", False),
        ("dresses", "a", "3", False),
        ("dresses", "b", "3", True),
    ]
    assert make_categories_table([some_scores("a")]) is None


def test_examples_are_the_worst_the_best_and_the_most_different(tmp_path):
    a = with_pictures(tmp_path, "a", [0.5, 0.1, 0.2, 0.3, 0.3, 0.3], 100)
    b = with_pictures(tmp_path, "b", [0.5, 0.1, 0.2, 0.3, 0.2, 0.35], 200)
    chosen = choose_examples([a, b], "lpips", 1)
    assert [(e.kind, e.name) for e in chosen] == [
        ("worst", "00000"),
        ("best", "00001"),
        ("differ", "00004"),
    ]
    assert (
        len({e.name for e in choose_examples([a, b], "lpips", 50)})
        == len(choose_examples([a, b], "lpips", 50))
        == 6
    )
    assert [e.kind for e in choose_examples([a], "lpips", 1)] == ["worst", "best"]
    text = text_of(a, b, count=1)
    encoded = re.findall(r'<figure><img alt="(.*?)" src="data:image/jpeg;base64,(.*?)"', text)
    rows = [(alt, Image.open(io.BytesIO(base64.b64decode(data)))) for alt, data in encoded]
    assert [alt for alt, _ in rows[:4]] == ["garment", "ground truth", "a", "b"] and len(rows) == 12
    assert rows[2][1].size == (240, 320) and rows[1][1].size == (48, 64), "shrunk, never blown up"
    colours = [tuple(np.asarray(image)[5, 5]) for _, image in rows[:4]]
    np.testing.assert_allclose(colours, [(100, 0, 0), (0,) * 3, (100,) * 3, (200,) * 3], atol=3)
    assert "LPIPS: 0.5000</small>" in text and "Examples by LPIPS" in text


def test_missing_folders_and_pictures_are_said_and_not_fatal(tmp_path):
    a = with_pictures(tmp_path, "a", [0.5, 0.1], 100)
    (tmp_path / "a" / "00000.png").write_bytes(b"damaged")
    (tmp_path / "cloth" / "00001.jpg").unlink()
    gone = dataclasses.replace(
        a, method="b", folders=Folders("gone", a.folders.gt, None, "gone.txt")
    )
    text = text_of(a, gone, count=1)
    assert "b: the folder of predictions is missing: gone" in text
    assert "b: the pairs file is missing: gone.txt" in text
    assert "not an image" in text and "no garment" in text and text.count("no image<") == 3


def test_the_unpaired_garment_is_the_one_of_the_list(tmp_path):
    a = with_pictures(tmp_path, "a", [0.5, 0.1], 100)
    (tmp_path / "pairs.txt").write_text("00000.jpg 00001.jpg\n00001.jpg 00000.jpg\n")
    swapped = dataclasses.replace(
        a,
        protocol=ProtocolRecord("omfa", "unpaired"),
        folders=dataclasses.replace(a.folders, pairs=str(tmp_path / "pairs.txt")),
    )
    text = text_of(swapped, count=1)
    data = re.findall(r'<figure><img alt="garment" src="data:image/jpeg;base64,(.*?)"', text)
    pixel = np.asarray(Image.open(io.BytesIO(base64.b64decode(data[0]))))[5, 5]
    np.testing.assert_allclose(pixel, (110, 10, 10), atol=3)
    assert "person, own garment" in text


def test_influence_truth_and_judge_are_shown(tmp_path):
    a = with_pictures(tmp_path, "a", [0.5, 0.1], 100)
    judge = Metric(5.5, "higher", "Judge (0-10)")
    judged = dataclasses.replace(
        a,
        metrics={**a.metrics, "judge": judge},
        per_image=dataclasses.replace(
            a.per_image, values={**a.per_image.values, "judge": (3.0, 8.0)}
        ),
        judge={
            "model": "gpt-4o-mini",
            "prompt": 'Answer {"score": <x>}',
            "requests": 2,
            "failures": ["00007: HTTP 500"],
            "cost_usd": 0.0123,
            "cost_cap_usd": 5,
            "reasons": {"00000": "the collar's wrong"},
        },
        influence={
            "garment": {
                "metric": "psnr",
                "right": 24.0,
                "wrong": 16.0,
                "gain": 8.0,
                "interval": [7, 9],
            }
        },
        truth={"unpaired": {"psnr": 22.123, "ssim": 0.9}, "new_pose": {"psnr": 19.0, "count": 4}},
    )
    text = text_of(judged)
    assert "Examples by Judge" in text and "Judge (0-10): 3.000 - the collar&#x27;s wrong" in text
    assert "Answer {&quot;score&quot;: &lt;x&gt;}" in text and "0.0123" in text
    assert "1 image without a score" in text and "00007: HTTP 500" in text
    assert "[7, 9]" in text and '<td>new pose</td><td class="n">19.0</td><td></td>' in text
    page = HtmlPage("omfa_jax demo", "lead")
    page.add_heading("Before")
    add_report_sections(page, [judged])
    assert "Before" in page.parts[0] and "Examples by Judge" in "".join(page.parts)


def test_latex_is_escaped_and_every_line_has_its_columns():
    wild = with_values(some_scores("50% of_#1 & {x}~^\\ <b>"), ssim=0.95, kid=-0.5)
    text = format_latex(group_scores([wild, some_scores("b")]))
    assert r"50\% of\_\#1 \& \{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in text
    assert r"\textless{}b\textgreater{} & \textbf{0.9500} & " in text
    assert r"KID $\times 1000$ $\downarrow$" in text and r"\textbf{$-0.50$}" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {4}
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}") == 1
    assert " & -- \\\\" in text and "% b, FID: no <Inception> weights" in text


def test_csv_comes_back_as_it_was():
    wild = with_values(some_scores('quote " comma, line\nbreak'), ssim=1 / 3)
    other = dataclasses.replace(some_scores("b"), protocol=ProtocolRecord("omfa", "unpaired"))
    rows = list(csv.DictReader(io.StringIO(format_csv(group_scores([wild, other])))))
    assert [row["method"] for row in rows] == ['quote " comma, line\nbreak', "b"]
    assert float(rows[0]["ssim"]) == 1 / 3 and rows[0]["ssim_low"] == ""
    assert (rows[1]["ssim_low"], rows[1]["kid_x1000"]) == ("0.88", "1.25")
    assert rows[0]["fid"] == "" and rows[0]["fid_not_computed"] == NO_FID.not_computed
    assert [row["setting"] for row in rows] == ["paired", "unpaired"]


def report(tmp_path, *arguments):
    return main(["eval", "report", *map(str, arguments)])


def test_the_command_writes_all_three(tmp_path, capsys):
    paths = files_of(tmp_path, with_pictures(tmp_path, "a", [0.5, 0.1], 100), some_scores("b"))
    out, tex, table = (tmp_path / name for name in ("r.html", "t.tex", "t.csv"))
    assert report(tmp_path, *paths, "--out", out, "--latex", tex, "--csv", table) == 0
    assert "</html>" in out.read_text() and "tabular" in tex.read_text()
    assert "lpips" in table.read_text() and str(out) in capsys.readouterr().out


def test_wrong_input_is_one_line(tmp_path, capsys):
    a, b = files_of(tmp_path, some_scores("a"), some_scores("b", metrics={"x": LPIPS}))
    broken, other, list_ = (tmp_path / name for name in ("broken.json", "other.json", "l.json"))
    broken.write_text("{")
    other.write_text('{"format": 2}')
    list_.write_text("[1]")
    out = tmp_path / "r.html"
    for arguments, said in (
        ([broken, "--out", out], "JSON expected"),
        ([other, "--out", out], "expected format 1"),
        ([list_, "--out", out], "not a scores file"),
        ([tmp_path / "gone.json", "--out", out], "found nothing"),
        ([a, a, "--out", out], "two scores files have the method 'a'"),
        ([a, b, "--out", out], "no metric in common: a has ssim"),
        ([a, "--out", tmp_path / "gone" / "r.html"], "--out: there is no folder"),
        ([a, "--out", out, "--csv", tmp_path / "gone" / "t.csv"], "--csv: there is no folder"),
        ([a, "--out", tmp_path], "expected the name of a new file"),
        ([a, "--out", out, "--csv", out], "--out, --csv must be different files"),
        ([a, "--out", a], "expected the name of a new file"),
        ([a, "--out", out, "--examples-by", "lpisp"], "unknown per-image metric (--examples-by)"),
        ([a, "--out", out, "--examples", "-1"], "--examples: expected an integer from 0"),
    ):
        assert report(tmp_path, *arguments) == 2, arguments
        lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("omfa eval:")]
        assert len(lines) == 1 and said in lines[0], (arguments, lines)
    assert not out.exists()
