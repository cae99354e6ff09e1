"""Promise 1: no trace, on the classifier and in the process, whether the body returns or raises."""

import random
from collections import deque
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch
from models import Careless, SmallCNN, every_family, left_alone, residual, traces_of_model, traces_of_process
from torch import nn

from flint_posthoc.classifier.state import ModuleState
from flint_posthoc.classifier.taps import frozen, no_trace, trainable, unwrap
from flint_posthoc.errors import UnsupportedClassifierError


def meddle(model: nn.Module) -> None:
    """What a careless caller may do to a model."""
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(lambda module, arguments, output: None)
    first.register_full_backward_pre_hook(lambda module, gradients: None)
    first.note = "left behind"
    first.forward = lambda images: images
    model.add_module("extra", nn.ReLU())
    model.train(not model.training)
    for buffer in model.buffers():
        buffer.add_(1)
    for parameter in model.parameters():
        parameter.requires_grad_(not parameter.requires_grad)
        parameter.grad = torch.ones_like(parameter)


def meddle_and_raise(context: AbstractContextManager[nn.Module], error: BaseException) -> None:
    with context as model:
        meddle(model)
        raise error


@every_family
def test_no_trace_undoes_everything(family):
    model = family.build()
    with left_alone(model), no_trace(model):
        meddle(model)


def test_no_trace_undoes_everything_after_a_failure():
    model = residual()
    with left_alone(model), pytest.raises(KeyError, match="half-way"):
        meddle_and_raise(no_trace(model), KeyError("half-way"))


def test_no_trace_restores_an_order_of_hooks():
    model = SmallCNN()
    handles = [model.conv1.register_forward_hook(lambda *_, tag=tag: None) for tag in range(3)]
    with left_alone(model), no_trace(model):
        handles[0].remove()
        model.conv1.register_forward_hook(lambda *_: None, prepend=True)


def test_no_trace_restores_names_that_changed_while_values_did_not():
    model = SmallCNN()
    with left_alone(model), no_trace(model):
        model._modules = {f"{name}_": module for name, module in model._modules.items()}
    with left_alone(model), no_trace(model):
        model._modules["renamed"] = model._modules.pop("fc2")  # the last one, so that the order of values stays


def change_settings() -> None:
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)


def test_no_trace_restores_the_process():
    model = SmallCNN()
    before = random.getstate()
    with left_alone(model), no_trace(model):
        change_settings()
    assert random.getstate() == before


def test_no_trace_restores_a_precision_set_by_its_newer_name():
    model, before = SmallCNN(), traces_of_process()
    with no_trace(model):
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    assert traces_of_process() == before


