"""By design: the gradient of Algorithm 1, what is left of f afterwards, labels of all kinds, and a fit that is interrupted."""

import copy
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import small
import torch
import torch.nn.functional as F
from models import left_alone
from torch import Tensor, nn

from flint_posthoc import FlintExplainer
from flint_posthoc.errors import (
    BatchFormatError,
    ClassifierMismatchError,
    ClassifierOutputError,
    ConfigurationError,
    DamagedArtifactError,
    LabelRangeError,
    MissingLabelsError,
    NotAnArtifactError,
    TrainingDivergedError,
)
from flint_posthoc.learning import fitting, trainer
from flint_posthoc.learning.batches import LearningBatch
from flint_posthoc.learning.cache_policy import PendingPass
from flint_posthoc.learning.checkpoint import FitCheckpoint
from flint_posthoc.learning.defaults import SMALL_IMAGES
from flint_posthoc.learning.joint import JointSettings
from flint_posthoc.learning.losses import LossWeights, interpretability_loss
from flint_posthoc.learning.schedule import CONSTANT, LossSchedule

PIXELS = small.images(40)
TRUTH = small.labels(small.tiny(), PIXELS)


def quick(**settings: Any) -> JointSettings:
    """Without the fit at the end, unless it is asked for."""
    return JointSettings(**{"refit_steps": 0, **settings})


def joint(model: nn.Module | None = None, settings: JointSettings | None = None, **more: Any) -> FlintExplainer:
    config = dataclasses.replace(small.CONFIG, joint=settings or quick())
    return small.explainer(model, joint=True, config=config, **more)


