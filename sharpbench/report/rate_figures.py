"""Figures about the curvature rate λ: against the truth, its fit; and the calibration of networks."""

from __future__ import annotations

import math
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sharpbench.report.figures import plain_log_ticks, wrapped

__all__ = [
    "estimation_figure",
    "fit_figure",
    "growth_figure",
    "reliability_figure",
]

_MARKERS = ("o", "X", "s", "^", "D", "P", "v", "*", "h")


def growth_figure(rows: pd.DataFrame) -> Figure:
    """λ against the highest order fitted, raw (left) and with factorials divided out (right).

    ``rows``: ``problem``, ``normalization``, ``last_order``, ``value``, ``limit`` (see
    `analysis.problems.by_orders`). A limit is a dashed line of the problem's colour.
    """
    names = list(dict.fromkeys(rows["problem"]))
    palette = sns.color_palette("colorblind", len(names))
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), sharex=True)
    for axis, (definition, title) in zip(
        axes,
        (("none", "λ raw: log‖Dⁿf‖"), ("factorial", "λ factorial: log(‖Dⁿf‖/n!)")),
        strict=True,
    ):
        for number, name in enumerate(names):
            own = rows[(rows["problem"] == name) & (rows["normalization"] == definition)]
            if own.empty:
                continue
            axis.plot(
                own["last_order"], own["value"], marker=_MARKERS[number % len(_MARKERS)],
                color=palette[number], markersize=5, label=name,
            )  # fmt: skip
            limit = own["limit"].iloc[0]
            if not pd.isna(limit):
                axis.axhline(limit, color=palette[number], linestyle="--", linewidth=0.9)
        axis.axvline(4, color="0.6", linewidth=0.8, linestyle=":")
        axis.set(title=title, xlabel="highest order fitted", ylabel="λ (per order)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def estimation_figure(dimensions: pd.DataFrame, errors: pd.DataFrame) -> Figure:
    """λ of one function in ever more dimensions (left), and the estimator's error (right).

    ``dimensions``: ``law``, ``dimension``, ``value``, ``expected``; ``errors``: ``axis``, ``problem``,
    ``norm``, ``amount``, ``rms``, ``told`` (see `analysis.problems`).
    """
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.9))
    laws = list(dict.fromkeys(dimensions["law"])) if len(dimensions) else []
    for number, law in enumerate(laws):
        own = (
            dimensions[dimensions["law"] == law].groupby("dimension")[["value", "expected"]].mean()
        )
        colour = sns.color_palette("colorblind")[number]
        axes[0].plot(own.index, own["expected"], color=colour, linewidth=1)
        axes[0].plot(
            own.index, own["value"], _MARKERS[number], color=colour, markersize=6, label=law
        )
    axes[0].set(xscale="log", xlabel="input dimension d", ylabel="λ (per order)")
    axes[0].set_title("directions: line exact, points estimated", size=9)
    if laws:
        axes[0].legend(fontsize=8)
    for axis, what in zip(axes[1:], ("directions a point", "points"), strict=True):
        own = errors[errors["axis"] == what] if len(errors) else errors
        if not len(own):
            axis.set_visible(False)
            continue
        for number, ((problem, norm), group) in enumerate(own.groupby(["problem", "norm"])):
            colour = sns.color_palette("colorblind")[number]
            axis.plot(
                group["amount"], group["rms"], color=colour, marker=_MARKERS[number],
                label=f"{problem}, {norm.replace('_', ' ')}",
            )  # fmt: skip
            axis.plot(group["amount"], group["told"], color=colour, linestyle=":", linewidth=1)
        axis.set(xscale="log", yscale="log", xlabel=what, ylabel="error of λ")
        plain_log_ticks(axis.xaxis)
        plain_log_ticks(axis.yaxis)
        axis.set_title("solid: true error, dotted: standard error told", size=9)
        axis.legend(fontsize=7, loc="lower left")
    return figure


