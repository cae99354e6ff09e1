"""The paper's pictures: the program leaves them with a page that shows them, and what it chooses to show is what it says."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import small
import torch
from torch.utils.data import TensorDataset

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the examples are no part of what is installed

from examples.paper import ablations, figures  # noqa: E402
from examples.paper.datasets import DATASETS, Pictures  # noqa: E402
from examples.paper.fits import Fits  # noqa: E402
from examples.paper.tasks import TASKS, Task  # noqa: E402
from flint_posthoc import FlintConfig, LossWeights, Normalization  # noqa: E402
from flint_posthoc.canvas import NEGATIVE  # noqa: E402
from flint_posthoc.charts import sample_heatmap  # noqa: E402
from flint_posthoc.figures import Captioned, captioned_rows  # noqa: E402
from flint_posthoc.interpretation.classes import ClassAttributePair  # noqa: E402
from flint_posthoc.learning.settings import FitSettings  # noqa: E402

STEPS = 60  # of the fits
LARGEST = 150_000  # bytes of a picture
NAMES = ("relevance", "samples", "attributes", "attributes-without-autoencoder", "relevance-4", "attributes-4", "disagreements")


def stand_in(data: Path) -> Pictures:
    """Blobs with labels that a tiny classifier finds right on two images of three."""
    parts = (TensorDataset(pixels, small.labels(small.tiny(), pixels)) for pixels in (small.images(400, seed=1), small.images(200, seed=2)))
    normalization = Normalization((0.5,) * small.CHANNELS, (0.25,) * small.CHANNELS)
    return Pictures("blobs", ("red", "green", "blue", "grey"), normalization, *parts)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An experiment of seconds: one thread, and axes are not checked."""
    settings = FitSettings(batch_size=32, max_steps=STEPS, learning_rate=5e-3)
    task = Task("mnist", small.tiny, small.LAYERS, num_attributes=6, epochs=1, batch_size=32, learning_rate=1e-3)
    monkeypatch.setattr(Task, "config", lambda task: FlintConfig(small.INTERPRETER, settings=settings))
    monkeypatch.setattr(ablations, "STEPS", STEPS)
    monkeypatch.setitem(TASKS, "mnist", task)
    monkeypatch.setitem(DATASETS, "mnist", stand_in)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("quick")
def test_every_picture_stands_on_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["--tasks", "mnist", "--modes", "post-hoc", "--epochs", "4"]
    places = ["--output", str(tmp_path / "made"), "--results", str(tmp_path / "results")]
    monkeypatch.setattr(sys, "argv", [str(ROOT / "examples" / "paper" / "figures.py"), *asked, *places])
    figures.main()
    folder = tmp_path / "results" / "figures" / "mnist-4-epochs-post-hoc"
    record = json.loads((folder / "results.json").read_text())
    assert record["circumstances"]["command"].split()[3:] == asked
    assert [*record["pictures"]] == [f"{name}.png" for name in NAMES]
    page = (folder / "results.md").read_text()
    for name, caption in record["pictures"].items():
        assert caption.startswith("blobs, interpreted post-hoc")
        assert f"![]({name})\n\n{caption}\n" in page
        assert 3_000 < (folder / name).stat().st_size < LARGEST
    assert f"(γ = 0), after {STEPS} steps" in record["pictures"]["attributes-without-autoencoder.png"]
    assert "J = 4: mean relevance" in record["pictures"]["relevance-4.png"]


@pytest.mark.parametrize("mode", ["joint", "post-hoc"])
def test_the_ablations_fits_are_shown(mode: str, tmp_path: Path) -> None:
    fits = Fits(TASKS["quickdraw"], tmp_path, tmp_path)
    bare, small = figures.without_autoencoder(fits, mode), figures.of_few_attributes(fits, mode)
    assert (bare.mode, bare.weights.gamma, bare.num_attributes) == (mode, 0, None)
    assert (small.mode, small.weights, small.num_attributes) == (mode, LossWeights(), 4)


def test_the_strongest_attributes_come_first_each_with_its_first_classes() -> None:
    relevances = {(7, 0): 0.9, (2, 1): 0.8, (7, 3): 0.7, (5, 2): 0.6, (7, 4): 0.5, (1, 2): 0.4, (2, 6): 0.3}
    pairs = [ClassAttributePair(*pair, relevance) for pair, relevance in relevances.items()]
    assert [pair[:2] for pair in figures.strongest(pairs)] == [(7, 0), (7, 3), (2, 1), (2, 6), (5, 2)]


def test_samples_are_drawn_class_by_class() -> None:
    labels = torch.randint(0, 3, (200,), generator=torch.Generator().manual_seed(1)) * 2  # 0, 2 and 4; nothing in 1 and 3
    chosen = figures.drawn(labels)
    assert labels[chosen].tolist() == [0] * 8 + [2] * 8 + [4] * 8
    assert len(set(chosen)) == len(chosen)
    assert chosen != sorted(chosen)


def test_of_many_classes_ten_are_shown() -> None:
    chosen = figures.drawn(torch.arange(100).repeat(9))
    assert sorted({index % 100 for index in chosen}) == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]


@pytest.mark.parametrize(("count", "expected"), [(3, [1, 4, 8]), (9, [1, 2, 4, 6, 8]), (1, [1]), (0, [])])
def test_images_are_spread_over_those_that_qualify(count: int, expected: list[int]) -> None:
    flags = torch.zeros(10, dtype=torch.bool)
    flags[[1, 2, 4, 6, 8]] = True
    assert figures.spread(flags, count) == expected
    assert figures.spread(torch.zeros(4, dtype=torch.bool), count) == []


def test_the_place_of_a_class_is_counted_from_the_largest_logit() -> None:
    logits = torch.tensor([[0.1, 0.9, 0.5], [0.1, 0.9, 0.5], [3.0, 2.0, 1.0]])
    assert figures.places_of(logits, torch.tensor([1, 0, 2])).tolist() == [1, 3, 3]


def test_neighbours_of_one_group_share_its_name_and_marked_samples_a_triangle() -> None:
    relevance = np.linspace(-1, 1, 15).reshape(3, 5)
    marked = np.array([False, True, False, False, True])
    axes = sample_heatmap(relevance, ["cat", "cat", "dog", "dog", "dog"], marked, heading="why?", axis="samples").axes[0]
    assert [(label.get_text(), label.get_position()[0]) for label in axes.get_xticklabels()] == [("cat", 0.5), ("dog", 3.0)]
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "v"] == [1, 4]
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() != "v"] == [1.5]  # between the two groups


def test_a_warning_is_red_and_rows_may_differ_in_length() -> None:
    pixels = np.zeros((1, 4, 4))
    rows = [[Captioned(pixels, "one"), Captioned(pixels, "two", "look out")], [Captioned(pixels, "three")]]
    drawn = captioned_rows(rows, ["first", "second"], heading="all")
    titles = [(axes.get_title(), axes.title.get_color()) for axes in drawn.axes if axes.images]
    assert titles == [("one", "black"), ("two\nlook out", NEGATIVE), ("three", "black")]
