"""The paper's classifiers (first version; sizes in its authors' programme), and the layers that it taps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_PLACES = 16  # of the maps that a convolution gives


class LeNet(nn.Module):
    """Two convolutions and two linear layers, with dropout, for grey images of 28 pixels."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()
        self.conv2, self.pool, self.dropout2, self.relu2 = nn.Conv2d(16, 32, 3, padding=1), nn.MaxPool2d(2), nn.Dropout(), nn.ReLU()
        self.fc1, self.relu3, self.dropout3 = nn.Linear(32 * 14 * 14, 128), nn.ReLU(), nn.Dropout()
        self.fc2 = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, 28, 28) → (B, classes)."""
        maps = self.relu2(self.dropout2(self.pool(self.conv2(self.relu1(self.conv1(images))))))
        return self.fc2(self.dropout3(self.relu3(self.fc1(maps.flatten(1)))))


class Convolution(nn.Conv2d):
    """3 × 3, the border padded; of few places on a CPU a matrix product, which learns 512 maps of 4 × 4 three times faster."""

    def __init__(self, channels: int, maps: int, stride: int, *, bias: bool) -> None:
        super().__init__(channels, maps, 3, stride, padding=1, bias=bias)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, channels, H, W) → (B, maps, H, W), or half of that with stride 2."""
        step, (height, width) = self.stride[0], maps.shape[2:]
        if maps.is_cuda or -(-height // step) * -(-width // step) > FEW_PLACES:
            return super().forward(maps)
        padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        neighbours = [padded[:, down : down + height : step, right : right + width : step] for down in range(3) for right in range(3)]
        return F.linear(torch.cat(neighbours, dim=3), self.weight.permute(0, 2, 3, 1).flatten(1), self.bias).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut (a 1×1 convolution where the shape changes)."""

    def __init__(self, channels: int, maps: int, stride: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = Convolution(channels, maps, stride, bias=not batch_norm)
        self.conv2 = Convolution(maps, maps, 1, bias=not batch_norm)
        self.norm1, self.norm2 = (nn.BatchNorm2d(maps) if batch_norm else nn.Identity() for _ in range(2))
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut = nn.Identity() if stride == 1 and channels == maps else nn.Conv2d(channels, maps, 1, stride)

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(maps)))))
        return self.relu2(inner + self.shortcut(maps))


class ResNet18(nn.Module):
    """For images of 28 or 32 pixels: a 3×3 stem without pooling. The paper's has no batch norm."""

    def __init__(self, channels: int, num_classes: int = 10, *, batch_norm: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 64, 3, padding=1), nn.BatchNorm2d(64) if batch_norm else nn.Identity(), nn.ReLU()
        )  # fmt: skip
        widths = (64, 64, 128, 256, 512)
        for index in range(4):
            first = Block(widths[index], widths[index + 1], 1 if index == 0 else 2, batch_norm=batch_norm)
            setattr(self, f"layer{index + 1}", nn.Sequential(first, Block(widths[index + 1], widths[index + 1], 1, batch_norm=batch_norm)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if not batch_norm:
            self._start_as_shortcuts()

    @torch.no_grad()
    def _start_as_shortcuts(self) -> None:
        """Without batch norm the sums grow with depth: each block starts near its shortcut (Fixup, Zhang et al. 2019, in short)."""
        for module in self.modules():
            if isinstance(module, Block):
                module.conv2.weight.mul_(0.25)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) → (B, classes)."""
        maps = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(images)))))
        return self.fc(self.pool(maps).flatten(1))
