"""The report's figures, one function each: a table in, a drawn matplotlib figure out."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import matplotlib.colors
import matplotlib.ticker
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from sharpbench.report.format import fixed, number

__all__ = [
    "agreement_figure",
    "association_heatmap",
    "boundary_figure",
    "cost_figure",
    "coverage_figure",
    "error_against_cost_figure",
    "gauge_figure",
    "invariance_figure",
    "metric_heatmap",
    "pairs_figure",
    "plain_log_ticks",
    "scaling_figure",
    "scatter_figure",
    "trajectory_figure",
    "wrapped",
]

_MARKERS = ("o", "X", "s", "^", "D", "P", "v", "*", "h", "<", ">", "d", "p", "8")
_DIVERGING = mpl.colormaps["PuOr"]
_GREEK = {"alpha": "α", "rho": "ρ"}
_MOST_DRAWN = 2000
"""Beyond this many points they are drawn as an image: as shapes they would weigh megabytes."""

# The map's middle part: test points stay visible on it.
_SOFT_DIVERGING = mpl.colors.ListedColormap(_DIVERGING(np.linspace(0.2, 0.8, 256)))


def scatter_figure(points: pd.DataFrame, units: Mapping[str, str]) -> Figure:
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
    colours = _colours(points["stratum"])
    shapes = dict(zip(dict.fromkeys(points["recipe"]), itertools.cycle(_MARKERS), strict=False))
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
                rasterized=len(points) > _MOST_DRAWN,
            )
        if _log_scaled(points.loc[points["metric"] == name, "value"], units.get(name)):
            axis.set_xscale("log")
            plain_log_ticks(axis.xaxis)
        axis.set_xlabel(_axis_label(name, units))
        axis.set_ylabel("test error (%)")
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    handles = _legend(colours, shapes)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=2 if len(handles) > 6 else len(handles)
    )
    return figure


def pairs_figure(table: pd.DataFrame, units: Mapping[str, str]) -> Figure:
    """Metrics against each other: a panel a pair, a point a network, colour by stratum.

    ``table``: one column a metric and ``stratum``. ``units``: of metrics, where they have one.
    """
    metrics = [column for column in table if column != "stratum"]
    size = len(metrics) - 1
    figure, axes = plt.subplots(
        size, size, figsize=(2.7 * size + 0.6, 2.2 * size + 1.0), squeeze=False
    )
    colours = _colours(table["stratum"])
    for i, row in enumerate(metrics[1:]):
        for j, column in enumerate(metrics[:-1]):
            axis = axes[i, j]
            if j > i:
                axis.set_visible(False)
                continue
            sns.scatterplot(
                table, x=column, y=row, hue="stratum", palette=colours, ax=axis, s=22, alpha=0.85,
                linewidth=0, legend=False,
            )  # fmt: skip
            for name, scale, own in (
                (column, axis.set_xscale, axis.xaxis),
                (row, axis.set_yscale, axis.yaxis),
            ):
                if _log_scaled(table[name], units.get(name)):
                    scale("log")
                    plain_log_ticks(own)
            axis.set_xlabel(_axis_label(column, units) if i == size - 1 else "")
            axis.set_ylabel(_axis_label(row, units) if j == 0 else "")
    figure.legend(handles=_legend(colours, {}), loc="outside lower center", ncols=2)
    return figure


def association_heatmap(table: pd.DataFrame) -> Figure:
    """Kendall's τ of metrics (rows) with targets (columns), pooled and within strata side by side."""
    metrics = list(dict.fromkeys(table["metric"]))
    targets = list(dict.fromkeys(table["target"]))
    figure, axes = plt.subplots(
        1, 2, figsize=(4.7 + 1.15 * len(targets), 1.3 + 0.48 * len(metrics)), sharey=True
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
                at = metrics.index(row.metric), targets.index(row.target)
                values[at] = found.value
                marks[at] = fixed(found.value, 2, sign=True) + ("*" if found.clear else "")
        sns.heatmap(
            values,
            ax=axis,
            annot=marks,
            fmt="",
            cmap=_DIVERGING,
            vmin=-1,
            vmax=1,
            cbar=axis is axes[1],
            cbar_kws={"label": "Kendall's τ"},
            linewidths=0.5,
            linecolor="none",
            xticklabels=[t.replace("_", " ") for t in targets],
            yticklabels=metrics,
            annot_kws={"size": 9},
        )
        axis.set_title(title)
        axis.tick_params(axis="x", rotation=45, length=0)
        axis.tick_params(axis="y", rotation=0, length=0)
    return figure


def metric_heatmap(agreement: pd.DataFrame) -> Figure:
    """Kendall's τ within strata between every two metrics."""
    size = len(agreement)
    figure, axis = plt.subplots(figsize=(4.6 + 0.55 * size, 2.6 + 0.45 * size))
    sns.heatmap(
        agreement,
        ax=axis,
        annot=agreement.map(lambda tau: fixed(tau, 2, sign=True)),
        fmt="",
        cmap=_DIVERGING,
        vmin=-1,
        vmax=1,
        linewidths=0.5,
        linecolor="none",
        annot_kws={"size": 9},
        cbar_kws={"label": "Kendall's τ within data and model"},
    )
    axis.set(xlabel="", ylabel="")
    axis.tick_params(axis="x", rotation=45, length=0)
    plt.setp(axis.get_xticklabels(), ha="right", rotation_mode="anchor")
    axis.tick_params(axis="y", rotation=0, length=0)
    return figure


def invariance_figure(changes: pd.DataFrame) -> Figure:
    """Relative change of each metric on each subject, one panel a transformation, log axis.

    Changes below 1e-16 are drawn at 1e-16: they are exactly or nearly zero.
    """
    transformations = list(dict.fromkeys(changes["transformation"]))
    metrics = list(dict.fromkeys(changes["metric"]))
    columns = min(4, len(transformations))
    bands = int(np.ceil(len(transformations) / columns))
    figure, axes = plt.subplots(
        bands,
        columns,
        figsize=(
            2.4 + 2.7 * columns,
            bands * (0.9 + 0.3 * len(metrics)) + 0.3 + 0.12 * len(metrics),
        ),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    colours = _colours(changes["metric"])
    for axis in axes.flat[len(transformations) :]:
        axis.set_visible(False)
    for axis, transformation in zip(axes.flat, transformations, strict=False):
        rows = changes[changes["transformation"] == transformation]
        for height, metric in enumerate(metrics):
            group = rows[rows["metric"] == metric]
            jitter = (
                np.linspace(-0.25, 0.25, len(group)) if len(group) > 1 else np.zeros(len(group))
            )
            for moved, marker in ((True, "X"), (False, "o")):
                chosen = (group["moved"] == moved).to_numpy()
                axis.scatter(
                    group["relative_change"].clip(lower=1e-16)[chosen],
                    height + jitter[chosen],
                    s=16,
                    marker=marker,
                    color=colours[metric],
                    alpha=0.75,
                    linewidths=0,
                    rasterized=len(changes) > _MOST_DRAWN,
                )
        axis.set_title(transformation.replace("_", " "))
        axis.set_xscale("log")
        axis.set_yticks(range(len(metrics)), metrics)
        axis.set_ylim(len(metrics) - 0.4, -0.6)
    figure.supxlabel("|after − before| / |before|", size=10)
    figure.legend(
        handles=_legend({}, {"beyond its noise": "X", "within its noise, or noise not told": "o"}),
        loc="outside upper right",
        ncols=2,
    )
    return figure


def gauge_figure(orbits: pd.DataFrame) -> Figure:
    """after/before of each metric against the strength, log-log: median line and full range over networks.

    ``orbits``: ``parameter``, ``strength``, ``metric``, ``ratio``. Ratios that are not positive have no
    logarithm and are left out.
    """
    figure, axis = plt.subplots(figsize=(8.4, 4.6))
    colours = _colours(orbits["metric"])
    shapes = dict(zip(dict.fromkeys(orbits["metric"]), itertools.cycle(_MARKERS), strict=False))
    for metric, group in orbits[orbits["ratio"] > 0].groupby("metric", sort=False):
        range_ = group.groupby("strength")["ratio"].agg(["median", "min", "max"])
        axis.fill_between(
            range_.index,
            range_["min"],
            range_["max"],
            color=colours[metric],
            alpha=0.15,
            linewidth=0,
        )
        axis.plot(
            range_.index,
            range_["median"],
            marker=shapes[metric],
            color=colours[metric],
            markersize=5,
        )
    parameter = orbits["parameter"].iloc[0].replace("_", " ")
    axis.set(yscale="log", xlabel=_GREEK.get(parameter, parameter), ylabel="after / before")
    if (orbits["strength"] > 0).all():
        axis.set_xscale("log")
    handles = _legend(colours, {})
    for handle, shape in zip(handles, shapes.values(), strict=True):
        handle.set_marker(shape)
    figure.legend(handles=handles, loc="outside right upper", ncols=1)
    return figure


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


def cost_figure(table: pd.DataFrame) -> Figure:
    """Wall time and peak memory against work, a point a metric and kind of network."""
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 4.2))
    colours = _colours(table["metric"])
    shapes = dict(zip(dict.fromkeys(table["subject"]), _MARKERS, strict=False))
    for axis, column, scale, label in (
        (axes[0], "seconds", 1.0, "wall time (s)"),
        (axes[1], "peak_bytes", 2.0**-20, "peak memory above the baseline (MiB)"),
    ):
        for row in table.itertuples():
            height = getattr(row, column) * scale
            if not height > 0:
                continue
            spread = row.spread / 2 if column == "seconds" and row.spread == row.spread else 0
            axis.errorbar(
                row.gradients,
                height,
                yerr=spread,
                fmt=shapes[row.subject],
                color=colours[row.metric],
                markersize=7,
                markeredgewidth=0,
                elinewidth=0.8,
            )
        axis.set(xscale="log", yscale="log", xlabel="work (gradients)", ylabel=label)
        plain_log_ticks(axis.xaxis)
        plain_log_ticks(axis.yaxis)
    figure.legend(handles=_legend(colours, shapes), loc="outside lower center", ncols=2)
    return figure


