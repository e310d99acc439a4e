"""The training loop: AdamW, linear schedule with capped warm-up, accumulation, length-bucketed batches, best
weights by macro F1 on the validation split, early stopping. Read it top to bottom.

Deterministic under a seed: data order comes from one numpy Generator, dropout from torch's seeded stream. Both, the
weights and the optimiser are saved as training goes on, so that a later attempt takes the same course to the same end.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from runner import device as devices
from runner.checkpoint import Course, TrainingState, TrainingStore, add_point, put
from runner.clock import Clock, per_second
from runner.contract import (
    CurvePoint,
    Device,
    Event,
    Memory,
    Metrics,
    Place,
    Progress,
    TrainingReport,
    TrainingSpec,
)
from runner.errors import RunnerError
from runner.memory import larger
from runner.provenance import measured_at
from runner.tasks import classification

if TYPE_CHECKING:
    import torch

    from runner.models.load import LoadedModel

LENGTH_POOL_BATCHES = 32  # batches shuffled together before they are sorted by length
PROGRESS_EVERY_S = 1.0
SAVE_EVERY_S = 30.0  # and at every evaluation ...
SAVE_PAUSE = 20  # ... but between evaluations never more than a twentieth of the time goes into saving
RANDOM = "random."  # beside the optimiser's tensors: the states of the random streams


@dataclass(frozen=True)
class Encoded:
    """A tokenized split: token ids per text, without padding, and the labels."""

    input_ids: Sequence[list[int]]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Schedule:
    """How long training goes on; all in optimiser steps."""

    epochs: int
    steps_per_epoch: int
    warmup_steps: int
    eval_every: int
    earliest_stop: int  # early stopping waits for this step

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at a step, counted from 0: linear up, then linear down to 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return max(0.0, (self.steps - step) / max(1, self.steps - self.warmup_steps))


def plan_schedule(rows: int, spec: TrainingSpec) -> Schedule:
    batches = math.ceil(rows / spec.batch_size)
    steps_per_epoch = math.ceil(batches / spec.accumulation)
    epochs = max(spec.epochs, math.ceil(spec.min_steps / steps_per_epoch))
    steps = epochs * steps_per_epoch
    return Schedule(
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=min(int(spec.warmup_fraction * steps), spec.warmup_max_steps),
        eval_every=max(1, min(spec.eval_every_steps, steps_per_epoch // spec.evals_per_epoch)),
        earliest_stop=max(steps_per_epoch, spec.min_steps),
    )


def epoch_batches(lengths: NDArray[np.int64], batch_size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Indices of one epoch in batches of similar length: shuffled, sorted within pools, batches shuffled again."""
    order = rng.permutation(len(lengths))
    pool = batch_size * LENGTH_POOL_BATCHES
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), pool):
        part = order[start : start + pool]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


@dataclass(frozen=True)
class _Machinery:
    """What changes the weights."""

    parameters: list[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler

    @property
    def rates(self) -> tuple[float, ...]:
        return tuple(group["lr"] for group in self.optimizer.param_groups)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The optimiser's, by number of the parameter and name."""
        states = self.optimizer.state_dict()["state"]
        return {f"{number}.{name}": tensor for number, state in states.items() for name, tensor in state.items()}

    def load(self, state: TrainingState, tensors: dict[str, torch.Tensor]) -> None:
        states: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
        for key, tensor in tensors.items():
            number, _, name = key.partition(".")
            states[int(number)][name] = tensor.clone()  # off the file's memory, aligned as it was
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": dict(states), "param_groups": groups})
        for group, rate in zip(self.optimizer.param_groups, state.rates, strict=True):
            group["lr"] = rate
        self.scheduler.load_state_dict(dict(state.scheduler))
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)


@dataclass(frozen=True)
class Parts:
    """What the attempts that this training went on from make of its figures. `memory`: their peaks, where there were
    any attempts; `elsewhere`: why theirs do not count; `here`: whether this process trained too."""

    earlier_s: float = 0.0  # of training and saving
    memory: Memory | None = None
    elsewhere: str | None = None
    here: bool = True

    def joined(self, here: Memory) -> Memory:
        """The peaks of all of the training, from those of this process."""
        if self.elsewhere is not None:
            return Memory()
        return here if self.memory is None else larger(self.memory, here)


