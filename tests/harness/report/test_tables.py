import csv
import io
import json
from typing import Any

import msgspec
import pytest
from rich.cells import cell_len
from rich.console import Console

from harness.board import FLAG_MEANINGS, Figure, Leaderboard, NoiseFloor, OverallRow, Row
from harness.report.tables import as_csv, as_json, as_markdown, as_table

WIDTHS = (40, 60, 80, 100, 120, 160, 240)


def figures(value: float = 0.873) -> dict[str, Figure]:
    quality = Figure(value=value, low=value - 0.022, high=value + 0.021)
    return {
        "score": quality,
        "accuracy": quality,
        "f1": quality,
        "latency_median_ms": Figure(value=12.34, low=None, high=None, reason="one seed"),
        "throughput_samples_per_sec": Figure(value=1234.5, low=1200.0, high=1300.0),
        "memory_allocated_mb": Figure(value=None, low=None, high=None, reason="not measured"),
    }


def row(model: str, **changes: Any) -> Row:
    fields: dict[str, Any] = {
        "model": model, "dataset": "sst2", "fingerprint": "0123456789abcdef", "method": "lora", "device": "cpu",
        "seeds": (42, 43, 44), "test_rows": 5000, "rank": 1, "flags": (), "metrics": figures(),
    }  # fmt: skip
    return Row(**(fields | changes))


def board(*rows: Row, overall: tuple[OverallRow, ...] = ()) -> Leaderboard:
    return Leaderboard(confidence=0.95, replicates=1000, weights={"accuracy": 1.0}, rows=rows, overall=overall)


def draw(leaderboard: Leaderboard, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False, color_system=None)
    console.print(as_table(leaderboard, width=width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_eighty_columns_show_what_matters() -> None:
    text = draw(board(row("DeBERTa-v3-small", flags=("one_seed",)), row("TF-IDF", rank=2, method="none")), 80)
    assert text.splitlines()[0].strip() == "sst2 · 5,000 test rows · cpu · seeds 42, 43, 44"
    assert "DeBERTa-v3-small" in text
    assert text.count("0.873 [0.851–0.894]") == 4
    assert "p50 ms" in text and "12.3" in text
    assert f"a  one_seed: {FLAG_MEANINGS['one_seed'][:20]}" in text


def test_more_columns_show_more() -> None:
    leaderboard = board(row("a"), row("b", rank=2, method="none"))
    narrow, wide = draw(leaderboard, 80), draw(leaderboard, 160)
    for heading in ("Samples/s", "Memory MB", "Method", "F1 macro"):
        assert heading in wide
    assert "Memory MB" not in narrow
    assert wide.count("0.873 [0.851–0.894]") == 6
    assert "1,234" in wide
    assert "–" in wide


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_wider_than_asked(width: int) -> None:
    rows = [
        row("a" * 60, flags=("one_seed", "no_timing", "few_test_rows")),
        row("模型" * 30, rank=2, seeds=(1,)),
        row("b", rank=None, device="cuda"),
    ]
    assert max(cell_len(line) for line in draw(board(*rows), width).splitlines()) <= width


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("name", ["[/foo]", "[red]x[/red]", "a|b", ":smile:", "[link=http://x]y"])
def test_names_are_never_markup(name: str, width: int) -> None:
    text = draw(board(row(name, dataset=name)), width)
    assert text.splitlines()[0].startswith(name)
    assert text.count(name) == 2


def test_control_characters_are_replaced() -> None:
    leaderboard = board(row("a\x1b[31mb\nc", dataset="d\x1b]0;t\x07"))
    for text in (draw(leaderboard, 80), as_markdown(leaderboard)):
        assert "\x1b" not in text and "\x07" not in text
        assert "a�" in text


def test_long_names_fold_and_keep_every_letter() -> None:
    name = "abcdefghijklmnopqrstuvwxyz"
    text = draw(board(row(name)), 80)
    assert name[:18] in text and name[18:] in text


def test_methods_and_devices_are_shown_where_they_tell_rows_apart() -> None:
    text = draw(board(row("m"), row("m", rank=2, method="full"), row("m", rank=3, device="cuda")), 80)
    assert all(word in text for word in ("Method", "Device", "full", "cuda"))


def test_a_section_for_each_data_version() -> None:
    leaderboard = board(row("a"), row("a", fingerprint="fedcba9876543210", flags=("other_data_version",)))
    text = draw(leaderboard, 100)
    assert "sst2 (01234567)" in text and "sst2 (fedcba98)" in text


def test_means_over_datasets() -> None:
    overall = OverallRow(model="[/m]", method="lora", device="cpu", rank=1, metrics=figures(0.5))
    leaderboard = board(row("a"), row("a", dataset="imdb"), overall=(overall,))
    for text in (draw(leaderboard, 80), as_markdown(leaderboard)):
        assert "mean over datasets" in text
        assert "0.500 [0.478–0.521]" in text


def test_speeds_that_are_level_are_shown_as_one_value() -> None:
    def timed(value: float, level: float | None) -> dict[str, Figure]:
        return figures() | {"latency_median_ms": Figure(value=value, low=value, high=value, level=level)}

    rows = row("a", metrics=timed(12.1, 12.3)), row("b", metrics=timed(12.5, 12.3)), row("c", metrics=timed(19.0, None))
    noise = NoiseFloor(
        latency_p50=0.041, latency_p99=0.2, throughput=0.033, cpu_model=None, executor="native", threads=1
    )
    leaderboard = msgspec.structs.replace(board(*rows), noise_floor=noise)
    for text in (draw(leaderboard, 160), as_markdown(leaderboard)):
        assert text.count("≈12.3") == 2
        assert "12.1" not in text and "12.5" not in text
        assert "19.0" in text and "≈19.0" not in text
        assert "below 4.1 %" in " ".join(text.split()) and "below 3.3 %" in " ".join(text.split())
    latencies = [line["latency_median_ms"] for line in csv.DictReader(io.StringIO(as_csv(leaderboard)))]
    assert latencies == ["12.1", "12.5", "19.0"]
    none_level = msgspec.structs.replace(board(row("a")), noise_floor=noise)
    assert "≈" not in draw(none_level, 160) + as_markdown(none_level)


def test_an_empty_board_says_so() -> None:
    assert draw(board(), 80).strip() == "No finished cell yet."
    assert json.loads(as_json(board()))["rows"] == []
    assert len(as_csv(board()).splitlines()) == 1
    assert as_markdown(board()) == "No finished cell yet.\n"


def test_json() -> None:
    plain = json.loads(as_json(board(row("a|b", flags=("one_seed",)))))
    first = plain["rows"][0]
    assert first["model"] == "a|b"
    assert first["seeds"] == [42, 43, 44]
    assert first["rank"] == 1
    assert first["accuracy"] == {"value": 0.873, "low": pytest.approx(0.851), "high": pytest.approx(0.894)}
    assert first["memory_allocated_mb"] == {"value": None, "low": None, "high": None, "reason": "not measured"}


def test_csv_is_flat() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(board(row('a,"b"\n|c', flags=("one_seed", "at_chance")))))))
    assert len(rows) == 1
    assert rows[0]["model"] == 'a,"b"\n|c'
    assert rows[0]["seeds"] == "42 43 44"
    assert rows[0]["flags"] == "one_seed at_chance"
    assert float(rows[0]["accuracy"]) == 0.873
    assert float(rows[0]["accuracy_low"]) == pytest.approx(0.851)
    assert rows[0]["latency_median_ms_high"] == rows[0]["memory_allocated_mb"] == rows[0]["mcc"] == ""


