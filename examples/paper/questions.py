"""The paper's other experiments, one call of the library each: agreement, disagreement, shuffling, faithfulness, stability.

python -m examples.paper.questions disagreement --tasks quickdraw
python -m examples.paper.questions stability --tasks mnist --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from examples.paper.cells import cell, fits_of, paper_arguments, quick, table_name
from examples.paper.datasets import DATASETS, batches
from examples.paper.fidelity import MODES
from examples.paper.fits import Fits
from examples.results import circumstances, some, write
from flint_posthoc import FlintExplainer
from flint_posthoc.canvas import Figure, save

OUTSIDERS = {"mnist": "fashion_mnist", "fashion_mnist": "mnist", "quickdraw": "mnist"}  # images of another kind and the same shape
PROBED = 500  # test images among which faithfulness chooses those that it intervenes on


class Answer(Protocol):
    """What the library answers with."""

    def to_dict(self) -> dict[str, Any]: ...

    def plot(self) -> Figure: ...


Question = Callable[[Fits, FlintExplainer, str, list[int]], Answer]


def fit(fits: Fits, mode: str, seed: int) -> FlintExplainer:
    """The fit of the first tables."""
    return fits.by_design(seed) if mode == "joint" else fits.post_hoc(seed)


def agreement(fits: Fits, explain: FlintExplainer, mode: str, seeds: list[int]) -> Answer:
    """Where f's class is not among g's first k, and where that is so while f is right."""
    return explain.confusion(fits.test)


def disagreement(fits: Fits, explain: FlintExplainer, mode: str, seeds: list[int]) -> Answer:
    """Projection depth of images on which f and g part, judged as a trust flag."""
    outsider = OUTSIDERS.get(fits.task.key)
    outside = None if outsider is None else batches(some(DATASETS[outsider](fits.data).test, fits.images))
    return explain.disagreement(fits.train, fits.test, outside=outside)


def shuffling(fits: Fits, explain: FlintExplainer, mode: str, seeds: list[int]) -> Answer:
    """What g loses when attributes are permuted."""
    return explain.shuffling(fits.test)


def faithfulness(fits: Fits, explain: FlintExplainer, mode: str, seeds: list[int]) -> Answer:
    """What f itself loses when attributes are taken out."""
    return explain.faithfulness(batches(some(fits.pictures.test, PROBED)), train=fits.train)


def stability(fits: Fits, explain: FlintExplainer, mode: str, seeds: list[int]) -> Answer:
    """Interpreters of one f from several seeds: the fits of the first tables have an f each, so these are others but the first."""
    others = [fits.post_hoc(seed, name="post-hoc-on-0", base_seed=seeds[0]) for seed in seeds[1:]]
    return explain.stability(others, fits.test)


QUESTIONS: dict[str, Question] = {
    "agreement": agreement, "disagreement": disagreement, "shuffling": shuffling, "faithfulness": faithfulness, "stability": stability,
}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = paper_arguments(__doc__.splitlines()[0], ["mnist", "fashion_mnist", "quickdraw"])
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    options = parser.parse_args(argv)
    started, modes = time.time(), ["post-hoc"] if options.question == "stability" else options.modes
    folder = options.results / options.question
    found = {f"{key}, {MODES[mode]}": answered(options, folder, key, mode) for key in options.tasks for mode in modes}
    body = "\n\n".join(f"## {name}\n\n```\n{known['text']}\n```" for name, known in found.items())
    made = circumstances(started, seeds=options.seeds) | {"minutes": round(sum(known["minutes"] for known in found.values()), 1)}
    write(folder / table_name(options), (QUESTIONS[options.question].__doc__ or "").strip(), body, {"circumstances": made, "runs": found})


def answered(options: argparse.Namespace, folder: Path, key: str, mode: str) -> dict[str, Any]:
    """One question to one fit, on test images; asked where there is no answer yet."""
    fits = fits_of(options, key)
    settings = {"question": options.question, "task": key, "mode": mode, "seeds": options.seeds, **quick(options)}

    def ask() -> dict[str, Any]:
        answer = QUESTIONS[options.question](fits, fit(fits, mode, options.seeds[0]), mode, options.seeds)
        folder.mkdir(parents=True, exist_ok=True)
        save(answer.plot(), folder / f"{fits.key}-{mode}.png")
        print(answer, flush=True)
        return {"text": str(answer), "answer": answer.to_dict()}

    return cell(folder / f"{fits.key}-{mode}.json", settings, ask)


if __name__ == "__main__":
    main()
