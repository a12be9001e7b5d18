"""``sharpbench perf``: run, compare, report and publish."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sharpbench.cli.exits import SOME_FAILED
from sharpbench.cli.options import OpenOption, ReportsOption
from sharpbench.cli.report import opened
from sharpbench.console import escape, out

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Track sharpbench's own speed with asv (needs a checkout and asv)."
)


BenchOption = Annotated[
    str | None, typer.Option("--bench", help="Only benchmarks that match this regular expression.")
]
QuickOption = Annotated[bool, typer.Option("--quick", help="Each benchmark once: does it run?")]


@app.command("run")
def perf_run(
    bench: BenchOption = None,
    quick: QuickOption = False,
    commit: Annotated[str, typer.Option(help="The commit to measure.")] = "HEAD",
) -> None:
    """Measure a commit in the running environment and keep the results under .asv/results.

    [bold]Example[/bold]

      sharpbench perf run --bench hessian
    """
    from sharpbench import perf

    _exit_unless_done(perf.run(bench, quick=quick, commit=commit))


@app.command("compare")
def perf_compare(
    before: Annotated[str, typer.Argument(help="A commit, e.g. main.")],
    after: Annotated[str, typer.Argument(help="Another one, e.g. HEAD.")] = "HEAD",
    bench: BenchOption = None,
    quick: QuickOption = False,
    factor: Annotated[float, typer.Option(min=1.0, help="Smaller ratios are noise.")] = 1.1,
) -> None:
    """Measure two commits with this checkout's benchmarks and show what became slower or faster.

    With --quick each benchmark runs once: what that gives is measured, and no verdict is told.
    """
    from sharpbench import perf

    _exit_unless_done(perf.compare(before, after, bench, quick=quick, factor=factor))
    if quick:
        out.print(
            "Both commits run. One sample of each tells no difference: leave out --quick to compare them."
        )


@app.command("report")
def perf_report(reports: ReportsOption = Path("reports"), open_: OpenOption = False) -> None:
    """Draw every measured commit as one page, with what became slower for good: reports/perf/index.html.

    The page asks no other host for anything, as asv's own pages do.
    """
    from sharpbench import perf
    from sharpbench.perf_history import history
    from sharpbench.report.perf_page import write_perf_page
    from sharpbench.report.site import write_index

    page = write_perf_page(history(perf.results_folder()), reports / "perf", index=True)
    write_index(reports)
    out.print(escape(f"page: {page}"), soft_wrap=True)
    if open_:
        opened(page)


@app.command("publish")
def perf_publish() -> None:
    """Write the results of every measured commit as HTML; `asv preview` serves it."""
    from sharpbench import perf

    status, page = perf.publish()
    _exit_unless_done(status)
    out.print(escape(f"{page}: see it with `asv preview`, or publish the folder"), soft_wrap=True)


def _exit_unless_done(status: int) -> None:
    if status:
        raise typer.Exit(SOME_FAILED)
