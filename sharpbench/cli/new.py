"""``sharpbench new``."""

from __future__ import annotations

import keyword
import re
import shlex
import string
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from sharpbench.cli.inspect import one_of_kind
from sharpbench.cli.options import starting
from sharpbench.console import escape, out
from sharpbench.errors import InputError

__all__ = ["new"]

_NEXT = {
    "metric": ("check {name}.py:{cls}", "rank {name}.py:{cls}"),
    "model": ("show model {name}.py:{cls}",),
    "dataset": ("show dataset {name}.py:{cls}",),
    "transformation": ("show transformation {name}.py:{cls}",),
    "suite": ("run {name}.toml --dry-run", "run {name}.toml"),
}
"""By kind, what can be asked of the new file."""


def new(
    kind: Annotated[
        str,
        typer.Argument(
            help="metric, model, dataset, transformation or suite.",
            autocompletion=lambda incomplete: starting(_NEXT, incomplete),
        ),
    ],
    name: Annotated[str, typer.Argument(help="Its name, in lower case: my_metric.")],
    folder: Annotated[Path, typer.Option(help="Where the files are written.")] = Path(),
) -> None:
    """Write a working file with its test, to be changed into your own.

    What stands there is never overwritten.

    [bold]Examples[/bold]

      sharpbench new metric my_metric && pytest test_my_metric.py && sharpbench rank my_metric.py
    """
    kind = one_of_kind(kind, _NEXT)
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,79}", name) or keyword.iskeyword(name):
        raise InputError(
            f"{name!r} can't be a name: small letters, digits and underscores, a letter first, no word of "
            f"Python, e.g. my_{kind}"
        )
    if taken := _taken(kind, name):
        raise InputError(f"{taken}: choose another name, e.g. my_{name}")
    ending = "toml" if kind == "suite" else "py"
    cls = "".join(part.capitalize() for part in name.split("_"))
    told = {"name": name, "cls": cls, "title": name.replace("_", " ").strip()}
    files = {
        folder / f"{name}.{ending}": f"{kind}.{ending}",
        folder / f"test_{name}.py": f"test_{kind}.py",
    }
    for path in files:
        if path.exists():
            raise InputError(
                f"{path} is there already, and is not overwritten: choose another name"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for path, template in files.items():
        source = resources.files("sharpbench.cli") / "templates" / f"{template}.txt"
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(string.Template(source.read_text("utf-8")).substitute(told))
        out.print(escape(f"written: {path}"), soft_wrap=True)
    out.print("Try it:")
    place = "" if folder == Path() else f"cd {shlex.quote(str(folder))} && "
    out.print(escape(f"  {place}pytest test_{name}.py"), soft_wrap=True)
    for command in _NEXT[kind]:
        out.print(escape(f"  {place}sharpbench {command.format(**told)}"), soft_wrap=True)


def _taken(kind: str, name: str) -> str | None:
    """What has the name already, or would be hidden by a module of that name."""
    from importlib.util import find_spec

    if kind == "suite":
        from sharpbench.suite.spec import known_suites

        return f"the suite {name!r} comes with sharpbench" if name in known_suites() else None
    from sharpbench.plugins import registry_of

    if name in registry_of(kind):
        return f"there is a {kind} {name!r}"
    # In an empty folder what is found is installed, and the test would import that.
    if name not in {path.stem for path in Path().glob("*.py")} and find_spec(name) is not None:
        return f"{name!r} is a module that is installed"
    return None
