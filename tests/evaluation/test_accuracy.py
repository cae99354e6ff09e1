"""f beside another classifier: figures against a loop, in one pass, and neither network changed."""

import copy
import json
from collections import Counter
from dataclasses import replace

import oracles
import pytest
import small
import torch
from models import left_alone
from torch import Tensor, nn

from flint_posthoc import FlintExplainer
from flint_posthoc.errors import ClassifierOutputError, ConfigurationError, EmptyDataError, LabelRangeError, MissingLabelsError
from flint_posthoc.evaluation.accuracy import AccuracyComparison, accuracy_counts, compare_accuracy, conclude_accuracy
from flint_posthoc.evaluation.baselines import STRANGER
from flint_posthoc.evaluation.estimates import bootstrap

Labelled = list[tuple[Tensor, Tensor]]


def classes(model: nn.Module, pixels: Tensor) -> list[int]:
    with torch.no_grad():
        return [oracles.argmax(row) for row in oracles.rows(model(pixels))]


def counted(both: int, ours: int, theirs: int, neither: int) -> AccuracyComparison:
    """By the four cells of McNemar's table."""
    counts = {"classifier": both + ours, "reference": both + theirs, "interpreter": both, "agreeing": both}
    return conclude_accuracy(Counter(counts, samples=both + ours + theirs + neither, only_classifier=ours, only_reference=theirs))


@pytest.fixture
def reference() -> nn.Module:
    """Between f and a stranger to it: f with noise on the weights of its last layer."""
    model = small.tiny()
    with torch.no_grad():
        model.fc.weight += 0.3 * model.fc.weight.std() * torch.randn(model.fc.weight.shape, generator=torch.Generator().manual_seed(3))
    return model


@pytest.fixture
def found(learnt: FlintExplainer, reference: nn.Module, labelled: Labelled) -> AccuracyComparison:
    return compare_accuracy(learnt.fitted, reference, labelled)


def test_every_figure_is_the_loops(
    learnt: FlintExplainer, reference: nn.Module, pixels: Tensor, labelled: Labelled, found: AccuracyComparison
) -> None:
    labels = torch.cat([batch[1] for batch in labelled]).tolist()
    f, other = classes(learnt.model, pixels), classes(reference, pixels)
    g = learnt(pixels).interpreter_class.tolist()
    b = sum(ours == label != theirs for ours, theirs, label in zip(f, other, labels, strict=True))
    c = sum(theirs == label != ours for ours, theirs, label in zip(f, other, labels, strict=True))
    assert (found.samples, found.only_classifier, found.only_reference) == (40, b, c)
    assert b > 0 < c
    assert found.accuracy == oracles.mean([float(one == label) for one, label in zip(f, labels, strict=True)])
    assert found.reference_accuracy == oracles.mean([float(one == label) for one, label in zip(other, labels, strict=True)])
    assert found.interpreter_accuracy == oracles.mean([float(one == label) for one, label in zip(g, labels, strict=True)])
    assert found.agreement == oracles.mean([float(ours == theirs) for ours, theirs in zip(f, other, strict=True)])
    assert found.difference.mean == pytest.approx(found.accuracy - found.reference_accuracy)
    evaluation = learnt.evaluate(labelled)
    assert (found.accuracy, found.interpreter_accuracy) == (evaluation.classifier_accuracy, evaluation.interpreter_accuracy)


def test_the_interval_is_about_the_bootstraps_over_images(found: AccuracyComparison) -> None:
    ours, theirs = found.only_classifier, found.only_reference
    signs = torch.cat([torch.ones(ours), -torch.ones(theirs), torch.zeros(found.samples - ours - theirs)])
    assert tuple(found.difference) == pytest.approx(tuple(bootstrap(signs)), abs=0.04)


def test_one_pass_of_each_network_and_counts_of_parts_add_up(
    learnt: FlintExplainer, reference: nn.Module, labelled: Labelled, found: AccuracyComparison
) -> None:
    before = small.Tiny.seen
    whole = compare_accuracy(learnt.fitted, reference, iter(labelled))  # can be read only once
    assert small.Tiny.seen - before == 2 * 40
    with torch.no_grad():
        parts = [accuracy_counts(learnt.fitted, batch, reference(batch.images)) for batch in learnt.fitted.read(labelled)]
    assert whole == found == conclude_accuracy(sum(reversed(parts), Counter()), learnt.fitted.notes)


def test_labels_may_be_one_hot_as_for_a_fit(
    learnt: FlintExplainer, reference: nn.Module, labelled: Labelled, found: AccuracyComparison
) -> None:
    one_hot = [(images, torch.eye(small.CLASSES)[labels]) for images, labels in labelled]
    assert compare_accuracy(learnt.fitted, reference, one_hot) == found


def test_the_reference_runs_in_evaluation_mode_and_its_own_precision_and_no_trace_stays(
    learnt: FlintExplainer, reference: nn.Module, labelled: Labelled, found: AccuracyComparison
) -> None:
    dropping = nn.Sequential(nn.Dropout(0.9), reference).double().train()
    with left_alone(learnt.model), left_alone(dropping):
        assert compare_accuracy(learnt.fitted, dropping, labelled) == found
    assert dropping.training
    assert all(parameter.requires_grad for parameter in dropping.parameters())
    with left_alone(learnt.model), left_alone(dropping), pytest.raises(MissingLabelsError):
        compare_accuracy(learnt.fitted, dropping, [labelled[0], labelled[1][0]])


