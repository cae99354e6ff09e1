"""The examples on real data, with few images and steps: they run, and leave figures and pictures where they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
QUICK = {
    "fashion_mnist": ["--layers", "conv2", "--images", "300", "--max-steps", "4", "--seeds", "3"],
    "imagenette": ["--images", "16", "--max-steps", "2", "--seeds", "1"],
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", QUICK)
def test_an_example_leaves_figures_and_pictures(name: str, real_data: Path, tmp_path: Path) -> None:
    pictures, results = tmp_path / "pictures", tmp_path / "results"
    command = [sys.executable, "-m", f"examples.{name}.run", *QUICK[name]]
    places = ["--data", str(real_data), "--output", str(pictures), "--results", str(results)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run([*command, *places], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    record = json.loads((results / "results.json").read_text())
    made = record["circumstances"]
    assert made["command"].split()[3:] == QUICK[name]  # it can be repeated, and no path of this machine is in it
    assert str(tmp_path) not in (results / "results.json").read_text()
    (run,) = record["runs"]
    assert run["evaluation"]["fidelity"] == run["figures"]["fidelity"] == record["summary"]["fidelity"]["mean"]
    assert "| fidelity |" in (results / "results.md").read_text()
    (drawn,) = pictures.rglob(f"seed-{run['seed']}")
    expected = {"overview.png", "classes.png", "attributes.png", "reconstructions.png", "fit.png", "interpreter"}
    assert expected <= {path.name for path in drawn.iterdir()}


def test_several_seeds_give_a_mean_with_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from examples.results import MEASURES, summary

    fidelities = [0.95, 0.97, 0.96]
    rows = [dict.fromkeys(MEASURES, 1.0) | {"fidelity": value, "fidelity_on_errors": None} for value in fidelities]
    found = summary(rows)
    half = stats.t.ppf(0.975, 2) * stats.sem(fidelities)
    assert found["fidelity"] == {"mean": pytest.approx(0.96), "interval": pytest.approx(half, rel=1e-3)}
    assert found["fidelity_on_errors"] == {"mean": None, "interval": None}
    assert summary(rows[:1])["fidelity"] == {"mean": 0.95, "interval": None}


@pytest.mark.real_data
def test_a_third_partys_accuracy_is_what_its_publishers_say(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from examples.fashion_mnist import task

    images, labels = task.images(real_data, train=False).tensors
    with torch.no_grad():
        predicted = torch.cat([task.classifier(real_data)(part).argmax(dim=1) for part in images.split(500)])
    assert int((predicted == labels).sum()) == 8687
