"""Invariant? Does a metric move although the function stays."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sharpbench.analysis.invariance import (
    NOT_TOLD,
    changes,
    gauge_orbits,
    invariance_matrix,
    ranking_survival,
    reachable,
)
from sharpbench.analysis.results import TRAINED, Results
from sharpbench.report import figures
from sharpbench.report.format import number, percent
from sharpbench.report.sections.base import Picture, Section

__all__ = ["Invariant"]

_VERDICTS = {
    "invariant": "unmoved:",
    "equivariant": "moved by the predicted amount:",
    "moves": "moved (median change):",
    "mixed": "moved on some networks:",
    "unclear": "can't tell:",
}

_KEPT = {"invariant", "equivariant"}

_ROUNDING = 1e-10


@dataclass(frozen=True)
class Invariant(Section):
    """Each metric before and after changes that keep the function, the loss or nothing, against theory."""

    name, title, place = "invariant", "Invariant?", 30
    needs = TRAINED

    def subtitle(self, results: Results) -> str:
        return "does a metric move although the function stays"

    def sentences(self, results: Results) -> list[str]:
        matrix = invariance_matrix(results)
        if matrix.empty:
            return ["No transformation was asked for."]
        found = [
            _sentence(str(name), every)
            for name, every in matrix.groupby("transformation_name", sort=False)
        ]
        found += [
            f"Theory and measurement disagree: {row.metric} under "
            f"{row.transformation.replace('_', ' ')} ({row.disagrees}; n = {row.n})."
            for row in matrix[matrix["disagrees"] != ""].itertuples()
        ]
        return found

    def tables(self, results: Results) -> Mapping[str, Any]:
        matrix = invariance_matrix(results)
        asked = len(matrix) > 0
        return {
            "matrix": matrix,
            "not_told": asked and bool((matrix["theory"] == NOT_TOLD).any()),
            "matrix_metrics": list(dict.fromkeys(matrix["metric"])) if asked else [],
            "transformations": list(dict.fromkeys(matrix["transformation"])) if asked else [],
            "reachable": reachable(results),
            "ranking": ranking_survival(results),
        }

    def pictures(self, results: Results) -> Iterable[Picture]:
        orbits = gauge_orbits(results)
        families = orbits.groupby("family", sort=False) if len(orbits) else ()
        for number_, (family, rows) in enumerate(families):
            parameter = rows["parameter"].iloc[0]
            yield Picture(
                f"gauge{number_ or ''}",
                functools.partial(figures.gauge_figure, rows),
                f"Gauge orbits: each metric along {str(family).replace('_', ' ')}, the same function "
                f"throughout, against its {parameter.replace('_', ' ')} (line: median over "
                f"{rows['subject'].nunique()} networks, band: full range). A metric of the function is flat; "
                "one that runs off can be made any size without changing what the network does.",
            )
        moved = changes(results)
        if len(moved):
            yield Picture(
                "invariance",
                functools.partial(figures.invariance_figure, moved),
                "Relative change of each metric, a point a network, same random seeds before and after. "
                "Crosses move by more than 2% and three standard errors of the random numbers that the two "
                "figures do not share; changes below 10⁻¹⁶ are drawn there.",
            )


def _sentence(name: str, every: pd.DataFrame) -> str:
    """What one transformation does; of several strengths the one that moves most speaks for it."""
    strength = every.groupby("transformation")["median_change"].max().fillna(-1).idxmax()
    group = every[every["transformation"] == strength]
    transformation = str(strength) if len(set(every["transformation"])) > 1 else name
    applied = group[group["n"] > 0]
    if applied.empty:
        return f"{transformation} applied to none of the networks."
    change = applied["function_change"].max()
    kept = f"moves the logits by up to {percent(change)}"
    if change < _ROUNDING:
        kept = "keeps the function"
    parts = []
    for verdict, what in _VERDICTS.items():
        names = [
            row.metric + ("" if verdict in _KEPT else f" ({_size(row.median_change)})")
            for row in applied[applied["verdict"] == verdict].itertuples()
        ]
        if names:
            parts.append(f"{what} {', '.join(names)}")
    told = "; ".join(parts)
    return (
        f"{transformation.replace('_', ' ')} {kept} (n = {applied['n'].max()}). "
        f"{told[:1].upper()}{told[1:]}."
    )


def _size(change: float) -> str:
    return percent(change) if change < 2 else f"{number(change, 3)} times its value"
