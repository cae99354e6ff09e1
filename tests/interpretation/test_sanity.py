"""Maps that do not depend on what was learnt are found out, and finding out leaves no trace."""

import dataclasses
import json
from itertools import pairwise
from typing import Any

import oracles
import pytest
import small
import torch
from all_scores import SCORES
from hypothesis import given
from hypothesis import strategies as st
from models import FAMILIES, left_alone
from torch import Tensor, nn

from flint_posthoc import FlintExplainer
from flint_posthoc.errors import AttributionError, ConfigurationError
from flint_posthoc.interpretation.attribution import attribute_pixels, sanity
from flint_posthoc.interpretation.attribution.methods import METHODS
from flint_posthoc.interpretation.attribution.randomization import randomized
from flint_posthoc.interpretation.attribution.sanity import RANK_LIMIT, SanityCheck, check_sanity, compare_with
from flint_posthoc.interpretation.attribution.similarity import rank_correlation, ssim, strength
from flint_posthoc.interpreter.fitted import FittedInterpreter


@pytest.fixture(scope="module")
def explain() -> FlintExplainer:
    torch.manual_seed(0)
    return small.fitted()


@pytest.fixture(scope="module")
def fitted(explain: FlintExplainer) -> FittedInterpreter:
    return explain.fitted


def stages(fitted: FittedInterpreter, score: str, most: int = 9, seed: int = 0) -> list[str]:
    return [stage.name for stage, _ in randomized(fitted, small.images(4), SCORES[score], most=most, seed=seed)]


# ---- similarity ----


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=6, max_size=30))
def test_rank_correlation_is_the_slow_one(pairs: list[tuple[int, int]]) -> None:
    one, other = (torch.tensor([[[float(pair[side]) for pair in pairs]]]) for side in (0, 1))
    expected = oracles.rank_correlation([float(a) for a, _ in pairs], [float(b) for _, b in pairs])
    assert float(rank_correlation(one, other)) == pytest.approx(expected, abs=1e-6)


def test_ssim_is_one_for_the_same_and_less_for_anything_else() -> None:
    one = strength(torch.randn(3, 2, 16, 12))
    assert ssim(one, one).tolist() == pytest.approx([1, 1, 1])
    near, far = ssim(one, (one + 0.05).clamp(max=1)), ssim(one, one.roll(1, dims=0))
    assert (far < near).all()
    assert (near < 1).all()
    torch.testing.assert_close(far, ssim(one.roll(1, dims=0), one))


def test_ssim_of_one_window_is_the_formula() -> None:
    one, other = torch.rand(1, 3, 3).double(), torch.rand(1, 3, 3).double()
    mean, rival = one.mean(), other.mean()
    covariance = ((one - mean) * (other - rival)).mean()
    spread = ((one - mean) ** 2).mean() + ((other - rival) ** 2).mean()
    expected = (2 * mean * rival + 1e-4) * (2 * covariance + 9e-4) / ((mean**2 + rival**2 + 1e-4) * (spread + 9e-4))
    assert float(ssim(one, other)) == pytest.approx(float(expected))


def test_strength_is_absolute_and_scaled_and_nothing_stays_nothing() -> None:
    heat = strength(torch.stack([torch.tensor([[[-4.0, 1.0]], [[0.0, 1.0]]]), torch.zeros(2, 1, 2), torch.full((2, 1, 2), float("nan"))]))
    assert heat.tolist() == [[[1.0, 0.5]], [[0.0, 0.0]], [[0.0, 0.0]]]


# ---- randomisation ----


def test_layers_go_from_the_score_to_the_pixels(fitted: FittedInterpreter) -> None:
    psi = ["Ψ to linear", "Ψ to mix.0", "Ψ to merge", "Ψ to taps.0.convolution", "Ψ to taps.1.convolution"]
    assert stages(fitted, "preactivations") == [*psi, "f to conv2", "f to conv1"]
    assert stages(fitted, "interpreter") == ["h", *psi, "f to conv2", "f to conv1"]
    assert stages(fitted, "classifier") == ["f to fc", "f to conv2", "f to conv1"]
    assert stages(fitted, "interpreter", most=1) == ["h", "Ψ to taps.1.convolution", "f to conv1"]
    assert stages(fitted, "preactivations", most=2) == ["Ψ to mix.0", "Ψ to taps.1.convolution", "f to conv2", "f to conv1"]


def weights(fitted: FittedInterpreter) -> dict[str, Tensor]:
    modules = {"f": fitted.view.model, "Ψ": fitted.interpreter.attribute_network, "h": fitted.interpreter.head}
    return {f"{part}.{name}": value.clone() for part, module in modules.items() for name, value in module.named_parameters()}


