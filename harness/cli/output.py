"""How commands print data: JSON, YAML, and plain tables in which names are never markup."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

_LOG_WIDTH = 1_000


def echo_json(data: Any, *, indent: int = 2) -> None:
    """`indent` 0: all on one line."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(data), indent=indent).decode())


def echo_entry(entry: dict[str, Any], as_json: bool) -> None:
    """One entry of the catalogue, as JSON or as the YAML it could be written in."""
    if as_json:
        echo_json(entry)
        return
    import yaml

    click.echo(yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, default_flow_style=None), nl=False)


def given_settings(entry: dict[str, Any]) -> dict[str, Any]:
    """Without the settings that are not given."""
    return {key: value for key, value in entry.items() if value not in (None, {}, (), [], "")}


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = (), whole_lines: bool = False
) -> None:
    """A table without lines; columns named in `right` are numbers. `whole_lines`: nothing is folded where it goes into
    a log or a pipe."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    width = _LOG_WIDTH if whole_lines and not (sys.stdout and sys.stdout.isatty()) else None
    console = Console(highlight=False, width=width)
    with console.capture() as printed:  # Rich itself ends the process with 1 where nobody reads any more
        console.print(table)
    click.echo(printed.get(), nl=False)


def discard_stdout() -> None:
    """Nobody reads it: what is still to be flushed, and all that follows, goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def unread_at_worst() -> Iterator[None]:
    """What is printed here may be lost, to a reader that has gone or a disk that is full: the exit code stays."""
    try:
        yield
    except OSError as error:
        with suppress(OSError):
            if not isinstance(error, BrokenPipeError):
                click.echo(f"cannot print all of it: {error.strerror or error}", err=True)
        with suppress(OSError):
            discard_stdout()


def program_name() -> str:
    """How the user can call this program from where they are."""
    if shutil.which("moodbench"):
        return "moodbench"
    here = Path(sys.argv[0])
    if here.name != "moodbench":
        return "python -m harness.cli"
    return str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else str(here)
