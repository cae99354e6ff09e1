"""One file that holds a fit in mid-air, replaced atomically after every epoch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ClassifierMismatchError, DamagedArtifactError
from ..locking import locked
from ..processes import from_main
from ..storage import parse_json, read_tensors, writable_folder, write_tensors
from .history import FitHistory

FILE_NAME, LOCK_NAME = "fit-checkpoint.safetensors", "fit.lock"
FORMAT = 3
ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")
SAME_PIXEL = 1e-4  # of mean images, as the classifier sees them: sums of the same numbers in another order differ by far less


@contextlib.contextmanager
def alone_in(folder: str | Path | None) -> Iterator[None]:
    """While this lasts no other process fits into ``folder``, if there is one. It is made if it is not there.

    Raises:
        FolderInUseError: another process does.  ArtifactError: it cannot be written to.
    """
    if folder is None:
        yield
        return
    with locked(writable_folder(folder) / LOCK_NAME, "fits into"):
        yield


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {f"optimizer.{index}.{name}": value for index, state in optimizer.state_dict()["state"].items() for name, value in state.items()}


def _moved(optimizer: torch.optim.Optimizer) -> list[int]:
    """The parameters with a state: those that took part in the loss."""
    return sorted(optimizer.state_dict()["state"])


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], known: list[int]) -> None:
    """Raises ``LookupError`` or ``ValueError`` unless there is a whole state for each of the ``known`` parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {index: {name: tensors[f"optimizer.{index}.{name}"] for name in ADAM_STATE} for index in known}
    for index in known:
        shapes = [state[index][name].shape for name in ADAM_STATE]
        if shapes != [torch.Size(), *[parameters[index].shape] * 2]:
            raise ValueError("the optimiser's state is of other shapes")
        for name in ADAM_STATE[1:]:  # fused AdamW goes over moments and weights in the order of their memory, and files keep none
            state[index][name] = torch.empty_like(parameters[index], dtype=state[index][name].dtype).copy_(state[index][name]).detach()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _leaves(told: Any, name: str = "") -> dict[str, Any]:
    """The values in nested dicts, by their names joined with dots."""
    if not isinstance(told, dict):
        return {name: told}
    return {leaf: value for key, part in told.items() for leaf, value in _leaves(part, f"{name}.{key}" if name else key).items()}


class Restored(NamedTuple):
    """What a checkpoint tells beside the weights that it brings back."""

    history: FitHistory
    best: dict[str, Tensor] | None


class FitCheckpoint:
    """Where a fit's state after its last whole epoch stands.

    Args:
        folder: one that this process is ``alone_in``.
        identity: what must be the same for a fit to go on: settings, shapes, the classifier's fingerprint.
        mean_image: of the data, which must be the same too, as far as that can be told.
    """

    def __init__(self, folder: str | Path, identity: dict[str, Any], mean_image: Tensor | None = None) -> None:
        self.path = Path(folder) / FILE_NAME
        self.identity, self.mean_image = identity, mean_image

    def save(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        silent_steps: Tensor,
        history: FitHistory,
        best: dict[str, Tensor] | None = None,
    ) -> None:
        """Replace the checkpoint in one atomic step. ``best``: weights to end with, where these are not the last ones."""
        tensors = (
            {f"module.{name}": value for name, value in module.state_dict().items()}
            | _optimizer_tensors(optimizer)
            | {"silent_steps": silent_steps}
            | {f"best.{name}": value for name, value in (best or {}).items()}
            | ({} if self.mean_image is None else {"mean_image": self.mean_image})
        )
        told = {"identity": self.identity, "history": history.to_dict(), "optimizer": {"moved": _moved(optimizer)}}
        metadata = {"format": str(FORMAT), **{name: json.dumps(value, sort_keys=True) for name, value in told.items()}}
        write_tensors(self.path, {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, metadata)

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer, silent_steps: Tensor) -> Restored:
        """Bring everything back to the end of the last saved epoch; an empty history where nothing was saved yet.

        Raises:
            ClassifierMismatchError: the checkpoint belongs to another classifier, other settings or other data.
            DamagedArtifactError: the file is truncated or altered.
        """
        stored = from_main(lambda: read_tensors(self.path) if self.path.exists() else None)
        if stored is None:
            return Restored(FitHistory(), None)
        tensors, metadata = stored
        self._check_identity(metadata)
        self._check_data(tensors.get("mean_image"))
        try:
            best = _below("best.", tensors)
            if best and {name: value.shape for name, value in best.items()} != _shapes(module):
                raise ValueError("the best weights are of other shapes")
            if tensors["silent_steps"].shape != silent_steps.shape:
                raise ValueError("the counts of silent steps are of another number of attributes")
            history = FitHistory.from_dict(parse_json(metadata["history"]))
            module.load_state_dict(_below("module.", tensors))
            _restore_optimizer(optimizer, tensors, parse_json(metadata["optimizer"])["moved"])
            silent_steps.copy_(tensors["silent_steps"])
            return Restored(history, best or None)
        except (LookupError, ValueError, TypeError, RuntimeError) as error:
            raise DamagedArtifactError(f"{self.path} is no whole fit checkpoint: {error}") from error

    def _check_data(self, known: Tensor | None) -> None:
        if known is None or self.mean_image is None:
            return
        if known.shape != self.mean_image.shape or not torch.allclose(known, self.mean_image, rtol=0, atol=SAME_PIXEL):
            raise ClassifierMismatchError(f"{self.path} belongs to a fit of other images. Fit with resume=False, or into another folder")

    def _check_identity(self, metadata: dict[str, str]) -> None:
        try:
            saved = parse_json(metadata["identity"])
        except (KeyError, ValueError) as error:
            raise DamagedArtifactError(f"{self.path} is no fit checkpoint: {error}") from error
        if metadata.get("format") != str(FORMAT):
            raise DamagedArtifactError(f"{self.path} is of format {metadata.get('format', '')[:50]!r}; this version reads format {FORMAT}")
        known, now = _leaves(saved), _leaves(json.loads(json.dumps(self.identity)))
        different = sorted(name for name in {*known, *now} if known.get(name) != now.get(name))
        if different:
            seen = ", ".join(f"{name} (saved {known.get(name)!r}, now {now.get(name)!r})" for name in different)
            raise ClassifierMismatchError(f"{self.path} belongs to another fit: {seen}. Fit with resume=False, or into another folder")
