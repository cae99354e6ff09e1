"""What a class consists of: means over a bounded, uniform sample of a stream, pairs above a threshold, words and pictures."""

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import oracles
import pytest
import small
import torch
from torch import Tensor

from flint_posthoc import FlintExplainer
from flint_posthoc.errors import ConfigurationError, EmptyDataError
from flint_posthoc.interpretation.classes import GlobalInterpretation, GlobalReading
from flint_posthoc.interpretation.reservoir import RelevanceReservoir

NAN = math.nan


@pytest.fixture(scope="module")
def explain() -> FlintExplainer:
    fitted = small.rarely_firing(small.fitted(class_names=["ant", "bee", "cat", "dog"]))
    with torch.no_grad():
        fitted.interpreter.head.bias[2] = -1e3  # a class that is never predicted
    return fitted


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return small.images(60, seed=4)


def close(ours: Tensor, expected: Any) -> None:
    torch.testing.assert_close(ours.double(), torch.tensor(expected, dtype=torch.float64), equal_nan=True, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("agreeing_only", [False, True])
@pytest.mark.parametrize("batch_size", [60, 7])
def test_with_room_for_all_samples_it_is_the_loops_mean(
    explain: FlintExplainer, pixels: Tensor, agreeing_only: bool, batch_size: int
) -> None:
    local = explain(pixels)
    kept = [index for index in range(60) if local.agrees[index] or not agreeing_only]
    rows, classes = oracles.rows(local.relevance[kept]), local.explained_class[kept].tolist()
    world = explain.global_interpretation(pixels.split(batch_size), agreeing_only=agreeing_only)
    close(world.relevance, oracles.global_relevance(rows, classes, small.CLASSES))
    explained = [c for c, row in zip(classes, rows, strict=True) if any(row)]
    assert world.counts.tolist() == [explained.count(c) for c in range(small.CLASSES)]
    predicted = local.explained_class.tolist()
    wrong = [c for c, agrees in zip(predicted, local.agrees.tolist(), strict=True) if not agrees]
    close(world.disagreement, [wrong.count(c) / predicted.count(c) if c in predicted else NAN for c in range(small.CLASSES)])


def test_at_most_so_many_samples_a_class_count_and_the_seed_says_which(explain: FlintExplainer, pixels: Tensor) -> None:
    few = explain.global_interpretation(pixels, samples_per_class=3)
    assert int(few.counts.max()) == 3
    again = explain.global_interpretation(pixels, samples_per_class=3)
    torch.testing.assert_close(few.relevance, again.relevance, equal_nan=True, atol=0, rtol=0)
    other = explain.global_interpretation(pixels, samples_per_class=3, seed=1)
    assert not torch.equal(few.relevance.nan_to_num(), other.relevance.nan_to_num())
    torch.testing.assert_close(few.disagreement, other.disagreement, equal_nan=True)


def test_the_reservoir_is_uniform_and_bounded() -> None:
    stream, limit, runs = 20, 5, 1000
    kept: Counter[int] = Counter()
    for seed in range(runs):
        reservoir = RelevanceReservoir(1, 1, limit, seed)
        values = torch.arange(float(stream))[:, None]
        reservoir.offer_all(values, torch.zeros(stream, dtype=torch.int64), torch.ones(stream, dtype=torch.bool), torch.arange(stream))
        assert len(reservoir.kept[0]) == limit
        kept.update(int(entry.relevance) for entry in reservoir.kept[0])
    expected = runs * limit / stream
    chi_square = sum((kept[value] - expected) ** 2 / expected for value in range(stream))
    assert chi_square < 43.8  # the 0.1 % point for 19 degrees of freedom


def test_a_reservoir_keeps_copies() -> None:
    reservoir, batch = RelevanceReservoir(2, 1, 5, 0), torch.ones(1, 2)
    reservoir.offer_all(batch, torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.bool), torch.arange(1))
    batch.zero_()
    assert reservoir.mean()[0].flatten().tolist() == [1, 1]


def test_no_room_for_samples_is_refused(explain: FlintExplainer, pixels: Tensor) -> None:
    with pytest.raises(ConfigurationError, match="samples_per_class must be at least 1, got 0"):
        explain.global_interpretation(pixels, samples_per_class=0)


def test_nothing_to_look_at_is_refused(explain: FlintExplainer) -> None:
    with pytest.raises(EmptyDataError, match="holds no images"):
        explain.global_interpretation([])


