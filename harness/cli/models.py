"""`moodbench models list | show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from harness.cli.output import echo_entry, echo_json, given_settings, print_table

if TYPE_CHECKING:
    from harness.catalog import ModelEntry


@click.group()
def models() -> None:
    """List and show models."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(as_json: bool) -> int:
    """All models of the catalogue."""
    from harness.catalog import load_catalog

    entries = load_catalog().models.values()
    if as_json:
        echo_json([plain(entry) for entry in entries])
    else:
        rows = [(e.alias, e.size_params or "–", e.architecture or "–", source_words(e)) for e in entries]
        print_table(("Model", "Parameters", "Architecture", "Source"), rows, right=("Parameters",))
    return 0


@models.command("show")
@click.argument("alias")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_model(alias: str, as_json: bool) -> int:
    """Everything configured about one model."""
    from harness.catalog import load_catalog

    echo_entry(plain(load_catalog().model(alias)), as_json)
    return 0


def source_words(entry: ModelEntry) -> str:
    if entry.kind == "scratch":
        return "random weights"
    return f"{entry.kind}: {entry.source}" + (" (gated)" if entry.gated else "")


def plain(entry: ModelEntry) -> dict[str, Any]:
    """The entry as plain data, with its kind."""
    import msgspec

    data: dict[str, Any] = msgspec.to_builtins(entry)
    data["training"] = entry.training.given()
    return {"alias": entry.alias, "kind": entry.kind} | given_settings(data)
