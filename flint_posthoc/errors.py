"""Every error that flint_posthoc raises on purpose.

A message says what failed, on what shape or value, and what is allowed. Each error is also the built-in kind that Python users expect
(``ValueError``, ``LookupError`` …), so both ``except FlintError`` and ``except ValueError`` work.
"""


class FlintError(Exception):
    """Base of all errors that flint_posthoc raises on purpose."""


class ConfigurationError(FlintError, ValueError):
    """A setting is out of its range, or two settings contradict each other."""


class ClassNamesError(ConfigurationError):
    """The number of class names is not the number of classes."""


class ClassSelectionError(ConfigurationError):
    """``classes=[...]`` or ``for_class=`` names a class that the classifier does not have, or names one twice."""


class AttributionError(ConfigurationError):
    """A method of attributing to pixels does not hold on this network, or is unknown; the message proposes another one."""


class UnsupportedClassifierError(FlintError, TypeError):
    """The object is no ``nn.Module`` whose hidden layers can be read (traced, scripted, exported, lazy …)."""


class ClassifierOutputError(FlintError, ValueError):
    """The classifier's output holds no (B, C) logits that could be found, or they are not finite."""


class DevicePlacementError(FlintError, RuntimeError):
    """The classifier's parameters stand on more than one device, or on another one than asked for."""


class LayerError(FlintError, ValueError):
    """Base of everything that can be wrong with a tapped layer."""


class UnknownLayerError(LayerError, LookupError):
    """No module of the classifier has this name."""


class DuplicateLayerError(LayerError):
    """The same layer was asked for twice."""


class LayerNotReachedError(LayerError):
    """The layer exists but the classifier's forward pass never calls it."""


class UnmappableActivationError(LayerError):
    """The layer's output cannot be brought into the canonical form (B, channels, H, W)."""


class DataError(FlintError, ValueError):
    """Base of everything that can be wrong with the data."""


class EmptyDataError(DataError):
    """The data holds no batch, or ended before the pass that was needed."""


class BatchFormatError(DataError, TypeError):
    """A batch is neither images, nor (images, labels), nor a dict that holds images."""


class ImageShapeError(DataError):
    """Images have the wrong rank, channels or size."""


class NonFinitePixelsError(DataError):
    """Images hold NaN or infinite pixels."""


class MissingLabelsError(DataError):
    """Labels are needed (``joint=True``) and the data has none."""


class LabelRangeError(DataError):
    """A label is not a class of the classifier."""


class UnreadablePictureError(DataError):
    """A file is no picture, is damaged, or would take too much memory; the message names the file."""


class MemoryExhaustedError(FlintError, MemoryError):
    """The memory does not suffice, and nothing smaller could be tried; the message says what would fit."""


class NotFitted(FlintError, RuntimeError):
    """The explainer was asked for something before ``fit`` or ``from_pretrained``."""


class TrainingDivergedError(FlintError, ArithmeticError):
    """A loss term became NaN or infinite; the message names it."""


class NonFiniteResultError(FlintError, ArithmeticError):
    """The interpreter answers with NaN or infinity: its weights are spoilt, or the images are far from all that it has seen."""


class ArtifactError(FlintError, OSError):
    """Base of everything that can be wrong with files of ours."""


class NotAnArtifactError(ArtifactError):
    """The directory holds no saved explainer, fit checkpoint or activation cache."""


class DamagedArtifactError(ArtifactError):
    """A file is truncated, altered, too large or of an unknown version."""


class DiskSpaceError(ArtifactError):
    """The disk has not the room that is needed, or is full."""


class FolderInUseError(ArtifactError):
    """Another process writes into the folder."""


class ClassifierMismatchError(ArtifactError, ValueError):
    """The artefact was made for another classifier."""


class ProcessFailedError(FlintError, RuntimeError):
    """Another of the processes that work together failed, or is gone; the message says which and how."""


class FlintWarning(UserWarning):
    """Something works, but not as one might expect: a cache that is off, a batch too small for its loss, unshuffled data."""
