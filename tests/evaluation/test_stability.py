"""Fits of other seeds: a permuted copy is found again attribute by attribute, and matching is the best of all permutations."""

import copy
import dataclasses
import itertools
import json
import math
from pathlib import Path

import oracles
import pytest
import small
import torch
from models import left_alone
from torch import Tensor

from flint_posthoc import FlintExplainer
from flint_posthoc.errors import ClassifierMismatchError, ConfigurationError, EmptyDataError
from flint_posthoc.evaluation.stability import PairStability, compare_fits, match
from flint_posthoc.interpreter.fitted import FittedInterpreter


def permuted(fitted: FittedInterpreter, order: list[int], scale: float = 1.0) -> FittedInterpreter:
    """The same interpreter with its attributes in another order, each ``scale`` times as strong."""
    interpreter = copy.deepcopy(fitted.interpreter)
    linear, head = interpreter.attribute_network.linear, interpreter.head
    with torch.no_grad():
        linear.weight.copy_(scale * linear.weight[order])
        linear.bias.copy_(scale * linear.bias[order])
        head.weight.copy_(head.weight[:, order] / scale)
    return dataclasses.replace(fitted, interpreter=interpreter)


def test_matching_is_the_best_of_all_permutations() -> None:
    for size in (3, 5):
        correlations = torch.rand(size, size) * 2 - 1
        best = max(itertools.permutations(range(size)), key=lambda order: sum(float(correlations[i, j]) for i, j in enumerate(order)))
        assert match(correlations) == list(enumerate(best))
    assert len(match(torch.rand(2, 5))) == 2


def test_a_permuted_and_scaled_copy_is_the_same(learnt: FlintExplainer, pixels: Tensor) -> None:
    order = [3, 0, 5, 1, 4, 2]
    found = compare_fits([learnt.fitted, permuted(learnt.fitted, order, scale=3.0)], list(pixels.split(7)))
    (pair,) = found.pairs
    assert {entry.second: entry.first for entry in pair.matches} == dict(enumerate(order))
    assert pair.correlation == pytest.approx(1, abs=1e-4)
    assert pair.relevance_correlation == pytest.approx(1, abs=1e-4)
    assert (pair.same, pair.agreement, pair.unmatched) == (1, 1, 0)
    assert pair.elsewhere < 0.5


def test_every_figure_is_the_loops(learnt: FlintExplainer, pixels: Tensor) -> None:
    other = small.fitted(learnt.model, num_attributes=4, layers=("conv2",))
    found = compare_fits([learnt.fitted, other.fitted], list(pixels.split(7)))
    first, second = learnt(pixels), other(pixels)
    phi = [oracles.rows(local.attributes) for local in (first, second)]
    together = [one + two for one, two in zip(*phi, strict=True)]
    of_classes = [
        oracles.global_relevance(oracles.rows(local.relevance), local.interpreter_class.tolist(), small.CLASSES)
        for local in (first, second)
    ]
    (pair,) = found.pairs
    assert found.images == 40
    assert pair.agreement == pytest.approx((first.interpreter_class == second.interpreter_class).double().mean().item())
    varying = [j for j in range(4) if len({row[j] for row in phi[1]}) > 1]
    assert len(pair.matches) == len(varying)
    assert pair.unmatched == 10 - 2 * len(varying)
    for entry in pair.matches:
        assert entry.correlation == pytest.approx(oracles.correlation(together, entry.first, 6 + entry.second), abs=1e-4)
        known = [[a, b] for a, b in zip(of_classes[0][entry.first], of_classes[1][entry.second], strict=True) if a == a and b == b]
        if not math.isnan(entry.relevance_correlation):
            assert entry.relevance_correlation == pytest.approx(oracles.correlation(known, 0, 1), abs=1e-4)
    matched = {(entry.first, entry.second) for entry in pair.matches}
    others = [oracles.correlation(together, i, 6 + j) for i in range(6) for j in varying if (i, j) not in matched]
    assert pair.elsewhere == pytest.approx(oracles.mean(others), abs=1e-4)


def test_f_runs_once_for_all_fits_that_tap_the_same_layers(learnt: FlintExplainer, pixels: Tensor) -> None:
    fits = [learnt.fitted, permuted(learnt.fitted, [1, 0, 2, 3, 4, 5]), permuted(learnt.fitted, [5, 4, 3, 2, 1, 0])]
    before = small.Tiny.calls
    found = compare_fits(fits, list(pixels.split(20)))
    assert small.Tiny.calls - before == 2
    assert [(pair.first, pair.second) for pair in found.pairs] == [(0, 1), (0, 2), (1, 2)]


def test_an_attribute_that_never_varies_has_no_match(learnt: FlintExplainer, pixels: Tensor) -> None:
    silent = permuted(learnt.fitted, list(range(6)))
    with torch.no_grad():
        silent.interpreter.attribute_network.linear.bias[2] = -1e4
    (pair,) = compare_fits([learnt.fitted, silent], pixels).pairs
    assert pair.unmatched == 2
    assert 2 not in {entry.second for entry in pair.matches}
    nothing = PairStability(0, 1, (), 12, math.nan, 1.0)
    assert math.isnan(nothing.correlation)


def test_it_says_what_it_means(learnt: FlintExplainer, pixels: Tensor) -> None:
    found = compare_fits([learnt.fitted, permuted(learnt.fitted, [1, 0, 2, 3, 4, 5])], pixels)
    for words in ("matched r", "0 and 1", "1.00", "the same attribute found again"):
        assert words in str(found)
    exported = found.to_dict()
    assert json.loads(json.dumps(exported, allow_nan=False)) == exported
    assert exported["pairs"][0]["correlation"] == pytest.approx(1)
    assert exported["pairs"][0]["matches"][0].keys() == {"first", "second", "correlation", "relevance_correlation"}
    assert len(found.plot().axes[0].lines) == 1


def test_a_copy_of_the_classifier_is_the_same_classifier(learnt: FlintExplainer, pixels: Tensor, tmp_path: Path) -> None:
    loaded = FlintExplainer.from_pretrained(learnt.save_pretrained(tmp_path), copy.deepcopy(learnt.model))
    assert compare_fits([learnt.fitted, loaded.fitted], pixels).pairs[0].correlation == pytest.approx(1)


def test_bad_input_is_refused(learnt: FlintExplainer, pixels: Tensor) -> None:
    with pytest.raises(ConfigurationError, match="at least 2 fits, got 1"):
        compare_fits([learnt.fitted], pixels)
    with pytest.raises(ClassifierMismatchError, match="fit 1 explains another classifier than fit 0"):
        compare_fits([learnt.fitted, small.fitted(small.tiny(seed=3)).fitted], pixels)
    with pytest.raises(ConfigurationError, match=r"fit 1 is for classes \(3, 1\)"):
        compare_fits([learnt.fitted, small.fitted(learnt.model, classes=[3, 1]).fitted], pixels)
    with pytest.raises(EmptyDataError, match="holds no images"):
        compare_fits([learnt.fitted, learnt.fitted], [])


def test_no_trace_stays(learnt: FlintExplainer, pixels: Tensor) -> None:
    with left_alone(learnt.model):
        compare_fits([learnt.fitted, learnt.fitted], pixels)
