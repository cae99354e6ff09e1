"""The sweep over J: folds, one reading of f, the measures of ``evaluate``, and the rule for the smallest J that is enough."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import left_alone
from torch import Tensor

from flint_posthoc import FlintExplainer, Normalization
from flint_posthoc.errors import ClassifierMismatchError, ConfigurationError
from flint_posthoc.evaluation.evaluation import Evaluation
from flint_posthoc.evaluation.selection import Selection, SizeScore, folds_of, recommend, sweep_sizes
from flint_posthoc.learning import cache_policy
from flint_posthoc.learning.caching.cache import ActivationCache
from flint_posthoc.learning.fitting import fit
from flint_posthoc.learning.request import FitRequest

CONFIG = dataclasses.replace(small.CONFIG, settings=dataclasses.replace(small.CONFIG.settings, max_steps=6, batch_size=12))
PLAIN = Normalization((0.0, 0.0), (1.0, 1.0))


@pytest.fixture(scope="module")
def explain() -> FlintExplainer:
    return small.explainer(config=CONFIG, normalization=PLAIN)


@pytest.fixture(scope="module")
def cache(explain: FlintExplainer) -> ActivationCache:
    return explain.cache(small.loader(small.images(48), shuffle=False), progress=False)


@pytest.fixture(scope="module")
def found(explain: FlintExplainer, cache: ActivationCache) -> Selection:
    before = small.Tiny.calls
    assert explain.preflight is not None
    selection = sweep_sizes(explain.preflight, cache, [5, 2], config=CONFIG, folds=2)
    assert small.Tiny.calls == before  # f is not run again
    return selection


def score(size: int, fidelity: float, error: float = 0.0, wasted: float = 0.0) -> SizeScore:
    return SizeScore(
        num_attributes=size, fidelity=fidelity, fidelity_error=error, reconstruction=0.5, conciseness=2.0, live=size - wasted, wasted=wasted
    )


@given(st.integers(4, 40), st.integers(2, 4), st.integers(0, 9))
def test_every_image_is_held_out_once(images: int, folds: int, seed: int) -> None:
    parts = folds_of(images, folds, seed)
    assert torch.equal(torch.cat([held for _, held in parts]).sort().values, torch.arange(images))
    for learnt, held in parts:
        assert torch.equal(torch.cat([learnt, held]).sort().values, torch.arange(images))
        assert abs(len(held) - images / folds) < 1


@pytest.mark.parametrize(
    ("scores", "tolerance", "size"),
    [
        ([score(4, 0.80), score(8, 0.95), score(16, 0.96), score(32, 0.962)], 0.005, 16),
        ([score(4, 0.80), score(8, 0.95), score(16, 0.96), score(32, 0.962)], 0.02, 8),
        ([score(4, 0.80), score(8, 0.95), score(16, 0.96), score(32, 0.962, error=0.015)], 0.005, 8),  # one standard error
        ([score(4, 0.97), score(8, 0.95)], 0.005, 4),
        ([score(4, 0.5)], 0.0, 4),
        ([score(4, 0.5), score(8, 0.6)], 0.0, 8),
    ],
)
def test_the_smallest_that_is_enough_is_recommended(scores: list[SizeScore], tolerance: float, size: int) -> None:
    assert scores[recommend(scores, tolerance)].num_attributes == size
    assert Selection(100, 3, tolerance, tuple(scores)).recommended == size


def test_a_fold_is_a_fit_on_the_rest_judged_on_what_was_left_out(explain: FlintExplainer, cache: ActivationCache, found: Selection) -> None:
    prepared = explain.preflight
    assert prepared is not None
    pixels, expected = small.images(48), []
    for learnt, held in folds_of(48, 2, 0):
        part = cache.part(learnt)
        result = fit(prepared, 5, CONFIG, FitRequest(data=(), first_pass=(), cache=part, progress=False), explain.device)
        other = small.explainer(explain.model, num_attributes=5, config=CONFIG, normalization=PLAIN)
        other.fit(pixels[learnt], progress=False, cache=part)
        assert small.weights(other) == {name: value.numpy().tobytes() for name, value in result.interpreter.state_dict().items()}
        expected.append(other.evaluate(pixels[held]))
    entry = found.scores[1]
    assert entry.num_attributes == 5
    mean = SizeScore.of(expected)
    assert entry.fidelity == pytest.approx(mean.fidelity)
    assert entry.fidelity_error == pytest.approx(mean.fidelity_error)
    assert entry.conciseness == pytest.approx(mean.conciseness)
    assert (entry.live, entry.wasted) == (mean.live, mean.wasted)
    assert entry.reconstruction == pytest.approx(mean.reconstruction, rel=1e-3)


def test_means_and_standard_errors(explain: FlintExplainer) -> None:
    whole = small.fitted().evaluate(small.images(20))
    parts: list[Evaluation] = [dataclasses.replace(whole, fidelity=value) for value in (0.5, 0.7, 0.9)]
    entry = SizeScore.of(parts)
    assert entry.fidelity == pytest.approx(0.7)
    assert entry.fidelity_error == pytest.approx(0.2 / 3**0.5)


def test_sizes_are_sorted_and_the_seed_decides(explain: FlintExplainer, cache: ActivationCache, found: Selection) -> None:
    assert [entry.num_attributes for entry in found.scores] == [2, 5]
    assert explain.preflight is not None
    assert sweep_sizes(explain.preflight, cache, [2, 5], config=CONFIG, folds=2) == found


def test_it_recommends_in_words(found: Selection) -> None:
    assert "J = 2" in str(found)
    assert f"Take J = {found.recommended}" in str(found)
    exported = found.to_dict()
    assert json.loads(json.dumps(exported, allow_nan=False)) == exported
    assert exported["recommended"] == found.recommended
    assert found.plot().axes[0].get_title() == f"How many attributes? J = {found.recommended}"
    largest = Selection(10, 2, 0.0, (score(4, 0.5), score(8, 0.6, wasted=4)))
    assert "the largest one tried" in largest.recommendation()
    assert "4.0 of its attributes are duplicates or dead" in largest.recommendation()
    middle = Selection(10, 2, 0.02, (score(4, 0.5), score(8, 0.6), score(16, 0.61)))
    assert "J = 16 would add 1.00 points" in middle.recommendation()


def test_bad_input_is_refused(explain: FlintExplainer, cache: ActivationCache) -> None:
    prepared = explain.preflight
    assert prepared is not None
    for sizes in ([], [0, 2], [3, 3]):
        with pytest.raises(ConfigurationError, match="different numbers of attributes, each at least 1"):
            sweep_sizes(prepared, cache, sizes)
    for folds in (1, 49):
        with pytest.raises(ConfigurationError, match=f"at least 2 and at most the 48 cached images, got {folds}"):
            sweep_sizes(prepared, cache, [2], folds=folds)
    with pytest.raises(ConfigurationError, match=r"tolerance must be in \[0, 1\)"):
        sweep_sizes(prepared, cache, [2], tolerance=1.0)
    other = small.explainer(small.tiny(seed=3), config=CONFIG, input_size=(2, 10, 10))
    assert other.preflight is not None
    with pytest.raises(ClassifierMismatchError, match="another classifier"):
        sweep_sizes(other.preflight, cache, [2], config=CONFIG)


def test_no_trace_stays_whatever_mode_the_caller_is_in(explain: FlintExplainer, cache: ActivationCache) -> None:
    prepared = explain.preflight
    assert prepared is not None
    with left_alone(explain.model), torch.no_grad():
        sweep_sizes(prepared, cache, [2], config=CONFIG, folds=2)


def test_images_are_counted(found: Selection) -> None:
    pixels: Tensor = small.images(48)
    assert (found.images, found.folds) == (len(pixels), 2)


def test_what_does_not_fit_the_memory_twice_goes_to_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    asked: list[Any] = []
    real = FlintExplainer.cache
    monkeypatch.setattr(FlintExplainer, "cache", lambda self, data, **how: asked.append(how["folder"]) or real(self, data, **how))
    whole = small.explainer().selection(small.images(), [2], folds=2, progress=False)
    monkeypatch.setattr(cache_policy, "free_memory", lambda: 1000)
    parts = small.explainer().selection(small.images(), [2], folds=2, progress=False)
    assert asked[0] is None
    assert Path(asked[1]).is_relative_to(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert "activations were kept on disk, in float16" in parts.notes[-1]
    assert parts.scores[0].fidelity == pytest.approx(whole.scores[0].fidelity, abs=0.1)


def test_where_the_disk_is_short_too_it_is_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_policy, "free_memory", lambda: 1000)
    monkeypatch.setattr(cache_policy, "free_bytes", lambda folder: 0)
    found = small.explainer().selection(small.images(), [2], folds=2, progress=False)
    assert not any("on disk" in note for note in found.notes)
