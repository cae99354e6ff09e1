"""What a fit tells of itself: one record an epoch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..canvas import Figure
from ..charts import fit_history
from ..storage import record


@dataclass(frozen=True)
class EpochRecord:
    """Means over one epoch's mini-batches; losses before their weights.

    Attributes:
        epoch: from 0.  steps: optimiser steps done since the start.
        loss: the weighted total.  output_fidelity: L_of (its floor is f's own entropy).  kl_divergence: KL(p_f || p_g) (its floor is 0).
        input_fidelity: L_if.  entropy, mean_entropy, l1: the parts of L_cd.
        fidelity: share of training images on which g and f agree.  revived: silent attributes re-initialised in this epoch.
        validation_fidelity, validation_kl_divergence: on the validation data, where it was given.
        prediction, accuracy, validation_accuracy: by design only: L_pred, f's accuracy on training and on validation images.
        validation_score: likewise, in [0, 2], what the best epoch is chosen by: the share of decisions that f has right on validation
            images, and the share that g has right with it.
        seconds: wall clock, not part of equality.
    """

    epoch: int
    steps: int
    loss: float
    output_fidelity: float
    kl_divergence: float
    input_fidelity: float
    entropy: float
    mean_entropy: float
    l1: float
    fidelity: float
    revived: int = 0
    validation_fidelity: float | None = None
    validation_kl_divergence: float | None = None
    validation_accuracy: float | None = None
    validation_score: float | None = None
    prediction: float | None = None
    accuracy: float | None = None
    seconds: float = field(default=0.0, compare=False)

    def __str__(self) -> str:
        validation = "" if self.validation_fidelity is None else f", on validation {self.validation_fidelity:.1%}"
        revived = f", {self.revived} silent attributes revived" if self.revived else ""
        fidelity = f"fidelity {self.fidelity:.1%}{validation}, KL {self.kl_divergence:.4f}"
        if self.accuracy is not None:
            judged = "" if self.validation_accuracy is None else f", on validation {self.validation_accuracy:.1%}"
            fidelity += f", accuracy {self.accuracy:.1%}{judged}"
        return f"epoch {self.epoch}: {fidelity}, reconstruction {self.input_fidelity:.4f}{revived}"


@dataclass(frozen=True)
class AccuracyChange:
    """What learning by design did to f: its accuracy over one set of data before and after, shares in [0, 1].

    Attributes:
        data: "validation" where there was such data, else "training".
    """

    data: str
    samples: int
    before: float
    after: float

    def __str__(self) -> str:
        return f"the classifier's accuracy on {self.samples:,} {self.data} images: {self.before:.2%} before, {self.after:.2%} after"


@dataclass(frozen=True)
class FitHistory:
    """The records of one fit, in order, and what had to be said about it in words; ``account`` by design only."""

    records: tuple[EpochRecord, ...] = ()
    notes: tuple[str, ...] = ()
    account: AccuracyChange | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[EpochRecord]:
        return iter(self.records)

    def __getitem__(self, index: int) -> EpochRecord:
        return self.records[index]

    def __str__(self) -> str:
        account = [] if self.account is None else [str(self.account)]
        return "\n".join([*map(str, self.records), *account, *(f"note: {note}" for note in self.notes)])

    def followed_by(self, later: FitHistory) -> FitHistory:
        """With the records of a fit that went on from this one; epochs and steps count on."""
        epochs, steps = (self[-1].epoch + 1, self[-1].steps) if self.records else (0, 0)
        more = (dataclasses.replace(record, epoch=epochs + record.epoch, steps=steps + record.steps) for record in later)
        return dataclasses.replace(self, records=(*self.records, *more), notes=(*self.notes, *later.notes))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        account = None if self.account is None else dataclasses.asdict(self.account)
        return {"records": [dataclasses.asdict(record) for record in self.records], "notes": list(self.notes), "account": account}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> FitHistory:
        """The inverse of ``to_dict``. Raises ``KeyError``, ``TypeError`` or ``ValueError`` for anything else."""
        if not isinstance(stored, dict) or not isinstance(stored["records"], list) or not isinstance(stored["notes"], list):
            raise TypeError(f"expected the history of a fit, got {str(stored)[:100]}")
        if not all(isinstance(note, str) for note in stored["notes"]):
            raise TypeError("a note of a fit's history is no text")
        told = stored.get("account")
        account = None if told is None else record(AccuracyChange, told)
        return cls(tuple(record(EpochRecord, entry) for entry in stored["records"]), tuple(stored["notes"]), account)

    def plot(self) -> Figure:
        """Fidelity, KL divergence, reconstruction and the parts of L_cd over epochs."""
        series = {
            "fidelity": [record.fidelity for record in self],
            "KL(p_f || p_g)": [record.kl_divergence for record in self],
            "L_if": [record.input_fidelity for record in self],
            "E(Φ)": [record.entropy for record in self],
            "E(mean Φ)": [record.mean_entropy for record in self],
            "mean |φ|": [record.l1 for record in self],
        }
        validation = [math.nan if record.validation_fidelity is None else record.validation_fidelity for record in self]
        return fit_history(series, {"fidelity": validation})
