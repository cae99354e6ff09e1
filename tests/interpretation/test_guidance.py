"""Guided backpropagation is exact where that is claimed, and refused where Captum would return something else without a word."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import oracles
import pytest
import small
import timm
import torch
import torch.nn.functional as F
import torchvision.models as zoo
from all_scores import SCORES
from models import CLASSES, FAMILIES, ModuleCNN, SmallCNN, left_alone, mobile, swin, vit
from torch import Tensor, nn

from flint_posthoc import FlintExplainer
from flint_posthoc.errors import AttributionError
from flint_posthoc.interpretation.attribution import Attribution, attribute_pixels
from flint_posthoc.interpretation.attribution.guidance import PixelPath, trace
from flint_posthoc.interpretation.attribution.scores import copied, open_scores
from flint_posthoc.interpreter.attributes import AttributeNetworkConfig
from flint_posthoc.interpreter.fitted import FittedInterpreter
from flint_posthoc.learning.presets import FlintConfig

SIDE = 64
PSI = dataclasses.replace(
    small.INTERPRETER, attributes=AttributeNetworkConfig(hidden_channels=16, max_grid=4, pool_size=2, hidden_units=32, dropout=0.0)
)


def headless(build: Callable[..., nn.Module]) -> Callable[[], nn.Module]:
    """Without the hundred million parameters of its last layers, which no tap sees."""

    def small_head() -> nn.Module:
        model = build(num_classes=CLASSES)
        model.avgpool, model.classifier = nn.AdaptiveAvgPool2d(1), nn.LazyLinear(CLASSES)
        return model

    return small_head


EXACT: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "resnet18, reused and in place": (zoo.resnet18, ("layer2", "layer3")),
    "vgg11": (headless(zoo.vgg11), ("features.10", "features.15")),
    "alexnet": (headless(zoo.alexnet), ("features.7", "features.10")),
    "squeezenet1_0": (zoo.squeezenet1_0, ("features.7", "features.10")),
    "densenet121": (zoo.densenet121, ("features.denseblock1", "features.denseblock2")),
    "resnext50_32x4d": (zoo.resnext50_32x4d, ("layer2", "layer3")),
    "regnet_y_400mf, gates": (zoo.regnet_y_400mf, ("trunk_output.block2", "trunk_output.block3")),
    "shufflenet_v2_x0_5": (zoo.shufflenet_v2_x0_5, ("stage2", "stage3")),
    "mnasnet0_5": (zoo.mnasnet0_5, ("layers.9", "layers.10")),
    "timm resnetv2_50, preactivation": (lambda: timm.create_model("resnetv2_50"), ("stages.1", "stages.2")),
    "timm repvgg_a0": (lambda: timm.create_model("repvgg_a0"), ("stages.1", "stages.2")),
}


def explained(model: nn.Module, layers: tuple[str, ...], side: int = SIDE) -> tuple[FittedInterpreter, Tensor]:
    """An interpreter of it with three attributes that fire, and two images."""
    pixels = torch.randn(8, 3, side, side)
    with torch.no_grad():
        model.train()(pixels)  # moves the running statistics, so that activations keep their scale
    explain = FlintExplainer(model.eval(), layers=layers, num_attributes=3, config=FlintConfig(interpreter=PSI))
    explain.fit(pixels, max_steps=1, batch_size=8, progress=False)
    with torch.no_grad():
        for parameter in explain.interpreter.attribute_network.linear.parameters():
            parameter.abs_()
    return explain.fitted, pixels[:2]


def guided(fitted: FittedInterpreter, pixels: Tensor, **target: Any) -> Attribution:
    return attribute_pixels(fitted, pixels, method="guided_backpropagation", **({"attribute": 0} | target))


def reference(fitted: FittedInterpreter, pixels: Tensor, column: int, score: str = "attributes") -> Tensor:
    """The plain gradient of a copy whose every ReLU module has the guided derivative."""
    copy_ = copied(fitted)
    oracles.guide(copy_.view.model), oracles.guide(copy_.interpreter)
    with open_scores(copy_, SCORES[score]) as network:
        leaf = pixels.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(network(leaf)[:, column].sum(), leaf)
    return gradient


def path(fitted: FittedInterpreter, pixels: Tensor) -> PixelPath:
    with open_scores(fitted, SCORES["attributes"]) as network:
        return trace(network, pixels[:1])


@pytest.mark.parametrize(("build", "layers"), EXACT.values(), ids=EXACT.keys())
def test_exact_where_claimed(build: Callable[[], nn.Module], layers: tuple[str, ...]) -> None:
    fitted, pixels = explained(build(), layers)
    found = guided(fitted, pixels)
    expected = reference(fitted, pixels, 0)
    peaks = found.values.abs().amax(dim=(1, 2, 3)).tolist()
    assert found.exact
    assert min(peaks) > 0
    torch.testing.assert_close(found.values, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
    plain = attribute_pixels(fitted, pixels, attribute=0, method="gradient").values
    assert not torch.allclose(plain, expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))


@pytest.mark.parametrize("of", ["interpreter", "classifier"])
def test_exact_for_class_logits_too(of: str) -> None:
    family = FAMILIES["resnet"]
    fitted, pixels = explained(family.build(), family.layers, family.size)
    found = guided(fitted, pixels, attribute=None, class_index=3, of=of)
    expected = reference(fitted, pixels, 3, of)
    assert found.exact
    torch.testing.assert_close(found.values, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def convnext() -> nn.Module:
    return timm.models.ConvNeXt(num_classes=CLASSES, depths=(1, 1, 1, 1), dims=(8, 12, 16, 24))


class Custom(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return values.clamp(min=0)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient


class Activated(nn.Module):
    """A convolution, an activation, a convolution with a ReLU module."""

    def __init__(self, activate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.relu = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3), nn.ReLU()
        self.activate, self.fc = activate, nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.relu(self.second(self.activate(self.first(images)))).amax((2, 3)))


VACUOUS = {
    "ViT": (vit, ("blocks.1", "blocks.2"), 32, "VisionTransformer: it would be the plain gradient.*only GELU"),
    "Swin": (swin, ("layers.1", "layers.2.blocks.0"), 32, "SwinTransformer.*plain gradient.*only GELU"),
    "ConvNeXt": (convnext, ("stages.1", "stages.2"), 64, "ConvNeXt.*plain gradient.*only GELU"),
    "EfficientNet": (zoo.efficientnet_b0, ("features.3", "features.4"), 64, "EfficientNet.*plain gradient.*only SiLU"),
    "MobileNetV2": (mobile, ("features.4", "features.5"), 32, r"MobileNetV2.*plain gradient.*only ReLU6 or Hardtanh \(10×\)"),
    "functional": (SmallCNN, ("conv1", "conv2"), 32, r"SmallCNN.*plain gradient.*only functional ReLU \(1×\)"),
    "MobileNetV3": (zoo.mobilenet_v3_small, ("features.4", "features.8"), 64, r"by half: \d+ ReLU modules are, but not Hardswish"),
}
ACTIVATIONS = {
    "functional ReLU": F.relu,
    "clamp": lambda values: values.clamp(min=0),
    "maximum": lambda values: torch.maximum(values, torch.zeros(())),
    "LeakyReLU": nn.LeakyReLU(),
    "PReLU": nn.PReLU(),
    "ELU": nn.ELU(),
    "Mish": nn.Mish(),
    "Softplus": nn.Softplus(),
    "custom function Custom": Custom.apply,
}


@pytest.mark.parametrize(("build", "layers", "side", "message"), VACUOUS.values(), ids=VACUOUS.keys())
def test_refused_by_name_where_it_would_be_vacuous_or_half_guided(
    build: Callable[[], nn.Module], layers: tuple[str, ...], side: int, message: str
) -> None:
    model = build()
    fitted, pixels = explained(model, layers, side)
    for method in ("guided_backpropagation", "guided_grad_cam"):
        with left_alone(model), pytest.raises(AttributionError, match=f"(?s){method}' does not hold on this .*{message}.*; try method='"):
            attribute_pixels(fitted, pixels, attribute=0, method=method)


@pytest.mark.parametrize(("word", "activate"), ACTIVATIONS.items(), ids=ACTIVATIONS.keys())
def test_every_other_rectifier_is_named(word: str, activate: Callable[[Tensor], Tensor]) -> None:
    fitted, pixels = explained(Activated(activate), ("relu",), 16)
    with pytest.raises(AttributionError, match=rf"guided by half: 1 ReLU modules are, but not {word}.* \(1×\); try method='\w+'"):
        guided(fitted, pixels)


@pytest.mark.parametrize("bounded", [F.normalize, torch.sigmoid, lambda values: values / values.std().clamp(min=1e-6)])
def test_what_is_no_rectifier_does_not_count(bounded: Callable[[Tensor], Tensor]) -> None:
    fitted, pixels = explained(Activated(bounded), ("relu",), 16)
    found = guided(fitted, pixels)
    expected = reference(fitted, pixels, 0)
    torch.testing.assert_close(found.values, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


class WayAround(nn.Module):
    """A residual block whose way around begins in front of its ReLU."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.relu, self.conv = nn.ReLU(inplace), nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        return self.conv(self.relu(maps)) + maps


