"""Which layers: every choice is measured once, the best comes first, and the gap of the suggested one is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flint_posthoc.errors import ConfigurationError, LayerError
from flint_posthoc.evaluation.layer_choice import Layers, compare_layers
from flint_posthoc.evaluation.selection import SizeScore
from tests import small

FIDELITY = {("a",): 0.7, ("b",): 0.9, ("c",): 0.8, ("a", "b"): 0.95, ("b", "c"): 0.85}


def compared(suggested: Layers, choices: list[Layers] | None = None) -> tuple[Any, list[Layers]]:
    asked: list[Layers] = []

    def measured(layers: Layers) -> SizeScore:
        asked.append(layers)
        return SizeScore(
            num_attributes=5, fidelity=FIDELITY[layers], fidelity_error=0.01, reconstruction=0.5, conciseness=1.2, live=5.0, wasted=0.0
        )

    return compare_layers(measured, suggested, ("a", "b", "c"), choices, 3), asked


def test_each_good_layer_then_the_best_with_each_other_and_none_of_them_twice() -> None:
    comparison, asked = compared(("b", "c"))
    assert asked == [("b", "c"), ("a",), ("b",), ("c",), ("a", "b")]  # in forward order, and ("b", "c") is known by then
    assert [entry.layers for entry in comparison.scores] == [("a", "b"), ("b",), ("b", "c"), ("c",), ("a",)]
    assert comparison.gap == pytest.approx(0.1)


def test_choices_of_ones_own_are_measured_beside_the_suggested_one() -> None:
    comparison, asked = compared(("c",), [("a", "b"), ("c",)])
    assert asked == [("c",), ("a", "b")]
    text = str(comparison)
    assert "c *" in text
    assert "95.00 % ± 1.00" in text
    assert "15.00 points of fidelity below the best of 2 choices, at most" in text
    assert json.loads(json.dumps(comparison.to_dict()))["suggested"] == ["c"]


def test_an_explainer_compares_what_it_would_suggest_and_stays_as_it_was() -> None:
    explain = small.explainer(layers=None)
    data = small.loader(small.images())
    comparison = explain.compare_layers(data, folds=2, progress=False)
    assert comparison.suggested == explain.layers or explain.layers is None
    assert comparison.suggested in [entry.layers for entry in comparison.scores]
    assert len({entry.layers for entry in comparison.scores}) == len(comparison.scores) >= 2
    assert comparison.gap >= 0
    with pytest.raises(LayerError):
        explain.compare_layers(data, [["no_such_layer"]], folds=2, progress=False)
    with pytest.raises(ConfigurationError, match="only once"):
        explain.compare_layers(iter(data), folds=2, progress=False)
    with pytest.raises(ConfigurationError, match="folds"):
        explain.compare_layers(data, folds=1, progress=False)
