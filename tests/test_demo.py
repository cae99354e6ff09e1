"""The embedded example: its checkpoint, and the whole demonstration with a few steps."""

import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from PIL import Image

from flint_posthoc import FlintExplainer
from flint_posthoc.demo.digits import CHECKPOINT, CLASS_NAMES, IMAGE_SHAPE, NORMALIZATION, digits, digits_classifier
from flint_posthoc.demo.pictures import Album
from flint_posthoc.demo.run import FILES, run_demo
from flint_posthoc.errors import ArtifactError, ClassifierMismatchError

PICTURES = [name for name, _ in FILES if name.endswith(".png")]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where a short demonstration wrote, and what it said."""
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    return folder, "\n\n".join(run_demo(folder, max_steps=12))


def test_the_checkpoint_is_small_and_right_on_scans_that_it_was_not_trained_on() -> None:
    assert len((files("flint_posthoc.demo") / CHECKPOINT).read_bytes()) < 500_000
    images, labels = digits().test.tensors
    with torch.no_grad():
        predicted = digits_classifier()(images).argmax(dim=1)
    assert float((predicted == labels).float().mean()) > 0.97


def test_training_and_test_scans_are_all_scans_each_once() -> None:
    from sklearn.datasets import load_digits

    train, test = digits()
    pixels = NORMALIZATION.denormalize(torch.cat([train.tensors[0], test.tensors[0]])) * 16
    assert torch.equal(pixels[:, 0].round(), torch.tensor(load_digits().images, dtype=torch.float32))
    assert (len(train), len(test)) == (1437, 360)
    assert set(test.tensors[1].tolist()) == set(range(10))


def test_the_demonstration_tells_what_it_does_how_good_it_is_and_why(told: tuple[Path, str]) -> None:
    folder, text = told
    assert "It stays exactly as it is" in text
    assert (
        "The interpreter reads block3, as suggested: block3 (48 x 4 x 4, 60% of the linear layers before it) is the deepest good layer"
        in text
    )
    assert re.search(r"fidelity +\d+\.\d\d %  of the images are decided alike", text)
    assert re.search(r"^scan \d+: '3' because of φ\d+ \+1\.00", text, re.MULTILINE)
    assert f"Written to {folder.resolve()}:" in text


def test_every_file_that_is_named_is_there(told: tuple[Path, str]) -> None:
    folder, text = told
    for name, meaning in FILES:
        assert list(folder.glob(name)), name
        assert meaning in text
    assert json.loads((folder / "evaluation.json").read_text())["samples"] == 360


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_pictures(told: tuple[Path, str], name: str) -> None:
    for path in told[0].glob(name):
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) > 200
            assert len(picture.convert("L").getcolors() or range(999)) > 20  # something is drawn


def test_a_disagreement_is_said_in_words(told: tuple[Path, str]) -> None:
    assert "CAUTION: the classifier says" in told[1]


def test_the_saved_interpreter_goes_with_the_embedded_classifier_alone(told: tuple[Path, str]) -> None:
    folder = told[0] / "interpreter"
    explain = FlintExplainer.from_pretrained(folder, digits_classifier())
    assert explain(digits().test.tensors[0][:4]).class_names == CLASS_NAMES
    other = digits_classifier()
    with torch.no_grad():
        other.block1[0].weight[0, 0, 0, 0] += 1e-3
    with pytest.raises(ClassifierMismatchError, match="was fitted to another classifier"):
        FlintExplainer.from_pretrained(folder, other)


def test_an_album_without_disagreement_has_no_picture_of_one(told: tuple[Path, str], tmp_path: Path) -> None:
    explain = FlintExplainer.from_pretrained(told[0] / "interpreter", digits_classifier())
    train, test = digits()
    agreeing = test.tensors[0][explain(test.tensors[0]).agrees]
    judged = explain.evaluate([agreeing]), explain.global_interpretation([agreeing])
    shown = int(explain(agreeing).classifier_class[0])
    assert len(Album(explain, agreeing, train.tensors[0][:50], [shown]).shown) == 1
    Album(explain, agreeing, train.tensors[0][:50], []).draw(tmp_path, *judged)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attributes.png", "classes.png", "fit.png", "reconstructions.png"]


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_fitted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be made a folder"):
        next(run_demo(tmp_path / "file"))


def test_the_package_does_not_bring_the_demonstration_with_it() -> None:
    code = "import sys, flint_posthoc; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in modules if name.startswith(("flint_posthoc.demo", "flint_posthoc.cli", "flint_posthoc.sources"))]


def test_images_have_the_shape_that_is_declared() -> None:
    assert digits().train.tensors[0].shape[1:] == IMAGE_SHAPE
