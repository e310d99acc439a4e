"""What a cell will need: memory, disk, time, computed from its specification.

The terms of memory are those of any training: weights, gradients, the optimizer's two moments, and what the forward
pass keeps for the backward one. Their factors were fitted to peaks of real cells on a CPU, one thread
(`benchmarks/estimates.py` shows estimate and measurement side by side); those of CUDA are computed and not measured.
`harness.history` corrects all of this by what finished cells took.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from harness.shapes import Lengths, Shape, lengths_of, shape_of
from runner.contract import CellSpec, Device, LoraSpec, Method

Basis = Literal["measured", "similar", "computed"]

MB = 2**20
FLOAT = 4  # bytes of the weights, gradients and moments on every device
CHECKPOINT_FROM = 1_000_000_000  # parameters from which the runner recomputes activations unless told

# Resident memory of the process, in MB.
MAJORITY_MB = 90
TFIDF_MB = 220  # scikit-learn
RUNNER_MB = 440  # torch, transformers, peft
WORK_MB = 130  # what autograd, the optimizer and the first batches bring with them
CUDA_HOST_MB = 2_500  # CUDA's libraries on the host's side
CONTEXT_MB = 600  # on the device: context, kernels, workspaces
FRAGMENTS = 1.15  # what CUDA's allocator holds over what is allocated

TOKEN_BYTES = 40  # a token id, as a Python integer in a list
TFIDF_BYTES = 45  # for a byte of training text: its words and word pairs, and how often each text has them ...
SOLVER_BYTES = 16  # ... and for each class what the solver remembers of their weights

# What the forward pass keeps for the backward one, and what a layer holds while it is at work where nothing is kept:
# elements a token and layer, in units of the hidden and of the intermediate size; bytes an attention score.
KEPT: dict[Method, tuple[float, float]] = {"full": (20.0, 3.0), "lora": (22.0, 2.75), "qlora": (22.0, 2.75)}
KEPT_SCORE_BYTES = 15
PASSING = (6.0, 2.5)
PASSING_SCORE_BYTES = 8
HALF = 0.65  # of the float32 size, under bf16 or fp16: norms and softmax stay float32
SAVING = 4  # copies of what is trained, in memory while a checkpoint is written: weights, two moments, best weights

# Multiplications and additions a second, one thread or one GPU, and seconds without work.
RATES: dict[Device, float] = {"cpu": 60e9, "mps": 1e12, "cuda": 2e13}
PASSES: dict[Method, float] = {
    "full": 3.0,
    "lora": 2.1,
    "qlora": 2.1,
    "frozen": 1.0,
    "none": 0.0,
}  # forward passes that a training step is worth
START_S = 6.0
GPU_START_S = 20.0
BASELINE_START_S = 3.0
REQUEST_S = 0.002  # of one request, beside the model
TFIDF_BYTES_A_S = 3e5  # of training text
P99_REQUESTS = 662  # that the runner goes towards

LINEAR_LAYERS = 6  # of a transformer's layer
RECORDS_MB = 2.0
PREDICTION_BYTES = 40


@dataclass(frozen=True)
class Estimate:
    """Peaks of one cell in MB (2**20 bytes), and seconds from its start to its result. `device_mb`: on the GPU; 0 on
    the CPU. `disk_mb`: while it runs, of which `kept_mb` stay. `timing_s`: of its seconds, those in which nothing else
    runs. `basis`: results of the same cell (of another seed), of similar ones, or none."""

    memory_mb: int = 0
    device_mb: int = 0
    disk_mb: int = 0
    seconds: float = 0.0
    basis: Basis = "computed"
    kept_mb: int = 0
    timing_s: float = 0.0


def estimate_of(spec: CellSpec) -> Estimate:
    """From the specification and the files it names."""
    return computed(spec, shape_of(spec.model), lengths_of(spec.dataset))


def computed(spec: CellSpec, shape: Shape | None, lengths: Lengths) -> Estimate:
    """`shape` None: a baseline."""
    if shape is None:
        return _of_baseline(spec, lengths)
    weights, trained = shape.parameters * FLOAT, _trained(spec, shape) * FLOAT
    peak_mb = (weights + max(_training_bytes(spec, shape, lengths), _inference_bytes(spec, shape, lengths))) / MB
    memory_mb, device_mb = RUNNER_MB + WORK_MB + _data_mb(spec, lengths), 0.0
    if spec.device == "cuda":
        memory_mb += CUDA_HOST_MB + (2 * weights + SAVING * trained) / MB
        device_mb = CONTEXT_MB + FRAGMENTS * peak_mb
    else:
        memory_mb += peak_mb
    exported = trained if spec.method in ("lora", "qlora") else weights  # an adapter and the head, or the model
    kept_mb = exported / MB + _records_mb(spec)
    timing_s = _timing_s(spec, 2 * _multiplications(shape, lengths.mean))
    return Estimate(
        memory_mb=math.ceil(memory_mb),
        device_mb=math.ceil(device_mb),
        disk_mb=math.ceil(kept_mb + 2 * SAVING * trained / MB),  # the old checkpoint stays until the new one is whole
        seconds=start_s(spec) + _work_s(spec, shape, lengths) + timing_s,
        kept_mb=math.ceil(kept_mb),
        timing_s=timing_s,
    )


def epochs_of(spec: CellSpec) -> int:
    """As many as configured, or as `min_steps` need."""
    rows, training = spec.dataset.splits["train"].rows, spec.training
    steps = math.ceil(math.ceil(rows / training.batch_size) / training.accumulation)
    return max(training.epochs, math.ceil(training.min_steps / max(1, steps)))


# --- memory -----------------------------------------------------------------------------------


def _trained(spec: CellSpec, shape: Shape) -> int:
    """Parameters that training changes: all, the head, or the adapters and the head."""
    head = shape.hidden**2 + shape.hidden * len(spec.dataset.label_names)
    if spec.method == "full":
        return shape.parameters
    if spec.method == "frozen":
        return head
    lora = spec.lora or LoraSpec()
    if lora.target_modules is None:
        adapted = 4 if shape.gated else 2
    else:
        adapted = LINEAR_LAYERS if lora.target_modules == ("all-linear",) else len(lora.target_modules)
    return head + shape.layers * adapted * lora.rank * 2 * shape.hidden


def _training_bytes(spec: CellSpec, shape: Shape, lengths: Lengths) -> float:
    """Beside the weights. The moments stay; the rest is the larger of a step's and of a checkpoint's."""
    trained = _trained(spec, shape) * FLOAT
    batch = _batch_size(spec)
    if spec.method not in KEPT:
        step = _passing_bytes(spec, shape, batch, lengths.longest)
    else:
        step = _kept_bytes(spec, shape, batch, lengths.longest)
    saving = SAVING * trained if spec.device != "cuda" else 0
    return 2 * trained + max(trained + step, saving, _inference_bytes(spec, shape, lengths))


def _kept_bytes(spec: CellSpec, shape: Shape, batch: int, length: int) -> float:
    tokens = batch * length
    layers: float = shape.layers
    elements = _elements(shape, KEPT[spec.method])
    if _recomputes(spec, shape):
        layers = 2 + shape.layers * shape.hidden / elements  # one with its gradients, and the inputs of all
    return tokens * layers * (elements * FLOAT + _score_bytes(spec, shape, length, KEPT_SCORE_BYTES)) * _width(spec)


def _passing_bytes(spec: CellSpec, shape: Shape, batch: int, length: int) -> float:
    scores = _score_bytes(spec, shape, length, PASSING_SCORE_BYTES)
    return batch * length * (_elements(shape, PASSING) * FLOAT + scores) * _width(spec)


def _inference_bytes(spec: CellSpec, shape: Shape, lengths: Lengths) -> float:
    return _passing_bytes(spec, shape, _largest_inference_batch(spec), lengths.longest)


def _score_bytes(spec: CellSpec, shape: Shape, length: int, each: int) -> float:
    """Of one token. CUDA's attention kernels keep none, but for positions that bias it."""
    if not shape.keeps_scores or (spec.device == "cuda" and shape.score_copies == 1):
        return 0.0
    return shape.heads * length * each * shape.score_copies


