"""Peak memory of a fit with the cache on disk, for few and for many images, each in a process of its own.

python -m examples.benchmarks.memory
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torchvision

from examples.benchmarks.timing import HERE, report
from examples.results import ROOT, arguments
from flint_posthoc import FlintExplainer

SIZES = (2000, 8000)
SIDE, BATCH = 224, 50


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--fit", type=int, help="fit on so many images in this process and print its peak memory in KiB")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options, started = parser.parse_args(argv), time.time()
    if options.fit is not None:
        print(peak(options.fit))
        return
    command = [sys.executable, "-m", "examples.benchmarks.memory", "--fit"]
    peaks = {size: int(subprocess.check_output([*command, str(size)], cwd=ROOT, text=True).split()[-1]) for size in SIZES}
    growth = peaks[SIZES[1]] / peaks[SIZES[0]] - 1
    rows = [[f"{size:,}", f"{kib / 1024:,.0f} MiB"] for size, kib in peaks.items()] + [["growth", f"{growth:.1%}"]]
    record = {"peak KiB": peaks, "growth": growth}
    report("memory", "Peak memory of a fit, cache on disk, ResNet-18", ["images", "peak resident"], rows, record, started, options.results)


class Images:
    """Random images, made when they are read: none of them stays in memory."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count // BATCH

    def __iter__(self) -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return (torch.randn(BATCH, 3, SIDE, SIDE, generator=generator) for _ in range(len(self)))


def peak(images: int) -> int:
    """KiB that this process held at most."""
    torch.manual_seed(0)
    explain = FlintExplainer(torchvision.models.resnet18(), num_attributes=64)
    explain.fit(Images(images), cache="disk", max_steps=300, progress=False)  # type: ignore[arg-type]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
