"""A classifier, data and settings so small that a whole fit takes a fraction of a second."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from flint_posthoc import FlintExplainer
from flint_posthoc.interpreter.attributes import AttributeNetworkConfig
from flint_posthoc.interpreter.decoder import DecoderConfig
from flint_posthoc.interpreter.interpreter import InterpreterConfig
from flint_posthoc.learning.joint import JointSettings
from flint_posthoc.learning.presets import FlintConfig
from flint_posthoc.learning.settings import FitSettings

CLASSES, CHANNELS, SIDE = 4, 2, 10
LAYERS = ("conv1", "conv2")
INTERPRETER = InterpreterConfig(
    attributes=AttributeNetworkConfig(hidden_channels=4, max_grid=4, pool_size=2, hidden_units=8, dropout=0.0),
    decoder=DecoderConfig(base_channels=2, channels=(3,)),
    head_dropout=0.0,
    initial_bias=0.5,
    centre_head=True,
)
CONFIG = FlintConfig(
    interpreter=INTERPRETER,
    settings=FitSettings(batch_size=8, max_steps=12, learning_rate=2e-3),
    joint=JointSettings(refit_steps=0),
)


class Tiny(nn.Module):
    """Two convolutions and a linear layer over images (2, 10, 10); ``calls`` forward passes, ``seen`` images."""

    calls = 0
    seen = 0

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(CHANNELS, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.fc = nn.Linear(6 * 4, classes)

    def forward(self, images: Tensor) -> Tensor:
        Tiny.calls += 1
        Tiny.seen += len(images)
        hidden = F.max_pool2d(self.conv1(images).relu(), 2)
        return self.fc(F.adaptive_avg_pool2d(self.conv2(hidden).relu(), 2).flatten(1))


def tiny(seed: int = 0, classes: int = CLASSES) -> Tiny:
    """A classifier whose predictions are spread over its classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Tiny(classes).eval()
        with torch.no_grad():
            deviation, mean = torch.std_mean(model(images(256)), dim=0)
            model.fc.weight *= 3 / deviation[:, None]
            model.fc.bias.copy_(3 * (model.fc.bias - mean) / deviation)
    return model


def images(count: int = 48, seed: int = 0) -> Tensor:
    """Blobs of different places, colours and strengths, with noise."""
    source = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, CHANNELS, 3, 3, generator=source)
    return F.interpolate(coarse, (SIDE, SIDE), mode="bilinear") + 0.1 * torch.randn(count, CHANNELS, SIDE, SIDE, generator=source)


def labels(model: nn.Module, pixels: Tensor, wrong_every: int = 3) -> Tensor:
    """The model's own predictions with every n-th one shifted, so that it is right on some images and wrong on others."""
    with torch.no_grad():
        predicted = model(pixels).argmax(dim=1)
    predicted[::wrong_every] = (predicted[::wrong_every] + 1) % CLASSES
    return predicted


def loader(pixels: Tensor, *columns: Tensor, batch_size: int = 8, shuffle: bool = True) -> DataLoader[Any]:
    return DataLoader(TensorDataset(pixels, *columns), batch_size=batch_size, shuffle=shuffle)


def generated(pixels: Tensor, batch_size: int = 8) -> Iterator[Tensor]:
    """Data that can be read only once."""
    yield from pixels.split(batch_size)


def explainer(model: nn.Module | None = None, **settings: Any) -> FlintExplainer:
    """Three attributes of two layers of a tiny classifier, not fitted."""
    return FlintExplainer(model or tiny(), **({"layers": LAYERS, "num_attributes": 3, "config": CONFIG} | settings))


def fitted(model: nn.Module | None = None, data: Any = None, **settings: Any) -> FlintExplainer:
    """The same, fitted for a dozen steps."""
    explain = explainer(model, **settings)
    explain.fit(images() if data is None else data, progress=False)
    return explain


def rarely_firing(explain: FlintExplainer, share: float = 0.25) -> FlintExplainer:
    """The same with each attribute silent on all but ``share`` of images, so that some images are explained by none."""
    with explain.fitted.view.frozen() as run, torch.no_grad():
        network = explain.interpreter.attribute_network
        network.linear.bias -= network.preactivations(run.activations(images(200, seed=7))).quantile(1 - share, dim=0)
    return explain


def weights(explain: FlintExplainer) -> dict[str, bytes]:
    """Every learnt tensor, bit for bit."""
    return {name: value.numpy().tobytes() for name, value in explain.interpreter.state_dict().items()}


def with_batch(batch_size: int) -> FlintConfig:
    """``CONFIG`` with mini-batches of another size."""
    return dataclasses.replace(CONFIG, settings=dataclasses.replace(CONFIG.settings, batch_size=batch_size))
