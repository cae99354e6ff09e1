"""Attributes taken out, one by one and one after the other, and what becomes of f's logit for the class that it gave the image."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from ..arrays import Activations, Images, Logits, PerImage
from ..classifier.view import OpenView
from ..interpreter.fitted import FittedInterpreter
from ..measures import contributions
from .ablation import Dictionary, GradientAblation, moved_at_random, replaced

Table = Float[Tensor, "b asked"]  # a row an image, a column an attribute that was asked about; NaN where there was none
Curve = Float[Tensor, "b steps"]


def class_logit(logits: Logits, classes: Tensor, *, centred: bool = True) -> PerImage:
    """f's logit of one class an image, ``centred`` less the mean of all: what contributions of a class-centred h add up to."""
    chosen = logits.gather(1, classes[:, None])[:, 0]
    return chosen - logits.mean(dim=1) if centred else chosen


class Rest(NamedTuple):
    """f run on for one batch: its logit of the class that it gave each image at first."""

    fitted: FittedInterpreter
    run: OpenView
    images: Images
    activations: Activations
    classes: Tensor
    whole: PerImage

    @classmethod
    def of(cls, fitted: FittedInterpreter, run: OpenView, images: Images) -> Rest:
        """From a first pass."""
        passed = run(images)
        classes = fitted.view.kind.prediction(passed.logits)
        whole = class_logit(passed.logits, classes, centred=fitted.view.kind.shift_invariant)
        return cls(fitted, run, images, passed.activations, classes, whole)

    def logit(self, logits: Logits) -> PerImage:
        """Of the classes that f gave at first."""
        return class_logit(logits, self.classes, centred=self.fitted.view.kind.shift_invariant)

    def after(self, activations: Activations) -> PerImage:
        """With other activations at the taps."""
        with replaced(self.fitted.view, activations):
            return self.logit(self.run(self.images).logits)

    def seeing(self, pictures: Images) -> Logits:
        """f's logits for other images, brought to its input size."""
        return self.run(F.interpolate(pictures, self.images.shape[2:], mode="bilinear")).logits


class Asked(NamedTuple):
    """Of each image the attributes that are asked about, by falling contribution."""

    order: Tensor  # (b, K) attributes
    alpha: Table  # their contributions; NaN where one takes no part
    size: int  # J

    def flags(self, ranks: Tensor) -> Tensor:
        """(b, J): the attributes at the flagged ranks (b, K) or (K,), where they take part."""
        chosen = ranks.expand(self.alpha.shape).to(self.order.device) & ~self.alpha.isnan()
        return torch.zeros(len(self.order), self.size, dtype=torch.bool, device=self.order.device).scatter(1, self.order, chosen)


def ask(dictionary: Dictionary, activations: Activations, classes: Tensor, most: int) -> Asked:
    """The ``most`` attributes of largest absolute contribution to f's class."""
    alpha = contributions(dictionary.codes(activations), dictionary.weight, classes)
    largest = alpha.abs().topk(min(most, alpha.shape[1]), dim=1).indices
    order = largest.gather(1, alpha.gather(1, largest).argsort(dim=1, descending=True))
    ordered = alpha.gather(1, order)
    return Asked(order, torch.where(ordered == 0, torch.nan, ordered), alpha.shape[1])


class Ablations(NamedTuple):
    """What f's logit does, in logits: fallen by so much without an attribute, or left when several are gone."""

    alpha: Table
    drop: Table  # without the attribute
    random_drop: Table  # moved as far in a random direction
    remaining: Table  # of the attribute's own activation, as a share
    deletion: Curve  # left without the first k, k = 0 … K
    insertion: Curve  # left with only the first k of those asked about
    random_deletion: Curve  # the same in a random order
    random_insertion: Curve


def ablate(dictionary: Dictionary, rest: Rest, most: int, generator: Generator) -> Ablations:
    """One by one, and one after the other, for the images of one batch."""
    asked = ask(dictionary, rest.activations, rest.classes, most)
    columns = [_one(dictionary, rest, asked, rank, generator) for rank in range(asked.order.shape[1])]
    drop, random_drop, remaining = (
        torch.where(asked.alpha.isnan(), torch.nan, torch.stack(part, dim=1)) for part in zip(*columns, strict=True)
    )
    ranks = torch.arange(asked.order.shape[1]).expand(asked.order.shape)
    shuffled = torch.rand(ranks.shape, generator=generator).argsort(dim=1)
    lines = [line for order in (ranks, shuffled) for line in _curves(dictionary, rest, asked, order)]
    return Ablations(asked.alpha, drop, random_drop, remaining, *lines)


def _one(dictionary: Dictionary, rest: Rest, asked: Asked, rank: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    altered = dictionary.without(rest.activations, asked.flags(torch.arange(asked.order.shape[1]) == rank))
    random = moved_at_random(rest.activations, altered, generator)
    place = asked.order[:, rank : rank + 1]
    before, after = (dictionary.codes(maps).gather(1, place)[:, 0] for maps in (rest.activations, altered))
    return rest.whole - rest.after(altered), rest.whole - rest.after(random), after / before


def _curves(dictionary: Dictionary, rest: Rest, asked: Asked, order: Tensor) -> tuple[Curve, Curve]:
    """Deletion and insertion, when the attribute at rank i is the ``order[:, i]``-th to go or to come."""
    steps = range(order.shape[1] + 1)
    deletion = [rest.after(dictionary.without(rest.activations, asked.flags(order < step))) for step in steps]
    insertion = [rest.after(dictionary.without(rest.activations, asked.flags(order >= step))) for step in steps]
    return torch.stack(deletion, dim=1), torch.stack(insertion, dim=1)


class Decoded(NamedTuple):
    """f on the decoder's pictures: its logit falls by ``drop`` without an attribute, and is ``gap`` below the image's own to begin with."""

    alpha: Table
    drop: Table
    gap: PerImage
    same_class: Tensor


def decode_without(fitted: FittedInterpreter, rest: Rest, most: int) -> Decoded:
    """d(Φ(x)) beside d(Φ(x) without φ_j), both fed to f."""
    dictionary, decoder = GradientAblation(fitted), fitted.interpreter.decoder
    asked, attributes = ask(dictionary, rest.activations, rest.classes, most), dictionary.codes(rest.activations)
    logits = rest.seeing(decoder(attributes))
    whole, ranks = rest.logit(logits), torch.eye(asked.order.shape[1], dtype=torch.bool)
    silenced = [attributes.masked_fill(asked.flags(rank), 0) for rank in ranks]
    drop = torch.stack([whole - rest.logit(rest.seeing(decoder(phi))) for phi in silenced], dim=1)
    same = fitted.view.kind.prediction(logits) == rest.classes
    return Decoded(asked.alpha, torch.where(asked.alpha.isnan(), torch.nan, drop), rest.whole - whole, same)
