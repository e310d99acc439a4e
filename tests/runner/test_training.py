"""The training loop, on a model that fits in a line and on a shrunk BERT."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from runner.checkpoint import TrainingStore
from runner.contract import CellSpec, Memory, Metrics, Place, Progress, TrainingReport, TrainingSpec
from runner.errors import RunnerError
from runner.models.batches import pad_batch
from runner.models.load import LoadedModel, load
from runner.training import Encoded, Schedule, Trainer, epoch_batches, plan_schedule
from tests.runner.models.small_models import Checkpoint, MakeSpec

SPEC = TrainingSpec(epochs=4, batch_size=4, accumulation=1, learning_rate=0.05)


class Bag(nn.Module):
    """Mean of token vectors, then a linear layer: enough to learn which token means which class."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(30, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        mask = attention_mask.unsqueeze(-1)
        mean = (self.table(input_ids) * mask).sum(1) / mask.sum(1)
        return SimpleNamespace(logits=self.head(mean))


def bag() -> LoadedModel:
    return LoadedModel(
        model=Bag(),
        tokenizer=None,  # type: ignore[arg-type]
        method="full",
        model_type="bag",
        is_decoder=False,
        pad_token_id=0,
        max_length=16,
        new_modules=(),
        trained_modules=(),
        adapted_modules={},
        parameters_total=130,
        parameters_trainable=130,
    )