def _elements(shape: Shape, share: tuple[float, float]) -> float:
    return share[0] * shape.hidden + share[1] * shape.intermediate * (2.0 if shape.gated else 1.0)


def _width(spec: CellSpec) -> float:
    return HALF if spec.device == "cuda" else 1.0


def _recomputes(spec: CellSpec, shape: Shape) -> bool:
    wanted = spec.training.gradient_checkpointing
    return shape.parameters >= CHECKPOINT_FROM if wanted is None else wanted


def _batch_size(spec: CellSpec) -> int:
    return (spec.fallback and spec.fallback.batch_size) or spec.training.batch_size


def _largest_inference_batch(spec: CellSpec) -> int:
    """Of validation, scoring and throughput."""
    scoring = (spec.fallback and spec.fallback.evaluation_batch_size) or spec.evaluation.batch_size
    if "time" not in spec.phases:
        return scoring
    cap = spec.fallback.throughput_batch_size if spec.fallback else None
    return max([scoring, *(size for size in spec.evaluation.throughput_batch_sizes if cap is None or size <= cap)])


def _data_mb(spec: CellSpec, lengths: Lengths) -> float:
    rows = sum(split.rows for split in spec.dataset.splits.values())
    tokens = 0.0 if spec.model.kind == "baseline" else lengths.mean
    return rows * (lengths.mean_bytes + tokens * TOKEN_BYTES) / MB


