"""The whole report on a tiny fit: what is written, when it is refused, and that no half of a file ever lies about."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from torch import Tensor

from flint_posthoc import FlintExplainer
from flint_posthoc.errors import ArtifactError, AttributionError, ConfigurationError, DataError, FlintWarning, NonFinitePixelsError
from flint_posthoc.report import writing
from flint_posthoc.report.writing import write_report


@pytest.fixture(scope="module")
def explain() -> FlintExplainer:
    return small.fitted(class_names=["ant", "bee", "cat", "dog"])


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return small.images(40, seed=4)


class Unread:
    """Data that must not be touched."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("the data was read")


def test_the_whole_report_of_a_fit(explain: FlintExplainer, pixels: Tensor, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = small.loader(pixels, small.labels(explain.model, pixels), shuffle=False)
    before = small.weights(explain)
    path = write_report(explain.fitted, tmp_path / "report.html", data, title="Ants & bees", data_name="blobs", progress=False)
    page = path.read_text(encoding="utf-8")
    assert path == tmp_path / "report.html"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    for words in ("Ants &amp; bees", "Tiny", "conv1, conv2", "40 (blobs)", "ant", "Where it looks", "AM+PI"):
        assert words in page
    for measure, figure, _ in explain.evaluate(data).rows():
        assert f"<dt>{measure.replace(chr(39), '&#39;')}</dt>" in page
        assert figure in page
    assert capfd.readouterr() == ("", "")
    assert small.weights(explain) == before


def test_progress_goes_to_standard_error(
    explain: FlintExplainer, pixels: Tensor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_report(explain.fitted, tmp_path / "report.html", pixels, budget_seconds=0)
    out, err = capfd.readouterr()
    assert out == ""
    assert "reading the data" in err


def test_without_time_pictures_are_said_to_be_missing(explain: FlintExplainer, pixels: Tensor, tmp_path: Path) -> None:
    path = write_report(explain.fitted, tmp_path / "report.html", pixels, budget_seconds=0, progress=False)
    assert "not drawn: the time for pictures was spent" in path.read_text(encoding="utf-8")


def test_a_missing_folder_is_refused_before_the_data_is_read(explain: FlintExplainer, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere is no folder"):
        write_report(explain.fitted, tmp_path / "nowhere" / "report.html", Unread(), progress=False)
    with pytest.raises(ArtifactError, match="is a folder; expected the name of an HTML file"):
        write_report(explain.fitted, tmp_path, Unread(), progress=False)


def test_a_folder_that_takes_no_file_is_refused_before_the_data_is_read(
    explain: FlintExplainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(writing.tempfile, "TemporaryFile", read_only)
    with pytest.raises(ArtifactError, match=r"cannot be written to: .*Read-only file system"):
        write_report(explain.fitted, tmp_path / "report.html", Unread(), progress=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(explain: FlintExplainer, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ArtifactError, match="cannot be written to"):
        write_report(explain.fitted, tmp_path / "report.html", Unread(), progress=False)


def test_data_that_can_be_read_once_is_refused(explain: FlintExplainer, pixels: Tensor, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one-shot iterator \(generator\), and a report reads it twice"):
        write_report(explain.fitted, tmp_path / "report.html", small.generated(pixels), progress=False)


@pytest.mark.parametrize("settings", [{"budget_seconds": -1}, {"samples": -1}, {"threshold": 1.0}, {"threshold": float("nan")}])
def test_settings_out_of_range_are_refused(explain: FlintExplainer, tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="a report needs a budget and samples of at least 0"):
        write_report(explain.fitted, tmp_path / "report.html", Unread(), progress=False, **settings)


def test_an_unreadable_image_is_a_typed_error_and_the_old_report_stays(explain: FlintExplainer, pixels: Tensor, tmp_path: Path) -> None:
    path, spoilt = tmp_path / "report.html", pixels.clone()
    path.write_text("the old one")
    spoilt[20, 0, 0, 0] = torch.nan
    with pytest.raises(NonFinitePixelsError, match="1 pixels in 1 of"):
        write_report(explain.fitted, path, spoilt, progress=False)
    assert path.read_text() == "the old one"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_disk_that_fills_up_leaves_nothing_half_written(
    explain: FlintExplainer, pixels: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "report.html"
    path.write_text("the old one")
    monkeypatch.setattr("flint_posthoc.storage.os.replace", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        write_report(explain.fitted, path, pixels, budget_seconds=0, progress=False)
    assert path.read_text() == "the old one"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_pictures_that_fail_do_not_lose_what_was_computed(
    explain: FlintExplainer, pixels: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise AttributionError("no <method> holds")

    monkeypatch.setattr(writing, "draw_cards", failing)
    with pytest.warns(FlintWarning, match="the report has no pictures of attributes: no <method> holds"):
        path = write_report(explain.fitted, tmp_path / "report.html", pixels, progress=False)
    page = path.read_text(encoding="utf-8")
    assert "The pictures of attributes could not be drawn: no &lt;method&gt; holds" in page
    assert "without pictures" in page
    assert "fidelity" in page


def test_a_class_that_was_never_seen_and_attributes_that_never_fire_are_said(pixels: Tensor, tmp_path: Path) -> None:
    explain = small.fitted(class_names=["ant", "bee", "cat", "dog"])
    with torch.no_grad():
        explain.interpreter.head.bias[2] = -1e3
        explain.interpreter.attribute_network.linear.bias[1] = -1e3
    path = write_report(explain.fitted, tmp_path / "report.html", pixels, budget_seconds=0, progress=False)
    page = path.read_text(encoding="utf-8")
    assert "the interpreter predicted this class for none of the images" in page
    assert "silent on every image: φ1" in page
