"""`moodbench export`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from harness.cli.options import results_option
from harness.model_card import ADAPTER_NEEDS

EPILOG = f"""\b
Examples:
  moodbench export demo minilm-l6--starter-sentiment--lora--s1 --to my-classifier
  moodbench export results/nightly bert-tiny--sst2--lora --to out/sst2 --merge

\b
The folder holds weights, tokenizer, label names, a model card and moodbench.json; this loads it:
  pipeline("text-classification", model=DIR, truncation=True)
A LoRA adapter is written beside its base model: loading needs {ADAPTER_NEEDS};
--merge makes one model that any transformers 5 loads.
Exit codes: 0 it is there; 2 no such cell, nothing to export, or a folder in use; 3 environment; 130 interrupted.
"""


@click.command(epilog=EPILOG)
@click.argument("run", metavar="RUN")
@click.argument("cell", metavar="CELL")
@click.option("--to", type=click.Path(path_type=Path), required=True, metavar="DIR", help="A new or empty folder.")
@click.option("--merge", is_flag=True, help="Merge a LoRA adapter into the weights.")
@results_option
def export(run: str, cell: str, to: Path, merge: bool, results: Path) -> int:
    """Write the model that CELL of RUN trained as a folder that transformers loads as it is.

    CELL is its name, or a beginning or part of it that no other cell of the run has.
    """
    from harness.explain import find_cell
    from harness.exporting import export_cell, trained_cell
    from harness.new_folder import new_folder
    from harness.store import find_run
    from harness.text import clean

    new_folder(to)
    folder = find_run(run, results)
    done = asyncio.run(export_cell(trained_cell(folder, find_cell(folder, cell)), to, merge=merge))
    for note in done.notes:
        click.echo(f"note: {clean(note)}", err=True)
    click.echo(done.folder)
    return 0
