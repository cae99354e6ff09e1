"""What would something plainer get? Dictionaries of the same size on the same taps, a linear probe as ceiling, a stranger to f as floor."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from ..arrays import Activations, Logits
from ..canvas import Figure, with_notes_below
from ..charts import ranked_bars
from ..data import Data
from ..errors import ConfigurationError
from ..interpreter.attributes import AttributeNetwork
from ..interpreter.fitted import FittedInterpreter, ReadBatch
from ..measures import SHOWN_TAU, absolute_conciseness, area_resize, contributions, explained, relevance
from ..randomness import preserved_random_state
from ..words import number, percent, plain, table, with_notes
from .dictionaries import DICTIONARIES, SEEDS, learn_readout
from .estimates import Interval, paired_interval
from .gathering import RowReservoir
from .rivals import rival

MAX_FEATURES = 4096  # of an image, that dictionaries and probe read
LEAST = 1e-12  # a mean probability: of a class that f never considers it would be 0, and its logarithm infinite


class Answer(NamedTuple):
    """Logits (b, C), and the codes (b, K) and weight (C, K) behind them where there are such."""

    logits: Logits
    codes: Tensor | None = None
    weight: Tensor | None = None


Contender: TypeAlias = Callable[[ReadBatch], Answer]


# ---- what they read ----


def pooling_grid(fitted: FittedInterpreter) -> tuple[int, int]:
    """The grid that all taps are averaged to: the one that Ψ's last layers read, or a coarser one of at most 4096 features an image."""
    height, width = fitted.interpreter.attribute_network.pool
    channels = sum(shape[0] for shape in fitted.view.tap_shapes)
    while max(height, width) > 1 and channels * height * width > MAX_FEATURES:
        height, width = max(1, height - 1), max(1, width - 1)
    return height, width


def pooled(fitted: FittedInterpreter, activations: Activations) -> Tensor:
    """(b, D) on the CPU: every tap averaged by area to the grid, flat, side by side."""
    grid = pooling_grid(fitted)
    return torch.cat([area_resize(maps, grid).flatten(1) for maps in activations], dim=1).cpu()


def random_attributes(fitted: FittedInterpreter, activations: Activations, seed: int) -> AttributeNetwork:
    """Ψ as a fit starts it: random weights, initialised from data, and never trained."""
    config, image_side = fitted.interpreter.config, max(fitted.image_shape[1:])
    with preserved_random_state():
        torch.manual_seed(seed)
        network = AttributeNetwork(fitted.view.tap_shapes, fitted.interpreter.num_attributes, config.attributes, image_side=image_side)
        network.to(fitted.device, torch.float32).initialize_from(activations, config.initial_bias or 0.0)
    return network.eval().requires_grad_(False)


class TrainingRows(NamedTuple):
    """A uniform sample of training images, on the CPU: pooled features (n, D), a random Ψ's attributes (n, J), f's logits (n, C)."""

    features: Tensor
    random: Tensor
    logits: Tensor
    network: AttributeNetwork


def training_rows(fitted: FittedInterpreter, data: Data, limit: int, seed: int) -> TrainingRows:
    """From one pass. Raises ``EmptyDataError``."""
    reservoir, network = RowReservoir(limit, seed), None
    for batch in fitted.read(data):
        network = network or random_attributes(fitted, batch.activations, seed)
        reservoir.offer(pooled(fitted, batch.activations), network(batch.activations), batch.classifier_logits)
    features, random, logits = reservoir.columns()
    return TrainingRows(features, random, logits, network)  # type: ignore[arg-type]


# ---- who competes ----


class Entrant(NamedTuple):
    """Who competes, and how many numbers an image its linear layer reads; ``None`` without such a layer."""

    contender: Contender
    size: int | None = None


def _linear(rows: TrainingRows, codes: Tensor, encode: Callable[[ReadBatch], Tensor], fitted: FittedInterpreter) -> Entrant:
    readout = learn_readout(codes, rows.logits, fitted.view.kind)

    def answer(batch: ReadBatch) -> Answer:
        encoded = encode(batch).cpu()
        return Answer(readout(encoded), encoded, readout.weight)

    return Entrant(answer, codes.shape[1])


