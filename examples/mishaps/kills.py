"""Kill jobs at random moments, many times, and look at what a later user finds. Run with ``make mishaps``.

Half of the kills come at a random time, half right before a random operation on files, where a kill hurts most.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # the tiny classifier, and what tells whether something touched it, are the tests'

from examples.mishaps.jobs import JOBS, Job  # noqa: E402
from examples.results import circumstances, write  # noqa: E402

KILLS = 200
COMPLAINT = "complaint.txt"
FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")  # as Python's audit hooks call them


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "kills")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a forked child waits for ever for threads that its parent had
    started = time.time()
    outcome = kill_all(options.kills, options.seed)
    write(options.results, "Kills at random moments", table(outcome), outcome | {"circumstances": circumstances(started)})
    sys.exit(bool(outcome["failures"]))


def kill_all(kills: int, seed: int, names: Sequence[str] = tuple(JOBS)) -> dict[str, Any]:
    """``kills`` kills, spread over the jobs, and what was wrong afterwards."""
    chance, jobs = random.Random(seed), {name: JOBS[name]() for name in names}
    counts = {name: {"killed": 0, "ended before": 0, "wrong": 0} for name in jobs}
    lengths, failures = {name: _length(job) for name, job in jobs.items()}, list[str]()
    while (done := sum(count["killed"] for count in counts.values())) < kills:
        name = names[done % len(names)]
        moment, by_time = chance.random(), done // len(names) % 2 == 0
        killed, complaint = _killed_once(jobs[name], lengths[name], moment, by_time=by_time)
        counts[name]["killed" if killed else "ended before"] += 1
        if complaint:
            counts[name]["wrong"] += 1
            failures.append(f"{name}, killed at {moment:.3f} of its {'time' if by_time else 'file operations'}: {complaint}")
    changed = sum("changed: {" in failure for failure in failures)
    return {"kills": kills, "seed": seed, "jobs": counts, "failures": failures, "classifiers that changed": changed}


class Length(NamedTuple):
    """How long a job is when nobody kills it."""

    seconds: float
    operations: int


def _length(job: Job) -> Length:
    with tempfile.TemporaryDirectory(prefix="flint-mishaps-") as name:
        folder, seen = Path(name), Path(name) / "operations"
        job.prepare(folder)
        started = time.monotonic()

        def counted() -> None:
            operations = [0]
            sys.addaudithook(lambda event, _: operations.__setitem__(0, operations[0] + (event in FILE_EVENTS)))
            job.run(folder)
            seen.write_text(str(operations[0]))

        _wait(_forked(counted, folder))
        return Length(time.monotonic() - started, int(seen.read_text()))


def _killed_once(job: Job, length: Length, moment: float, *, by_time: bool) -> tuple[bool, str]:
    """(whether the job was still running, what was wrong afterwards)."""
    with tempfile.TemporaryDirectory(prefix="flint-mishaps-") as name:
        folder = Path(name) / "job"
        folder.mkdir()
        job.prepare(folder)
        if by_time:
            child = _forked(lambda: job.run(folder), folder.parent)
            time.sleep(moment * length.seconds)
            os.kill(child, signal.SIGKILL)
        else:
            child = _forked(lambda: _killed_before(int(moment * length.operations), lambda: job.run(folder)), folder.parent)
        killed = os.WIFSIGNALED(_wait(child))
        status = _wait(_forked(lambda: job.check(folder), folder.parent))
        complaint = folder.parent / COMPLAINT
        return killed, complaint.read_text() if complaint.exists() else f"the check ended with {status}" if status else ""


def _killed_before(operation: int, call: Callable[[], None]) -> None:
    """``call``, until it is about to do one more than so many operations on files."""
    left = [operation]

    def watch(event: str, _: object) -> None:
        if event in FILE_EVENTS:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    call()


def _forked(call: Callable[[], None], notes: Path) -> int:
    """A child that does ``call`` and writes into the folder ``notes`` what went wrong."""
    child = os.fork()
    if child:
        return child
    try:
        call()
        os._exit(0)
    except BaseException as error:
        (notes / COMPLAINT).write_text(f"{type(error).__name__}: {error}")
        os._exit(1)


def _wait(child: int) -> int:
    return os.waitpid(child, 0)[1]


def table(outcome: dict[str, Any]) -> str:
    """The outcome in Markdown."""
    lines = ["| killed | kills | ended before the kill | lost, damaged, left behind, or ended elsewhere |", "|---|---|---|---|"]
    lines += [f"| {name} | {found['killed']} | {found['ended before']} | {found['wrong']} |" for name, found in outcome["jobs"].items()]
    total = {key: sum(found[key] for found in outcome["jobs"].values()) for key in ("killed", "ended before", "wrong")}
    lines += [f"| all | {total['killed']} | {total['ended before']} | {total['wrong']} |"]
    changed = f"\nClassifiers whose state, hooks, flags or forward differ afterwards: {outcome['classifiers that changed']}."
    return "\n".join([*lines, changed, *(f"- {failure}" for failure in outcome["failures"])])


if __name__ == "__main__":
    main()
