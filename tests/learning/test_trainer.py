"""The learning loop: same bits for the same seed, exact lengths, revival, validation, and a word where it breaks."""

import dataclasses
import warnings
from typing import Any

import pytest
import small
import torch
from torch import Tensor

from flint_posthoc.classifier.adapter import Categorical
from flint_posthoc.errors import EmptyDataError, FlintWarning, NotFitted, TrainingDivergedError
from flint_posthoc.interpreter.interpreter import Interpreter
from flint_posthoc.learning.batches import LearningBatch
from flint_posthoc.learning.defaults import SMALL_IMAGES
from flint_posthoc.learning.history import FitHistory
from flint_posthoc.learning.losses import LossWeights, interpretability_loss
from flint_posthoc.learning.presets import FlintConfig
from flint_posthoc.learning.schedule import LossSchedule, step_at
from flint_posthoc.learning.settings import FitSettings
from flint_posthoc.learning.trainer import Trainer

SHAPES = ((4, 4, 4),)


class Source:
    """Random mini-batches, ``size`` of them an epoch."""

    def __init__(self, size: int = 10, spoil: Any = None) -> None:
        self.batches_per_epoch: int | None = size
        self.spoil = spoil

    def epoch(self, number: int) -> Any:
        source = torch.Generator().manual_seed(number)
        for _ in range(self.batches_per_epoch or 0):
            maps, logits = (torch.randn(8, *shape, generator=source) for shape in ((4, 4, 4), (4,)))
            batch = LearningBatch((maps,), logits, torch.randn(8, 2, 10, 10, generator=source), logits.argmax(dim=1))
            yield batch if self.spoil is None else self.spoil(batch)


def interpreter() -> Interpreter:
    return Interpreter(SHAPES, (2, 10, 10), 3, 4, small.INTERPRETER)


def trainer(source: Source, ours: Interpreter | None = None, **settings: Any) -> Trainer:
    return Trainer(
        ours or interpreter(),
        Categorical(),
        source,
        settings=SMALL_IMAGES.fill(FitSettings(**settings)),
        weights=SMALL_IMAGES.fill(LossWeights()),
        schedule=LossSchedule(),
        show_progress=False,
    )


def test_a_record_tells_each_value_of_a_step_under_its_name() -> None:
    ours, (batch, *_) = interpreter(), Source().epoch(0)
    output, kind = ours.train()(batch.activations), Categorical()
    terms = interpretability_loss(
        kind,
        LossSchedule().at(SMALL_IMAGES.fill(LossWeights()), progress=0.0, epoch=0.0),
        attributes=output.attributes,
        interpreter_logits=output.logits,
        classifier_logits=batch.logits,
        reconstruction=output.reconstruction,
        target=batch.target,
    )
    (record,) = trainer(Source(), ours, max_steps=1).fit()
    told = {name: value.item() for name, value in terms._asdict().items()}
    assert record.loss == pytest.approx(told.pop("total"))
    assert {name: getattr(record, name) for name in told} == pytest.approx(told)
    divergence = kind.cross_entropy(batch.logits, output.logits) - kind.entropy(batch.logits)
    assert record.kl_divergence == pytest.approx(divergence.mean().item(), rel=1e-5)
    assert record.fidelity == float(kind.agreement(batch.logits, output.logits).float().mean())
    assert (record.prediction, record.accuracy, record.validation_accuracy) == (None, None, None)


def test_the_same_seed_gives_the_same_bits_whatever_was_drawn_before() -> None:
    dropout = dataclasses.replace(small.CONFIG, interpreter=dataclasses.replace(small.INTERPRETER, head_dropout=0.3))
    torch.manual_seed(1)
    first = small.fitted(config=dropout)
    torch.manual_seed(2)
    again = small.fitted(config=dropout)
    assert small.weights(first) == small.weights(again)
    assert first.history == again.history


def test_another_seed_gives_another_interpreter() -> None:
    explain = small.fitted()
    first = small.weights(explain)
    explain.fit(small.images(), seed=1, progress=False)
    assert small.weights(explain) != first