def fitted(model: nn.Module, labels: Tensor = TRUTH, settings: JointSettings | None = None, **more: Any) -> FlintExplainer:
    explain = joint(model, settings)
    explain.fit(small.loader(PIXELS, labels), **{"max_steps": 10, "progress": False, **more})
    return explain


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Normed(small.Tiny):
    """With batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm2d(4), nn.Dropout(0.2)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.max_pool2d(self.norm(self.conv1(images)).relu(), 2)
        return self.fc(self.dropout(F.adaptive_avg_pool2d(self.conv2(hidden).relu(), 2).flatten(1)))


# ---- Algorithm 1 ----


def test_one_step_moves_along_the_gradient_of_l_pred_plus_l_int(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recomputed by hand: logits detached in L_of, activations not."""
    seen: dict[str, Tensor] = {}
    model = small.tiny()
    explain = joint(model)
    real = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *arguments: Any) -> Any:
        if not seen:
            seen.update({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
        return real(self, *arguments)

    before = copy.deepcopy(model)
    started: dict[str, Any] = {}

    from flint_posthoc.learning import fitting

    def caught(*arguments: Any, **named: Any) -> Any:
        trainer = real_trainer(*arguments, **named)
        started["interpreter"] = copy.deepcopy(trainer.interpreter)
        started["weights"] = trainer.schedule.at(trainer.weights, progress=0.0, epoch=0.0)
        return trainer

    real_trainer = fitting.Trainer
    monkeypatch.setattr(fitting, "Trainer", caught)
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    all_on = LossSchedule(zeta=CONSTANT, eta=CONSTANT)
    explain.fit([(PIXELS[:16], TRUTH[:16])], max_steps=1, schedule=all_on, progress=False)
    assert started["weights"] == SMALL_IMAGES.fill(LossWeights())

    before.train().requires_grad_(True)
    hidden = before.conv1(PIXELS[:16])
    deeper = before.conv2(F.max_pool2d(hidden.relu(), 2))
    logits = before.fc(F.adaptive_avg_pool2d(deeper.relu(), 2).flatten(1))
    interpreter = started["interpreter"].train()
    output = interpreter(interpreter.attribute_network.reduced((hidden, deeper)))
    target = F.adaptive_avg_pool2d(PIXELS[:16], interpreter.decoder.resolution)
    parts = interpretability_loss(
        explain.fitted.view.kind,
        started["weights"],
        attributes=output.attributes,
        interpreter_logits=output.logits,
        classifier_logits=logits.detach(),
        reconstruction=output.reconstruction,
        target=target,
    )
    (parts.total + JointSettings().prediction_weight * F.cross_entropy(logits, TRUTH[:16])).backward()
    for name, parameter in before.named_parameters():
        assert torch.allclose(seen[name], parameter.grad, atol=1e-5), name


def test_it_learns_what_a_frozen_classifier_cannot() -> None:
    model = small.tiny(seed=5)
    explain = joint(model, quick(learning_rate=2e-2))
    history = explain.fit(small.loader(PIXELS, TRUTH), max_steps=200, progress=False)
    assert history.account.after > history.account.before + 0.15
    assert history[-1].accuracy > history[0].accuracy
    assert explain.evaluate([(PIXELS, TRUTH)]).classifier_accuracy == pytest.approx(history.account.after)
    assert f"{history.account.after:.2%} after" in str(history)


def test_batch_norm_and_dropout_are_in_training_mode_while_it_learns_and_as_before_afterwards() -> None:
    model, modes = Normed().eval(), []
    model.dropout.register_forward_hook(lambda module, *_: modes.append(module.training))
    running = model.norm.running_mean.clone()
    fitted(model)
    assert modes.count(True) == 10
    assert not any(module.training for module in model.modules())
    assert not torch.equal(model.norm.running_mean, running)


def test_l_of_grows_in_by_design_alone_and_where_nothing_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    real = fitting.Trainer

    def caught(*arguments: Any, **named: Any) -> Any:
        at = partial(named["schedule"].at, named["weights"], epoch=0.0)
        seen.append([at(progress=progress).beta for progress in (0.0, 0.15, 0.3, 1.0)])
        return real(*arguments, **named)

    monkeypatch.setattr(fitting, "Trainer", caught)
    explain = small.explainer()
    explain.fit(PIXELS, progress=False)
    explain = joint(settings=quick(refit_steps=1))
    explain.fit(small.loader(PIXELS, TRUTH), max_steps=2, progress=False)
    explain.fit(small.loader(PIXELS, TRUTH), max_steps=2, schedule=LossSchedule(), progress=False)
    beta = LossWeights().beta
    constant = [beta] * 4
    assert seen == [constant, [0.0, beta / 2, beta, beta], constant, constant, constant]  # the third and the last: what is fitted anew


def test_post_hoc_reads_no_joint_setting() -> None:
    plain, told = small.explainer(), small.explainer(config=dataclasses.replace(small.CONFIG, joint=quick(learning_rate=0.5)))
    for explain in (plain, told):
        explain.fit(PIXELS, progress=False)
    assert small.weights(plain) == small.weights(told)


# ---- f afterwards ----


@pytest.mark.parametrize("frozen", [True, False])
def test_only_values_change_whatever_the_flags_are(frozen: bool) -> None:
    model = small.tiny().requires_grad_(not frozen)
    before, flags, names = state(model), [p.requires_grad for p in model.parameters()], sorted(vars(model))
    fitted(model)
    after = state(model)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert sorted(vars(model)) == names
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert type(model) is small.Tiny


def test_parts_that_their_user_froze_stay_and_are_listed() -> None:
    model = small.tiny()
    model.conv1.requires_grad_(False)
    before = state(model)
    history = fitted(model).history
    assert torch.equal(model.conv1.weight, before["conv1.weight"])
    assert not torch.equal(model.fc.weight, before["fc.weight"])
    assert "2 parameters were frozen and stayed as they are: conv1.weight, conv1.bias" in " ".join(history.notes)


def test_a_failure_half_way_restores_the_classifier() -> None:
    model = Normed().eval()
    before, explain = state(model), joint(model)

    def data() -> Any:
        yield from zip(PIXELS.split(8), TRUTH.split(8), strict=True)
        if Once.passes > 2:
            raise RuntimeError("the disk is gone")

    class Once:
        passes = 0

        def __iter__(self) -> Any:
            Once.passes += 1
            return data()

    with left_alone(model), pytest.raises(RuntimeError, match="the disk is gone"):
        explain.fit(Once(), max_steps=40, progress=False)
    assert same(state(model), before)


def test_a_post_hoc_fit_is_what_it_starts_from() -> None:
    explain = small.explainer()
    explain.fit(PIXELS, progress=False)
    first = small.weights(explain)
    explain.joint = True
    settings = {"learning_rate": 1e-9, "max_steps": 1, "progress": False}
    history = explain.fit(small.loader(PIXELS, TRUTH), **settings)
    assert history.notes == ("the interpreter beside which f learnt started from an earlier fit of this explainer",)
    name = "attribute_network.linear.weight"
    start, now = (torch.frombuffer(bytearray(stored[name]), dtype=torch.float32) for stored in (first, small.weights(explain)))
    assert torch.allclose(start, now, atol=1e-6)


def test_the_classifier_travels_with_the_artefact(tmp_path: Any) -> None:
    explain = fitted(small.tiny())
    explain.save_pretrained(tmp_path / "joint")
    with pytest.raises(
        ClassifierMismatchError, match=r"was saved with it: pass load_classifier=True .--load-classifier., and this model gets its weights"
    ):
        FlintExplainer.from_pretrained(tmp_path / "joint", small.tiny(seed=9))
    loaded = FlintExplainer.from_pretrained(tmp_path / "joint", small.tiny(seed=9), load_classifier=True)
    assert torch.equal(loaded(PIXELS).interpreter_logits, explain(PIXELS).interpreter_logits)
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "classifier.safetensors").exists()
    with pytest.raises(DamagedArtifactError, match=r"fc\.bias, fc\.weight differ"):
        FlintExplainer.from_pretrained(tmp_path / "joint", small.tiny(classes=7), load_classifier=True)
    small.fitted().save_pretrained(tmp_path / "post-hoc")
    with pytest.raises(NotAnArtifactError, match="only a fit with joint=True saves the classifier"):
        FlintExplainer.from_pretrained(tmp_path / "post-hoc", small.tiny(), load_classifier=True)


# ---- L_pred ----


def test_one_hot_labels_are_labels() -> None:
    first, second = small.tiny(), small.tiny()
    fitted(first)
    fitted(second, F.one_hot(TRUTH, small.CLASSES).float())
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        quick(label_smoothing=0.2),
        quick(class_weights=(1.0, 2.0, 0.5, 0.0)),
        quick(prediction_weight=0.0),
        quick(prediction_loss=lambda logits, labels: F.multi_margin_loss(logits, labels)),
        quick(gradient_clip=1e-3),
    ],
)
def test_every_setting_is_heard(settings: JointSettings) -> None:
    first, second = small.tiny(), small.tiny()
    fitted(first)
    fitted(second, settings=settings)
    assert not same(state(first), state(second))


