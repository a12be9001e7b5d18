"""``sharpbench run``."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sharpbench.cli.exits import INTERRUPTED, SOME_FAILED, ended_by
from sharpbench.cli.options import (
    DataOption,
    DeviceOption,
    LogFileOption,
    OpenOption,
    PluginOption,
    QuietOption,
    ReportsOption,
    ResultsOption,
    SuiteArgument,
    VerboseOption,
    engine_names,
)
from sharpbench.cli.report import opened, write_report
from sharpbench.console import aside, err, escape, out, verbose
from sharpbench.errors import Terminated
from sharpbench.progress import progress

if TYPE_CHECKING:
    from sharpbench.suite.forecast import Expected
    from sharpbench.suite.outline import AnyPlan
    from sharpbench.suite.prepared import RunSummary
    from sharpbench.suite.session import Intent

__all__ = ["counted", "print_summary", "resumable", "run", "to_resume"]


def run(
    suite: SuiteArgument,
    results: ResultsOption = Path("results"),
    reports: ReportsOption = Path("reports"),
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Subjects run at once. Figures are the same for any number. Default: 1; with "
            "--engine ray as many as the cluster has cores or GPUs for.",
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="Where subjects are run: process, worker processes of this machine; ray, those of a "
            "cluster; inline, this process, for a debugger.",
            autocompletion=engine_names,
        ),
    ] = "process",
    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0, help="With --engine ray: GPUs that each worker sees.")
    ] = None,
    device: DeviceOption = "cpu",
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run only subjects whose label contains TEXT; may stand several times."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done and why; do nothing.")
    ] = False,
    report: Annotated[bool, typer.Option(help="Write the HTML report at the end.")] = True,
    wait: Annotated[
        bool, typer.Option(help="Wait if another run uses the results folder; --no-wait: exit 2.")
    ] = True,
    plugin: PluginOption = None,
    open_: OpenOption = False,
    data_dir: DataOption = None,
    quiet: QuietOption = False,
    verbose_: VerboseOption = False,
    log_file: LogFileOption = None,
) -> None:
    """Run a suite: train, measure, transform, measure again, and write the report.

    What is recorded already is not done again, so the same command resumes an interrupted run, and a
    metric added to the suite is measured alone.

    [bold]Examples[/bold]

      sharpbench run quick

      sharpbench run mnist --workers 2

      sharpbench run my_suite.toml --only "seed=0" --dry-run
    """
    from sharpbench.suite.engines import make_engine
    from sharpbench.suite.prepared import prepare

    chosen = make_engine(engine, workers=workers, gpus_per_worker=gpus_per_worker)
    prepared = prepare(
        suite,
        device=device,
        here=engine != "ray",  # whose devices are those of its nodes
        only=only or [],
        plugins=plugin or [],
        data=data_dir,
        remembered_in=results,
    )
    for told in prepared.not_installed():
        aside.print(f"[yellow]note:[/] {escape(told)}", soft_wrap=True)
    if dry_run:
        _print_plan(prepared.known, results, prepared.data, workers or 1)
        prepared.remember()
        return
    with resumable():
        done = prepared.carry_out(
            results, engine=chosen, watch=progress, say=print_aside, wait=wait
        )
    print_summary(done)
    if report:
        page = write_report(results, prepared.known.name, reports)
        if open_:
            opened(page)
    if done.failed:
        raise typer.Exit(SOME_FAILED)


@contextmanager
def resumable() -> Iterator[None]:
    """Says, when the work is interrupted, that nothing recorded is lost."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as error:
        raise to_resume(error) from None


def to_resume(error: KeyboardInterrupt | Terminated) -> typer.Exit:
    """Says, also where another signal comes, that nothing recorded is lost; what ends the program then."""
    how, code = "interrupted", INTERRUPTED
    if isinstance(error, Terminated):
        how, code = "ended by a signal", ended_by(error.number)
    said = False
    while not said:
        with suppress(KeyboardInterrupt, Terminated), _unheard():
            err.print(f"{how}: what was recorded is kept, the same command resumes", soft_wrap=True)
            said = True
    return typer.Exit(code)


@contextmanager
def _unheard() -> Iterator[None]:
    """No signal ends the program here."""
    numbers = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
    before = {n: handler for n in numbers if callable(handler := signal.getsignal(n))}
    try:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_aside(text: str) -> None:
    """A sentence on how things stand."""
    aside.print(escape(text), soft_wrap=True)


_MOST_SHOWN = 100
"""Beyond this many subjects a dry run names those alone for which there is something to do."""


