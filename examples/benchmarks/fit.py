"""What a post-hoc fit costs beside one bare forward pass of the same f over the same images, in the same precision.

python -m examples.benchmarks.fit
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from examples.benchmarks.subjects import BATCH, SUBJECTS, Subject
from examples.benchmarks.timing import medians, parsed, ratio, report, take_turns
from flint_posthoc.memory import at_once
from flint_posthoc.precision import autocast, bfloat16_pays

OTHER_SIZE = 48  # J of the second fit on the same activations
UNCACHED_STEPS = 8  # that are timed; the rest of a fit that runs f in every epoch takes as long a step


def main(argv: list[str] | None = None) -> None:
    options, started = parsed(__doc__.splitlines()[0], argv, list(SUBJECTS)), time.time()
    measured = {name: measure(SUBJECTS[name], options) for name in options.subjects}
    columns = [
        "f",
        "images",
        "bare pass",
        "in parts",
        "fit",
        "fit / bare",
        "fit / bare in parts",
        "second fit / first",
        "without cache / with",
    ]
    rows = [
        [
            name,
            f"{found['images']:,}",
            f"{found['seconds']['bare pass']:.1f} s",
            f"{found['seconds']['bare pass in parts']:.1f} s",
            f"{found['seconds']['fit']:.1f} s",
            f"{found['fit / bare pass']:.2f}",
            f"{found['fit / bare pass in parts']:.2f}",
            f"{found['second fit / first']:.2f}",
            f"{found['without cache / with']:.1f}",
        ]
        for name, found in measured.items()
    ]
    report("fit", "What a fit costs, J = 64, defaults", columns, rows, {"measured": measured}, started, options.results)


def measure(subject: Subject, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and ratios of one classifier."""
    model, loader = subject.model(options), subject.loader(options)
    explain, other = subject.explainer(options, model), subject.explainer(options, model, num_attributes=OTHER_SIZE)
    cache = explain.cache(loader, progress=False)
    ways = {
        "bare pass": lambda: bare_pass(model, loader),
        "bare pass in parts": lambda: bare_pass(model, parts_of(loader, next(model.parameters()).device)),
        "fit": lambda: explain.fit(loader, progress=False),
        "second fit": lambda: other.fit(loader, cache=cache, progress=False),
    }
    seconds = take_turns(ways, options.repeats)
    steps, images = explain.history[-1].steps, len(loader.dataset)  # type: ignore[arg-type]
    uncached = steps * seconds_per_uncached_step(subject, options, model, loader)
    middle = medians(seconds)
    return {
        "images": images,
        "steps": steps,
        "layers": list(explain.layers or ()),
        "seconds": middle | {"fit without cache, extrapolated": uncached},
        "all seconds": seconds,
        "fit / bare pass": ratio(seconds, "fit", "bare pass"),
        "fit / bare pass in parts": ratio(seconds, "fit", "bare pass in parts"),
        "second fit / first": ratio(seconds, "second fit", "fit"),
        "without cache / with": uncached / middle["fit"],
    }


def parts_of(loader: DataLoader, device: torch.device) -> DataLoader:
    """The same images, as many at once as a fit lets f see."""
    most = at_once(tuple(loader.dataset[0][0].shape), device)
    return DataLoader(loader.dataset, batch_size=min(most or BATCH, BATCH))


def bare_pass(model: nn.Module, loader: DataLoader) -> None:
    """f over all images, as a fit runs it, and nothing else."""
    device = next(model.parameters()).device
    with torch.inference_mode(), autocast(device, bfloat16_pays(device)):
        for (images,) in loader:
            model(images.contiguous(memory_format=torch.channels_last))


def seconds_per_uncached_step(subject: Subject, options: argparse.Namespace, model: nn.Module, loader: DataLoader) -> float:
    """Of a fit that runs f in every epoch, in batches as large as those of a cached fit."""
    batches = DataLoader(loader.dataset, batch_size=128, shuffle=True)
    explain = subject.explainer(options, model)

    def lasting(steps: int) -> float:
        started = time.perf_counter()
        explain.fit(batches, cache="off", max_steps=steps, progress=False)
        return time.perf_counter() - started

    return (lasting(1 + UNCACHED_STEPS) - lasting(1)) / UNCACHED_STEPS


if __name__ == "__main__":
    main()
