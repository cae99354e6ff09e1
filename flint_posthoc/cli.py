"""The command line: ``flint-posthoc demo | layers | fit | evaluate | explain | report``.

A command is a function below; its parameters are the options, those of its dataclass parameters spread out, on the command line or
in YAML through ``--config``.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_type_hints

import torch
from jsonargparse import ArgumentParser
from torch.utils.data import DataLoader

from .canvas import save as save_figure
from .errors import ConfigurationError, DataError, FlintError
from .evaluation.layer_choice import PAIRED
from .explainer import FlintExplainer
from .interpretation.local import class_called
from .learning.losses import LossWeights
from .learning.presets import FlintConfig
from .learning.settings import FitSettings
from .sources.options import LISTS, ClassifierOptions, LoadingOptions, ReadingOptions, SavedOptions
from .sources.pictures import ImageForm, LabelledPictures, ReadablePictures, open_data, open_picture
from .storage import writable_folder, write_json
from .words import with_notes

AT_ONCE = 64  # pictures that are explained in one go
DEFAULT_LOSS = LossWeights()


# ---- the commands ----


def demo(*, output: Path = Path("flint-demo"), seed: int = 0, max_steps: int | Literal["auto"] = 600) -> None:
    """Fit an interpreter to the embedded classifier of handwritten digits, judge it and write pictures: about a minute.

    Args:
        output: folder to write into.
        seed: of the fit.
        max_steps: optimiser steps of the fit, or auto: as many as the size of the data asks for.
    """
    from .demo.run import run_demo

    for paragraph in run_demo(output, seed=seed, max_steps=max_steps, progress=_on_terminal()):
        print(paragraph, end="\n\n", flush=True)


def layers(
    classifier: ClassifierOptions,
    reading: ReadingOptions,
    loading: LoadingOptions,
    *,
    data: str | None = None,
    measure: bool = False,
    folds: int = 3,
    max_steps: int | Literal["auto"] = "auto",
) -> None:
    """Say which layers would be read, why, and what they put out; nothing is fitted, unless to measure.

    Args:
        data: pictures that show the size of an image, where neither the classifier nor --size tells, and to measure on; see fit.
        measure: fit interpreters to the suggested layers, to each good layer and to pairs, and compare their cross-validated fidelity.
        folds: of the cross-validation.
        max_steps: optimiser steps of each fit, or auto: as many as the size of the data asks for.
    """
    model = classifier.build()
    pictures = None if data is None else open_data(data, "train")
    form = reading.form(classifier, model, pictures)
    config = FlintConfig(settings=FitSettings(max_steps=max_steps))
    explainer = reading.explainer(model, form, pictures, device=classifier.place(), config=config)
    class_names = _print_layers(explainer)
    if measure:
        if pictures is None:
            raise ConfigurationError("--measure needs --data, pictures to fit and to judge on")
        found = explainer.preflight
        choices = 1 + len(found.good_layers if found else ()) + PAIRED
        print(f"\nmeasuring up to {choices} choices, {folds} fits each: minutes for small pictures, longer for photographs", flush=True)
        compared = explainer.compare_layers(loading.loader(pictures, form, class_names), folds=folds, progress=_on_terminal())
        print("", compared, sep="\n")


def fit(
    classifier: ClassifierOptions,
    reading: ReadingOptions,
    loading: LoadingOptions,
    *,
    data: str,
    validation: str | None = None,
    output: Path = Path("flint-interpreter"),
    num_attributes: int | None = None,
    seed: int = 0,
    max_steps: int | Literal["auto"] = "auto",
    checkpoint_dir: Path | None = None,
    resume: bool = False,
    loss: LossWeights = DEFAULT_LOSS,
) -> None:
    """Fit an interpreter to a classifier, which stays as it is, and save it.

    Args:
        data: pictures to learn from, labels are not needed: a folder with one folder a class (train/ in it is taken, where there is
            one), or digits, or mnist:FOLDER or fashion_mnist:FOLDER as torchvision keeps them.
        validation: pictures to judge by (test/ or val/ in it is taken).
        output: folder to save the interpreter in.
        num_attributes: how many; 25 for up to ten classes, 2.5 a class beyond.
        seed: of initialisation and order.
        max_steps: optimiser steps, or auto, as many as the size of the data asks for.
        checkpoint_dir: folder to keep the state after every epoch in.
        resume: go on from there.
        loss: weights of the loss terms.
    """
    model = classifier.build()
    pictures, others = open_data(data, "train"), None if validation is None else open_data(validation, "test")
    writable_folder(output)  # which may stand among the folders of pictures
    form = reading.form(classifier, model, pictures)
    explainer = reading.explainer(model, form, pictures, num_attributes=num_attributes, device=classifier.place())
    class_names = _print_layers(explainer)
    judged = None if others is None else loading.loader(others, form, class_names)
    learnt = loading.loader(pictures, form, class_names, shuffle=True)
    history = explainer.fit(
        learnt,
        validation=judged,
        max_steps=max_steps,
        seed=seed,
        weights=loss,
        checkpoint_dir=checkpoint_dir,
        resume=resume,
        progress=_on_terminal(),
    )
    folder = explainer.save_pretrained(output)
    save_figure(history.plot(), folder / "history.png")
    print(f"\n{history[-1]}", *[] if judged is None else ["", explainer.evaluate(judged)], sep="\n")
    print(f"\nthe interpreter and history.png are in {folder}")
    _say_what_was_skipped(learnt, judged)


def evaluate(classifier: ClassifierOptions, saved: SavedOptions, loading: LoadingOptions, *, data: str, json: Path | None = None) -> None:
    """Say how far a saved interpreter is to be trusted, best on pictures that it has not seen.

    Args:
        data: pictures, as for fit (test/ or val/ in the folder is taken, where there is one).
        json: file to write the figures into.
    """
    explainer, form = saved.load(classifier)
    pictures, _ = _held_out(data)
    judged = loading.loader(pictures, form, explainer.fitted.class_names)
    if json is not None:
        writable_folder(json.parent)
    evaluation = explainer.evaluate(judged)
    if json is not None:
        write_json(json, evaluation.to_dict())
    print(evaluation)
    _say_what_was_skipped(judged)


def explain(
    classifier: ClassifierOptions,
    saved: SavedOptions,
    *,
    images: list[Path],
    output: Path = Path("flint-explanations"),
    for_class: str = "interpreter",
) -> None:
    """Explain the predictions for some pictures: as text, as pictures and as JSON.

    Args:
        output: folder to write into.
        for_class: interpreter (what it predicts), classifier (what that predicts), or a class, by name or number.
    """
    explainer, form = saved.load(classifier)
    wanted = class_called(for_class, explainer.fitted.class_names)
    wanted = int(wanted) if isinstance(wanted, str) and wanted.isdecimal() else wanted
    writable_folder(output)
    stored: dict[str, Any] = {"images": []}
    unreadable: list[str] = []
    for start in range(0, len(images), AT_ONCE):
        pictures = _readable(images[start : start + AT_ONCE], form, unreadable)
        if not pictures:
            continue
        local = explainer(torch.stack([*pictures.values()]), for_class=wanted)
        described = local.to_dict()
        stored = described | {"images": stored["images"]}
        for index, file in enumerate(pictures):
            number = len(stored["images"]) + 1
            picture = save_figure(local.plot(index), output / f"{number:03d}-{file.stem}.png")
            stored["images"].append({"file": str(file), "picture": picture.name} | described["images"][index])
            print(local.describe(index, title=str(file)))
    if not stored["images"]:
        raise DataError(f"none of {len(images)} files could be read; nothing was written")
    write_json(output / "explanations.json", stored | {"unreadable": unreadable})
    print(*(f"note: {note}" for note in explainer.fitted.notes), f"pictures and explanations.json are in {output}", sep="\n")
    if unreadable:
        raise DataError(f"{len(unreadable)} of {len(images)} files could not be read; the others are explained in {output}")


def _readable(files: Sequence[Path], form: ImageForm, unreadable: list[str]) -> dict[Path, torch.Tensor]:
    """The pictures in ``files`` as the classifier wants them; what cannot be read is said and noted in ``unreadable``."""
    found = {}
    for file in files:
        try:
            found[file] = form(open_picture(file))
        except DataError as error:
            _say(error)
            unreadable.append(str(error))
    return found


def report(
    classifier: ClassifierOptions,
    saved: SavedOptions,
    loading: LoadingOptions,
    *,
    data: str,
    output: Path = Path("flint-report.html"),
    budget_seconds: float = 240.0,
    title: str | None = None,
) -> None:
    """Make one HTML file, pictures and all, for someone who was not there when the classifier was trained.

    Args:
        data: pictures that figures and examples are taken from, best ones that were not learnt from; see evaluate.
        output: file to write.
        budget_seconds: for all of it; pictures of attributes are drawn by falling relevance until it is spent.
        title: of the page.
    """
    explainer, form = saved.load(classifier)
    pictures, name = _held_out(data)
    judged = loading.loader(pictures, form, explainer.fitted.class_names)
    written = explainer.report(output, judged, budget_seconds=budget_seconds, title=title, data_name=name, progress=_on_terminal())
    print(f"the report is {written} ({written.stat().st_size / 2**20:.1f} MB)")
    _say_what_was_skipped(judged)


COMMANDS: dict[str, Callable[..., None]] = {command.__name__: command for command in (demo, layers, fit, evaluate, explain, report)}


def _held_out(data: str) -> tuple[LabelledPictures, str]:
    """The pictures to judge on, and their name, which says where they may be those that were learnt from."""
    pictures = open_data(data, "test")
    if getattr(pictures, "root", None) != Path(data):
        return pictures, data
    print(f"note: {data} has no val/ or test/ in it; figures flatter an interpreter that learnt from the same pictures\n")
    return pictures, f"{data}, not divided: figures flatter an interpreter that learnt from the same pictures"


def _say_what_was_skipped(*loaders: DataLoader[Any] | None) -> None:
    for loader in loaders:
        skipped = loader.dataset.skipped if loader and isinstance(loader.dataset, ReadablePictures) else {}
        if skipped:
            _say(f"{len(skipped)} pictures could not be read and were left out: {'; '.join(sorted(skipped.values())[:10])}")


def _print_layers(explainer: FlintExplainer) -> Sequence[str]:
    """What the dry run found; the explained classes."""
    found = explainer.preflight
    if found is None:
        raise ConfigurationError("the classifier cannot take images of the size that its family tells; give --size")
    reason = f" ({found.reason})" if found.reason else ""
    print(with_notes([f"layers: {' '.join(found.view.layers)}{reason}", str(found.record)], found.notes))
    return found.class_names


def _on_terminal() -> bool:
    return sys.stderr.isatty()


def _say(message: object, *_: Any, **__: Any) -> None:
    print(f"flint-posthoc: {message}", file=sys.stderr)


# ---- from words to a call ----


class _Parser(ArgumentParser):
    """Shows options with hyphens."""

    def format_help(self, *formatter: Any) -> str:
        return re.sub(r"--\w+", lambda option: option[0].replace("_", "-"), super().format_help(*formatter))


def _underscored(argument: str) -> str:
    """``--max-steps`` is ``--max_steps``, as the parser knows it."""
    return re.sub(r"(?<=^--)[^=]+", lambda option: option[0].replace("-", "_"), argument)


def _groups(command: Callable[..., None]) -> dict[str, type[Any]]:
    """Those parameters of a command whose fields are options of their own."""
    hints, groups = get_type_hints(command), (ClassifierOptions, ReadingOptions, SavedOptions, LoadingOptions)
    return {name: hints[name] for name in inspect.signature(command).parameters if hints[name] in groups}


def _purpose(command: Callable[..., None]) -> str:
    return (command.__doc__ or "").partition("\n")[0]


def _command_parser(command: Callable[..., None]) -> _Parser:
    parser, groups = _Parser(description=_purpose(command)), _groups(command)
    parser.add_argument("--config", action="config", help="YAML file of options")
    for group in groups.values():
        parser.add_class_arguments(group, skip=set(LISTS))
    parser.add_function_arguments(command, skip={*groups, *LISTS})
    names = [*inspect.signature(command).parameters, *(entry.name for group in groups.values() for entry in fields(group))]
    for name, (kind, meaning) in LISTS.items():
        if name in names:
            parser.add_argument(name if name == "images" else f"--{name}", type=kind, nargs="+", help=meaning)
    for action in parser._actions:
        if getattr(action, "_typehint", None) is bool:
            action.nargs, action.const = "?", True  # --resume, or --resume=false over a file that says true
    return parser


def _call(argv: Sequence[str] | None) -> Callable[[], None]:
    parser = _Parser(prog="flint-posthoc", description="Explain an image classifier in learned, human-viewable attributes.")
    subcommands = parser.add_subcommands(required=True, dest="command")
    for name, command in COMMANDS.items():
        subcommands.add_subcommand(name, _command_parser(command), help=_purpose(command))
    given = parser.instantiate(parser.parse_args([*map(_underscored, sys.argv[1:] if argv is None else argv)]))
    command, options = COMMANDS[given.command], given[given.command]
    groups = _groups(command)
    values = {name: group(**{entry.name: options[entry.name] for entry in fields(group)}) for name, group in groups.items()}
    return partial(command, **values, **{name: options[name] for name in inspect.signature(command).parameters if name not in groups})


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command: 0 where it went well, 1 where nobody reads on, 2 after an error of ours, which is shown without a traceback."""
    with warnings.catch_warnings():
        warnings.showwarning = _say
        try:
            _call(argv)()
            sys.stdout.flush()
        except FlintError as error:
            _say(f"error: {error}")
            return 2
        except BrokenPipeError:  # whoever read the output has read enough, as head does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    return 0
