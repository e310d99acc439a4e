from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from rich.console import Console

from harness.board import Figure
from harness.cli.nps import nps as command
from harness.entries import CellRecord, Entry
from harness.errors import InputError
from harness.evidence import Evidence
from harness.nps import (
    ERROR,
    NPS,
    OVERALL,
    REPLICATES,
    SAMPLE,
    Answers,
    Measured,
    Nps,
    NpsLine,
    Resampling,
    categories_of_answers,
    categories_of_ratings,
    lines_of,
    nps_of,
)
from harness.report.nps_table import as_csv, as_table
from harness.statistics import example_counts, seed_draws
from runner.contract import PreparedDataset
from tests.harness.answered import answered, prepare

RATINGS = [5, 5, 5, 4, 4, 3, 3, 2, 1, 1]
BRANCHES = ["Paris"] * 5 + ["California"] * 5
ENTRY = Entry("m", "lora", "cpu", (), superseded=False)


def labels_of(ratings: Sequence[int]) -> list[int]:
    return [int(rating >= 4) for rating in ratings]


def park(folder: Path, ratings: Sequence[int] = RATINGS, **fields: Any) -> PreparedDataset:
    kept = {"Rating": list(ratings), "Branch": BRANCHES} if len(ratings) == 10 else {"Rating": list(ratings)}
    return prepare(folder / fields.get("dataset", "park"), labels_of(ratings), kept, **fields)


def positives(*shares: float) -> list[tuple[float, float]]:
    return [(1 - share, share) for share in shares]


def evidence(*records: CellRecord) -> Evidence:
    return Evidence(name="run", folder=None, records=records, failures=(), missing=0, noise_floor=None)


def lines_by(nps: Nps, model: str | None) -> dict[str, NpsLine]:
    return {line.branch: line for line in nps.lines if line.model == model}


# --- by hand ------------------------------------------------------------------------------------


def test_categories() -> None:
    assert categories_of_ratings(np.array([1, 2, 3, 4, 5])).tolist() == [-1, -1, -1, 0, 1]
    positive = np.array([False, True, True, True])
    share = np.array([0.2, 0.79, np.float32(0.8), 0.95], dtype=np.float64)
    assert categories_of_answers(positive, share, 0.8).tolist() == [-1, 0, 1, 1]


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7, 0.8, 0.9])
def test_a_probability_of_the_threshold_has_reached_it(threshold: float) -> None:
    """Written as float32, some of them lie below: 0.7 is 0.699999988."""
    written = np.array([threshold], dtype=np.float32).astype(np.float64)
    assert categories_of_answers(np.array([True]), written, threshold).tolist() == [1]


def test_the_figures_of_ten_reviews(tmp_path: Path) -> None:
    """Actual: 3 promoters, 2 passives, 5 detractors: NPS -20. The model: 4 sure, 2 unsure, 4 negative: 0; it is right
    where the rating is at least 4, and once more."""
    shares = positives(0.9, 0.8, 0.6, 0.9, 0.1, 0.2, 0.7, 0.1, 0.95, 0.3)
    [nps] = nps_of(evidence(answered(tmp_path, park(tmp_path), shares, model="m")))
    actual, model = lines_by(nps, None)[OVERALL], lines_by(nps, "m")[OVERALL]
    assert (actual.promoters, actual.passives, actual.detractors) == (0.3, 0.2, 0.5)
    assert actual.nps.value == -20 and actual.error is None and actual.accuracy is None
    assert (model.promoters, model.passives, model.detractors) == (0.4, 0.2, 0.4)
    assert model.nps.value == 0 and model.error is not None and model.error.value == 20
    assert model.accuracy is not None and model.accuracy.value == 0.7
    assert nps.positive == "positive" and nps.rated == 10 and (nps.sample, nps.seed) == (1000, 42)
    assert model.reviews == 10 and set(model.flags) == {"few_reviews", "one_seed"}, (
        "20 too many of ten reviews may be chance"
    )


def test_the_threshold_divides_promoters_from_passives(tmp_path: Path) -> None:
    record = answered(tmp_path, park(tmp_path), positives(*[0.6] * 10), model="m")
    for threshold, expected in ((0.5, 100), (0.6, 100), (0.61, 0), (1.0, 0)):
        assert lines_by(nps_of(evidence(record), threshold)[0], "m")[OVERALL].nps.value == expected


