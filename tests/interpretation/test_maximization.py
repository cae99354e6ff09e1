"""AM+PI: the objective against loops, batches against single runs, and what a result says of itself."""

from dataclasses import replace

import numpy as np
import pytest
import small
import torch
from models import left_alone
from torch import nn

from flint_posthoc import Normalization
from flint_posthoc.errors import ConfigurationError, ImageShapeError
from flint_posthoc.interpretation.ascent import (
    COLOUR,
    GREY,
    PAPER,
    PHOTOGRAPH,
    PRESETS,
    MaximizationSettings,
    Objective,
    Stage,
    Units,
    ascend,
    bounds,
    preset_for,
    total_variation,
)
from flint_posthoc.interpretation.maximization import as_delivered, maximize, shifted
from flint_posthoc.interpretation.parameterization import PARAMETERIZATIONS

NORMALIZATION = Normalization((0.4, 0.5), (0.2, 0.3))
SHORT = replace(GREY, stages=(Stage(12, 2.0, 1.0, 5.0), Stage(6, 4.0, 2.0, 10.0)), halve_every=5)


@pytest.fixture(scope="module")
def explain():
    return small.fitted()


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(3)
    layers = (nn.Conv2d(2, 8, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 5))
    return nn.Sequential(*layers).to(dtype).requires_grad_(False)


def wide_images(count: int, dtype: torch.dtype) -> torch.Tensor:
    """Images that are not square."""
    return torch.rand(count, 2, 8, 10, generator=torch.Generator().manual_seed(1)).to(dtype)


# ---- the objective ----


def test_total_variation_is_that_of_a_loop() -> None:
    image = wide_images(1, torch.float64)[0].numpy()
    channels, height, width = image.shape
    down = [abs(image[c, i + 1, j] - image[c, i, j]) for c in range(channels) for i in range(height - 1) for j in range(width)]
    right = [abs(image[c, i, j + 1] - image[c, i, j]) for c in range(channels) for i in range(height) for j in range(width - 1)]
    expected = sum(down) / len(down) + sum(right) / len(right)
    assert float(total_variation(torch.from_numpy(image)[None])[0]) == pytest.approx(expected, rel=1e-12)


def test_a_single_row_of_pixels_has_variation_along_it() -> None:
    assert total_variation(torch.tensor([[[[0.0, 1.0, 0.0]]]])).tolist() == [1.0]


@pytest.mark.parametrize("shape", [(3, 2, 8, 10), (2, 1, 1, 5), (2, 3, 4, 1), (1, 1, 1, 1)])
def test_the_gradient_of_total_variation_is_that_of_finite_differences(shape: tuple[int, ...]) -> None:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(total_variation, [images])


def test_bounds_are_the_mean_distance_outside_the_range_of_the_channel() -> None:
    images = torch.tensor([[[[-3.0, 0.0], [2.0, 1.0]], [[-3.0, 0.0], [2.0, 1.0]]]])
    low, high = torch.tensor([-2.0, -1.0]).view(1, 2, 1, 1), torch.tensor([1.0, 4.0]).view(1, 2, 1, 1)
    assert float(bounds(images, low, high)[0]) == pytest.approx((1 + 1 + 2 + 0) / 8)


