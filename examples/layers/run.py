"""Are the suggested layers the right ones? Cross-validated fidelity of every good choice on three checkpoints, on training images alone.

python -m examples.layers.run
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Dataset

from examples.fashion_mnist import task as fashion_mnist
from examples.imagenette import task as imagenette
from examples.layers import resnet20
from examples.results import arguments, circumstances, some, write
from flint_posthoc import FlintExplainer

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Subject:
    """A checkpoint with training images.

    Attributes:
        images: how many of them take part.  explained: what its explainer is told.
    """

    classifier: Callable[[Path], nn.Module]
    pictures: Callable[[Path], Dataset]
    images: int
    explained: dict[str, Any]


SUBJECTS = {
    "FashionMNIST": Subject(
        fashion_mnist.classifier,
        lambda data: fashion_mnist.images(data, train=True),
        10_000,
        {"num_attributes": 25, "normalization": fashion_mnist.NORMALIZATION},
    ),
    "SqueezeNet": Subject(
        imagenette.classifier,
        lambda data: imagenette.images(data, train=True),
        1_000,
        {"num_attributes": 64, "classes": imagenette.CLASSES, "class_names": imagenette.CLASS_NAMES},
    ),
    "ResNet-20": Subject(
        resnet20.classifier,
        lambda data: resnet20.pictures(data).train,
        5_000,
        {"num_attributes": 36, "normalization": resnet20.NORMALIZATION},
    ),
}


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0], results=HERE / "results")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--folds", type=int, default=2)
    options = parser.parse_args(argv)
    for name in options.subjects:
        started, subject = time.time(), SUBJECTS[name]
        pictures = some(subject.pictures(options.data), options.images or subject.images)
        explain = FlintExplainer(subject.classifier(options.data), **subject.explained)
        compared = explain.compare_layers(DataLoader(pictures, batch_size=50), folds=options.folds, progress=False)
        body = f"```text\n{compared}\n```"
        record = {"circumstances": circumstances(started, images=len(pictures)), "compared": compared.to_dict()}  # type: ignore[arg-type]
        write(options.results / name, f"Which layers: {name}, {len(pictures):,} training images", body, record)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
