"""``sharpbench run``."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sharpbench.cli.console import err, escape, out
from sharpbench.cli.exits import INTERRUPTED, SOME_FAILED, ended_by
from sharpbench.cli.options import (
    DataOption,
    DeviceOption,
    OpenOption,
    PluginOption,
    ReportsOption,
    ResultsOption,
)
from sharpbench.cli.progress import progress
from sharpbench.cli.report import opened, print_card, write_report
from sharpbench.errors import Terminated, guarded

if TYPE_CHECKING:
    from sharpbench.metrics import Metric
    from sharpbench.suite.engines import Engine
    from sharpbench.suite.forecast import Expected
    from sharpbench.suite.plan import Plan
    from sharpbench.suite.spec import SuiteFile
    from sharpbench.suite.task import SubjectOutcome

__all__ = ["carry_out", "run"]


def run(
    suite: Annotated[str, typer.Argument(help="Name of a shipped suite, or path of a suite file.")],
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
            "cluster; inline, this process, for a debugger."
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
) -> None:
    """Run a suite: train, measure, transform, measure again, and write the report.

    What is recorded already is not done again, so the same command resumes an interrupted run, and a
    metric added to the suite is measured alone.

    [bold]Examples[/bold]

      sharpbench run quick

      sharpbench run mnist --workers 2

      sharpbench run my_suite.toml --only "seed=0" --dry-run
    """
    from sharpbench.datasets.files import data_root
    from sharpbench.device import check_device
    from sharpbench.plugins import KINDS, load_plugins, registry_of
    from sharpbench.suite.engines import make_engine
    from sharpbench.suite.plan import make_plan
    from sharpbench.suite.spec import find_suite, load_suite

    chosen = make_engine(engine, workers=workers, gpus_per_worker=gpus_per_worker)
    if engine != "ray":  # whose devices are those of its nodes
        check_device(device)
    for place in plugin or []:
        load_plugins(place)
    suite_file = load_suite(find_suite(suite))
    for kind in KINDS:
        if kind != "section":  # those are the report's
            registry_of(kind).names()  # announces plug-ins whose name is taken
    root = data_dir or data_root()
    full_plan = make_plan(suite_file, device=device, data=root)
    plan = full_plan.only(only or [])
    for told in _not_installed(plan):
        err.print(f"[yellow]note:[/] {escape(told)}", soft_wrap=True)
    if dry_run:
        _print_plan(plan, results, root, workers or 1)
        return
    problems = carry_out(suite_file, plan, full_plan, results, root, engine=chosen, wait=wait)
    if report:
        page = write_report(results, plan.name, reports)
        print_card(page)
        if open_:
            opened(page)
    if problems:
        raise typer.Exit(SOME_FAILED)


def carry_out(
    suite_file: SuiteFile,
    plan: Plan,
    full_plan: Plan,
    results: Path,
    data: Path,
    *,
    engine: Engine,
    wait: bool = True,
) -> list[str]:
    """Bring a results folder up to ``plan``, with progress and a summary; what failed, in sentences."""
    from sharpbench.results.store import ResultsStore
    from sharpbench.suite.forecast import forecast
    from sharpbench.suite.session import require_data, run_plan
    from sharpbench.suite.survey import survey

    require_data(plan, data)
    store = ResultsStore(results)
    command = shlex.join(["sharpbench", *sys.argv[1:]])
    with store.locked(wait=wait, say=lambda text: err.print(escape(text), soft_wrap=True)):
        standings = survey(plan, store, fresh=True)
        expected = forecast(plan, store, standings)
        with progress(plan, expected) as (notify, finish):
            try:
                outcomes = run_plan(
                    plan,
                    full_plan,
                    store,
                    data,
                    suite_text=suite_file.text,
                    command=command,
                    engine=engine,
                    notify=notify,
                    finished=finish,
                    standings=standings,
                )
            except (KeyboardInterrupt, Terminated) as error:
                how, code = "interrupted", INTERRUPTED
                if isinstance(error, Terminated):
                    how, code = "ended by a signal", ended_by(error.number)
                told = f"{how}: what was recorded is kept, the same command resumes"
                err.print(told, soft_wrap=True)
                raise typer.Exit(code) from None
        return _print_outcomes(outcomes)


def _not_installed(plan: Plan) -> list[str]:
    """What the plan asks and nobody can answer here, before anything is run: a sentence an installation."""
    from sharpbench.suite.plan import ProblemPlan

    networks = sum(not isinstance(subject, ProblemPlan) for subject in plan.subjects)
    asked = [(question.metric, networks) for question in plan.measurements]
    for subject in plan.subjects:
        if isinstance(subject, ProblemPlan):
            asked += [(question.metric, 1) for question in subject.measurements]
    each = {id(metric): metric for metric, _ in asked}
    known = {key: _missing(metric) for key, metric in each.items()}
    waiting: Counter[str] = Counter()
    for metric, number in asked:
        if reason := known[id(metric)]:
            waiting[reason] += number
    total = f"{sum(number for _, number in asked):,}"
    return [
        f"{number:,} of {total} measurements: {reason}"
        for reason, number in waiting.items()
        if number
    ]


def _missing(metric: Metric) -> str | None:
    try:
        with guarded():
            return metric.missing()
    except Exception:  # to be asked raises it as well, and is recorded
        return None


_MOST_SHOWN = 100
"""Beyond this many subjects a dry run names those alone for which there is something to do."""


def _print_plan(plan: Plan, results: Path, data: Path, workers: int) -> None:
    from sharpbench.suite.session import Intent, intents

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
    evaluate = count(lambda i: i.training == "cached" and i.to_evaluate)
    again = f" ({evaluate} of them to evaluate)" if evaluate else ""
    out.print(
        f"{count(lambda i: i.training not in {'cached', 'none'})} to train, "
        f"{count(lambda i: i.training == 'cached')} cached{again}; "
        f"{sum(i.to_measure for i in found)} measurements to make. Nothing was done (--dry-run)."
    )
    if told := _duration([i.expected for i in found], workers):
        out.print(told, soft_wrap=True)


def _duration(expected: list[Expected], workers: int) -> str:
    """How long the plan will take, as far as recorded costs tell; empty where nothing is left to do."""
    measurements, unlike = (
        sum(getattr(e, n) for e in expected) for n in ("measurements", "unlike")
    )
    untrained = sum(e.untrained for e in expected)
    if not measurements and not any(e.seconds for e in expected) and not untrained:
        return ""
    work = sum(e.seconds for e in expected)
    longest = max(e.seconds for e in expected)
    told = f"about {_spelled(max(work / workers, longest))} by the costs of like measurements"
    if workers > 1:
        told += f", on {workers} workers"
    left_out = []
    if unlike:
        left_out.append(f"{unlike} of {measurements} measurements")
    if untrained:
        left_out.append(f"{untrained} trainings")
    if not left_out:
        return f"It takes {told}."
    without = f"nothing like {' and '.join(left_out)} is recorded"
    return f"{without[:1].upper()}{without[1:]}" + (f"; the rest takes {told}." if work else ".")


def _spelled(seconds: float) -> str:
    if seconds < 1:
        return "a second"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _print_outcomes(outcomes: list[SubjectOutcome]) -> list[str]:
    trained = sum(o.trained for o in outcomes)
    measured = sum(o.measured for o in outcomes)
    problems = [problem for o in outcomes for problem in o.problems]
    out.print(
        f"{len(outcomes)} subjects: {trained} trained, {len(outcomes) - trained} from the results "
        f"folder; {measured} records written"
    )
    for mended in (text for o in outcomes for text in o.mended):
        err.print(f"[yellow]set aside:[/] {escape(mended)}", soft_wrap=True)
    if unproven := sum(o.unproven for o in outcomes):
        err.print(
            f"[yellow]note:[/] {unproven} records or descriptions were written without checksums, by an "
            "earlier version: a changed digit in them would not be noticed",
            soft_wrap=True,
        )
    for problem in problems[:10]:
        err.print(f"[yellow]failed:[/] {escape(problem)}", soft_wrap=True)
    if len(problems) > 10:
        err.print(f"… and {len(problems) - 10} more; the report lists them all")
    return problems
