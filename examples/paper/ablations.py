"""What the terms of the loss, the number of attributes and what Ψ reads do: η × ζ with the conciseness curves, J, and no autoencoder.

python -m examples.paper.ablations weights --tasks fashion_mnist
python -m examples.paper.ablations attributes --tasks mnist quickdraw
python -m examples.paper.ablations autoencoder --tasks quickdraw
python -m examples.paper.ablations choices --tasks mnist fashion_mnist quickdraw --validation
python -m examples.paper.ablations readings --tasks mnist fashion_mnist --validation
python -m examples.paper.ablations predictions --tasks fashion_mnist --validation --epochs 5
python -m examples.paper.ablations by-design --tasks mnist fashion_mnist --validation --epochs 5
python -m examples.paper.ablations weights --tasks quickdraw --modes post-hoc
python -m examples.paper.ablations temperatures --tasks mnist fashion_mnist --validation --modes post-hoc

Post-hoc on the BASE-f of seed 0, whose activations are read once for all fits, and one fit by design each, unless --modes leaves it out.
Fits of `temperatures` and `by-design` are as long as those of the fidelity tables, the others of 1,000 steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.paper.cells import cell, fits_of, paper_arguments, quick, table_name
from examples.paper.fidelity import MODES
from examples.paper.fits import Fits
from examples.paper.tasks import Task
from examples.results import circumstances, figures, text, write
from flint_posthoc import FlintConfig, FlintExplainer, LossSchedule, LossWeights
from flint_posthoc.canvas import save
from flint_posthoc.charts import curves
from flint_posthoc.learning.settings import FitSettings

Row = dict[str, Any]
STEPS = 1000  # of post-hoc fits, unless they are whole: enough to tell variants apart
DEFAULT = LossWeights()
PLAIN = LossWeights(eta=0.05, temperature=1.0)  # what cells are named against: the defaults of photographs
ETAS, ZETAS = (0.0, 0.05, 0.2, 0.5), (0.0, DEFAULT.zeta, 0.3)
FAITHFUL = {"temperature": 4.0, "beta": 0.25}  # for fidelity on f's errors
COLUMNS = ("classifier_accuracy", "fidelity", "fidelity_on_errors", "relative_reconstruction_error", "cns_2", "cns_5", "not_alive")


@dataclass(frozen=True)
class Variant:
    """One fit of a table: what differs from the defaults; ``joint`` and ``reading``: by name in ``JointSettings`` and Ψ's config.

    ``whole``: post-hoc as long as the library chooses, and not of ``STEPS``.
    """

    label: str
    mode: str = "post-hoc"
    weights: LossWeights = DEFAULT
    num_attributes: int | None = None
    joint: tuple[tuple[str, float], ...] = ()
    schedule: LossSchedule | None = None
    reading: tuple[tuple[str, int], ...] = ()
    whole: bool = False

    @property
    def folder(self) -> str:
        """Where it is kept; one fit may stand in several tables."""
        weights = self.weights_in_force()
        changed = {name: value for name, value in weights.numbers().items() if value != getattr(PLAIN, name)}
        parts = [f"{name}{value:g}" for name, value in changed.items()] + ([f"J{self.num_attributes}"] if self.num_attributes else [])
        parts += [] if weights.temperature == PLAIN.temperature else [f"temperature{weights.temperature:g}"]
        parts += [f"{name}{value:g}" for name, value in (*self.joint, *self.reading)] + ([] if self.schedule is None else ["schedule"])
        parts += ["whole"] if self.whole else []
        return "-".join([self.mode, "ablation", *parts])

    def weights_in_force(self) -> LossWeights:
        """With what the library chooses for these images where nothing is said."""
        return FlintConfig(weights=self.weights).chosen(photographs=False, joint=self.mode == "joint").weights

    def config(self, task: Task) -> FlintConfig:
        """By design as long as BASE-f learns."""
        settings = FitSettings() if self.mode == "joint" or self.whole else FitSettings(max_steps=STEPS)
        known = task.config()
        joint = dataclasses.replace(known.joint, **dict(self.joint))  # type: ignore[arg-type]
        attributes = dataclasses.replace(known.interpreter.attributes, **dict(self.reading))  # type: ignore[arg-type]
        interpreter = dataclasses.replace(known.interpreter, attributes=attributes)
        return FlintConfig(interpreter, settings, self.weights, self.schedule, joint)

    def fit(self, fits: Fits, seed: int) -> FlintExplainer:
        """Made where it is not there yet."""
        make = fits.by_design if self.mode == "joint" else fits.post_hoc
        return make(seed, name=self.folder, config=self.config(fits.task), num_attributes=self.num_attributes)


def weightings(task: Task) -> list[Variant]:
    """η × ζ: the fidelity table, and with ζ = 0 and ours the conciseness curves with and without entropy."""
    grid = [Variant(f"η {eta:g}, ζ {zeta:g}", weights=LossWeights(eta=eta, zeta=zeta)) for zeta in ZETAS for eta in ETAS]
    return [*grid, Variant("by design, ζ 0", "joint", LossWeights(zeta=0.0))]


def sizes(task: Task) -> list[Variant]:
    """J = 4, 8 and the paper's."""
    return [
        *(Variant(f"J = {size}", num_attributes=size) for size in (4, 8, task.num_attributes)),
        Variant("by design, J = 4", "joint", num_attributes=4),
    ]