def scaling_figure(swept: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Wall time (top) and peak memory (bottom) against size, a column an axis, log-log.

    ``swept``: the table of `analysis.cost.sweeps`; figures taken beside other work are hollow.
    """
    axes_named = [a for a in titles if a in set(swept["axis"])]
    figure, axes = plt.subplots(
        2, len(axes_named), figsize=(2.9 * len(axes_named) + 0.6, 6.2), sharex="col", squeeze=False
    )
    colours = _colours(swept["metric"])
    for column, name in enumerate(axes_named):
        rows = swept[swept["axis"] == name]
        for axis, cost, scale in (
            (axes[0, column], "seconds", 1.0),
            (axes[1, column], "peak_bytes", 2.0**-20),
        ):
            for (metric, _, device), group in rows.groupby(
                ["metric", "group", "device"], sort=False
            ):
                line = group.sort_values("size")
                style = "-" if device == "cpu" else "--"
                axis.plot(
                    line["size"], scale * line[cost], style, color=colours[metric], linewidth=1
                )
                for shared, own in line.groupby("shared"):
                    axis.plot(
                        own["size"], scale * own[cost], "o", color=colours[metric], markersize=5,
                        markerfacecolor="none" if shared else colours[metric],
                    )  # fmt: skip
            axis.set(xscale="log", yscale="log")
            plain_log_ticks(axis.xaxis)
            plain_log_ticks(axis.yaxis)
        axes[1, column].set_xlabel(titles[name])
    axes[0, 0].set_ylabel("wall time (s)")
    axes[1, 0].set_ylabel("peak memory (MiB)")
    figure.legend(handles=_legend(colours, {}), loc="outside lower center", ncols=2)
    return figure


def error_against_cost_figure(rows: pd.DataFrame) -> Figure:
    """True relative error against work (left) and wall time (right), a line an implementation.

    A mark is the median over problems of one setting (tolerance, probes), faint marks the problems
    themselves; the dashed stair is the Pareto front over all of them.
    ``rows``: ``metric`` (the setting), ``family`` (the implementation or method), ``problem``,
    ``error``, ``converged`` (a share), ``gradients``, ``seconds``.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True)
    colours = _colours(rows["family"])
    shapes = dict(zip(dict.fromkeys(rows["family"]), itertools.cycle(_MARKERS), strict=False))
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
    handles = _legend(colours, {})
    for handle, shape in zip(handles, shapes.values(), strict=True):
        handle.set_marker(shape)
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def coverage_figure(
    table: pd.DataFrame, band: tuple[float, float], stated: float, titles: Mapping[str, str]
) -> Figure:
    """The true coverage of stated intervals: a line a metric, a mark each setting and problem.

    ``table``: ``name``, ``n``, ``covered``, ``low``, ``high``, ``verdict``.
    """
    rows = table[table["n"] > 0]
    names = list(dict.fromkeys(rows["name"]))
    sizes = [int((rows["name"] == name).sum()) for name in names]
    heights = [max(0.24, 0.06 * size) for size in sizes]
    figure, axis = plt.subplots(figsize=(7.2, sum(heights) + 0.1 * len(names) + 0.9))
    axis.axvspan(100 * band[0], 100 * band[1], color="0.5", alpha=0.25, linewidth=0)
    axis.axvline(100 * stated, color="0.4", linewidth=0.8, linestyle="--")
    palette = sns.color_palette("colorblind")
    colours = {"holds": palette[0], "unclear": palette[7]}
    top, ticks = 0.0, []
    for name, height in zip(names, heights, strict=True):
        own = rows[rows["name"] == name].sort_values("covered", ascending=False)
        places = top + height * (np.arange(len(own)) + 0.5) / len(own)
        for place, row in zip(places, own.to_dict("records"), strict=True):
            colour = colours.get(row["verdict"], palette[3])
            axis.plot([100 * row["low"], 100 * row["high"]], [place] * 2, color=colour, linewidth=1)
            shape = {"holds": "o", "unclear": "D"}.get(row["verdict"], "X")
            axis.plot(100 * row["covered"], place, shape, color=colour, markersize=4)
        ticks.append(top + height / 2)
        top += height + 0.1
    axis.set_yticks(ticks, [wrapped(titles.get(name, name.replace("_", " "))) for name in names])
    axis.set_ylim(top, -0.1)
    axis.set_xlabel("truth inside the stated 95% interval (%)")
    axis.set_xlim(right=100.5)
    return figure


