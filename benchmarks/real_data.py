"""Quality on real data: what MoodBench finds where the answer is roughly known.

Why: a harness whose TF-IDF misses the published figure by points has a fault in its splits or its metrics, and no unit
test would show it. Four questions, each through the command line as a user would ask it:

    tfidf-logreg on SST-2, full train, dev as test      known: about 0.819
    MiniLM-L6 LoRA on 8,000 rows of SST-2               known: about 0.85
    MiniLM-L6 LoRA on the UCI sentences                 TF-IDF reaches 0.838 in 10-fold cross-validation
    tfidf-logreg on GoEmotions, Ekman, single-label     macro-F1 of TF-IDF with multi-label rows: 0.544

Run:  MOODBENCH_TEST_DATA=DIR .venv/bin/python benchmarks/real_data.py [--seeds 1,2,3] [--only sst2-full]
The last lines of the output are a Markdown table: accuracy, F1, their 95 % intervals, and wall time of all seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SST2 = "train: {data}/sst2_glue_train.csv, test: {data}/sst2_glue_dev.csv, text_column: text, label_column: label"
EKMAN = (
    "train: {data}/goemotions_train.csv, validation: {data}/goemotions_dev.csv, test: {data}/goemotions_test.csv, "
    "text_column: text, label_column: ekman, label_separator: '|', sizes: {{train: null, validation: null, test: null}}"
)
QUESTIONS = {
    "sst2-full": ("tfidf-logreg", f"{SST2}, sizes: {{{{train: null, validation: 2000, test: null}}}}"),
    "sst2-8k": ("MiniLM-L6", f"{SST2}, sizes: {{{{train: 8000, validation: 1000, test: null}}}}"),
    "uci": ("MiniLM-L6", "file: {data}/uci_sentiment_labelled.csv, text_column: text, label_column: label"),
    "goemotions-ekman": ("tfidf-logreg", EKMAN),
}


def ask(name: str, data: Path, seeds: str, results: Path) -> str:
    """Run one question; a row of the table."""
    model, source = QUESTIONS[name]
    suite = results / f"{name}.yaml"
    suite.write_text(f"models: [{model}]\ndatasets: [{{name: {name}, {source.format(data=data)}}}]\nseeds: [{seeds}]\n")
    moodbench = [sys.executable, "-m", "harness.cli"]
    started = time.perf_counter()
    subprocess.run([*moodbench, "run", str(suite), "--run", name, "--results", str(results)], check=True)
    wall_s = time.perf_counter() - started
    board = subprocess.run(
        [*moodbench, "leaderboard", str(results / name), "--format", "json"], check=True, capture_output=True
    )
    row = json.loads(board.stdout)["rows"][0]
    figures = [f"{row[m]['value']:.3f} [{row[m]['low']:.3f}–{row[m]['high']:.3f}]" for m in ("accuracy", "f1")]
    return f"| {model} | {name} | {row['test_rows']} | {len(row['seeds'])} | {' | '.join(figures)} | {wall_s:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--only", choices=QUESTIONS, action="append")
    args = parser.parse_args()
    if "MOODBENCH_TEST_DATA" not in os.environ:
        sys.exit("set MOODBENCH_TEST_DATA to the folder with the real datasets")
    data = Path(os.environ["MOODBENCH_TEST_DATA"]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        rows = [ask(name, data, args.seeds, Path(folder)) for name in args.only or QUESTIONS]
    print("| model | data | test rows | seeds | accuracy | macro F1 | wall s |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
