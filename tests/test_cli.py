"""The command line, run in this process: what it prints and writes, and that errors of ours come without a traceback and with code 2."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from flint_posthoc import FlintConfig, FlintExplainer, JointSettings, Normalization
from flint_posthoc.cli import COMMANDS, main
from flint_posthoc.demo.digits import digits, digits_classifier
from flint_posthoc.errors import ArtifactError, ConfigurationError, DataError
from flint_posthoc.sources.classifiers import build_classifier, load_weights
from flint_posthoc.sources.options import ClassifierOptions, ReadingOptions
from flint_posthoc.sources.pictures import open_data
from flint_posthoc.storage import write_tensors

MODEL = ["--model", "flint_posthoc.demo.digits:digits_classifier"]
READING = ["--size", "8", "--mean", "0.3", "--std", "0.38"]
QUICK = ["--max-steps", "12", "--num-attributes", "8"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ``fit`` wrote."""
    folder = tmp_path_factory.mktemp("cli") / "interpreter"
    assert main(["fit", *MODEL, *READING, *QUICK, "--data", "digits", "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Pictures of two digits, divided into train/ and val/."""
    for split, part in (("train", "train"), ("val", "test")):
        pictures = open_data("digits", part)
        for index in range(40):
            picture, label = pictures[index]
            if label in (1, 4):
                path = tmp_path / "pictures" / split / f"digit {label}" / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.resize((20, 24)).save(path)
    return tmp_path / "pictures"


# ---- what the commands do ----


def test_layers_says_which_and_why_and_what_they_put_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", *MODEL, *READING]) == 0
    out = capsys.readouterr().out
    assert out.startswith("layers: block3 (block3 (48 x 4 x 4, 60% of the linear layers before it) is the deepest good layer")
    assert "48x4x4" in out
    assert "images 1x8x8, 10 classes" in out


def test_layers_takes_names_and_the_size_of_an_image_from_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", *MODEL, "--mean", "0.3", "--std", "0.38", "--data", "digits", "--layers", "block2", "block3"]) == 0
    assert capsys.readouterr().out.startswith("layers: block2 block3\n")


def test_layers_measures_on_request_and_needs_data_for_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["layers", *MODEL, *READING, "--measure"]) == 2
    assert "--measure needs --data" in capsys.readouterr().err

    def told(self: FlintExplainer, data: DataLoader, *, folds: int, progress: bool) -> str:
        return f"compared over {folds} folds of {len(data.dataset)} images, {self.config.settings.max_steps} steps each"

    monkeypatch.setattr(FlintExplainer, "compare_layers", told)
    command = ["layers", *MODEL, *READING, "--data", "digits", "--measure", "--folds", "2"]
    assert main(command) == 0
    assert "compared over 2 folds of 1437 images, auto steps each" in capsys.readouterr().out
    assert main([*command, "--max-steps", "9"]) == 0
    assert "9 steps each" in capsys.readouterr().out


@pytest.mark.filterwarnings("always::flint_posthoc.errors.FlintWarning")
def test_fit_judges_saves_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    arguments = ["--data", "digits", "--validation", "digits", "--output", str(folder), "--classes", "1", "4", "7"]
    assert main(["fit", *MODEL, *READING, *QUICK, *arguments]) == 0
    captured = capsys.readouterr()
    assert "restricted to 3 of its 10 classes" in captured.out
    assert "fidelity" in captured.out
    assert "labels are left out: the data has 10 classes, 3 are explained" in captured.err
    assert sorted(path.name for path in folder.iterdir()) == ["flint.json", "history.png", "interpreter.safetensors"]


def test_options_come_from_yaml_and_the_command_line_goes_first(fitted: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        "model: flint_posthoc.demo.digits:digits_classifier\nsize: [8]\nmean: [0.3]\nstd: [0.38]\ndata: digits\n"
        "max_steps: 12\nnum_attributes: 9\nloss: {beta: 5.0}\n"
    )
    assert main(["fit", "--config", str(settings), "--num-attributes", "8", "--output", str(tmp_path / "a")]) == 0
    assert main(["fit", *MODEL, *READING, *QUICK, "--data", "digits", "--loss.beta", "5", "--output", str(tmp_path / "b")]) == 0
    one, other, plain = ((folder / "interpreter.safetensors").read_bytes() for folder in (tmp_path / "a", tmp_path / "b", fitted))
    assert one == other
    assert one != plain  # β took part


def test_a_fit_is_kept_and_resumed(fitted: Path, tmp_path: Path) -> None:
    kept = ["--checkpoint-dir", str(tmp_path / "kept"), "--output", str(tmp_path / "again")]
    assert main(["fit", *MODEL, *READING, *QUICK, "--data", "digits", *kept]) == 0
    assert main(["fit", *MODEL, *READING, *QUICK, "--data", "digits", *kept, "--resume"]) == 0
    assert (tmp_path / "again" / "interpreter.safetensors").read_bytes() == (fitted / "interpreter.safetensors").read_bytes()


def test_evaluate_prints_and_writes_what_the_library_finds(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.json"
    assert main(["evaluate", *MODEL, "--interpreter", str(fitted), "--data", "digits", "--json", str(path)]) == 0
    expected = FlintExplainer.from_pretrained(fitted, digits_classifier()).evaluate(digits().test)
    figures = json.loads(path.read_text())
    assert figures["samples"] == 360
    assert figures["classifier_accuracy"] == expected.classifier_accuracy
    assert figures["fidelity"] == pytest.approx(expected.fidelity, abs=0.01)  # the command line reads 8-bit pictures
    assert f"{100 * figures['fidelity']:.2f} %  of the images" in capsys.readouterr().out


def test_explain_tells_draws_and_writes(fitted: Path, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted((folders / "val").rglob("*.png"))[:3]
    output = tmp_path / "why"
    assert main(["explain", *map(str, files), *MODEL, "--interpreter", str(fitted), "--output", str(output), "--for-class", "4"]) == 0
    out = capsys.readouterr().out
    stored = json.loads((output / "explanations.json").read_text())
    assert [row["file"] for row in stored["images"]] == [str(file) for file in files]
    for row, file in zip(stored["images"], files, strict=True):
        assert row["explained_class"] == 4
        assert f"{file}: '4' because of" in out
        assert isinstance(row["agrees"], bool)
        with Image.open(output / row["picture"]) as picture:
            assert picture.format == "PNG"


def test_folders_of_pictures_are_read_by_split_and_scaled(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, figures = tmp_path / "out", tmp_path / "figures.json"
    arguments = ["--data", str(folders), "--classes", "1", "4", "--output", str(output), "--num-attributes", "3", "--max-steps", "3"]
    assert main(["fit", *MODEL, *READING, *arguments]) == 0
    assert json.loads((output / "flint.json").read_text())["class_names"] == ["digit 1", "digit 4"]
    assert main(["evaluate", *MODEL, "--interpreter", str(output), "--data", str(folders), "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    assert found["samples"] == len(list((folders / "val").rglob("*.png")))
    assert found["classifier_accuracy"] is not None
    said = capsys.readouterr()
    assert "labels are left out" not in said.err
    assert "no val/ or test/" not in said.out
    assert main(["evaluate", *MODEL, "--interpreter", str(output), "--data", str(folders / "train")]) == 0
    assert "train has no val/ or test/ in it; figures flatter an interpreter" in capsys.readouterr().out


def test_demo_prints_what_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("flint_posthoc.demo.run.run_demo", lambda folder, **settings: iter([f"{folder.name} {settings['max_steps']}"]))
    assert main(["demo", "--output", str(tmp_path / "here"), "--max-steps", "7"]) == 0
    assert capsys.readouterr().out == "here 7\n\n"


def test_warnings_go_to_the_other_stream_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["layers", *MODEL, "--size", "1", "8", "8"]) == 0
    captured = capsys.readouterr()
    assert (
        captured.err
        == "flint-posthoc: no normalisation is known for this classifier: it gets pixels in [0, 1] as they are (--mean and --std set it)\n"
    )
    assert captured.out.startswith("layers:")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_shows_options_with_hyphens_and_tells_what_they_mean(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "--max_steps" not in out
    assert not command or "_" not in "".join(word for word in out.split() if word.startswith("--"))


# ---- errors ----


WRONG: dict[str, tuple[list[str], str]] = {
    "no such family": (["layers", "--model", "resnet18"], "'resnet18' names no classifier; expected timm:NAME"),
    "no such module": (["layers", "--model", "nowhere.at_all:build"], "cannot import 'nowhere.at_all'"),
    "no such factory": (["layers", "--model", "flint_posthoc.demo.digits:missing"], "has no function or class 'missing'"),
    "a factory that fails": (["layers", "--model", "torch.nn:Linear"], "torch.nn:Linear failed: TypeError: "),
    "no classifier": (["layers", "--model", "flint_posthoc.demo.digits:digits"], "gave a DigitsSplit; expected a torch.nn.Module"),
    "no such timm model": (["layers", "--model", "timm:resnet_18"], "timm:resnet_18 cannot be had"),
    "no size": (["layers", *MODEL, "--mean", "0.3", "--std", "0.38"], "the size of an image is not known"),
    "bad size": (["layers", *MODEL, *READING[2:], "--size", "1", "8", "8", "8"], "size takes a side"),
    "std missing": (["layers", *MODEL, "--size", "8", "--mean", "0.3"], "needs one mean and one std a channel"),
    "unknown layer": (["layers", *MODEL, *READING, "--layers", "blok3"], "block3"),
    "no such class": (["layers", *MODEL, *READING, "--classes", "1", "99"], "classes=[99] are no outputs"),
    "no weights": (["layers", *MODEL, "--weights", "nothing.pt"], "nothing.pt is no file of weights"),
    "no data": (["fit", *MODEL, *READING, "--data", "nowhere"], "'nowhere' is neither a folder of pictures nor one of digits, mnist"),
    "crop": (["layers", *MODEL, *READING, "--crop", "1.5"], "the share of a picture that is shown must be in (0, 1], got 1.5"),
    "batch size": (["fit", *MODEL, *READING, "--data", "digits", "--batch-size", "0"], "batch_size must be at least 1"),
    "J": (["fit", *MODEL, *READING, "--data", "digits", "--num-attributes", "0"], "num_attributes must be at least 1"),
    "no interpreter": (["evaluate", *MODEL, "--interpreter", "nowhere/at/all", "--data", "digits"], "does not exist"),
    "loss": (["fit", *MODEL, "--data", "digits", "--loss.beta", "-1"], "loss weights must be numbers of at least 0"),
    "device": (["layers", *MODEL, *READING, "--device", "toaster"], "toaster"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_error_of_ours_is_one_line_and_code_2(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = WRONG[case]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("flint-posthoc: error: ")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [[], ["fly"], ["layers"], ["fit", *MODEL, "--data", "digits", "--max-steps", "many"]])
def test_a_wrong_call_is_code_2_too(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_another_classifier_is_refused_unless_one_insists(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = digits_classifier()
    with torch.no_grad():
        other.head[0].bias += 1
    write_tensors(tmp_path / "other.safetensors", other.state_dict())
    arguments = ["evaluate", *MODEL, "--weights", str(tmp_path / "other.safetensors"), "--interpreter", str(fitted), "--data", "digits"]
    assert main(arguments) == 2
    assert "was fitted to another classifier" in capsys.readouterr().err
    assert main([*arguments, "--allow-other-classifier", "true"]) == 0
    assert "note: " in capsys.readouterr().out


def test_a_file_that_is_no_picture_is_named(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert main(["explain", str(tmp_path / "broken.png"), *MODEL, "--interpreter", str(fitted), "--output", str(tmp_path)]) == 2
    assert "broken.png cannot be read as a picture" in capsys.readouterr().err


def test_a_broken_file_among_good_ones_does_not_lose_the_others(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["good.png", "broken.png", "good <b>&.png"]
    for name in names:
        Image.fromarray(np.full((8, 8), 90, dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    output = tmp_path / "out" / "deeper"
    command = ["explain", *(str(tmp_path / name) for name in names), *MODEL, "--interpreter", str(fitted), "--output", str(output)]
    assert main(command) == 2
    stored = json.loads((output / "explanations.json").read_text())
    assert [Path(image["file"]).name for image in stored["images"]] == ["good.png", "good <b>&.png"]
    assert "broken.png" in stored["unreadable"][0]
    assert len(list(output.glob("*.png"))) == 2
    assert "1 of 3 files could not be read" in capsys.readouterr().err


def test_a_class_is_called_by_name_or_number(fitted: Path, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = min((folders / "val").rglob("*.png"))
    command = ["explain", str(file), *MODEL, "--interpreter", str(fitted), "--output", str(tmp_path)]
    for word in ("7", "classifier"):
        assert main([*command, "--for-class", word]) == 0
    assert main([*command, "--for-class", "seven"]) == 2
    assert "for_class must be 'interpreter', 'classifier', a class, by number or name" in capsys.readouterr().err


def test_where_nothing_can_be_read_what_was_there_stays(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "explanations.json").write_text("of yesterday")
    assert main(["explain", str(tmp_path), *MODEL, "--interpreter", str(fitted), "--output", str(output)]) == 2
    assert (output / "explanations.json").read_text() == "of yesterday"
    said = capsys.readouterr().err
    assert "is a folder; name the pictures in it" in said
    assert "none of 1 files could be read; nothing was written" in said


def test_a_report_of_a_saved_interpreter(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "report.html"
    command = ["report", *MODEL, "--interpreter", str(fitted), "--data", "digits", "--budget-seconds", "0", "--output", str(target)]
    assert main([*command, "--title", "Digits & <co>"]) == 0
    text = target.read_text()
    assert "Digits &amp; &lt;co&gt;" in text
    assert text.rstrip().endswith("</html>")
    assert str(target) in capsys.readouterr().out
    assert main([*command[:-1], str(tmp_path / "missing" / "report.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:labels are left out")
def test_a_report_says_where_its_figures_may_flatter(fitted: Path, folders: Path, tmp_path: Path) -> None:
    target, command = tmp_path / "report.html", ["report", *MODEL, "--interpreter", str(fitted), "--budget-seconds", "0"]
    for data, flatters in ((folders, False), (folders / "train", True)):
        assert main([*command, "--data", str(data), "--output", str(target)]) == 0
        assert ("flatter an interpreter that learnt from the same pictures" in target.read_text()) == flatters


def test_figures_are_written_though_nobody_reads_on(fitted: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = ["evaluate", *MODEL, "--interpreter", str(fitted), "--data", "digits", "--json", str(figures)]
    with subprocess.Popen([sys.executable, "-m", "flint_posthoc", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.close()
        said = running.stderr.read().decode()
    assert (running.returncode, "Traceback" in said, "BrokenPipe" in said) == (1, False, False), said
    assert json.loads(figures.read_text())["samples"] > 0


def test_a_classifier_that_learnt_too_is_loaded_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels, labels = digits().train.tensors
    config = FlintConfig(joint=JointSettings(refit_steps=0))
    explain = FlintExplainer(digits_classifier(), joint=True, config=config, normalization=Normalization((0.3,), (0.38,)))
    explain.fit([(pixels[:256], labels[:256])], max_steps=2, progress=False)
    explain.save_pretrained(tmp_path)
    command = ["evaluate", *MODEL, "--interpreter", str(tmp_path), "--data", "digits"]
    assert main(command) == 2
    assert "--load-classifier" in capsys.readouterr().err
    assert main([*command, "--load-classifier"]) == 0


def test_from_a_shell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flint_posthoc", "layers", "--model", "own_model:build"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("flint-posthoc: error: cannot import 'own_model'")
    assert result.stderr.count("\n") == 1


def test_factories_of_ones_own_are_found_where_the_command_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_model.py").write_text("from torch import nn\ndef build(outputs=3):\n    return nn.Linear(2, outputs)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    try:
        assert build_classifier("own_model:build", arguments={"outputs": 5}).out_features == 5
    finally:
        sys.modules.pop("own_model", None)


# ---- weights and data by name ----


class Harmful:
    """What a pickle could run."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (print, ("harm",))


def test_weights_are_understood_as_training_scripts_leave_them(tmp_path: Path) -> None:
    trained, fresh = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    wrapped = {f"module.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "checkpoint.th")
    load_weights(fresh, tmp_path / "checkpoint.th")
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in trained.state_dict().items())
    write_tensors(tmp_path / "checkpoint.safetensors", {f"_orig_mod.{name}": value + 1 for name, value in trained.state_dict().items()})
    load_weights(fresh, tmp_path / "checkpoint.safetensors")
    assert torch.equal(fresh[0].weight, trained[0].weight + 1)


def test_weights_that_do_not_fit_say_what_is_missing(tmp_path: Path) -> None:
    torch.save({"0.weight": torch.zeros(3, 2), "1.weight": torch.zeros(2)}, tmp_path / "weights.pt")
    with pytest.raises(ArtifactError, match=r"1 weights are missing \(0\.bias\), 1 have no place \(1\.weight\)"):
        load_weights(nn.Sequential(nn.Linear(2, 3)), tmp_path / "weights.pt")
    torch.save({"0.weight": torch.zeros(9, 2), "0.bias": torch.zeros(3)}, tmp_path / "weights.pt")
    with pytest.raises(ArtifactError, match="size mismatch"):
        load_weights(nn.Sequential(nn.Linear(2, 3)), tmp_path / "weights.pt")


@pytest.mark.parametrize("content", [{"state_dict": [1]}, [torch.zeros(2)], {"harm": Harmful()}], ids=["no names", "a list", "code"])
def test_a_file_with_anything_else_is_refused(content: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ArtifactError, match=r"weights\.pt|file of weights"):
        load_weights(nn.Linear(2, 3), tmp_path / "weights.pt")
    assert "harm" not in capsys.readouterr().out


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "weights.pt")
    (tmp_path / "weights.pt").write_bytes((tmp_path / "weights.pt").read_bytes()[:300])
    with pytest.raises(ArtifactError, match="cannot be read as weights alone"):
        load_weights(nn.Linear(2, 3), tmp_path / "weights.pt")


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:squeezenet1_1"])
def test_families_are_built_with_weights_of_ones_own(name: str, tmp_path: Path) -> None:
    model = build_classifier(name, *_stored(name, tmp_path), {"num_classes": 3})
    assert not model.training
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def _stored(name: str, folder: Path) -> tuple[Path]:
    import timm
    import torchvision

    family, _, rest = name.partition(":")
    model = timm.create_model(rest, num_classes=3) if family == "timm" else torchvision.models.get_model(rest, num_classes=3)
    torch.save(model.state_dict(), folder / "weights.pt")
    return (folder / "weights.pt",)


def test_a_family_whose_library_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigurationError, match="transformers:any cannot be had: ModuleNotFoundError"):
        build_classifier("transformers:any")


def test_folders_without_the_split_that_is_needed(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="is divided into train; expected one of test, val"):
        open_data(str(tmp_path), "test")
    with pytest.raises(DataError, match="holds no folders of pictures"):
        open_data(str(tmp_path), "train")


def test_data_sets_of_torchvision_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", _offline)
    with pytest.raises(DataError, match="FashionMNIST is not below"):
        open_data(f"fashion_mnist:{tmp_path}", "test")


def _offline(*_: object, **__: object) -> None:
    raise OSError("no network")


@pytest.mark.real_data
def test_data_sets_of_torchvision_are_read_where_they_are(real_data: Path) -> None:
    pictures = open_data(f"fashion_mnist:{real_data}", "test")
    assert (len(pictures), len(pictures.classes)) == (10_000, 10)
    assert pictures[0][0].size == (28, 28)


def test_an_interpreter_of_pixels_as_they_are_is_read_without_a_normalisation(tmp_path: Path) -> None:
    """Fitted in Python on ``ToTensor`` images; where the range had to be estimated the files cannot be read."""
    explain = FlintExplainer(digits_classifier(), layers=["block2"], num_attributes=8)
    arguments = ["evaluate", *MODEL, "--interpreter", str(tmp_path), "--data", "digits"]
    for shift, code in ((0.0, 0), (-0.5, 2)):
        explain.fit(torch.rand(64, 1, 8, 8) + shift, max_steps=12, progress=False)
        explain.save_pretrained(tmp_path)
        assert main(arguments) == code


def test_what_the_outputs_mean_can_be_said(tmp_path: Path) -> None:
    arguments = ["fit", *MODEL, *READING, *QUICK, "--data", "digits", "--output", str(tmp_path)]
    assert main([*arguments, "--output-kind", "multilabel"]) == 0
    assert json.loads((tmp_path / "flint.json").read_text())["output_kind"] == "multilabel"


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_computed(
    command: str, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    where = {
        "fit": [*READING, "--output", str(tmp_path / "file" / "here")],
        "evaluate": ["--interpreter", str(fitted), "--json", str(tmp_path / "file" / "figures.json")],
    }
    monkeypatch.setattr(FlintExplainer, command, lambda *_, **__: pytest.fail("it began"))
    assert main([command, *MODEL, "--data", "digits", *where[command]]) == 2
    assert "cannot be made a folder" in capsys.readouterr().err


def test_grey_files_among_others_are_read_in_colour(tmp_path: Path) -> None:
    for index in range(12):
        path = tmp_path / "pictures" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L" if index == 0 else "RGB", (12, 12), index).save(path)
    told = ReadingOptions(mean=[0.5] * 3, std=[0.5] * 3)
    pictures = open_data(str(tmp_path / "pictures"), "train")
    form = told.form(ClassifierOptions(model="own"), nn.Conv2d(3, 2, 3), pictures)
    assert {tuple(form(pictures[index][0]).shape) for index in range(12)} == {(3, 12, 12)}
