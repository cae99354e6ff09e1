"""What the examples share: where the data is, how results are written, and the mean of several seeds with its interval."""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Subset

from flint_posthoc import Evaluation, FlintExplainer, __version__
from flint_posthoc.demo.pictures import Album
from flint_posthoc.storage import write_bytes, write_json

ROOT = Path(__file__).resolve().parent.parent
STUDENT_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}  # two-sided 95 % quantile by number of seeds
PATHS = ("--data", "--output", "--results", "--interpreters", "--interpreter", "--picture")  # options that do not change a figure
MEASURES = (
    "classifier_accuracy",
    "interpreter_accuracy",
    "inside_classes",
    "fidelity",
    "fidelity_on_errors",
    "fidelity_on_correct",
    "kl_divergence",
    "cns_2",
    "cns_5",
    "not_alive",
    "never_fires",
    "relative_reconstruction_error",
    "unexplained",
)


def arguments(description: str, **defaults: Any) -> argparse.ArgumentParser:
    """A parser with the options that every example has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    data = Path(os.environ.get("FLINT_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=data, help="folder that holds the data sets and checkpoints")
    parser.add_argument("--output", type=Path, help="folder for pictures and interpreters; results go beside the example")
    parser.add_argument("--images", type=int, help="fit and judge on about so many images only, for a quick try")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.set_defaults(**defaults)
    return parser


def add_steps(parser: argparse.ArgumentParser) -> None:
    """The option ``--max-steps``, for examples that fit by steps."""
    parser.add_argument("--max-steps", default="auto", help="optimiser steps, for a quick try")


def some(dataset: Dataset, count: int | None) -> Dataset:
    """About ``count`` items, evenly spread over ``dataset``; ``None``: all."""
    return dataset if count is None else Subset(dataset, range(0, len(dataset), max(1, len(dataset) // count)))


def draw(folder: Path, explain: FlintExplainer, train: Dataset, test: Dataset, evaluation: Evaluation) -> None:
    """All pictures of the demonstration, for some images of ``test``; attributes are shown by some of ``train``."""
    explained, seen = (torch.stack([image for image, _ in some(part, count)]) for part, count in ((test, 100), (train, 500)))
    Album(explain, explained, seen, shown=range(3)).draw(folder, evaluation, explain.global_interpretation(test))


def steps(text: str) -> int | str:
    """The value of ``--max-steps``."""
    return text if text == "auto" else int(text)


def figures(evaluation: Evaluation) -> dict[str, float | None]:
    """The measures of one fit as plain numbers."""
    derived = {
        "cns_2": evaluation.conciseness[2.0]["absolute"], "cns_5": evaluation.conciseness[5.0]["absolute"],
        "not_alive": evaluation.num_attributes - len(evaluation.live_attributes), "never_fires": len(evaluation.never_fires),
    }  # fmt: skip
    return {name: derived[name] if name in derived else getattr(evaluation, name) for name in MEASURES}


def summary(runs: Sequence[dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
    """Mean of each measure over seeds, and half the width of its 95 % interval (Student's t); ``None`` for a single seed."""
    return {name: mean_and_interval([run[name] for run in runs]) for name in MEASURES}


def mean_and_interval(values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean over seeds, and half the width of its 95 % interval (Student's t); ``None`` where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return {"mean": None, "interval": None}
    mean, count = sum(known) / len(known), len(known)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in known) / max(1, count - 1))
    return {"mean": mean, "interval": STUDENT_95[count] * deviation / math.sqrt(count) if count in STUDENT_95 else None}


def circumstances(started: float, **settings: Any) -> dict[str, Any]:
    """How a result came about."""
    module = ".".join(Path(sys.argv[0]).resolve().relative_to(ROOT).with_suffix("").parts)
    command = " ".join(["python -m", module, *_without_paths(sys.argv[1:])])
    versions = {"python": platform.python_version(), "torch": torch.__version__, "flint_posthoc": __version__}
    return {
        "command": command,
        "minutes": round((time.time() - started) / 60, 1),
        "threads": torch.get_num_threads(),
        "versions": versions,
        **settings,
    }


def _without_paths(arguments: Sequence[str]) -> list[str]:
    pairs = zip(arguments, ["", *arguments], strict=False)
    return [word for word, before in pairs if before not in PATHS and word.partition("=")[0] not in PATHS]


def text(value: float | None, name: str) -> str:
    """A figure as a reader wants it: shares in per cent, counts and others as they are."""
    if value is None:
        return "–"
    shares = ("accuracy", "inside", "fidelity", "unexplained")
    return (
        f"{100 * value:.2f} %"
        if any(word in name for word in shares)
        else f"{value:.3f}"
        if "error" in name or "kl" in name
        else f"{value:.2f}"
    )


def table(columns: dict[str, dict[str, dict[str, float | None]]]) -> str:
    """A Markdown table, one row a measure and one column a summary."""
    lines = ["| measure | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in MEASURES:
        cells = [with_interval(column[name], name) for column in columns.values()]
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_interval(value: dict[str, float | None], name: str) -> str:
    """A mean with its interval, in words."""
    half = "" if value["interval"] is None else f" ± {text(value['interval'], name)}"
    return text(value["mean"], name) + half


def write(folder: Path, title: str, body: str, record: dict[str, Any]) -> None:
    """``results.json`` and ``results.md``, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", record)
    made = record["circumstances"]
    write_bytes(
        folder / "results.md",
        f"# {title}\n\n{body}\n\nMade by `{made['command']}` in {made['minutes']} minutes, torch {made['versions']['torch']}.\n".encode(),
    )
    print(f"written to {folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder}")
