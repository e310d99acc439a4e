"""Label values -> names, and the choice of columns."""

from __future__ import annotations

import math

import pytest

from runner.contract import DatasetRequest
from runner.data.columns import choose_columns
from runner.data.labels import check_label_names, label_reader, look_alikes, order_labels, value_text
from runner.data.sources import table_of
from runner.errors import RunnerError


def request(**settings):
    return DatasetRequest(**{"name": "d", "source": "file", **settings})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("  pos ", "pos"), ("1.0", "1.0"), (1, "1"), (1.0, "1"), (2.5, "2.5"), (True, "true"), (False, "false"),
        (None, None), (math.nan, None), ("", None), ("  ", None), ("NaN", None), ("null", None), ("none", "none"),
        (math.inf, "inf"), (-1, "-1"),
    ],
)  # fmt: skip
def test_value_text(value, text):
    assert value_text(value) == text


RULE = {">= 4": "positive", "== 3": "neutral", "!=2": "negative", "< 0": "never"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("5", "positive"), (4.0, "positive"), ("4.5", "positive"), (3, "neutral"), ("1", "negative"),
        ("-1", "negative"), ("2", "no_rule"), ("good", "label_not_a_number"), ("inf", "label_not_a_number"),
        ("", "missing_label"),
        (None, "missing_label"),
    ],
)  # fmt: skip
def test_first_matching_rule_wins(value, expected):
    outcome = label_reader(request(label_rule=RULE), ())(value)
    assert expected in (outcome.name, outcome.reason)


@pytest.mark.parametrize("condition", ["4", "=> 4", ">= four", ">= 4 and < 5", ""])
def test_a_rule_that_is_no_condition(condition):
    with pytest.raises(RunnerError, match="not a condition") as caught:
        label_reader(request(label_rule={condition: "x"}), ())
    assert caught.value.kind == "configuration"


def test_rule_and_map_exclude_each_other():
    with pytest.raises(RunnerError, match="both label_rule and label_map"):
        label_reader(request(label_rule={"> 1": "a"}, label_map={"1": "b"}), ())


def test_label_map_separator_and_lists():
    read = label_reader(request(label_map={"1": "yes", "a b": "no"}, label_separator="|"), ())
    assert read(1.0).name == "yes"
    assert read(" a b ").name == "no"
    assert read("2").reason == "not_in_label_map"
    assert read("1|2").reason == "several_labels"
    assert read([1]).name == "yes"
    assert read([1, 2]).reason == "several_labels"
    assert read([]).reason == "missing_label"


def test_hub_class_names_and_minus_one():
    hub = request(source="hub")
    read = label_reader(hub, ("neg", "pos"))
    assert [read(0).name, read(1).name, read(-1).reason] == ["neg", "pos", "missing_label"]
    by_name = label_reader(request(source="hub", label_map={"neg": "negative", "pos": "positive"}), ("neg", "pos"))
    by_number = label_reader(request(source="hub", label_map={"0": "negative", "1": "positive"}), ("neg", "pos"))
    assert by_name(0).name == by_number(0).name == "negative"
    assert label_reader(request(source="hub", label_map={"-1": "bad", "1": "good"}), ())(-1).name == "bad"
    assert label_reader(request(source="hub", label_rule={"<= 0": "bad"}), ("a", "b"))(-1).name == "bad"
    assert label_reader(request(), ())(-1).name == "-1"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "9", "-1", "2.5"], ("-1", "2.5", "9", "10")),
        (["positive", "negative"], ("negative", "positive")),
        (["positive", "neutral", "negative"], ("negative", "neutral", "positive")),
        (["Positive", "Negative"], ("Negative", "Positive")),
        (["positive", "negative", "mixed"], ("mixed", "negative", "positive")),
        (["joy", "Anger", "fear"], ("Anger", "fear", "joy")),
    ],
)
def test_order_of_labels(names, expected):
    assert order_labels(names) == order_labels(reversed(names)) == expected


def test_what_is_no_set_of_classes():
    with pytest.raises(RunnerError, match="looks like an id"):
        check_label_names([str(n) for n in range(201)], 100_000, "c")
    with pytest.raises(RunnerError, match="looks like an id"):
        check_label_names([str(n) for n in range(90)], 100, "c")
    with pytest.raises(RunnerError, match="all rows have the same label, 'a'"):
        check_label_names(["a"], 100, "c")
    check_label_names(["a", "b"], 6, "c")
    assert look_alikes(["Good", "bad", "good"]) == [("Good", "good")]


