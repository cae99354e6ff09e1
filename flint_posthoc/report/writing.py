"""Write the report: look at the data, draw the pictures while there is time, render, and put one whole file where it was asked for."""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from ..arrays import is_photograph
from ..data import Data, is_one_shot, num_images
from ..errors import ArtifactError, ConfigurationError, DataError, FlintError, FlintWarning
from ..interpretation.attribution.settings import AttributionSettings
from ..interpretation.cards import PairCard, draw_cards
from ..interpretation.classes import ClassAttributePair
from ..interpreter.fitted import FittedInterpreter
from ..measures import PAIR_THRESHOLD
from ..storage import StrPath, write_bytes
from .content import Limits, ReportContent, subject_of
from .page import render
from .survey import SurveySettings, survey

EXEMPLARS = 3  # images that a pair is shown by
PHOTOGRAPH_ATTRIBUTION = AttributionSettings(steps=8)  # a quarter of the usual path: on two cores the time is better spent on AM+PI


def write_report(
    fitted: FittedInterpreter,
    path: StrPath,
    data: Data,
    *,
    budget_seconds: float = 240,
    threshold: float = PAIR_THRESHOLD,
    samples: int = 20,
    title: str | None = None,
    data_name: str = "",
    seed: int = 0,
    limits: Limits | None = None,
    progress: bool = True,
) -> Path:
    """One self-contained HTML file on ``fitted``, for someone who was not there when the model was trained.

    Args:
        data: what figures, exemplars and samples are taken from, best images that were not learnt from; it is read twice.
        budget_seconds: for all of it; AM+PI is drawn by falling relevance until that is spent.
        threshold: of relevance above which an attribute counts for a class (0.1 in the paper).
        samples: images that are explained one by one; those on which f and g disagree come on top, up to 60 % as many.
        title: of the page.  data_name: what the data is, in words.
        seed: of the choice of samples.
        limits: how much fits on the page.
        progress: show a bar on standard error.

    Raises:
        ArtifactError: the folder is missing or cannot be written to; raised before anything is read, and nothing half-written stays.
        DataError: empty or malformed data, or an iterator that can be read only once.
        ConfigurationError: a setting out of range.
    """
    started = time.monotonic()
    if budget_seconds < 0 or samples < 0 or not 0 <= threshold < 1:
        raise ConfigurationError(
            "a report needs a budget and samples of at least 0 and a threshold in [0, 1), "
            f"got budget_seconds={budget_seconds}, samples={samples}, threshold={threshold}"
        )
    target = _writable(path)
    _require_twice_readable(data)
    limits, settings = (
        limits or Limits(),
        SurveySettings(agreeing=samples, disagreeing=round(0.6 * samples), outside=samples // 5, seed=seed),
    )
    with tqdm(total=num_images(data), desc="report: reading the data", unit="image", disable=not progress) as bar:
        seen = survey(fitted, data, settings, seen=bar.update)
    pairs = seen.world.pairs(threshold)
    left = budget_seconds - (time.monotonic() - started)
    cards, failures = _cards(fitted, data, pairs[: limits.pairs], left, progress)
    subject = subject_of(fitted, title=title, data_name=data_name)
    content = ReportContent(subject, seen, cards, len(pairs), threshold, failures, limits)
    write_bytes(target, render(content).encode("utf-8", "replace"))
    return target


def _writable(path: StrPath) -> Path:
    """``path`` if a file can be put there. Tried with a file, since permissions alone do not tell (a read-only disk, a full one, root)."""
    target = Path(path)
    if target.is_dir():
        raise ArtifactError(f"{target} is a folder; expected the name of an HTML file")
    if not target.parent.is_dir():
        raise ArtifactError(f"{target.parent} is no folder, so the report cannot be written into it")
    try:
        with tempfile.TemporaryFile(dir=target.parent) as probe:
            os.fsync(probe.fileno())
    except OSError as error:
        raise ArtifactError(f"{target.parent} cannot be written to: {error}") from error
    return target


def _require_twice_readable(data: Data) -> None:
    if is_one_shot(data):
        raise DataError(
            f"the data is a one-shot iterator ({type(data).__name__}), and a report reads it twice: to find out which attributes make up "
            "each class, then to find their strongest images; pass something that can be read again"
        )


def _cards(
    fitted: FittedInterpreter, data: Data, pairs: Sequence[ClassAttributePair], seconds: float, progress: bool
) -> tuple[Sequence[PairCard], tuple[str, ...]]:
    """The pairs' pictures, and what went wrong: what was computed before is worth a report without them."""
    if not pairs:
        return (), ()
    attribution = PHOTOGRAPH_ATTRIBUTION if is_photograph(fitted.image_shape) else AttributionSettings()
    draw = partial(draw_cards, k=EXEMPLARS, budget_seconds=max(0.0, seconds), attribution=attribution)
    with tqdm(total=len(pairs), desc="report: drawing attributes", unit="pair", disable=not progress) as bar:
        try:
            return draw(fitted, data, pairs, progress=bar.update), ()
        except FlintError as error:
            warnings.warn(f"the report has no pictures of attributes: {error}", FlintWarning, stacklevel=3)
            return (), (f"The pictures of attributes could not be drawn: {error}",)