def test_branches_have_lines_of_their_own(tmp_path: Path) -> None:
    [nps] = nps_of(evidence(answered(tmp_path, park(tmp_path), positives(*[0.9] * 10), model="m")))
    actual, model = lines_by(nps, None), lines_by(nps, "m")
    assert list(actual) == [OVERALL, "California", "Paris"]
    assert [actual[b].nps.value for b in actual] == [-20, -100, 60]
    assert [actual[b].reviews for b in actual] == [10, 5, 5]
    assert [model[b].error.value for b in model if model[b].error] == [120, 200, 40]
    assert actual["Paris"].nps.low is None and "fewer than 10" in str(actual["Paris"].nps.reason)
    assert "biased" not in model["Paris"].flags, "five reviews that agree prove nothing"
    assert "biased" in model[OVERALL].flags


def test_seeds_are_averaged(tmp_path: Path) -> None:
    dataset = park(tmp_path)
    records = [
        answered(tmp_path, dataset, positives(*[share] * 10), model="m", seed=seed)
        for seed, share in ((1, 0.9), (2, 0.1))
    ]
    line = lines_by(nps_of(evidence(*records))[0], "m")[OVERALL]
    assert line.seeds == (1, 2) and line.nps.value == 0 and "one_seed" not in line.flags
    assert (line.promoters, line.passives, line.detractors) == (0.5, 0.0, 0.5)
    assert line.accuracy is not None and line.accuracy.value == 0.5
    assert (line.nps.low, line.nps.high) == (-100, 100), "two seeds so far apart tell nothing, and no NPS lies beyond"


def test_the_good_class_may_come_first_and_be_called_anything(tmp_path: Path) -> None:
    dataset = prepare(tmp_path / "p", [1 - x for x in labels_of(RATINGS)], {"Rating": RATINGS}, names=("stay", "leave"))
    [nps] = nps_of(evidence(answered(tmp_path, dataset, positives(*[0.1] * 10), model="m")))
    assert nps.positive == "stay" and lines_by(nps, "m")[OVERALL].nps.value == 100


def test_a_balanced_split_is_pointed_out(tmp_path: Path) -> None:
    def notes(folder: Path, ratings: Sequence[int]) -> str:
        return " ".join(nps_of(evidence(answered(folder, park(folder, ratings), [[0.5, 0.5]] * len(ratings))))[0].notes)

    assert "as many reviews of one class as of the other" in notes(tmp_path / "a", RATINGS)
    assert "as many" not in notes(tmp_path / "b", [5, 5, 1])


def test_no_more_than_the_sample_is_taken(tmp_path: Path) -> None:
    ratings = [5, 1, 4] * 500
    [nps] = nps_of(evidence(answered(tmp_path, park(tmp_path, ratings), [[0.5, 0.5]] * 1500)))
    assert {line.reviews for line in nps.lines} == {SAMPLE} and nps.rated == 1500
    out = printed([nps], 160)
    assert (
        "1,000 of 1,500 rated" in out and "at most 1,000 reviews are used: of more, a sample drawn with seed 42" in out
    )
    [few] = nps_of(evidence(answered(tmp_path / "few", park(tmp_path / "few"), [[0.5, 0.5]] * 10)))
    assert "sample" not in " ".join(few.notes)


def test_the_help_says_how_many_reviews_are_used() -> None:
    text = CliRunner().invoke(command, ["--help"]).output
    assert f"at most {SAMPLE:,} reviews are used" in " ".join(text.split())


def test_another_model_leaves_a_line_as_it_was(tmp_path: Path) -> None:
    dataset = park(tmp_path, RATINGS * 5)
    rng = np.random.default_rng(0)
    first, second = (answered(tmp_path, dataset, positives(*rng.random(50)), model=name) for name in ("m", "a"))
    alone, together = nps_of(evidence(first))[0], nps_of(evidence(first, second))[0]
    assert lines_by(alone, "m") == lines_by(together, "m")


# --- what cannot be told --------------------------------------------------------------------------


def test_a_run_without_ratings_is_told_how_to_keep_them(tmp_path: Path) -> None:
    topics = prepare(tmp_path / "t", [0, 1, 2], {"Rating": [1, 4, 5]}, names=("a", "b", "c"), dataset="topics")
    bare = prepare(tmp_path / "b", [0, 1], {}, dataset="bare")
    records = answered(tmp_path, topics, np.full((3, 3), 1 / 3)), answered(tmp_path, bare, [[0.5, 0.5]] * 2)
    with pytest.raises(InputError, match=r"'bare' has no column 'Rating'.*'topics' has 3 classes") as refused:
        nps_of(evidence(*records))
    assert "keep_columns: [Rating, Branch]" in refused.value.hint
    with pytest.raises(InputError, match="no finished cell"):
        nps_of(evidence())


