"""The facade: what it settles before, at and after a fit, and what it says of itself."""

import copy
import logging
import random
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import small
import torch
from flint_posthoc.adapters.torch_module import TorchModuleAdapter
from matplotlib.text import Text
from models import left_alone
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from flint_posthoc import FlintExplainer
from flint_posthoc.classifier.adapter import Normalization
from flint_posthoc.errors import ClassifierOutputError, ConfigurationError, DevicePlacementError, FlintWarning
from flint_posthoc.explainer import OTHER_WEIGHTS
from flint_posthoc.interpretation.ascent import GREY, Stage
from flint_posthoc.learning.defaults import automatic_num_attributes

SIZE = (small.CHANNELS, small.SIDE, small.SIDE)


@pytest.mark.parametrize(("classes", "attributes"), [(2, 25), (10, 25), (11, 28), (40, 100), (1000, 256)])
def test_the_number_of_attributes_follows_the_number_of_classes(classes: int, attributes: int) -> None:
    assert automatic_num_attributes(classes) == attributes


def test_j_is_automatic_where_it_is_not_given() -> None:
    assert small.fitted(data=small.images(64), num_attributes=None, config=small.with_batch(64)).interpreter.num_attributes == 25


def test_an_explainer_says_what_state_it_is_in() -> None:
    explain = small.explainer()
    assert repr(explain) == "FlintExplainer(Tiny, layers=('conv1', 'conv2'), not fitted)"
    explain.fit(small.images(), progress=False)
    assert repr(explain) == "FlintExplainer(Tiny, layers=('conv1', 'conv2'), 3 attributes, 4 classes)"


def test_it_is_no_module_and_its_interpreter_is() -> None:
    explain = small.fitted()
    assert not isinstance(explain, nn.Module)
    assert isinstance(explain.interpreter, nn.Module)
    assert not explain.interpreter.training
    assert not any(parameter.requires_grad for parameter in explain.interpreter.parameters())


def test_layers_are_suggested_as_soon_as_a_size_is_known(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "flint_posthoc"):
        explain = FlintExplainer(small.tiny(), input_size=SIZE)
    assert explain.layers
    assert explain.preflight is not None
    assert explain.preflight.reason
    assert f"layers={list(explain.layers)} suggested: {explain.preflight.reason}" in caplog.text


def test_without_a_size_the_first_batch_decides() -> None:
    explain = FlintExplainer(small.tiny(), num_attributes=3, config=small.CONFIG)
    assert (explain.layers, explain.preflight) == (None, None)
    explain.fit(small.images(), progress=False)
    assert explain.layers == FlintExplainer(small.tiny(), input_size=SIZE).layers
    assert explain.fitted.image_shape == SIZE


def test_a_wrong_guess_of_the_size_is_corrected_by_the_data() -> None:
    explain = small.explainer(input_size=(2, 20, 20))
    explain.fit(small.images(), progress=False)
    assert explain.fitted.image_shape == SIZE


def test_what_preflight_warns_of_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    FlintExplainer(small.tiny(), layers=["fc"], input_size=SIZE)
    assert "fc puts out a pooled or flat vector" in caplog.text


