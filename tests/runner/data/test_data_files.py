"""Reading files: formats, encodings, and every broken file that users have."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.data.files import read_file
from runner.errors import RunnerError


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\nfine day,good\nsad day,bad\n"),
        ("a.csv", "\ufefftext,label\r\nfine day,good\r\nsad day,bad"),
        ("a.csv", "text;label\nfine day;good\nsad day;bad\n"),
        ("a.csv", "text\tlabel\nfine day\tgood\nsad day\tbad\n"),
        ("a.csv", "text,label\rfine day,good\rsad day,bad\r"),
        ("a.csv", 'text , label\n"fine day",good\n\n   \nsad day,bad\n\n'),
        ("A.CSV", "text,label\nfine day,good\nsad day,bad\n".encode("utf-16")),
        ("a.tsv", "text\tlabel\nfine day\tgood\nsad day\tbad\n"),
        ("a.jsonl", '{"text": "fine day", "label": "good"}\n\n{"label": "bad", "text": "sad day"}\n'),
        ("a.json", '{"text": "fine day", "label": "good"}\n{"text": "sad day", "label": "bad"}'),
        ("a.json", '[{"text": "fine day", "label": "good"},\n {"text": "sad day", "label": "bad"}]'),
    ],
)
def test_every_format_reads_the_same(make, name, content):
    assert read_file(make(name, content)).columns == {"text": ["fine day", "sad day"], "label": ["good", "bad"]}


def test_csv_values_stay_strings_as_written(make):
    table = read_file(make("a.csv", "text,label,n\nNA,1.0,007\nnull,True,\n"))
    assert table.columns == {"text": ["NA", "null"], "label": ["1.0", "True"], "n": ["007", ""]}


def test_quoted_fields_hold_separators_newlines_and_quotes(make):
    table = read_file(make("a.csv", 'text,label\n"one, two\nthree ""four""",x\nhe said "hi",y\n'))
    assert table.columns["text"] == ['one, two\nthree "four"', 'he said "hi"']


def test_latin_1_is_noted(make):
    table = read_file(make("a.csv", "text,label\ncafé,x\n".encode("latin-1")))
    assert table.columns["text"] == ["café"]
    assert table.notes == ("a.csv is not UTF-8; it was read as latin-1.",)


def test_other_separator_is_noted(make):
    assert read_file(make("a.csv", "text;label\na;b\n")).notes == ("a.csv is separated by ';', not commas.",)


def test_two_megabyte_text(make):
    text = "word " * 400_000
    assert read_file(make("a.csv", f"text,label\n{text},x\n")).columns["text"] == [text]


def test_tsv_with_stray_quotation_marks_loses_no_line(make):
    table = read_file(make("a.tsv", 'text\tlabel\n"a great film\t1\nthe "end"\t0\nbad"\t0\n'))
    assert table.columns["text"] == ['"a great film', 'the "end"', 'bad"']
    assert "read as text" in table.notes[0]


def test_tsv_with_true_quoting(make):
    table = read_file(make("a.tsv", 'text\tlabel\n"with\ttab"\t1\n"plain"\t0\n'))
    assert table.columns["text"] == ["with\ttab", "plain"]


def test_json_keeps_types_and_fills_gaps(make):
    rows = [{"text": "a", "label": 1, "x": None}, {"text": "b", "label": True, "y": 1.5}]
    table = read_file(make("a.jsonl", "\n".join(map(json.dumps, rows))))
    assert table.columns == {"text": ["a", "b"], "label": [1, True], "x": [None, None], "y": [None, 1.5]}
    assert table.columns["label"][1] is True


def test_json_with_line_separator_and_half_a_surrogate_pair(make):
    table = read_file(make("a.jsonl", '{"text": "a\u2028b \\ud83d", "label": 1}\n'))
    assert table.columns["text"] == ["a\u2028b ?"]


def test_parquet_keeps_missing_integers(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "label": pa.array([1, None], pa.int64()), "x": [1, 2]}), path)
    assert read_file(path).columns["label"] == [1, None]
    assert list(read_file(path, frozenset({"text", "label"})).columns) == ["label", "text"]
    assert list(read_file(path, frozenset({"text", "wrong"})).columns) == ["text", "label", "x"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", " \n\n", "a.csv is empty"),
        ("a.jsonl", "", "a.jsonl is empty"),
        ("a.json", "[]", "no rows"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.csv", "text,label\nfine,good\nsad,bad,worse\nx\n", "line 3: 3 fields, but the header has 2 (2 rows"),
        ("a.csv", 'text,label\n"two\nlines",good\nsad\n', "line 4: 1 fields, but the header has 2"),
        ("a.csv", 'text,label\nfine,good\n"never closed,bad\nx,y\n', "never closes in the row that begins at line 3"),
        (
            "a.csv",
            'text,label\nfine,good\n"broken" here,bad\n',
            "broken quotation marks in the row that begins at line 3",
        ),
        ("a.csv", "text,text\na,b\n", "more than one column 'text'"),
        ("a.csv", b"text,label\n\0\1\2,x\n", "NUL bytes"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "line 2 is not a JSON object"),
        ("a.jsonl", '{"text": "a"}\n["a"]\n', "line 2 is list"),
        ("a.json", '[{"text": "a"}, 3]', "element 2"),
        ("a.json", '[{"text": "a"}', "not valid JSON"),
        ("a.parquet", "text,label\na,b\n", "not a sound Parquet file"),
        ("a.xlsx", b"PK", "of a kind that cannot be read (.xlsx)"),
        ("noname", b"x", "no extension"),
    ],
)
def test_broken_files_are_refused_with_the_place(make, name, content, message):
    with pytest.raises(RunnerError) as caught:
        read_file(make(name, content))
    assert message in caught.value.message
    assert caught.value.kind == "data"
    assert caught.value.hint


def test_missing_file_offers_the_nearest(make):
    path = make("reviews.csv", "x")
    with pytest.raises(RunnerError, match="does not exist") as caught:
        read_file(path.with_name("review.csv"))
    assert "reviews.csv" in caught.value.hint


def test_a_folder_is_no_file(tmp_path: Path):
    folder = tmp_path / "a.csv"
    folder.mkdir()
    with pytest.raises(RunnerError, match="cannot be read"):
        read_file(folder)
