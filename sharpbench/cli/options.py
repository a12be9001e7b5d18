"""Options that several verbs share, and how their values are written."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from sharpbench.errors import InputError, shortened

__all__ = [
    "DataOption",
    "DeviceOption",
    "OpenOption",
    "PluginOption",
    "ReportsOption",
    "ResultsOption",
    "parse_parameters",
    "parse_value",
]

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
OpenOption = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]
PluginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        help="Python file, or module, whose plug-ins can be named then; may stand several times.",
    ),
]


def parse_parameters(pairs: list[str], option: str = "--param") -> dict[str, Any]:
    """KEY=VALUE pairs as a mapping. Raises InputError for what is none, and for a key that stands twice."""
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        key = key.strip()
        if not separator or not key:
            raise InputError(f"{option} {shortened(pair)} must be KEY=VALUE, e.g. samples=100")
        if key in parsed:
            raise InputError(f"{option} {key!r} stands twice: it takes one value")
        parsed[key] = parse_value(f"{option} {key!r}", value)
    return parsed


def parse_value(what: str, text: str) -> Any:
    """A value as TOML writes it, or the text itself: a word needs no quotation marks."""
    try:
        content = tomllib.loads(f"value = {text}")
    except RecursionError:
        raise InputError(f"{what}: its value is nested too deep") from None
    except tomllib.TOMLDecodeError:
        return text
    except ValueError:  # Python's limit for the digits of an integer
        raise InputError(f"{what}: its value has thousands of digits") from None
    return content["value"] if content.keys() == {"value"} else text
