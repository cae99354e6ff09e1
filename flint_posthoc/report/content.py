"""What a report holds, before anything is drawn or written."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version

from ..arrays import ImageShape
from ..errors import ConfigurationError
from ..interpretation.cards import PairCard
from ..interpreter.fitted import FittedInterpreter
from .survey import Survey

PACKAGES = ("flint-posthoc", "torch", "torchvision", "timm", "captum", "numpy")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What was explained.

    Attributes:
        classifier: name of f's class.  layers: that the interpreter reads.
        data: in words, perhaps empty.  image_shape: (channels, height, width).
        num_attributes, num_classes: J and C.  num_outputs: of f, more than C where only some classes are explained.
        made: date and time.  versions: (what, version).
        notes: what every result has to say of itself.  joint: f learnt beside the interpreter.
    """

    title: str
    classifier: str
    layers: tuple[str, ...]
    data: str
    image_shape: ImageShape
    num_attributes: int
    num_classes: int
    num_outputs: int
    made: str
    versions: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()
    joint: bool = False


@dataclass(frozen=True)
class Limits:
    """How much of it fits on a page that a browser opens at once; what is left out is said on the page.

    Attributes:
        classes, attributes: columns and rows of the heat map, sections and cards.
        pairs: that are shown with pictures, the strongest.
        confusions: pairs of classes that classifier and interpreter mix up most.
        name: characters of a class name in a table.
    """

    classes: int = 60
    attributes: int = 100
    pairs: int = 160
    confusions: int = 8
    name: int = 28

    def __post_init__(self) -> None:
        if min(self.classes, self.attributes, self.pairs, self.confusions, self.name) < 1:
            raise ConfigurationError(f"every limit of a report must be at least 1, got {self}")


@dataclass(frozen=True)
class ReportContent:
    """All that a page is rendered from.

    Attributes:
        cards: of the pairs that are shown with pictures.
        pairs_found: how many pairs there are above ``threshold``, of which ``cards`` are the strongest.
        failures: what went wrong while pictures were drawn, in sentences.
    """

    subject: Subject
    survey: Survey
    cards: Sequence[PairCard]
    pairs_found: int
    threshold: float
    failures: tuple[str, ...] = ()
    limits: Limits = Limits()


def subject_of(fitted: FittedInterpreter, *, title: str | None, data_name: str) -> Subject:
    """The subject of a report on ``fitted``, made now."""
    classifier = type(fitted.view.model).__qualname__
    return Subject(
        title=title or f"What {classifier} looks at",
        classifier=classifier,
        layers=fitted.view.layers,
        data=data_name,
        image_shape=fitted.image_shape,
        num_attributes=fitted.interpreter.num_attributes,
        num_classes=fitted.view.num_classes,
        num_outputs=fitted.view.num_outputs,
        made=datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z"),
        versions=versions(),
        notes=fitted.notes,
        joint=fitted.joint,
    )


def versions() -> tuple[tuple[str, str], ...]:
    """Of Python and of those ``PACKAGES`` that are installed."""
    found = [("Python", platform.python_version())]
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return tuple(found)
