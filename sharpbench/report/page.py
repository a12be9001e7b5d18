"""One self-contained HTML page from the records of a suite: a loop over the sections."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from sharpbench.analysis.failures import outcomes
from sharpbench.analysis.results import Results
from sharpbench.analysis.statistics import Estimate
from sharpbench.errors import InputError, first_line
from sharpbench.report import format as told
from sharpbench.report.card import SCHEMA, document, markdown
from sharpbench.report.drawn import Drawings, drawings
from sharpbench.report.sections import Section, sections
from sharpbench.report.tables import tables
from sharpbench.report.weight import lightened
from sharpbench.results.disk import write_atomically
from sharpbench.version import __version__

__all__ = ["environment", "facts_of", "looks", "write_page", "write_report"]

_MACROS = '{% from "macros.html" import picture, head, claims_table with context %}\n'


@dataclass(frozen=True)
class _Drawn:
    name: str
    svg: Markup
    caption: str


@dataclass(frozen=True)
class _Shown:
    name: str
    title: str
    link: str
    subtitle: str
    sentences: list[str]
    mixed: list[str]
    body: Markup


def write_report(results: Path, suite: str, folder: Path, *, index: bool | None = None) -> Path:
    """`write_page` of the records of ``suite`` under ``results``. Raises InputError if there are none."""
    return write_page(Results.load(results, suite), folder, index=index)


def write_page(view: Results, folder: Path, *, index: bool | None = None) -> Path:
    """Write ``folder/index.html`` from the results of a suite; returns its path.

    Beside it the scorecard stands as ``scorecard.json`` and ``scorecard.md``, and every table of the page as
    ``tables/<section>-<table>.json``. The page asks nothing of any other host, and weighs no more than 3 MB
    (`lightened`). A section that can't be
    imported or that fails is named on the page with the reason. ``index``: whether the page links to an
    index of reports one folder above; by default if there is one.
    """
    pages = environment()
    pages.filters["change"] = view.change
    found, missing = _sections()
    shown, applied = [], []
    with drawings(folder) as drawn:
        for section in found:
            try:
                if section.applies(view):
                    shown.append(_show(section, view, pages, drawn))
                    if section.name != "scorecard":  # it has a document of its own
                        applied.append(section)
            except Exception as error:  # a part of the page, whoever wrote it, never costs the rest
                missing.append((section.title, f"{type(error).__name__}: {error}"))
    files = {name: {"rows": rows} for name, rows in tables(view, applied).items()}
    page = pages.get_template("page.html").render(
        **_facts(view),
        sections=shown,
        missing=missing,
        index=(folder.parent / "index.html").is_file() if index is None else index,
        tables=sorted(files),
    )
    page = lightened(page)
    folder.mkdir(parents=True, exist_ok=True)
    facts = facts_of(view)
    try:
        card = document(view, facts), markdown(view)
    except Exception as error:  # the page says so in its place
        card = document(None, {**facts, "fault": first_line(error)}), ""
    told = {"scorecard.json": _json(card[0], indent=1), "scorecard.md": card[1], "index.html": page}
    of_page = {key: facts[key] for key in ("suite", "version", "written")}
    (folder / "tables").mkdir(exist_ok=True)
    for name, content in files.items():
        own = {"schema": SCHEMA, **of_page, "table": name, **content}
        told[f"tables/{name}.json"] = _json(own)
    for left in (folder / "tables").glob("*.json"):
        if f"tables/{left.name}" not in told:
            left.unlink(missing_ok=True)  # another report of the suite may do the same
    for name, text in told.items():
        write_atomically(folder / name, text.encode())
    return folder / "index.html"


def _json(content: Any, indent: int | None = None) -> str:
    return json.dumps(content, indent=indent, allow_nan=False, ensure_ascii=False)


_TOLD = (
    *("suite", "title", "description", "version", "written", "protocol", "mixed"),
    *("planned", "present", "answered", "outcomes"),
)


def facts_of(view: Results) -> dict[str, Any]:
    """What the JSON beside a page says of it."""
    told = _facts(view)
    return {key: told[key] for key in _TOLD}


def _sections() -> tuple[list[Section], list[tuple[str, str]]]:
    """The sections in the order of the page, and the names of those that are unavailable with the reason."""
    found, missing = [], []
    for name in sections:
        try:
            found.append(sections.create(name))
        except InputError as error:
            missing.append((name, str(error)))
        missing += [(name, reason) for reason in sections.refused(name)]
    return sorted(found, key=lambda section: (section.place, section.name)), missing


def _show(section: Section, view: Results, pages: jinja2.Environment, drawings: Drawings) -> _Shown:
    drawn = {
        picture.name: _Drawn(picture.name, drawings.svg(picture), picture.caption)
        for picture in section.pictures(view)
    }
    tables = {name: _rows(value) for name, value in section.tables(view).items()}
    fragment = section.fragment()
    if fragment is None:
        frames = {name: v for name, v in tables.items() if isinstance(v, list)}
        template, content = pages.get_template("plain_section.html"), {"shown": frames}
    else:
        template, content = pages.from_string(_MACROS + fragment), tables
    body = template.render(**content, pictures=drawn, suite=view.suite)
    return _Shown(
        name=section.name,
        title=section.title,
        link=section.link or section.title,
        subtitle=section.subtitle(view),
        sentences=section.sentences(view),
        mixed=view.mixed_versions(section.needs) if section.needs else [],
        body=Markup(body),
    )


def _rows(value: Any) -> Any:
    return value.to_dict("records") if isinstance(value, pd.DataFrame) else value


def looks() -> dict[str, Any]:
    """What every page looks like: its style, script and icon."""
    icon = base64.b64encode(_asset("icon.svg").encode()).decode()
    script = _asset("report.js") + _asset("charts.js")
    return {"css": _asset("report.css"), "script": script, "icon": icon}


def _facts(view: Results) -> Mapping[str, Any]:
    return {
        "title": view.spec.get("title") or view.suite,
        "description": view.spec.get("description", ""),
        "suite": view.suite,
        "protocol": view.protocol,
        "version": __version__,
        "written": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "planned": view.planned,
        "present": view.present,
        "failed": view.failed,
        "answered": len(view.of_kind("problem", "calibration")),
        "outcomes": outcomes(view),
        "left_out": view.left_out,
        "mixed": view.mixed_versions(),
        "last_run": view.runs.get(view.manifest["run"], {}),
        **looks(),
    }


def environment() -> jinja2.Environment:
    """What every page is written with."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("sharpbench.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters.update({name: getattr(told, name) for name in told.__all__})
    made.filters["interval"] = _whole
    made.filters["cell"] = _cell
    made.filters["data"] = _data
    made.globals["percent_interval"] = told.percent_interval
    return made


def _whole(estimate: Estimate, places: int | None = None, *, sign: bool = False) -> str:
    """An interval that is not broken over lines."""
    return told.kept(told.interval(estimate, places, sign=sign))


def _cell(value: Any) -> str:
    """An entry of a table that no fragment lays out."""
    if isinstance(value, Estimate):
        return _whole(value)
    if isinstance(value, float):
        return told.number(value)
    return "" if value is None else str(value)


def _data(value: float | None, digits: int = 6) -> str:
    """A figure for the page's own sorting and saving; every digit is in the JSON beside it."""
    return "" if value is None or value != value else f"{value:.{digits}g}"


def _asset(name: str) -> Markup:
    return Markup((resources.files("sharpbench.report") / "static" / name).read_text("utf-8"))
