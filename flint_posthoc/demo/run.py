"""The demonstration: fit an interpreter to the embedded classifier, judge it, explain with it, and draw what there is to see."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..arrays import Images
from ..evaluation.evaluation import Evaluation
from ..explainer import FlintExplainer
from ..figures import ExplainedImage, Figure, explained_images, picture_rows, strips
from ..figures import save as save_figure
from ..interpretation.relevance import GlobalInterpretation, LocalInterpretation
from ..learning.history import FitHistory
from ..storage import writable_folder, write_json
from .digits import CLASS_NAMES, IMAGE_SHAPE, NORMALIZATION, digits, digits_classifier

INTRODUCTION = """\
The classifier is a small convolutional network that tells handwritten digits apart: scikit-learn's 1,797 scans of 8 x 8 pixels.
It stays exactly as it is. Beside it an interpreter is fitted. It reads some of the classifier's hidden layers and learns a small
dictionary of attributes, φ0, φ1 and so on, from which it has to repeat the classifier's decisions and to redraw the image, with few
attributes for each image. What every attribute contributes to a decision is the explanation of it. The last 360 scans were kept from
classifier and interpreter alike; all that follows is about them."""
FILES = (
    ("overview.png", "begin here: three explanations, and the scans on which their attributes are strongest"),
    ("explanation-*.png", "a scan beside the attributes that made the prediction"),
    ("disagreement.png", "a scan on which interpreter and classifier differ; such an explanation is not to be trusted"),
    ("attributes.png", "every attribute in use, by the scans on which it is strongest"),
    ("classes.png", "which attributes make up each class"),
    ("reconstructions.png", "scans, and what their attributes remember of them"),
    ("fit.png", "how the fit went, epoch by epoch"),
    ("evaluation.json", "the table above"),
    ("interpreter", "the interpreter; FlintExplainer.from_pretrained(folder, classifier) loads it"),
)
SHOWN = (3, 5, 8)  # the digits whose explanations are drawn
EXAMPLES = 6  # scans an attribute is shown by


def run_demo(folder: str | Path, *, seed: int = 0, max_steps: int | str = "auto", progress: bool = False) -> Iterator[str]:
    """Do it all and yield what there is to say, paragraph by paragraph.

    Raises:
        ArtifactError: the folder cannot be written to.
    """
    target = writable_folder(folder)
    train, test = digits()
    images = test.tensors[0]
    yield INTRODUCTION
    explainer = FlintExplainer(digits_classifier(), class_names=CLASS_NAMES, normalization=NORMALIZATION, input_size=IMAGE_SHAPE)
    yield _layers(explainer)
    start = time.perf_counter()
    history = explainer.fit(train, max_steps=max_steps, seed=seed, progress=progress)
    yield f"Fitted in {time.perf_counter() - start:.0f} seconds: {history[-1].steps:,} steps over {len(train):,} scans."
    evaluation = explainer.evaluate(test)
    yield f"How far is it to be trusted?\n\n{evaluation}"
    local, world = explainer(images), explainer.global_interpretation(test)
    shown, differing = _shown(local)
    yield "Why these predictions?\n\n" + "\n".join(local.describe(index, title=f"scan {index}") for index in [*shown, *differing])
    yield f"What does each class consist of?\n\n{world}"
    gallery = _Gallery(local, explainer(train.tensors[0]))
    _draw(target, gallery, shown, differing)
    _draw_whole(target, gallery, evaluation, world, history)
    save_figure(_reconstructions(explainer, local, images), target / "reconstructions.png")
    write_json(target / "evaluation.json", evaluation.to_dict())
    explainer.save_pretrained(target / "interpreter")
    yield _files(target)


def _layers(explainer: FlintExplainer) -> str:
    found = explainer.preflight
    layers, reason = (" and ".join(found.view.layers), found.reason) if found else ("", "")
    return f"The interpreter reads {layers}, as suggested: {reason}."


def _shown(local: LocalInterpretation) -> tuple[list[int], list[int]]:
    """The first scan of each digit in ``SHOWN`` on which f and g agree, and the first scan of all on which they differ, if any."""
    firsts = [(local.agrees & (local.classifier_class == digit)).nonzero().flatten().tolist()[:1] for digit in SHOWN]
    return [index for first in firsts for index in first], (~local.agrees).nonzero().flatten().tolist()[:1]


class _Gallery:
    """Explained scans, and for each attribute those training scans on which it is strongest."""

    def __init__(self, local: LocalInterpretation, seen: LocalInterpretation) -> None:
        self.local = local
        strongest = seen.attributes.topk(EXAMPLES, dim=0).indices.T
        self.examples: list[list[np.ndarray]] = [[*seen.pixels[indices].numpy()] for indices in strongest]

    def row(self, index: int) -> ExplainedImage:
        """Scan ``index`` with its four strongest attributes."""
        local, entries = self.local, self.local.top(4)[index]
        attributes = [entry.attribute for entry in entries]
        return ExplainedImage(
            local.pixels[index].numpy(),
            f"classifier: {local.class_names[int(local.classifier_class[index])]}",
            "" if local.agrees[index] else f"interpreter: {local.class_names[int(local.explained_class[index])]}",
            attributes,
            [entry.relevance for entry in entries],
            [self.examples[attribute] for attribute in attributes],
        )


def _draw(target: Path, gallery: _Gallery, shown: list[int], differing: list[int]) -> None:
    for index in shown:
        save_figure(gallery.local.plot(index), target / f"explanation-{int(gallery.local.classifier_class[index])}.png")
    for index in differing:
        save_figure(gallery.local.plot(index), target / "disagreement.png")
    rows = [gallery.row(index) for index in [*shown[: 3 - len(differing)], *differing]]
    save_figure(explained_images(rows, heading="Why does the classifier say so?"), target / "overview.png")


def _draw_whole(target: Path, gallery: _Gallery, evaluation: Evaluation, world: GlobalInterpretation, history: FitHistory) -> None:
    titles = [_attribute_title(world, attribute) for attribute in evaluation.live_attributes]
    images = [gallery.examples[attribute] for attribute in evaluation.live_attributes]
    heading = "Each attribute in use, by the scans on which it is strongest"
    save_figure(strips(titles, images, heading=heading), target / "attributes.png")
    save_figure(world.plot(), target / "classes.png")
    save_figure(history.plot(), target / "fit.png")


def _attribute_title(world: GlobalInterpretation, attribute: int) -> str:
    classes = [f"{world.class_names[pair.class_index]} ({pair.relevance:+.2f})" for pair in world.pairs() if pair.attribute == attribute]
    return f"φ{attribute}: " + (", ".join(classes[:3]) or "no class above 0.1")


def _reconstructions(explainer: FlintExplainer, local: LocalInterpretation, images: Images) -> Figure:
    found = [(local.classifier_class == index).nonzero().flatten().tolist()[:1] for index in range(len(CLASS_NAMES))]
    chosen = [index for first in found for index in first]
    rows = [[*local.pixels[chosen].numpy()], [*explainer.reconstruct(images[chosen]).numpy()]]
    titles = [local.class_names[int(local.classifier_class[index])] for index in chosen]
    return picture_rows(rows, titles, ["scan", "from its\nattributes"], heading="What do the attributes remember of a scan?")


def _files(target: Path) -> str:
    lines = [f"  {name:<22}{meaning}" for name, meaning in FILES if any(target.glob(name))]
    return "\n".join([f"Written to {target.resolve()}:", *lines])
