"""The command and its verbs, in the order of --help."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from sharpbench.cli import (
    bundle,
    check,
    cite,
    compare,
    data,
    env,
    inspect,
    measure,
    new,
    perf,
    publish,
    rank,
    report,
    run,
    schema,
    verify,
)
from sharpbench.cli.defaults import defaults
from sharpbench.cli.exits import BAD_INPUT, DONE, INTERRUPTED, ended_by
from sharpbench.cli.options import SeveralValues, flowing
from sharpbench.console import aside, err, escape, speak
from sharpbench.errors import InputError, InputWarning, LeftOutWarning, PluginWarning, Terminated
from sharpbench.streams import lasting_streams, lost_output

__all__ = ["app", "main"]

app = typer.Typer(
    name="sharpbench",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help=flowing(
        """Which sharpness metric of a neural network can be trusted?

        [bold]sharpbench run quick[/bold] trains small networks, measures every metric on them, and writes
        an HTML report to reports/quick/index.html. Nothing measured is lost on Ctrl-C, and nothing is
        measured twice.
        """
    ),
    epilog="Exit codes: 0 done; 1 some figures failed, or do not hold; 2 the input was wrong; "
    "130 interrupted.",
)
_VERBS = {
    "Run and read": (run.run, report.report, report.index, inspect.list_, inspect.show),
    "Your own": (measure.measure, check.check, rank.rank, new.new),
    "Keep and share": (
        *(compare.compare, compare.export, verify.verify, bundle.bundle, bundle.merge),
        publish.publish,
    ),
    "Look up": (schema.schema, cite.cite, env.env),
}
"""Every verb by what it is there for, in the order of --help."""

for _panel, _functions in _VERBS.items():
    for _function in _functions:
        app.command(
            _function.__name__.rstrip("_"),
            cls=SeveralValues if _function is measure.measure else None,
            help=flowing(_function.__doc__ or ""),
            rich_help_panel=_panel,
        )(_function)
app.add_typer(data.app, name="data", rich_help_panel="Run and read")
app.add_typer(perf.app, name="perf", rich_help_panel="Look up")
for _group in (data.app, perf.app):
    for _command in _group.registered_commands:
        _command.help = flowing(_command.callback.__doc__ or "" if _command.callback else "")


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
    lasting_streams()
    speak(quiet=False, verbose=False, log_file=None)
    warnings.showwarning = _told(warnings.showwarning)
    ending = [n for name in ("SIGTERM", "SIGHUP") if (n := getattr(signal, name, None))]
    for number in ending:
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, _terminated)
    code = _run()
    if code > BAD_INPUT:  # by a signal: nothing is left to do that a second one could disturb
        for number in (signal.SIGINT, *ending):
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
    if code == DONE and (lost := lost_output()):
        _say(f"standard output: {lost.strerror}")
        code = BAD_INPUT
    sys.exit(code)


def _run() -> int:
    """Run the command; its exit code."""
    try:
        app(standalone_mode=True, default_map=defaults(app))
    except SystemExit as ended:
        return DONE if ended.code is None else ended.code if isinstance(ended.code, int) else 1
    except InputError as error:
        _say(str(error))
        return BAD_INPUT
    except OSError as error:  # a folder named as a file, or one that can't be written to
        if error.errno is None:
            raise
        _say(": ".join(str(part) for part in (error.filename, error.strerror) if part))
        return BAD_INPUT
    except KeyboardInterrupt:
        err.print("interrupted")
        return INTERRUPTED
    except Terminated as error:
        err.print(f"ended by {signal.Signals(error.number).name}")
        return ended_by(error.number)
    return DONE


def _say(told: str) -> None:
    err.print(f"[bold red]error:[/] {escape(told)}", soft_wrap=True)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated(number)


def _told(otherwise: Callable[..., None]) -> Callable[..., None]:
    """What isn't used, plug-ins or results, and how input was taken, in a sentence alone."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, (InputWarning, PluginWarning, LeftOutWarning)):
            aside.print(f"[yellow]note:[/] {escape(str(message))}", soft_wrap=True)
        else:
            otherwise(message, category, *place, **more)

    return show
