"""What a picture of AM+PI costs: many at once, one at a time, and as many bare truncated passes; interleaved, medians.

python -m examples.pictures.speed        after `make fashion-mnist imagenette`, whose interpreters it draws
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from examples.pictures.run import HERE, SUBJECTS, Subject, exemplars_of, parsed
from examples.results import circumstances, write
from flint_posthoc import FlintExplainer
from flint_posthoc.interpretation.ascent import MaximizationSettings, Stage
from flint_posthoc.precision import autocast

SIZES = {"FashionMNIST": (64, 300, 5), "Imagenette": (8, 300, 3)}  # pictures, steps, repeats


def main(argv: list[str] | None = None) -> None:
    options = parsed(__doc__.splitlines()[0], argv)
    for subject in SUBJECTS:
        if options.only in (None, subject.name):
            started, explain = time.time(), subject.explainer(options)
            images, attributes = exemplars_of(subject, explain, subject.loader(options), options.seeds[0])
            report(subject.name, speed(explain, images, attributes, subject), started, options.results or HERE / "results")


def report(name: str, measured: dict[str, float], started: float, results: Path) -> None:
    """``results/speed-NAME``."""
    record = {"circumstances": circumstances(started)} | measured
    write(results / f"speed-{name}", f"What a picture costs: {name}", cost(measured), record)


def speed(explain: FlintExplainer, images: Tensor, attributes: Tensor, subject: Subject) -> dict[str, float]:
    """Seconds for pictures at once, one at a time, and for as many bare passes; interleaved, medians."""
    at_once, steps, repeats = SIZES[subject.name]
    settings = replace(subject.preset, stages=(Stage(steps, 2.0, 20.0, 0.0),))
    rows = torch.arange(at_once) % len(images)
    chosen, wanted = images[rows], attributes[rows]
    ways: dict[str, Callable[[], object]] = {
        "together": lambda: explain.maximize(chosen, wanted, settings=settings),
        "bare_passes": lambda: bare_passes(explain, chosen, wanted, settings),
        "one_at_a_time": lambda: [explain.maximize(chosen[row : row + 1], int(wanted[row]), settings=settings) for row in range(at_once)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {f"{name}_over_{base}": statistics.median(map(lambda a, b: a / b, seconds[name], seconds[base]))
              for name, base in (("together", "bare_passes"), ("one_at_a_time", "together"))}  # fmt: skip
    return {"pictures": at_once, "steps": steps, "repeats": repeats} | medians | ratios


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
        f"forward and backward passes (medians of {speed['repeats']} interleaved runs)."
    )


if __name__ == "__main__":
    main()