def decoders(task: Task) -> list[Variant]:
    """With and without the autoencoder's loss."""
    without = LossWeights(gamma=0.0)
    return [Variant("with autoencoder"), Variant("without, γ = 0", weights=without), Variant("by design, without", "joint", without)]


def choices(task: Task) -> list[Variant]:
    """What the defaults were chosen among, with --validation."""
    changes = (
        {},
        {"eta": 0.05},
        {"eta": 0.1},
        {"zeta": 0.2},
        {"zeta": 0.3},
        {"eta": 0.1, "zeta": 0.2},
        {"beta": 4.0},
        {"gamma": 2.0},
        FAITHFUL,
    )
    return [
        Variant(", ".join(f"{name} {value:g}" for name, value in change.items()) or "defaults", weights=LossWeights(**change))
        for change in changes
    ]


def readings(task: Task) -> list[Variant]:
    """What Ψ reads of the maps, and at which temperature g is compared with f: on what f gets wrong these matter most."""
    ways = ((2.0, 2.0, 0.05), (2.0, 2.0, 0.2), (4.0, 1.0, 0.05), (4.0, 1.0, 0.2))
    weights = {f"every place, T {t:g}, β {beta:g}, η {eta:g}": LossWeights(temperature=t, beta=beta, eta=eta) for t, beta, eta in ways}
    return [
        Variant("every place, T 1, β 2, η 0.05", weights=PLAIN),
        Variant("as coarse taps are read: 8 × 8 places, a 3 × 3 kernel, 4 × 4 parts", weights=PLAIN, reading=(("max_grid", 8),)),
        *(Variant(label, weights=chosen) for label, chosen in weights.items()),
    ]


def temperatures(task: Task) -> list[Variant]:
    """The temperature of L_of, with η and γ, of fits as long as those of the fidelity tables."""
    ways = ((1.0, 0.05, 1.0), (2.0, 0.05, 1.0), (2.0, 0.1, 1.0), (2.0, 0.2, 1.0), (2.0, 0.1, 2.0), (2.0, 0.2, 2.0))
    weights = {f"T {t:g}, η {eta:g}, γ {gamma:g}": LossWeights(temperature=t, eta=eta, gamma=gamma) for t, eta, gamma in ways}
    post_hoc = [Variant(label, weights=chosen, whole=True) for label, chosen in weights.items()]
    return [*post_hoc, *(Variant(f"by design, {label}", "joint", chosen) for label, chosen in weights.items())]


def predictions(task: Task) -> list[Variant]:
    """By design: L_pred against L_int, and f alone with an interpreter of its own."""
    weights = (Variant(f"L_pred × {weight:g}", "joint", joint=(("prediction_weight", weight),)) for weight in (1.0, 3.0, 10.0, 30.0))
    return [Variant("f alone, post-hoc"), *weights]


