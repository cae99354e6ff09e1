"""How the benchmarks measure: the ways to be compared take turns in one process, medians of seconds and of ratios within a turn."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.results import arguments, circumstances, write

HERE = Path(__file__).parent
Ways = dict[str, Callable[[], object]]


def parsed(description: str, argv: list[str] | None, subjects: list[str]) -> argparse.Namespace:
    """The options that every benchmark has."""
    parser = arguments(description)
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--subjects", nargs="+", choices=subjects, default=subjects)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    return parser.parse_args(argv)


def take_turns(ways: Ways, repeats: int) -> dict[str, list[float]]:
    """Seconds of each way in each turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Of each way."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def ratio(seconds: dict[str, list[float]], way: str, base: str) -> float:
    """The median over turns of how many times ``base`` a way took."""
    return statistics.median(one / other for one, other in zip(seconds[way], seconds[base], strict=True))


def processor() -> str:
    """The machine, named by its CPU."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def report(name: str, title: str, columns: list[str], rows: list[list[str]], record: dict[str, Any], started: float, results: Path) -> None:
    """``results/NAME``: a table and everything measured."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|", *("| " + " | ".join(row) + " |" for row in rows)]
    machine = {"processor": processor()}
    write(results / name, f"{title} ({processor()})", "\n".join(lines), {"circumstances": circumstances(started, **machine), **record})
