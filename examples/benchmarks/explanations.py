"""What `explain(images)` costs beside a bare forward pass of f, sixteen images at a time.

python -m examples.benchmarks.explanations
"""

from __future__ import annotations

import time
from functools import partial

import torch
from torch import Tensor, nn

from examples.benchmarks.subjects import SUBJECTS
from examples.benchmarks.timing import medians, parsed, ratio, report, take_turns
from flint_posthoc import FlintExplainer

BATCH, PASSES = 16, 10  # images together; calls in a turn


def main(argv: list[str] | None = None) -> None:
    options, started = parsed(__doc__.splitlines()[0], argv, list(SUBJECTS)), time.time()
    rows, record = [], {}
    for name in options.subjects:
        subject = SUBJECTS[name]
        model, images = subject.model(options), subject.pixels(options, 4 * BATCH)
        explain = subject.explainer(options, model)
        explain.fit(images.split(BATCH), max_steps=2, progress=False)
        batch = images[:BATCH]
        seconds = take_turns({"bare": partial(bare, model, batch), "explain": partial(explained, explain, batch)}, options.repeats)
        middle, times = medians(seconds), ratio(seconds, "explain", "bare")
        rows.append([name, f"{1000 * middle['bare'] / PASSES:.0f} ms", f"{1000 * middle['explain'] / PASSES:.0f} ms", f"{times:.3f}"])
        record[name] = {"all seconds": seconds, "explain / bare": times}
    columns = ["f", "bare forward", "explain", "explain / bare"]
    report("explanations", f"What explanations cost, {BATCH} images", columns, rows, {"measured": record}, started, options.results)


def bare(model: nn.Module, images: Tensor) -> None:
    """f alone."""
    with torch.inference_mode():
        for _ in range(PASSES):
            model(images)


def explained(explain: FlintExplainer, images: Tensor) -> None:
    """f and g."""
    for _ in range(PASSES):
        explain(images)


if __name__ == "__main__":
    main()
