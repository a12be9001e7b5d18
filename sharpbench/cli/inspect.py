"""``sharpbench list`` and ``sharpbench show``."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from sharpbench.cli.options import PluginOption, names_of, starting, suite_names
from sharpbench.console import escape, out
from sharpbench.errors import InputError, nearest_names
from sharpbench.plugins import KINDS, load_plugins, plugin_name, registry_of

if TYPE_CHECKING:
    from sharpbench.registry import Registry

__all__ = ["list_", "one_of_kind", "show"]


def _kinds(incomplete: str) -> list[str]:
    """For the shell's completion."""
    return starting((f"{kind}s" for kind in _EVERYTHING), incomplete)


def _names(context: typer.Context, incomplete: str) -> list[str]:
    kind = str(context.params.get("kind")).removesuffix("s")
    if kind == "suite":
        return suite_names(incomplete)
    return names_of(kind, incomplete) if kind in KINDS else []


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="metrics, models, datasets, recipes, transformations, problems, sections or suites.",
            autocompletion=_kinds,
        ),
    ] = None,
    plugin: PluginOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what can be named in a suite file, and the shipped suites."""
    kind = None if kind is None else f"{one_of_kind(kind, _EVERYTHING)}s"
    for place in plugin or []:
        load_plugins(place)
    asked = {name: f"{name}s" for name in KINDS if kind in (None, f"{name}s")}
    if as_json:
        found: dict[str, object] = {plural: list(_entries(name)) for name, plural in asked.items()}
        if kind in (None, "suites"):
            found["suites"] = [{"name": name, "title": title} for name, title in _suites()]
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for name, plural in asked.items():
        out.print(_table(plural, map(_told, _entries(name))))
    if kind in (None, "suites"):
        out.print(_table("suites", ((name, escape(title)) for name, title in _suites())))


_EVERYTHING = (*KINDS, "suite")


def one_of_kind(kind: str, kinds: Iterable[str]) -> str:
    """The kind that is meant, in the singular, by one or several of it. Raises InputError for none."""
    known = list(kinds)
    if (one := kind.removesuffix("s")) in known:
        return one
    raise InputError(f"unknown kind {kind!r}. {nearest_names(kind, known)}")


def _show_suite(name: str) -> None:
    """What a suite asks, in its own words, and its file."""
    from sharpbench.suite.spec import find_suite, load_suite

    suite = load_suite(find_suite(name))
    spec = suite.spec
    out.print(f"[bold]{escape(spec.name)}[/]  {escape(f'(suite, {suite.path})')}", soft_wrap=True)
    for text in (spec.title, spec.description.strip()):
        if text:
            out.print(escape(text), soft_wrap=True)
    asked = list(dict.fromkeys(str(block.get("name")) for block in spec.metrics))
    facts = {
        "metrics": ", ".join(asked),
        "transformations": ", ".join(str(block.get("name")) for block in spec.transformations),
        "problems": ", ".join(str(p.get("name")) for b in spec.problems for p in b.problem),
        "extends": spec.extends,
    }
    for what, told in facts.items():
        if told:
            out.print(f"\n{what}: {escape(told)}", soft_wrap=True)
    out.print(f"\n{escape(suite.text.rstrip())}", soft_wrap=True)
    out.print(
        f"\nWhat is to do here, and how long it takes: sharpbench run {escape(name)} --dry-run",
        soft_wrap=True,
    )


def _suites() -> Iterator[tuple[str, str]]:
    from sharpbench.suite.spec import known_suites, load_suite

    for name, path in known_suites().items():
        yield name, load_suite(path).spec.title


def show(
    kind: Annotated[
        str,
        typer.Argument(
            help="metric, model, dataset, recipe, transformation, problem, section or suite.",
            autocompletion=_kinds,
        ),
    ],
    name: Annotated[
        str,
        typer.Argument(
            help="Its name, e.g. curvature_rate, or file.py:Class, package.module:Class; a suite's name or "
            "file.",
            autocompletion=_names,
        ),
    ],
) -> None:
    """Show one plug-in, its documentation, parameters with defaults, and source, or one suite."""
    kind = one_of_kind(kind, _EVERYTHING)
    if kind == "suite":
        _show_suite(name)
        return
    registry = registry_of(kind)
    name = plugin_name(kind, name)
    cls = registry.get(name)
    told = f"({kind}, version {cls.version}, {registry.origin(name)})"
    out.print(f"[bold]{escape(name)}[/]  {escape(told)}", soft_wrap=True)
    out.print(escape(_plain(inspect.cleandoc(cls.__doc__ or ""))), soft_wrap=True)
    if unit := getattr(cls, "unit", ""):
        out.print(f"\nUnit: {escape(unit)}")
    if cls.reference:
        out.print(f"\nReference: {escape(cls.reference)}")
    table = Table("parameter", "default", "type", title="\nparameters", title_justify="left")
    defaults = registry.create(name).parameters()
    for key, annotation in registry.parameter_types(name).items():
        spelled = getattr(annotation, "__name__", str(annotation))
        if "[" in str(annotation) or "|" in str(annotation):
            spelled = str(annotation).replace("typing.", "")
        table.add_row(key, escape(str(defaults[key])), escape(spelled))
    out.print(table)


def _table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    for name, text in rows:
        table.add_row(f"  [bold]{name}[/]", text)
    return table


def _entries(kind: str) -> Iterator[dict[str, Any]]:
    """Each plug-in of a kind with the first line of its documentation, or why it can't be used."""
    registry = registry_of(kind)
    for name in registry:
        if reason := registry.unavailable(name):
            yield {"name": name, "unavailable": reason}
        else:
            cls = registry.get(name)
            yield {
                "name": name,
                "version": cls.version,
                "summary": (cls.__doc__ or "").strip().splitlines()[0],
                "reference": cls.reference,
                "parameters": _defaults(registry, name),
                "origin": registry.origin(name),
            }
        for reason in registry.refused(name):
            yield {"name": name, "unavailable": reason}


def _defaults(registry: Registry[Any], name: str) -> dict[str, Any] | None:
    """Its parameters as they are unless something else is said; None if it can't be made with them."""
    try:
        found: dict[str, Any] = registry.create(name).parameters()
    except InputError:
        return None
    return found


def _told(entry: dict[str, Any]) -> tuple[str, str]:
    reason = entry.get("unavailable")
    if reason:
        return entry["name"], f"[red]unavailable:[/] {escape(reason)}"
    return entry["name"], escape(_plain(entry["summary"]))


def _plain(text: str) -> str:
    """A docstring without the marks of its names."""
    return re.sub(r"(`+)([^`]+)\1", r"\2", text)
