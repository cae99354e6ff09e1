"""What speed costs in fidelity: the default fit beside one that learns from whole maps of all channels in float32, on Imagenette.

python -m examples.benchmarks.fidelity
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from examples.benchmarks.subjects import SUBJECTS, Subject
from examples.benchmarks.timing import HERE, report
from examples.imagenette import task
from examples.results import arguments, figures, mean_and_interval, text, with_interval
from flint_posthoc import FlintExplainer
from flint_posthoc.interpreter.attributes import AttributeNetworkConfig
from flint_posthoc.interpreter.interpreter import InterpreterConfig
from flint_posthoc.learning.presets import FlintConfig

MEASURES = ("fidelity", "fidelity_on_errors", "kl_divergence", "cns_2", "cns_5", "not_alive", "relative_reconstruction_error")
WHOLE = "whole maps, all channels, float32"  # from a cache in memory: what f gives in each epoch is the same, there is no augmentation
WAYS: dict[str, dict[str, Any]] = {"as it is": {}, WHOLE: {"cache": "memory", "precision": "float32"}}


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options, started = parser.parse_args(argv), time.time()
    subject, judged = SUBJECTS["SqueezeNet"], task.loader(task.images(options.data, train=False))
    model, loader = subject.model(options), subject.loader(options)
    batches = DataLoader(loader.dataset, batch_size=128, shuffle=True, drop_last=True)
    runs: dict[str, list[dict[str, float | None]]] = {name: [] for name in WAYS}
    for seed in options.seeds:
        for name, way in WAYS.items():
            explain = whole(subject, options, model) if way else subject.explainer(options, model)
            explain.fit(batches, seed=seed, **way)
            runs[name].append(figures(explain.evaluate(judged)))
            print(name, seed, runs[name][-1], flush=True)
    means = {name: {m: mean_and_interval([run[m] for run in found]) for m in MEASURES} for name, found in runs.items()}
    rows = [[m.replace("_", " "), *(with_interval(means[name][m], m) for name in WAYS)] for m in MEASURES]
    gap = means["as it is"]["fidelity"]["mean"] - means[WHOLE]["fidelity"]["mean"]  # type: ignore[operator]
    rows.append(["difference of fidelity", text(gap, "fidelity"), ""])
    title = f"What speed costs in fidelity, {len(options.seeds)} seeds, {len(loader.dataset):,} images"  # type: ignore[arg-type]
    report("fidelity", title, ["measure", *WAYS], rows, {"runs": runs, "means": means}, started, options.results)


def whole(subject: Subject, options: argparse.Namespace, model: torch.nn.Module) -> FlintExplainer:
    """An explainer that learns from all channels at all places."""
    interpreter = InterpreterConfig(attributes=AttributeNetworkConfig(max_channels=None, max_grid=None))
    return subject.explainer(options, model, config=FlintConfig(interpreter=interpreter))


if __name__ == "__main__":
    main()