def test_each_stage_adds_to_the_last_and_keeps_every_value(fitted: FittedInterpreter) -> None:
    before, changed = weights(fitted), []
    for _, other in randomized(fitted, small.images(4), SCORES["interpreter"], most=9, seed=0):
        after = weights(other)
        changed.append({name for name in before if not torch.equal(before[name], after[name])})
        assert all(torch.equal(before[name].flatten().sort().values, after[name].flatten().sort().values) for name in before)
    assert changed[0] <= {"h.weight", "h.bias"}
    assert all(earlier < later for earlier, later in pairwise(changed))
    assert {name for name in before if before[name].numel() > 4 and name != "f.fc.weight"} <= changed[-1]  # fc is behind the taps


def test_the_original_stays_and_a_seed_says_it_all(explain: FlintExplainer) -> None:
    with left_alone(explain.model), left_alone(explain.interpreter):
        ends = [list(randomized(explain.fitted, small.images(4), SCORES["interpreter"], most=1, seed=seed))[-1][1] for seed in (0, 0, 1)]
    first, second, third = map(weights, ends)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


def test_batch_norms_and_standardised_taps_keep_activations_in_scale() -> None:
    family = FAMILIES["resnet"]
    explain = FlintExplainer(family.build().eval(), layers=family.layers, num_attributes=3, config=small.CONFIG)
    pixels = family.images(16)
    explain.fit(pixels, max_steps=4, progress=False)

    def scale(fitted: FittedInterpreter) -> Tensor:
        with fitted.view.frozen() as run, torch.no_grad():
            return torch.stack([tap.std() for tap in run.activations(pixels)])

    before = scale(explain.fitted)
    for _, other in randomized(explain.fitted, pixels, SCORES["preactivations"], most=3, seed=0):
        assert ((scale(other) / before) > 0.1).all()
        assert ((scale(other) / before) < 10).all()
        reader = other.interpreter.attribute_network.taps[0]
        with other.view.frozen() as run, torch.no_grad():
            tap = other.interpreter.attribute_network.reduced(run.activations(pixels))[0]
            torch.testing.assert_close(reader.shift, tap.mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-4)


class _Narrow(nn.Module):
    """Ends in a batch norm over a single place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep, self.norm, self.head = nn.Conv2d(1, 4, 3, 2), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.deep(self.stem(images).relu()).amax((2, 3), keepdim=True)).relu().flatten(1))


def test_a_single_image_is_enough_for_batch_norms_of_a_single_place() -> None:
    explain = FlintExplainer(_Narrow().eval(), layers=["stem"], num_attributes=3, config=small.CONFIG)
    pixels = torch.randn(16, 1, 9, 9)
    explain.fit(pixels, max_steps=4, progress=False)
    for _, other in randomized(explain.fitted, pixels[:1], SCORES["classifier"], most=2, seed=0):
        with other.view.frozen() as run, torch.no_grad():
            assert run(pixels[:1]).logits.isfinite().all()


# ---- the check ----


class _Ignorant:
    """A map that looks at the image and at nothing else."""

    def attribute(self, images: Tensor, *, target: Tensor) -> Tensor:
        return images.diff(dim=-1, append=images[..., -1:]).abs()


class _Noise:
    """A map that is another one each time (the global random state is put back after every call)."""

    source = torch.Generator().manual_seed(0)

    def attribute(self, images: Tensor, *, target: Tensor) -> Tensor:
        return torch.randn(images.shape, generator=self.source)


@pytest.fixture
def _extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    source = METHODS["gradient"]
    for name, kind in (("edges", _Ignorant), ("noise", _Noise)):
        monkeypatch.setitem(
            METHODS,
            name,
            dataclasses.replace(source, arguments=lambda request: {}, build=lambda captum, network, request, kind=kind: kind()),
        )


@pytest.mark.usefixtures("_extremes")
@pytest.mark.parametrize("target", [{}, {"attribute": 1}, {"class_index": 2}, {"class_index": 2, "of": "classifier"}])
def test_an_edge_detector_fails_and_noise_passes(explain: FlintExplainer, target: dict[str, Any]) -> None:
    with left_alone(explain.model), left_alone(explain.interpreter):
        check = check_sanity(explain.fitted, small.images(6), methods=("edges", "noise", "gradient", "lrp"), stages=2, **target)
    for score in check.scores["edges"]:
        assert (score.ssim, score.rank_correlation) == pytest.approx((1, 1), abs=1e-5)
    assert not check.passes("edges")
    assert check.passes("noise")
    assert "noise" in check.passing
    assert "edges" not in check.passing
    assert list(check.refused) == ["lrp"]
    assert not check.passes("lrp")
    assert check.score("lrp") is None


def test_the_two_stages_that_decide_are_the_ends_of_the_parts(fitted: FittedInterpreter) -> None:
    check = check_sanity(fitted, small.images(4), class_index=1, methods=["gradient"], stages=9)
    names = [score.stage for score in check.scores["gradient"]]
    assert [names[stage] for stage in check.decisive] == ["Ψ to taps.1.convolution randomised", "f to conv1 randomised"]
    worse = max((check.scores["gradient"][stage] for stage in check.decisive), key=lambda score: score.rank_correlation)
    assert check.score("gradient") == worse
    assert check.passes("gradient") == (worse.rank_correlation <= RANK_LIMIT)


def test_attributes_are_looked_at_before_their_relu(explain: FlintExplainer) -> None:
    """Otherwise a silent attribute's maps would be zero before and after, and pass."""
    silent = small.rarely_firing(small.fitted(explain.model), share=0.0)
    check = check_sanity(silent.fitted, small.images(4), attribute=0, methods=["gradient"], stages=1)
    assert check.background["gradient"].rank_correlation != 0


