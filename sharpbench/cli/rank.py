"""``sharpbench rank``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sharpbench.cli.check import tell
from sharpbench.cli.exits import SOME_FAILED
from sharpbench.cli.options import (
    LogFileOption,
    OpenOption,
    PluginOption,
    QuietOption,
    ReportsOption,
    VerboseOption,
    metric_names,
    parse_parameters,
)
from sharpbench.cli.report import opened
from sharpbench.cli.run import print_summary, resumable
from sharpbench.console import aside, escape, out
from sharpbench.errors import InputError

if TYPE_CHECKING:
    from sharpbench.analysis.scorecard import Entry
    from sharpbench.suite.conformance import Finding

__all__ = ["rank"]


def rank(
    metric: Annotated[
        str | None,
        typer.Argument(
            help="my_metric.py:MyMetric, package.module:MyMetric, or a metric's name.",
            autocompletion=metric_names,
        ),
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
    quiet: QuietOption = False,
    verbose_: VerboseOption = False,
    log_file: LogFileOption = None,
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
    from sharpbench.analysis.scorecard import scorecard
    from sharpbench.api.results import report
    from sharpbench.api.running import population
    from sharpbench.api.running import rank as ranked
    from sharpbench.api.running import run as carried_out
    from sharpbench.errors import MetricFailed
    from sharpbench.plugins import load_plugins, plugin_name
    from sharpbench.suite.reference import reference_suite

    if metric is None and not prepare:
        raise InputError("name a metric: sharpbench rank my_metric.py:MyMetric, or say --prepare")
    for place in plugin or []:
        load_plugins(place)
    if metric is None:
        with resumable():
            made = carried_out(reference_suite(), **population(cache, workers))
        assert made.summary is not None
        print_summary(made.summary)
        if made.summary.failed:
            raise typer.Exit(SOME_FAILED)
        return
    parameters = parse_parameters(param or [])
    name = plugin_name("metric", metric)
    found: list[Finding] = []

    def checked(findings: Sequence[Finding]) -> None:
        found.extend(findings)
        tell(findings, name, brief=True)

    try:
        with resumable():
            view = ranked(
                name,
                parameters=parameters,
                reports=reports,
                cache=cache,
                workers=workers,
                checked=checked,
            )
    except MetricFailed:  # it measures nothing: told above
        raise typer.Exit(SOME_FAILED) from None
    assert view.summary is not None
    print_summary(view.summary)
    with aside.status("writing the report"):
        page = report(view, reports=reports)
    entries = scorecard(view)
    _print_row([e for e in entries if e.name == name], len(entries))
    out.print(escape(f"page: {page}"), soft_wrap=True)
    beside = (page.with_name(f"scorecard.{ending}") for ending in ("md", "json"))
    out.print(escape(f"table: {', '.join(map(str, beside))}"), soft_wrap=True)
    if open_:
        opened(page)
    own = (f"{name} ", f"{name}(")  # others may fail as they did when the population was made
    failed = any(problem.startswith(own) for problem in view.summary.failed)
    if failed or not all(f.passed for f in found):
        raise typer.Exit(SOME_FAILED)


def _print_row(entries: list[Entry], of: int) -> None:
    from sharpbench.analysis.scorecard import QUESTIONS
    from sharpbench.report.sections.scorecard import cell_in_words, marked

    for entry in entries:
        table = Table(title=f"{escape(entry.title)}, a row of {of}", title_justify="left")
        for column in ("", "verdict", "figure", ""):
            table.add_column(column, overflow="fold")
        for question in QUESTIONS:
            cell = entry.cells[question]
            figure, told = cell_in_words(cell)
            verdict = marked(cell.word, tied=cell.tied)
            if not cell.word:
                figure = ""
                if question == "right":
                    told = ["say in Metric.known what is expected of a problem"]
            table.add_row(
                f"{question.capitalize()}?", *map(escape, (verdict, figure, "; ".join(told)))
            )
        out.print(table)
