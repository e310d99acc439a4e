"""The leaderboard on a terminal: what is shown at which width, what the marks say, and that names stay names."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.cells import cell_len
from rich.console import Console

from harness.board import FLAG_MEANINGS, Figure, Leaderboard, NoiseFloor
from harness.report.tables import as_table
from harness.report.views import By
from tests.harness.report.boards import board, contrast, figures, overall, row, scaling

WIDTHS = (40, 60, 80, 100, 120, 160, 240)


def draw(leaderboard: Leaderboard, width: int, by: By = "dataset") -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False, color_system=None)
    console.print(as_table(leaderboard, width=width, by=by))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def line_of(name: str, text: str) -> str:
    [line] = [line for line in text.splitlines() if name in line.split()]
    return line


# --- what is shown ----------------------------------------------------------------------------


def test_eighty_columns_show_what_matters() -> None:
    text = draw(board(row("DeBERTa-v3-small", flags=("one_seed",)), row("TF-IDF", rank=2, method="none")), 80)
    assert text.splitlines()[0].strip() == "sst2 · 5,000 test rows · cpu · seeds 42, 43, 44"
    assert text.splitlines()[1].split() == ["#", "Model", "Accuracy", "P(best)", "Score", "p50", "ms", "Notes"]
    assert line_of("TF-IDF", text).split() == [
        "2",
        "[1–2]",
        "TF-IDF",
        "0.873",
        "[0.851–0.894]",
        "62",
        "%",
        "0.873",
        "12.3",
    ]
    assert line_of("DeBERTa-v3-small", text).endswith(" a")
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


@pytest.mark.parametrize("by", ["dataset", "method", "size"])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_wider_than_asked(width: int, by: By) -> None:
    rows = [
        row("a" * 60, flags=("one_seed", "no_timing", "few_test_rows"), tie=1, pareto=True),
        row("模型" * 30, rank=2, seeds=(1,), tie=1),
        row("a" * 60, rank=3, method="full", rank_low=1, rank_high=1000),
        row("a" * 60, rank=3, device="cuda"),
        row("b", rank=None, rank_low=None, rank_high=None, p_best=None, device="cuda", parameters=None),
    ]
    together = board(*rows, overall=(overall("a" * 50),), contrasts=(contrast("method", "lora", "full"),))
    assert max(cell_len(line) for line in draw(together, width, by).splitlines()) <= width


def test_rows_stand_in_the_order_of_the_board() -> None:
    text = draw(board(row("first"), row("second", rank=2), row("third", rank=2)), 80)
    assert text.index("first") < text.index("second") < text.index("third")


def test_methods_and_devices_are_shown_where_they_tell_rows_apart() -> None:
    text = draw(board(row("m"), row("m", rank=2, method="full"), row("m", rank=3, device="cuda")), 80)
    assert all(word in text for word in ("Method", "Device", "full", "cuda"))


def test_a_section_for_each_data_version() -> None:
    leaderboard = board(row("a"), row("a", fingerprint="fedcba9876543210", flags=("other_data_version",)))
    text = draw(leaderboard, 100)
    assert "sst2 (01234567)" in text and "sst2 (fedcba98)" in text


def test_means_over_datasets() -> None:
    text = draw(board(row("a"), row("a", dataset="imdb"), overall=(overall("[/m]"),)), 80)
    assert "mean over datasets" in text
    assert "0.500 [0.478–0.521]" in line_of("[/m]", text)
    assert "Device" not in text


def test_speeds_that_are_level_are_shown_as_one_value() -> None:
    def timed(value: float, level: float | None) -> dict[str, Figure]:
        return figures() | {"latency_median_ms": Figure(value=value, low=value, high=value, level=level)}

    rows = row("a", metrics=timed(12.1, 12.3)), row("b", metrics=timed(12.5, 12.3)), row("c", metrics=timed(19.0, None))
    noise = NoiseFloor(
        latency_p50=0.041, latency_p99=0.2, throughput=0.033, cpu_model=None, executor="native", threads=1
    )
    text = draw(board(*rows, noise_floor=noise), 160)
    assert text.count("≈12.3") == 2
    assert "12.1" not in text and "12.5" not in text
    assert "19.0" in text and "≈19.0" not in text
    assert "below 4.1 %" in " ".join(text.split()) and "below 3.3 %" in " ".join(text.split())
    assert "≈" not in draw(board(row("a"), noise_floor=noise), 160)


def test_an_empty_board_says_so() -> None:
    assert draw(board(), 80).strip() == "No finished cell yet."


def test_the_method_of_a_baseline_is_a_dash() -> None:
    wide = draw(board(row("net"), row("base", rank=2, method="none")), 160)
    assert "none" not in wide
    assert line_of("base", wide).split()[3] == "–"


def test_a_board_of_baselines_names_no_method() -> None:
    baselines = board(row("a", method="none"), row("b", rank=2, method="none"), overall=(overall("a", method="none"),))
    text = draw(baselines, 160)
    assert "sst2 · 5,000 test rows · cpu · seeds 42, 43, 44" in text
    assert "none" not in text


# --- places -----------------------------------------------------------------------------------


def test_ranks_and_their_intervals_stand_below_each_other() -> None:
    rows = [row("a", rank=1, rank_low=1, rank_high=3), row("b", rank=10, rank_low=7, rank_high=12)]
    text = draw(board(*rows, row("c", rank=None, rank_low=None, rank_high=None, p_best=None)), 80)
    assert [line[:9] for line in text.splitlines()[2:5]] == [" 1 [1–3] ", "10 [7–12]", " –       "]
    assert line_of("c", text).split()[:3] == ["–", "c", "0.873"]
    assert "–" in line_of("c", text)[30:]


def test_a_bracket_holds_each_tie_group_together() -> None:
    ties = (1, 1, 1, 2, 3, 3, None)
    rows = [row(f"m{place}", rank=place, tie=tie) for place, tie in enumerate(ties, 1)]
    lines = draw(board(*rows), 80).splitlines()
    assert [line[0] for line in lines[2:9]] == ["┌", "│", "└", " ", "┌", "└", " "]
    assert any(line.startswith("┌└  Tied:") for line in lines)


def test_groups_of_the_same_number_on_two_datasets_are_not_one() -> None:
    text = draw(board(row("a", tie=1), row("a", tie=1, dataset="imdb")), 80)
    assert "Tied" not in text and "┌" not in text


def test_the_front_is_marked() -> None:
    text = draw(board(row("best", pareto=True), row("b", rank=2, pareto=False), row("c", rank=3)), 80)
    assert text.splitlines()[2].startswith("1 [1–2] ◆")
    assert text.count("◆") == 2
    assert "◆  On the Pareto front" in text


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "0 %"), (0.0004, "<1 %"), (0.01, "1 %"), (0.616, "62 %"), (0.99, "99 %"), (0.9996, ">99 %"), (1.0, "100 %")],
)
def test_the_probability_of_being_best(share: float, words: str) -> None:
    text = draw(board(row("m", p_best=share)), 80)
    assert f"] {words}" in " ".join(text.split())
    assert "P(best)  Share" in text


def test_a_board_of_an_older_version_has_no_columns_of_dashes() -> None:
    old = [row(name, rank=n, rank_low=None, rank_high=None, p_best=None) for n, name in enumerate("ab", 1)]
    text = draw(board(*old, overall=(overall("a", rank_low=None, rank_high=None, p_best=None),)), 160)
    assert "P(best)" not in text
    assert line_of("b", text).split()[:2] == ["2", "b"]
    unknown = board(row("a", flags=("of_old",)))
    assert "of_old" in draw(unknown, 80)


# --- by method, by size -----------------------------------------------------------------------


def test_by_method_each_has_its_block_and_what_it_gains_stands_beneath() -> None:
    rows = [row("a", method="frozen"), row("b", rank=2), row("base", rank=3, method="none"), row("a", rank=4)]
    gained = [contrast("method", "lora", "frozen"), contrast("method", "lora", "frozen", "f1", pairs=1)]
    text = draw(board(*rows, contrasts=tuple(gained), overall=(overall("a"),)), 100, "method")
    lines = text.splitlines()
    assert [line.split()[2] if line else "" for line in lines[2:8]] == ["b", "a", "", "a", "", "base"]
    assert [line.split()[3] for line in (lines[2], lines[5], lines[7])] == ["lora", "frozen", "–"]
    assert (
        "lora against frozen: Accuracy +0.031 [-0.002 to +0.049], F1 macro +0.031 [-0.002 to +0.049] (2 models)"
        in " ".join(text.split())
    )
    assert "mean over datasets" not in text
    tied = draw(board(row("a", tie=1), row("b", rank=2, tie=1)), 80, "method")
    assert "┌" not in tied and "Tied" not in tied, "members may stand in several blocks"
    assert "Method" in draw(board(*rows[1:3]), 40, "method"), "as what parts the rows it is always shown"


def test_by_size_the_smallest_comes_first_and_the_fit_stands_beneath() -> None:
    sizes = {"big": 1_240_000_000, "small": 4_385_920, "unknown": None, "middle": 109_483_778}
    rows = [row(name, rank=place, parameters=size, tie=1) for place, (name, size) in enumerate(sizes.items(), 1)]
    kinds = tuple(contrast("architecture", "encoder-only", "decoder-only", metric) for metric in ("accuracy", "f1"))
    text = draw(board(*rows, scaling=(scaling(),), contrasts=kinds), 120, "size")
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[2:6]] == ["small", "middle", "big", "unknown"]
    assert [line.split()[1] for line in lines[2:6]] == ["4.39", "109", "1.24", "–"]
    assert [line.split()[2] for line in lines[2:5]] == ["M", "M", "B"]
    assert "0.0385" in lines[2]
    flat = " ".join(text.split())
    assert (
        "lora: accuracy +0.052 [+0.041 to +0.063] for ten times the parameters (4 models, off the line by 0.010)"
        in flat
    )
    assert "lora: encoder-only against decoder-only: Accuracy +0.031" in flat
    assert "┌" not in text and "Tied" not in text


def test_what_is_told_together_belongs_to_its_data_version() -> None:
    other = "fedcba9876543210"
    rows = [row("a"), row("a", fingerprint=other)]
    text = draw(board(*rows, scaling=(scaling(models=5), scaling(fingerprint=other, models=7))), 120, "size")
    first, second = text.split("sst2 (fedcba98)")
    assert "5 models" in first and "7 models" not in first
    assert "7 models" in second and "5 models" not in second
    assert "models" not in draw(board(*rows, scaling=(scaling(),)), 120)


# --- names are data ---------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("name", ["[/foo]", "[red]x[/red]", "a|b", ":smile:", "[link=http://x]y"])
def test_names_are_never_markup(name: str, width: int) -> None:
    text = draw(board(row(name, dataset=name)), width)
    assert text.splitlines()[0].startswith(name)
    assert text.count(name) == 2


@pytest.mark.parametrize("by", ["dataset", "method", "size"])
def test_control_characters_are_replaced(by: By) -> None:
    evil = "a\x1b[31mb\nc"
    one = row(evil, dataset="d\x1b]0;t\x07", method=evil, device=evil, architecture=evil)
    text = draw(board(one, row("x", device="cuda", dataset=one.dataset), overall=(overall(evil),)), 240, by)
    assert "\x1b" not in text and "\x07" not in text
    assert "a�" in text


def test_long_names_fold_and_keep_every_letter() -> None:
    name = "abcdefghijklmnopqrstuvwxyz"
    text = draw(board(row(name)), 80)
    assert name[:18] in text and name[18:] in text


def test_names_give_way_where_not_even_the_least_fits() -> None:
    rows = [row("x" * 30), row("x" * 30, rank=2, method="frozen"), row("x" * 30, rank=3, device="cuda")]
    text = draw(board(*rows), 40, "size")
    assert ["Model", "Parameters", "Method", "Device", "#"] in [line.split() for line in text.splitlines()]
    assert sum(line.startswith("x") * line.count("x") for line in text.splitlines()) == 90


def test_wide_letters_keep_the_columns_straight() -> None:
    lines = draw(board(row("模型"), row("b", rank=2)), 80).splitlines()
    starts = {cell_len(line[: line.index("0.873")]) for line in lines[2:4]}
    assert len(starts) == 1


def test_a_board_of_another_confidence_says_so() -> None:
    assert "90 % interval" in draw(msgspec.structs.replace(board(row("a")), confidence=0.9), 80)
