"""Save and load: the same bits here and in another process, for that classifier only, and from whole files only."""

import dataclasses
import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from flint_posthoc.adapters.torch_module import TorchModuleAdapter
from torch import Tensor, nn

from flint_posthoc import FlintConfig, FlintExplainer, JointSettings, presets, storage
from flint_posthoc.artifact import INTERPRETER_LIMIT, JSON_NAME, TENSORS_NAME
from flint_posthoc.errors import ArtifactError, ClassifierMismatchError, DamagedArtifactError, FlintWarning, NotAnArtifactError, NotFitted
from flint_posthoc.storage import file_digest, read_tensors, write_tensors


@pytest.fixture(scope="module")
def explain() -> FlintExplainer:
    return small.fitted(class_names=["ant", "bee", "<cat>", "dög"])


@pytest.fixture
def folder(explain: FlintExplainer, tmp_path: Path) -> Path:
    return explain.save_pretrained(tmp_path / "deep" / "saved")


def results(explain: FlintExplainer) -> dict[str, Any]:
    """Everything that an explainer says of some images, bit for bit."""
    pixels = small.images(20, seed=3)
    local = explain(pixels)
    return {
        "local": local.to_dict(),
        "text": str(local),
        "reconstruction": explain.reconstruct(pixels).tolist(),
        "evaluation": explain.evaluate(pixels).to_dict(),
        "global": explain.global_interpretation(pixels).to_dict(),
        "history": explain.history.to_dict(),
        "final model": explain.as_classifier()(pixels).tolist(),
    }


def test_what_was_loaded_says_the_same_to_the_bit(explain: FlintExplainer, folder: Path) -> None:
    loaded = FlintExplainer.from_pretrained(folder, explain.model)
    assert results(loaded) == results(explain)
    assert small.weights(loaded) == small.weights(explain)
    assert loaded.layers == explain.layers == small.LAYERS
    assert not any(parameter.requires_grad for parameter in loaded.interpreter.parameters())
    assert sorted(path.name for path in folder.iterdir()) == sorted([JSON_NAME, TENSORS_NAME])