def _dictionary(name: str, rows: TrainingRows, fitted: FittedInterpreter, seed: int) -> Entrant:
    encode = DICTIONARIES[name](rows.features, fitted.interpreter.num_attributes, seed)
    return _linear(rows, encode(rows.features), lambda batch: encode(pooled(fitted, batch.activations)), fitted)


def _itself(fitted: FittedInterpreter) -> Entrant:
    weight = fitted.interpreter.head.weight.detach().cpu()
    return Entrant(lambda batch: Answer(batch.interpreter_logits.cpu(), batch.attributes.cpu(), weight), weight.shape[1])


def _constant(rows: TrainingRows, fitted: FittedInterpreter) -> Entrant:
    """f's mean probabilities, the constant of the least KL; of one-label kinds with the most frequent class on top."""
    if fitted.view.kind.one_label:
        usual = rows.logits.double().softmax(dim=1).mean(dim=0).clamp_min(LEAST).log().float()
        usual[Counter(fitted.view.kind.prediction(rows.logits).tolist()).most_common(1)[0][0]] = usual.max() + 1e-4
    else:
        usual = rows.logits.double().sigmoid().mean(dim=0).logit(eps=LEAST).float()
    return Entrant(lambda batch: Answer(usual.expand(len(batch.images), -1)))


@contextmanager
def _stranger(model: nn.Module, fitted: FittedInterpreter) -> Iterator[Entrant]:
    with rival(model, fitted, "independent", "a network trained on the labels that never saw it") as logits:
        yield Entrant(lambda batch: Answer(logits(batch.images)))


# ---- how they do ----


@dataclass
class _Sums:
    """Running counts of one contender."""

    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, fitted: FittedInterpreter, batch: ReadBatch, answer: Answer) -> None:
        """One batch."""
        kind, target = fitted.view.kind, batch.classifier_logits.cpu()
        agrees, interpreter = (kind.agreement(target, logits) for logits in (answer.logits, batch.interpreter_logits.cpu()))
        f = kind.prediction(target)
        errors = torch.zeros_like(agrees) if batch.labels is None else f != batch.labels.cpu()
        self.sums["images"] += len(f)
        self.sums["agreeing"] += int(agrees.sum())
        self.sums["errors"] += int(errors.sum())
        self.sums["agreeing_on_errors"] += int((agrees & errors).sum())
        self.sums["alone"] += int((agrees & ~interpreter).sum())
        self.sums["interpreter_alone"] += int((interpreter & ~agrees).sum())
        self.sums["divergence"] += float((kind.cross_entropy(target, answer.logits) - kind.entropy(target)).sum())
        if answer.codes is not None and answer.weight is not None:
            alpha = contributions(answer.codes, answer.weight, kind.prediction(answer.logits))
            counted = explained(alpha)
            self.sums["explained"] += int(counted.sum())
            self.sums["used"] += int(absolute_conciseness(relevance(alpha[counted]), SHOWN_TAU).sum())

    def conclude(self, name: str, size: int | None) -> Baseline:
        """Shares and means over all batches."""
        sums = self.sums
        errors = sums["agreeing_on_errors"] / sums["errors"] if sums["errors"] else None
        conciseness = sums["used"] / sums["explained"] if sums["explained"] else None
        margin = paired_interval(int(sums["interpreter_alone"]), int(sums["alone"]), int(sums["images"]))
        return Baseline(name, size, sums["agreeing"] / sums["images"], errors, sums["divergence"] / sums["images"], conciseness, margin)


@dataclass(frozen=True)
class Baseline:
    """One way to imitate f. Shares in [0, 1].

    Attributes:
        size: numbers an image that the linear layer reads; ``None`` where there is no such layer.
        fidelity: as ``evaluate`` measures it.  fidelity_on_errors: where f is wrong; ``None`` without labels.
        conciseness: mean number of them with |r| > 0.5; ``None`` where there are none.
        margin: the interpreter's fidelity less this one's, with its 95 % interval, paired over images.
    """

    name: str
    size: int | None
    fidelity: float
    fidelity_on_errors: float | None
    kl_divergence: float
    conciseness: float | None
    margin: Interval


INTERPRETER, PROBE, STRANGER = "this interpreter", "ceiling: linear probe on all pooled features", "floor: a network that never saw f"


