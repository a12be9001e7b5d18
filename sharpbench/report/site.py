"""``reports/index.html``: every report in a folder, and what each says of every metric."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sharpbench.analysis.failures import WORDS
from sharpbench.analysis.scorecard import QUESTIONS
from sharpbench.report.page import environment, looks
from sharpbench.report.perf_page import PERFORMANCE
from sharpbench.report.sections.scorecard import MARKS, mark, place_of
from sharpbench.results.disk import write_atomically
from sharpbench.version import __version__

__all__ = ["table_row", "write_index"]


@dataclass
class _Report:
    """A report: where it is, what it says of itself and its scorecard."""

    link: str
    told: dict[str, Any]
    counts: dict[str, list[dict[str, Any]]]
    """By question, how many metrics have each verdict."""


@dataclass
class _Line:
    """A metric with the verdicts of every report that asks a question of it."""

    title: str
    implementation: str
    cells: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {q: [] for q in QUESTIONS}
    )


def write_index(reports: Path) -> Path:
    """Write ``reports/index.html`` over the reports in its folders; returns its path.

    A report is what `write_report` wrote: a folder with a page and its ``scorecard.json``. One that can't be
    read is listed by its name. Of what `write_perf_page` wrote there is a line. Nothing is asked of any other
    host.
    """
    found = sorted(_reports(reports), key=lambda r: (r.told["written"], r.link), reverse=True)
    page = (
        environment()
        .get_template("index.html")
        .render(
            reports=found,
            rows=[table_row(line.title, line.implementation, line.cells) for line in _lines(found)],
            speed=list(_speed(reports)),
            leaderboard=(reports / "leaderboard.html").is_file(),
            heads={question: f"{question.capitalize()}?" for question in QUESTIONS},
            version=__version__,
            written=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            **looks(),
        )
    )
    reports.mkdir(parents=True, exist_ok=True)
    write_atomically(reports / "index.html", page.encode())
    return reports / "index.html"


def table_row(
    title: str,
    implementation: str,
    cells: Mapping[str, Sequence[Mapping[str, Any]]],
    version: str = "",
) -> dict[str, Any]:
    """A row of the table of metrics over several reports (``verdicts`` in ``macros.html``)."""
    return {
        "title": title if implementation == "native" else f"{title} ({implementation})",
        "version": version,
        "cells": {
            question: {
                "place": place_of([one["word"] for one in own]),
                "verdicts": [{**one, **mark(one["word"])} for one in own],
            }
            for question, own in cells.items()
        },
    }


def _reports(folder: Path) -> Iterator[_Report]:
    for page in sorted(folder.glob("*/index.html")):
        name = page.parent.name
        if (page.parent / PERFORMANCE).is_file():
            continue
        bare = {**_BARE, "suite": name, "title": name}
        try:
            read = json.loads((page.parent / "scorecard.json").read_text("utf-8"))
            told = {**bare, **read}
            counts = {question: list(_counts(told["metrics"], question)) for question in QUESTIONS}
            if not isinstance(told["written"], str):
                raise TypeError
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # Written by an older version, or by hand: it is there to be opened.
            told, counts = bare, {}
        yield _Report(f"{quote(name)}/index.html", told, counts)


def _speed(folder: Path) -> Iterator[dict[str, Any]]:
    """What each page of sharpbench's own speed says of itself, with its link."""
    for told in sorted(folder.glob(f"*/{PERFORMANCE}")):
        link = f"{quote(told.parent.name)}/index.html"
        try:
            read = json.loads(told.read_text("utf-8"))
            facts = {key: int(read[key]) for key in ("commits", "benchmarks")}
            yield {"link": link, **facts, "slower": len(read["regressions"])}
        except (OSError, ValueError, KeyError, TypeError):
            yield {"link": link, "commits": 0}


_BARE: dict[str, Any] = {
    "written": "", "planned": 0, "present": 0, "outcomes": {}, "metrics": []
}  # fmt: skip


def _counts(metrics: list[dict[str, Any]], question: str) -> Iterator[dict[str, Any]]:
    """The verdicts on a question, in the order of `MARKS`, with how many metrics have each."""
    words = [row["cells"][question]["word"] for row in metrics]
    for word in [*MARKS, *(w for w in (*WORDS, "not counted") if w not in MARKS)]:
        if word in words:
            yield {**mark(word), "count": words.count(word)}


def _lines(reports: list[_Report]) -> list[_Line]:
    """Every metric and implementation with its verdicts, each with the report that gives it.

    They stand side by side and are not added up: the reports ask other networks, with other settings.
    """
    found: dict[tuple[str, str], _Line] = {}
    for report in reports:
        rows = report.told["metrics"] if report.counts else []
        # Where a metric is ranked beside all others, these are told of by the report of the others.
        for row in [row for row in rows if row.get("highlight")] or rows:
            line = found.setdefault(
                (row["name"], row["implementation"]), _Line(row["title"], row["implementation"])
            )
            for question in QUESTIONS:
                cell = row["cells"][question]
                if cell["word"]:
                    place = f"{report.link}#{cell['evidence'] or 'scorecard'}"
                    own = {"link": place, "suite": report.told["suite"], "figure": cell["figure"]}
                    own["tied"] = cell.get("tied", False)
                    line.cells[question].append({**mark(cell["word"]), **own})
    return sorted(
        found.values(),
        key=lambda e: (e.title.casefold(), e.implementation != "native", e.implementation),
    )