def fit_figure(rows: pd.DataFrame) -> Figure:
    """log|dₙ| against n with the straight line whose slope is λ; a panel a data set and model.

    ``rows``: ``stratum``, ``recipe``, ``order``, ``log_derivative``, ``low``, ``high``, ``fit``.
    """
    strata = list(dict.fromkeys(rows["stratum"]))
    columns = min(4, len(strata))
    bands = math.ceil(len(strata) / columns)
    figure, axes = plt.subplots(bands, columns, figsize=_size(columns, bands), squeeze=False)
    recipes = list(dict.fromkeys(rows["recipe"]))
    palette = dict(zip(recipes, sns.color_palette("colorblind", len(recipes)), strict=True))
    for axis, stratum in zip(axes.flat, strata, strict=False):
        for number, recipe in enumerate(recipes):
            own = rows[(rows["stratum"] == stratum) & (rows["recipe"] == recipe)]
            if own.empty:
                continue
            axis.errorbar(
                own["order"], own["log_derivative"],
                yerr=[own["log_derivative"] - own["low"], own["high"] - own["log_derivative"]],
                fmt=_MARKERS[number % len(_MARKERS)], color=palette[recipe], markersize=5,
                elinewidth=0.8, label=recipe,
            )  # fmt: skip
            axis.plot(own["order"], own["fit"], color=palette[recipe], linewidth=1)
        axis.set_title(wrapped(stratum), size=8)
        axis.set(xlabel="order n", ylabel="mean log |dₙ|")
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    _finish_panels(figure, axes, len(strata))
    return figure


def reliability_figure(rows: pd.DataFrame) -> Figure:
    """Accuracy against confidence, a panel a data set and model, a line a recipe, seeds together.

    ``rows``: ``stratum``, ``recipe``, ``confidence``, ``accuracy``, ``count``, ``bin``.
    """
    strata = list(dict.fromkeys(rows["stratum"]))
    recipes = list(dict.fromkeys(rows["recipe"]))
    palette = dict(zip(recipes, sns.color_palette("colorblind", len(recipes)), strict=True))
    columns = min(4, len(strata))
    bands = math.ceil(len(strata) / columns)
    figure, axes = plt.subplots(bands, columns, figsize=_size(columns, bands), squeeze=False)
    for axis, stratum in zip(axes.flat, strata, strict=False):
        axis.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=0.9)
        for number, recipe in enumerate(recipes):
            own = rows[(rows["stratum"] == stratum) & (rows["recipe"] == recipe)]
            if own.empty:
                continue
            weight = own.groupby("bin")["count"].sum()
            confidence = (own["confidence"] * own["count"]).groupby(own["bin"]).sum() / weight
            accuracy = (own["accuracy"] * own["count"]).groupby(own["bin"]).sum() / weight
            axis.plot(confidence, accuracy, color=palette[recipe], linewidth=1)
            axis.scatter(
                confidence, accuracy, color=palette[recipe], marker=_MARKERS[number % len(_MARKERS)],
                s=10 + 60 * weight / weight.max(), linewidth=0, label=recipe,
            )  # fmt: skip
        low = max(0.0, float(rows.loc[rows["stratum"] == stratum, "confidence"].min()) - 0.05)
        axis.set(xlim=(low, 1.02), ylim=(-0.02, 1.02), xlabel="confidence", ylabel="accuracy")
        axis.set_title(wrapped(stratum), size=8)
    _finish_panels(figure, axes, len(strata))
    return figure


def _finish_panels(figure: Figure, axes: Any, used: int) -> None:
    """Hide the panels left over, and explain every series once below the others."""
    for axis in axes.flat[used:]:
        axis.set_visible(False)
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    # A letter takes about a fourteenth of an inch; a legend wider than the figure would be cut off.
    fitting = int(figure.get_figwidth() / (max(map(len, handles), default=1) / 14 + 0.5))
    columns = max(1, min(3, len(handles), fitting))
    # One row is in the size already; more would be taken from the panels.
    figure.set_figheight(figure.get_figheight() + 0.21 * (math.ceil(len(handles) / columns) - 1))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns)


def _size(columns: int, bands: int) -> tuple[float, float]:
    """Inches of a grid of panels: never so narrow that the page would blow it up."""
    return max(3.0 * columns, 8.0), 2.9 * bands + 0.6
