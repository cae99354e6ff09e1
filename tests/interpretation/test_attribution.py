"""Attributes and class logits attributed to pixels: each method against what defines it, and what no method may do."""

import copy
import dataclasses
import json
import threading
from collections.abc import Iterator
from typing import Any

import oracles
import pytest
import small
import torch
import torch.nn.functional as F
from all_scores import SCORES
from models import CLASSES, FAMILIES, ModuleCNN, SmallCNN, left_alone
from torch import Tensor, nn

from flint_posthoc import FlintExplainer
from flint_posthoc.errors import AttributionError, ConfigurationError, FlintError, ImageShapeError, NonFinitePixelsError
from flint_posthoc.interpretation.attribution import pixels as attribution
from flint_posthoc.interpretation.attribution.methods import METHODS
from flint_posthoc.interpretation.attribution.pixels import AUTO, Attribution, attribute_pixels
from flint_posthoc.interpretation.attribution.sanity import SanityCheck, SanityScore, check_sanity
from flint_posthoc.interpretation.attribution.scores import open_scores
from flint_posthoc.interpretation.attribution.settings import AttributionSettings, baseline_image
from flint_posthoc.interpreter.fitted import FittedInterpreter

SIDE = 16
QUICK = AttributionSettings(steps=8, occlusion_patch=8, batch_size=8)