def test_a_fit_starts_afresh() -> None:
    explain = small.fitted()
    first, history = small.weights(explain), explain.history
    explain.fit(small.images(), progress=False)
    assert small.weights(explain) == first
    assert explain.history == history


def test_a_shuffling_loader_is_seeded_too() -> None:
    def fit(before: int) -> Any:
        torch.manual_seed(before)
        return small.weights(small.fitted(data=small.loader(small.images())))

    assert fit(1) == fit(2)


def test_what_the_config_says_holds_unless_a_keyword_says_otherwise() -> None:
    explain = small.explainer(config=dataclasses.replace(small.CONFIG, settings=FitSettings(batch_size=8, max_steps=7, seed=3)))
    assert explain.fit(small.images(), progress=False)[-1].steps == 7
    by_config = small.weights(explain)
    explain.fit(small.images(), seed=3, progress=False)
    assert small.weights(explain) == by_config
    assert explain.fit(small.images(), epochs=2, progress=False)[-1].steps == 12
    by_epochs = small.explainer(config=FlintConfig(interpreter=small.INTERPRETER, settings=FitSettings(epochs=2, batch_size=8)))
    assert by_epochs.fit(small.images(), max_steps=5, progress=False)[-1].steps == 5


@pytest.mark.parametrize(("max_steps", "records"), [(1, [1]), (10, [10]), (11, [10, 11]), (25, [10, 20, 25])])
def test_steps_are_counted_exactly(max_steps: int, records: list[int]) -> None:
    ours = trainer(Source(10), max_steps=max_steps)
    taken: list[int] = []
    ours.optimizer.register_step_post_hook(lambda *_: taken.append(1))
    assert [record.steps for record in ours.fit()] == records
    assert len(taken) == max_steps


def test_epochs_are_whole_passes() -> None:
    history = trainer(Source(7), epochs=3).fit()
    assert [(record.epoch, record.steps) for record in history] == [(0, 7), (1, 14), (2, 21)]


def test_learning_lowers_the_loss() -> None:
    history = small.explainer().fit(small.images(), max_steps=150, learning_rate=1e-2, progress=False)
    assert history[-1].kl_divergence < 0.7 * history[0].kl_divergence
    assert history[-1].fidelity > history[0].fidelity


def test_the_callers_modes_do_not_matter() -> None:
    model, pixels, reference = small.tiny(), small.images(), small.weights(small.fitted())
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert small.weights(small.fitted(model, pixels)) == reference
    torch.set_default_dtype(torch.float64)
    try:
        assert small.weights(small.fitted(model, pixels)) == reference
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def spoilt(batch: LearningBatch, name: str) -> LearningBatch:
    value: Tensor = getattr(batch, name)
    return batch._replace(**{name: torch.full_like(value, float("nan"))})


@pytest.mark.parametrize(("column", "term"), [("logits", "output_fidelity"), ("target", "input_fidelity")])
def test_a_loss_that_is_no_number_ends_the_fit_and_is_named(column: str, term: str) -> None:
    with pytest.raises(TrainingDivergedError, match=f"the loss term '{term}' became nan in epoch 0, before step 10"):
        trainer(Source(10, lambda batch: spoilt(batch, column)), max_steps=30).fit()


def test_weights_that_break_in_the_very_last_step_end_the_fit() -> None:
    ours = trainer(Source(10), max_steps=10)
    ours.optimizer.register_step_post_hook(lambda *_: ours.interpreter.head.bias.data.fill_(float("inf")) if ours.step == 9 else None)
    with pytest.raises(TrainingDivergedError, match=r"the weights \['head.bias'\] were no longer finite after epoch 0"):
        ours.fit()


def test_a_learning_rate_that_is_too_high_ends_the_fit() -> None:
    explain = small.explainer()
    with pytest.raises(TrainingDivergedError, match=r"became (nan|inf)"):
        explain.fit(small.images(), learning_rate=1e30, progress=False)
    with pytest.raises(NotFitted, match="has no interpreter yet"):
        explain(small.images())


def silence(ours: Interpreter, units: list[int]) -> None:
    with torch.no_grad():
        ours.attribute_network.linear.bias[units] = -1e4


