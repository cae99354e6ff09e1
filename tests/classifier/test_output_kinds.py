"""One logit, and a sigmoid a label: loss, agreement, explanation, exemplars and report, beside loops and torch's own losses."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import small
import torch
import torch.nn.functional as F
from models import left_alone
from torch import nn

from flint_posthoc import FlintExplainer, JointSettings
from flint_posthoc.classifier.adapter import OUTPUT_KINDS
from flint_posthoc.errors import BatchFormatError, ClassifierOutputError, ConfigurationError, MissingLabelsError
from flint_posthoc.report.single import OTHER_LABELS, OUTSIDE, _mark
from flint_posthoc.report.survey import survey

PIXELS = small.images(40)


def test_a_binary_head_is_two_classes_with_the_same_probabilities() -> None:
    kind, z, other = OUTPUT_KINDS["binary"], torch.randn(9, 1), torch.randn(9, 1)
    logits, others = kind.class_logits(z), kind.class_logits(other)
    torch.testing.assert_close(logits.softmax(dim=1)[:, 1], z[:, 0].sigmoid())
    expected = F.binary_cross_entropy_with_logits(other[:, 0], z[:, 0].sigmoid(), reduction="none")
    torch.testing.assert_close(kind.cross_entropy(logits, others), expected)
    assert torch.equal(kind.agreement(logits, others), (z[:, 0] > 0) == (other[:, 0] > 0))
    labels = torch.arange(9) % 2
    torch.testing.assert_close(kind.label_loss(logits, labels), F.binary_cross_entropy_with_logits(z[:, 0], labels.float()))
    with pytest.raises(ClassifierOutputError, match=r"a binary classifier has one output, this one gave \(9, 2\)"):
        kind.class_logits(logits)


def test_a_multilabel_head_has_as_many_decisions_as_labels() -> None:
    kind, first, second = OUTPUT_KINDS["multilabel"], torch.randn(9, 3), torch.randn(9, 3)
    for row in range(9):
        p, q = first[row].sigmoid(), second[row].sigmoid()
        expected = -sum(p[c] * q[c].log() + (1 - p[c]) * (1 - q[c]).log() for c in range(3))
        torch.testing.assert_close(kind.cross_entropy(first, second)[row], expected)
        assert bool(kind.agreement(first, second)[row]) == all((first[row, c] > 0) == (second[row, c] > 0) for c in range(3))
        assert kind.members(first)[row].tolist() == [bool(value > 0) for value in first[row]]
    assert (kind.cross_entropy(first, second) >= kind.entropy(first)).all()
    sets, weight = (torch.rand(9, 3) > 0.5).long(), torch.tensor([1.0, 0.0, 2.0])
    each = F.binary_cross_entropy_with_logits(first, sets.float(), reduction="none")
    torch.testing.assert_close(kind.label_loss(first, sets), each.sum() / 9)
    torch.testing.assert_close(kind.label_loss(first, sets, weight), (each * weight).sum() / 9)
    smoothed = F.binary_cross_entropy_with_logits(first, sets * 0.9 + 0.05, reduction="none")
    torch.testing.assert_close(kind.label_loss(first, sets, smoothing=0.1), smoothed.sum() / 9)
    assert kind.right(first, sets).tolist() == [((first[row] > 0).long() == sets[row]).all().item() for row in range(9)]


def test_categorical_members_are_predictions() -> None:
    kind, logits = OUTPUT_KINDS["categorical"], torch.randn(9, 4)
    assert torch.equal(kind.members(logits).nonzero()[:, 1], kind.prediction(logits))


def outputs(count: int) -> nn.Module:
    """A classifier whose logits are centred on zero."""
    model = small.Tiny(count).eval()
    with torch.no_grad():
        deviation, mean = torch.std_mean(model(small.images(256)), dim=0)
        model.fc.weight *= 3 / deviation[:, None]
        model.fc.bias.copy_(3 * (model.fc.bias - mean) / deviation)
    return model


@pytest.mark.parametrize(("count", "told", "kind", "classes"), [(1, None, "binary", 2), (4, "multilabel", "multilabel", 4)])
def test_from_fit_to_report(count: int, told: str | None, kind: str, classes: int, tmp_path: Path) -> None:
    model = outputs(count)
    with left_alone(model):
        explain = small.explainer(model, output_kind=told, num_attributes=4)
        explain.fit(PIXELS, max_steps=60, progress=False)
        assert explain.fitted.view.kind.name == kind
        local, world = explain(PIXELS), explain.global_interpretation(PIXELS)
        evaluation = explain.evaluate(PIXELS)
        explain.report(tmp_path / "report.html", PIXELS, budget_seconds=0, progress=False)
        loaded = FlintExplainer.from_pretrained(explain.save_pretrained(tmp_path / "kept"), model)
        assert torch.equal(loaded(PIXELS).interpreter_logits, local.interpreter_logits)
        assert loaded.fitted.view.kind.name == kind
    assert local.interpreter_logits.shape == local.classifier_logits.shape == (40, classes)
    members = explain.fitted.view.kind.members(local.interpreter_logits)
    found = explain.exemplars(PIXELS, [(0, c) for c in range(classes)], k=40)
    for c, exemplars in enumerate(found.found):
        firing = members[:, c] & (local.attributes[:, 0] > 0)
        assert {exemplar.position for exemplar in exemplars} == set(firing.nonzero().flatten().tolist())
    assert [int(count) for count in world.counts] == [min(100, int(members[:, c].sum())) for c in range(classes)]
    assert evaluation.classes_per_attribute == tuple((world.relevance > 0.1).sum(dim=1).tolist())
    agreeing = explain.fitted.view.kind.agreement(local.classifier_logits, local.interpreter_logits)
    assert evaluation.fidelity == pytest.approx(float(agreeing.float().mean()))
    assert evaluation.fidelity > (0.6 if kind == "binary" else 0.1)
    assert "</html>" in (tmp_path / "report.html").read_text()


def test_labels_of_a_binary_head_are_0_and_1_and_sets_of_labels_are_not_looked_at() -> None:
    binary = small.fitted(outputs(1))
    assert binary.evaluate([(PIXELS, (binary.model(PIXELS)[:, 0] > 0).long())]).classifier_accuracy == 1
    several = small.fitted(outputs(4), output_kind="multilabel")
    assert several.evaluate([(PIXELS, torch.ones(40, 4))]).classifier_accuracy is None


@pytest.mark.parametrize(("count", "kind"), [(1, None), (4, "multilabel"), (4, None)])
def test_every_result_says_that_the_outputs_are_probabilities_already(count: int, kind: str | None) -> None:
    squashed = nn.Sequential(outputs(count), nn.Softmax(dim=1) if kind is None and count > 1 else nn.Sigmoid())
    explain = FlintExplainer(squashed, layers=["0.conv2"], num_attributes=3, output_kind=kind, config=small.CONFIG)
    explain.fit(PIXELS, progress=False)
    assert any("looks like probabilities already" in note for note in explain(PIXELS).notes)
    assert not any("probabilities" in note for note in small.fitted(outputs(count), output_kind=kind)(PIXELS).notes)


def test_measures_of_one_class_an_image_refuse_sets_of_labels() -> None:
    several = small.fitted(outputs(4), output_kind="multilabel")
    asked = (
        several.confusion,
        several.shuffling,
        lambda data: several.disagreement(data, data),
        lambda data: several.exemplars(data, [(0, 0)], by="label"),
    )
    for ask in asked:
        with pytest.raises(ConfigurationError, match="of a multi-label classifier it is not defined"):
            ask(PIXELS)
    baselines = several.baselines(PIXELS, PIXELS)
    decisions = several(PIXELS).classifier_logits > 0
    usual = (several(PIXELS).classifier_logits.sigmoid().mean(dim=0) > 0.5).expand_as(decisions)
    (constant,) = (entry for entry in baselines.to_dict()["baselines"] if entry["name"].startswith("always"))
    assert constant["fidelity"] == pytest.approx(float((decisions == usual).all(dim=1).float().mean()))


def test_labels_of_several_an_image_are_not_looked_at() -> None:
    several = small.fitted(outputs(4), output_kind="multilabel")
    labelled = [(PIXELS, torch.ones(len(PIXELS), 4))]
    assert several.baselines(labelled, labelled).to_dict() == several.baselines(PIXELS, PIXELS).to_dict()
    assert several.faithfulness(labelled).images == several.faithfulness(PIXELS).images


def test_a_disagreement_about_other_labels_is_called_that() -> None:
    several = small.fitted(outputs(4), output_kind="multilabel")
    local = several(small.images(200, seed=5))
    same_first = local.classifier_class == local.interpreter_class
    told = [local.caveat(index) for index in (same_first & ~local.agrees).nonzero().flatten().tolist()]
    assert told
    assert all("decide differently on other labels" in caveat and "unrestricted" not in caveat for caveat in told)
    alike = [local.caveat(index) for index in (~same_first & local.agrees).nonzero().flatten().tolist()]
    assert alike
    assert not any("does not explain" in caveat for caveat in alike)
    counted = sum(images for _, images in survey(several.fitted, small.images(200, seed=5)).confusions)
    assert counted == int((~same_first & ~local.agrees).sum())


def test_what_kinds_there_are_is_said() -> None:
    with pytest.raises(ConfigurationError, match="output_kind must be one of categorical, binary, multilabel, got 'sigmoid'"):
        small.explainer(output_kind="sigmoid").fit(PIXELS, progress=False)


SETS = (small.tiny(seed=3)(PIXELS) > 0).float()  # of a classifier that another one has to learn


def by_design(joint: JointSettings = small.CONFIG.joint, labels: Any = SETS, **how: Any) -> FlintExplainer:
    explain = small.explainer(small.tiny(), output_kind="multilabel", joint=True, config=dataclasses.replace(small.CONFIG, joint=joint))
    explain.fit([(PIXELS, labels)], progress=False, **{"max_steps": 60, **how})
    return explain


def test_a_multilabel_head_learns_by_design() -> None:
    explain = by_design(JointSettings(learning_rate=0.01, refit_steps=5), validation=[(PIXELS, SETS)])
    account = explain.history.account
    exact = float(((explain.model(PIXELS) > 0) == (SETS > 0)).all(dim=1).float().mean())
    assert account.after == pytest.approx(exact)
    assert account.after > account.before + 0.3
    judged = [record for record in explain.history if record.validation_score is not None]
    best = max(judged, key=lambda record: (record.validation_score, record.epoch))
    assert best.validation_accuracy == pytest.approx(exact)
    assert explain.history[-1].accuracy is None  # of the interpreter that was fitted anew
    compared = explain.accuracy_account(outputs(4), [(PIXELS, SETS)])
    assert (compared.samples, compared.accuracy) == (40, pytest.approx(exact))
    assert explain.evaluate(PIXELS).fidelity > 0


def test_the_best_epoch_of_many_labels_is_that_in_which_most_of_them_are_right() -> None:
    """No image has all of them right, in no epoch."""
    many = torch.cat([SETS, 1 - SETS], dim=1)  # of which half are wrong for whoever says the same of both
    model = small.tiny(classes=8)
    explain = small.explainer(model, output_kind="multilabel", joint=True)
    history = explain.fit([(PIXELS, many)], validation=[(PIXELS, many)], max_steps=30, progress=False)
    right = float(((explain.model(PIXELS) > 0) == (many > 0.5)).float().mean())
    best = max(record.validation_score for record in history)
    assert history[0].validation_score < best <= 2 * right + 1e-6


@pytest.mark.parametrize("joint", [{"label_smoothing": 0.2}, {"class_weights": (1.0, 0.0, 2.0, 1.0)}])
def test_smoothing_and_weights_of_several_labels_are_heard(joint: dict[str, Any]) -> None:
    plain, other = (by_design(JointSettings(refit_steps=0, **more), max_steps=3) for more in ({}, joint))
    assert not torch.equal(plain.model.fc.weight, other.model.fc.weight)


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        (torch.zeros(40, dtype=torch.int64), BatchFormatError),
        (torch.full((40, 4), 2), BatchFormatError),
        (torch.ones(40, 3), BatchFormatError),
        (None, MissingLabelsError),
    ],
)
def test_by_design_each_image_says_of_each_label_whether_it_has_it(labels: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="multi-label classifier are .*shape .40, 4." if labels is not None else "no labels"):
        by_design(labels=labels)


def test_a_report_says_of_labels_what_is_so() -> None:
    several, pixels = small.fitted(outputs(4), output_kind="multilabel"), small.images(200, seed=5)
    found = survey(several.fitted, pixels)
    assert list(found.images_of_class) == (several(pixels).interpreter_logits > 0).sum(dim=0).tolist()
    local = several(pixels)
    marks = {_mark(local, index) for index in (~local.agrees).nonzero().flatten().tolist()}
    assert OTHER_LABELS in marks
    assert OUTSIDE not in marks


def test_an_image_without_a_label_is_not_said_to_have_one() -> None:
    several = small.fitted(outputs(4), output_kind="multilabel")
    strongest = several(small.images(200, seed=5)).interpreter_logits.max(dim=1).values
    with torch.no_grad():
        several.interpreter.head.bias -= strongest.median()  # half of them have no label now
    local = several(small.images(200, seed=5))
    without = ~local.interpreter_members.any(dim=1)
    assert without.any()
    for index in range(len(local)):
        assert ("it any label; what is explained is the logit of" in local.caveat(index)) == bool(without[index])
        assert ("neither gives" in local.caveat(index)) == bool(without[index] & ~local.classifier_members[index].any())
    given = local.interpreter_members.nonzero().tolist()[:20]
    for index, label in given:
        asked = several(small.images(200, seed=5)[index : index + 1], for_class=label)
        assert "was asked for" not in asked.caveat(0)


def test_labels_left_out_put_no_image_outside_and_top_k_is_of_one_label() -> None:
    several = small.fitted(outputs(4), output_kind="multilabel", classes=[0, 1])
    assert several(PIXELS).inside.all()
    evaluation = several.evaluate(PIXELS)
    assert (evaluation.inside_classes, evaluation.top_k_fidelity) == (1, {})
    assert small.fitted().evaluate(small.images()).top_k_fidelity
