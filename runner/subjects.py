"""What a cell works on: a transformer or a baseline, behind the same five verbs, so that `cell.py` reads straight.

load -> tokenize -> train -> export -> predictor
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from runner import device as devices
from runner.checkpoint import TrainingStore, put, read_tensors
from runner.clock import Clock
from runner.contract import CellSpec, Choice, Event, Memory, Split, TrainingReport, TrainingSpec, batches_of
from runner.data.prepared import Rows
from runner.provenance import place
from runner.scoring import BaselinePredictor, Predictor, TransformerPredictor
from runner.training import Encoded, Parts, Trainer, plan_schedule

if TYPE_CHECKING:
    from runner.models.baselines import Baseline
    from runner.models.load import LoadedModel

Emit = Callable[[Event], None]
Warn = Callable[[str], None]
Peaks = Callable[[], Memory]


@dataclass(frozen=True)
class Size:
    """Parameters; None where the notion does not apply."""

    total: int | None
    trainable: int | None


class Subject(Protocol):
    """`resumes`: whether what it has trained can be kept and brought back. `trained_files`: the best weights in the
    checkpoint, with their sha256. `parts`: of which attempts the training was made."""

    merged: bool
    resumes: bool
    trained_files: dict[str, str]
    parts: Parts

    def load(self, adapter: Path | None = None) -> dict[str, Choice]:
        """The untrained model, or the trained one that `export` left in `adapter`."""
        ...

    def restore(self, weights: Path) -> bool:
        """Put trained weights from the checkpoint into the loaded model; False where they do not belong to it."""
        ...

    def loaded_predictor(self) -> Predictor | None:
        """The model as it was loaded, untrained, for the cold start; None where there is none before training."""
        ...

    def tokenize(self) -> None: ...
    def train(self, emit: Emit, warn: Warn, clock: Clock, peaks: Peaks) -> TrainingReport | None: ...
    def export(self, folder: Path) -> None: ...
    def predictor(self) -> Predictor: ...
    def size(self) -> Size: ...


def subject_for(spec: CellSpec, splits: dict[Split, Rows], out: Path) -> Subject:
    if spec.model.kind == "baseline":
        return BaselineSubject(spec, splits)
    return TransformerSubject(spec, splits, out)


def training_of(spec: CellSpec) -> TrainingSpec:
    """As asked for, with the batches that are used."""
    sizes = batches_of(spec)
    return msgspec.structs.replace(spec.training, batch_size=sizes.batch_size, accumulation=sizes.accumulation)


class BaselineSubject:
    """`majority` and `tfidf-logreg`: nothing to load or tokenize, nothing kept (refitting takes seconds)."""

    merged = False
    resumes = False

    def __init__(self, spec: CellSpec, splits: dict[Split, Rows]) -> None:
        self.parts = Parts()
        self.trained_files: dict[str, str] = {}
        self._spec = spec
        self._splits = splits
        self._baseline: Baseline | None = None

    def load(self, adapter: Path | None = None) -> dict[str, Choice]:
        from runner.models.baselines import baseline

        self._baseline = baseline(self._spec.model.name, seed=self._spec.seed)
        return {"device": Choice(value="cpu", reason="baselines run on the CPU")}

    def restore(self, weights: Path) -> bool:
        return False

    def loaded_predictor(self) -> None:
        return

    def tokenize(self) -> None:
        return

    def train(self, emit: Emit, warn: Warn, clock: Clock, peaks: Peaks) -> None:
        assert self._baseline is not None
        rows = self._splits["train"]
        self._baseline.fit(rows.texts, rows.labels, len(self._spec.dataset.label_names))

    def export(self, folder: Path) -> None:
        return

    def predictor(self) -> Predictor:
        assert self._baseline is not None
        return BaselinePredictor(self._baseline)

    def size(self) -> Size:
        parameters = None if self._baseline is None else self._baseline.parameters
        return Size(total=parameters, trainable=parameters)


class TransformerSubject:
    """A transformer with a classification head under LoRA, full or frozen training."""

    resumes = True

    def __init__(self, spec: CellSpec, splits: dict[Split, Rows], out: Path) -> None:
        self._spec = spec
        self._training = training_of(spec)
        self._splits = splits
        self._out = out
        self._dtype = devices.compute_dtype(spec.device)
        self._encoded: dict[Split, Encoded] = {}
        self.merged = False
        self.trained_files: dict[str, str] = {}
        self.parts = Parts()

    def load(self, adapter: Path | None = None) -> dict[str, Choice]:
        from runner.models.load import load
        from runner.models.merge import load_saved

        spec = self._spec
        devices.make_deterministic(spec.seed, spec.threads)
        self._loaded: LoadedModel = (
            load(spec, self._splits["train"].texts) if adapter is None else load_saved(spec, adapter)
        )
        self._loaded.model.to(spec.device)
        schedule = plan_schedule(len(self._splits["train"].texts), self._training)
        epochs_reason = "as configured"
        if schedule.epochs > spec.training.epochs:
            epochs_reason = (
                f"raised from {spec.training.epochs}: {len(self._splits['train'].texts)} rows give "
                f"{schedule.steps_per_epoch} steps an epoch, and training.min_steps asks for {spec.training.min_steps}"
            )
        return {
            **self._loaded.choices,
            "device": Choice(value=spec.device, reason=spec.device_reason),
            "dtype": self._dtype,
            "epochs": Choice(value=schedule.epochs, reason=epochs_reason),
        }

    def restore(self, weights: Path) -> bool:
        trained = {name: p for name, p in self._loaded.model.named_parameters() if p.requires_grad}
        return put(read_tensors(weights), trained)

    def loaded_predictor(self) -> TransformerPredictor:
        return self._make_predictor()

    def tokenize(self) -> None:
        predictor = self._make_predictor()
        for split in ("train", "validation"):
            rows = self._splits[split]
            self._encoded[split] = Encoded(input_ids=predictor.encode(rows.texts), labels=rows.labels)

    def train(self, emit: Emit, warn: Warn, clock: Clock, peaks: Peaks) -> TrainingReport:
        spec, validator = self._spec, self._make_predictor()
        sizes = batches_of(spec)
        formats = f"{spec.device} {self._dtype.value}"
        key = f"{spec.identity} {spec.runner_version} {sizes.batch_size} x {sizes.accumulation} {formats}"
        store = TrainingStore(self._out, key, warn)
        trainer = Trainer(
            loaded=self._loaded,
            train=self._encoded["train"],
            validation=self._encoded["validation"],
            spec=self._training,
            seed=spec.seed,
            device=spec.device,
            dtype=str(self._dtype.value),
            store=store,
            place=place(spec),
            peaks=peaks,
            predict=lambda ids: validator.predict_encoded(ids, sizes.evaluation_batch_size),
            emit=emit,
            clock=clock,
        )
        report = trainer.run()
        self.trained_files = store.best_file()
        self.parts = trainer.parts
        return report

    def export(self, folder: Path) -> None:
        from runner.models.merge import save

        save(self._loaded, folder)

    def predictor(self) -> TransformerPredictor:
        """The model as deployed: a LoRA adapter is merged into the weights. This comes after
        `export`, because merging is in place."""
        from runner.models.merge import deployable

        self._deployed = deployable(self._loaded)
        self.merged = self._spec.method == "lora"
        return self._make_predictor(deployed=True)

    def size(self) -> Size:
        return Size(total=self._loaded.parameters_total, trainable=self._loaded.parameters_trainable)

    def _make_predictor(self, deployed: bool = False) -> TransformerPredictor:
        loaded = self._loaded
        return TransformerPredictor(
            model=self._deployed if deployed else loaded.model,
            tokenizer=loaded.tokenizer,
            pad_token_id=loaded.pad_token_id,
            is_decoder=loaded.is_decoder,
            max_length=loaded.max_length,
            device=self._spec.device,
            dtype=str(self._dtype.value),
        )
