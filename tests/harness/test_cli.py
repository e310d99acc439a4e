from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import COMMANDS, main
from harness.store import RunFolder
from tests.harness.builders import cell, prepared, write_result

HEAVY = (
    "torch",
    "transformers",
    "peft",
    "datasets",
    "sklearn",
    "pandas",
    "numpy",
    "pyarrow",
    "plotly",
    "docker",
    "textual",
)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder with one finished run, `nightly`."""
    run = RunFolder(tmp_path / "results" / "nightly")
    specs = [cell(model, dataset=prepared(rows=20)) for model in ("good", "<b>bad", "later")]
    run.extend("nightly", {}, specs)
    for spec, predicted in zip(specs[:2], ((0, 1) * 10, (0, 0) * 10), strict=True):
        write_result(run.new_attempt(spec.cell), spec, (0, 1) * 10, predicted)
    return tmp_path / "results"


Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_every_command(capsys: Capture, option: str) -> None:
    assert main([option]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("command", [[name] for name in COMMANDS] + [["models", "show"], ["datasets", "preview"]])
def test_every_command_has_help(capsys: Capture, command: list[str]) -> None:
    assert main([*command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: moodbench {' '.join(command)}")


def test_help_of_run_lists_every_option_of_the_issue(capsys: Capture) -> None:
    main(["run", "--help"])
    out = capsys.readouterr().out
    for option in ("models", "datasets", "data", "text-column", "label-column", "method", "seeds", "device", "jobs"):
        assert f"--{option} " in out
    assert all(f"--{option} " in out for option in ("smoke", "run", "json"))
    assert "[auto|cpu|cuda|mps]" in out


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("moodbench, version ")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["lederboard"], ["No such command 'lederboard'", "did you mean 'leaderboard'"]),
        (["run", "demmo"], ["error: unknown suite 'demmo' (did you mean 'demo'?)", "hint: "]),
        (["run", "demo", "--seeds", "one"], ["'one' is no list of whole numbers"]),
        (["run", "demo", "--seeds", "-1"], ["seeds lie between"]),
        (["run", "demo", "--models", "a,,b"], ["holds an empty name"]),
        (["run", "demo", "--jobs", "0"], ["--jobs"]),
        (["run", "demo", "--device", "tpu"], ["--device"]),
        (["run", "demo", "--frobnicate"], ["--frobnicate"]),
        (["run", "demo", "--label-column", "x"], ["add --data FILE"]),
        (["run", "--data", "absent.csv"], ["no such file: absent.csv"]),
        (["run", "demo", "--run", "a/b"], ["'a/b' cannot name a run"]),
        (["models", "show", "bert-tinny"], ["did you mean 'BERT-tiny'"]),
        (["datasets", "show", "imbd"], ["did you mean 'imdb'"]),
        (["schema", "Resul"], ["did you mean 'Result'"]),
        (["leaderboard", "nightli"], ["unknown run 'nightli' (did you mean 'nightly'?)"]),
        (["leaderboard", "nightly", "--format", "xml"], ["--format"]),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, results: Path, arguments: list[str], parts: list[str]
) -> None:
    monkeypatch.setenv("MOODBENCH_RESULTS", str(results))
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    for part in parts:
        assert part in captured.err


def test_results_that_cannot_be_written_are_3(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["run", "demo", "--results", str(tmp_path / "file")]) == 3
    assert "error: cannot write to" in capsys.readouterr().err


def test_errors_cannot_restyle_the_terminal(capsys: Capture) -> None:
    assert main(["run", "demo", "--models", "\x1b[31mred\nerror: forged"]) == 2
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert len(err.splitlines()) == 2


# --- models and datasets ----------------------------------------------------------------------


def test_models(capsys: Capture) -> None:
    assert main(["models", "list", "--json"]) == 0
    models = {model["alias"]: model for model in json.loads(capsys.readouterr().out)}
    assert len(models) == 22
    assert (models["BERT-tiny"]["kind"], models["BERT-tiny"]["parameters"]) == ("hub", 4_386_178)
    assert models["MiniLM-L6"]["kind"] == "package"
    assert main(["models", "list"]) == 0
    table = capsys.readouterr().out
    assert all(alias in table for alias in models)
    assert "(gated)" in table


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["models", "show", "gemma-2-2b"], "alias: Gemma-3-270m"),
        (["models", "show", "Phi-3-mini", "--json"], '"target_modules": ['),
        (["datasets", "show", "SST2"], "hub: stanfordnlp/sst2"),
        (["datasets", "show", "disney", "--json"], '">= 4": "positive"'),
    ],
    ids=" ".join,
)
def test_show(capsys: Capture, arguments: list[str], part: str) -> None:
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert part in out
    if "--json" in arguments:
        json.loads(out)


def test_datasets(capsys: Capture) -> None:
    assert main(["datasets", "list", "--json"]) == 0
    names = [dataset["name"] for dataset in json.loads(capsys.readouterr().out)]
    assert names == ["starter-sentiment", "starter-emotion", "imdb", "sst2", "amazon", "yelp", "disney"]
    assert main(["datasets", "list"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in names)


def test_preview_of_a_file_shows_the_guess_classes_and_rows(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    rows = [f"text {i} [bold]x[/foo] \x1b[2J,{'good' if i % 2 else 'bad'}" for i in range(40)]
    path.write_text("\n".join(["review,mood", *rows]))
    assert main(["datasets", "preview", str(path), "--rows", "2"]) == 0
    out = capsys.readouterr().out
    assert "mood" in out
    assert out.count("[bold]x[/foo] �[2J") == 2
    assert "\x1b" not in out


def test_a_dataset_of_all_rows_is_shown_as_such(capsys: Capture, own_config: Path) -> None:
    (own_config / "datasets.yaml").write_text("datasets: [{name: mine, file: x.csv, sizes: null}]")
    assert main(["datasets", "show", "mine"]) == 0
    assert "sizes: null" in capsys.readouterr().out


# --- schema, leaderboard ----------------------------------------------------------------------


def test_schemas(capsys: Capture) -> None:
    assert main(["schema"]) == 0
    schemas = json.loads(capsys.readouterr().out)
    assert {"CellSpec", "Result", "Event", "RunRecord", "SuiteFile", "Leaderboard", "RunEvent"} <= set(schemas)
    assert {"KeptEvidence", "Nps", "Comparison", "GateReport"} <= set(schemas), "baselines, and what commands print"
    assert main(["schema", "cellspec"]) == 0
    assert json.loads(capsys.readouterr().out) == schemas["CellSpec"]


def test_leaderboard_formats(capsys: Capture, results: Path) -> None:
    shown = {}
    for form in ("table", "json", "csv", "markdown"):
        assert main(["leaderboard", "nightly", "--results", str(results), "--format", form]) == 0
        captured = capsys.readouterr()
        shown[form] = captured.out
        assert captured.err == "1 cells have not run to their end yet\n"
    assert [row["model"] for row in json.loads(shown["json"])["rows"]] == ["good", "<b>bad"]
    assert [row["model"] for row in csv.DictReader(io.StringIO(shown["csv"]))] == ["good", "<b>bad"]
    assert "| good |" in shown["markdown"]
    assert "<b>bad" in shown["table"]


def test_leaderboard_of_a_folder(capsys: Capture, results: Path) -> None:
    assert main(["leaderboard", str(results / "nightly"), "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 2


# --- in a process of its own ------------------------------------------------------------------


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    code = (
        "import sys, harness.cli\n"
        "assert harness.cli.main(['--help']) == 0\n"
        f"print('loaded:', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["schema"], 0), (["run", "demo", "--models", "majority", "--smoke", "--json"], 130)],  # its cells are stopped
    ids=["schema", "run"],
)
def test_a_reader_that_has_seen_enough(tmp_path: Path, arguments: list[str], code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait() == code


@pytest.mark.parametrize(
    "arguments", [["demo", "--models", "MiniLM-L7"], ["--data", "absent.csv"], ["demo", "--text-column", "x"]]
)
def test_json_lines_end_with_run_finished_where_no_run_began(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(["run", *arguments, "--json"]) == 2
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["event"], last["outcome"], last["exit_code"]) == ("run_finished", "broken", 2)


def test_schema_of_the_leaderboard_names_what_a_row_holds(capsys: pytest.CaptureFixture[str]) -> None:
    from harness.board import Figure, to_builtins
    from harness.metrics import METRICS
    from tests.harness.report.boards import board, row

    figures = dict.fromkeys(METRICS, Figure(value=1.0, low=None, high=None))
    [written] = to_builtins(board(row("m", metrics=figures)))["rows"]
    assert main(["schema", "leaderboard"]) == 0
    described = json.loads(capsys.readouterr().out)["$defs"]["Row"]
    assert set(written) == set(described["properties"]) == set(described["required"])
