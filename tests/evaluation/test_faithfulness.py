"""f run on from other activations: exact for a linear rest, nothing left of what was taken out, and a truth that has to be found."""

import dataclasses
import json
import math
from typing import Any

import oracles
import pytest
import small
import torch
from models import Family, ModuleCNN, every_family, left_alone
from torch import Tensor, nn

from flint_posthoc import FlintExplainer
from flint_posthoc.errors import ConfigurationError, DataError, EmptyDataError, UnmappableActivationError
from flint_posthoc.evaluation.ablation import (
    RIDGE,
    GradientAblation,
    PatternAblation,
    learn_atoms,
    learn_patterns,
    lowest,
    moved_at_random,
    replaced,
)
from flint_posthoc.evaluation.faithfulness import Faithfulness, FaithfulnessSettings, _shuffled, measure_faithfulness, score_ablations
from flint_posthoc.evaluation.interventions import Ablations, Asked, Rest, ablate, ask, class_logit, decode_without
from flint_posthoc.measures import area_resize

SETTINGS = FaithfulnessSettings(images=24, attributes=4, training_images=60)


def explainer(family: Family, model: nn.Module) -> FlintExplainer:
    explain = FlintExplainer(model, layers=family.layers, num_attributes=3, config=small.CONFIG)
    explain.fit(family.images(12), max_steps=1, progress=False)
    return explain


@pytest.fixture(scope="module")
def found(learnt: FlintExplainer, pixels: Tensor, train: Tensor) -> Faithfulness:
    return measure_faithfulness(learnt.fitted, list(pixels.split(9)), train=train[:100], settings=SETTINGS)


@every_family
def test_with_its_own_activations_f_says_what_it_said_and_with_others_something_else(family: Family) -> None:
    model, pixels = family.build().eval(), family.images(4)
    fitted = explainer(family, model).fitted
    with left_alone(model), torch.no_grad(), fitted.view.frozen() as run:
        own = run(pixels)
        with replaced(fitted.view, own.activations):
            again = run(pixels)
        torch.testing.assert_close(again.logits, own.logits)
        other = tuple(maps.flip(0) + 1 for maps in own.activations)
        with replaced(fitted.view, other):
            altered = run(pixels)
        for maps, expected in zip(altered.activations, other, strict=True):
            torch.testing.assert_close(maps, expected)
        assert not torch.allclose(altered.logits, own.logits, atol=1e-4)
        torch.testing.assert_close(run(pixels).logits, own.logits)  # and nothing stays


def test_of_a_layer_that_runs_twice_the_last_output_is_replaced_in_every_pass() -> None:
    model, pixels = ModuleCNN().eval(), torch.randn(4, 3, 32, 32)
    fitted = explainer(Family(ModuleCNN, ("act", "conv2")), model).fitted
    with torch.no_grad(), fitted.view.frozen() as run:
        own = run(pixels)
        with replaced(fitted.view, own.activations):
            torch.testing.assert_close(run(pixels).logits, own.logits)
            torch.testing.assert_close(run(pixels).logits, own.logits)
        other = (own.activations[0] + 1, own.activations[1])
        with replaced(fitted.view, other):
            torch.testing.assert_close(run(pixels).activations[0], other[0])


def test_the_rest_of_f_is_what_the_layers_say() -> None:
    model = small.tiny()
    explain = small.fitted(model, layers=("conv2",))
    with torch.no_grad(), explain.fitted.view.frozen() as run:
        pixels = small.images(5)
        maps = torch.randn(5, 6, 5, 5)
        with replaced(explain.fitted.view, (maps,)):
            found = run(pixels).logits
        expected = model.fc(torch.nn.functional.adaptive_avg_pool2d(maps.relu(), 2).flatten(1))
    torch.testing.assert_close(found, expected)


class Wrapped(nn.Module):
    """Puts its maps into an object that no one can write to."""

    def forward(self, maps: Tensor) -> Any:
        return Holder(maps)


class Holder:
    def __init__(self, maps: Tensor) -> None:
        self.maps = maps


