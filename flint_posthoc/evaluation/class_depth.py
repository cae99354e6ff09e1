"""Is an image one of those that its class was learnt from? Projection depth in pixels and in attributes, one flag an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Float64
from torch import Tensor

from ..arrays import PerImageFlag
from ..data import Data
from ..errors import ConfigurationError, EmptyDataError
from ..interpreter.fitted import FittedInterpreter, ReadBatch
from ..measures import area_resize
from .depth import DepthSettings, PrincipalSpace, ProjectionDepth, ratio
from .gathering import RowReservoir

SpaceDepths = Float64[Tensor, "b spaces"]
SHALLOWEST = 1e-9  # of a class whose held-out members are nothing like the others


@dataclass(frozen=True)
class ClassDepthSettings:
    """What a class is known by.

    Attributes:
        members: images of each class that are kept, at most.
        held_out: the share of them that only sets the threshold.
        components: principal components of the class, at most.
        quantile: of the held-out members' depth, below which an image is an outlier.
        side: images are averaged by area to at most this many pixels a side.
        least: a class of fewer members is not judged.
    """

    members: int = 500
    held_out: float = 0.3
    components: int = 20
    quantile: float = 0.05
    side: int = 16
    least: int = 20
    depth: DepthSettings = field(default_factory=DepthSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1 or not 0 < self.quantile < 1:
            raise ConfigurationError(f"held_out and quantile must be between 0 and 1, got {self.held_out} and {self.quantile}")
        if min(self.components, self.side) < 1 or not 10 <= self.least <= self.members:
            raise ConfigurationError(f"components and side must be at least 1, least at least 10 and at most members, got {self}")


def _small_pixels(batch: ReadBatch, side: int) -> Tensor:
    height, width = batch.images.shape[2:]
    return area_resize(batch.images, (min(height, side), min(width, side))).flatten(1)


def _attributes(batch: ReadBatch, side: int) -> Tensor:
    return batch.attributes


SPACES: dict[str, Callable[[ReadBatch, int], Tensor]] = {"pixels": _small_pixels, "attributes": _attributes}


@dataclass(frozen=True)
class ClassDepth:
    """Depth in one class and one space, over the quantile of the class's held-out members: below 1 lies an outlier.

    In the principal components of the class it is projection depth. How far a point lies off them is judged apart, in median absolute
    deviations of the class: what is nothing like the class shows there, also where the class itself never leaves them.
    """

    space: PrincipalSpace
    depth: ProjectionDepth
    beside: float  # the class's median distance off its components
    spread: float  # the deviation of that
    threshold: float

    @classmethod
    def of(cls, members: Tensor, settings: ClassDepthSettings) -> ClassDepth:
        """From members (m, D) in the order of the data; which are held out is drawn from the seed."""
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(settings.seed))
        cut = max(2, round(settings.held_out * len(members)))
        known, held_out = members[order[cut:]], members[order[:cut]]
        space = PrincipalSpace.of(known, settings.components)
        beside = space.beside(held_out)  # those that the components were not fitted to
        middle, size = beside.median(), (known.double() - space.mean).square().sum(dim=1).mean().sqrt()
        spread = torch.maximum((beside - middle).abs().median(), settings.depth.min_spread * size)
        free = cls(space, ProjectionDepth(space(known), settings.depth), float(middle), float(spread), 1.0)
        return replace(free, threshold=float(free(held_out).quantile(settings.quantile).clamp_min(SHALLOWEST)))

    def __call__(self, points: Tensor) -> Tensor:
        """(n,), depth over threshold."""
        off = ratio((self.space.beside(points) - self.beside).clamp_min(0), torch.tensor(self.spread))
        depth: Tensor = torch.minimum(self.depth(self.space(points)), 1 / (1 + off)) / self.threshold
        return depth


@dataclass(frozen=True)
class ClassDepths:
    """What ``learn_class_depths`` found: for each space the depth in each class, ``None`` for a class of too few members."""

    by_space: dict[str, tuple[ClassDepth | None, ...]]
    settings: ClassDepthSettings
    class_names: tuple[str, ...]

    @property
    def unknown_classes(self) -> tuple[str, ...]:
        """Classes that cannot be judged."""
        first: Sequence[ClassDepth | None] = next(iter(self.by_space.values()))
        return tuple(name for name, known in zip(self.class_names, first, strict=True) if known is None)

    def depths(self, batch: ReadBatch, classes: Tensor) -> SpaceDepths:
        """How deep each image lies in the class that f gives it, over that class's threshold; NaN where the class is not known.

        One column a space, in the order of ``by_space``. Below 1 the image is an outlier.
        """
        columns = [self._in_space(space, batch, classes.cpu()) for space in self.by_space]
        return torch.stack(columns, dim=1)

    def _in_space(self, space: str, batch: ReadBatch, classes: Tensor) -> Tensor:
        points = SPACES[space](batch, self.settings.side).cpu()
        found = torch.full((len(points),), torch.nan, dtype=torch.float64)
        for index in classes.unique().tolist():
            known = self.by_space[space][index]
            if known is not None:
                found[classes == index] = known(points[classes == index])
        return found


def outlying(depths: SpaceDepths) -> PerImageFlag:
    """Where an image is an outlier in some space, or its class is not known."""
    return ~(depths >= 1).all(dim=1)


def learn_class_depths(fitted: FittedInterpreter, reference: Data, settings: ClassDepthSettings = ClassDepthSettings()) -> ClassDepths:
    """Know each class by images, best those the classifier was trained on: by label or, without labels, by f.

    Memory: ``members`` rows of pixels (at most ``side``² a channel) and of J attributes for each class; one pass.

    Raises:
        EmptyDataError: no class has ``least`` images. DataError.  ConfigurationError: a multi-label classifier.
    """
    fitted.require_one_label("projection depth within a class")
    reservoirs = [RowReservoir(settings.members, settings.seed) for _ in range(fitted.view.num_classes)]
    for batch in fitted.read(reference):
        classes = fitted.view.kind.prediction(batch.classifier_logits) if batch.labels is None else batch.labels
        columns = [of_batch(batch, settings.side).cpu() for of_batch in SPACES.values()]
        for index in classes.unique().tolist():
            members = (classes == index).cpu()
            reservoirs[index].offer(*(column[members] for column in columns))
    if max(reservoir.seen for reservoir in reservoirs) < settings.least:
        raise EmptyDataError(f"no class has {settings.least} images in the reference data, {max(r.seen for r in reservoirs)} at most")
    known = [_known(reservoir, settings) for reservoir in reservoirs]
    by_space = {space: tuple(entry[place] for entry in known) for place, space in enumerate(SPACES)}
    return ClassDepths(by_space, settings, fitted.class_names)


def _known(reservoir: RowReservoir, settings: ClassDepthSettings) -> tuple[ClassDepth | None, ...]:
    if reservoir.seen < settings.least:
        return (None,) * len(SPACES)
    return tuple(map(partial(ClassDepth.of, settings=settings), reservoir.columns()))
