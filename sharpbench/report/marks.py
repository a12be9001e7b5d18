"""What is drawn in a figure, mark by mark, so that the page can tell each value and hide each series."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib.dates
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.category import StrCategoryFormatter
from matplotlib.collections import Collection, LineCollection, PathCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter

from sharpbench.analysis.numbers import MISSING
from sharpbench.analysis.statistics import Estimate
from sharpbench.report.compact import KEPT
from sharpbench.report.drawing import SHAPE_COLOUR
from sharpbench.report.format import figure as with_error
from sharpbench.report.format import interval, number

__all__ = ["marks", "named_series", "told_as"]


_MOST_TOLD = 10_000
"""Beyond so many marks none is told: no one could point at one, and they would weigh megabytes."""


def named_series(figure: Figure) -> list[dict[str, str]]:
    """The entries of the figure's legends, each with its ``label``, ``colour`` and ``shape`` (the corners of
    its marker; of a dot, and of a line without one, none); what is drawn of them is named after them: its id
    is ``series-<number>-<entry>-<entry>``.

    Drawn of an entry is what bears its label, or else its colour, or its shape if it stands for shapes alone.
    """
    entries = [
        (text.get_text(), handle)
        for legend in [*figure.legends, *(a.get_legend() for a in figure.axes)]
        if legend is not None
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True)
    ]
    looks = [(label, _colour(handle), _shape(handle)) for label, handle in entries]
    if len(looks) < 2:
        return []
    numbers = itertools.count()
    shapes = [_corners(handle) for _, handle in entries]
    for axes in figure.axes:
        parts = _parts_of_one(axes)
        for artist in _drawn(axes):
            label, lead = parts.get(artist, (str(artist.get_label()), artist))
            own = _entries(lead, label, looks)
            if own:
                artist.set_gid(f"{KEPT}{next(numbers)}-{'-'.join(map(str, own))}")
            if len(own) == 1:  # of points with error bars the legend's handle is the bars
                shapes[own[0]] = shapes[own[0]] or _corners(artist)
    of_shapes = to_hex(SHAPE_COLOUR)
    return [
        {"label": label, "colour": "" if colour == of_shapes else colour or "",
         "shape": shape}
        for (label, colour, _), shape in zip(looks, shapes, strict=True)
    ]  # fmt: skip


def told_as(artist: Artist, **texts: Sequence[str]) -> None:
    """What the page tells of an artist's marks in place of their numbers: a text each, as ``x`` or ``y``."""
    artist._sharpbench_told = texts  # type: ignore[attr-defined]


