"""Read thousands of spoilt artefacts, caches and fit checkpoints, guided by what code they reach. Run with ``make fuzz``.

Every one has to be read, or refused by an error of ours; while it is read, no file outside its folder may be opened for writing, none
outside it and Python's own folders for reading, no process started, nothing unpickled, and the memory is limited.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

try:
    import atheris
except ImportError:  # for this Python there is none: then chance alone chooses
    atheris = None

if atheris is None:
    import hostile
else:
    with atheris.instrument_imports(include=["flint_posthoc", "json"]):
        import hostile

import torch  # noqa: E402

from examples.results import circumstances, write  # noqa: E402

RUNS, RANDOM_SEEDS = 10_000, 100  # inputs; those that the fuzzer starts from
LONGEST = 48  # bytes of an input, each a choice
MEMORY = 2 * 2**30  # bytes beyond what the process has when it starts
OF_PATHS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate", "os.listdir")
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "pickle.find_class")
READABLE = tuple(str(Path(place).resolve()) for place in (sys.prefix, sys.base_prefix, ROOT, "/proc", "/sys", "/dev", *sys.path) if place)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Watch:
    """Sees what the process opens while a folder is read."""

    def __init__(self) -> None:
        self.folder, self.outside = "", list[str]()
        sys.addaudithook(self._see)

    @contextmanager
    def reading(self, folder: Path) -> Iterator[None]:
        self.folder = str(folder.resolve())
        try:
            yield
        finally:
            self.folder = ""

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.folder or (event not in OF_PATHS and event not in FORBIDDEN):
            return
        if event in FORBIDDEN:
            self.outside.append(f"{event}: {arguments!r}"[:300])
            return
        paths = [os.fsdecode(path) for path in arguments[:2] if isinstance(path, str | bytes | os.PathLike)]
        writes = event not in ("open", "os.listdir") or (event == "open" and bool(int(arguments[2] or 0) & WRITING))
        for path in map(os.path.realpath, paths[: 1 if event == "open" else 2]):
            if not path.startswith(self.folder) and (writes or not path.startswith(READABLE)):
                self.outside.append(f"{event}: {path}")


class Campaign:
    """All inputs of one run, and how each ended."""

    def __init__(self, runs: int, folder: Path, results: Path) -> None:
        (folder / "work").mkdir()
        self.targets = hostile.Targets(folder)
        self.runs, self.place, self.results = runs, folder / "work", results
        self.endings, self.failures, self.slowest = Counter[str](), dict[str, str](), 0.0
        self.watch, self.started = Watch(), time.time()
        self.least = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def one(self, data: bytes) -> None:
        """Try one input; what must not happen is noted."""
        begun = time.monotonic()
        try:
            self.endings[hostile.attack(self.targets, data, self.place, self.watch.reading)] += 1
        except Exception as error:
            self.endings["anything else"] += 1
            self.failures.setdefault(_where(error), data.hex())
        self.slowest = max(self.slowest, time.monotonic() - begun)
        if self.endings.total() == self.runs:
            self.finish()

    def finish(self) -> None:
        """Write what was found and end the process."""
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self.least) / 1024
        outcome = {
            "engine": "chance" if atheris is None else f"atheris, guided by coverage ({_kept(self.place.parent)} inputs reached new code)",
            "inputs": self.runs,
            "endings": dict(self.endings.most_common()),
            "files and processes outside": self.watch.outside[:20],
            "failures": self.failures,
            "slowest_seconds": round(self.slowest, 2),
            "memory_grown_megabytes": round(grown),
        }
        write(self.results, "Spoilt files", table(outcome), outcome | {"circumstances": circumstances(self.started)})
        sys.stdout.flush()
        os._exit(bool(self.failures or self.watch.outside))


def _where(error: BaseException) -> str:
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "flint_posthoc" in frame.filename]
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "elsewhere"
    return f"{type(error).__name__} at {place}: {error}"[:300]


def _kept(folder: Path) -> int:
    return sum(1 for _ in (folder / "corpus").iterdir())


def table(outcome: dict[str, Any]) -> str:
    """The outcome in Markdown."""
    rows = {
        "inputs (artefacts, caches and fit checkpoints in equal parts)": f"{outcome['inputs']:,}",
        "errors that are not ours": len(outcome["failures"]),
        "files opened outside the folder, processes, pickles": len(outcome["files and processes outside"]),
        "memory that all of it took beyond the start": f"{outcome['memory_grown_megabytes']:,} MB",
        "slowest": f"{outcome['slowest_seconds']} s",
        **{f"ended with {name}": f"{count:,}" for name, count in outcome["endings"].items()},
    }
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items()), "", f"Engine: {outcome['engine']}."]
    return "\n".join(lines)


def keep(folder: Path, most: int) -> None:
    """The shortest inputs that reached something new, for the tests."""
    found = sorted({path.read_bytes()[:LONGEST].hex() for path in (folder / "corpus").iterdir()}, key=lambda text: (len(text), text))
    hostile.CORPUS.write_text("\n".join(found[:most]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="folder for the inputs that reach something new; they are kept there")
    parser.add_argument("--keep", type=int, help="keep so many of the inputs in --output for the tests, and do nothing else")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "fuzz")
    options = parser.parse_args()
    folder = options.output or Path(tempfile.mkdtemp(prefix="flint-fuzz-"))
    if options.keep:
        keep(folder, options.keep)
        return
    torch.set_num_threads(1)
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    chance = random.Random(options.seed)
    for number in range(RANDOM_SEEDS):
        (folder / "corpus" / f"random-{number}").write_bytes(chance.randbytes(LONGEST))
    for number, line in enumerate(hostile.CORPUS.read_text().split() if hostile.CORPUS.exists() else ()):
        (folder / "corpus" / f"seed-{number}").write_bytes(bytes.fromhex(line))
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "corpus").symlink_to(folder.resolve() / "corpus")
        campaign = Campaign(options.runs, Path(work), options.results)
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        if atheris is None:
            while True:
                campaign.one(chance.randbytes(LONGEST))
        fuzzer = [
            sys.argv[0],
            f"-max_len={LONGEST}",
            f"-seed={options.seed}",
            "-len_control=0",
            "-verbosity=0",
            "-rss_limit_mb=0",
            f"-artifact_prefix={folder}/",
            str(folder / "corpus"),
        ]
        atheris.Setup(fuzzer, campaign.one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
