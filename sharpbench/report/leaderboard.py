"""A static site of reports, with ``leaderboard.html``: every metric with its version, by protocol.

It is made of the documents beside the pages alone, and mixes nothing: a metric has one version in all of
them.
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sharpbench.analysis.results import Results
from sharpbench.analysis.scorecard import QUESTIONS
from sharpbench.errors import InputError
from sharpbench.report.card import document
from sharpbench.report.page import environment, facts_of, looks, write_page
from sharpbench.report.site import table_row, write_index
from sharpbench.results.disk import write_atomically
from sharpbench.version import __version__

__all__ = ["LEADERBOARD", "publish"]

LEADERBOARD = "leaderboard"

SCHEMA = 1
"""Of ``leaderboard.json``; raised when a key changes its meaning."""


@dataclass(frozen=True)
class _Published:
    """A report of the site, and where it comes from."""

    document: dict[str, Any]
    place: str

    @property
    def suite(self) -> str:
        return str(self.document["suite"])


def publish(site: Path, views: Iterable[Results], reports: Iterable[Path]) -> Path:
    """Write a static site: a page for each of ``views``, copies of ``reports`` (folders of a page), the index
    over all, and the leaderboard; the index's path.

    Raises InputError, and writes nothing, where a suite is there twice, a report was written without the
    versions it needs, the figures of a suite were computed with several versions of a library, or a metric
    has another version in one suite than in another.
    """
    views, reports = list(views), list(reports)
    found = [_of_view(view) for view in views] + [_of_report(folder) for folder in reports]
    _check(found)
    site.mkdir(parents=True, exist_ok=True)
    for view in views:
        write_page(view, site / view.suite, index=True)
    for folder, one in zip(reports, found[len(views) :], strict=True):
        target = site / one.suite
        if target.is_dir() and target.samefile(folder):
            continue
        copied = [*_FILES, *(f"tables/{path.name}" for path in folder.glob("tables/*.json"))]
        for name in copied:
            if (folder / name).is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, target / name)
    write_leaderboard(site)
    return write_index(site)


_FILES = ("index.html", "scorecard.json", "scorecard.md")
"""What a report is made of, besides its tables."""


def write_leaderboard(site: Path) -> Path:
    """Write ``leaderboard.html`` and ``leaderboard.json`` from the documents beside the pages of a site.

    Raises InputError for what `publish` refuses.
    """
    found = [_of_report(path.parent) for path in sorted(site.glob("*/scorecard.json"))]
    _check(found)
    told = _document([one.document for one in found])
    page = (
        environment()
        .get_template("leaderboard.html")
        .render(
            **told,
            heads={question: f"{question.capitalize()}?" for question in QUESTIONS},
            rows=[
                table_row(row["title"], row["implementation"], row["cells"], row["version"])
                for row in told["metrics"]
            ],
            **looks(),
        )
    )
    text = json.dumps(told, indent=1, allow_nan=False, ensure_ascii=False)
    write_atomically(site / f"{LEADERBOARD}.json", text.encode())
    write_atomically(site / f"{LEADERBOARD}.html", page.encode())
    return site / f"{LEADERBOARD}.html"


def _document(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The leaderboard as JSON: the protocols, and a row a metric and implementation with its verdicts."""
    protocols = [
        {
            **{
                key: one[key]
                for key in ("suite", "title", "protocol", "written", "planned", "answered")
            },
            "sharpbench": one["version"],
            "link": f"{quote(one['suite'])}/index.html",
        }
        for one in documents
    ]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for one in documents:
        for metric in one["metrics"]:
            row = rows.setdefault(
                (metric["name"], metric["implementation"]),
                {
                    **{key: metric[key] for key in ("name", "title", "implementation", "version")},
                    "cells": {question: [] for question in QUESTIONS},
                },
            )
            for question in QUESTIONS:
                cell = metric["cells"][question]
                if cell["word"]:
                    own = {key: cell[key] for key in _KEPT}
                    evidence = cell["evidence"] or "scorecard"
                    link = f"{quote(one['suite'])}/index.html#{evidence}"
                    row["cells"][question].append({**own, "suite": one["suite"], "link": link})
    order = sorted(rows.values(), key=_by_title)
    return {
        "schema": SCHEMA,
        "version": __version__,
        "written": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "protocols": protocols,
        "metrics": order,
    }


def _by_title(row: dict[str, Any]) -> tuple[str, bool, str]:
    return row["title"].casefold(), row["implementation"] != "native", row["implementation"]


_KEPT = ("word", "figure", "value", "low", "high", "measure", "n", "counted", "tied")


def _of_view(view: Results) -> _Published:
    where = f"suite {view.suite!r}" + (f" in {view.store.root}" if view.store else "")
    return _Published(document(view, facts_of(view)), where)


def _of_report(folder: Path) -> _Published:
    path = folder / "scorecard.json"
    try:
        read = json.loads(path.read_text("utf-8"))
        missing = [key for key in _NEEDED if key not in read]
        missing += [key for key in ("version",) for row in read["metrics"] if key not in row][:1]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{folder} is no report: it has no scorecard.json that can be read"
        ) from None
    if missing:
        raise InputError(
            f"{path} was written by an older version and tells no {missing[0]}: write it again with "
            f"sharpbench report {read.get('suite', '')}".rstrip()
        )
    return _Published(read, str(folder))


_NEEDED = ("suite", "title", "protocol", "mixed", "version", "written", "metrics")


def _check(found: Sequence[_Published]) -> None:
    """Raises InputError for what would mix what is not alike."""
    places: dict[str, str] = {}
    for one in found:
        if one.suite in places:
            raise InputError(
                f"the suite {one.suite!r} is in {places[one.suite]} and in {one.place}: bring their results "
                "together first, sharpbench merge … --into FOLDER, or publish one of them"
            )
        places[one.suite] = one.place
        if one.document["mixed"]:
            raise InputError(
                f"{one.place} mixes versions: {'; '.join(one.document['mixed'])}. Run it again with one of "
                "them in a results folder of its own"
            )
    versions: dict[tuple[str, str], tuple[str, str]] = {}
    for one in found:
        for row in one.document["metrics"]:
            key, version = (row["name"], row["implementation"]), row["version"]
            before, where = versions.setdefault(key, (version, one.place))
            if version != before:
                raise InputError(
                    f"{row['name']} ({row['implementation']}) has version {before} in {where} and version "
                    f"{version} in {one.place}: run one of them again, or publish them apart"
                )
