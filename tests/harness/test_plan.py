"""What fits, what would fit, how long it takes; and the command that shows it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
import pytest
from msgspec.structs import replace as changed

from harness.cli import cli, main
from harness.cli.asked import Asked
from harness.estimates import Estimate
from harness.executors import Capacity, Gpu, native
from harness.packing import Packer
from harness.plan import Plan, make_plan, memory_needed, without
from harness.store import RunFolder
from runner.contract import CellSpec, Limits, ModelSpec, TrainingSpec
from tests.harness.builders import cell

HOST = Capacity((0, 1), memory_mb=10_000)


def encoder(method: str = "full", **changes: Any) -> CellSpec:
    model = ModelSpec(alias="bert", kind="hub", name="a/bert")
    return changed(cell(), model=model, method=method, **{"cell": f"bert-{method}"} | changes)


def by_batch(spec: CellSpec) -> Estimate:
    """100 MB an example and 1 MB a token of the longest text; LoRA takes half."""
    share = {"full": 1.0, "lora": 0.5, "frozen": 0.1, "none": 0.1}[spec.method]
    batch = max(spec.training.batch_size, spec.evaluation.batch_size, *spec.evaluation.throughput_batch_sizes)
    return Estimate(memory_mb=int(share * (100 * batch + spec.dataset.max_length)))


def planned(
    *specs: CellSpec, estimate: Callable[[CellSpec], Estimate] = by_batch, capacity: Capacity = HOST, **options: Any
) -> Plan:
    estimates = {spec.cell: estimate(spec) for spec in specs}
    given: dict[str, Any] = {"jobs": None, "disk_free_mb": None, "estimate": estimate} | options
    return make_plan(specs, capacity, estimates, **given)


def test_what_fits_runs() -> None:
    plan = planned(encoder("lora"))
    assert [entry.verdict for entry in plan.cells] == ["runs"]
    assert plan.cells[0].failure is None
    assert plan.started == plan.cells


def test_what_cannot_fit_is_refused_as_out_of_memory() -> None:
    plan = planned(encoder(training=TrainingSpec(batch_size=64, accumulation=2)), capacity=Capacity((0,), 7000))
    (entry,) = plan.refused
    assert entry.failure is not None
    assert (entry.failure.kind, entry.failure.cell) == ("out_of_memory", "bert-full")
    assert entry.failure.message == "needs about 6.4 GB of memory, and 6.2 GB can be had"
    assert entry.failure.hint == "training.batch_size 32 with effective_batch_size 128 would fit"
    assert plan.started == ()


@pytest.mark.parametrize(
    ("memory_mb", "hint"),
    [
        (3800, "training.batch_size 32 with effective_batch_size 64"),
        (1900, "method frozen"),
        (500, "batch_size 1 with effective_batch_size 64 and evaluation.batch_size 1"),
    ],
)
def test_the_first_change_that_fits_is_named(memory_mb: int, hint: str) -> None:
    """Of 6,528 MB: the batch first, then what is evaluated at once, shorter texts, a cheaper method, and batches of
    one."""
    spec = encoder(training=TrainingSpec(batch_size=64, accumulation=1))
    (entry,) = planned(spec, capacity=Capacity((0,), memory_mb)).refused
    assert hint in entry.remedy
    assert entry.remedy.endswith("would fit")


def test_evaluation_comes_before_length() -> None:
    def scoring(spec: CellSpec) -> Estimate:
        sizes = (spec.evaluation.batch_size, *spec.evaluation.throughput_batch_sizes)
        return Estimate(memory_mb=max(sizes) * spec.dataset.max_length)

    (entry,) = planned(encoder(), estimate=scoring, capacity=Capacity((0,), 1200)).refused
    assert entry.remedy == "evaluation.batch_size 8 with throughput_batch_sizes up to 8 would fit"


def test_length_comes_before_method() -> None:
    (entry,) = planned(
        encoder(), estimate=lambda spec: Estimate(memory_mb=spec.dataset.max_length), capacity=Capacity((0,), 100)
    ).refused
    assert entry.remedy == "max_length 64 of the dataset would fit"


def test_where_nothing_would_fit_that_is_said() -> None:
    for spec in (encoder(), changed(encoder("full"), model=ModelSpec(alias="s", kind="scratch", name="s")), cell()):
        (entry,) = planned(spec, estimate=lambda _: Estimate(memory_mb=900), capacity=Capacity((0,), 999)).refused
        assert "choose a smaller model" in entry.remedy


def test_advice_on_a_measured_cell_follows_the_measurement() -> None:
    """Computed 3,328 MB and measured 6,656: what is computed for batch 16 counts twice, too."""
    spec = encoder(evaluation=changed(cell().evaluation, batch_size=1, throughput_batch_sizes=(1,)))
    spec = changed(spec, training=TrainingSpec(batch_size=32, accumulation=1))
    twice = {spec.cell: replace(by_batch(spec), memory_mb=2 * by_batch(spec).memory_mb, basis="measured")}
    plan = make_plan([spec], Capacity((0,), 3000), twice, jobs=None, disk_free_mb=None, estimate=by_batch)
    assert plan.cells[0].remedy == "training.batch_size 8 with effective_batch_size 32 would fit"


def test_overcommitted_cells_start_all_the_same() -> None:
    plan = planned(encoder(), capacity=Capacity((0,), 1000), overcommit=True)
    assert [entry.verdict for entry in plan.started] == ["overcommitted"]
    assert plan.cells[0].failure is None
    assert "can be had" in plan.cells[0].reason


def test_a_limit_of_the_user_counts() -> None:
    (entry,) = planned(encoder(limits=Limits(memory_mb=2000))).refused
    assert "2.0 GB can be had" in entry.reason


def test_where_no_memory_is_known_nothing_is_refused() -> None:
    assert planned(encoder(), estimate=lambda _: Estimate(memory_mb=10**6), capacity=Capacity((0,))).refused == ()


def test_on_a_gpu_its_memory_counts() -> None:
    gpus = (Gpu("0", "small", 8000), Gpu("1", "large", 16_000))
    fits, large = (encoder(cell=name, device="cuda") for name in ("fits", "large"))
    needs = {"fits": Estimate(1000, 15_000), "large": Estimate(1000, 16_000)}
    plan = planned(fits, large, estimate=lambda spec: needs[spec.cell], capacity=replace(HOST, gpus=gpus))
    assert [entry.verdict for entry in plan.cells] == ["runs", "refused"]
    assert "of a GPU's memory, and 14.9 GB can be had" in plan.cells[1].reason


def test_a_gpu_of_unknown_memory_refuses_nothing() -> None:
    needs = Estimate(1000, 10**6)
    gpus = (Gpu("0", "small", 8000), Gpu("1", "unknown"))
    assert not planned(encoder(device="cuda"), estimate=lambda _: needs, capacity=replace(HOST, gpus=gpus)).refused


# --- time and disk ----------------------------------------------------------------------------


def several(*seconds: float, timing_s: float = 0.0, **needs: Any) -> tuple[list[CellSpec], dict[str, Estimate]]:
    specs = [encoder(cell=f"c{number}") for number in range(len(seconds))]
    return specs, {
        spec.cell: Estimate(seconds=each, timing_s=timing_s, **needs) for spec, each in zip(specs, seconds, strict=True)
    }


def test_the_longest_go_first_and_two_cores_share_them() -> None:
    specs, estimates = several(1, 2, 3, 4, 6)
    assert make_plan(specs, HOST, estimates, jobs=None, disk_free_mb=None).makespan_s == 8
    assert make_plan(specs, HOST, estimates, jobs=1, disk_free_mb=None).makespan_s == 16


def test_timing_is_shared_by_nobody() -> None:
    specs, estimates = several(5, 5, timing_s=2)
    assert make_plan(specs, HOST, estimates, jobs=2, disk_free_mb=None).makespan_s == 3 + 2 + 2


def test_cells_that_do_not_fit_beside_each_other_follow_each_other() -> None:
    specs, estimates = several(5, 5, memory_mb=6000)
    assert make_plan(specs, HOST, estimates, jobs=None, disk_free_mb=None).makespan_s == 10


def test_refused_cells_take_neither_time_nor_disk() -> None:
    specs, estimates = several(5, memory_mb=10**6, disk_mb=10)
    plan = make_plan(specs, HOST, estimates, jobs=None, disk_free_mb=0, estimate=by_batch)
    assert (plan.makespan_s, plan.disk_mb, plan.disk_problem) == (0, 0, None)


def test_cells_on_gpus_of_which_nothing_is_known_follow_each_other() -> None:
    specs = [encoder(cell=name, device="cuda") for name in "ab"]
    assert planned(*specs, estimate=lambda _: Estimate(seconds=3)).makespan_s == 6


def test_disk_is_what_stays_and_what_those_at_once_need_beyond() -> None:
    specs, estimates = several(1, 1, 1, disk_mb=10, kept_mb=4)
    plan = make_plan(specs, HOST, estimates, jobs=2, disk_free_mb=24)
    assert (plan.disk_mb, plan.disk_problem) == (3 * 4 + 2 * 6, None)
    short = make_plan(specs, HOST, estimates, jobs=2, disk_free_mb=23).disk_problem
    assert short == "the run needs about 24 MB of disk, and 23 MB are free"


def test_what_is_finished_needs_nothing_more() -> None:
    specs, estimates = several(3, 5, disk_mb=10, kept_mb=10)
    packer = Packer(HOST, 1, memory_mb=None)
    left = without(make_plan(specs, HOST, estimates, jobs=1, disk_free_mb=None), {"c1"}, packer)
    assert [entry.verdict for entry in left.cells] == ["runs", "reused"]
    assert (left.makespan_s, left.disk_mb, len(packer)) == (3, 10, 0)


def test_a_finished_cell_is_no_longer_refused() -> None:
    plan = planned(encoder(), capacity=Capacity((0,), 1000))
    left = without(plan, {"bert-full"}, Packer(HOST, 1, memory_mb=None))
    assert (left.refused, left.cells[0].reason) == ((), "")


@pytest.mark.parametrize(("estimate_mb", "limit_mb"), [(100, 4500), (4000, 5000), (8000, 9000)])
def test_the_limit_of_a_container(estimate_mb: int, limit_mb: int) -> None:
    assert memory_needed(Estimate(memory_mb=estimate_mb), HOST, 2) == limit_mb


def test_no_limit_where_no_memory_is_known() -> None:
    assert memory_needed(Estimate(memory_mb=1), Capacity((0,)), 2) is None


# --- the command ------------------------------------------------------------------------------

QUICK_INFO = """
import sys
from runner.__main__ import main
if sys.argv[1] != "info":
    sys.exit(main(sys.argv[1:]))
