"""What `import flint_posthoc` costs beyond `import torch`: whole processes, taking turns.

python -m examples.benchmarks.startup
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from examples.benchmarks.timing import HERE, medians, report, take_turns
from examples.results import ROOT, arguments

MODULES = ("torch", "flint_posthoc")


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options, started = parser.parse_args(argv), time.time()
    ways = {name: partial(subprocess.check_call, [sys.executable, "-c", f"import {name}"], cwd=ROOT) for name in MODULES}
    for way in ways.values():
        way()  # byte code and the disk's cache are warm from here on
    seconds = take_turns(ways, options.repeats)
    middle = medians(seconds)
    beyond = middle["flint_posthoc"] - middle["torch"]
    rows = [*([f"import {name}", f"{value:.2f} s"] for name, value in middle.items()), ["difference", f"{beyond:.2f} s"]]
    report(
        "startup", "What the import costs", ["", "median"], rows, {"all seconds": seconds, "beyond torch": beyond}, started, options.results
    )


if __name__ == "__main__":
    main()