def by_design(task: Task) -> list[Variant]:
    """By design: whether an interpreter is fitted anew in the end, beside the weights, and when L_of sets in."""
    return [
        Variant("f alone, post-hoc", whole=True),
        Variant("defaults", "joint"),
        Variant("the interpreter stays that f learnt with", "joint", joint=(("refit_steps", 0),)),
        Variant("T 1, η 0.05", "joint", PLAIN),
        Variant("L_of from the start", "joint", schedule=LossSchedule()),
    ]


TABLES: dict[str, tuple[str, Callable[[Task], list[Variant]]]] = {
    "weights": ("Sparsity against entropy: η × ζ", weightings),
    "attributes": ("The number of attributes", sizes),
    "autoencoder": ("Without the autoencoder", decoders),
    "choices": ("Among what the defaults were chosen", choices),
    "readings": ("What Ψ reads, and the temperature of L_of", readings),
    "temperatures": ("The temperature of L_of", temperatures),
    "predictions": ("By design: L_pred against L_int", predictions),
    "by-design": ("Among what the defaults by design were chosen", by_design),
}


def main(argv: list[str] | None = None) -> None:
    parser = paper_arguments(__doc__.splitlines()[0], ["fashion_mnist"])
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    options = parser.parse_args(argv)
    started, (title, variants) = time.time(), TABLES[options.table]
    folder, found = options.results / options.table, {}
    for key in options.tasks:
        fits = fits_of(options, key)
        tried = [variant for variant in variants(fits.task) if variant.mode in options.modes]
        found[key] = {variant.label: row(options, fits, variant) for variant in tried}
        if options.table == "weights":
            draw_curves(folder / f"conciseness-{fits.key}.png", found[key])
    minutes = round(sum(run["minutes"] for runs in found.values() for run in runs.values()))
    body = "\n\n".join(section(key, runs) for key, runs in found.items())
    made = circumstances(started, seed=0) | {"minutes": minutes}
    judged_on = "validation split" if options.validation else "test images"
    length = "whole fits" if all(variant.whole or variant.mode == "joint" for variant in tried) else f"{STEPS} steps post-hoc"
    write(folder / table_name(options), f"{title}, {judged_on}, {length}", body, {"circumstances": made, "runs": found})


def row(options: argparse.Namespace, fits: Fits, variant: Variant) -> Row:
    """One variant, judged on test images; made where it is not there yet."""
    settings = {"task": fits.task.key, "fit": variant.folder, "weights": variant.weights_in_force().numbers(), **quick(options)}
    path = options.results / "ablations" / f"{fits.key}-{variant.folder}.json"
    return cell(path, settings, lambda: judged(fits, variant))


def judged(fits: Fits, variant: Variant) -> Row:
    """The figures of one variant, and its losses at the end of learning."""
    explain = variant.fit(fits, 0)
    evaluation, last = explain.evaluate(fits.test), explain.history[-1]
    losses = {"output_fidelity": last.output_fidelity, "input_fidelity": last.input_fidelity}
    return {"figures": figures(evaluation), "losses": losses, "evaluation": evaluation.to_dict()}


def section(task: str, runs: dict[str, Row]) -> str:
    """A Markdown table of one task, a row a variant."""
    heads = [*(name.replace("_", " ") for name in COLUMNS), "L_of", "L_if"]
    lines = [f"## {task}", "", "| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for label, run in runs.items():
        cells = [text(run["figures"][name], name) for name in COLUMNS] + [f"{loss:.4f}" for loss in run["losses"].values()]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_curves(path: Path, runs: dict[str, Row]) -> None:
    """CNS over τ for each η, with the entropies and (dashed) without them: Figures 3 and 4 of the paper."""
    series, dashed = {}, []
    for eta in ETAS:
        for zeta in (DEFAULT.zeta, 0.0):
            label = f"η {eta:g}, ζ {zeta:g}"
            curve = runs[label]["evaluation"]["conciseness"]
            series[label] = ([float(tau) for tau in curve], [values["absolute"] for values in curve.values()])
            dashed += [label] if zeta == 0 else []
    path.parent.mkdir(parents=True, exist_ok=True)
    save(curves(series, heading="Conciseness, dashed without the entropies", axis="τ", vertical="CNS", dashed=dashed), path)


if __name__ == "__main__":
    main()
