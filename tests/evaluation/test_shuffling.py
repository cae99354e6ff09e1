"""Shuffled attributes: what they keep, what they cost against the mean over all swaps, and samples of bounded size."""

import copy
import dataclasses
import json

import oracles
import pytest
import torch
from models import left_alone
from torch import Generator, Tensor

from flint_posthoc import FlintExplainer
from flint_posthoc.errors import ConfigurationError, EmptyDataError
from flint_posthoc.evaluation.gathering import RowReservoir, add_up, sample_rows
from flint_posthoc.evaluation.shuffling import across_samples, one_across_samples, shuffle, within_samples

Labelled = list[tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def explain(learnt: FlintExplainer) -> FlintExplainer:
    """With an attribute that has no weight, and one that never fires."""
    explain = copy.copy(learnt)
    fitted = dataclasses.replace(learnt.fitted, interpreter=copy.deepcopy(learnt.interpreter))
    explain._saved = dataclasses.replace(learnt.saved, fitted=fitted)
    with torch.no_grad():
        explain.interpreter.head.weight[:, 2] = 0
        explain.interpreter.attribute_network.linear.bias[4] = -1e4
    return explain


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_sums_add_up_over_batches_and_say_so_where_there_was_none() -> None:
    assert add_up(iter([1, 2, 3]), "there is nothing to count") == 6
    with pytest.raises(EmptyDataError, match="the data held no batch, there is nothing to count"):
        add_up([], "there is nothing to count")


def test_permutations_keep_what_they_should() -> None:
    attributes = torch.rand(30, 4)
    everywhere = across_samples(attributes, generator())
    torch.testing.assert_close(everywhere.sort(dim=0).values, attributes.sort(dim=0).values)
    assert (everywhere.sum(dim=1).sort().values - attributes.sum(dim=1).sort().values).abs().max() > 0.01  # not whole rows
    inside = within_samples(attributes, generator())
    torch.testing.assert_close(inside.sort(dim=1).values, attributes.sort(dim=1).values)
    assert not torch.equal(inside, attributes)
    alone = one_across_samples(1, attributes, generator())
    assert torch.equal(alone[:, [0, 2, 3]], attributes[:, [0, 2, 3]])
    assert not torch.equal(alone[:, 1], attributes[:, 1])
    torch.testing.assert_close(alone[:, 1].sort().values, attributes[:, 1].sort().values)


def test_one_at_a_time_costs_what_swapping_with_every_other_image_costs(explain: FlintExplainer, pixels: Tensor) -> None:
    local, head = explain(pixels), explain.interpreter.head
    parts = [oracles.rows(part) for part in (local.classifier_logits, local.attributes, head.weight, head.bias)]
    found = shuffle(explain.fitted, pixels, repeats=150)
    for attribute, shuffled in enumerate(found.one_at_a_time):
        assert shuffled.fidelity == pytest.approx(oracles.swapped_fidelity(*parts, attribute), abs=0.02), attribute
    assert max(drop.fidelity for drop in found.drops) > 0.05


def test_intact_is_what_evaluate_says_and_what_takes_no_part_costs_nothing(explain: FlintExplainer, labelled: Labelled) -> None:
    found, evaluation = shuffle(explain.fitted, labelled), explain.evaluate(labelled)
    assert found.intact.fidelity == pytest.approx(evaluation.fidelity)
    assert found.intact.accuracy == pytest.approx(evaluation.interpreter_accuracy)
    for attribute in (2, 4):  # without a weight, and silent
        assert found.drops[attribute].fidelity == found.drops[attribute].accuracy == 0
    assert found.across_samples.fidelity < found.intact.fidelity
    assert found.within_samples.fidelity < found.intact.fidelity
    assert found.ranking()[0] == max(range(6), key=lambda j: found.drops[j].fidelity)


def test_chance_is_that_of_independent_answers(explain: FlintExplainer, pixels: Tensor, labelled: Labelled) -> None:
    labels = torch.cat([batch[1] for batch in labelled])
    found, local = shuffle(explain.fitted, labelled), explain(pixels)
    g = local.interpreter_class
    assert found.chance.fidelity == pytest.approx((g[:, None] == local.classifier_class).double().mean().item())
    assert found.chance.accuracy == pytest.approx((g[:, None] == labels).double().mean().item())


def test_the_seed_decides_and_batches_do_not(explain: FlintExplainer, pixels: Tensor) -> None:
    first = shuffle(explain.fitted, pixels, seed=3)
    assert shuffle(explain.fitted, pixels, seed=3) == first
    assert shuffle(explain.fitted, pixels, seed=4) != first
    again = shuffle(explain.fitted, list(pixels.split(7)), seed=3)
    assert again.across_samples.fidelity == pytest.approx(first.across_samples.fidelity, abs=0.03)  # float32 of another batch size


def test_a_limit_bounds_what_is_kept_and_is_said(explain: FlintExplainer, pixels: Tensor) -> None:
    found = shuffle(explain.fitted, list(pixels.split(7)), limit=15)
    assert (found.samples, found.seen) == (15, 40)
    assert "15 images" in str(found)


def test_a_reservoir_is_uniform_in_order_and_independent_of_batches() -> None:
    kept = torch.zeros(60)
    for seed in range(600):
        reservoir = RowReservoir(6, seed)
        for part in torch.arange(60).split(7):
            reservoir.offer(part, 2 * part)
        (rows, doubled) = reservoir.columns()
        assert torch.equal(doubled, 2 * rows)
        assert torch.equal(rows, rows.sort().values)
        kept[rows] += 1
        whole = RowReservoir(6, seed)
        whole.offer(torch.arange(60))
        assert torch.equal(whole.columns()[0], rows)
    assert kept.sum() == 3600
    assert 30 < kept.min() <= kept.max() < 95  # 60 expected, deviation 7.4
    with pytest.raises(EmptyDataError, match="no images"):
        RowReservoir(6, 0).columns()


def test_labels_that_are_missing_leave_accuracy_unknown(explain: FlintExplainer, pixels: Tensor) -> None:
    found = shuffle(explain.fitted, pixels)
    assert found.intact.accuracy is None
    assert found.drops[0].accuracy is None
    assert found.chance.accuracy is None
    mixed = sample_rows(explain.fitted, [(pixels[:10], torch.zeros(10, dtype=torch.int64)), pixels[10:]])
    assert mixed.labels.tolist() == [0] * 10 + [-1] * 30


def test_it_says_what_it_means(explain: FlintExplainer, labelled: Labelled) -> None:
    found = shuffle(explain.fitted, labelled)
    text = str(dataclasses.replace(found, notes=("a note",)))
    for words in ("all shuffled across samples", "shuffled within each sample", "chance", "points of fidelity", "note: a note"):
        assert words in text
    exported = found.to_dict()
    assert json.loads(json.dumps(exported, allow_nan=False)) == exported
    assert len(exported["one_at_a_time"]) == 6
    axes = found.plot().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"φ{j}" for j in found.ranking()]


def test_bad_settings_are_refused(explain: FlintExplainer, pixels: Tensor) -> None:
    with pytest.raises(ConfigurationError, match="repeats, the number of permutations, must be at least 1, got 0"):
        shuffle(explain.fitted, pixels, repeats=0)
    with pytest.raises(ConfigurationError, match="limit, the number of images kept, must be at least 1, got -1"):
        shuffle(explain.fitted, pixels, limit=-1)
    with pytest.raises(EmptyDataError, match="holds no images"):
        shuffle(explain.fitted, [])


def test_it_leaves_no_trace(explain: FlintExplainer, pixels: Tensor) -> None:
    with left_alone(explain.model):
        shuffle(explain.fitted, pixels)