def layered() -> nn.Module:
    """A network on which every method holds: each activation a module of its own, nothing added, nothing reused."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 6, 3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(32, CLASSES),
    ).eval()


def explainer(model: nn.Module, layers: tuple[str, ...], side: int = SIDE) -> FlintExplainer:
    """Barely fitted, with four attributes that fire on nearly every image."""
    explain = FlintExplainer(model, layers=layers, num_attributes=4, config=small.CONFIG)
    explain.fit(torch.randn(16, 3, side, side), max_steps=4, progress=False)
    with torch.no_grad():
        for parameter in explain.interpreter.attribute_network.linear.parameters():
            parameter.abs_()
    return explain


@pytest.fixture(scope="module")
def explain() -> FlintExplainer:
    torch.manual_seed(3)
    return explainer(layered(), ("1", "6"))


@pytest.fixture(scope="module")
def fitted(explain: FlintExplainer) -> FittedInterpreter:
    return explain.fitted


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(4, 3, SIDE, SIDE)


def maps(fitted: FittedInterpreter, pixels: Tensor, method: str, **arguments: Any) -> Tensor:
    return attribute_pixels(fitted, pixels, method=method, **({"attribute": 1, "settings": QUICK} | arguments)).values


def scores(fitted: FittedInterpreter, pixels: Tensor, score: str = "attributes") -> Tensor:
    with open_scores(fitted, SCORES[score]) as network:
        return network(pixels).detach()


every_method = pytest.mark.parametrize("method", METHODS)


# ---- what defines a method ----


@pytest.mark.parametrize("baseline", ["mean", "black"])
@pytest.mark.parametrize(("method", "tolerance"), [("integrated_gradients", 0.02), ("deep_lift", 1e-4)])
def test_maps_sum_to_what_the_image_adds_to_the_baseline(
    fitted: FittedInterpreter, pixels: Tensor, method: str, tolerance: float, baseline: str
) -> None:
    settings = AttributionSettings(steps=200, baseline=baseline)
    found = maps(fitted, pixels, method, settings=settings).sum(dim=(1, 2, 3))
    expected = scores(fitted, pixels)[:, 1] - scores(fitted, baseline_image(fitted, settings))[:, 1]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def test_the_baselines_are_the_mean_colour_and_black(fitted: FittedInterpreter) -> None:
    mean, black = (baseline_image(fitted, AttributionSettings(baseline=name)) for name in ("mean", "black"))
    assert mean.shape == black.shape == (1, 3, SIDE, SIDE)
    torch.testing.assert_close(mean[0, :, 0, 0], fitted.class_means.nanmean(dim=(0, 2, 3)))
    torch.testing.assert_close(fitted.normalization.denormalize(black), torch.zeros(1, 3, SIDE, SIDE), atol=1e-6, rtol=0)


@pytest.mark.parametrize("target", [{"attribute": 1}, {"attribute": None, "class_index": 2, "of": "classifier"}])
def test_lrp_epsilon_is_input_times_gradient_on_a_network_of_rectifiers(
    fitted: FittedInterpreter, pixels: Tensor, target: dict[str, Any]
) -> None:
    """A theorem (Ancona et al., 2018), so a reference that shares no code with LRP."""
    expected = maps(fitted, pixels, "input_x_gradient", **target)
    found = maps(fitted, pixels, "lrp", **target)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_occlusion_is_the_slow_loop(fitted: FittedInterpreter, pixels: Tensor) -> None:
    settings = AttributionSettings(occlusion_patch=6, batch_size=3)
    found = maps(fitted, pixels[:2], "occlusion", settings=settings)
    baseline = baseline_image(fitted, settings)[0]
    for image, expected in zip(pixels[:2], found, strict=True):
        slow = oracles.occlusion(lambda occluded: float(scores(fitted, occluded[None])[0, 1]), image, baseline, side=6, stride=3)
        torch.testing.assert_close(expected, slow, rtol=1e-4, atol=1e-5)


def test_gradient_and_input_times_gradient_are_autograds(fitted: FittedInterpreter, pixels: Tensor) -> None:
    with open_scores(fitted, SCORES["attributes"]) as network:
        leaf = pixels.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(network(leaf)[:, 1].sum(), leaf)
    assert torch.equal(maps(fitted, pixels, "gradient"), gradient)
    assert torch.equal(maps(fitted, pixels, "input_x_gradient"), gradient * pixels)


@pytest.mark.parametrize(("name", "layer"), [("resnet", None), ("resnet", "layer3"), ("vit", None), ("swin", None)])
def test_grad_cam_weights_the_maps_that_psi_reads_by_their_mean_gradient(name: str, layer: str | None) -> None:
    family = FAMILIES[name]
    explain = explainer(family.build().eval(), family.layers, family.size)
    pixels, fitted = family.images(2), explain.fitted
    with fitted.view.frozen() as run:
        taps = tuple(tap.detach().requires_grad_(True) for tap in run.activations(pixels))
        explain.interpreter.attribute_network(taps)[:, 1].sum().backward()
    tap = taps[family.layers.index(layer or family.layers[1])]
    assert tap.grad is not None
    coarse = (tap * tap.grad.mean(dim=(2, 3), keepdim=True)).sum(dim=1, keepdim=True).relu()
    expected = F.interpolate(coarse, pixels.shape[2:], mode="bilinear")
    found = maps(fitted, pixels, "grad_cam", settings=AttributionSettings(layer=layer))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-6)


def test_guided_grad_cam_is_the_product_of_both(fitted: FittedInterpreter, pixels: Tensor) -> None:
    expected = maps(fitted, pixels, "guided_backpropagation") * maps(fitted, pixels, "grad_cam")
    torch.testing.assert_close(maps(fitted, pixels, "guided_grad_cam"), expected, rtol=1e-4, atol=1e-7)


def test_smoothgrad_is_the_mean_over_noisy_copies(fitted: FittedInterpreter, pixels: Tensor) -> None:
    settings = AttributionSettings(smooth_samples=5, smooth_noise=0.2, seed=7)
    found = maps(fitted, pixels[:1], "gradient", settings=settings)
    torch.manual_seed(7)
    noise = torch.normal(0, torch.full((5, 3, SIDE, SIDE), 0.2 * float(pixels[0].max() - pixels[0].min())))
    expected = maps(fitted, pixels[:1] + noise, "gradient").mean(dim=0, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


# ---- what holds for every method ----


@every_method
@pytest.mark.parametrize("smooth", [0, 3])
def test_a_batch_of_different_attributes_is_one_image_after_the_other(
    fitted: FittedInterpreter, pixels: Tensor, method: str, smooth: int
) -> None:
    settings = dataclasses.replace(QUICK, smooth_samples=smooth)
    wanted = [3, 0, 1, 3]
    together = maps(fitted, pixels, method, attribute=wanted, settings=settings)
    for index, attribute in enumerate(wanted):
        alone = maps(fitted, pixels[index : index + 1], method, attribute=attribute, settings=settings)
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-4, atol=1e-5 * float(alone.abs().max()))


@every_method
@pytest.mark.parametrize("target", [{"attribute": 0}, {"class_index": 1}, {"class_index": 1, "of": "classifier"}])
def test_no_trace_and_the_same_bits_in_every_mode(explain: FlintExplainer, pixels: Tensor, method: str, target: dict[str, Any]) -> None:
    settings = dataclasses.replace(QUICK, smooth_samples=2)
    arguments = {"attribute": None, "settings": settings} | target
    with left_alone(explain.model), left_alone(explain.interpreter):
        first = maps(explain.fitted, pixels, method, **arguments)
    torch.rand(3)
    assert first.abs().max() > 0
    assert not first.requires_grad
    with torch.no_grad():
        assert torch.equal(maps(explain.fitted, pixels, method, **arguments), first)
    with torch.inference_mode():
        assert torch.equal(maps(explain.fitted, pixels.clone(), method, **arguments), first)


@every_method
@pytest.mark.parametrize("call", [1, 2, 3])
def test_no_trace_where_the_forward_pass_raises(explain: FlintExplainer, pixels: Tensor, method: str, call: int) -> None:
    calls: Iterator[int] = iter(range(1, 100))

    def fuse(*_: Any) -> None:
        if next(calls) >= call:
            raise RuntimeError("half-way")

    with explain.model.get_submodule("5").register_forward_hook(fuse):
        with left_alone(explain.model), left_alone(explain.interpreter), pytest.raises((RuntimeError, FlintError), match="half-way"):
            maps(explain.fitted, pixels, method)


@every_method
def test_an_attribute_that_does_not_fire_has_an_empty_map(explain: FlintExplainer, pixels: Tensor, method: str) -> None:
    bias = explain.interpreter.attribute_network.linear.bias
    with torch.no_grad():
        bias[2] -= 1e4
    try:
        found = attribute_pixels(explain.fitted, pixels, attribute=[2, 0, 2, 1], method=method, settings=QUICK)
    finally:
        with torch.no_grad():
            bias[2] += 1e4
    assert found.empty.tolist() == [True, False, True, False]
    assert not found.values[found.empty].any()
    assert not found.heat()[found.empty].any()
    assert found.heat()[1].abs().max() == pytest.approx(1)
    assert "2 of them empty: the attribute does not fire" in str(found)


def test_what_is_attributed_is_said_in_words(fitted: FittedInterpreter, pixels: Tensor) -> None:
    named = dataclasses.replace(fitted, class_names=tuple("abcdefg"))
    found = attribute_pixels(named, pixels, attribute=torch.tensor([0, 1, 2, 3]), method="gradient")
    assert found.target == ("φ0", "φ1", "φ2", "φ3")
    assert len(found) == 4
    assert (found.method, found.requested, found.exact, found.sanity) == ("gradient", "gradient", True, None)
    logit = attribute_pixels(named, pixels, class_index=[1, 2, 1, 0], of="classifier", method="gradient")
    assert logit.target[:2] == ("class 'b' of the classifier", "class 'c' of the classifier")
    assert not logit.empty.any()
    assert json.loads(json.dumps(logit.to_dict()))["method"] == "gradient"


@pytest.mark.parametrize("target", [{"attribute": 0}, {"class_index": 1}, {"class_index": 1, "of": "classifier"}])
def test_images_on_which_f_decides_otherwise_are_marked(target: dict[str, Any]) -> None:
    explain, pixels = small.fitted(class_names=[f"{index} " + "long " * 30 for index in range(small.CLASSES)]), small.images(8, seed=2)
    agrees = explain(pixels).agrees
    assert 0 < agrees.sum() < len(agrees)  # else this shows nothing
    found = explain.attribution(pixels, method="gradient", **target)
    assert torch.equal(found.agrees, agrees)
    assert found.to_dict()["agrees"] == agrees.tolist()
    assert f"classifier and interpreter agree on {int(agrees.sum())}" in str(found)
    titles = [" ".join(axes.get_title().split()) for axes in found.plot().axes[: len(pixels)]]
    assert [title.endswith("f decides otherwise") for title in titles] == (~agrees).tolist()


def test_logits_of_f_are_those_of_the_explained_classes(pixels: Tensor) -> None:
    model = layered()
    explain = FlintExplainer(model, layers=["6"], classes=[5, 2], num_attributes=2, config=small.CONFIG)
    explain.fit(torch.randn(16, 3, SIDE, SIDE), max_steps=2, progress=False)
    leaf = pixels.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(model(leaf)[:, 2].sum(), leaf)
    torch.testing.assert_close(maps(explain.fitted, pixels, "gradient", attribute=None, class_index=1, of="classifier"), gradient)


def test_a_classifier_in_double_precision_is_attributed_in_its_own(pixels: Tensor) -> None:
    explain = explainer(layered().double(), ("6",))
    for method in METHODS:
        assert maps(explain.fitted, pixels[:1], method).dtype == torch.float32


def test_what_would_fire_without_the_image_is_empty_all_the_same(
    fitted: FittedInterpreter, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Occlusion and integrated gradients see the attribute fire on the way to the baseline."""
    monkeypatch.setattr(attribution, "pixel_maps", lambda request, name, images, targets: torch.ones_like(images))
    phi = scores(fitted, pixels)
    silent = dataclasses.replace(fitted, interpreter=copy.deepcopy(fitted.interpreter))
    with torch.no_grad():
        silent.interpreter.attribute_network.linear.bias -= phi.median(dim=0).values
    found = attribute_pixels(silent, pixels, attribute=1, method="occlusion")
    assert found.empty.any()
    assert not found.empty.all()
    assert torch.equal(found.values[:, 0, 0, 0] == 0, found.empty)