def test_the_history_tells_l_pred_before_its_weight() -> None:
    told = [fitted(small.tiny(), settings=quick(prediction_weight=weight), max_steps=1).history[0] for weight in (1.0, 7.0)]
    assert told[0].prediction == told[1].prediction
    assert told[0].loss + 6 * told[0].prediction == pytest.approx(told[1].loss, rel=1e-5)


def test_a_summary_of_labelled_data_takes_no_pass_of_f() -> None:
    explain, calls = small.explainer(small.tiny()), []
    data = small.loader(PIXELS, TRUTH)
    reader = explain._reader(explain._prepare(PIXELS[:4]))
    known = PendingPass(reader._replace(labels="counted"), data, data, show_progress=False).summary()
    explain.model.register_forward_hook(lambda *_: calls.append(1))
    summary = PendingPass(reader._replace(labels="targets"), data, data, show_progress=False).summary()
    assert calls == []
    assert (summary.batches, summary.class_counts) == (known.batches, known.class_counts)
    assert torch.equal(summary.class_means, known.class_means)


def test_label_smoothing_and_class_weights_are_torchs() -> None:
    logits, kind = torch.randn(6, 4), small.fitted().fitted.view.kind
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    settings = quick(label_smoothing=0.1, class_weights=(1.0, 2.0, 0.5, 1.0))
    expected = F.cross_entropy(logits, labels, torch.tensor([1.0, 2.0, 0.5, 1.0]), label_smoothing=0.1)
    assert settings.loss(kind, logits, labels) == expected
    with pytest.raises(ConfigurationError, match="2 class weights for 4 classes"):
        quick(class_weights=(1.0, 2.0)).loss(kind, logits, labels)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ([PIXELS], MissingLabelsError, "labels"),
        ([(PIXELS, TRUTH + 4)], LabelRangeError, "expected 0 to 3"),
        ([(PIXELS, torch.full((40, 4), 0.3))], BatchFormatError, r"rows that sum to 1"),
        ([(PIXELS, torch.eye(3)[TRUTH % 3])], BatchFormatError, r"expected shape \(40, 4\)"),
        (small.generated(PIXELS), (ConfigurationError, MissingLabelsError), "only once|labels"),
    ],
)
def test_labels_that_will_not_do(data: Any, error: Any, words: str) -> None:
    model = small.tiny()
    with left_alone(model), pytest.raises(error, match=words):
        joint(model).fit(data, progress=False)


