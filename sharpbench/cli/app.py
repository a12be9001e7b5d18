"""The command and its verbs, in the order of --help."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from sharpbench.cli import check, compare, data, env, inspect, measure, perf, report, run, verify
from sharpbench.cli.console import err, escape
from sharpbench.cli.exits import BAD_INPUT, DONE, INTERRUPTED, ended_by
from sharpbench.errors import InputError, InputWarning, LeftOutWarning, PluginWarning, Terminated

__all__ = ["app", "main"]

app = typer.Typer(
    name="sharpbench",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""Which sharpness metric of a neural network can be trusted?

    [bold]sharpbench run quick[/bold] trains small networks, measures every metric on them, and writes
    an HTML report to reports/quick/index.html. Nothing measured is lost on Ctrl-C, and nothing is
    measured twice.
    """,
)
app.command()(run.run)
app.command()(report.report)
app.command("list")(inspect.list_)
app.command()(inspect.show)
app.command()(measure.measure)
app.command()(check.check)
app.command()(compare.compare)
app.command()(compare.export)
app.command()(verify.verify)
app.command()(env.env)
app.add_typer(data.app, name="data")
app.add_typer(perf.app, name="perf")


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from sharpbench.version import __version__

        print(__version__)
        raise typer.Exit(DONE)


def main() -> NoReturn:
    """Run the command; bad input prints one message and exits with 2."""
    warnings.showwarning = _told(warnings.showwarning)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what it can't write doesn't end the program
            stream.reconfigure(errors="backslashreplace")
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) is signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, _terminated)
    try:
        app(standalone_mode=True)
    except InputError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(BAD_INPUT)
    except OSError as error:  # a folder named as a file, or one that can't be written to
        if error.errno is None or isinstance(error, BrokenPipeError):
            raise
        told = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
        err.print(f"[bold red]error:[/] {escape(told)}", soft_wrap=True)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(INTERRUPTED)
    except Terminated as error:
        with contextlib.suppress(OSError):  # the terminal may be gone
            err.print(f"ended by {signal.Signals(error.number).name}")
        sys.exit(ended_by(error.number))
    sys.exit(DONE)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated(number)


def _told(otherwise: Callable[..., None]) -> Callable[..., None]:
    """What isn't used, plug-ins or results, and how input was taken, in a sentence alone."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, (InputWarning, PluginWarning, LeftOutWarning)):
            err.print(f"[yellow]note:[/] {escape(str(message))}", soft_wrap=True)
        else:
            otherwise(message, category, *place, **more)

    return show
