"""Does AM+PI raise the attribute it draws? Our presets beside the paper's weights, from exemplars and from noise; and what a picture costs.

python -m examples.pictures.run          after `make fashion-mnist imagenette`, whose interpreters it draws
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from examples.fashion_mnist import task as fashion_mnist
from examples.imagenette import task as imagenette
from examples.results import arguments, circumstances, some, write
from flint_posthoc import FlintExplainer
from flint_posthoc.figures import save
from flint_posthoc.interpretation.ascent import GREY, PAPER, PHOTOGRAPH, MaximizationSettings, Stage
from flint_posthoc.interpretation.maximization import Maximization
from flint_posthoc.precision import autocast

HERE = Path(__file__).parent
SPEED_PAIRS, REPEATS = 64, 5


@dataclass(frozen=True)
class Subject:
    """A fitted interpreter, its preset, and how long the speed is measured."""

    name: str
    task: Any
    folder: Path  # below --output, as the example of the same name leaves it
    preset: MaximizationSettings
    pairs: int | None  # how many, drawn by seed; None: all
    speed_steps: int

    def explainer(self, options: argparse.Namespace) -> FlintExplainer:
        return FlintExplainer.from_pretrained(options.interpreters / self.folder / "interpreter", self.task.classifier(options.data))

    def loader(self, options: argparse.Namespace) -> DataLoader:
        return self.task.loader(some(self.task.images(options.data, train=False), options.images))


SUBJECTS = (
    Subject("FashionMNIST", fashion_mnist, Path("flint-fashion-mnist/conv2/seed-0"), GREY, None, 300),
    Subject("Imagenette", imagenette, Path("flint-imagenette/seed-0"), PHOTOGRAPH, 60, 10),
)


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0], output=Path("flint-pictures"))
    parser.add_argument("--interpreters", type=Path, default=Path(), help="folder in which the other examples were run")
    parser.add_argument("--results", type=Path, help="folder for results.json and results.md")
    options = parser.parse_args(argv)
    started = time.time()
    found = {subject.name: measure(subject, options) for subject in SUBJECTS}
    body = "\n\n".join([f"## {name}\n\n{table(record)}\n\n{cost(record['speed'])}" for name, record in found.items()])
    write(options.results or HERE / "results", "AM+PI: does the attribute rise?", body, {"circumstances": circumstances(started)} | found)


def measure(subject: Subject, options: argparse.Namespace) -> dict[str, Any]:
    """Pictures of the relevant pairs, each from the strongest test image of its class, in every variant."""
    explain, data = subject.explainer(options), subject.loader(options)
    pairs = explain.global_interpretation(data).pairs()
    if subject.pairs is not None:
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(options.seeds[0]))
        pairs = [pairs[index] for index in order[: subject.pairs].tolist()]
    exemplars = [
        (pair.attribute, each[0].image) for pair, each in zip(pairs, explain.exemplars(data, pairs, k=1).found, strict=True) if each
    ]
    images, attributes = torch.stack([image for _, image in exemplars]), torch.tensor([attribute for attribute, _ in exemplars])
    peaks = peak_activations(explain, data)
    rows = {}
    for name, settings, start in variants(subject.preset):
        drawn = explain.maximize(images, attributes, settings=settings, start=start)
        rows[name] = judged(drawn, peaks)
        save(drawn.plot(), options.output / f"{subject.name}-{name.replace(' ', '-').replace(',', '')}.png")
        print(subject.name, name, rows[name], flush=True)
    return {"pairs": len(images), "variants": rows, "speed": speed(explain, images, attributes, subject)}


def variants(preset: MaximizationSettings) -> Sequence[tuple[str, MaximizationSettings, str]]:
    paper = replace(PAPER, batch_size=preset.batch_size, precision=preset.precision)
    return (
        ("ours", preset, "image"),
        ("ours, from noise", preset, "noise"),
        ("the paper's weights", paper, "image"),
        ("the paper's weights, from noise", paper, "noise"),
    )


def peak_activations(explain: FlintExplainer, data: DataLoader) -> Tensor:
    """The largest φ_j over the data, the unit in which gains of different attributes are compared."""
    return torch.stack([batch.attributes.amax(dim=0) for batch in explain.fitted.read(data)]).amax(dim=0).clamp_min(1e-6)


def judged(drawn: Maximization, peaks: Tensor) -> dict[str, float]:
    smooth = drawn.final_variation <= 2 * drawn.initial_variation
    shares = {
        "rose": drawn.rose,
        "smooth": smooth,
        "rose_and_smooth": drawn.rose & smooth,
        "gain_in_top_3": drawn.gain_ranks(peaks) <= 3,
    }
    ratio = (drawn.final_activation / drawn.initial_activation).median()
    return {name: float(share.float().mean()) for name, share in shares.items()} | {"median_rise": float(ratio)}


def table(record: dict[str, Any]) -> str:
    lines = [
        f"{record['pairs']} pairs. Measured on the picture as a person gets it: clamped, 8 bits, median over shifts of one pixel.\n",
        "| | φ_j ends above the exemplar's | TV at most twice the exemplar's | both | φ_j's gain among the top three | median rise |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in record["variants"].items():
        shares = [f"{100 * row[key]:.1f} %" for key in ("rose", "smooth", "rose_and_smooth", "gain_in_top_3")]
        lines.append(f"| {name} | {' | '.join(shares)} | × {row['median_rise']:.2f} |")
    return "\n".join(lines)


# ---- what a picture costs ----


def speed(explain: FlintExplainer, images: Tensor, attributes: Tensor, subject: Subject) -> dict[str, float]:
    """Seconds for pictures at once, one at a time, and for as many bare passes; interleaved, medians."""
    at_once = SPEED_PAIRS if subject.preset.batch_size >= SPEED_PAIRS else subject.preset.batch_size
    settings = replace(subject.preset, stages=(Stage(subject.speed_steps, 2.0, 20.0, 0.0),))
    rows = torch.arange(at_once) % len(images)
    chosen, wanted = images[rows], attributes[rows]
    ways: dict[str, Callable[[], object]] = {
        "together": lambda: explain.maximize(chosen, wanted, settings=settings),
        "bare_passes": lambda: bare_passes(explain, chosen, wanted, settings),
        "one_at_a_time": lambda: [explain.maximize(chosen[row : row + 1], int(wanted[row]), settings=settings) for row in range(at_once)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {f"{name}_over_{base}": statistics.median(map(lambda a, b: a / b, seconds[name], seconds[base]))
              for name, base in (("together", "bare_passes"), ("one_at_a_time", "together"))}  # fmt: skip
    return {"pictures": at_once, "steps": subject.speed_steps} | medians | ratios


def bare_passes(explain: FlintExplainer, images: Tensor, attributes: Tensor, settings: MaximizationSettings) -> None:
    """As many truncated forward and backward passes as the climb needs, and nothing else."""
    fitted, network = explain.fitted, explain.interpreter.attribute_network
    moved = images.clone(memory_format=torch.channels_last).requires_grad_(True)
    with fitted.view.frozen() as run:
        for _ in settings.stage_of_step:
            with autocast(fitted.device, settings.precision):
                activations = run.activations(moved)
            torch.autograd.grad(network.preactivations(activations).gather(1, attributes[:, None]).sum(), moved)


def cost(speed: dict[str, float]) -> str:
    return (
        f"{speed['pictures']} pictures of {speed['steps']} steps: {speed['together']:.2f} s at once, {speed['one_at_a_time']:.2f} s "
        f"one at a time (× {speed['one_at_a_time_over_together']:.2f}); {speed['together_over_bare_passes']:.2f} times the bare truncated "
        "forward and backward passes (medians of five interleaved runs)."
    )


if __name__ == "__main__":
    main()
