"""Agreement by class against loops, in one pass of additive sums."""

import json

import oracles
import pytest
import small
import torch
from models import left_alone
from torch import Tensor

from flint_posthoc import FlintExplainer
from flint_posthoc.errors import EmptyDataError
from flint_posthoc.evaluation.confusion import Confusion, conclude_confusion, confuse, confusion_sums

Labelled = list[tuple[Tensor, Tensor]]


def first_k(logits: list[float], k: int) -> list[int]:
    return sorted(range(len(logits)), key=lambda c: -logits[c])[:k]


def test_every_figure_is_the_loops(learnt: FlintExplainer, pixels: Tensor, labelled: Labelled) -> None:
    found, local = confuse(learnt.fitted, labelled), learnt(pixels)
    labels = torch.cat([batch[1] for batch in labelled]).tolist()
    f, ranked = local.classifier_class.tolist(), oracles.rows(local.interpreter_logits)
    g = [oracles.argmax(row) for row in ranked]
    for a in range(small.CLASSES):
        for b in range(small.CLASSES):
            assert found.counts[a, b] == sum(one == a and other == b for one, other in zip(f, g, strict=True))
        ours = [other == a for one, other in zip(f, g, strict=True) if one == a]
        theirs = [one == a for one, other in zip(f, g, strict=True) if other == a]
        assert found.fidelity_by_class[a].item() == pytest.approx(oracles.mean(ours))
        assert found.reliability_by_class[a].item() == pytest.approx(oracles.mean(theirs))
    for k in (1, 2, 3):
        outside = [c not in first_k(row, k) for c, row in zip(f, ranked, strict=True)]
        assert found.outside[k] == pytest.approx(oracles.mean(outside))
        assert found.outside_while_right is not None
        right = [away and c == label for away, c, label in zip(outside, f, labels, strict=True)]
        assert found.outside_while_right[k] == pytest.approx(oracles.mean(right))
    assert 0 < found.outside[1] == pytest.approx(1 - found.fidelity)
    assert found.outside_while_right != found.outside
    evaluation = learnt.evaluate(labelled)
    assert found.fidelity == pytest.approx(evaluation.fidelity)
    assert {k: 1 - share for k, share in found.outside.items() if k > 1} == pytest.approx(evaluation.top_k_fidelity)


def test_sums_of_parts_are_the_sums_of_the_whole(learnt: FlintExplainer, pixels: Tensor, labelled: Labelled) -> None:
    parts = [confusion_sums(learnt.fitted, batch) for batch in learnt.fitted.read(labelled)]
    backward = parts[-1]
    for part in reversed(parts[:-1]):
        backward = part + backward
    assert conclude_confusion(backward, learnt.fitted).to_dict() == confuse(learnt.fitted, labelled).to_dict()
    without = confuse(learnt.fitted, pixels)
    assert without.outside_while_right is None
    assert torch.equal(without.counts, confuse(learnt.fitted, labelled).counts)


def test_pairs_and_words_name_where_they_part(learnt: FlintExplainer, labelled: Labelled) -> None:
    found = confuse(learnt.fitted, labelled)
    pairs = found.pairs()
    assert [count for *_, count in pairs] == sorted((count for *_, count in pairs), reverse=True)
    assert sum(count for *_, count in pairs) == int(found.counts.sum() - found.counts.diagonal().sum())
    names = learnt.fitted.class_names
    assert f"{names[pairs[0][0]]!r} as {names[pairs[0][1]]!r} ({pairs[0][2]})" in str(found)
    assert "while f is right" in str(found)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()
    assert "agree" in found.plot().axes[0].get_title()


def test_a_class_that_nobody_says_has_no_share() -> None:
    found = Confusion(torch.tensor([[3, 0], [0, 0]]), {1: 0.0}, None, ("a", "b"))
    assert found.to_dict()["fidelity_by_class"] == [1.0, None]
    assert "everywhere" in str(found)
    assert "nan" not in str(found)


def test_nothing_to_compare_is_refused_and_no_trace_stays(learnt: FlintExplainer, pixels: Tensor) -> None:
    with pytest.raises(EmptyDataError, match="holds no images"):
        confuse(learnt.fitted, [])
    with left_alone(learnt.model):
        confuse(learnt.fitted, pixels)
