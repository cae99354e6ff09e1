"""Tables are made cell by cell: what is written stays, and a command that was stopped goes on where it was."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from examples.paper.fits import Fits, name_of
from examples.paper.tasks import TASKS
from examples.results import arguments
from flint_posthoc import __version__
from flint_posthoc.storage import read_json, write_json

HERE = Path(__file__).parent


def cell(path: Path, settings: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """What ``make`` gives, from ``path`` where that holds an answer for the same ``settings``; else made and written there."""
    wanted = {**settings, "torch": torch.__version__}
    if path.exists():
        known = read_json(path)
        if known["settings"] == wanted:
            return known
    started = time.time()
    found = {"settings": wanted, "flint_posthoc": __version__, **make(), "minutes": round((time.time() - started) / 60, 1)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    print(f"{path.stem}: {found['minutes']} minutes", flush=True)
    return found


def paper_arguments(description: str, tasks: list[str], **defaults: Any) -> argparse.ArgumentParser:
    """The options that every table has."""
    parser = arguments(description, output=Path("flint-paper"), **defaults)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=tasks)
    parser.add_argument("--epochs", type=int, help="passes over the data while f learns, for a quick try")
    parser.add_argument("--validation", action="store_true", help="judge on every sixth training image, learn from the rest")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for the tables")
    return parser


def fits_of(options: argparse.Namespace, key: str) -> Fits:
    """The fits of one task, as the options say."""
    return Fits(TASKS[key], options.data, options.output, images=options.images, epochs=options.epochs, validation=options.validation)


def table_name(options: argparse.Namespace, *more: str) -> str:
    """The folder of a table that is about several tasks."""
    return name_of("-".join([*options.tasks, *more]), images=options.images, epochs=options.epochs, validation=options.validation)


def quick(options: argparse.Namespace) -> dict[str, int]:
    """What makes a figure another one: the options of a quick try and of the validation split, where they are given."""
    found = {"images": options.images, "epochs": options.epochs, "validation": options.validation or None}
    return {name: value for name, value in found.items() if value is not None}
