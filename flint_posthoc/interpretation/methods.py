"""The methods that attribute a score to pixels, all of them Captum's: what each is called there, where it holds, and what it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arrays import Images
from ..classifier.adapter import TapLayout
from ..errors import AttributionError, ConfigurationError
from ..interpreter.fitted import FittedInterpreter
from .guidance import SHAPES, Path, Step, trace
from .scores import LayeredAttributeNetwork, PixelScores, Score, classifier_scores, open_copy, open_scores


def _mean_colour(fitted: FittedInterpreter) -> Tensor:
    return fitted.class_means.nanmean(dim=(0, 2, 3)).view(1, -1, 1, 1)


def _black(fitted: FittedInterpreter) -> Tensor:
    return fitted.normalization.normalize(fitted.class_means.new_zeros(1, fitted.image_shape[0], 1, 1))


BASELINES: dict[str, Callable[[FittedInterpreter], Tensor]] = {"mean": _mean_colour, "black": _black}


@dataclass(frozen=True)
class AttributionSettings:
    """What the methods are told.

    Attributes:
        steps: points on the path of integrated gradients.
        smooth_samples: noisy copies of each image whose maps are averaged (SmoothGrad); 0: none.
        smooth_noise: their noise's deviation as a share of the image's own range.
        occlusion_patch: pixels of the occluding patch's side; ``None``: an eighth of the image's shorter side. It moves by half of itself.
        baseline: what "nothing" looks like, for integrated gradients, DeepLIFT and occlusion: "mean", the mean colour of the
            training images, or "black".
        layer: the tap of Grad-CAM; ``None``: the coarsest one, of equal ones the last.
        batch_size: most images in one pass.
        seed: of the noise.
    """

    steps: int = 32
    smooth_samples: int = 0
    smooth_noise: float = 0.1
    occlusion_patch: int | None = None
    baseline: str = "mean"
    layer: str | None = None
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.smooth_samples < 0 or (self.occlusion_patch or 1) < 1:
            raise ConfigurationError(f"steps, batch_size and occlusion_patch must be at least 1, smooth_samples at least 0, got {self}")
        if not self.smooth_noise > 0:
            raise ConfigurationError(f"smooth_noise must be above 0, got {self.smooth_noise}")
        if self.baseline not in BASELINES:
            raise ConfigurationError(f"baseline must be one of {', '.join(BASELINES)}, got {self.baseline!r}")


DEFAULTS = AttributionSettings()


def baseline_image(fitted: FittedInterpreter, settings: AttributionSettings) -> Images:
    """The image (1, channels, H, W) that stands for "nothing"."""
    return BASELINES[settings.baseline](fitted).expand(1, *fitted.image_shape).contiguous()


@dataclass(frozen=True)
class Request:
    """Maps of one kind of score by one method."""

    fitted: FittedInterpreter
    score: Score
    settings: AttributionSettings

    @property
    def layout(self) -> TapLayout:
        """The tap that Grad-CAM looks at. Raises ``AttributionError`` for a layer that is not tapped."""
        layouts = self.fitted.view.layouts
        if self.settings.layer is None:
            return min(reversed(layouts), key=lambda layout: layout.height * layout.width)
        for layout in layouts:
            if layout.layer == self.settings.layer:
                return layout
        raise AttributionError(f"Grad-CAM looks at a tapped layer ({', '.join(self.fitted.view.layers)}), not at {self.settings.layer!r}")


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
    refusal: Callable[[Request, Path], str]
    opened: Callable[[Request], AbstractContextManager[PixelScores]]
    build: Callable[[type, PixelScores, Request], Any]
    arguments: Callable[[Request], dict[str, Any]]
    rows: Callable[[AttributionSettings], int]
    most: int | None = None


# ---- when a method holds ----


def _never(request: Request, path: Path) -> str:
    return ""


def _unguided(request: Request, path: Path) -> str:
    kinds = ", ".join(f"{word} ({count}×)" for word, count in sorted(path.unguided.items()))
    if path.altered:
        return "a layer overwrites its input in place and the input is used again, so that Captum's hooks change what the network computes"
    if not path.guided:
        return f"it would be the plain gradient: no ReLU module on the classifier's path, only {kinds or 'linear layers'}"
    return f"it would be guided by half: {path.guided} ReLU modules are, but not {kinds}" if kinds else ""


def _supported(steps: tuple[Step, ...], path: Path, types: Mapping[type, Any]) -> str:
    """Why hooks on modules of these types miss something on the path."""
    seen = {step.layer: step.module for step in steps if type(step.module) in types}
    missed = dict.fromkeys(str(step) for step in steps if type(step.module) not in types)
    reused = [layer for layer in seen if path.calls[layer] > 1]
    shared = [layer for layer in seen if layer in path.shared and type(seen[layer]) is nn.ReLU]
    if path.altered:
        return "a layer overwrites its input in place and the input is used again"
    if missed:
        return f"it knows no rule for {_some(missed)}"
    if reused:
        return f"modules that run more than once, which it cannot tell apart: {_some(reused)}"
    return f"the input of these modules also goes around them: {_some(shared)}" if shared else ""


def _some(names: Any) -> str:
    listed = [str(name).removeprefix("classifier.") for name in names]
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _no_rescale_rule(request: Request, path: Path) -> str:
    from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR

    return _supported(tuple(step for step in path.steps if not step.linear), path, SUPPORTED_NON_LINEAR)


def _lrp_types() -> dict[type, Any]:
    from captum.attr._core.lrp import SUPPORTED_LAYERS_WITH_RULES, SUPPORTED_NON_LINEAR_LAYERS

    return dict.fromkeys([*SUPPORTED_LAYERS_WITH_RULES, *SUPPORTED_NON_LINEAR_LAYERS])


def _no_epsilon_rule(request: Request, path: Path) -> str:
    with _itself(request) as network:
        _unfold(network)
        layered = trace(network, baseline_image(request.fitted, request.settings))
    return _supported(tuple(step for step in layered.steps if step.operator not in SHAPES), layered, _lrp_types())


def _no_maps(request: Request, path: Path) -> str:
    layout = request.layout
    plain = layout.form == "maps" and layout.calls == 1 and not layout.overwritten
    if request.score is not classifier_scores or plain:
        return ""
    return f"the classifier's logits need a layer that puts out maps (B, channels, H, W) once and keeps them; {layout.layer!r} does not"


def _neither(*refusals: Callable[[Request, Path], str]) -> Callable[[Request, Path], str]:
    return lambda request, path: next((reason for refusal in refusals if (reason := refusal(request, path))), "")


# ---- on what it works ----


def _itself(request: Request) -> AbstractContextManager[PixelScores]:
    return open_scores(request.fitted, request.score)


def _copy(request: Request) -> AbstractContextManager[PixelScores]:
    return open_copy(request.fitted, request.score)


@contextmanager
def _layered(request: Request) -> Iterator[PixelScores]:
    """A copy in which LRP meets nothing but layers it has rules for: Ψ in plain layers, other leaves out of its sight."""
    with _copy(request) as network:
        _unfold(network)
        _hide(network, _lrp_types())
        yield network


def _unfold(network: PixelScores) -> None:
    """Put Ψ in plain layers in the place of Ψ."""
    network.attribute_network = LayeredAttributeNetwork(network.attribute_network).eval().requires_grad_(False)  # type: ignore[arg-type]


class _Unseen(nn.Module):
    """Runs a module that LRP shall not find among the leaves; the child is there so that this is no leaf itself."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.hidden, self.child = (module,), nn.Dropout(0.0)

    def forward(self, *arguments: Any) -> Any:
        return self.hidden[0](*arguments)


