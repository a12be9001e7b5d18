"""``sharpbench compare`` and ``sharpbench export``: results as tables."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sharpbench.cli.exits import SOME_FAILED
from sharpbench.cli.options import ResultsOption, ran_suites
from sharpbench.console import escape, out

__all__ = ["compare", "export"]


def compare(
    before: Annotated[Path, typer.Argument(help="Results folder A.")],
    after: Annotated[Path, typer.Argument(help="Results folder B.")],
) -> None:
    """Compare two results folders: which figures moved, by how many standard errors, and which costs.

    Costs are told by their ratio and never make the exit code 1; those taken beside other work are left out.
    """
    from sharpbench.analysis.comparison import compare_costs, compare_records
    from sharpbench.results.store import load_records

    first, second = load_records(before), load_records(after)
    moved = compare_records(first, second)
    out.print(escape(moved.sentence), soft_wrap=True)
    costs = compare_costs(first, second)
    if len(costs):
        table = Table("metric", "n", "time B/A", "smallest", "largest", "memory B/A", "work B/A")
        for row in costs.itertuples():
            numbers = (row.time, row.smallest, row.largest, row.memory, row.work)
            table.add_row(
                escape(str(row.metric)),
                str(row.n),
                *("–" if v != v else f"{v:.2f}" for v in numbers),
            )
        out.print(table)
    if len(moved.rows):
        table = Table("subject", "figure", "A", "B", "standard errors")
        for row in moved.rows.head(50).itertuples():
            table.add_row(
                escape(str(row.subject_label)), escape(str(row.figure)), f"{row.a:.6g}", f"{row.b:.6g}",
                "unknown" if math.isnan(row.standard_errors) else f"{row.standard_errors:.1f}",
            )  # fmt: skip
        out.print(table)
        raise typer.Exit(SOME_FAILED)


def export(
    target: Annotated[Path, typer.Argument(help="File to write: .parquet or .csv.")],
    results: ResultsOption = Path("results"),
    suite: Annotated[
        str | None,
        typer.Option(help="Only this suite's records.", autocompletion=ran_suites),
    ] = None,
) -> None:
    """Export every record as one long table."""
    from sharpbench.results.export import write_table
    from sharpbench.results.store import record_pieces

    rows = write_table(record_pieces(results, suite=suite), target)
    out.print(escape(f"{target}: {rows} rows"), soft_wrap=True)
