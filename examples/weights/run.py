"""What each loss weight buys, on validation splits of three data sets: fidelity, conciseness, attributes in use, reconstruction.

python -m examples.weights.run

The library's defaults were chosen here; no test image takes part.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.fashion_mnist import task as fashion_mnist
from examples.imagenette import task as imagenette
from examples.layers import resnet20
from examples.paper.datasets import batches
from examples.paper.datasets import validation_split as every_sixth
from examples.results import add_steps, arguments, circumstances, figures, summary, table, write
from flint_posthoc import ActivationCache, FlintExplainer, LossWeights
from flint_posthoc.learning.presets import FlintConfig

HERE = Path(__file__).parent
WEIGHTINGS = {
    "defaults": LossWeights(),
    "T 1, η 0.05": LossWeights(temperature=1.0, eta=0.05),
    "T 2, η 0.05": LossWeights(temperature=2.0, eta=0.05),
    "T 2, η 0.2": LossWeights(temperature=2.0, eta=0.2),
    "β 1": LossWeights(beta=1.0),
    "β 4": LossWeights(beta=4.0),
    "ζ 0.3": LossWeights(zeta=0.3),
    "γ 0.3": LossWeights(gamma=0.3),
    "γ 2": LossWeights(gamma=2.0),
    "μ 2": LossWeights(mu=2.0),
}


@dataclass(frozen=True)
class Task:
    """A classifier with its cached training part and its validation part."""

    name: str
    explain: FlintExplainer
    cache: ActivationCache
    train: Iterable[Any]
    validation: Iterable[Any]
    max_steps: int


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0])
    add_steps(parser)
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for a folder a task")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    options = parser.parse_args(argv)
    for name in options.tasks:
        started, task = time.time(), TASKS[name](options.data, options.max_steps)
        runs = {label: judged(task, weights, options.seeds) for label, weights in WEIGHTINGS.items()}
        made = circumstances(started, seeds=options.seeds, max_steps=task.max_steps)
        body = table({label: summary(rows) for label, rows in runs.items()})
        title = f"What each loss weight buys: {task.name}, validation split, {task.max_steps} steps"
        write(options.results / name, title, body, {"circumstances": made, "runs": runs})


def judged(task: Task, weights: LossWeights, seeds: list[int]) -> list[dict[str, float | None]]:
    """The measures of one weighting, one entry a seed."""
    rows = []
    for seed in seeds:
        task.explain.fit(task.train, cache=task.cache, weights=weights, max_steps=task.max_steps, seed=seed, progress=False)
        rows.append(figures(task.explain.evaluate(task.validation)))
        print(task.name, weights, rows[-1], flush=True)
    return rows


def fashion_mnist_task(data: Path, max_steps: str) -> Task:
    train, validation = fashion_mnist.validation_split(data)
    explain = FlintExplainer(fashion_mnist.classifier(data), layers=["conv2"], num_attributes=25, normalization=fashion_mnist.NORMALIZATION)
    return Task("FashionMNIST, conv2", explain, explain.cache(train), train, validation, _steps(max_steps, 1000))


def cifar10_task(data: Path, max_steps: str) -> Task:
    """The layers that are suggested."""
    train, validation = map(batches, every_sixth(resnet20.pictures(data)))
    explain = FlintExplainer(resnet20.classifier(data), num_attributes=36, normalization=resnet20.NORMALIZATION)
    return Task("CIFAR-10 (JPEG), ResNet-20", explain, explain.cache(train), train, validation, _steps(max_steps, 1000))


def imagenette_task(data: Path, max_steps: str) -> Task:
    train, validation = imagenette.validation_split(data)
    explain = imagenette_explainer(data, FlintConfig())
    return Task("Imagenette, SqueezeNet", explain, explain.cache(train), train, validation, _steps(max_steps, 400))


def imagenette_explainer(data: Path, config: FlintConfig) -> FlintExplainer:
    """Unfitted, J = 64, on the ten classes."""
    model = imagenette.classifier(data)
    return FlintExplainer(model, classes=imagenette.CLASSES, class_names=imagenette.CLASS_NAMES, num_attributes=64, config=config)


def _steps(asked: str, ours: int) -> int:
    return ours if asked == "auto" else int(asked)


TASKS = {"fashion_mnist": fashion_mnist_task, "cifar10": cifar10_task, "imagenette": imagenette_task}


if __name__ == "__main__":
    main()
