"""Train the demo's classifier on scikit-learn's digits and write its checkpoint: about a minute on two cores.

python examples/digits/train.py                       # into the package
python examples/digits/train.py --output other.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from flint_posthoc.demo import digits as demo
from flint_posthoc.storage import write_tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(demo.__file__).with_name(demo.CHECKPOINT))
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    train, test = demo.digits()
    classifier = trained(train, options.epochs)
    write_tensors(options.output, classifier.state_dict(), {"made_by": "examples/digits/train.py", "seed": str(options.seed)})
    size = options.output.stat().st_size / 1000
    print(f"{accuracy(classifier, test):.2%} of the {len(test)} test scans right; {options.output}, {size:.0f} KB")


def trained(data: TensorDataset, epochs: int) -> demo.DigitsClassifier:
    """A classifier after ``epochs`` passes over ``data``, in evaluation mode."""
    classifier = demo.DigitsClassifier()
    loader = DataLoader(data, batch_size=64, shuffle=True)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=epochs * len(loader))
    for _ in range(epochs):
        for images, labels in loader:
            loss = F.cross_entropy(classifier(shifted(images)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return classifier.eval()


def shifted(images: Tensor) -> Tensor:
    """The batch moved by at most one pixel in each direction; what enters at the edge is background."""
    background = float(demo.NORMALIZATION.normalize(torch.zeros(1, 1, 1, 1)))
    down, right = torch.randint(0, 3, (2,)).tolist()
    return F.pad(images, (1, 1, 1, 1), value=background)[..., down : down + images.shape[2], right : right + images.shape[3]]


@torch.no_grad()
def accuracy(classifier: demo.DigitsClassifier, data: TensorDataset) -> float:
    """Share of ``data`` that is classified right."""
    images, labels = data.tensors
    return float((classifier(images).argmax(dim=1) == labels).float().mean())


if __name__ == "__main__":
    main()