def _hide(module: nn.Module, rules: Mapping[type, Any]) -> None:
    for name, child in module.named_children():
        if any(True for _ in child.children()):
            _hide(child, rules)
        elif type(child) not in rules:
            setattr(module, name, _Unseen(child))


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


_plain = partial(Method, refusal=_never, opened=_itself, build=_of_network, arguments=_nothing, rows=_one)
METHODS: dict[str, Method] = {
    "guided_backpropagation": _plain("GuidedBackprop", refusal=_unguided),
    "gradient": _plain("Saliency", arguments=_fixed(abs=False)),
    "input_x_gradient": _plain("InputXGradient"),
    "integrated_gradients": _plain("IntegratedGradients", arguments=_path_integral, rows=lambda settings: settings.steps),
    "deep_lift": _plain("DeepLift", refusal=_no_rescale_rule, opened=_copy, arguments=_difference, most=1),
    "lrp": _plain("LRP", refusal=_no_epsilon_rule, opened=_layered),
    "occlusion": _plain("Occlusion", arguments=_patches),
    "grad_cam": _plain("LayerGradCam", refusal=_no_maps, build=_of_layer, arguments=_fixed(relu_attributions=True)),
    "guided_grad_cam": _plain(
        "GuidedGradCam", refusal=_neither(_unguided, _no_maps), build=_of_layer, arguments=_fixed(interpolate_mode="bilinear")
    ),
}


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
        explain = partial(
            _smoothed(algorithm, method, settings) if settings.smooth_samples else algorithm.attribute, **method.arguments(request)
        )
        parts = zip(images.split(size), targets.to(images.device).split(size), strict=True)
        try:
            maps = torch.cat([explain(part, target=target).detach() for part, target in parts])
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError, TypeError, AttributeError) as error:
            raise AttributionError(f"Captum's {method.captum} fails on this network: {error}; try another method") from error
    return maps.float() if maps.shape[2:] == images.shape[2:] else F.interpolate(maps.float(), images.shape[2:], mode="bilinear")


def _smoothed(algorithm: Any, method: Method, settings: AttributionSettings) -> Callable[..., Tensor]:
    """SmoothGrad over ``algorithm``, for one image at a time, whose noise is drawn from the seed anew."""
    from captum.attr import NoiseTunnel

    together = method.most or max(1, settings.batch_size // method.rows(settings))

    def explain(image: Tensor, **arguments: Any) -> Tensor:
        torch.manual_seed(settings.seed)  # of the process, whose state is kept
        noise = settings.smooth_noise * float(image.max() - image.min())
        counts = {"nt_samples": settings.smooth_samples, "nt_samples_batch_size": together}
        maps: Tensor = NoiseTunnel(algorithm).attribute(image, stdevs=noise, **counts, **arguments)
        return maps

    return explain
