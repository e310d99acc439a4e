from __future__ import annotations

import json
import sys
import time
import webbrowser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from harness.cli import main
from harness.errors import InputError, SetupError
from harness.evidence import Evidence, gather
from harness.report import png
from harness.report.gathering import MOST_DISAGREEMENTS, TEXT_CHARS, cut, gather_material, most_divided, reliability
from harness.report.labels import labels_of
from harness.store import RunFolder
from runner.contract import CellSpec, PreparedDataset, encode
from runner.scoring import write_predictions
from runner.tasks.classification import expected_calibration_error
from tests.harness import builders
from tests.harness.answered import prepare
from tests.harness.report_material import material
from tests.harness.test_report_page import ALERT, CHART

LABELS = [0, 1] * 20
RATINGS = ["2", "5"] * 20


class Run:
    """A run of three models with two seeds on one dataset with ratings, all finished."""

    def __init__(self, folder: Path) -> None:
        self.folder = RunFolder(folder / "results" / "r")
        self.dataset = prepare(folder / "prepared", LABELS, {"Rating": RATINGS}, dataset="reviews")
        self.specs = [
            builders.cell(model, seed=seed, dataset=self.dataset, method=method)
            for model, method in (("MiniLM", "lora"), ("MiniLM", "full"), ("majority", "none"))
            for seed in (1, 2)
        ]
        self.folder.extend("r", {"name": "suite"}, self.specs)
        for place, spec in enumerate(self.specs):
            self.finish(spec, wrong=range(0, 4 * (place // 2)))

    def finish(self, spec: CellSpec, wrong: range) -> None:
        attempt = self.folder.new_attempt(spec.cell)
        attempt.spec.write_bytes(encode(spec))
        right = np.array([0.9 if place not in wrong else 0.3 for place in range(len(LABELS))])
        shares = np.where(np.array(LABELS)[:, None] == [[0, 1]], right[:, None], 1 - right[:, None])
        write_predictions(attempt.predictions, [f"all-{i}" for i in range(len(LABELS))], np.array(LABELS), shares)
        attempt.result.write_bytes(encode(builders.result(spec)))

    def report(self, *options: str) -> int:
        return main(["report", "r", "--results", str(self.folder.folder.parent), *options])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def change_dataset(run: Run, **changes: Any) -> None:
    for spec in run.specs:
        path = run.folder.attempt(spec.cell, 1).spec
        given = msgspec.json.decode(path.read_bytes())
        given["dataset"] |= changes
        path.write_bytes(msgspec.json.encode(given))


# --- what is gathered -----------------------------------------------------------------------------


def test_a_run_is_gathered_whole(run: Run) -> None:
    found = gather_material(run.folder)
    [section] = found.sections
    assert (section.dataset, section.label_names) == ("reviews", ("negative", "positive"))
    assert [row.label for row in section.rows] == ["MiniLM lora", "MiniLM full", "majority"]
    assert [[cell.record.seed for cell in row.cells] for row in section.rows] == [[1, 2]] * 3
    assert section.rows[0].cells[0].result.provenance.finished == 107.0
    assert section.significance is not None
    assert section.significance.difference.shape == (3, 3)
    assert section.significance.difference[0, 2] == pytest.approx(8 / 40)
    assert found.nps[0].dataset == "reviews"
    assert (found.no_nps, found.failures, found.missing) == (None, (), 0)


def test_texts_on_which_models_differ_are_laid_beside_their_answers(run: Run) -> None:
    [section] = gather_material(run.folder).sections
    assert (section.disagreements_total, section.no_texts) == (8, None)
    by_id = {one.id: one for one in section.disagreements}
    assert set(by_id) == {f"all-{place}" for place in range(8)}
    answers = {"MiniLM lora": "positive", "MiniLM full": "negative", "majority": "negative"}
    assert (by_id["all-1"].text, by_id["all-1"].label, by_id["all-1"].answers) == ("text 1", "positive", answers)
    assert by_id["all-6"].answers == {"MiniLM lora": "negative", "MiniLM full": "negative", "majority": "positive"}


def test_without_its_texts_a_run_has_everything_else(run: Run) -> None:
    change_dataset(run, folder="/gone")
    found = gather_material(run.folder)
    [section] = found.sections
    assert (section.disagreements, section.disagreements_total) == ((), 8)
    assert section.no_texts is not None
    assert found.no_nps is not None
    assert section.rows[0].reliability is not None


def test_a_run_of_one_model_has_nothing_to_compare(tmp_path: Path) -> None:
    run = Run(tmp_path)
    alone = RunFolder(tmp_path / "results" / "alone")
    alone.extend("alone", {}, run.specs[:1])
    (alone.folder / "cells").symlink_to(run.folder.folder / "cells")
    [section] = gather_material(alone).sections
    assert (section.significance, section.disagreements, section.disagreements_total) == (None, (), 0)


def test_a_run_without_a_finished_cell_is_gathered(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    folder.extend("r", {}, [builders.cell("majority")])
    found = gather_material(folder)
    assert (found.sections, found.missing, found.board.rows) == ((), 1, ())
    assert found.no_nps is not None


def test_the_most_divided_come_first_and_equal_ones_in_order() -> None:
    answers = np.array([[0, 0, 1, 0, 2], [0, 0, 1, 1, 1], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0]])
    assert most_divided(answers).tolist() == [4, 3, 1]
    assert most_divided(np.array([[1, 1], [1, 1]])).tolist() == []


def test_only_so_many_disagreements_are_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.report.gathering.MOST_DISAGREEMENTS", 3)
    [section] = gather_material(run.folder).sections
    assert ([one.id for one in section.disagreements], section.disagreements_total) == (["all-0", "all-1", "all-2"], 8)
    assert MOST_DISAGREEMENTS == 200


def test_long_texts_are_cut_at_a_blank() -> None:
    text = "word " * 300
    assert cut(text) == f"{text[: TEXT_CHARS - 1]} …"
    assert cut("x" * 700) == "x" * TEXT_CHARS + " …"
    assert cut("x" * TEXT_CHARS) == "x" * TEXT_CHARS


def test_reliability_is_that_of_the_runner() -> None:
    rng = np.random.default_rng(1)
    shares, labels = rng.dirichlet([1, 1, 1], 500), rng.integers(0, 3, 500)
    found = reliability(shares, labels)
    assert found.ece == pytest.approx(expected_calibration_error(labels, shares, 15))
    assert found.share.sum() == pytest.approx(1)
    assert np.isnan(found.accuracy[:5]).all()  # of three classes, none is below a third
    assert not np.isnan(found.accuracy[6:14]).any()
    accuracy = np.nansum(found.share * found.accuracy)
    assert accuracy == pytest.approx((shares.argmax(axis=1) == labels).mean())


def test_labels_name_method_and_device_only_where_they_tell_apart() -> None:
    first, *others = material().board.rows
    base = msgspec.structs.replace(material().board, overall=())

    def labels(*changes: dict[str, str]) -> list[str]:
        rows = tuple(msgspec.structs.replace(first, **one) for one in changes)
        return list(labels_of(msgspec.structs.replace(base, rows=rows)).values())

    assert labels({"model": "a", "method": "lora"}, {"model": "b", "method": "full"}) == ["a", "b"]
    assert labels({"model": "a", "method": "lora"}, {"model": "a", "method": "full"}) == ["a lora", "a full"]
    assert labels({"model": "a", "device": "cpu"}, {"model": "a", "device": "cuda"}) == ["a cpu", "a cuda"]
    both = labels(
        {"model": "a", "method": "lora"}, {"model": "a", "method": "full"}, {"model": "a lora", "method": "none"}
    )
    assert both == ["a · lora · cpu", "a full", "a lora · none · cpu"]
    assert others


# --- the command ----------------------------------------------------------------------------------


def test_the_page_lies_in_the_runs_folder(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.report() == 0
    page = run.folder.folder / "report.html"
    assert capsys.readouterr().out.split() == [str(page)]
    assert "MiniLM lora" in page.read_text()


def test_every_format_at_once_and_elsewhere(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "a" / "b"
    assert run.report("--format", "all", "--to", str(there)) == 0
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in files] == ["report.html", "report.json", "report.csv", "report.md"]
    assert json.loads((there / "report.json").read_text())["rows"][0]["model"] == "MiniLM"
    assert (there / "report.csv").read_text().startswith("dataset,")
    assert "| MiniLM |" in (there / "report.md").read_text()
    assert not (run.folder.folder / "report.html").exists()


def test_data_formats_need_no_charts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("harness.report.charts", "harness.report.gathering", "harness.report.page"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert run.report("--format", "csv") == 0
    assert "harness.report.charts" not in sys.modules
    assert (run.folder.folder / "report.csv").exists()


def test_the_same_run_gives_the_same_page(run: Run) -> None:
    page = run.folder.folder / "report.html"
    run.report()
    first = page.read_bytes()
    run.report()
    assert page.read_bytes() == first


@pytest.mark.parametrize("shown", [True, False])
def test_open_shows_the_page_or_says_where_it_is(
    run: Run, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: asked.append(url) or shown)
    assert run.report("--open") == 0
    assert asked == [(run.folder.folder / "report.html").resolve().as_uri()]
    assert ("no browser was found" in capsys.readouterr().err) is not shown


def test_open_without_a_page_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.report("--open", "--format", "csv") == 2
    assert "--open shows the HTML page" in capsys.readouterr().err
    assert not (run.folder.folder / "report.csv").exists()


def test_a_run_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "nothing", "--results", str(tmp_path)]) == 2
    assert "unknown run 'nothing'" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run.report("--to", str(tmp_path / "file")) == 3
    assert "cannot write to" in capsys.readouterr().err


def test_a_result_that_changes_meanwhile(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.report import gathering

    def changing(folder: RunFolder) -> Evidence:
        found = gather(folder)
        run.folder.attempt(run.specs[0].cell, 1).result.write_text("{}")
        return found

    monkeypatch.setattr(gathering, "gather", changing)
    with pytest.raises(InputError, match="changed while it was read"):
        gather_material(run.folder)


def test_a_result_that_arrives_meanwhile_waits_for_the_next_report(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.report import gathering

    late = [builders.cell(name, seed=3, dataset=run.dataset, method="lora") for name in ("MiniLM", "new")]

    def growing(folder: RunFolder) -> Evidence:
        run.folder.extend("r", {}, late)
        for spec in late:
            run.finish(spec, wrong=range(2))
        return gather(folder)

    monkeypatch.setattr(gathering, "gather", growing)
    [section] = gather_material(run.folder).sections
    assert [[cell.record.seed for cell in row.cells] for row in section.rows] == [[1, 2]] * 3
    monkeypatch.undo()
    [section] = gather_material(run.folder).sections
    assert {row.label for row in section.rows} == {"MiniLM lora", "MiniLM full", "majority", "new"}


# --- PNG ------------------------------------------------------------------------------------------


def test_png_without_kaleido_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    assert run.report("--png") == 3
    assert "pip install 'moodbench[png]'" in capsys.readouterr().err
    assert (run.folder.folder / "report.html").exists()  # nothing lost


def test_png_without_a_browser_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kaleido")
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(SetupError, match="none was found"):
        png.write_pngs([CHART], tmp_path)


def browser(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_png_with_a_browser_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kaleido")
    monkeypatch.setenv("BROWSER_PATH", browser(tmp_path / "chrome", "exit 1"))
    with pytest.raises(SetupError, match="does not work") as raised:
        png.write_pngs([CHART], tmp_path)
    assert "BROWSER_PATH" in raised.value.hint


def test_png_with_a_browser_that_hangs_ends_it_and_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kaleido")
    hanging = browser(tmp_path / "chrome", f'sleep 300 & echo "$$ $!" > {tmp_path}/ids; wait')
    monkeypatch.setenv("BROWSER_PATH", hanging)
    monkeypatch.setattr(png, "LIMIT_S", 1.0)
    with pytest.raises(SetupError, match="did not answer within 1 s"):
        png.write_pngs([CHART], tmp_path)
    numbers = [int(number) for number in (tmp_path / "ids").read_text().split()]
    end = time.monotonic() + 5
    while any(map(alive, numbers)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(alive, numbers))


def alive(number: int) -> bool:
    """Whether it still works; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_chart_that_cannot_be_drawn_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kaleido")

    async def failing(*_: object) -> list[Exception]:
        return [ValueError(f"bad {ALERT}")]

    monkeypatch.setattr("kaleido.Kaleido", lambda **_: None)
    monkeypatch.setattr(png, "_drawn", failing)
    with pytest.raises(SetupError, match="1 of 1 charts could not be drawn as PNG: bad"):
        png.write_pngs([CHART], tmp_path)


def test_each_dataset_is_a_section(tmp_path: Path) -> None:
    run = Run(tmp_path)
    other: PreparedDataset = msgspec.structs.replace(run.dataset, name="more", fingerprint="m" * 64)
    spec = builders.cell("majority", dataset=other)
    run.folder.extend("r", {}, [spec])
    run.finish(spec, wrong=range(3))
    found = gather_material(run.folder)
    assert [section.dataset for section in found.sections] == ["more", "reviews"]
    assert found.sections[0].significance is None