def test_an_interpreter_in_training_mode_is_read_in_evaluation_mode_and_left_in_training(explain: FlintExplainer, pixels: Tensor) -> None:
    expected = maps(explain.fitted, pixels, "gradient")
    training = dataclasses.replace(explain.fitted, interpreter=copy.deepcopy(explain.interpreter).train())
    network = training.interpreter.attribute_network
    network.config = dataclasses.replace(network.config, dropout=0.9)
    assert torch.equal(maps(training, pixels, "gradient"), expected)
    assert network.training


def test_a_zero_map_of_what_fires_is_told_from_an_empty_one(
    fitted: FittedInterpreter, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        attribution, "pixel_maps", lambda request, name, images, targets: images * torch.tensor([0, 1, 1, 0]).view(-1, 1, 1, 1)
    )
    found = attribute_pixels(fitted, pixels, attribute=1, method="grad_cam")
    assert not found.empty.any()
    assert found.reason == "as asked for; 2 of 4 maps are zero though there is something to attribute: the method sees nothing there"


# ---- what is refused ----


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ConfigurationError, "either attribute= or class_index="),
        ({"attribute": 1, "class_index": 1}, ConfigurationError, "either attribute= or class_index="),
        ({"attribute": 4}, ConfigurationError, "there is no attribute 4; expected 0 to 3"),
        ({"attribute": [0, -1, 0, 9]}, ConfigurationError, "there is no attribute -1, 9; expected 0 to 3"),
        ({"attribute": [0, 1]}, ConfigurationError, "expected one attribute as a whole number or 4 of them"),
        ({"attribute": torch.tensor(0.5)}, ConfigurationError, "expected one attribute as a whole number"),
        ({"class_index": 7}, ConfigurationError, "there is no class 7; expected 0 to 6"),
        ({"class_index": 1, "of": "decoder"}, ConfigurationError, "of must be one of 'interpreter', 'classifier', got 'decoder'"),
        (
            {"attribute": 0, "method": "gradcam"},
            AttributionError,
            "there is no method 'gradcam'; expected 'auto' or .*did you mean 'grad_cam'",
        ),
        (
            {"attribute": 0, "method": "grad_cam", "settings": AttributionSettings(layer="0")},
            AttributionError,
            r"Grad-CAM looks at a tapped layer \(1, 6\), not at '0'",
        ),
    ],
)
def test_a_wrong_question_gets_a_clear_answer(
    explain: FlintExplainer, pixels: Tensor, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with left_alone(explain.model), pytest.raises(error, match=message):
        attribute_pixels(explain.fitted, pixels, **arguments)


def test_images_are_checked(fitted: FittedInterpreter, pixels: Tensor) -> None:
    with pytest.raises(ImageShapeError, match="16"):
        attribute_pixels(fitted, torch.randn(2, 3, 20, 20), attribute=0)
    with pytest.raises(NonFinitePixelsError):
        attribute_pixels(fitted, pixels / 0, attribute=0)


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"batch_size": 0}, {"smooth_samples": -1}, {"smooth_noise": 0.0}, {"occlusion_patch": 0}, {"baseline": "white"}],
)
def test_settings_have_ranges(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        AttributionSettings(**settings)


REFUSED = {
    "functional pooling": (ModuleCNN, ("conv2",), "deep_lift", "it knows no rule for MaxPool2DWithIndices in a functional operation"),
    "functional": (SmallCNN, ("conv2",), "lrp", "it knows no rule for .*Relu in a functional operation"),
    "added": (FAMILIES["resnet"].build, FAMILIES["resnet"].layers, "lrp", "it knows no rule for Add in a functional operation"),
}


@pytest.mark.parametrize(("build", "layers", "method", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_methods_without_a_rule_for_the_network_say_so(build: Any, layers: tuple[str, ...], method: str, message: str) -> None:
    model, side = build().eval(), 32 if build is SmallCNN else 48
    explain, pixels = explainer(model, layers, side), torch.randn(1, 3, side, side)
    refusal = rf"method='{method}' does not hold on this .*{message}.*; try method='\w+'"
    with left_alone(model), pytest.raises(AttributionError, match=refusal):
        maps(explain.fitted, pixels, method)


def test_deep_lift_is_refused_where_windows_of_max_pooling_overlap(pixels: Tensor) -> None:
    def pooled(kernel: int) -> FlintExplainer:
        layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(kernel, 2), nn.Conv2d(4, 4, 3), nn.ReLU())
        return explainer(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)).eval(), ("3",))

    assert pooled(2).attribution(pixels, attribute=0, method="deep_lift").exact
    with pytest.raises(AttributionError, match="loses shares where windows overlap: 2"):
        pooled(3).attribution(pixels, attribute=0, method="deep_lift")


