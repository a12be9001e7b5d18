"""``sharpbench report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sharpbench.cli.options import (
    LogFileOption,
    OpenOption,
    QuietOption,
    RanSuiteArgument,
    ReportsOption,
    ResultsOption,
    VerboseOption,
)
from sharpbench.console import aside, err, escape, out
from sharpbench.errors import InputError

__all__ = ["index", "opened", "print_card", "report", "write_report"]


def report(
    suite: RanSuiteArgument,
    results: ResultsOption = Path("results"),
    reports: ReportsOption = Path("reports"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Read every byte of the records again first.")
    ] = False,
    open_: OpenOption = False,
    quiet: QuietOption = False,
    verbose_: VerboseOption = False,
    log_file: LogFileOption = None,
) -> None:
    """Write the HTML report of a suite again from its records, and print its scorecard."""
    page = write_report(results, suite, reports, fresh=fresh)
    if open_:
        opened(page)


def index(
    reports: Annotated[Path, typer.Argument(help="Folder with the reports.")] = Path("reports"),
    open_: OpenOption = False,
) -> None:
    """Write the page over all reports again: reports/index.html."""
    from sharpbench.report.site import write_index

    if not reports.is_dir():
        raise InputError(f"no folder {reports}")
    page = write_index(reports)
    out.print(escape(f"index: {page}"), soft_wrap=True)
    if open_:
        opened(page)


def write_report(results: Path, suite: str, reports: Path, *, fresh: bool = False) -> Path:
    """Write a suite's page and the index over all, and print its scorecard; the page's path."""
    from sharpbench.api.results import report as written

    with aside.status("writing the report"):
        path = written(suite, folder=results, reports=reports, fresh=fresh)
    out.print(escape(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)"), soft_wrap=True)
    print_card(path)
    return path


def print_card(page: Path) -> None:
    """The verdicts of the scorecard beside a page, a row a metric and implementation."""
    from sharpbench.report.sections.scorecard import marked

    card = json.loads((page.parent / "scorecard.json").read_text("utf-8"))
    if not card["metrics"]:
        return
    heads = [f"{question.capitalize()}?" for question in card["questions"]]
    table = Table("metric", *heads, title=escape(card["title"]), title_justify="left")
    for row in card["metrics"]:
        native = row["implementation"] == "native"
        name = row["title"] if native else f"{row['title']} ({row['implementation']})"
        cells = [row["cells"][question] for question in card["questions"]]
        table.add_row(escape(name), *(escape(marked(c["word"], tied=c["tied"])) for c in cells))
    out.print(table)


def opened(page: Path) -> None:
    """Show a page in the user's browser; without one, say so."""
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        err.print(escape(f"no browser was found: open {page}"), soft_wrap=True)
