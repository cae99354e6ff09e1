"""What a picture of AM+PI costs: many at once, one at a time, and as many bare truncated passes; interleaved, medians.

python -m examples.pictures.speed        after `make fashion-mnist imagenette`, whose interpreters it draws
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from examples.benchmarks.pictures import passes
from examples.benchmarks.timing import medians, ratio, take_turns
from examples.pictures.run import HERE, SUBJECTS, Subject, exemplars_of, parsed
from examples.results import circumstances, write
from flint_posthoc import FlintExplainer
from flint_posthoc.interpretation.ascent import Stage

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
    ways = {
        "together": lambda: explain.maximize(chosen, wanted, settings=settings),
        "bare_passes": lambda: passes(explain, chosen, wanted, settings),
        "one_at_a_time": lambda: [explain.maximize(chosen[row : row + 1], int(wanted[row]), settings=settings) for row in range(at_once)],
    }
    seconds = take_turns(ways, repeats)
    compared = (("together", "bare_passes"), ("one_at_a_time", "together"))
    ratios = {f"{way}_over_{base}": ratio(seconds, way, base) for way, base in compared}
    return {"pictures": at_once, "steps": steps, "repeats": repeats} | medians(seconds) | ratios


def cost(speed: dict[str, float]) -> str:
    return (
        f"{speed['pictures']} pictures of {speed['steps']} steps: {speed['together']:.2f} s at once, {speed['one_at_a_time']:.2f} s "
        f"one at a time (× {speed['one_at_a_time_over_together']:.2f}); {speed['together_over_bare_passes']:.2f} times the bare truncated "
        f"forward and backward passes (medians of {speed['repeats']} interleaved runs)."
    )


if __name__ == "__main__":
    main()
