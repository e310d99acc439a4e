"""The command line. A command parses, calls one function, and prints; errors become one sentence and a remedy."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from contextlib import suppress

import click

from harness.errors import ExitCode, MoodBenchError
from runner import __version__

# Command -> (module under harness.cli, help). Modules load when their command runs: `--help` must be instant.
COMMANDS = {
    "plan": ("plan", "Show what a suite needs, what fits, and what cannot run and why."),
    "run": ("run", "Run a suite, or your own file, and rank the models."),
    "attach": ("attach", "Follow a run until it ends, whoever started it."),
    "status": ("status", "Say how far a run is, or all runs are."),
    "stop": ("stop", "Stop a run; finished cells are kept."),
    "resume": ("resume", "Finish what a run lacks."),
    "explain": ("explain", "Tell what became of a cell, attempt by attempt, and why."),
    "leaderboard": ("leaderboard", "Show the ranking of a run."),
    "compare": ("compare", "Compare two models, or two runs, on the same test examples."),
    "gate": ("gate", "Refuse a run that is worse than a baseline: for CI."),
    "nps": ("nps", "Show the Net Promoter Score of reviews: actual, and by each model."),
    "report": ("report", "Write the report of a run: one HTML page, or its ranking as data."),
    "export": ("export", "Write a trained model as a folder that transformers loads."),
    "track": ("track", "Bring a run into MLflow."),
    "fetch": ("fetch", "Fetch models and prepare datasets, so that runs need no network."),
    "models": ("models", "List and show models."),
    "datasets": ("datasets", "List, show and preview datasets."),
    "clean": ("clean", "Remove what killed runs left behind."),
    "images": ("images", "Build, list and remove the images that cells run in."),
    "calibrate": ("calibrate", "Find out which differences in speed are noise on this machine."),
    "doctor": ("doctor", "Check what this machine offers and what needs fixing."),
    "schema": ("schema", "Print the JSON Schemas of all files."),
}


class LazyGroup(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `moodbench ... | head`: caught before click would end with 1, "some cell failed"
            from harness.cli.output import discard_stdout

            discard_stdout()
            unsettled = ("run", "resume", "gate")  # to end with 0 would say what nobody knows
            return int(ExitCode.INTERRUPTED if ctx.invoked_subcommand in unsettled else ExitCode.OK)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"harness.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from harness.errors import did_you_mean

            raise click.UsageError(f"{error.message.rstrip('.')}{did_you_mean(args[0], COMMANDS)}", ctx) from None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="moodbench")
def cli() -> None:
    """Which small language model should classify my text, on my hardware, and how sure can I be?"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is one of `ExitCode`. Used as the console script and by tests."""
    try:
        code = cli.main(args=list(sys.argv[1:] if argv is None else argv), prog_name="moodbench", standalone_mode=False)
    except MoodBenchError as error:
        from harness.text import clean  # messages may quote data

        with suppress(BrokenPipeError):
            click.echo(f"error: {clean(error.message)}\nhint: {clean(error.hint)}", err=True)
        return int(error.exit_code)
    except click.ClickException as error:
        error.show()
        return int(ExitCode.USAGE)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return int(ExitCode.INTERRUPTED)
    return code if isinstance(code, int) else int(ExitCode.OK)
