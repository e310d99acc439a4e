"""How displays say things: names of cells, durations, rates."""

from __future__ import annotations

from harness.metrics import format_value
from harness.state import CellRetried, CellState, LeaseEnded, LeaseGranted, PlannedCell, RunFinished, RunStarted
from harness.text import clean
from runner.contract import Fallback, Progress, Summary


def duration(seconds: float) -> str:
    """`8.3 s`, `2:05` (minutes), `1:02:05` (hours)."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def cell_title(plan: PlannedCell) -> str:
    method = "" if plan.method == "none" else f" {plan.method}"
    return clean(f"{plan.model}{method} on {plan.dataset}, seed {plan.seed}")


def progress_words(progress: Progress) -> str:
    """`step 40/120, loss 0.512, 143 samples/s, 32.0 s left`."""
    words = [f"step {progress.step}/{progress.steps}"]
    if progress.loss is not None:
        words.append(f"loss {progress.loss:.3f}")
    if progress.samples_per_s is not None:
        words.append(f"{progress.samples_per_s:.0f} samples/s")
    if progress.eta_s is not None:
        words.append(f"{duration(progress.eta_s)} left")
    return ", ".join(words)


def summary_words(summary: Summary) -> str:
    words = [
        f"accuracy {format_value('accuracy', summary.accuracy)}",
        f"F1 {format_value('f1', summary.f1)}",
    ]
    if summary.latency_median_ms is not None:
        words.append(f"p50 {format_value('latency_median_ms', summary.latency_median_ms)} ms")
    if summary.throughput_samples_per_sec is not None:
        words.append(f"{format_value('throughput_samples_per_sec', summary.throughput_samples_per_sec)} samples/s")
    return ", ".join(words)


def failure_words(cell: CellState) -> list[str]:
    """The lines that say why a cell failed and what to do."""
    failure = cell.failure
    if failure is None:
        return []
    lines = [clean(failure.message), f"hint: {clean(failure.hint)}"]
    return [*lines, f"log: {clean(failure.log)}"] if failure.log else lines


def retry_words(event: CellRetried) -> list[str]:
    """The lines that say that an attempt failed, and what follows."""
    when = f"again in {duration(event.delay_s)}" if event.delay_s else "again"
    words = f"attempt {event.attempt} failed ({event.kind}): {event.message}"
    follows = f"{when}, since {event.why}" + (f" ({fallback_words(event.fallback)})" if event.fallback else "")
    return [clean(words), clean(follows), *([clean(f"log: {event.log}")] if event.log else [])]


def fallback_words(fallback: Fallback) -> str:
    """`batch size 8, accumulation 8`."""
    parts = (
        ("batch size", fallback.batch_size),
        ("accumulation", fallback.accumulation),
        ("evaluation batch size", fallback.evaluation_batch_size),
        ("largest batch timed", fallback.throughput_batch_size),
    )
    return ", ".join(f"{name} {value}" for name, value in parts if value is not None)


def window_words(event: LeaseGranted | LeaseEnded) -> str:
    """Of one window of timing."""
    if isinstance(event, LeaseGranted):
        still = f", {len(event.frozen)} others stand still" if event.frozen else ""
        return f"timed alone, window {event.window}{still}"
    end = f": disturbed: {'; '.join(event.reasons)}" if event.reasons else ""
    return clean(f"window {event.window} ended after {duration(event.seconds)}{end}")


def start_words(event: RunStarted) -> str:
    return clean(f"run '{event.run}': {len(event.cells)} cells, {event.jobs} at a time, in {event.folder}")


def end_words(event: RunFinished) -> str:
    """`12 cells: 9 done, 3 reused, in 1:20`."""
    parts = [
        f"{count} {word}"
        for count, word in (
            (event.done, "done"),
            (event.reused, "already finished"),
            (event.failed, "failed"),
            (event.left, "not run"),
        )
        if count
    ]
    return f"{event.total} cells: {', '.join(parts) or 'none'}, in {duration(event.seconds)}"