def test_an_output_that_cannot_be_written_to_is_refused_and_leaves_no_trace(learnt: FlintExplainer) -> None:
    from flint_posthoc.adapters.torch_module import TorchModuleAdapter

    class Reading(TorchModuleAdapter):
        def tensors(self, output: Any) -> tuple[Tensor, ...]:
            return (output.maps,) if isinstance(output, Holder) else super().tensors(output)

    class Holding(small.Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.hold = Wrapped()

        def forward(self, images: Tensor) -> Tensor:
            held = self.hold(self.conv1(images))
            return self.fc(torch.nn.functional.adaptive_avg_pool2d(self.conv2(held.maps).relu(), 2).flatten(1))

    model = Holding().eval()
    explain = small.fitted(model, layers=("hold",), adapter=Reading())
    with left_alone(model), pytest.raises(UnmappableActivationError, match="'hold' puts out a Holder, which cannot be written to"):
        measure_faithfulness(explain.fitted, small.images(9), settings=SETTINGS)


def test_taking_attributes_out_leaves_none_of_them_and_moves_no_further_than_it_must(learnt: FlintExplainer, pixels: Tensor) -> None:
    batch = next(learnt.fitted.read(pixels))
    ablation = GradientAblation(learnt.fitted)
    before = ablation.codes(batch.activations)
    for flags in (torch.eye(6, dtype=torch.bool)[1], torch.tensor([1, 0, 1, 0, 0, 1], dtype=torch.bool)):
        removed = flags.expand(40, 6)
        altered = ablation.without(batch.activations, removed)
        left = ablation.codes(altered)
        assert left[removed].sum() < 0.1 * before[removed].sum()  # some are stuck at a kink; how much is left is reported
        assert before[removed].sum() > 0
        unfired = ~(before * removed).any(dim=1)
        for old, new in zip(batch.activations, altered, strict=True):
            assert torch.equal(new[unfired], old[unfired])
            assert (new >= lowest(old) - 1e-6).all()
    whole = ablation.without(batch.activations, torch.zeros(40, 6, dtype=torch.bool))
    assert all(torch.equal(new, old) for new, old in zip(whole, batch.activations, strict=True))


def test_on_a_linear_map_taking_out_is_the_projection() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.directions = torch.randn(2, 3 * 4 * 4)

        def forward(self, activations: tuple[Tensor, ...]) -> Tensor:
            return (activations[0].flatten(1) @ self.directions.T).relu()

    ablation, network = GradientAblation.__new__(GradientAblation), Linear()
    ablation._network, maps = network, torch.randn(6, 3, 4, 4) - 3  # type: ignore[assignment]
    maps[:, 0, 0, 0] = -100.0  # the floor is far away
    phi = network((maps,))
    (altered,) = ablation.without((maps,), torch.tensor([[True, False]]).expand(6, 2))
    direction = network.directions[0]
    expected = maps.flatten(1) - phi[:, :1] * direction / direction.square().sum()
    torch.testing.assert_close(altered.flatten(1), torch.maximum(expected, torch.tensor(-100.0)), atol=1e-3, rtol=1e-3)
    assert (phi[:, 0] > 0).any()


def test_patterns_are_the_regression_of_maps_on_attributes(learnt: FlintExplainer, pixels: Tensor) -> None:
    learned = learn_patterns(learnt.fitted, list(pixels.split(9)))
    batch = next(learnt.fitted.read(pixels))
    phi = batch.attributes.double() - batch.attributes.double().mean(dim=0)
    pull = torch.eye(6).double() * (RIDGE * phi.var(dim=0, correction=0).mean() * 40).sqrt()  # the ridge as images of their own
    rows = torch.cat([phi, pull])
    for maps, pattern in zip(batch.activations, learned._patterns, strict=True):
        flat = area_resize(maps, (2, 2)).flatten(1).double()  # Ψ's own grid
        target = torch.cat([flat - flat.mean(dim=0), torch.zeros(6, flat.shape[1]).double()])
        expected = torch.linalg.lstsq(rows, target).solution
        torch.testing.assert_close(pattern.flatten(1).double(), expected, atol=2e-3, rtol=2e-3)


def test_a_pattern_is_subtracted_as_strongly_as_its_attribute_fires(learnt: FlintExplainer, pixels: Tensor) -> None:
    batch = next(learnt.fitted.read(pixels))
    patterns = tuple(torch.randn(6, maps.shape[1], 2, 2) for maps in batch.activations)
    ablation, removed = PatternAblation(learnt.fitted, patterns), torch.rand(40, 6) < 0.4
    altered = ablation.without(batch.activations, removed)
    for maps, pattern, new in zip(batch.activations, patterns, altered, strict=True):
        for row in range(0, 40, 7):
            cells = pattern.repeat_interleave(-(-maps.shape[2] // 2), 2).repeat_interleave(-(-maps.shape[3] // 2), 3)
            cells = cells[..., : maps.shape[2], : maps.shape[3]]
            parts = [batch.attributes[row, j] * cells[j] for j in range(6) if removed[row, j]]
            expected = maps[row] - (torch.stack(parts).sum(dim=0) if parts else 0)
            torch.testing.assert_close(new[row], torch.maximum(expected, maps[row].min().clamp(max=0)), atol=1e-4, rtol=1e-4)
    assert torch.equal(ablation.codes(batch.activations), batch.attributes)


def test_an_atom_is_taken_out_place_by_place(learnt: FlintExplainer, train: Tensor, pixels: Tensor) -> None:
    dictionary = learn_atoms(learnt.fitted, list(train[:60].split(33)), 0)
    batch = next(learnt.fitted.read(pixels))
    codes = dictionary.codes(batch.activations)
    assert codes.shape == (40, 6)
    assert (codes >= 0).all()
    everything = dictionary.without(batch.activations, torch.ones(40, 6, dtype=torch.bool))
    assert torch.equal(everything[0], batch.activations[0])  # only the deepest tap
    positive = batch.activations[1].clamp(min=0)
    assert everything[1].clamp(min=0).square().sum() < 0.3 * positive.square().sum()
    assert torch.equal(everything[1].clamp(max=0), batch.activations[1].clamp(max=0))
    nothing = dictionary.without(batch.activations, torch.zeros(40, 6, dtype=torch.bool))
    torch.testing.assert_close(nothing[1], batch.activations[1])
    assert torch.equal(learn_atoms(learnt.fitted, list(train[:60].split(33)), 0).codes(batch.activations), codes)


def test_a_random_move_is_as_long() -> None:
    maps = (torch.randn(5, 3, 12, 12).relu(), (torch.randn(5, 2, 9, 9) - 1).relu())  # most of the second lies on the floor
    altered = tuple((part + 0.5 * torch.randn_like(part)).relu() for part in maps)
    moved = moved_at_random(maps, altered, torch.Generator().manual_seed(0))
    for old, new, other in zip(maps, moved, altered, strict=True):
        torch.testing.assert_close((new - old).flatten(1).norm(dim=1), (other - old).flatten(1).norm(dim=1), rtol=0.02, atol=1e-4)
        assert not torch.allclose(new, other)
        assert (new >= 0).all()


def test_the_strongest_attributes_are_asked_about_by_falling_contribution(learnt: FlintExplainer, pixels: Tensor) -> None:
    local = learnt(pixels, for_class="classifier")
    batch = next(learnt.fitted.read(pixels))
    asked = ask(GradientAblation(learnt.fitted), batch.activations, local.classifier_class, 3)
    for row, (order, alpha) in enumerate(zip(asked.order.tolist(), asked.alpha.tolist(), strict=True)):
        contributions = local.contributions[row].tolist()
        largest = sorted(sorted(range(6), key=lambda j, values=contributions: -abs(values[j]))[:3], key=lambda j, v=contributions: -v[j])
        assert [contributions[j] for j in order] == pytest.approx([contributions[j] for j in largest])
        assert [0.0 if math.isnan(value) else value for value in alpha] == pytest.approx([contributions[j] for j in order])


def test_a_logit_does_not_depend_on_what_softmax_does_not_see() -> None:
    logits, classes = torch.randn(5, 4), torch.tensor([0, 3, 1, 1, 2])
    torch.testing.assert_close(class_logit(logits + torch.randn(5, 1), classes), class_logit(logits, classes))
    assert class_logit(torch.tensor([[1.0, 2.0, 6.0]]), torch.tensor([2])).item() == 3


def test_flags_are_of_the_asked_that_take_part() -> None:
    asked = Asked(torch.tensor([[2, 0], [1, 3]]), torch.tensor([[0.5, -0.5], [0.5, math.nan]]), 4)
    assert asked.flags(torch.tensor([True, False])).nonzero().tolist() == [[0, 2], [1, 1]]
    assert asked.flags(torch.tensor([[False, True], [True, True]])).nonzero().tolist() == [[0, 0], [1, 1]]


def test_drops_and_curves_are_those_of_single_runs(learnt: FlintExplainer, pixels: Tensor) -> None:
    fitted, ablation = learnt.fitted, GradientAblation(learnt.fitted)
    with torch.no_grad(), fitted.view.frozen() as run:
        rest = Rest.of(fitted, run, pixels[:6])
        found = ablate(ablation, rest, 3, torch.Generator().manual_seed(0))
        asked = ask(ablation, rest.activations, rest.classes, 3)
        torch.testing.assert_close(rest.whole, class_logit(learnt.model(pixels[:6]), rest.classes))
        for row in range(6):
            for rank in range(3):
                if math.isnan(asked.alpha[row, rank]):
                    assert found.drop[row, rank].isnan()
                    continue
                removed = torch.zeros(6, 6, dtype=torch.bool)
                removed[row, asked.order[row, rank]] = True
                alone = rest.after(ablation.without(rest.activations, removed))
                assert found.drop[row, rank].item() == pytest.approx((rest.whole - alone)[row].item(), abs=1e-4)
        decoded = decode_without(fitted, rest, 3)
        phi = ablation.codes(rest.activations)
        without = phi.clone()
        without[torch.arange(6), asked.order[:, 0]] = 0
        pictures = [torch.nn.functional.interpolate(fitted.interpreter.decoder(a), (10, 10), mode="bilinear") for a in (phi, without)]
        logits = [class_logit(learnt.model(picture), rest.classes) for picture in pictures]
    torch.testing.assert_close(decoded.gap, rest.whole - logits[0])
    torch.testing.assert_close(decoded.drop[:, 0], torch.where(asked.alpha[:, 0].isnan(), math.nan, logits[0] - logits[1]), equal_nan=True)
    torch.testing.assert_close(found.deletion[:, 0], rest.whole)
    torch.testing.assert_close(found.insertion[:, -1], rest.whole)
    torch.testing.assert_close(found.deletion[:, -1], found.insertion[:, 0])
    torch.testing.assert_close(found.random_deletion[:, [0, -1]], found.deletion[:, [0, -1]])
    torch.testing.assert_close(found.deletion[:, 1], rest.whole - found.drop[:, 0].nan_to_num(0))


def made_up(drop: Tensor, alpha: Tensor) -> Ablations:
    lines = torch.zeros(len(alpha), alpha.shape[1] + 1)
    return Ablations(alpha, drop, torch.randn_like(drop), torch.zeros_like(drop), lines - 1, lines + 1, lines, lines)


def test_what_f_follows_scores_one_and_what_it_does_not_scores_nothing() -> None:
    alpha = torch.randn(200, 6)
    alpha[:50, 3:] = math.nan
    alpha[0, 1:] = math.nan  # too few for a rank
    follows, ignores = (
        score_ablations("x", made_up(drop, alpha), 0) for drop in (alpha**3, torch.where(alpha.isnan(), alpha, torch.randn(200, 6)))
    )
    assert follows.correlation == (1, 1, 1)
    assert follows.claimed.mean == pytest.approx(torch.where(alpha > 0, alpha, math.nan).nanmean(dim=1).nanmean().item())
    assert follows.drop.mean == pytest.approx(torch.where(alpha > 0, alpha**3, math.nan).nanmean(dim=1).nanmean().item())
    assert follows.random_attribute.low < 0.1
    assert follows.random_direction.low < 0 < follows.random_direction.high
    assert ignores.correlation.low < 0 < ignores.correlation.high
    assert follows.deletion_gain == follows.insertion_gain == (1, 1, 1)
    assert (follows.ranked, follows.follows) == (199, True)
    noise = torch.randn(200, 6)
    mixed = score_ablations("x", made_up(torch.where(alpha.isnan(), alpha, alpha + noise), alpha), 0)
    rows = [
        oracles.rank_correlation(row[~row.isnan()].tolist(), (row + other)[~row.isnan()].tolist())
        for row, other in zip(alpha[1:], noise[1:], strict=True)
    ]
    assert mixed.correlation.mean == pytest.approx(oracles.mean(rows), abs=1e-6)


def test_drops_are_mixed_among_the_attributes_of_an_image() -> None:
    drop = torch.rand(30, 5)
    drop[:10, 1] = math.nan
    mixed = _shuffled(drop, torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixed.sort(dim=1).values, drop.sort(dim=1).values, equal_nan=True)
    assert torch.equal(mixed.isnan(), drop.isnan())
    assert not torch.equal(mixed[10:], drop[10:])


def test_attributes_that_imitate_f_are_faithful_and_attributes_of_noise_are_not(
    found: Faithfulness, learnt: FlintExplainer, pixels: Tensor
) -> None:
    for score in (found.patterns, found.gradients):
        assert score.correlation.low > 0
        assert score.deletion_gain.low > 0
    assert found.gradients.drop.low > found.gradients.random_drop.high
    assert found.gradients.remaining < 0.05
    assert (found.images, found.asked) == (24, 4)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        shapes = (learnt.fitted.view.tap_shapes, learnt.fitted.image_shape)
        untrained = type(learnt.interpreter)(*shapes, 6, small.CLASSES, learnt.interpreter.config).requires_grad_(False).eval()
    untrained.initialize_from(next(learnt.fitted.read(pixels)).activations)
    other = measure_faithfulness(dataclasses.replace(learnt.fitted, interpreter=untrained), pixels, settings=SETTINGS)
    assert other.patterns.correlation.mean < found.patterns.correlation.mean


def test_the_seed_decides(found: Faithfulness, learnt: FlintExplainer, pixels: Tensor, train: Tensor) -> None:
    again = measure_faithfulness(learnt.fitted, list(pixels.split(9)), train=train[:100], settings=SETTINGS)
    assert again.to_dict() == found.to_dict()


def test_it_says_what_it_means(found: Faithfulness) -> None:
    text = str(found)
    for words in ("NMF atoms", "f itself follows", "random move as long", "left of what was taken out", "Through the decoder"):
        assert words in text.replace("\n", " ")
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()
    assert len(found.plot().axes[0].lines) == 12


def test_bad_input_is_refused_and_no_trace_stays(learnt: FlintExplainer, pixels: Tensor) -> None:
    with pytest.raises(ConfigurationError, match="attributes must be at least 3"):
        FaithfulnessSettings(attributes=2)
    with pytest.raises(EmptyDataError, match="holds no images"):
        measure_faithfulness(learnt.fitted, [], train=pixels, settings=SETTINGS)
    with pytest.raises(EmptyDataError, match="holds no images"):
        measure_faithfulness(learnt.fitted, pixels, train=[], settings=SETTINGS)
    few = dataclasses.replace(SETTINGS, images=3)
    with left_alone(learnt.model):
        measure_faithfulness(learnt.fitted, pixels, settings=few)
    with left_alone(learnt.model), torch.inference_mode():
        assert measure_faithfulness(learnt.fitted, pixels, settings=few).images == 3


def test_nothing_is_concluded_from_a_few_images(learnt: FlintExplainer, train: Tensor, pixels: Tensor) -> None:
    few = measure_faithfulness(learnt.fitted, pixels[:4], train=train, settings=FaithfulnessSettings(images=4, training_images=60))
    assert few.images == 4
    assert "it is not shown that f follows the explanation" in few.meaning()


def test_shuffled_drops_are_those_of_the_same_image() -> None:
    drop = torch.tensor([[1.0, 2.0, 3.0, math.nan], [4.0, 5.0, math.nan, math.nan]])
    for seed in range(20):
        mixed = _shuffled(drop, torch.Generator().manual_seed(seed))
        assert torch.equal(mixed.isnan(), drop.isnan())
        assert sorted(mixed[0, :3].tolist()) == [1.0, 2.0, 3.0]
        assert sorted(mixed[1, :2].tolist()) == [4.0, 5.0]


def test_data_that_can_be_read_once_needs_training_images(learnt: FlintExplainer, pixels: Tensor) -> None:
    with pytest.raises(DataError, match="can be read only once"):
        measure_faithfulness(learnt.fitted, small.generated(pixels))


def test_one_image_with_attributes_enough_proves_nothing() -> None:
    alpha = torch.rand(100, 6) + 1
    few = alpha.clone()
    few[1:, 2:] = math.nan
    found = {name: score_ablations(name, part, 0) for name, part in (("all", made_up(alpha**3, alpha)), ("one", made_up(few**3, few)))}
    assert {name: (score.ranked, score.follows) for name, score in found.items()} == {"all": (100, True), "one": (1, False)}
