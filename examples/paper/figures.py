"""The paper's pictures from fits of one seed: relevances, attributes with and without autoencoder and for J = 4, disagreements.

python -m examples.paper.figures --tasks quickdraw
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from examples.paper.ablations import Variant, decoders, sizes
from examples.paper.cells import fits_of, paper_arguments
from examples.paper.datasets import batches
from examples.paper.fidelity import MODES
from examples.paper.fits import Fits
from examples.paper.questions import fit
from examples.results import circumstances, some, write
from flint_posthoc import FlintExplainer
from flint_posthoc.canvas import Figure, shorten
from flint_posthoc.charts import relevance_heatmap, sample_heatmap
from flint_posthoc.evaluation.class_depth import learn_class_depths, outlying
from flint_posthoc.evaluation.disagreement import Judged, judge
from flint_posthoc.figures import Captioned, captioned_rows
from flint_posthoc.interpretation.classes import ClassAttributePair, GlobalInterpretation
from flint_posthoc.interpretation.local import LocalInterpretation
from flint_posthoc.interpretation.maximization import Maximization
from flint_posthoc.words import percent

WORDS = {"joint": "learnt by design", "post-hoc": "interpreted post-hoc"}
SAMPLED = 5000  # training images that relevance and the strongest images are looked for in
CLASSES, OF_EACH = 10, 8  # whose test samples are shown one by one
ATTRIBUTES, PAIRS_OF_EACH, EXEMPLARS = 3, 2, 3
FEW = 4  # attributes of the small model
DISAGREEING, A_ROW, FIRST = 12, 6, 3  # images shown, and how many of g's classes f's should be among


class Plate(NamedTuple):
    """A figure, the name of its file and what it shows in a line or two."""

    name: str
    caption: str
    figure: Figure


class Subject(NamedTuple):
    """A fit, what its classes consist of, and what to call it."""

    explain: FlintExplainer
    world: GlobalInterpretation
    words: str


def main(argv: list[str] | None = None) -> None:
    parser = paper_arguments(__doc__.splitlines()[0], ["mnist", "fashion_mnist", "quickdraw"])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    options = parser.parse_args(argv)
    for key in options.tasks:
        fits = fits_of(options, key)
        for mode in options.modes:
            make_album(options, fits, mode)


def make_album(options: argparse.Namespace, fits: Fits, mode: str) -> None:
    """All plates of one task and mode, with a page that shows them; its minutes are those of the fits and of drawing."""
    folder, seed = options.results / "figures" / f"{fits.key}-{mode}", options.seeds[0]
    variants = without_autoencoder(fits, mode), of_few_attributes(fits, mode)
    explainers = [fit(fits, mode, seed), *(variant.fit(fits, seed) for variant in variants)]
    names = [mode, *(variant.folder for variant in variants), *([] if mode == "joint" else ["base"])]
    started, shown = time.time() - 60 * sum(fits.minutes(seed, name) for name in names), {}
    for name, caption, figure in plates(fits, *explainers, words=f"{fits.pictures.name}, {WORDS[mode]}"):
        save_small(figure, folder / f"{name}.png")
        shown[f"{name}.png"] = caption
    body = "\n\n".join(f"![]({name})\n\n{caption}" for name, caption in shown.items())
    made = circumstances(started, seed=seed, task=fits.task.key, mode=mode)
    write(folder, f"{fits.pictures.name}, {WORDS[mode]}: the paper's pictures", body, {"circumstances": made, "pictures": shown})


def save_small(figure: Figure, path: Path) -> None:
    """As a PNG file of at most 256 colours."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def without_autoencoder(fits: Fits, mode: str) -> Variant:
    """The fit of the ablations that learns no decoder."""
    return next(variant for variant in decoders(fits.task) if variant.mode == mode and variant.weights.gamma == 0)


def of_few_attributes(fits: Fits, mode: str) -> Variant:
    """The fit of the ablations with few attributes."""
    return next(variant for variant in sizes(fits.task) if variant.mode == mode and variant.num_attributes == FEW)


