"""Read one table file (CSV, TSV, JSON lines, Parquet) into plain columns, every value kept as it is read."""

from __future__ import annotations

import codecs
import csv
import difflib
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import RunnerError

Columns = dict[str, list[Any]]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
MAX_FIELD_CHARS = 2**31 - 1  # csv's own limit of 128 Ki is below a long document


@dataclass(frozen=True)
class FileTable:
    """The columns of one file, parallel lists, and sentences for the user on how it was read."""

    columns: Columns
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Parsed:
    """Rows of a delimited file with the header first, and what is wrong with it, if anything."""

    rows: list[list[str]]
    problem: RunnerError | None


def read_file(path: Path, wanted: frozenset[str] = frozenset()) -> FileTable:
    """The file's columns. `wanted`: where the format allows, read these only, if all of them are there.

    Raises RunnerError (`data`) when the file is missing, empty, of an unknown kind or broken.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise RunnerError(
            "data",
            f"{path.name} is of a kind that cannot be read ({suffix or 'no extension'})",
            f"export it as one of {', '.join(SUFFIXES)}, and let its name end so",
        )
    if suffix == ".parquet":
        table = FileTable(_read_parquet(path, wanted))
    elif suffix in (".csv", ".tsv"):
        table = _read_delimited(path)
    else:
        table = _read_json(path)
    if not table.columns or not next(iter(table.columns.values())):
        raise RunnerError("data", f"{path.name} has column names but no rows", "add rows, or give another file")
    return table


def sha256_of(path: Path) -> str:
    """sha256 of the file's bytes. Raises RunnerError (`data`)."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> RunnerError:
    if not isinstance(error, FileNotFoundError):
        return RunnerError("data", f"{path} cannot be read: {error.strerror or error}", "check its permissions")
    beside = [each.name for each in path.parent.glob("*") if each.is_file()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    hint = f"did you mean {path.with_name(near[0])}?" if near else "check the path"
    return RunnerError("data", f"the file {path} does not exist", hint)


# --- text -------------------------------------------------------------------------------------


def _read_text(path: Path) -> tuple[str, list[str]]:
    """The file decoded, and notes on its encoding."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    notes = []
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", errors="replace")
        notes.append(f"{path.name} was read as UTF-16.")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
            notes.append(f"{path.name} is not UTF-8; it was read as latin-1.")
    if not text.strip():
        raise RunnerError("data", f"{path.name} is empty", "give a file with a header and rows")
    if "\0" in text:
        raise RunnerError("data", f"{path.name} is not a text file (it holds NUL bytes)", "export it as UTF-8 text")
    return text, notes


def _read_delimited(path: Path) -> FileTable:
    text, notes = _read_text(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter_of(text)
    if delimiter != "," and path.suffix.lower() == ".csv":
        notes.append(f"{path.name} is separated by {'tabs' if delimiter == chr(9) else repr(delimiter)}, not commas.")
    parsed = _parse(path, text, delimiter, quoted=True)
    if delimiter == "\t" and '"' in text:
        # Many TSV files do not quote: there a quotation mark is text and would swallow the lines up to the next one.
        plain = _parse(path, text, delimiter, quoted=False)
        if plain.problem is None and (parsed.problem is not None or len(plain.rows) != len(parsed.rows)):
            parsed = plain
            notes.append(f"{path.name} has quotation marks that do not quote; they were read as text.")
    if parsed.problem is not None:
        raise parsed.problem
    header, *rows = parsed.rows
    names = _column_names(path, header)
    values = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in names]
    return FileTable(dict(zip(names, values, strict=True)), tuple(notes))


def _delimiter_of(text: str) -> str:
    """Comma, unless the header has none and has semicolons or tabs."""
    header = text.lstrip().split("\n", 1)[0]
    if "," in header:
        return ","
    best = max(";\t", key=header.count)
    return best if best in header else ","


def _parse(path: Path, text: str, delimiter: str, *, quoted: bool) -> _Parsed:
    csv.field_size_limit(MAX_FIELD_CHARS)
    lines = io.StringIO(text, newline="")
    if quoted:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
    else:
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    rows: list[list[str]] = []
    ragged: list[tuple[int, int]] = []  # first line, fields
    first_line = 1
    try:
        for row in reader:
            if row and (len(row) > 1 or row[0].strip()):
                rows.append(row)
                if len(row) != len(rows[0]):
                    ragged.append((first_line, len(row)))
            first_line = reader.line_num + 1
    except csv.Error as error:
        return _Parsed(rows, _broken_quoting(path, first_line, error))
    return _Parsed(rows, _ragged(path, ragged, len(rows[0])) if ragged else None)


def _broken_quoting(path: Path, line: int, error: csv.Error) -> RunnerError:
    cause = "a quotation mark that never closes" if "unexpected end" in str(error) else "broken quotation marks"
    return RunnerError(
        "data",
        f"{path.name} has {cause} in the row that begins at line {line:,}",
        'put the whole field in quotation marks and double those inside: "she said ""yes"""',
    )


