"""The report as a person meets it: in a browser, by mouse, by keyboard, through a screen reader's eyes, on a phone and on paper."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from synthetic import HOSTILE

Visit = Callable[..., Any]
PHONE = {"viewport": {"width": 360, "height": 740}}


def folded_pair(page: Any) -> str:
    """The anchor of a pair that is not open, to which a cell of the heat map leads."""
    anchors = page.eval_on_selector_all("details.pair:not([open]) .pair-body", "bodies => bodies.map(body => body.id)")
    return next(anchor for anchor in anchors if page.locator(f'.heat a[href="#{anchor}"]').count())


def is_open(page: Any, anchor: str) -> bool:
    return bool(page.eval_on_selector(f"#{anchor}", "body => body.closest('details').open"))


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.id"))


def shown(page: Any, selector: str) -> list[Any]:
    return [card for card in page.query_selector_all(selector) if card.is_visible()]


def test_a_cell_opens_its_pair_in_the_attributes_card(visit: Visit) -> None:
    page = visit()
    anchor = folded_pair(page)
    page.click(f'.heat a[href="#{anchor}"]')
    assert is_open(page, anchor)
    assert focused(page) == anchor
    assert page.url.endswith(f"#{anchor}")
    top = page.eval_on_selector(f"#{anchor}", "body => body.getBoundingClientRect().top")
    assert 0 < top < 900


def test_a_link_from_elsewhere_opens_the_pair_too(visit: Visit) -> None:
    anchor = folded_pair(visit())
    assert is_open(visit(f"#{anchor}"), anchor)


def test_filtering_by_class_shows_only_what_belongs_to_it_and_says_how_much(visit: Visit) -> None:
    page = visit()
    everything = len(page.query_selector_all(".card"))
    page.select_option("#filter-class", "1")
    cards = [card.get_attribute("data-relevance") for card in shown(page, ".card.attribute")]
    strengths = [float(match[1]) for card in cards if (match := re.search(r"(?:^| )1:([\d.]+)", card))]
    assert len(strengths) == len(cards) > 1
    assert strengths == sorted(strengths, reverse=True)
    assert [card.get_attribute("data-class") for card in shown(page, ".card.class")] == ["1"]
    assert all("1" in card.get_attribute("data-classes").split() for card in shown(page, ".card.single"))
    total = len(page.query_selector_all(".card.attribute"))
    assert page.inner_text("#filter-result").startswith(f"Shown: {len(cards)} of {total} attributes, 1 of 7 classes")
    page.click("button[type=reset]")
    assert len(shown(page, ".card")) == everything


def test_filtering_by_attribute_and_ordering_by_number(visit: Visit) -> None:
    page = visit()
    page.select_option("#filter-order", "number")
    numbers = [int(card.get_attribute("data-attribute")) for card in shown(page, ".card.attribute")]
    assert numbers == sorted(numbers)
    page.select_option("#filter-attribute", "3")
    assert [card.get_attribute("data-attribute") for card in shown(page, ".card.attribute")] == ["3"]
    assert all("3" in card.get_attribute("data-attributes").split() for card in shown(page, ".card.class, .card.single"))


def test_a_cell_leads_to_its_pair_also_where_the_filter_hides_it(visit: Visit) -> None:
    page = visit()
    anchor = folded_pair(page)
    other = next(number for number in "01234" if f"-class-{number}" not in anchor)
    page.select_option("#filter-class", other)
    page.click(f'.heat a[href="#{anchor}"]')
    assert page.locator(f"#{anchor}").is_visible()


def test_everything_is_reached_by_keyboard(visit: Visit) -> None:
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert focused(page) == "main"
    page.focus(".heat td a")
    first = page.evaluate("document.activeElement.getAttribute('href')")
    page.keyboard.press("ArrowRight")
    second = page.evaluate("document.activeElement.getAttribute('href')")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    assert first != second
    assert page.locator(".heat td a[tabindex='0']").count() == 1
    href = page.evaluate("document.activeElement.getAttribute('href')")
    page.keyboard.press("Enter")
    assert focused(page) == href[1:]
    assert is_open(page, href[1:])
    summary = page.locator("details.pair:not([open]) summary").first
    summary.focus()
    page.keyboard.press("Space")
    assert page.evaluate("document.activeElement.parentElement.open")


def test_names_stay_text(visit: Visit) -> None:
    page = visit()
    assert page.locator("script").count() == 1
    assert page.locator("main b").count() == 0
    assert page.inner_text("#class-0-title") == HOSTILE[0]
    assert page.inner_text("#class-1-title") == HOSTILE[1]
    assert page.locator("#class-3-title bdi").get_attribute("title") == HOSTILE[3]


MODES = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", **PHONE},
    "phone in the dark": {"color_scheme": "dark", **PHONE},
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
def test_axe_finds_no_serious_violation(visit: Visit, axe: str, mode: dict[str, Any]) -> None:
    page = visit(**mode, bypass_csp=True)
    page.add_script_tag(content=axe)
    page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    found = page.evaluate("axe.run()")["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


def test_a_phone_never_scrolls_sideways(visit: Visit) -> None:
    page = visit(**PHONE)
    page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_paper_shows_what_is_folded_and_no_controls(visit: Visit) -> None:
    page = visit()
    anchor = folded_pair(page)
    page.select_option("#filter-class", "1")
    page.emulate_media(media="print")
    assert not page.locator("#filter").is_visible()
    assert not page.locator("nav").is_visible()
    assert page.eval_on_selector(f"#{anchor}", "body => body.checkVisibility({contentVisibilityAuto: true})")
    assert page.eval_on_selector(f"#{anchor}", "body => body.getBoundingClientRect().height") > 50
    assert len(page.pdf(format="A4")) > 10_000
    page.emulate_media(media="screen")
    assert page.locator("details.pair:not([open])").count() > 0


def test_without_script_it_is_complete(visit: Visit) -> None:
    page = visit(java_script_enabled=False)
    assert not page.locator("#filter").is_visible()
    assert page.locator(".card.attribute").first.is_visible()
    assert page.locator(".heat td a").count() > 10