# --- columns ----------------------------------------------------------------------------------

LONG = [f"this is review number {n}, and it goes on a little" for n in range(12)]
TWO = ["x", "y"] * 6


def table(**columns):
    return table_of("all", "a.csv", columns, {})


@pytest.mark.parametrize(
    ("columns", "text", "label"),
    [
        ({"text": LONG, "label": TWO}, "text", "label"),
        ({"Review": LONG, "Sentiment": TWO}, "Review", "Sentiment"),
        ({"Review_Text": LONG, "Rating": TWO, "Review_ID": LONG}, "Review_Text", "Rating"),
        ({"Review Text": LONG, "STARS": TWO}, "Review Text", "STARS"),
        ({"title": LONG, "content": LONG, "label": TWO}, "content", "label"),
        ({"text": LONG, "labels": TWO, "label_ids": TWO}, "text", "labels"),
        ({"label": TWO, "rating": TWO, "tweet": LONG}, "tweet", "label"),
        ({"was_gesagt_wurde": LONG, "n": list(range(12)), "urteil": TWO}, "was_gesagt_wurde", "urteil"),
        ({"a": LONG, "b": [1, 2] * 6, "id": TWO}, "a", "b"),
    ],
)  # fmt: skip
def test_guesses(columns, text, label):
    chosen = choose_columns(request(), [table(**columns)])
    assert (chosen.text, chosen.label) == (text, label)
    assert chosen.notes == (f"text column: {text!r} (guessed)", f"label column: {label!r} (guessed)")


@pytest.mark.parametrize(
    ("columns", "message", "option"),
    [
        (
            {"text": LONG, "review": LONG, "label": TWO},
            "several columns that could be the text: 'text', 'review'",
            "text",
        ),
        ({"text": LONG, "sentiment": TWO, "emotion": TWO}, "could be the label: 'sentiment', 'emotion'", "label"),
        ({"aaa": LONG, "bbb": LONG, "label": TWO}, "could be the text: 'aaa', 'bbb'", "text"),
        ({"text": LONG, "u": TWO, "v": TWO}, "could be the label: 'u', 'v'", "label"),
        ({"text": LONG, "n": list(range(12))}, "no column that looks like the label; it has: text, n", "label"),
        ({"n": list(range(12)), "label": TWO}, "no column that looks like the text", "text"),
    ],
)
def test_no_guess_when_ambiguous(columns, message, option):
    with pytest.raises(RunnerError) as caught:
        choose_columns(request(), [table(**columns)])
    assert message in caught.value.message
    assert f"--{option}-column" in caught.value.hint


@pytest.mark.parametrize(
    ("settings", "name", "hint"),
    [
        ({"text_column": "revew"}, "revew", "did you mean 'Review'?"),
        ({"label_column": "labels"}, "labels", "did you mean 'label'?"),
        ({"keep_columns": ("Brnch",)}, "Brnch", "did you mean 'Branch'?"),
        ({"slice_columns": ("zzz",)}, "zzz", "Name the right one with keep_columns"),
        ({"filters": {"brand": ("a",)}}, "brand", "Name the right one with filters"),
    ],
)
def test_missing_columns_offer_the_nearest(settings, name, hint):
    with pytest.raises(RunnerError) as caught:
        choose_columns(request(**settings), [table(Review=LONG, label=TWO, Branch=TWO)])
    assert f"has no column {name!r}; it has: Review, label, Branch" in caught.value.message
    assert hint in caught.value.hint


def test_slices_are_kept_and_standard_names_are_not_hidden():
    tables = [table(text=LONG, label=TWO, lang=TWO, id=LONG)]
    chosen = choose_columns(request(keep_columns=("lang",), slice_columns=("lang",)), tables)
    assert chosen.kept == chosen.slices == ("lang",)
    with pytest.raises(RunnerError, match="'id' cannot be kept"):
        choose_columns(request(keep_columns=("id",)), tables)
    with pytest.raises(RunnerError, match="both text and label"):
        choose_columns(request(text_column="text", label_column="text"), tables)
