"""Models that people really have: each works from fit to a loaded artefact without a trace, or is refused with the way out at once."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small
import torch
import torch.nn.functional as F
from models import CLASSES, ModuleCNN, SmallCNN, WrappedOutput, left_alone
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flint_posthoc import FlintExplainer
from flint_posthoc.classifier.preflight import preflight
from flint_posthoc.errors import BatchFormatError, ClassifierMismatchError, ImageShapeError, LayerError, UnsupportedClassifierError
from flint_posthoc.interpretation.ascent import preset_for
from flint_posthoc.interpretation.attribution import AttributionSettings

PRESET = preset_for((3, 32, 32))
FEW_STEPS = dataclasses.replace(PRESET, stages=(dataclasses.replace(PRESET.stages[0], steps=2),))
IMAGES = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(3))


class Deep(SmallCNN):
    """With a hidden block that a subclass may call in ways of its own."""

    def hidden(self, images: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.conv1(images)), 2)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.max_pool2d(F.relu(self.conv2(self.hidden(images))), 2)
        return self.fc2(F.relu(self.fc1(hidden.flatten(1))))


class Checkpointed(Deep):
    """Gradient checkpointing: layers run again in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant

    def forward(self, images: Tensor) -> Tensor:
        hidden = checkpoint(self.hidden, images, use_reentrant=self.reentrant)
        hidden = checkpoint(lambda maps: F.max_pool2d(F.relu(self.conv2(maps)), 2), hidden, use_reentrant=self.reentrant)
        return self.fc2(F.relu(self.fc1(hidden.flatten(1))))


class Recurrent(nn.Module):
    """One block called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.mix = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 8, 3)
        self.fc1, self.fc2 = nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.max_pool2d(self.stem(images).relu(), 2)
        for _ in range(3):
            hidden = hidden + self.block(hidden).relu()
        return self.fc2(self.fc1(self.mix(hidden).relu().amax((2, 3))).relu())


class Buffers(SmallCNN):
    """Buffers that are neither float nor in the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("phases", torch.randn(6, 1, 1, dtype=torch.complex64))
        self.register_buffer("order", torch.randperm(6))
        self.register_buffer("mask", torch.rand(6) > 0.1, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        maps = (self.conv1(images) * self.phases).real[:, self.order] * self.mask.view(-1, 1, 1)
        hidden = F.max_pool2d(F.relu(self.conv2(F.max_pool2d(F.relu(maps), 2))), 2)
        return self.fc2(F.relu(self.fc1(hidden.flatten(1))))


class LowRank(nn.Module):
    """A LoRA adapter around a frozen layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base = layer.requires_grad_(False)
        self.down, self.up = nn.Linear(layer.in_features, 2, bias=False), nn.Linear(2, layer.out_features, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        return self.base(values) + self.up(self.down(values))


@dataclasses.dataclass
class Answer:
    hidden: Tensor
    logits: Tensor
    loss: None = None


def wrapped(wrap: Callable[[Tensor, Tensor], Any]) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), WrappedOutput(wrap))


def with_hooks() -> nn.Module:
    """A pre-hook that prepares the images and one that works on a hidden layer."""
    model = SmallCNN()
    model.register_forward_pre_hook(lambda module, arguments: (arguments[0] / 2,))
    model.conv2.register_forward_pre_hook(lambda module, arguments: (arguments[0].clamp(max=3),))
    return model


def with_weight_norm() -> nn.Module:
    model = SmallCNN()
    for layer in (model.conv1, model.conv2, model.fc1):
        nn.utils.parametrizations.weight_norm(layer)
    return model


def with_spectral_norm() -> nn.Module:
    """The older kind: a pre-hook that writes a plain tensor and a buffer in every pass."""
    model = SmallCNN()
    nn.utils.spectral_norm(model.conv2)
    return model


def with_lora() -> nn.Module:
    model = SmallCNN()
    model.fc1, model.fc2 = LowRank(model.fc1), LowRank(model.fc2)
    return model


def with_auxiliary_logits() -> nn.Module:
    class Auxiliary(SmallCNN):
        def forward(self, images: Tensor) -> Any:
            logits = super().forward(images)
            return (logits, 2 * logits) if self.training else logits

    return Auxiliary().train()


class Normalizing(SmallCNN):
    """Brings its input into its own range, in place or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.sub_(0.5).div_(0.2) if self.in_place else (images - 0.5) / 0.2)


