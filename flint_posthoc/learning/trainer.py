"""The one training loop: post-hoc over cached or live activations, and by design with f in it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator
from traceback import clear_frames
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..classifier.adapter import OutputKind
from ..errors import EmptyDataError, MemoryExhaustedError, TrainingDivergedError
from ..interpreter.interpreter import Interpreter, InterpreterOutput
from ..memory import is_exhausted, most_that_fit
from ..precision import FUSED, autocast
from ..processes import alone, average_gradients, copy_from_main, gather, gather_rows, in_step, is_main, midway, minimum_, rank, size, sum_
from ..randomness import seed_global_states
from .batches import LearningBatch
from .checkpoint import FitCheckpoint
from .history import EpochRecord, FitHistory
from .joint import JointSettings, learnable
from .losses import LossTerms, LossWeights, first_non_finite, interpretability_loss
from .means import RunningMeans, StepValues
from .schedule import LossSchedule
from .settings import FitSettings, epoch_seed

FROZEN = JointSettings()  # of a fit in which f does not learn
CHECK_EVERY = 50  # steps between looks at the running means: a look waits for the device
RANK_SEED = 7_368_787  # apart are the seeds of two processes, for other dropout in each


@runtime_checkable
class BatchSource(Protocol):
    """Where mini-batches come from: ``CachedBatches`` or ``LiveBatches``."""

    batches_per_epoch: int | None

    def epoch(self, number: int) -> Iterator[LearningBatch]: ...


class Judgement(NamedTuple):
    """Of f and g on the validation data; ``accuracy``, f's, and ``score`` by design only."""

    fidelity: float | None = None
    kl_divergence: float | None = None
    accuracy: float | None = None
    score: float | None = None


