"""Report content without a classifier, a fit or data: numbers and pictures from a seeded generator."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flint_posthoc.evaluation.evaluation import TAUS, Evaluation
from flint_posthoc.interpretation.cards import AttributionMap, ContrastPictures, DrawnPicture, PairCard
from flint_posthoc.interpretation.classes import ClassAttributePair, GlobalInterpretation
from flint_posthoc.interpretation.exemplars import Exemplar
from flint_posthoc.interpretation.local import LocalInterpretation
from flint_posthoc.measures import relevance
from flint_posthoc.report.content import Limits, ReportContent, Subject
from flint_posthoc.report.histogram import HistogramReading
from flint_posthoc.report.survey import Samples, Survey

THRESHOLD = 0.1
HOSTILE = ("<script>alert(1)</script>", '"quoted" & <b>bold</b>', "🦊 fox 🦊", "x" * 500, "a\x00b\udcffc\n\td", "", "never seen")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photograph(shape: tuple[int, int, int], seed: int) -> Tensor:
    """Smooth colours with some texture, in [0, 1]."""
    source = np.random.default_rng(seed)
    smooth = [Image.fromarray(coarse).resize(shape[:0:-1]) for coarse in source.random((shape[0], 6, 6), dtype=np.float32)]
    texture = 0.05 * source.standard_normal(shape, dtype=np.float32)
    return torch.from_numpy((np.stack(smooth) + texture).clip(0, 1))


def names(count: int) -> tuple[str, ...]:
    return tuple(f"class number {index}" for index in range(count))


def world(attributes: int, class_names: tuple[str, ...], seed: int = 0) -> GlobalInterpretation:
    """Each attribute serves a class or two, speaks against another, and the last one serves none; the last class was never seen."""
    classes, source = len(class_names), generator(seed)
    values = 0.04 * torch.randn(attributes, classes, generator=source)
    for j in range(attributes - 1):
        values[j, j % (classes - 1)] = 0.2 + 0.7 * float(torch.rand((), generator=source))
        values[j, (3 * j + 1) % (classes - 1)] += 0.15
        values[j, (5 * j + 2) % (classes - 1)] -= 0.3
    values[:, -1] = float("nan")
    counts = torch.full((classes,), 100).index_fill(0, torch.tensor([classes - 1]), 0)
    disagreement = torch.rand(classes, generator=source).mul(0.2).index_fill(0, torch.tensor([classes - 1]), float("nan"))
    return GlobalInterpretation(values.clamp(-1, 1), counts, disagreement, class_names, tuple(range(classes)), ("a note on the data",))


def evaluation(attributes: int, classes: int) -> Evaluation:
    return Evaluation(
        samples=1000,
        num_attributes=attributes,
        classifier_accuracy=0.931,
        interpreter_accuracy=0.917,
        fidelity=0.962,
        errors=69,
        fidelity_on_errors=0.71,
        fidelity_on_correct=0.98,
        inside_classes=1.0,
        fidelity_inside=0.962,
        top_k_fidelity={2: 0.99, 3: 0.995},
        kl_divergence=0.0821,
        conciseness={tau: {"absolute": 0.8 * tau, "signed": 0.55 * tau} for tau in TAUS},
        reconstruction_error=0.0312,
        relative_reconstruction_error=0.41,
        live_attributes=tuple(range(attributes - 2)),
        duplicate_attributes=(attributes - 2,),
        dead_attributes=(attributes - 1,),
        never_fires=(attributes - 1,),
        classes_per_attribute=(2,) * attributes,
        unexplained=0.0,
        notes=("a note on the data",),
    )


def samples(shape: tuple[int, int, int], attributes: int, class_names: tuple[str, ...], count: int, seed: int = 0) -> Samples:
    """Explanations of ``count`` images; classifier and interpreter disagree on the first quarter."""
    source, classes = generator(seed), len(class_names)
    phi = torch.rand(count, attributes, generator=source)
    contributions = phi * torch.randn(count, attributes, generator=source)
    explained = torch.arange(count) % (classes - 1)
    agrees = torch.arange(count) >= count // 4
    of_classifier = torch.where(agrees, explained, (explained + 1) % (classes - 1))
    pixels = torch.stack([photograph(shape, 1000 + index) for index in range(count)])
    logits = torch.randn(count, classes, generator=source)
    local = LocalInterpretation(
        pixels=pixels,
        attributes=phi,
        classifier_logits=logits,
        interpreter_logits=logits,
        explained_class=explained,
        classifier_class=of_classifier,
        interpreter_class=explained,
        classifier_members=torch.nn.functional.one_hot(of_classifier, classes).bool(),
        interpreter_members=torch.nn.functional.one_hot(explained, classes).bool(),
        contributions=contributions,
        relevance=relevance(contributions),
        agrees=agrees,
        inside=torch.ones(count, dtype=torch.bool),
        bias_share=torch.full((count,), 0.12),
        class_names=class_names,
        class_ids=tuple(range(classes)),
    )
    return Samples(local, tuple(range(5, 5 + 7 * count, 7)), tuple(explained.tolist()))


def card(pair: ClassAttributePair, class_name: str, shape: tuple[int, int, int], **changes: Any) -> PairCard:
    """Three exemplars with maps, a picture that rose, and a contrast; on every fourth image f decides otherwise."""
    seed = 31 * pair.attribute + 7 * pair.class_index
    pixels = tuple(photograph(shape, seed + index) for index in range(3))
    found = tuple(Exemplar(seed + index, 3.0 - index, image, (seed + index) % 4 > 0) for index, image in enumerate(pixels))
    side = min(56, shape[1])
    whole, without = (photograph((shape[0], side, side), seed + offset) for offset in (5, 6))
    heat = torch.stack([photograph((1, *shape[1:]), seed + 10 + index)[0] * 2 - 1 for index in range(3)])
    drawn = DrawnPicture(pixels=photograph(shape, seed + 20), initial_activation=0.4, final_activation=5.25, rose=True)
    maps = AttributionMap(
        heat=heat, method="integrated gradients", reason="the best method that passes the sanity checks", exact=True,
        sanity="similarity after randomisation 0.12", empty=(False, False, False),
    )  # fmt: skip
    contrast = ContrastPictures(whole=whole, without=without, difference=whole - without)
    fields = {
        "pair": pair, "class_name": class_name, "exemplars": found, "pixels": pixels, "candidates": 212,
        "picture": drawn, "attribution": maps, "contrast": contrast,
    }  # fmt: skip
    return PairCard(**(fields | changes))


def content(
    *, shape: tuple[int, int, int] = (1, 28, 28), attributes: int = 12, class_names: tuple[str, ...] | None = None,
    pairs: int = 1000, images: int = 8, limits: Limits | None = None,
) -> ReportContent:  # fmt: skip
    """Everything a page needs."""
    class_names = names(5) if class_names is None else class_names
    classes, seen = len(class_names), world(attributes, class_names)
    histograms = HistogramReading(attributes)
    activations = torch.randn(1000, attributes, generator=generator()).relu() * torch.linspace(0.5, 4, attributes)
    activations[:, -1] = 0
    histograms.add(activations)
    subject = Subject(
        title="What SmallCNN looks at", classifier="SmallCNN", layers=("conv1", "conv2"), data="synthetic pictures", image_shape=shape,
        num_attributes=attributes, num_classes=classes, num_outputs=classes, made="3 May 2031, 12:00 UTC",
        versions=(("Python", "3.12.1"), ("torch", "2.9.0")), notes=("a note on the data",),
    )  # fmt: skip
    survey = Survey(
        evaluation(attributes, classes), seen, (*(180 - index for index in range(classes - 1)), 0), histograms.result(),
        (((0, 1), 12), ((2, 1), 3)), samples(shape, attributes, class_names, images) if images else None,
    )  # fmt: skip
    found = seen.pairs(THRESHOLD)
    cards = [card(pair, class_names[pair.class_index], shape) for pair in found[:pairs]]
    if len(cards) > 3:
        cards[1] = replace(cards[1], picture=cards[1].picture._replace(rose=False))
        cards[2] = replace(cards[2], picture=None, attribution=None)
        cards[3] = replace(cards[3], exemplars=(), pixels=(), picture=None, attribution=None, contrast=None)
    return ReportContent(subject, survey, cards, len(found), THRESHOLD, (), limits or Limits())
