"""One pass tells what evaluation and global interpretation tell by themselves, and chooses a bounded sample of images."""

from collections import Counter

import pytest
import small
import torch
from torch import Tensor

from flint_posthoc import FlintExplainer
from flint_posthoc.errors import EmptyDataError
from flint_posthoc.interpreter.fitted import ReadBatch
from flint_posthoc.report.sampling import ImageSampler
from flint_posthoc.report.survey import Samples, SurveySettings, survey


@pytest.fixture(scope="module")
def explain() -> FlintExplainer:
    return small.rarely_firing(small.fitted())


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return small.images(60, seed=4)


def test_one_pass_gives_what_separate_passes_give(explain: FlintExplainer, pixels: Tensor) -> None:
    data = small.loader(pixels, small.labels(explain.model, pixels), shuffle=False)
    read: list[int] = []
    found = survey(explain.fitted, data, seen=read.append)
    assert found.evaluation == explain.evaluate(data)
    world = explain.global_interpretation(data)
    torch.testing.assert_close(found.world.relevance, world.relevance, equal_nan=True, rtol=0, atol=0)
    assert found.world.counts.tolist() == world.counts.tolist()
    assert sum(read) == 60


def test_classes_confusions_and_activations_are_counted(explain: FlintExplainer, pixels: Tensor) -> None:
    found, local = survey(explain.fitted, pixels), explain(pixels)
    f, g = local.classifier_class.tolist(), local.interpreter_class.tolist()
    assert list(found.images_of_class) == [g.count(c) for c in range(small.CLASSES)]
    assert dict(found.confusions) == Counter((a, b) for a, b in zip(f, g, strict=True) if a != b)
    counts = [images for _, images in found.confusions]
    assert counts == sorted(counts, reverse=True)
    assert [histogram.fired for histogram in found.histograms] == (local.attributes > 0).sum(dim=0).tolist()


def found_samples(explain: FlintExplainer, pixels: Tensor, **settings: int) -> Samples:
    samples = survey(explain.fitted, pixels.split(7), SurveySettings(**settings)).samples
    assert samples is not None
    return samples


def test_samples_are_images_of_the_data_with_their_own_explanations(explain: FlintExplainer, pixels: Tensor) -> None:
    samples = found_samples(explain, pixels, agreeing=8, disagreeing=5)
    places, whole = list(samples.positions), explain(pixels)
    assert len(set(places)) == len(places) <= 13
    torch.testing.assert_close(samples.local.relevance, whole.relevance[places], rtol=1e-4, atol=1e-5)
    assert samples.local.agrees.tolist() == whole.agrees[places].tolist()
    assert samples.labels == (None,) * len(places)


def test_disagreements_come_first_and_every_predicted_class_is_there(explain: FlintExplainer, pixels: Tensor) -> None:
    samples = found_samples(explain, pixels, agreeing=8, disagreeing=3)
    agrees = samples.local.agrees.tolist()
    assert agrees == sorted(agrees)
    assert agrees.count(False) == min(3, int((~explain(pixels).agrees).sum()))
    whole = explain(pixels)
    assert set(samples.local.explained_class[samples.local.agrees].tolist()) == set(whole.explained_class[whole.agrees].tolist())


def test_the_seed_says_which_images_are_chosen(explain: FlintExplainer, pixels: Tensor) -> None:
    first, again, other = (found_samples(explain, pixels, agreeing=6, disagreeing=2, seed=seed).positions for seed in (0, 0, 1))
    assert first == again != other


def test_no_samples_are_none(explain: FlintExplainer, pixels: Tensor) -> None:
    assert survey(explain.fitted, pixels, SurveySettings(agreeing=0, disagreeing=0, outside=0)).samples is None


def test_empty_data_is_refused(explain: FlintExplainer) -> None:
    with pytest.raises(EmptyDataError, match="holds no images"):
        survey(explain.fitted, [])


def batch(count: int) -> ReadBatch:
    inside, images = torch.ones(count, dtype=torch.bool), torch.zeros(count, 1, 2, 2)
    inside[::10] = False
    return ReadBatch(
        images=images, labels=None, activations=(), attributes=torch.zeros(count, 1), classifier_logits=torch.zeros(count, 2),
        interpreter_logits=torch.zeros(count, 2), inside=inside, agrees=inside,
    )  # fmt: skip


def flags(count: int, value: bool) -> Tensor:
    return torch.full((count,), value)


@pytest.mark.parametrize("num_classes", [3, 1000])
def test_the_sample_is_bounded_however_many_classes_there_are(num_classes: int) -> None:
    sampler = ImageSampler(num_classes, agreeing=20, disagreeing=4, outside=3, seed=0)
    for start in range(0, 3000, 100):
        classes = torch.arange(start, start + 100) % num_classes
        sampler.add(batch(100), classes, flags(100, True))
        sampler.add(batch(100), classes, flags(100, False))
        assert len(sampler.result()) <= 27
    assert len(sampler.result()) == 27
    assert all(sample.position % 10 == 0 for sample in sampler.result()[4:7])


def test_the_choice_is_uniform_over_the_stream() -> None:
    kept: Counter[int] = Counter()
    whole = batch(5)._replace(inside=flags(5, True))
    for seed in range(600):
        sampler = ImageSampler(1, agreeing=5, disagreeing=0, outside=0, seed=seed)
        for _ in range(4):
            sampler.add(whole, torch.zeros(5, dtype=torch.int64), flags(5, True))
        kept.update(sample.position for sample in sampler.result())
    expected = 600 * 5 / 20
    assert sum((kept[position] - expected) ** 2 / expected for position in range(20)) < 43.8  # the 0.1 % point for 19 degrees of freedom
