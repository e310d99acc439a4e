"""What a report shows, made by hand: every field filled, figures that agree with the predictions they stand beside."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from harness.board import Contrast, Figure, Leaderboard, NoiseFloor, OverallRow, Row, Scaling, SpeedKey
from harness.compare import Significance
from harness.metrics import METRICS
from harness.nps import OVERALL, Nps, NpsLine
from harness.record import RunRecord
from harness.report.material import Disagreement, Material, Reliability, ReportCell, ReportRow, Section
from runner.contract import Failure

from .report_cells import RATED, Model, report_cell

CONFIDENCE = 0.95


MODELS = (
    Model("Qwen3-0.6B", "lora", 0.93, 160.0, 596_000_000, "decoder-only"),
    Model("DistilBERT", "lora", 0.91, 24.0, 67_000_000),
    Model("MiniLM-L6", "lora", 0.89, 9.0, 22_700_000),
    Model("MiniLM-L6", "frozen", 0.83, 8.8, 22_700_000),
    Model("SmolLM2-135M", "lora", 0.88, 55.0, 135_000_000, "decoder-only"),
    Model("tfidf-logreg", "none", 0.82, 0.4, None, None),
)
LABELS = {"sst2": ("negative", "positive"), RATED: ("negative", "positive")}
TOPICS = ("business", "science", "sports", "world")


def many_models(count: int) -> tuple[Model, ...]:
    """From the smallest to the largest, each tenth a decoder."""
    return tuple(
        Model(f"model-{n:02d}", "lora", 0.70 + 0.25 * n / count, 3.0 * 1.25**n, 4_000_000 * (n + 1) ** 2)
        for n in range(count)
    )


def material(
    models: Sequence[Model] = MODELS,
    datasets: Sequence[str] = (RATED, "sst2"),
    seeds: Sequence[int] = (1, 2),
    *,
    test_rows: int = 400,
    requests: int = 200,
    points: int = 60,
    **changes: Any,
) -> Material:
    """A run in which every model has finished on every dataset. `requests`: raw latencies of a cell; `points`: of its
    loss curve. `changes`: fields of the material, instead of those made here."""
    sections = tuple(_section(dataset, models, seeds, test_rows, requests, points) for dataset in datasets)
    fields: dict[str, Any] = {
        "run": RunRecord(name="example", created=0.0, version="0.1.0"),
        "board": _board(sections, models),
        "sections": sections,
        "nps": tuple(_nps(section) for section in sections if section.dataset == RATED),
        "no_nps": None if RATED in datasets else "no dataset of the run has ratings",
        "failures": (Failure(cell="big--sst2--lora--s1", kind="out_of_memory", message="no room", hint="less batch"),),
        "missing": 1,
    }
    return Material(**(fields | changes))


# --- a dataset -------------------------------------------------------------------------------------


def _section(
    dataset: str, models: Sequence[Model], seeds: Sequence[int], test_rows: int, requests: int, points: int
) -> Section:
    names = LABELS.get(dataset, TOPICS)
    labels = np.random.default_rng(len(dataset)).integers(0, len(names), test_rows)
    rows = []
    for number, model in enumerate(models):
        cells = tuple(
            report_cell(model, dataset, names, labels, seed, requests, points, number * 1000 + seed) for seed in seeds
        )
        rows.append(_row(model, dataset, cells))
    rows.sort(key=lambda one: -(one.row.metrics["score"].value or 0.0))
    ranked = tuple(_placed(one, place, len(rows)) for place, one in enumerate(rows, 1))
    return Section(
        dataset=dataset,
        fingerprint=f"{dataset}-fingerprint",
        label_names=names,
        rows=ranked,
        significance=_significance(ranked),
        disagreements=(
            Disagreement(
                id="17",
                text="Not bad & <b>not</b> good",
                label=names[1],
                answers={one.label: names[place % 2] for place, one in enumerate(ranked)},
            ),
        ),
        disagreements_total=1,
        no_texts=None,
    )


# --- rows and the board ------------------------------------------------------------------------------


def _row(model: Model, dataset: str, cells: tuple[ReportCell, ...]) -> ReportRow:
    metrics = {name: Figure(value=None, low=None, high=None, reason="not measured") for name in METRICS}
    results = [cell.result for cell in cells]
    for name in ("accuracy", "f1", "precision", "recall", "mcc"):
        metrics[name] = figure(float(np.mean([r.quality.metrics[name] for r in results if r.quality])), 0.02)
    timings = [r.timing for r in results if r.timing]
    for name, attribute in (
        ("latency_median_ms", "p50_ms"),
        ("latency_p95_ms", "p95_ms"),
        ("latency_p99_ms", "p99_ms"),
    ):
        values = [getattr(timing.latency, attribute) for timing in timings]
        if None not in values:
            metrics[name] = figure(float(np.mean(values)), 0.05 * float(np.mean(values)))
    per_s = float(np.mean([r.summary.throughput_samples_per_sec or 0.0 for r in results]))
    metrics["throughput_samples_per_sec"] = figure(per_s, 0.04 * per_s)
    memory = float(np.mean([r.summary.memory_allocated_mb or 0.0 for r in results]))
    metrics["memory_allocated_mb"] = figure(memory, 5.0)
    score = (metrics["f1"].value or 0.0) - 0.002 * math.log(model.ms)
    metrics["score"] = figure(score, 0.03)
    test_rows = max(r.quality.rows for r in results if r.quality)
    row = Row(
        model=model.name, dataset=dataset, fingerprint=f"{dataset}-fingerprint", method=model.method, device="cpu",
        rank=None, rank_low=None, rank_high=None, p_best=None, tie=None,
        seeds=tuple(r.seed for r in results), test_rows=test_rows, architecture=model.architecture,
        parameters=model.parameters, pareto=False, speed_key="k1",
        flags=("one_seed",) if len(results) == 1 else (), metrics=metrics,
    )  # fmt: skip
    return ReportRow(row=row, label=model.label, cells=cells, reliability=_reliability(model))


def figure(value: float, half: float) -> Figure:
    return Figure(value=value, low=value - half, high=value + half)


def _placed(one: ReportRow, place: int, count: int) -> ReportRow:
    row = msgspec.structs.replace(
        one.row,
        rank=place,
        rank_low=max(1, place - 1),
        rank_high=min(count, place + 1),
        p_best={1: 0.7, 2: 0.3}.get(place, 0.0),
        tie=(place + 1) // 2,
        pareto=place % 2 == 1,
    )
    return dataclasses.replace(one, row=row)


def _reliability(model: Model) -> Reliability:
    confidence = np.arange(15) / 15 + 1 / 30
    share = np.where(confidence >= 0.5, confidence**4, 0.0)
    empty = share == 0
    return Reliability(
        share=share / share.sum(),
        confidence=np.where(empty, np.nan, confidence),
        accuracy=np.where(empty, np.nan, np.minimum(confidence * model.strength, 1.0)),
        ece=0.04,
    )


def _significance(rows: Sequence[ReportRow]) -> Significance:
    accuracy = np.array([one.row.metrics["accuracy"].value for one in rows], dtype=np.float64)
    difference = accuracy[:, None] - accuracy[None, :]
    p = np.exp(-60 * np.abs(difference))
    np.fill_diagonal(p, np.nan)
    return Significance(difference=difference, p=p, detectable=0.041)


def _board(sections: Sequence[Section], models: Sequence[Model]) -> Leaderboard:
    key = SpeedKey(
        device="cpu", cpu_model="AMD EPYC", threads=2, gpu_model=None, executor="native", image_digest=None, cpus=None
    )
    return Leaderboard(
        confidence=CONFIDENCE,
        replicates=2000,
        weights={"accuracy": 0.3, "f1": 0.3, "throughput_samples_per_sec": 0.2, "latency_median_ms": -0.2},
        noise_floor=NoiseFloor(
            latency_p50=0.02, latency_p99=0.05, throughput=0.03, cpu_model="AMD EPYC", executor="native", threads=2
        ),
        rows=tuple(one.row for section in sections for one in section.rows),
        overall=_overall(sections, models) if len(sections) > 1 else (),
        speed_keys={"k1": key},
        scaling=tuple(_scaling(section) for section in sections),
        contrasts=tuple(contrast for section in sections for contrast in _contrasts(section)),
    )


def _overall(sections: Sequence[Section], models: Sequence[Model]) -> tuple[OverallRow, ...]:
    def mean(model: Model, name: str) -> float:
        rows = [one.row for section in sections for one in section.rows if one.label == model.label]
        return float(np.mean([row.metrics[name].value or 0.0 for row in rows]))

    ordered = sorted(models, key=lambda model: -mean(model, "score"))
    return tuple(
        OverallRow(
            model=model.name, method=model.method, device="cpu", rank=place, rank_low=max(1, place - 1),
            rank_high=min(len(models), place + 1), p_best={1: 0.8, 2: 0.2}.get(place, 0.0), tie=(place + 1) // 2,
            metrics={name: figure(mean(model, name), 0.015) for name in ("score", "accuracy", "f1")},
        )
        for place, model in enumerate(ordered, 1)
    )  # fmt: skip


def _scaling(section: Section) -> Scaling:
    return Scaling(
        dataset=section.dataset, fingerprint=section.fingerprint, method="lora", models=4,
        slope=figure(0.03, 0.01), intercept=0.66, residual=0.01,
    )  # fmt: skip


def _contrasts(section: Section) -> list[Contrast]:
    kinds = (("method", "lora", "frozen", 1, 0.06), ("architecture", "decoder-only", "encoder-only", 2, -0.01))
    return [
        Contrast(
            kind=kind, dataset=section.dataset, fingerprint=section.fingerprint, first=first, second=second,
            metric=metric, pairs=pairs, difference=figure(value, 0.02),
        )
        for kind, first, second, pairs, value in kinds
        for metric in ("accuracy", "f1")
    ]  # type: ignore[misc]  # fmt: skip


# --- NPS -----------------------------------------------------------------------------------------


def _nps(section: Section) -> Nps:
    branches = (OVERALL, "California", "Hong Kong", "Paris")
    lines = []
    for place, branch in enumerate(branches):
        actual = 40.0 + 5 * place
        lines.append(_nps_line(None, branch, actual, None))
        for shift, one in enumerate(section.rows):
            lines.append(_nps_line(one, branch, actual + 3 * shift - 4, 3.0 * shift - 4))
    return Nps(
        dataset=section.dataset, fingerprint=section.fingerprint, threshold=0.8, sample=1000, seed=42,
        confidence=CONFIDENCE, replicates=2000, lines=tuple(lines),
    )  # fmt: skip


def _nps_line(one: ReportRow | None, branch: str, nps: float, error: float | None) -> NpsLine:
    row = one.row if one else None
    return NpsLine(
        model=row.model if row else None, method=row.method if row else None, device=row.device if row else None,
        seeds=row.seeds if row else (), branch=branch, reviews=1000, nps=figure(nps, 4.0),
        promoters=0.1 + (100 + nps) / 250, passives=0.1, detractors=0.8 - (100 + nps) / 250,
        error=None if error is None else figure(error, 2.0), accuracy=figure(0.85, 0.02) if row else None,
    )  # fmt: skip
