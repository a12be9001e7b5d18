"""Predictive? Does a metric rank networks by how well they do."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sharpbench.analysis.invariance import FEWEST_RANKED
from sharpbench.analysis.prediction import (
    associations,
    metric_agreement,
    points,
    side_by_side,
)
from sharpbench.analysis.rank_correlation import FEWEST
from sharpbench.analysis.results import TRAINED, Results
from sharpbench.analysis.retest import noise_ceilings
from sharpbench.report.drawing import (
    DIVERGING,
    MARKERS,
    MOST_DRAWN,
    axis_label,
    colours_of,
    explain,
    legend,
    log_scaled,
    plain_log_ticks,
)
from sharpbench.report.format import count, fixed, interval
from sharpbench.report.sections.base import Picture, Section

__all__ = ["Predictive"]

_MOST_IN_PAIRS = 8
"""Beyond this many metrics a panel for each pair is no longer readable; the heat map remains."""

_MOST_SPELLED = 16
"""Beyond this many metrics the figures in the heat map between them are no longer readable."""


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
        ceilings = noise_ceilings(results)
        rows = associations(results)
        return {
            "associations": rows.assign(
                ceiling=[ceilings.get(metric) for metric in rows["metric"]]
            ),
            "ceilings": bool(ceilings),
            "fewest": FEWEST,
            "fewest_twice": FEWEST_RANKED,
        }

    def pictures(self, results: Results) -> Iterable[Picture]:
        networks, table = points(results), associations(results)
        if len(networks):
            yield Picture(
                "scatter",
                functools.partial(_scatter_figure, networks, results.units),
                f"Each metric against the test error, a point a network (n = "
                f"{count(networks['subject'].nunique())}). Bars are standard errors; colour is data and "
                "model, shape the recipe. Compare points of one colour: other differences are not the "
                "metric's.",
            )
        if table.empty:
            return
        if table[["pooled", "within"]].notna().any(axis=None):  # of one network nothing is ranked
            yield Picture(
                "associations",
                functools.partial(_association_heatmap, table),
                "Rank correlation (Kendall's τ) of each metric with what a network is judged by. Left: "
                "all networks pooled; right: only pairs of equal data and model, where a star is p ≤ 5% over "
                "seeds and recipes after Holm's adjustment for the number of metrics.",
            )
        each = side_by_side(results)
        if len(each) > 1 and 1 < len(each.columns) - 1 <= _MOST_IN_PAIRS:
            yield Picture(
                "pairs",
                functools.partial(_pairs_figure, each, results.units),
                "Metrics against each other, a point a network; other implementations of a metric are "
                "left out.",
            )
        agreement = metric_agreement(results)
        if agreement.notna().to_numpy().sum() > len(agreement):  # each agrees with itself
            yield Picture(
                "metrics",
                functools.partial(_metric_heatmap, agreement),
                "Rank correlation between metrics, within equal data and model: metrics that rank "
                "networks alike.",
            )


def predictive_sentences(table: pd.DataFrame) -> list[str]:
    """What the `associations` say of the test error, metrics of one conclusion together."""
    rows = table[table["target"] == "test_error"]
    rows = rows[rows["within"].notna()]
    if rows.empty:
        return ["Too few networks, or seeds of the data, to rank."]
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
        f"{r.metric} with the {r.target_title} {_tau(r.pooled.value)}, but {_tau(r.within.value)}"
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
    if fewest == most:
        return f"n = {count(most)}"
    return f"n = {count(fewest)} to {count(most)}"


def _scatter_figure(points: pd.DataFrame, units: Mapping[str, str]) -> Figure:
    """Each metric against the test error: one panel a metric, colour by stratum, shape by recipe.

    ``points``: ``metric``, ``value``, ``standard_error``, ``test_error``,
    ``test_error_standard_error``, ``stratum``, ``recipe``. ``units``: of metrics, where they have one.
    """
    names = list(dict.fromkeys(points["metric"]))
    columns = min(3, len(names))
    rows = int(np.ceil(len(names) / columns))
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.6 * columns, 2.9 * rows + 1.0), squeeze=False
    )
    colours = colours_of(points["stratum"])
    shapes = dict(zip(dict.fromkeys(points["recipe"]), itertools.cycle(MARKERS), strict=False))
    for axis, name in zip(axes.flat, names, strict=False):
        for (stratum, recipe), group in points[points["metric"] == name].groupby(
            ["stratum", "recipe"], sort=False
        ):
            axis.errorbar(
                group["value"],
                100 * group["test_error"],
                xerr=group["standard_error"].fillna(0),
                yerr=100 * group["test_error_standard_error"],
                fmt=shapes[recipe],
                color=colours[stratum],
                markersize=5,
                elinewidth=0.6,
                alpha=0.85,
                markeredgewidth=0,
                rasterized=len(points) > MOST_DRAWN,
            )
        if log_scaled(points.loc[points["metric"] == name, "value"], units.get(name)):
            axis.set_xscale("log")
            plain_log_ticks(axis.xaxis)
        axis.set_xlabel(axis_label(name, units))
        axis.set_ylabel("test error (%)")
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    explain(figure, legend(colours, shapes), rows=4)
    return figure


def _association_heatmap(table: pd.DataFrame) -> Figure:
    """Kendall's τ of metrics (rows) with targets (columns), pooled and within strata side by side."""
    metrics = list(dict.fromkeys(table["metric"]))
    targets = list(dict.fromkeys(table["target_title"]))
    figure, axes = plt.subplots(
        1, 2, figsize=(4.7 + 1.15 * len(targets), 1.3 + 0.48 * max(len(metrics), 2)), sharey=True
    )
    for axis, which, title in (
        (axes[0], "pooled", "pooled over all networks"),
        (axes[1], "within", "within equal data and model"),
    ):
        values = np.full((len(metrics), len(targets)), np.nan)
        marks = np.full(values.shape, "", dtype=object)
        for row in table.itertuples():
            found = getattr(row, which)
            if found is not None:
                at = metrics.index(row.metric), targets.index(row.target_title)
                values[at] = found.value
                marks[at] = fixed(found.value, 2, sign=True) + (
                    "*" if found.clear and which == "within" else ""
                )
        sns.heatmap(
            values,
            ax=axis,
            annot=marks,
            fmt="",
            cmap=DIVERGING,
            vmin=-1,
            vmax=1,
            cbar=axis is axes[1],
            cbar_kws={"label": "Kendall's τ"},
            linewidths=0.5,
            linecolor="none",
            xticklabels=targets,
            yticklabels=metrics,
            annot_kws={"size": 9},
        )
        axis.set_title(title)
        axis.tick_params(axis="x", rotation=45, length=0)
        axis.tick_params(axis="y", rotation=0, length=0)
    return figure


