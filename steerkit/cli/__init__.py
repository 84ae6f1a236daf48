"""The command line: a thin skin. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from steerkit import __version__
from steerkit.cli import engine, experiment, judge, plugin, recipe, vector
from steerkit.cli.annotate import annotate
from steerkit.cli.bench import bench
from steerkit.cli.check import check
from steerkit.cli.generate import generate
from steerkit.cli.report import report

app = typer.Typer(
    name="steerkit",
    help="Find a direction inside a language model, steer with it, and prove what it does.",
    epilog="Start with: steerkit recipe run backtracking",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: rich costs more to import than the rest of --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(recipe.app, name="recipe")
app.add_typer(experiment.app, name="experiment")
app.add_typer(judge.app, name="judge")
app.add_typer(plugin.app, name="plugin")
app.add_typer(vector.app, name="vector")
app.add_typer(engine.app, name="engine")
app.command()(generate)
app.command()(report)
app.command()(annotate)
app.command()(check)
app.command()(bench)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"steerkit {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Console entry: user mistakes and Ctrl-C end with a plain line, never a traceback."""
    from steerkit.errors import SteerkitError

    interrupted = _Interrupted()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupted)
    try:
        app()
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except (Exception, KeyboardInterrupt, SystemExit) as end:
        # Who ends well after Ctrl-C, as a server does, has dealt with it.
        if _interrupted(end) or (interrupted.asked and isinstance(end, Exception)):
            typer.echo("stopped; what is done is kept: give the same command again to go on", err=True)
            sys.exit(130)
        if not isinstance(end, SteerkitError):
            raise
        typer.echo(f"error: {end}", err=True)
        sys.exit(2)
    finally:
        if signal.getsignal(signal.SIGINT) is interrupted:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class _Interrupted:
    """Ctrl-C's handler, which remembers it: compiled code that it stops may raise an error of another kind."""

    asked = False

    def __call__(self, signum: int, frame: object) -> None:
        self.asked = True
        raise KeyboardInterrupt


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an exception: typer makes an exit of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
