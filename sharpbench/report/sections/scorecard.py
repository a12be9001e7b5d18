"""The scorecard: every metric against the four questions, first on the page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharpbench.analysis.failures import WORDS
from sharpbench.analysis.results import Results
from sharpbench.analysis.scorecard import QUESTIONS, Cell, Entry, scorecard, suites_that_ask
from sharpbench.analysis.statistics import Estimate
from sharpbench.report.format import count, fixed, interval, kept, number, percent, times
from sharpbench.report.sections.base import Section

__all__ = ["MARKS", "Scorecard", "cell_in_words", "mark", "marked", "place_of", "prose"]

_HEADS = {q: f"{q.capitalize()}?" for q in QUESTIONS}

MARKS = {
    "right": ("✓", "stays"),
    "wrong": ("✗", "moves"),
    "no limit": ("△", "mixed"),
    "within errors": ("≈", "na"),
    "differ": ("≠", "mixed"),
    "invariant": ("✓", "stays"),
    "moves": ("✗", "moves"),
    "mixed": ("±", "mixed"),
    "predicts": ("✓", "stays"),
    "ranks backwards": ("✗", "moves"),
    "can't tell": ("?", "na"),
    "up to 10": ("•", ""),
    "up to 100": ("••", ""),
    "up to 1,000": ("•••", ""),
    "more than 1,000": ("••••", ""),
    "failed": ("⊗", "moves"),
    "timed out": ("⊗", "moves"),
}
"""Shape and colour of each verdict; of every other one a dash."""

_RULES = (
    "Right: ✗ if half of the answers to one problem or more are wrong (off by more than three standard "
    "errors and 1%), or over 5% of the stated errors and claims do not hold; ? if over 5% of "
    "the answers tell nothing, as one whose error is as wide as what it is of; △ if what is estimated has no "
    "limit; ≈ where no answer is known but implementations differ by more than their errors on at most 5% of "
    "networks. "
    "Invariant: the worst verdict of all changes that keep the function, with the range of after/before. "
    "Predictive: ✓ or ✗ if the rank correlation differs from 0, with its 95% interval over seeds: over a "
    "grid Ψ, of such marks at most 5% false on average (Benjamini and Hochberg), which what only repeats a "
    "hyperparameter can earn, too: it then is not shown to rank better than the hyperparameters alone; else "
    "τ within equal data and model, if neither seeds nor recipes in another order would give as much by "
    "chance, after Holm's adjustment; the noise ceiling is a metric's τ with itself, asked again after a "
    "mere permutation. "
    "Costly: median work in gradients with its range. "
    "“=”: not told apart from the best of its column (intervals overlap), where the best has a verdict."
)


@dataclass(frozen=True)
class Scorecard(Section):
    """Which metric can be trusted? Each one's four verdicts, with the figure and where it comes from."""

    name, title, place = "scorecard", "Scorecard", 1
    needs = frozenset({"measurement", "problem", "calibration"})

    def applies(self, results: Results) -> bool:
        return super().applies(results) and bool(scorecard(results))

    def subtitle(self, results: Results) -> str:
        return "which metric can be trusted?"

    def tables(self, results: Results) -> Mapping[str, Any]:
        entries = scorecard(results)
        measures = {q: _measure(e.cells[q] for e in entries) for q in QUESTIONS}
        expects_nothing = frozenset(results.manifest.get("expects_nothing", ()))
        groups = [
            {"title": own[0].title if own[0].implementation == "native" else _named(own[0]),
             "highlight": own[0].name in results.highlight,
             "entries": [_shown(e, measures, results.suite, expects_nothing) for e in own]}
            for own in (list(g) for _, g in itertools.groupby(entries, lambda e: e.name))
        ]  # fmt: skip
        groups.sort(key=lambda group: not group["highlight"])
        return {"groups": groups, "heads": _HEADS, "rules": _RULES, "prose": prose(entries)}


def _named(entry: Entry) -> str:
    return (
        entry.title
        if entry.implementation == "native"
        else f"{entry.title} ({entry.implementation})"
    )


def _measure(cells: Any) -> str:
    """What a column is sorted by: answers known before implementations compared, Ψ before τ."""
    there = {c.measure for c in cells}
    return next((m for m in ("share", "difference", "psi", "tau") if m in there), "")


def _shown(
    entry: Entry, measures: Mapping[str, str], suite: str, expects_nothing: frozenset[str]
) -> dict[str, Any]:
    told = ", ".join(f"{count(entry.figures[w])} {w}" for w in WORDS if w in entry.figures)
    if entry.settings > 1:
        told += f"; {entry.settings} settings"
    cells = {q: _cell(entry, q, c, measures[q], suite) for q, c in entry.cells.items()}
    unknown = not entry.cells["right"].word and not cells["right"]["measures"]
    if entry.name in expects_nothing and unknown:
        cells["right"]["why"] = "its class says of no problem what to expect (Metric.known)"
    reason = "" if "measured" in entry.figures else "; ".join(entry.reasons)
    return {
        "implementation": entry.implementation,
        "outcomes": told,
        "reason": reason,
        "cells": cells,
    }


