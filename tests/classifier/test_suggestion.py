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
        (SmallCNN, 32, ("conv2",)),  # conv1 is in the first half of the net
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
        assert suggested(model) == ("inner.conv2",)


def test_zero_weights_in_the_head_do_not_hide_the_layers():
    model = SmallCNN()
    nn.init.zeros_(model.fc2.weight)
    assert suggested(model) == ("conv2",)


def test_layers_that_run_twice_and_pooled_ones_are_left_out():
    assert suggested(ModuleCNN()) == ("conv2",)


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
    assert suggested(nn.Sequential(*layers, nn.Linear(8, 7)), 16) == ("3",)


def test_tokens_that_do_not_reach_the_logits_are_left_out_whatever_the_head():
    model = vit()  # the class token alone goes into the head
    model.head = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 7))
    assert suggested(model) == ("blocks.2",)
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

    assert suggested(Branches()) == ("join",)


def test_of_two_streams_both_are_taken_where_they_see_every_path_together():
    class Streams(nn.Module):
        """As in CrossViT: two resolutions, each with blocks of its own, that meet in the head only."""

        def __init__(self) -> None:
            super().__init__()
            self.fine, self.coarse = (nn.Sequential(nn.Conv2d(3, 4, 3, step), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU()) for step in (1, 2))
            self.mix, self.head = nn.Linear(12, 8), nn.Linear(8, 7)

        def forward(self, images: Tensor) -> Tensor:
            both = torch.cat([stream(images).amax((2, 3)) for stream in (self.fine, self.coarse)], dim=1)
            return self.head(self.mix(both).relu())

    suggestion = find_adapter(Streams()).suggest_layers(Streams(), torch.randn(2, 3, 32, 32))
    assert suggestion.layers == ("fine.3", "coarse.3")
    assert "together with fine.3 (6 x 28 x 28, 33% of the linear layers before it) it sees every path" in suggestion.reason


def test_of_several_tensors_the_first_that_is_a_map_is_taken_and_read():
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3)

        def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
            new = self.conv(maps).relu()
            return new.mean(), new

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.pair, self.mix, self.head = nn.Conv2d(3, 4, 3), Pair(), nn.Linear(4, 5), nn.Linear(5, 7)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.mix(self.pair(self.stem(images).relu())[1].amax((2, 3))).relu())

    model, images = Model(), torch.randn(2, 3, 16, 16)
    assert suggested(model, 16) == ("pair",)
    (layout,) = preflight(model, ["pair"], images).layouts
    assert (layout.item, layout.form, layout.height) == (1, "maps", 12)
    maps = find_adapter(model).canonical(model.pair(model.stem(images).relu()), layout)
    assert torch.equal(maps, model.pair.conv(model.stem(images).relu()).relu())


def test_lists_of_windows_are_no_maps():
    class Windows(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return maps.flatten(2).transpose(1, 2)[:, None].relu()  # (B, one window, tokens, C)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.windows, self.mix, self.head = nn.Conv2d(3, 4, 3), Windows(), nn.Linear(4, 5), nn.Linear(5, 7)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.mix(self.windows(self.conv(images))).relu().amax((1, 2)))

    assert suggested(Model(), 16) == ("conv",)


def test_what_had_to_be_given_up_is_said():
    images = torch.randn(2, 3, 16, 16)
    linear = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 7))
    suggestion = find_adapter(linear).suggest_layers(linear, images)
    assert suggestion.layers == ("0",)
    assert suggestion.reason == (
        "0 (4 x 14 x 14, 50% of the linear layers before it) is the deepest good layer: every path to the logits runs through it, but only "
        "linear layers follow: the interpreter may merely copy them; no good one before it in the second half of the net differs enough"
    )

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
            assert suggested(model) == ("conv2",)
