"""What the dry run finds and says."""

import pytest
import torch
import torch.nn.functional as F
from models import CLASSES, Careless, ModuleCNN, SmallCNN, WrappedOutput, every_family, left_alone, swin, vit
from torch import Tensor, nn

from flint_posthoc.classifier.preflight import preflight
from flint_posthoc.errors import (
    ClassifierOutputError,
    DuplicateLayerError,
    ImageShapeError,
    LayerNotReachedError,
    UnknownLayerError,
    UnmappableActivationError,
)


@every_family
def test_every_family_passes_and_is_left_alone(family):
    model, images = family.build(), family.images()
    with left_alone(model):
        record = preflight(model, family.layers, images)
    assert [layout.layer for layout in record.layouts] == list(family.layers)
    assert record.num_classes == CLASSES
    assert all(layout.height * layout.width > 1 for layout in record.layouts)


def test_a_model_that_writes_to_itself_is_left_alone():
    model, images = Careless(), torch.randn(2, 3, 32, 32)
    with left_alone(model):
        preflight(model, ["first"], images)


@pytest.mark.parametrize(
    ("build", "layer", "form", "prefix", "maps"),
    [
        (SmallCNN, "conv1", "maps", 0, (6, 28, 28)),
        (SmallCNN, "fc1", "vector", 0, (16, 1, 1)),
        (vit, "blocks.1", "tokens", 1, (24, 4, 4)),
        (lambda: vit(registers=4), "blocks.1", "tokens", 5, (24, 4, 4)),
        (vit, "patch_embed", "tokens", 0, (24, 4, 4)),
        (swin, "layers.1", "maps_last", 0, (24, 8, 8)),
    ],
)
def test_layouts(build, layer, form, prefix, maps):
    (tap,) = preflight(build(), [layer], torch.randn(1, 3, 32, 32)).taps
    assert (tap.layout.form, tap.layout.prefix) == (form, prefix)
    assert (tap.layout.channels, tap.layout.height, tap.layout.width) == maps
    assert tap.bytes_per_image == 4 * maps[0] * maps[1] * maps[2]


def test_activations_up_to_the_deepest_tap_are_counted():
    images = torch.randn(2, 3, 32, 32)
    functional = preflight(SmallCNN(), ["conv1", "fc2"], images)
    assert (functional.activation_modules, functional.functional_activations) == ({}, 3)
    assert preflight(SmallCNN(), ["conv1", "conv2"], images).functional_activations == 1
    modules = preflight(ModuleCNN(), ["late"], images)
    assert (modules.activation_modules, modules.functional_activations) == ({"ReLU": 3}, 0)
    assert modules.shared_modules == ("act",)


def test_clamped_norms_are_no_activations():
    class Normalising(SmallCNN):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(F.normalize(images)) + images.clamp(min=0).mean()

    assert preflight(Normalising(), ["fc2"], torch.randn(2, 3, 32, 32)).functional_activations == 3


@pytest.mark.parametrize(
    ("build", "layer", "words"),
    [
        (ModuleCNN, "late", "only linear layers lie between the deepest tap and the logits: the interpreter would merely copy them"),
        (ModuleCNN, "pool", "pool puts out a pooled or flat vector"),
        (ModuleCNN, "act", "act runs 2 times in one pass: the output of the last call is taken"),
        (ModuleCNN, "conv2", "conv2's output is overwritten in place by a later operation"),
        (lambda: nn.Sequential(SmallCNN(), nn.Softmax(dim=1)), "0.conv1", "the output looks like probabilities already"),
        (lambda: nn.Sequential(SmallCNN(), nn.Sigmoid()), "0.conv1", "the output looks like probabilities already"),
        (vit, "blocks.3", "only linear layers lie between"),
    ],
)
def test_warnings_in_words(build, layer, words):
    record = preflight(build(), [layer], torch.randn(2, 3, 32, 32))
    assert any(words in warning for warning in record.warnings)
    assert f"warning: {next(warning for warning in record.warnings if words in warning)}" in str(record)


