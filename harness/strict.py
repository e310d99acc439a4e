"""YAML read strictly: no duplicate keys, no unknown ones, and every error names the file and the path of the key."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import inspect

from harness.errors import InputError, did_you_mean

T = TypeVar("T")
WORDS = {  # of msgspec's messages, as a writer of YAML would say
    "array": "a list, such as [a, b]",
    "object": "a mapping (key: value)",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
}
MERGE_TAG = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys and reads `2e-4` as a number, as YAML 1.2 does."""


def _no_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == MERGE_TAG:  # `<<: *defaults` fills in what is not given: no duplicate
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a plain value", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _no_duplicates)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def load_yaml(path: Path) -> Any:
    """The content of one YAML file. Raises InputError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"no such file: {path}", "check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}", "check that it is a readable UTF-8 text file") from None
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise InputError(f"{path}, line {line}: {error.problem}", "correct the YAML there") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})", "correct the YAML") from None


def convert(data: Any, kind: type[T], where: str) -> T:
    """Plain data to a Struct. `where` names the file in errors. Raises InputError."""
    refuse_unknown_keys(data, inspect.type_info(kind), where, "")
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at ")
        place = path.replace("`", "").replace("$.", "").removeprefix("$")  # `$.models[0].alias`, `key` in `$.label_map`
        if place.startswith("key in "):
            hint = f'put that {place} of {where} in quotes: "…"'
        else:
            hint = f"correct {place} in {where}" if place else f"correct {where}"
        raise InputError(f"{where}: {place + ': ' if place else ''}{in_plain_words(message)}", hint) from None


def in_plain_words(message: str) -> str:
    """``Expected `array | null`, got `str` `` -> `expected a list, such as [a, b], or nothing; got text`."""
    if message.startswith("Object missing required field "):
        return f"the key {message.rpartition(' ')[2]} is missing"
    expected, comma, got = message.partition(", got ")
    if not expected.startswith("Expected `"):
        return message
    wanted, given = _with_words(expected.removeprefix("Expected ")), _with_words(got)
    return f"expected {wanted}" + (f"; got {given.partition(',')[0]}" if comma else "")


def _with_words(text: str) -> str:
    """Every `a | b` between backticks in words; a type that has none stays as it is."""

    def words(kinds: re.Match[str]) -> str:
        known = [WORDS.get(kind, kind) for kind in kinds[1].split(" | ")]
        return (", or " if "," in "".join(known) else " or ").join(known)

    return re.sub("`([^`]*)`", words, text)


def refuse_unknown_keys(data: Any, info: inspect.Type, where: str, path: str) -> None:
    """Walk data and type side by side; a key that no Struct field bears is refused with the nearest name."""
    if isinstance(info, inspect.UnionType):
        structs = [t for t in info.types if isinstance(t, inspect.StructType | inspect.CollectionType)]
        wanted = inspect.StructType if isinstance(data, dict) else inspect.CollectionType
        for t in structs:
            if isinstance(t, wanted):
                refuse_unknown_keys(data, t, where, path)
    elif isinstance(info, inspect.StructType) and isinstance(data, dict):
        fields = {field.encode_name: field.type for field in info.fields}
        for key, value in data.items():
            at = f"{path}.{key}".lstrip(".")
            if key not in fields:
                raise InputError(
                    f"{where}: unknown key '{at}'{did_you_mean(str(key), fields)}",
                    f"keys known there: {', '.join(sorted(fields))}",
                )
            refuse_unknown_keys(value, fields[key], where, at)
    elif isinstance(info, inspect.DictType) and isinstance(data, dict):
        for key, value in data.items():
            refuse_unknown_keys(value, info.value_type, where, f"{path}.{key}".lstrip("."))
    elif isinstance(info, inspect.ListType | inspect.VarTupleType) and isinstance(data, list):
        for i, value in enumerate(data):
            refuse_unknown_keys(value, info.item_type, where, f"{path}[{i}]")
