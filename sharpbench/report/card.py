"""A scorecard beside its page: as JSON for programs, as Markdown for a paper or a thread."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from sharpbench.analysis.results import Results
from sharpbench.analysis.scorecard import QUESTIONS, Entry, scorecard
from sharpbench.report.sections.scorecard import cell_in_words, marked

__all__ = ["SCHEMA", "document", "markdown"]

SCHEMA = 1
"""Of the documents beside a page; raised when a key changes its meaning."""


def document(results: Results | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The scorecard of a suite as JSON: a row a metric and implementation, with the cells of `scorecard`.

    A figure that is missing is None. ``facts``: what the page says of itself. Without results no metric.
    """
    rows = []
    if results is not None:
        rows = [_row(entry, entry.name in results.highlight) for entry in _ordered(results)]
    return {"schema": SCHEMA, **facts, "questions": list(QUESTIONS), "metrics": rows}


def _row(entry: Entry, highlight: bool) -> dict[str, Any]:
    cells = {}
    for question, cell in entry.cells.items():
        figure, told = cell_in_words(cell)
        own = {f.name: getattr(cell, f.name) for f in dataclasses.fields(cell)}
        own |= {key: None for key in ("value", "low", "high") if not math.isfinite(own[key])}
        cells[question] = {**own, "told": told, "figure": figure}
    return {
        "name": entry.name,
        "title": entry.title,
        "implementation": entry.implementation,
        "version": entry.version,
        "highlight": highlight,
        "settings": entry.settings,
        "figures": dict(entry.figures),
        "reasons": list(entry.reasons),
        "cells": cells,
    }


def _ordered(results: Results) -> list[Entry]:
    """Highlighted metrics first, as on the page."""
    return sorted(scorecard(results), key=lambda entry: entry.name not in results.highlight)


def markdown(results: Results) -> str:
    """The scorecard as a table in Markdown, a row a metric and implementation."""
    lines = [
        "| metric | " + " | ".join(f"{q.capitalize()}?" for q in QUESTIONS) + " |",
        "|---" * (1 + len(QUESTIONS)) + "|",
    ]
    for entry in _ordered(results):
        name = entry.title
        if entry.implementation != "native":
            name += f" ({entry.implementation})"
        if entry.name in results.highlight:
            name = f"**{name}**"
        told = [name]
        for question in QUESTIONS:
            cell = entry.cells[question]
            figure = cell_in_words(cell)[0] if cell.word else ""
            told.append(marked(cell.word, tied=cell.tied) + (f"<br>{figure}" if figure else ""))
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in told) + " |")
    return "\n".join(lines) + "\n"
