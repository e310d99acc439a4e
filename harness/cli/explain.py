"""`moodbench explain`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import results_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.explain import AttemptStory, CellStory


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("cell", metavar="CELL")
@click.option("--json", "as_json", is_flag=True, help="As data.")
@results_option
def explain(run: str, cell: str, as_json: bool, results: Path) -> int:
    """Tell what became of CELL of RUN: every attempt, how it ended, what followed and why.

    CELL is its name, or a beginning or part of it that no other cell of the run has.
    """
    from harness.cli.output import echo_json
    from harness.control import is_alive
    from harness.explain import explain as story_of
    from harness.explain import find_cell
    from harness.status import find_any_run
    from harness.text import clean

    folder = find_any_run(run, results)
    story = story_of(folder, find_cell(folder, cell), alive=is_alive(folder))
    if as_json:
        echo_json(story)
        return 0
    for line in _lines(story):
        click.echo(clean(line))
    return 0


def _lines(story: CellStory) -> Iterator[str]:
    yield story.cell
    if story.unavailable:
        yield f"  never began: {story.unavailable}"
    elif not story.attempts:
        yield "  not started yet"
    for attempt in story.attempts:
        yield from _attempt_lines(attempt)


def _attempt_lines(attempt: AttemptStory) -> Iterator[str]:
    from harness.display.words import duration

    length = f" after {duration(attempt.seconds)}" if attempt.seconds is not None else ""
    yield f"attempt {attempt.number}: {attempt.state}{length}"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.started)) if attempt.started is not None else ""
    facts = (
        ("started", when),
        ("where", attempt.where),
        ("from", _origin(attempt)),
        ("resumed", "from what an earlier attempt had completed" if attempt.resumes else ""),
        ("why", f"{attempt.kind}: {attempt.message}" if attempt.message else ""),
        ("phase", attempt.phase or ""),
        ("hint", attempt.hint),
        ("log", attempt.log or ""),
        ("then", attempt.follows),
    )
    for name, value in facts:
        if value:
            yield f"  {name + ':':<9} {value}"
    for one in attempt.differences:
        yield f"  {one.name}: {one.effective} instead of {one.requested} ({one.reason})"


def _origin(attempt: AttemptStory) -> str:
    found = attempt.taken_from
    if found is None:
        return ""
    speed = "with its speed" if found.speed else "without its speed, which is measured again here"
    return f"run '{found.run}', attempt {found.attempt}, {speed}"
