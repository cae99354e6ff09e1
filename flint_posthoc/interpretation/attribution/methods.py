"""The methods that attribute a score to pixels, all of them Captum's: what each is called there, where it holds, and what it is told."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...arrays import Images
from ...errors import AttributionError
from ...memory import Halving
from .guidance import PixelPath, trace
from .layered import hide, unfold
from .requirements import lrp_types, neither, never, no_epsilon_rule, no_maps, no_rescale_rule, unguided
from .scores import PixelScores, classifier_scores, open_copy, open_scores
from .settings import AttributionSettings as AttributionSettings
from .settings import Request, baseline_image


@dataclass(frozen=True)
class Method:
    """How one method is called in Captum, and when it holds.

    Attributes:
        captum: the class's name in ``captum.attr``.
        refusal: why it does not hold for a request whose path was traced; "" where it does.
        opened: the network that it works on: the classifier itself or a copy.
        build: the Captum object from its class.
        arguments: what ``attribute`` is told besides images and targets.
        rows: how many images a pass sees for each image asked for.
        most: images in one call at most; 1 where Captum mixes them up.
    """

    captum: str
    refusal: Callable[[Request, PixelPath], str]
    opened: Callable[[Request], AbstractContextManager[PixelScores]]
    build: Callable[[type, PixelScores, Request], Any]
    arguments: Callable[[Request], dict[str, Any]]
    rows: Callable[[AttributionSettings], int]
    most: int | None = None

    @property
    def needs_copy(self) -> bool:
        """Whether it works on a copy of the classifier."""
        return self.opened is not _itself


# ---- on what it works ----


def _itself(request: Request) -> AbstractContextManager[PixelScores]:
    return open_scores(request.fitted, request.score)


def _copy(request: Request) -> AbstractContextManager[PixelScores]:
    return open_copy(request.fitted, request.score)


@contextmanager
def _layered(request: Request) -> Iterator[PixelScores]:
    """A copy in which LRP meets nothing but layers it has rules for: Ψ in plain layers, other leaves out of its sight."""
    with _copy(request) as network:
        unfold(network)
        hide(network, lrp_types())
        yield network


def _of_network(kind: type, network: PixelScores, request: Request) -> Any:
    return kind(network)


def _of_layer(kind: type, network: PixelScores, request: Request) -> Any:
    layout = request.layout
    if request.score is classifier_scores:
        return kind(network, network.classifier.get_submodule(layout.layer))
    return kind(network, network.maps[request.fitted.view.layouts.index(layout)])


# ---- what it is told ----


def _nothing(request: Request) -> dict[str, Any]:
    return {}


def _fixed(**arguments: Any) -> Callable[[Request], dict[str, Any]]:
    return lambda request: arguments


def _difference(request: Request) -> dict[str, Any]:
    return {"baselines": baseline_image(request.fitted, request.settings)}


def _path_integral(request: Request) -> dict[str, Any]:
    return _difference(request) | {"n_steps": request.settings.steps}


def _patches(request: Request) -> dict[str, Any]:
    channels, height, width = request.fitted.image_shape
    side = min(request.settings.occlusion_patch or max(1, round(min(height, width) / 8)), height, width)
    stride = max(1, side // 2)
    return _difference(request) | {"sliding_window_shapes": (channels, side, side), "strides": (channels, stride, stride)}


def _one(settings: AttributionSettings) -> int:
    return 1


_plain = partial(Method, refusal=never, opened=_itself, build=_of_network, arguments=_nothing, rows=_one)
METHODS: dict[str, Method] = {
    "guided_backpropagation": _plain("GuidedBackprop", refusal=unguided),
    "gradient": _plain("Saliency", arguments=_fixed(abs=False)),
    "input_x_gradient": _plain("InputXGradient"),
    "integrated_gradients": _plain("IntegratedGradients", arguments=_path_integral, rows=lambda settings: settings.steps),
    "deep_lift": _plain("DeepLift", refusal=no_rescale_rule, opened=_copy, arguments=_difference, most=1),
    "lrp": _plain("LRP", refusal=no_epsilon_rule, opened=_layered),
    "occlusion": _plain("Occlusion", arguments=_patches),
    "grad_cam": _plain("LayerGradCam", refusal=no_maps, build=_of_layer, arguments=_fixed(relu_attributions=True)),
    "guided_grad_cam": _plain(
        "GuidedGradCam", refusal=neither(unguided, no_maps), build=_of_layer, arguments=_fixed(interpolate_mode="bilinear")
    ),
}


def checked_name(name: str) -> str:
    """``name``, if it is one of ``METHODS``. Raises ``AttributionError`` with the nearest one."""
    if name not in METHODS:
        nearest = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise AttributionError(f"there is no method {name!r}; expected 'auto' or one of {', '.join(METHODS)}{hint}")
    return name


def path_of(request: Request, images: Images) -> PixelPath:
    """What lies between the pixels and the scores of ``request``."""
    with open_scores(request.fitted, request.score) as network:
        return trace(network, images[:1])


def refusals(request: Request, images: Images, names: Iterable[str]) -> dict[str, str]:
    """Why each of the methods does not hold on this network; "" where it does."""
    path = path_of(request, images)
    return {name: METHODS[name].refusal(request, path) for name in names}


def pixel_maps(request: Request, name: str, images: Images, targets: Tensor) -> Tensor:
    """The maps (B, channels or 1, H, W) of one score an image, by the method ``name``; targets (B,) are columns of the score.

    Raises:
        AttributionError: Captum fails on this network.
    """
    import captum.attr

    method, settings = METHODS[name], request.settings
    single = method.most == 1 or settings.smooth_samples > 0  # noise then is the same whatever else is in the batch
    size = 1 if single else max(1, settings.batch_size // method.rows(settings))
    with method.opened(request) as network:
        algorithm = method.build(getattr(captum.attr, method.captum), network, request)
        explain = (_smoothed if settings.smooth_samples else _plainly)(algorithm, method, request)
        halving, targets = Halving("attribution to pixels of", size), targets.to(images.device)
        try:
            maps = torch.cat(list(halving.parts(lambda part: explain(images[part], targets[part]).detach(), len(images))))
        except (RuntimeError, AssertionError, TypeError, AttributeError) as error:
            raise AttributionError(f"Captum's {method.captum} fails on this network: {error}; try another method") from error
    return maps.float() if maps.shape[2:] == images.shape[2:] else F.interpolate(maps.float(), images.shape[2:], mode="bilinear")


def _plainly(algorithm: Any, method: Method, request: Request) -> Callable[[Tensor, Tensor], Tensor]:
    """``algorithm`` as it is: images and targets → maps."""
    arguments = method.arguments(request)

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        """The maps of a batch."""
        maps: Tensor = algorithm.attribute(images, target=targets, **arguments)
        return maps

    return explain


def _smoothed(algorithm: Any, method: Method, request: Request) -> Callable[[Tensor, Tensor], Tensor]:
    """SmoothGrad over ``algorithm``, for one image at a time, whose noise is drawn from the seed anew."""
    from captum.attr import NoiseTunnel

    settings, arguments = request.settings, method.arguments(request)
    counts = {
        "nt_samples": settings.smooth_samples,
        "nt_samples_batch_size": method.most or max(1, settings.batch_size // method.rows(settings)),
    }

    def explain(image: Tensor, target: Tensor) -> Tensor:
        """The mean map of noisy copies."""
        torch.manual_seed(settings.seed)  # of the process, whose state is kept
        noise = settings.smooth_noise * float(image.max() - image.min())
        maps: Tensor = NoiseTunnel(algorithm).attribute(image, target=target, stdevs=noise, **counts, **arguments)
        return maps

    return explain
