"""Which layers are suggested, and why."""

from collections import OrderedDict

import pytest
import torch
from models import Careless, ModuleCNN, SmallCNN, every_family, left_alone, mobile, residual, swin, vit
from torch import Tensor, nn

from flint_posthoc.classifier.adapter import find_adapter
from flint_posthoc.classifier.preflight import preflight
from flint_posthoc.errors import LayerError


def suggested(model: nn.Module, size: int = 32) -> tuple[str, ...]:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return find_adapter(model).suggest_layers(model, images).layers


def torchvision_model(name: str) -> nn.Module:
    import torchvision

    return getattr(torchvision.models, name)(num_classes=20)


def vgg() -> nn.Module:
    """VGG-11 with a small head."""
    from torchvision.models.vgg import cfgs, make_layers

    head = nn.Sequential(nn.Linear(512, 16), nn.ReLU(), nn.Linear(16, 7))
    return nn.Sequential(OrderedDict(features=make_layers(cfgs["A"]), pool=nn.AdaptiveMaxPool2d(1), flat=nn.Flatten(), head=head))


def convnext() -> nn.Module:
    from timm.models import ConvNeXt

    return ConvNeXt(depths=(1, 1, 2, 2), dims=(8, 16, 24, 32), num_classes=7)


@pytest.mark.parametrize(
    ("build", "size", "layers"),
    [
        (SmallCNN, 32, ("conv1", "conv2")),
        (residual, 48, ("layer3", "layer4.0")),
        (mobile, 32, ("features.4", "features.5")),
        (vit, 32, ("blocks.1", "blocks.2")),  # blocks.3's patch tokens do not reach the logits
        (lambda: vit(registers=4), 32, ("blocks.1", "blocks.2")),
        (swin, 32, ("layers.2.downsample", "layers.2.blocks.0")),
        (convnext, 64, ("stages.3.downsample", "stages.3.blocks.0")),
        (lambda: torchvision_model("mobilenet_v2"), 64, ("features.16", "features.17")),
        (lambda: torchvision_model("resnet18"), 48, ("layer3", "layer4.0")),
        (lambda: torchvision_model("squeezenet1_0"), 64, ("features.11", "features.12")),
        (vgg, 64, ("features.15", "features.20")),
    ],
)
def test_layers_of_known_families(build, size, layers):
    assert suggested(build(), size) == layers


@every_family
def test_it_leaves_no_trace_repeats_itself_and_passes_preflight(family):
    model, images = family.build(), family.images(3)
    adapter = find_adapter(model)
    with left_alone(model):
        first, second = adapter.suggest_layers(model, images), adapter.suggest_layers(model, images.flip(0))
    assert first == second
    assert preflight(model, first.layers, images).warnings == ()


def test_a_model_that_writes_to_itself_is_left_alone():
    model = Careless()
    with left_alone(model):
        assert suggested(model) == ("inner.conv1", "inner.conv2")


def test_zero_weights_in_the_head_do_not_hide_the_layers():
    model = SmallCNN()
    nn.init.zeros_(model.fc2.weight)
    assert suggested(model) == ("conv1", "conv2")


def test_layers_that_run_twice_and_pooled_ones_are_left_out():
    assert suggested(ModuleCNN()) == ("conv1", "conv2")


def test_a_pool_that_resamples_to_a_fixed_grid_is_left_out():
    layers = (
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(54, 8),
        nn.ReLU(),
    )
    assert suggested(nn.Sequential(*layers, nn.Linear(8, 7)), 16) == ("1", "3")


def test_tokens_that_do_not_reach_the_logits_are_left_out_whatever_the_head():
    model = vit()  # the class token alone goes into the head
    model.head = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 7))
    assert suggested(model) == ("blocks.1", "blocks.2")
    model.global_pool = "avg"
    assert suggested(model)[-1] == "norm"


def test_the_map_of_logits_is_left_out():
    head = (nn.Conv2d(4, 7, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())  # as in SqueezeNet: what is pooled are the logits
    assert suggested(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *head), 16) == ("1",)


def test_a_branch_is_no_bottleneck():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right, self.join = (nn.Conv2d(width, 4, 3) for width in (3, 4, 4, 4))
            self.head = nn.Linear(4, 7)

        def forward(self, images: Tensor) -> Tensor:
            stem = self.stem(images).relu()
            return self.head(self.join(self.left(stem).relu() + self.right(stem).relu()).relu().amax((2, 3)))

    assert suggested(Branches()) == ("stem", "join")


def test_what_had_to_be_given_up_is_said():
    images = torch.randn(2, 3, 16, 16)
    linear = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 7))
    suggestion = find_adapter(linear).suggest_layers(linear, images)
    assert suggestion.layers == ("0",)
    assert "only linear layers follow: the interpreter may merely copy them; none before it differs enough" in suggestion.reason

    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 7)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.conv(images).relu().amax((2, 3)) + images.mean((1, 2, 3))[:, None])

    suggestion = find_adapter(Shortcut()).suggest_layers(Shortcut(), images)
    assert suggestion.layers == ("conv",)
    assert "other paths lead around it" in suggestion.reason


def test_a_model_without_maps_asks_for_layers():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU(), nn.Linear(16, 7))
    with left_alone(model), pytest.raises(LayerError, match=r"no layer with spatial or token extent that reaches the logits; pass layers="):
        suggested(model, 8)


def test_it_works_under_no_grad_and_inference_mode():
    model = SmallCNN()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert suggested(model) == ("conv1", "conv2")
