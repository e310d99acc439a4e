"""`moodbench resume`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import detach_option, json_lines_option, results_option

if TYPE_CHECKING:
    from harness.request import RunRequest
    from harness.store import RunFolder


@click.command()
@click.argument("run", metavar="RUN")
@detach_option
@json_lines_option
@results_option
def resume(run: str, detach: bool, json_lines: bool, results: Path) -> int:
    """Finish what RUN lacks, with the options it was started with. Failed cells are tried again."""
    from harness.cli.following import start
    from harness.control import is_alive
    from harness.display import choose_display, closing_display
    from harness.errors import InputError
    from harness.status import find_any_run

    with closing_display(choose_display(json_lines)):
        folder = find_any_run(run, results)
        if is_alive(folder):
            raise InputError(f"run '{folder.folder.name}' is running", f"watch it with `moodbench attach {run}`")
        request = asked_before(folder)
    return start(folder, request, detach=detach, json_lines=json_lines)


def asked_before(folder: RunFolder) -> RunRequest:
    """Every suite run into the folder, with the options of the last time. Raises InputError."""
    import msgspec

    from harness.errors import InputError
    from harness.launch import kept_request
    from harness.request import RunOptions, RunRequest
    from harness.suite import Suite
    from runner.contract import ContractError

    last: RunRequest | None = None
    try:
        last = kept_request(folder)
    except FileNotFoundError:  # from before requests were kept
        pass
    except (ContractError, OSError) as error:
        raise InputError(f"cannot read what the run was asked to do: {error}", "give `moodbench run` again") from None
    if last is not None and not folder.record_path.exists():
        return last
    try:
        suites = tuple(msgspec.convert(suite, Suite) for suite in folder.read_record().suites)
    except msgspec.ValidationError as error:
        raise InputError(f"cannot read the suites of the run: {error}", "give `moodbench run` again") from None
    options = last.options if last is not None else RunOptions()
    unknown = tuple(suite for suite in (last.suites if last is not None else ()) if suite not in suites)
    return RunRequest(suites=suites + unknown, options=options)
