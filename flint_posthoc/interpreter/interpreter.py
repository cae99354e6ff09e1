"""g = h∘Φ with its decoder: what a fit learns and an artefact holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..arrays import Activations, Attributes, Images, ImageShape, Logits, MapShape
from ..errors import ConfigurationError
from ..measures import class_centred
from .attributes import AttributeNetwork, AttributeNetworkConfig
from .decoder import Decoder, DecoderConfig, decoder_resolution


@dataclass(frozen=True)
class InterpreterConfig:
    """Sizes of Ψ, h and d, and how they start.

    Attributes:
        head_dropout: dropout on Φ(x) before h while training (0.01 by the authors).
        initial_bias: where standardised pre-activations of Ψ's last layer start; ``None`` keeps torch's own initialisation (the paper).
        centre_head: store h class-centred after a fit (Σ_c W_{c,j} = 0), where the output kind allows it.
    """

    attributes: AttributeNetworkConfig = field(default_factory=AttributeNetworkConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    head_dropout: float = 0.0
    initial_bias: float | None = 0.5
    centre_head: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.head_dropout < 1:
            raise ConfigurationError(f"head_dropout must be in [0, 1), got {self.head_dropout}")


class InterpreterOutput(NamedTuple):
    """What one forward pass of the interpreter gives."""

    attributes: Attributes
    logits: Logits
    reconstruction: Images


class Interpreter(nn.Module):
    """Ψ, h and d as one module. The bias of h takes no part in contributions.

    Args:
        tap_shapes: (channels, height, width) of each tapped layer in canonical form.
        image_shape: (channels, height, width) of the classifier's input.
        num_attributes: J ≥ 1.
        num_classes: C ≥ 1.
    """

    def __init__(
        self,
        tap_shapes: tuple[MapShape, ...],
        image_shape: ImageShape,
        num_attributes: int,
        num_classes: int,
        config: InterpreterConfig = InterpreterConfig(),
    ) -> None:
        super().__init__()
        self.config = config
        self.image_shape, self.num_attributes, self.num_classes = image_shape, num_attributes, num_classes
        self.attribute_network = AttributeNetwork(tap_shapes, num_attributes, config.attributes, image_side=max(image_shape[1:]))
        self.head_dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(num_attributes, num_classes)
        resolution = decoder_resolution(*image_shape[1:], config.decoder.max_side)
        self.decoder = Decoder(num_attributes, image_shape[0], resolution, config.decoder, image_side=max(image_shape[1:]))

    def forward(self, activations: Activations) -> InterpreterOutput:
        attributes = self.attribute_network(activations)
        return InterpreterOutput(attributes, self.head(self.head_dropout(attributes)), self.decoder(attributes))

    def attributes_and_logits(self, activations: Activations) -> tuple[Attributes, Logits]:
        """Φ(x) and g's logits without the reconstruction."""
        attributes = self.attribute_network(activations)
        return attributes, self.head(attributes)

    def initialize_from(self, activations: Activations) -> None:
        """Start Ψ from a first batch of activations (``InterpreterConfig.initial_bias``)."""
        if self.config.initial_bias is not None:
            self.attribute_network.initialize_from(activations, self.config.initial_bias)

    @torch.no_grad()
    def restart(self, units: Tensor, activations: Activations) -> None:
        """Re-initialise the flagged attributes (J,): Ψ's row from data, h's and d's columns to zero so that nothing learnt is disturbed."""
        self.attribute_network.restart_units(units, activations, self.config.initial_bias or 0.0)
        self.head.weight[:, units] = 0
        self.decoder.linear.weight[:, units] = 0

    @torch.no_grad()
    def centre_head(self) -> None:
        """Store h class-centred: softmax does not change, relevance no longer depends on an arbitrary k_j (docs/method.md)."""
        weight, bias = class_centred(self.head.weight, self.head.bias)
        self.head.weight.copy_(weight)
        self.head.bias.copy_(bias)
