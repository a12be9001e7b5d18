"""The pictures of the section Right?, one function each: a table in, a drawn figure out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sharpbench.analysis.names import reading_order
from sharpbench.report.drawing import (
    MARKERS,
    colours_of,
    explain,
    finish_panels,
    legend,
    panels_size,
    plain_log_ticks,
    wrapped,
)
from sharpbench.report.format import number

__all__ = [
    "agreement_figure",
    "coverage_figure",
    "error_against_cost_figure",
    "estimation_figure",
    "fit_figure",
    "growth_figure",
]


def agreement_figure(pairs: pd.DataFrame) -> Figure:
    """Relative difference of each implementation from the native one, a point a network."""
    kinds = list(dict.fromkeys(zip(pairs["a"], pairs["b"], strict=True)))
    figure, axis = plt.subplots(figsize=(7.2, 1.0 + 0.55 * len(kinds)))
    palette = sns.color_palette("colorblind")
    for height, (a, b) in enumerate(kinds):
        group = pairs[(pairs["a"] == a) & (pairs["b"] == b)]
        jitter = np.linspace(-0.25, 0.25, len(group)) if len(group) > 1 else np.zeros(len(group))
        axis.scatter(
            100 * group["difference"],
            height + jitter,
            s=18,
            color=palette[height % len(palette)],
            alpha=0.8,
            linewidths=0,
        )
    axis.axvline(0, color=mpl.rcParams["axes.edgecolor"], linewidth=0.8)
    axis.set_yticks(range(len(kinds)), [b for _, b in kinds])
    axis.set_ylim(len(kinds) - 0.4, -0.6)
    axis.set_xscale("symlog", linthresh=1)
    axis.xaxis.set_major_formatter(lambda value, _: number(value, sign=bool(value)))
    axis.set_xlabel("difference from native (%), linear within ±1%")
    return figure


def coverage_figure(
    table: pd.DataFrame, band: tuple[float, float], stated: float, titles: Mapping[str, str]
) -> Figure:
    """The true coverage of stated intervals: a line a metric, a mark each setting and problem.

    ``table``: ``name``, ``n``, ``covered``, ``low``, ``high``, ``verdict``.
    """
    rows = table[table["n"] > 0]
    told = {name: titles.get(name, name.replace("_", " ")) for name in rows["name"]}
    order = reading_order(told.values())
    names = sorted(told, key=lambda name: order.index(told[name]))
    sizes = [int((rows["name"] == name).sum()) for name in names]
    heights = [max(0.24, 0.06 * size) for size in sizes]
    figure, axis = plt.subplots(figsize=(7.2, sum(heights) + 0.1 * len(names) + 0.9))
    axis.axvspan(100 * band[0], 100 * band[1], color="0.5", alpha=0.25, linewidth=0)
    axis.axvline(100 * stated, color="0.4", linewidth=0.8, linestyle="--")
    palette = sns.color_palette("colorblind")
    kinds = {
        "holds": ("o", palette[0], "holds"),
        "too small": ("X", palette[3], "told too small"),
        "": ("D", palette[7], "covers more than it says, or can't tell"),
    }
    top, ticks = 0.0, []
    for name, height in zip(names, heights, strict=True):
        own = rows[rows["name"] == name].sort_values("covered", ascending=False)
        places = top + height * (np.arange(len(own)) + 0.5) / len(own)
        for place, row in zip(places, own.to_dict("records"), strict=True):
            shape, colour, label = kinds.get(row["verdict"], kinds[""])
            line = [100 * row["low"], 100 * row["high"]]
            axis.plot(line, [place] * 2, color=colour, linewidth=1, label=label)
            axis.plot(100 * row["covered"], place, shape, color=colour, markersize=4, label=label)
        ticks.append(top + height / 2)
        top += height + 0.1
    axis.set_yticks(ticks, [wrapped(told[name]) for name in names])
    axis.set_ylim(top, -0.1)
    axis.set_xlabel("truth inside the stated 95% interval (%)")
    axis.set_xlim(right=100.5)
    handles = [
        plt.Line2D([], [], marker=shape, linestyle="", color=colour, label=label)
        for shape, colour, label in kinds.values()
    ]
    explain(figure, handles)
    return figure


def error_against_cost_figure(rows: pd.DataFrame) -> Figure:
    """True relative error against work (left) and wall time (right), a line an implementation.

    A mark is the median over problems of one setting (tolerance, probes), faint marks the problems
    themselves; the dashed stair is the Pareto front over all of them.
    ``rows``: ``metric`` (the setting), ``family`` (the implementation or method), ``problem``,
    ``error``, ``converged`` (a share), ``gradients``, ``seconds``.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True)
    colours = colours_of(rows["family"])
    shapes = dict(zip(dict.fromkeys(rows["family"]), itertools.cycle(MARKERS), strict=False))
    drawn = rows.assign(error=rows["error"].clip(lower=1e-16))
    for axis, column, label in (
        (axes[0], "gradients", "work (gradients)"),
        (axes[1], "seconds", "wall time (s)"),
    ):
        settings = []
        for family, group in drawn.groupby("family", sort=False):
            colour, shape = colours[family], shapes[family]
            axis.scatter(
                group[column],
                group["error"],
                s=14,
                marker=shape,
                color=colour,
                alpha=0.3,
                linewidths=0,
            )
            middle = (
                group.groupby("metric", sort=False)[[column, "error", "converged"]]
                .median()
                .sort_values(column)
            )
            settings.append(middle)
            axis.plot(middle[column], middle["error"], "-", color=colour, linewidth=1)
            for point in middle.to_dict("records"):
                face = colour if point["converged"] == 1 else "none"
                axis.plot(
                    point[column], point["error"], shape, color=colour, markerfacecolor=face,
                    markersize=8,
                )  # fmt: skip
        front = pd.concat(settings).dropna(subset=[column, "error"]).sort_values(column)
        front = front[front["error"] <= front["error"].cummin()]
        edge = mpl.rcParams["axes.edgecolor"]
        axis.step(front[column], front["error"], where="post", color=edge, ls="--", lw=0.9)
        axis.set(xscale="log", yscale="log", xlabel=label)
        plain_log_ticks(axis.xaxis)
    axes[0].set_ylabel("relative error")
    handles = legend(colours, {})
    for handle, shape in zip(handles, shapes.values(), strict=True):
        handle.set_marker(shape)
    explain(figure, handles, most=4)
    return figure