def test_the_same_seed_gives_the_same_figures(fitted: FittedInterpreter) -> None:
    first, second = (check_sanity(fitted, small.images(4), methods=["gradient", "occlusion"], stages=2, seed=3) for _ in range(2))
    torch.rand(3)
    assert first == second
    assert first != check_sanity(fitted, small.images(4), methods=["gradient", "occlusion"], stages=2, seed=4)


def test_the_check_can_be_read_and_kept(fitted: FittedInterpreter) -> None:
    check = check_sanity(fitted, small.images(4), methods=["gradient", "integrated_gradients", "deep_lift"], stages=1)
    text = str(check)
    assert text.startswith("SanityCheck of maps of attributes, 4 images: rank correlation (SSIM)")
    assert "1  Ψ to taps.1.convolution randomised" in text
    assert "1*" in text
    assert "gradient " in text
    assert f"passes: rank correlation at most {RANK_LIMIT}" in text
    assert "deep_lift               not checked: it knows no rule for" in text
    kept = json.loads(json.dumps(check.to_dict()))
    assert kept["methods"]["gradient"]["stages"][1]["stage"] == "f to conv1 randomised"
    assert kept["methods"]["gradient"]["passes"] == check.passes("gradient")
    assert kept["refused"].keys() == {"deep_lift"}


def test_the_score_travels_with_the_maps(fitted: FittedInterpreter) -> None:
    check = check_sanity(fitted, small.images(4), methods=["gradient"], stages=1)
    found = attribute_pixels(fitted, small.images(2), attribute=0, method="gradient", sanity=check)
    assert found.sanity == check.score("gradient")
    assert "rank correlation" in str(found)
    assert attribute_pixels(fitted, small.images(2), attribute=0, method="occlusion", sanity=check).sanity is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"stages": 0}, ConfigurationError, "stages must be at least 1, got 0"),
        ({"methods": ["saliency"]}, AttributionError, "there is no method 'saliency'"),
        ({"attribute": 9}, ConfigurationError, "there is no attribute 9"),
        ({"attribute": 0, "class_index": 0}, ConfigurationError, "either attribute= or class_index="),
    ],
)
def test_wrong_questions_are_answered_clearly(
    fitted: FittedInterpreter, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_sanity(fitted, small.images(2), **arguments)


# ---- a network fitted to random labels ----


def compared(fitted: FittedInterpreter, other: FittedInterpreter) -> SanityCheck:
    return compare_with(fitted, other, small.images(4), methods=["gradient", "occlusion", "lrp"], candidates=2)


def test_a_fit_compared_with_itself_is_the_same(explain: FlintExplainer) -> None:
    with left_alone(explain.model), left_alone(explain.interpreter):
        check = compared(explain.fitted, explain.fitted)
    for scores in check.scores.values():
        assert [score.rank_correlation for score in scores] == pytest.approx([1, 1], abs=1e-5)
        assert [score.ssim for score in scores] == pytest.approx([1, 1], abs=1e-5)
    assert [score.stage for score in check.scores["gradient"]] == [
        "class logits of g in the other fit",
        "best of 2 attributes of the other fit",
    ]
    assert check.passing == ()
    assert list(check.refused) == ["lrp"]


def test_another_network_gives_other_maps(explain: FlintExplainer) -> None:
    check = compared(explain.fitted, small.fitted(small.tiny(seed=5)).fitted)
    assert all(score.rank_correlation < 0.95 for scores in check.scores.values() for score in scores)


def test_fits_that_cannot_be_compared_say_so(explain: FlintExplainer) -> None:
    fewer = small.fitted(explain.model, classes=[0, 1])
    with pytest.raises(ConfigurationError, match="got 4 and 2 classes"):
        compared(explain.fitted, fewer.fitted)
    with pytest.raises(ConfigurationError, match="candidates at least 1"):
        compare_with(explain.fitted, explain.fitted, small.images(2), candidates=0)


def test_a_module_that_holds_nothing_learnt_is_no_stage() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4)
    ).eval()
    explain = FlintExplainer(model, layers=["1"], num_attributes=2, config=small.CONFIG)
    explain.fit(small.images(), max_steps=2, progress=False)
    assert stages(explain.fitted, "classifier") == ["f to 6", "f to 3", "f to 0"]
    assert stages(explain.fitted, "preactivations")[-1] == "f to 0"


