"""Wide taps in principal components: nothing of it is left after a fit, on disk they survive, and what they lose is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flint_posthoc import ActivationCache, FlintExplainer
from flint_posthoc.errors import ClassifierMismatchError, DamagedArtifactError
from flint_posthoc.interpreter.interpreter import InterpreterConfig
from flint_posthoc.learning.caching.components import Components, TapComponents, in_components
from flint_posthoc.learning.caching.disk import Origin, open_cache, write_cache
from flint_posthoc.learning.checkpoint import FitCheckpoint
from flint_posthoc.learning.presets import FlintConfig
from tests import small

WIDE, NARROW = 12, 5


def maps(count: int = 40, channels: int = WIDE, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, 4, 3, 3, generator=generator).transpose(1, 3) @ torch.randn(4, channels, generator=generator)
    return mixed.transpose(1, 3) * torch.linspace(0.1, 9, channels)[:, None, None] + 3


class Wide(nn.Module):
    """A classifier whose only tap has twelve channels that depend on three."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.narrow = nn.Conv2d(1, 3, 3, stride=2)
        self.wide = nn.Conv2d(3, WIDE, 1)
        self.head = nn.Linear(WIDE, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.wide(self.narrow(images)).mean(dim=(2, 3)))


def config(max_channels: int | None) -> FlintConfig:
    attributes = dataclasses.replace(small.INTERPRETER.attributes, max_channels=max_channels)
    return dataclasses.replace(small.CONFIG, interpreter=dataclasses.replace(small.INTERPRETER, attributes=attributes))


def explainer(max_channels: int | None) -> FlintExplainer:
    return FlintExplainer(Wide().eval(), layers=["wide"], num_attributes=4, config=config(max_channels))


def images(count: int = 64) -> torch.Tensor:
    return torch.randn(count, 1, 9, 9, generator=torch.Generator().manual_seed(1))


def test_channels_that_depend_on_few_come_back_whole() -> None:
    tap = TapComponents.of(maps(), NARROW)
    torch.testing.assert_close(tap.restore(tap.project(maps(seed=0))), maps(), rtol=1e-3, atol=1e-3)
    assert float(tap.kept) == pytest.approx(1, abs=1e-4)


def test_a_sum_over_components_varies_as_one_over_the_channels_would_but_for_what_was_left_out() -> None:
    wide = torch.randn(500, WIDE, 3, 3, generator=torch.Generator().manual_seed(2))
    tap = TapComponents.of(wide, NARROW)
    projected = tap.project(wide)
    assert projected.shape == (500, NARROW, 3, 3)
    assert float(projected.var()) == pytest.approx(float(tap.kept), rel=0.05)
    assert 0.4 < float(tap.kept) < 0.6
    assert projected.is_contiguous(memory_format=torch.channels_last)


def test_a_constant_channel_does_no_harm() -> None:
    wide = maps().clone()
    wide[:, 2] = 7.0
    tap = TapComponents.of(wide, NARROW)
    torch.testing.assert_close(tap.restore(tap.project(wide))[:, 2], wide[:, 2])