def estimation_figure(dimensions: pd.DataFrame, errors: pd.DataFrame) -> Figure:
    """λ of one function in ever more dimensions (left), and the estimator's error (right).

    ``dimensions``: ``law``, ``dimension``, ``value``, ``expected``; ``errors``: ``axis``, ``problem``,
    ``norm``, ``amount``, ``rms``, ``told`` (see `analysis.problems`).
    """
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.9))
    laws = list(dict.fromkeys(dimensions["law"])) if len(dimensions) else []
    for place, law in enumerate(laws):
        own = (
            dimensions[dimensions["law"] == law].groupby("dimension")[["value", "expected"]].mean()
        )
        colour = sns.color_palette("colorblind")[place]
        axes[0].plot(own.index, own["expected"], color=colour, linewidth=1)
        axes[0].plot(own.index, own["value"], MARKERS[place], color=colour, markersize=6, label=law)
    axes[0].set(xscale="log", xlabel="input dimension d", ylabel="λ (per order)")
    axes[0].set_title("directions: line exact, points estimated", size=9)
    if laws:
        axes[0].legend(fontsize=8)
    for axis, what in zip(axes[1:], ("directions a point", "points"), strict=True):
        own = errors[errors["axis"] == what] if len(errors) else errors
        if not len(own):
            axis.set_visible(False)
            continue
        for place, ((problem, norm), group) in enumerate(own.groupby(["problem", "norm"])):
            colour = sns.color_palette("colorblind")[place]
            axis.plot(
                group["amount"], group["rms"], color=colour, marker=MARKERS[place],
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
    figure, axes = plt.subplots(bands, columns, figsize=panels_size(columns, bands), squeeze=False)
    recipes = list(dict.fromkeys(rows["recipe"]))
    palette = dict(zip(recipes, sns.color_palette("colorblind", len(recipes)), strict=True))
    for axis, stratum in zip(axes.flat, strata, strict=False):
        for place, recipe in enumerate(recipes):
            own = rows[(rows["stratum"] == stratum) & (rows["recipe"] == recipe)]
            if own.empty:
                continue
            axis.errorbar(
                own["order"], own["log_derivative"],
                yerr=[own["log_derivative"] - own["low"], own["high"] - own["log_derivative"]],
                fmt=MARKERS[place % len(MARKERS)], color=palette[recipe], markersize=5,
                elinewidth=0.8, label=recipe,
            )  # fmt: skip
            axis.plot(own["order"], own["fit"], color=palette[recipe], linewidth=1)
        axis.set_title(wrapped(stratum), size=8)
        axis.set(xlabel="order n", ylabel="mean log |dₙ|")
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    finish_panels(figure, axes, len(strata))
    return figure


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
        for place, name in enumerate(names):
            own = rows[(rows["problem"] == name) & (rows["normalization"] == definition)]
            if own.empty:
                continue
            axis.plot(
                own["last_order"], own["value"], marker=MARKERS[place % len(MARKERS)],
                color=palette[place], markersize=5, label=name,
            )  # fmt: skip
            limit = own["limit"].iloc[0]
            if not pd.isna(limit):
                axis.axhline(limit, color=palette[place], linestyle="--", linewidth=0.9)
        axis.axvline(4, color="0.6", linewidth=0.8, linestyle=":")
        axis.set(title=title, xlabel="highest order fitted", ylabel="λ (per order)")
    explain(figure, *axes[0].get_legend_handles_labels())
    return figure