def test_the_objective_in_the_papers_form() -> None:
    read, images = network(torch.float64), wide_images(3, torch.float64) * 6 - 3
    chosen, units = torch.tensor([4, 0, 2]), Units(torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    value = Objective(read, chosen, units, NORMALIZATION, allowance=0.0)(images, Stage(1, 2.0, 6.0, 10.0))
    low, high = (NORMALIZATION.normalize(torch.full_like(images[:1], edge)) for edge in (0.0, 1.0))
    phi = read(images)[[0, 1, 2], chosen]
    assert torch.allclose(value, 2 * phi - 6 * total_variation(images) - 10 * bounds(images, low, high))


def test_variation_counts_beyond_its_allowance_in_units_of_the_start() -> None:
    read, images = network(torch.float64), wide_images(2, torch.float64)
    own = total_variation(images)
    units = Units(torch.full((2,), 2.0, dtype=torch.float64), own / torch.tensor([1.0, 3.0]))
    value = Objective(read, torch.zeros(2, dtype=torch.long), units, NORMALIZATION, allowance=1.4)(images, Stage(1, 2.0, 5.0, 0.0))
    assert torch.allclose(value, read(images)[:, 0] - 5 * torch.tensor([0.0, 3.0 - 1.4], dtype=torch.float64))


# ---- a batch is its single runs ----


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_in_float64_a_batch_is_what_its_pairs_are_one_at_a_time(parameterization: str) -> None:
    read, images, chosen = network(torch.float64), wide_images(6, torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
    settings = replace(SHORT, stages=(Stage(60, 2.0, 1.0, 5.0),), parameterization=parameterization, jitter=2)
    units = Units(torch.linspace(0.5, 2, 6, dtype=torch.float64), total_variation(images))

    def climbed(rows: slice) -> torch.Tensor:
        objective = Objective(read, chosen[rows], Units(*(part[rows] for part in units)), NORMALIZATION, 0.5)
        return ascend(objective, images[rows], NORMALIZATION, settings).images

    together = climbed(slice(None))
    single = torch.cat([climbed(slice(row, row + 1)) for row in range(6)])
    assert (together - images).abs().max() > 0.1
    assert (together - single).abs().max() < 1e-9


def test_in_float32_the_first_gradient_of_a_batch_is_that_of_its_pairs(explain) -> None:
    pixels, chosen = small.images(8), torch.arange(8) % 3
    psi = explain.interpreter.attribute_network

    def gradient(rows: slice) -> torch.Tensor:
        with explain.fitted.view.frozen() as run:
            moved = pixels[rows].clone().requires_grad_(True)
            units = Units(torch.ones(len(moved)), torch.ones(len(moved)))
            objective = Objective(lambda seen: psi.preactivations(run.activations(seen)), chosen[rows], units, NORMALIZATION, 0.0)
            return torch.autograd.grad(objective(moved, PAPER.stages[0]).sum(), moved)[0]

    together, single = gradient(slice(None)), torch.cat([gradient(slice(row, row + 1)) for row in range(8)])
    assert (together - single).abs().max() < 1e-5 * together.abs().max()


def test_batches_of_any_size_raise_the_attributes_alike(explain) -> None:
    pixels, chosen = small.images(7), torch.arange(7) % 3
    at_once, in_parts = (maximize(explain.fitted, pixels, chosen, settings=replace(SHORT, batch_size=size)) for size in (64, 3))
    assert torch.allclose(at_once.final_activation, in_parts.final_activation, rtol=0.02, atol=0.02)
    assert at_once.objective.shape == in_parts.objective.shape == (18, 7)


# ---- where it starts, where it goes ----


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("shape", [(1, 9, 14), (2, 10, 10), (3, 11, 8), (5, 6, 7)])
def test_what_is_encoded_is_decoded(parameterization: str, shape: tuple[int, int, int]) -> None:
    normalization = Normalization((0.3,) * shape[0], (0.4,) * shape[0])
    code = PARAMETERIZATIONS[parameterization](shape, normalization)
    images = normalization.normalize(torch.rand(2, *shape) * 0.9 + 0.05)
    assert torch.allclose(code.decode(code.encode(images)), images, atol=1e-4)


def test_frequencies_never_leave_the_valid_range() -> None:
    code = PARAMETERIZATIONS["fourier"]((2, 8, 8), NORMALIZATION)
    pixels = NORMALIZATION.denormalize(code.decode(torch.randn(4, 2, 8, 5, 2) * 50))
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def test_it_starts_from_the_darkened_image_and_climbs(explain) -> None:
    pixels = small.images(6)
    found = maximize(explain.fitted, pixels, torch.arange(6) % 3, settings=replace(SHORT, stages=(Stage(80, 2.0, 0.0, 1.0),)))
    assert found.rose.all()
    assert (found.objective[-1] > found.objective[0]).all()


def test_scaling_in_pixel_space_is_not_scaling_what_the_classifier_sees(explain) -> None:
    pixels = small.images(3)
    fitted = explain.fitted
    one_step = replace(PAPER, stages=(Stage(1, 2.0, 6.0, 10.0),), learning_rate=1e-7, start_scale=0.5)
    dark = maximize(fitted, pixels, 0, settings=one_step)
    grey = maximize(fitted, pixels, 0, settings=replace(one_step, start_space="normalised"))
    expected = fitted.normalization.denormalize(pixels) * 0.5
    assert torch.allclose(dark.pixels, expected.clamp(0, 1), atol=1 / 255)
    assert torch.allclose(grey.pixels, fitted.normalization.denormalize(pixels * 0.5).clamp(0, 1), atol=1 / 255)
    assert (dark.pixels - grey.pixels).abs().max() > 0.05


def test_noise_is_the_same_for_every_pair(explain) -> None:
    pixels = small.images(4)
    found = maximize(explain.fitted, pixels, 1, settings=SHORT, start="noise")
    between, from_image = (found.pixels[0] - found.pixels[3]).abs().mean(), (found.pixels - found.start).abs().mean()
    assert between < 0.05 < from_image
    assert torch.allclose(found.start, explain.fitted.normalization.denormalize(pixels))


def test_a_silent_attribute_is_climbed_by_its_preactivation() -> None:
    explain = small.rarely_firing(small.fitted(), share=0.1)
    pixels = small.images(40)
    silent = pixels[explain(pixels).attributes[:, 0] == 0][:4]
    found = maximize(explain.fitted, silent, 0, settings=replace(GREY, stages=(Stage(150, 2.0, 0.0, 0.0),)))
    assert (found.initial_activation == 0).all()
    assert found.rose.any()


def test_a_dead_attribute_is_seen_to_have_failed() -> None:
    explain = small.fitted()
    with torch.no_grad():
        explain.interpreter.attribute_network.linear.bias[1] = -1e4
    found = maximize(explain.fitted, small.images(2), 1, settings=SHORT)
    assert not found.rose.any()
    assert "did not rise" in found.title(0)
    assert str(found).startswith("Maximization of 2 pictures: 0 rose")


# ---- what is measured ----


def test_pixels_are_those_that_a_person_gets(explain) -> None:
    found = maximize(explain.fitted, small.images(3), 0, settings=SHORT)
    levels = found.pixels * 255
    assert torch.equal(levels, levels.round())
    assert levels.min() >= 0
    assert levels.max() <= 255
    assert torch.equal(as_delivered(explain.fitted.normalization.normalize(found.pixels), explain.fitted.normalization), found.pixels)


def test_activation_afterwards_is_the_median_over_shifts_of_the_delivered_image(explain) -> None:
    found = maximize(explain.fitted, small.images(2), [0, 2], settings=SHORT)
    padded = np.pad(found.pixels.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    moved = [padded[:, :, i : i + small.SIDE, j : j + small.SIDE] for i in range(3) for j in range(3) if 1 in (i, j)]
    values = [explain(explain.fitted.normalization.normalize(torch.from_numpy(image))).attributes for image in moved]
    expected = torch.stack(values).median(dim=0).values
    assert torch.allclose(found.final, expected, atol=1e-5)
    assert torch.allclose(found.final_activation, expected[[0, 1], [0, 2]], atol=1e-5)


def test_shifts_are_the_image_and_a_pixel_each_way() -> None:
    image = torch.rand(1, 2, 10, 11)
    up, down = torch.cat([image[:, :, :1], image[:, :, :-1]], dim=2), torch.cat([image[:, :, 1:], image[:, :, -1:]], dim=2)
    left, right = torch.cat([image[..., :1], image[..., :-1]], dim=3), torch.cat([image[..., 1:], image[..., -1:]], dim=3)
    assert all(torch.equal(ours, expected) for ours, expected in zip(shifted(image), (image, up, down, left, right), strict=True))


def test_tiny_images_are_not_moved() -> None:
    image = torch.rand(1, 1, 8, 8)
    assert [part is image for part in shifted(image)] == [True]
    assert preset_for((1, 8, 8)) == replace(GREY, jitter=0)


def test_the_rank_of_a_gain_counts_larger_ones(explain) -> None:
    found = maximize(explain.fitted, small.images(2), [0, 2], settings=SHORT)
    found = replace(found, initial=torch.zeros(2, 3), final=torch.tensor([[2.0, 3.0, 1.0], [2.0, 3.0, 9.0]]))
    assert found.gain_ranks(torch.ones(3)).tolist() == [2, 1]
    assert found.gain_ranks(torch.tensor([1.0, 3.0, 1.0])).tolist() == [1, 1]


# ---- promises and bad input ----


def test_no_trace_is_left_and_the_same_call_gives_the_same_bits(explain) -> None:
    model, pixels = explain.model, small.images(3)
    with left_alone(model):
        first = maximize(explain.fitted, pixels, 0, settings=SHORT)
    with torch.inference_mode(), left_alone(model):
        second = maximize(explain.fitted, pixels, 0, settings=SHORT)
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.final, second.final)
    assert all(not parameter.requires_grad or parameter.grad is None for parameter in explain.interpreter.parameters())


def test_the_pass_stops_at_the_deepest_tap(explain) -> None:
    heads = []
    handle = explain.model.fc.register_forward_hook(lambda *_: heads.append(1))
    maximize(explain.fitted, small.images(2), 0, settings=SHORT)
    handle.remove()
    assert not heads


def test_bfloat16_climbs_to_about_the_same_height(explain) -> None:
    pixels = small.images(6)
    exact, rough = (maximize(explain.fitted, pixels, 0, settings=replace(SHORT, precision=name)) for name in ("float32", "bfloat16"))
    assert torch.allclose(exact.final_activation, rough.final_activation, rtol=0.15, atol=0.1)


def test_presets_by_size_of_image() -> None:
    shapes = {(1, 28, 28): GREY, (3, 32, 32): COLOUR, (3, 224, 224): PHOTOGRAPH, (4, 16, 64): COLOUR, (1, 100, 20): PHOTOGRAPH}
    assert {shape: preset_for(shape) for shape in shapes} == shapes
    assert sum(stage.steps for stage in PRESETS["paper"].stages) == 300


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stages": ()}, "needed are stages"),
        ({"batch_size": 0}, "batch size"),
        ({"jitter": -1}, "jitter"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"start_scale": 1.5}, r"start_scale in \[0, 1\]"),
        ({"parameterization": "wavelets"}, "expected one of .*'fourier'.*'wavelets'"),
        ({"start_space": "log"}, "expected one of .*'pixels'.*'log'"),
        ({"precision": "int8"}, "expected one of .*'bfloat16'.*'int8'"),
    ],
)
def test_settings_out_of_range(change: dict, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        replace(GREY, **change)


def test_bad_requests(explain) -> None:
    with pytest.raises(ConfigurationError, match="at least one step"):
        Stage(0, 1.0, 1.0, 1.0)
    with pytest.raises(ConfigurationError, match="no attribute 3; expected 0 to 2"):
        maximize(explain.fitted, small.images(2), 3)
    with pytest.raises(ConfigurationError, match=r"expected one attribute .* 2 of them"):
        maximize(explain.fitted, small.images(2), [0, 1, 2])
    with pytest.raises(ConfigurationError, match="start must be one of"):
        maximize(explain.fitted, small.images(2), 0, start="zeros")
    with pytest.raises(ImageShapeError):
        maximize(explain.fitted, torch.zeros(2, 2, 9, 9), 0)
    assert isinstance(SHORT, MaximizationSettings)


def test_figure(explain, without_pyplot) -> None:
    assert len(maximize(explain.fitted, small.images(9), 0, settings=SHORT).plot().axes) == 32