def _cell(entry: Entry, question: str, cell: Cell, measure: str, own: str) -> dict[str, Any]:
    suite, measures = ("", False) if cell.word else suites_that_ask(question, entry.name, own)
    figure, told = cell_in_words(cell)
    sorted_by = cell.measure in {measure, "transformations", "gradients"}
    order = cell.value if sorted_by and not math.isnan(cell.value) else ""
    return {
        **mark(cell.word), "figure": kept(figure),
        "told": [kept(t) for t in told],
        "evidence": cell.evidence or "failed", "tied": cell.tied, "order": order, "suite": suite,
        "measures": measures, "why": "",
    }  # fmt: skip


def mark(word: str) -> dict[str, str]:
    """A verdict with the shape and the colour that it has on every page."""
    shape, colour = MARKS.get(word, ("–", "na"))
    return {"word": word, "shape": shape, "colour": colour}


def marked(word: str, *, tied: bool = False) -> str:
    """A verdict as text, with its shape; of a question that was not asked that."""
    return f"{mark(word)['shape']} {word}{' =' if tied else ''}" if word else _NOT_ASKED


_NOT_ASKED = "not asked"


def place_of(words: Sequence[str]) -> int | None:
    """Where a row of such verdicts stands when it is sorted by them: by the worst one; None without any."""
    worst = {"stays": 0, "mixed": 1, "na": 2, "moves": 3}
    found = [mark(word) for word in words if word]
    return max((worst.get(one["colour"], len(one["shape"])) for one in found), default=None)


def cell_in_words(cell: Cell) -> tuple[str, list[str]]:
    """The figure of a verdict, and what else there is to say of it."""
    told = list(cell.told)
    if cell.measure == "transformations":
        told[0] += f": {times(cell.low, cell.high)}, n = {count(cell.networks)}"
    return _figure(cell), told


def _figure(cell: Cell) -> str:
    n = f"n = {count(cell.n)}"
    match cell.measure:
        case "share":
            ends = ", ".join(fixed(100 * v, 0) for v in (cell.low, cell.high))
            held = f"{count(cell.parts)} of {count(cell.n)} {cell.counted} hold"
            return f"{held}: {fixed(100 * cell.value, 0)} [{ends}]%"
        case "difference":
            return f"{percent(cell.value)} apart in the median, {percent(cell.high)} at most, {n}"
        case "transformations":
            return f"unmoved by {cell.parts} of {cell.n} changes"
        case "psi" | "tau":
            found = Estimate(cell.value, cell.low, cell.high, cell.n)
            return f"{'Ψ' if cell.measure == 'psi' else 'τ'} {interval(found, 2, sign=True)}, {n}"
        case "gradients":
            low, high = (number(end, 3, zeros=True) for end in (cell.low, cell.high))
            ends = "" if low == high else f" ({low}–{high})"
            return f"{number(cell.value, 3, zeros=True)} gradients{ends}, {n}"
    return n if cell.n else ""


def prose(entries: Sequence[Entry]) -> list[str]:
    """What the scorecard says, in at most five sentences."""
    found = []
    for question, verbs in _SENTENCES.items():
        parts = []
        for word, verb in verbs.items():
            names = [_named(e) for e in entries if e.cells[question].word == word]
            if names:
                parts.append(f"{verb}: {_listed(names)}")
        if parts:
            told = "; ".join(parts)
            found.append(f"{_HEADS[question]} {told[:1].upper()}{told[1:]}.")
    costs = sorted(
        (e.cells["costly"].value, _named(e)) for e in entries if e.cells["costly"].measure
    )
    if len(costs) > 1:
        (least, cheap), (most, dear) = [
            (number(cost, 2, zeros=True), name) for cost, name in (costs[0], costs[-1])
        ]
        found.append(f"Costly? From {least} ({cheap}) to {most} gradients ({dear}).")
    empty = [q for q in QUESTIONS if all(not e.cells[q].word for e in entries)]
    if empty:
        asked = " or ".join(_HEADS[q] for q in empty)
        found.append(f"This suite does not ask {asked}")
    return found


_SENTENCES = {
    "right": {
        "right": "right",
        "wrong": "wrong",
        "no limit": "estimated well, without a limit on some functions",
        "within errors": "no further apart than their errors",
        "differ": "differing",
        "can't tell": "open",
    },
    "invariant": {
        "invariant": "unmoved by every change that keeps the function",
        "moves": "moved",
        "mixed": "moved on some networks",
        "can't tell": "open",
    },
    "predictive": {
        "predicts": "the sharper network does worse by",
        "ranks backwards": "it does better by",
        "mixed": "either, by setting",
        "can't tell": "not shown",
    },
}
"""How each verdict is told before the names of those that have it."""


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