def world() -> GlobalInterpretation:
    relevance = torch.tensor([[0.5, -0.4, NAN], [0.05, 0.1, NAN], [-0.9, 0.11, NAN]])
    return GlobalInterpretation(
        relevance, torch.tensor([4, 3, 0]), torch.tensor([0.25, 0.0, NAN]), ("ant", "bee", "cat"), (5, 7, 9), ("a note",)
    )


@pytest.mark.parametrize(
    ("threshold", "sign", "expected"),
    [
        (0.1, "positive", [(0, 0), (2, 1)]),
        (0.0, "positive", [(0, 0), (2, 1), (1, 1), (1, 0)]),
        (0.1, "negative", [(2, 0), (0, 1)]),
        (0.1, "both", [(2, 0), (0, 0), (0, 1), (2, 1)]),
        (0.6, "positive", []),
    ],
)
def test_pairs_are_those_beyond_the_threshold_strongest_first(threshold: float, sign: str, expected: list[tuple[int, int]]) -> None:
    pairs = world().pairs(threshold, sign=sign)
    assert [(pair.attribute, pair.class_index) for pair in pairs] == expected
    assert all(pair.relevance == float(world().relevance[pair.attribute, pair.class_index]) for pair in pairs)


@pytest.mark.parametrize(("threshold", "sign"), [(-0.1, "positive"), (1.0, "positive"), (NAN, "positive"), (0.1, "+")])
def test_other_thresholds_and_signs_are_refused(threshold: float, sign: str) -> None:
    with pytest.raises(ConfigurationError, match=r"threshold must be in \[0, 1\) and sign one of \['both', 'negative', 'positive'\]"):
        world().pairs(threshold, sign=sign)


def test_a_class_that_was_never_predicted_is_said_to_be_and_is_null_in_json() -> None:
    exported = world().to_dict()
    assert json.loads(json.dumps(exported, allow_nan=False)) == exported
    assert [row[2] for row in exported["relevance"]] == [None] * 3
    assert exported["disagreement"] == [0.25, 0.0, None]
    assert exported["class_ids"] == [5, 7, 9]
    text = str(world())
    assert "'cat': the interpreter predicted it for no image" in text
    assert "'ant': φ0 +0.50 (4 images; the classifier disagrees on 25.0%)" in text
    assert "note: a note" in text


def test_a_class_that_was_predicted_but_not_sampled_is_not_called_unpredicted() -> None:
    unexplained = GlobalInterpretation(torch.full((2, 1), NAN), torch.tensor([0]), torch.tensor([0.5]), ("ant",), (0,))
    assert "predicted it for no image" not in str(unexplained)
    assert "'ant': none of its images could be sampled (the classifier disagrees on 50.0%)" in str(unexplained)


def test_the_heat_map_is_a_figure_and_opens_no_window(explain: FlintExplainer, pixels: Tensor, without_pyplot: None) -> None:
    figure = explain.global_interpretation(pixels).plot()
    (image,) = figure.axes[0].images
    assert image.get_array().shape == (3, 4)
    assert image.get_array().mask[:, 2].all()
    figure.savefig("/dev/null", format="png")


def test_of_many_classes_those_are_drawn_that_were_predicted() -> None:
    counts = torch.zeros(200, dtype=torch.int64)
    counts[torch.arange(0, 200, 2)] = torch.arange(1, 101)
    relevance = torch.where(counts > 0, torch.arange(200.0) / 200, torch.nan) * torch.linspace(0, 1, 150)[:, None]
    names = tuple(f"class {index}" for index in range(200))
    world = GlobalInterpretation(relevance, counts, torch.zeros(200), names, tuple(range(200)))
    figure = world.plot()
    (image,) = figure.axes[0].images
    assert image.get_array().shape == (100, 60)
    assert not np.ma.getmaskarray(image.get_array()).any()
    assert "60 of 200 classes: those predicted most often\n100 of 150 attributes" in figure.axes[0].get_title()
    assert figure.axes[0].get_yticklabels()[0].get_text() == "φ50"


def test_a_history_is_drawn_without_a_window(explain: FlintExplainer, without_pyplot: None) -> None:
    figure = explain.history.plot()
    assert [axes.get_title() for axes in figure.axes[:3]] == ["fidelity", "KL(p_f || p_g)", "L_if"]
    figure.savefig("/dev/null", format="png")


def test_images_are_counted_beyond_what_float32_can_tell_apart(explain: FlintExplainer, pixels: Tensor) -> None:
    reading = GlobalReading(explain.fitted, samples_per_class=5, agreeing_only=False, seed=0)
    reading._seen += 2**24
    for batch in explain.fitted.read(pixels):
        reading.add(batch)
    assert int(reading._seen.sum()) == small.CLASSES * 2**24 + len(pixels)