class Trainer:
    """Minimises L_int over (Ψ, h, d) for a frozen f, or L_pred + L_int over (f, Ψ, h, d), L_pred weighted.

    Args:
        interpreter: learnt in place.
        source: its mini-batches; f's part in them is done.
        validation: mini-batches to judge each epoch by, or ``None``.
        checkpoint: where the state after each epoch goes, or ``None``.
        show_progress: a tqdm bar with loss terms, fidelity and time left.
        classifier: f, learnt in place, where ``source`` gives its part of the graph and L_pred; ``None``: it is frozen.
        joint: how it learns.
        bfloat16: run the interpreter as autocast does it; losses and weights stay in float32.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        kind: OutputKind,
        source: BatchSource,
        *,
        settings: FitSettings,
        weights: LossWeights,
        schedule: LossSchedule,
        validation: Iterable[LearningBatch] | None = None,
        checkpoint: FitCheckpoint | None = None,
        show_progress: bool = True,
        classifier: nn.Module | None = None,
        joint: JointSettings = FROZEN,
        bfloat16: bool = False,
    ) -> None:
        self.interpreter, self.kind, self.source = interpreter, kind, source
        self.classifier, self.joint = classifier, joint
        self.learnt = interpreter if classifier is None else nn.ModuleDict({"interpreter": interpreter, "classifier": classifier})
        self.learning = [parameter for parameter in self.learnt.parameters() if parameter.requires_grad]
        self.settings, self.weights, self.schedule = settings, weights, schedule
        self.validation, self.checkpoint, self.show_progress = validation, checkpoint, show_progress
        self.optimizer = _optimizer(interpreter, settings, classifier, joint)
        self.best: dict[str, Tensor] | None = None  # by design: the weights of the epoch that was best on validation data
        self.silent_steps = torch.zeros(interpreter.num_attributes, dtype=torch.int64, device=interpreter.head.weight.device)
        self.step = 0
        self._lowered = (lambda: autocast(self.silent_steps.device)) if bfloat16 else contextlib.nullcontext

    def fit(self, *, resume: bool = False) -> FitHistory:
        """Run to the end and return the history.

        Raises:
            TrainingDivergedError: a term became NaN or infinite; the last whole epoch is in the checkpoint.
            EmptyDataError: the source held no batch.
        """
        history = FitHistory()
        if self.checkpoint and resume:
            history, self.best = self.checkpoint.restore(self.learnt, self.optimizer, self.silent_steps)
        self.step = history[-1].steps if len(history) else 0
        per_epoch = self.source.batches_per_epoch or _count(self.source)
        if per_epoch == 0:
            raise EmptyDataError("the data held no batch, there is nothing to learn from")
        total = self.settings.total_steps(per_epoch)
        copy_from_main(self.learnt.state_dict().values())
        with tqdm(total=total, initial=self.step, desc="fit", unit="step", disable=not self.show_progress) as bar:
            while self.step < total:
                record = self._epoch(len(history), total, per_epoch, bar)
                history = self._kept_best(history, record)
                self._save(history)
        history = self._told_of_silence(history)
        if self.best is None:
            return history
        self.learnt.load_state_dict(self.best)
        kept = max(history, key=lambda record: (_score(record), record.epoch))
        told = f"the weights are those of epoch {kept.epoch} of 0 to {history[-1].epoch}, which was best on validation data"
        return dataclasses.replace(history, notes=(*history.notes, told))

    def _told_of_silence(self, history: FitHistory) -> FitHistory:
        """Says where nothing fired in the last epoch: nothing will be explained then."""
        before = history[-2].steps if len(history) > 1 else 0
        if not history.records or not bool((self.silent_steps >= history[-1].steps - before).all()):
            return history
        told = "no attribute fired in the last epoch, so nothing can be explained: does the classifier say the same of all images?"
        return dataclasses.replace(history, notes=(*history.notes, told))

    def _save(self, history: FitHistory) -> None:
        if self.checkpoint and is_main():
            self.checkpoint.save(self.learnt, self.optimizer, self.silent_steps, history, self.best)
        gather(None)  # whether that went well

    def _kept_best(self, history: FitHistory, record: EpochRecord) -> FitHistory:
        """``history`` with ``record``; the weights are kept where f and g together were never better on validation data."""
        longer = dataclasses.replace(history, records=(*history.records, record))
        if self.classifier is None or not self.joint.keep_best or record.validation_score is None:
            return longer
        if _score(record) == max(map(_score, longer)):  # of epochs that are as good the last, which learnt longest
            self.best = {name: value.detach().clone() for name, value in self.learnt.state_dict().items()}
        return longer

    def _epoch(self, number: int, total: int, per_epoch: int, bar: Any) -> EpochRecord:
        seed_global_states(epoch_seed(self.settings.seed, number) + RANK_SEED * rank())  # of dropout and revivals
        start, first_step, revived, means = time.perf_counter(), self.step, 0, RunningMeans()
        self.interpreter.train()
        for batch, images in in_step(self.source.epoch(number), LearningBatch.images, LearningBatch.none):
            with midway(), self._memory_in_words(batch):
                means.add(self._step(batch, images, total, number + (self.step - first_step) / per_epoch))
            bar.update()
            if self.step % CHECK_EVERY == 0:
                revived += self._look(batch, means, bar, number)
            if self.step == total:
                break
        if self.step == first_step:
            raise EmptyDataError(f"the data held no batch in epoch {number}; an iterator that can be read only once needs cache='memory'")
        self._show(means, bar, number)
        self._check_weights(number)
        minimum_(self.silent_steps)
        if self.classifier is not None:
            copy_from_main(self.classifier.buffers())  # the statistics of batch norms, each of which saw its process's part
        self.interpreter.eval()
        with midway():
            judged = self._validate()
        return self._record(number, means.read(), judged, revived, seconds=time.perf_counter() - start)

    def _record(self, number: int, means: StepValues[float], judged: Judgement, revived: int, seconds: float) -> EpochRecord:
        by_design = self.classifier is not None
        return EpochRecord(
            epoch=number,
            steps=self.step,
            loss=means.total,
            output_fidelity=means.output_fidelity,
            kl_divergence=means.kl_divergence,
            input_fidelity=means.input_fidelity,
            entropy=means.entropy,
            mean_entropy=means.mean_entropy,
            l1=means.l1,
            fidelity=means.fidelity,
            revived=revived,
            validation_fidelity=judged.fidelity,
            validation_kl_divergence=judged.kl_divergence,
            validation_accuracy=judged.accuracy,
            validation_score=judged.score,
            prediction=means.prediction if by_design else None,
            accuracy=means.accuracy if by_design else None,
            seconds=seconds,
        )

    @contextlib.contextmanager
    def _memory_in_words(self, batch: LearningBatch) -> Iterator[None]:
        """Raises ``MemoryExhaustedError`` with the size of a mini-batch that would fit."""
        try:
            yield
            return
        except Exception as error:
            if not is_exhausted(error):
                raise
            said = error
            clear_frames(error.__traceback__)  # which hold what the step had computed

        def tried(rows: int) -> None:
            part = batch.rows(slice(0, rows))
            with alone():
                self._loss(self._forward(part), part, self.weights).total.backward()

        fitting = most_that_fit(tried, len(batch.logits)) if batch.prediction is None else len(batch.logits) // 2
        advice = f"batch_size={fitting} {'would' if batch.prediction is None else 'may'} fit" if fitting else "tap later layers"
        raise MemoryExhaustedError(f"the memory does not suffice for a mini-batch of {len(batch.logits)} images; {advice}") from said

    def _step(self, batch: LearningBatch, images: int, total: int, epoch: float) -> StepValues[Tensor]:
        """One optimiser step on ``batch``, this process's part of a mini-batch of ``images``."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate_at(self.step, total) * group["scale"]
        output = self._forward(batch)
        terms = self._loss(output, batch, self.schedule.at(self.weights, progress=self.step / total, epoch=epoch))
        prediction = _own_share(batch, images)
        self.optimizer.zero_grad(set_to_none=True)
        (terms.total + size() * self.joint.prediction_weight * prediction).backward()
        average_gradients(self.learning)
        if self.joint.gradient_clip is not None and self.classifier is not None:
            for learner in (self.interpreter, self.classifier):
                nn.utils.clip_grad_norm_(learner.parameters(), self.joint.gradient_clip)
        self.optimizer.step()
        self.step += 1
        return self._observe(output, batch, images, terms, prediction)

    def _forward(self, batch: LearningBatch) -> InterpreterOutput:
        """In float32, however it was computed."""
        with self._lowered():
            output = self.interpreter(batch.activations)
        return InterpreterOutput(*(part.float() for part in output))

    def _loss(self, output: InterpreterOutput, batch: LearningBatch, weights: LossWeights) -> LossTerms:
        return interpretability_loss(
            self.kind,
            weights,
            attributes=output.attributes,
            interpreter_logits=output.logits,
            classifier_logits=batch.logits,
            reconstruction=output.reconstruction,
            target=batch.target,
        )

    @torch.no_grad()
    def _observe(
        self, output: InterpreterOutput, batch: LearningBatch, images: int, terms: LossTerms, prediction: Tensor
    ) -> StepValues[Tensor]:
        """``terms`` are those of all processes; the rest is this one's share of a mean over their ``images``."""
        fired = (output.attributes > 0).any(dim=0)
        self.silent_steps = torch.where(fired, 0, self.silent_steps + 1)
        divergence = self._cross_entropy(output, batch, images, terms) - self.kind.entropy(batch.logits).sum() / images
        agreement = self.kind.agreement(batch.logits, output.logits).float().sum() / images
        accuracy = prediction
        if self.classifier is not None:
            accuracy = _right(batch).float() / images
            terms = terms._replace(total=terms.total + self.joint.prediction_weight * sum_(prediction.clone()))
        return StepValues(*terms, kl_divergence=divergence, fidelity=agreement, prediction=prediction, accuracy=accuracy)

    def _cross_entropy(self, output: InterpreterOutput, batch: LearningBatch, images: int, terms: LossTerms) -> Tensor:
        """This process's share of the mean over all images."""
        plain = self.weights.target == "classifier" and self.weights.temperature == 1
        own = batch.images() / images
        return own * terms.output_fidelity if plain else self.kind.cross_entropy(batch.logits, output.logits).sum() / images

    def _look(self, batch: LearningBatch, means: RunningMeans, bar: Any, epoch: int) -> int:
        self._show(means, bar, epoch)
        if self.settings.revive_after is None:
            return 0
        silent = minimum_(self.silent_steps) >= self.settings.revive_after
        if silent.any():
            activations = tuple(map(gather_rows, batch.activations))
            with self._lowered():
                self.interpreter.restart(silent, activations)
            copy_from_main(self.interpreter.state_dict().values())
            self.silent_steps[silent] = 0
        return int(silent.sum())

    def _show(self, means: RunningMeans, bar: Any, epoch: int) -> None:
        values = means.read()
        self._check_terms(means.watched(), epoch)
        bar.set_postfix_str(
            f"fidelity {values.fidelity:.1%} KL {values.kl_divergence:.3f} L_of {values.output_fidelity:.3f} "
            f"L_if {values.input_fidelity:.3f} E {values.entropy:.2f} l1 {values.l1:.2f}",
            refresh=False,
        )

    def _check_terms(self, values: StepValues[Tensor], epoch: int) -> None:
        terms = LossTerms(*(getattr(values, name) for name in LossTerms._fields))
        broken = first_non_finite(terms)
        if broken is None:
            return
        name = "prediction" if broken == "total" and not values.prediction.isfinite() else broken
        raise TrainingDivergedError(
            f"the loss term {name!r} became {float(getattr(terms, broken))} in epoch {epoch}, before step {self.step}; "
            "lower the learning rate, or look at the activations of the tapped layers"
        )

    def _check_weights(self, epoch: int) -> None:
        broken = [name for name, value in self.learnt.named_parameters() if not value.isfinite().all()]
        if broken:
            raise TrainingDivergedError(f"the weights {broken} were no longer finite after epoch {epoch}; lower the learning rate")

    @torch.no_grad()
    def _validate(self) -> Judgement:
        if self.validation is None:
            return Judgement()
        sums = torch.zeros(5, dtype=torch.float64)
        for batch in (batch.to(self.silent_steps.device) for batch in self.validation):
            _, logits = self.interpreter.attributes_and_logits(batch.activations)
            divergence = self.kind.cross_entropy(batch.logits, logits) - self.kind.entropy(batch.logits)
            alike = self.kind.decisions(batch.logits) == self.kind.decisions(logits)
            counts = torch.stack([alike.all(dim=1).sum(), divergence.sum(), _right(batch), _joint_score(batch, alike)])
            sums += torch.cat([torch.tensor([len(logits)]), counts.cpu()])
        count, *found = sum_(sums).tolist()
        agreeing, divergence, right, score = (value / count for value in found)
        return Judgement(agreeing, divergence) if self.classifier is None else Judgement(agreeing, divergence, right, score)


