"""The paper's quantities against the loops of oracles.py, and the properties that they are there for."""

import math

import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flint_posthoc import measures
from flint_posthoc.classifier.adapter import Categorical
from flint_posthoc.errors import ConfigurationError

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(1, 5))  # samples, attributes, classes


class Sample:
    """Random attributes with silent units and silent samples, as ReLUs give them, and a head."""

    def __init__(self, seed: int, size: tuple[int, int, int]) -> None:
        samples, self.num_attributes, self.num_classes = size
        source = torch.Generator().manual_seed(seed)
        self.attributes = torch.randn(samples, self.num_attributes, generator=source, dtype=torch.float64).relu()
        self.attributes[torch.rand(samples, generator=source) < 0.2] = 0
        self.weight = torch.randn(self.num_classes, self.num_attributes, generator=source, dtype=torch.float64)
        self.bias = torch.randn(self.num_classes, generator=source, dtype=torch.float64)
        self.classes = torch.randint(self.num_classes, (samples,), generator=source)
        self.logits = self.attributes @ self.weight.T + self.bias
        self.other_logits = self.logits + torch.randn(self.logits.shape, generator=source, dtype=torch.float64)
        self.alpha = measures.contributions(self.attributes, self.weight, self.classes)
        self.relevance = measures.relevance(self.alpha)


samples = st.builds(Sample, seeds, sizes)


def close(ours: Tensor, expected: object) -> None:
    torch.testing.assert_close(ours.double(), torch.tensor(expected, dtype=torch.float64), equal_nan=True)


@given(samples)
def test_contributions_and_relevance_are_the_oracles(sample: Sample) -> None:
    alpha = oracles.contributions(oracles.rows(sample.attributes), oracles.rows(sample.weight), sample.classes.tolist())
    close(sample.alpha, alpha)
    close(sample.relevance, oracles.relevance(alpha))
    assert measures.explained(sample.alpha).tolist() == [any(row) for row in alpha]


@given(samples)
def test_bias_share_is_the_oracles(sample: Sample) -> None:
    bias = sample.bias[sample.classes]
    close(measures.bias_share(sample.alpha, bias), oracles.bias_share(oracles.rows(sample.alpha), oracles.rows(bias)))


@given(samples)
def test_the_first_k_are_the_largest_logits(sample: Sample) -> None:
    depths = (1, 2, 4)
    order = [sorted(range(sample.num_classes), key=lambda c: -row[c]) for row in oracles.rows(sample.other_logits)]
    expected = [[c in ranked[:k] for k in depths] for c, ranked in zip(sample.classes.tolist(), order, strict=True)]
    assert measures.among_first(sample.other_logits, sample.classes, depths).tolist() == expected


@given(samples, st.floats(0.8, 8))
def test_conciseness_is_the_oracles(sample: Sample, tau: float) -> None:
    explained = measures.explained(sample.alpha)
    for ours, oracle in (
        (measures.absolute_conciseness, oracles.absolute_conciseness),
        (measures.signed_conciseness, oracles.signed_conciseness),
    ):
        expected = oracle(oracles.rows(sample.relevance), tau)
        counts = ours(sample.relevance, tau)
        assert not counts[~explained].any()
        assert counts[explained].double().mean().nan_to_num(-1).item() == pytest.approx(-1 if expected is None else expected)


@given(samples)
def test_global_relevance_is_the_oracles_and_adds_up_over_batches(sample: Sample) -> None:
    cut = len(sample.classes) // 2
    parts = [
        measures.global_relevance_sums(sample.relevance[part], sample.classes[part], sample.num_classes)
        for part in (slice(None, cut), slice(cut, None))
    ]
    total, counts = parts[0].sum + parts[1].sum, parts[0].counts + parts[1].counts
    close(total / counts, oracles.global_relevance(oracles.rows(sample.relevance), sample.classes.tolist(), sample.num_classes))


@given(samples)
def test_correlation_is_the_oracles_and_adds_up_over_batches(sample: Sample) -> None:
    whole = oracles.rows(sample.attributes)
    expected = [[oracles.correlation(whole, i, j) for j in range(sample.num_attributes)] for i in range(sample.num_attributes)]
    cut = len(whole) // 2
    moments = measures.attribute_moments(sample.attributes[:cut]) + measures.attribute_moments(sample.attributes[cut:])
    close(moments.correlation(), expected)


