"""``sharpbench compare`` and ``sharpbench export``: results as tables."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sharpbench.cli.exits import SOME_FAILED
from sharpbench.cli.options import ResultsOption, ran_suites
from sharpbench.cli.run import counted
from sharpbench.console import escape, out

__all__ = ["compare", "export"]


_MOST_SHOWN = 50
"""Figures that have moved, those by most standard errors first."""


def compare(
    before: Annotated[Path, typer.Argument(help="Results folder.")],
    after: Annotated[Path, typer.Argument(help="Another one, to be held against it.")],
) -> None:
    """Compare two results folders: which figures moved, by how many standard errors, and which costs.

    Changes are after/before. Costs never make the exit code 1; those taken beside other work are left out.

    [bold]Examples[/bold]

      sharpbench compare results results_of_the_new_version
    """
    from sharpbench.analysis.comparison import compare_costs, compare_records
    from sharpbench.report.format import count, number, times
    from sharpbench.results.store import load_records

    first, second = load_records(before), load_records(after)
    moved = compare_records(first, second)
    out.print(escape(moved.sentence), soft_wrap=True)
    costs = compare_costs(first, second)
    if len(costs):
        table = Table("metric", "n", "time", "smallest", "largest", "memory", "work")
        table.title, table.title_justify = "costs, after/before", "left"
        for row in costs.itertuples():
            numbers = (row.time, row.smallest, row.largest, row.memory, row.work)
            table.add_row(
                escape(str(row.metric)),
                str(row.n),
                *map(times, numbers),
            )
        out.print(table)
    if len(moved.rows):
        table = Table("subject", "figure", "before", "after", "change", "standard errors")
        for row in moved.rows.head(_MOST_SHOWN).itertuples():
            table.add_row(
                escape(str(row.subject_label)),
                escape(str(row.figure)),
                number(row.a, 6),
                number(row.b, 6),
                times(row.b / row.a if row.a else None),
                "unknown" if math.isnan(row.standard_errors) else number(row.standard_errors, 2),
            )
        out.print(table)
        if len(moved.rows) > _MOST_SHOWN:
            more = count(len(moved.rows) - _MOST_SHOWN)
            out.print(
                f"… and {more} more, by fewer standard errors: sharpbench export has every figure",
                soft_wrap=True,
            )
        raise typer.Exit(SOME_FAILED)


def export(
    target: Annotated[Path, typer.Argument(help="File to write: .parquet or .csv.")],
    results: ResultsOption = Path("results"),
    suite: Annotated[
        str | None,
        typer.Option(help="Only this suite's records.", autocompletion=ran_suites),
    ] = None,
) -> None:
    """Export every record as one long table.

    [bold]Examples[/bold]

      sharpbench export all.parquet

      sharpbench export quick.csv --suite quick
    """
    from sharpbench.results.export import write_table
    from sharpbench.results.store import record_pieces

    rows = write_table(record_pieces(results, suite=suite), target)
    out.print(escape(f"{target}: {counted(rows, 'row')}"), soft_wrap=True)