def with_a_way_around(inplace: bool) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), WayAround(inplace), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES))


def test_where_captum_is_inexact_the_map_says_so_and_the_reference_shows_it() -> None:
    fitted, pixels = explained(with_a_way_around(inplace=False), ("1",), 16)
    found = guided(fitted, pixels)
    assert not found.exact
    assert "inexact at '1.relu': what enters there also goes around the ReLU" in found.reason
    expected = reference(fitted, pixels, 0)
    assert float((found.values - expected).abs().max()) > 0.01 * float(expected.abs().max())
    gradient = attribute_pixels(fitted, pixels, attribute=0, method="gradient")
    assert gradient.exact
    assert gradient.reason == "as asked for"


def test_a_tap_in_front_of_a_rectifier_is_a_way_around_it_only_where_the_pass_goes_on() -> None:
    model = ModuleCNN()
    deepest, pixels = explained(model, ("conv1",), 16)
    with pytest.raises(AttributionError, match="no ReLU module on the classifier's path, only linear layers"):
        guided(deepest, pixels)
    both, pixels = explained(model, ("conv1", "conv2"), 16)
    assert path(both, pixels).rectifiers_shared == ["act"]
    assert not guided(both, pixels).exact


def test_refused_where_captums_clones_change_what_the_network_computes() -> None:
    model = with_a_way_around(inplace=True)
    fitted, pixels = explained(model, ("1",), 16)
    for method in ("guided_backpropagation", "deep_lift", "lrp"):
        with left_alone(model), pytest.raises(AttributionError, match="overwrites its input in place and the input is used again"):
            attribute_pixels(fitted, pixels, attribute=0, method=method)


def test_the_path_names_who_ran_what() -> None:
    fitted, pixels = explained(ModuleCNN(), ("conv2",), 16)
    found = path(fitted, pixels)
    assert found.guided == 2  # ``act`` runs twice; ``late`` comes after the tap
    assert found.calls["classifier.act"] == 2
    assert found.calls["classifier.late"] == found.calls["classifier.spare"] == 0
    assert found.unguided == {}
    assert not found.altered
    assert "MaxPool2DWithIndices in a functional operation" in map(str, found.steps)
    assert "Convolution in Conv2d 'conv2'" in map(str, found.steps)


def test_a_copy_of_the_classifier_is_no_part_of_the_reference() -> None:
    """The oracle replaces modules: it has to do so in copies."""
    model = ModuleCNN()
    fitted, pixels = explained(model, ("conv2",), 16)
    before = copy.deepcopy(model.state_dict())
    reference(fitted, pixels, 0)
    assert isinstance(model.act, nn.ReLU)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
