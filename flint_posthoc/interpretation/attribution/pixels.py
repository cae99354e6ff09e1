"""Where in the image an attribute sees what it fires on, or a class logit what speaks for it: maps over pixels, by Captum's methods."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ...arrays import Images, PerImageFlag
from ...canvas import Figure, as_arrays, shorten, show_heat, with_notes_below
from ...errors import AttributionError
from ...figures import under_images
from ...interpreter.fitted import FittedInterpreter
from ...interpreter.interpreter import Interpreter
from ...words import with_notes
from ..exemplars import OTHERWISE
from .guidance import PixelPath
from .methods import METHODS, checked_name, path_of, pixel_maps
from .pixel_targets import Target, Wanted, checked_images, target_of_each
from .sanity import SanityCheck, SanityScore, check_target
from .scores import ScoreFunction, attribute_scores, classifier_scores
from .settings import DEFAULTS, AttributionSettings, Request

# What ``auto`` tries in turn: the paper's method, then by how much of φ is lost with a tenth of the pixels in regions (a fit on SqueezeNet,
# photographs: Grad-CAM 0.55, integrated gradients 0.51, occlusion 0.49, gradient 0.44, at random 0.25; one on FashionMNIST, whose Ψ knows
# places: 0.17, 0.72, 0.70, 0.40, 0.12). Grad-CAM forgets places, so it comes first only where Ψ does.
AUTO = ("guided_backpropagation", "integrated_gradients", "occlusion", "gradient", "grad_cam")
AUTO_WITHOUT_PLACES = ("guided_backpropagation", "grad_cam", "integrated_gradients", "occlusion", "gradient")
PROBES = 4  # images of the sanity check that ``auto`` makes


@dataclass(frozen=True)
class Attribution:
    """Maps over pixels, one an image.

    Attributes:
        values: (B, channels, H, W), signed; methods that look at a layer's maps give one channel.
        pixels: the images, (B, channels, H, W) in [0, 1], for pictures.
        method: the one taken.  requested: "auto" or a name.  reason: why this one, and what to know of it.
        exact: whether the method's own definition holds on this network; where it does not, ``reason`` names the place.
        empty: (B,), the attribute does not fire on this image, so that there is nothing to attribute: the map is zero.
        agrees: (B,), where f and g lead to the same decision and f's unrestricted prediction is an explained class.
        target: what was attributed, in words, one an image.
        sanity: how similar the maps stay when the network is randomised, where that was looked at.
    """

    values: Tensor
    pixels: Images
    method: str
    requested: str
    reason: str
    exact: bool
    empty: PerImageFlag
    agrees: PerImageFlag
    target: tuple[str, ...]
    sanity: SanityScore | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def heat(self) -> Tensor:
        """(B, H, W): channels summed, each map scaled to [-1, 1] by its largest absolute value; empty maps stay zero."""
        heat = self.values.sum(dim=1)
        peak = heat.abs().amax(dim=(1, 2), keepdim=True)
        return heat / torch.where(peak > 0, peak, 1)

    def title(self, index: int) -> str:
        """What is attributed on image ``index``, and what to know of that image."""
        words = ["empty"] * bool(self.empty[index]) + [OTHERWISE] * (not self.agrees[index])
        return ", ".join([shorten(self.target[index], 58), *words]) if words else self.target[index]

    def plot(self) -> Figure:
        """Each image above its map: blue speaks for the target, red against it."""
        heading = f"Where it is seen: {self.method.replace('_', ' ')}, blue for and red against"
        titles = [self.title(index) for index in range(len(self))]
        figure = under_images(as_arrays(self.pixels), as_arrays(self.heat()), titles, show_heat, heading=heading)
        return with_notes_below(figure, self.notes)

    def __str__(self) -> str:
        silent = f", {int(self.empty.sum())} of them empty: the attribute does not fire" if bool(self.empty.any()) else ""
        exact = "exact" if self.exact else "inexact"
        sanity = f"\nsanity: {self.sanity}" if self.sanity else ""
        first = f"Attribution of {len(self)} images by {self.method} ({exact}){silent}"
        agreeing = f"classifier and interpreter agree on {int(self.agrees.sum())}"
        return with_notes([f"{first}; {agreeing}\n{self.reason}{sanity}"], self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the maps; ``agrees`` travels with every image."""
        fields = ("method", "requested", "reason", "exact")
        sanity = None if self.sanity is None else self.sanity._asdict()
        return {name: getattr(self, name) for name in fields} | {
            "empty": self.empty.tolist(),
            "agrees": self.agrees.tolist(),
            "target": list(self.target),
            "sanity": sanity,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Choice:
    """A method, and why it was taken."""

    method: str
    reason: str
    sanity: SanityScore | None = None


@torch.inference_mode(False)  # whose tensors autograd does not take
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
        method: a name of ``METHODS``, or "auto": the first of the ``preferred`` that holds on this network and passes the sanity
            check; without ``sanity`` a small one is made on the first images asked about and kept as long as the fit lives.
        sanity: an earlier check of the methods, to choose by and to store beside the maps.

    Raises:
        AttributionError: an unknown method, or one that does not hold on this network; the message says why and names another.
        ConfigurationError: a target that does not exist, both or none. ImageShapeError, NonFinitePixelsError.
    """
    pixels = checked_images(fitted, images)
    target = target_of_each(fitted, len(pixels), attribute, class_index, of)
    request = Request(fitted, target.score, settings)
    path = path_of(request, pixels)
    choice = _named(request, path, method, sanity) if method != "auto" else _automatic(request, path, pixels, target, sanity)
    empty, agrees = _empty_and_agreeing(fitted, pixels, target)
    maps = torch.where(empty.view(-1, 1, 1, 1), 0, pixel_maps(request, choice.method, pixels, target.columns))
    spoilt = int((~maps.isfinite()).flatten(1).any(dim=1).sum())
    if spoilt:
        raise AttributionError(f"{choice.method} gives maps that are not finite for {spoilt} of {len(maps)} images; try another method")
    inexact = _inexact(path) if METHODS[choice.method].captum.startswith("Guided") else ""
    reason = "; ".join(filter(None, (choice.reason, inexact, _flat(maps, empty))))
    shown = fitted.normalization.denormalize(pixels.detach())
    return Attribution(maps, shown, choice.method, method, reason, not inexact, empty, agrees, target.words, choice.sanity, fitted.notes)


def _flat(maps: Tensor, empty: PerImageFlag) -> str:
    """Zero maps of what fires: Grad-CAM where no map speaks for it, SmoothGrad where noise silences the attribute."""
    count = int((~maps.flatten(1).any(dim=1) & ~empty).sum())
    return f"{count} of {len(maps)} maps are zero though there is something to attribute: the method sees nothing there" if count else ""


def _empty_and_agreeing(fitted: FittedInterpreter, pixels: Images, target: Target) -> tuple[Tensor, Tensor]:
    """(B,) each: the attribute asked for does not fire, while a class logit always says something; f and g agree."""
    read = [(batch.attributes, batch.agrees) for batch in fitted.read(pixels.split(64))]
    attributes, agrees = (torch.cat(parts) for parts in zip(*read, strict=True))
    if target.score is not attribute_scores:
        return torch.zeros_like(agrees), agrees
    return attributes.gather(1, target.columns.to(pixels.device)[:, None])[:, 0] == 0, agrees


def _inexact(path: PixelPath) -> str:
    """Where Captum's guided backpropagation is not what it is defined to be."""
    places = path.rectifiers_shared
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    layers = ", ".join(map(repr, places[:3])) + more
    return f"inexact at {layers}: what enters there also goes around the ReLU, and Captum rectifies both gradients" if places else ""


def preferred(request: Request) -> tuple[str, ...]:
    """The methods that ``auto`` tries, best first."""
    anywhere = request.score is not classifier_scores and request.fitted.interpreter.attribute_network.pool == (1, 1)
    return AUTO_WITHOUT_PLACES if anywhere else AUTO


def _named(request: Request, path: PixelPath, method: str, sanity: SanityCheck | None) -> Choice:
    """The method asked for. Raises ``AttributionError`` where it is unknown or does not hold."""
    refusal = METHODS[checked_name(method)].refusal(request, path)
    if refusal:
        other = next(name for name in preferred(request) if not METHODS[name].refusal(request, path))
        raise AttributionError(
            f"method={method!r} does not hold on this {type(request.fitted.view.model).__name__}: {refusal}; try method={other!r}"
        )
    return Choice(method, "as asked for", sanity.score(method) if sanity else None)


def _automatic(request: Request, path: PixelPath, pixels: Images, target: Target, sanity: SanityCheck | None) -> Choice:
    """The first of the ``preferred`` methods that holds and passes, by the given check or by one that is made now and kept."""
    if sanity is not None:
        return _first_passing(request, path, sanity)
    known = _CHOICES.setdefault(request.fitted.interpreter, {})
    asked = (request.score, request.settings)
    if asked not in known:
        known[asked] = choose_method(request.fitted, pixels, target, settings=request.settings)
    return known[asked]


Asked: TypeAlias = tuple[ScoreFunction, AttributionSettings]
_CHOICES: WeakKeyDictionary[Interpreter, dict[Asked, Choice]] = WeakKeyDictionary()  # of ``auto``, as long as the fit lives


def choose_method(fitted: FittedInterpreter, images: Images, target: Target, *, settings: AttributionSettings = DEFAULTS) -> Choice:
    """The first of the ``preferred`` methods that holds on this network and passes a small sanity check, on ``PROBES`` images.

    The check stops at the first method that passes. Deterministic, but other images may lead to another choice.
    """
    probes = slice(0, PROBES)
    request = Request(fitted, target.score, settings)
    path, checks, failed = path_of(request, images), list[SanityCheck](), dict[str, str]()
    held = [name for name in preferred(request) if not METHODS[name].refusal(request, path)]
    for name in held:
        try:
            checks.append(check_target(request, images[probes], replace(target, columns=target.columns[probes]), [name], stages=1, seed=0))
        except AttributionError as error:  # Captum fails, or there can be no copies to randomise
            failed[name] = str(error)
            continue
        if checks[-1].passing:
            break
    if not checks:
        taken = next((name for name in held if not METHODS[name].needs_copy), held[0])
        return Choice(taken, f"{taken} was not checked for sanity: {failed[taken]}", None)
    merged = replace(
        checks[0],
        scores={name: scores for check in checks for name, scores in check.scores.items()},
        background={name: score for check in checks for name, score in check.background.items()},
        refused=failed | {name: reason for check in checks for name, reason in check.refused.items()},
    )
    return _first_passing(request, path, merged)


def _first_passing(request: Request, path: PixelPath, sanity: SanityCheck) -> Choice:
    """The first of the preferred that holds and passes; where none passes, the one whose maps change most, and that is said."""
    order = preferred(request)
    refused = {name: METHODS[name].refusal(request, path) for name in order}
    held = [name for name in order if not refused[name]]
    passing = [name for name in held if sanity.passes(name)]
    checked = [name for name in held if sanity.score(name) is not None] or held[:1]
    taken = passing[0] if passing else min(checked, key=lambda name: _left(sanity, name))
    passed_over = [f"{name}: {refused[name] or _verdict(sanity, name)}" for name in order[: order.index(taken)]]
    return Choice(taken, "; ".join([f"{taken} {_verdict(sanity, taken)}", *passed_over]), sanity.score(taken))


def _left(sanity: SanityCheck, name: str) -> float:
    score = sanity.score(name)
    return 1.0 if score is None else score.rank_correlation


def _verdict(sanity: SanityCheck, name: str) -> str:
    score = sanity.score(name)
    if score is None:
        return "was not checked for sanity" + (f" ({sanity.refused[name]})" if name in sanity.refused else "")
    return f"{'passes' if sanity.passes(name) else 'fails'} the sanity check ({score})"
