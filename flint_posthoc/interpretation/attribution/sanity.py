"""Do the maps depend on what the network learnt? Their similarity before and after it is randomised (Adebayo et al., 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...arrays import Images
from ...errors import ConfigurationError
from ...interpreter.fitted import FittedInterpreter
from ...words import MISSING, plain, with_notes
from .methods import METHODS, checked_name, pixel_maps, refusals
from .pixel_targets import Target, Wanted, checked_images, target_of_each
from .randomization import randomized
from .scores import ScoreFunction, attribute_scores, preactivation_scores
from .settings import DEFAULTS, AttributionSettings, Request
from .similarity import Heat, rank_correlation, ssim, strength

RANK_LIMIT = 0.57  # see ``SanityCheck``


class SanityScore(NamedTuple):
    """How similar a method's maps stay after a stage of randomisation: means over images, of absolute maps."""

    stage: str
    ssim: float  # structural similarity, at most 1
    rank_correlation: float  # Spearman's, in [-1, 1]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; what could not be compared is ``None``."""
        return plain(self)

    def __str__(self) -> str:
        return f"rank correlation {self.rank_correlation:.2f} and SSIM {self.ssim:.2f} with the map before, {self.stage}"


@dataclass(frozen=True)
class SanityCheck:
    """The similarity of each method's maps at each stage.

    A method passes whose rank correlation is at most ``RANK_LIMIT`` both where everything between f's taps and the score is randomised
    and where nothing learnt is left: a map that survives the first shows the picture's edges and not this attribute, one that survives
    the second the picture. Measured: guided backpropagation on SqueezeNet 0.94 and 0.28; on a FashionMNIST network, over six draws of
    images and three kinds of score, input × gradient 0.60 to 0.66 at the first, integrated gradients at most 0.54, the gradient 0.49.
    Correlations of maps that have nothing to do with each other are not 0: ``background`` says what they are for two images. SSIM does
    not decide: on sparse maps it is high whatever they show.

    Attributes:
        scores: of each method, one a stage, in order.
        decisive: which stages those two are.
        background: of each method, its maps compared with those of another image.
        refused: the methods that do not hold on this network, and why.
        target: what was attributed, in words.  images: to how many images.
    """

    scores: dict[str, tuple[SanityScore, ...]]
    decisive: tuple[int, ...]
    background: dict[str, SanityScore]
    target: str
    images: int
    refused: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def score(self, method: str) -> SanityScore | None:
        """The worse of the two that decide. ``None`` where the method was not checked."""
        scores = self.scores.get(method)
        return max((scores[stage] for stage in self.decisive), key=lambda score: score.rank_correlation) if scores else None

    def passes(self, method: str) -> bool:
        """Whether the map loses itself with the network."""
        score = self.score(method)
        return score is not None and score.rank_correlation <= RANK_LIMIT

    @property
    def passing(self) -> tuple[str, ...]:
        return tuple(method for method in self.scores if self.passes(method))

    def __str__(self) -> str:
        first = next(iter(self.scores.values()), ())
        lines = [f"SanityCheck of maps of {self.target}, {self.images} images: rank correlation (SSIM) with the map before"]
        lines += [f"  {number}  {score.stage}" for number, score in enumerate(first, start=1)]
        numbers = [f"{number}{'*' * (number - 1 in self.decisive)}" for number in range(1, len(first) + 1)]
        lines.append(" " * 24 + "".join(f"{column:>14}" for column in [*numbers, "other image"]))
        for method, scores in self.scores.items():
            cells = "".join(map(_cell, [*scores, self.background.get(method)]))
            lines.append(f"{method:24}{cells}  {'passes' if self.passes(method) else 'FAILS'}")
        lines += [f"{method:24}not checked: {reason}" for method, reason in self.refused.items()]
        return with_notes([*lines, f"passes: rank correlation at most {RANK_LIMIT} at the stages with *"], self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; what could not be compared is ``None``."""
        methods = {
            method: {
                "passes": self.passes(method),
                "stages": plain(scores),
                "other_image": plain(self.background.get(method)),
            }
            for method, scores in self.scores.items()
        }
        head = {"target": self.target, "images": self.images, "limit": RANK_LIMIT, "decisive": list(self.decisive)}
        return head | {"methods": methods, "refused": dict(self.refused), "notes": list(self.notes)}


@torch.inference_mode(False)
def check_sanity(
    fitted: FittedInterpreter,
    images: Tensor,
    *,
    attribute: Wanted | None = None,
    class_index: Wanted | None = None,
    of: str = "interpreter",
    methods: Sequence[str] | None = None,
    stages: int = 4,
    settings: AttributionSettings = DEFAULTS,
    seed: int = 0,
) -> SanityCheck:
    """Cascading randomisation: h, then Ψ, then f layer by layer down to the pixels, in copies.

    Attributes are looked at before their ReLU, before and after alike: an attribute of a randomised network may not fire, and where it
    fires the maps of gradient methods are the same.

    Args:
        images: eight are enough for a first answer.
        attribute, class_index, of: as in ``attribute_pixels``; neither: each image's strongest attribute.
        methods: names of ``METHODS``; ``None``: all that hold on this network.
        stages: that h, Ψ and f are each grouped into at most.

    Raises:
        ConfigurationError, AttributionError: a target, a method or a number of stages that does not exist. ImageShapeError.
    """
    pixels = checked_images(fitted, images)
    if attribute is None and class_index is None:
        attribute = strongest(fitted, pixels)
    target = target_of_each(fitted, len(pixels), attribute, class_index, of)
    return check_target(Request(fitted, target.score, settings), pixels, target, methods or tuple(METHODS), stages=stages, seed=seed)


@torch.inference_mode(False)
def check_target(request: Request, pixels: Images, target: Target, methods: Sequence[str], *, stages: int, seed: int) -> SanityCheck:
    """The same for checked images and a checked target."""
    if stages < 1:
        raise ConfigurationError(f"stages must be at least 1, got {stages}")
    request = replace(request, score=_always_alive(target.score))
    refused = refusals(request, pixels, map(checked_name, methods))
    held = [method for method, reason in refused.items() if not reason]
    before = {}
    for method in held:
        before[method], refused[method] = _before(request, method, pixels, target.columns)
    held = [method for method in held if not refused[method]]
    scores: dict[str, list[SanityScore]] = {method: [] for method in held}
    whole: list[bool] = []
    for stage, other in randomized(request.fitted, pixels, request.score, most=stages, seed=seed):
        whole.append(stage.whole)
        for method in held:
            after = _maps(replace(request, fitted=other), method, pixels, target.columns)
            scores[method].append(compared(f"{stage.name} randomised", before[method], after))
    decisive = tuple(index for index, ends in enumerate(whole) if ends)[-2:]
    for method in [method for method in held if any(math.isnan(scores[method][stage].rank_correlation) for stage in decisive)]:
        held.remove(method)
        refused[method] = "its maps vanish when the network is randomised, as they would whatever they showed"
        del scores[method]
    background = _background(before, held)
    named = {method: reason for method, reason in refused.items() if reason}
    kept = {method: tuple(found) for method, found in scores.items()}
    return SanityCheck(kept, decisive, background, target.kind, len(pixels), named, request.fitted.notes)


@torch.inference_mode(False)
def compare_with(
    fitted: FittedInterpreter,
    other: FittedInterpreter,
    images: Tensor,
    *,
    methods: Sequence[str] | None = None,
    candidates: int = 5,
) -> SanityCheck:
    """The same similarity between two fits, for example with one to a network that was trained on random labels.

    Attributes of two fits have no correspondence. So what is compared is the map of one class logit of g (the class that ``fitted``'s g
    predicts), and each image's strongest attribute of ``fitted`` with that of the ``candidates`` strongest ones of ``other`` whose map is
    most alike: an upper bound. Both decide. (FashionMNIST beside a network that learnt 3,000 random labels by heart: input × gradient
    0.64 and 0.68, integrated gradients 0.51 and 0.55, gradient 0.46 and 0.51, occlusion 0.31 and 0.46.)

    Raises:
        ConfigurationError: the two explain another number of classes, or images of another shape; ``candidates`` < 1. AttributionError.
    """
    if fitted.image_shape != other.image_shape or fitted.view.num_classes != other.view.num_classes or candidates < 1:
        raise ConfigurationError(
            f"two fits can be compared that explain as many classes of images of one shape, with candidates at least 1: got "
            f"{fitted.view.num_classes} and {other.view.num_classes} classes, {fitted.image_shape} and {other.image_shape}, {candidates}"
        )
    pixels = checked_images(fitted, images)
    batch = fitted.read_together(pixels)
    classes = target_of_each(fitted, len(pixels), None, fitted.view.kind.prediction(batch.interpreter_logits), "interpreter")
    first = target_of_each(fitted, len(pixels), batch.attributes.argmax(dim=1), None, "interpreter")
    most = min(candidates, other.interpreter.num_attributes)
    rivals = other.read_together(pixels).attributes.topk(most, dim=1).indices.T
    scores: dict[str, tuple[SanityScore, ...]] = {}
    refused, background = dict[str, str](), dict[str, SanityScore]()
    for method in map(checked_name, methods or METHODS):
        sides = [Request(side, classes.score, DEFAULTS) for side in (fitted, other)]
        refused[method] = next(filter(None, (refusals(side, pixels, [method])[method] for side in sides)), "")
        if not refused[method]:
            logits = compared("class logits of g in the other fit", *(_maps(side, method, pixels, classes.columns) for side in sides))
            ours = _maps(Request(fitted, preactivation_scores, DEFAULTS), method, pixels, first.columns)
            theirs = [_maps(Request(other, preactivation_scores, DEFAULTS), method, pixels, columns) for columns in rivals]
            background |= _background({method: ours}, [method])
            scores[method] = (logits, _best(f"best of {most} attributes of the other fit", ours, theirs))
    named = {method: reason for method, reason in refused.items() if reason}
    notes = tuple(dict.fromkeys((*fitted.notes, *other.notes)))
    return SanityCheck(scores, (0, 1), background, "classes and attributes of two fits", len(pixels), named, notes)


def _best(stage: str, ours: Heat, theirs: Iterable[Heat]) -> SanityScore:
    """For each image the rival most alike."""
    pairs = [(ssim(ours, rival), rank_correlation(ours, rival)) for rival in theirs]
    alike = (torch.stack(values).amax(dim=0).mean() for values in zip(*pairs, strict=True))
    return SanityScore(stage, *map(float, alike))


def _background(maps: Mapping[str, Heat], methods: Iterable[str]) -> dict[str, SanityScore]:
    """What maps of different images have in common; of one image nothing can be said."""
    return {method: compared("another image", maps[method], maps[method].roll(1, dims=0)) for method in methods if len(maps[method]) > 1}


def compared(stage: str, before: Heat, after: Heat) -> SanityScore:
    """Both similarities, as means over images; those with a map of zeros, before or after, tell nothing and are left out."""
    shown = before.flatten(1).any(dim=1) & after.flatten(1).any(dim=1)
    alike = (similarity(before[shown], after[shown]).mean() for similarity in (ssim, rank_correlation))
    return SanityScore(stage, *map(float, alike))


def strongest(fitted: FittedInterpreter, pixels: Images) -> Tensor:
    """Each image's attribute of largest activation (B,)."""
    return torch.cat([batch.attributes.argmax(dim=1) for batch in fitted.read(pixels.split(64))])


def _cell(score: SanityScore | None) -> str:
    return f"{MISSING:>14}" if score is None else f"{score.rank_correlation:6.2f} ({score.ssim:5.2f})"


def _always_alive(score: ScoreFunction) -> ScoreFunction:
    return preactivation_scores if score is attribute_scores else score


def _before(request: Request, method: str, pixels: Images, columns: Tensor) -> tuple[Heat, str]:
    """The maps of the network as it is, and why they cannot be judged; empty where they can."""
    maps = pixel_maps(request, method, pixels, columns)
    heat = strength(maps)
    return heat, "its maps are not finite" if not maps.isfinite().all() else "" if heat.any() else "its maps are all zero"


def _maps(request: Request, method: str, pixels: Images, columns: Tensor) -> Heat:
    return strength(pixel_maps(request, method, pixels, columns))
