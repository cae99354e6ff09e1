"""Where bfloat16 pays."""

import pytest
import torch

from flint_posthoc import precision
from flint_posthoc.errors import ConfigurationError


@pytest.mark.parametrize(
    ("known", "pays"), [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx512_f": True}, False), ({}, False)]
)
def test_bfloat16_pays_on_processors_that_multiply_it(known: dict[str, bool], pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert precision.bfloat16_pays(torch.device("cpu")) is pays


def test_only_float32_classifiers_are_lowered_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_pays", lambda device: True)
    found = [precision.lowered("auto", torch.device("cpu"), dtype) for dtype in (torch.float32, torch.float16, torch.float64)]
    assert found == [True, False, False]
    with pytest.raises(ConfigurationError, match=r"lowers a float32 classifier; this one is torch.float16"):
        precision.lowered("bfloat16", torch.device("cpu"), torch.float16)
