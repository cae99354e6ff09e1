"""The demonstration: fit an interpreter to the embedded classifier, judge it, explain with it, and draw what there is to see."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from ..explainer import FlintExplainer
from ..storage import writable_folder, write_json
from .digits import CLASS_NAMES, IMAGE_SHAPE, NORMALIZATION, digits, digits_classifier
from .pictures import MEANINGS, Album

INTRODUCTION = """\
The classifier is a small convolutional network that tells handwritten digits apart: scikit-learn's 1,797 scans of 8 x 8 pixels.
It stays exactly as it is. Beside it an interpreter is fitted. It reads some of the classifier's hidden layers and learns a small
dictionary of attributes, φ0, φ1 and so on, from which it has to repeat the classifier's decisions and to redraw the image, with few
attributes for each image. What every attribute contributes to a decision is the explanation of it. The last 360 scans were kept from
classifier and interpreter alike; all that follows is about them."""
FILES = (
    ("report.html", "begin here: everything on one page, to open in a browser or to send to someone"),
    *MEANINGS,
    ("evaluation.json", "the table above"),
    ("interpreter", "the interpreter; FlintExplainer.from_pretrained(folder, classifier) loads it"),
)
REPORT_SECONDS = 20.0  # at most, for the report
SHOWN = (3, 5, 8)  # the digits whose explanations are drawn


def run_demo(folder: str | Path, *, seed: int = 0, max_steps: int | str = 600, progress: bool = False) -> Iterator[str]:
    """Do it all and yield what there is to say, paragraph by paragraph.

    Raises:
        ArtifactError: the folder cannot be written to.
    """
    target = writable_folder(folder)
    train, test = digits()
    yield INTRODUCTION
    explainer = FlintExplainer(digits_classifier(), class_names=CLASS_NAMES, normalization=NORMALIZATION, input_size=IMAGE_SHAPE)
    yield _layers(explainer)
    start = time.perf_counter()
    history = explainer.fit(train, max_steps=max_steps, seed=seed, progress=progress)
    yield f"Fitted in {time.perf_counter() - start:.0f} seconds: {history[-1].steps:,} steps over {len(train):,} scans."
    evaluation, world = explainer.evaluate(test), explainer.global_interpretation(test)
    yield f"How far is it to be trusted?\n\n{evaluation}"
    album = Album(explainer, test.tensors[0], train.tensors[0], SHOWN)
    described = [album.local.describe(index, title=f"scan {index}") for index in [*album.shown, *album.differing]]
    yield "Why these predictions?\n\n" + "\n".join(described)
    yield f"What does each class consist of?\n\n{world}"
    album.draw(target, evaluation, world)
    write_json(target / "evaluation.json", evaluation.to_dict())
    explainer.save_pretrained(target / "interpreter")
    explainer.report(
        target / "report.html", test, budget_seconds=REPORT_SECONDS, data_name="scans that were not learnt from", progress=progress
    )
    lines = [f"  {name:<22}{meaning}" for name, meaning in FILES if any(target.glob(name))]
    yield "\n".join([f"Written to {target.resolve()}:", *lines])


def _layers(explainer: FlintExplainer) -> str:
    found = explainer.preflight
    layers, reason = (" and ".join(found.view.layers), found.reason) if found else ("", "")
    return f"The interpreter reads {layers}, as suggested: {reason}."