def _ragged(path: Path, ragged: list[tuple[int, int]], width: int) -> RunnerError:
    line, fields = ragged[0]
    more = f" ({len(ragged):,} rows are like this)" if len(ragged) > 1 else ""
    return RunnerError(
        "data",
        f"{path.name}, line {line:,}: {fields} fields, but the header has {width}{more}",
        "put texts that hold the separator in quotation marks, or correct the line",
    )


def _column_names(path: Path, header: list[str]) -> list[str]:
    names = [name.strip() or f"unnamed_{number}" for number, name in enumerate(header, start=1)]
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise RunnerError(
            "data", f"{path.name} has more than one column {repeated[0]!r}", "give each column its own name"
        )
    return names


# --- JSON and Parquet ---------------------------------------------------------------------------


def _read_json(path: Path) -> FileTable:
    text, notes = _read_text(path)
    objects = _json_array(path, text) if text.lstrip().startswith("[") else _json_lines(path, text)
    if "\\u" in text.casefold():
        objects = [{_sound(key): _sound(value) for key, value in each.items()} for each in objects]
    names = dict.fromkeys(name for each in objects for name in each)
    return FileTable({name: [each.get(name) for each in objects] for name in names}, tuple(notes))


def _json_lines(path: Path, text: str) -> list[dict[str, Any]]:
    objects = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise _not_json(path, f"line {number:,} is not a JSON object ({error})") from error
        if not isinstance(value, dict):
            raise _not_json(path, f"line {number:,} is {type(value).__name__}, not a JSON object")
        objects.append(value)
    return objects


def _json_array(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise _not_json(path, f"it is not valid JSON ({error})") from error
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise _not_json(path, f"element {number:,} of its list is not a JSON object")
    return list(values)


def _not_json(path: Path, cause: str) -> RunnerError:
    hint = 'write one object a line: {"text": "...", "label": "..."}'
    return RunnerError("data", f"{path.name}: {cause}", hint)


def _sound(value: Any) -> Any:
    """A string without halves of surrogate pairs, which JSON can carry and UTF-8 and Parquet cannot."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _read_parquet(path: Path, wanted: frozenset[str]) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        table = pq.read_table(path, columns=select(wanted, names))
    except pa.ArrowException as error:
        cause = str(error).splitlines()[0]
        raise RunnerError("data", f"{path.name} is not a sound Parquet file: {cause}", "write it again") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    return arrow_columns(path.name, table)


def select(wanted: frozenset[str], available: list[str]) -> list[str] | None:
    """The columns to read: those wanted, and the ids, if all wanted ones are there; else None: all of them."""
    return sorted(wanted | ({"id"} & set(available))) if wanted and wanted <= set(available) else None


def arrow_columns(origin: str, table: Any) -> Columns:
    """The columns of an Arrow table as Python values. Raises RunnerError (`data`)."""
    names = table.column_names
    if len(set(names)) != len(names):
        raise RunnerError("data", f"{origin} has two columns of one name", "give each column its own name")
    return {name: table[name].to_pylist() for name in names}
