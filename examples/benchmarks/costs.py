"""The costs that docs/scaling.md reckons with, for ResNet-50 tapped at layer3 and layer4: seconds an image, bytes an image.

python -m examples.benchmarks.costs
"""

from __future__ import annotations

import statistics
import tempfile
import time

from examples.benchmarks.subjects import SUBJECTS
from examples.benchmarks.timing import parsed, report, take_turns
from flint_posthoc import FlintExplainer
from flint_posthoc.learning.presets import FlintConfig

IMAGES, STEPS, LAYERS = 256, 100, ["layer3", "layer4"]


def main(argv: list[str] | None = None) -> None:
    options, started = parsed(__doc__.splitlines()[0], argv, ["ResNet-50"]), time.time()
    options.images = options.images or IMAGES
    subject = SUBJECTS["ResNet-50"]
    model, loader = subject.model(options), subject.loader(options)
    explain = subject.explainer(options, model, layers=LAYERS)
    cache = explain.cache(loader, progress=False)
    ways = {
        "t_f": lambda: explain.cache(loader, progress=False),
        "t_l": lambda: explain.fit(loader, cache=cache, max_steps=STEPS, progress=False),
        "t_e": lambda: explain.evaluate(loader),
    }
    seconds = take_turns(ways, options.repeats)
    images = {"t_f": options.images, "t_l": STEPS * FlintConfig().settings.batch_for(64), "t_e": options.images}
    costs = {name: statistics.median(values) / images[name] for name, values in seconds.items()}
    stored = bytes_on_disk(explain, loader) / options.images
    said = {
        "t_f": "an image through the classifier, into the cache",
        "t_l": "an image through one step of the learning loop",
        "t_e": "an image through classifier, interpreter and measures",
    }
    rows = [[f"{name}: {said[name]}", f"{1000 * value:.2f} ms"] for name, value in costs.items()]
    rows.append(["c: an image in a cache on disk", f"{stored:,.0f} bytes"])
    learnt = sum(parameter.numel() for parameter in explain.interpreter.parameters())
    rows.append(["P: what an interpreter of all channels learns", f"{learnt:,} numbers"])
    record = {"seconds an image": costs, "bytes an image": stored, "learnt": learnt, "all seconds": seconds, "layers": LAYERS}
    report("costs", "What an image costs, ResNet-50", ["cost", "measured"], rows, record, started, options.results)


def bytes_on_disk(explain: FlintExplainer, loader: object) -> int:
    """Of a whole cache."""
    with tempfile.TemporaryDirectory() as folder:
        return explain.cache(loader, folder=f"{folder}/cache", progress=False).nbytes  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
