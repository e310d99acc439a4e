from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import re
from html.parser import HTMLParser

import msgspec
import pytest

from harness.board import FLAG_MEANINGS, Leaderboard
from harness.report.critique import critique
from harness.report.html import Html, data_block, joined, lines, tag
from harness.report.material import Chart, Disagreement, Material
from harness.report.page import plotly_source, render
from harness.report.provenance import methodology, provenance
from harness.report.verdict import verdicts
from runner.contract import Choice
from tests.harness.report_material import MODELS, material

ALERT = "<script>alert(1)</script>"
CHART = Chart(
    id="one",
    title=f"T {ALERT}",
    group="Trade-offs",
    note="Note & more",
    figure={"data": [{"type": "scatter", "x": [1, 2], "y": [3, 4], "name": ALERT}], "layout": {"height": 300}},
)


class Seen(HTMLParser):
    """The text, tags, ids and scripts of a page, as a browser would take them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.ids = "", [], []
        self.scripts: list[str] = []
        self.data: dict[str, str] = {}
        self._script: dict[str, str | None] | None = None
        self.feed(page)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.tags.append(name)
        self.ids += [given["id"]] if given.get("id") else []
        if name == "script":
            self._script = given

    def handle_endtag(self, name: str) -> None:
        self._script = None if name == "script" else self._script

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.text += data
        elif "type" in self._script:
            self.data[str(self._script["id"])] = data
        else:
            self.scripts.append(data)


def hostile() -> Material:
    """Every name and text that comes from outside is a script."""
    given = material()
    first, *others = given.sections
    rows = tuple(dataclasses.replace(row, label=f"{ALERT}{place}") for place, row in enumerate(first.rows))
    answers = {row.label: given.sections[0].label_names[place % 2] for place, row in enumerate(rows)}
    text = Disagreement(id=ALERT, text=f"{ALERT}\nnext \ud800 line", label=first.label_names[0], answers=answers)
    section = dataclasses.replace(first, rows=rows, disagreements=(text,), disagreements_total=1, dataset=ALERT)
    board = given.board
    named = tuple(msgspec.structs.replace(row, model=f"{ALERT}{row.model}") for row in board.rows)
    failures = tuple(msgspec.structs.replace(one, message=ALERT, hint=ALERT, cell=ALERT) for one in given.failures)
    run = msgspec.structs.replace(given.run, name=ALERT, suites=({"name": ALERT, "note": ALERT},))
    return dataclasses.replace(
        given,
        run=run,
        board=msgspec.structs.replace(board, rows=named),
        sections=(section, *others),
        failures=failures,
        no_nps=ALERT,
        nps=tuple(msgspec.structs.replace(one, dataset=ALERT) for one in given.nps),
    )


def seen(given: Material, *charts: Chart) -> Seen:
    return Seen(render(given, charts).decode())


def test_text_is_escaped_and_markup_is_not() -> None:
    made = tag("p", "a < b", tag("b", "c & d"), data_x='"', hidden=True, class_=None, open=False)
    assert made == '<p data-x="&quot;" hidden>a &lt; b<b>c &amp; d</b></p>'
    assert isinstance(joined(["<", Html("<br>")]), Html)
    assert joined(["<", Html("<br>"), None, 3]) == "&lt;<br>3"
    assert lines("a<\nb\u202ec") == "a&lt;<br>b�c"


def test_data_cannot_end_its_block() -> None:
    block = data_block("x", {"a": "</script><!-- <script>", "b": float("nan")})
    assert block.count("</script>") == 1
    [data] = Seen(block).data.values()
    assert msgspec.json.decode(data) == {"a": "</script><!-- <script>", "b": None}


def test_nothing_from_outside_becomes_markup() -> None:
    page = seen(hostile(), CHART)
    assert len(page.scripts) == 1  # the page's own
    assert "alert" not in page.scripts[0]
    shown = page.text.count(ALERT)
    assert shown > 20, shown
    assert "alert(1)" not in page.text.replace(ALERT, "")
    [text] = msgspec.json.decode(page.data["differ-data"])[0]["texts"]
    assert text["text"] == f"{ALERT}\nnext � line"
    assert msgspec.json.decode(page.data["figure-one"]) == CHART.figure


def test_names_beside_texts_cannot_reorder_or_hide_words() -> None:
    given = material(datasets=("sst2",))
    [section] = given.sections
    [text] = section.disagreements
    names = tuple(f"{name}\u202e\x1b" for name in section.label_names)
    answers = {f"{model}\u202e": names[0] for model in text.answers}
    changed = dataclasses.replace(text, id="17\u202e", label=names[0], answers=answers)
    section = dataclasses.replace(section, label_names=names, disagreements=(changed,))
    page = seen(dataclasses.replace(given, sections=(section,)))
    assert not re.search("\\\\u202e|\u202e|\\\\u001b", page.data["differ-data"])
    [shown] = msgspec.json.decode(page.data["differ-data"])
    assert shown["texts"][0]["answers"] == [0] * len(answers)
    assert all(
        f'value="{model}"' in render(dataclasses.replace(given, sections=(section,)), ()).decode()
        for model in shown["models"]
    )


def test_only_the_pages_own_scripts_may_run_and_nothing_is_asked_for() -> None:
    text = render(material(), [CHART]).decode()
    page = Seen(text)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].replace("&#x27;", "'").split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data: blob:"
    scripts = (page.scripts[0].encode(), plotly_source().encode())
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(one).digest()).decode()}'" for one in scripts]
    assert rules["script-src"].split() == hashes
    assert gzip.decompress(base64.b64decode(page.data["plotly"])).decode() == plotly_source()
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not re.search(r"<[^>]*\s(?:src|srcset|action|on\w+)=", text[: text.index('id="plotly"')])


def test_ids_are_unique_and_the_contents_lead_somewhere() -> None:
    text = render(material(), [CHART, dataclasses.replace(CHART, id="two", group="Quality")]).decode()
    page = Seen(text)
    assert sorted(page.ids) == sorted(set(page.ids))
    targets = re.findall(r'<li><a href="#([^"]+)"', text)
    assert {"leaderboard", "charts-trade-offs", "charts-quality", "disagreements", "provenance"} <= set(targets)
    assert set(targets) <= set(page.ids)


def test_a_run_without_a_finished_cell_has_a_page() -> None:
    empty = msgspec.structs.replace(material().board, rows=(), overall=(), scaling=(), contrasts=())
    given = material(sections=(), nps=(), no_nps="no dataset has ratings", board=empty)
    page = seen(given)
    assert "No cell has finished yet" in page.text
    assert "no dataset has ratings" in page.text
    assert "no room" in page.text  # the failure
    assert "leaderboard" not in page.ids


def test_the_figures_of_the_board_are_on_the_page() -> None:
    given = material()
    page = seen(given)
    row = given.sections[0].rows[0].row
    assert f"{row.rank_low}–{row.rank_high}" in page.text
    score = row.metrics["score"]
    assert f"{score.value:.3f} {score.low:.3f}–{score.high:.3f}" in page.text
    for sha256 in {cell.result.provenance.dataset_fingerprint for cell in given.sections[0].rows[0].cells}:
        assert sha256 in page.text
    assert given.sections[1].fingerprint in page.text


def test_the_methodology_says_what_is_calculated() -> None:
    words = str(methodology(material().board))
    assert "between the smallest and the largest value" in words
    assert "the same in all resamples; a missing value counts as the worst" in words
    assert "from the seeds where there are several" in words
    assert "Student&#x27;s t for what the seeds add" in words and "bootstrap" not in words
    assert "image and limit of CPUs" in words


def test_a_limit_of_time_makes_no_other_machine() -> None:
    given = material(MODELS[:1], ("sst2",))
    cell, other = given.sections[0].rows[0].cells
    where = other.result.provenance
    limits = msgspec.structs.replace(where.limits, seconds=99.0)
    result = msgspec.structs.replace(other.result, provenance=msgspec.structs.replace(where, limits=limits))
    row = dataclasses.replace(given.sections[0].rows[0], cells=(cell, dataclasses.replace(other, result=result)))
    section = dataclasses.replace(given.sections[0], rows=(row,))
    machines = str(provenance(dataclasses.replace(given, sections=(section,)))).split("Packages")[0]
    assert machines.split("Machines")[1].count("<tr>") == 2  # the head and one machine
    alone = dataclasses.replace(
        given, sections=(dataclasses.replace(section, rows=(dataclasses.replace(row, cells=(cell,)),)),)
    )
    assert "The finished cell" in str(provenance(alone))


# --- the verdict ----------------------------------------------------------------------------------


def places(**changes: object) -> Material:
    """The first row of the first dataset has these places."""
    given = material(datasets=("sst2",))
    first, *others = given.board.rows
    rows = (msgspec.structs.replace(first, **changes), *others)
    return dataclasses.replace(given, board=msgspec.structs.replace(given.board, rows=rows, overall=()))


@pytest.mark.parametrize(
    ("changes", "sureness", "words"),
    [
        ({"tie": 9, "rank_high": 1, "p_best": 0.999}, "clear", "The data tell it apart from every other model."),
        ({"tie": 1, "rank_high": 2, "p_best": 0.9}, "likely", "The data do not tell it apart from DistilBERT."),
        ({"tie": 1, "rank_high": 2, "p_best": 0.5}, "open", "It is the best in 50 % of 2,000 resamples."),
        ({"tie": 9, "rank_high": 3, "p_best": 0.5}, "open", "Its true rank lies between 1 and 3 with 95 % confidence."),
        ({"tie": 1, "rank_high": 1, "p_best": 1.0}, "likely", "Its true rank is 1 with 95 % confidence."),
    ],
)
def test_how_sure_the_verdict_is(changes: dict[str, object], sureness: str, words: str) -> None:
    [verdict] = verdicts(places(rank=1, rank_low=1, **changes).board)
    assert (verdict.scope, verdict.sureness) == ("on sst2", sureness)
    assert words in verdict.sentences


def test_equal_firsts_are_undecided() -> None:
    given = places(rank=1)
    rows = [msgspec.structs.replace(row, rank=1, tie=1) for row in given.board.rows[:2]]
    board = msgspec.structs.replace(given.board, rows=(*rows, *given.board.rows[2:]))
    [verdict] = verdicts(board)
    assert (len(verdict.winners), verdict.sureness) == (2, "open")
    assert verdict.sentences[0] == "2 models share the first place."


def test_the_verdict_names_who_leads_in_quality_and_what_is_against_the_winner() -> None:
    given = places(rank=1, flags=("at_chance", "one_seed"))
    first, second, *others = given.board.rows
    better = msgspec.structs.replace(second, metrics=second.metrics | {"f1": first.metrics["f1"]})
    worse = msgspec.structs.replace(first, metrics=first.metrics | {"f1": others[-1].metrics["f1"]})
    [verdict] = verdicts(msgspec.structs.replace(given.board, rows=(worse, better, *others)))
    assert verdict.sentences[-1].startswith("In F1 alone DistilBERT leads: 0.")
    assert verdict.flags == ("at_chance", "one_seed")
    assert verdict.sentences[0].startswith(
        "Accuracy is not surely above that of always naming the most frequent class:"
    )
    assert not any("most frequent" in sentence for sentence in verdicts(places(rank=1).board)[0].sentences)


def overall(ranked: int) -> Leaderboard:
    """Of six models on two datasets, so many are ranked over both."""
    board = material().board
    return msgspec.structs.replace(board, overall=board.overall[:ranked])


def test_a_model_alone_on_all_datasets_has_not_won() -> None:
    verdict, *_ = verdicts(overall(1))
    assert (verdict.winners, verdict.sureness) == ((), "none")
    assert verdict.sentences == ("Only Qwen3-0.6B is ranked on all 2 datasets; the other 5 are not.",)
    nobody, *others = verdicts(overall(0))
    assert nobody.sentences == ("No model is ranked on all 2 datasets yet.",)
    assert all(one.winners for one in others)
    [alone, *_] = verdicts(material(MODELS[:1]).board)
    assert (alone.winners, alone.sentences[0].split(",")[0]) == ((), "Qwen3-0.6B is the only model")


def test_the_verdict_over_all_counts_who_is_on_all_datasets() -> None:
    verdict, *_ = verdicts(overall(4))
    assert verdict.sentences[0] == "4 of 6 models are ranked on all 2 datasets; the others are left out here."
    assert not any("left out" in words for words in verdicts(overall(6))[0].sentences)


def test_the_verdict_names_the_datasets_on_which_the_winner_guesses() -> None:
    board = material().board
    rows = [msgspec.structs.replace(row, flags=("at_chance",) * (row.dataset == "sst2")) for row in board.rows]
    verdict, *_ = verdicts(msgspec.structs.replace(board, rows=tuple(rows)))
    assert verdict.sentences[0].startswith("Accuracy on sst2 is not surely above that of always naming")


def test_what_is_unfinished_stands_beside_the_verdict() -> None:
    def top(given: Material) -> str:
        return seen(given).text.split("Find ")[0]

    words = "1 cell failed; 1 cell has not run to the end: every ranking here may still change."
    assert words in top(material())
    assert "may still change" not in top(material(failures=(), missing=0))


def test_no_verdict_without_ranks_or_rivals() -> None:
    given = places()
    unranked = [msgspec.structs.replace(row, rank=None) for row in given.board.rows]
    [none] = verdicts(msgspec.structs.replace(given.board, rows=tuple(unranked)))
    [only] = verdicts(msgspec.structs.replace(given.board, rows=given.board.rows[:1]))
    assert (none.winners, none.sureness) == ((), "none")
    assert (only.winners, only.sureness) == (("Qwen3-0.6B",), "none")
    assert "nothing to compare" in only.sentences[0]


# --- what speaks against the numbers --------------------------------------------------------------


def with_cells(*changes: dict[str, object]) -> Material:
    """The first cells of the first dataset have these fields in their results."""
    given = material(failures=(), missing=0)
    first, *others = given.sections
    rows = []
    for place, row in enumerate(first.rows):
        cell, *more = row.cells
        fields = changes[place] if place < len(changes) else {}
        result = msgspec.structs.replace(cell.result, **fields)
        rows.append(dataclasses.replace(row, cells=(dataclasses.replace(cell, result=result), *more)))
    return dataclasses.replace(given, sections=(dataclasses.replace(first, rows=tuple(rows)), *others))


def test_warnings_that_differ_in_numbers_alone_are_one_remark() -> None:
    given = with_cells(
        {"warnings": ("disturbed: other work took 0.22 cores", "stopped at step 42")},
        {"warnings": ("disturbed: other work took 1.5 cores; other work took 2 cores", "stopped at step 42")},
    )
    page = str(critique(given))
    cells = ", ".join(row.cells[0].result.cell for row in given.sections[0].rows[:2])
    assert f"disturbed: other work took … cores <small>{cells}</small>" in page
    assert f"stopped at step 42 <small>{cells}</small>" in page
    assert "0.22" not in page


def test_disturbed_windows_are_counted_by_what_became_of_them() -> None:
    timing = material().sections[0].rows[0].cells[0].result.timing
    assert timing is not None
    window = timing.windows[0]
    fates = [(True, True), (True, False), (True, False), (False, True)]
    windows = tuple(msgspec.structs.replace(window, contaminated=bad, counted=taken) for bad, taken in fates)
    given = with_cells({"timing": msgspec.structs.replace(timing, windows=windows)})
    cell = given.sections[0].rows[0].cells[0].result.cell
    page = str(critique(given))
    assert re.search(rf"counted, as none better was to be had[^<]*<small>{cell} \(1\)</small>", page)
    assert re.search(rf"measured again[^<]*<small>{cell} \(2\)</small>", page)


def test_what_was_withheld_or_done_otherwise_says_why() -> None:
    given = with_cells(
        {
            "reasons": {"latency_p99_ms": "246 requests were timed; a p99 needs 662"},
            "requested": {"batch_size": 16},
            "effective": {"batch_size": Choice(value=8, reason="memory ran out")},
        }
    )
    page = str(critique(given))
    assert "Latency p99 (ms): 246 requests were timed; a p99 needs 662 <small>" in page
    assert "batch_size: 8 instead of 16 (memory ran out) <small>" in page


def test_flags_failures_and_missing_cells_are_told_and_nothing_is_too() -> None:
    flagged = places(flags=("at_chance",))
    first = flagged.sections[0].rows[0]
    row = dataclasses.replace(first, row=msgspec.structs.replace(first.row, flags=("at_chance",)))
    section = dataclasses.replace(flagged.sections[0], rows=(row, *flagged.sections[0].rows[1:]))
    page = str(critique(dataclasses.replace(flagged, sections=(section,))))
    assert FLAG_MEANINGS["at_chance"] in page
    assert "no room" in page and "1 cell has not run to the end" in page
    clean = dataclasses.replace(flagged, sections=(), failures=(), missing=0)
    assert "Nothing: no cell failed" in str(critique(clean))
