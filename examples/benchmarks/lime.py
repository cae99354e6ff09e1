"""After how many images a fit with its explanations costs less than Captum's LIME with 1,000 samples an image, on the same f.

python -m examples.benchmarks.lime
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from captum.attr import Lime
from torch import Tensor, nn

from examples.benchmarks.subjects import SUBJECTS, Subject
from examples.benchmarks.timing import parsed, report

SAMPLES, PATCHES = 1000, 7  # samples an image; superpixels along a side, squares
COMPARED = ["LeNet", "SqueezeNet", "ResNet-50"]
EXPLAINED, LIMED = 64, 2  # images that are timed


def main(argv: list[str] | None = None) -> None:
    options, started = parsed(__doc__.splitlines()[0], argv, COMPARED), time.time()
    rows, record = [], {}
    for name in options.subjects:
        found = measure(SUBJECTS[name], options)
        record[name] = found
        rows.append([name, f"{found['fit']:.1f} s", f"{found['explanation']:.3f} s", f"{found['lime']:.1f} s", f"{found['images']:,}"])
    columns = ["f", "fit", "explanation of an image", "LIME of an image", "cheaper from … images on"]
    title = f"Explanations beside LIME with {SAMPLES:,} samples"
    report("lime", title, columns, rows, {"measured": record}, started, options.results)


def measure(subject: Subject, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of each, and the number of images from which a fit has paid for itself."""
    model, loader = subject.model(options), subject.loader(options)
    explain = subject.explainer(options, model)
    images = next(iter(loader))[0]
    fit = seconds(lambda: explain.fit(loader, progress=False))
    explanation = seconds(lambda: [explain(images) for _ in range(EXPLAINED // len(images))]) / EXPLAINED
    lime = seconds(lambda: [limed(model, image[None]) for image in images[:LIMED]]) / LIMED
    return {"fit": fit, "explanation": explanation, "lime": lime, "images": math.ceil(fit / (lime - explanation))}


def seconds(way: Callable[[], object]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


@torch.no_grad()
def limed(model: nn.Module, image: Tensor) -> Tensor:
    """One image's superpixels, weighed for its predicted class."""
    height, width = image.shape[2:]
    rows, columns = (torch.arange(side) * PATCHES // side for side in (height, width))
    patches = (rows[:, None] * PATCHES + columns[None, :]).expand(1, image.shape[1], -1, -1)
    target = model(image).argmax(dim=1)
    return Lime(model).attribute(image, target=target, feature_mask=patches, n_samples=SAMPLES, perturbations_per_eval=50)


if __name__ == "__main__":
    main()
