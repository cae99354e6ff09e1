"""Does AM+PI raise the attribute it draws? Our presets beside the paper's weights, from exemplars and from noise.

python -m examples.pictures.run          after `make fashion-mnist imagenette`, whose interpreters it draws
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
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
from flint_posthoc.canvas import save
from flint_posthoc.interpretation.ascent import GREY, PAPER, PHOTOGRAPH, MaximizationSettings
from flint_posthoc.interpretation.maximization import Maximization

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Subject:
    """A fitted interpreter, its preset, and how long the speed is measured."""

    name: str
    task: Any
    folder: Path  # below --output, as the example of the same name leaves it
    preset: MaximizationSettings
    pairs: int | None  # how many, drawn by seed; None: all

    def explainer(self, options: argparse.Namespace) -> FlintExplainer:
        return FlintExplainer.from_pretrained(options.interpreters / self.folder / "interpreter", self.task.classifier(options.data))

    def loader(self, options: argparse.Namespace) -> DataLoader:
        return self.task.loader(some(self.task.images(options.data, train=False), options.images))


SUBJECTS = (
    Subject("FashionMNIST", fashion_mnist, Path("flint-fashion-mnist/conv2/seed-0"), GREY, None),
    Subject("Imagenette", imagenette, Path("flint-imagenette/seed-0"), PHOTOGRAPH, 60),
)


def main(argv: list[str] | None = None) -> None:
    options = parsed(__doc__.splitlines()[0], argv)
    started = time.time()
    found = {subject.name: measure(subject, options) for subject in SUBJECTS if options.only in (None, subject.name)}
    body = "\n\n".join([f"## {name}\n\n{table(record)}" for name, record in found.items()])
    write(
        options.results or HERE / "results" / "rise",
        "AM+PI: does the attribute rise?",
        body,
        {"circumstances": circumstances(started)} | found,
    )


def parsed(description: str, argv: list[str] | None) -> argparse.Namespace:
    parser = arguments(description, output=Path("flint-pictures"))
    parser.add_argument("--interpreters", type=Path, default=Path(), help="folder in which the other examples were run")
    parser.add_argument("--results", type=Path, help="folder for results.json and results.md")
    parser.add_argument("--only", choices=[subject.name for subject in SUBJECTS], help="one of them")
    return parser.parse_args(argv)


def measure(subject: Subject, options: argparse.Namespace) -> dict[str, Any]:
    """Pictures of the relevant pairs, each from the strongest test image of its class, in every variant."""
    explain, data = subject.explainer(options), subject.loader(options)
    images, attributes = exemplars_of(subject, explain, data, options.seeds[0])
    peaks = peak_activations(explain, data)
    rows = {}
    for name, settings, start in variants(subject.preset):
        drawn = explain.maximize(images, attributes, settings=settings, start=start)
        rows[name] = judged(drawn, peaks)
        save(drawn.plot(), options.output / f"{subject.name}-{re.sub('[^a-z]+', '-', name)}.png")
        print(subject.name, name, rows[name], flush=True)
    return {"pairs": len(images), "variants": rows}


def exemplars_of(subject: Subject, explain: FlintExplainer, data: DataLoader, seed: int) -> tuple[Tensor, Tensor]:
    """The strongest image of each relevant pair that has one, and its attribute."""
    pairs = explain.global_interpretation(data).pairs()
    if subject.pairs is not None:
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
        pairs = [pairs[index] for index in order[: subject.pairs].tolist()]
    found = explain.exemplars(data, pairs, k=1).found
    chosen = [(pair.attribute, exemplars[0].image) for pair, exemplars in zip(pairs, found, strict=True) if exemplars]
    return torch.stack([image for _, image in chosen]), torch.tensor([attribute for attribute, _ in chosen])


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


if __name__ == "__main__":
    main()
