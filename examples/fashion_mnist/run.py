"""Explain a third party's FashionMNIST network: fit on the 60,000 training images, judge on the 10,000 test images.

python -m examples.fashion_mnist.run                    # the suggested layers
python -m examples.fashion_mnist.run --layers conv2
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from examples.fashion_mnist import task
from examples.results import add_steps, arguments, circumstances, draw, figures, some, steps, summary, table, write
from flint_posthoc import FlintExplainer
from flint_posthoc.storage import fingerprint

HERE = Path(__file__).parent


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0], output=Path("flint-fashion-mnist"))
    add_steps(parser)
    parser.add_argument("--layers", nargs="+", help="layers to read; suggested where none are named")
    parser.add_argument("--results", type=Path, help="folder for results.json and results.md")
    options = parser.parse_args(argv)
    started, name = time.time(), "-".join(options.layers or ["suggested"])
    runs = [fit_and_judge(options, seed, options.output / name) for seed in options.seeds]
    averages = summary([run["figures"] for run in runs])
    record = {"circumstances": circumstances(started, layers=runs[0]["layers"], seeds=options.seeds), "summary": averages, "runs": runs}
    body = table({f"layers {', '.join(runs[0]['layers'])}": averages})
    title = f"FashionMNIST, a third party's CNN, J = 25, {runs[0]['evaluation']['samples']:,} test images"
    write(options.results or HERE / "results" / name, title, body, record)


def fit_and_judge(options: argparse.Namespace, seed: int, output: Path) -> dict:
    """One fit with the library's defaults; pictures and the interpreter go into ``output``."""
    model = task.classifier(options.data)
    before = fingerprint(model)
    explain = FlintExplainer(
        model, layers=options.layers, num_attributes=25, class_names=task.CLASS_NAMES, normalization=task.NORMALIZATION
    )
    train, test = (some(task.images(options.data, train=part), options.images) for part in (True, False))
    explain.fit(task.loader(train), max_steps=steps(options.max_steps), seed=seed)
    evaluation = explain.evaluate(task.loader(test))
    print(evaluation)
    draw(output / f"seed-{seed}", explain, train, test, evaluation)
    explain.save_pretrained(output / f"seed-{seed}" / "interpreter")
    same = before == fingerprint(model)
    return {
        "seed": seed,
        "layers": list(explain.layers),
        "classifier_unchanged": same,
        "figures": figures(evaluation),
        "evaluation": evaluation.to_dict(),
    }


if __name__ == "__main__":
    main()
