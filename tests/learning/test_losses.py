"""The terms of L_int against the loops of oracles.py, their weights, and the name of a term that broke."""

import math

import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flint_posthoc.classifier.adapter import Categorical
from flint_posthoc.errors import ConfigurationError
from flint_posthoc.learning import losses
from flint_posthoc.learning.defaults import PHOTOGRAPHS
from flint_posthoc.learning.losses import LossTerms, LossWeights, interpretability_loss

KIND = Categorical()


class MiniBatch:
    """What one step sees, random, float64, logits up to some tens."""

    def __init__(self, seed: int, size: tuple[int, int, int], spread: float) -> None:
        samples, num_attributes, num_classes = size
        source = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=source, dtype=torch.float64)

        self.attributes = (spread * normal(samples, num_attributes)).relu()
        self.f_logits, self.g_logits = spread * normal(samples, num_classes), spread * normal(samples, num_classes)
        self.images, self.reconstruction = normal(samples, 2, 3, 4), normal(samples, 2, 3, 4)

    def loss(self, weights: LossWeights) -> LossTerms:
        return interpretability_loss(
            KIND,
            PHOTOGRAPHS.fill(weights),
            attributes=self.attributes,
            interpreter_logits=self.g_logits,
            classifier_logits=self.f_logits,
            reconstruction=self.reconstruction,
            target=self.images,
        )


sizes = st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(2, 5))
mini_batches = st.builds(MiniBatch, st.integers(0, 2**32 - 1), sizes, st.sampled_from([0.1, 1.0, 20.0]))
numbers = st.floats(0, 3)


def close(ours: Tensor, expected: float) -> None:
    assert ours.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(mini_batches)
def test_output_fidelity_is_the_oracles_in_both_orders(batch: MiniBatch) -> None:
    f, g = oracles.rows(batch.f_logits), oracles.rows(batch.g_logits)
    close(losses.output_fidelity(KIND, batch.f_logits, batch.g_logits).mean(), oracles.output_fidelity(f, g))
    close(losses.output_fidelity_as_printed(KIND, batch.f_logits, batch.g_logits).mean(), oracles.output_fidelity(g, f))


@given(mini_batches, st.sampled_from([0.5, 4.0]))
def test_a_temperature_divides_both_logits_and_keeps_the_gradients_size(batch: MiniBatch, temperature: float) -> None:
    f, g = (oracles.rows(logits / temperature) for logits in (batch.f_logits, batch.g_logits))
    expected = temperature**2 * oracles.output_fidelity(f, g)
    close(batch.loss(LossWeights(temperature=temperature)).output_fidelity, expected)


