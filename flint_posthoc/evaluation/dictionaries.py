"""Plain dictionaries: J numbers an image from features of f, by recipes that never look at f's answer, and a linear read-out that does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ..arrays import Bias, Logits, Weight
from ..classifier.adapter import OutputKind

READOUT_STEPS, READOUT_DECAY = 200, 1e-4
READOUT_PAIRS = 10  # of changes that L-BFGS remembers, each as large as the layer, twice
NMF_STEPS = 200

Features: TypeAlias = Float[Tensor, "n _"]
Codes: TypeAlias = Float[Tensor, "n atoms"]
Encoder: TypeAlias = Callable[[Tensor], Tensor]


def _through_numpy(encode: Callable[[Any], Any]) -> Encoder:
    return lambda features: torch.as_tensor(encode(features.double().cpu().numpy())).float()


def split_signs(features: Features) -> Features:
    """(n, 2D): positive and negative parts side by side, where some feature is negative: nothing is lost and nothing is below 0."""
    return torch.cat([features.clamp(min=0), (-features).clamp(min=0)], dim=1)


class Factorisation:
    """V ≈ U W with nothing below 0 (NMF): codes U are the mixture of atoms that comes nearest to each row.

    Attributes:
        atoms: W, (J, D).
    """

    def __init__(self, features: Features, atoms: int, seed: int) -> None:
        from sklearn.decomposition import NMF

        start = "nndsvda" if atoms <= min(features.shape) else "random"
        self._model = NMF(atoms, init=start, max_iter=NMF_STEPS, random_state=seed)
        with _bounded():
            self._model.fit(features.double().cpu().numpy())
        self.atoms = torch.as_tensor(self._model.components_).float()

    def __call__(self, features: Features) -> Codes:
        with _bounded():
            return torch.as_tensor(self._model.transform(features.double().cpu().numpy())).float()


@contextmanager
def _bounded() -> Iterator[None]:
    """The number of steps is bounded on purpose."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def factorise(features: Features, atoms: int, seed: int) -> Encoder:
    """Non-negative matrix factorisation, of positive and negative parts where some feature is negative."""
    prepare = split_signs if bool((features < 0).any()) else torch.relu
    found = Factorisation(prepare(features), atoms, seed)
    return lambda more: found(prepare(more))


def cluster(features: Features, atoms: int, seed: int) -> Encoder:
    """k-means; codes are how much nearer than the average centre each centre is, 0 for those farther (Coates and Ng's triangle code)."""
    from sklearn.cluster import KMeans

    model = KMeans(min(atoms, len(features)), n_init=1, random_state=seed).fit(features.double().cpu().numpy())
    distances = _through_numpy(model.transform)
    return lambda more: (lambda far: (far.mean(dim=1, keepdim=True) - far).clamp(min=0))(distances(more))


def components(features: Features, atoms: int, seed: int) -> Encoder:
    """Principal components; codes are signed. Never more of them than features or images."""
    from sklearn.decomposition import PCA

    model = PCA(min(atoms, *features.shape), random_state=seed).fit(features.double().cpu().numpy())
    return _through_numpy(model.transform)


SEEDS = 2**32  # that sklearn tells apart

DICTIONARIES: dict[str, Callable[[Tensor, int, int], Encoder]] = {
    "non-negative factorisation": factorise,
    "k-means": cluster,
    "principal components": components,
}


class Readout(NamedTuple):
    """A linear layer from codes to logits; contributions of codes are code times weight, as of attributes."""

    weight: Weight
    bias: Bias

    def __call__(self, codes: Tensor) -> Logits:
        """(n, C)."""
        return codes @ self.weight.T + self.bias


def learn_readout(codes: Codes, logits: Float[Tensor, "n classes"], kind: OutputKind) -> Readout:
    """The linear layer whose answers have the least cross entropy to f's (h's own loss), by L-BFGS on all images at once.

    Codes are scaled to deviation 1 while learning, with a weight decay of 1e-4 there. Deterministic.
    """
    with torch.inference_mode(False), torch.enable_grad():
        deviation, mean = torch.std_mean(codes.detach().clone(), dim=0, correction=0)
        scale = torch.where(deviation > 0, 1 / deviation.clamp_min(1e-12), 0)
        scaled, target = (codes.detach().clone() - mean) * scale, logits.detach().clone()
        weight = scaled.new_zeros(logits.shape[1], codes.shape[1], requires_grad=True)
        bias = scaled.new_zeros(logits.shape[1], requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=READOUT_STEPS, history_size=READOUT_PAIRS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            """With gradients, as L-BFGS asks for it."""
            optimizer.zero_grad()
            value = kind.cross_entropy(target, scaled @ weight.T + bias).mean() + READOUT_DECAY * weight.square().sum() / 2
            value.backward()
            return value

        optimizer.step(loss)
    unscaled = weight.detach() * scale
    return Readout(unscaled, bias.detach() - unscaled @ mean)