print('{"device": "cpu", "device_reason": "", "available": ["cpu"]}')
"""
HUGE = """
models: [{alias: huge, scratch: {hidden_size: 16384, layers: 100, heads: 64, intermediate_size: 65536}}, majority]
datasets: [starter-sentiment]
"""


@pytest.fixture
def quick_info(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real runner, but for `info`, which would load torch."""
    command = [sys.executable, "-c", QUICK_INFO]
    monkeypatch.setattr(native, "runner_command", lambda *arguments: [*command, *arguments])


@pytest.fixture
def results(quick_info: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOODBENCH_EXECUTOR", "native")
    monkeypatch.setenv("MOODBENCH_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


Capture = pytest.CaptureFixture[str]
STARTER = ("--datasets", "starter-sentiment", "--smoke")


def test_a_plan_leaves_nothing_behind(results: Path, capsys: Capture) -> None:
    assert main(["plan", "--models", "majority,scratch-tiny", *STARTER, "--run", "later", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [(each["model"], each["method"], each["verdict"]) for each in data["cells"]] == [
        ("majority", "none", "runs"),
        ("scratch-tiny", "full", "runs"),
    ]
    assert all(each["memory_mb"] > 50 and each["seconds"] > 1 and each["basis"] == "computed" for each in data["cells"])
    assert data["makespan_s"] > 0
    assert not results.exists()


def test_finished_cells_are_shown_as_reused(results: Path, capsys: Capture) -> None:
    given = ["plan", "--models", "majority", *STARTER]
    main([*given, "--json"])
    name = json.loads(capsys.readouterr().out)["cells"][0]["cell"]
    RunFolder(results / "nightly").new_attempt(name).result.write_text("{}")
    assert main([*given, "--run", "nightly"]) == 0
    out = capsys.readouterr().out
    assert "reused" in out
    assert "1 cell: 1 reused" in out


def test_what_does_not_fit_is_told_with_what_would(results: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "huge.yaml").write_text(HUGE)
    assert main(["plan", "huge.yaml", "--smoke"]) == 1
    out = capsys.readouterr().out
    assert "does not fit" in out
    assert "2 cells: 1 run, 1 too large" in out
    assert "choose a smaller model" in out
    assert main(["plan", "huge.yaml", "--smoke", "--overcommit", "--json"]) in (0, 1)  # 1: nor does the disk hold it
    assert json.loads(capsys.readouterr().out)["cells"][0]["verdict"] == "overcommitted"


def test_what_is_not_here_cannot_run(results: Path, capsys: Capture) -> None:
    assert main(["plan", "--models", "majority,BERT-tiny", *STARTER]) == 1
    out = capsys.readouterr().out
    assert "cannot run" in out
    assert "moodbench fetch" in out


def test_a_wrong_option_is_a_usage_error(results: Path, capsys: Capture) -> None:
    assert main(["plan", "no-such-suite"]) == 2
    assert "hint:" in capsys.readouterr().err


def test_plan_takes_the_options_of_run() -> None:
    options = [{parameter.name for parameter in load(name).params} for name in ("plan", "run")]
    assert {field.name for field in fields(Asked)} <= options[0] & options[1]


def load(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command
