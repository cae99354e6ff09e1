"""Every family of timm and torchvision, and Hugging Face's image classifiers: the whole course, model by model, and docs/models.md.

python -m examples.zoo [--libraries timm torchvision transformers] [--families vit resnet] [--again]

A stopped run goes on where it was: each model's row is kept in --output. Only a run over everything writes the page and the results.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from flint_posthoc.storage import read_json, write_bytes, write_json

from ..results import ROOT
from .course import repeat, take
from .members import BUILDERS, Member, members
from .table import page

HERE = Path(__file__).parent


def main() -> None:
    options = _options()
    if options.reload:
        _reload(options.output)
        return
    options.output.mkdir(parents=True, exist_ok=True)
    started = time.time()
    chosen = [member for library in options.libraries for member in _members(options.output, library)]
    chosen = [member for member in chosen if not options.families or member.family in options.families]
    waiting = [member for member in chosen if options.again or not _row(options.output, member).exists()]
    print(f"{len(chosen)} families, {len(waiting)} to do", flush=True)
    for number, row in enumerate(_taken(waiting, options.output, options.workers), start=1):
        said = "passed" if row["passed"] else f"ended at {row['step']}: {row['error'][:200]}"
        spent = time.time() - started
        print(f"{number}/{len(waiting)} {row['library']} {row['family']}: {said} ({row['seconds']} s, {spent:.0f} s in all)", flush=True)
    subprocess.run([sys.executable, "-m", "examples.zoo", "--reload", "--output", str(options.output)], cwd=ROOT, check=True)
    rows = [read_json(_row(options.output, member)) for member in chosen]
    print(f"{sum(row['passed'] for row in rows)} of {len(rows)} families passed", flush=True)
    if not options.families and len(options.libraries) == len(BUILDERS):
        _publish(rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--libraries", nargs="+", choices=BUILDERS, default=list(BUILDERS))
    parser.add_argument("--families", nargs="+", help="only these; then no page is written")
    parser.add_argument("--output", type=Path, default=Path("flint-zoo"), help="folder for rows and artefacts")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="do over what is done")
    parser.add_argument("--reload", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.output = options.output.resolve()
    return options


def _row(output: Path, member: Member) -> Path:
    return output / f"{member.key}.json"


def _members(output: Path, library: str) -> list[Member]:
    """Which model of each family is the smallest: found once."""
    file = output / f"members-{library}.json"
    if not file.exists():
        print(f"looking for the smallest of each family of {library}", flush=True)
        write_json(file, {"members": [list(member) for member in members(library)]})
    return [Member(*member) for member in read_json(file)["members"]]


def _taken(waiting: Sequence[Member], output: Path, workers: int) -> Iterator[dict[str, Any]]:
    """Rows as they are done, each written before it is told."""
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        running = {pool.submit(take, member, output / member.key): member for member in waiting}
        for done in as_completed(running):
            member = running[done]
            try:
                row = done.result()
            except BrokenProcessPool as error:
                raise SystemExit(f"a process ended at or near {member.name} ({error}); call again to go on with the others") from error
            write_json(_row(output, member), row)
            yield row


def _reload(output: Path) -> None:
    """Load every artefact beside a classifier built anew, and note in its row whether it says the same."""
    torch.set_num_threads(1)
    for file in sorted(output.glob("*-*.json")):
        row = read_json(file)
        if not row.get("passed") or "repeats" in row:
            continue
        member = Member(row["library"], row["family"], row["model"])
        same = repeat(member, row["side"], output / member.key)
        ended = {} if same else {"passed": False, "step": "loading in another process", "error": "other outputs", "typed": False}
        write_json(file, row | {"repeats": same} | ended)
        shutil.rmtree(output / member.key)
        print(f"{member.key}: {'the same' if same else 'OTHER'} outputs in another process", flush=True)


def _publish(rows: Sequence[dict[str, Any]]) -> None:
    libraries = ("torch", "timm", "torchvision", "transformers", "captum")
    made = {"versions": {name: _version(name) for name in libraries}, "command": "make zoo"}
    write_bytes(ROOT / "docs/models.md", page(rows, made).encode())
    (HERE / "results").mkdir(exist_ok=True)
    write_json(HERE / "results/results.json", {"circumstances": made, "rows": list(rows)})


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
