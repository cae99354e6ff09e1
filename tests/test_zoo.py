"""A dozen families through the whole course of ``make zoo``, one of each kind, and the page that is made of such rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.zoo.course import STEPS, repeat, take
from examples.zoo.members import Member
from examples.zoo.table import page

DOZEN = (
    Member("timm", "resnet", "test_resnet"),
    Member("timm", "vision_transformer", "test_vit"),
    Member("timm", "mambaout", "test_mambaout"),
    Member("timm", "nfnet", "test_nfnet"),
    Member("timm", "convnext", "test_convnext"),
    Member("timm", "efficientnet", "test_efficientnet"),
    Member("timm", "byobnet", "test_byobnet"),
    Member("timm", "starnet", "starnet_s050"),
    Member("timm", "maxxvit", "test_coatnet"),
    Member("torchvision", "squeezenet", "squeezenet1_1"),
    Member("torchvision", "mobilenetv2", "mobilenet_v2"),
    Member("torchvision", "shufflenetv2", "shufflenet_v2_x0_5"),
)


@pytest.mark.parametrize("member", DOZEN, ids=lambda member: member.key)
def test_a_family_goes_through_the_whole_course(member: Member, tmp_path: Path) -> None:
    row = take(member, tmp_path)
    assert row["passed"], f"{row['step']}: {row['error']}"
    assert set(row["seconds_by_step"]) == set(STEPS)
    assert repeat(member, row["side"], tmp_path)
    assert f"| {member.family} | {member.name}, {row['side']} |" in page([row], {"versions": {"torch": "x"}})


def test_what_does_not_go_through_is_said_with_the_step_and_the_error(tmp_path: Path) -> None:
    row = take(Member("timm", "none", "no_such_model"), tmp_path)
    assert not row["passed"]
    assert row["step"] == "build"
    assert "TooDemanding" in row["error"]
    assert "*none* (no_such_model) ends at *build*" in page([row], {"versions": {}})
