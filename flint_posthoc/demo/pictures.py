"""What there is to see of a fitted explainer, as picture files: the demonstration draws with it, and the examples do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..arrays import Images
from ..canvas import Figure, save
from ..evaluation.evaluation import Evaluation
from ..explainer import FlintExplainer
from ..figures import ExplainedImage, explained_images, picture_rows, strips
from ..interpretation.classes import GlobalInterpretation
from ..interpretation.local import LocalInterpretation

MEANINGS = (
    ("overview.png", "three explanations, and the images on which their attributes are strongest"),
    ("explanation-*.png", "an image beside the attributes that made the prediction"),
    ("disagreement.png", "an image on which interpreter and classifier differ; such an explanation is not to be trusted"),
    ("attributes.png", "every attribute in use, by the images on which it is strongest"),
    ("classes.png", "which attributes make up each class"),
    ("reconstructions.png", "images, and what their attributes remember of them"),
    ("fit.png", "how the fit went, epoch by epoch"),
)
BATCH_SIZE = 64
EXAMPLES = 6  # images that an attribute is shown by


class Album:
    """Explained images, and for each attribute those of other images on which it is strongest.

    Args:
        images: to explain.
        seen: to show attributes by; best those of the fit.
        shown: the classes that get a picture of their own, by an image on which interpreter and classifier agree.
    """

    def __init__(self, explainer: FlintExplainer, images: Images, seen: Tensor, shown: Sequence[int]) -> None:
        self.explainer, self.images, self.local = explainer, images, explainer(images)
        explained = [explainer(part) for part in seen.split(BATCH_SIZE)]
        attributes, pixels = (torch.cat(parts).cpu() for parts in zip(*((part.attributes, part.pixels) for part in explained), strict=True))
        strongest = attributes.topk(min(EXAMPLES, len(seen)), dim=0).indices.T
        self.examples: list[list[np.ndarray]] = [[*pixels[indices].numpy()] for indices in strongest]
        agreeing = [(self.local.agrees & (self.local.classifier_class == index)).nonzero().flatten().tolist()[:1] for index in shown]
        self.shown = [index for first in agreeing for index in first]
        self.differing = (~self.local.agrees).nonzero().flatten().tolist()[:1]

    def draw(self, folder: Path, evaluation: Evaluation, world: GlobalInterpretation) -> None:
        """Write all pictures, of which ``MEANINGS`` tells, into ``folder``."""
        for index in self.shown:
            name = self.local.class_names[int(self.local.classifier_class[index])]
            save(self.local.plot(index), folder / f"explanation-{re.sub(r'[^0-9A-Za-z]+', '-', name)}.png")
        for index in self.differing:
            save(self.local.plot(index), folder / "disagreement.png")
        rows = [self._row(index) for index in [*self.shown[: 3 - len(self.differing)], *self.differing]]
        if rows:
            save(explained_images(rows, heading="Why does the classifier say so?"), folder / "overview.png")
        save(self._attributes(evaluation, world), folder / "attributes.png")
        save(world.plot(), folder / "classes.png")
        save(self._reconstructions(), folder / "reconstructions.png")
        save(self.explainer.history.plot(), folder / "fit.png")

    def _row(self, index: int) -> ExplainedImage:
        local, entries = self.local, self.local.top(4)[index]
        return ExplainedImage(
            local.pixels[index].cpu().numpy(),
            f"classifier: {local.class_names[int(local.classifier_class[index])]}",
            "" if local.agrees[index] else _difference(local, index),
            [entry.attribute for entry in entries],
            [entry.relevance for entry in entries],
            [self.examples[entry.attribute] for entry in entries],
        )

    def _attributes(self, evaluation: Evaluation, world: GlobalInterpretation) -> Figure:
        titles = [_title(world, attribute) for attribute in evaluation.live_attributes]
        images = [self.examples[attribute] for attribute in evaluation.live_attributes]
        return strips(titles, images, heading="Each attribute in use, by the images on which it is strongest")

    def _reconstructions(self) -> Figure:
        local = self.local
        firsts = [(local.classifier_class == index).nonzero().flatten().tolist()[:1] for index in range(min(10, len(local.class_names)))]
        chosen = [index for first in firsts for index in first]
        rows = [[*local.pixels[chosen].cpu().numpy()], [*self.explainer.reconstruct(self.images[chosen]).cpu().numpy()]]
        titles = [local.class_names[int(local.classifier_class[index])] for index in chosen]
        return picture_rows(rows, titles, ["image", "from its\nattributes"], heading="What do the attributes remember of an image?")


def _difference(local: LocalInterpretation, index: int) -> str:
    f, g = int(local.classifier_class[index]), int(local.interpreter_logits[index].argmax())
    return f"interpreter: {local.class_names[g]}" if f != g else "really: none of these classes"


def _title(world: GlobalInterpretation, attribute: int) -> str:
    pairs = [pair for pair in world.pairs() if pair.attribute == attribute][:2]
    return f"φ{attribute}: " + (
        ", ".join(f"{world.class_names[pair.class_index]} {pair.relevance:+.2f}" for pair in pairs) or "no class above 0.1"
    )
