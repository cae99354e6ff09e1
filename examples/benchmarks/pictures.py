"""What AM+PI costs: 64 pairs, 15 steps, beside as many bare truncated passes, and beside whole passes one image at a time in float32;
and one batch for as many steps as photographs climb by default.

python -m examples.benchmarks.pictures
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from examples.benchmarks.subjects import SUBJECTS
from examples.benchmarks.timing import medians, parsed, ratio, report, take_turns
from flint_posthoc import FlintExplainer
from flint_posthoc.interpretation.ascent import PHOTOGRAPH, MaximizationSettings, Stage
from flint_posthoc.precision import autocast, lowered

PAIRS, STEPS = 64, 15
ALONE = 4  # pairs that are timed one at a time; the others take as long
TAPPED = {"ResNet-50": ["layer3"], "SqueezeNet": None}
SETTINGS = replace(PHOTOGRAPH, stages=(Stage(STEPS, 2.0, 40.0, 0.0),))
WHOLE = "whole float32 passes, one at a time"
RATIOS = {
    "AM+PI / bare": ("AM+PI", "bare truncated passes"),
    "one at a time / AM+PI": (WHOLE, "AM+PI"),
    "by default / bare": ("AM+PI by default, one batch", "its bare passes"),
}


def main(argv: list[str] | None = None) -> None:
    options, started = parsed(__doc__.splitlines()[0], argv, list(TAPPED)), time.time()
    rows, record = [], {}
    for name in options.subjects:
        subject = SUBJECTS[name]
        model, images = subject.model(options), subject.pixels(options, PAIRS)
        explain = subject.explainer(options, model, layers=TAPPED[name])
        explain.fit(images.split(16), max_steps=2, progress=False)
        seconds = take_turns(ways(explain, images, torch.arange(PAIRS)), options.repeats)
        seconds[WHOLE] = [PAIRS / ALONE * value for value in seconds[WHOLE]]
        ratios = {words: ratio(seconds, over, under) for words, (over, under) in RATIOS.items()}
        rows.append([name, *(f"{value:.1f} s" for value in medians(seconds).values()), *(f"{value:.2f}" for value in ratios.values())])
        record[name] = {"layers": list(explain.layers or ()), "all seconds": seconds, **ratios}
    columns = ["f", *seconds, *RATIOS]
    report("pictures", f"What pictures cost, {PAIRS} pairs, {STEPS} steps", columns, rows, {"measured": record}, started, options.results)


def ways(explain: FlintExplainer, images: Tensor, attributes: Tensor) -> dict:
    """Three ways to take the same steps, and two to take those of the default."""
    alone = replace(SETTINGS, batch_size=1, precision="float32")
    batch = (images[: PHOTOGRAPH.batch_size], attributes[: PHOTOGRAPH.batch_size])
    return {
        "AM+PI": lambda: explain.maximize(images, attributes, settings=SETTINGS),
        "bare truncated passes": lambda: passes(explain, images, attributes, SETTINGS),
        WHOLE: lambda: passes(explain, images[:ALONE], attributes[:ALONE], alone, whole=True),
        "AM+PI by default, one batch": lambda: explain.maximize(*batch, settings=PHOTOGRAPH),
        "its bare passes": lambda: passes(explain, *batch, PHOTOGRAPH),
    }


def passes(explain: FlintExplainer, images: Tensor, attributes: Tensor, settings: MaximizationSettings, *, whole: bool = False) -> None:
    """As many forward and backward passes as a climb needs and nothing else: up to the deepest tap, or through all of f."""
    fitted, network = explain.fitted, explain.interpreter.attribute_network
    for part, wanted in zip(images.split(settings.batch_size), attributes.split(settings.batch_size), strict=True):
        moved = part.clone(memory_format=torch.preserve_format if whole else torch.channels_last).requires_grad_(True)
        with fitted.view.frozen() as run:
            for _ in settings.stage_of_step:
                with autocast(fitted.device, lowered(settings.precision, fitted.device, torch.float32)):
                    activations = run(moved).activations if whole else run.activations(moved)
                torch.autograd.grad(network.preactivations(activations).gather(1, wanted[:, None]).sum(), moved)


if __name__ == "__main__":
    main()
