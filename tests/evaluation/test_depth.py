"""Projection depth: exact in one dimension, against all directions of a plane, unchanged by affine maps."""

import math

import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flint_posthoc.errors import ConfigurationError, DataError
from flint_posthoc.evaluation.depth import DepthSettings, PrincipalSpace, ProjectionDepth

EXACT = DepthSettings(min_spread=0)
numbers = st.lists(st.integers(-20, 20), min_size=3, max_size=15)


@given(numbers, st.integers(-30, 30))
def test_in_one_dimension_it_is_median_and_deviation(values: list[int], point: int) -> None:
    cloud = torch.tensor(values, dtype=torch.float64)[:, None]
    middle = oracles.median(values)
    spread = oracles.median([abs(value - middle) for value in values])
    if len(set(values)) == 1:
        expected = 1.0  # a cloud that does not vary has no directions
    elif spread == 0:
        expected = 1.0 if point == middle else 0.0
    else:
        expected = 1 / (1 + abs(point - middle) / spread)
    assert ProjectionDepth(cloud, EXACT)(torch.tensor([[float(point)]])).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("count", [60, 61])
def test_in_the_plane_it_is_the_least_depth_of_all_directions(count: int) -> None:
    cloud, points = torch.randn(count, 2).double(), 2 * torch.randn(8, 2).double()
    cloud[:, 0] = cloud[:, 0].exp()  # skewed
    found = ProjectionDepth(cloud, EXACT)(points)
    angles = [math.pi * step / 720 for step in range(720)]
    for point, depth in zip(points.tolist(), found.tolist(), strict=True):
        exact = min(oracles.depth_along(point, cloud.tolist(), (math.cos(a), math.sin(a))) for a in angles)
        assert depth == pytest.approx(exact, abs=0.01)


@given(st.integers(0, 50))
def test_an_affine_map_changes_nothing(seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    cloud, points = (torch.randn(rows, 4, generator=source).double() for rows in (80, 10))
    matrix, shift = torch.randn(4, 4, generator=source).double(), torch.randn(4, generator=source).double()
    depth = ProjectionDepth(cloud)(points)
    mapped = ProjectionDepth(cloud @ matrix + shift)(points @ matrix + shift)
    torch.testing.assert_close(mapped, depth, atol=1e-6, rtol=0)


def test_the_middle_is_deep_and_what_is_far_is_not() -> None:
    cloud = torch.randn(200, 5)
    points = torch.stack([torch.zeros(5), *(torch.full((5,), value) for value in (1.0, 3.0, 30.0))])
    depth = ProjectionDepth(cloud)(points)
    assert depth[0] > 0.7
    assert depth.tolist() == sorted(depth.tolist(), reverse=True)
    assert depth[3] < 0.02


def test_refinement_only_finds_worse_directions_and_the_seed_decides() -> None:
    cloud, points = torch.randn(150, 8), torch.randn(40, 8)
    coarse, fine = (ProjectionDepth(cloud, DepthSettings(refinements=steps))(points) for steps in (0, 15))
    assert (fine <= coarse).all()
    assert (coarse - fine).mean() > 0.01
    best = ProjectionDepth(cloud, DepthSettings(directions=20_000, refinements=0))(points)
    assert (fine - best).mean() < 0.01  # 300 directions and 15 steps find what 20,000 directions find
    assert torch.equal(fine, ProjectionDepth(cloud, DepthSettings(refinements=15))(points))
    assert not torch.equal(coarse, ProjectionDepth(cloud, DepthSettings(refinements=0, seed=1))(points))


def test_the_slope_is_that_of_autograd() -> None:
    depth, points = ProjectionDepth(torch.randn(31, 3), EXACT), torch.randn(5, 3).double()
    directions = torch.nn.functional.normalize(torch.randn(5, 3).double(), dim=1).requires_grad_()
    projected = directions @ depth._cloud.T
    middle = projected.median(dim=1).values  # of an odd number
    spread = (projected - middle[:, None]).abs().median(dim=1).values
    outlyingness = ((points * directions).sum(dim=1) - middle).abs() / spread
    (expected,) = torch.autograd.grad(outlyingness.sum(), directions)
    value, slope = depth._climb(points, directions.detach())
    torch.testing.assert_close(value, outlyingness.detach())
    torch.testing.assert_close(slope / spread.detach()[:, None], expected)


def test_what_never_varies_is_no_direction_and_components_bound_the_space() -> None:
    cloud = torch.cat([torch.randn(50, 3) * torch.tensor([5.0, 1.0, 0.1]), torch.full((50, 2), 0.7)], dim=1)
    space = PrincipalSpace.of(cloud)
    assert space.axes.shape == (5, 3)
    torch.testing.assert_close(space(cloud).T.cov(correction=0), torch.eye(3).double())
    assert PrincipalSpace.of(cloud, most=2).axes.shape == (5, 2)
    moved = cloud + torch.tensor([0.0, 0, 0, 3, 4])
    torch.testing.assert_close(space.beside(moved), torch.full((50,), 5.0).double())
    assert space.beside(cloud).max() < 1e-6
    torch.testing.assert_close(ProjectionDepth(cloud)(moved), ProjectionDepth(cloud)(cloud))


def test_a_cloud_that_is_mostly_silent_still_has_depth() -> None:
    cloud = torch.relu(torch.randn(200, 4) - 1.5)  # attributes that fire on 7 % of images
    exact, floored = (ProjectionDepth(cloud, settings)(cloud + 0.05 * torch.randn(200, 4)) for settings in (EXACT, DepthSettings()))
    assert (exact < 0.02).double().mean() > 0.9  # equation 1: half of the cloud in one plane
    assert (floored > 0.03).double().mean() > 0.9


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="directions must be at least 1"):
        DepthSettings(directions=0)
    with pytest.raises(ConfigurationError, match="at least 0"):
        DepthSettings(min_spread=-1)
    with pytest.raises(DataError, match="a cloud of at least 2 points, got 1"):
        ProjectionDepth(torch.zeros(1, 3))


def test_a_cloud_of_equal_points_says_nothing() -> None:
    same: Tensor = ProjectionDepth(torch.ones(9, 3))(torch.randn(4, 3))
    assert same.tolist() == [1.0] * 4
