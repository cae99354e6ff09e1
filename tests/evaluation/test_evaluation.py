"""Every figure of an evaluation against slow loops, however the data is cut into batches, with a few words each."""

import json
import math
from dataclasses import replace
from typing import Any

import oracles
import pytest
import small
import torch
from torch import Tensor

from flint_posthoc import FlintExplainer
from flint_posthoc.errors import EmptyDataError, FlintWarning
from flint_posthoc.evaluation.evaluation import TAUS, Evaluation, EvaluationSums, batch_sums, conclude
from flint_posthoc.measures import area_resize


def spoiled(explain: FlintExplainer) -> FlintExplainer:
    """With an attribute that never fires, a duplicate, and images that nothing explains."""
    small.rarely_firing(explain)
    with torch.no_grad():
        linear = explain.interpreter.attribute_network.linear
        linear.bias[1] = -1e4
        linear.weight[4], linear.bias[4] = 2 * linear.weight[0], 2 * linear.bias[0]
    return explain


@pytest.fixture(scope="module")
def explain() -> FlintExplainer:
    return spoiled(small.fitted(num_attributes=6, config=small.with_batch(12)))


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return small.images(60, seed=4)


@pytest.fixture(scope="module")
def labels(explain: FlintExplainer, pixels: Tensor) -> Tensor:
    return small.labels(explain.model, pixels)


def share(flags: list[bool]) -> float:
    return sum(flags) / len(flags)


def loops(explain: FlintExplainer, pixels: Tensor, labels: Tensor | None) -> dict[str, Any]:
    """The figures once more, from what a call gives."""
    local = explain(pixels)
    phi, r = oracles.rows(local.attributes), oracles.rows(local.relevance)
    f_logits, g_logits = oracles.rows(local.classifier_logits), oracles.rows(local.interpreter_logits)
    f, g = [oracles.argmax(row) for row in f_logits], [oracles.argmax(row) for row in g_logits]
    agree = [a == b for a, b in zip(f, g, strict=True)]
    j_count, c_count = len(phi[0]), len(f_logits[0])
    alive, duplicates = oracles.alive(r), oracles.duplicates(phi, r)
    of_classes = oracles.global_relevance(r, g, c_count)
    ranks = [sorted(range(c_count), key=lambda c, row=row: -row[c]) for row in g_logits]
    expected: dict[str, Any] = {
        "samples": len(phi),
        "num_attributes": j_count,
        "fidelity": oracles.fidelity(f_logits, g_logits),
        "kl_divergence": oracles.kl_divergence(f_logits, g_logits),
        "top_k_fidelity": {k: share([c in order[:k] for c, order in zip(f, ranks, strict=True)]) for k in (2, 3, 4, 5) if k < c_count},
        "conciseness": {
            tau: {"absolute": oracles.absolute_conciseness(r, tau), "signed": oracles.signed_conciseness(r, tau)} for tau in TAUS
        },
        "live_attributes": tuple(j for j in alive if j not in duplicates),
        "duplicate_attributes": tuple(duplicates),
        "dead_attributes": tuple(j for j in range(j_count) if j not in alive),
        "never_fires": tuple(j for j in range(j_count) if not any(row[j] > 0 for row in phi)),
        "classes_per_attribute": tuple(sum(value > 0.1 for value in row) for row in of_classes),
        "unexplained": share([not any(row) for row in r]),
        **_by_label(f, g, agree, None if labels is None else labels.tolist()),
        **_reconstruction(explain, pixels, f if labels is None else labels.tolist()),
    }
    return expected


def _by_label(f: list[int], g: list[int], agree: list[bool], labels: list[int] | None) -> dict[str, float | None]:
    if labels is None:
        return dict.fromkeys(("classifier_accuracy", "interpreter_accuracy", "fidelity_on_errors", "fidelity_on_correct"))
    right = [a == b for a, b in zip(f, labels, strict=True)]
    return {
        "classifier_accuracy": share(right),
        "interpreter_accuracy": share([a == b for a, b in zip(g, labels, strict=True)]),
        "fidelity_on_errors": share([same for same, correct in zip(agree, right, strict=True) if not correct]),
        "fidelity_on_correct": share([same for same, correct in zip(agree, right, strict=True) if correct]),
    }


