"""What a fitted explainer answers. Each method hands one question to the room that knows."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import SupportsIndex

import torch
from torch import Tensor, nn

from .arrays import Images
from .data import Data
from .evaluation.accuracy import AccuracyComparison, compare_accuracy
from .evaluation.baselines import BaselineComparison, compare_baselines
from .evaluation.class_depth import learn_class_depths
from .evaluation.confusion import Confusion, confuse
from .evaluation.disagreement import Disagreement, analyse_disagreement
from .evaluation.evaluation import Evaluation, evaluate
from .evaluation.faithfulness import Faithfulness, measure_faithfulness
from .evaluation.shuffling import Shuffling, shuffle
from .evaluation.stability import Stability, compare_fits
from .interpretation.ascent import MaximizationSettings
from .interpretation.attribution import Attribution, AttributionSettings, SanityCheck, attribute_pixels, check_sanity
from .interpretation.cards import PairCard, draw_cards
from .interpretation.classes import GlobalInterpretation, interpret_globally
from .interpretation.contrast import Contrast, contrast
from .interpretation.exemplars import Exemplars, PairLike, find_exemplars
from .interpretation.local import LocalInterpretation, interpret_locally
from .interpretation.maximization import Maximization, maximize
from .interpreter.fitted import FittedInterpreter
from .interpreter.standalone import InterpreterClassifier
from .processes import alone
from .report.writing import write_report


class Explanations:
    """The questions that need nothing but ``fitted``. Images are (B, channels, H, W) as the classifier sees them, of the fitted size.

    Every method raises ``NotFitted`` before a fit, ``ImageShapeError``, ``NonFinitePixelsError`` or another ``DataError`` for bad data and
    ``ConfigurationError`` for a setting out of range.

    Several processes (``docs/scaling.md``) divide the data of ``evaluate``, ``global_interpretation`` and ``exemplars``, and have to ask
    together; anything else each asks for itself, over all of the data.
    """

    @property
    def fitted(self) -> FittedInterpreter:
        """The fitted interpreter with its classifier."""
        raise NotImplementedError

    # ---- why, and what does a class consist of? ----

    def __call__(self, images: Tensor, *, for_class: str | int | Tensor = "interpreter") -> LocalInterpretation:
        """Why these predictions?

        Args:
            for_class: which class to explain: "interpreter" (g's prediction), "classifier" (f's), one class by number or name, or a
                tensor (B,) of numbers.

        Raises:
            ClassSelectionError: a class that does not exist.
        """
        return interpret_locally(self.fitted, images, for_class)

    def global_interpretation(
        self, data: Data, *, samples_per_class: SupportsIndex = 100, agreeing_only: bool = False, seed: SupportsIndex = 0
    ) -> GlobalInterpretation:
        """What does each class consist of? One pass; at most ``samples_per_class`` images a class go into a mean, drawn uniformly."""
        samples = operator.index(samples_per_class)
        return interpret_globally(self.fitted, data, samples_per_class=samples, agreeing_only=agreeing_only, seed=operator.index(seed))

    # ---- what is an attribute? ----

    def exemplars(self, data: Data, pairs: Iterable[PairLike], *, k: SupportsIndex = 3, by: str = "interpreter") -> Exemplars:
        """For each pair the ``k`` images of the class on which the attribute is strongest; one pass.

        Args:
            pairs: of ``global_interpretation(...).pairs()``, or plain (attribute, class).
            by: "interpreter": images that g predicts as the class; "label": of the true class.
        """
        return find_exemplars(self.fitted, data, pairs, k=operator.index(k), by=by)

    def maximize(
        self,
        images: Tensor,
        attributes: int | Sequence[int] | Tensor,
        *,
        settings: MaximizationSettings | None = None,
        start: str = "image",
    ) -> Maximization:
        """Draw what attributes detect (AM+PI), each starting from an image of its own; any number as one batch.

        Args:
            images: best exemplars of the attributes.  attributes: one for all, or one each.
            settings: ``None``: our preset for images of this size.
            start: "image", or "noise" for comparison.
        """
        return maximize(self.fitted, images, attributes, settings=settings, start=start)

    def attribution(
        self,
        images: Tensor,
        *,
        attribute: int | Sequence[int] | Tensor | None = None,
        class_index: int | Sequence[int] | Tensor | None = None,
        of: str = "interpreter",
        method: str = "auto",
        settings: AttributionSettings | None = None,
        sanity: SanityCheck | None = None,
    ) -> Attribution:
        """Which pixels speak for an attribute, or for a class logit?

        Args:
            attribute, class_index: exactly one of them; one for all images, or one each.
            of: whose class logit: "interpreter" or "classifier".
            method: a name of ``interpretation.attribution.METHODS``, or "auto", which says what it took and why.
            sanity: an earlier ``sanity_check``, to choose by; without one "auto" makes a small one, on the first images asked about.

        Raises:
            AttributionError: a method that does not hold on this network; the message proposes another.
        """
        return attribute_pixels(
            self.fitted,
            images,
            attribute=attribute,
            class_index=class_index,
            of=of,
            method=method,
            settings=settings or AttributionSettings(),
            sanity=sanity,
        )

    def sanity_check(
        self, images: Tensor, *, attribute: int | Sequence[int] | Tensor | None = None, methods: Sequence[str] | None = None
    ) -> SanityCheck:
        """Do maps depend on what was learnt? Their similarity before and after h, Ψ and f are randomised, layer by layer, in copies.

        Args:
            images: eight are enough for a first answer.  attribute: ``None``: each image's strongest.
            methods: names of ``interpretation.attribution.METHODS``; ``None``: all that hold on this network.
        """
        return check_sanity(self.fitted, images, attribute=attribute, methods=methods)

    def contrast(self, images: Tensor, attributes: int | Sequence[int] | Tensor) -> Contrast:
        """d(Φ(x)) beside d(Φ(x) without φ_j), and their difference."""
        return contrast(self.fitted, images, attributes)

    def cards(self, data: Data, pairs: Iterable[PairLike], *, k: SupportsIndex = 3, budget_seconds: float = 240.0) -> list[PairCard]:
        """All of the above for each pair, to look at side by side; pictures are drawn until the time is spent, by falling relevance."""
        with alone():
            return draw_cards(self.fitted, data, pairs, k=operator.index(k), budget_seconds=budget_seconds)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Images:
        """d(Φ(x)) as pixels, [0, 1] up to the decoder's error, (B, channels, h, w) at the decoder's resolution."""
        fitted = self.fitted
        return fitted.redrawn(fitted.read_together(images).attributes)

    # ---- how far to trust it? ----

    def evaluate(self, data: Data) -> Evaluation:
        """How far to trust it: all measures in one pass. Labels, where ``data`` has them, are positions in the explained classes."""
        return evaluate(self.fitted, data)

    def accuracy_account(self, reference: nn.Module, data: Data) -> AccuracyComparison:
        """What did learning by design do to the classifier? Its accuracy beside that of ``reference``, image by image.

        Args:
            reference: the classifier as it was before the fit, or one that was trained without an interpreter.
            data: images with labels, best such that neither learnt from.

        Raises:
            MissingLabelsError: images without labels.
        """
        return compare_accuracy(self.fitted, reference, data)

    def confusion(self, data: Data) -> Confusion:
        """Where interpreter and classifier part: agreement by class, and the table of f's classes against g's."""
        return confuse(self.fitted, data)

    def shuffling(self, data: Data, *, repeats: SupportsIndex = 5, seed: SupportsIndex = 0) -> Shuffling:
        """What g loses when attributes are permuted across images, one at a time and all, and within an image: do they carry it?"""
        return shuffle(self.fitted, data, repeats=operator.index(repeats), seed=operator.index(seed))

    def baselines(
        self, train: Data, data: Data, *, independent: nn.Module | None = None, limit: SupportsIndex = 10_000, seed: SupportsIndex = 0
    ) -> BaselineComparison:
        """What plain dictionaries of the same size get from the same taps: random Ψ, NMF, k-means, principal components, a linear probe.

        Args:
            train: what they learn from, best what the interpreter was fitted on.  data: what all are judged on.
            independent: a network trained on the labels that never saw f: two good classifiers agree anyway, and this says how far.
            limit: images of ``train`` that are learnt from, a uniform sample; memory is that times at most 4096 features.
        """
        rows, drawn = operator.index(limit), operator.index(seed)
        self.fitted.look_at(data)
        return compare_baselines(self.fitted, train, data, independent=independent, limit=rows, seed=drawn)

    def disagreement(self, train: Data, data: Data, *, outside: Data | None = None) -> Disagreement:
        """Are images on which f and g part outliers of their class? By projection depth (equation 1 of the paper), judged as a trust flag.

        Args:
            train: what the depths are learnt from.  data: what is judged.  outside: images of another kind, of the same shape.
        """
        self.fitted.look_at(data)
        if outside is not None:
            self.fitted.look_at(outside, labels="ignored")
        return analyse_disagreement(self.fitted, learn_class_depths(self.fitted, train), data, outside=outside)

    def stability(self, others: Sequence[Explanations], data: Data) -> Stability:
        """Do other fits of the same classifier find the same attributes? Matched one to one by correlation over ``data``."""
        return compare_fits([self.fitted, *(other.fitted for other in others)], data)

    def faithfulness(self, data: Data, *, train: Data | None = None) -> Faithfulness:
        """Does f itself change as contributions say, when attributes are taken out of its taps or of the decoder's picture?

        Args:
            train: images that the attributes' patterns at the taps, and an NMF dictionary to compare with, are learnt from; ``None``:
                ``data``, which is then read twice.
        """
        self.fitted.look_at(data)
        return measure_faithfulness(self.fitted, data, train=train)

    def report(
        self,
        path: str | Path,
        data: Data,
        *,
        budget_seconds: float = 240.0,
        title: str | None = None,
        data_name: str = "",
        progress: bool = True,
    ) -> Path:
        """One self-contained HTML file, for someone who was not there when the model was trained.

        Args:
            data: what figures, exemplars and samples are taken from, best images that were not learnt from; it is read twice.
            budget_seconds: for all of it; pictures of attributes are drawn by falling relevance until that is spent.
            title: of the page.  data_name: what the data is, in words.

        Raises:
            ArtifactError: the folder is missing or cannot be written to.
        """
        with alone():
            return write_report(self.fitted, path, data, budget_seconds=budget_seconds, title=title, data_name=data_name, progress=progress)

    def as_classifier(self) -> InterpreterClassifier:
        """g as the final model, an ``nn.Module`` on a copy of f cut at the deepest tap; its ``savings`` say what that saves."""
        return InterpreterClassifier(self.fitted)
