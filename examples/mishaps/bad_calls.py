"""How long does it take until a bad call is refused, and what was read by then? Run with ``make bad-calls``.

Each call is wrong in one way. Its error has to come before any pass over the data: at most one batch of each data set may have been read.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import small  # noqa: E402
from models import left_alone  # noqa: E402

from examples.results import circumstances, write  # noqa: E402
from flint_posthoc import FlintExplainer  # noqa: E402
from flint_posthoc.classifier.adapter import Normalization  # noqa: E402
from flint_posthoc.errors import FlintError  # noqa: E402
from flint_posthoc.locking import locked  # noqa: E402

IMAGES, BATCH = 4096, 32


class Counted:
    """Batches that count how many of them were read; ``every`` one of them, since the list was emptied."""

    every: ClassVar[list[Counted]] = []

    def __init__(self, images: Tensor, labels: Tensor | None = None) -> None:
        self.images, self.labels, self.read = images, labels, 0
        self.shuffle = True
        self.every.append(self)

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self.images), BATCH):
            self.read += 1
            part = slice(start, start + BATCH)
            yield self.images[part] if self.labels is None else (self.images[part], self.labels[part])


class Place(NamedTuple):
    """What a bad call is made with."""

    explain: FlintExplainer  # not fitted
    fitted: FlintExplainer
    stranger: FlintExplainer  # fitted to another classifier
    good: Counted
    bad: Counted  # of another size
    folder: Path  # that holds a saved interpreter, a cache and a file


def _new(place: Place, **settings: Any) -> FlintExplainer:
    return FlintExplainer(place.explain.model, **({"layers": small.LAYERS} | settings))


def _busy(place: Place) -> object:
    (place.folder / "busy").mkdir(exist_ok=True)
    with locked(place.folder / "busy" / "fit.lock", "fits into"):
        return place.explain.fit(place.good, checkpoint_dir=place.folder / "busy", progress=False)


CALLS: dict[str, Callable[[Place], object]] = {
    "a layer that is not there": lambda place: _new(place, layers=["layer9"]),
    "J = 0": lambda place: _new(place, num_attributes=0),
    "classes that are not there": lambda place: _new(place, classes=[0, 99]).fit(place.good, progress=False),
    "too few class names": lambda place: _new(place, class_names=["ant"]).fit(place.good, progress=False),
    "a normalisation of other channels": lambda place: _new(place, normalization=Normalization((0.5,) * 3, (0.5,) * 3)).fit(place.good),
    "images of another shape": lambda place: place.explain.fit(Counted(place.good.images[:, :1]), progress=False),
    "images of whole numbers": lambda place: place.explain.fit(Counted(place.good.images.int()), progress=False),
    "NaN among the pixels": lambda place: place.explain.fit(Counted(place.good.images * torch.nan), progress=False),
    "no images": lambda place: place.explain.fit([], progress=False),
    "a path for data": lambda place: place.explain.fit("pictures/", progress=False),
    "validation images of another shape": lambda place: place.explain.fit(place.good, validation=place.bad, progress=False),
    "validation without images": lambda place: place.explain.fit(place.good, validation=[], progress=False),
    "epochs and steps": lambda place: place.explain.fit(place.good, epochs=1, max_steps=5, progress=False),
    "a batch size of 0": lambda place: place.explain.fit(place.good, batch_size=0, progress=False),
    "a learning rate of 0": lambda place: place.explain.fit(place.good, learning_rate=0.0, progress=False),
    "an unknown precision": lambda place: place.explain.fit(place.good, precision="int4", progress=False),
    "an unknown cache": lambda place: place.explain.fit(place.good, cache="ram", progress=False),
    "a cache of another classifier": lambda place: small.explainer(small.tiny(1)).fit(place.good, cache=_cache(place), progress=False),
    "a cache of other layers": lambda place: _new(place, layers=["conv2"]).fit(place.good, cache=_cache(place), progress=False),
    "resume without a folder": lambda place: place.explain.fit(place.good, resume=True, progress=False),
    "a file for a checkpoint folder": lambda place: place.explain.fit(place.good, checkpoint_dir=place.folder / "file", progress=False),
    "a checkpoint folder that another fit has": _busy,
    "a cache folder that holds a cache": lambda place: place.explain.cache(place.good, folder=place.folder / "cache", progress=False),
    "a file for a cache folder": lambda place: place.explain.cache(place.good, folder=place.folder / "file", progress=False),
    "a cache of unknown precision": lambda place: place.explain.cache(place.good, precision="int4", progress=False),
    "joint without labels": lambda place: _new(place, joint=True).fit(place.good, progress=False),
    "joint, data to be read once": lambda place: _new(place, joint=True).fit(
        iter(Counted(place.good.images, _labels(place))), progress=False
    ),
    "sizes below 1": lambda place: place.explain.selection(place.good, [0, 5], progress=False),
    "a question before the fit": lambda place: place.explain.evaluate(place.good),
    "an interpreter that is not there": lambda place: FlintExplainer.from_pretrained(place.folder / "nowhere", place.explain.model),
    "an interpreter of another classifier": lambda place: FlintExplainer.from_pretrained(place.folder / "saved", small.tiny(1)),
    "a folder that cannot be saved into": lambda place: place.fitted.save_pretrained(place.folder / "file"),
    "judged by images of another shape": lambda place: place.fitted.evaluate(place.bad),
    "samples_per_class = 0": lambda place: place.fitted.global_interpretation(place.good, samples_per_class=0),
    "exemplars of an attribute that is not there": lambda place: place.fitted.exemplars(place.good, [(99, 0)]),
    "exemplars by label without labels": lambda place: place.fitted.exemplars(place.good, [(0, 0)], by="label"),
    "a class that is not there": lambda place: place.fitted(place.good.images[:4], for_class=99),
    "an attribution method that is not there": lambda place: place.fitted.attribution(place.good.images[:4], attribute=0, method="guess"),
    "an attribute to draw that is not there": lambda place: place.fitted.maximize(place.good.images[:4], 99),
    "an attribute to leave out that is not there": lambda place: place.fitted.contrast(place.good.images[:4], 99),
    "a report into a folder that is not there": lambda place: place.fitted.report(place.folder / "no" / "report.html", place.good),
    "a report on data to be read once": lambda place: place.fitted.report(place.folder / "report.html", iter(place.good)),
    "shuffling 0 times": lambda place: place.fitted.shuffling(place.good, repeats=0),
    "baselines judged by images of another shape": lambda place: place.fitted.baselines(place.good, place.bad),
    "disagreement on images of another shape": lambda place: place.fitted.disagreement(place.good, place.bad),
    "disagreement, others of another shape": lambda place: place.fitted.disagreement(place.good, place.good, outside=place.bad),
    "stability of fits of different classifiers": lambda place: place.fitted.stability([place.stranger], place.good),
    "faithfulness to images of another shape": lambda place: place.fitted.faithfulness(place.bad, train=place.good),
}


def _cache(place: Place) -> Any:
    from flint_posthoc import ActivationCache

    return ActivationCache.open(place.folder / "cache")


def _labels(place: Place) -> Tensor:
    return torch.zeros(len(place.good.images), dtype=torch.int64)


class Refusal(NamedTuple):
    """How a bad call ended."""

    call: str
    error: str
    seconds: float
    batches_read: int


def refusals(folder: Path) -> Iterator[Refusal]:
    """Each call, refused. Raises ``AssertionError`` where one was not, or only after a pass over data, or left a trace."""
    images, model = small.images(IMAGES), small.tiny()
    fitted, stranger = small.fitted(model), small.fitted(small.tiny(1))
    fitted.save_pretrained(folder / "saved")
    small.explainer(model).cache(images[:64], folder=folder / "cache", progress=False)
    (folder / "file").touch()
    for name, call in CALLS.items():
        Counted.every.clear()
        place = Place(small.explainer(model), fitted, stranger, Counted(images), Counted(images[:, :, 1:]), folder)
        if "cache of" in name:
            _cache(place)  # every byte of it is read once in a process
        yield _refused(name, call, place)


def _refused(name: str, call: Callable[[Place], object], place: Place) -> Refusal:
    started = time.perf_counter()
    with left_alone(place.explain.model):
        started = time.perf_counter()
        try:
            call(place)
        except FlintError as error:
            seconds, kind = time.perf_counter() - started, type(error).__name__
        else:
            raise AssertionError(f"{name} was not refused")
    read = [counted.read for counted in Counted.every]
    assert max(read) <= 1, f"{name} was refused after {max(read)} batches"
    return Refusal(name, kind, seconds, sum(read))


def table(found: list[Refusal]) -> str:
    """All of them in Markdown, the slowest last."""
    seconds = [refusal.seconds for refusal in found]
    lines = [
        f"{len(found)} bad calls on {IMAGES:,} images in {IMAGES // BATCH} batches, from the call to its error: median "
        f"{1000 * statistics.median(seconds):.1f} ms, worst {1000 * max(seconds):.0f} ms. No pass over the data, no trace on f.",
        "",
        "| wrong | error | milliseconds | batches read |",
        "|---|---|---|---|",
    ]
    for refusal in sorted(found, key=lambda refusal: refusal.seconds):
        lines.append(f"| {refusal.call} | `{refusal.error}` | {1000 * refusal.seconds:.1f} | {refusal.batches_read} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "bad_calls")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        found = list(refusals(Path(folder)))
    record = {"refusals": [refusal._asdict() for refusal in found], "circumstances": circumstances(started)}
    write(options.results, "From a bad call to its error", table(found), record)


if __name__ == "__main__":
    main()
