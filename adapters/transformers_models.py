"""Hugging Face's image classifiers, by their ``config``. transformers itself is never imported."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from flint_posthoc.arrays import ImageShape
from flint_posthoc.classifier.adapter import OUTPUT_KINDS, OutputKind
from flint_posthoc.errors import UnsupportedClassifierError

from .torch_module import TorchModuleAdapter, comes_from


class TransformersAdapter(TorchModuleAdapter):
    """``transformers`` image classifiers: input size and class names from ``config``.

    The normalisation belongs to the image processor, in a file beside the weights that the model does not know: pass ``normalization=``.
    """

    name = "transformers"
    priority = 10

    def matches(self, model: nn.Module) -> bool:
        return comes_from(model, "transformers.") and hasattr(model, "config")

    def input_size(self, model: nn.Module) -> ImageShape | None:
        """``config.image_size``, a number or (height, width), and ``config.num_channels``."""
        size = getattr(model.config, "image_size", None)
        channels = getattr(model.config, "num_channels", 3)
        if isinstance(size, int):
            return (channels, size, size)
        return (channels, int(size[0]), int(size[1])) if isinstance(size, list | tuple) and len(size) == 2 else None

    def output_kind(self, model: nn.Module) -> OutputKind:
        """By ``config.problem_type``. Raises ``UnsupportedClassifierError`` for regression, which one unnamed output is there too."""
        told = getattr(model.config, "problem_type", None)
        if told == "regression" or (told is None and getattr(model.config, "num_labels", None) == 1):
            raise UnsupportedClassifierError(
                "by its config this model returns numbers of a regression, not logits; where its output is one, say "
                "output_kind='binary', on the command line --output-kind binary"
            )
        return OUTPUT_KINDS["multilabel" if told == "multi_label_classification" else "categorical"]

    def class_names(self, model: nn.Module) -> tuple[str, ...] | None:
        """``config.id2label`` in the order of its numbers, unless it holds the placeholders LABEL_0, LABEL_1, …"""
        told: dict[Any, str] = getattr(model.config, "id2label", None) or {}
        names = tuple(str(told[key]) for key in sorted(told, key=int))
        return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names
