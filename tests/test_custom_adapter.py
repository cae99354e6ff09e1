"""The worked example of an adapter: used by argument and by entry point, and its maps stand as the image does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import EntryPoint

import pytest
import torch

from examples.custom_adapter import columns
from flint_posthoc import FlintExplainer
from flint_posthoc.classifier import adapter as adapters


def test_the_example_runs() -> None:
    explain = columns.main()
    assert explain.fitted.class_names == ("dark", "grey", "bright")
    assert explain.fitted.view.tap_shapes == ((16, 4, 2),)
    assert explain.fitted.normalization.mean == (0.5,)


def test_tokens_come_back_to_their_places() -> None:
    model, images = columns.ColumnNet(), torch.zeros(1, 1, 16, 8)
    images[0, 0, 12:, :4] = 9  # the patch at the bottom left
    explain = FlintExplainer(model, layers=["mix"], adapter=columns.ColumnAdapter(), num_attributes=4)
    explain.fit(torch.randn(32, 1, 16, 8).split(16), max_steps=2, progress=False)
    with explain.fitted.view.frozen() as run:
        maps = (run.activations(images)[0] - run.activations(torch.zeros_like(images))[0]).abs().sum(dim=1)[0]
    assert maps.nonzero().tolist() == [[3, 0]]


def test_it_is_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: Callable[..., object] = adapters.entry_points
    own = EntryPoint("columns", "examples.custom_adapter.columns:ColumnAdapter", adapters.ENTRY_POINTS)
    monkeypatch.setattr(adapters, "entry_points", lambda group: [*installed(group=group), own])  # type: ignore[misc]
    assert isinstance(adapters.find_adapter(columns.ColumnNet()), columns.ColumnAdapter)
    assert not isinstance(adapters.find_adapter(torch.nn.Linear(2, 2)), columns.ColumnAdapter)


def test_without_it_the_confidence_is_taken_for_the_answer() -> None:
    explain = FlintExplainer(columns.ColumnNet(), layers=["mix"], num_attributes=4)
    explain.fit(torch.randn(32, 1, 16, 8).split(16), max_steps=2, progress=False)
    assert explain.fitted.view.kind.name == "binary"


def test_the_adapter_is_short() -> None:
    assert len(inspect.getsource(columns.ColumnAdapter).splitlines()) < 40