def _own_share(batch: LearningBatch, images: int) -> Tensor:
    """What this process adds to L_pred, the mean over ``images`` of all processes."""
    return batch.logits.new_zeros(()) if batch.prediction is None else batch.images() / images * batch.prediction


def _right(batch: LearningBatch) -> Tensor:
    """How many images f has right; 0 where nobody asked."""
    return batch.logits.new_zeros(()) if batch.right is None else batch.right.all(dim=1).sum()


def _joint_score(batch: LearningBatch, alike: Tensor) -> Tensor:
    """How good f and g together are, a sum over images: the share of its decisions that f has right, and that g has right with it.

    Accuracy and fidelity alone would favour an f that says one class for everything, as untrained ones do, and a g that repeats it; where
    an image has many labels, nearly none has all of them right.

    Args:
        alike: (b, decisions), where g decides as f does.
    """
    if batch.right is None:
        return batch.logits.new_zeros(())
    return (batch.right.float() + (batch.right & alike).float()).mean(dim=1).sum()


def _score(record: EpochRecord) -> float:
    """Below all others where there was nothing to judge by."""
    return -1.0 if record.validation_score is None else record.validation_score


def _count(source: BatchSource) -> int:
    return sum(1 for _ in source.epoch(0))


def _optimizer(
    interpreter: Interpreter, settings: FitSettings, classifier: nn.Module | None, joint: JointSettings
) -> torch.optim.Optimizer:
    """AdamW over Ψ and d, over h, and perhaps over f; ``scale`` is a group's share of the learning rate."""
    head = [parameter for name, parameter in interpreter.named_parameters() if name.startswith("head.")]
    rest = [parameter for name, parameter in interpreter.named_parameters() if not name.startswith("head.")]
    groups = [
        {"params": rest, "weight_decay": settings.weight_decay, "scale": 1.0},
        {"params": head, "weight_decay": settings.head_weight_decay, "scale": 1.0},
    ]
    if classifier is not None:
        scale = joint.learning_rate / settings.peak
        groups.append({"params": learnable(classifier), "weight_decay": joint.weight_decay, "scale": scale})
    real = classifier is None or not any(parameter.is_complex() for parameter in classifier.parameters())
    return torch.optim.AdamW(groups, lr=settings.peak, fused=real and interpreter.head.weight.device.type in FUSED)
