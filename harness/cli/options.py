"""Option types that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class CommaList(click.ParamType[list[str]]):
    """`a,b,c` -> ["a", "b", "c"]; blanks around commas do not matter."""

    name = "a,b,c"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        if isinstance(value, list):
            return value
        items = [item.strip() for item in str(value).split(",")]
        if not all(items):
            self.fail(f"'{value}' holds an empty name", param, ctx)
        return items


class IntList(click.ParamType[list[int]]):
    """`1,2,3` -> [1, 2, 3]."""

    name = "1,2,3"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            numbers = [int(item) for item in str(value).split(",")]
        except ValueError:
            self.fail(f"'{value}' is no list of whole numbers such as 1,2,3", param, ctx)
        if any(number < 0 or number >= 2**32 for number in numbers):
            self.fail(f"'{value}': seeds lie between 0 and {2**32 - 1}", param, ctx)
        return numbers


results_option = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    envvar="MOODBENCH_RESULTS",
    show_default=True,
    help="Folder that holds the runs.",
)
