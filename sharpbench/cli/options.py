"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["DataOption", "DeviceOption", "PluginOption", "ReportsOption", "ResultsOption"]

ResultsOption = Annotated[
    Path, typer.Option("--results", help="Results folder; any number of suites can share it.")
]
ReportsOption = Annotated[Path, typer.Option("--reports", help="Folder for the HTML reports.")]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="SHARPBENCH_DATA",
        help="Where dataset files are. Default: ~/.cache/sharpbench.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
PluginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        help="Python file, or module, whose plug-ins can be named then; may stand several times.",
    ),
]
