"""Why these predictions: relevance against the loops, for whichever class was asked, and what every result says of itself."""

import json
import pickle
from typing import Any

import oracles
import pytest
import small
import torch
from torch import Tensor

from flint_posthoc import FlintExplainer
from flint_posthoc.errors import ClassSelectionError
from flint_posthoc.interpretation.local import LocalInterpretation


@pytest.fixture(scope="module")
def explain() -> FlintExplainer:
    return small.rarely_firing(small.fitted(class_names=["ant", "bee", "cat", "dog"]))


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return small.images(60, seed=4)


@pytest.fixture(scope="module")
def local(explain: FlintExplainer, pixels: Tensor) -> LocalInterpretation:
    result = explain(pixels)
    assert not result.agrees.all()
    assert result.agrees.any()
    assert result.unexplained.any()
    assert not result.unexplained.all()
    return result


def head(explain: FlintExplainer) -> Any:
    return oracles.rows(explain.interpreter.head.weight), oracles.rows(explain.interpreter.head.bias)


def check_against_loops(explain: FlintExplainer, local: LocalInterpretation, classes: list[int]) -> None:
    weight, bias = head(explain)
    alpha = oracles.contributions(oracles.rows(local.attributes), weight, classes)
    assert local.explained_class.tolist() == classes
    torch.testing.assert_close(local.contributions, torch.tensor(alpha))
    torch.testing.assert_close(local.relevance, torch.tensor(oracles.relevance(alpha)))
    torch.testing.assert_close(local.bias_share, torch.tensor(oracles.bias_share(alpha, [bias[c] for c in classes])))
    assert local.unexplained.tolist() == [not any(row) for row in alpha]


def test_the_interpreters_prediction_is_explained_unless_another_class_is_asked_for(
    explain: FlintExplainer, local: LocalInterpretation, pixels: Tensor
) -> None:
    weight, bias = head(explain)
    logits = [
        [b + sum(w * phi for w, phi in zip(row, phis, strict=True)) for row, b in zip(weight, bias, strict=True)]
        for phis in oracles.rows(local.attributes)
    ]
    torch.testing.assert_close(local.interpreter_logits, torch.tensor(logits))
    check_against_loops(explain, local, [oracles.argmax(row) for row in oracles.rows(local.interpreter_logits)])
    with torch.no_grad():
        torch.testing.assert_close(local.classifier_logits, explain.model(pixels))
    agrees = [
        oracles.argmax(f) == oracles.argmax(g)
        for f, g in zip(oracles.rows(local.classifier_logits), oracles.rows(local.interpreter_logits), strict=True)
    ]
    assert local.agrees.tolist() == agrees


def test_the_classifiers_prediction_can_be_explained(explain: FlintExplainer, pixels: Tensor) -> None:
    local = explain(pixels, for_class="classifier")
    check_against_loops(explain, local, [oracles.argmax(row) for row in oracles.rows(local.classifier_logits)])


def test_one_class_or_one_an_image_can_be_explained(explain: FlintExplainer, pixels: Tensor) -> None:
    check_against_loops(explain, explain(pixels, for_class=2), [2] * len(pixels))
    classes = torch.arange(len(pixels)) % small.CLASSES
    check_against_loops(explain, explain(pixels, for_class=classes), classes.tolist())
    check_against_loops(explain, explain(pixels, for_class=classes.int()), classes.tolist())


def test_a_class_can_be_called_by_its_name() -> None:
    names = ["ant", "bee", "bee", "classifier"]
    explain, pixels = small.fitted(class_names=names), small.images(6)
    assert explain(pixels, for_class="ant").explained_class.tolist() == [0] * 6
    local = explain(pixels, for_class="classifier")
    assert torch.equal(local.explained_class, local.classifier_class)
    with pytest.raises(ClassSelectionError, match=r"classes \[1, 2\] are all called 'bee'; name one by its number"):
        explain(pixels, for_class="bee")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            "interpretor",
            "'interpreter', 'classifier', a class, by number or name, or a tensor of classes, got 'interpretor'",
        ),
        (4, r"for_class must be in 0 to 3, got \[4\]"),
        (-1, r"for_class must be in 0 to 3, got \[-1\]"),
        (True, "got torch.bool"),
        (torch.zeros(3, dtype=torch.int64), r"one whole number or 60 of them, got torch.int64 of shape \(3,\)"),
        (torch.zeros(60), "got torch.float32"),
        (torch.full((60,), 9), r"for_class must be in 0 to 3, got \[9\]"),
    ],
)
def test_a_class_that_does_not_exist_is_refused(explain: FlintExplainer, pixels: Tensor, asked: Any, message: str) -> None:
    with pytest.raises(ClassSelectionError, match=message):
        explain(pixels, for_class=asked)


def test_the_strongest_attributes_come_first_and_idle_ones_not_at_all(local: LocalInterpretation) -> None:
    for index, entries in enumerate(local.top(2)):
        strengths = [abs(entry.relevance) for entry in entries]
        row = oracles.rows(local.relevance)[index]
        assert strengths == sorted((abs(value) for value in row if value), reverse=True)[:2]
        for entry in entries:
            assert entry.relevance == row[entry.attribute]
            assert entry.contribution == local.contributions[index, entry.attribute]
            assert entry.activation == local.attributes[index, entry.attribute]