def _print_plan(plan: AnyPlan, results: Path, data: Path, workers: int) -> None:
    from sharpbench.suite.session import intents

    found = intents(plan, results, data)

    def count(test: Callable[[Intent], bool]) -> int:
        return sum(map(test, found))

    def idle(intent: Intent) -> bool:
        cached = intent.training in {"cached", "none"}
        return cached and not intent.to_measure and not intent.to_evaluate

    shown = found if len(found) <= _MOST_SHOWN else [i for i in found if not idle(i)]
    table = Table(title=f"{plan.name}: {len(found)} subjects", title_justify="left")
    for column in ("key", "subject", "training", "to measure"):
        table.add_column(column, overflow="fold")
    for intent in shown[:_MOST_SHOWN]:
        table.add_row(
            intent.subject.key[:10],
            escape(intent.subject.label),
            escape(intent.training),
            f"{intent.to_measure} of {intent.measurements}",
        )
    out.print(table)
    more = len(shown) - _MOST_SHOWN
    if len(found) > _MOST_SHOWN:
        out.print(
            (f"… and {more} more with something to do; " if more > 0 else "")
            + f"{count(idle)} subjects are complete and not listed",
            soft_wrap=True,
        )
    out.print(
        f"{_to_do(found)}; {sum(i.to_measure for i in found)} measurements to make. "
        "Nothing was done (--dry-run).",
        soft_wrap=True,
    )
    if told := _duration([i.expected for i in found], workers):
        out.print(told, soft_wrap=True)


def _to_do(found: Sequence[Intent]) -> str:
    """How many subjects of each kind there are, and where they stand."""
    trained = [i for i in found if i.subject.kind == "trained"]
    own = sum(i.subject.kind == "own" for i in found)
    problems = len(found) - len(trained) - own
    parts = []
    if trained:
        cached = [i for i in trained if i.training == "cached"]
        evaluate = sum(i.to_evaluate for i in cached)
        again = f" ({evaluate} of them to evaluate)" if evaluate else ""
        parts.append(f"{len(trained) - len(cached)} to train, {len(cached)} cached{again}")
    if own:
        parts.append(counted(own, "network of your own", "networks of your own"))
    if problems:
        parts.append(counted(problems, "problem"))
    return ", ".join(parts)


def _duration(expected: Sequence[Expected], workers: int) -> str:
    """How long the plan will take, as far as recorded costs tell, or why that can't be told; empty where
    nothing is left to do."""
    measurements = sum(e.measurements for e in expected)
    unlike = sum(e.unlike for e in expected)
    trainings = sum(e.trains for e in expected)
    untrained = sum(e.untrained for e in expected)
    if not measurements and not trainings:
        return ""
    work = sum(e.seconds for e in expected)
    longest = max(e.seconds for e in expected)
    took = f"about {_spelled(max(work / workers, longest))}"
    if workers > 1:
        took += f" on {workers} workers"
    unknown = []
    if unlike:
        of = "all" if unlike == measurements else f"{unlike:,} of {measurements:,}"
        unknown.append(f"{of} measurements")
    if untrained:
        of = "all" if untrained == trainings else f"{untrained:,} of {trainings:,}"
        unknown.append(f"{of} trainings")
    if not unknown:
        return f"It takes {took}, by the recorded costs of like measurements and trainings."
    if not work:
        return (
            "How long it takes can't be told: this results folder holds no costs of like measurements or "
            "trainings yet. They are recorded as the suite runs."
        )
    return (
        f"What was done before on like networks takes {took}. How long {' and '.join(unknown)} take can't be "
        "told: nothing like them is recorded in this results folder yet."
    )


def _spelled(seconds: float) -> str:
    if seconds < 1:
        return "a second"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def print_summary(done: RunSummary) -> None:
    """What a run did, in a line, and what failed."""
    parts = []
    if done.trained or done.cached or done.untrained:
        parts.append(f"{done.trained} trained, {done.cached} from the results folder")
    if done.untrained:
        parts.append(f"{done.untrained} whose training failed")
    if done.own:
        parts.append(counted(done.own, "network of your own", "networks of your own"))
    if done.problems:
        parts.append(counted(done.problems, "problem"))
    told = f"{counted(done.subjects, 'subject')}: {', '.join(parts)}"
    out.print(f"{told}; {counted(done.records, 'record')} written", soft_wrap=True)
    for mended in done.mended:
        err.print(f"[yellow]set aside:[/] {escape(mended)}", soft_wrap=True)
    if done.unproven:
        aside.print(
            f"[yellow]note:[/] {done.unproven} records or descriptions were written without checksums, by an "
            "earlier version: a changed digit in them would not be noticed",
            soft_wrap=True,
        )
    most = len(done.failed) if verbose() else _MOST_FAILURES
    for problem in done.failed[:most]:
        err.print(f"[yellow]failed:[/] {escape(problem)}", soft_wrap=True)
    if len(done.failed) > most:
        err.print(
            f"… and {len(done.failed) - most} more: --verbose, and the report, tell all",
            soft_wrap=True,
        )


_MOST_FAILURES = 10
"""Told at the end, unless all are wanted."""


def counted(number: int, one: str, many: str = "") -> str:
    """``1 subject``, ``2 subjects``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
