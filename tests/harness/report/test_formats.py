"""The leaderboard for other programs: JSON, CSV as its readers understand it, Markdown, and one flat JSON a row."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest

from harness.board import FLAG_MEANINGS, Figure, Leaderboard, NoiseFloor
from harness.errors import SetupError
from harness.metrics import METRICS
from harness.report.formats import as_csv, as_json, as_markdown, flat_models, write_flat
from tests.harness.report.boards import board, contrast, figures, overall, row, scaling

FLAT_KEYS = [
    "model_name", "accuracy", "f1", "precision", "recall", "ttft_mean_ms", "latency_median_ms", "latency_p99_ms",
    "throughput_tokens_per_sec", "throughput_samples_per_sec", "memory_allocated_mb", "training_time_hours",
]  # fmt: skip


def test_an_empty_board() -> None:
    assert json.loads(as_json(board()))["rows"] == []
    assert len(as_csv(board()).splitlines()) == 1
    assert as_markdown(board()) == "No finished cell yet.\n"
    assert list(flat_models(board())) == []


def test_json() -> None:
    plain = json.loads(as_json(board(row("a|b", flags=("one_seed",)))))
    first = plain["rows"][0]
    assert first["model"] == "a|b"
    assert first["seeds"] == [42, 43, 44]
    assert (first["rank"], first["rank_low"], first["rank_high"], first["p_best"]) == (1, 1, 2, 0.62)
    assert first["accuracy"] == {"value": 0.873, "low": pytest.approx(0.851), "high": pytest.approx(0.894)}
    assert first["memory_allocated_mb"] == {"value": None, "low": None, "high": None, "reason": "not measured"}


# --- CSV --------------------------------------------------------------------------------------


def lines_of(leaderboard: Leaderboard) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(as_csv(leaderboard))))


def test_csv_is_flat() -> None:
    [line] = lines_of(board(row('a,"b"\n|c', flags=("one_seed", "at_chance"))))
    assert line["model"] == 'a,"b"\n|c'
    assert line["seeds"] == "42 43 44"
    assert line["flags"] == "one_seed at_chance"
    assert float(line["accuracy"]) == 0.873
    assert float(line["accuracy_low"]) == pytest.approx(0.851)
    assert line["latency_median_ms_high"] == line["memory_allocated_mb"] == line["mcc"] == ""


def test_csv_has_the_place_and_what_it_comes_from() -> None:
    [line, empty] = lines_of(
        board(
            row("a", rank=2, rank_low=1, rank_high=4, p_best=0.25, tie=1, pareto=True),
            row("b", rank=None, rank_low=None, rank_high=None, p_best=None, pareto=None, parameters=None,
                architecture=None, speed_key=None),
        )
    )  # fmt: skip
    assert [line[name] for name in ("rank", "rank_low", "rank_high", "p_best", "tie")] == ["2", "1", "4", "0.25", "1"]
    assert [line[name] for name in ("parameters", "architecture", "speed_key", "pareto")] == [
        "22713216", "encoder-only", "k1", "true",
    ]  # fmt: skip
    assert lines_of(board(row("c", pareto=False)))[0]["pareto"] == "false"
    names = ("rank", "rank_low", "rank_high", "p_best", "tie", "pareto", "parameters", "architecture", "speed_key")
    assert {empty[name] for name in names} == {""}


def test_csv_has_the_value_that_a_speed_is_shown_as() -> None:
    level = figures() | {"latency_median_ms": Figure(value=12.1, low=12.0, high=12.2, level=12.3)}
    [line] = lines_of(board(row("a", metrics=level)))
    assert (line["latency_median_ms"], line["latency_median_ms_level"]) == ("12.1", "12.3")
    assert line["throughput_samples_per_sec_level"] == ""
    assert "accuracy_level" not in line


def test_readers_see_whole_numbers_as_such() -> None:
    rows = [row("a", pareto=True), row("b", rank=None, rank_low=None, rank_high=None, parameters=None)]
    whole = figures() | {"throughput_samples_per_sec": Figure(value=1200.0, low=1100.0, high=1300.0)}
    read = pa_csv.read_csv(io.BytesIO(as_csv(board(*rows, row("c", metrics=whole))).encode()))
    kinds = {field.name: field.type for field in read.schema}
    assert {kinds[name] for name in ("rank", "rank_low", "rank_high", "test_rows", "parameters")} == {pa.int64()}
    assert {kinds[name] for name in ("p_best", "accuracy", "throughput_samples_per_sec")} == {pa.float64()}
    assert kinds["pareto"] == pa.bool_()
    assert kinds["seeds"] == kinds["fingerprint"] == pa.string()
    assert read["parameters"].to_pylist() == [22_713_216, None, 22_713_216]


def test_every_metric_has_its_columns_and_every_line_as_many_as_the_head() -> None:
    head, *lines = csv.reader(io.StringIO(as_csv(board(row("a"), row("b")))))
    assert len(head) == len(set(head))
    assert {len(line) for line in lines} == {len(head)}
    assert all({name, f"{name}_low", f"{name}_high"} <= set(head) for name in METRICS)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_names_in_csv_are_no_formulas(start: str) -> None:
    name = f"{start}cmd|' /C calc'!A0"
    [line] = lines_of(board(row(name, dataset=name, method=name, architecture=name)))
    assert (line["model"], line["dataset"], line["method"], line["architecture"]) == (f"'{name}",) * 4
    assert line["device"] == "cpu"
    [negative] = lines_of(board(row("a", metrics={"score": Figure(value=-0.2, low=-0.3, high=-0.1)})))
    assert negative["score"] == "-0.2"


# --- Markdown ---------------------------------------------------------------------------------


def test_markdown_escapes_names() -> None:
    text = as_markdown(board(row("a|b"), row("[x](y)<b>", rank=2, flags=("one_seed",)), row("_a_&lt;~~b~~", rank=3)))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert r"a\|b" in lines[2]
    assert r"\[x\](y)\<b\>" in lines[3]
    assert r"\_a\_\&lt;\~\~b\~\~" in lines[4]
    assert "0.873 [0.851–0.894]" in lines[2]
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1
    assert f"- `one_seed`: {FLAG_MEANINGS['one_seed']}" in text


def test_markdown_has_places_and_their_meaning() -> None:
    rows = row("a", rank_high=3, tie=1, pareto=True), row("b", rank=2, tie=1, method="none", p_best=None)
    text = as_markdown(board(*rows, overall=(overall("[/m]", tie=1),)))
    assert "| # | Tie | P(best) | Model | Method | Device | Parameters |" in text
    assert "| 1 [1–3] ◆ | 1 | 62 % | a | lora | cpu | 22.7 M |" in text
    assert "| 2 [1–2] | 1 | – | b | – | cpu |" in text
    assert "### mean over datasets" in text and "0.500 [0.478–0.521]" in text
    assert "- ◆: On the Pareto front" in text and "- Tie: Tied" in text


def test_markdown_has_no_control_characters() -> None:
    text = as_markdown(board(row("a\x1b[31mb\nc", dataset="d\x1b]0;t\x07", method="m\x1b[1m")))
    assert "\x1b" not in text and "\x07" not in text
    assert "a�" in text


def test_markdown_by_method_and_by_size() -> None:
    rows = row("a", method="frozen"), row("b", rank=2, parameters=4_385_920)
    gained = contrast("method", "lora", "frozen")
    whole = board(*rows, contrasts=(gained,), scaling=(scaling(),), overall=(overall("a"),))
    by_method, by_size = as_markdown(whole, "method"), as_markdown(whole, "size")
    assert by_method.index("| b |") < by_method.index("| a |")
    assert r"- lora against frozen: Accuracy +0.031 \[-0.002 to +0.049\] (2 models)" in by_method
    assert by_size.index("| b |") < by_size.index("| a |")
    assert "Accuracy/M" in by_size and "0.0385" in by_size
    assert "- lora: accuracy +0.052" in by_size
    assert "mean over datasets" not in by_method + by_size
    assert "Accuracy/M" not in by_method


def test_markdown_shows_level_speeds_as_one_value() -> None:
    level = figures() | {"latency_median_ms": Figure(value=12.1, low=12.0, high=12.2, level=12.3)}
    noise = NoiseFloor(
        latency_p50=0.041, latency_p99=0.2, throughput=0.033, cpu_model=None, executor="native", threads=1
    )
    text = as_markdown(board(row("a", metrics=level), noise_floor=noise))
    assert "≈12.3" in text and "12.1" not in text
    assert "- ≈: Shown as equal" in text and "below 4.1 %" in text


# --- one flat JSON a row ----------------------------------------------------------------------


def test_a_flat_file_has_exactly_the_names_that_existing_tooling_reads(tmp_path: Path) -> None:
    [path] = write_flat(board(row("org/MiniLM L6", dataset="SST 2")), tmp_path / "new" / "flat")
    assert path == tmp_path / "new" / "flat" / "org-minilm-l6--sst-2--lora.json"
    plain = json.loads(path.read_text())
    assert list(plain) == FLAT_KEYS
    assert plain["model_name"] == "org/MiniLM L6"
    assert (plain["accuracy"], plain["latency_median_ms"]) == (0.873, 12.34)
    assert plain["memory_allocated_mb"] is None
    assert plain["precision"] is None


def test_rows_that_would_share_a_file_have_their_own(tmp_path: Path) -> None:
    rows = [
        row("a/b"),
        row("A-b", rank=2, metrics=figures(0.5)),
        row("a/b", rank=3, device="cuda"),
        row("a/b", fingerprint="other"),
        row("x" * 60 + "1", rank=4),
        row("x" * 60 + "2", rank=5),
        row("alone", rank=6),
    ]
    paths = write_flat(board(*rows), tmp_path)
    assert len({path.name for path in paths}) == len(rows) == len(list(tmp_path.iterdir()))
    assert [json.loads(path.read_text())["model_name"] for path in paths] == [one.model for one in rows]
    assert paths[-1].name == "alone--sst2--lora.json"
    assert all(path.name.startswith("a-b--sst2--lora--") for path in paths[:4])
    assert write_flat(board(*reversed(rows)), tmp_path) == paths[::-1], "a file's name does not hang on the others'"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(SetupError, match="file"):
        write_flat(board(row("a")), tmp_path / "file" / "sub")
    assert (tmp_path / "file").read_text() == "here"
