"""Figures are drawn without pyplot, which keeps them all in a global list and may open a window."""

import sys

import pytest


@pytest.fixture
def without_pyplot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails whatever imports pyplot."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
