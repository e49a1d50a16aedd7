"""The report in a real browser: it shows its table, fits a phone, raises no complaint."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from some_scores import some_scores, with_pictures

from omfa_jax.evals.report.example_gallery import GallerySettings
from omfa_jax.evals.report.html_page import HtmlPage
from omfa_jax.evals.report.report_page import build_report_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")


def browse(page, tmp_path, *flags):
    """Open a page without network; return what comes on stdout, and what the console says."""
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--enable-logging=stderr", "--log-level=0", f"--user-data-dir={tmp_path}/profile"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", *flags, page.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture
def page(tmp_path):
    scores = [
        with_pictures(tmp_path, "first & best", [0.5, 0.1], 90),
        with_pictures(tmp_path, "second", [0.4, 0.3], 190),
        some_scores("a_method_with_quite_a_long_name_that_would_not_fit_a_phone"),
    ]
    path = tmp_path / "r.html"
    build_report_page(scores, beside=None, examples=GallerySettings(count=1)).write(path)
    return path


def test_the_browser_has_the_table_and_no_complaint(page, tmp_path):
    dom, console = browse(page, tmp_path, "--dump-dom")
    assert not console
    table = dom[dom.index("<table>") : dom.index("</table>")]
    assert "LPIPS ↓" in table and '<td class="n best"><b>0.0500</b>' in table
    assert "not computed<sup>1</sup>" in table and dom.count("<figure><img") == 8
    assert "http" not in dom and "<script" not in dom


def test_a_complaint_would_be_heard(tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<script>console.error('x'); nothing.here()</script>")
    _, console = browse(bad, tmp_path, "--dump-dom")
    assert len(console) == 2


OVERLAPS = """
const boxes = [...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect());
const whole = [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect());
const meet = (a, b, x, y) => a[x] + 2 < b[y] && b[x] + 2 < a[y];
const hit = (a, b) => meet(a, b, 'left', 'right') && meet(a, b, 'top', 'bottom');
let count = 0;
boxes.forEach((a, i) => boxes.slice(0, i).forEach(b => { if (hit(a, b)) count += 1; }));
const out = boxes.filter(b => !whole.some(w => b.left >= w.left - 1 && b.right <= w.right + 1));
document.title = `${boxes.length} texts, ${count} overlap, ${out.length} are cut`;
"""


def test_labels_of_plots_do_not_overlap_in_the_browsers_own_letters(tmp_path):
    page = HtmlPage("plots", "")
    page.add_line_plot({"loss": [(1000, 0.5), (12_345_678, 1e-4)]}, "steps", "loss (dB, W)")
    names = [f"loss/WWWW_a_method_with_a_long_name_{index}" * (1 + index) for index in range(6)]
    page.add_line_plot({name: [(99_990, 1.0001), (99_999, 1.0003)] for name in names}, "steps", "y")
    path = tmp_path / "plots.html"
    path.write_text(page.to_html().replace("</body>", f"<script>{OVERLAPS}</script></body>"))
    dom, _ = browse(path, tmp_path, "--window-size=900,900", "--dump-dom")
    title = dom.split("<title>")[1].split("</title>")[0]
    assert int(title.split()[0]) > 25 and title.endswith("texts, 0 overlap, 0 are cut"), title


def test_it_fits_a_phone_and_is_not_blank(page, tmp_path):
    measured = tmp_path / "measured.html"
    script = "document.title = document.documentElement.scrollWidth + ' of ' + innerWidth"
    measured.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    dom, _ = browse(measured, tmp_path, "--window-size=500,1500", "--dump-dom")
    width, inner = dom.split("<title>")[1].split("</title>")[0].split(" of ")
    assert int(width) <= int(inner) <= 500
    browse(page, tmp_path, "--window-size=500,1500", f"--screenshot={tmp_path}/shot.png")
    shot = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB")).astype(int)
    assert shot.shape == (1500, 500, 3) and (shot.min(-1) < 128).mean() > 0.01
    box = (abs(shot - (255, 246, 224)).max(-1) < 3).mean()
    assert box > 0.02, "the box of warnings is there"