@given(st.builds(Sample, seeds, st.tuples(st.integers(2, 9), st.integers(2, 6), st.integers(1, 5))), st.integers(0, 2**16))
def test_live_duplicate_and_dead_are_the_oracles(sample: Sample, copies: int) -> None:
    source = torch.Generator().manual_seed(copies)
    copied = torch.randint(sample.num_attributes, (sample.num_attributes,), generator=source)
    attributes = sample.attributes[:, copied]  # some attributes now stand there twice
    relevance = measures.relevance(measures.contributions(attributes, sample.weight, sample.classes))
    status = measures.classify_attributes(
        measures.relevant_counts(relevance),
        len(attributes),
        measures.attribute_moments(attributes).correlation(),
        measures.fired_counts(attributes),
    )
    duplicates, alive = oracles.duplicates(oracles.rows(attributes), oracles.rows(relevance)), oracles.alive(oracles.rows(relevance))
    assert status.duplicate.nonzero().flatten().tolist() == duplicates
    assert status.live.nonzero().flatten().tolist() == [j for j in alive if j not in duplicates]
    assert (status.live.int() + status.duplicate.int() + status.dead.int() == 1).all()
    assert status.never_fires.tolist() == [not any(row[j] > 0 for row in oracles.rows(attributes)) for j in range(sample.num_attributes)]


@given(samples)
def test_fidelity_and_divergence_of_the_categorical_kind_are_the_oracles(sample: Sample) -> None:
    kind, f, g = Categorical(), sample.logits, sample.other_logits
    assert kind.agreement(f, g).double().mean().item() == oracles.fidelity(oracles.rows(f), oracles.rows(g))
    divergence = (kind.cross_entropy(f, g) - kind.entropy(f)).mean().item()
    assert divergence == pytest.approx(oracles.kl_divergence(oracles.rows(f), oracles.rows(g)), abs=1e-12)


