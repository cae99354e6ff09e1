"""Where in the image an attribute sees what it fires on, or a class logit what speaks for it: maps over pixels, by Captum's methods."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..arrays import Images, PerImageFlag
from ..errors import AttributionError, ConfigurationError
from ..interpreter.fitted import FittedInterpreter
from .guidance import Path, trace
from .methods import DEFAULTS, METHODS, Request, pixel_maps
from .methods import AttributionSettings as AttributionSettings
from .sanity import SanityCheck, SanityScore
from .scores import Score, attribute_scores, classifier_scores, interpreter_scores, open_scores
from .targets import attribute_of_each, one_of_each

AUTO = ("guided_backpropagation", "integrated_gradients", "input_x_gradient", "gradient", "occlusion")  # in order of preference
LOGITS: dict[str, Score] = {"interpreter": interpreter_scores, "classifier": classifier_scores}

Wanted = int | Sequence[int] | Tensor


@dataclass(frozen=True)
class Attribution:
    """Maps over pixels, one an image.

    Attributes:
        values: (B, channels, H, W), signed; methods that look at a layer's maps give one channel.
        method: the one taken.  requested: "auto" or a name.  reason: why this one, and what to know of it.
        exact: whether the method's own definition holds on this network; where it does not, ``reason`` names the place.
        empty: (B,), the attribute does not fire on this image, so that there is nothing to attribute: the map is zero.
        target: what was attributed, in words, one an image.
        sanity: how similar the maps stay when the network is randomised, where that was looked at.
    """

    values: Tensor
    method: str
    requested: str
    reason: str
    exact: bool
    empty: PerImageFlag
    target: tuple[str, ...]
    sanity: SanityScore | None = None

    def __len__(self) -> int:
        return len(self.values)

    def heat(self) -> Tensor:
        """(B, H, W): channels summed, each map scaled to [-1, 1] by its largest absolute value; empty maps stay zero."""
        heat = self.values.sum(dim=1)
        peak = heat.abs().amax(dim=(1, 2), keepdim=True)
        return heat / torch.where(peak > 0, peak, 1)

    def __str__(self) -> str:
        silent = f", {int(self.empty.sum())} of them empty: the attribute does not fire" if bool(self.empty.any()) else ""
        exact = "exact" if self.exact else "inexact"
        sanity = f"\nsanity: {self.sanity}" if self.sanity else ""
        return f"Attribution of {len(self)} images by {self.method} ({exact}){silent}\n{self.reason}{sanity}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the maps."""
        fields = ("method", "requested", "reason", "exact")
        sanity = None if self.sanity is None else self.sanity._asdict()
        return {name: getattr(self, name) for name in fields} | {
            "empty": self.empty.tolist(),
            "target": list(self.target),
            "sanity": sanity,
        }


@dataclass(frozen=True)
class Target:
    """What is attributed: one column (B,) of a score an image."""

    score: Score
    columns: Tensor
    words: tuple[str, ...]


def target_of_each(fitted: FittedInterpreter, images: int, attribute: Wanted | None, class_index: Wanted | None, of: str) -> Target:
    """The attribute or class of each of so many images, checked.

    Raises:
        ConfigurationError: both or none of them, one that does not exist, another number of them than images, an unknown ``of``.
    """
    if (attribute is None) == (class_index is None):
        raise ConfigurationError("say what to attribute to pixels: either attribute= or class_index=, one for all images or one each")
    if of not in LOGITS:
        raise ConfigurationError(f"of must be one of {', '.join(map(repr, LOGITS))}, got {of!r}")
    if attribute is not None:
        columns = attribute_of_each(attribute, images, fitted.interpreter.num_attributes)
        return Target(attribute_scores, columns, tuple(f"φ{column}" for column in columns.tolist()))
    columns = one_of_each(class_index, images, fitted.view.num_classes, "class")  # type: ignore[arg-type]
    words = tuple(f"class {fitted.class_names[column]!r} of the {of}" for column in columns.tolist())
    return Target(LOGITS[of], columns, words)


@dataclass(frozen=True)
class Choice:
    """A method, and why it was taken."""

    method: str
    reason: str
    sanity: SanityScore | None = None


