"""``sharpbench report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sharpbench.cli.console import err, escape, out
from sharpbench.cli.options import ReportsOption, ResultsOption

__all__ = ["report", "write_report"]


def report(
    suite: Annotated[str, typer.Argument(help="Name of a suite that has run.")],
    results: ResultsOption = Path("results"),
    reports: ReportsOption = Path("reports"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Read every byte of the records again first.")
    ] = False,
) -> None:
    """Write the HTML report of a suite again from its records."""
    if fresh:
        from sharpbench.results.store import load_records

        load_records(results, suite=suite, columns=["kind"], fresh=True)
    write_report(results, suite, reports)


def write_report(results: Path, suite: str, reports: Path) -> None:
    from sharpbench.report.page import write_report

    with err.status("writing the report"):
        page = write_report(results, suite, reports / suite)
    out.print(escape(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB)"), soft_wrap=True)