class Squared(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps * maps


class Gated(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        first, second = maps.chunk(2, dim=1)
        return torch.cat([first * second, second], dim=1)


@pytest.mark.parametrize("product", [Squared, Gated])
def test_a_product_of_what_depends_on_the_pixels_is_not_linear(product: type[nn.Module], pixels: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), product(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))
    explain = explainer(model.eval(), ("2",))
    with pytest.raises(AttributionError, match="knows no rule for"):
        explain.attribution(pixels, attribute=0, method="deep_lift")


def test_what_an_earlier_pass_left_on_the_classifier_is_no_obstacle(pixels: Tensor) -> None:
    model = layered()
    nn.utils.spectral_norm(model[2])
    model.train()(pixels)
    model.eval().left = [model(pixels)]  # with its graph
    with pytest.raises(RuntimeError):
        copy.deepcopy(model)
    explain = explainer(model, ("6",))
    assert explain.attribution(pixels, attribute=0).sanity is not None
    torch.testing.assert_close(explain.as_classifier()(pixels), explain(pixels).interpreter_logits)


def test_without_copies_a_method_is_taken_that_needs_none(pixels: Tensor) -> None:
    model = layered()
    model.lock = threading.Lock()
    found = explainer(model, ("6",)).attribution(pixels, attribute=0)
    assert "was not checked for sanity: this needs a copy of the classifier, which cannot be copied" in found.reason
    assert not METHODS[found.method].needs_copy


def test_maps_that_are_not_finite_are_no_result(fitted: FittedInterpreter, pixels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution, "pixel_maps", lambda request, name, images, targets: images[:, :1] * float("nan"))
    with pytest.raises(AttributionError, match=r"gradient gives maps that are not finite for \d+ of \d+ images"):
        attribute_pixels(fitted, pixels, attribute=0, method="gradient")


def test_a_module_that_runs_twice_is_refused_by_deep_lift_and_lrp(pixels: Tensor) -> None:
    twice = nn.ReLU()
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), twice, nn.Conv2d(4, 4, 3), twice, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)
    )
    explain = explainer(model.eval(), ("3",))
    assert explain.fitted.view.layouts[0].calls == 2
    for method in ("deep_lift", "lrp"):
        with pytest.raises(AttributionError, match="modules that run more than once, which it cannot tell apart: "):
            maps(explain.fitted, pixels, method)