@pytest.mark.parametrize("outputs", [small.CLASSES, 2])
def test_restricted_classes_compare_restricted_answers(pixels: Tensor, reference: nn.Module, outputs: int) -> None:
    explain, labels = small.fitted(classes=[3, 1]), torch.arange(40) % 2
    theirs = reference if outputs == small.CLASSES else nn.Sequential(reference, nn.Linear(small.CLASSES, 2))
    found = compare_accuracy(explain.fitted, theirs, [(pixels, labels)])
    with torch.no_grad():
        logits = theirs(pixels)
    expected = (logits[:, [3, 1]] if outputs == small.CLASSES else logits).argmax(dim=1)
    assert found.reference_accuracy == pytest.approx((expected == labels).double().mean().item())
    assert found.agreement == pytest.approx((expected == explain(pixels).classifier_class).double().mean().item())
    assert set(explain.fitted.notes) <= set(found.notes)


def test_a_reference_of_one_logit_has_the_two_classes_of_a_binary_head(pixels: Tensor, reference: nn.Module) -> None:
    explain, other = small.fitted(small.Tiny(1).eval()), nn.Sequential(reference, nn.Linear(small.CLASSES, 1))
    with torch.no_grad():
        ours, theirs = explain.model(pixels)[:, 0], other(pixels)[:, 0]
        other[1].bias -= theirs.median()  # type: ignore[operator]
        theirs = theirs - theirs.median()
    labels = (ours > ours.median()).long()
    found = explain.accuracy_account(other, [(pixels, labels)])
    assert found.reference_accuracy == pytest.approx(((theirs > 0) == labels.bool()).double().mean().item())
    assert found.agreement == pytest.approx(((theirs > 0) == (ours > 0)).double().mean().item())
    assert {baseline.name for baseline in explain.baselines(pixels, pixels, independent=other).baselines} >= {STRANGER}


def test_by_design_it_tells_what_the_fit_did(pixels: Tensor) -> None:
    model = small.tiny(seed=5)
    before, truth = copy.deepcopy(model), small.labels(small.tiny(seed=1), pixels, wrong_every=100)
    explain = small.explainer(model, joint=True)
    history = explain.fit([(pixels, truth)], max_steps=30, progress=False)
    found = explain.accuracy_account(before, [(pixels, truth)])
    assert history.account is not None
    assert (found.reference_accuracy, found.accuracy) == pytest.approx((history.account.before, history.account.after))
    assert "trained together" in str(found)


def test_it_says_what_it_means(found: AccuracyComparison) -> None:
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()
    assert found.to_dict()["difference"].keys() == {"mean", "low", "high"}
    better = counted(800, 70, 30, 100)
    assert str(better) == (
        "Of 1,000 images the classifier has 87.00 % right, the reference 83.00 % and the interpreter 80.00 %.\n"
        "Classifier less reference: +4.00 points, with 95 % confidence between +2.06 and +5.94: "
        "the classifier is better than the reference.\n"
        "Right for the classifier alone: 70 images, for the reference alone: 30; both decide alike on 80.00 %."
    )
    assert "worse than the reference" in str(counted(800, 30, 70, 100))
    assert "do not tell them apart" in str(counted(800, 52, 48, 100))
    assert "note: as said" in str(replace(better, notes=("as said",)))


def test_few_differences_are_said_to_make_a_rough_interval() -> None:
    assert "note: only 9 images are right for one of the two alone" in str(counted(80, 6, 3, 11))
    assert counted(80, 6, 4, 10).notes == ()
    same = counted(80, 0, 0, 20)
    assert tuple(same.difference) == (0, 0, 0)
    assert "do not tell them apart" in str(same)


def test_bad_input_is_refused(learnt: FlintExplainer, reference: nn.Module, pixels: Tensor, labelled: Labelled) -> None:
    fitted = learnt.fitted
    with pytest.raises(MissingLabelsError, match="batch 0 has no labels, and they are needed here"):
        compare_accuracy(fitted, reference, pixels)
    with pytest.raises(LabelRangeError, match="expected 0 to 3"):
        compare_accuracy(fitted, reference, [(pixels, torch.full((40,), 4))])
    with pytest.raises(EmptyDataError, match="holds no images"):
        compare_accuracy(fitted, reference, [])
    with pytest.raises(ConfigurationError, match="reference gives 9 classes, the explained classifier 4, of which 4 are explained"):
        compare_accuracy(fitted, small.Tiny(9), labelled)
    with pytest.raises(ConfigurationError, match="reference gives 1 classes, the explained classifier 4"):
        compare_accuracy(fitted, small.Tiny(1), labelled)
    with pytest.raises(ConfigurationError, match="reference is the explained classifier itself; pass a copy made before it learnt"):
        compare_accuracy(fitted, learnt.model, labelled)
    with pytest.raises(ConfigurationError, match="reference is the explained classifier itself"):
        compare_accuracy(fitted, torch.nn.DataParallel(learnt.model), labelled)
    with torch.no_grad():
        reference.fc.bias[0] = torch.nan
    with pytest.raises(ClassifierOutputError, match="the reference's logits are not finite for 7 of 7 images"):
        compare_accuracy(fitted, reference, labelled)


def test_few_images_do_not_tell_two_classifiers_apart() -> None:
    """Five against none is an even chance's doing in one case of sixteen."""
    assert counted(900, 5, 0, 95).verdict() == "these images do not tell them apart all the same, by a sign test (p = 0.06)"
    assert counted(900, 9, 0, 91).verdict() == "the classifier is better than the reference"
