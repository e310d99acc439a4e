"""What a result says in short: its flat figures, why one is null, what was asked for, what was used instead."""

from __future__ import annotations

import msgspec

from runner.contract import CellSpec, Choice, Memory, Quality, Summary, Timing, TrainingReport, batches_of
from runner.pooling import PERCENTILE_BOUNDS


def summarize(
    spec: CellSpec,
    quality: Quality | None,
    timed: Timing | None,
    memory: Memory,
    report: TrainingReport | None,
    train_s: float | None,
) -> Summary:
    metrics = quality.metrics if quality else {}
    best = max(timed.throughput, key=lambda t: t.samples_per_s, default=None) if timed else None
    training_s = report.seconds if report else train_s
    return Summary(
        model_name=spec.model.alias,
        accuracy=metrics.get("accuracy"),
        f1=metrics.get("f1"),
        precision=metrics.get("precision"),
        recall=metrics.get("recall"),
        ttft_mean_ms=timed.latency.mean_ms if timed else None,
        latency_median_ms=timed.latency.p50_ms if timed else None,
        latency_p99_ms=timed.latency.p99_ms if timed else None,
        throughput_tokens_per_sec=best.tokens_per_s if best else None,
        throughput_samples_per_sec=best.samples_per_s if best else None,
        memory_allocated_mb=getattr(memory, _peak_name(spec)),
        training_time_hours=None if training_s is None else training_s / 3600,
    )


def _peak_name(spec: CellSpec) -> str:
    on_device = spec.device != "cpu" and spec.model.kind != "baseline"
    return "device_peak_inference_mb" if on_device else "rss_peak_inference_mb"


def null_reasons(summary: Summary, timed: Timing | None, spec: CellSpec, known: dict[str, str]) -> dict[str, str]:
    """Why each figure of the summary that is null is so. `known`: why what they are made of is."""
    reasons: dict[str, str] = {}
    if summary.memory_allocated_mb is None:
        unknown = f"no peak memory is known on {spec.device} here"
        reasons["memory_allocated_mb"] = known.get(_peak_name(spec), unknown)
    if summary.training_time_hours is None:
        reasons["training_time_hours"] = known["training.seconds"]
    if timed is None:
        names = ("ttft_mean_ms", "latency_median_ms", "latency_p99_ms")
        names += ("throughput_tokens_per_sec", "throughput_samples_per_sec")
        return reasons | dict.fromkeys(names, "the phase 'time' was not asked for")
    for name, p in (("latency_median_ms", 50), ("latency_p99_ms", 99)):
        if getattr(summary, name) is None:
            reasons[name] = (
                f"{timed.latency.requests} requests were timed; a p{p} needs {PERCENTILE_BOUNDS[p]} for a "
                "99 % order-statistic bound"
            )
    if summary.throughput_tokens_per_sec is None:
        reasons["throughput_tokens_per_sec"] = f"'{spec.model.alias}' has no tokenizer"
    if timed.cold_start_s is None:
        reasons["cold_start_s"] = "a baseline is fitted, not loaded"
    return reasons


def batch_choices(spec: CellSpec) -> dict[str, Choice]:
    """A baseline is fitted on everything at once."""
    choices = {}
    for name, value in msgspec.structs.asdict(batches_of(spec)).items():
        instead = spec.fallback is not None and getattr(spec.fallback, name) is not None
        reason = spec.fallback.reason if spec.fallback is not None and instead else "as configured"
        choices[name] = Choice(value=value, reason=reason)
    if spec.model.kind == "baseline":
        del choices["batch_size"], choices["accumulation"]
    return choices


def requested(spec: CellSpec) -> dict[str, object]:
    training = spec.training
    return {
        "device": spec.device,
        "threads": spec.threads,
        "cores": ",".join(map(str, spec.cores)) or None,
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "accumulation": training.accumulation,
        "evaluation_batch_size": spec.evaluation.batch_size,
        "throughput_batch_size": max(spec.evaluation.throughput_batch_sizes, default=None),
        "learning_rate": training.learning_rate,
        "max_length": spec.dataset.max_length,
        "method": spec.method,
        "lora_rank": spec.lora.rank if spec.lora else None,
    }
