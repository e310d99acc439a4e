"""What benchmarks are made of: cells, a result and events of the size that real ones have, and a dataset of words."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from runner.contract import (
    CellSpec,
    Choice,
    ClassFigures,
    CodeVersion,
    CurvePoint,
    Event,
    Latency,
    LoraSpec,
    Metrics,
    ModelSpec,
    PhaseFinished,
    PhaseStarted,
    PreparedDataset,
    Progress,
    Provenance,
    Quality,
    Resources,
    Result,
    SplitInfo,
    Summary,
    Throughput,
    Timing,
    TrainingReport,
    Window,
    cell_name,
    identity_of,
)

REQUESTS = 1_000
WINDOWS = 5
STEPS = 500  # of training; its loss is in the result
BATCH_SIZES = (1, 4, 8, 16, 32)
ROWS = {"train": 64, "validation": 16, "test": 200}
WORDS = ("people", "time", "first", "water", "been", "called", "who", "oil", "its", "now", "find", "long", "down")
PACKAGES = ("torch", "transformers", "tokenizers", "peft", "safetensors", "numpy", "pyarrow", "scikit-learn")
SPLIT = SplitInfo(rows=5_000, classes={"negative": 2_500, "positive": 2_500}, sha256="0" * 64)
DATASET = PreparedDataset(
    name="reviews", folder="/nowhere", fingerprint="f" * 64, label_names=("negative", "positive"),
    splits={"train": SPLIT, "validation": SPLIT, "test": SPLIT}, text_column="text", label_column="label",
)  # fmt: skip
MODEL = ModelSpec(
    alias="MiniLM-L6", kind="hub", name="sentence-transformers/all-MiniLM-L6-v2", revision="a" * 40,
    folder="/nowhere", weights_sha256={"model.safetensors": "b" * 64}, parameters=22_713_986,
)  # fmt: skip


def a_cell(seed: int) -> CellSpec:
    fields = {"model": MODEL, "method": "lora", "lora": LoraSpec(), "dataset": DATASET, "seed": seed, "lease": True}
    identity = identity_of(CellSpec(**fields))
    return CellSpec(**fields, identity=identity, cell=cell_name(CellSpec(**fields), identity))


def a_result(spec: CellSpec) -> Result:
    """About 30 KB."""
    chance = random.Random(1)
    curve = [CurvePoint(step=step, values={"loss": chance.random()}) for step in range(1, STEPS + 1, 5)]
    figures = [ClassFigures(label=name, precision=0.8, recall=0.8, f1=0.8, support=2_500) for name in SPLIT.classes]
    return Result(
        cell=spec.cell, identity=spec.identity, model=spec.model.alias, dataset=spec.dataset.name, method=spec.method,
        seed=spec.seed, device="cpu", label_names=spec.dataset.label_names,
        summary=Summary(model_name=MODEL.alias, accuracy=0.8, f1=0.8, latency_median_ms=9.1, latency_p99_ms=14.1),
        quality=Quality(rows=5_000, metrics={"accuracy": 0.8, "f1": 0.8}, per_class=tuple(figures)),
        training=TrainingReport(
            steps=STEPS, epochs=3.0, samples_seen=30_000, seconds=300.0, samples_per_s=100.0, best_step=400,
            best_f1=0.8, stopped_early=False, loss_curve=tuple(curve), validation_curve=tuple(curve[::10]),
        ),
        timing=_timing(chance),
        phases={"load": 3.0, "tokenize": 1.0, "train": 300.0, "export": 1.0, "score": 10.0, "time": 40.0},
        requested={"batch_size": 16, "accumulation": 4, "threads": 1},
        effective={"dtype": Choice(value="float32", reason="the CPU"), "cores": Choice(value="0", reason="given")},
        provenance=Provenance(
            started=1.7e9, finished=1.7e9 + 355, hostname_hash="c" * 16, os="Linux", cpu_model="a processor", cores=2,
            threads=1, ram_mb=8_000.0, gpu_model=None, python="3.11.7", packages=dict.fromkeys(PACKAGES, "1.2.3"),
            code=CodeVersion(), model_revision=MODEL.revision, weights_sha256=MODEL.weights_sha256,
            dataset_fingerprint=DATASET.fingerprint, seed=spec.seed,
        ),
    )  # fmt: skip


def _timing(chance: random.Random) -> Timing:
    samples = tuple(round(chance.lognormvariate(2.2, 0.1), 4) for _ in range(REQUESTS))
    speeds = tuple(
        Throughput(
            batch_size=size,
            samples=1_000,
            seconds=chance.uniform(1, 4),
            samples_per_s=chance.uniform(200, 600),
            tokens_per_s=chance.uniform(4_000, 9_000),
        )
        for size in BATCH_SIZES
    )
    windows = tuple(
        Window(
            number=number, block=number, t=1.7e9 + 60 * number, seconds=7.9, requests=REQUESTS // WINDOWS,
            mean_ms=9.3, p50_ms=9.1, throughput=speeds, cpu_share_foreign=0.01, contaminated=False,
        )
        for number in range(1, WINDOWS + 1)
    )  # fmt: skip
    latency = Latency(
        requests=REQUESTS, mean_ms=9.3, std_ms=0.9, p50_ms=9.1, p90_ms=11.0, p95_ms=12.0, p99_ms=14.1,
        samples_ms=samples,
    )  # fmt: skip
    return Timing(latency=latency, throughput=speeds, windows=windows, cold_start_s=4.0, contaminated=False)


def events_of_a_cell(count: int) -> Iterator[Event]:
    """What training tells: progress for the most part, quality and memory now and then."""
    yield PhaseStarted(t=1.7e9, seq=0, phase="train")
    for number in range(1, count - 1):
        stamp = {"t": 1.7e9 + number, "seq": number}
        if number % 50 == 0:
            values = {"f1": 0.8, "accuracy": 0.8, "loss": 0.4}
            yield Metrics(**stamp, phase="train", split="validation", step=number, values=values)
        elif number % 10 == 0:
            yield Resources(**stamp, rss_mb=812.5)
        else:
            yield Progress(
                **stamp, phase="train", step=number, steps=count, loss=0.43219, learning_rate=1.25e-4,
                samples_per_s=143.4, eta_s=32.0,
            )  # fmt: skip
    yield PhaseFinished(t=1.7e9 + count, seq=count - 1, phase="train", seconds=float(count))


def words(folder: Path) -> PreparedDataset:
    """Random words, 5 to 25 a text."""
    import pyarrow as pa  # not for those whose memory is measured
    import pyarrow.parquet as pq

    folder.mkdir()
    chance = random.Random(0)
    splits = {}
    for split, rows in ROWS.items():
        texts = [" ".join(chance.choices(WORDS, k=chance.randint(5, 25))) for _ in range(rows)]
        table = {"id": [f"{split}-{i}" for i in range(rows)], "text": texts, "label": [i % 2 for i in range(rows)]}
        pq.write_table(pa.table(table), folder / f"{split}.parquet")
        splits[split] = SplitInfo(rows=rows, classes={"a": rows // 2, "b": rows // 2}, sha256="0" * 64)
    return PreparedDataset(
        name="words", folder=str(folder), fingerprint="0" * 64, label_names=("a", "b"), splits=splits,
        text_column="text", label_column="label",
    )  # fmt: skip