def trajectory_figure(rows: pd.DataFrame) -> Figure:
    """A metric (top) and the test error (bottom) along training; a line a recipe, a band over seeds."""
    strata = list(dict.fromkeys(rows["stratum"]))
    columns = min(4, len(strata))
    bands = int(np.ceil(len(strata) / columns))
    figure, axes = plt.subplots(
        2 * bands, columns, figsize=(2.9 * columns, 3.9 * bands), sharex=True, squeeze=False
    )
    for place, stratum in enumerate(strata):
        top = 2 * (place // columns)
        column = place % columns
        group = rows[rows["stratum"] == stratum]
        for axis, value, label in (
            (axes[top, column], group["value"], group["metric"].iloc[0]),
            (axes[top + 1, column], 100 * group["test_error"], "test error (%)"),
        ):
            sns.lineplot(
                x=group["epoch"],
                y=value,
                hue=group["recipe"],
                style=group["recipe"],
                markers=True,
                errorbar=("pi", 100),
                ax=axis,
                legend=place == 0 and axis is axes[top, column],
                palette="colorblind",
            )
            axis.set(xlabel="epoch", ylabel=label if column == 0 else "")
        axes[top, column].set_title(wrapped(stratum), size=9)
    for place in range(len(strata), bands * columns):
        top = 2 * (place // columns)
        axes[top, place % columns].set_visible(False)
        axes[top + 1, place % columns].set_visible(False)
    legend = axes[0, 0].get_legend()
    if legend is not None:
        handles, labels = axes[0, 0].get_legend_handles_labels()
        legend.remove()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def boundary_figure(maps: list[dict[str, Any]]) -> Figure:
    """Predicted probability over the plane of a two-dimensional problem, one panel a network.

    Each entry: ``title``, ``caption``, ``details`` (a decision map).
    """
    columns = min(4, len(maps))
    rows = int(np.ceil(len(maps) / columns))
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.9 * columns, 2.95 * rows + 0.4), squeeze=False
    )
    image = None
    for axis, entry in zip(axes.flat, maps, strict=False):
        details = entry["details"]
        probability = np.array(details["probability"])
        extent: tuple[float, ...] = (*details["x_range"], *details["y_range"])
        image = axis.imshow(
            probability, origin="lower", extent=extent, cmap=_SOFT_DIVERGING, vmin=0, vmax=1,
            aspect="auto", interpolation="none",
        )  # fmt: skip
        axis.contour(
            np.linspace(extent[0], extent[1], num=probability.shape[1]),
            np.linspace(extent[2], extent[3], num=probability.shape[0]),
            probability, levels=[0.5], colors="#111111", linewidths=1.2,
        )  # fmt: skip
        points, labels = np.array(details["points"]), np.array(details["labels"])
        for label, marker, colour in ((0, "o", "#3d1f00"), (1, "^", "#1d0033")):
            chosen = labels == label
            axis.scatter(
                points[chosen, 0], points[chosen, 1], s=5, marker=marker, color=colour,
                linewidths=0, alpha=0.7,
            )  # fmt: skip
        axis.set_title(entry["title"], size=9)
        axis.set_xlabel(entry["caption"], size=9)
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
    for axis in axes.flat[len(maps) :]:
        axis.set_visible(False)
    if image is not None:
        figure.colorbar(image, ax=axes, label="probability of class 1 (▲)", shrink=0.7, pad=0.01)
    return figure