def _reconstruction(explain: FlintExplainer, pixels: Tensor, classes: list[int]) -> dict[str, float]:
    fitted = explain.fitted
    unit = fitted.normalization.denormalize
    target = oracles.rows(unit(area_resize(pixels, fitted.interpreter.decoder.resolution)))
    means = oracles.rows(unit(fitted.class_means))
    ours = oracles.input_fidelity(oracles.rows(explain.reconstruct(pixels)), target)
    baseline = oracles.input_fidelity([means[c] for c in classes], target)
    return {"reconstruction_error": ours, "relative_reconstruction_error": ours / baseline}


def check(evaluation: Evaluation, expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        found = getattr(evaluation, name)
        if name == "conciseness":
            assert {tau: pytest.approx(counts) for tau, counts in value.items()} == found
        else:
            assert found == (pytest.approx(value, rel=1e-4) if isinstance(value, float | dict) else value), name


@pytest.mark.parametrize("batch_size", [60, 7, 1])
@pytest.mark.parametrize("labelled", [True, False])
def test_every_figure_is_the_loops_in_batches_of_any_size(
    explain: FlintExplainer, pixels: Tensor, labels: Tensor, batch_size: int, labelled: bool
) -> None:
    parts = pixels.split(batch_size)
    data = list(zip(parts, labels.split(batch_size), strict=True)) if labelled else list(parts)
    evaluation = explain.evaluate(data)
    expected = loops(explain, pixels, labels if labelled else None)
    assert 0 < expected["unexplained"] < 1
    assert expected["never_fires"] == (1,)
    assert expected["duplicate_attributes"]
    check(evaluation, expected)
    assert (evaluation.inside_classes, evaluation.fidelity_inside) == (1, evaluation.fidelity)


def test_restricted_classes_count_what_lies_outside(pixels: Tensor) -> None:
    explain = small.fitted(classes=[3, 1])
    evaluation = explain.evaluate(pixels)
    check(evaluation, loops(explain, pixels, None))
    with torch.no_grad():
        inside = torch.isin(explain.model(pixels).argmax(dim=1), torch.tensor([3, 1]))
    assert evaluation.inside_classes == pytest.approx(inside.double().mean().item())
    assert evaluation.fidelity_inside == pytest.approx(explain(pixels).agrees.double().mean().item())
    assert 0 < evaluation.inside_classes < 1
    assert "predictions inside the classes" in str(evaluation)
    assert "note: the classifier is explained restricted to 2 of its 4 classes" in str(evaluation)


def test_sums_of_parts_are_the_sums_of_the_whole_in_any_order(explain: FlintExplainer, pixels: Tensor, labels: Tensor) -> None:
    data = list(zip(pixels.split(13), labels.split(13), strict=True))
    parts = [batch_sums(explain.fitted, batch) for batch in explain.fitted.read(data)]
    forward, backward = EvaluationSums(), EvaluationSums()
    for part in parts:
        forward = forward + part
        backward = part + backward
    for name, value in forward.counts.items():
        torch.testing.assert_close(value, backward.counts[name])
    check(conclude(forward), loops(explain, pixels, labels))


def test_data_of_which_a_part_has_labels_is_judged_by_them_where_they_are(explain: FlintExplainer, pixels: Tensor, labels: Tensor) -> None:
    mixed = explain.evaluate([(pixels[:20], labels[:20]), pixels[20:]])
    labelled = explain.evaluate([(pixels[:20], labels[:20])])
    assert mixed.samples == 60
    assert mixed.classifier_accuracy == labelled.classifier_accuracy
    assert mixed.fidelity_on_errors == labelled.fidelity_on_errors


def test_a_classifier_without_errors_has_no_fidelity_on_them(explain: FlintExplainer, pixels: Tensor) -> None:
    with torch.no_grad():
        evaluation = explain.evaluate([(pixels, explain.model(pixels).argmax(dim=1))])
    assert evaluation.classifier_accuracy == 1
    assert evaluation.fidelity_on_errors is None
    assert "errors" not in str(evaluation)


def test_the_mean_image_of_the_class_as_reconstruction_scores_one(pixels: Tensor, labels: Tensor) -> None:
    explain = small.fitted(data=[(pixels, labels)], num_attributes=3)
    means = explain.fitted.class_means

    class Means(torch.nn.Module):
        resolution = explain.interpreter.decoder.resolution

        def forward(self, attributes: Tensor) -> Tensor:
            return means[labels]

    explain.interpreter.decoder = Means()  # type: ignore[assignment]
    evaluation = explain.evaluate([(pixels, labels)])
    assert evaluation.relative_reconstruction_error == pytest.approx(1)
    for c in range(small.CLASSES):
        torch.testing.assert_close(means[c], pixels[labels == c].mean(dim=0))


def test_every_figure_has_words(explain: FlintExplainer, pixels: Tensor, labels: Tensor) -> None:
    evaluation = explain.evaluate([(pixels, labels)])
    rows = evaluation.rows()
    text = str(evaluation)
    for name, figure, meaning in rows:
        assert figure
        assert len(meaning.split()) >= 4, name
        assert name in text
        assert meaning in text
    assert {name for name, _, _ in rows} >= {"fidelity", "fidelity on the classifier's errors", "unexplained", "attributes in use"}
    assert f"{100 * evaluation.fidelity:.2f} %" in text
    without = explain.evaluate(pixels)
    assert {name for name, _, _ in rows} - {name for name, _, _ in without.rows()} == {
        "accuracy of the classifier",
        "accuracy of the interpreter",
        "fidelity on the classifier's errors",
        "fidelity where it is right",
    }


def test_the_export_is_plain_json(explain: FlintExplainer, pixels: Tensor) -> None:
    exported = explain.evaluate(pixels).to_dict()
    assert json.loads(json.dumps(exported, allow_nan=False)) == json.loads(json.dumps(exported))
    assert exported["conciseness"]["2.0"].keys() == {"absolute", "signed"}
    assert exported["classifier_accuracy"] is None


def test_where_nothing_is_explained_conciseness_is_unknown_and_json_stays_json(pixels: Tensor) -> None:
    explain = small.fitted()
    with torch.no_grad():
        explain.interpreter.attribute_network.linear.bias.fill_(-1e4)
    evaluation = explain.evaluate(pixels)
    assert evaluation.unexplained == 1
    assert evaluation.live_attributes == ()
    assert math.isnan(evaluation.conciseness[2.0]["absolute"])
    assert json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))["conciseness"]["2.0"] == {"absolute": None, "signed": None}
    assert "nan" not in str(evaluation)
    assert explain.global_interpretation(pixels).counts.sum() == 0


