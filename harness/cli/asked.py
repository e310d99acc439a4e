"""The options that choose a suite's cells and where they run: `run` and `plan` understand the same ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import (
    CommaList,
    IntList,
    MemorySize,
    PhaseLimits,
    TimeLimit,
    executor_option,
    results_option,
)
from harness.errors import InputError

if TYPE_CHECKING:
    from harness.catalog import DatasetEntry
    from harness.executors.choice import AskedExecutor
    from harness.request import RunOptions
    from harness.suite import Suite
    from runner.contract import Phase


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options as given, each under its parameter's name."""

    suite: str | None
    models: list[str] | None
    datasets: list[str] | None
    data: Path | None
    text_column: str | None
    label_column: str | None
    methods: list[str] | None
    seeds: list[int] | None
    device: str
    jobs: int | None
    executor: AskedExecutor
    memory: int | None
    timeout: float | None
    phase_timeout: dict[Phase, float] | None
    overcommit: bool
    no_reuse: bool
    track: str | None
    smoke: bool
    name: str | None
    results: Path

    def wanted(self) -> Suite:
        """Raises InputError."""
        from harness.suite import Selection, build_suite

        selection = Selection(
            models=self.models or (),
            datasets=self.datasets or (),
            data=own_data(self.data, self.text_column, self.label_column),
            methods=self.methods or (),
            seeds=self.seeds or (),
            smoke=self.smoke,
        )
        return build_suite(self.suite, selection)

    def options(self) -> RunOptions:
        from harness.request import RunOptions

        return RunOptions(
            device=self.device,
            jobs=self.jobs,
            executor=self.executor,
            memory_mb=self.memory,
            seconds=self.timeout,
            phase_seconds=self.phase_timeout or {},
            overcommit=self.overcommit,
            reuse=not self.no_reuse,
            track=self._store(),
        )

    def _store(self) -> str | None:
        """Hours before it is needed. Raises InputError, SetupError."""
        if self.track is None:
            return None
        from harness.tracking.address import checked_uri, require_mlflow

        require_mlflow()
        return checked_uri(self.track)


OPTIONS = (
    click.argument("suite", required=False),
    click.option("--models", type=CommaList(), help="Aliases; `path:FOLDER` for a model of your own."),
    click.option("--datasets", type=CommaList(), help="Datasets of the catalogue."),
    click.option("--data", type=click.Path(path_type=Path), help="Your own CSV, TSV, JSONL or Parquet file."),
    click.option("--text-column", help="Column of --data that holds the text.  [default: guessed]"),
    click.option("--label-column", help="Column of --data that holds the label.  [default: guessed]"),
    click.option(
        "--method", "methods", type=CommaList(), help="lora, full, frozen.  [default: the suite's, else lora]"
    ),
    click.option("--seeds", type=IntList(), help="One cell per seed.  [default: the suite's, else 42]"),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True),
    click.option("--jobs", type=click.IntRange(min=1), help="Cells at a time.  [default: one for each core]"),
    executor_option,
    click.option("--memory", type=MemorySize(), help="Per cell, such as 4g; containers only.  [default: a fair share]"),
    click.option(
        "--timeout",
        type=TimeLimit(),
        help="Per cell, such as 90s, 30m or 2h, or none.  [default: 20 times the estimate, an hour at least]",
    ),
    click.option("--phase-timeout", type=PhaseLimits(), help="Of single phases: train=2h,time=10m.  [default: none]"),
    click.option("--overcommit", is_flag=True, help="Also start cells that are estimated not to fit into memory."),
    click.option("--no-reuse", is_flag=True, help="Take over no finished cells of other runs."),
    click.option("--track", metavar="URI", help="MLflow store to bring the run into when it ends (`moodbench track`)."),
    click.option("--smoke", is_flag=True, help="50/20/20 rows, 1 epoch; also MOODBENCH_TEST_MODE=1."),
    click.option("--run", "name", help="Folder under the results; running again finishes what is missing."),
    results_option,
)


def suite_options(command: Callable[..., int]) -> Callable[..., int]:
    """`command` gets the options above as one `Asked`, and its own as they are."""

    @functools.wraps(command)
    def gathered(**given: Any) -> int:
        asked = Asked(**{name: given.pop(name) for name in Asked.__dataclass_fields__})
        return command(asked, **given)

    for option in reversed(OPTIONS):
        gathered = option(gathered)
    return gathered


def own_data(data: Path | None, text_column: str | None, label_column: str | None) -> DatasetEntry | None:
    from harness.catalog import DatasetEntry
    from runner.contract import slug

    if data is None:
        if text_column or label_column:
            raise InputError("--text-column and --label-column describe --data, which is missing", "add --data FILE")
        return None
    if not data.is_file():
        raise InputError(f"no such file: {data}", "check the path given to --data")
    return DatasetEntry(name=slug(data.stem), file=str(data), text_column=text_column, label_column=label_column)
