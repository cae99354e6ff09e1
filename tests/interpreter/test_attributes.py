"""Ψ: shapes for any taps, Φ ≥ 0, its start from data, and the revival of silent units."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from flint_posthoc.arrays import Activations
from flint_posthoc.errors import ConfigurationError, ImageShapeError
from flint_posthoc.interpreter.attributes import AttributeNetwork, AttributeNetworkConfig, TapReader, channel_statistics, grid_side

Shapes = tuple[tuple[int, int, int], ...]
BIAS = 0.7


def activations(shapes: Shapes, count: int = 64, seed: int = 0) -> Activations:
    """Random maps whose channels have means and deviations of their own, as those of real layers."""
    source = torch.Generator().manual_seed(seed)
    return tuple(
        10 * torch.rand(shape[0], 1, 1, generator=source) * torch.randn(count, *shape, generator=source)
        + 5 * torch.randn(shape[0], 1, 1, generator=source)
        for shape in shapes
    )


taps = {
    "one": ((5, 7, 7),),
    "several grids": ((5, 12, 12), (6, 6, 6), (7, 3, 3)),
    "not square": ((5, 6, 14), (4, 3, 7)),
    "vector": ((5, 1, 1),),
    "map and vector": ((5, 9, 9), (12, 1, 1)),
    "large": ((3, 33, 50),),
    "crossed": ((3, 2, 9), (3, 9, 2)),
}
every_tap = pytest.mark.parametrize("shapes", taps.values(), ids=taps.keys())
configs = {
    "default": AttributeNetworkConfig(hidden_channels=6),
    "paper": AttributeNetworkConfig(
        hidden_channels=6, tap_kernel_size=3, merge_kernel_size=None, max_grid=None, pool_size=3, standardize=False
    ),
    "strided": AttributeNetworkConfig(hidden_channels=6, tap_kernel_size=3, max_grid=None, pool_size=3, strided=True),
    "grid of one": AttributeNetworkConfig(hidden_channels=6, max_grid=1, pool_size=1),
}
every_config = pytest.mark.parametrize("config", configs.values(), ids=configs.keys())


@every_config
@every_tap
def test_any_taps_give_attributes_that_are_not_negative(shapes: Shapes, config: AttributeNetworkConfig) -> None:
    network, maps = AttributeNetwork(shapes, 9, config).eval(), activations(shapes, 4)
    attributes = network(maps)
    assert attributes.shape == (4, 9)
    assert (attributes >= 0).all()
    torch.testing.assert_close(attributes, network.preactivations(maps).clamp_min(0))
    attributes.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@every_config
@every_tap
def test_reducing_twice_is_reducing_once_and_is_what_forward_does(shapes: Shapes, config: AttributeNetworkConfig) -> None:
    network, maps = AttributeNetwork(shapes, 3, config).eval(), activations(shapes, 2)
    once = network.reduced(maps)
    assert tuple(tuple(tap.shape[1:]) for tap in once) == network.reduced_shapes
    assert all(torch.equal(one, two) for one, two in zip(once, network.reduced(once), strict=True))
    assert torch.equal(network(maps), network(once))


@given(st.integers(1, 300), st.integers(1, 40))
def test_the_grid_stays_within_its_limit_and_takes_whole_windows(side: int, limit: int) -> None:
    grid = grid_side(side, limit)
    assert 1 <= grid <= min(side, limit)
    window = math.ceil(side / limit)
    assert grid == math.ceil(side / window)


def test_reduction_is_a_mean_over_areas() -> None:
    network = AttributeNetwork(((1, 4, 4),), 3, AttributeNetworkConfig(max_grid=2)).eval()
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert network.reduced((maps,))[0].flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


def test_maps_of_another_size_are_refused() -> None:
    network = AttributeNetwork(((3, 12, 12),), 3, AttributeNetworkConfig(max_grid=6)).eval()
    with pytest.raises(ImageShapeError, match=r"maps of shape \(3, 10, 10\), the interpreter was made for \(3, 12, 12\)"):
        network((torch.zeros(2, 3, 10, 10),))


@every_config
@every_tap
def test_the_start_from_data_gives_preactivations_of_one_mean_and_deviation(shapes: Shapes, config: AttributeNetworkConfig) -> None:
    network, maps = AttributeNetwork(shapes, 11, config).eval(), activations(shapes, 256)
    network.initialize_from(maps, BIAS)
    deviation, mean = torch.std_mean(network.preactivations(maps), dim=0, correction=0)
    torch.testing.assert_close(mean, torch.full_like(mean, BIAS), atol=2e-3, rtol=0)
    torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=2e-3, rtol=0)


def test_a_start_from_images_that_are_all_the_same_stays_finite_and_small() -> None:
    network, maps = AttributeNetwork(((4, 3, 3),), 5).eval(), activations(((4, 3, 3),), 1)
    network.initialize_from(maps, BIAS)
    torch.testing.assert_close(network.preactivations(maps), torch.full((1, 5), BIAS), atol=1e-3, rtol=0)
    other = activations(((4, 3, 3),), 20, seed=5)
    assert network.preactivations(other).abs().max() < 1e4


def explicitly(reader: TapReader, maps: Tensor) -> Tensor:
    standardised = (maps - reader.shift.view(1, -1, 1, 1)) * reader.scale.view(1, -1, 1, 1)
    return reader.convolution(standardised).relu()


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
def test_standardisation_folded_into_the_kernel_is_the_explicit_one(kernel_size: int, stride: tuple[int, int]) -> None:
    (maps,) = activations(((6, 8, 9),))
    reader = TapReader(6, 10, kernel_size, stride)
    reader.standardize(maps)
    deviation, mean = torch.std_mean((maps - reader.shift.view(1, -1, 1, 1)) * reader.scale.view(1, -1, 1, 1), dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(deviation, torch.ones(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(reader(maps), explicitly(reader, maps), atol=1e-4, rtol=1e-4)


def test_a_channel_that_never_varies_is_only_shifted() -> None:
    reader = TapReader(2, 4, 1, (1, 1))
    maps = torch.stack([torch.full((5, 3, 3), 7.0), torch.randn(5, 3, 3)], dim=1)
    reader.standardize(maps)
    assert (float(reader.shift[0]), float(reader.scale[0])) == (7.0, 1.0)


def test_taps_stay_as_they_are_where_standardisation_is_off() -> None:
    network = AttributeNetwork(((4, 3, 3),), 5, AttributeNetworkConfig(standardize=False)).eval()
    network.initialize_from(activations(((4, 3, 3),)), BIAS)
    assert not network.taps[0].shift.any()
    assert (network.taps[0].scale == 1).all()


def test_a_restart_gives_flagged_units_new_life_and_leaves_the_others_bits() -> None:
    shapes: Shapes = ((4, 6, 6), (5, 3, 3))
    network, maps = AttributeNetwork(shapes, 6).eval(), activations(shapes, 128)
    network.initialize_from(maps, BIAS)
    units = torch.tensor([False, True, False, False, True, False])
    with torch.no_grad():
        network.linear.bias[units] = -1e3
    before = network(maps)
    assert not before[:, units].any()
    network.restart_units(units, maps, BIAS)
    after = network(maps)
    assert torch.equal(after[:, ~units], before[:, ~units])
    deviation, mean = torch.std_mean(network.preactivations(maps)[:, units], dim=0, correction=0)
    torch.testing.assert_close(mean, torch.full_like(mean, BIAS), atol=2e-3, rtol=0)
    torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=2e-3, rtol=0)


@every_config
def test_nothing_normalises_by_the_batch(config: AttributeNetworkConfig) -> None:
    shapes: Shapes = ((4, 8, 8), (5, 4, 4))
    network, maps = AttributeNetwork(shapes, 6, config).eval(), activations(shapes, 8)
    assert not any(isinstance(module, nn.modules.batchnorm._NormBase) for module in network.modules())
    alone = torch.cat([network(tuple(tap[index : index + 1] for tap in maps)) for index in range(8)])
    torch.testing.assert_close(network(maps), alone)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hidden_channels": 0}, "hidden_channels, hidden_units, pool_size, max_grid and max_channels must be at least 1"),
        ({"pool_size": 0}, "hidden_channels, hidden_units, pool_size, max_grid and max_channels must be at least 1"),
        ({"max_grid": 0}, "hidden_channels, hidden_units, pool_size, max_grid and max_channels must be at least 1"),
        ({"max_grid": "wide"}, "hidden_channels, hidden_units, pool_size, max_grid and max_channels must be at least 1"),
        ({"tap_kernel_size": 2}, "kernel sizes must be odd and positive, got 2"),
        ({"merge_kernel_size": -1}, "kernel sizes must be odd and positive, got 1 and -1"),
        ({"merge_kernel_size": 0}, "kernel sizes must be odd and positive, got 1 and 0"),
        ({"merge_kernel_size": "wide"}, "kernel sizes must be odd and positive, got 1 and wide"),
    ],
)
def test_sizes_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        AttributeNetworkConfig(**{"tap_kernel_size": 1} | wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("side", "taps", "kernel_size", "maps", "read"),
    [
        (28, (14,), None, 20, 20 * 14 * 14),  # LeNet's: fine, every place is read
        (64, (32, 20), None, 40, 2 * 40 * 10 * 10),
        (28, (8,), (3, 3), 64, 64 * 4 * 4),
        (28, (24, 8), (3, 3), 64, 64 * 4 * 4),  # the coarse one says where both are read
        (65, (14,), (1, 1), 64, 64),
    ],
)
def test_every_place_is_read_where_all_taps_of_small_images_are_fine(
    side: int, taps: tuple[int, ...], kernel_size: Any, maps: int, read: int
) -> None:
    network = AttributeNetwork(tuple((3, tap, tap) for tap in taps), 2, image_side=side)
    assert (None if network.merge is None else network.merge.kernel_size) == kernel_size
    assert {reader.convolution.out_channels for reader in network.taps} == {maps}
    assert network.mix[0].in_features == read


def test_a_reading_that_was_saved_with_its_grid_stays_as_it_was() -> None:
    network = AttributeNetwork(((32, 14, 14),), 2, AttributeNetworkConfig(hidden_channels=64, max_grid=8), image_side=28)
    assert (network.grid, network.pool, network.merge.kernel_size) == ((7, 7), (4, 4), (3, 3))


@pytest.mark.parametrize(("side", "told", "kernel_size"), [(64, "auto", (3, 3)), (65, "auto", (1, 1)), (224, 5, (5, 5)), (224, None, None)])
def test_the_taps_of_photographs_are_merged_place_by_place(side: int, told: Any, kernel_size: Any) -> None:
    network = AttributeNetwork(((4, 3, 3),), 2, AttributeNetworkConfig(merge_kernel_size=told), image_side=side)
    assert (None if network.merge is None else network.merge.kernel_size) == kernel_size


def test_no_attribute_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="num_attributes must be at least 1, got 0"):
        AttributeNetwork(((4, 3, 3),), 0)


@pytest.mark.parametrize("scale", [1e-40, 1e-36])
def test_channels_that_fade_beyond_float32_count_as_constant(scale: float) -> None:
    maps = scale * torch.randn(8, 3, 4, 4)
    _, deviation = channel_statistics(maps)
    assert deviation.tolist() == [1, 1, 1]
