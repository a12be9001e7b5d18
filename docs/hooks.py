"""Pages of the site that are made when it is built: every plug-in with its text and parameters, every suite
with its file, and what users import."""

from __future__ import annotations

import html
import inspect
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import jupytext
from mkdocs.structure.files import File
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

import sharpbench
from sharpbench.plugins import KINDS, registry_of
from sharpbench.suite.spec import known_suites, load_suite

SAID = {
    "metric": "What is asked of a network. Each says what it is of (parameters, inputs, the function), its "
    "unit, and which changes it promises to stand still under.",
    "transformation": "Changes of a network or of its data that keep its function, its loss or its "
    "decisions; and controls that keep nothing. Whether one keeps its promise is checked in float64 before "
    "any metric is asked.",
    "problem": "Networks and functions of which the answer of some metrics is known in closed form.",
    "model": "Builders of networks.",
    "dataset": "Sources of training and test data.",
    "recipe": "Ways to train.",
    "section": "Parts of the report.",
}


def on_files(files: Any, config: Any) -> Any:
    """Adds ``reference/<kind>s.md`` for each kind of plug-in, ``suites.md`` and ``python.md`` beside them."""
    for kind in KINDS:
        text = "\n".join(_page(kind))
        files.append(File.generated(config, f"reference/{kind}s.md", content=text))
    text = "\n".join(_suites())
    files.append(File.generated(config, "reference/suites.md", content=text))
    text = "\n".join(_python())
    files.append(File.generated(config, "reference/python.md", content=text))
    _execute(files, config, NOTEBOOK)
    return files


NOTEBOOK = "python"
"""The page that is executed."""


def _execute(files: Any, config: Any, name: str) -> None:
    """Puts what the blocks of a page give under them, and the notebook beside it.

    A block that raises fails the build. Each runs in an empty folder, in the environment of the build.
    """
    source = files.get_file_from_path(f"{name}.md")
    notebook = jupytext.reads(source.content_string, "md")
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            timeout=300,
            startup_timeout=300,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
        ).execute()
    for cell in notebook.cells:
        cell.get("outputs", [])[:] = [
            o for o in cell.get("outputs", []) if o.output_type != "stream"
        ]
    body, resources = MarkdownExporter().from_notebook_node(notebook)
    for image, content in resources["outputs"].items():
        body = body.replace(f"]({image})", f"](executed/{image})")
        files.append(File.generated(config, f"executed/{image}", content=content))
    files.remove(source)
    files.append(File.generated(config, f"{name}.md", content=body))
    text = jupytext.writes(notebook, "ipynb")
    files.append(File.generated(config, f"{name}.ipynb", content=text))


def _page(kind: str) -> Iterator[str]:
    registry = registry_of(kind)
    yield f"# {kind.capitalize()}s\n\n{SAID[kind]}\n"
    for name in registry:
        cls = registry.get(name)
        yield f"## {name}\n"
        yield _prose(inspect.cleandoc(cls.__doc__ or ""))
        facts = {
            "Unit": getattr(cls, "unit", ""),
            "Space": getattr(cls, "space", ""),
            "Keeps": getattr(cls, "preserves", "") if kind == "transformation" else "",
            "Kind": getattr(cls, "kind", "") if kind == "transformation" else "",
            "Promises to stand still under": _kinds(cls) if kind == "metric" else "",
            "Source": cls.reference,
        }
        told = [f"**{key}**: {_plain(value)}" for key, value in facts.items() if value]
        yield "\n" + "  \n".join(told) + "\n"
        yield from _parameters(registry, name)


def _kinds(cls: Any) -> str:
    return ", ".join(sorted(str(kind).replace("_", " ") for kind in cls.invariant_under))


