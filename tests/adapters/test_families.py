"""What torchvision, timm and transformers say of themselves."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from flint_posthoc.adapters.transformers_models import TransformersAdapter
from models import SmallCNN, left_alone, mobile, swin, vit
from torch import Tensor, nn

from flint_posthoc.classifier.adapter import Crop, ModelAdapter, Normalization, find_adapter
from flint_posthoc.classifier.preflight import preflight


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
    grey = timm.create_model("resnet10t", in_chans=1)
    assert adapter.normalization(grey) is None
    assert adapter.input_size(grey) == (1, 176, 176)


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