def test_a_dataset_that_is_gone_is_no_dataset_without_ratings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODBENCH_CACHE", str(tmp_path / "cache"))
    kept = answered(tmp_path, park(tmp_path), positives(*[0.9] * 10), model="m")
    gone = answered(tmp_path, park(tmp_path, dataset="gone"), positives(*[0.9] * 10), model="m")
    (tmp_path / "gone").rename(tmp_path / "away")
    with pytest.raises(InputError, match="is gone from") as refused:
        nps_of(evidence(gone))
    assert "moodbench fetch" in refused.value.hint
    [nps] = nps_of(evidence(kept, gone))
    assert "is gone from" in nps.notes[-1]


def test_a_cell_whose_answers_cannot_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    dataset = park(tmp_path)
    broken, sound = (answered(tmp_path, dataset, positives(*[0.9] * 10), model="m", seed=seed) for seed in (1, 2))
    assert broken.attempt is not None
    broken.attempt.predictions.write_bytes(b"PAR1")
    [nps] = nps_of(evidence(broken, sound))
    assert lines_by(nps, "m")[OVERALL].seeds == (2,) and broken.cell in nps.notes[-1]
    with pytest.raises(InputError, match="not what the runner writes"):
        nps_of(evidence(broken))


def test_answers_without_probabilities_are_none(tmp_path: Path) -> None:
    record = answered(tmp_path, park(tmp_path), positives(*[0.9] * 10), model="m")
    assert record.attempt is not None
    path = record.attempt.predictions
    pq.write_table(pq.read_table(path).drop_columns(["p_1"]), path)
    with pytest.raises(InputError, match="no answers to the reviews of 'park'"):
        nps_of(evidence(record))


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(InputError, match="no probability"):
        nps_of(evidence(), threshold)


# --- intervals ------------------------------------------------------------------------------------


def resampling(n: int, seeds: int, replicates: int = REPLICATES) -> Resampling:
    rng = np.random.default_rng(11)
    return Resampling(example_counts(n, replicates, rng), seed_draws(seeds, replicates, rng))


def figures(ratings: np.ndarray, answers: np.ndarray, drawn: Resampling) -> list[Figure]:
    """NPS and error of answers in {-1, 0, 1} (S, n), and the actual NPS."""
    one = Answers(ENTRY, tuple(range(len(answers))), answers >= 0, answers)
    actual, line = lines_of("", ratings, [one], drawn)
    assert line.error is not None
    return [line.nps, line.error, actual.nps]


@pytest.mark.parametrize(("seeds", "most"), [(1, 0.975), (3, 0.99)])
def test_intervals_cover_what_they_should(seeds: int, most: float) -> None:
    """Reviews drawn anew, half of them promoters, 30 % passives; the model takes a fifth of the promoters for passives,
    30 % of the passives for promoters, and 40 % of the detractors for passives, one seed more than another."""
    rng = np.random.default_rng(7)
    actual, error = 50.0 - 20.0, 100 * (-0.2 * 0.5 + 0.3 * 0.3 + 0.4 * 0.2)
    drawn, hit = resampling(150, seeds, 1000), np.zeros(3)
    for _ in range(600):
        ratings = rng.choice([5, 4, 2], 150, p=[0.5, 0.3, 0.2])
        leans = rng.normal(0, 0.2, seeds) if seeds > 1 else np.zeros(1)
        answers = np.stack([_answered(ratings, 0.4 + lean, rng) for lean in leans])
        found = figures(ratings, answers, drawn)
        hit += [_holds(*pair) for pair in zip(found, (actual + error, error, actual), strict=True)]
    covered = hit / 600
    assert (covered >= 0.92).all() and (covered <= most).all(), covered


def _answered(ratings: np.ndarray, lenient: float, rng: np.random.Generator) -> np.ndarray:
    actual, mistaken = categories_of_ratings(ratings), rng.random(len(ratings))
    instead = np.where(actual == 1, 0, np.where(actual == 0, 1, 0))
    wrong = mistaken < np.select([actual == 1, actual == 0], [0.2, 0.3], lenient)
    return np.where(wrong, instead, actual).astype(np.int8)


def _holds(figure: Figure, truth: float) -> bool:
    assert figure.low is not None and figure.high is not None
    return figure.low - 1e-6 <= truth <= figure.high + 1e-6


def test_errors_are_paired() -> None:
    """A model that is off by one review in fifty has a narrow error, however widely reviews vary."""
    rng = np.random.default_rng(3)
    ratings = rng.choice([5, 4, 2], 500, p=[0.5, 0.3, 0.2])
    answers = categories_of_ratings(ratings)[None, :].copy()
    answers[0, :10] = -1
    nps, error, _ = figures(ratings, answers, resampling(500, 1))
    assert nps.low is not None and nps.high is not None and error.low is not None and error.high is not None
    assert error.high - error.low < (nps.high - nps.low) / 2
    same = figures(ratings, categories_of_ratings(ratings)[None, :], resampling(500, 1))[1]
    assert same.low is not None and same.high is not None
    assert same.value == 0 and -2 < same.low < 0 < same.high < 2, "there may be reviews that 500 do not show"