@pytest.mark.parametrize("input_size", [None, SIZE])
def test_an_estimated_pixel_range_is_that_of_the_data_and_results_say_so(input_size: Any) -> None:
    pixels = 100 * small.images()
    explain = small.fitted(data=pixels, input_size=input_size)
    low, high = pixels.amin(dim=(0, 2, 3)), pixels.amax(dim=(0, 2, 3))
    torch.testing.assert_close(explain.fitted.normalization.denormalize(low.view(1, -1, 1, 1)).flatten(), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(explain.fitted.normalization.denormalize(high.view(1, -1, 1, 1)).flatten(), torch.ones(2), atol=1e-4, rtol=0)
    for result in (explain(pixels), explain.evaluate(pixels), explain.global_interpretation(pixels)):
        assert "the pixel range was estimated from the data" in str(result)


def test_a_known_pixel_range_is_taken_at_its_word() -> None:
    explain = small.fitted(normalization=Normalization((0.5, 0.4), (0.2, 0.3)))
    pixels = small.images(4)
    local = explain(pixels)
    assert local.notes == ()
    torch.testing.assert_close(local.pixels, pixels * torch.tensor([0.2, 0.3]).view(1, 2, 1, 1) + torch.tensor([0.5, 0.4]).view(1, 2, 1, 1))


def test_reconstructions_are_pixels_at_the_decoders_resolution() -> None:
    explain = small.fitted()
    pixels = small.images(5)
    normalised = explain.interpreter.decoder(explain(pixels).attributes)
    reconstruction = explain.reconstruct(pixels)
    assert reconstruction.shape == (5, *SIZE)
    assert not reconstruction.requires_grad
    torch.testing.assert_close(explain.fitted.normalization.normalize(reconstruction), normalised)


@pytest.mark.parametrize(
    "form",
    [
        lambda pixels: pixels,
        lambda pixels: [(pixels, torch.zeros(len(pixels), dtype=torch.int64))],
        lambda pixels: [{"pixel_values": pixels, "labels": [1] * len(pixels)}],
        lambda pixels: torch.utils.data.TensorDataset(pixels, torch.zeros(len(pixels), dtype=torch.int64)),
    ],
    ids=["tensor", "pairs", "dicts", "data set"],
)
def test_data_of_any_form_teaches_the_same(form: Any) -> None:
    assert small.weights(small.fitted(data=form(small.images()))) == small.weights(small.fitted())


@pytest.mark.parametrize(
    "divided",
    [
        lambda pixels: [pixels[:20], pixels[20:]],
        lambda pixels: small.loader(pixels, batch_size=9, shuffle=False),
        small.generated,
    ],
    ids=["batches", "loader", "generator"],
)
def test_data_in_other_batches_teaches_the_same_but_for_how_f_rounds_them(divided: Any) -> None:
    taught, plain = (small.fitted(data=data).interpreter.state_dict() for data in (divided(small.images()), small.images()))
    for name, value in plain.items():
        torch.testing.assert_close(taught[name], value, atol=1e-5, rtol=0)


def test_labels_are_not_needed_and_change_nothing_but_the_baseline() -> None:
    model, pixels = small.tiny(), small.images()
    without, with_labels = small.fitted(model, pixels), small.fitted(model, [(pixels, small.labels(model, pixels))])
    assert small.weights(without) == small.weights(with_labels)
    assert not torch.equal(without.fitted.class_means, with_labels.fitted.class_means)


def test_a_failed_fit_leaves_the_last_one_standing() -> None:
    explain = small.fitted()
    before = small.weights(explain)
    with pytest.raises(ArithmeticError):
        explain.fit(small.images(), learning_rate=1e30, progress=False)
    assert small.weights(explain) == before


def test_interpreters_of_one_classifier_do_not_disturb_each_other() -> None:
    model = small.tiny()
    first = small.fitted(model)
    before = small.weights(first)
    small.fitted(model, num_attributes=2)
    assert small.weights(first) == before


def test_progress_is_shown_on_request_and_nothing_else_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    small.explainer().fit(small.images(), progress=False)
    assert capsys.readouterr() == ("", "")
    small.explainer().fit(small.images(), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "activations: 100%" in err
    assert "12/12" in err
    assert "fidelity" in err


def test_moving_moves_classifier_and_interpreter() -> None:
    explain = small.fitted()
    assert explain.to("cpu") is explain
    assert explain.device == torch.device("cpu")
    assert explain(small.images(2)).relevance.device == torch.device("cpu")


def test_a_wrapped_classifier_is_unwrapped() -> None:
    model = small.tiny()
    explain = small.fitted(nn.DataParallel(model))
    assert explain.model is model


def test_fits_caches_and_the_decoder_take_no_part_in_the_callers_autocast() -> None:
    plain, inside = small.explainer(), small.explainer()
    cache = plain.cache(small.images(), progress=False)
    plain.fit(small.images(), cache=cache, progress=False)
    attributes = plain(small.images()).attributes
    with torch.autocast("cpu", torch.bfloat16):
        inside.fit(small.images(), cache=cache, progress=False)
        redrawn = plain.fitted.redrawn(attributes)
        again = plain.cache(small.images(), progress=False)
    assert small.weights(inside) == small.weights(plain)
    assert torch.equal(redrawn, plain.fitted.redrawn(attributes))
    rows, known = again.select(torch.arange(48)), cache.select(torch.arange(48))
    assert torch.equal(rows.target, known.target)
    assert torch.equal(rows.activations[1], known.activations[1])


def test_the_callers_autocast_reaches_the_classifier_alone() -> None:
    explain, pixels = small.fitted(), small.images(8)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = explain(pixels)
    assert lowered.attributes.dtype is torch.float32
    with torch.no_grad(), explain.fitted.view.frozen() as run:
        with torch.autocast("cpu", torch.bfloat16):
            activations = run(pixels).activations
        assert torch.equal(lowered.attributes, explain.interpreter.attributes_and_logits(activations)[0])


def test_images_that_ask_for_gradients_are_explained_and_drawn() -> None:
    local = small.fitted()(small.images(2).requires_grad_(True))
    assert not local.pixels.requires_grad
    local.plot()


def test_taps_are_read_in_the_order_of_the_pass() -> None:
    assert small.fitted(layers=["conv2", "conv1"]).layers == ("conv1", "conv2")


def test_names_from_before_a_head_was_replaced_are_not_those_of_the_new_one() -> None:
    import timm

    model = timm.create_model("resnet10t", num_classes=6)
    model.pretrained_cfg["label_names"] = list("abcdef")
    assert FlintExplainer(model).preflight.class_names == tuple("abcdef")  # type: ignore[union-attr]
    model.fc = nn.Linear(model.fc.in_features, 4)
    assert FlintExplainer(model).preflight.class_names == tuple(f"class {index}" for index in range(4))  # type: ignore[union-attr]


class Flipped(Dataset):
    """Each image is flipped or not, as Python's and numpy's random states say."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> torch.Tensor:
        axes = [axis for axis, flip in ((1, random.random() < 0.5), (2, np.random.rand() < 0.5)) if flip]  # noqa: NPY002
        drawn.append(tuple(axes))
        return small.images(16)[index].flip(axes)


drawn: list[tuple[int, ...]] = []


def test_augmentation_by_python_and_numpy_changes_between_epochs_and_follows_the_seed() -> None:
    def learnt(seed: int) -> tuple[dict[str, bytes], list[list[tuple[int, ...]]]]:
        drawn.clear()
        explain = small.explainer()
        explain.fit(DataLoader(Flipped(), batch_size=8), epochs=3, cache="off", seed=seed, progress=False)
        return small.weights(explain), [drawn[start : start + 16] for start in range(len(drawn) - 48, len(drawn), 16)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the order is the loader's
        random.seed(5)
        first, epochs = learnt(0)
        random.seed(6)
        again, _ = learnt(0)
        other, _ = learnt(1)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert first == again
    assert first != other


def test_bfloat16_is_for_float32_classifiers() -> None:
    with pytest.raises(ConfigurationError, match=r"lowers a float32 classifier; this one is torch.float64"):
        small.explainer(small.tiny().double()).fit(small.images().double(), precision="bfloat16", progress=False)


def test_a_classifier_that_moved_after_its_explainer_was_made_is_named() -> None:
    explain, pixels = small.fitted(), small.images(2)
    explain.model.to("meta")  # stands for another device
    with pytest.raises(DevicePlacementError, match=r"the classifier moved to meta since its explainer was made for cpu; explain.to"):
        explain(pixels)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_classifier_in_another_precision_is_explained_in_its_own(dtype: torch.dtype) -> None:
    model, pixels = small.tiny().to(dtype), small.images()
    explain = small.fitted(model)
    with torch.no_grad():
        assert torch.equal(explain(pixels).classifier_logits, model(pixels.to(dtype)).float())
    assert explain.evaluate(pixels).samples == len(pixels)
    assert torch.equal(explain.as_classifier()(pixels), explain(pixels).interpreter_logits)
    assert all(parameter.dtype == dtype for parameter in model.parameters())


@pytest.mark.parametrize("joint", [False, True])
def test_the_pass_of_a_fit_can_be_lowered_to_bfloat16(joint: bool) -> None:
    model, pixels = small.tiny(), small.images(40)
    seen: list[torch.dtype] = []
    handle = model.conv2.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    explain = small.explainer(model, joint=joint)
    explain.fit(small.loader(pixels, small.labels(model, pixels)), precision="bfloat16", max_steps=4, progress=False)
    assert torch.bfloat16 in seen
    seen.clear()
    explain(pixels)
    assert set(seen) == {torch.float32}, "explanations are in f's own precision"
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    handle.remove()


def test_pushing_to_the_hub_uploads_what_saving_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: dict[str, Any] = {}

    class Api:
        def __init__(self, token: str | None = None) -> None:
            uploaded["token"] = token

        def create_repo(self, repo_id: str, **settings: Any) -> None:
            uploaded["repository"] = (repo_id, settings)

        def upload_folder(self, repo_id: str, folder_path: Path) -> str:
            uploaded["files"] = sorted(path.name for path in Path(folder_path).iterdir())
            return f"https://huggingface.co/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert small.fitted().push_to_hub("me/digits", private=True, token="secret") == "https://huggingface.co/me/digits"
    assert uploaded == {
        "token": "secret",
        "repository": ("me/digits", {"private": True, "exist_ok": True}),
        "files": ["flint.json", "interpreter.safetensors"],
    }


# ---- every question reaches the room that knows ----


def questions(explain: FlintExplainer) -> dict[str, Any]:
    pixels = small.images(24)
    labelled = small.loader(pixels, small.labels(explain.model, pixels), batch_size=24)
    pairs = [(0, 0), (1, 2)]
    return {
        "exemplars": explain.exemplars(labelled, pairs, k=1),
        "maximize": explain.maximize(pixels[:1], 0, settings=replace(GREY, stages=(Stage(2, 1.0, 1.0, 0.0),))),
        "attribution": explain.attribution(pixels[:2], attribute=0, method="gradient"),
        "sanity_check": explain.sanity_check(pixels[:2], methods=["gradient"]),
        "contrast": explain.contrast(pixels[:2], [0, 1]),
        "cards": explain.cards(labelled, pairs, k=1, budget_seconds=0),
        "confusion": explain.confusion(labelled),
        "shuffling": explain.shuffling(labelled, repeats=1),
        "stability": explain.stability([explain], labelled),
        "faithfulness": explain.faithfulness(labelled),
        "selection": explain.selection(pixels, [2, 3], folds=2, progress=False),
        "baselines": explain.baselines(labelled, labelled),
        "compare_layers": explain.compare_layers(labelled, [["conv2"]], folds=2, progress=False),
        "disagreement": explain.disagreement(small.loader(small.images(200)), labelled),
        "accuracy_account": explain.accuracy_account(small.tiny(seed=5), labelled),
    }


def test_every_question_is_answered_and_leaves_no_trace() -> None:
    explain = small.fitted()
    with left_alone(explain.model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small data: solvers that do not converge, mini-batches of a few images
        answers = questions(explain)
    assert all(str(answer) for answer in answers.values())
    assert answers["stability"].to_dict()
    assert answers["attribution"].method == "gradient"


def test_numbers_and_names_of_other_kinds_can_be_saved(tmp_path: Path) -> None:
    names = np.array(["cat", "dog"])
    explain = small.fitted(num_attributes=np.int64(3), classes=np.array([0, 2]), class_names=names)
    explain.save_pretrained(tmp_path / "saved")
    again = FlintExplainer.from_pretrained(tmp_path / "saved", explain.model)
    assert (again.fitted.class_ids, again.fitted.class_names, again.num_attributes) == ((0, 2), ("cat", "dog"), 3)


def test_a_saved_explainer_is_looked_at_with_images_of_its_own_size(tmp_path: Path) -> None:
    explain = small.fitted()
    explain.save_pretrained(tmp_path)
    again = FlintExplainer.from_pretrained(tmp_path, explain.model)
    assert again.preflight is not None
    assert again.preflight.image_shape == (small.CHANNELS, small.SIDE, small.SIDE)


def test_a_classifier_that_moved_half_way_is_moved_back() -> None:
    places: list[str] = []

    class Heavy(small.Tiny):
        def to(self, device: Any) -> Any:
            places.append(str(device))
            if str(device) == "cuda":
                raise RuntimeError("out of memory")
            return self

    with pytest.raises(DevicePlacementError):
        small.explainer(Heavy()).to("cuda")
    assert places == ["cuda", "cpu"]


def test_a_classifier_whose_explainer_cannot_be_had_keeps_its_weights(tmp_path: Path) -> None:
    taught = small.explainer(small.tiny(1), joint=True)
    taught.fit(small.loader(small.images(), small.labels(taught.model, small.images())), progress=False)
    taught.save_pretrained(tmp_path)
    model = small.tiny()
    with left_alone(model), pytest.raises(DevicePlacementError):
        FlintExplainer.from_pretrained(tmp_path, model, load_classifier=True, device="cuda:99")


@pytest.mark.parametrize(
    ("pixels", "noted"),
    [
        (torch.linspace(0, 1, 16).view(16, 1, 1, 1).expand(16, 2, 10, 10), False),
        (torch.linspace(0, 1, 16).view(16, 1, 1, 1).expand(16, 2, 10, 10) * 4 - 2, True),  # normalised by other numbers
        (torch.linspace(0.3, 0.6, 16).view(16, 1, 1, 1).expand(16, 2, 10, 10), True),  # not normalised at all, or by other numbers
        (torch.full((8, 2, 10, 10), 0.5), False),  # a few grey images
    ],
)
def test_images_that_were_normalised_otherwise_are_noticed(pixels: Tensor, noted: bool) -> None:
    class Family(TorchModuleAdapter):
        def normalization(self, model: nn.Module) -> Normalization:
            return Normalization((0.0, 0.0), (1.0, 1.0))

    explain = small.fitted(data=pixels.contiguous(), adapter=Family())
    assert any("were they normalised otherwise?" in note for note in explain(pixels).notes) is noted


def test_the_final_model_serves_threads_and_other_precisions() -> None:
    explain, pixels = small.fitted(), small.images(32)
    final = explain.as_classifier()
    expected = final(pixels)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(final, [pixels] * 16))
    assert all(torch.equal(logits, expected) for logits in found)
    lower = final.to(torch.bfloat16)(pixels)
    assert lower.dtype is torch.bfloat16
    torch.testing.assert_close(lower.float(), expected, rtol=0.1, atol=0.1)


def test_a_fit_in_bfloat16_learns_as_well_as_one_in_float32() -> None:
    """Autocast keeps lowered weights until its outermost context ends: with those of the first step nothing is learnt."""
    model, pixels = small.tiny(), small.images(200)
    fidelity = {}
    for precision in ("float32", "bfloat16"):
        explain = small.explainer(model)
        explain.fit(pixels, precision=precision, max_steps=200, progress=False)
        fidelity[precision] = explain.evaluate(pixels).fidelity
    assert fidelity["float32"] > 0.5
    assert fidelity["bfloat16"] == pytest.approx(fidelity["float32"], abs=0.05)


def test_a_classifier_that_learns_in_bfloat16_is_the_one_that_is_left() -> None:
    pixels = small.images(200)
    explain = small.explainer(small.tiny(1), joint=True)
    history = explain.fit(
        small.loader(pixels, small.labels(small.tiny(), pixels, 1000)), precision="bfloat16", epochs=20, learning_rate=1e-2, progress=False
    )
    learnt = history[-1].accuracy
    assert learnt is not None
    assert learnt > 0.5
    assert history.account is not None
    assert history.account.after == pytest.approx(learnt, abs=0.1)


def test_a_final_model_can_be_explained_and_made_final_again() -> None:
    inner = small.fitted().as_classifier()
    outer = small.explainer(inner, layers=["attribute_network.merge"])
    outer.fit(small.images(), progress=False)
    assert outer.as_classifier()(small.images(4)).shape == (4, small.CLASSES)


class OwnAutocast(small.Tiny):
    """Lowers its own precision, to the device's own type; ``types`` of what it then gives."""

    types: ClassVar[set[torch.dtype]] = set()

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu"):
            logits = super().forward(images)
        OwnAutocast.types.add(logits.dtype)
        return logits


def test_a_classifier_that_lowers_its_precision_does_so_alike_in_fits_and_explanations(monkeypatch: pytest.MonkeyPatch) -> None:
    model, before = OwnAutocast(), torch.get_autocast_dtype("cpu")
    torch.set_autocast_dtype("cpu", torch.float16)
    try:
        explain = small.explainer(model)
        explain.fit(small.images(), precision="float32", progress=False)
        explain(small.images(4))
    finally:
        torch.set_autocast_dtype("cpu", before)
    assert OwnAutocast.types == {torch.float16}


class HeadFirst(small.Tiny):
    """Registers its head before its body."""

    def __init__(self) -> None:
        super().__init__()
        body = {name: self._modules.pop(name) for name in ("conv1", "conv2")}
        self._modules.update(body)


def test_the_final_model_does_without_the_head_wherever_that_is_registered() -> None:
    final = small.fitted(HeadFirst()).as_classifier()
    assert isinstance(final.classifier.fc, nn.Identity)


class Scaled(small.Tiny):
    """Reads its head's settings on the way."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images / self.fc.in_features)


def test_the_final_model_knows_the_settings_of_what_was_cut() -> None:
    explain, pixels = small.fitted(Scaled()), small.images(8)
    torch.testing.assert_close(explain.as_classifier()(pixels), explain(pixels).interpreter_logits)


def test_the_final_model_can_be_quantised() -> None:
    final, pixels = small.fitted().as_classifier(), small.images(8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao's own
        lighter = torch.ao.quantization.quantize_dynamic(final, {nn.Linear})
    torch.testing.assert_close(lighter(pixels), final(pixels), rtol=0.2, atol=0.2)


def test_a_classifier_with_other_weights_is_said_to_have_them_until_it_has_the_old_ones_again(tmp_path: Path) -> None:
    explain, pixels = small.fitted(), small.images(8)
    weights = copy.deepcopy(explain.model.state_dict())
    assert OTHER_WEIGHTS not in explain(pixels).notes
    with torch.no_grad():
        explain.model.conv1.weight *= 1.1
    with pytest.warns(FlintWarning, match="other weights now"):
        assert OTHER_WEIGHTS in explain(pixels).notes
    assert OTHER_WEIGHTS in explain.evaluate(pixels).notes  # said, but warned of once
    explain.save_pretrained(tmp_path)
    explain.model.load_state_dict(weights)
    assert OTHER_WEIGHTS not in explain(pixels).notes
    assert OTHER_WEIGHTS not in FlintExplainer.from_pretrained(tmp_path, explain.model)(pixels).notes  # of what was saved meanwhile


def test_a_classifier_whose_head_was_replaced_is_not_explained() -> None:
    explain = small.fitted()
    explain.model.fc = torch.nn.Linear(explain.model.fc.in_features, 7)
    with pytest.warns(FlintWarning, match="other weights now"):
        assert explain.fitted
    for ask in (explain, explain.evaluate, explain.confusion):
        with pytest.raises(ClassifierOutputError, match="gives 7 classes, and gave 4 when its explainer was made"):
            ask(small.images(8))


def test_everything_that_comes_back_says_that_the_classifier_was_altered() -> None:
    explain, pixels = small.fitted(), small.images(12)
    labels = small.labels(small.tiny(), pixels)
    with torch.no_grad():
        explain.model.conv1.weight *= 1.01
    with pytest.warns(FlintWarning, match="other weights now"):
        local = explain(pixels)
    settings = replace(GREY, stages=(Stage(1, 1.0, 1.0, 0.0),))
    found = [
        local,
        explain.evaluate(pixels),
        explain.global_interpretation(pixels),
        explain.exemplars(pixels, [(0, 0)]),
        explain.maximize(pixels[:2], 0, settings=settings),
        explain.attribution(pixels[:2], attribute=0, method="gradient"),
        explain.sanity_check(pixels[:2], methods=["gradient"]),
        explain.contrast(pixels[:2], 0),
        *explain.cards(pixels, [(0, 0)], budget_seconds=0),
        explain.confusion((pixels, labels)),
        explain.shuffling(pixels),
        explain.baselines(pixels, pixels),
        explain.faithfulness(pixels),
    ]
    for result in found:
        assert OTHER_WEIGHTS in str(result), type(result)
        if hasattr(result, "to_dict"):
            assert OTHER_WEIGHTS in result.to_dict()["notes"], type(result)
        if hasattr(result, "plot"):
            figure = result.plot(0) if result is local else result.plot()
            assert "other weights now" in " ".join(text.get_text() for text in figure.findobj(Text)), type(result)


def test_labels_of_other_classes_than_the_explained_are_left_out() -> None:
    """A folder of a few classes beside a classifier of many: its labels would be taken for the first of those."""

    class Folder(TensorDataset):
        classes: ClassVar[list[str]] = ["ant", "bee"]

    explain, pixels = small.fitted(), small.images(8)
    folder = Folder(pixels, torch.arange(8) % 2)
    for data in (folder, DataLoader(folder, batch_size=4), DataLoader(Subset(folder, range(6)), batch_size=4)):
        with pytest.warns(FlintWarning, match="the data set has 2 classes, 4 are explained"):
            assert explain.evaluate(data).classifier_accuracy is None
    for cache in ("memory", "off"):
        other = small.explainer()
        with pytest.warns(FlintWarning, match="the data set has 2 classes, 4 are explained"):
            other.fit(DataLoader(folder, batch_size=8, shuffle=True), max_steps=2, cache=cache, progress=False)
        unlabelled = small.explainer()
        unlabelled.fit(DataLoader(TensorDataset(pixels), batch_size=8, shuffle=True), max_steps=2, cache=cache, progress=False)
        torch.testing.assert_close(other.fitted.class_means, unlabelled.fitted.class_means)
    folder.target_transform = lambda label: label + 2
    assert explain.evaluate(folder).classifier_accuracy is not None


def test_class_names_as_transformers_have_them() -> None:
    assert small.explainer(class_names={1: "b", 0: "a", 3: "d", 2: "c"}, input_size=SIZE).preflight.class_names == ("a", "b", "c", "d")
    with pytest.raises(ConfigurationError, match="needs the keys 0 to 3"):
        small.explainer(class_names={1: "b", 2: "a", 3: "d", 4: "c"})
    with pytest.raises(ConfigurationError, match="one name a class, got the single word 'abcd'"):
        small.explainer(class_names="abcd")


def test_numbers_of_any_library_are_numbers() -> None:
    explain, pixels = small.fitted(), small.images(12)
    assert explain.shuffling(pixels, seed=np.int64(2)) == explain.shuffling(pixels, seed=2)
    one, other = (explain.global_interpretation(pixels, seed=seed) for seed in (torch.tensor(2), 2))
    assert torch.equal(one.counts, other.counts)
    explain.baselines(pixels, pixels, seed=np.int64(1))
    pairs = one.pairs(0.01)[:3]
    plain = [(pair.attribute, pair.class_index) for pair in pairs]
    for given in (torch.tensor(plain), np.array(plain), plain, [list(pair) for pair in pairs]):
        found = explain.exemplars(pixels, given)
        assert [pair[:2] for pair in found.pairs] == plain
        assert found.candidates == explain.exemplars(pixels, pairs).candidates
    for bad in ((1,), "ab", (0.5, 1)):
        with pytest.raises(ConfigurationError, match=r"pairs are \(attribute, class index\)"):
            explain.exemplars(pixels, [bad])


def test_a_classifier_whose_weights_are_all_buffers_keeps_its_precision() -> None:
    model = small.tiny().double()
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    explain = small.fitted(model)
    assert explain(small.images(4)).relevance.shape == (4, 3)


def test_the_final_model_says_that_it_cannot_be_exported() -> None:
    with pytest.raises(Exception, match=r"use torch\.jit\.trace"):
        torch.export.export(small.fitted().as_classifier(), (small.images(2),))
