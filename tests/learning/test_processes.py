"""Two processes against one: the same losses, gradients, weights, figures and samples; and none waits for one that has failed."""

import dataclasses
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from spawning import Found, in_processes
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from flint_posthoc import FlintExplainer, processes
from flint_posthoc.classifier.adapter import Categorical
from flint_posthoc.errors import ArtifactError, ConfigurationError, EmptyDataError, NotAnArtifactError, ProcessFailedError
from flint_posthoc.interpreter.interpreter import Interpreter
from flint_posthoc.learning.batches import LearningBatch
from flint_posthoc.learning.caching import components
from flint_posthoc.learning.caching.cache import ActivationCache
from flint_posthoc.learning.checkpoint import FILE_NAME, FitCheckpoint
from flint_posthoc.learning.joint import JointSettings
from flint_posthoc.learning.losses import LossWeights, interpretability_loss
from flint_posthoc.learning.trainer import Trainer

CLOSE = 1e-5
STEPS = 24
COUNTS = ("samples", "live_attributes", "duplicate_attributes", "dead_attributes", "never_fires", "classes_per_attribute")


def data(count: int = 61) -> Any:
    pixels = small.images(count, seed=3)
    return small.loader(pixels, small.labels(small.tiny(), pixels), batch_size=8)


def in_order() -> Any:
    pixels = small.images(61, seed=3)
    return small.loader(pixels, small.labels(small.tiny(), pixels), shuffle=False)


def told(explain: FlintExplainer) -> dict[str, Any]:
    """Everything that is to be the same, however many processes there are."""
    world = explain.global_interpretation(in_order(), samples_per_class=5)
    exemplars = explain.exemplars(in_order(), [(0, 0), (1, 1), (2, 2), (0, 3)], k=3)
    evaluation = explain.evaluate(in_order())
    return {
        "history": [dataclasses.replace(record, seconds=0.0) for record in explain.history],
        "evaluation": {name: value for name, value in dataclasses.asdict(evaluation).items() if name not in COUNTS},
        "world": [world.relevance, world.disagreement],
        "exemplars": [[(exemplar.activation, exemplar.image) for exemplar in found] for found in exemplars.found],
        "weights": explain.interpreter.state_dict(),
        "class means": explain.fitted.class_means,
        "counts": [
            *(getattr(evaluation, name) for name in COUNTS),
            world.counts.tolist(),
            exemplars.candidates,
            [[(exemplar.position, exemplar.agrees) for exemplar in found] for found in exemplars.found],
        ],
    }


def fitted(batch_size: int = 7, **settings: Any) -> FlintExplainer:
    """Mini-batches of an odd number of images, which two processes cannot share evenly."""
    explain = small.explainer(config=small.with_batch(batch_size))
    held_out = small.loader(small.images(13, seed=5), batch_size=4, shuffle=False)
    explain.fit(data(), **({"max_steps": STEPS, "validation": held_out, "progress": False} | settings))
    return explain


def in_memory(folder: Path) -> Any:
    return told(fitted(cache="memory"))


def on_disk(folder: Path) -> Any:
    return told(fitted(cache="disk"))


def uncached(folder: Path) -> Any:
    return told(fitted(cache="off"))


def built_before(folder: Path) -> Any:
    """A cache in a folder, made by all and opened again."""
    explain = small.explainer()
    explain.cache(in_order(), folder=folder / f"cache-of-{processes.size()}", overwrite=True, precision="float32", progress=False)
    return told(fitted(cache=ActivationCache.open(folder / f"cache-of-{processes.size()}")))


def reviving(folder: Path) -> Any:
    """All attributes are silent at first, and revived at the first look."""
    start = Interpreter.initialize_from

    def silent(self: Interpreter, activations: Any) -> None:
        start(self, activations)
        with torch.no_grad():
            self.attribute_network.linear.bias[:2] = -1e4

    Interpreter.initialize_from = silent  # type: ignore[method-assign]
    try:
        config = small.with_batch(7)
        config = dataclasses.replace(config, settings=dataclasses.replace(config.settings, revive_after=30))
        explain = small.explainer(config=config)
        explain.fit(data(), max_steps=60, cache="memory", progress=False)
    finally:
        Interpreter.initialize_from = start  # type: ignore[method-assign]
    assert sum(record.revived for record in explain.history) == 2
    return told(explain)


