"""``sharpbench report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sharpbench.cli.console import err, escape, out
from sharpbench.cli.options import OpenOption, ReportsOption, ResultsOption
from sharpbench.errors import InputError

__all__ = ["index", "opened", "print_card", "report", "write_report"]


def report(
    suite: Annotated[str, typer.Argument(help="Name of a suite that has run.")],
    results: ResultsOption = Path("results"),
    reports: ReportsOption = Path("reports"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Read every byte of the records again first.")
    ] = False,
    open_: OpenOption = False,
) -> None:
    """Write the HTML report of a suite again from its records."""
    if fresh:
        from sharpbench.results.store import load_records

        load_records(results, suite=suite, columns=["kind"], fresh=True)
    page = write_report(results, suite, reports)
    if open_:
        opened(page)


def index(
    reports: Annotated[Path, typer.Argument(help="Folder with the reports.")] = Path("reports"),
) -> None:
    """Write the page over all reports again: reports/index.html."""
    from sharpbench.report.site import write_index

    if not reports.is_dir():
        raise InputError(f"no folder {reports}")
    out.print(escape(f"index: {write_index(reports)}"), soft_wrap=True)


def write_report(results: Path, suite: str, reports: Path, *, quiet: bool = False) -> Path:
    """Write a suite's page and the index over all; the page's path, which is printed unless ``quiet``."""
    from sharpbench.report import page, site

    with err.status("writing the report"):
        path = page.write_report(results, suite, reports / suite, index=True)
        site.write_index(reports)
    if not quiet:
        out.print(escape(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)"), soft_wrap=True)
    return path


def print_card(page: Path) -> None:
    """The verdicts of the scorecard beside a page, a row a metric and implementation."""
    from sharpbench.report.sections.scorecard import MARKS

    card = json.loads((page.parent / "scorecard.json").read_text("utf-8"))
    if not card["metrics"]:
        return
    heads = [f"{question.capitalize()}?" for question in card["questions"]]
    table = Table("metric", *heads, title=escape(card["title"]), title_justify="left")
    for row in card["metrics"]:
        native = row["implementation"] == "native"
        name = row["title"] if native else f"{row['title']} ({row['implementation']})"
        words = [row["cells"][question]["word"] for question in card["questions"]]
        cells = [f"{MARKS.get(word, ('–', ''))[0]} {word}" if word else "" for word in words]
        table.add_row(escape(name), *map(escape, cells))
    out.print(table)


def opened(page: Path) -> None:
    """Show a page in the user's browser; without one, say so."""
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        err.print(escape(f"no browser was found: open {page}"), soft_wrap=True)