def toy(rows: int = 24, seed: int = 0) -> Encoded:
    """Token 1 means class 1, token 2 class 0; the rest is noise of different lengths."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows, dtype=np.int64) % 2
    ids = [[1 if label else 2, *map(int, rng.integers(3, 30, rng.integers(1, 8)))] for label in labels]
    return Encoded(input_ids=ids, labels=labels)


def predictor(loaded: LoadedModel) -> Callable[[Sequence[list[int]]], NDArray[np.float64]]:
    def predict(ids: Sequence[list[int]]) -> NDArray[np.float64]:
        loaded.model.eval()
        with torch.inference_mode():
            logits = loaded.model(**pad_batch(ids, loaded.pad_token_id, decoder=False)).logits
        return logits.double().softmax(-1).numpy()

    return predict


def trainer(loaded: LoadedModel, folder: Path, spec: TrainingSpec = SPEC, **changes: Any) -> Trainer:
    """One that starts at the beginning, wherever others have been in this folder."""
    settings: dict[str, Any] = {
        "train": toy(),
        "validation": toy(12, seed=1),
        "seed": 42,
        "device": "cpu",
        "dtype": "float32",
        "store": TrainingStore(Path(tempfile.mkdtemp(dir=folder)), "key", lambda message: None),
        "place": Place(executor="native", threads=1),
        "peaks": Memory,
        "predict": predictor(loaded),
        "emit": lambda event: None,
        "clock": time.perf_counter,
    }
    return Trainer(loaded=loaded, spec=spec, **(settings | changes))


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# --- schedule and order -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "changes", "expected"),
    [
        # 10,000 rows / 64: 157 steps an epoch, a tenth of 471 warms up
        (10_000, {}, Schedule(epochs=3, steps_per_epoch=157, warmup_steps=47, eval_every=52, earliest_stop=157)),
        # the cap of 500, and evaluation every 500 steps
        (200_000, {}, Schedule(epochs=3, steps_per_epoch=3125, warmup_steps=500, eval_every=500, earliest_stop=3125)),
        # a last, smaller batch and a last, smaller step count too
        (65, {}, Schedule(epochs=3, steps_per_epoch=2, warmup_steps=0, eval_every=1, earliest_stop=2)),
        (1, {}, Schedule(epochs=3, steps_per_epoch=1, warmup_steps=0, eval_every=1, earliest_stop=1)),
        # epochs are added until min_steps are reached, and training does not stop before
        (100, {"min_steps": 30}, Schedule(15, steps_per_epoch=2, warmup_steps=3, eval_every=1, earliest_stop=30)),
        (100, {"min_steps": 5}, Schedule(3, steps_per_epoch=2, warmup_steps=0, eval_every=1, earliest_stop=5)),
        # 0.1 * 70 is 7.000000000000001 in floating point: not above the tenth
        (64 * 70, {"epochs": 1}, Schedule(1, steps_per_epoch=70, warmup_steps=7, eval_every=23, earliest_stop=70)),
    ],
)
def test_schedule(rows: int, changes: dict[str, Any], expected: Schedule) -> None:
    assert plan_schedule(rows, msgspec.structs.replace(TrainingSpec(), **changes)) == expected


@pytest.mark.parametrize("rows", [*range(192, 3000, 77), 10_000, 54_321])
def test_at_least_three_evaluations_in_every_epoch(rows: int) -> None:
    schedule = plan_schedule(rows, TrainingSpec())
    for epoch in range(schedule.epochs):
        steps = range(epoch * schedule.steps_per_epoch + 1, (epoch + 1) * schedule.steps_per_epoch + 1)
        assert sum(step % schedule.eval_every == 0 for step in steps) >= 3


def test_the_rate_rises_and_falls_on_straight_lines() -> None:
    schedule = Schedule(epochs=2, steps_per_epoch=10, warmup_steps=4, eval_every=3, earliest_stop=10)
    rates = [schedule.rate(step) for step in range(schedule.steps + 1)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    np.testing.assert_allclose(np.diff(rates[4:]), -1 / 16)
    assert rates[-1] == 0


@pytest.mark.parametrize(("rows", "size"), [(1, 8), (7, 8), (100, 8), (1000, 16)])
def test_an_epoch_covers_each_row_once_in_batches_of_like_length(rows: int, size: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 200, rows)
    batches = epoch_batches(lengths, size, np.random.default_rng(0))
    assert sorted(np.concatenate(batches)) == list(range(rows))
    assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1)
    if rows >= 100:
        spread = np.mean([np.ptp(lengths[batch]) for batch in batches])
        assert spread < np.ptp(lengths) / 4  # 8 or 16 rows at random span almost all of it


def test_batches_do_not_come_in_order_of_length_and_differ_between_epochs() -> None:
    lengths = np.arange(160)
    rng = np.random.default_rng(0)
    first, second = (epoch_batches(lengths, 8, rng) for _ in range(2))
    means = [lengths[batch].mean() for batch in first]
    assert means not in (sorted(means), sorted(means, reverse=True))
    assert [list(batch) for batch in first] != [list(batch) for batch in second]


# --- one step ---------------------------------------------------------------------------------


def _bert(make_spec: MakeSpec, checkpoint: Checkpoint) -> LoadedModel:
    loaded = load(make_spec(checkpoint("bert"), "full"))
    for module in loaded.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return loaded


@pytest.mark.parametrize("kind", ["bag", "bert"])
@pytest.mark.parametrize("micro", [1, 3, 5])
def test_accumulation_gives_the_gradient_of_one_big_batch(
    kind: str, micro: int, tmp_path: Path, make_spec: MakeSpec, checkpoint: Checkpoint
) -> None:
    """8 rows in micro-batches of 3, 3 and 2: each row counts the same, whatever its batch."""
    found = []
    for batch_size in (8, micro):
        loaded = bag() if kind == "bag" else _bert(make_spec, checkpoint)
        spec = TrainingSpec(
            epochs=1, batch_size=batch_size, accumulation=math.ceil(8 / batch_size), max_grad_norm=math.inf
        )
        gradients: dict[str, torch.Tensor] = {}
        for name, parameter in loaded.model.named_parameters():
            parameter.register_hook(
                lambda g, n=name, into=gradients: into.update({n: into.get(n, torch.zeros_like(g)) + g})
            )
        trainer(loaded, tmp_path, spec, train=toy(8)).run()
        found.append(gradients)
    assert found[0].keys() == found[1].keys() != set()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4)


@pytest.fixture
def gradient_norms(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The norm of the gradient that each optimiser step uses."""
    norms: list[float] = []
    real = torch.optim.AdamW.step

    def step(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))))
        return real(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    return norms


def test_gradients_are_clipped(tmp_path: Path, gradient_norms: list[float]) -> None:
    trainer(bag(), tmp_path, msgspec.structs.replace(SPEC, max_grad_norm=0.01)).run()
    assert gradient_norms
    np.testing.assert_allclose(gradient_norms, 0.01, rtol=1e-3)


def test_weight_decay_spares_biases_and_norms(tmp_path: Path) -> None:
    loaded = bag()
    optimizer = trainer(loaded, tmp_path, msgspec.structs.replace(SPEC, weight_decay=0.3))._optimizer(
        list(loaded.model.parameters())
    )
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    expected = {"table.weight": 0.3, "head.weight": 0.3, "head.bias": 0.0}
    assert {name: decay[id(p)] for name, p in loaded.model.named_parameters()} == expected


@pytest.mark.parametrize("scale", [1.0, 2.0**10])
def test_fp16_scaling_leaves_the_update_as_it_is(
    scale: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gradient_norms: list[float]
) -> None:
    """Also the gradient is clipped at its true size."""
    plain, scaled = bag(), bag()
    spec = msgspec.structs.replace(SPEC, max_grad_norm=0.3)
    expected = trainer(plain, tmp_path, spec).run()
    true_norms = gradient_norms.copy()
    gradient_norms.clear()
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    monkeypatch.setattr("runner.training.devices.grad_scaler", lambda dtype: scaler)
    report = trainer(scaled, tmp_path, spec).run()
    assert scaler.is_enabled()
    assert min(true_norms) < 0.29
    assert max(true_norms) == pytest.approx(0.3, rel=1e-3)
    np.testing.assert_allclose(gradient_norms, true_norms, rtol=1e-3)
    for name, value in weights(plain.model).items():
        torch.testing.assert_close(weights(scaled.model)[name], value, atol=1e-4, rtol=1e-3)
    assert report.loss_curve[-1].values["loss"] == pytest.approx(expected.loss_curve[-1].values["loss"], abs=1e-4)


def test_an_fp16_overflow_skips_the_step_and_the_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also: torch warns when the schedule moves before the optimiser does, and warnings are errors here."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=10_000)
    monkeypatch.setattr("runner.training.devices.grad_scaler", lambda dtype: scaler)
    loaded, rates = bag(), []
    loaded.model.get_parameter("head.bias").register_hook(lambda gradient: gradient * 100)  # times 2**127: infinite
    rates_of = torch.optim.lr_scheduler.LambdaLR.step
    monkeypatch.setattr(
        torch.optim.lr_scheduler.LambdaLR, "step", lambda self, *a: (rates.append(1), rates_of(self, *a))[1]
    )
    report = trainer(loaded, tmp_path).run()
    skipped = round(math.log2(2.0**127 / scaler.get_scale()))
    assert skipped > 0
    assert len(rates) == 1 + report.steps - skipped  # one is the scheduler's own first
    assert all(torch.isfinite(value).all() for value in weights(loaded.model).values())


@pytest.mark.parametrize("method", ["full", "frozen", "lora"])
def test_only_what_the_method_trains_changes(
    method: Any, tmp_path: Path, make_spec: MakeSpec, checkpoint: Checkpoint
) -> None:
    loaded = load(make_spec(checkpoint("bert"), method))
    before = weights(loaded.model)
    trainer(loaded, tmp_path, msgspec.structs.replace(SPEC, epochs=1, learning_rate=1e-2)).run()
    after = weights(loaded.model)
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    head = {name for name in before if "classifier" in name and "original_module" not in name}
    if method == "full":
        assert moved == set(before)
    elif method == "frozen":
        assert moved == head
    else:
        adapters = {name for name in before if "lora_" in name}
        assert len(adapters) == 8  # two layers, query and value, A and B
        assert moved == adapters | head


# --- a whole training -------------------------------------------------------------------------


def test_it_learns_what_can_be_learnt_and_reports_it(tmp_path: Path) -> None:
    events: list[Any] = []
    loaded, spec = bag(), msgspec.structs.replace(SPEC, epochs=10, learning_rate=0.2, patience=100)
    report = trainer(loaded, tmp_path, spec, emit=events.append).run()
    losses = [point.values["loss"] for point in report.loss_curve]
    assert losses[-1] < losses[0] / 3  # type: ignore[operator]
    assert report.best_f1 == 1.0
    assert (predictor(loaded)(toy(12, 1).input_ids).argmax(1) == toy(12, 1).labels).all()
    assert [point.step for point in report.loss_curve] == list(range(1, report.steps + 1))
    assert report.samples_seen == report.steps * 4
    assert report.epochs == report.steps / 6
    first = next(event for event in events if isinstance(event, Progress))
    assert (first.phase, first.step, first.steps, first.learning_rate) == ("train", 1, 60, pytest.approx(0.2 * 2 / 6))
    curve = [(event.step, event.values) for event in events if isinstance(event, Metrics)]
    assert curve == [(point.step, point.values) for point in report.validation_curve]


def test_the_validation_figures_are_those_of_the_predictions(tmp_path: Path) -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]])
    validation = Encoded(input_ids=[[1]] * 4, labels=np.array([0, 1, 0, 1]))
    report = trainer(bag(), tmp_path, validation=validation, predict=lambda ids: probabilities).run()
    found = report.validation_curve[0].values
    assert found["accuracy"] == 0.75
    assert found["f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert found["loss"] == pytest.approx(-np.mean(np.log([0.9, 0.8, 0.4, 0.7])))


def _train_bert(cell_spec: Callable[..., CellSpec], seed: int, folder: Path) -> tuple[TrainingReport, Any]:
    spec = cell_spec("scratch", seed=seed)
    loaded = load(spec, [f"word{number} other" for number in range(30)])
    assert any(isinstance(m, nn.Dropout) and m.p > 0 for m in loaded.model.modules())
    report = trainer(loaded, folder, msgspec.structs.replace(SPEC, epochs=2), seed=seed).run()
    return report, predictor(loaded)(toy().input_ids)


def test_a_seed_decides_everything(cell_spec: Callable[..., CellSpec], tmp_path: Path) -> None:
    (one, first), (two, second), (other, third) = (_train_bert(cell_spec, seed, tmp_path) for seed in (7, 7, 8))
    assert one.loss_curve == two.loss_curve
    assert one.validation_curve == two.validation_curve
    np.testing.assert_array_equal(first, second)
    assert one.loss_curve != other.loss_curve
    assert not np.allclose(first, third)


def test_the_seed_decides_the_order_of_the_data(tmp_path: Path) -> None:
    """The model is the same and has no dropout: only the order differs."""
    one, same, other = (trainer(bag(), tmp_path, seed=seed).run().loss_curve for seed in (1, 1, 2))
    assert one == same
    assert one != other


class Scripted:
    """Predictions whose macro F1 follows a script, and the weights at each evaluation."""

    def __init__(self, loaded: LoadedModel, right: Sequence[int]) -> None:
        self.loaded, self.right = loaded, list(right)
        self.labels = np.array([0, 1] * 500)
        self.weights: list[dict[str, torch.Tensor]] = []

    def __call__(self, ids: Sequence[list[int]]) -> NDArray[np.float64]:
        self.weights.append(weights(self.loaded.model))
        answers = self.labels.copy()
        wrong = 1000 - self.right[min(len(self.weights), len(self.right)) - 1]
        answers[:wrong] = 1 - answers[:wrong]  # in pairs, so that macro F1 equals accuracy
        return np.eye(2)[answers] * 0.8 + 0.1


def _scripted(folder: Path, right: Sequence[int], **changes: Any) -> tuple[TrainingReport, Scripted, LoadedModel]:
    """24 rows / 4: six steps an epoch, an evaluation every two steps."""
    loaded = bag()
    script = Scripted(loaded, right)
    validation = Encoded(input_ids=[[1]] * 1000, labels=script.labels)
    spec = msgspec.structs.replace(SPEC, **changes)
    return trainer(loaded, folder, spec, validation=validation, predict=script).run(), script, loaded


def test_the_best_weights_come_back_not_the_last(tmp_path: Path) -> None:
    report, script, loaded = _scripted(tmp_path, [500, 700, 900, 800, 900, 600], epochs=2)
    assert (report.best_step, report.best_f1) == (6, pytest.approx(0.9))
    assert len(script.weights) == 6
    for name, value in weights(loaded.model).items():
        assert torch.equal(value, script.weights[2][name])
        assert not torch.equal(value, script.weights[5][name])


@pytest.mark.parametrize(
    ("right", "changes", "steps", "stopped", "best"),
    [
        ([500, 600, 600, 600, 600], {}, 10, True, 4),  # three misses after the step 4
        ([500, 600, 600, 600, 700, 700], {}, 16, True, 10),  # an improvement in between starts over
        (range(500, 740, 20), {}, 24, False, 24),  # always better
        ([700, 700, 700, 700, 700], {}, 8, True, 2),
        ([700, 700, 700], {"patience": 1}, 6, True, 2),  # not before the first epoch is over
        ([700, 700, 700], {"min_steps": 20}, 20, True, 2),  # nor before min_steps
        ([700] * 12, {"patience": 11}, 24, False, 2),  # patience ends with training: that is no early stop
        # steps within min_delta do not count as better for patience, but the best checkpoint follows them
        ([700, 702, 704, 706], {"min_delta": 0.01}, 8, True, 8),
        ([700, 702, 704, 706], {"min_delta": 0.001}, 14, True, 8),
    ],
)
def test_early_stopping(
    right: Sequence[int], changes: dict[str, Any], steps: int, stopped: bool, best: int, tmp_path: Path
) -> None:
    report, _, _ = _scripted(tmp_path, right, **changes)
    assert (report.steps, report.stopped_early, report.best_step) == (steps, stopped, best)
    assert len(report.loss_curve) == steps


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_training(value: float, tmp_path: Path) -> None:
    loaded = bag()
    with torch.no_grad():
        loaded.model.get_parameter("head.bias")[0] = value
    with pytest.raises(RunnerError, match="loss became nan at step 1") as caught:
        trainer(loaded, tmp_path).run()
    assert caught.value.kind == "nan_loss"
    assert "learning_rate" in caught.value.hint


def test_weights_that_break_in_the_last_step_are_found_in_validation(tmp_path: Path) -> None:
    broken = np.full((12, 2), np.nan)
    with pytest.raises(RunnerError, match="validation loss became nan at step 2") as caught:
        trainer(bag(), tmp_path, predict=lambda ids: broken).run()
    assert caught.value.kind == "nan_loss"
