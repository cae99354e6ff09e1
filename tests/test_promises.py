"""What the plugin promises, through the public face, for a CNN, a ResNet, a MobileNet, a ViT, a Swin and two real checkpoints."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import small
import torch
import torch.nn.functional as F
from models import FAMILIES, Careless, Family, every_family, left_alone
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from flint_posthoc import FlintExplainer
from flint_posthoc.errors import ImageShapeError
from flint_posthoc.storage import fingerprint

IMAGES, BATCH = 18, 6

Action = Callable[[FlintExplainer, Any, Path], Any]


def fit(explain: FlintExplainer, data: Any, cache: str) -> Any:
    return explain.fit(data, max_steps=4, batch_size=BATCH, cache=cache, progress=False)


ACTIONS: dict[str, Action] = {
    "fit, cached": lambda explain, data, folder: fit(explain, data, "memory"),
    "fit, not cached": lambda explain, data, folder: fit(explain, data, "off"),
    "cache": lambda explain, data, folder: explain.cache(data, progress=False),
    "call": lambda explain, data, folder: explain(data.dataset.tensors[0]),
    "global_interpretation": lambda explain, data, folder: explain.global_interpretation(data),
    "evaluate": lambda explain, data, folder: explain.evaluate(data),
    "reconstruct": lambda explain, data, folder: explain.reconstruct(data.dataset.tensors[0]),
    "as_classifier": lambda explain, data, folder: explain.as_classifier()(data.dataset.tensors[0]),
}
WITHOUT_FORWARD: dict[str, Action] = {
    "save_pretrained": lambda explain, data, folder: explain.save_pretrained(folder),
    "from_pretrained": lambda explain, data, folder: FlintExplainer.from_pretrained(explain.save_pretrained(folder), explain.model),
}


class Fuse:
    """A user's own hook on a layer, which raises at the call that it is set to."""

    def __init__(self) -> None:
        self.calls_left = -1

    def hook(self, *_: Any) -> None:
        self.calls_left -= 1
        if self.calls_left == 0:
            raise RuntimeError("half-way")


@contextmanager
def raising_at(fuse: Fuse, call: int) -> Iterator[None]:
    fuse.calls_left = call
    with pytest.raises((RuntimeError, ImageShapeError), match="half-way"):  # the latter from a dry run
        yield
    fuse.calls_left = -1


def in_a_state_of_its_own(family: Family, fuse: Fuse) -> nn.Module:
    """Half in training mode, partly frozen, with gradients and hooks of the user's."""
    model = family.build().train()
    next(model.children()).eval()
    model(family.images(2)).sum().backward()
    next(model.parameters()).requires_grad_(False)
    model.get_submodule(family.layers[1]).register_forward_pre_hook(lambda *arguments: fuse.hook(*arguments))
    return model


def data(pixels: Tensor) -> DataLoader[Any]:
    """Shuffled, so that reading it draws from the global random state."""
    return DataLoader(TensorDataset(pixels, torch.arange(len(pixels)) % 7), batch_size=BATCH, shuffle=True)


def explainer(model: nn.Module, family: Family) -> FlintExplainer:
    return FlintExplainer(model, layers=family.layers, num_attributes=3, config=small.CONFIG)


@every_family
def test_no_call_leaves_a_trace_whether_it_returns_or_raises(family: Family, tmp_path: Path) -> None:
    fuse = Fuse()
    model, loader = in_a_state_of_its_own(family, fuse), data(family.images(IMAGES))
    with left_alone(model):
        explain = explainer(model, family)
    for action in ACTIONS.values():
        with left_alone(model):
            action(explain, loader, tmp_path)
    for action in WITHOUT_FORWARD.values():
        with left_alone(model):
            action(explain, loader, tmp_path)
    for name, action in ACTIONS.items():
        for call in (1, 3) if name in ("fit, cached", "fit, not cached", "cache", "global_interpretation", "evaluate") else (1,):
            with left_alone(model), raising_at(fuse, call):
                action(explain, loader, tmp_path)


@pytest.mark.parametrize("fail", [False, True])
def test_a_classifier_that_writes_to_itself_is_put_right(fail: bool) -> None:
    model = Careless()
    explain = FlintExplainer(model, layers=["inner.conv2"], num_attributes=3, config=small.CONFIG)
    pixels = torch.randn(IMAGES, 3, 32, 32)
    with left_alone(model):
        fit(explain, data(pixels), "memory")
    model.fail = fail
    for action in (
        lambda: fit(explain, data(pixels), "off"),
        lambda: explain(pixels),
        lambda: explain.evaluate(data(pixels)),
        lambda: explain.global_interpretation(data(pixels)),
    ):
        with left_alone(model):
            if fail:
                with pytest.raises((RuntimeError, ImageShapeError), match="half-way"):
                    action()
            else:
                action()


def test_data_that_raises_half_way_leaves_no_trace() -> None:
    family = FAMILIES["resnet"]
    model = family.build()
    explain = explainer(model, family)
    fit(explain, data(family.images(IMAGES)), "memory")

    def broken() -> Iterator[Tensor]:
        yield family.images(BATCH)
        torch.rand(3)
        raise OSError("the disk is gone")

    for action in (lambda: fit(explain, broken(), "memory"), lambda: explain.evaluate(broken())):
        with left_alone(model), pytest.raises(OSError, match="the disk is gone"):
            action()