def attribute_pixels(
    fitted: FittedInterpreter,
    images: Tensor,
    *,
    attribute: Wanted | None = None,
    class_index: Wanted | None = None,
    of: str = "interpreter",
    method: str = "auto",
    settings: AttributionSettings = DEFAULTS,
    sanity: SanityCheck | None = None,
) -> Attribution:
    """Attribute φ_j, or a class logit of g or f, to the pixels of each image.

    Args:
        images: (B, channels, H, W) as the classifier sees them.
        attribute, class_index: exactly one of them; one for all images, or one each.
        of: whose class logit: "interpreter" (g) or "classifier" (f).
        method: a name of ``METHODS``, or "auto": the best one that holds on this network and passes the sanity check.
        sanity: an earlier check of the methods, to choose by and to store beside the maps.

    Raises:
        AttributionError: an unknown method, or one that does not hold on this network; the message says why and names another.
        ConfigurationError: a target that does not exist, both or none. ImageShapeError, NonFinitePixelsError.
    """
    pixels = _normal(next(fitted.batches([images])).images)
    target = target_of_each(fitted, len(pixels), attribute, class_index, of)
    request = Request(fitted, target.score, settings)
    path = path_of(request, pixels[:1])
    choice = _named(request, path, method, sanity) if method != "auto" else _automatic(request, path, sanity)
    empty = _empty(fitted, pixels, target)
    maps = pixel_maps(request, choice.method, pixels, target.columns)
    maps = torch.where(empty.view(-1, 1, 1, 1), 0, maps)
    caveat = _inexact(path) if METHODS[choice.method].captum.startswith("Guided") else ""
    reason = "; ".join(filter(None, (choice.reason, caveat)))
    return Attribution(maps, choice.method, method, reason, not caveat, empty, target.words, choice.sanity)


def _normal(images: Images) -> Images:
    """A copy that autograd takes, also of images made in inference mode."""
    with torch.inference_mode(False):
        return images.clone()


def path_of(request: Request, image: Images) -> Path:
    """What lies between the pixels and the scores of ``request``."""
    with open_scores(request.fitted, request.score) as network:
        return trace(network, image)


def _empty(fitted: FittedInterpreter, pixels: Images, target: Target) -> Tensor:
    """(B,): the attribute asked for does not fire. A class logit always says something."""
    if target.score is not attribute_scores:
        return torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
    attributes = torch.cat([batch.attributes for batch in fitted.read(pixels.split(64))])
    return attributes.gather(1, target.columns.to(pixels.device)[:, None])[:, 0] == 0


def _inexact(path: Path) -> str:
    """Where Captum's guided backpropagation is not what it is defined to be."""
    places = path.rectifiers_shared
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    layers = ", ".join(map(repr, places[:3])) + more
    return f"inexact at {layers}: what enters there also goes around the ReLU, and Captum rectifies both gradients" if places else ""


def _named(request: Request, path: Path, method: str, sanity: SanityCheck | None) -> Choice:
    """The method asked for. Raises ``AttributionError`` where it is unknown or does not hold."""
    if method not in METHODS:
        nearest = difflib.get_close_matches(method, METHODS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise AttributionError(f"there is no method {method!r}; expected 'auto' or one of {', '.join(METHODS)}{hint}")
    refusal = METHODS[method].refusal(request, path)
    if refusal:
        other = next(name for name in AUTO if not METHODS[name].refusal(request, path))
        raise AttributionError(
            f"method={method!r} does not hold on this {type(request.fitted.view.model).__name__}: {refusal}; try method={other!r}"
        )
    return Choice(method, "as asked for", sanity.score(method) if sanity else None)


def _automatic(request: Request, path: Path, sanity: SanityCheck | None) -> Choice:
    """The first method of ``AUTO`` that holds and passes."""
    refusals = {name: METHODS[name].refusal(request, path) for name in AUTO}
    taken = next(name for name in AUTO if not refusals[name])
    passed_over = [f"{name}: {refusals[name]}" for name in AUTO[: AUTO.index(taken)]]
    return Choice(taken, "; ".join([f"{taken} is the first that holds", *passed_over]))
