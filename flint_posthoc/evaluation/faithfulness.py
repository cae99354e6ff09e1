"""Do attributes matter to f, and not only to g? They are taken out at the taps and out of the decoder's image, and f is run on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator

from ..arrays import Images, PerImage
from ..canvas import Figure, with_notes_below
from ..charts import curves
from ..data import Data, is_one_shot
from ..errors import ConfigurationError, DataError
from ..interpreter.fitted import FittedInterpreter
from ..measures import spearman
from ..randomness import preserved_random_state
from ..words import percent, plain, table, with_notes
from .ablation import Dictionary, GradientAblation, learn_atoms, learn_patterns
from .estimates import Interval, bootstrap
from .gathering import RowReservoir
from .interventions import Ablations, Curve, Decoded, Rest, Table, ablate, decode_without

BATCH = 32
FEWEST = 3  # attributes of an image, for a correlation of ranks
FEW = 10  # images below which nothing is concluded


@dataclass(frozen=True)
class FaithfulnessSettings:
    """How much is asked.

    Attributes:
        images: a uniform sample of the data.
        attributes: of each image those of largest absolute contribution, at most so many. f runs about twenty times that often an image.
        training_images: a uniform sample of those that patterns and the NMF dictionary are learnt from.
        seed: of the samples, the random directions and orders.
    """

    images: int = 100
    attributes: int = 8
    training_images: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.attributes < FEWEST or min(self.images, self.training_images) < 1:
            raise ConfigurationError(f"attributes must be at least {FEWEST}, images and training_images at least 1, got {self}")


@dataclass(frozen=True)
class AblationScore:
    """How faithful a dictionary is to f at the taps. Correlations of ranks are over the attributes of an image, means over images.

    Attributes:
        correlation: of f's logit drop with the contribution α.  random_attribute: with α shuffled among the attributes of the image.
        random_direction: of α with the drop by a random move of the same length: how much the length alone explains.
        advantage: of the first over the third, image by image.
        claimed: mean α of attributes that speak for the class (α > 0).  drop, random_drop: what f's logit really falls by. Taking out goes
            the least way, so that f may well fall by less than α: it has other ways to see what the attribute saw.
        remaining: mean share of an attribute that is left after it was taken out; 0 where taking out worked.
        deletion, insertion: f's mean logit when the first 0 … K are gone, or alone are left; random_…: in a random order.
        deletion_gain, insertion_gain: mean distance of a curve from that of the random order, in logits; above 0 is better than chance.
        ranked: images with attributes enough for a correlation: those that the first four are means over.
    """

    name: str
    correlation: Interval
    random_attribute: Interval
    random_direction: Interval
    advantage: Interval
    claimed: Interval
    drop: Interval
    random_drop: Interval
    remaining: float
    deletion: tuple[float, ...]
    insertion: tuple[float, ...]
    random_deletion: tuple[float, ...]
    random_insertion: tuple[float, ...]
    deletion_gain: Interval
    insertion_gain: Interval
    ranked: int

    @property
    def follows(self) -> bool:
        """Whether f's drops have the order of α, and more so than those by random moves, over images enough to conclude that."""
        return self.ranked >= FEW and self.correlation.low > 0 and self.advantage.low > 0


@dataclass(frozen=True)
class DecoderScore:
    """How f takes the decoder's pictures with and without an attribute.

    ``same_class``, f's share of pictures given the image's class, and ``gap``, the logits lost by the picture alone, are the control.
    """

    correlation: Interval
    random_attribute: Interval
    same_class: float
    gap: Interval


def _by_image(alpha: Table, drop: Table) -> PerImage:
    """Spearman's over the attributes of each image; NaN for fewer than three."""
    known = ~alpha.isnan()
    pairs = ((row[mask], other[mask]) for row, other, mask in zip(alpha, drop, known, strict=True))
    return torch.tensor([float(spearman(*pair)) if len(pair[0]) >= FEWEST else torch.nan for pair in pairs], dtype=torch.float64)


def _shuffled(drop: Table, generator: Generator) -> Table:
    """The drops of each image permuted among the attributes that take part."""
    keys = torch.rand(drop.shape, generator=generator).masked_fill(drop.isnan(), torch.inf)
    mixed = torch.full_like(drop, torch.nan)
    for row, (order, values) in enumerate(zip(keys.argsort(dim=1), drop, strict=True)):
        known = (~values.isnan()).nonzero().flatten()
        mixed[row, known] = values[order[: len(known)]]
    return mixed