def marks(figure: Figure, series: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Every mark of every panel, once the figure has been drawn; none where they are more than 10,000.

    A panel: its ``box`` (left, top, right, bottom, in points of the SVG), ``title``, what its axes ``x`` and
    ``y`` are called, whether it is of ``cells``, and its ``series``: each with the ``name`` and entries of
    the legend (``of``), the ``places`` of its marks (x, y, x, y, … in the same points) and their values as
    texts, ``xs`` and ``ys`` (one for all where they are the same), of a cell its own value in ``values``.
    A bar's place is its middle, and ``halves`` tell how far it reaches from there (x, y, x, y, …).
    """
    found = [panel for axes in figure.axes if (panel := _panel(figure, axes, series))]
    told = sum(len(row["places"]) // 2 for panel in found for row in panel["series"])
    return found if told <= _MOST_TOLD else []


def _panel(figure: Figure, axes: Axes, series: Sequence[dict[str, str]]) -> dict[str, Any] | None:
    # A scale of colours has no marks, a panel without any tick no values to be told, and of what is projected
    # (three dimensions, maps) the numbers are not the data's.
    ticks = len(axes.get_xticks()) + len(axes.get_yticks())
    flat = axes.name in {"rectilinear", "polar"}
    if not axes.get_visible() or not ticks or not flat or axes.get_label() == "<colorbar>":
        return None
    found = [row for artist in _drawn(axes) if (row := _row(figure, axes, artist, series))]
    found += [row for bars in _bars(axes) if (row := _of_bars(figure, axes, bars, series))]
    if not found:
        return None
    return {
        "box": [round(float(v)) for v in _box(figure, axes)],
        "title": " ".join(axes.get_title().split()),
        "x": _called(figure, axes, "x"),
        "y": _called(figure, axes, "y"),
        "cells": any("values" in row for row in found),
        "series": found,
    }


def _row(
    figure: Figure, axes: Axes, artist: Artist, series: Sequence[dict[str, str]]
) -> dict[str, Any] | None:
    values: list[str] | None = None
    if isinstance(artist, QuadMesh):
        corners = np.asarray(artist.get_coordinates(), dtype=float)
        points = (corners[:-1, :-1] + corners[1:, 1:]).reshape(-1, 2) / 2
        values = [number(v, 3) for v in _filled(artist.get_array()).ravel()]
    elif isinstance(artist, PathCollection):
        points = _filled(artist.get_offsets()).reshape(-1, 2)
    elif isinstance(artist, Line2D) and _marked(artist):
        points = np.column_stack([artist.get_xdata(orig=False), artist.get_ydata(orig=False)])
    else:
        return None
    points = points.astype(float)
    if not len(points) or not artist.get_visible():
        return None
    places = _placed(figure, axes, points)
    kept = [
        int(place)
        for place in np.flatnonzero(np.isfinite(places).all(axis=1))
        if values is None or values[place] != MISSING
    ]
    if not kept:
        return None
    spans, own = _intervals(axes, artist, len(points)), getattr(artist, "_sharpbench_told", {})
    of = _of(artist)
    row = {
        "name": _name(str(artist.get_label()), [series[k]["label"] for k in of]),
        "of": of,
        "places": [round(float(v), 1) for v in places[kept].ravel()],
        "xs": _texts(axes.xaxis, points[:, 0], spans.get("x"), kept, own.get("x")),
        "ys": _texts(axes.yaxis, points[:, 1], spans.get("y"), kept, own.get("y")),
    }
    if values is not None:
        row["values"] = [values[place] for place in kept]
    return row


def _placed(figure: Figure, axes: Axes, points: np.ndarray) -> np.ndarray:
    """Points of the data, (N, 2), in points of the SVG."""
    places = np.asarray(axes.transData.transform(points)) * 72 / figure.dpi
    places[:, 1] = 72 * figure.get_figheight() - places[:, 1]
    return places


def _box(figure: Figure, axes: Axes) -> np.ndarray:
    """Left, top, right and bottom of a panel, in points of the SVG."""
    left, bottom, right, top = 72 * np.asarray(axes.bbox.extents, dtype=float) / figure.dpi
    height = 72 * figure.get_figheight()
    return np.array([left, height - top, right, height - bottom])


def _bars(axes: Axes) -> list[BarContainer]:
    return [c for c in axes.containers if isinstance(c, BarContainer) and len(c.patches)]


def _of_bars(
    figure: Figure, axes: Axes, bars: BarContainer, series: Sequence[dict[str, str]]
) -> dict[str, Any] | None:
    """The bars of one call: what each stands at and how long it is; of bars that touch, as a histogram's,
    from where to where each goes."""
    lie = bars.orientation == "horizontal"
    # Their corners: bar, the lower or the upper one, x or y.
    corners = np.array([np.sort(p.get_bbox().get_points(), axis=0) for p in bars.patches])
    left, top, right, bottom = _box(figure, axes)
    ends = [
        np.clip(_placed(figure, axes, corners[:, k]), [left, top], [right, bottom]) for k in (0, 1)
    ]
    middles, halves = (ends[0] + ends[1]) / 2, np.abs(ends[1] - ends[0]) / 2
    kept = [
        int(k)
        for k in np.flatnonzero(np.isfinite(middles).all(axis=1))
        if bars.patches[k].get_visible()
    ]
    if not kept:
        return None
    base, along = (axes.yaxis, axes.xaxis) if lie else (axes.xaxis, axes.yaxis)
    sides = corners[:, :, 1 if lie else 0]
    order = np.argsort(sides[:, 0])
    touch = len(sides) > 1 and np.allclose(sides[order[1:], 0], sides[order[:-1], 1])
    stands = [
        f"{number(low, 4)} to {number(high, 4)}"
        if touch and not _of_names(base)
        else _told(base, (low + high) / 2)
        for low, high in sides
    ]
    starts = np.array([p.get_x() if lie else p.get_y() for p in bars.patches], dtype=float)
    sizes = np.array([p.get_width() if lie else p.get_height() for p in bars.patches], dtype=float)
    reach = None
    if bars.errorbar is not None:
        reach = _ends_of_bars(bars.errorbar, len(sizes)).get("x" if lie else "y")
        reach = None if reach is None else reach - starts[:, None]  # of a stacked bar, too
    lengths = _texts(along, sizes, reach, kept, None)
    where = _once([stands[k] for k in kept])
    of = _of(bars.patches[kept[0]])
    return {
        "name": _name(str(bars.get_label()), [series[k]["label"] for k in of]),
        "of": of,
        "places": [round(float(v), 1) for v in middles[kept].ravel()],
        "halves": [round(float(v), 1) for v in halves[kept].ravel()],
        "xs": lengths if lie else where,
        "ys": where if lie else lengths,
    }


def _parts_of_one(axes: Axes) -> dict[Artist, tuple[str, Artist]]:
    """Of what is drawn in one call, bars or points with their error bars, each part with the label of all
    and the part that looks like the legend's entry."""
    found: dict[Artist, tuple[str, Artist]] = {}
    for container in axes.containers:
        label, parts = str(container.get_label()), list(_parts(container))
        if not parts:
            continue
        for part in parts:
            if not label.startswith("_") or part not in found:
                found[part] = (label, parts[0])
    return found


def _parts(container: Any) -> Iterator[Artist]:
    for part in container:
        if isinstance(part, Artist):
            yield part
        elif part is not None:
            yield from _parts(part)
    if isinstance(container, BarContainer) and container.errorbar is not None:
        yield from _parts(container.errorbar)


def _drawn(axes: Axes) -> Iterator[Artist]:
    """What is drawn of data: neither grid nor ticks nor lines across the panel."""
    for artist in [*axes.lines, *axes.collections, *axes.patches]:
        moves = artist.get_offset_transform() if isinstance(artist, PathCollection) else None
        if (moves or artist.get_transform()).contains_branch(axes.transData):
            blended = artist.get_transform() if moves is None else moves
            if all(blended.contains_branch_seperately(axes.transData)):
                yield artist


def _entries(artist: Artist, label: str, looks: Sequence[tuple[str, str | None, Any]]) -> list[int]:
    named = [k for k, (text, _, _) in enumerate(looks) if text == label]
    if named:
        return named
    colour, shape = _colour(artist), _shape(artist)
    of_shapes = to_hex(SHAPE_COLOUR)
    found = []
    for k, (_, own, drawn) in enumerate(looks):
        if own == of_shapes:
            if shape is not None and drawn == shape:
                found.append(k)
        elif own is not None and own == colour:
            twins = sum(other == own for _, other, _ in looks) > 1
            if not twins or shape is None or drawn == shape:
                found.append(k)
    return found


def _of(artist: Artist) -> list[int]:
    gid = artist.get_gid() or ""
    return [int(k) for k in gid.split("-")[2:]] if gid.startswith(KEPT) else []


def _colour(artist: Any) -> str | None:
    """As ``#rrggbb``; of several colours None."""
    if isinstance(artist, Line2D):
        return str(to_hex(artist.get_color()))
    if isinstance(artist, Collection):
        colours = artist.get_edgecolor() if isinstance(artist, LineCollection) else None
        colours = artist.get_facecolor() if colours is None else colours
        found = {str(to_hex(c)) for c in np.atleast_2d(np.asarray(colours))}
        return found.pop() if len(found) == 1 else None
    face = getattr(artist, "get_facecolor", None)
    return str(to_hex(face())) if face is not None else None


def _shape(artist: Any) -> Any:
    """The marker, as what can be compared; None where there is none."""
    if isinstance(artist, Line2D):
        return _outline(MarkerStyle(artist.get_marker())) if _marked(artist) else None
    if isinstance(artist, PathCollection) and len(artist.get_paths()) == 1:
        return _rounded(artist.get_paths()[0].vertices)
    return None


def _outline(marker: MarkerStyle) -> Any:
    return _rounded(marker.get_path().transformed(marker.get_transform()).vertices)


def _corners(handle: Any) -> str:
    """The outline of a legend entry's marker as an SVG polygon's points; empty of what is round or none."""
    if isinstance(handle, Line2D) and _marked(handle):
        marker = MarkerStyle(handle.get_marker())
        outline = marker.get_path().transformed(marker.get_transform())
    elif isinstance(handle, PathCollection) and len(handle.get_paths()) == 1:
        outline = handle.get_paths()[0]
    else:
        return ""
    if outline.codes is not None and bool(np.any(outline.codes == outline.CURVE4)):
        return ""
    corners = [np.asarray(part) for part in outline.to_polygons(closed_only=False)]
    if not corners or len(corners[0]) < 3:
        return ""
    return " ".join(f"{float(x):.2g},{-float(y):.2g}" for x, y in corners[0])


def _rounded(vertices: Any) -> Any:
    return tuple(np.round(np.asarray(vertices), 3).ravel() + 0.0)


def _marked(line: Line2D) -> bool:
    return line.get_marker() not in {None, "", " ", "None", "none"}


def _name(label: str, labels: Sequence[str]) -> str:
    return label if label and not label.startswith("_") else ", ".join(labels)


def _intervals(axes: Axes, artist: Artist, count: int) -> dict[str, np.ndarray]:
    """The ends of an artist's error bars, (N, 2), by the axis that they lie along."""
    found: dict[str, np.ndarray] = {}
    for container in axes.containers:
        if isinstance(container, ErrorbarContainer) and container.lines[0] is artist:
            found |= _ends_of_bars(container, count)
    return found


def _ends_of_bars(container: ErrorbarContainer, count: int) -> dict[str, np.ndarray]:
    found = {}
    ways = [way for way in "xy" if getattr(container, f"has_{way}err")]
    for way, bar in zip(ways, container.lines[2], strict=False):
        ends = [_ends(np.asarray(segment), "xy".index(way)) for segment in bar.get_segments()]
        if len(ends) == count:
            found[way] = np.array(ends)
    return found


def _ends(segment: np.ndarray, column: int) -> np.ndarray:
    """Where an error bar begins and ends; of one that is not drawn NaN."""
    return np.sort(segment[:, column]) if segment.ndim == 2 and len(segment) else np.full(2, np.nan)


def _texts(
    axis: Axis, values: np.ndarray, ends: Any, kept: Sequence[int], own: Sequence[str] | None
) -> list[str] | str:
    told = []
    for place in kept:
        value = float(values[place])
        if own is not None:
            told.append(own[place])
            continue
        if ends is None or not ends[place][0] < ends[place][1]:
            told.append(_told(axis, value))
            continue
        low, high = map(float, ends[place])
        below, above = value - low, high - value
        if math.isclose(below, above, rel_tol=1e-3):
            told.append(with_error(value, above))
        else:
            told.append(interval(Estimate(value, low, high, 0)))
    return _once(told)


def _once(told: list[str]) -> list[str] | str:
    return told[0] if len(set(told)) == 1 else told


def _of_names(axis: Axis) -> bool:
    """Whether what stands along it has names, no numbers."""
    locator, formatter = axis.get_major_locator(), axis.get_major_formatter()
    fixed = isinstance(locator, FixedLocator) and isinstance(
        formatter, FuncFormatter | FixedFormatter
    )
    return fixed or isinstance(formatter, StrCategoryFormatter)


def _told(axis: Axis, value: float) -> str:
    """A value on an axis: of categories the name of the nearest, of days the day."""
    locator, formatter = axis.get_major_locator(), axis.get_major_formatter()
    if _of_names(axis) and not isinstance(formatter, StrCategoryFormatter):
        ticks = np.array(locator(), dtype=np.float64)
        if len(ticks):
            nearest = int(np.abs(ticks - value).argmin())
            return " ".join(str(formatter(ticks[nearest], nearest)).split())
    if isinstance(formatter, StrCategoryFormatter):
        return str(formatter.format_ticks([round(value)])[0])
    if isinstance(formatter, _OF_DAYS):
        when = matplotlib.dates.num2date(value)
        return f"{when:%Y-%m-%d}" if value == round(value) else f"{when:%Y-%m-%d %H:%M}"
    return number(value, 4)


_OF_DAYS = (
    matplotlib.dates.ConciseDateFormatter,
    matplotlib.dates.AutoDateFormatter,
    matplotlib.dates.DateFormatter,
)


def _filled(values: Any) -> np.ndarray:
    """As floats, NaN where masked."""
    return np.asarray(np.ma.filled(np.ma.asarray(values, dtype=float), np.nan))


def _called(figure: Figure, axes: Axes, way: str) -> str:
    """What an axis is called: by its own label, or that of one that shares it, or of the whole figure."""
    group = axes.get_shared_x_axes() if way == "x" else axes.get_shared_y_axes()
    for one in [axes, *group.get_siblings(axes)]:
        label = getattr(one, f"get_{way}label")()
        if label:
            return " ".join(label.split())
    shared = getattr(figure, f"_sup{way}label", None)
    return " ".join(shared.get_text().split()) if shared is not None else ""
