"""Predictive? Does a metric rank networks by how well they do."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sharpbench.analysis.prediction import (
    associations,
    metric_agreement,
    points,
    side_by_side,
)
from sharpbench.analysis.results import TRAINED, Results
from sharpbench.report import figures
from sharpbench.report.format import fixed, interval
from sharpbench.report.sections.base import Picture, Section

__all__ = ["Predictive"]

_MOST_IN_PAIRS = 8
"""Beyond this many metrics a panel for each pair is no longer readable; the heat map remains."""


@dataclass(frozen=True)
class Predictive(Section):
    """Rank correlations of each metric with what networks are judged by, within equal data and model."""

    name, title, place = "predictive", "Predictive?", 40
    needs = TRAINED

    def subtitle(self, results: Results) -> str:
        return "does a metric rank networks by how well they do"

    def sentences(self, results: Results) -> list[str]:
        return predictive_sentences(associations(results))

    def tables(self, results: Results) -> Mapping[str, Any]:
        return {"associations": associations(results)}

    def pictures(self, results: Results) -> Iterable[Picture]:
        networks, table = points(results), associations(results)
        if len(networks):
            yield Picture(
                "scatter",
                functools.partial(figures.scatter_figure, networks, results.units),
                f"Each metric against the test error, a point a trained network (n = "
                f"{networks['subject'].nunique()}). Bars are standard errors; colour is data and model, "
                "shape the recipe. Compare points of one colour: other differences are not the metric's.",
            )
        if table.empty:
            return
        yield Picture(
            "associations",
            functools.partial(figures.association_heatmap, table),
            "Rank correlation (Kendall's τ) of each metric with what a network is judged by. Left: "
            "all networks pooled; right: only pairs of equal data and model. A star: p ≤ 5% after Holm's "
            "adjustment for the number of metrics, with errors over seeds.",
        )
        each = side_by_side(results)
        if 1 < len(each.columns) - 1 <= _MOST_IN_PAIRS:
            yield Picture(
                "pairs",
                functools.partial(figures.pairs_figure, each, results.units),
                "Metrics against each other, a point a network; other implementations of a metric are "
                "left out.",
            )
        agreement = metric_agreement(results)
        if len(agreement) > 1:
            yield Picture(
                "metrics",
                functools.partial(figures.metric_heatmap, agreement),
                "Rank correlation between metrics, within equal data and model: metrics that rank "
                "networks alike.",
            )


def predictive_sentences(table: pd.DataFrame) -> list[str]:
    """What the `associations` say of the test error, metrics of one conclusion together."""
    rows = table[table["target"] == "test_error"]
    rows = rows[rows["within"].notna()]
    if rows.empty:
        return ["Too few networks to rank."]
    clear = sorted(
        (r for r in rows.itertuples() if r.within.clear), key=lambda r: -abs(r.within.value)
    )
    sentences = []
    for direction, sign in (("higher", 1), ("lower", -1)):
        group = [r for r in clear if r.within.value * sign > 0]
        if group:
            listed = "; ".join(f"{r.metric} {interval(r.within, 2, sign=True)}" for r in group)
            sentences.append(
                f"Among networks of the same data and model ({_networks(group)}) the sharper one has the "
                f"{direction} test error, by (Kendall's τ, 95% interval): {listed}."
            )
    unclear = [r.metric for r in rows.itertuples() if not r.within.clear]
    if unclear:
        sentences.append(
            f"No clear rank correlation with the test error within data and model: {', '.join(unclear)}."
        )
    reversed_ = [
        f"{r.metric} with the {r.target.replace('_', ' ')} {_tau(r.pooled.value)}, but "
        f"{_tau(r.within.value)}"
        for r in table[table["simpson"].astype(bool)].itertuples()
    ]
    if reversed_:
        sentences.append(
            "Simpson's paradox, τ over all networks, but within data and model: "
            f"{'; '.join(reversed_)}."
        )
    apparent = [
        f"{r.metric} {_tau(r.pooled.value)}, but {interval(r.within, 2, sign=True)}"
        for r in rows.itertuples()
        if r.pooled is not None and r.pooled.clear and not r.within.clear
    ]
    if apparent:
        sentences.append(
            "Seems to rank the test error over all networks, but does not within data and model (τ): "
            f"{'; '.join(apparent)}."
        )
    return sentences


def _tau(value: float) -> str:
    return fixed(value, 2, sign=True)


def _networks(rows: list[Any]) -> str:
    """``n = 640`` or the range."""
    fewest, most = min(r.within.n for r in rows), max(r.within.n for r in rows)
    return f"n = {most}" if fewest == most else f"n = {fewest} to {most}"
