"""How long a fit on photographs should last, and which Ψ and d it needs, on Imagenette's validation split.

python -m examples.weights.lengths --seeds 0 1 2

The library's defaults for photographs were chosen here; no test image takes part.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from examples.results import arguments, circumstances, figures, summary, table, write
from examples.weights.run import HERE, Task, imagenette_explainer, imagenette_task
from flint_posthoc.interpreter.attributes import AttributeNetworkConfig
from flint_posthoc.interpreter.decoder import DecoderConfig
from flint_posthoc.interpreter.interpreter import InterpreterConfig
from flint_posthoc.learning.presets import FlintConfig

AS_IT_IS = FlintConfig()
AROUND = FlintConfig(interpreter=InterpreterConfig(attributes=AttributeNetworkConfig(merge_kernel_size=3)))
MAPS = FlintConfig(interpreter=InterpreterConfig(decoder=DecoderConfig(channels=(16,), max_side=56)))
WAYS: dict[str, tuple[FlintConfig, dict[str, Any]]] = {
    "350 steps at 6e-3 (default)": (AS_IT_IS, {}),
    "500 at 4e-3": (AS_IT_IS, {"max_steps": 500, "learning_rate": 4e-3}),
    "300 at 4e-3": (AS_IT_IS, {"max_steps": 300, "learning_rate": 4e-3}),
    "1,000 at 2e-3": (AS_IT_IS, {"max_steps": 1000, "learning_rate": 2e-3}),
    "2,000 at 2e-3": (AS_IT_IS, {"max_steps": 2000, "learning_rate": 2e-3}),
    "default, taps merged by a 3 × 3 kernel": (AROUND, {}),
    "default, transposed convolutions at 56 pixels": (MAPS, {}),
}


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0], seeds=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options, started = parser.parse_args(argv), time.time()
    task = imagenette_task(options.data, "auto")
    found = {name: runs(task, options, config, how) for name, (config, how) in WAYS.items()}
    lasting = [f"- {name}: {1000 * statistics.median(seconds):.0f} ms a step" for name, (_, seconds) in found.items()]
    body = table({name: summary(measures) for name, (measures, _) in found.items()}) + "\n\n" + "\n".join(lasting)
    record = {"circumstances": circumstances(started, seeds=options.seeds), "runs": found}
    write(options.results / "lengths", "Length and decoder: Imagenette, SqueezeNet, validation split", body, record)


def runs(task: Task, options: argparse.Namespace, config: FlintConfig, how: dict[str, Any]) -> tuple[list[dict], list[float]]:
    """The measures of each seed, and the seconds of a step."""
    explain = imagenette_explainer(options.data, config)
    cache = explain.cache(task.train) if config is MAPS else task.cache  # its pictures to reconstruct are of another size
    measures, seconds = [], []
    for seed in options.seeds:
        begun = time.perf_counter()
        history = explain.fit(task.train, cache=cache, seed=seed, progress=False, **how)
        seconds.append((time.perf_counter() - begun) / history[-1].steps)
        measures.append(figures(explain.evaluate(task.validation)))
        print(how, seed, measures[-1], f"{seconds[-1]:.4f} s a step", flush=True)
    return measures, seconds


if __name__ == "__main__":
    main()
