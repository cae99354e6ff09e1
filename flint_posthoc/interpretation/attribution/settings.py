"""What the methods of attribution are told, and what they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...arrays import Images
from ...classifier.adapter import TapLayout
from ...errors import AttributionError, ConfigurationError
from ...interpreter.fitted import FittedInterpreter
from .scores import ScoreFunction


def _mean_colour(fitted: FittedInterpreter) -> Tensor:
    return fitted.class_means.mean(dim=(0, 2, 3)).view(1, -1, 1, 1)


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
        baseline: what "nothing" looks like, for integrated gradients, DeepLIFT and occlusion: "mean", the mean colour of
            the classes' mean images, or "black".
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
        if (
            min(self.steps, self.batch_size) < 1
            or self.smooth_samples < 0
            or (self.occlusion_patch is not None and self.occlusion_patch < 1)
        ):
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
    score: ScoreFunction
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