def _legend(colours: dict[str, Any], shapes: dict[str, str]) -> list[Any]:
    """Legend entries: a dot of each colour, then a grey mark of each shape."""
    marks = [(label, "o", colour) for label, colour in colours.items()]
    marks += [(label, shape, "#777777") for label, shape in shapes.items()]
    return [
        plt.Line2D([], [], marker=shape, linestyle="", color=colour, label=label)
        for label, shape, colour in marks
    ]


def _colours(values: pd.Series) -> dict[str, Any]:
    names = list(dict.fromkeys(values))
    palette = sns.color_palette("colorblind", max(len(names), 1))
    return dict(zip(names, palette, strict=False))


def _axis_label(metric: str, units: Mapping[str, str]) -> str:
    return f"{metric}\n({units[metric]})" if metric in units else metric


def _log_scaled(values: pd.Series, unit: str | None) -> bool:
    """Whether a metric is drawn on a logarithmic axis: positive throughout and no logarithm already."""
    return bool((values.dropna() > 0).all()) and not (unit or "").startswith("log")


def plain_log_ticks(axis: Axis) -> None:
    """Ticks at 1, 2, 5 × powers of ten (1 alone over more than two decades), as plain numbers."""
    low, high = axis.get_view_interval()
    decades = np.log10(high / low) if low > 0 else np.inf
    axis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5) if decades <= 2 else (1,)))
    axis.set_major_formatter(lambda value, _: number(value))
    axis.set_minor_formatter(mpl.ticker.NullFormatter())


def wrapped(text: str, width: int = 30) -> str:
    """``text`` in lines of at most ``width`` characters."""
    return "\n".join(textwrap.wrap(text, width))
