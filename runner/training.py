"""The training loop: AdamW, linear schedule with capped warm-up, accumulation, length-bucketed batches, best
checkpoint by macro F1 on the validation split, early stopping. Read it top to bottom.

Deterministic under a seed: data order comes from one numpy Generator, dropout from torch's seeded stream.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from runner import device as devices
from runner.contract import CurvePoint, Device, Event, Metrics, Progress, TrainingReport, TrainingSpec
from runner.errors import RunnerError
from runner.tasks import classification

if TYPE_CHECKING:
    import torch

    from runner.models.load import LoadedModel

LENGTH_POOL_BATCHES = 32  # batches shuffled together before they are sorted by length
PROGRESS_EVERY_S = 1.0


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


@dataclass
class _Best:
    """The best checkpoint so far, and how long ago it was worth the wait."""

    f1: float = -1.0
    step: int = 0
    patience_f1: float = -1.0
    misses: int = 0


@dataclass
class Trainer:
    """One training of one model. `predict` maps token ids to probabilities with the model as it now is."""

    loaded: LoadedModel
    train: Encoded
    validation: Encoded
    spec: TrainingSpec
    seed: int
    device: Device
    dtype: str
    checkpoint: Path
    predict: Callable[[Sequence[list[int]]], NDArray[np.float64]]
    emit: Callable[[Event], None]
    _best: _Best = field(default_factory=_Best)
    _loss_curve: list[CurvePoint] = field(default_factory=list)
    _validation_curve: list[CurvePoint] = field(default_factory=list)

    def run(self) -> TrainingReport:
        """Trains, leaves the model with its best weights. Raises RunnerError(nan_loss)."""
        import torch

        schedule = plan_schedule(len(self.train.labels), self.spec)
        parameters = [p for p in self.loaded.model.parameters() if p.requires_grad]
        optimizer = self._optimizer(parameters)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)
        scaler = devices.grad_scaler(self.dtype)
        started = reported = time.perf_counter()
        step = samples = 0
        stopped = False
        for step, batches in enumerate(self._steps(schedule), start=1):
            loss = self._step(batches, parameters, optimizer, scheduler, scaler)
            samples += sum(len(batch) for batch in batches)
            self._loss_curve.append(CurvePoint(step=step, values={"loss": loss}))
            now = time.perf_counter()
            if now - reported >= PROGRESS_EVERY_S or step == 1:
                reported = now
                self._report(step, schedule, loss, samples / (now - started), optimizer)
            if step % schedule.eval_every == 0 or step == schedule.steps:
                self._evaluate(step)
                if self._best.misses >= self.spec.patience and step >= schedule.earliest_stop:
                    stopped = step < schedule.steps
                    break
        self._restore()
        seconds = time.perf_counter() - started
        return TrainingReport(
            steps=step,
            epochs=step / schedule.steps_per_epoch,
            samples_seen=samples,
            seconds=seconds,
            samples_per_s=samples / seconds,
            best_step=self._best.step,
            best_f1=self._best.f1,
            stopped_early=stopped,
            loss_curve=tuple(self._loss_curve),
            validation_curve=tuple(self._validation_curve),
        )

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

    def _step(
        self,
        batches: list[NDArray[np.int64]],
        parameters: list[torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        scaler: torch.amp.GradScaler,
    ) -> float:
        """One optimiser step; the mean loss of its examples."""
        import torch

        model = self.loaded.model.train()
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
            raise _nan_loss(f"the loss became {mean}", len(self._loss_curve) + 1)
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, self.spec.max_grad_norm)
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() >= scale:  # lowered: fp16 overflowed and this step was skipped
            scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        return mean

    def _report(
        self, step: int, schedule: Schedule, loss: float, samples_per_s: float, optimizer: torch.optim.Optimizer
    ) -> None:
        left = (schedule.steps - step) * self.spec.batch_size * self.spec.accumulation
        self.emit(
            Progress(
                phase="train",
                step=step,
                steps=schedule.steps,
                loss=loss,
                learning_rate=optimizer.param_groups[0]["lr"],
                samples_per_s=samples_per_s,
                eta_s=left / samples_per_s,
            )
        )

    def _evaluate(self, step: int) -> None:
        """Score the validation split; keep the weights if they are the best so far."""
        probabilities = self.predict(self.validation.input_ids)
        if not np.isfinite(probabilities).all():  # the last update broke the weights: no loss comes after it
            raise _nan_loss("the validation loss became nan", step)
        labels = self.validation.labels
        picked = np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, None)
        predicted = probabilities.argmax(axis=1).astype(np.int64)
        f1 = classification.macro_f1(labels, predicted, probabilities.shape[1])
        values: dict[str, float | None] = {
            "loss": float(-np.log(picked).mean()),
            "accuracy": float((predicted == labels).mean()),
            "f1": f1,
        }
        self._validation_curve.append(CurvePoint(step=step, values=values))
        self.emit(Metrics(phase="train", split="validation", step=step, values=values))
        if f1 > self._best.f1:
            self._best.f1, self._best.step = f1, step
            self._save()
        if f1 > self._best.patience_f1 + self.spec.min_delta:
            self._best.patience_f1, self._best.misses = f1, 0
        else:
            self._best.misses += 1

    def _trained_tensors(self) -> dict[str, torch.Tensor]:
        return {name: p for name, p in self.loaded.model.named_parameters() if p.requires_grad}

    def _save(self) -> None:
        from safetensors.torch import save_file

        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoint.with_suffix(".tmp")
        save_file({name: p.detach().contiguous().cpu() for name, p in self._trained_tensors().items()}, temporary)
        temporary.replace(self.checkpoint)

    def _restore(self) -> None:
        import torch
        from safetensors.torch import load_file

        best = load_file(self.checkpoint)
        with torch.no_grad():
            for name, parameter in self._trained_tensors().items():
                parameter.copy_(best[name])


def _nan_loss(what: str, step: int) -> RunnerError:
    return RunnerError(
        "nan_loss",
        f"{what} at step {step}",
        "lower training.learning_rate, or use another seed; the data may hold damaged texts",
    )
