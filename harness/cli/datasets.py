"""`moodbench datasets list | show | preview`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.output import echo_entry, echo_json, given_settings, print_table

if TYPE_CHECKING:
    from harness.catalog import DatasetEntry
    from runner.contract import PreparedDataset


@click.group()
def datasets() -> None:
    """List, show and preview datasets."""


@datasets.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_datasets(as_json: bool) -> int:
    """All datasets of the catalogue."""
    from harness.catalog import load_catalog

    entries = [entry for entry, _ in load_catalog().datasets.values()]
    if as_json:
        echo_json([plain(entry) for entry in entries])
    else:
        rows = [(e.name, source_words(e), str(e.max_length), e.description) for e in entries]
        print_table(("Dataset", "Source", "Tokens", "Description"), rows, right=("Tokens",))
    return 0


@datasets.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_dataset(name: str, as_json: bool) -> int:
    """Everything configured about one dataset."""
    from harness.catalog import load_catalog

    echo_entry(plain(load_catalog().dataset(name)[0]), as_json)
    return 0


@datasets.command("preview")
@click.argument("name")
@click.option("--rows", type=click.IntRange(1, 100), default=5, show_default=True, help="Rows to show.")
@click.option("--text-column", help="For a file: the column that holds the text.  [default: guessed]")
@click.option("--label-column", help="For a file: the column that holds the label.  [default: guessed]")
def preview_dataset(name: str, rows: int, text_column: str | None, label_column: str | None) -> int:
    """Prepare NAME (a dataset, or a file of your own) and show classes, notes and a few rows."""
    from harness.jobs import prepare_one

    entry, base = _entry(name, text_column, label_column)
    prepared = asyncio.run(prepare_one(entry.request(base)))
    _print_preview(prepared, rows)
    return 0


def _entry(name: str, text_column: str | None, label_column: str | None) -> tuple[DatasetEntry, Path]:
    from harness.catalog import load_catalog
    from harness.cli.asked import own_data

    path = Path(name)
    if path.is_file():
        entry = own_data(path, text_column, label_column)
        assert entry is not None
        return entry, Path.cwd()
    return load_catalog().dataset(name)


def _print_preview(prepared: PreparedDataset, rows: int) -> None:
    import pyarrow.parquet as pq
    from rich.console import Console
    from rich.text import Text

    from harness.text import clean

    console = Console(highlight=False)
    console.print(Text(f"{prepared.name}  {prepared.fingerprint[:12]}", style="bold"))
    for note in prepared.notes:
        console.print(Text(f"- {clean(note)}"))
    splits = list(prepared.splits.values())
    counts = [(clean(label), *(f"{info.classes.get(label, 0):,}" for info in splits)) for label in prepared.label_names]
    counts.append(("all", *(f"{info.rows:,}" for info in splits)))
    print_table(("Class", *prepared.splits), counts, right=tuple(prepared.splits))
    table = pq.read_table(Path(prepared.folder) / "train.parquet", columns=["text", "label"]).slice(0, rows)
    for text, label in zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True):
        short = clean(" ".join(text.split()))
        console.print(Text.assemble((f"{clean(prepared.label_names[label])}: ", "bold"), short[:200]), soft_wrap=True)


def source_words(entry: DatasetEntry) -> str:
    kind = "hub" if entry.hub else "kaggle" if entry.kaggle else "embedded" if entry.embedded else "file"
    return f"{kind}: {entry.source}" if kind != "embedded" else "embedded"


def plain(entry: DatasetEntry) -> dict[str, Any]:
    """The entry as plain data; sizes always stand there."""
    import msgspec

    settings = msgspec.to_builtins(entry)
    return given_settings(settings) | {"sizes": settings["sizes"]}  # null is a setting there: all rows