def _pairs_figure(table: pd.DataFrame, units: Mapping[str, str]) -> Figure:
    """Metrics against each other: a panel a pair, a point a network, colour by stratum.

    ``table``: one column a metric and ``stratum``. ``units``: of metrics, where they have one.
    """
    metrics = [column for column in table if column != "stratum"]
    size = len(metrics) - 1
    figure, axes = plt.subplots(
        size, size, figsize=(2.7 * size + 0.6, 2.2 * size + 1.0), squeeze=False
    )
    colours = colours_of(table["stratum"])
    drawn = len(table) * size * (size + 1) // 2
    for i, row in enumerate(metrics[1:]):
        for j, column in enumerate(metrics[:-1]):
            axis = axes[i, j]
            if j > i:
                axis.set_visible(False)
                continue
            for stratum, own in table.groupby("stratum", sort=False):
                axis.scatter(
                    own[column], own[row], color=colours[stratum], s=22, alpha=0.85,
                    linewidth=0, rasterized=drawn > MOST_DRAWN,
                )  # fmt: skip
            for name, scale, along in (
                (column, axis.set_xscale, axis.xaxis),
                (row, axis.set_yscale, axis.yaxis),
            ):
                if log_scaled(table[name], units.get(name)):
                    scale("log")
                    plain_log_ticks(along)
            axis.set_xlabel(axis_label(column, units, 28) if i == size - 1 else "")
            axis.set_ylabel(axis_label(row, units, 28) if j == 0 else "")
    explain(figure, legend(colours, {}), rows=4)
    return figure


def _metric_heatmap(agreement: pd.DataFrame) -> Figure:
    """Kendall's τ within strata between every two metrics."""
    size = len(agreement)
    # A cell without a figure in it needs less room, and letters stay as large as elsewhere.
    wide, high = (0.55, 0.45) if size <= _MOST_SPELLED else (0.24, 0.24)
    figure, axis = plt.subplots(figsize=(4.6 + wide * size, 2.6 + high * size))
    sns.heatmap(
        agreement,
        ax=axis,
        annot=size <= _MOST_SPELLED and agreement.map(lambda tau: fixed(tau, 2, sign=True)),
        fmt="",
        cmap=DIVERGING,
        vmin=-1,
        vmax=1,
        linewidths=0.5,
        linecolor="none",
        annot_kws={"size": 9},
        cbar_kws={"label": "Kendall's τ"},
    )
    axis.set(xlabel="", ylabel="")
    axis.tick_params(axis="x", rotation=45, length=0)
    plt.setp(axis.get_xticklabels(), ha="right", rotation_mode="anchor")
    axis.tick_params(axis="y", rotation=0, length=0)
    return figure
