"""g = h∘Φ with d: what fits together, a head stored class-centred, and revival that disturbs nothing learnt."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flint_posthoc.errors import ConfigurationError
from flint_posthoc.interpreter.interpreter import Interpreter, InterpreterConfig
from flint_posthoc.measures import contributions, relevance

SHAPES = ((5, 6, 6), (7, 3, 3))


def maps(count: int = 40) -> tuple[Tensor, ...]:
    return tuple(torch.randn(count, *shape) for shape in SHAPES)


def interpreter(**config: Any) -> Interpreter:
    return Interpreter(SHAPES, (3, 20, 16), 6, 4, InterpreterConfig(**config)).eval()


def test_one_pass_gives_attributes_logits_and_a_reconstruction_of_one_another() -> None:
    ours, activations = interpreter(), maps()
    output = ours(activations)
    assert [tuple(part.shape) for part in output] == [(40, 6), (40, 4), (40, 3, 20, 16)]
    assert torch.equal(output.attributes, ours.attribute_network(activations))
    torch.testing.assert_close(output.logits, output.attributes @ ours.head.weight.T + ours.head.bias)
    assert torch.equal(output.reconstruction, ours.decoder(output.attributes))
    assert all(torch.equal(one, other) for one, other in zip(ours.attributes_and_logits(activations), output[:2], strict=True))


def test_dropout_is_for_training_only() -> None:
    ours, activations = interpreter(head_dropout=0.5).train(), maps()
    assert not torch.equal(ours(activations).logits, ours(activations).logits)
    assert torch.equal(ours.eval()(activations).logits, ours.attributes_and_logits(activations)[1])


def test_a_class_centred_head_sums_to_zero_and_leaves_softmax_as_it_was() -> None:
    ours, activations = interpreter(), maps()
    before = ours.attributes_and_logits(activations)[1].softmax(dim=1)
    ours.centre_head()
    torch.testing.assert_close(ours.attributes_and_logits(activations)[1].softmax(dim=1), before)
    torch.testing.assert_close(ours.head.weight.sum(dim=0), torch.zeros(6), atol=1e-6, rtol=0)
    assert abs(ours.head.bias.sum().item()) < 1e-6


def test_centred_relevance_does_not_depend_on_a_number_added_to_a_column() -> None:
    ours, attributes, classes = interpreter(), torch.rand(30, 6), torch.randint(4, (30,))

    def centred_relevance() -> Tensor:
        ours.centre_head()
        return relevance(contributions(attributes, ours.head.weight.detach(), classes))

    before = centred_relevance()
    with torch.no_grad():
        ours.head.weight += torch.randn(6)
    torch.testing.assert_close(centred_relevance(), before, atol=1e-5, rtol=1e-4)


def test_reviving_silent_attributes_leaves_logits_and_reconstruction_as_they_were() -> None:
    ours, activations = interpreter(), maps()
    silent = torch.tensor([True, False, False, True, False, False])
    with torch.no_grad():
        ours.attribute_network.linear.bias[silent] = -1e3
    before = ours(activations)
    ours.restart(silent, activations)
    after = ours(activations)
    assert after.attributes[:, silent].any(dim=0).all()
    assert torch.equal(after.attributes[:, ~silent], before.attributes[:, ~silent])
    torch.testing.assert_close(after.logits, before.logits)
    torch.testing.assert_close(after.reconstruction, before.reconstruction)


def test_the_start_from_data_can_be_left_out() -> None:
    ours = interpreter(initial_bias=None)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    ours.initialize_from(maps())
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_there_is_no_batch_norm_anywhere() -> None:
    assert not any(isinstance(module, nn.modules.batchnorm._NormBase) for module in interpreter().modules())


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_a_dropout_out_of_range_is_refused(dropout: float) -> None:
    with pytest.raises(ConfigurationError, match=r"head_dropout must be in \[0, 1\)"):
        dataclasses.replace(InterpreterConfig(), head_dropout=dropout)
