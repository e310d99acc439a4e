"""`moodbench models list | show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from harness.catalog import ModelEntry


@click.group()
def models() -> None:
    """List and show models."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(as_json: bool) -> int:
    """All models of the catalogue."""
    import msgspec

    from harness.catalog import load_catalog

    entries = list(load_catalog().models.values())
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode([plain(entry) for entry in entries]), indent=2).decode())
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("Model", "Parameters", "Architecture", "Source"):
        table.add_column(heading, justify="right" if heading == "Parameters" else "left", overflow="fold")
    for entry in entries:
        source = f"{entry.kind}: {entry.source}" + (" (gated)" if entry.gated else "")
        table.add_row(*map(Text, (entry.alias, entry.size_params or "–", entry.architecture or "–", source)))
    Console(highlight=False).print(table)
    return 0


@models.command("show")
@click.argument("alias")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_model(alias: str, as_json: bool) -> int:
    """Everything configured about one model."""
    import msgspec
    import yaml

    from harness.catalog import load_catalog

    entry = plain(load_catalog().model(alias))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(entry), indent=2).decode())
    else:
        click.echo(yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, default_flow_style=None), nl=False)
    return 0


def plain(entry: ModelEntry) -> dict[str, object]:
    """The entry as plain data, with its kind; settings that are not given are left out."""
    import msgspec

    data: dict[str, object] = msgspec.to_builtins(entry)
    data["training"] = entry.training.given()
    given = {key: value for key, value in data.items() if value not in (None, {}, (), [], "")}
    return {"alias": entry.alias, "kind": entry.kind} | given