def test_at_a_high_temperature_the_gradient_is_that_of_centred_squared_differences() -> None:
    """Hinton, Vinyals, Dean 2015, section 2.1: T² H → ½ |f - g|² / C for T → ∞, logits of mean 0."""
    f, g = (torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    f, g = f - f.mean(dim=1, keepdim=True), (g - g.mean(dim=1, keepdim=True)).requires_grad_()
    losses.output_fidelity(KIND, f, g, 1e4).mean().backward()
    torch.testing.assert_close(g.grad, (g.detach() - f) / 4 / 5, atol=1e-4, rtol=1e-3)


def test_a_temperature_is_positive() -> None:
    with pytest.raises(ConfigurationError, match="temperature must be positive, got 0"):
        LossWeights(temperature=0.0)


@pytest.mark.parametrize("target", losses.TARGETS)
def test_no_term_sends_a_gradient_into_the_classifier(target: str) -> None:
    batch = MiniBatch(0, (4, 3, 3), 1.0)
    batch.f_logits.requires_grad_()
    batch.g_logits.requires_grad_()
    batch.loss(LossWeights(target=target)).total.backward()
    assert batch.f_logits.grad is None
    assert batch.g_logits.grad is not None
    assert batch.g_logits.grad.abs().sum() > 0


@given(mini_batches)
def test_input_fidelity_is_the_oracles(batch: MiniBatch) -> None:
    reconstruction, images = oracles.rows(batch.reconstruction), oracles.rows(batch.images)
    close(losses.RECONSTRUCTION_LOSSES["l2"](batch.reconstruction, batch.images).mean(), oracles.input_fidelity(reconstruction, images))
    pairs = zip(oracles.flattened(reconstruction), oracles.flattened(images), strict=True)
    close(losses.RECONSTRUCTION_LOSSES["l1"](batch.reconstruction, batch.images).mean(), oracles.mean([abs(a - b) for a, b in pairs]))


@given(mini_batches)
def test_entropy_is_the_oracles_and_stays_within_its_bounds(batch: MiniBatch) -> None:
    ours = losses.entropy(batch.attributes)
    for value, row in zip(ours, oracles.rows(batch.attributes), strict=True):
        close(value, oracles.entropy(row))
    assert (ours >= 0).all()
    assert (ours <= math.log(batch.attributes.shape[1]) + 1e-9).all()


@given(mini_batches)
def test_the_parts_of_conciseness_and_diversity_are_the_oracles(batch: MiniBatch) -> None:
    rows = oracles.rows(batch.attributes)
    parts = batch.loss(LossWeights())
    close(parts.entropy, oracles.mean([oracles.entropy(row) for row in rows]))
    close(parts.mean_entropy, oracles.entropy(oracles.mean_attributes(rows)))
    close(parts.l1, oracles.mean([abs(value) for row in rows for value in row]))


@given(mini_batches, numbers, numbers, numbers, numbers, numbers, numbers)
def test_the_total_is_the_oracles(batch: MiniBatch, beta: float, gamma: float, delta: float, zeta: float, mu: float, eta: float) -> None:
    expected = (
        beta * oracles.output_fidelity(oracles.rows(batch.f_logits), oracles.rows(batch.g_logits))
        + gamma * oracles.input_fidelity(oracles.rows(batch.reconstruction), oracles.rows(batch.images))
        + delta * oracles.conciseness_diversity(oracles.rows(batch.attributes), zeta, mu, eta)
    )
    close(batch.loss(LossWeights(beta, gamma, delta, zeta, mu, eta)).total, expected)


def test_every_term_keeps_its_graph_at_weight_zero() -> None:
    batch = MiniBatch(1, (4, 3, 3), 1.0)
    leaves = [batch.attributes, batch.g_logits, batch.reconstruction]
    for leaf in leaves:
        leaf.requires_grad_()
    batch.loss(LossWeights(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)).total.backward()
    assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves)


def test_large_activations_give_no_nan() -> None:
    batch = MiniBatch(2, (4, 3, 3), 1.0)
    batch.attributes = batch.attributes * 1e6
    batch.g_logits = (batch.g_logits * 1e6).requires_grad_()
    terms = batch.loss(LossWeights())
    terms.total.backward()
    assert losses.first_non_finite(terms) is None
    assert batch.g_logits.grad is not None
    assert batch.g_logits.grad.isfinite().all()


@pytest.mark.parametrize("name", LossTerms._fields)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_broken_term_is_named(name: str, value: float) -> None:
    terms = LossTerms(*(torch.tensor(1.0) for _ in LossTerms._fields))._replace(**{name: torch.tensor(value)})
    assert losses.first_non_finite(terms) == name
    assert losses.first_non_finite(terms._replace(total=torch.tensor(math.nan))) == name


@pytest.mark.parametrize("name", ["beta", "gamma", "delta", "zeta", "mu", "eta"])
@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_a_weight_below_zero_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"at least 0, got {{'{name}': {value}"):
        LossWeights(**{name: value})


@pytest.mark.parametrize("wrong", [{"target": "clasifier"}, {"reconstruction": "L2"}])
def test_a_misspelt_choice_is_refused_with_what_is_allowed(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"\['classifier', 'interpreter'\] and reconstruction one of \['l1', 'l2'\]"):
        LossWeights(**wrong)
