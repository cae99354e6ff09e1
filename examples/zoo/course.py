"""The whole course for one classifier: everything the plugin does, with few images and steps, and nothing left behind on the model."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flint_posthoc import FlintExplainer
from flint_posthoc.errors import AttributionError, FlintError, FlintWarning
from flint_posthoc.interpretation.ascent import preset_for
from flint_posthoc.interpretation.attribution import AttributionSettings
from flint_posthoc.storage import fingerprint, read_tensors, write_tensors

from .members import Member, build, pictures

IMAGES, BATCH, ATTRIBUTES = 6, 3, 3
DEMANDING = ("guided_backpropagation", "deep_lift", "lrp")  # methods that hold on some networks only


@dataclass
class Run:
    """One classifier on its way; each step adds to ``row``."""

    model: nn.Module
    side: int
    folder: Path
    row: dict[str, Any] = field(default_factory=dict)
    explain: FlintExplainer = None  # type: ignore[assignment]  # the first step makes it

    @property
    def images(self) -> Tensor:
        return pictures(self.side, IMAGES)

    @property
    def data(self) -> list[Tensor]:
        return list(self.images.split(BATCH))


def layers(run: Run) -> None:
    """Suggested layers and what a dry run over them finds."""
    run.explain = FlintExplainer(run.model, num_attributes=ATTRIBUTES, input_size=(3, run.side, run.side))
    found = run.explain.preflight
    assert found is not None
    forms = [f"{layout.form}+{layout.prefix}" if layout.prefix else layout.form for layout in found.record.layouts]
    run.row |= {"layers": list(found.view.layers), "maps": [list(shape) for shape in found.view.tap_shapes], "forms": forms}
    run.row |= {"reason": found.reason, "warnings": list(found.record.warnings), "parameters": found.record.parameters}


def fit(run: Run) -> None:
    """Two epochs."""
    run.explain.fit(run.data, epochs=2, batch_size=BATCH, progress=False)


def explain(run: Run) -> None:
    """Local and global, and what they cost beside a plain pass of f."""
    local = run.explain(run.images)
    assert bool(local.relevance.isfinite().all())
    world = run.explain.global_interpretation(run.data)
    run.row["agreeing"] = float(local.agrees.float().mean())
    pairs = world.pairs()[:2] or [(0, int(local.interpreter_class[0]))]
    found = run.explain.exemplars(run.data, pairs)
    assert len(found) == len(pairs)
    with torch.no_grad():
        run.row["cost"] = round(_seconds(lambda: run.explain(run.images)) / _seconds(lambda: run.model(run.images)), 2)


def draw(run: Run) -> None:
    """AM+PI with five steps, and the decoder's contrast."""
    fitted = run.explain.fitted
    preset = preset_for(fitted.image_shape)
    settings = replace(preset, stages=(replace(preset.stages[0], steps=5),))
    drawn = run.explain.maximize(run.images[:1], 0, settings=settings)
    assert len(drawn) == 1
    run.explain.contrast(run.images[:1], 0)


def attribute(run: Run) -> None:
    """By ``auto``, by integrated gradients with four steps, and which of the demanding methods hold."""
    settings = AttributionSettings(steps=4)
    image = run.images[:1]
    strongest = run.explain(image).attributes.argmax(dim=1)
    chosen = run.explain.attribution(image, attribute=strongest, settings=settings)
    gradients = run.explain.attribution(image, attribute=strongest, method="integrated_gradients", settings=settings)
    assert bool(chosen.values.isfinite().all() and gradients.values.isfinite().all())
    run.row |= {"attribution": chosen.method, "exact": chosen.exact}
    run.row["methods_that_hold"] = [name for name in DEMANDING if _holds(run, name)]


def _holds(run: Run, method: str) -> bool:
    try:
        return run.explain.attribution(run.images[:1], attribute=0, method=method).exact
    except AttributionError:
        return False


def keep(run: Run) -> None:
    """The report, the artefact, and what it has to say again in another process."""
    run.explain.report(run.folder / "report.html", run.data, budget_seconds=0, progress=False)
    run.explain.save_pretrained(run.folder)
    write_tensors(run.folder / "outputs.safetensors", outputs(run.explain, run.images))


def outputs(explain: FlintExplainer, images: Tensor) -> dict[str, Tensor]:
    """What a loaded explainer has to repeat, bit for bit."""
    local = explain(images)
    return {
        "attributes": local.attributes,
        "classifier_logits": local.classifier_logits,
        "interpreter_logits": local.interpreter_logits,
        "relevance": local.relevance,
        "reconstruction": explain.reconstruct(images).contiguous(),
    }


STEPS: dict[str, Callable[[Run], None]] = {
    "suggested layers and preflight": layers,
    "fit": fit,
    "explain and exemplars": explain,
    "AM+PI and contrast": draw,
    "attribution": attribute,
    "report and save": keep,
}


def take(member: Member, folder: Path) -> dict[str, Any]:
    """All steps for one classifier; a row for the table, with the error that ended it, if any."""
    started, step, row = time.time(), "build", {"library": member.library, "family": member.family, "model": member.name}
    try:
        model, side = build(member)
        folder.mkdir(parents=True, exist_ok=True)
        run, before = Run(model, side, folder, row | {"side": side}), (fingerprint(model), traces(model))
        row = run.row
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FlintWarning)  # of mini-batches too small for their loss
            for step, act in STEPS.items():
                clock = time.process_time()
                act(run)
                row = run.row
                row.setdefault("seconds_by_step", {})[step] = round(time.process_time() - clock, 1)
                assert traces(model) == before[1], "a trace was left on the model's modules"
        assert fingerprint(model) == before[0], "the model's weights changed"
        row["passed"] = True
    except Exception as error:  # whatever happens is the result
        row |= {"passed": False, "step": step, "error": f"{type(error).__name__}: {error}", "typed": isinstance(error, FlintError)}
        traceback.print_exc()
    return row | {"seconds": round(time.time() - started, 1)}


def repeat(member: Member, side: int, folder: Path) -> bool:
    """Whether the artefact in ``folder`` gives, beside a classifier built anew, the outputs that were stored with it."""
    model, _ = build(member, side)
    stored = read_tensors(folder / "outputs.safetensors").tensors
    found = outputs(FlintExplainer.from_pretrained(folder, model), pictures(side, IMAGES))
    return found.keys() == stored.keys() and all(torch.equal(value, stored[name]) for name, value in found.items())


def traces(model: nn.Module) -> list[Any]:
    """Every module's flags, hooks, forward and other attributes, containers by what they hold, and each parameter's flags."""
    return [
        *((name, key, _identity(value)) for name, module in model.named_modules() for key, value in vars(module).items()),
        *((name, parameter.requires_grad, id(parameter.grad)) for name, parameter in model.named_parameters()),
    ]


def _identity(value: Any) -> Any:
    if isinstance(value, dict):
        return [*map(id, value), *map(id, value.values())]
    return [*map(id, value)] if isinstance(value, list | set) else value if isinstance(value, bool) else id(value)


def _seconds(call: Callable[[], Any]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started
