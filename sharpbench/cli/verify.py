"""``sharpbench verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sharpbench.cli.exits import SOME_FAILED
from sharpbench.cli.options import DataOption, PluginOption
from sharpbench.console import err, escape, out
from sharpbench.errors import InputError

__all__ = ["verify"]


def verify(
    results: Annotated[Path, typer.Argument(help="Results folder, or a bundle of one.")] = Path(
        "results"
    ),
    recompute: Annotated[
        str, typer.Option(help="Measure this share of the figures again: 5%, 100%, 0.01.")
    ] = "0%",
    seed: Annotated[int, typer.Option(help="Which figures are drawn.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Subjects measured at once.")] = 1,
    plugin: PluginOption = None,
    data_dir: DataOption = None,
) -> None:
    """Check that a results folder holds what was written, and that its figures come out again.

    Without --recompute: framing, schema, checksums, identity, weights, and the columnar copy against the
    lines. With it, a random share of the
    figures is measured again from the stored weights, in a temporary folder; nothing is trained. Digits must
    be equal where versions, processor and code are the same, else within the stated error. Writes nothing to
    the results. Exit code 1, with the list, if anything is wrong.

    [bold]Examples[/bold]

      sharpbench verify results

      sharpbench verify results --recompute 5% --seed 1
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from sharpbench.datasets.files import data_root
    from sharpbench.plugins import load_plugins
    from sharpbench.results.bundle import opened
    from sharpbench.results.verify import verify_store
    from sharpbench.suite.engines import make_engine
    from sharpbench.suite.recompute import Recomputed
    from sharpbench.suite.recompute import recompute as measured_again

    share = _share(recompute)
    for place in plugin or []:
        load_plugins(place)
    if not results.exists():
        raise InputError(f"no results folder {results}")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with (
        opened(results) as store,
        Progress(*columns, console=err, disable=not err.is_terminal) as bar,
    ):
        reading = bar.add_task("reading", total=len(store.subjects()))
        found = verify_store(store, lambda name: bar.advance(reading))
        again = Recomputed()
        if share:
            measuring = bar.add_task("measuring again", total=None)
            again = measured_again(
                found.stored,
                store,
                share,
                seed=seed,
                data=data_dir or data_root(),
                engine=make_engine("process", workers=workers),
                seen=lambda done, of: bar.update(measuring, completed=done, total=of),
            )
    if not found.subjects and not found.faults:
        raise InputError(f"no results in {results}")
    out.print(f"{found.subjects} subjects, {found.records} records read", soft_wrap=True)
    if found.unproven:
        out.print(
            f"{found.unproven} records or descriptions carry no checksum: an earlier version wrote them",
            soft_wrap=True,
        )
    if share:
        out.print(
            f"{again.equal + again.near + len(again.faults)} figures measured again: {again.equal} equal to "
            f"the last bit, {again.near} within the stated error (of other versions, processor or code), "
            f"{len(again.faults)} not",
            soft_wrap=True,
        )
        for reason, number in again.skipped.items():
            out.print(f"{number} can't be measured again here: {escape(reason)}", soft_wrap=True)
    faults = [*found.faults, *again.faults]
    for fault in faults:
        out.print(f"[red]wrong:[/] {escape(fault)}", soft_wrap=True)
    if faults:
        raise typer.Exit(SOME_FAILED)
    out.print("nothing wrong was found")


def _share(text: str) -> float:
    """A share as a number in [0, 1]. Raises InputError."""
    try:
        share = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise InputError(f"--recompute {text!r}: a share such as 5% or 0.05, at most 100%")
    return share