def _parameters(registry: Any, name: str) -> Iterator[str]:
    types = registry.parameter_types(name)
    if not types:
        return
    defaults = registry.create(name).parameters()
    yield "\n| parameter | default | type |\n|---|---|---|"
    for key, annotation in types.items():
        spelled = getattr(annotation, "__name__", str(annotation))
        if "[" in str(annotation) or "|" in str(annotation):
            spelled = str(annotation).replace("typing.", "")
        yield f"| `{key}` | {_cell(defaults[key])} | {_cell(spelled)} |"
    yield ""


def _suites() -> Iterator[str]:
    yield "# Suites\n\nWhat `sharpbench run NAME` runs; with `--dry-run` it tells what that is here.\n"
    for name, path in known_suites().items():
        suite = load_suite(path)
        yield f"## {name}\n\n**{_plain(suite.spec.title)}**\n\n{_plain(suite.spec.description.strip())}\n"
        yield f"```toml\n{suite.text.rstrip()}\n```\n"


def _python() -> Iterator[str]:
    yield "# Python\n\n```python\nimport sharpbench as sb\n```\n"
    for name in sharpbench.__all__:
        thing = getattr(sharpbench, name)
        if not callable(thing):
            continue
        yield from _documented(name, thing)
        for own in _METHODS.get(name, ()):
            yield from _documented(f"{name}.{own}", getattr(thing, own), level=3)


_METHODS = {
    "Measurement": ("interval",),
    "Results": ("load", "scorecard", "figures", "failures", "tables", "pictures", "plot"),
    "Subject": ("from_batches",),
}


def _documented(name: str, thing: Any, level: int = 2) -> Iterator[str]:
    yield f"{'#' * level} {name}\n"
    if not (inspect.isclass(thing) and issubclass(thing, Exception)):
        arguments = [
            str(p) for p in inspect.signature(thing).parameters.values() if p.name != "self"
        ]
        yield f"```python\n{name}(\n" + "".join(f"    {a},\n" for a in arguments) + ")\n```\n"
    yield _prose(inspect.cleandoc(thing.__doc__ or "")) + "\n"


def _argument(p: inspect.Parameter) -> str:
    told = str(p.replace(annotation=p.empty, default=p.empty))
    told += f": {p.annotation}" if p.annotation is not p.empty else ""
    if p.default is p.empty:
        return told
    return f"{told} = {'…' if type(p.default).__name__.startswith('_') else repr(p.default)}"


_UNDERLINED = re.compile(r"^(\S[^\n]*)\n-{3,}\n", re.MULTILINE)
_EXAMPLE = re.compile(r"((?:^>>> .*\n?)+)", re.MULTILINE)


def _prose(text: str) -> str:
    """A docstring as Markdown: what is underlined becomes bold, and the entries under it a list."""
    before, *parts = _UNDERLINED.split(text)
    found = [_paragraphs(before)]
    for heading, body in zip(parts[::2], parts[1::2], strict=True):
        entries, _, after = body.partition("\n\n")
        listed = re.sub(r"^(\w[\w, ]*):", r"\n- **\1**:", entries, flags=re.MULTILINE)
        found += [f"**{heading}**\n", _plain(listed, also=""), _paragraphs(after)]
    return "\n".join(found)


def _paragraphs(text: str) -> str:
    parts = _EXAMPLE.split(text)
    return "".join(f"\n```python\n{p}```\n" if i % 2 else _plain(p) for i, p in enumerate(parts))


def _plain(text: str, also: str = "*") -> str:
    """Signs that Markdown would take for its own are written out, outside of code."""
    parts = re.split(r"(``[^`]*``|`[^`]*`)", text)
    signs = re.compile(rf"([_<|{re.escape(also)}])")
    return "".join(p if i % 2 else signs.sub(_escaped, p) for i, p in enumerate(parts))


def _escaped(sign: re.Match[str]) -> str:
    return {"<": "&lt;", "|": "&#124;"}.get(sign[1], f"\\{sign[1]}")


def _cell(value: Any) -> str:
    text = html.escape(str(value), quote=False).replace("|", "&#124;")
    return f"<code>{text}</code>"