@given(samples, seeds)
def test_class_centred_relevance_does_not_depend_on_a_shift_common_to_all_classes(sample: Sample, seed: int) -> None:
    shift = torch.randn(sample.num_attributes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    plain = measures.class_centred(sample.weight, sample.bias)
    shifted = measures.class_centred(sample.weight + shift, sample.bias + 3)
    torch.testing.assert_close(plain[0].sum(dim=0), torch.zeros(sample.num_attributes, dtype=torch.float64))
    assert plain[1].sum().item() == pytest.approx(0, abs=1e-9)
    for weight, bias in (plain, shifted):
        torch.testing.assert_close((sample.attributes @ weight.T + bias).softmax(dim=1), sample.logits.softmax(dim=1))
    alpha = [measures.contributions(sample.attributes, weight, sample.classes) for weight, _ in (plain, shifted)]
    torch.testing.assert_close(alpha[0], alpha[1])
    if sample.num_classes > 1:  # with one class centring leaves nothing but rounding
        torch.testing.assert_close(measures.relevance(alpha[0]), measures.relevance(alpha[1]))


def test_raw_relevance_does_depend_on_that_shift() -> None:
    attributes, classes = torch.ones(1, 2), torch.tensor([0])
    weight = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    shifted = weight + torch.tensor([10.0, 0.0])
    raw = [measures.relevance(measures.contributions(attributes, each, classes)).tolist() for each in (weight, shifted)]
    assert raw == [[[0.5, 1.0]], [[1.0, pytest.approx(2 / 11)]]]


def test_a_sample_without_contributions_has_no_relevance_and_no_bias_share_without_bias() -> None:
    nothing = torch.zeros(1, 3)
    assert measures.relevance(nothing).tolist() == [[0, 0, 0]]
    assert measures.explained(nothing).tolist() == [False]
    assert measures.bias_share(nothing, torch.zeros(1)).tolist() == [0]
    assert measures.bias_share(nothing, torch.tensor([-2.0])).tolist() == [1]


def test_a_contribution_that_is_not_a_number_is_not_hidden() -> None:
    assert measures.relevance(torch.tensor([[math.nan, 1.0]])).isnan().all()


def test_conciseness_at_the_threshold_itself_does_not_count() -> None:
    relevance = torch.tensor([[1.0, 0.5, -0.5, -0.6, 0.2]])
    assert measures.absolute_conciseness(relevance, 2.0).tolist() == [2]
    assert measures.signed_conciseness(relevance, 2.0).tolist() == [1]
    assert measures.absolute_conciseness(relevance, 5.0).tolist() == [4]


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_conciseness_refuses_a_threshold_that_is_none(tau: float) -> None:
    with pytest.raises(ConfigurationError, match=r"τ > 0, got"):
        measures.signed_conciseness(torch.zeros(1, 2), tau)


def test_global_relevance_leaves_unexplained_samples_out() -> None:
    relevance = torch.tensor([[1.0, -0.5], [0.0, 0.0], [0.5, 1.0]])
    sums = measures.global_relevance_sums(relevance, torch.tensor([0, 0, 2]), 3)
    assert sums.counts.tolist() == [1, 0, 1]
    assert sums.sum.tolist() == [[1, 0, 0.5], [-0.5, 0, 1]]


def test_correlation_holds_for_attributes_of_very_different_scales() -> None:
    varying = torch.rand(500, generator=torch.Generator().manual_seed(1))
    attributes = torch.stack([varying, 1e-4 * varying + 1, -varying], dim=1)
    parts = [measures.attribute_moments(part) for part in attributes.split(64)]
    expected = torch.tensor([[1.0, 1, -1], [1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    torch.testing.assert_close(sum(parts[1:], parts[0]).correlation(), expected, atol=1e-4, rtol=0)


def test_attributes_that_never_vary_correlate_with_nothing() -> None:
    constants = 100 * torch.rand(100, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parts = [measures.attribute_moments(part) for part in constants.expand(500, -1).split(64)]
    moments = sum(parts[1:], parts[0])
    second = moments.products.diagonal() / moments.count
    assert (second > (moments.sum / moments.count).square()).any()  # rounding looks like variation
    assert not moments.correlation().any()


@pytest.mark.parametrize(
    ("relevant", "samples", "alive"), [(1, 1000, True), (1, 1001, False), (7, 7000, True), (0, 10, False), (0, 0, False)]
)
def test_alive_begins_at_one_sample_in_a_thousand(relevant: int, samples: int, alive: bool) -> None:
    status = measures.classify_attributes(torch.tensor([relevant]), samples, torch.eye(1), torch.tensor([samples]))
    assert status.live.tolist() == [alive]
    assert status.dead.tolist() == [not alive]


def test_of_duplicates_the_one_relevant_most_often_stays() -> None:
    correlation = torch.eye(4)
    for one, other in ((0, 1), (1, 2)):  # 0 and 2 resemble 1 but not each other; 3 stands alone
        correlation[one, other] = correlation[other, one] = 0.96
    chain = measures.classify_attributes(torch.tensor([5, 3, 4, 1]), 100, correlation, torch.ones(4, dtype=torch.int64))
    assert chain.live.tolist() == [True, False, True, True]
    hub = measures.classify_attributes(torch.tensor([5, 9, 4, 1]), 100, correlation, torch.ones(4, dtype=torch.int64))
    assert hub.live.tolist() == [False, True, False, True]
    tie = measures.classify_attributes(torch.tensor([5, 5, 0, 0]), 100, correlation, torch.ones(4, dtype=torch.int64))
    assert (tie.live.tolist(), tie.duplicate.tolist()) == ([True, False, False, False], [False, True, False, False])


@given(st.lists(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=5, max_size=5), min_size=1, max_size=4))
def test_ranks_and_correlations_along_rows_are_the_oracles_with_ties(rows: list[list[tuple[int, int]]]) -> None:
    pairs = torch.tensor(rows, dtype=torch.float32)
    one, other = pairs.unbind(dim=2)
    close(measures.ranks(one), [oracles.ranks(row) for row in one.tolist()])
    found = zip(measures.pearson(one, other).tolist(), measures.spearman(one, other).tolist(), rows, strict=True)
    for pearson, spearman, row in found:
        first, second = zip(*row, strict=True)
        if len(set(first)) == 1 or len(set(second)) == 1:
            assert math.isnan(pearson)
            assert math.isnan(spearman)
        else:
            assert pearson == pytest.approx(oracles.correlation(row, 0, 1), abs=1e-9)
            assert spearman == pytest.approx(oracles.rank_correlation(first, second), abs=1e-9)


@pytest.mark.parametrize("shape", [(9,), (3, 9), (2, 3, 9), (4, 1)])
def test_ranks_are_along_the_last_axis_of_any_shape(shape: tuple[int, ...]) -> None:
    values = torch.randn(shape[::-1]).permute(*reversed(range(len(shape))))  # not contiguous
    expected = [oracles.ranks(row) for row in values.reshape(-1, shape[-1]).tolist()]
    found = measures.ranks(values)
    assert found.shape == shape
    assert found.reshape(-1, shape[-1]).tolist() == expected
    assert measures.ranks(values[..., :0]).shape == (*shape[:-1], 0)


def test_reconstruction_error_is_the_mean_square_of_each_image() -> None:
    reconstruction, images = torch.rand(3, 2, 4, 5), torch.rand(3, 2, 4, 5)
    expected = [oracles.input_fidelity(oracles.rows(one), oracles.rows(other)) for one, other in zip(reconstruction, images, strict=True)]
    close(measures.reconstruction_error(reconstruction, images), expected)


def test_area_resize_averages_blocks_and_leaves_the_same_size_alone() -> None:
    images = torch.arange(16.0).view(1, 1, 4, 4)
    assert measures.area_resize(images, (2, 2)).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    assert measures.area_resize(images, (4, 4)) is images


@pytest.mark.parametrize("height", [1, 7, 13, 45])  # with 30 columns, 45 rows are too large for one matrix
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 30), (14, 8), (50, 40)])
def test_area_resize_is_adaptive_average_pooling(height: int, size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, height, 30)
    torch.testing.assert_close(measures.area_resize(images, size), torch.nn.functional.adaptive_avg_pool2d(images, size))
