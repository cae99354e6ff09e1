"""Tables and notes in text, and JSON of any result."""

import json
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flint_posthoc.words import number, percent, plain, table, with_notes


def test_tables_have_columns() -> None:
    assert (
        table(("", "a", "long"), [("first row", "1", "2"), ("b", "300", "-")])
        == "             a  long\nfirst row    1     2\nb          300     -"
    )
    assert (percent(0.12345), percent(None), percent(math.nan)) == ("12.35 %", "-", "-")
    assert (number(1.236), number(None), number(math.nan), number(2, 0)) == ("1.24", "-", "-", "2")


def test_notes_stand_under_the_rest() -> None:
    assert with_notes(["a table", "its meaning"], ("one", "two")) == "a table\nits meaning\nnote: one\nnote: two"
    assert with_notes(["a table"], ()) == "a table"


class _Named(NamedTuple):
    left: float
    right: tuple[int, ...]


@dataclass(frozen=True)
class _Result:
    share: float
    values: Tensor
    by_name: dict[int, _Named]


def test_any_result_becomes_plain_json() -> None:
    exported = plain(_Result(math.nan, torch.tensor([[1.0, math.inf]]), {3: _Named(0.5, (1, 2))}))
    assert exported == {"share": None, "values": [[1.0, None]], "by_name": {"3": {"left": 0.5, "right": [1, 2]}}}
    assert json.loads(json.dumps(exported, allow_nan=False)) == exported
