"""Copies of a classifier, for work that would leave something on the modules that it meets."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import UnsupportedClassifierError


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy of ``model``.

    Tensors that an earlier pass left on it with their graph (``weight_norm``, kept attention maps) are copied without that graph, which
    ``copy.deepcopy`` refuses.

    Raises:
        UnsupportedClassifierError: it holds something that cannot be copied, such as a lock or an open file.
    """
    kept = [value for module in model.modules() for value in tree_leaves(vars(module)) if isinstance(value, Tensor) and not value.is_leaf]
    try:
        return copy.deepcopy(model, {id(value): value.detach().clone() for value in kept})
    except (RuntimeError, TypeError) as error:
        raise UnsupportedClassifierError(f"this needs a copy of the classifier, which cannot be copied: {error}") from error
