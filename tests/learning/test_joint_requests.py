"""By design: what is refused before anything is learnt, and what the fit at the end is given."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import small
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from flint_posthoc import FlintExplainer
from flint_posthoc.errors import ClassifierMismatchError, ConfigurationError, LabelRangeError, MemoryExhaustedError
from flint_posthoc.learning import cache_policy, fitting
from flint_posthoc.learning.joint import JointSettings
from flint_posthoc.learning.losses import LossWeights
from flint_posthoc.threads import TURN

PIXELS = small.images(40)
TRUTH = small.labels(small.tiny(), PIXELS)


def joint(settings: JointSettings | None = None, model: nn.Module | None = None) -> FlintExplainer:
    config = dataclasses.replace(small.CONFIG, joint=settings or JointSettings(refit_steps=5))
    return small.explainer(model, joint=True, config=config)


# ---- L_pred, and the way back to f ----


class Detached(small.Tiny):
    """Its forward leaves no graph."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)


def test_a_forward_without_a_graph_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"no gradient goes from the loss back .* torch.no_grad"):
        joint(model=Detached()).fit(small.loader(PIXELS, TRUTH), max_steps=3, progress=False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"class_weights": (1.0, 2.0)}, "2 class weights for 4 classes"),
        ({"prediction_loss": partial(F.cross_entropy, reduction="none")}, r"as a tensor of one number, got shape \(16,\)"),
        ({"prediction_loss": lambda logits, labels: 0.5}, "as a tensor of one number, got float"),
        ({"prediction_loss": lambda logits, labels: F.cross_entropy(logits, labels).detach()}, "has no gradient"),
    ],
)
def test_a_loss_that_will_not_do_is_refused_before_the_second_batch_is_read(settings: dict[str, Any], words: str) -> None:
    class Counted:
        read = 0

        def __iter__(self) -> Any:
            for part in zip(PIXELS.split(16), TRUTH.split(16), strict=True):
                Counted.read += 1
                yield part

    with pytest.raises(ConfigurationError, match=words):
        joint(JointSettings(**settings)).fit(Counted(), progress=False)
    assert Counted.read == 1


def test_class_weights_come_as_losses_take_them_and_are_kept_in_a_checkpoint(tmp_path: Any) -> None:
    for given in (torch.tensor([1.0, 2.0, 1.0, 0.5]), np.array([1.0, 2.0, 1.0, 0.5]), [1, 2, 1, 0.5]):
        settings = JointSettings(class_weights=given, refit_steps=0)
        assert settings == JointSettings(class_weights=(1.0, 2.0, 1.0, 0.5), refit_steps=0)
    explain = joint(settings)
    explain.fit(small.loader(PIXELS, TRUTH), max_steps=3, checkpoint_dir=tmp_path / "checkpoint", progress=False)
    folder = explain.save_pretrained(tmp_path / "interpreter")
    again = FlintExplainer.from_pretrained(folder, small.tiny(), load_classifier=True)
    assert again.config.joint.class_weights == (1.0, 2.0, 1.0, 0.5)


class Folder(TensorDataset):
    """Counts its labels by its own classes."""

    classes = ("cat", "dog", "eel")


def test_labels_that_count_other_classes_teach_nothing() -> None:
    explain, data = joint(), Folder(PIXELS, TRUTH.clamp_max(2))
    with pytest.raises(LabelRangeError, match=r"the data set has 3 classes, 4 are explained"):
        explain.fit(DataLoader(data, batch_size=16), progress=False)
    explain.fit(small.loader(PIXELS, TRUTH), max_steps=3, progress=False)
    with pytest.raises(LabelRangeError, match=r"the data set has 3 classes, 4 are explained"):
        explain.accuracy_account(small.tiny(1), DataLoader(data, batch_size=16))


# ---- the fit at the end ----


class Endless(IterableDataset):
    """A stream that does not say how long it is."""

    def __iter__(self) -> Any:
        yield from zip(PIXELS, TRUTH, strict=True)


def test_the_fit_at_the_end_keeps_activations_as_it_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_policy, "memory_to_fill", lambda: 100.0)
    data = DataLoader(Endless(), batch_size=16)
    with pytest.raises(MemoryExhaustedError, match="cache='disk'"):
        joint().fit(data, max_steps=3, progress=False)
    for cache in ("disk", "off"):
        joint().fit(data, max_steps=3, cache=cache, progress=False)


def test_who_keeps_an_error_keeps_no_one_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_policy, "memory_to_fill", lambda: 100.0)
    with pytest.raises(MemoryExhaustedError) as kept:
        small.explainer().fit(DataLoader(Endless(), batch_size=16), progress=False)

    def has_its_turn() -> bool:
        found = TURN.acquire(blocking=False)
        if found:
            TURN.release()
        return found

    with ThreadPoolExecutor(1) as other:
        assert other.submit(has_its_turn).result()
    assert kept.value.__traceback__ is not None


def test_a_cache_of_what_f_was_is_refused() -> None:
    explain = joint()
    cache = explain.cache(PIXELS, progress=False)
    with pytest.raises(ConfigurationError, match="the classifier changes"):
        explain.fit(small.loader(PIXELS, TRUTH), cache=cache, progress=False)


def test_going_on_needs_the_same_judges_and_any_fit_at_the_end(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("broken off")

    def run(refit_steps: int, **how: Any) -> FlintExplainer:
        explain = joint(JointSettings(refit_steps=refit_steps))
        explain.fit(small.loader(PIXELS, TRUTH), max_steps=5, checkpoint_dir=tmp_path, progress=False, **how)
        return explain

    with monkeypatch.context() as patched:
        patched.setattr(fitting, "_refit_request", broken)
        with pytest.raises(RuntimeError, match="broken off"):
            run(7, validation=[(PIXELS, TRUTH)])
    with pytest.raises(ClassifierMismatchError, match=r"judged \(saved True, now None\)"):
        run(7, resume=True)
    explain = run(0, validation=[(PIXELS, TRUTH)], resume=True)
    assert explain.history[-1].steps == 5


class Persistent:
    """One iterator for all, which begins anew for whoever asks, as that of a loader whose workers stay."""

    def __init__(self) -> None:
        self.rest, self.read = iter(()), list[int]()

    def __iter__(self) -> Any:
        self.rest = iter(range(5))
        return self._batches()

    def _batches(self) -> Any:
        while (number := next(self.rest, None)) is not None:
            self.read.append(number)
            yield PIXELS[8 * number : 8 * number + 8]


def test_validation_on_what_is_learnt_from_takes_no_image_out_of_the_first_pass() -> None:
    data = Persistent()
    small.explainer().fit(data, validation=data, max_steps=1, progress=False)
    assert data.read[:5] == [0, 1, 2, 3, 4]


def test_a_fit_that_explains_nothing_says_so() -> None:
    silent = dataclasses.replace(small.CONFIG, settings=dataclasses.replace(small.CONFIG.settings, revive_after=None, max_steps=600))
    explain = small.explainer(config=dataclasses.replace(silent, weights=LossWeights(beta=0, gamma=0, eta=1e4)))
    history = explain.fit(PIXELS, progress=False)
    assert any("no attribute fired in the last epoch, so nothing can be explained" in note for note in history.notes)
