"""Whatever stands in a string that came from elsewhere, the page is made of the same elements."""

from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from flint_posthoc.report.content import Limits
from flint_posthoc.report.page import render

UNSHORTENED = Limits(name=100_000)
ATTACKS = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "</style><style>*{display:none}",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "<!--",
    "]]>",
    "&lt;b&gt;",
    "\x00\x1b[31m\u202e\ud800",
    "</title></textarea><svg/onload=alert(1)>",
)


class Shape(HTMLParser):
    """Tags and names of attributes in order, without text and values."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.seen: list[Any] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, sorted(name for name, _ in attrs if name != "title")))

    def handle_endtag(self, tag: str) -> None:
        self.seen.append(tag)

    def handle_comment(self, data: str) -> None:
        self.seen.append(("comment", data))


def page(text: str) -> str:
    """A report in which every string that came from elsewhere holds ``text``."""
    told = synthetic.content(attributes=5, images=4, class_names=tuple(f"{text} {index}" for index in range(4)), limits=UNSHORTENED)
    subject = replace(told.subject, title=text, classifier=text, layers=(text, text), data=text, notes=(text,))
    return render(replace(told, subject=subject, failures=(text,)))


def strings() -> Iterator[Any]:
    yield from map(st.just, ATTACKS)
    yield st.text(alphabet=st.characters(), max_size=40)
    yield st.lists(st.sampled_from([*ATTACKS, "<", ">", '"', "'", "&", "/", "="]), max_size=4).map("".join)


@given(st.one_of(*strings()))
@settings(max_examples=25)
def test_no_string_changes_what_a_page_is_made_of(text: str) -> None:
    assert Shape(page(f"word {text}")).seen == Shape(page("word")).seen


def test_strings_of_a_page_stay_text_and_no_template() -> None:
    assert "&lt;img src=x onerror=alert(1)&gt;" in page("<img src=x onerror=alert(1)>")
    assert "{{ 7 * 7 }}" in page("{{ 7 * 7 }}")