@pytest.mark.parametrize(("build", "layer"), [(SmallCNN, "conv2"), (vit, "blocks.2"), (swin, "layers.1")])
def test_a_good_tap_brings_no_warning(build, layer):
    assert preflight(build(), [layer], torch.randn(2, 3, 32, 32)).warnings == ()


def test_it_prints_as_a_table():
    text = str(preflight(vit(), ["blocks.1", "blocks.2"], torch.randn(2, 3, 32, 32)))
    assert "blocks.1  Block   17x24     tokens, 1 prefix  24x4x4  1.5 kB" in text
    assert "activations up to the deepest tap: 3 GELU, 0 functional" in text
    assert "images 3x32x32, 7 classes" in text


def test_memory_grows_with_the_batch():
    record = preflight(SmallCNN(), ["conv1"], torch.randn(2, 3, 32, 32))
    assert record.parameter_bytes == 4 * record.parameters == 4 * sum(parameter.numel() for parameter in SmallCNN().parameters())
    per_image = record.memory(2) - record.memory(1)
    assert per_image >= 3 * 6 * 28 * 28 * 4  # conv1's map kept, made and read
    assert record.memory(11) == record.memory(1) + 10 * per_image


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda logits, hidden: hidden, r"returned \(2, 5, 30, 30\) of torch.float32; allowed are float logits \(B, C\)"),
        (lambda logits, hidden: {"answer": "yes"}, "returned a dict without tensors"),
        (lambda logits, hidden: logits.argmax(1), r"returned \(2,\) of torch.int64"),
        (lambda logits, hidden: logits[:, :0], r"returned \(2, 0\) for 2 images; allowed are logits \(B, C\), one row an image"),
        (lambda logits, hidden: logits[:1], r"returned \(1, 7\) for 2 images"),
        (lambda logits, hidden: logits / 0, "logits .* are not finite"),
    ],
)
def test_answers_that_are_no_logits(wrap, message):
    model, images = WrappedOutput(wrap), torch.randn(2, 3, 32, 32)
    with left_alone(model), pytest.raises(ClassifierOutputError, match=message):
        preflight(model, ["conv"], images)


@pytest.mark.parametrize("wrap", [lambda logits, hidden: (logits, hidden), lambda logits, hidden: {"hidden": hidden, "logits": logits}])
def test_wrapped_answers_are_understood(wrap):
    assert preflight(WrappedOutput(wrap), ["conv"], torch.randn(2, 3, 32, 32)).num_classes == CLASSES


def test_images_that_the_model_cannot_take():
    with pytest.raises(ImageShapeError, match=r"fails on images of shape \(2, 1, 32, 32\), torch.float32: .*expected input") as caught:
        preflight(SmallCNN(), ["conv1"], torch.randn(2, 1, 32, 32))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_layers_that_cannot_be_read():
    model, images = ModuleCNN(), torch.randn(2, 3, 32, 32)
    for layers, error in ((["conv"], UnknownLayerError), (["conv1", "conv1"], DuplicateLayerError), (["spare"], LayerNotReachedError)):
        with left_alone(model), pytest.raises(error):
            preflight(model, layers, images)


def test_windowed_attention_has_no_map():
    model, images = swin(), torch.randn(2, 3, 32, 32)
    message = r"layer 'layers.0.blocks.0.attn': for images .* puts out \(32, 16, 12\)"
    with left_alone(model), pytest.raises(UnmappableActivationError, match=message):
        preflight(model, ["layers.0.blocks.0.attn"], images)


def test_it_works_under_inference_mode():
    model = ModuleCNN()
    with torch.inference_mode():
        record = preflight(model, ["conv2"], torch.randn(2, 3, 32, 32))
    assert record.layouts[0].overwritten


def test_bounds_may_be_tensors() -> None:
    class Bounded(SmallCNN):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.clamp(min=torch.zeros(3, 1, 1)))

    assert preflight(Bounded(), ["conv1"], torch.randn(2, 3, 32, 32)).functional_activations == 0
