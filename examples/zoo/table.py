"""docs/models.md out of the rows of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NAMES = {"timm": "timm", "torchvision": "torchvision", "transformers": "Hugging Face transformers"}
HEAD = """# Which models?

Every family below went through the whole course: suggested layers, preflight, a two-epoch fit, explanation, exemplars, AM+PI, attribution,
contrast, report, saving, and loading in another process with the same outputs bit for bit; nothing was left on the model. Of each family it
is the smallest member, with random weights, on images of the smallest size tried (from 64 pixels) that it takes. `make zoo` repeats it.

- *maps*: what is read of each suggested layer, channels x height x width, and how its output stands: `maps` (B, C, H, W), `maps_last`
  (B, H, W, C), `maps_flat` (B, C, H·W), `tokens` (B, N, C) with so many prefix tokens.
- *exact*: the methods of attributing to pixels that hold on this network by their own definition, beside the gradient, integrated
  gradients and occlusion, which hold on all; then what `method="auto"` took.
- *cost*: the time of `explain(images)` relative to a plain pass of the classifier over the same images, measured once, on a CPU.
"""
SHORT = {"guided_backpropagation": "guided backpropagation", "deep_lift": "DeepLIFT", "lrp": "LRP"}


def page(rows: Sequence[Mapping[str, Any]], circumstances: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = [HEAD, f"Made with {', '.join(f'{name} {version}' for name, version in circumstances['versions'].items())}.\n", _summary(rows)]
    for library, name in NAMES.items():
        of_library = [row for row in rows if row["library"] == library]
        if of_library:
            parts += [f"\n## {name}\n", *_table([row for row in of_library if row["passed"]])]
            parts += [_failure(row) for row in of_library if not row["passed"]]
    return "\n".join(parts) + "\n"


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| | families | passed |", "|---|---|---|"]
    for library, name in NAMES.items():
        passed = [row["passed"] for row in rows if row["library"] == library]
        lines += [f"| {name} | {len(passed)} | {sum(passed)} |"] if passed else []
    return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["| family | model, side of an image | suggested layers | maps | exact; `auto` takes | cost |", "|---|---|---|---|---|---|"]
    return lines + [_line(row) for row in rows]


def _line(row: Mapping[str, Any]) -> str:
    names = ", ".join(f"`{layer}`" for layer in row["layers"])
    maps = ", ".join(f"{'x'.join(map(str, shape))} {form}" for shape, form in zip(row["maps"], row["forms"], strict=True))
    exact = ", ".join(SHORT[name] for name in row["methods_that_hold"]) or "–"
    taken = SHORT.get(row["attribution"], row["attribution"].replace("_", " "))
    return f"| {row['family']} | {row['model']}, {row['side']} | {names} | {maps} | {exact}; {taken} | {row['cost']:.2f} |"


def _failure(row: Mapping[str, Any]) -> str:
    return f"\n*{row['family']}* ({row['model']}) ends at *{row['step']}*: {row['error']}"
