"""What speed costs in fidelity: the default fit beside one without cache, components or bfloat16, on SqueezeNet and Imagenette.

python -m examples.benchmarks.fidelity
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch
from torch.utils.data import DataLoader

from examples.benchmarks.subjects import SUBJECTS, Subject
from examples.benchmarks.timing import HERE, report
from examples.imagenette import task
from examples.results import arguments, figures, mean_and_interval, text, with_interval
from flint_posthoc import FlintExplainer
from flint_posthoc.learning.presets import FlintConfig

MEASURES = ("fidelity", "fidelity_on_errors", "kl_divergence", "cns_2", "cns_5", "not_alive", "relative_reconstruction_error")
WAYS: dict[str, dict[str, Any]] = {"as it is": {}, "uncached float32": {"cache": "off", "precision": "float32"}}


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0], results=HERE / "results")
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
    gap = means["as it is"]["fidelity"]["mean"] - means["uncached float32"]["fidelity"]["mean"]  # type: ignore[operator]
    rows.append(["difference of fidelity", text(gap, "fidelity"), ""])
    title = f"What speed costs in fidelity, {len(options.seeds)} seeds, {len(loader.dataset):,} images"  # type: ignore[arg-type]
    report("fidelity", title, ["measure", *WAYS], rows, {"runs": runs, "means": means}, started, options.results)


def whole(subject: Subject, options, model: torch.nn.Module) -> FlintExplainer:
    """An explainer that learns from all channels."""
    config = FlintConfig()
    attributes = dataclasses.replace(config.interpreter.attributes, max_channels=None)
    return subject.explainer(
        options, model, config=dataclasses.replace(config, interpreter=dataclasses.replace(config.interpreter, attributes=attributes))
    )


if __name__ == "__main__":
    main()
