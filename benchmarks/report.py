"""How long the report of a large run takes, and how large the page is.

Why: a report is asked for again and again while one thinks about it, and sent around. So it must be written while one
waits, and fit into an e-mail. The run is made here, of the size that real ones have: results with 1,000 raw latencies,
curves and five windows, predictions with probabilities, prepared test splits with texts, one of them with ratings. Only
the figures are drawn at random; files and formats are the real thing.

    .venv/bin/python benchmarks/report.py [--rounds 3] [--models 20] [--datasets 5] [--seeds 3] [--rows 5000]
                                          [--folder DIR]

Each measurement is `moodbench report` in a process of its own, start of Python included. `first`: nothing of the run
was read before, its files are not in memory. `again`: as it is asked for the second time. The last lines of the output
are a Markdown table of medians and ranges; CPU seconds are those of all its threads. Making the run takes some seconds.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from samples import WORDS, a_cell, a_result

from harness.statistics import IntArray, confusion_counts, quality_from_confusion
from harness.store import RunFolder
from runner.contract import (
    CellSpec,
    ClassFigures,
    ModelSpec,
    PreparedDataset,
    Quality,
    Result,
    SliceFigures,
    SplitInfo,
    cell_name,
    encode,
    identity_of,
    write_atomic,
)
from runner.scoring import write_predictions

CLASSES = (("negative", "positive"), ("no", "yes"), ("anger", "fear", "joy", "love", "sadness", "surprise"),
           ("business", "science", "sports", "world"), ("bad", "fair", "good"))  # fmt: skip
BRANCHES = ("California", "Hong Kong", "Paris")
BARS = {"first, s": 5.0, "again, s": 5.0, "page, MB": 8.0}


@dataclass(frozen=True)
class Size:
    models: int
    datasets: int
    seeds: int
    rows: int


def make_run(folder: Path, size: Size) -> RunFolder:
    """A run in which every cell has finished."""
    run = RunFolder(folder / "run")
    specs: list[CellSpec] = []
    for number in range(size.datasets):
        dataset = _dataset(folder / "prepared" / f"data-{number}", number, size.rows)
        labels = pq.read_table(Path(dataset.folder) / "test.parquet")["label"].to_numpy()
        for place, seed in ((place, seed) for place in range(size.models) for seed in range(1, size.seeds + 1)):
            specs.append(spec := _spec(place, dataset, seed))
            _finish(run, spec, labels, 0.7 + 0.25 * place / size.models)
    run.extend("run", {"name": "large"}, specs)
    return run


def _dataset(folder: Path, number: int, rows: int) -> PreparedDataset:
    """The first has ratings and branches, and tells the quality of each branch."""
    folder.mkdir(parents=True)
    names, chance = CLASSES[number % len(CLASSES)], random.Random(number)
    labels = [chance.randrange(len(names)) for _ in range(rows)]
    texts = [" ".join(chance.choices(WORDS, k=chance.randint(5, 60))) for _ in range(rows)]
    columns = {"id": [f"test-{i}" for i in range(rows)], "text": texts, "label": pa.array(labels, pa.int64())}
    if number == 0:
        columns["Rating"] = [str(chance.choice((4, 5)) if label else chance.choice((1, 2, 3))) for label in labels]
        columns["Branch"] = chance.choices(BRANCHES, k=rows)
    pq.write_table(pa.table(columns), folder / "test.parquet", compression="zstd")
    split = SplitInfo(rows=rows, classes={name: labels.count(k) for k, name in enumerate(names)}, sha256="0" * 64)
    dataset = PreparedDataset(
        name=f"data-{number}", folder=str(folder), fingerprint=f"{number:064x}", label_names=names,
        splits={"train": split, "validation": split, "test": split}, text_column="text", label_column="label",
        slice_columns=("Branch",) if number == 0 else (),
    )  # fmt: skip
    write_atomic(folder / "prepared.json", encode(dataset))
    return dataset


def _spec(place: int, dataset: PreparedDataset, seed: int) -> CellSpec:
    model = ModelSpec(
        alias=f"model-{place:02d}", kind="hub", name=f"someone/model-{place:02d}", revision="a" * 40, folder="/nowhere",
        weights_sha256={"model.safetensors": "b" * 64}, parameters=(place + 1) * 20_000_000,
        architecture="decoder-only" if place % 3 == 0 else "encoder-only",
    )  # fmt: skip
    spec = msgspec.structs.replace(a_cell(seed), model=model, dataset=dataset, identity="", cell="")
    identity = identity_of(spec)
    return msgspec.structs.replace(spec, identity=identity, cell=cell_name(spec, identity))


def _finish(run: RunFolder, spec: CellSpec, labels: IntArray, accuracy: float) -> None:
    chance = np.random.default_rng(list(bytes.fromhex(spec.identity[:16])))
    classes, rows = len(spec.dataset.label_names), labels.size
    right = chance.random(rows) < accuracy
    predicted = np.where(right, labels, (labels + chance.integers(1, classes, rows)) % classes)
    shares = chance.dirichlet(np.ones(classes), rows) * 0.45
    shares[np.arange(rows), predicted] += 0.55
    attempt = run.new_attempt(spec.cell)
    write_atomic(attempt.spec, encode(spec), durable=False)
    write_predictions(attempt.predictions, [f"test-{i}" for i in range(rows)], labels, shares)
    write_atomic(attempt.result, encode(_result(spec, labels, shares.argmax(axis=1))), durable=False)


def _result(spec: CellSpec, labels: IntArray, predicted: IntArray) -> Result:
    found = a_result(spec)
    names = spec.dataset.label_names
    confusion = confusion_counts(labels, predicted, len(names))
    scores = {name: float(value) for name, value in quality_from_confusion(confusion).items()}
    per_class = tuple(
        ClassFigures(label=name, precision=0.8, recall=0.8, f1=0.8, support=int(confusion[k].sum()))
        for k, name in enumerate(names)
    )
    slices = BRANCHES if spec.dataset.slice_columns else ()
    quality = Quality(
        rows=labels.size, metrics={**scores, "ece": 0.05}, per_class=per_class,
        per_slice=tuple(SliceFigures(column="Branch", value=one, rows=1_600, accuracy=0.8, f1=0.8) for one in slices),
        confusion=tuple(tuple(map(int, row)) for row in confusion),
    )  # fmt: skip
    summary = msgspec.structs.replace(
        found.summary, model_name=spec.model.alias, accuracy=scores["accuracy"], f1=scores["f1"],
        throughput_samples_per_sec=500.0, memory_allocated_mb=900.0,
    )  # fmt: skip
    provenance = msgspec.structs.replace(found.provenance, dataset_fingerprint=spec.dataset.fingerprint)
    return msgspec.structs.replace(
        found, summary=summary, quality=quality, provenance=provenance, parameters_total=spec.model.parameters
    )


# --- measuring ----------------------------------------------------------------------------------


def measurements(run: RunFolder, rounds: int) -> Iterator[dict[str, float]]:
    page = run.folder / "report.html"
    for _ in range(rounds):
        run.evidence.unlink(missing_ok=True)
        run.leaderboard.unlink(missing_ok=True)
        _forget(run.folder.parent)
        first, again = _report(run), _report(run)
        yield {
            "first, s": first.seconds,
            "first, CPU s": first.cpu_s,
            "again, s": again.seconds,
            "again, CPU s": again.cpu_s,
            "page, MB": page.stat().st_size / 2**20,
            "peak memory, MB": max(first.peak_mb, again.peak_mb),
        }


@dataclass(frozen=True)
class Cost:
    seconds: float
    cpu_s: float
    peak_mb: float


def _report(run: RunFolder) -> Cost:
    command = [sys.executable, "-m", "harness.cli", "report", str(run.folder)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, "the report failed"
    return Cost(seconds=seconds, cpu_s=usage.ru_utime + usage.ru_stime, peak_mb=usage.ru_maxrss / 1024)


def _forget(folder: Path) -> None:
    """Let the kernel drop what it keeps of these files."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    for name, default in (("models", 20), ("datasets", 5), ("seeds", 3), ("rows", 5_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        run = make_run(folder, Size(given.models, given.datasets, given.seeds, given.rows))
        found = list(measurements(run, given.rounds))
    finally:
        shutil.rmtree(folder)
    print("| figure | median | range | bar |\n|---|---|---|---|")
    for name in found[0]:
        values = [one[name] for one in found]
        bar = f"≤ {BARS[name]:g}" if name in BARS else ""
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f}–{max(values):.2f} | {bar} |")


if __name__ == "__main__":
    main()