@dataclass(frozen=True)
class BaselineComparison:
    """The interpreter beside plainer ways to imitate f, all judged on the same ``images``, learnt from ``training_images``."""

    images: int
    training_images: int
    baselines: tuple[Baseline, ...]
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Baseline:
        found = {baseline.name: baseline for baseline in self.baselines}
        if name not in found:
            raise ConfigurationError(f"no baseline is called {name!r}; there are {', '.join(map(repr, found))}")
        return found[name]

    def __str__(self) -> str:
        rows = [
            (
                b.name,
                number(b.size, 0),
                percent(b.fidelity),
                percent(b.fidelity_on_errors),
                number(b.kl_divergence, 3),
                number(b.conciseness),
            )
            for b in self.baselines
        ]
        lines = [table(("imitates f", "numbers", "fidelity", "on f's errors", "KL", "CNS, τ = 2"), rows), self.meaning()]
        return with_notes(lines, self.notes)

    def meaning(self) -> str:
        """The table in a few sentences."""
        own = self[INTERPRETER]
        rivals = [baseline for baseline in self.baselines if baseline.size == own.size and baseline.name != INTERPRETER]
        best = max(rivals, key=lambda baseline: baseline.fidelity)
        mean, low, high = (100 * share for share in best.margin)
        floor = [baseline for baseline in self.baselines if baseline.name == STRANGER]
        stranger = f" A network that never saw f agrees with it on {percent(floor[0].fidelity)} anyway." if floor else ""
        return (
            f"With {own.size} numbers an image the interpreter agrees with f on {percent(own.fidelity)} of {self.images:,} images, "
            f"{mean:+.2f} points [{low:+.2f}, {high:+.2f}] beside the best plain dictionary ({best.name}), which learnt from "
            f"{self.training_images:,} images.{stranger}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return plain(self)

    def plot(self) -> Figure:
        """Fidelity of each, in per cent."""
        ranked = sorted(self.baselines, key=lambda baseline: -baseline.fidelity)
        names, shares = [b.name for b in ranked], [100 * b.fidelity for b in ranked]
        return with_notes_below(ranked_bars(names, shares, heading="Who agrees with f?", axis="fidelity, %"), self.notes)


@preserved_random_state()  # importing sklearn draws from it
def compare_baselines(
    fitted: FittedInterpreter, train: Data, data: Data, *, independent: nn.Module | None = None, limit: int = 10_000, seed: int = 0
) -> BaselineComparison:
    """What plainer explainers get on the same taps.

    Args:
        train: images to learn dictionaries and read-outs from, best those the interpreter was fitted on. Labels are not needed.
        data: what all are judged on, in one pass.
        independent: a network trained on the labels that never saw f and takes the same images: how far two good classifiers agree
            anyway.
        limit: training images kept, a uniform sample; memory is that times at most 4096 features.

    Raises:
        ConfigurationError: fewer training images than attributes, or an ``independent`` of other classes. DataError.
    """
    rows, size = training_rows(fitted, train, limit, seed), fitted.interpreter.num_attributes
    if len(rows.logits) < size:
        raise ConfigurationError(f"{len(rows.logits)} training images make no dictionary of {size}; pass at least as many as attributes")
    entrants = {INTERPRETER: _itself(fitted)} | {name: _dictionary(name, rows, fitted, seed % SEEDS) for name in DICTIONARIES}
    entrants["random Ψ, trained h"] = _linear(rows, rows.random, lambda batch: rows.network(batch.activations), fitted)
    entrants[PROBE] = _linear(rows, rows.features, lambda batch: pooled(fitted, batch.activations), fitted)
    entrants["always f's most frequent class"] = _constant(rows, fitted)
    with ExitStack() as stack:
        if independent is not None:
            entrants[STRANGER] = stack.enter_context(_stranger(independent, fitted))
        return _run(fitted, data, entrants, len(rows.logits))


@torch.no_grad()
def _run(fitted: FittedInterpreter, data: Data, entrants: dict[str, Entrant], training_images: int) -> BaselineComparison:
    sums = {name: _Sums() for name in entrants}
    for batch in fitted.read(data):
        for name, entrant in entrants.items():
            sums[name].add(fitted, batch, entrant.contender(batch))
    found = tuple(sums[name].conclude(name, entrant.size) for name, entrant in entrants.items())
    return BaselineComparison(int(sums[INTERPRETER].sums["images"]), training_images, found, fitted.notes)