ODD: dict[str, Callable[[], nn.Module]] = {
    "shared module": ModuleCNN,
    "block called three times": Recurrent,
    "checkpointed": lambda: Checkpointed(reentrant=False),
    "complex, integer and bool buffers": Buffers,
    "tuple": lambda: wrapped(lambda logits, hidden: (logits, hidden)),
    "dict": lambda: wrapped(lambda logits, hidden: {"hidden": hidden, "logits": logits}),
    "dataclass": lambda: wrapped(lambda logits, hidden: Answer(hidden, logits)),
    "auxiliary logits in training": with_auxiliary_logits,
    "pre-hooks": with_hooks,
    "weight norm": with_weight_norm,
    "spectral norm": with_spectral_norm,
    "LoRA": with_lora,
    "half precision": lambda: SmallCNN().to(torch.bfloat16),
    "double precision": lambda: SmallCNN().double(),
    "initialised lazily": lambda: lazily(),
    "writes into its input": lambda: Normalizing(in_place=True),
}


def lazily() -> nn.Module:
    model = SmallCNN()
    model.fc1 = nn.LazyLinear(16)
    model(IMAGES)
    return model


@pytest.mark.filterwarnings(
    "ignore:Lazy modules are a new feature", "ignore:.*use_reentrant", "ignore:None of the inputs have requires_grad"
)
@pytest.mark.parametrize("build", ODD.values(), ids=ODD)
def test_it_works_and_leaves_no_trace(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = build()
    with left_alone(model):
        explain = FlintExplainer(model, num_attributes=3, config=small.CONFIG)
        explain.fit(IMAGES, max_steps=4, progress=False)
        local = explain(IMAGES)
        assert local.relevance.isfinite().all()
        explain.global_interpretation(IMAGES)
        explain.maximize(IMAGES[:2], [0, 1], settings=FEW_STEPS)
        maps = explain.attribution(IMAGES[:1], attribute=0, settings=AttributionSettings(steps=4))
        assert maps.values.isfinite().all()
        explain.evaluate(IMAGES)
        loaded = FlintExplainer.from_pretrained(explain.save_pretrained(tmp_path), model)
        assert torch.equal(loaded(IMAGES).interpreter_logits, local.interpreter_logits)
    with torch.no_grad():
        answer = model.eval()(IMAGES.to(next(model.parameters()).dtype, copy=True))
    torch.testing.assert_close(explain.adapter.logits(answer).float(), local.classifier_logits)


def test_what_a_classifier_writes_into_its_input_nobody_sees() -> None:
    told = []
    for in_place in (False, True):
        torch.manual_seed(0)
        explain, pixels = FlintExplainer(Normalizing(in_place), num_attributes=3, config=small.CONFIG), IMAGES.clone()
        explain.fit(pixels, max_steps=4, progress=False)
        baselines = explain.baselines(pixels, pixels, independent=SmallCNN())
        told.append((explain.evaluate(pixels).to_dict(), explain(pixels).to_dict(), baselines.to_dict()))
        explain.sanity_check(pixels[:2])
        assert torch.equal(pixels, IMAGES)
    assert told[0] == told[1]


class Functional(nn.Module):
    """No layers at all: weights and functions."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.weight = nn.Parameter(torch.randn(6, 3, 5, 5)), nn.Parameter(torch.randn(CLASSES, 6))

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.kernel).relu().amax((2, 3)) @ self.weight.T


def test_a_network_of_functions_alone_has_no_layer_to_read() -> None:
    model = Functional()
    with left_alone(model), pytest.raises(LayerError, match=r"found no layer with spatial or token extent .* pass layers="):
        FlintExplainer(model, input_size=(3, 32, 32))


@pytest.mark.filterwarnings("ignore:.*use_reentrant", "ignore:None of the inputs have requires_grad")
def test_layers_cut_off_from_gradients_are_refused_where_gradients_are_needed() -> None:
    model = Checkpointed(reentrant=True)
    with left_alone(model), pytest.raises(LayerError, match=r"quantised layers, reentrant checkpointing and .* hide what lies before"):
        FlintExplainer(model, input_size=(3, 32, 32))
    with left_alone(model):
        explain = FlintExplainer(model, layers=["conv2"], num_attributes=3, config=small.CONFIG)
        explain.fit(IMAGES, max_steps=4, progress=False)
        assert explain(IMAGES).relevance.isfinite().all()
        for draw in (lambda: explain.maximize(IMAGES[:1], 0, settings=FEW_STEPS), lambda: explain.attribution(IMAGES[:1], attribute=0)):
            with pytest.raises(LayerError, match="no gradient comes from conv2 back to the images"):
                draw()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_a_dynamically_quantised_classifier_is_read_before_its_quantised_layers(tmp_path: Path) -> None:
    model = torch.ao.quantization.quantize_dynamic(SmallCNN().eval(), {nn.Linear}, dtype=torch.qint8)
    with left_alone(model):
        with pytest.raises(LayerError, match=r"quantised layers, reentrant checkpointing and .* hide what lies before"):
            FlintExplainer(model, input_size=(3, 32, 32))
        explain = FlintExplainer(model, layers=["conv2"], num_attributes=3, config=small.CONFIG)
        explain.fit(IMAGES, max_steps=4, progress=False)
        explain.maximize(IMAGES[:1], 0, settings=FEW_STEPS)
        loaded = FlintExplainer.from_pretrained(explain.save_pretrained(tmp_path), model)
        assert torch.equal(loaded(IMAGES).interpreter_logits, explain(IMAGES).interpreter_logits)
    other = copy.deepcopy(model)
    weight, bias = other.fc2._packed_params._weight_bias()
    other.fc2.set_weight_bias(torch.quantize_per_tensor(-weight.dequantize(), 0.01, 0, torch.qint8), bias)
    with pytest.raises(ClassifierMismatchError):
        FlintExplainer.from_pretrained(tmp_path, other)


def test_what_is_wrapped_is_read_inside_and_what_is_sharded_is_refused(tmp_path: Path) -> None:
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        model = SmallCNN()
        for wrapped_model in (nn.parallel.DistributedDataParallel(model), nn.DataParallel(model), torch.compile(model, backend="eager")):
            with left_alone(model):
                explain = FlintExplainer(wrapped_model, num_attributes=3, config=small.CONFIG)
                explain.fit(IMAGES, max_steps=2, progress=False)
            assert explain.model is model
            assert explain.layers == ("conv2",)
        sharded = fully_shard(SmallCNN(), mesh=distributed.device_mesh.init_device_mesh("cpu", (1,)))
        with pytest.raises(UnsupportedClassifierError, match="weights are sharded over processes; gather them"):
            FlintExplainer(sharded)
    finally:
        distributed.destroy_process_group()


class Signal(nn.Module):
    """Takes signals (B, channels, length)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv1d(2, 6, 5, stride=2), nn.Conv1d(6, 8, 5, stride=2)
        self.fc1, self.fc2 = nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, signals: Tensor) -> Tensor:
        return self.fc2(self.fc1(self.body(self.stem(signals).relu()).relu().amax(2)).relu())