def score_ablations(name: str, found: Ablations, seed: int) -> AblationScore:
    """Means with intervals over images."""
    generator = torch.Generator().manual_seed(seed)
    parts = (found.alpha, found.drop, found.random_drop)
    own, by_chance = (_by_image(found.alpha, part) for part in (found.drop, found.random_drop))
    claimed, drop, random_drop = (torch.where(found.alpha > 0, part, torch.nan).nanmean(dim=1) for part in parts)
    return AblationScore(
        name,
        correlation=bootstrap(own, seed),
        random_attribute=bootstrap(_by_image(found.alpha, _shuffled(found.drop, generator)), seed),
        random_direction=bootstrap(by_chance, seed),
        advantage=bootstrap(own - by_chance, seed),
        claimed=bootstrap(claimed, seed),
        drop=bootstrap(drop, seed),
        random_drop=bootstrap(random_drop, seed),
        remaining=float(found.remaining.nanmean()),
        deletion=_mean_curve(found.deletion),
        insertion=_mean_curve(found.insertion),
        random_deletion=_mean_curve(found.random_deletion),
        random_insertion=_mean_curve(found.random_insertion),
        deletion_gain=bootstrap((found.random_deletion - found.deletion).mean(dim=1), seed),
        insertion_gain=bootstrap((found.insertion - found.random_insertion).mean(dim=1), seed),
        ranked=int((~(own - by_chance).isnan()).sum()),
    )


def _mean_curve(lines: Curve) -> tuple[float, ...]:
    return tuple(lines.double().mean(dim=0).tolist())


