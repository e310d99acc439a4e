from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.errors import InputError
from harness.strict import convert, in_plain_words, load_yaml


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rank: int = 8
    rate: float = 0.1
    names: dict[str, str] = {}


class Outer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    lora: Inner | None = None
    models: tuple[str | Inner, ...] = ()
    methods: dict[str, Inner] = {}


def read(folder: Path, text: str) -> Any:
    path = folder / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return convert(load_yaml(path), Outer, "file.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lora: {rate: 2e-4}", 2e-4),  # YAML 1.1 alone reads a string here
        ("lora: {rate: 1.5E3}", 1.5e3),
        ("lora: {rate: -.5e1}", -5.0),
        ("lora: {rate: 3}", 3.0),
    ],
)
def test_numbers(tmp_path: Path, text: str, value: float) -> None:
    assert read(tmp_path, text).lora.rate == value


def test_a_word_with_an_e_stays_a_word(tmp_path: Path) -> None:
    assert read(tmp_path, "models: [3e, e5, 1e5x]").models == ("3e", "e5", "1e5x")


def test_merge_keys_fill_in_what_is_not_given(tmp_path: Path) -> None:
    read_back = read(tmp_path, "methods:\n  a: &base {rank: 4, rate: 0.5}\n  b: {<<: *base, rank: 2}\n")
    assert read_back.methods == {"a": Inner(rank=4, rate=0.5), "b": Inner(rank=2, rate=0.5)}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("lorra: {}", ["unknown key 'lorra'", "did you mean 'lora'"]),
        ("lora: {rnak: 3}", ["unknown key 'lora.rnak'", "did you mean 'rank'"]),
        ("models: [a, {rankk: 3}]", ["unknown key 'models[1].rankk'", "'rank'"]),
        ("methods: {full: {rte: 3}}", ["unknown key 'methods.full.rte'", "'rate'"]),
        ("lora: {rank: many}", ["lora.rank: expected a whole number; got text"]),
        ("lora: {rank: 3.5}", ["lora.rank: expected a whole number; got a number"]),
        ("models: {}", ["models: expected a list, such as [a, b]; got a mapping"]),
        ("lora: {names: {0: bad}}", ["key in lora.names: expected text; got a whole number"]),
        ("", ["expected a mapping (key: value); got nothing"]),
        ("- a", ["expected a mapping (key: value); got a list"]),
    ],
)
def test_wrong_content_names_file_and_place(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    assert caught.value.message.startswith("file.yaml: ")
    for part in parts:
        assert part in caught.value.message
    assert caught.value.hint
    assert "`" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("models: a", "correct models in file.yaml"),
        ("lora: {rate: fast}", "correct lora.rate in file.yaml"),
        ("- a", "correct file.yaml"),
        ("lora: {names: {0: bad}}", 'put that key in lora.names of file.yaml in quotes: "…"'),
    ],
)
def test_the_remedy_names_file_and_key(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Expected `bool | null`, got `int`", "expected true or false or nothing; got a whole number"),
        ("Expected `array | null`, got `str`", "expected a list, such as [a, b], or nothing; got text"),
        ("Expected `int` >= 1", "expected a whole number >= 1"),
        ("Expected `float` <= 1.0", "expected a number <= 1.0"),
        ("Object missing required field `alias`", "the key `alias` is missing"),
        ("Invalid enum value 'x'", "Invalid enum value 'x'"),
    ],
)
def test_plain_words(message: str, words: str) -> None:
    assert in_plain_words(message) == words


def test_an_unknown_key_comes_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, "lora: {zzz: 1}")
    assert "did you mean" not in caught.value.message
    assert caught.value.hint == "keys known there: names, rank, rate"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("lora: {rank: 1}\nlora: {rank: 2}", "line 2: the key 'lora' stands twice"),
        ("lora:\n  rank: 1\n  rate: 1\n  rank: 2", "line 4: the key 'rank' stands twice"),
        ("lora: {rank: 1", "line 1: "),
        ("? [a, b]\n: 1", "line 1: a key must be a plain value"),
        ("lora: &x [*x]", "recursive"),
        ("lora: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("lora: \x00", "not valid YAML"),
    ],
)
def test_wrong_yaml_names_the_line(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    assert "file.yaml" in caught.value.message
    assert part in caught.value.message
    assert "\n" not in caught.value.message


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_yaml(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="cannot read"):
        load_yaml(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("a: é".encode("latin-1"))
    with pytest.raises(InputError, match="cannot read"):
        load_yaml(latin)