def test_a_classifier_that_returns_probabilities_is_noticed() -> None:
    class Soft(small.Tiny):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).softmax(dim=1)

    with pytest.raises(ClassifierOutputError, match="looks like probabilities already"):
        fitted(Soft().eval())
    with pytest.raises(ClassifierOutputError, match="looks like probabilities already"):  # of which some are left out
        joint(Soft().eval(), classes=[0, 2]).fit(small.loader(PIXELS, TRUTH % 2), progress=False)


def test_a_batch_of_one_with_batch_norm_is_explained() -> None:
    class Narrow(small.Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(24)

        def forward(self, images: Tensor) -> Tensor:
            hidden = F.max_pool2d(self.conv1(images).relu(), 2)
            return self.fc(self.norm(F.adaptive_avg_pool2d(self.conv2(hidden).relu(), 2).flatten(1)))

    with pytest.raises(BatchFormatError, match="drop_last=True"), pytest.warns(match="mini-batches"):
        joint(Narrow().eval()).fit([(PIXELS[:8], TRUTH[:8]), (PIXELS[8:9], TRUTH[8:9])], progress=False)


def test_a_class_without_images_is_no_obstacle_and_said() -> None:
    explain = fitted(small.tiny(), TRUTH.clamp_max(2))
    assert explain.fitted.class_means.isfinite().all()
    assert "no image of 1 of 4 classes was there to learn from: class 3" in explain.history.notes


# ---- best on validation, and going on ----


def test_it_ends_with_the_weights_that_were_best_on_validation() -> None:
    model = small.tiny()
    explain = joint(model, quick(learning_rate=0.05))
    held_out = [(small.images(60, seed=3), small.labels(small.tiny(), small.images(60, seed=3)))]
    history = explain.fit(small.loader(PIXELS, TRUTH), validation=held_out, max_steps=50, progress=False)
    scores = [record.validation_score for record in history]
    best = history[scores.index(max(scores))]
    evaluation = explain.evaluate(held_out)
    assert max(scores) > scores[-1]  # else this shows nothing
    assert evaluation.classifier_accuracy == pytest.approx(best.validation_accuracy, abs=1e-6)
    assert evaluation.fidelity == pytest.approx(best.validation_fidelity, abs=1e-6)
    assert f"the weights are those of epoch {best.epoch} of 0 to {len(history) - 1}, which was best on validation data" in history.notes
    assert history.account.data == "validation"


def test_it_ends_with_a_post_hoc_fit_of_the_classifier_that_it_made() -> None:
    loader = small.loader(PIXELS, TRUTH)
    explain = joint(Normed().eval(), quick(learning_rate=0.02, refit_steps=20))
    history = explain.fit(loader, max_steps=10, seed=3, progress=False)
    afterwards = small.explainer(explain.model, config=small.CONFIG)
    post_hoc = afterwards.fit(loader, max_steps=20, seed=3, progress=False)
    assert small.weights(explain) == small.weights(afterwards)
    assert torch.equal(explain.fitted.class_means, afterwards.fitted.class_means)
    own = len(history) - len(post_hoc)
    assert [record.loss for record in history.records[own:]] == [record.loss for record in post_hoc]
    assert [record.epoch for record in history] == list(range(len(history)))
    assert (history[own - 1].steps, history[-1].steps, history[-1].accuracy) == (10, 30, None)
    assert f"once the classifier was done, an interpreter was fitted to it anew: epochs {own} to {len(history) - 1}" in history.notes


def test_the_fit_at_the_end_leaves_the_classifier_alone_and_can_be_left_out() -> None:
    ends = {}
    for steps in (0, 40):
        torch.manual_seed(0)
        explain = fitted(Normed(), settings=quick(learning_rate=0.02, refit_steps=steps))
        ends[steps] = state(explain.model), explain.history
    assert same(ends[0][0], ends[40][0])
    assert len(ends[0][1]) < len(ends[40][1])
    assert ends[40][1].records[: len(ends[0][1])] == ends[0][1].records
    assert ends[0][1].account == ends[40][1].account
    assert not any("anew" in note for note in ends[0][1].notes)


@pytest.mark.parametrize("steps", [-1, "all"])
def test_a_fit_at_the_end_of_no_length(steps: int | str) -> None:
    with pytest.raises(ConfigurationError, match="refit_steps"):
        JointSettings(refit_steps=steps)


class Unused(small.Tiny):
    """With a parameter that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(3))


def test_a_parameter_that_takes_no_part_is_no_obstacle_to_going_on(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(**more: Any) -> FlintExplainer:
        torch.manual_seed(0)
        explain = joint(Unused().eval())
        explain.fit(small.loader(PIXELS, TRUTH), epochs=4, progress=False, checkpoint_dir=tmp_path, **more)
        return explain

    real: Callable[..., None] = FitCheckpoint.save

    def killed(self: FitCheckpoint, *kept: Any) -> None:
        real(self, *kept)
        raise KeyboardInterrupt

    monkeypatch.setattr(FitCheckpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(FitCheckpoint, "save", real)
    assert len(run(resume=True).history) == 4


@pytest.mark.parametrize("stop_at", [1, 3])
def test_going_on_after_a_kill_ends_where_an_unbroken_fit_ends(tmp_path: Any, stop_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(folder: str, *, resume: bool = False) -> tuple[nn.Module, FlintExplainer]:
        model = Normed()
        model.load_state_dict(start)
        explain = joint(model.eval(), quick(learning_rate=0.02, refit_steps=3))
        explain.fit(
            small.loader(PIXELS, TRUTH),
            validation=[(PIXELS, TRUTH)],
            epochs=5,
            max_steps="auto",
            progress=False,
            checkpoint_dir=tmp_path / folder,
            resume=resume,
        )
        return model, explain

    start = state(Normed())
    whole, explained = run("whole")
    real: Callable[..., None] = FitCheckpoint.save

    def killed(self: FitCheckpoint, module: Any, optimizer: Any, silent: Any, history: Any, best: Any) -> None:
        real(self, module, optimizer, silent, history, best)
        if len(history) == stop_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(FitCheckpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run("broken")
    monkeypatch.setattr(FitCheckpoint, "save", real)
    resumed, again = run("broken", resume=True)
    assert same(state(whole), state(resumed))
    assert small.weights(explained) == small.weights(again)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"learning_rate": 0.0}, "positive learning_rate"),
        ({"label_smoothing": 1.0}, "label_smoothing in"),
        ({"gradient_clip": 0.0}, "gradient_clip must be positive"),
        ({"class_weights": (1.0, -1.0)}, "must not be negative"),
        ({"prediction_loss": F.cross_entropy, "label_smoothing": 0.1}, "a prediction_loss has its own"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        JointSettings(**settings)


def test_results_say_that_the_classifier_was_trained_too(tmp_path: Any) -> None:
    explain = fitted(small.tiny())
    explain.save_pretrained(tmp_path)
    loaded = FlintExplainer.from_pretrained(tmp_path, small.tiny(seed=9), load_classifier=True)
    for each in (explain, loaded):
        assert each.fitted.joint
        assert "the classifier was trained together with an interpreter" in str(each(PIXELS))
    assert not small.fitted().fitted.joint


def test_a_start_of_other_sizes_is_no_start() -> None:
    """Sizes that differ in part must leave nothing of the earlier fit behind."""
    started = small.fitted(small.tiny(), num_attributes=2)
    started.joint, started.num_attributes = True, 3
    history = started.fit(small.loader(PIXELS, TRUTH), progress=False)
    fresh = joint(small.tiny())
    fresh.fit(small.loader(PIXELS, TRUTH), progress=False)
    assert not any("earlier fit" in note for note in history.notes)
    assert small.weights(started) == small.weights(fresh)


def test_validation_that_can_be_read_once_is_refused_before_anything_is_learnt() -> None:
    model = small.tiny()
    once = iter([(PIXELS, TRUTH)])
    with left_alone(model), pytest.raises(ConfigurationError, match="can be read only once"):
        joint(model).fit(small.loader(PIXELS, TRUTH), validation=once, progress=False)


def test_a_classifier_that_diverges_is_not_called_unnormalised() -> None:
    model = small.tiny()
    with left_alone(model), pytest.raises(TrainingDivergedError, match="lower the learning rate of JointSettings"):
        fitted(model, settings=quick(learning_rate=1e30), max_steps=40)


def test_a_fit_that_was_broken_off_while_the_interpreter_was_fitted_anew_ends_as_an_unbroken_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    attributes = dataclasses.replace(small.INTERPRETER.attributes, dropout=0.5)
    interpreter = dataclasses.replace(small.INTERPRETER, attributes=attributes)
    config = dataclasses.replace(small.CONFIG, interpreter=interpreter, joint=quick(refit_steps=3))

    def run(folder: str, **how: Any) -> FlintExplainer:
        explain = small.explainer(joint=True, config=config)
        explain.fit(small.loader(PIXELS, TRUTH), max_steps=10, progress=False, checkpoint_dir=tmp_path / folder, **how)
        return explain

    def broken(*arguments: Any) -> None:
        raise RuntimeError("broken off")

    unbroken, real = run("whole"), fitting._refit_request
    monkeypatch.setattr(fitting, "_refit_request", broken)
    with pytest.raises(RuntimeError, match="broken off"):
        run("broken")
    monkeypatch.setattr(fitting, "_refit_request", real)
    assert small.weights(run("broken", resume=True)) == small.weights(unbroken)


def flags(share: float) -> Tensor:
    """(100, 1), the first so many hundredths true."""
    return (torch.arange(100) < round(100 * share))[:, None]


@pytest.mark.parametrize(
    ("one", "other"),  # what f is right on, from the first image on, and where g decides as f does, from the last image back
    [
        ((0.65, 0.10), (0.10, 1.0)),  # one class for everything, and an interpreter that says it too
        ((0.65, 0.10), (0.60, 0.10)),
        ((0.90, 0.95), (0.90, 0.90)),
        ((0.92, 0.95), (0.90, 0.96)),
    ],
)
def test_the_best_epoch_is_that_of_a_classifier_that_is_right_and_an_interpreter_that_is_right_with_it(
    one: tuple[float, float], other: tuple[float, float]
) -> None:
    def score(accuracy: float, fidelity: float) -> float:
        nothing = torch.zeros(100, 1)
        batch = LearningBatch((), nothing, nothing, torch.zeros(100, dtype=torch.int64), right=flags(accuracy))
        return float(trainer._joint_score(batch, flags(fidelity).flip(0)))

    assert score(*one) > score(*other)


def test_of_epochs_that_are_as_good_the_last_is_kept() -> None:
    model = small.tiny()
    still = JointSettings(learning_rate=1e-12, weight_decay=0, refit_steps=0)
    explain = joint(model, still)
    outside = [(PIXELS, (model(PIXELS).argmax(dim=1) + 1) % 4)]  # never right, in no epoch
    history = explain.fit(small.loader(PIXELS, TRUTH), validation=outside, max_steps=30, progress=False)
    assert {record.validation_score for record in history} == {0.0}
    last = len(history) - 1
    assert f"the weights are those of epoch {last} of 0 to {last}, which was best on validation data" in history.notes


class Spectral(small.Tiny):
    """Filters the image by complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.ones(small.SIDE, small.SIDE // 2 + 1, dtype=torch.complex64))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.fft.irfft2(torch.fft.rfft2(images) * self.filter, s=images.shape[2:]))


@pytest.mark.parametrize("frozen", [False, True])
def test_complex_weights_learn_too(frozen: bool) -> None:
    model = Spectral().requires_grad_(not frozen)
    before = model.filter.detach().clone()
    joint(model).fit(small.loader(PIXELS, TRUTH), max_steps=3, progress=False)
    assert not torch.equal(model.filter, before)