def test_it_says_the_same_in_another_process(explain: FlintExplainer, folder: Path) -> None:
    script = f"""
import json, torch
torch.set_num_threads({torch.get_num_threads()})
import small, test_artifact
from flint_posthoc import FlintExplainer
print(json.dumps(test_artifact.results(FlintExplainer.from_pretrained({str(folder)!r}, small.tiny()))))
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment, timeout=240).stdout
    assert json.loads(found) == json.loads(json.dumps(results(explain)))


def test_a_loaded_explainer_is_fitted_again_with_the_same_layers_and_classes(tmp_path: Path) -> None:
    model = small.tiny()
    folder = small.fitted(model, layers=["conv2"], classes=[3, 1], class_names=["dog", "bee"]).save_pretrained(tmp_path)
    loaded = FlintExplainer.from_pretrained(folder, model)
    loaded.fit(small.images(), max_steps=2, batch_size=8, progress=False)
    assert loaded.layers == ("conv2",)
    assert loaded.interpreter.num_attributes == 3
    local = loaded(small.images(4))
    assert (local.class_ids, local.class_names) == ((3, 1), ("dog", "bee"))


def test_the_next_fit_starts_from_the_same_settings(tmp_path: Path) -> None:
    model, config = small.tiny(), presets.authors("mnist")
    config = dataclasses.replace(config, settings=dataclasses.replace(config.settings, epochs=1), interpreter=small.CONFIG.interpreter)
    explain = small.fitted(model, config=dataclasses.replace(config, joint=JointSettings(class_weights=(1, 0.5, 2, 1), refit_steps=3)))
    loaded = FlintExplainer.from_pretrained(explain.save_pretrained(tmp_path), model)
    assert loaded.config == explain.config
    explain.fit(small.images(), batch_size=8, progress=False)
    loaded.fit(small.images(), batch_size=8, progress=False)
    assert small.weights(loaded) == small.weights(explain)


def test_an_artefact_without_settings_has_the_defaults(explain: FlintExplainer, folder: Path) -> None:
    told = json.loads((folder / JSON_NAME).read_text())
    del told["config"]
    (folder / JSON_NAME).write_text(json.dumps(told))
    loaded = FlintExplainer.from_pretrained(folder, explain.model)
    assert loaded.config == FlintConfig(interpreter=explain.config.interpreter)
    assert results(loaded) == results(explain)


@pytest.mark.parametrize("seed", [2**64 - 1, -(2**63)])
def test_seeds_of_64_bits_are_saved_and_gone_on_with(seed: int, tmp_path: Path) -> None:
    config = dataclasses.replace(small.CONFIG, settings=dataclasses.replace(small.CONFIG.settings, seed=seed, max_steps=3))
    explain = small.explainer(config=config)
    for resume in (False, True):
        explain.fit(small.images(), checkpoint_dir=tmp_path / "fit", resume=resume, progress=False)
    folder = explain.save_pretrained(tmp_path / "saved")
    assert FlintExplainer.from_pretrained(folder, explain.model).config.settings.seed == seed


@pytest.mark.parametrize(("steps", "now"), [(3000, "auto"), (0, 0)])
def test_the_settings_of_an_earlier_version_are_read(steps: int, now: int | str, explain: FlintExplainer, folder: Path) -> None:
    """In which an interpreter was not fitted anew by design."""
    told = json.loads((folder / JSON_NAME).read_text())
    del told["config"]["joint"]["refit_steps"]
    told["config"]["joint"]["refine_steps"] = steps
    (folder / JSON_NAME).write_text(json.dumps(told))
    assert FlintExplainer.from_pretrained(folder, explain.model).config.joint.refit_steps == now


@pytest.mark.parametrize(
    ("joint", "said"),
    [
        (JointSettings(prediction_loss=nn.functional.cross_entropy), "a prediction_loss is not saved; pass it again"),
        (JointSettings(gradient_clip=math.inf), "these settings cannot be saved, and a fit of what is loaded will start from the defaults"),
        (JointSettings(class_weights=(1.0,) * 2000), "these settings cannot be saved"),
    ],
)
def test_settings_that_cannot_be_kept_are_said(tmp_path: Path, joint: JointSettings, said: str) -> None:
    explain = small.fitted(config=dataclasses.replace(small.CONFIG, joint=joint))
    with pytest.warns(FlintWarning, match=said):
        folder = explain.save_pretrained(tmp_path)
    loaded = FlintExplainer.from_pretrained(folder, explain.model)
    assert loaded.config.joint == JointSettings()
    assert loaded.config.interpreter == small.CONFIG.interpreter


def test_saving_again_replaces_what_was_there(explain: FlintExplainer, folder: Path) -> None:
    other = small.fitted(explain.model, num_attributes=2)
    other.save_pretrained(folder)
    assert results(FlintExplainer.from_pretrained(folder, explain.model)) == results(other)


def test_two_saves_that_were_mixed_are_noticed(explain: FlintExplainer, folder: Path, tmp_path: Path) -> None:
    other = small.explainer(explain.model)
    other.fit(small.images(), seed=1, progress=False)
    newer = other.save_pretrained(tmp_path / "newer")
    (folder / TENSORS_NAME).write_bytes((newer / TENSORS_NAME).read_bytes())  # of the same shapes, for the same classifier
    with pytest.raises(DamagedArtifactError, match="do not belong together"):
        FlintExplainer.from_pretrained(folder, explain.model)


def other_weights() -> nn.Module:
    model = small.tiny()
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] += 1e-6
    return model


def test_another_classifier_is_refused_unless_one_insists_and_then_every_result_says_so(explain: FlintExplainer, folder: Path) -> None:
    model = other_weights()
    with pytest.raises(
        ClassifierMismatchError, match=r"was fitted to another classifier: a Tiny with fingerprint .*allow_other_classifier=True"
    ):
        FlintExplainer.from_pretrained(folder, model)
    loaded = FlintExplainer.from_pretrained(folder, model, allow_other_classifier=True)
    pixels = small.images(8)
    for result in (loaded(pixels), loaded.global_interpretation(pixels), loaded.evaluate(pixels)):
        assert "was fitted to another classifier" in str(result)
        assert "was fitted to another classifier" in " ".join(result.to_dict()["notes"])


def change(folder: Path, **values: Any) -> None:
    path = folder / JSON_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def cut(name: str, share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[: int(len(raw) * share)])

    return damage


def flip(folder: Path) -> None:
    raw = bytearray((folder / TENSORS_NAME).read_bytes())
    raw[-5] ^= 1
    (folder / TENSORS_NAME).write_bytes(bytes(raw))


def rewrite(folder: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Other tensors, with a digest that fits them."""
    tensors, metadata = read_tensors(folder / TENSORS_NAME)
    write_tensors(folder / TENSORS_NAME, edit(tensors), metadata)
    change(folder, tensors=file_digest(folder / TENSORS_NAME))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "half of the tensors": cut(TENSORS_NAME, 0.5),
    "no tensors": cut(TENSORS_NAME, 0),
    "half of the JSON": cut(JSON_NAME, 0.5),
    "no JSON text": cut(JSON_NAME, 0),
    "one bit": flip,
    "a format to come": lambda folder: change(folder, format=2),
    "no format": lambda folder: change(folder, format=None),
    "no layouts": lambda folder: change(folder, layouts=None),
    "layouts of another kind": lambda folder: change(folder, layouts=[{"layer": "conv1"}]),
    "fewer class names": lambda folder: change(folder, class_names=["ant"]),
    "more attributes": lambda folder: change(folder, num_attributes=4),
    "attributes without end": lambda folder: change(folder, num_attributes=2**60),
    "a fraction of an attribute": lambda folder: change(folder, num_attributes=2.5),
    "classes without end": lambda folder: change(folder, num_outputs=10**12),
    "another image size": lambda folder: change(folder, image_shape=[2, 10, 9999]),
    "an unknown kind of output": lambda folder: change(folder, output_kind="os.system"),
    "a history of another kind": lambda folder: change(folder, history={"records": [{"epoch": 0}], "notes": []}),
    "an unknown setting": lambda folder: change(folder, interpreter={"attributes": {"evil": 1}, "decoder": {"channels": []}}),
    "no settings": lambda folder: change(folder, config=None),
    "settings of another kind": lambda folder: change(folder, config={"settings": {"epochs": "many"}}),
    "a loss weight below zero": lambda folder: change(folder, config={"weights": {"beta": -1}}),
    "a knot of three numbers": lambda folder: change(folder, config={"schedule": {"zeta": [[0, 1, 2]]}}),
    "a loss by name": lambda folder: change(folder, config={"joint": {"prediction_loss": "os.system"}}),
    "a deviation of zero": lambda folder: change(folder, normalization={"mean": [0, 0], "std": [0, 0]}),
    "a tensor fewer": lambda folder: rewrite(folder, lambda tensors: {k: v for k, v in tensors.items() if k != "interpreter.head.bias"}),
    "a tensor more": lambda folder: rewrite(folder, lambda tensors: tensors | {"interpreter.more": torch.zeros(2)}),
    "whole numbers": lambda folder: rewrite(folder, lambda tensors: {k: v.long() for k, v in tensors.items()}),
    "a weight that is no number": lambda folder: rewrite(
        folder, lambda tensors: tensors | {"interpreter.head.bias": torch.full((4,), torch.nan)}
    ),
    "means of another shape": lambda folder: rewrite(folder, lambda tensors: tensors | {"class_means": torch.zeros(4, 2, 5, 5)}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_artefact_is_refused(explain: FlintExplainer, folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    calls = small.Tiny.calls
    with pytest.raises(DamagedArtifactError, match="saved"):
        FlintExplainer.from_pretrained(folder, explain.model)
    assert small.Tiny.calls == calls


@pytest.mark.parametrize(("name", "limit"), [(JSON_NAME, storage.JSON_LIMIT), (TENSORS_NAME, INTERPRETER_LIMIT)])
def test_a_file_that_is_too_large_is_not_read(explain: FlintExplainer, folder: Path, name: str, limit: int) -> None:
    with open(folder / name, "ab") as file:
        file.truncate(limit + 1)  # sparse: nothing is written
    with pytest.raises(DamagedArtifactError, match=f"{name} is too large"):
        FlintExplainer.from_pretrained(folder, explain.model)


@pytest.mark.parametrize("name", [JSON_NAME, TENSORS_NAME])
def test_a_missing_file_makes_it_no_artefact(explain: FlintExplainer, folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(NotAnArtifactError, match=name):
        FlintExplainer.from_pretrained(folder, explain.model)


def test_other_places_are_no_artefacts(explain: FlintExplainer, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotAnArtifactError, match=f"holds no {JSON_NAME}"):
        FlintExplainer.from_pretrained(tmp_path / "empty", explain.model)
    with pytest.raises(NotAnArtifactError, match="is a file; expected a folder"):
        FlintExplainer.from_pretrained(folder / JSON_NAME, explain.model)
    with pytest.raises(NotAnArtifactError, match="does not exist"):
        FlintExplainer.from_pretrained(tmp_path / "nowhere", explain.model)


def test_a_name_that_is_neither_folder_nor_repository_is_no_artefact(explain: FlintExplainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(NotAnArtifactError, match="no repository to be had from the Hugging Face hub: no connection"):
        FlintExplainer.from_pretrained("someone/something", explain.model)


def test_nothing_unpickles(explain: FlintExplainer, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "harm",))

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    FlintExplainer.from_pretrained(folder, explain.model)
    for name in (TENSORS_NAME, JSON_NAME):
        (folder / name).write_bytes(pickle.dumps(Evil()))
        with pytest.raises(DamagedArtifactError):
            FlintExplainer.from_pretrained(folder, explain.model)
    assert not (tmp_path / "harm").exists()


def test_there_is_nothing_to_save_before_a_fit(tmp_path: Path) -> None:
    with pytest.raises(NotFitted, match="call fit"):
        small.explainer().save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written_to_is_said(explain: FlintExplainer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be made a folder"):
        explain.save_pretrained(tmp_path / "file")


def taught(seed: int) -> FlintExplainer:
    pixels, explain = small.images(), small.explainer(small.tiny(seed), joint=True)
    explain.fit(small.loader(pixels, small.labels(explain.model, pixels)), progress=False)
    return explain


def test_a_taught_classifier_stays_where_it_was_saved_when_it_is_explained_anew(tmp_path: Path) -> None:
    explain = taught(1)
    explain.save_pretrained(tmp_path)
    again = FlintExplainer.from_pretrained(tmp_path, small.tiny(), load_classifier=True)
    again.fit(small.images(), progress=False)
    again.save_pretrained(tmp_path)
    found = FlintExplainer.from_pretrained(tmp_path, small.tiny(), load_classifier=True)
    assert not found.fitted.joint
    assert all(torch.equal(one, other) for one, other in zip(found.model.parameters(), explain.model.parameters(), strict=True))


@pytest.mark.parametrize("content", [None, b"a file of the user's own"])
def test_an_interpreter_of_another_classifier_does_not_speak_of_the_one_that_lies_there(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "classifier.safetensors"
    if content is None:
        taught(1).save_pretrained(tmp_path)
    else:
        file.write_bytes(content)
    before = file.read_bytes()
    small.fitted().save_pretrained(tmp_path)
    assert file.read_bytes() == before
    with pytest.raises(NotAnArtifactError, match="only a fit with joint=True saves the classifier"):
        FlintExplainer.from_pretrained(tmp_path, small.tiny(), load_classifier=True)


class Strict(small.Tiny):
    """Takes no noise."""

    def forward(self, images: Tensor) -> Tensor:
        if images.min() < 0:
            raise ValueError("powers are not negative")
        return super().forward(images)


def test_a_classifier_that_takes_no_noise_is_loaded(tmp_path: Path) -> None:
    model, images = Strict().eval(), small.images().abs()
    explain = small.explainer(model)
    explain.fit(images, progress=False)
    explain.save_pretrained(tmp_path)
    loaded = FlintExplainer.from_pretrained(tmp_path, model)
    assert torch.equal(loaded(images).attributes, explain(images).attributes)


def test_it_is_the_classifier_of_the_fit_that_counts_whatever_became_of_it(tmp_path: Path) -> None:
    model = small.tiny()
    explain = small.fitted(model)
    with torch.no_grad():
        model.fc.weight.mul_(-1)
    folder = explain.save_pretrained(tmp_path / "saved")
    with pytest.raises(ClassifierMismatchError, match="was fitted to another classifier"):
        FlintExplainer.from_pretrained(folder, model)
    FlintExplainer.from_pretrained(folder, small.tiny())


def test_a_taught_classifier_that_was_changed_is_not_saved(tmp_path: Path) -> None:
    explain, pixels = small.explainer(small.tiny()), small.images()
    explain.joint = True
    explain.fit([(pixels, small.labels(explain.model, pixels))], progress=False)
    explain.save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        explain.model.get_parameter("fc.weight").mul_(-1)
    with pytest.raises(ClassifierMismatchError, match="has other weights now"):
        explain.save_pretrained(tmp_path / "saved")
    assert FlintExplainer.from_pretrained(tmp_path / "saved", small.tiny(), load_classifier=True).history


class OtherHead(TorchModuleAdapter):
    """Reads the classifier's answers in another way."""

    name = "other head"

    def logits(self, output: Any) -> Tensor:
        return super().logits(output).flip(1)


def test_the_adapter_of_the_fit_is_asked_for(tmp_path: Path) -> None:
    model = small.tiny()
    explain = FlintExplainer(model, layers=small.LAYERS, num_attributes=3, config=small.CONFIG, adapter=OtherHead())
    explain.fit(small.images(), progress=False)
    folder = explain.save_pretrained(tmp_path / "saved")
    with pytest.raises(ClassifierMismatchError, match=r"through the adapter 'other head', .* by 'torch'. Pass the first one as adapter="):
        FlintExplainer.from_pretrained(folder, model)
    assert not FlintExplainer.from_pretrained(folder, model, adapter=OtherHead()).fitted.notes[1:]
    insisted = FlintExplainer.from_pretrained(folder, model, allow_other_classifier=True)
    assert "through the adapter 'other head'" in str(insisted(small.images(2)))


def test_another_architecture_is_no_damage(explain: FlintExplainer, folder: Path) -> None:
    with pytest.raises(ClassifierMismatchError, match="which has not the layers that were read: the classifier has no layer 'conv1'"):
        FlintExplainer.from_pretrained(folder, nn.Sequential(nn.Conv2d(2, 4, 3)), allow_other_classifier=True)