@dataclass
class Trainer:
    """One training of one model. `predict` maps token ids to probabilities with the model as it now is; `peaks` tells
    those of memory since training began in this process. `parts` are known once it has run."""

    loaded: LoadedModel
    train: Encoded
    validation: Encoded
    spec: TrainingSpec
    seed: int
    device: Device
    dtype: str
    store: TrainingStore
    place: Place
    peaks: Callable[[], Memory]
    predict: Callable[[Sequence[list[int]]], NDArray[np.float64]]
    emit: Callable[[Event], None]
    clock: Clock
    parts: Parts = Parts()
    _at: Course = field(default_factory=Course)
    _earlier: TrainingState | None = None
    _samples_before: int = 0  # this process
    _started_s: float = 0.0  # by the clock, as the next
    _saved_s: float = 0.0
    _save_s: float = 0.0  # how long the last save took, and all of them in this process
    _saving_s: float = 0.0

    def run(self) -> TrainingReport:
        """Trains, or goes on where an earlier attempt was; leaves the model with its best weights. Raises
        RunnerError(nan_loss)."""
        schedule = plan_schedule(len(self.train.labels), self.spec)
        machinery = self._machinery(schedule)
        self._resume(machinery)
        self._started_s = self._saved_s = self.clock()
        reported_s = -math.inf
        at, begun_at = self._at, self._at.step
        for batches in islice(self._steps(schedule), at.step, None):
            if at.stopped:
                break
            loss = self._step(batches, machinery)
            at.step += 1
            at.samples += sum(len(batch) for batch in batches)
            add_point(at.loss_curve, CurvePoint(step=at.step, values={"loss": loss}), at.step)
            if self.clock() - reported_s >= PROGRESS_EVERY_S:
                reported_s = self.clock()
                self._report(schedule, loss, machinery)
            if at.step % schedule.eval_every == 0 or at.step == schedule.steps:
                self._evaluate(schedule)
                self._save(machinery)
            elif self.clock() - self._saved_s >= max(SAVE_EVERY_S, SAVE_PAUSE * self._save_s):
                self._save(machinery)
        restored = put(self.store.best(), self._trained_tensors())
        assert restored
        self.parts = replace(self.parts, here=at.step > begun_at)
        return self._told(schedule)

    def _told(self, schedule: Schedule) -> TrainingReport:
        at, seconds = self._at, None if self.parts.elsewhere else self._seconds()
        return TrainingReport(
            steps=at.step,
            epochs=at.step / schedule.steps_per_epoch,
            samples_seen=at.samples,
            seconds=seconds,
            samples_per_s=None if seconds is None else per_second(at.samples, seconds),
            best_step=at.best_step,
            best_f1=at.best_f1,
            stopped_early=at.stopped and at.step < schedule.steps,
            saving_s=self._saved_for_s(),
            loss_curve=tuple(at.loss_curve),
            validation_curve=tuple(at.validation_curve),
        )

    def _seconds(self) -> float:
        """Of training at this place."""
        earlier_s = self._counting.seconds if self._counting else 0.0
        return earlier_s + self.clock() - self._started_s - self._saving_s

    def _saved_for_s(self) -> float:
        return self._saving_s + (self._counting.saving_s if self._counting else 0.0)

    @property
    def _counting(self) -> TrainingState | None:
        """What it goes on from, where the figures in that are this place's."""
        return None if self.parts.elsewhere else self._earlier

    # --- going on -----------------------------------------------------------------------------

    def _resume(self, machinery: _Machinery) -> None:
        point = self.store.load()
        if point is None:
            return
        if not put(point.weights, self._trained_tensors()):
            self.store.refuse("its weights are not those of this model")
            return
        tensors = {name: tensor for name, tensor in point.optimizer.items() if not name.startswith(RANDOM)}
        machinery.load(point.state, tensors)
        devices.set_random_states(
            {name.removeprefix(RANDOM): point.optimizer[name] for name in point.optimizer.keys() - tensors.keys()}
        )
        state = self._earlier = point.state
        self._at = state.course
        self._samples_before = state.course.samples
        elsewhere = state.elsewhere or (measured_at(state.place) if state.place != self.place else None)
        self.parts = Parts(0.0 if elsewhere else state.seconds + state.saving_s, state.memory, elsewhere)

    def _save(self, machinery: _Machinery) -> None:
        begun_s = self.clock()
        state = TrainingState(
            key=self.store.key,
            place=self.place,
            elsewhere=self.parts.elsewhere,
            seconds=self._seconds(),
            saving_s=self._saved_for_s(),
            memory=self.parts.joined(self.peaks()),
            course=self._at,
            rates=machinery.rates,
            scheduler=machinery.scheduler.state_dict(),
            scaler=machinery.scaler.state_dict(),
        )
        random = {RANDOM + name: tensor for name, tensor in devices.random_states(self.device).items()}
        self.store.save(state, self._trained_tensors(), machinery.tensors() | random)
        self._saved_s = self.clock()
        self._save_s = self._saved_s - begun_s
        self._saving_s += self._save_s

    def _trained_tensors(self) -> dict[str, torch.Tensor]:
        return {name: p for name, p in self.loaded.model.named_parameters() if p.requires_grad}

    # --- a step -------------------------------------------------------------------------------

    def _machinery(self, schedule: Schedule) -> _Machinery:
        import torch

        parameters = [p for p in self.loaded.model.parameters() if p.requires_grad]
        optimizer = self._optimizer(parameters)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)
        return _Machinery(parameters, optimizer, scheduler, devices.grad_scaler(self.dtype))

    def _optimizer(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Weight decay on matrices only: biases and norms are vectors."""
        import torch

        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.spec.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.spec.learning_rate,
            betas=(self.spec.adam_beta1, self.spec.adam_beta2),
            eps=self.spec.adam_epsilon,
        )

    def _steps(self, schedule: Schedule) -> Iterator[list[NDArray[np.int64]]]:
        """The micro-batches of each optimiser step, epoch after epoch."""
        rng = np.random.default_rng(self.seed)
        lengths = np.array([len(ids) for ids in self.train.input_ids], dtype=np.int64)
        for _ in range(schedule.epochs):
            batches = epoch_batches(lengths, self.spec.batch_size, rng)
            for start in range(0, len(batches), self.spec.accumulation):
                yield batches[start : start + self.spec.accumulation]

    def _step(self, batches: list[NDArray[np.int64]], machinery: _Machinery) -> float:
        """One optimiser step; the mean loss of its examples."""
        import torch

        model = self.loaded.model.train()
        optimizer, scaler = machinery.optimizer, machinery.scaler
        examples = sum(len(batch) for batch in batches)
        total = torch.zeros((), device=self.device)
        for batch in batches:
            inputs = self.loaded.pad([self.train.input_ids[i] for i in batch])
            labels = torch.from_numpy(self.train.labels[batch]).to(self.device)
            with devices.autocast(self.device, self.dtype):
                logits = model(**{k: v.to(self.device) for k, v in inputs.items()}).logits
            loss = classification.loss_sum(logits, labels) / examples
            scaler.scale(loss).backward()
            total += loss.detach()
        mean = float(total)
        if not math.isfinite(mean):
            raise _nan_loss(f"the loss became {mean}", self._at.step + 1)
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(machinery.parameters, self.spec.max_grad_norm)
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() >= scale:  # lowered: fp16 overflowed and this step was skipped
            machinery.scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        return mean

    def _report(self, schedule: Schedule, loss: float, machinery: _Machinery) -> None:
        at = self._at
        left = (schedule.steps - at.step) * self.spec.batch_size * self.spec.accumulation
        elsewhere = self._samples_before if self.parts.elsewhere else 0
        rate = per_second(at.samples - elsewhere, self._seconds())
        self.emit(
            Progress(
                phase="train",
                step=at.step,
                steps=schedule.steps,
                loss=loss,
                learning_rate=machinery.rates[0],
                samples_per_s=rate,
                eta_s=left / rate if rate else None,
            )
        )

    def _evaluate(self, schedule: Schedule) -> None:
        """Score the validation split: whether these weights are the best so far, and whether to go on."""
        at = self._at
        probabilities = self.predict(self.validation.input_ids)
        if not np.isfinite(probabilities).all():  # the last update broke the weights: no loss comes after it
            raise _nan_loss("the validation loss became nan", at.step)
        labels = self.validation.labels
        picked = np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, None)
        predicted = probabilities.argmax(axis=1).astype(np.int64)
        f1 = classification.macro_f1(labels, predicted, probabilities.shape[1])
        values: dict[str, float | None] = {
            "loss": float(-np.log(picked).mean()),
            "accuracy": float((predicted == labels).mean()),
            "f1": f1,
        }
        at.evaluations += 1
        add_point(at.validation_curve, CurvePoint(step=at.step, values=values), at.evaluations)
        self.emit(Metrics(phase="train", split="validation", step=at.step, values=values))
        if f1 > at.best_f1:
            at.best_f1, at.best_step = f1, at.step
        if f1 > at.patience_f1 + self.spec.min_delta:
            at.patience_f1, at.misses = f1, 0
        else:
            at.misses += 1
        at.stopped = at.misses >= self.spec.patience and at.step >= schedule.earliest_stop


def _nan_loss(what: str, step: int) -> RunnerError:
    return RunnerError(
        "nan_loss",
        f"{what} at step {step}",
        "lower training.learning_rate, or use another seed; the data may hold damaged texts",
    )