def test_silent_attributes_are_revived_and_counted() -> None:
    ours = interpreter()
    ours.initialize_from(next(Source().epoch(0)).activations)
    silence(ours, [0, 2])
    history = trainer(Source(25), ours, max_steps=150, revive_after=40, learning_rate=1e-6).fit()
    assert sum(record.revived for record in history) == 2
    assert [record.revived for record in history][:3] == [0, 2, 0]
    assert "2 silent attributes revived" in str(history)
    (batch, *_) = Source(25).epoch(0)
    assert (ours.attributes_and_logits(batch.activations)[0] > 0).any(dim=0).all()


def test_silent_attributes_stay_silent_where_revival_is_off() -> None:
    ours = interpreter()
    silence(ours, [1])
    history = trainer(Source(25), ours, max_steps=110, revive_after=None).fit()
    assert sum(record.revived for record in history) == 0
    (batch, *_) = Source(25).epoch(0)
    assert not ours.attributes_and_logits(batch.activations)[0][:, 1].any()


def test_validation_is_judged_after_each_epoch_and_recorded() -> None:
    explain, held_out = small.explainer(), small.images(30, seed=9)
    history = explain.fit(small.images(), validation=small.loader(held_out), epochs=2, progress=False)
    evaluation = explain.evaluate(held_out)
    assert history[-1].validation_fidelity == pytest.approx(evaluation.fidelity)
    assert history[-1].validation_kl_divergence == pytest.approx(evaluation.kl_divergence, rel=1e-4)
    assert "on validation" in str(history[-1])
    assert small.fitted().history[-1].validation_fidelity is None


def test_validation_does_not_change_what_is_learnt() -> None:
    explain = small.explainer()
    explain.fit(small.images(), validation=small.images(30, seed=9), progress=False)
    assert small.weights(explain) == small.weights(small.fitted())


def test_empty_validation_is_refused() -> None:
    with pytest.raises(EmptyDataError, match="holds no images"):
        small.explainer().fit(small.images(), validation=[], progress=False)


def test_the_paper_keeps_the_raw_head_and_we_keep_a_centred_one() -> None:
    assert small.fitted().interpreter.head.weight.sum(dim=0).abs().max() < 1e-5
    raw = dataclasses.replace(small.CONFIG, interpreter=dataclasses.replace(small.INTERPRETER, centre_head=False))
    assert small.fitted(config=raw).interpreter.head.weight.sum(dim=0).abs().max() > 1e-3


def test_a_term_that_has_not_started_does_not_act() -> None:
    def fit(beta: float, start: float) -> Any:
        explain = small.explainer()
        schedule = LossSchedule(beta=step_at(start), unit="epochs")
        explain.fit(small.images(), weights=LossWeights(beta=beta), schedule=schedule, max_steps=6, progress=False)
        return small.weights(explain)

    assert fit(1.0, 1) == fit(5.0, 1)
    assert fit(1.0, 0) != fit(5.0, 0)


@pytest.mark.parametrize(("batch_size", "message"), [(1, "at batch size 1 the entropies cancel"), (5, "use at least 6")])
def test_small_batches_are_warned_of(batch_size: int, message: str) -> None:
    with pytest.warns(FlintWarning, match=message):
        small.explainer().fit(small.images(), batch_size=batch_size, progress=False)


def test_unshuffled_data_is_warned_of_where_its_order_counts() -> None:
    ordered = small.loader(small.images(), shuffle=False)
    with pytest.warns(FlintWarning, match="same order in every epoch; shuffle it"):
        small.explainer().fit(ordered, cache="off", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small.explainer().fit(ordered, progress=False)  # the cache shuffles by itself
        small.explainer().fit(small.loader(small.images()), cache="off", progress=False)


def test_a_history_is_records_in_order_with_words_and_survives_json() -> None:
    history = small.fitted().history
    assert len(history) == 2
    assert [record.epoch for record in history] == [0, 1]
    assert str(history).count("epoch ") == 2
    assert FitHistory.from_dict(history.to_dict()) == history
    assert all(record.seconds > 0 for record in history)
