"""The paper's first tables: accuracy of BASE-f, FLINT-f and FLINT-g, and fidelity, by design and post-hoc, beside plain dictionaries.

python -m examples.paper.fidelity --tasks mnist fashion_mnist --seeds 0 1 2
python -m examples.paper.fidelity --tasks fashion_mnist --recipe authors
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from examples.paper.cells import cell, fits_of, paper_arguments, quick, table_name
from examples.paper.fits import Fits
from examples.paper.tasks import TASKS
from examples.results import circumstances, figures, mean_and_interval, text, with_interval, write
from flint_posthoc import FlintConfig, FlintExplainer
from flint_posthoc.learning import presets

Row = dict[str, Any]
MODES = {"joint": "by design", "post-hoc": "post-hoc, on BASE-f"}
WAYS = MODES | {"mixtures": "post-hoc, on BASE-f, learnt from as many mixtures of the training images too"}
RECIPES: dict[str, Callable[[str], FlintConfig]] = {
    "ours": lambda key: TASKS[key].config(),
    "paper": presets.paper_v1,
    "authors": presets.authors,
}


class Goal(NamedTuple):
    """What this project set itself for a measure: at least (sign 1) or at most (sign -1) a number a task."""

    sign: int
    bounds: dict[str, float]

    def verdict(self, task: str, value: float, interval: float) -> str:
        """Missed is only what lies beyond the bound with its whole interval."""
        margin = self.sign * (value - self.bounds[task])
        return "met" if margin >= 0 else "within the interval" if margin + interval >= 0 else "missed"

    def words(self, task: str, name: str) -> str:
        return ("≥ " if self.sign > 0 else "≤ ") + text(self.bounds[task], name)


def goal(sign: int, mnist: float, fashion_mnist: float, quickdraw: float, cifar10: float) -> Goal:
    """For the four tasks of the paper; other tasks have none."""
    return Goal(sign, {"mnist": mnist, "fashion_mnist": fashion_mnist, "quickdraw": quickdraw, "cifar10": cifar10})


GOALS = {
    "fidelity": goal(1, 0.992, 0.96, 0.94, 0.95),
    "fidelity_on_errors": goal(1, 0.75, 0.85, 0.80, 0.80),
    "relative_reconstruction_error": goal(-1, 0.5, 0.5, 0.7, 0.7),
    "cns_2": goal(-1, 1.05, 1.65, 1.25, 1.6),
    "cns_5": goal(-1, 1.2, 3.0, 1.9, 3.7),
    "not_alive": goal(-1, 2, 2, 2, 3),
    "accuracy_gain": goal(1, -0.001, -0.002, -0.003, -0.005),
    "accuracy_lost_by_interpreter": goal(-1, 0.003, 0.01, 0.01, 0.01),
}
NAMES = {
    "base_accuracy": "accuracy of BASE-f",
    "classifier_accuracy": "accuracy of FLINT-f",
    "accuracy_gain": "FLINT-f minus BASE-f",
    "interpreter_accuracy": "accuracy of FLINT-g",
    "accuracy_lost_by_interpreter": "FLINT-f minus FLINT-g",
    "fidelity": "fidelity",
    "fidelity_on_errors": "fidelity on f's errors",
    "relative_reconstruction_error": "reconstruction error over the class-mean image's",
    "cns_2": "CNS, τ = 2",
    "cns_5": "CNS, τ = 5",
    "not_alive": "attributes not alive",
}
SHARES = ("base_accuracy", "classifier_accuracy", "interpreter_accuracy", "fidelity")  # of the test images
READING = (
    "± is the wider of two 95 % intervals: over seeds (Student's t) and over test images (binomial; paired for differences of accuracy). "
    "A goal is missed where the whole interval lies beyond it. Below the goals: fidelity of plainer ways to imitate f, with as many "
    "numbers an image, on the same taps; the floor is a network of the same kind, trained on the labels from another seed."
)


def main(argv: list[str] | None = None) -> None:
    parser = paper_arguments(__doc__.splitlines()[0], ["mnist", "fashion_mnist", "quickdraw"])
    parser.add_argument("--recipe", choices=RECIPES, default="ours", help="ours, or as published")
    parser.add_argument("--modes", nargs="+", choices=WAYS, default=list(MODES))
    options = parser.parse_args(argv)
    started, found = time.time(), {}
    for key in options.tasks:
        fits = fits_of(options, key)
        found[key] = {mode: [row(options, fits, mode, seed) for seed in options.seeds] for mode in options.modes}
    cells = [run for modes in found.values() for runs in modes.values() for run in runs]
    made = circumstances(started, recipe=options.recipe, seeds=options.seeds) | {"minutes": round(sum(run["minutes"] for run in cells))}
    sections = [section(mode, {key: modes[mode] for key, modes in found.items()}) for mode in options.modes]
    learning = sum(run["minutes_of_fit"] + run.get("minutes_of_base", 0) for run in cells)
    body = "\n\n".join([*sections, READING, f"Learning took {learning:.0f} minutes in all."])
    name = table_name(options, *([] if options.recipe == "ours" else [options.recipe]))
    title = f"Accuracy and fidelity, {'our defaults' if options.recipe == 'ours' else f'settings: {options.recipe}'}"
    write(options.results / "fidelity" / name, title, body, {"circumstances": made, "runs": found})


def row(options: argparse.Namespace, fits: Fits, mode: str, seed: int) -> Row:
    """One fit, judged on test images; made where it is not there yet."""
    recipe = options.recipe
    settings = {"task": fits.task.key, "mode": mode, "recipe": recipe, "seed": seed, **quick(options)}
    path = options.results / "fidelity" / "cells" / f"{fits.key}-{name_of_fit(mode, recipe)}-{seed}.json"
    return cell(path, settings, lambda: judged(fits, mode, recipe, seed, options.seeds))


def name_of_fit(mode: str, recipe: str) -> str:
    """Where it is kept."""
    return mode if recipe == "ours" else f"{mode}-{recipe}"


def judged(fits: Fits, mode: str, recipe: str, seed: int, seeds: Sequence[int]) -> Row:
    """The figures of one fit, its baselines, and by design what that did to f; the floor is the next BASE-f of ``seeds``."""
    name, config = name_of_fit(mode, recipe), RECIPES[recipe](fits.task.key)
    made = {"joint": fits.by_design, "post-hoc": fits.post_hoc, "mixtures": partial(fits.post_hoc, mixtures=True)}
    explain = made[mode](seed, name=name, config=config)
    account = account_of(fits, explain, seed) if mode == "joint" and recipe == "ours" else {}
    evaluation = explain.evaluate(fits.test)
    print(evaluation, flush=True)
    stranger = seeds[(seeds.index(seed) + 1) % len(seeds)]
    floor = None if stranger == seed else fits.base(stranger)
    comparison = explain.baselines(fits.mixed if mode == "mixtures" else fits.train, fits.test, independent=floor, seed=seed)
    print(comparison, flush=True)
    return {
        **account,
        "figures": figures(evaluation) | derived(account),
        "evaluation": evaluation.to_dict(),
        "baselines": comparison.to_dict()["baselines"],
        "minutes_of_fit": fits.minutes(seed, name),
    }


def account_of(fits: Fits, explain: FlintExplainer, seed: int) -> Row:
    """FLINT-f beside BASE-f, which was trained alike: with our settings, not with those of a published recipe."""
    account = explain.accuracy_account(fits.base(seed), fits.test)
    return {"account": account.to_dict(), "minutes_of_base": fits.minutes(seed, "base")}


def derived(account: Row) -> dict[str, float]:
    """The figures that need BASE-f; none without an account."""
    if not account:
        return {}
    known = account["account"]
    return {"base_accuracy": known["reference_accuracy"], "accuracy_gain": known["difference"]["mean"]}


def section(mode: str, found: dict[str, list[Row]]) -> str:
    """A Markdown table a mode: measures down, tasks across, each with its goal."""
    heads = [f"{key} (goal)" if key in GOALS["fidelity"].bounds else key for key in found]
    lines = [f"## {WAYS[mode]}", "", "| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, words in NAMES.items():
        values = {key: measure(name, runs) for key, runs in found.items()}
        if any(value is not None for value in values.values()):
            told = words if mode == "joint" else words.replace("FLINT-f", "f").replace("FLINT-g", "g")
            lines.append(f"| {told} | " + " | ".join(shown(key, name, value) for key, value in values.items()) + " |")
    return "\n".join([*lines, *baseline_rows(found)])


def measure(name: str, runs: Sequence[Row]) -> dict[str, float | None] | None:
    """Mean over seeds with the wider of two 95 % intervals: over seeds (Student's t) and over test images (binomial, or paired)."""
    values = [value_of(name, run) for run in runs]
    if any(value is None for value in values):
        return None
    over_seeds = mean_and_interval(values)
    over_images = [images_interval(name, run) for run in runs]
    shared = None if None in over_images else sum(over_images) / len(over_images)  # all seeds share the test images
    known = [width for width in (over_seeds["interval"], shared) if width is not None]
    return {"mean": over_seeds["mean"], "interval": max(known, default=None)}


def value_of(name: str, run: Row) -> float | None:
    known = run["figures"]
    if name == "accuracy_lost_by_interpreter":
        return known["classifier_accuracy"] - known["interpreter_accuracy"]
    return known.get(name)


def images_interval(name: str, run: Row) -> float | None:
    """Half the 95 % interval over the test images of one run; ``None`` for what is no share of images."""
    images, known = run["evaluation"]["samples"], run["figures"]
    accuracy, share = known["classifier_accuracy"], value_of(name, run) or 0.0
    if name == "accuracy_gain":
        difference = run["account"]["difference"]
        return (difference["high"] - difference["low"]) / 2
    if name == "accuracy_lost_by_interpreter":
        lost = accuracy * (1 - known["fidelity_on_correct"])  # images that f alone gets right; share = lost - those that g alone does
        return 1.96 * math.sqrt((2 * lost - share - share**2) / images)
    counted = dict.fromkeys(SHARES, images) | {"fidelity_on_errors": images * (1 - accuracy)}
    return 1.96 * math.sqrt(share * (1 - share) / counted[name]) if counted.get(name) else None


def shown(task: str, name: str, value: dict[str, float | None] | None) -> str:
    if value is None:
        return "–"
    words = with_interval(value, name)
    known = GOALS.get(name)
    if known is None or task not in known.bounds or value["mean"] is None:
        return words
    return f"{words} ({known.words(task, name)}: {known.verdict(task, value['mean'], value['interval'] or 0.0)})"


def baseline_rows(found: dict[str, list[Row]]) -> list[str]:
    """Fidelity, and fidelity on f's errors, of everything plainer, averaged over seeds."""
    lines, order = [], [baseline["name"] for baseline in next(iter(found.values()))[0]["baselines"]]
    for name in order[1:]:
        cells = [baseline_words([known for run in runs for known in run["baselines"] if known["name"] == name]) for runs in found.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def baseline_words(known: list[Row]) -> str:
    if not known:
        return "–"
    both = [mean_and_interval([row[measured] for row in known])["mean"] for measured in ("fidelity", "fidelity_on_errors")]
    return f"{text(both[0], 'fidelity')}, on errors {text(both[1], 'fidelity')}"


if __name__ == "__main__":
    main()