def test_reviews_that_agree_do_not_prove_that_all_do() -> None:
    """At 12 of 12, z² / (n + z²) of the reviews may be of another kind, and that detractors."""
    nps, error, actual = figures(np.full(12, 5), np.ones((1, 12), dtype=np.int8), resampling(12, 1))
    unseen = 100 * 1.959964**2 / (12 + 1.959964**2)
    assert actual.high == 100 and actual.low == pytest.approx(100 - 2 * unseen, abs=1e-3)
    assert (nps.low, nps.high) == (actual.low, actual.high)
    assert error.low == pytest.approx(-unseen * np.sqrt(2), abs=1e-3) and error.low == -(error.high or 0)


@pytest.mark.parametrize("shares", [(0.8, 0.05, 0.15), (0.95, 0.05, 0.0), (0.95, 0.025, 0.025)])
@pytest.mark.parametrize(("n", "most"), [(10, 1.0), (20, 1.0), (50, 1.0), (1000, 0.985)])
def test_few_or_one_sided_reviews_are_covered(n: int, most: float, shares: tuple[float, float, float]) -> None:
    """The model takes a tenth of the promoters for detractors and half of the others for a step better. (300 draws: a
    coverage of 95 % is found within 2.5 points.)"""
    rng = np.random.default_rng(5)
    actual = 100 * (shares[0] - shares[2])
    error = 100 * (-0.2 * shares[0] + 0.5 * (1 - shares[0]))
    measured = []
    for _ in range(300):
        truly = rng.choice([1, 0, -1], (1, n), p=shares).astype(np.int8)
        slips = rng.random((1, n)) < np.where(truly == 1, 0.1, 0.5)
        answers = np.where(slips, np.where(truly == 1, -1, truly + 1), truly).astype(np.int8)
        measured += [Measured(answers, NPS), Measured(answers - truly, ERROR), Measured(truly, NPS)]
    found = [*resampling(n, 1, 1000).figures(measured)]
    hits = [_holds(*pair) for pair in zip(found, [actual + error, error, actual] * 300, strict=True)]
    covered = np.reshape(hits, (300, 3)).mean(axis=0)
    assert (covered >= 0.925).all() and (covered <= most).all(), covered


# --- shown ------------------------------------------------------------------------------------


def printed(found: Sequence[Nps], width: int) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(as_table(found, width=width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def shown(tmp_path: Path) -> Nps:
    dataset = park(tmp_path, RATINGS * 30)
    first = answered(tmp_path, dataset, positives(*[0.9] * 300), model="=evil[red]\x1b[2J")
    second = answered(tmp_path, dataset, positives(*[0.1] * 300), model="n")
    [nps] = nps_of(evidence(first, dataclasses.replace(second, device="cuda")))
    return nps


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_tables_fit(shown: Nps, width: int) -> None:
    out = printed([shown], width)
    assert all(len(line) <= width for line in out.splitlines())
    assert "-20.0" in out and "+120.0" in out and "-80.0" in out
    assert "\x1b" not in out and "=evil[red]" in out
    assert "biased" in out and "one_seed" in out


def test_a_wide_table_has_it_all(shown: Nps) -> None:
    out = printed([shown], 160)
    for what in ("30.0/20.0/50.0", "100.0/0.0/0.0", "0.500 [0.4", "-20.0 [", "cuda", "all 300 rated test reviews"):
        assert what in out


def test_one_branch_that_is_everything_is_not_shown_twice(tmp_path: Path) -> None:
    for name, branches in (("one", ["Paris"] * 10), ("two", BRANCHES)):
        dataset = prepare(tmp_path / name, labels_of(RATINGS), {"Rating": RATINGS, "Branch": branches}, dataset=name)
        out = printed(nps_of(evidence(answered(tmp_path, dataset, [[0.5, 0.5]] * 10))), 100)
        assert out.count("actual ratings") == (1 if name == "one" else 3)
        assert out.count("Paris") == 1


def test_csv_has_every_line(shown: Nps) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv([shown]))))
    assert [row["model"] for row in rows] == ["", "'=evil[red]\x1b[2J", "n"]
    assert [float(row["nps"]) for row in rows] == [-20, 100, -100]
    assert rows[0]["error"] == "" and float(rows[1]["error_low"]) < 120 < float(rows[1]["error_high"])
    assert rows[1]["flags"] == "biased one_seed" and rows[0]["reviews"] == "300"