def by_design(folder: Path) -> Any:
    """The classifier learns too; of the last mini-batch, a single image, one process has nothing. Then an interpreter is fitted anew."""
    config = dataclasses.replace(small.CONFIG, joint=JointSettings(learning_rate=2e-3, gradient_clip=1.0, refit_steps=9))
    explain = small.explainer(small.tiny(), joint=True, config=config)
    explain.fit(data(57), epochs=3, validation=data(13), progress=False)
    return told(explain) | {"classifier": explain.model.state_dict(), "account": dataclasses.asdict(explain.history.account)}


SAME = (in_memory, on_disk, uncached, built_before, reviving, by_design)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def pair(folder: Path) -> Found:
    return in_processes(*SAME, folder=folder)


def flat(value: Any) -> Iterator[float]:
    if isinstance(value, Tensor):
        yield from value.double().flatten().tolist()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from flat(dataclasses.asdict(value))
    elif isinstance(value, dict):
        for part in value.values():
            yield from flat(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from flat(part)
    elif isinstance(value, int | float):
        yield float(value)


def difference(one: Any, other: Any) -> float:
    first, second = list(flat(one)), list(flat(other))
    assert len(first) == len(second)
    return max((abs(a - b) for a, b in zip(first, second, strict=True) if not (math.isnan(a) and math.isnan(b))), default=0.0)


@pytest.mark.parametrize("case", SAME)
def test_two_processes_learn_and_judge_as_one(pair: Found, folder: Path, case: Callable[[Path], Any]) -> None:
    torch.manual_seed(0)
    alone, both = case(folder), pair[case.__name__]
    for found in both:
        if isinstance(found, Exception):
            raise found
        assert found["counts"] == alone["counts"]
        for name in alone.keys() - {"counts"}:
            assert difference(found[name], alone[name]) < CLOSE, name


def test_both_processes_hold_the_same_bits(pair: Found) -> None:
    for first, second in pair.values():
        assert difference(first, second) == 0


# ---- gradients ----


def step(own: slice) -> tuple[list[Tensor], list[Tensor]]:
    """Loss terms and the averaged gradients of one mini-batch of 9 images, of which this process has ``own``."""
    source = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    ours = Interpreter(((4, 4, 4),), (2, 10, 10), 3, 4, small.INTERPRETER)
    maps, logits, target = (torch.randn(9, *shape, generator=source)[own] for shape in ((4, 4, 4), (4,), (2, 10, 10)))
    output = ours((maps,))
    terms = interpretability_loss(
        Categorical(),
        LossWeights(zeta=1.0, eta=0.5, temperature=2.0),
        attributes=output.attributes,
        interpreter_logits=output.logits,
        classifier_logits=logits,
        reconstruction=output.reconstruction,
        target=target,
    )
    terms.total.backward()
    processes.average_gradients(list(ours.parameters()))
    return [term.detach() for term in terms], [parameter.grad for parameter in ours.parameters() if parameter.grad is not None]


def five_and_four(folder: Path) -> Any:
    return step(slice(0, 5) if processes.is_main() else slice(5, 9))


def nine_and_none(folder: Path) -> Any:
    return step(slice(0, 9) if processes.is_main() else slice(9, 9))


def narrowed(own: slice) -> Any:
    """The components of a wide tap, told by the first 50 of 80 images, and ``own`` images in them."""
    source = torch.Generator().manual_seed(2)
    maps = torch.randn(80, 6, 2, 2, generator=source) * torch.arange(1.0, 7.0).view(1, 6, 1, 1)
    parts = [LearningBatch((part,), torch.zeros(len(part), 2), part, torch.zeros(len(part))) for part in maps[own].split(10)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "IMAGES", 50)
        found, stream = components.in_components(iter(parts), 3)
        assert found is not None
        return found.tensors(), torch.cat([batch.activations[0] for batch in stream])


def forty_and_forty(folder: Path) -> Any:
    return narrowed(slice(0, 40) if processes.is_main() else slice(40, 80))


@pytest.fixture(scope="module")
def gradients() -> Found:
    return in_processes(five_and_four, nine_and_none, forty_and_forty)


def test_components_are_told_by_the_first_images_whoever_reads_them(gradients: Found) -> None:
    expected, rows = narrowed(slice(None))
    assert expected["0.basis"].shape == (6, 3)
    for (found, own), part in zip(gradients["forty_and_forty"], (rows[:40], rows[40:]), strict=True):
        assert difference(found, expected) == 0
        assert difference(own, part) == 0


@pytest.mark.parametrize("case", ["five_and_four", "nine_and_none"])
def test_losses_and_gradients_are_those_of_the_whole_mini_batch(gradients: Found, case: str) -> None:
    terms, expected = step(slice(None))
    assert max(float(gradient.abs().max()) for gradient in expected) > 0.1
    for found in gradients[case]:
        assert difference(found[0], terms) < 1e-6
        assert difference(found[1], expected) < 1e-6


# ---- streams, files, failures ----


class Stream(IterableDataset[Tensor]):
    """Batches of a process's own: ``lengths[rank]`` of them; beyond ``breaks`` readings it raises in the second process."""

    def __init__(self, lengths: tuple[int, int], breaks: int | None = None) -> None:
        self.lengths, self.breaks, self.readings = lengths, breaks, 0

    def __iter__(self) -> Iterator[Tensor]:
        self.readings += 1
        own = small.images(8 * self.lengths[processes.rank()], seed=processes.rank()).split(8)
        for place, batch in enumerate(own):
            if self.breaks is not None and self.readings > self.breaks and processes.rank() == 1 and place == 1:
                raise OSError("the disk is gone")
            yield batch


def uneven(folder: Path) -> Any:
    """Live streams of five and of two batches."""
    explain = small.explainer()
    history = explain.fit(Stream((5, 2)), cache="off", epochs=2, progress=False)
    evaluation = explain.evaluate(Stream((5, 2)))
    return [record.steps for record in history], evaluation.samples


def broken_pass(folder: Path) -> Any:
    small.explainer().fit(Stream((3, 3), breaks=0), progress=False)


def broken_later(folder: Path) -> Any:
    small.explainer().fit(Stream((3, 3), breaks=3), cache="off", epochs=9, progress=False)


def broken_evaluation(folder: Path) -> Any:
    small.fitted().evaluate(Stream((3, 3), breaks=0))


def of_another_classifier(folder: Path) -> Any:
    small.explainer(small.tiny(processes.rank())).fit(data(), progress=False)


class Normed(small.Tiny):
    """With batch norm, dropout, and a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.unused = nn.BatchNorm2d(small.CHANNELS), nn.Dropout(0.2), nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(self.drop(self.norm(images)))


def normed_by_design(folder: Path) -> Any:
    torch.manual_seed(0)
    model = Normed()
    model.conv2.bias.requires_grad_(False)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    explain = small.explainer(model, joint=True)
    explain.fit(data(60), epochs=2, validation=data(20), progress=False)
    same = {name for name, value in model.state_dict().items() if torch.equal(value, start[name])}
    return model.state_dict(), [dataclasses.replace(record, seconds=0.0) for record in explain.history], same


def too_few(folder: Path) -> Any:
    small.explainer().fit(small.images(1), progress=False)


def saved(folder: Path) -> Any:
    explain = small.fitted()
    explain.save_pretrained(folder / "saved")
    return difference(
        FlintExplainer.from_pretrained(folder / "saved", small.tiny()).interpreter.state_dict(), explain.interpreter.state_dict()
    )


def unwritable(folder: Path) -> Any:
    (folder / "file").write_text("in the way")
    small.fitted().save_pretrained(folder / "file")


def resumed(folder: Path) -> Any:
    """Killed after the third epoch, gone on from the checkpoint."""
    keep, epochs = FitCheckpoint.save, 0

    def killed(self: FitCheckpoint, *state: Any) -> None:
        nonlocal epochs
        keep(self, *state)
        epochs += 1
        if epochs == 3:
            raise KeyError("killed")

    FitCheckpoint.save = killed  # type: ignore[method-assign]
    try:
        fitted(checkpoint_dir=folder / "checkpoint")
    except (KeyError, ProcessFailedError) as error:
        first = type(error).__name__
    finally:
        FitCheckpoint.save = keep  # type: ignore[method-assign]
    written = json.loads(json.dumps(sorted(path.name for path in (folder / "checkpoint").iterdir())))
    return first, written, told(fitted(checkpoint_dir=folder / "checkpoint", resume=True))


def shown(folder: Path) -> Any:
    with redirect_stderr(io.StringIO()) as written:
        small.explainer().fit(data(), max_steps=5)
    return "fit" in written.getvalue()


def in_parts(folder: Path) -> Any:
    cache = small.explainer().cache(data(), folder=folder / "parts", progress=False)
    try:
        cache.select(torch.tensor([0]))
    except ConfigurationError as error:
        return len(cache), len(cache.rows), str(error)


def beside_a_whole_one(folder: Path) -> Any:
    small.explainer().cache(data(), folder=folder / "cache-of-1", progress=False)


def with_a_whole_one(folder: Path) -> Any:
    return told(fitted(cache=ActivationCache.open(folder / "cache-of-1")))


def each_by_itself(folder: Path) -> Any:
    """What only one process asks for does not wait for the others."""
    explain = small.fitted()
    return explain.cards(small.images(16), [(0, 0)], k=1, budget_seconds=5.0) and "drawn" if processes.is_main() else "went on"


def broken_step(folder: Path) -> Any:
    """The second process fails in the middle of its third step, while the first waits for its part of the sums."""
    whole, steps = Trainer._forward, 0

    def forward(self: Trainer, batch: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 3 and not processes.is_main():
            raise OSError("the device is gone")
        return whole(self, batch)

    Trainer._forward = forward  # type: ignore[method-assign]
    try:
        return fitted()
    finally:
        Trainer._forward = whole  # type: ignore[method-assign]


def after_it(folder: Path) -> Any:
    return fitted()


OTHER = (
    uneven,
    broken_pass,
    broken_later,
    broken_evaluation,
    of_another_classifier,
    normed_by_design,
    too_few,
    saved,
    unwritable,
    resumed,
    shown,
    in_parts,
    beside_a_whole_one,
    with_a_whole_one,
    each_by_itself,
)


@pytest.fixture(scope="module")
def others(folder: Path) -> Found:
    small.explainer().cache(in_order(), folder=folder / "cache-of-1", precision="float32", overwrite=True, progress=False)
    return in_processes(*OTHER, folder=folder)


def test_processes_with_other_numbers_of_batches_go_on_together(others: Found) -> None:
    for steps, samples in others["uneven"]:
        assert steps == [5, 10]
        assert samples == 8 * 7


@pytest.mark.parametrize("case", ["broken_pass", "broken_later", "broken_evaluation"])
def test_where_one_process_fails_the_others_hear_of_it(others: Found, case: str) -> None:
    first, second = others[case]
    assert isinstance(first, ProcessFailedError)
    assert str(first) == "1 of 2 processes failed: process 1: OSError: the disk is gone"
    assert isinstance(second, OSError)


def test_a_failure_in_the_middle_of_a_step_keeps_nobody_waiting(folder: Path) -> None:
    found = in_processes(broken_step, after_it, folder=folder)
    first, second = found["broken_step"]
    assert isinstance(first, ProcessFailedError)
    assert isinstance(second, OSError)
    assert all(isinstance(error, ProcessFailedError) for error in found["after_it"])


@pytest.mark.parametrize(
    ("case", "kind", "message"),
    [
        ("of_another_classifier", ConfigurationError, "classifier, settings and data of a fit must be the same in all 2 processes"),
    ],
)
def test_what_two_processes_cannot_do_is_refused_in_both(others: Found, case: str, kind: type[Exception], message: str) -> None:
    for error in others[case]:
        assert isinstance(error, kind)
        assert message in str(error)


def test_a_classifier_that_learns_is_the_same_in_both_with_batch_norm_and_what_does_not_learn(others: Found) -> None:
    first, second = others["normed_by_design"]
    assert difference(first[:2], second[:2]) == 0
    assert first[2] == {"unused.weight", "unused.bias", "conv2.bias"}


def test_fewer_images_than_processes_are_refused(others: Found) -> None:
    errors = others["too_few"]
    assert {type(error) for error in errors} == {EmptyDataError, ProcessFailedError}
    assert all("fewer images" in str(error) for error in errors)


def test_what_the_main_process_saves_is_there_for_all(others: Found) -> None:
    assert others["saved"] == [0, 0]


def test_what_the_main_process_cannot_save_fails_everywhere(others: Found) -> None:
    main, other = others["unwritable"]
    assert isinstance(main, ArtifactError)
    assert isinstance(other, ProcessFailedError)


def test_a_fit_that_was_killed_goes_on_from_the_main_process_checkpoint(others: Found, pair: Found) -> None:
    for (error, written, found), unbroken in zip(others["resumed"], pair["in_memory"], strict=True):
        assert error in ("KeyError", "ProcessFailedError")
        assert written == [FILE_NAME]
        assert difference(found, unbroken) == 0


def test_only_the_main_process_shows_progress(others: Found) -> None:
    assert others["shown"] == [True, False]


def test_a_cache_is_kept_in_parts_and_opened_by_as_many_processes(others: Found, folder: Path) -> None:
    for (images, here, refusal), rows in zip(others["in_parts"], (30, 31), strict=True):
        assert (images, here) == (61, rows)
        assert refusal == f"this process has {rows} of 61 cached images; choosing among them needs them all"
    with pytest.raises(NotAnArtifactError, match=r"in parts .* open it with as many processes as wrote it, not with 1"):
        ActivationCache.open(folder / "parts")


def test_parts_are_not_written_beside_a_whole_cache(others: Found) -> None:
    for error in others["beside_a_whole_one"]:
        assert "holds an activation cache of one process" in str(error)


def test_a_whole_cache_is_not_written_beside_parts(others: Found, folder: Path) -> None:
    with pytest.raises(ArtifactError, match="holds parts of an activation cache of several processes"):
        small.explainer(small.tiny()).cache(small.images(), folder=folder / "parts", progress=False)


def test_a_whole_cache_is_shared(others: Found, folder: Path) -> None:
    alone = with_a_whole_one(folder)
    for found in others["with_a_whole_one"]:
        assert found["counts"] == alone["counts"]
        assert difference(found["weights"], alone["weights"]) < CLOSE


def test_what_one_process_asks_alone_waits_for_nobody(others: Found) -> None:
    assert others["each_by_itself"] == ["drawn", "went on"]


SCRIPT = """
from pathlib import Path
import sys
from flint_posthoc import processes
device = processes.start()
Path(sys.argv[1], str(processes.rank())).write_text(f"{device} {processes.gather(processes.rank())} {processes.local_size()}")
"""


def test_torchrun_starts_what_start_connects(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    root = Path(processes.__file__).parents[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    command += ["script.py", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, cwd=tmp_path, env=environment, timeout=300, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["cpu [0, 1] 2"] * 2


def test_one_process_meets_nobody() -> None:
    assert processes.start() == torch.device("cpu") or torch.cuda.is_available()
    assert (processes.size(), processes.rank(), processes.is_main()) == (1, 0, True)
    assert processes.gather("word") == ["word"]
    with pytest.raises(KeyError), processes.together():
        raise KeyError
