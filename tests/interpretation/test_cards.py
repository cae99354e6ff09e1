"""A card for each pair: its parts are those of the single tools, and pictures are drawn by falling relevance while there is time."""

from dataclasses import replace

import pytest
import small
import torch
from models import left_alone

from flint_posthoc.errors import AttributionError, ConfigurationError, FlintWarning
from flint_posthoc.interpretation import cards as cards_module
from flint_posthoc.interpretation.ascent import GREY, Stage
from flint_posthoc.interpretation.cards import draw_cards
from flint_posthoc.interpretation.classes import ClassAttributePair

QUICK = replace(GREY, stages=(Stage(5, 2.0, 1.0, 0.0),), batch_size=2)
PAIRS = [ClassAttributePair(j, c, r) for j, c, r in ((0, 0, 0.3), (1, 1, 0.9), (2, 2, -0.95), (0, 3, 0.5), (1, 0, 0.2))]


@pytest.fixture(scope="module")
def explain():
    return small.rarely_firing(small.fitted(), share=0.6)


def test_a_card_holds_what_each_tool_says(explain) -> None:
    data = small.images(40).split(8)
    with left_alone(explain.model):
        cards = draw_cards(explain.fitted, data, PAIRS, k=2, maximization=QUICK)
    found = explain.exemplars(data, PAIRS, k=2)
    assert [card.pair for card in cards] == PAIRS
    for card, exemplars in zip(cards, found.found, strict=True):
        assert [exemplar.position for exemplar in card.exemplars] == [exemplar.position for exemplar in exemplars]
        assert card.class_name == f"class {card.pair.class_index}"
        if card.exemplars:
            image = card.exemplars[0].image[None]
            expected = explain.contrast(image, card.pair.attribute)
            assert torch.allclose(card.contrast.difference, expected.difference[0], atol=1e-6)
            assert card.attribution.heat.shape == (len(exemplars), small.SIDE, small.SIDE)
            drawn = explain.maximize(image, card.pair.attribute, settings=QUICK)
            assert card.picture.final_activation == pytest.approx(float(drawn.final_activation[0]), rel=0.05, abs=0.05)
            assert card.picture.initial_activation == pytest.approx(card.exemplars[0].activation, abs=1e-3)


def test_a_card_says_on_which_images_f_decides_otherwise(explain) -> None:
    data = small.images(40, seed=2)
    every, agrees = [(j, c) for j in range(3) for c in range(small.CLASSES)], explain(data).agrees
    cards = draw_cards(explain.fitted, data, every, budget_seconds=0)
    found = {bool(agrees[exemplar.position]) for card in cards for exemplar in card.exemplars}
    assert found == {True, False}  # else this shows nothing
    for card in cards:
        named = replace(card, class_name="long " * 30)
        parting = [exemplar for exemplar in card.exemplars if not agrees[exemplar.position]]
        assert str(card).count("f decides otherwise") == len(parting)
        assert named.plot().get_suptitle().endswith("(framed: f decides otherwise)") == bool(parting)


def test_pictures_are_drawn_by_falling_relevance_until_the_time_is_spent(explain, monkeypatch: pytest.MonkeyPatch) -> None:
    every = [(j, c) for j in range(3) for c in range(small.CLASSES)]
    seen = [pair for pair, found in zip(every, explain.exemplars(small.images(60), every).found, strict=True) if found][:4]
    pairs = [ClassAttributePair(j, c, r) for (j, c), r in zip(seen, (0.3, 0.9, -0.95, 0.5), strict=True)]
    drawn, clock = [], iter(range(0, 1000, 10))
    real = cards_module.maximize

    def recorded(fitted, images, attributes, **settings):
        drawn.append(list(attributes))
        return real(fitted, images, attributes, **settings)

    monkeypatch.setattr(cards_module, "maximize", recorded)
    monkeypatch.setattr(cards_module.time, "monotonic", lambda: float(next(clock)))
    told = []
    cards = draw_cards(explain.fitted, small.images(60), pairs, budget_seconds=55, maximization=QUICK, progress=told.append)
    assert drawn == [[seen[2][0]], [seen[1][0], seen[3][0]]]  # from 10 s and from 30 s on; the last would have been done at 60 s
    assert told == [1, 2]
    assert [card.picture is not None for card in cards] == [False, True, True, True]
    assert cards[0].picture_note == "not drawn"


def test_no_time_means_no_pictures_and_everything_else(explain) -> None:
    cards = draw_cards(explain.fitted, small.images(40), PAIRS, budget_seconds=-1.0, maximization=QUICK)
    assert all(card.picture is None for card in cards)
    assert all(card.attribution is None for card in cards)
    assert all((card.contrast is not None) == bool(card.exemplars) for card in cards)


def test_a_pair_without_images_is_a_card_without_pictures(explain) -> None:
    with torch.no_grad():
        silent = small.fitted()
        silent.interpreter.attribute_network.linear.bias[1] = -1e4
    (card,) = draw_cards(silent.fitted, small.images(20), [(1, 0)], maximization=QUICK)
    assert (card.exemplars, card.picture, card.attribution, card.contrast) == ((), None, None, None)
    assert len(card.plot().axes) == 8


def test_pairs_of_unknown_relevance_do_not_speak_of_it_and_come_last(explain, monkeypatch: pytest.MonkeyPatch) -> None:
    every = [(j, c) for j in range(3) for c in range(small.CLASSES)]
    seen = [pair for pair, found in zip(every, explain.exemplars(small.images(60), every).found, strict=True) if found][:3]
    drawn, real = [], cards_module.maximize
    monkeypatch.setattr(cards_module, "maximize", lambda *given, **settings: drawn.extend(given[2]) or real(*given, **settings))
    cards = draw_cards(explain.fitted, small.images(60), [seen[0], ClassAttributePair(*seen[1], 0.2), seen[2]], maximization=QUICK)
    assert drawn[0] == seen[1][0]
    assert cards[0].title == f"φ{seen[0][0]} in {cards[0].class_name!r}"
    assert str(cards[1]).startswith(f"{cards[1].title}: strongest in image ")
    assert "relevance +0.20" in cards[1].title


def test_pairs_that_do_not_exist(explain) -> None:
    with pytest.raises(ConfigurationError, match="no pair of attribute 9"):
        draw_cards(explain.fitted, small.images(4), [(9, 0)])


def test_in_a_notebook(explain, without_pyplot) -> None:
    (card,) = draw_cards(explain.fitted, small.images(20), PAIRS[:1], maximization=QUICK)
    page = replace(card, class_name="<script>alert(1)</script>")._repr_html_()
    assert page.count("<img") == 1
    assert "<script>" not in page


def test_a_card_without_maps_does_not_cost_the_others_theirs(explain, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = cards_module.attribute_pixels, []

    def failing_first(*given, **settings):
        asked.append(given)
        if len(asked) == 1:
            raise AttributionError("not finite")
        return real(*given, **settings)

    monkeypatch.setattr(cards_module, "attribute_pixels", failing_first)
    with pytest.warns(FlintWarning, match="there are no maps of φ"):
        cards = draw_cards(explain.fitted, small.images(60), PAIRS, maximization=QUICK)
    drawn = [card for card in cards if card.picture is not None]
    assert sum(card.attribution is None for card in drawn) == 1
    assert len(drawn) > 1
