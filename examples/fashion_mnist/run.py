"""Explain a third party's FashionMNIST network: fit on the 60,000 training images, judge on the 10,000 test images.

python -m examples.fashion_mnist.run                    # the suggested layers
python -m examples.fashion_mnist.run --layers conv2
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from examples.fashion_mnist import task
from examples.results import arguments, circumstances, figures, steps, summary, table, write
from flint_posthoc import FlintExplainer
from flint_posthoc.figures import save
from flint_posthoc.storage import fingerprint

HERE = Path(__file__).parent


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0], output=Path("flint-fashion-mnist"))
    parser.add_argument("--layers", nargs="+", help="layers to read; suggested where none are named")
    parser.add_argument("--results", type=Path, help="folder for results.json and results.md")
    options = parser.parse_args(argv)
    started, name = time.time(), "-".join(options.layers or ["suggested"])
    runs = [fit_and_judge(options, seed, options.output / name) for seed in options.seeds]
    averages = summary([run["figures"] for run in runs])
    record = {"circumstances": circumstances(started, layers=runs[0]["layers"], seeds=options.seeds), "summary": averages, "runs": runs}
    body = table({f"layers {', '.join(runs[0]['layers'])}": averages})
    write(options.results or HERE / "results" / name, "FashionMNIST, a third party's CNN, J = 25, 10,000 test images", body, record)


def fit_and_judge(options: argparse.Namespace, seed: int, output: Path) -> dict:
    """One fit with the library's defaults; pictures and the interpreter go into ``output``."""
    model = task.classifier(options.data)
    before = fingerprint(model)
    explain = FlintExplainer(
        model, layers=options.layers, num_attributes=25, class_names=task.CLASS_NAMES, normalization=task.NORMALIZATION
    )
    history = explain.fit(task.loader(options.data, train=True), max_steps=steps(options.max_steps), seed=seed)
    test = task.loader(options.data, train=False)
    evaluation = explain.evaluate(test)
    print(evaluation)
    explain.save_pretrained(output / f"interpreter-{seed}")
    save(explain.global_interpretation(test).plot(), output / f"classes-{seed}.png")
    save(explain(next(iter(test))[0][:8]).plot(1), output / f"image-1-{seed}.png")
    save(history.plot(), output / f"history-{seed}.png")
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
