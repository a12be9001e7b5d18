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
) -> None:
    """Write the HTML report of a suite again from its records."""
    write_report(results, suite, reports)


def write_report(results: Path, suite: str, reports: Path) -> None:
    from sharpbench.report.page import write_report

    with err.status("writing the report"):
        page = write_report(results, suite, reports / suite)
    out.print(escape(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB)"), soft_wrap=True)
