"""Plain dictionaries beside the interpreter: read-outs that find the optimum, one measure for all, and a floor and a ceiling."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import oracles
import pytest
import small
import torch
from models import left_alone
from torch import Tensor, nn

from flint_posthoc import FlintExplainer
from flint_posthoc.classifier.adapter import OUTPUT_KINDS
from flint_posthoc.errors import ConfigurationError, EmptyDataError
from flint_posthoc.evaluation import baselines
from flint_posthoc.evaluation.baselines import (
    INTERPRETER,
    PROBE,
    STRANGER,
    BaselineComparison,
    compare_baselines,
    pooled,
    pooling_grid,
    random_attributes,
)
from flint_posthoc.evaluation.dictionaries import DICTIONARIES, READOUT_DECAY, learn_readout, split_signs

Labelled = list[tuple[Tensor, Tensor]]
KIND = OUTPUT_KINDS["categorical"]


@pytest.fixture(scope="module")
def found(learnt: FlintExplainer, train: Tensor, labelled: Labelled) -> BaselineComparison:
    return compare_baselines(learnt.fitted, train[:300], labelled, independent=small.tiny(seed=5))


def test_a_readout_is_where_the_loss_has_no_slope() -> None:
    codes, logits = torch.rand(80, 3) * torch.tensor([0.01, 1.0, 50.0]) + 2, torch.randn(80, 4)
    readout = learn_readout(codes, logits, KIND)
    weight = (readout.weight * codes.std(dim=0, correction=0)).requires_grad_()
    scaled = (codes - codes.mean(dim=0)) / codes.std(dim=0, correction=0)
    bias = (readout.bias + readout.weight @ codes.mean(dim=0)).requires_grad_()
    loss = KIND.cross_entropy(logits, scaled @ weight.T + bias).mean() + READOUT_DECAY * weight.square().sum() / 2
    loss.backward()
    assert weight.grad is not None
    assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 1e-3  # type: ignore[union-attr]
    assert oracles.output_fidelity(oracles.rows(logits), oracles.rows(readout(codes))) == pytest.approx(
        (loss - READOUT_DECAY * weight.square().sum() / 2).item(), rel=1e-3
    )


def test_a_readout_finds_a_linear_teacher_whatever_mode_the_caller_is_in() -> None:
    codes, weight = torch.randn(200, 3), torch.randn(4, 3)
    with torch.inference_mode():
        readout = learn_readout(codes * torch.tensor([1.0, 1.0, 1.0]), codes @ weight.T, KIND)
    assert KIND.agreement(codes @ weight.T, readout(codes)).double().mean() > 0.97
    constant = learn_readout(torch.ones(10, 2), torch.tensor([[0.0, 1.0]]).expand(10, 2), KIND)
    assert (constant.weight == 0).all()
    torch.testing.assert_close(constant(torch.ones(1, 2)).softmax(dim=1), torch.tensor([[0.0, 1.0]]).softmax(dim=1), atol=1e-3, rtol=0)


def test_a_readout_of_codes_that_tell_everything_stays_finite() -> None:
    codes = torch.tensor([[-1.0], [1.0]]).repeat(20, 1)
    weight = learn_readout(codes, 50 * torch.cat([codes, -codes], dim=1), KIND).weight
    size = weight[0, 0].item()
    assert size == pytest.approx(
        2 / math.exp(2 * size) / READOUT_DECAY / 2, rel=0.01
    )  # where the slope of log(1 + exp(-2w)) is that of decay


@pytest.mark.parametrize("name", DICTIONARIES)
def test_dictionaries_encode_new_images_as_they_encode_those_they_saw(name: str) -> None:
    atoms = torch.rand(3, 12).double().relu()
    features = (torch.rand(60, 3).double() @ atoms).float()
    encode = DICTIONARIES[name](features, 3, 0)
    codes = encode(features)
    assert codes.shape == (60, 3)
    torch.testing.assert_close(encode(features[:7]), codes[:7], atol=2e-3, rtol=2e-3)
    assert torch.equal(DICTIONARIES[name](features, 3, 0)(features), codes)
    if name != "principal components":
        assert (codes >= 0).all()
    if name != "k-means":  # rank 3: nothing is lost
        guess = torch.linalg.lstsq(torch.cat([codes, torch.ones(60, 1)], dim=1), features).solution
        assert ((torch.cat([codes, torch.ones(60, 1)], dim=1) @ guess - features).norm() / features.norm()) < 0.05


def test_dictionaries_of_signed_features_and_of_more_atoms_than_there_can_be() -> None:
    features = torch.randn(20, 5)
    torch.testing.assert_close(split_signs(features)[:, :5] - split_signs(features)[:, 5:], features)
    assert (split_signs(features) >= 0).all()
    sizes = {name: make(features, 8, 0)(features).shape[1] for name, make in DICTIONARIES.items()}
    assert sizes == {"non-negative factorisation": 8, "k-means": 8, "principal components": 5}


def test_the_interpreter_is_measured_as_evaluate_measures_it(learnt: FlintExplainer, labelled: Labelled, found: BaselineComparison) -> None:
    own, evaluation = found[INTERPRETER], learnt.evaluate(labelled)
    assert own.fidelity == pytest.approx(evaluation.fidelity)
    assert own.fidelity_on_errors == pytest.approx(evaluation.fidelity_on_errors)
    assert own.kl_divergence == pytest.approx(evaluation.kl_divergence, rel=1e-5)
    assert own.conciseness == pytest.approx(evaluation.conciseness[2.0]["absolute"])
    assert (found.images, found.training_images) == (40, 300)


def test_floor_and_ceiling_are_what_they_are_called(learnt: FlintExplainer, pixels: Tensor, found: BaselineComparison) -> None:
    local = learnt(pixels)
    with torch.no_grad():
        stranger = small.tiny(seed=5)(pixels).argmax(dim=1)
    assert found[STRANGER].fidelity == pytest.approx((stranger == local.classifier_class).double().mean().item())
    constant = found["always f's most frequent class"]
    shares = [(local.classifier_class == c).double().mean().item() for c in range(small.CLASSES)]
    assert any(constant.fidelity == pytest.approx(share) for share in shares)
    assert constant.size is None
    assert constant.conciseness is None
    assert found[PROBE].size == 10 * 4  # ten channels of both taps on Ψ's grid of 2 x 2
    assert found[PROBE].fidelity >= max(found[name].fidelity for name in DICTIONARIES) - 0.1
    assert found[PROBE].fidelity > 0.8


def test_a_class_that_f_never_considers_costs_the_constant_no_infinity() -> None:
    model = small.tiny()
    with torch.no_grad():
        model.fc.bias[1] = -1e4
    explain = small.fitted(model)
    found = explain.baselines(small.images(40), small.images(20))
    assert math.isfinite(found["always f's most frequent class"].kl_divergence)


def test_pooled_features_are_means_over_the_grid(learnt: FlintExplainer, pixels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = next(learnt.fitted.read(pixels))
    features = pooled(learnt.fitted, batch.activations)
    first = batch.activations[0]
    assert features[3, 0].item() == pytest.approx(first[3, 0, :5, :5].mean().item(), rel=1e-4)
    assert pooling_grid(learnt.fitted) == (2, 2)
    monkeypatch.setattr(baselines, "MAX_FEATURES", 39)
    assert pooling_grid(learnt.fitted) == (1, 1)


def test_a_random_network_is_as_a_fit_starts_it(learnt: FlintExplainer, pixels: Tensor) -> None:
    batch = next(learnt.fitted.read(pixels))
    network, other = (random_attributes(learnt.fitted, batch.activations, seed) for seed in (0, 1))
    assert network.preactivations(batch.activations).mean(dim=0).tolist() == pytest.approx([0.5] * 6, abs=1e-3)
    assert not torch.equal(network.linear.weight, other.linear.weight)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_the_seed_decides(learnt: FlintExplainer, train: Tensor, labelled: Labelled, found: BaselineComparison) -> None:
    again = compare_baselines(learnt.fitted, train[:300], labelled, independent=small.tiny(seed=5))
    assert again == found


def test_it_says_what_it_means(found: BaselineComparison) -> None:
    for words in ("this interpreter", "k-means", "ceiling", "points", "never saw f agrees"):
        assert words in str(found)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()
    assert len(found.plot().axes[0].patches) == len(found.baselines) == 8
    with pytest.raises(ConfigurationError, match="no baseline is called 'NMF'; there are 'this interpreter'"):
        found["NMF"]


def test_restricted_classes_compare_restricted_answers(pixels: Tensor) -> None:
    explain = small.fitted(classes=[3, 1])
    found = compare_baselines(explain.fitted, pixels, pixels, independent=small.tiny(seed=5))
    assert found[INTERPRETER].fidelity == pytest.approx(explain.evaluate(pixels).fidelity)
    assert found[INTERPRETER].fidelity_on_errors is None
    with torch.no_grad():
        stranger = small.tiny(seed=5)(pixels)[:, [3, 1]].argmax(dim=1)
    assert found[STRANGER].fidelity == pytest.approx((stranger == explain(pixels).classifier_class).double().mean().item())


def test_bad_input_is_refused(learnt: FlintExplainer, pixels: Tensor) -> None:
    fitted = learnt.fitted
    with pytest.raises(ConfigurationError, match="5 training images make no dictionary of 6"):
        compare_baselines(fitted, pixels[:5], pixels)
    with pytest.raises(ConfigurationError, match="independent gives 9 classes, the explained classifier 4"):
        compare_baselines(fitted, pixels, pixels, independent=small.Tiny(9))
    with pytest.raises(ConfigurationError, match="the explained classifier itself"):
        compare_baselines(fitted, pixels, pixels, independent=learnt.model)
    with pytest.raises(EmptyDataError, match="holds no images"):
        compare_baselines(fitted, [], pixels)


def test_no_trace_stays_on_either_network(learnt: FlintExplainer, pixels: Tensor) -> None:
    stranger: nn.Module = small.tiny(seed=5).train()
    with left_alone(learnt.model), left_alone(stranger):
        compare_baselines(learnt.fitted, pixels, pixels, independent=stranger)


@pytest.mark.parametrize("seed", [-1, 2**33, 2**64 - 1])
def test_any_seed_will_do(seed: int, learnt: FlintExplainer, pixels: Tensor) -> None:
    assert learnt.baselines(pixels, pixels, seed=seed).images == len(pixels)


def test_the_first_call_of_a_process_leaves_its_random_state_alone() -> None:
    """Importing sklearn draws from it."""
    code = (
        "import random, small; explain, pixels = small.fitted(), small.images(); random.seed(0); before = random.getstate(); "
        "explain.baselines(pixels, pixels); assert random.getstate() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(small.__file__).parent, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_margins_are_paired_over_images(learnt: FlintExplainer, train: Tensor, labelled: list[tuple[Tensor, Tensor]]) -> None:
    found = compare_baselines(learnt.fitted, train, labelled)
    own = found[INTERPRETER]
    for baseline in found.baselines:
        assert baseline.margin.mean == pytest.approx(own.fidelity - baseline.fidelity)
        assert baseline.margin.low <= baseline.margin.mean <= baseline.margin.high
    assert own.margin == (0, 0, 0)
    assert f"which learnt from {len(train):,} images" in found.meaning()


def test_sizes_are_those_of_the_codes_and_the_constant_has_the_least_divergence(train: Tensor, labelled: Labelled) -> None:
    explain = small.explainer(num_attributes=60)  # more than the 40 pooled features
    explain.fit(train[:300], batch_size=120, progress=False)
    found = compare_baselines(explain.fitted, train[:300], labelled)
    assert (found["principal components"].size, found["k-means"].size) == (40, 60)
    assert "With 60 numbers an image" in found.meaning()
    with torch.no_grad():
        shares = explain.model(train[:300]).softmax(dim=1).mean(dim=0)
        target = torch.cat([explain.model(images) for images, _ in labelled])
    expected = KIND.cross_entropy(target, shares.log().expand_as(target)) - KIND.entropy(target)
    assert found["always f's most frequent class"].kl_divergence == pytest.approx(expected.mean().item(), abs=1e-4)


def test_they_work_in_float32_whatever_the_default_is(learnt: FlintExplainer, train: Tensor, labelled: Labelled) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        found = compare_baselines(learnt.fitted, train[:100], labelled)
        readout = learn_readout(torch.rand(9, 2, dtype=torch.float32), torch.rand(9, 3, dtype=torch.float32), KIND)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found[PROBE].fidelity > 0.5
    assert readout.weight.dtype == torch.float32
