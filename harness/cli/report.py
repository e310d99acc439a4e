"""`moodbench report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import results_option

if TYPE_CHECKING:
    from harness.report.writing import Format

FORMATS: tuple[Format, ...] = ("html", "json", "csv", "markdown")


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--format", "form", type=click.Choice([*FORMATS, "all"]), default="html", show_default=True)
@click.option("--to", type=click.Path(path_type=Path), help="Folder for the files.  [default: the run's]")
@click.option("--png", is_flag=True, help="Each chart as a picture, too (extra `png`, and Chrome or Chromium).")
@click.option("--open", "opened", is_flag=True, help="Show the page in the browser.")
@results_option
def report(run: str, form: str, to: Path | None, png: bool, opened: bool, results: Path) -> int:
    """Write the report of RUN: one HTML file that needs no network, or its ranking as data.

    RUN is a folder such as results/demo, or a run's name.
    """
    from harness.report.writing import write_report
    from harness.store import find_run
    from harness.text import clean

    if opened and form not in ("html", "all"):
        raise click.UsageError("--open shows the HTML page; give --format html or all with it")
    folder = find_run(run, results)
    formats = [one for one in FORMATS if form in (one, "all")]
    written = write_report(folder, formats, to or folder.folder, png=png)
    for path in written.files:
        click.echo(clean(str(path)))
    if opened and written.page is not None:
        _show(written.page)
    return 0


def _show(page: Path) -> None:
    import webbrowser

    from harness.text import clean

    url = page.resolve().as_uri()
    try:
        shown = webbrowser.open(url)
    except webbrowser.Error:
        shown = False
    if not shown:
        click.echo(clean(f"no browser was found; open {url} in one"), err=True)
