"""Trust by depth: outliers of the class are found, areas count pairs, and what f and g say is grouped as loops group it."""

import json
import math

import oracles
import pytest
import small
import torch
from models import left_alone
from torch import Tensor

from flint_posthoc import FlintExplainer
from flint_posthoc.charts import histograms
from flint_posthoc.errors import ConfigurationError, EmptyDataError
from flint_posthoc.evaluation.class_depth import SPACES, ClassDepth, ClassDepths, ClassDepthSettings, learn_class_depths, outlying
from flint_posthoc.evaluation.depth import DepthSettings
from flint_posthoc.evaluation.disagreement import (
    INTERPRETERS_DOUBT,
    OWN_DOUBT,
    SIGNALS,
    Disagreement,
    Judged,
    analyse_disagreement,
    conclude_disagreement,
    judge,
)

Labelled = list[tuple[Tensor, Tensor]]
SETTINGS = ClassDepthSettings(members=100, components=6, depth=DepthSettings(directions=50, refinements=3))


@pytest.fixture(scope="module")
def trust(learnt: FlintExplainer, train: Tensor) -> ClassDepths:
    return learn_class_depths(learnt.fitted, train, SETTINGS)


@pytest.fixture(scope="module")
def strange() -> Tensor:
    """Images of another kind: noise without blobs, twice as strong."""
    return 2 * torch.randn(30, small.CHANNELS, small.SIDE, small.SIDE, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def found(learnt: FlintExplainer, trust: ClassDepths, labelled: Labelled, strange: Tensor) -> Disagreement:
    return analyse_disagreement(learnt.fitted, trust, labelled, outside=strange)


def test_groups_and_shares_are_the_loops(learnt: FlintExplainer, trust: ClassDepths, labelled: Labelled, found: Disagreement) -> None:
    judged = judge(learnt.fitted, trust, labelled)
    pixels, labels = (torch.cat(column) for column in zip(*labelled, strict=True))
    local = learnt(pixels)
    assert judged.agrees.tolist() == local.agrees.tolist()
    right, flagged = (local.classifier_class == labels).tolist(), [min(row) < 1 for row in judged.depths.tolist()]
    agrees = local.agrees.tolist()
    kinds = {
        "f and g agree": agrees,
        "f and g disagree": [not flag for flag in agrees],
        "… while f is right": [not flag and ok for flag, ok in zip(agrees, right, strict=True)],
        "… while f is wrong": [not flag and not ok for flag, ok in zip(agrees, right, strict=True)],
    }
    for group in found.groups[:4]:
        members = kinds[group.name]
        assert group.images == sum(members) > 0
        assert group.outliers == pytest.approx(oracles.mean([out for out, member in zip(flagged, members, strict=True) if member]))
        for column, space in enumerate(SPACES):
            depths = [row[column] for row, member in zip(judged.depths.tolist(), members, strict=True) if member]
            assert group.median_depth[space] == pytest.approx(oracles.median(depths))
    assert found.fidelity_trusted == pytest.approx(oracles.mean([a for a, out in zip(agrees, flagged, strict=True) if not out]))
    assert found.accuracy_flagged == pytest.approx(oracles.mean([r for r, out in zip(right, flagged, strict=True) if out]))
    for position in found.outlying_disagreements:
        assert flagged[position]
        assert not agrees[position]
    confidence = local.classifier_logits.softmax(dim=1).amax(dim=1)
    own = {signal.name: signal for signal in found.signals}[OWN_DOUBT]
    assert own.errors == pytest.approx(oracles.auroc((-confidence).tolist(), [not ok for ok in right]), abs=1e-6)
    assert own.disagreement == pytest.approx(oracles.auroc((-confidence).tolist(), [not flag for flag in agrees]), abs=1e-6)


def test_images_of_another_kind_are_outliers(found: Disagreement) -> None:
    by_name = {signal.name: signal for signal in found.signals}
    assert by_name["depth in pixels"].outside is not None
    assert by_name["depth in pixels"].outside > 0.95
    assert found.groups[-1].name == "other data"
    assert found.groups[-1].outliers > 0.9
    assert by_name[INTERPRETERS_DOUBT].disagreement is None
    assert by_name.keys() == SIGNALS.keys()


def test_members_that_were_held_out_are_outliers_as_often_as_asked() -> None:
    members = torch.randn(2000, 3)
    known = ClassDepth.of(members, ClassDepthSettings(members=2000, held_out=0.5, depth=DepthSettings(directions=50, refinements=2)))
    assert (known(torch.randn(2000, 3)) < 1).double().mean().item() == pytest.approx(0.05, abs=0.02)


def test_a_class_of_few_members_is_not_judged_and_that_is_said(learnt: FlintExplainer, train: Tensor, pixels: Tensor) -> None:
    with torch.no_grad():
        predicted = learnt.model(train).argmax(dim=1)
    few = torch.cat([train[predicted != 2], train[predicted == 2][:5]])
    trust = learn_class_depths(learnt.fitted, few, SETTINGS)
    assert trust.unknown_classes == (learnt.fitted.class_names[2],)
    found = analyse_disagreement(learnt.fitted, trust, pixels)
    judged = judge(learnt.fitted, trust, pixels)
    assert found.unjudged == int((judged.classes == 2).sum()) > 0
    assert found.images + found.unjudged == len(pixels)
    assert outlying(judged.depths)[judged.classes == 2].all()
    assert "not judged, of fewer than 20 members" in str(found)
    assert "nan" not in str(found)
    assert found.signals[0].errors is None  # no labels
    assert found.accuracy_trusted is None


def test_positions_are_those_in_the_data_least_deep_first() -> None:
    depths = torch.tensor([[math.nan, math.nan], [2.0, 0.5], [0.2, 3.0], [2.0, 2.0], [0.4, 0.9]], dtype=torch.float64)
    agrees, classes = torch.tensor([False, False, False, False, True]), torch.zeros(5, dtype=torch.int64)
    judged = Judged(depths, agrees, classes - 1, classes, torch.rand(5), torch.rand(5))
    found = conclude_disagreement(judged, None, tuple(SPACES))
    assert found.outlying_disagreements == (2, 1)
    assert (found.images, found.unjudged, found.fidelity_flagged) == (4, 1, pytest.approx(1 / 3))


def test_the_seed_decides_and_batches_do_not(learnt: FlintExplainer, train: Tensor, labelled: Labelled, pixels: Tensor) -> None:
    by_seed = [learn_class_depths(learnt.fitted, list(train.split(size)), SETTINGS) for size in (600, 77)]
    first, second = (judge(learnt.fitted, trust, pixels).depths for trust in by_seed)
    torch.testing.assert_close(first[:, 0], second[:, 0])
    again = learn_class_depths(learnt.fitted, train, SETTINGS)
    assert torch.equal(judge(learnt.fitted, again, pixels).depths, first)


def test_it_says_what_it_means(found: Disagreement) -> None:
    text = str(found)
    for words in ("AUROC for", "f's own doubt", "outliers", "Where the flag trusts an image", "AUROC of the flag against"):
        assert words in text
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()
    assert "depths" not in found.to_dict()
    assert "f and g agree" in found.plot().axes[0].get_legend().get_texts()[0].get_text()


def test_bad_input_is_refused(learnt: FlintExplainer, pixels: Tensor) -> None:
    with pytest.raises(EmptyDataError, match=r"no class has 20 images in the reference data, \d+ at most"):
        learn_class_depths(learnt.fitted, pixels[:12], SETTINGS)
    with pytest.raises(ConfigurationError, match="between 0 and 1"):
        ClassDepthSettings(held_out=1.0)
    with pytest.raises(ConfigurationError, match="at most members"):
        ClassDepthSettings(members=15)


def test_labels_of_images_of_another_kind_are_not_looked_at(learnt: FlintExplainer, pixels: Tensor, strange: Tensor) -> None:
    train = pixels.repeat(4, 1, 1, 1)
    bare = learnt.disagreement(train, pixels, outside=strange)
    assert learnt.disagreement(train, pixels, outside=[(strange, torch.full((len(strange),), 77))]).to_dict() == bare.to_dict()


def test_no_trace_stays(learnt: FlintExplainer, trust: ClassDepths, pixels: Tensor, strange: Tensor) -> None:
    with left_alone(learnt.model):
        learn_class_depths(learnt.fitted, pixels.repeat(4, 1, 1, 1), SETTINGS)
        analyse_disagreement(learnt.fitted, trust, pixels, outside=[(strange, torch.full((30,), 77))])


def test_what_the_class_never_does_is_far_from_it() -> None:
    """Also where the class varies in few directions, or in none."""
    source = torch.Generator().manual_seed(0)
    members = torch.cat([torch.rand(200, 3, generator=source), torch.zeros(200, 4)], dim=1)
    usual = torch.cat([torch.rand(50, 3, generator=source), torch.zeros(50, 4)], dim=1)
    known = ClassDepth.of(members, SETTINGS)
    assert (known(usual) >= 1).float().mean() > 0.8
    strange = usual.clone()
    strange[:, 5] = 100
    assert (known(strange) < 0.05).all()
    constant = ClassDepth.of(torch.ones(60, 4), SETTINGS)
    assert (constant(torch.ones(3, 4)) >= 1).all()
    assert (constant(torch.zeros(3, 4)) < 1).all()


def test_nothing_to_judge_can_still_be_drawn() -> None:
    assert histograms({}, mark=1.0, heading="depth", axis="depth").axes
