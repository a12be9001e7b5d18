"""``sharpbench merge`` and ``sharpbench bundle``: results on their way to others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sharpbench.cli.exits import SOME_FAILED
from sharpbench.cli.options import RanSuiteArgument, ResultsOption
from sharpbench.console import err, escape, out
from sharpbench.errors import InputError

__all__ = ["bundle", "merge"]


def bundle(
    suite: RanSuiteArgument,
    results: ResultsOption = Path("results"),
    output: Annotated[
        Path | None, typer.Option(help="The archive. Default: <suite>.zip in this folder.")
    ] = None,
) -> None:
    """Put a suite's results into one archive: records, weights, the suite's file, provenance, hashes.

    Equal results give equal archives. `sharpbench verify` checks one, also with --recompute, and
    `sharpbench merge` takes it into a results folder, where `report` draws its page.

    [bold]Examples[/bold]

      sharpbench bundle quick --output quick.zip && sharpbench verify quick.zip --recompute 5%
    """
    from sharpbench.results.bundle import write_bundle
    from sharpbench.results.store import ResultsStore

    if not results.is_dir():
        raise InputError(f"no results folder {results}")
    path = output or Path(f"{suite}.zip")
    subjects, records, left_out = write_bundle(ResultsStore(results), suite, path)
    for told in left_out:
        err.print(f"[yellow]left out:[/] {escape(told)}", soft_wrap=True)
    size = path.stat().st_size / 2**20
    out.print(
        escape(f"{path}: {subjects} subjects, {records} records ({size:.1f} MB)"), soft_wrap=True
    )


def merge(
    sources: Annotated[list[Path], typer.Argument(help="Results folders, or bundles of one.")],
    into: Annotated[
        Path, typer.Option(help="The results folder that takes them; made if need be.")
    ],
) -> None:
    """Bring the results of several machines together.

    A record is taken as it stands, with its checksum. What both say stays as it is here; where they say
    different things (other weights of one subject, another value of one figure) it is named, what stands here
    stays, and the exit code is 1.

    [bold]Examples[/bold]

      sharpbench merge results_a results_b colleague.zip --into results
    """
    from sharpbench.results.bundle import opened
    from sharpbench.results.merging import merge as merged
    from sharpbench.results.store import ResultsStore

    conflicts = 0
    target = ResultsStore(into)
    for source in sources:
        if source.is_dir() and into.is_dir() and source.samefile(into):
            raise InputError(f"{source} can't be merged into itself")
        with opened(source) as store:
            if not store.subjects():
                raise InputError(f"no results in {source}")
            with (
                err.status(escape(f"{source} …")),
                target.locked(wait=True, say=lambda text: err.print(escape(text), soft_wrap=True)),
            ):
                found = merged(store, target)
        for told in found.left_out:
            err.print(f"[yellow]left out:[/] {escape(told)}", soft_wrap=True)
        for told in found.conflicts[:20]:
            err.print(f"[red]not the same:[/] {escape(told)}", soft_wrap=True)
        if len(found.conflicts) > 20:
            err.print(f"… and {len(found.conflicts) - 20} more")
        conflicts += len(found.conflicts)
        out.print(
            escape(f"{source}: {found.subjects} new subjects, {found.records} new records"),
            soft_wrap=True,
        )
    if conflicts:
        raise typer.Exit(SOME_FAILED)
