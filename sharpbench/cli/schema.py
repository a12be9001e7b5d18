"""``sharpbench schema``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from sharpbench.cli.options import starting
from sharpbench.errors import InputError, nearest_names

__all__ = ["schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_KINDS = ("suite", "record", "subject")


def schema(
    kind: Annotated[
        str,
        typer.Argument(
            help="suite, record (a line of measurements.jsonl) or subject.",
            autocompletion=lambda incomplete: starting(_KINDS, incomplete),
        ),
    ],
) -> None:
    """Print the JSON Schema of suite files, or of what stands in a results folder.

    For editors that check a suite while it is written, and for programs that read records.

    [bold]Examples[/bold]

      sharpbench schema suite > suite.schema.json
    """
    if kind not in _KINDS:
        raise InputError(f"no schema of {kind!r}. {nearest_names(kind, _KINDS)}")
    print(json.dumps({"$schema": _DIALECT, **_schema(kind)}, indent=1, ensure_ascii=False))


def _schema(kind: str) -> dict[str, Any]:
    if kind == "suite":
        from sharpbench.suite.spec import SuiteSpec

        return SuiteSpec.model_json_schema()
    if kind == "subject":
        from sharpbench.results.description import Description

        return Description.model_json_schema(by_alias=True)
    from pydantic import TypeAdapter

    from sharpbench.results.record import Record

    return TypeAdapter(Record).json_schema()
