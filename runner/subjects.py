"""What a cell works on: a transformer or a baseline, behind the same five verbs, so that `cell.py` reads straight.

load -> tokenize -> train -> export -> predictor
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from runner import device as devices
from runner.contract import CellSpec, Choice, Event, Split, TrainingReport
from runner.data.prepared import Rows
from runner.scoring import BaselinePredictor, Predictor, TransformerPredictor
from runner.training import Encoded, Trainer, plan_schedule

if TYPE_CHECKING:
    from runner.models.baselines import Baseline
    from runner.models.load import LoadedModel

Emit = Callable[[Event], None]


@dataclass(frozen=True)
class Size:
    """Parameters; None where the notion does not apply."""

    total: int | None
    trainable: int | None


class Subject(Protocol):
    merged: bool

    def load(self) -> dict[str, Choice]: ...
    def loaded_predictor(self) -> Predictor | None:
        """The model as it was loaded, untrained, for the cold start; None where there is none before training."""
        ...

    def tokenize(self) -> None: ...
    def train(self, emit: Emit) -> TrainingReport | None: ...
    def export(self, folder: Path) -> None: ...
    def predictor(self) -> Predictor: ...
    def size(self) -> Size: ...


def subject_for(spec: CellSpec, splits: dict[Split, Rows], scratch_folder: Path) -> Subject:
    if spec.model.kind == "baseline":
        return BaselineSubject(spec, splits)
    return TransformerSubject(spec, splits, scratch_folder)


class BaselineSubject:
    """`majority` and `tfidf-logreg`: nothing to load or tokenize, nothing kept (refitting takes seconds)."""

    merged = False

    def __init__(self, spec: CellSpec, splits: dict[Split, Rows]) -> None:
        self._spec = spec
        self._splits = splits
        self._baseline: Baseline | None = None

    def load(self) -> dict[str, Choice]:
        from runner.models.baselines import baseline

        self._baseline = baseline(self._spec.model.name, seed=self._spec.seed)
        return {"device": Choice(value="cpu", reason="baselines run on the CPU")}

    def loaded_predictor(self) -> None:
        return

    def tokenize(self) -> None:
        return

    def train(self, emit: Emit) -> None:
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

    def __init__(self, spec: CellSpec, splits: dict[Split, Rows], scratch_folder: Path) -> None:
        self._spec = spec
        self._splits = splits
        self._checkpoint = scratch_folder / "checkpoint" / "best.safetensors"
        self._dtype = devices.compute_dtype(spec.device)
        self._encoded: dict[Split, Encoded] = {}
        self.merged = False

    def load(self) -> dict[str, Choice]:
        from runner.models.load import load

        spec = self._spec
        devices.make_deterministic(spec.seed, spec.threads)
        self._loaded: LoadedModel = load(spec, self._splits["train"].texts)
        self._loaded.model.to(spec.device)
        schedule = plan_schedule(len(self._splits["train"].texts), spec.training)
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
            "batch_size": Choice(value=spec.training.batch_size, reason="as configured"),
            "accumulation": Choice(value=spec.training.accumulation, reason="as configured"),
        }

    def loaded_predictor(self) -> TransformerPredictor:
        return self._make_predictor()

    def tokenize(self) -> None:
        predictor = self._make_predictor()
        for split in ("train", "validation"):
            rows = self._splits[split]
            self._encoded[split] = Encoded(input_ids=predictor.encode(rows.texts), labels=rows.labels)

    def train(self, emit: Emit) -> TrainingReport:
        validator = self._make_predictor()
        batch_size = self._spec.evaluation.batch_size
        report = Trainer(
            loaded=self._loaded,
            train=self._encoded["train"],
            validation=self._encoded["validation"],
            spec=self._spec.training,
            seed=self._spec.seed,
            device=self._spec.device,
            dtype=str(self._dtype.value),
            checkpoint=self._checkpoint,
            predict=lambda ids: validator.predict_encoded(ids, batch_size),
            emit=emit,
        ).run()
        self._checkpoint.unlink()
        self._checkpoint.parent.rmdir()
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
