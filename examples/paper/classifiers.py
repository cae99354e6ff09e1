"""BASE-f: the classifier alone, trained as FLINT-f is but for L_int: same data, epochs, batches, optimiser, schedule and precision."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from examples.paper.tasks import Task
from flint_posthoc.learning.settings import learning_rate_factor
from flint_posthoc.precision import autocast, bfloat16_pays

CPU = torch.device("cpu")


def precision() -> str:
    """In which f learns, alone and by design: bfloat16 where the machine multiplies it; everything is judged in float32."""
    return "bfloat16" if bfloat16_pays(CPU) else "float32"


def train(model: nn.Module, task: Task, loader: DataLoader, *, epochs: int) -> nn.Module:
    """Train ``model`` in place by cross entropy and return it in evaluation mode."""
    settings = task.config().joint
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    model.train()
    total, lowered = epochs * len(loader), precision() == "bfloat16"
    with tqdm(total=total, desc="BASE-f", unit="step") as bar:
        for epoch in range(epochs):
            for batch, (images, labels) in enumerate(loader):
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * learning_rate_factor(epoch * len(loader) + batch, total)
                with autocast(CPU, lowered):
                    logits = model(images.contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(logits.float(), labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                bar.update()
                if batch % 50 == 0:
                    bar.set_postfix_str(f"loss {float(loss.detach()):.3f}", refresh=False)
    return model.eval()
