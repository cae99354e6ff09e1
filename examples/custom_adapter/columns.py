"""A family of one's own: it answers (confidence, scores), and its tokens run down the columns of the image instead of along the rows.

python -m examples.custom_adapter.columns
"""

from typing import Any

import torch
from flint_posthoc.adapters.torch_module import TorchModuleAdapter
from torch import Tensor, nn

from flint_posthoc import FlintExplainer
from flint_posthoc.classifier.adapter import Normalization, TapLayout


class ColumnNet(nn.Module):
    """Patches of 4 × 4 pixels as tokens, column by column."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.patches, self.mix, self.head = nn.Conv2d(1, 8, 4, stride=4), nn.Linear(8, 16), nn.Linear(16, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.patches(images).transpose(2, 3).flatten(2).transpose(1, 2)  # (B, width × height, 8)
        scores = self.head(self.mix(tokens).relu().mean(dim=1))
        return scores.amax(dim=1, keepdim=True), scores


class ColumnAdapter(TorchModuleAdapter):  # the adapter: everything that the general one would get wrong
    name, priority = "columns", 20

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, ColumnNet)

    def logits(self, output: Any) -> Tensor:
        return super().logits(output[1])

    def canonical(self, output: Any, layout: TapLayout) -> Tensor:
        maps = super().canonical(output, layout)
        return maps.flatten(2).unflatten(2, (layout.width, layout.height)).transpose(2, 3) if layout.form == "tokens" else maps

    def normalization(self, model: nn.Module) -> Normalization:
        return Normalization((0.5,), (0.25,))

    def class_names(self, model: nn.Module) -> tuple[str, ...]:
        return ("dark", "grey", "bright")


def main() -> FlintExplainer:
    """By argument; installed in the entry point group ``flint_posthoc.adapters`` it is found by itself."""
    torch.manual_seed(0)
    explain = FlintExplainer(trained(ColumnNet()), layers=["mix"], adapter=ColumnAdapter(), num_attributes=4)
    explain.fit(images(512).split(64), max_steps=300, progress=False)
    print(explain(images(4)))
    return explain


def images(count: int) -> Tensor:
    """Noise around a brightness of its own each."""
    return (3 * torch.rand(count, 1, 1, 1) - 1.5 + 0.3 * torch.randn(count, 1, 16, 8)).clamp(-2, 2)


def trained(model: nn.Module) -> nn.Module:
    """Taught to tell dark images from grey and bright ones."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(200):
        batch = images(64)
        labels = torch.bucketize(batch.mean(dim=(1, 2, 3)), torch.tensor([-0.5, 0.5]))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch)[1], labels).backward()
        optimizer.step()
    return model.eval()


if __name__ == "__main__":
    main()
