"""Pages in the system's Chromium, without a window; what is missing (browser, Playwright, axe-core) is said in the reason of a skip."""

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic

from flint_posthoc.report.page import render

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
AXE = Path(__file__).parents[2] / "build" / "axe-core" / "axe.min.js"
PATIENCE = 120_000  # milliseconds: a busy machine is no failure


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on the path")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, chromium_sandbox=os.geteuid() != 0, args=QUIET, timeout=PATIENCE)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a report with hostile class names."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(synthetic.content(class_names=synthetic.HOSTILE)), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opens the report; fails afterwards if a request left, a dialog opened, or the console had an error to tell."""
    contexts, complaints = [], list[str]()

    def note(page: Any) -> None:
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(f"request: {request.url}"))
        page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))

    def open_page(anchor: str = "", **settings: Any) -> Any:
        contexts.append(browser.new_context(**({"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"} | settings)))
        page = contexts[-1].new_page()
        note(page)
        page.goto(address + anchor)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core's source, got from npm once and kept in the ignored folder ``build``."""
    if not AXE.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("axe-core is not here, and there is no npm to get it with")
        with tempfile.TemporaryDirectory() as folder:
            got = subprocess.run([npm, "pack", "axe-core@4", "--silent"], cwd=folder, capture_output=True, text=True, timeout=300)
            if got.returncode:
                pytest.skip(f"npm could not get axe-core: {got.stderr.strip()[-300:]}")
            _unpack(next(Path(folder).glob("axe-core-*.tgz")))
    return AXE.read_text(encoding="utf-8")


def _unpack(archive: Path) -> None:
    with tarfile.open(archive) as opened:
        source = opened.extractfile("package/axe.min.js")
        assert source is not None
        AXE.parent.mkdir(parents=True, exist_ok=True)
        beside = AXE.with_suffix(f".{os.getpid()}")
        beside.write_bytes(source.read())
        beside.replace(AXE)
