"""Runs functions in two processes that are connected by gloo, and brings back what each of them gave."""

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

PROCESSES = 2
LIMIT = 600.0  # seconds after which processes that wait for each other are ended

Found = dict[str, list[Any]]


def in_processes(*functions: Callable[[Path], Any], folder: Path | None = None) -> Found:
    """By name what each function returned in each process, or the exception that it raised; one after another, in the same processes.

    Functions stand in a module. They are given ``folder``, which is the same for both processes.
    """
    with tempfile.TemporaryDirectory() as place:
        context = multiprocessing.spawn(_run, (place, functions, folder or Path(place)), nprocs=PROCESSES, join=False)
        try:
            deadline = time.monotonic() + LIMIT
            while not context.join(1):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the processes did not come to an end within {LIMIT} seconds")
        finally:
            for process in context.processes:
                process.kill()
        found = [torch.load(Path(place) / f"{rank}.pt", weights_only=False) for rank in range(PROCESSES)]
    return {name: [told[name] for told in found] for name in found[0]}


def _run(rank: int, place: str, functions: tuple[Callable[[Path], Any], ...], folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=PROCESSES)
    torch.save({function.__name__: _found(function, folder) for function in functions}, Path(place) / f"{rank}.pt")
    dist.destroy_process_group()


def _found(function: Callable[[Path], Any], folder: Path) -> Any:
    try:
        return function(folder)
    except Exception as error:  # what the test asks about
        return error