class Attentive(nn.Module):
    """Attention reads the weights of an output layer that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(2, 8, 5, stride=5), nn.SyncBatchNorm(8)
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(self.patches(images)).flatten(2).transpose(1, 2)
        return self.head(self.attention(tokens, tokens, tokens)[0].mean(dim=1))


def test_weights_that_are_read_and_not_called_are_randomised_too() -> None:
    model = Attentive().eval()
    explain = FlintExplainer(model, layers=["patches"], num_attributes=2, config=small.CONFIG)
    explain.fit(small.images(), max_steps=2, progress=False)
    names = stages(explain.fitted, "classifier")
    assert "f to attention.out_proj" in names
    assert names.index("f to attention.out_proj") < names.index("f to patches")


def test_batch_norms_over_processes_take_their_statistics_here_alone() -> None:
    model = Attentive().eval()
    explain = FlintExplainer(model, layers=["norm"], num_attributes=2, config=small.CONFIG)
    explain.fit(small.images(), max_steps=2, progress=False)
    with left_alone(model):
        for _, copy in randomized(explain.fitted, small.images(4), SCORES["classifier"], most=2, seed=0):
            assert not any(isinstance(module, nn.SyncBatchNorm) for module in copy.view.model.modules())
    assert isinstance(model.norm, nn.SyncBatchNorm)


@pytest.mark.parametrize(("spoil", "reason"), [(float("nan"), "its maps are not finite"), (0.0, "its maps are all zero")])
def test_maps_that_say_nothing_do_not_pass(explain: FlintExplainer, monkeypatch: pytest.MonkeyPatch, spoil: float, reason: str) -> None:
    real = sanity.pixel_maps

    def spoilt(request: Any, method: str, *others: Any) -> Tensor:
        return real(request, method, *others) * (spoil if method == "gradient" else 1)

    monkeypatch.setattr(sanity, "pixel_maps", spoilt)
    found = explain.sanity_check(small.images(4), methods=["gradient", "occlusion"])
    assert found.refused == {"gradient": reason}
    assert not found.passes("gradient")
    assert list(found.scores) == ["occlusion"]


def test_images_without_a_map_are_left_out_of_the_means() -> None:
    before, after = torch.rand(3, 8, 8), torch.rand(3, 8, 8)
    with_empty = torch.cat([before, torch.zeros(2, 8, 8)]), torch.cat([after, torch.rand(2, 8, 8)])
    assert sanity.compared("", *with_empty) == pytest.approx(sanity.compared("", before, after))


def test_of_one_image_there_is_no_other(explain: FlintExplainer) -> None:
    alone = check_sanity(explain.fitted, small.images(1), methods=["gradient"], stages=1)
    assert alone.background == {}
    assert any(line.endswith(("-  passes", "-  FAILS")) for line in str(alone).splitlines())
    assert alone.to_dict()["methods"]["gradient"]["other_image"] is None


def test_maps_that_vanish_with_the_network_are_no_proof(explain: FlintExplainer, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = sanity.pixel_maps, []

    def dying(request, method, pixels, columns):
        asked.append(method)
        return real(request, method, pixels, columns) * (len(asked) == 1)

    monkeypatch.setattr(sanity, "pixel_maps", dying)
    found = check_sanity(explain.fitted, small.images(4), methods=["gradient"], stages=1)
    assert found.passing == ()
    assert "its maps vanish" in found.refused["gradient"]
    assert "not checked: its maps vanish" in str(found)


def test_what_could_not_be_compared_is_none_in_json(explain: FlintExplainer, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sanity.pixel_maps
    half = torch.tensor([1.0, 0.0]).view(-1, 1, 1, 1)  # the second of two images has no map
    monkeypatch.setattr(sanity, "pixel_maps", lambda request, *what: real(request, *what) * half)
    told = check_sanity(explain.fitted, small.images(2), methods=["gradient"], stages=1).to_dict()
    assert told["methods"]["gradient"]["other_image"] == {"stage": "another image", "ssim": None, "rank_correlation": None}
    json.dumps(told, allow_nan=False)


def test_a_caller_in_inference_mode_gets_the_same(fitted: FittedInterpreter) -> None:
    def scores() -> dict[str, Any]:
        return check_sanity(fitted, small.images(4), class_index=1, methods=["gradient"], stages=1).to_dict()

    expected = scores()
    with torch.inference_mode():
        assert scores() == expected
