"""From content to one HTML file that loads nothing: Jinja2 with escaping on, style and script inside and known by their hashes."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from .content import ReportContent
from .heatmap import HeatMap, heat_map, select
from .names import Name, class_names
from .palette import DARK, LIGHT, shades
from .pictures import Picture, PictureBook
from .sections import AttributeCard, ClassSection, attribute_cards, class_sections, pair_views
from .single import Single, singles
from .trust import Trust, trust

if TYPE_CHECKING:
    from jinja2 import Environment as Environment
else:
    Environment = Any

TEMPLATES = "templates"


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the templates show, in the order of the page.

    Attributes:
        names: of the classes that are shown, ``shown`` their positions on the class axes.
        left_attributes: what the cards leave out, in a sentence.
        methods: how the maps of where attributes look were made, each with its reason.
        notes: what a reader has to know of the whole: notes of the interpreter, and what could not be drawn.
    """

    content: ReportContent
    trust: Trust
    heat_map: HeatMap
    names: tuple[Name, ...]
    shown: frozenset[int]
    attributes: tuple[AttributeCard, ...]
    left_attributes: str
    classes: tuple[ClassSection, ...]
    singles: tuple[Single, ...]
    methods: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]
    pixelated: bool
    pictures: tuple[Picture, ...]


def page_of(content: ReportContent) -> Page:
    """Choose, order and encode what is shown."""
    names, selection = class_names(content.survey.world.class_names, content.limits.name), select(content)
    book = PictureBook(content.subject.image_shape)
    views = pair_views(content, names, book)
    maps = [view.maps for view in views.values() if view.maps]
    return Page(
        content=content,
        trust=trust(content, selection, names),
        heat_map=heat_map(content, selection, names),
        names=tuple(names[c] for c in selection.classes),
        shown=frozenset(selection.classes),
        attributes=attribute_cards(content, selection, names, views),
        left_attributes=f"{selection.left_attributes:,} weaker attributes are left out." if selection.left_attributes else "",
        classes=class_sections(content, selection, names, views),
        singles=singles(content, selection, names, views, book),
        methods=tuple(dict.fromkeys((shown.method, shown.reason, shown.sanity) for shown in maps)),
        notes=(*content.subject.notes, *content.failures, *_left_out(content)),
        pixelated=book.pixelated,
        pictures=book.pictures,  # last, when the book holds all that the others put into it
    )


def _left_out(content: ReportContent) -> list[str]:
    left = content.pairs_found - len(content.cards)
    drawn = sum(card.picture is not None for card in content.cards)
    failed = sum(card.picture is not None and not card.picture.rose for card in content.cards)
    bare = f"{len(content.cards) - drawn} of {len(content.cards)} pairs have no AM+PI picture"
    sentences = (
        (left > 0, f"{left:,} of {content.pairs_found:,} class-attribute pairs are listed without pictures: the strongest come first."),
        (drawn < len(content.cards), f"{bare}: the time (budget_seconds) was spent, or there was no image."),
        (failed, f"On {failed} of {drawn} AM+PI pictures the attribute did not rise; they are marked."),
    )
    return [sentence for holds, sentence in sentences if holds]


def render(content: ReportContent) -> str:
    """The whole page as HTML."""
    from markupsafe import Markup

    templates = _environment()
    page = page_of(content)
    style = templates.get_template("style.css").render(light=shades(LIGHT), dark=shades(DARK))
    script = _text("script.js")
    return templates.get_template("page.html").render(
        page=page,
        subject=content.subject,
        style=Markup(style),
        script=Markup(script),
        style_hash=content_hash(style),
        script_hash=content_hash(script),
    )


def content_hash(text: str) -> str:
    """What a content security policy knows an inline style or script by: SHA-256, base64."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(name: str) -> str:
    return files(__package__).joinpath(TEMPLATES, name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("flint_posthoc.report", TEMPLATES)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
