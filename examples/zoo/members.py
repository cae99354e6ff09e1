"""The smallest classifier of each family of timm and torchvision, and Hugging Face's image classifiers from their configurations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

CLASSES = 10
SIDES = (64, 96, 128, 160, 192, 224, 240, 256, 288, 320, 384, 448, 512)  # of images, tried in this order
SEED = 0  # of the weights, so that another process can build the same classifier
TRANSFORMERS = (
    *("vit", "deit", "swin", "convnext", "beit", "resnet", "mobilevit", "dinov2"),
    *("swinv2", "convnextv2", "dinov2_with_registers", "mobilenet_v2", "efficientnet", "regnet", "pvt"),
)


class Member(NamedTuple):
    """One classifier: whose, of which family, and by what name its library builds it."""

    library: str
    family: str
    name: str

    @property
    def key(self) -> str:
        return f"{self.library}-{self.family}"


class TooDemanding(RuntimeError):
    """No size of image that was tried suits the model."""


def _timm(name: str, **size: Any) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, **size)


def _torchvision(name: str, **size: Any) -> nn.Module:
    from torchvision.models import get_model

    arguments = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}  # both warn where they are not told
    return get_model(name, weights=None, **({"image_size": size.pop("img_size")} if "img_size" in size else {}), **size, **arguments)


def _transformers(name: str, img_size: int | None = None, num_classes: int = CLASSES) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageClassification

    size = {} if img_size is None else {"image_size": img_size}
    config = AutoConfig.for_model(name, num_labels=num_classes, **size)
    config.architectures = []  # DeiT has two heads for classes, and the first is taken where a configuration names none; None is refused
    return AutoModelForImageClassification.from_config(config)


BUILDERS: dict[str, Callable[..., nn.Module]] = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}


def build(member: Member, side: int | None = None) -> tuple[nn.Module, int]:
    """The classifier with seeded random weights in evaluation mode, and the smallest side of an image that it takes (or ``side``)."""
    problem: Exception | None = None
    for tried in SIDES if side is None else (side,):
        for arguments in ({"img_size": tried}, {}):  # transformers of a fixed size are told it; others do not know the word
            try:
                torch.manual_seed(SEED)
                model = BUILDERS[member.library](member.name, num_classes=CLASSES, **arguments).eval()
                with torch.no_grad():
                    model(pictures(tried, 2))
            except Exception as error:  # each library has its own ways to refuse a size
                problem = error
            else:
                return model, tried
    raise TooDemanding(f"{member.name} takes images of none of the sides tried: {problem}")


def pictures(side: int, count: int) -> Tensor:
    """Blobs of different places and colours with noise (count, 3, side, side), the same each time."""
    source = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, 3, 4, 4, generator=source)
    return nn.functional.interpolate(coarse, (side, side), mode="bilinear") + 0.2 * torch.randn(count, 3, side, side, generator=source)


# ---- which ----


def members(library: str) -> list[Member]:
    """One a family, in the order of their names."""
    return {"timm": timm_members, "torchvision": torchvision_members, "transformers": transformers_members}[library]()


def timm_members() -> list[Member]:
    """The smallest of each of timm's modules."""
    import timm

    families = {family: timm.list_models(module=family) for family in timm.list_modules()}
    return [Member("timm", family, _smallest(names, _timm_parameters)) for family, names in families.items()]


def _timm_parameters(name: str) -> int:
    """Counted without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in _timm(name).parameters())


def torchvision_members() -> list[Member]:
    """The smallest of each module of ``torchvision.models``."""
    from torchvision import models

    families = defaultdict(list)
    for name in models.list_models(module=models):
        families[models.get_model_builder(name).__module__.rpartition(".")[2]].append(name)
    return [Member("torchvision", family, _smallest(names, _torchvision_parameters)) for family, names in sorted(families.items())]


def _torchvision_parameters(name: str) -> int:
    """As its published weights say."""
    from torchvision.models import get_model_weights

    return int(next(iter(get_model_weights(name))).meta["num_params"])


def transformers_members() -> list[Member]:
    """Each kind of configuration in its default size; none where transformers is not installed."""
    try:
        import transformers  # noqa: F401
    except ImportError:
        return []
    return [Member("transformers", name, name) for name in TRANSFORMERS]


def _smallest(names: Iterable[str], parameters: Callable[[str], int]) -> str:
    sizes = {}
    for name in names:
        with suppress(Exception):  # some of timm's cannot be built without memory
            sizes[name] = parameters(name)
    return min(sizes, key=lambda name: (sizes[name], name))
