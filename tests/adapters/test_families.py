"""What torchvision, timm and transformers say of themselves."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from flint_posthoc.adapters.torch_module import TorchModuleAdapter
from flint_posthoc.adapters.transformers_models import TransformersAdapter
from models import SmallCNN, left_alone, mobile, swin, vit
from torch import Tensor, nn

from flint_posthoc.classifier.adapter import Crop, ModelAdapter, Normalization, find_adapter
from flint_posthoc.classifier.preflight import preflight
from flint_posthoc.errors import UnmappableActivationError, UnsupportedClassifierError


def test_families_are_recognised_by_where_their_class_is_defined():
    from torchvision.models import ResNet

    class Mine(ResNet):
        pass

    from torchvision.models.resnet import BasicBlock

    assert find_adapter(Mine(BasicBlock, [1, 1, 1, 1])).name == "torchvision"
    assert [find_adapter(model).name for model in (SmallCNN(), mobile(), vit(), swin())] == ["torch", "torchvision", "timm", "timm"]


def test_torchvision():
    from torchvision.models import squeezenet1_0

    model = squeezenet1_0()
    adapter = find_adapter(model)
    names = adapter.class_names(model)
    assert names is not None
    assert (len(names), names[0]) == (1000, "tench")
    assert adapter.normalization(model) == Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert adapter.input_size(model) == (3, 224, 224)
    assert adapter.crop(model) == Crop(0.875)
    assert adapter.class_names(mobile()) is None


def test_torchvision_with_one_channel_has_no_normalisation():
    model = mobile()
    model.features[0][0] = nn.Conv2d(1, 8, 3, 2, 1, bias=False)
    adapter = find_adapter(model)
    assert adapter.normalization(model) is None
    assert adapter.input_size(model) == (1, 224, 224)


def test_torchvision_vit_has_one_prefix_token():
    from torchvision.models import VisionTransformer

    model = VisionTransformer(32, 8, 2, 3, 24, 48, num_classes=7)
    (layout,) = preflight(model, ["encoder.layers.encoder_layer_0"], torch.randn(2, 3, 32, 32)).layouts
    assert (layout.form, layout.prefix, layout.height) == ("tokens", 1, 4)
    assert find_adapter(model).input_size(model) == (3, 32, 32)


def test_timm():
    import timm

    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=7)
    adapter = find_adapter(model)
    assert adapter.normalization(model) == Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert adapter.input_size(model) == (3, 64, 64)
    assert adapter.crop(model) == Crop(0.9, "bicubic")
    assert adapter.class_names(model) is None
    model.pretrained_cfg["label_names"] = list("abcdefg")
    assert adapter.class_names(model) == tuple("abcdefg")
    model.pretrained_cfg["label_names"] = {str(index): name for index, name in reversed([*enumerate("abcdefg")])}
    assert adapter.class_names(model) == tuple("abcdefg")
    grey = timm.create_model("resnet10t", in_chans=1)
    assert adapter.normalization(grey) is None
    assert adapter.input_size(grey) == (1, 176, 176)
    adapted = timm.create_model("resnet10t")
    adapted.conv1[0] = nn.Conv2d(1, adapted.conv1[0].out_channels, 3, 2, 1)
    assert adapter.normalization(adapted) is None
    assert adapter.input_size(adapted) == (1, 176, 176)


def test_timm_names_the_classes_of_published_imagenet_weights_alone():
    import timm

    model = timm.create_model("resnet10t")
    adapter = find_adapter(model)
    assert "in1k" in model.pretrained_cfg["tag"]
    names = adapter.class_names(model)
    assert len(names) == 1000
    assert names[207] == "golden retriever"
    model.pretrained_cfg["tag"] = "mine"
    assert adapter.class_names(model) is None
    assert adapter.class_names(timm.create_model("resnet10t", num_classes=7)) is None
    model.pretrained_cfg |= {"tag": "in1k_ft_in21k", "num_classes": 21841}
    assert adapter.class_names(model) is None


def test_timm_without_configuration_says_nothing():
    model = swin()
    model.pretrained_cfg = model.default_cfg = None
    adapter = find_adapter(model)
    assert adapter.normalization(model) is None
    assert adapter.class_names(model) is None


def test_timm_says_where_channels_stand_when_shapes_do_not():
    model = swin()  # 12 channels; on a 12 x 12 grid either reading fits
    layout = find_adapter(model).layout("layers.0", torch.randn(2, 12, 12, 12), torch.randn(2, 3, 24, 24), model)
    assert layout.form == "maps_last"


class StandIn(nn.Module):
    """The surface of a Hugging Face image classifier: ``config``, layers that put out tuples, an output that is a dict with attributes."""

    __module__ = "transformers.models.vit.modeling_vit"

    def __init__(self, labels: dict[int, str]) -> None:
        super().__init__()
        self.config = SimpleNamespace(id2label=labels, image_size=32, num_channels=3)
        self.embed, self.layer, self.head = nn.Conv2d(3, 24, 8, 8), TupleBlock(), nn.Linear(24, len(labels))

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor | None]:
        patches = self.embed(pixel_values).flatten(2).transpose(1, 2)
        (hidden,) = self.layer(torch.cat([patches.mean(1, keepdim=True), patches], dim=1))
        return {"loss": None, "logits": self.head(hidden.amax(1)), "hidden_states": hidden}


class TupleBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(24, 24)

    def forward(self, tokens: Tensor) -> tuple[Tensor]:
        return (self.inner(tokens).relu(),)


def test_transformers():
    model = StandIn({0: "cat", 1: "dog", 2: "bird"})
    adapter: ModelAdapter = find_adapter(model)
    assert adapter.name == "transformers"
    assert adapter.class_names(model) == ("cat", "dog", "bird")
    assert adapter.input_size(model) == (3, 32, 32)
    assert adapter.normalization(model) is None
    images = torch.randn(2, 3, 32, 32)
    with left_alone(model):
        record = preflight(model, ["layer"], images)
    assert record.num_classes == 3
    assert (record.layouts[0].form, record.layouts[0].prefix) == ("tokens", 1)


@pytest.mark.parametrize(("size", "expected"), [((32, 64), (3, 32, 64)), ([16, 16], (3, 16, 16)), (None, None)])
def test_transformers_sizes(size, expected):
    model = StandIn({0: "LABEL_0", 1: "LABEL_1"})
    model.config.image_size = size
    assert TransformersAdapter().input_size(model) == expected
    assert TransformersAdapter().class_names(model) is None


def test_transformers_labels_come_in_the_order_of_their_numbers():
    model = StandIn({str(index): f"class {index}" for index in reversed(range(11))})
    assert TransformersAdapter().class_names(model) == tuple(f"class {index}" for index in range(11))


def test_adapters_import_no_family():
    code = (
        "import sys, torch; from flint_posthoc.classifier.adapter import find_adapter; find_adapter(torch.nn.Flatten());"
        "print([name for name in ('timm', 'torchvision', 'transformers', 'adapters') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_torchvision_models_take_what_their_transforms_say_where_they_have_them():
    from torchvision.models import EfficientNet_V2_L_Weights

    model = mobile()
    model.transforms = EfficientNet_V2_L_Weights.DEFAULT.transforms()
    adapter = find_adapter(model)
    assert adapter.normalization(model) == Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert adapter.input_size(model) == (3, 480, 480)
    assert adapter.crop(model) == Crop(1.0, "bicubic")


def test_channels_are_those_of_the_image_where_the_first_convolution_has_others():
    import timm

    model = timm.create_model("tresnet_m", num_classes=3)
    adapter = find_adapter(model)
    assert adapter.input_size(model) == (3, 224, 224)
    assert adapter.normalization(model) is not None


def test_tokens_are_read_where_they_stand_in_places_alone():
    """A change in one corner of the image shows most in that corner of the maps."""
    from timm.models.hiera import Hiera

    torch.manual_seed(0)
    model = Hiera(img_size=(64, 64), embed_dim=16, num_heads=1, stages=(1, 1, 2, 1), num_classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    for layer in ("blocks.0", "blocks.3", "blocks.4.norm1"):
        with pytest.raises(UnmappableActivationError, match="in the order of poolings to come"):
            preflight(model, [layer], images)
    (layout,) = preflight(model, ["blocks.4"], images).layouts
    assert (layout.height, layout.width) == (2, 2)
    changed = images.clone()
    changed[:, :, -8:, -8:] += 5
    seen = {}
    model.blocks[4].register_forward_hook(lambda module, arguments, output: seen.update(output=output))
    maps = []
    for pixels in (images, changed):
        with torch.no_grad():
            model(pixels)
        maps.append(find_adapter(model).canonical(seen["output"], layout))
    moved = (maps[1] - maps[0]).abs().sum(dim=(0, 1))
    assert moved.argmax() == 3


def test_regression_is_no_classification():
    model = StandIn({0: "LABEL_0"})
    model.config.num_labels = 1
    with pytest.raises(UnsupportedClassifierError, match="numbers of a regression"):
        TransformersAdapter().output_kind(model)
    model.config.problem_type = "single_label_classification"
    assert TransformersAdapter().output_kind(model).name == "categorical"


def test_a_prefix_that_a_family_knows_is_not_guessed_otherwise():
    adapter = TorchModuleAdapter()
    adapter.prefix_tokens = lambda model: 1
    with pytest.raises(UnmappableActivationError):
        adapter.layout("layer", torch.randn(2, 1 + 14, 24), torch.randn(2, 3, 32, 32), StandIn({0: "a", 1: "b"}))
