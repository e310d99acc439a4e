"""What honest uncertainty costs: ranking with joint resamples, live, over many pairs, and from a large run's folder.

Why: intervals that take minutes are switched off. So a leaderboard of a whole benchmark must come while one waits, and
while a run goes on each new result must move it without taking a core from the cells. Four questions, each in a fresh
process, so that peak memory is its own:

    rank         50 models x 5 datasets x 3 seeds x 5,000 test examples, 2,000 joint resamples, from predictions to
                 scores, intervals, rank intervals, ties; then one more result arrives, five times
    alternative  the same work with what one would write otherwise: scikit-learn's F1 of one cell, resample by resample,
                 and statsmodels' exact McNemar, pair by pair; beside them ours on the same arrays
    pairs        20,000 pairs of models, exact McNemar, discordant counts up to 5,000
    leaderboard  `moodbench leaderboard` of 10,000 finished cells (200 models x 10 datasets x 5 seeds, 1,000 examples),
                 start of Python included: when nothing of it was read before, when the run has kept its ranking (as it
                 does when it ends), and with other weights

    .venv/bin/python benchmarks/ranking.py [--rounds 3] [--folder DIR]

The last lines of the output are a Markdown table of medians and ranges. It takes a minute and a half a round; the run
is written below DIR (600 MB).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from report import Size, make_run

Figures = dict[str, float]
MODELS, DATASETS, SEEDS, ROWS = 50, 5, 3, 5_000
PAIRS, DISCORDANT = 20_000, 5_000
BARS = {
    "ranking of 750 cells, 2,000 joint resamples (s)": "≤ 3",
    "one more result, until the board is there (ms)": "≤ 100",
    "peak memory, ranking (MB)": "≤ 500",
    "20,000 exact McNemar tests (s)": "≤ 1",
    "leaderboard of 10,000 cells, as the run kept it (s)": "≤ 2",
    "peak memory, leaderboard (MB)": "≤ 500",
}


def rank(_: Path) -> Figures:
    from harness.ranking import Ranking

    ranking, late = Ranking(), []
    for number, record in enumerate(_records()):
        if number % 151 == 0 and len(late) < 5:
            late.append(record)
        else:
            ranking.add(record)
    began = time.perf_counter()
    ranking.board()
    whole, updates = time.perf_counter() - began, []
    for record in late:
        began = time.perf_counter()
        ranking.add(record)
        ranking.board()
        updates.append(time.perf_counter() - began)
    return {
        "ranking of 750 cells, 2,000 joint resamples (s)": whole,
        "one more result, until the board is there (ms)": 1e3 * statistics.median(updates),
        "peak memory, ranking (MB)": _peak_mb(),
    }


def _records() -> Iterator[object]:
    import msgspec
    from samples import a_cell, a_result

    from harness.entries import CellRecord
    from harness.finished import without_bulk

    chance, base = np.random.default_rng(0), without_bulk(a_result(a_cell(1)))
    for dataset in range(DATASETS):
        labels = chance.integers(0, 2, ROWS).astype(np.int16)
        hardness = chance.random(ROWS)
        for model, seed in ((m, s) for m in range(MODELS) for s in range(SEEDS)):
            right = hardness + chance.normal(0, 0.1, ROWS) < 0.75 + 0.003 * model
            summary = msgspec.structs.replace(
                base.summary, latency_median_ms=5.0 + model, throughput_samples_per_sec=900.0 - model
            )
            yield CellRecord(
                cell=f"{model}-{dataset}-{seed}", model=f"model-{model}", dataset=f"data-{dataset}", fingerprint="f",
                method="lora", seed=seed, device="cpu", labels=labels, predicted=np.where(right, labels, 1 - labels),
                result=msgspec.structs.replace(base, summary=summary, parameters_total=10**6 * (model + 1)),
            )  # fmt: skip


def alternative(_: Path) -> Figures:
    from sklearn.metrics import f1_score
    from statsmodels.stats.contingency_tables import mcnemar

    from harness.statistics import example_counts, mcnemar_exact, resampled_quality

    chance = np.random.default_rng(0)
    labels = chance.integers(0, 2, ROWS)
    predicted = np.where(chance.random((60, ROWS)) < 0.85, labels, 1 - labels)
    began = time.perf_counter()
    for _round in range(50):
        drawn = chance.integers(0, ROWS, ROWS)
        f1_score(labels[drawn], predicted[0][drawn], average="macro")
    theirs = (time.perf_counter() - began) / 50
    began = time.perf_counter()
    resampled_quality(labels, predicted, 2, example_counts(ROWS, 2_000, chance))
    ours = (time.perf_counter() - began) / (len(predicted) * 2_000)
    b, c = (chance.integers(0, 200, 300) for _ in range(2))
    began = time.perf_counter()
    for one, other in zip(b, c, strict=True):
        mcnemar([[0, one], [other, 0]], exact=True)
    theirs_pair = (time.perf_counter() - began) / len(b)
    began = time.perf_counter()
    mcnemar_exact(b, c)
    ours_pair = (time.perf_counter() - began) / len(b)
    return {
        "scikit-learn, macro F1 of one cell in one resample (µs)": 1e6 * theirs,
        "ours, all seven figures of it (µs)": 1e6 * ours,
        "statsmodels, one exact McNemar test (µs)": 1e6 * theirs_pair,
        "ours, of the same (µs)": 1e6 * ours_pair,
    }


def pairs(_: Path) -> Figures:
    from harness.statistics import mcnemar_exact

    chance = np.random.default_rng(0)
    total = chance.integers(0, DISCORDANT, PAIRS)
    b = chance.binomial(total, 0.5)
    began = time.perf_counter()
    mcnemar_exact(b, total - b)
    return {"20,000 exact McNemar tests (s)": time.perf_counter() - began}


def leaderboard(folder: Path) -> Figures:
    run = make_run(folder, Size(models=200, datasets=10, seeds=5, rows=1_000)).folder
    first, first_mb = _command(run)
    kept, kept_mb = _command(run)
    other, other_mb = _command(run, "--weights", "f1=1")
    return {
        "leaderboard of 10,000 cells, nothing read before (s)": first,
        "leaderboard of 10,000 cells, as the run kept it (s)": kept,
        "leaderboard of 10,000 cells, other weights (s)": other,
        "peak memory, leaderboard (MB)": max(first_mb, kept_mb, other_mb),
    }


def _command(run: Path, *options: str) -> tuple[float, float]:
    """Seconds, and MB at the most."""
    command = [sys.executable, "-m", "harness.cli", "leaderboard", str(run), *options]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    assert os.waitstatus_to_exitcode(status) == 0, "the command failed"
    return seconds, _megabytes(usage.ru_maxrss)


QUESTIONS: dict[str, Callable[[Path], Figures]] = {
    "rank": rank,
    "alternative": alternative,
    "pairs": pairs,
    "leaderboard": leaderboard,
}


def _peak_mb() -> float:
    return _megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _megabytes(told: int) -> float:
    return told * (1 if sys.platform == "darwin" else 1024) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the run is written; default: the temporary folder")
    parser.add_argument("--only", choices=QUESTIONS)
    parser.add_argument("--ask", choices=QUESTIONS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ask:
        print(json.dumps(QUESTIONS[args.ask](args.folder)))
        return
    rounds: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for question in [args.only] if args.only else QUESTIONS:
            with tempfile.TemporaryDirectory(prefix="ranking-", dir=args.folder) as folder:
                command = [sys.executable, __file__, "--ask", question, "--folder", folder]
                figures: Figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            print(f"{question}: " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items()), flush=True)
            for name, value in figures.items():
                rounds.setdefault(name, []).append(value)
    print("\n| figure | median | range | bar |\n|---|---|---|---|")
    for name, values in rounds.items():
        spread = f"{_shown(min(values))}–{_shown(max(values))}"
        print(f"| {name} | {_shown(statistics.median(values))} | {spread} | {BARS.get(name, '')} |")


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


if __name__ == "__main__":
    main()
