"""``sharpbench rank``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sharpbench.cli.check import tell
from sharpbench.cli.console import err, escape, out
from sharpbench.cli.exits import SOME_FAILED
from sharpbench.cli.options import OpenOption, PluginOption, ReportsOption, parse_parameters
from sharpbench.cli.report import opened, write_report
from sharpbench.cli.run import carry_out
from sharpbench.errors import InputError

if TYPE_CHECKING:
    from sharpbench.analysis.scorecard import Entry
    from sharpbench.suite.engines import Engine
    from sharpbench.suite.spec import SuiteFile

__all__ = ["rank"]

_MOST_WORKERS = 8
"""By default: each holds torch and its data."""


def rank(
    metric: Annotated[
        str | None,
        typer.Argument(help="my_metric.py:MyMetric, package.module:MyMetric, or a metric's name."),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE of the metric, VALUE as in TOML; may stand several times."),
    ] = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Make the reference population, if it isn't there.")
    ] = False,
    reports: ReportsOption = Path("reports"),
    cache: Annotated[
        Path | None,
        typer.Option(
            envvar="SHARPBENCH_CACHE",
            help="Where the reference population is kept. Default: ~/.cache/sharpbench.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Subjects measured at once. Default: the cores there are."),
    ] = None,
    plugin: PluginOption = None,
    open_: OpenOption = False,
) -> None:
    """Rank a metric of your own beside all others.

    Checks that it keeps its contract, then asks it of the reference population: known answers, changes that
    leave the function as it is, networks of known test error. The population is made once, in some minutes,
    and kept with the answers of all other metrics. What comes of it is a row in the scorecard, as page,
    Markdown and JSON.

    [bold]Examples[/bold]

      sharpbench rank my_metric.py:MyMetric

      sharpbench rank my_metric.py:MyMetric --param power=3 --open

      sharpbench rank --prepare
    """
    from sharpbench.analysis.results import Results
    from sharpbench.analysis.scorecard import scorecard
    from sharpbench.datasets.files import data_root
    from sharpbench.metrics import metrics
    from sharpbench.plugins import load_plugins, plugin_name
    from sharpbench.suite.conformance import check_metric
    from sharpbench.suite.engines import make_engine
    from sharpbench.suite.reference import population_folder, ranking_suite, reference_suite
    from sharpbench.suite.spec import load_suite

    if metric is None and not prepare:
        raise InputError("name a metric: sharpbench rank my_metric.py:MyMetric, or say --prepare")
    for place in plugin or []:
        load_plugins(place)
    results = population_folder(cache or data_root())
    engine = make_engine("process", workers=workers or min(_cores(), _MOST_WORKERS))
    if metric is None:
        if _measured(reference_suite(), results, engine):
            raise typer.Exit(SOME_FAILED)
        return
    parameters = parse_parameters(param or [])
    name = plugin_name("metric", metric)
    chosen = metrics.create(name, parameters)
    with err.status(f"checking {name} …"):
        findings = check_metric(name, parameters)
    tell(findings, name, brief=True)
    if not findings[-1].passed:  # it measures nothing, and would be asked some hundred times
        raise typer.Exit(SOME_FAILED)
    suite, text = ranking_suite(chosen, parameters)
    folder = reports / suite
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "suite.toml"
    path.write_text(text, "utf-8")
    problems = _measured(load_suite(path), results, engine)
    view = Results.load(results, suite)
    page = write_report(results, suite, reports, quiet=True)
    _print_row([e for e in scorecard(view) if e.name == name], len(scorecard(view)))
    out.print(escape(f"page: {page}"), soft_wrap=True)
    out.print(
        escape(f"table: {folder / 'scorecard.md'}, {folder / 'scorecard.json'}"), soft_wrap=True
    )
    if open_:
        opened(page)
    own = (f"{name} ", f"{name}(")  # others may fail as they did when the population was made
    if any(problem.startswith(own) for problem in problems) or not all(f.passed for f in findings):
        raise typer.Exit(SOME_FAILED)


def _measured(suite: SuiteFile, results: Path, engine: Engine) -> list[str]:
    """Bring the population up to a suite; what failed."""
    from sharpbench.datasets.files import data_root
    from sharpbench.results.store import ResultsStore
    from sharpbench.suite.plan import make_plan

    root = data_root()
    plan = make_plan(suite, data=root)
    if not ResultsStore(results).subjects():
        told = f"the reference population is made, once, in {results}: some minutes on two cores"
        err.print(escape(told), soft_wrap=True)
    return carry_out(suite, plan, plan, results, root, engine=engine)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _print_row(entries: list[Entry], of: int) -> None:
    from sharpbench.analysis.scorecard import QUESTIONS
    from sharpbench.report.sections.scorecard import MARKS, cell_in_words

    for entry in entries:
        table = Table(title=f"{escape(entry.title)}, a row of {of}", title_justify="left")
        for column in ("", "verdict", "figure", ""):
            table.add_column(column, overflow="fold")
        for question in QUESTIONS:
            cell = entry.cells[question]
            figure, told = cell_in_words(cell)
            if not cell.word:
                verdict, figure = "– not asked", ""
                if question == "right":
                    told = ["say in Metric.known what is expected of a problem"]
            else:
                verdict = f"{MARKS.get(cell.word, ('–', ''))[0]} {cell.word}"
            verdict += " =" if cell.tied else ""
            table.add_row(
                f"{question.capitalize()}?", *map(escape, (verdict, figure, "; ".join(told)))
            )
        out.print(table)