def plates(fits: Fits, explain: FlintExplainer, without: FlintExplainer, few: FlintExplainer, *, words: str) -> Iterator[Plate]:
    """What the paper shows of a model (Figures 5 to 23), one after the other."""
    whole, bare = subject(fits, explain, words), subject(fits, without, f"{words}, without the autoencoder (γ = 0)")
    small = subject(fits, few, f"{words}, J = {FEW}")
    judged = judge(explain.fitted, learn_class_depths(explain.fitted, fits.train), fits.test)
    yield relevances("relevance", whole)
    yield samples(whole, fits, judged)
    yield from attributes("attributes", whole, fits)
    yield from attributes("attributes-without-autoencoder", bare, fits)
    yield relevances(f"relevance-{FEW}", small)
    yield from attributes(f"attributes-{FEW}", small, fits)
    yield from disagreements(whole, fits, judged)


def subject(fits: Fits, explain: FlintExplainer, words: str) -> Subject:
    """With r_{j,c} over some training images, as in the paper."""
    return Subject(explain, explain.global_interpretation(sampled(fits)), words)


def sampled(fits: Fits) -> DataLoader:
    """Some training images, evenly spread."""
    return batches(some(fits.train.dataset, SAMPLED))


# ---- relevances, of classes and of single images ----


def relevances(name: str, model: Subject) -> Plate:
    """Global relevances r_{j,c}: Figures 11 and 20."""
    world = model.world
    spoken_for = {pair.class_index for pair in world.pairs()}
    silent = [label for index, label in enumerate(world.class_names) if index not in spoken_for]
    caption = (
        f"{model.words}: mean relevance of each attribute (rows) in each class (columns), over {int(world.counts.sum()):,} training "
        "images. Blue speaks for the class, red against it." + (f" No attribute speaks for {', '.join(silent)}." if silent else "")
    )
    figure = relevance_heatmap(world.relevance.numpy(), world.class_names, heading=f"{model.words}\nWhich attributes make up each class?")
    return Plate(name, caption, figure)


def samples(model: Subject, fits: Fits, judged: Judged) -> Plate:
    """Local relevances r_{j,x} of test samples, drawn at random: Figure 21."""
    chosen = drawn(judged.labels)
    labels = judged.labels[chosen]
    local = model.explain(of_test(fits, chosen))
    figure = sample_heatmap(
        local.relevance.cpu().numpy().T,
        [local.class_names[label] for label in labels.tolist()],
        (local.interpreter_class.cpu() != labels).numpy(),
        heading=f"{model.words}\nWhich attributes speak for the interpreter's class of each sample?",
        axis=f"{len(chosen)} {kind_of(fits)} samples by their label; ▼ the interpreter takes it for another class",
    )
    caption = (
        f"{model.words}: relevance of each attribute (rows) to the class that the interpreter gives, for {len(chosen)} {kind_of(fits)} "
        f"samples (columns), {OF_EACH} of each class, drawn at random."
    )
    return Plate("samples", caption, figure)


