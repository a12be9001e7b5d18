"""What the pictures of several sections share: colours, marks, legends, ticks and grids of panels."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from sharpbench.report.format import number

__all__ = [
    "DIVERGING",
    "MARKERS",
    "MOST_DRAWN",
    "MOST_PANELS",
    "SHAPE_COLOUR",
    "axis_label",
    "colours_of",
    "explain",
    "explain_beside",
    "finish_panels",
    "legend",
    "log_scaled",
    "of_change",
    "panels_size",
    "plain_log_ticks",
    "wrapped",
]

MARKERS = ("o", "X", "s", "^", "D", "P", "v", "*", "h", "<", ">", "d", "p", "8")
DIVERGING = mpl.colormaps["PuOr"]

SHAPE_COLOUR = "#777777"
"""Of an entry of a legend that stands for a shape, whatever its colour."""

MOST_DRAWN = 800
"""Beyond this many points they are drawn as an image: as shapes they would weigh megabytes."""

MOST_PANELS = 12
"""Beyond this many data sets and models a figure with a panel for each is no longer readable."""


def legend(colours: dict[str, Any], shapes: dict[str, str]) -> list[Any]:
    """Legend entries: a dot of each colour, then a grey mark of each shape."""
    marks = [(label, "o", colour) for label, colour in colours.items()]
    marks += [(label, shape, SHAPE_COLOUR) for label, shape in shapes.items()]
    return [
        plt.Line2D([], [], marker=shape, linestyle="", color=colour, label=label)
        for label, shape, colour in marks
    ]


def colours_of(values: pd.Series) -> dict[str, Any]:
    """Each value with a colour of its own: of many ones around the circle of hues."""
    names = list(dict.fromkeys(values))
    palette = sns.color_palette("colorblind")
    if len(names) > len(palette):
        palette = sns.husl_palette(len(names), l=0.55)
    return dict(zip(names, palette, strict=False))


def axis_label(metric: str, units: Mapping[str, str], width: int = 36) -> str:
    """A metric with its unit, in lines that are no longer than its panel."""
    unit = [f"({units[metric]})"] if metric in units else []
    return "\n".join([wrapped(metric, width), *unit])


def log_scaled(values: pd.Series, unit: str | None) -> bool:
    """Whether a metric is drawn on a logarithmic axis: positive throughout and no logarithm already."""
    return bool((values.dropna() > 0).all()) and not (unit or "").startswith("log")


def plain_log_ticks(axis: Axis) -> None:
    """Ticks at 1, 2, 5 × powers of ten (1 alone over more than two decades), as plain numbers."""
    low, high = axis.get_view_interval()
    decades = np.log10(high / low) if low > 0 else np.inf
    axis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5) if decades <= 2 else (1,)))
    axis.set_major_formatter(lambda value, _: number(value))
    axis.set_minor_formatter(mpl.ticker.NullFormatter())


def of_change(axes: Axes, low: float, high: float) -> None:
    """Along x the scale of after/before from ``low`` to ``high``, about 1: the root of the logarithm, which
    has room for a change of 2% as well as for one by a factor of thousands."""

    def place(ratio: Any) -> Any:
        logarithm = np.log10(np.clip(ratio, 1e-300, 1e300))
        return np.sign(logarithm) * np.sqrt(np.abs(logarithm))

    def ratio(place: Any) -> Any:
        return 10.0 ** (np.sign(place) * np.square(place))

    ends = [place(low), place(high)]
    margin = 0.04 * (ends[1] - ends[0])
    axes.set_xscale("function", functions=(place, ratio))
    axes.set_xlim(ratio(ends[0] - margin), ratio(ends[1] + margin))
    room = (ends[1] - ends[0]) / 7  # of a label
    ticks: list[float] = []
    for size in (1, 1e4, 1e2, 1e1, 2, 1e8, 1e3, 1e6, 1.1, 5):
        for tick in (1 / size, size):
            if low <= tick <= high and all(abs(place(tick) - place(t)) >= room for t in ticks):
                ticks.append(tick)
    axes.xaxis.set_major_locator(mpl.ticker.FixedLocator(sorted(ticks)))
    axes.xaxis.set_major_formatter(lambda value, _: f"×{number(value)}")


def wrapped(text: str, width: int = 30) -> str:
    """``text`` in lines of at most ``width`` characters; a setting, as ``(width 16)``, stays whole."""
    whole = re.sub(r"\([^()]{1,16}\)", lambda found: found[0].replace(" ", _WHOLE), text)
    return "\n".join(textwrap.wrap(whole, width)).replace(_WHOLE, " ")


_WHOLE = "\N{NO-BREAK SPACE}"


def finish_panels(figure: Figure, axes: Any, used: int) -> None:
    """Hide the panels left over, and explain every series once below the others."""
    for axis in axes.flat[used:]:
        axis.set_visible(False)
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    explain(figure, list(handles.values()), list(handles))


def explain(
    figure: Figure,
    handles: Sequence[Any],
    labels: Sequence[str] | None = None,
    *,
    most: int = 3,
    rows: int = 1,
) -> None:
    """A legend below the panels, of at most ``most`` columns and no more than are as wide as the figure.

    ``rows``: for so many of it the figure has room; for more it grows, or they would be taken from the
    panels.
    """
    names = [handle.get_label() for handle in handles] if labels is None else labels
    fitting = int(figure.get_figwidth() / (_letters(names) + 0.5))
    columns = max(1, min(most, len(names), fitting))
    more = math.ceil(len(names) / columns) - rows
    figure.set_figheight(figure.get_figheight() + _LINE * max(0, more))
    figure.legend(list(handles), list(names), loc="outside lower center", ncols=columns)


def explain_beside(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """A legend at the right of the panels, an entry a line; the figure is as high as it, and wider by it."""
    figure.set_figheight(max(figure.get_figheight(), _LINE * len(labels) + 0.3))
    figure.set_figwidth(max(figure.get_figwidth(), 5.0 + _letters(labels)))
    figure.legend(list(handles), list(labels), loc="outside right upper", ncols=1)


_LINE = 0.21
"""Inches of a line of a legend."""


def _letters(names: Sequence[str]) -> float:
    """Inches that the longest name takes: a letter about a fourteenth."""
    return max(map(len, names), default=1) / 14


def panels_size(columns: int, bands: int) -> tuple[float, float]:
    """Inches of a grid of panels: never so narrow that the page would blow it up."""
    return max(3.0 * columns, 8.0), 2.9 * bands + 0.6
