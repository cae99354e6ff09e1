"""Small classifiers with random weights, one a difficulty that real families have, and a way to see whether something touched them."""

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 7


class SmallCNN(nn.Module):
    """Two convolutions and two linear layers, every activation functional."""

    def __init__(self, channels: int = 3, classes: int = CLASSES) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, 6, 5), nn.Conv2d(6, 8, 5)
        self.fc1, self.fc2 = nn.Linear(8 * 5 * 5, 16), nn.Linear(16, classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.max_pool2d(F.relu(self.conv1(images)), 2)
        hidden = F.max_pool2d(F.relu(self.conv2(hidden)), 2)
        return self.fc2(F.relu(self.fc1(hidden.flatten(1))))


class ModuleCNN(nn.Module):
    """Convolutions with modules between: ``act`` runs twice, ``conv2``'s output is overwritten in place, ``spare`` never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3), nn.Linear(8, CLASSES)
        self.act, self.late = nn.ReLU(), nn.ReLU(inplace=True)
        self.pool, self.spare = nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.max_pool2d(self.act(self.conv1(images)), 2)
        hidden = self.late(self.conv2(self.act(hidden)))
        return self.fc(self.pool(hidden).flatten(1))


class WrappedOutput(nn.Module):
    """A classifier whose answer is wrapped: ``wrap(logits, hidden)`` is what forward returns."""

    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.head, self.wrap = nn.Conv2d(3, 5, 3), nn.Linear(5, CLASSES), wrap

    def forward(self, images: Tensor) -> Any:
        hidden = self.conv(images).relu()
        return self.wrap(self.head(hidden.amax((2, 3))), hidden)


class Careless(nn.Module):
    """Writes to itself and to the process in every forward pass, as research code does; raises after its first layer when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = nn.Conv2d(3, 4, 3), SmallCNN()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(4))
        self.history: list[Tensor] = []
        self.counter = torch.zeros(())
        self.fail = False

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(images)
        self.seen += len(images)
        self.mean = 0.9 * self.mean + hidden.detach().mean((0, 2, 3))
        self.history.append(hidden)
        self.counter += 1
        self.last = hidden
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
        if self.fail:
            raise RuntimeError("half-way")
        return self.inner(images)


def residual() -> nn.Module:
    """A batch-norm ResNet with moved running statistics and in-place ReLUs that run twice a block."""
    from timm.models.resnet import BasicBlock, ResNet

    model = ResNet(BasicBlock, [1, 1, 1, 2], channels=(8, 12, 16, 24), stem_width=8, num_classes=CLASSES)
    model(torch.randn(4, 3, 48, 48))
    return model


def mobile() -> nn.Module:
    """Depthwise convolutions, ReLU6, blocks with and without a way around."""
    from torchvision.models import MobileNetV2

    return MobileNetV2(num_classes=CLASSES, width_mult=0.25, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2], [6, 64, 2, 2]])


def vit(registers: int = 0) -> nn.Module:
    from timm.models import VisionTransformer

    return VisionTransformer(32, 8, num_classes=CLASSES, embed_dim=24, depth=4, num_heads=3, reg_tokens=registers)


def swin() -> nn.Module:
    """Activations (B, H, W, C)."""
    from timm.models import SwinTransformer

    return SwinTransformer(32, 2, num_classes=CLASSES, embed_dim=12, depths=(1, 1, 2), num_heads=(1, 2, 3), window_size=4)


@dataclass(frozen=True)
class Family:
    """A classifier, two of its layers in forward order, and the size of its images."""

    build: Callable[[], nn.Module]
    layers: tuple[str, str]
    size: int = 32

    def images(self, count: int = 4) -> Tensor:
        return torch.randn(count, 3, self.size, self.size)


FAMILIES = {
    "cnn": Family(SmallCNN, ("conv1", "conv2")),
    "resnet": Family(residual, ("layer3", "layer4.0"), size=48),
    "mobilenet": Family(mobile, ("features.4", "features.5")),
    "vit": Family(vit, ("blocks.1", "blocks.2")),
    "swin": Family(swin, ("layers.1", "layers.2.blocks.0")),
}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())


def _bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Instance attributes; containers by the identity and order of what they hold."""
    return {
        name: [*map(id, value), *(map(id, value.values()) if isinstance(value, dict) else ())]
        if isinstance(value, dict | list | set)
        else id(value)
        for name, value in vars(module).items()
    }


def traces_of_model(model: nn.Module) -> dict[str, Any]:
    """Everything about a classifier that a call has to leave as it was."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "bits": {name: _bits(tensor) for name, tensor in tensors.items()},
        "requires_grad": {name: tensor.requires_grad for name, tensor in tensors.items()},
        "gradients": {
            name: (id(tensor.grad), None if tensor.grad is None else _bits(tensor.grad)) for name, tensor in model.named_parameters()
        },
        "attributes": {name: _attributes(module) for name, module in model.named_modules()},
        "plain tensors": {
            (name, key): _bits(value)
            for name, module in model.named_modules()
            for key, value in vars(module).items()
            if isinstance(value, Tensor)
        },
    }


def traces_of_process() -> dict[str, Any]:
    """Everything about the process that a call has to leave as it was (not Python's random state: beartype, on in tests, draws from it)."""
    return {
        "grad mode": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "flags": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.mkldnn.deterministic),
        "precision": (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.fp32_precision),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": [np.asarray(part).tolist() for part in np.random.get_state()],  # noqa: NPY002
    }


@contextmanager
def left_alone(model: nn.Module) -> Iterator[None]:
    """Fails, naming what changed, if the body leaves a trace on the classifier or in the process."""
    before = copy.copy({**traces_of_model(model), **traces_of_process()})
    try:
        yield
    finally:
        after = {**traces_of_model(model), **traces_of_process()}
        changed = {name: _difference(before[name], after[name]) for name in before if before[name] != after[name]}
        assert not changed, f"changed: {changed}"


def _difference(before: Any, after: Any) -> Any:
    if isinstance(before, dict) and isinstance(after, dict):
        return sorted(str(key) for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return str(before)[:80], str(after)[:80]
