"""Explain SqueezeNet on ten of its thousand classes: fit on 300 photographs a class, judge on 500 ILSVRC validation images, several seeds.

python -m examples.imagenette.run --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from torch.utils.data import Dataset

from examples.imagenette import task
from examples.results import add_steps, arguments, circumstances, draw, figures, some, steps, summary, table, write
from flint_posthoc import ActivationCache, FlintExplainer

HERE = Path(__file__).parent
NUM_ATTRIBUTES = 64


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0], output=Path("flint-imagenette"), seeds=[0, 1, 2])
    add_steps(parser)
    parser.add_argument("--layers", nargs="+", help="layers to read; suggested where none are named")
    parser.add_argument("--results", type=Path, help="folder for results.json and results.md")
    options = parser.parse_args(argv)
    started = time.time()
    explain = explainer(options)
    train, test = (some(task.images(options.data, train=part), options.images) for part in (True, False))
    cache = explain.cache(task.loader(train))
    runs = [fit_and_judge(explain, cache, train, test, options, seed) for seed in options.seeds]
    averages = summary([run["figures"] for run in runs])
    record = {"circumstances": circumstances(started, layers=list(explain.layers), seeds=options.seeds), "summary": averages, "runs": runs}
    body = table({f"layers {', '.join(explain.layers)}; mean of {len(runs)} seeds ± 95 % interval": averages})
    images = f"{runs[0]['evaluation']['samples']:,} ILSVRC validation images"
    write(options.results or HERE / "results", f"SqueezeNet on ten ImageNet classes, J = {NUM_ATTRIBUTES}, {images}", body, record)


def explainer(options: argparse.Namespace) -> FlintExplainer:
    """SqueezeNet restricted to the ten classes."""
    model = task.classifier(options.data)
    return FlintExplainer(model, layers=options.layers, classes=task.CLASSES, class_names=task.CLASS_NAMES, num_attributes=NUM_ATTRIBUTES)


def fit_and_judge(
    explain: FlintExplainer, cache: ActivationCache, train: Dataset, test: Dataset, options: argparse.Namespace, seed: int
) -> dict:
    """One fit with the library's defaults; the pass over f is in the cache. Pictures and the interpreter go into ``--output``."""
    explain.fit(task.loader(train), cache=cache, max_steps=steps(options.max_steps), seed=seed)
    evaluation = explain.evaluate(task.loader(test))
    print(evaluation)
    draw(options.output / f"seed-{seed}", explain, train, test, evaluation)
    explain.save_pretrained(options.output / f"seed-{seed}" / "interpreter")
    return {"seed": seed, "figures": figures(evaluation), "evaluation": evaluation.to_dict()}


if __name__ == "__main__":
    main()