class AsImages(nn.Module):
    """Signals in the shape of images (B, channels, 1, length)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.squeeze(2))


def test_signals_are_refused_with_the_way_out_which_works() -> None:
    signals = torch.randn(12, 2, 64)
    with pytest.raises(ImageShapeError, match=r"of rank 3; expected rank 4, .*signals \(B, C, L\) as \(B, C, 1, L\)"):
        FlintExplainer(Signal(), layers=["body"]).fit(signals, progress=False)
    model = AsImages(Signal())
    with left_alone(model):
        explain = FlintExplainer(model, num_attributes=3, config=small.CONFIG)
        explain.fit(signals[:, :, None], max_steps=4, progress=False)
        assert explain.attribution(signals[:1, :, None], attribute=0, settings=AttributionSettings(steps=4)).values.shape == (1, 2, 1, 64)
        explain.maximize(signals[:1, :, None], 0, settings=FEW_STEPS)
    (layout,) = explain.fitted.view.layouts
    assert (layout.layer, layout.form, layout.channels, layout.height, layout.width) == ("model.body", "maps_flat", 8, 1, 13)


class SignalOfModules(nn.Module):
    """Takes signals in the shape of images; its activations are modules, and behind a batch norm nothing but the widths tells channels."""

    def __init__(self, places: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(2, 16, 5, stride=2, padding=2), nn.BatchNorm1d(16), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(16 * places, 8), nn.ReLU(), nn.Linear(8, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images.squeeze(2)))


@pytest.mark.parametrize("layer", ["body", "body.0", "body.1", "body.2"])
def test_what_follows_a_convolution_over_a_signal_is_read_channels_first(layer: str) -> None:
    signals = torch.randn(4, 2, 1, 64)
    for length in (64, 32):  # 16 channels, of 32 places and of 16
        (layout,) = preflight(SignalOfModules(length // 2), [layer], signals[..., :length]).layouts
        assert (layout.form, layout.channels, layout.height, layout.width) == ("maps_flat", 16, 1, length // 2)


def test_tokens_are_refused_with_what_is_missing() -> None:
    model = nn.Sequential(nn.Embedding(50, 8), nn.Flatten(), nn.Linear(80, CLASSES))
    tokens = torch.randint(50, (12, 10))
    with left_alone(model), pytest.raises((BatchFormatError, ImageShapeError), match=r"of rank 2; expected rank 4|integer"):
        FlintExplainer(model, layers=["0"]).fit(tokens, progress=False)