def test_what_captum_itself_fails_on_is_told_as_such(fitted: FittedInterpreter, pixels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    blind = dataclasses.replace(METHODS["occlusion"], arguments=lambda request: {"sliding_window_shapes": (3, 99, 99)})
    monkeypatch.setitem(METHODS, "occlusion", blind)
    with pytest.raises(AttributionError, match=r"Captum's Occlusion fails on this network: .*cannot exceed input dimensions"):
        maps(fitted, pixels, "occlusion")


def test_a_classifier_that_cannot_be_copied_is_told_as_such(pixels: Tensor) -> None:
    model = layered()
    explain = explainer(model, ("6",))
    model.lock = threading.Lock()
    with left_alone(model), pytest.raises(AttributionError, match="needs a copy of the classifier, which cannot be copied"):
        maps(explain.fitted, pixels, "deep_lift")


# ---- auto ----


def checked(**correlations: float) -> SanityCheck:
    """A check whose methods have these rank correlations."""
    score = {name: SanityScore("f", 0.1, value) for name, value in correlations.items()}
    return SanityCheck({name: (value,) for name, value in score.items()}, (0,), score, "attributes", 8)


def automatic(fitted: FittedInterpreter, pixels: Tensor, sanity: SanityCheck | None = None) -> Attribution:
    return attribute_pixels(fitted, pixels, attribute=1, settings=QUICK, sanity=sanity)


def test_auto_takes_the_first_that_passes_and_says_why(fitted: FittedInterpreter, pixels: Tensor) -> None:
    worst, second = AUTO[:2]
    found = automatic(fitted, pixels, checked(**{worst: 0.9, second: 0.1, AUTO[2]: 0.0}))
    assert (found.requested, found.method) == ("auto", second)
    assert found.sanity == SanityScore("f", 0.1, 0.1)
    assert found.reason.startswith(f"{second} passes the sanity check (rank correlation 0.10")
    assert f"{worst}: fails the sanity check (rank correlation 0.90" in found.reason
    assert torch.equal(found.values, maps(fitted, pixels, second))


def test_auto_prefers_grad_cam_where_psi_forgets_places_and_only_there(fitted: FittedInterpreter, pixels: Tensor) -> None:
    """Grad-CAM means gradients over the map, which says something where every place of the map has the same weight."""
    attributes = dataclasses.replace(small.INTERPRETER.attributes, pool_size=1)
    config = dataclasses.replace(small.CONFIG, interpreter=dataclasses.replace(small.INTERPRETER, attributes=attributes))
    explain = FlintExplainer(layered(), layers=["6"], num_attributes=2, config=config)
    explain.fit(torch.randn(16, 3, SIDE, SIDE), max_steps=2, progress=False)
    check = checked(guided_backpropagation=0.9, integrated_gradients=0.1, grad_cam=0.1)
    assert automatic(explain.fitted, pixels, check).method == "grad_cam"
    assert automatic(fitted, pixels, check).method == "integrated_gradients"
    logit = attribute_pixels(explain.fitted, pixels, class_index=0, of="classifier", sanity=check)
    assert logit.method == "integrated_gradients"


def test_grad_cam_of_a_single_place_would_be_of_one_colour_and_is_refused(pixels: Tensor) -> None:
    explain = FlintExplainer(layered(), layers=["6"], num_attributes=2, config=small.CONFIG)
    layers = [name for name, module in explain.model.named_modules() if isinstance(module, nn.Linear)]
    flat = FlintExplainer(explain.model, layers=layers[:1], num_attributes=2, config=small.CONFIG)
    flat.fit(torch.randn(16, 3, SIDE, SIDE), max_steps=2, progress=False)
    for method in ("grad_cam", "guided_grad_cam"):
        with pytest.raises(AttributionError, match="has a single place, so that every image would be of one colour"):
            maps(flat.fitted, pixels, method)
    assert automatic(flat.fitted, pixels, checked(**dict.fromkeys(AUTO, 0.1))).method != "grad_cam"


def test_auto_says_where_none_passes(fitted: FittedInterpreter, pixels: Tensor) -> None:
    found = automatic(fitted, pixels, checked(**dict.fromkeys(AUTO, 0.9) | {"gradient": 0.8}))
    assert found.method == "gradient"
    assert "gradient fails the sanity check (rank correlation 0.80" in found.reason


def test_auto_passes_over_what_does_not_hold(pixels: Tensor) -> None:
    explain = explainer(SmallCNN().eval(), ("conv2",), 32)
    found = automatic(explain.fitted, torch.randn(2, 3, 32, 32), checked(**dict.fromkeys(AUTO, 0.1)))
    assert found.method == AUTO[1]
    assert f"{AUTO[0]}: it would be the plain gradient: no ReLU module on the classifier's path, only functional ReLU" in found.reason


def test_auto_checks_once_a_fit_and_for_itself(explain: FlintExplainer, pixels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = explainer(layered(), ("6",)).fitted
    with left_alone(fitted.view.model):
        first = automatic(fitted, pixels)
    assert first.sanity is not None
    full = check_sanity(fitted, pixels, attribute=1, methods=[first.method], stages=1, settings=QUICK)
    assert first.sanity == full.score(first.method)
    monkeypatch.setattr(attribution, "choose_method", None)  # asked again it would fail
    again = automatic(fitted, pixels)
    assert again.reason == first.reason
    assert torch.equal(again.values, first.values)
    with pytest.raises(TypeError):  # other settings are another question
        attribute_pixels(fitted, pixels, attribute=1, settings=dataclasses.replace(QUICK, steps=QUICK.steps + 1))


def test_a_figure_has_each_image_above_its_map(fitted: FittedInterpreter, pixels: Tensor) -> None:
    found = attribute_pixels(fitted, pixels, attribute=1, method="gradient", settings=QUICK)
    assert torch.equal(found.pixels, fitted.normalization.denormalize(pixels))
    shown = [axes for axes in found.plot().axes if axes.images]
    assert len(shown) == 2 * len(pixels)