def test_markdown_escapes_names() -> None:
    text = as_markdown(board(row("a|b"), row("[x](y)<b>", rank=2, flags=("one_seed",))))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert r"a\|b" in lines[2]
    assert r"\[x\](y)\<b\>" in lines[3]
    assert "0.873 [0.851–0.894]" in lines[2]
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1
    assert f"- `one_seed`: {FLAG_MEANINGS['one_seed']}" in text


def test_rows_stand_in_the_order_of_the_board() -> None:
    text = draw(board(row("first"), row("second", rank=2), row("third", rank=2)), 80)
    assert text.index("first") < text.index("second") < text.index("third")


def test_the_method_of_a_baseline_is_a_dash() -> None:
    mixed = board(row("net"), row("base", rank=2, method="none"))
    wide, markdown = draw(mixed, 160), as_markdown(mixed)
    assert "none" not in wide and "none" not in markdown
    [line] = [line for line in wide.splitlines() if "base" in line]
    assert line.split()[2] == "–"
    assert "| base | – | cpu |" in markdown


def test_a_board_of_baselines_names_no_method() -> None:
    baselines = board(row("a", method="none"), row("b", rank=2, method="none"))
    overall = OverallRow(model="a", method="none", device="cpu", rank=1, metrics=figures(0.5))
    baselines = board(*baselines.rows, overall=(overall,))
    for text in (draw(baselines, 160), as_markdown(baselines)):
        assert "sst2 · 5,000 test rows · cpu · seeds 42, 43, 44" in text
        assert "none" not in text


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_names_in_csv_are_no_formulas(start: str) -> None:
    name = f"{start}cmd|' /C calc'!A0"
    [line] = csv.DictReader(io.StringIO(as_csv(board(row(name, dataset=name, method=name)))))
    assert (line["model"], line["dataset"], line["method"]) == (f"'{name}",) * 3
    assert line["device"] == "cpu"
    negative = board(row("a", metrics={"score": Figure(value=-0.2, low=-0.3, high=-0.1)}))
    assert next(csv.DictReader(io.StringIO(as_csv(negative))))["score"] == "-0.2"
