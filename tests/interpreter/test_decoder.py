"""d: a reconstruction of any image at a capped resolution."""

import pytest
import torch
from torch import nn

from flint_posthoc.errors import ConfigurationError
from flint_posthoc.interpreter.decoder import Decoder, DecoderConfig, decoder_resolution


@pytest.mark.parametrize(
    ("size", "resolution"),
    [
        ((28, 28), (28, 28)),
        ((32, 32), (32, 32)),
        ((224, 224), (32, 32)),
        ((8, 8), (8, 8)),
        ((1, 1), (1, 1)),
        ((64, 64), (32, 32)),
        ((65, 65), (32, 32)),
        ((64, 48), (32, 24)),
        ((240, 320), (24, 32)),
        ((300, 2), (32, 1)),
    ],
)
def test_the_resolution_is_capped_and_keeps_the_aspect(size: tuple[int, int], resolution: tuple[int, int]) -> None:
    assert decoder_resolution(*size) == resolution


def test_the_cap_can_be_set() -> None:
    assert decoder_resolution(224, 112, 100) == (100, 50)
    assert decoder_resolution(28, 28, 100) == (28, 28)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(28, 28), (32, 32), (224, 224), (50, 31), (1, 1), (240, 320)])
@pytest.mark.parametrize("config", [DecoderConfig(), DecoderConfig(base_channels=2, channels=()), DecoderConfig(channels=(4, 5, 6))])
def test_reconstructions_have_the_images_channels_and_the_resolution(channels: int, size: tuple[int, int], config: DecoderConfig) -> None:
    resolution = decoder_resolution(*size, config.max_side)
    decoder = Decoder(6, channels, resolution, config)
    assert decoder(torch.rand(3, 6)).shape == (3, channels, *resolution)
    assert not any(isinstance(module, nn.modules.batchnorm._NormBase) for module in decoder.modules())


def test_normalised_images_below_zero_can_be_reconstructed_unless_the_authors_relu_is_asked_for() -> None:
    for final_relu in (False, True):
        decoder = Decoder(6, 1, (28, 28), DecoderConfig(final_relu=final_relu))
        assert bool((decoder(torch.rand(4, 6)) < 0).any()) is not final_relu


@pytest.mark.parametrize("wrong", [{"base_channels": 0}, {"channels": (4, 0)}, {"max_side": 0}])
def test_sizes_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="decoder sizes must be at least 1"):
        DecoderConfig(**wrong)  # type: ignore[arg-type]
