"""The web page in a real browser, and nothing of it leaves the machine."""

import gc
import importlib.util
import os
import shutil
import socket
import warnings
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
MISSING += [] if CHROMIUM else ["chromium"]

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    # Gradio's and its servers' own
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(autouse=True)
def collected():
    """Collect what Gradio leaves behind.

    Its event loops are not closed: their finalizers would complain in whatever test runs when the
    garbage collector comes.
    """
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def connections(monkeypatch):
    """The addresses that this process connects to."""
    seen, connect = [], socket.socket.connect

    def note(self, address):
        seen.append(address)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", note)
    return seen


def test_a_visitor_sees_progress_result_and_a_readable_error(connections, tmp_path):
    from playwright.sync_api import expect, sync_playwright

    from omfa_jax.app.example_photos import list_examples
    from omfa_jax.app.settings import AppLimits
    from omfa_jax.app.web_server import serve

    bad = tmp_path / "shirt.jpg"
    bad.write_text("this is a text")
    asked, complaints = [], []
    with serve(None, port=0, limits=AppLimits(upload_mb=1)) as address, sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 1300})
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        expect(page.locator("#go")).to_be_visible(timeout=20_000)

        def upload(field, path):
            page.locator(f"#{field} input[type=file]").set_input_files(str(path))
            expect(page.locator(f"#{field} button[aria-label='Remove Image']")).to_be_visible()

        upload("person", list_examples("image")[0])
        upload("garment", bad)
        page.locator("#go").click()
        problem = page.locator("#problem")
        expect(problem).to_contain_text("photo of the garment shirt.jpg: not an image")
        assert "Traceback" not in problem.inner_text()

        page.locator("#garment button[aria-label='Remove Image']").click()
        upload("garment", list_examples("cloth")[1])
        page.get_by_label("from the pictures").click()
        page.locator("#poses button").nth(6).click()
        expect(page.locator("#chosen")).to_contain_text("hands_on_hips")
        set_steps(page, 5)
        page.evaluate(WATCH)
        page.locator("#go").click()
        expect(page.locator("#results img").first).to_be_visible(timeout=60_000)
        expect(problem).to_be_hidden()
        expect(page.locator("#overlay img")).to_be_visible()
        expect(page.locator("#command")).to_contain_text("--pose hands_on_hips --steps 5")
        labels = page.evaluate("[...window.previews]")
        assert any("of 5" in label for label in labels), labels
        large = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": bytes(2**21)}
        refused = page.request.post(f"{address}gradio_api/upload", multipart={"files": large})
        # Gradio refuses large files, too, but not in the guard's words
        assert refused.status == 413
        assert refused.text() == "upload one photo of at most 1 MB at a time"
        kept = Path(os.environ["GRADIO_TEMP_DIR"])
        assert any(kept.rglob("*.jpg"))
        browser.close()
    assert not kept.parent.exists(), "the visitors' files are removed at the end"
    outside = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not outside and len(asked) > 20
    assert not complaints
    hosts = {place[0] for place in connections if isinstance(place, tuple)}
    assert hosts <= {"127.0.0.1", "localhost", "::1"}


# previews may be shorter than a glance
WATCH = """() => {
  window.previews = new Set();
  new MutationObserver(() => {
    if (document.querySelector('#preview img'))
      window.previews.add(document.querySelector('#preview').innerText);
  }).observe(document.body, {subtree: true, childList: true, attributes: true});
}"""


def set_steps(page, value):
    field = page.get_by_label("number input for Steps")
    field.fill(str(value))
    field.press("Enter")