def test_text_and_export_say_where_interpreter_and_classifier_disagree(local: LocalInterpretation) -> None:
    exported, text = local.to_dict(), str(local)
    assert json.loads(json.dumps(exported)) == exported
    assert f"agree on {int(local.agrees.sum())}" in text
    for index, row in enumerate(exported["images"]):
        assert row["agrees"] is bool(local.agrees[index])
        disagreement = "this does not explain the classifier's prediction" in row["caveat"]
        assert disagreement is not row["agrees"]
        assert ("no attribute takes part: unexplained" in row["caveat"]) is bool(local.unexplained[index])
        assert (f"CAUTION: {row['caveat']}" in local.describe(index)) is bool(row["caveat"])
        if disagreement:
            f, g = (local.class_names[int(row[name].index(max(row[name])))] for name in ("classifier_logits", "interpreter_logits"))
            assert f"the classifier says '{f}', the interpreter '{g}'" in row["caveat"]
    assert text.count("image ") == 10
    assert "and 50 more" in text


def test_a_class_that_nobody_predicts_is_not_presented_as_a_prediction(explain: FlintExplainer, pixels: Tensor) -> None:
    agreeing = pixels[explain(pixels).agrees]
    predicted = explain(agreeing).explained_class
    local = explain(agreeing, for_class=(predicted + 1) % small.CLASSES)
    for index in range(len(local)):
        asked, said = (local.class_names[int(classes[index])] for classes in (local.explained_class, predicted))
        assert f"'{asked}' was asked for, the interpreter says '{said}'" in local.caveat(index)


def test_notes_stand_in_text_and_export(local: LocalInterpretation) -> None:
    note = "the pixel range was estimated from the data"
    assert f"note: {note}" in str(local)
    assert note in local.to_dict()["notes"][0]


def test_pixels_are_brought_back_to_the_unit_range(explain: FlintExplainer, pixels: Tensor, local: LocalInterpretation) -> None:
    training = explain(small.images())
    assert float(training.pixels.min()) == pytest.approx(0, abs=1e-5)
    assert float(training.pixels.max()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(explain.fitted.normalization.normalize(local.pixels), pixels, atol=1e-5, rtol=1e-5)


def test_images_are_explained_one_by_one(explain: FlintExplainer, pixels: Tensor, local: LocalInterpretation) -> None:
    for index in (0, 7):
        alone = explain(pixels[index : index + 1])
        torch.testing.assert_close(alone.relevance[0], local.relevance[index], atol=1e-4, rtol=1e-3)


def test_a_picture_is_a_figure_with_the_warning_in_it_and_no_window(local: LocalInterpretation, without_pyplot: None) -> None:
    for index in (int(local.agrees.int().argmin()), int(local.agrees.int().argmax())):
        figure = local.plot(index)
        assert (local.caveat(index) in figure.get_suptitle().replace("\n", " ")) or not local.caveat(index)
        assert "note: the pixel range was estimated from the data" in figure.get_supxlabel()
        figure.savefig("/dev/null", format="png")


def test_dollars_in_names_are_no_markup(pixels: Tensor) -> None:
    explain = small.fitted(class_names=["$5", "$10_$20", "\\frac{$", "$^$"])
    local = explain(pixels)
    for index in range(4):
        local.plot(index).savefig("/dev/null", format="png")
    world = explain.global_interpretation(pixels)
    world.plot().savefig("/dev/null", format="png")
    for pairs in (world.pairs()[:2], [(0, 1)], []):  # the second one has no images
        explain.exemplars(pixels, pairs, k=2).plot().savefig("/dev/null", format="png")


def test_a_figure_can_be_pickled_and_changed_by_its_user(pixels: Tensor) -> None:
    figure = small.fitted(class_names=["$5", "$10_$20", "a", "b"])(pixels).plot(0)
    title = figure.axes[0].set_title(r"$\alpha$")
    assert title.get_parse_math()
    pickle.loads(pickle.dumps(figure)).savefig("/dev/null", format="png")


def restricted() -> FlintExplainer:
    return small.fitted(classes=[3, 1], class_names=["dog", "bee"])


def test_restricted_classes_are_positions_and_agree_nowhere_outside(pixels: Tensor) -> None:
    explain = restricted()
    local = explain(pixels)
    assert local.class_ids == (3, 1)
    assert local.classifier_logits.shape == (60, 2)
    with torch.no_grad():
        full = explain.model(pixels)
    torch.testing.assert_close(local.classifier_logits, full[:, [3, 1]])
    outside = ~torch.isin(full.argmax(dim=1), torch.tensor([3, 1]))
    assert outside.any()
    assert not local.agrees[outside].any()
    same = local.classifier_logits.argmax(dim=1) == local.interpreter_logits.argmax(dim=1)
    assert local.agrees.tolist() == (same & ~outside).tolist()
    index = int((outside & same).int().argmax())
    assert "the classifier's unrestricted prediction is none of the 2 explained classes" in local.caveat(index)
    assert "the classifier is explained restricted to 2 of its 4 classes" in str(local)
    assert local.to_dict()["class_ids"] == [3, 1]


def test_a_notebook_shows_text_and_pictures_and_no_markup_of_names(without_pyplot) -> None:
    explain = small.fitted(class_names=["<b>one</b>", "two", "three", "four"])
    local, world = explain(small.images(9)), explain.global_interpretation(small.images(9))
    for shown, pictures in ((local, 4), (world, 1)):
        page = shown._repr_html_()
        assert page.count("<img") == page.count("data:image/png;base64,") == pictures
        assert "<b>" not in page
