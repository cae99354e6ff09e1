"""Where the memory does not suffice a batch is taken in parts, with the same result; what cannot be halved says what would fit."""

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from models import left_alone
from torch import Tensor, nn

from flint_posthoc import FlintExplainer, memory
from flint_posthoc.errors import FlintWarning, MemoryExhaustedError
from flint_posthoc.interpretation.ascent import MaximizationSettings, Stage
from flint_posthoc.memory import Halving, at_once, free_memory, is_exhausted, most_that_fit

EXHAUSTED = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000 bytes. Error code 12 (Cannot allocate memory)"


@contextmanager
def halved(message: str) -> Iterator[None]:
    """The body says so, perhaps among other sizes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert any(issubclass(entry.category, FlintWarning) and re.search(message, str(entry.message)) for entry in caught), caught


def for_at_most(most: int) -> Callable[[slice], list[int]]:
    """The numbers of a part, where it is no larger."""

    def run(part: slice) -> list[int]:
        if part.stop - part.start > most:
            raise RuntimeError(EXHAUSTED)
        return list(range(part.start, part.stop))

    return run


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError(EXHAUSTED), True),
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
        (MemoryExhaustedError("smaller parts were tried"), False),
    ],
)
def test_an_exhausted_memory_is_known_by_what_it_says(error: BaseException, expected: bool) -> None:
    assert is_exhausted(error) is expected


@pytest.mark.parametrize("most", [1, 3, 7])
def test_a_batch_is_halved_until_it_fits_and_comes_whole_in_order(most: int) -> None:
    halving = Halving("counting")
    with halved(r"did not suffice for counting 20 images at once; trying 10"):
        parts = list(halving.parts(for_at_most(most), 20))
    assert [number for part in parts for number in part] == list(range(20))
    assert max(map(len, parts)) <= most
    assert list(map(len, halving.parts(for_at_most(most), 2))) == ([1, 1] if most == 1 else [2])  # without trying more again


def test_one_image_that_does_not_fit_is_an_error_and_other_errors_are_left_as_they_are() -> None:
    with halved("trying 1"), pytest.raises(MemoryExhaustedError, match=r"does not suffice for counting one image: Default"):
        list(Halving("counting").parts(for_at_most(0), 4))

    def broken(part: slice) -> None:
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        list(Halving("counting").parts(broken, 4))


def test_a_core_takes_eight_photographs_at_once_and_a_gpu_all_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    sizes = [at_once(shape, torch.device("cpu")) for shape in ((3, 224, 224), (1, 28, 28), (3, 4000, 4000))]
    assert sizes == [24, 24 * 64, 1]
    assert at_once((3, 224, 224), torch.device("cuda")) is None


def test_the_number_that_fits_is_found() -> None:
    assert [most_that_fit(lambda count, most=most: for_at_most(most)(slice(0, count)), 64) for most in (40, 16, 5, 0)] == [32, 16, 4, 0]


def test_the_free_memory_is_that_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = free_memory()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("100\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert free_memory() > 1000
    assert abs(free_memory() - whole) < whole
    (tmp_path / "memory.max").write_text("1100\n")
    assert free_memory() == 1000
    (tmp_path / "memory.stat").write_text("anon 40\ninactive_file 60\n")
    assert free_memory() == 1060


def test_pages_of_files_that_were_read_count_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemFree: 2 kB\nMemAvailable: 500 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    assert free_memory() == 500 * 1024


class Greedy(small.Tiny):
    """Takes no more than ``most`` images at once."""

    most = 1000

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.most:
            raise RuntimeError(EXHAUSTED)
        return super().forward(images)


def greedy(most: int) -> nn.Module:
    model = Greedy().eval()
    model.load_state_dict(small.tiny().state_dict())
    model.most = most
    return model


CLIMB = MaximizationSettings((Stage(3, 2.0, 6.0, 0.0),), batch_size=16)
QUESTIONS: dict[str, Callable[[FlintExplainer], Tensor]] = {
    "explain": lambda explain: explain(small.images(20)).relevance,
    "reconstruct": lambda explain: explain.reconstruct(small.images(20)),
    "contrast": lambda explain: explain.contrast(small.images(20), 1).without,
    "attribution": lambda explain: explain.attribution(small.images(20), attribute=1, method="gradient").values,
    "maximize": lambda explain: explain.maximize(small.images(20), 1, settings=CLIMB).pixels,
    "stability": lambda explain: torch.tensor(explain.stability([explain], small.images(20)).to_dict()["pairs"][0]["correlation"]),
    "global": lambda explain: explain.global_interpretation(small.images(20)).relevance,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    explain = small.explainer(greedy(1000))
    explain.fit(small.images(), progress=False)
    return explain.save_pretrained(tmp_path_factory.mktemp("saved"))


@pytest.mark.parametrize("question", QUESTIONS)
def test_questions_are_answered_in_parts_with_the_same_result(saved: Path, question: str) -> None:
    whole = QUESTIONS[question](FlintExplainer.from_pretrained(saved, greedy(1000)))
    model = greedy(3)
    explain = FlintExplainer.from_pretrained(saved, model)
    with left_alone(model), halved("the memory did not suffice"):
        parts = QUESTIONS[question](explain)
    torch.testing.assert_close(parts, whole, equal_nan=True)


def test_a_fit_reads_the_data_in_parts_and_ends_in_the_same_place() -> None:
    whole, parts = small.explainer(greedy(1000)), small.explainer(greedy(5))
    whole.fit(small.images(), progress=False)
    with halved("did not suffice for the classifier's pass over 48 images at once; trying 24"):
        parts.fit(small.images(), progress=False)
    for name, value in whole.interpreter.state_dict().items():
        torch.testing.assert_close(parts.interpreter.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_a_mini_batch_that_does_not_fit_says_which_would(monkeypatch: pytest.MonkeyPatch) -> None:
    explain = small.explainer()
    from flint_posthoc.interpreter.interpreter import Interpreter

    forward = Interpreter.forward

    def short(self: Interpreter, activations: Any) -> Any:
        if len(activations[0]) > 3:
            raise RuntimeError(EXHAUSTED)
        return forward(self, activations)

    monkeypatch.setattr(Interpreter, "forward", short)
    with left_alone(explain.model), pytest.raises(MemoryExhaustedError, match=r"for a mini-batch of 8 images; batch_size=2 would fit"):
        explain.fit(small.images(), progress=False)


LIMITED = """
import resource, sys, warnings
import torch
torch.set_num_threads(1)
import small
from flint_posthoc import FlintExplainer