@pytest.mark.parametrize("silently", [False, True])
def test_where_float32_finds_no_eigenvalues_float64_does(monkeypatch: pytest.MonkeyPatch, silently: bool) -> None:
    expected, solved = TapComponents.of(maps(), NARROW), torch.linalg.eigh

    def in_doubles_only(matrix: torch.Tensor) -> Any:
        if matrix.dtype != torch.float64 and silently:
            return torch.full((len(matrix),), torch.nan), torch.full_like(matrix, torch.nan)
        if matrix.dtype != torch.float64:
            raise torch.linalg.LinAlgError("the algorithm failed to converge")
        return solved(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", in_doubles_only)
    found = TapComponents.of(maps(), NARROW)
    torch.testing.assert_close(found.restore(found.project(maps())), expected.restore(expected.project(maps())), rtol=1e-3, atol=1e-3)
    assert found.basis.dtype == torch.float32


def test_taps_that_are_not_wide_are_left_alone() -> None:
    cache = explainer(WIDE).cache(images().split(16), progress=False)
    assert cache.components is None
    assert cache.note is None
    first = object()
    assert in_components(iter([]), 3)[0] is None
    assert next(in_components(iter([first]), None)[1]) is first  # type: ignore[arg-type]


def test_after_the_fit_the_interpreter_reads_channels_and_says_the_same() -> None:
    explain = explainer(NARROW)
    cache = explain.cache(images().split(16), progress=False)
    history = explain.fit(images().split(16), cache=cache, progress=False)
    assert explain.interpreter.attribute_network.tap_shapes[0][0] == WIDE
    assert any("principal components" in note and f"{NARROW} of {WIDE}" in note for note in history.notes)
    assert cache.components is not None
    stored = cache.rows.select(torch.arange(64))
    taps, network = cache.components.taps, explain.interpreter.attribute_network
    channels = taps[0].restore(stored.activations[0])
    torch.testing.assert_close(network((channels,)), explain(images()).attributes, rtol=1e-3, atol=1e-3)


def test_where_components_hold_everything_the_fit_is_as_good() -> None:
    data = images(128).split(16)
    divergence = {}
    for limit in (NARROW, None):
        explain = explainer(limit)
        explain.fit(data, max_steps=150, progress=False)
        divergence[limit] = explain.evaluate(data).kl_divergence
    assert divergence[NARROW] < 0.05
    assert divergence[None] < 0.05


def test_a_cache_gives_all_channels_to_who_asks_for_images() -> None:
    whole, part = (explainer(limit).cache(images().split(16), progress=False) for limit in (None, NARROW))
    assert part.nbytes < whole.nbytes
    index = torch.tensor([5, 0, 17])
    torch.testing.assert_close(part.select(index).activations[0], whole.select(index).activations[0], rtol=1e-3, atol=1e-3)


def test_an_interpreter_that_wants_all_channels_learns_from_such_a_cache_too() -> None:
    cache = explainer(NARROW).cache(images().split(16), progress=False)
    explain = explainer(None)
    explain.fit(images().split(16), cache=cache, progress=False)
    assert explain(images()).attributes.isfinite().all()


def test_they_are_kept_on_disk_and_checked(tmp_path: Path) -> None:
    explain = explainer(NARROW)
    written = explain.cache(images().split(16), folder=tmp_path / "cache", precision="float32", progress=False)
    found = ActivationCache.open(tmp_path / "cache")
    assert found.components is not None
    assert written.components is not None
    for one, other in zip(found.components.taps[0], written.components.taps[0], strict=True):
        assert torch.equal(one, other)
    explain.fit(images().split(16), cache=found, progress=False)


def test_components_that_do_not_belong_to_the_rows_are_refused(tmp_path: Path) -> None:
    cache = explainer(NARROW).cache(images().split(16), progress=False)
    foreign = Components((TapComponents.of(maps(channels=WIDE), NARROW - 1),))
    origin = Origin(("wide",), None, "a" * 64)
    write_cache(tmp_path, origin, iter([cache.rows.select(torch.arange(8))]), foreign, precision="float32", needed=0, overwrite=False)
    with pytest.raises(DamagedArtifactError, match="do not belong"):
        open_cache(tmp_path)


class Stopped(Exception):
    """Raised between two epochs."""


def test_a_stopped_fit_goes_on_in_the_same_components_and_in_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = images().split(16)
    explain = explainer(NARROW)
    cache = explain.cache(data, progress=False)
    unbroken = explain.fit(data, cache=cache, progress=False)
    expected = small.weights(explain)

    saved = FitCheckpoint.save

    def save_and_stop(self: FitCheckpoint, *state: Any) -> None:
        saved(self, *state)
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(FitCheckpoint, "save", save_and_stop)
        with pytest.raises(Stopped):
            explainer(NARROW).fit(data, cache=cache, checkpoint_dir=tmp_path, progress=False)
    other = explainer(NARROW)
    elsewhere = other.cache(images().flip(0).split(16), progress=False)
    with pytest.raises(ClassifierMismatchError, match="components"):
        other.fit(data, cache=elsewhere, checkpoint_dir=tmp_path, resume=True, progress=False)
    assert len(unbroken) > 1
    resumed = explainer(NARROW)
    assert resumed.fit(data, cache=cache, checkpoint_dir=tmp_path, resume=True, progress=False) == unbroken
    assert small.weights(resumed) == expected


def test_a_tap_that_never_varies_keeps_all_of_its_variance() -> None:
    assert float(TapComponents.of(torch.ones(6, WIDE, 3, 3), NARROW).kept) == 1


@pytest.mark.parametrize("grid", [9, 12])
def test_the_narrow_twin_has_the_sizes_that_were_chosen_for_the_channels(grid: int) -> None:
    explain = FlintExplainer(Wide().eval(), layers=["wide"], num_attributes=4)
    attributes = dataclasses.replace(explain.config.interpreter.attributes, max_channels=NARROW, max_grid=grid)
    explain.config = dataclasses.replace(explain.config, interpreter=InterpreterConfig(attributes=attributes))
    pixels = torch.randn(32, 1, 33, 33, generator=torch.Generator().manual_seed(1))  # maps of 16 × 16: "auto" reads them place by place
    explain.fit(pixels.split(16), max_steps=2, progress=False)
    assert explain(pixels[:2]).attributes.isfinite().all()