# --- disk -------------------------------------------------------------------------------------


def _records_mb(spec: CellSpec) -> float:
    """Predictions, events, log, tokenizer, result."""
    return RECORDS_MB + spec.dataset.splits["test"].rows * (PREDICTION_BYTES + 4 * len(spec.dataset.label_names)) / MB


# --- time -------------------------------------------------------------------------------------


def _multiplications(shape: Shape, length: float) -> float:
    """Of one text's forward pass: every matrix once a token, and attention."""
    return length * (shape.body_parameters + 2 * length * shape.hidden * shape.layers)


def _work_s(spec: CellSpec, shape: Shape, lengths: Lengths) -> float:
    """Training, validation and scoring."""
    rows = {name: split.rows for name, split in spec.dataset.splits.items()}
    training, epochs = spec.training, epochs_of(spec)
    steps = math.ceil(rows["train"] / (training.batch_size * training.accumulation))
    every = max(1, min(training.eval_every_steps, steps // training.evals_per_epoch))
    passes = PASSES[spec.method] + (_recomputes(spec, shape) and spec.method in KEPT)
    texts = epochs * rows["train"] * passes + math.ceil(epochs * steps / every) * rows["validation"] + rows["test"]
    return texts * 2 * _multiplications(shape, lengths.mean) / _rate(spec)


def _timing_s(spec: CellSpec, operations: float) -> float:
    """Of all windows together: requests one by one, then each throughput batch size."""
    if "time" not in spec.phases:
        return 0.0
    asked = spec.evaluation
    request_s = REQUEST_S + operations / _rate(spec)
    least_s = max(asked.min_requests * request_s, asked.latency_min_s)
    wanted_s = min(P99_REQUESTS, asked.max_requests) * request_s
    latency_s = max(least_s, min(wanted_s, asked.latency_max_s))
    latency_s = min(latency_s, asked.max_requests * request_s)
    throughput_s = 0.0
    for size in asked.throughput_batch_sizes:
        text_s = REQUEST_S / size + operations / _rate(spec)
        stream_s = min(max(asked.throughput_texts * text_s, asked.throughput_min_s), asked.throughput_max_s)
        batches_s = asked.windows * size * text_s  # one is the least, and one more warms up
        throughput_s += max(stream_s, batches_s) + batches_s
    return latency_s + asked.windows * asked.warmup_requests * request_s + throughput_s


def _rate(spec: CellSpec) -> float:
    """Operations a second. Further threads of a small model help little."""
    return RATES[spec.device] * (math.sqrt(spec.threads) if spec.device == "cpu" else 1.0)


def start_s(spec: CellSpec) -> float:
    """Before the first phase: the process, its packages and the data."""
    if spec.model.kind == "baseline":
        return BASELINE_START_S
    return START_S if spec.device == "cpu" else GPU_START_S


# --- baselines --------------------------------------------------------------------------------


def _of_baseline(spec: CellSpec, lengths: Lengths) -> Estimate:
    text_bytes = spec.dataset.splits["train"].rows * lengths.mean_bytes
    classes = len(spec.dataset.label_names)
    memory_mb, fit_s = float(MAJORITY_MB), 0.0
    if spec.model.name != "majority":
        memory_mb = TFIDF_MB + text_bytes * (TFIDF_BYTES + SOLVER_BYTES * (classes if classes > 2 else 1)) / MB
        fit_s = text_bytes / TFIDF_BYTES_A_S
    timing_s = _timing_s(spec, 0.0)
    kept_mb = math.ceil(_records_mb(spec))
    return Estimate(
        memory_mb=math.ceil(memory_mb + _data_mb(spec, lengths)),
        disk_mb=kept_mb,
        seconds=start_s(spec) + fit_s + timing_s,
        kept_mb=kept_mb,
        timing_s=timing_s,
    )
