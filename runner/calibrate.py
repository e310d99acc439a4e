"""A/A windows: one and the same model, timed on the same texts again and again, as a cell times its own.

What differs between two of the windows is the host's doing. The model is a small encoder with random weights, the texts
are those that come with MoodBench: nothing has to be fetched.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

from runner import timing
from runner.contract import CellSpec, EvaluationSpec, ModelSpec, PreparedDataset, ScratchSpec, Timing
from runner.data.embedded import STARTER_CSV
from runner.device import keep_on, make_deterministic
from runner.leases import Leases
from runner.scoring import TransformerPredictor

THREADS = 1
SEED = 0
SPEC = CellSpec(
    model=ModelSpec(alias="calibration", kind="scratch", name="calibration", scratch=ScratchSpec()),
    method="full",
    dataset=PreparedDataset(
        name="starter",
        folder="",
        fingerprint="",
        label_names=("negative", "neutral", "positive"),
        splits={},
        text_column="text",
        label_column="sentiment",
    ),
    seed=SEED,
    threads=THREADS,
)


def calibrate(windows: int, evaluation: EvaluationSpec = SPEC.evaluation) -> Timing:
    """So many windows, each with what one window of a cell has to do under `evaluation`."""
    if hasattr(os, "sched_getaffinity"):
        keep_on((max(os.sched_getaffinity(0)),))  # the last one: interrupts tend to go to the first
    predictor = _predictor(_texts("train"))
    stretches = [timing.shuffled(_texts("test"))] * windows
    nobody = Leases(Path(), lambda event: None, asked=False)
    return timing.measure_blocks(predictor, stretches, evaluation, leases=nobody, emit=lambda event: None)


def _predictor(texts: list[str]) -> TransformerPredictor:
    from runner.models.load import load

    make_deterministic(SEED, THREADS)
    loaded = load(SPEC, texts)
    return TransformerPredictor(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        pad_token_id=loaded.pad_token_id,
        is_decoder=loaded.is_decoder,
        max_length=loaded.max_length,
        device="cpu",
        dtype="float32",
    )


def _texts(split: str) -> list[str]:
    with STARTER_CSV.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file) if row["split"] == split]
