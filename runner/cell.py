"""One attempt at one cell: the phases in order, then the result.

load -> tokenize -> train -> export -> score -> time. A file appears under its final name only when it is whole, and
`result.json` is the last: its presence is the only sign of success. What each phase has made is told in the checkpoint,
so that an attempt that finds an earlier one's there goes on from it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from runner import checkpoint, provenance, timing
from runner.clock import ActiveClock, per_second
from runner.contract import (
    ADAPTER_FOLDER,
    PHASES,
    PREDICTIONS_FILE,
    SPLITS,
    CellSpec,
    Checkpoint,
    Choice,
    Finished,
    Memory,
    Metrics,
    Phase,
    PhaseFinished,
    PhaseStarted,
    Progress,
    Quality,
    Resources,
    Result,
    Timing,
    TrainingReport,
    Warned,
    batches_of,
    digests,
    encode,
    phase_reason,
    write_atomic,
)
from runner.data.prepared import Rows, read_split
from runner.errors import RunnerError
from runner.events import EventLog
from runner.leases import Leases
from runner.memory import PeakMeter, give_back, rss_mb
from runner.scoring import Predictor, write_predictions
from runner.subjects import Subject, subject_for
from runner.summary import batch_choices, null_reasons, requested, summarize
from runner.tasks import classification
from runner.training import PROGRESS_EVERY_S, Parts

TRAINING_PEAKS = ("rss_peak_training_mb", "device_peak_training_mb", "device_reserved_mb")
INFERENCE = (
    "rss_before_inference_mb",
    "rss_peak_inference_mb",
    "device_allocated_before_inference_mb",
    "device_peak_inference_mb",
)
NOT_TRAINED_HERE = "only a process that also trained shows it: this attempt went on after the training"


class Cell:
    """Carries one attempt through its phases. `phase` is the one that runs now, for the failure report."""

    def __init__(self, spec: CellSpec, out: Path, events: EventLog, cores: Choice | None = None) -> None:
        self.spec = spec
        self.out = out
        self.events = events
        self.phase: Phase | None = None
        self._cores = cores  # where it is kept
        self._clock = ActiveClock(out)
        self._files: dict[str, str] = {}  # what later phases need, by path -> sha256
        self._seconds: dict[Phase, float | None] = {}  # None: of another place
        self._memory: dict[str, float | None] = {}
        self._meter = PeakMeter(spec.device)
        self._place = provenance.place(spec)
        self._trained_here = False
        self._choices: dict[str, Choice] = {}
        self._reasons: dict[str, str] = {}
        self._warnings: list[str] = []
        self._own_warnings: list[str] = []  # of this attempt's place: no concern of a later one's
        self._report: TrainingReport | None = None
        self._quality: Quality | None = None
        self._timing: Timing | None = None
        self._cold: timing.ColdStart | None = None

    def run(self) -> Result:
        started = time.time()
        splits = {split: read_split(self.spec.dataset, split) for split in SPLITS}
        subject = subject_for(self.spec, splits, self.out)
        if self._cores is not None and self._cores.value is None:
            self._warn(f"this cell could not be kept on its cores: {self._cores.reason}", self._own_warnings)
        with self._phase("load"):
            self._load(subject, splits["test"].texts[0])
        self._keep(subject)
        if "train" not in self._seconds:
            with self._phase("tokenize"):
                subject.tokenize()
            with self._phase("train", lambda: subject.parts.earlier_s):
                self._train(subject)
            if (elsewhere := subject.parts.elsewhere) is not None:
                self._seconds["train"] = None
                self._reasons |= dict.fromkeys((phase_reason("train"), *checkpoint.TRAINING_SECONDS), elsewhere)
            self._keep(subject)
        if "export" in self.spec.phases and "export" not in self._seconds:
            with self._phase("export"):
                self._export(subject)
            self._keep(subject)
        predictor = subject.predictor()
        if "score" not in self._seconds:
            with self._phase("score"):
                self._score(predictor, splits["test"])
            self._keep(subject)
        if "time" in self.spec.phases:
            self._time(predictor, splits["test"], subject.merged)
        result = self._result(subject, started)
        write_atomic(self.out / "result.json", encode(result))
        checkpoint.remove(self.out)
        self.events.emit(Finished(seconds=self._clock()))
        return result

    # --- going on -----------------------------------------------------------------------------

    def _load(self, subject: Subject, text: str) -> None:
        """The model, with what an earlier attempt has trained if that is to be had."""
        blank = checkpoint.nothing(self.spec, self._place)
        found = checkpoint.find(self.spec, self.out, self._place) if subject.resumes else blank
        for note in found.notes:
            self._warn(note)
        state = found.state
        if "train" in state.phases and (reason := self._bring_back(subject, found)) is not None:
            self._warn(f"what an earlier attempt had trained is trained again: {reason}")
            state = checkpoint.untrained(state)
        if "train" not in state.phases:
            self._choices = subject.load()
        self._adopt(state)
        if "rss_after_load_mb" not in self._memory:
            self._note_memory("after_load")
        if self._cold is None and (just_loaded := subject.loaded_predictor()) is not None:
            self._cold = timing.cold_start(just_loaded, text, self._clock.frozen_s)

    def _bring_back(self, subject: Subject, found: checkpoint.Found) -> str | None:
        """Load the trained model; or why it cannot be."""
        from safetensors import SafetensorError

        try:
            self._choices = subject.load(found.adapter)
            then, now = (choices.get("dtype") for choices in (found.state.choices, self._choices))
            if then is not None and now is not None and then.value != now.value:
                return f"that was in {then.value}, and this device computes in {now.value}"
            if found.weights is None or subject.restore(found.weights):
                return None
        except (RunnerError, SafetensorError, OSError) as error:
            return str(error)
        return "its weights are not those of this model"

    def _adopt(self, state: Checkpoint) -> None:
        self._seconds = dict(state.phases)
        self._files = dict(state.files)
        self._memory = {
            name: value for name, value in msgspec.structs.asdict(state.memory).items() if value is not None
        }
        self._choices |= state.choices
        self._reasons = dict(state.reasons)
        self._report, self._quality = state.training, state.quality
        stopped = _early_stop(self._report, self.spec)
        told = state.warnings or ((stopped,) if stopped else ())  # a host that made the state gives no warnings
        self._warnings[:0] = told
        if state.cold_start_s is not None and state.first_request_ms is not None:
            self._cold = timing.ColdStart(state.cold_start_s, state.first_request_ms)

    def _keep(self, subject: Subject) -> None:
        """Tell a later attempt what is done."""
        if not subject.resumes:
            return
        state = msgspec.structs.replace(
            checkpoint.nothing(self.spec, self._place).state,
            phases=self._seconds,
            files=self._files,
            choices=self._choices,
            training=self._report,
            quality=self._quality,
            memory=Memory(**self._memory),
            cold_start_s=self._cold.seconds if self._cold else None,
            first_request_ms=self._cold.first_request_ms if self._cold else None,
            reasons=self._reasons,
            warnings=tuple(self._warnings),
        )
        checkpoint.write_state(state, self.out)

    # --- the phases ---------------------------------------------------------------------------

    @contextmanager
    def _phase(self, phase: Phase, more_s: Callable[[], float] = lambda: 0.0) -> Iterator[None]:
        """`more_s`: what to add at its end to the seconds it took here."""
        self.phase = phase
        self.events.emit(PhaseStarted(phase=phase))
        begin = self._clock()
        yield
        seconds = self._clock() - begin + more_s()
        self._seconds[phase] = seconds
        self.phase = None
        self.events.emit(PhaseFinished(phase=phase, seconds=seconds))
        self.events.emit(Resources(rss_mb=rss_mb(), device_mb=self._meter.device_allocated_mb()))

    def _train(self, subject: Subject) -> None:
        self._meter.reset()
        self._report = subject.train(self.events.emit, self._warn, self._clock, self._meter.training)
        self._files = dict(subject.trained_files)
        self._trained_here = subject.parts.here
        self._note_training(subject.parts)
        if (stopped := _early_stop(self._report, self.spec)) is not None:
            self._warn(stopped)

    def _export(self, subject: Subject) -> None:
        """From here on the adapter stands for the weights in the checkpoint."""
        shutil.rmtree(self.out / ADAPTER_FOLDER, ignore_errors=True)  # half of an earlier attempt's
        subject.export(self.out / ADAPTER_FOLDER)
        if subject.resumes:
            self._files = digests(self.out, (ADAPTER_FOLDER,))

    def _score(self, predictor: Predictor, test: Rows) -> None:
        give_back()
        if self._trained_here:
            self._note_memory("before_inference")
        self._meter.reset()
        evaluation, batch_size = self.spec.evaluation, batches_of(self.spec).evaluation_batch_size
        probabilities = predictor.predict(test.texts, batch_size, self._scored_rows(len(test.texts)))
        self._note_inference()  # here: the packages that compute metrics are not the model's memory
        slices = {column: test.columns[column] for column in self.spec.dataset.slice_columns}
        self._quality, reasons = classification.evaluate(
            test.labels, probabilities, self.spec.dataset.label_names, slices, evaluation.calibration_bins
        )
        self._reasons |= reasons
        write_predictions(self.out / PREDICTIONS_FILE, test.ids, test.labels, probabilities)
        self._files |= digests(self.out, (PREDICTIONS_FILE,))
        self.events.emit(Metrics(phase="score", split="test", values=self._quality.metrics))

    def _scored_rows(self, rows: int) -> Callable[[int], None]:
        """Tells, about once a second, how many rows of the test split are scored."""
        started = told = self._clock()

        def tell(done: int) -> None:
            nonlocal told
            now = self._clock()
            if now - told >= PROGRESS_EVERY_S:
                told = now
                rate = per_second(done, now - started)
                left = (rows - done) / rate if rate else None
                self.events.emit(Progress(phase="score", step=done, steps=rows, samples_per_s=rate, eta_s=left))

        return tell

    def _time(self, predictor: Predictor, test: Rows, merged: bool) -> None:
        leases = Leases(self.out, self.events.emit, asked=self.spec.lease, clock=self._clock)
        fallback = self.spec.fallback
        largest_batch = fallback.throughput_batch_size if fallback else None
        if fallback and largest_batch:
            self._choices["throughput_batch_size"] = Choice(value=largest_batch, reason=fallback.reason)
        with self._phase("time", lambda: -leases.waited_s):  # waiting for the host is not timing
            self._timing = timing.measure(
                predictor,
                test.texts,
                self.spec.evaluation,
                leases=leases,
                cold=self._cold,
                merged=merged,
                emit=self.events.emit,
                largest_batch=largest_batch,
            )
        if self._timing.contaminated:
            reasons = {reason for window in self._timing.windows if window.counted for reason in window.reasons}
            self._warn(f"this cell could not be timed undisturbed: {'; '.join(sorted(reasons))}", self._own_warnings)

    def _warn(self, message: str, among: list[str] | None = None) -> None:
        (self._warnings if among is None else among).append(message)
        self.events.emit(Warned(message=message))

    def _note_memory(self, moment: str) -> None:
        self._memory[f"rss_{moment}_mb"] = rss_mb()
        self._memory[f"device_allocated_{moment}_mb"] = self._meter.device_allocated_mb()

    def _note_training(self, parts: Parts) -> None:
        """The peaks of all of it. One that is not known of each part is null."""
        here = self._meter.training()
        whole = msgspec.structs.asdict(parts.joined(here))
        for name in TRAINING_PEAKS:
            self._memory[name] = whole[name]
            if whole[name] is None and getattr(here, name) is not None:
                self._reasons[name] = parts.elsewhere or "not known of the earlier attempts at this training"
        if self._meter.reason is not None:
            self._reasons["rss_peak_training_mb"] = self._meter.reason

    def _note_inference(self) -> None:
        """What training leaves behind is part of it, which a process that did not train cannot tell."""
        if not self._trained_here:
            self._memory |= dict.fromkeys(INFERENCE)
            names = [name for name in INFERENCE if name.startswith("rss") or self.spec.device != "cpu"]
            self._reasons |= dict.fromkeys(names, NOT_TRAINED_HERE)
            return
        self._memory["rss_peak_inference_mb"] = self._meter.peak_rss_mb()
        self._memory["device_peak_inference_mb"] = self._meter.device_peak_mb()
        reserved, in_training = self._meter.device_reserved_mb(), self._memory["device_reserved_mb"]
        if reserved is not None and in_training is not None:
            self._memory["device_reserved_mb"] = max(reserved, in_training)
        if self._meter.reason is not None:
            self._reasons["rss_peak_inference_mb"] = self._meter.reason

    def _result(self, subject: Subject, started: float) -> Result:
        spec = self.spec
        memory = Memory(**self._memory)
        summary = summarize(spec, self._quality, self._timing, memory, self._report, self._seconds["train"])
        self._reasons |= null_reasons(summary, self._timing, spec, self._reasons)
        size = subject.size()
        return Result(
            cell=spec.cell,
            identity=spec.identity,
            model=spec.model.alias,
            dataset=spec.dataset.name,
            method=spec.method,
            seed=spec.seed,
            device=spec.device,
            label_names=spec.dataset.label_names,
            summary=summary,
            quality=self._quality,
            training=self._report,
            timing=self._timing,
            memory=memory,
            phases={phase: seconds for phase in PHASES if (seconds := self._seconds.get(phase)) is not None},
            parameters_total=size.total,
            parameters_trainable=size.trainable,
            requested=requested(spec),
            effective={
                **self._choices,
                **batch_choices(spec),
                "executor": Choice(value=spec.executor, reason=spec.executor_reason),
                **({"cores": self._cores} if self._cores is not None else {}),
            },
            reasons=self._reasons,
            warnings=(*self._warnings, *self._own_warnings),
            provenance=provenance.collect(spec, started),
        )


def _early_stop(report: TrainingReport | None, spec: CellSpec) -> str | None:
    if report is None or not report.stopped_early:
        return None
    return (
        f"training stopped early at step {report.steps}: no better F1 on the validation split "
        f"in {spec.training.patience} evaluations"
    )


def check(spec: CellSpec) -> None:
    """What no phase could do anything about. Raises RunnerError(configuration)."""
    if "score" not in spec.phases or "train" not in spec.phases:
        raise RunnerError(
            "configuration", "a cell needs the phases 'train' and 'score'", "add them to the spec's phases"
        )
    if spec.model.kind == "baseline" and spec.method != "none":
        raise RunnerError(
            "configuration",
            f"the baseline '{spec.model.alias}' has no method '{spec.method}'",
            "set the spec's method to 'none'",
        )