def test_threads_share_an_explainer_and_leave_no_trace() -> None:
    """As a server does that explains while others of its threads run the classifier."""
    family = FAMILIES["cnn"]
    model, pixels = family.build().train(), family.images(IMAGES)
    explain = explainer(model, family)
    fit(explain, data(pixels), "memory")
    alone, interval = explain(pixels[:BATCH]), sys.getswitchinterval()

    def work(thread: int) -> None:
        for _ in range(5):
            if thread == 0:
                explain.evaluate(data(pixels))
            elif thread == 1:
                model(pixels[:BATCH])
            else:
                assert torch.equal(explain(pixels[:BATCH]).contributions, alone.contributions)

    sys.setswitchinterval(1e-5)
    try:
        with left_alone(model), ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
    finally:
        sys.setswitchinterval(interval)


@every_family
def test_the_same_seed_gives_the_same_bits(family: Family) -> None:
    model, pixels = family.build(), family.images(IMAGES)

    def learn() -> tuple[Any, Any]:
        explain = explainer(model, family)
        fit(explain, data(pixels), "memory")
        return small.weights(explain), explain(pixels).to_dict()

    first = learn()
    torch.rand(7)
    assert learn() == first


@every_family
def test_g_as_the_final_model_is_cut_and_says_what_g_says(family: Family) -> None:
    model, pixels = family.build(), family.images(IMAGES)
    explain = explainer(model, family)
    fit(explain, data(pixels), "memory")
    final = explain.as_classifier()
    assert torch.equal(final(pixels), explain(pixels).interpreter_logits)
    assert sum(parameter.numel() for parameter in final.parameters()) == final.savings.interpreter_parameters
    whole = sum(parameter.numel() for parameter in model.parameters())
    rest = sum(parameter.numel() for name, parameter in final.named_parameters() if name.startswith("classifier."))
    assert rest < whole == final.savings.classifier_parameters
    with torch.no_grad():
        next(final.parameters()).zero_()
    assert explain(pixels).interpreter_logits.shape == (IMAGES, 7)


class FashionCNN(nn.Module):
    """The third party's network of the data folder's README: functional activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.max_pool2d(F.relu(self.conv1(images)), 2)
        hidden = F.max_pool2d(F.relu(self.conv2(hidden)), 2)
        return self.fc2(F.relu(self.fc1(hidden.flatten(1))))


def fashion(folder: Path) -> tuple[nn.Module, Tensor, Tensor, dict[str, Any]]:
    from torchvision.datasets import FashionMNIST

    model = FashionCNN()
    model.load_state_dict(torch.load(folder / "checkpoints/fashion_mnist_cnn.pt", map_location="cpu", weights_only=True))
    test = FashionMNIST(folder, train=False)
    pixels = (test.data[:300, None].float() / 255 - 0.1307) / 0.3081
    return model, pixels, test.targets[:300], {"layers": ["conv2"]}


def squeezenet(folder: Path) -> tuple[nn.Module, Tensor, Tensor, dict[str, Any]]:
    from torchvision.datasets import ImageFolder
    from torchvision.models import squeezenet1_0
    from torchvision.transforms.v2.functional import normalize, pil_to_tensor

    model = squeezenet1_0()
    model.load_state_dict(torch.load(folder / "checkpoints/squeezenet1_0_imagenet.pt", map_location="cpu", weights_only=True))
    images = ImageFolder(folder / "imagenette/val")
    chosen = [images[index] for index in range(0, 500, 16)]
    pixels = torch.stack(
        [normalize(pil_to_tensor(image).float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) for image, _ in chosen]
    )
    classes = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    return model, pixels, torch.tensor([label for _, label in chosen]), {"layers": None, "classes": classes}


@pytest.mark.real_data
@pytest.mark.parametrize(("load", "accuracy"), [(fashion, 0.8), (squeezenet, 0.9)])
def test_a_real_checkpoint_is_left_alone_and_as_good_as_before(
    load: Callable[[Path], Any], accuracy: float, real_data: Path, tmp_path: Path
) -> None:
    model, pixels, labels, settings = load(real_data)
    before = fingerprint(model)
    loader = DataLoader(TensorDataset(pixels, labels), batch_size=32, shuffle=True)
    explain = FlintExplainer(model, num_attributes=4, config=small.CONFIG, **settings)
    with left_alone(model):
        explain.fit(loader, max_steps=20, batch_size=16, progress=False)
    for name, action in (ACTIONS | WITHOUT_FORWARD).items():
        if not name.startswith(("fit", "cache")):
            with left_alone(model):
                action(explain, loader, tmp_path)
    assert fingerprint(model) == before
    evaluation = explain.evaluate(loader)
    assert evaluation.classifier_accuracy is not None
    assert evaluation.classifier_accuracy >= accuracy
    assert evaluation.samples == len(pixels)