def test_labels_may_be_shares_and_count_as_their_largest_class(explain: FlintExplainer, pixels: Tensor, labels: Tensor) -> None:
    shares = torch.eye(small.CLASSES)[labels] * 0.6 + 0.1
    assert explain.evaluate([(pixels, shares)]) == explain.evaluate([(pixels, labels)])
    with pytest.warns(FlintWarning, match="no shares of 4 classes"):
        assert explain.evaluate([(pixels, torch.ones(len(pixels), 7))]).classifier_accuracy is None


def test_a_head_that_is_not_centred_is_judged_centred_too(pixels: Tensor) -> None:
    raw = replace(small.CONFIG, interpreter=replace(small.INTERPRETER, centre_head=False))
    explain = small.fitted(config=raw, data=small.images(64))
    with torch.no_grad():
        explain.interpreter.head.weight += torch.tensor([3.0, -2.0, 1.0])  # a k_j for each attribute
    found = explain.evaluate(pixels)
    explain.interpreter.centre_head()
    centred = explain.evaluate(pixels)
    assert found.class_centred is not None
    assert found.conciseness != centred.conciseness
    for tau, counts in centred.conciseness.items():
        assert found.class_centred.conciseness[tau] == pytest.approx(counts, abs=1e-6)
    assert found.class_centred.live_attributes == centred.live_attributes
    assert json.loads(json.dumps(found.to_dict()))["class_centred"]["live_attributes"] == list(centred.live_attributes)
    assert "with a class-centred h" in str(found)
    assert small.fitted().evaluate(pixels).class_centred is None


def test_nothing_to_evaluate_is_refused(explain: FlintExplainer) -> None:
    with pytest.raises(EmptyDataError, match="holds no images"):
        explain.evaluate([])
    with pytest.raises(EmptyDataError, match="nothing to evaluate"):
        conclude(EvaluationSums())
