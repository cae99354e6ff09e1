"""The report on SqueezeNet and ten ImageNet classes: one HTML file, how long it takes and how large it is, and the README's picture of it.

python -m examples.report.run          after `make imagenette`, whose first interpreter it reports on
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from examples.imagenette import task
from examples.results import ROOT, arguments, circumstances, some, write
from flint_posthoc import FlintExplainer

HERE = Path(__file__).parent
MEBIBYTE = 2**20


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0], output=Path("flint-report"))
    parser.add_argument("--interpreter", type=Path, default=Path("flint-imagenette/seed-0/interpreter"), help="folder of a fitted one")
    parser.add_argument("--budget-seconds", type=float, default=240.0, help="for the whole report")
    parser.add_argument("--results", type=Path, help="folder for results.json and results.md")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs/images/report.png", help="where to draw the top of the page")
    options = parser.parse_args(argv)
    started = time.time()
    explain = FlintExplainer.from_pretrained(options.interpreter, task.classifier(options.data))
    data = task.loader(some(task.images(options.data, train=False), options.images))
    options.output.mkdir(parents=True, exist_ok=True)
    target = options.output / "imagenette.html"
    explain.report(target, data, budget_seconds=options.budget_seconds, data_name="ILSVRC validation images of ten classes", progress=False)
    seconds, size = time.time() - started, target.stat().st_size / MEBIBYTE
    figures = {"seconds": round(seconds, 1), "mebibytes": round(size, 2), "not_drawn": target.read_text().count("not drawn: ")}
    print(figures)
    photograph(target, options.picture)
    body = "\n".join(["| | |", "|---|---|", *(f"| {name.replace('_', ' ')} | {value} |" for name, value in figures.items())])
    write(
        options.results or HERE / "results",
        "The report of the Imagenette example",
        body,
        {"circumstances": circumstances(started)} | figures,
    )


def photograph(page: Path, picture: Path) -> None:
    """The heat map and the first attribute of ``page``, by a headless Chromium where there is one."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        print("no Chromium here: no picture of the report")
        return
    from playwright.sync_api import sync_playwright

    picture.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, chromium_sandbox=False)
        view = browser.new_page(viewport={"width": 1200, "height": 1100})
        view.goto(page.resolve().as_uri())
        view.locator("article").first.scroll_into_view_if_needed()
        view.locator("article").first.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main()