def drawn(labels: Tensor) -> list[int]:
    """Positions of a few images of each class (of ten classes where there are more), in the order of the classes."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    classes = spread(torch.bincount(labels) > 0, CLASSES)
    return [position for index in classes for position in order[labels[order] == index][:OF_EACH].tolist()]


def kind_of(fits: Fits) -> str:
    """What is judged on, in a word."""
    return "validation" if fits.validation else "test"


def of_test(fits: Fits, positions: Sequence[int]) -> Tensor:
    """These test images as one batch."""
    return torch.stack([fits.test.dataset[position][0] for position in positions])


# ---- attributes ----


def attributes(name: str, model: Subject, fits: Fits) -> Iterator[Plate]:
    """Class-attribute pairs by their maximum activating samples, each beside its AM+PI picture: Figures 5, 6, 12, 22 and 23.

    None where no attribute speaks for a class.
    """
    pairs = strongest(model.world.pairs())
    if not pairs:
        return
    data = sampled(fits)
    found = model.explain.exemplars(data, pairs, k=EXEMPLARS)
    owners = [pair.attribute for pair, exemplars in zip(pairs, found.found, strict=True) for _ in exemplars]
    pictures = model.explain.maximize(torch.stack([exemplar.image for exemplars in found.found for exemplar in exemplars]), owners)
    both = (beside(pictures, index) for index in range(len(pictures)))
    rows = [[image for two in islice(both, len(exemplars)) for image in two] for exemplars in found.found]
    titles = [f"φ{pair.attribute} in\n{shorten(found.class_names[pair.class_index], 16)!r}\nr = {pair.relevance:+.2f}" for pair in pairs]
    heading = f"{model.words}\nTraining images on which an attribute φ is strongest, each with what raises it further (AM+PI)"
    caption = (
        f"{model.words}, after {model.explain.history[-1].steps:,} steps: the {len(set(owners))} attributes of highest relevance r, in at "
        f"most {PAIRS_OF_EACH} classes each, by those of {len(data.dataset):,} training images on which they are strongest. AM+PI starts "
        "from the darkened image and draws what raises the attribute: "
        f"above the image itself {int(pictures.rose.sum())} times of {len(pictures)}."
    )
    yield Plate(name, caption, captioned_rows(rows, titles, heading=heading))


def strongest(pairs: Sequence[ClassAttributePair]) -> list[ClassAttributePair]:
    """The first pairs of the attributes of highest relevance, attribute by attribute; ``pairs`` come strongest first."""
    shown = list(dict.fromkeys(pair.attribute for pair in pairs))[:ATTRIBUTES]
    return [pair for attribute in shown for pair in [pair for pair in pairs if pair.attribute == attribute][:PAIRS_OF_EACH]]


def beside(pictures: Maximization, index: int) -> tuple[Captioned, Captioned]:
    """An image, and the picture that was drawn from it."""
    start, drawing = (part[index].cpu().numpy() for part in (pictures.start, pictures.pixels))
    before, after = (f"φ = {float(part[index]):.1f}" for part in (pictures.initial_activation, pictures.final_activation))
    return Captioned(start, before), Captioned(drawing, f"AM+PI: {after}", "" if pictures.rose[index] else "did not rise")


# ---- disagreement ----


def disagreements(model: Subject, fits: Fits, judged: Judged) -> Iterator[Plate]:
    """Test images on which f and g part, first those that g is furthest from: Figures 13 and 15. None where f and g part nowhere."""
    parting = (~judged.agrees).nonzero().flatten().tolist()
    if not parting:
        return
    local, told = model.explain(of_test(fits, parting)), Judged(*(column[parting] for column in judged))
    places = places_of(local.interpreter_logits.cpu(), told.classes)
    far = ~told.wrong & (places > FIRST)
    chosen = [row for kind in (far, ~told.wrong & ~far, told.wrong) for row in spread(kind, DISAGREEING)][:DISAGREEING]
    shown = [parted(local, told, int(places[row]), row) for row in chosen]
    rows = [shown[start : start + A_ROW] for start in range(0, len(shown), A_ROW)]
    heading = f"{model.words}\nImages on which classifier f and interpreter g part; a depth below 1 is an outlier of f's class"
    outliers = [percent(float(outlying(judged.depths[kind]).double().mean())) for kind in (~judged.agrees, judged.agrees)]
    caption = (
        f"{model.words}: classifier f and interpreter g part on {len(parting):,} of {len(judged.agrees):,} {kind_of(fits)} images; "
        f"{outliers[0]} of these are outliers of f's class, and {outliers[1]} of the others. Shown first: where f is right and its class "
        f"not among g's first {FIRST}, {int(far.sum()):,} in all; then where f is right, then the rest, evenly over the data. Depth is "
        "projection depth in pixels or in attributes, whichever is less, over a threshold that leaves 5 % of a class below it in each."
    )
    yield Plate("disagreements", caption, captioned_rows(rows, heading=heading))


def places_of(logits: Tensor, classes: Tensor) -> Tensor:
    """(B,): the place, from 1, of each image's class among ``logits``."""
    return 1 + (logits > logits.gather(1, classes[:, None])).sum(dim=1)


def parted(local: LocalInterpretation, judged: Judged, place: int, row: int) -> Captioned:
    """What f, g and the label say of an image, and how deep it lies."""
    f, g, label = (
        shorten(local.class_names[int(classes[row])], 16) for classes in (judged.classes, local.interpreter_class, judged.labels)
    )
    said, depth = f"label: {label}\nf: {f}\ng: {g}\n(f's class: no. {place} of g)", float(judged.depths[row].amin())
    pixels = local.pixels[row].cpu().numpy()
    return Captioned(pixels, said, f"depth {depth:.2f}: outlier") if depth < 1 else Captioned(pixels, f"{said}\ndepth {depth:.2f}")


def spread(flags: Tensor, count: int) -> list[int]:
    """Up to ``count`` of the places where ``flags`` hold, evenly spread."""
    found = flags.nonzero().flatten()
    return found[torch.linspace(0, len(found) - 1, min(count, len(found))).round().long()].tolist()


if __name__ == "__main__":
    main()
