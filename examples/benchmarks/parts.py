"""How many images a frozen f should take at once: one pass over the same images in parts of several sizes.

python -m examples.benchmarks.parts
"""

from __future__ import annotations

import time
from functools import partial

from torch.utils.data import DataLoader

from examples.benchmarks.fit import bare_pass
from examples.benchmarks.subjects import SUBJECTS
from examples.benchmarks.timing import medians, parsed, report, take_turns
from flint_posthoc.memory import at_once

SIZES = (1, 2, 4, 8, 16, 32, 64)
IMAGES = 256


def main(argv: list[str] | None = None) -> None:
    options, started = parsed(__doc__.splitlines()[0], argv, list(SUBJECTS)), time.time()
    options.images = options.images or IMAGES
    rows, record = [], {}
    for name in options.subjects:
        model, dataset = SUBJECTS[name].model(options), SUBJECTS[name].loader(options).dataset
        ways = {str(size): partial(bare_pass, model, DataLoader(dataset, batch_size=size)) for size in SIZES}
        seconds = take_turns(ways, options.repeats)
        ours = at_once(tuple(dataset[0][0].shape), next(model.parameters()).device)
        rows.append([name, *(f"{value:.2f} s" for value in medians(seconds).values()), str(ours)])
        record[name] = {"all seconds": seconds, "ours": ours}
    columns = ["f", *(f"{size} at once" for size in SIZES), "taken by a fit"]
    report("parts", f"One pass of f over {options.images} images in parts", columns, rows, {"measured": record}, started, options.results)


if __name__ == "__main__":
    main()
