"""The benchmarks measure what they say: ways take turns, ratios are of one turn, and a command leaves its table."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from examples.benchmarks import explanations, fit
from examples.benchmarks.timing import medians, ratio, take_turns

QUICK = ["--subjects", "LeNet", "--images", "256", "--repeats", "1"]


def test_ways_take_turns_and_each_is_timed() -> None:
    called: list[str] = []
    seconds = take_turns({"one": lambda: called.append("one"), "other": lambda: called.append("other")}, 3)
    assert called == ["one", "other"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"one": 3, "other": 3}
    assert all(value >= 0 for values in seconds.values() for value in values)


def test_a_ratio_is_the_median_of_ratios_within_a_turn() -> None:
    seconds = {"way": [2.0, 30.0, 9.0], "base": [1.0, 10.0, 3.0]}
    assert ratio(seconds, "way", "base") == 3
    assert medians(seconds) == {"way": 9, "base": 3}


@pytest.mark.real_data
@pytest.mark.parametrize(("benchmark", "compared"), [(explanations, "explain / bare"), (fit, "fit / bare pass")])
def test_a_benchmark_leaves_its_table(
    benchmark: object, compared: str, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [benchmark.__file__, *QUICK])  # type: ignore[attr-defined]
    benchmark.main([*QUICK, "--data", str(real_data), "--results", str(tmp_path)])  # type: ignore[attr-defined]
    (folder,) = tmp_path.iterdir()
    found = json.loads((folder / "results.json").read_text())
    assert found["measured"]["LeNet"][compared] > 0
    assert found["circumstances"]["processor"]
    assert "| LeNet |" in (folder / "results.md").read_text()
