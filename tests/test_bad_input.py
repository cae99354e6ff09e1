"""Bad input: its own error each, in words, before any long work, and with the classifier untouched."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from models import left_alone
from torch import Tensor, nn

from flint_posthoc import FlintExplainer, errors
from flint_posthoc.classifier.adapter import Normalization

PIXELS = small.images()
FEW = 3  # forward passes that a dry run may take


@contextmanager
def refused(model: nn.Module, error: type[errors.FlintError], message: str, calls: int = FEW) -> Iterator[None]:
    """The body raises ``error``, after at most ``calls`` forward passes, and leaves no trace."""
    small.Tiny.calls = 0
    with left_alone(model), pytest.raises(error, match=message) as caught:
        yield
    assert type(caught.value) is error
    assert small.Tiny.calls <= calls


class Unread(small.Tiny):
    """A layer that is never reached, and one that puts out what no map can be made of."""

    class Scalar(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.sum()

    def __init__(self) -> None:
        super().__init__()
        self.spare, self.total = nn.Conv2d(2, 2, 1), self.Scalar()

    def forward(self, images: Tensor) -> Tensor:
        self.total(images)
        return super().forward(images)


def spoilt(value: float) -> Tensor:
    pixels = PIXELS.clone()
    pixels[3, 1, 2, 2] = value
    return pixels


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        (["conv3"], errors.UnknownLayerError, r"no layer 'conv3'; nearest names: 'conv[12]', 'conv[12]'"),
        (["conv1", "conv1"], errors.DuplicateLayerError, "'conv1' and 'conv1' are the same module; name each once"),
        ("conv1", errors.LayerError, "layers must be a list of names"),
        ([], errors.LayerError, "no layer was named"),
        ([""], errors.LayerError, "is the classifier itself"),
    ],
)
def test_layers_that_are_not_there_are_refused_at_once(layers: Any, error: type[errors.FlintError], message: str) -> None:
    model = small.tiny()
    with refused(model, error, message, calls=0):
        FlintExplainer(model, layers=layers)


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        ("spare", errors.LayerNotReachedError, "layer 'spare' exists but the classifier's forward pass never calls it"),
        ("total", errors.UnmappableActivationError, "layer 'total'"),
    ],
)
@pytest.mark.parametrize("input_size", [None, (small.CHANNELS, small.SIDE, small.SIDE)])
def test_layers_that_cannot_be_read_are_refused_after_a_dry_run(
    layer: str, error: type[errors.FlintError], message: str, input_size: Any
) -> None:
    model = Unread()
    with refused(model, error, message):
        FlintExplainer(model, layers=[layer], input_size=input_size).fit(PIXELS, progress=False)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], errors.EmptyDataError, "holds no images"),
        (iter(()), errors.EmptyDataError, "holds no images"),
        ([PIXELS[:0]], errors.EmptyDataError, "holds no images"),
        ([PIXELS[0]], errors.ImageShapeError, r"batch 0: images have shape \(2, 10, 10\), of rank 3; expected rank 4"),
        ([PIXELS[None]], errors.ImageShapeError, "of rank 5; expected rank 4"),
        ([PIXELS[:, :1]], errors.ImageShapeError, r"fails on images of shape \(2, 1, 10, 10\)"),
        ([PIXELS[:8], PIXELS[8:16, :1]], errors.ImageShapeError, r"batch 1: images have shape \(8, 1, 10, 10\), with other channels"),
        ([PIXELS[:8], PIXELS[8:16, :, 1:]], errors.ImageShapeError, r"batch 1: images have shape \(8, 2, 9, 10\), with other pixels"),
        ([spoilt(float("nan"))], errors.NonFinitePixelsError, "batch 0: 1 pixels in 1 of 48 images are NaN or infinite"),
        ([spoilt(float("inf"))], errors.NonFinitePixelsError, "batch 0: 1 pixels in 1 of 48 images are NaN or infinite"),
        ([PIXELS.int()], errors.BatchFormatError, "images are torch.int32; expected floating point"),
        ([{"x": PIXELS}], errors.BatchFormatError, "expected images"),
        (["cat.jpg"], errors.BatchFormatError, "batch 0 is a str"),
        ("folder", errors.BatchFormatError, "data of type str gives no batches"),
        (7, errors.BatchFormatError, "data of type int gives no batches"),
        ([(PIXELS[:4], [0, 1, 2, 9])], errors.LabelRangeError, "batch 0: labels that are no class"),
        ([(PIXELS[:4], [0, 1])], errors.BatchFormatError, "expected one integer class an image"),
    ],
)
def test_data_that_cannot_be_learnt_from_is_refused(data: Any, error: type[errors.FlintError], message: str) -> None:
    model = small.tiny()
    explain = FlintExplainer(model, layers=small.LAYERS, config=small.CONFIG)
    with refused(model, error, message):
        explain.fit(data, progress=False)
    with pytest.raises(errors.NotFitted, match="no interpreter yet"):
        _ = explain.interpreter


FITTED = small.fitted()


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], errors.EmptyDataError, "holds no images"),
        ([PIXELS[0]], errors.ImageShapeError, "of rank 3; expected rank 4"),
        ([PIXELS[:, :1]], errors.ImageShapeError, "with other channels than expected"),
        ([PIXELS[:, :, :, 1:]], errors.ImageShapeError, "with other pixels than expected"),
        ([spoilt(float("nan"))], errors.NonFinitePixelsError, "NaN or infinite"),
        ([(PIXELS[:4], [0, 1, 2, 4])], errors.LabelRangeError, r"the first is 4\); expected 0 to 3"),
        ([(PIXELS[:4], [0, 1, 2, -1])], errors.LabelRangeError, r"the first is -1\); expected 0 to 3"),
        ([(PIXELS[:4], [0.0, 1.0, 2.5, 3.0])], errors.BatchFormatError, "expected one integer class an image"),
    ],
)
@pytest.mark.parametrize("ask", ["evaluate", "global_interpretation"])
def test_data_that_cannot_be_judged_by_is_refused(data: Any, error: type[errors.FlintError], message: str, ask: str) -> None:
    with refused(FITTED.model, error, message, calls=0):
        getattr(FITTED, ask)(data)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (PIXELS[0], errors.ImageShapeError, "of rank 3; expected rank 4"),
        (PIXELS[:0], errors.EmptyDataError, "holds no images"),
        (PIXELS[:, :1], errors.ImageShapeError, "with other channels than expected"),
        (PIXELS[:, :, 2:], errors.ImageShapeError, "with other pixels than expected"),
        (spoilt(float("-inf")), errors.NonFinitePixelsError, "NaN or infinite"),
        (PIXELS.to(torch.uint8), errors.BatchFormatError, "expected floating point"),
    ],
)
@pytest.mark.parametrize("ask", [FITTED, FITTED.reconstruct], ids=["call", "reconstruct"])
def test_images_that_cannot_be_explained_are_refused(
    images: Tensor, error: type[errors.FlintError], message: str, ask: Callable[[Tensor], Any]
) -> None:
    with refused(FITTED.model, error, message, calls=0):
        ask(images)


SIZE = (small.CHANNELS, small.SIDE, small.SIDE)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_attributes": 0}, errors.ConfigurationError, "num_attributes must be at least 1, got 0"),
        ({"num_attributes": -3}, errors.ConfigurationError, "num_attributes must be at least 1, got -3"),
        ({"class_names": ["ant"]}, errors.ClassNamesError, "1 class names for 4 classes"),
        (
            {"class_names": ["ant"], "classes": [0, 1]},
            errors.ClassNamesError,
            r"1 class names for 2 classes in classes= \(4 outputs in all\)",
        ),
        ({"classes": [0, 4]}, errors.ClassSelectionError, r"classes=\[4\] are no outputs of a classifier with 4 classes \(0 to 3\)"),
        ({"classes": [0, -1]}, errors.ClassSelectionError, r"classes=\[-1\] are no outputs"),
        ({"classes": [1, 1]}, errors.ClassSelectionError, "at least two different outputs, each once"),
        ({"classes": [1]}, errors.ClassSelectionError, "at least two different outputs"),
        ({"input_size": (10, 10)}, errors.ConfigurationError, r"input_size must be \(channels, height, width\), got \(10, 10\)"),
        ({"input_size": (3, 10, 10)}, errors.ImageShapeError, r"fails on images of shape \(2, 3, 10, 10\)"),
    ],
)
def test_settings_that_do_not_fit_the_classifier_are_refused_before_there_is_data(
    settings: dict[str, Any], error: type[errors.FlintError], message: str
) -> None:
    model = small.tiny()
    with refused(model, error, message):
        FlintExplainer(model, **({"layers": small.LAYERS, "input_size": SIZE} | settings))


@pytest.mark.parametrize("settings", [{"class_names": ["ant"]}, {"classes": [0, 4]}])
def test_the_same_settings_are_refused_by_the_first_batch_where_no_size_is_known(settings: dict[str, Any]) -> None:
    model = small.tiny()
    explain = small.explainer(model, **settings)
    with refused(model, errors.ClassNamesError if "class_names" in settings else errors.ClassSelectionError, "classes"):
        explain.fit(PIXELS, progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 2, "max_steps": 5}, "epochs or max_steps, not both"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"precision": "int8"}, r"precision must be one of \('auto', 'float32', 'bfloat16'\), got 'int8'"),
        ({"cache": "ram"}, "cache must be one of"),
        ({"resume": True}, "resume=True needs checkpoint_dir"),
    ],
)
def test_a_fit_that_contradicts_itself_is_refused(settings: dict[str, Any], message: str) -> None:
    model = small.tiny()
    explain = small.explainer(model)
    with refused(model, errors.ConfigurationError, message, calls=0):
        explain.fit(PIXELS, progress=False, **settings)


def test_a_normalisation_of_another_number_of_channels_is_refused() -> None:
    model = small.tiny()
    explain = small.explainer(model, normalization=Normalization((0.5, 0.5, 0.5), (1, 1, 1)))
    with refused(model, errors.ConfigurationError, "Normalization has 3 channels"):
        explain.fit(PIXELS, progress=False)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (PIXELS, errors.MissingLabelsError, "batch 0 has no labels, and they are needed here"),
        ([(PIXELS[:4], [0, 1, 2, 4])], errors.LabelRangeError, r"the first is 4\); expected 0 to 3"),
    ],
)
def test_training_by_design_needs_labels(data: Any, error: type[errors.FlintError], message: str) -> None:
    model = small.tiny()
    with refused(model, error, message):
        small.explainer(model, joint=True).fit(data, progress=False)


def test_a_classifier_in_two_places_is_refused() -> None:
    model = small.tiny()
    model.fc.to("meta")
    small.Tiny.calls = 0
    with pytest.raises(errors.DevicePlacementError, match=r"stand on several devices \(4 on cpu, 2 on meta\); move it to one"):
        small.explainer(model)
    model.to("meta")
    with pytest.raises(errors.DevicePlacementError, match="meta device and have no values"):
        small.explainer(model)
    assert small.Tiny.calls == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a second device")
def test_a_device_that_is_not_there_is_refused() -> None:
    model = small.tiny()
    with refused(model, errors.DevicePlacementError, "cannot move the classifier to 'cuda'", calls=0):
        small.explainer(model, device="cuda")


def test_logits_that_are_not_finite_are_refused() -> None:
    model = small.tiny()
    with torch.no_grad():
        model.fc.weight[0] = float("inf")
    with refused(model, errors.ClassifierOutputError, "not finite"):
        small.explainer(model).fit(PIXELS, progress=False)


@pytest.mark.parametrize(
    "ask",
    [
        lambda explain, folder: explain(PIXELS),
        lambda explain, folder: explain.evaluate(PIXELS),
        lambda explain, folder: explain.global_interpretation(PIXELS),
        lambda explain, folder: explain.reconstruct(PIXELS),
        lambda explain, folder: explain.as_classifier(),
        lambda explain, folder: explain.save_pretrained(folder),
        lambda explain, folder: explain.interpreter,
        lambda explain, folder: explain.history,
    ],
)
def test_nothing_is_to_be_had_before_a_fit(ask: Callable[[FlintExplainer, Path], Any], tmp_path: Path) -> None:
    model = small.tiny()
    explain = small.explainer(model)
    with refused(model, errors.NotFitted, r"call fit\(data\), or FlintExplainer.from_pretrained", calls=0):
        ask(explain, tmp_path / "new")


def test_saved_files_that_are_not_right_are_refused_without_a_forward_pass(tmp_path: Path) -> None:
    FITTED.save_pretrained(tmp_path / "saved")
    other, here = small.tiny(1), tmp_path / "saved"
    with refused(other, errors.ClassifierMismatchError, "fitted to another classifier", calls=0):
        FlintExplainer.from_pretrained(here, other)
    with refused(other, errors.NotAnArtifactError, "holds no flint.json", calls=0):
        FlintExplainer.from_pretrained(tmp_path, other)
    tensors = here / "interpreter.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    with refused(FITTED.model, errors.DamagedArtifactError, "is damaged", calls=0):
        FlintExplainer.from_pretrained(here, FITTED.model)