@every_family
@pytest.mark.parametrize("training", [True, False])
def test_frozen_leaves_no_trace(family, training):
    model = family.build().train(training)
    next(model.parameters()).requires_grad_(False)
    images = family.images()
    with left_alone(model), frozen(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        model(images)


def test_a_model_that_writes_to_itself_is_put_right():
    model = Careless()
    images = torch.randn(2, 3, 32, 32)
    with left_alone(model), frozen(model):
        model(images)
        assert model.seen == 2
        assert len(model.history) == 1


def test_a_model_that_raises_half_way_is_put_right():
    model = Careless()
    model.fail = True
    images = torch.randn(2, 3, 32, 32)
    with left_alone(model), pytest.raises(RuntimeError, match="half-way"), frozen(model):
        model(images)


def test_a_graph_of_the_users_survives():
    model = residual()
    loss = model(torch.randn(2, 3, 32, 32)).sum()  # in training mode: saves running statistics for backward
    with frozen(model):
        model(torch.randn(2, 3, 32, 32))
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_expanded_and_sparse_buffers_are_no_obstacle():
    model = SmallCNN()
    model.register_buffer("positions", torch.arange(4).view(4, 1).expand(4, 3))
    model.register_buffer("table", torch.eye(3).to_sparse())
    with frozen(model):
        model(torch.randn(1, 3, 32, 32))
    assert model.positions.tolist() == [[i] * 3 for i in range(4)]


def step(model: nn.Module, images: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.zero_grad()
    model(images).logsumexp(dim=1).sum().backward()
    optimizer.step()


def step_and_raise(model: nn.Module, images: torch.Tensor) -> None:
    with trainable(model):
        step(model, images)
        meddle(model)
        raise KeyboardInterrupt


@every_family
def test_trainable_keeps_new_values_and_old_flags(family):
    model = family.build().eval()
    before = traces_of_model(model)
    with trainable(model):
        assert model.training
        step(model, family.images())
    after = traces_of_model(model)
    assert after["bits"] != before["bits"]
    assert {name: after[name] for name in after if name != "bits"} == {name: before[name] for name in before if name != "bits"}


@every_family
def test_trainable_restores_everything_after_a_failure(family):
    model = family.build()
    images = family.images()
    with left_alone(model), pytest.raises(KeyboardInterrupt):
        step_and_raise(model, images)


def test_trainable_keeps_a_buffer_that_the_model_replaces():
    model = Careless()
    with trainable(model):
        model(torch.randn(2, 3, 32, 32))
    assert model.mean.abs().sum() > 0
    assert model.history == []
    assert not hasattr(model, "last")


def test_trainable_restores_a_replaced_buffer_after_a_failure():
    model = Careless()
    model.fail = True
    images = torch.randn(2, 3, 32, 32)
    with left_alone(model), pytest.raises(RuntimeError, match="half-way"), trainable(model):
        model(images)


def test_trainable_unfreezes_only_a_model_that_is_frozen_entirely():
    model = SmallCNN().requires_grad_(False)
    with trainable(model):
        assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.fc2.requires_grad_(True)
    with trainable(model):
        assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["fc2.weight", "fc2.bias"]


def test_frozen_parts_of_a_trained_model_stay_in_evaluation_mode():
    model, images = residual(), torch.randn(4, 3, 32, 32)
    first = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    first.requires_grad_(False)
    known, others = first.running_mean.clone(), [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)][1:]
    with trainable(model):
        model(images)
        assert not first.training
        assert all(module.training for module in others)
    assert torch.equal(first.running_mean, known)


def test_trainable_does_not_add_to_the_users_gradients():
    model = SmallCNN()
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    mine, values = model.fc1.weight.grad, model.fc1.weight.grad.clone()
    with trainable(model):
        model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert model.fc1.weight.grad is mine
    assert torch.equal(mine, values)


def test_frozen_inside_trainable_keeps_what_was_learned():
    model, images = residual(), torch.randn(4, 3, 32, 32)
    with trainable(model):
        step(model, images)
        learned = traces_of_model(model)
        with frozen(model):
            model(images)
        assert traces_of_model(model) == learned


class Remembering(nn.Module):
    """Writes into containers of every kind as it runs, and into tensors in them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.last, self.nested = deque([0, 1], maxlen=2), {"maps": [1], "sums": {"of": (torch.zeros(()), [])}}
        self.listed = [torch.zeros(())]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.last.append(len(self.last))
        self.nested["maps"].append(2)
        self.nested["sums"]["of"][0].add_(1)
        self.nested["sums"]["of"][1].append(images)
        self.listed[0].add_(1)
        return images * self.weight

    def told(self) -> str:
        return repr((self.last, self.nested, self.listed))


def test_containers_in_containers_and_the_tensors_in_them_are_put_back():
    model = Remembering()
    before, last = model.told(), model.last
    with no_trace(model):
        model(torch.ones(3))
        assert model.told() != before
    assert model.told() == before
    assert model.last is last
    model.nested["self"] = model.nested  # no end to what it holds
    with no_trace(model):
        model.last.clear()
    assert list(model.last) == [0, 1]


def test_one_thing_that_cannot_be_put_back_keeps_no_other_from_it(monkeypatch):
    model, dtype = SmallCNN(), torch.get_default_dtype()

    def refuse(self):
        raise RuntimeError("cannot be put back")

    monkeypatch.setattr(ModuleState, "restore", refuse)
    with pytest.raises(RuntimeError, match="cannot be put back"), no_trace(model):
        torch.set_default_dtype(torch.float64)
    assert torch.get_default_dtype() == dtype


def test_weights_made_in_inference_mode_are_refused():
    with torch.inference_mode():
        model = SmallCNN()
    with pytest.raises(UnsupportedClassifierError, match=r"made in torch.inference_mode\(\), through which no gradient flows"):
        unwrap(model)