def score_decoded(found: Decoded, seed: int) -> DecoderScore:
    """Means with intervals over images."""
    others = _shuffled(found.drop, torch.Generator().manual_seed(seed))
    return DecoderScore(
        correlation=bootstrap(_by_image(found.alpha, found.drop), seed),
        random_attribute=bootstrap(_by_image(found.alpha, others), seed),
        same_class=float(found.same_class.double().mean()),
        gap=bootstrap(found.gap, seed),
    )


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """Faithfulness to f.

    Attributes:
        images: asked about.  asked: attributes of each, at most.
        patterns, gradients: attributes ablated at the taps along their least-squares pattern, and along their gradient.
        factorisation: an NMF dictionary of the same size on the deepest tap, its atoms ablated there.
        decoder: attributes left out of the decoder's picture.
    """

    images: int
    asked: int
    patterns: AblationScore
    gradients: AblationScore
    factorisation: AblationScore
    decoder: DecoderScore
    notes: tuple[str, ...] = ()

    @property
    def dictionaries(self) -> tuple[AblationScore, ...]:
        """What was ablated at the taps."""
        return self.patterns, self.gradients, self.factorisation

    def __str__(self) -> str:
        found = self.dictionaries
        rows = {
            "rank correlation of f's drop with α": [str(entry.correlation) for entry in found],
            "… with α shuffled": [str(entry.random_attribute) for entry in found],
            "… of a random move's drop with α": [str(entry.random_direction) for entry in found],
            "… and the first less that": [str(entry.advantage) for entry in found],
            "α, where it is above 0, logits": [str(entry.claimed) for entry in found],
            "… and f's drop there": [str(entry.drop) for entry in found],
            "… by a random move as long": [str(entry.random_drop) for entry in found],
            "left of what was taken out": [percent(entry.remaining) for entry in found],
            "deletion, better than random order by": [str(entry.deletion_gain) for entry in found],
            "insertion, better than random order by": [str(entry.insertion_gain) for entry in found],
        }
        lines = [table(("at the taps", *(entry.name for entry in found)), [(name, *cells) for name, cells in rows.items()])]
        return with_notes([*lines, self.meaning()], self.notes)

    def meaning(self) -> str:
        """The table in a few sentences."""
        ways = {"pattern": self.patterns, "gradient": self.gradients}
        shown = [name for name, way in ways.items() if way.follows]
        where = "" if len(shown) == len(ways) else f" where they go along their {shown[0]} alone" if shown else ""
        verdict = f"f itself follows the explanation{where}" if shown else "it is not shown that f follows the explanation"
        told = "; ".join(f"along its {name} with a rank correlation of {_in_words(way)}" for name, way in ways.items())
        return (
            f"Over {self.images} images and their {self.asked} strongest attributes, {verdict}. Taking one out lowers f's logit in "
            f"the order of α {told}. 1 is the same order, 0 chance. Through the decoder the correlation is {self.decoder.correlation}, "
            f"where f gives "
            f"{percent(self.decoder.same_class)} of the decoder's pictures the image's class and loses {self.decoder.gap} logits by the "
            f"picture alone. Intervals are 95 %, over images."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return plain(self)

    def plot(self) -> Figure:
        """Deletion and insertion curves beside those of a random order."""
        kinds = ("deletion", "random_deletion", "insertion", "random_insertion")
        lines = {f"{entry.name}, {kind.replace('_', ' ')}": getattr(entry, kind) for entry in self.dictionaries for kind in kinds}
        series = {name: (list(range(len(values))), list(values)) for name, values in lines.items()}
        random = [name for name in series if "random" in name]
        heading, vertical = "f's logit without, or with only, the first k", "f's logit, centred"
        return with_notes_below(curves(series, heading=heading, axis="k", vertical=vertical, dashed=random), self.notes)


def _in_words(way: AblationScore) -> str:
    return (
        f"{way.correlation} (over {way.ranked} images with {FEWEST} attributes or more; a random move as long: {way.random_direction}), "
        f"by {way.drop} logits where α claims {way.claimed}, {percent(way.remaining)} of it being left"
    )


def _sampled(fitted: FittedInterpreter, data: Data, limit: int, seed: int) -> list[Images]:
    """A uniform sample of images, in batches; f does not run."""
    reservoir = RowReservoir(limit, seed)
    for batch in fitted.batches(data):
        reservoir.offer(batch.images)
    (images,) = reservoir.columns()
    return [part.to(fitted.device) for part in images.split(BATCH)]


def _together(parts: list[Any]) -> Any:
    return type(parts[0])(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


@torch.no_grad()
@preserved_random_state()
def measure_faithfulness(
    fitted: FittedInterpreter, data: Data, *, train: Data | None = None, settings: FaithfulnessSettings = FaithfulnessSettings()
) -> Faithfulness:
    """Take attributes out and see whether f's logit for its own class falls as α says.

    Args:
        data: images to ask about, best ones that nothing was learnt from.
        train: images that the attributes' patterns and the NMF dictionary are learnt from; ``None``: ``data``, which is then read twice.
            Memory is the sampled images and J times the tapped maps of one.

    Raises:
        UnmappableActivationError: a tapped layer's output cannot be replaced. DataError.
    """
    if train is None and is_one_shot(data):
        raise DataError("this iterator can be read only once, and patterns are learnt from the data before it is asked about; pass train=")
    training = _sampled(fitted, data if train is None else train, settings.training_images, settings.seed)
    named: dict[str, Dictionary] = {
        "attributes, pattern": learn_patterns(fitted, training),
        "attributes, gradient": GradientAblation(fitted),
        "NMF atoms": learn_atoms(fitted, training, settings.seed),
    }
    decoded, found = _intervene(fitted, data, named, settings)
    patterns, gradients, atoms = (score_ablations(name, part, settings.seed) for name, part in found.items())
    return Faithfulness(
        images=len(decoded.gap),
        asked=min(settings.attributes, fitted.interpreter.num_attributes),
        patterns=patterns,
        gradients=gradients,
        factorisation=atoms,
        decoder=score_decoded(decoded, settings.seed),
        notes=fitted.notes,
    )


def _intervene(
    fitted: FittedInterpreter, data: Data, named: dict[str, Dictionary], settings: FaithfulnessSettings
) -> tuple[Decoded, dict[str, Ablations]]:
    generator = torch.Generator().manual_seed(settings.seed)
    decoded: list[Decoded] = []
    found: dict[str, list[Ablations]] = {name: [] for name in named}
    with fitted.view.frozen() as run:
        for images in _sampled(fitted, data, settings.images, settings.seed):
            rest = Rest.of(fitted, run, images)
            decoded.append(decode_without(fitted, rest, settings.attributes))
            for name, dictionary in named.items():
                found[name].append(ablate(dictionary, rest, settings.attributes, generator))
    return _together(decoded), {name: _together(parts) for name, parts in found.items()}