model = small.tiny()
explain = FlintExplainer.from_pretrained(sys.argv[1], model)
images = small.images(40_000, seed=1)
explain(images[:2])
expected = explain(images).relevance
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[2]), taken + int(sys.argv[2])))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = explain(images).relevance
torch.testing.assert_close(found, expected)
print([str(entry.message) for entry in caught])
"""


def test_under_a_limit_of_the_system_many_images_are_explained_few_at_once(tmp_path: Path) -> None:
    folder = small.fitted().save_pretrained(tmp_path / "saved")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LIMITED, str(folder), str(200 * 2**20)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "[]\n"  # all 40,000 together do not fit


def test_the_account_of_a_fit_by_design_is_made_in_parts() -> None:
    model = greedy(8)
    labels = small.labels(small.tiny(), small.images(20))
    explain = small.explainer(model, joint=True)
    with halved("the memory did not suffice"):
        history = explain.fit(small.loader(small.images(20), labels, batch_size=8), validation=[(small.images(20), labels)], progress=False)
    assert history.account is not None
    with torch.no_grad():
        model.most = 1000
        assert history.account.after == pytest.approx(float((model(small.images(20)).argmax(dim=1) == labels).float().mean()))


def test_a_job_inside_the_machine_counts_with_all_that_it_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tmp_path / "slurm" / "job_7" / "step_0"
    job.mkdir(parents=True)
    for group, free in ((job, 3000), (job.parent, 2000)):
        (group / "memory.max").write_text(f"{free + 50}\n")
        (group / "memory.current").write_text("50\n")
    (tmp_path / "own").write_text("4:cpu:/elsewhere\n0::/slurm/job_7/step_0\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    assert free_memory() == 2000
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("1900\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("900\n")
    assert free_memory() == 1000
