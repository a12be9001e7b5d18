"""The speed of every measured commit as one page: a picture a benchmark, and what became slower for good."""

from __future__ import annotations

import datetime
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.dates
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sharpbench.perf_history import LEAST, Point, Series
from sharpbench.report.card import SCHEMA
from sharpbench.report.drawing import explain
from sharpbench.report.format import byte_size, number, seconds, times
from sharpbench.report.marks import told_as
from sharpbench.report.page import environment, looks
from sharpbench.report.svg import figure_style, to_svg
from sharpbench.results.disk import write_atomically
from sharpbench.version import __version__

__all__ = ["PERFORMANCE", "write_perf_page"]

PERFORMANCE = "performance.json"
"""Beside the page: what it tells, for programs and for the index of reports."""

_MOST_LINES = 8
"""Of one picture: more settings of a benchmark are drawn in further ones."""

_MARKERS = "osD^v<>P"


def write_perf_page(found: Sequence[Series], folder: Path, *, index: bool = False) -> Path:
    """Write ``folder/index.html`` from `history`; returns its path. It asks nothing of any other host.

    Beside it ``performance.json`` tells what became slower. ``index``: whether the page links to an index of
    reports one folder above.
    """
    groups = [
        {
            "name": name,
            "anchor": re.sub(r"\W+", "-", f"{name}-{machine}"),
            "machine": machine,
            "pictures": list(_pictures(name, machine, list(own))),
        }
        for (machine, name), own in itertools.groupby(
            sorted(found, key=lambda s: (s.machine, s.benchmark)),
            lambda s: (s.machine, s.benchmark),
        )
    ]
    rises = sorted(_regressions(found), key=lambda r: -r["ratio"])
    commits = {point.commit: point.date for series in found for point in series.points}
    facts = {
        "written": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "commits": len(commits),
        "benchmarks": len({series.benchmark for series in found}),
        "machines": sorted({series.machine for series in found}),
        "since": _day(min(commits.values())),
        "until": _day(max(commits.values())),
        "regressions": [row for row in rises if row["sure"]],
        "unsure": [row for row in rises if not row["sure"]],
    }
    page = (
        environment()
        .get_template("perf.html")
        .render(groups=groups, least=LEAST, index=index, **facts, **looks())
    )
    folder.mkdir(parents=True, exist_ok=True)
    told = json.dumps({"schema": SCHEMA, **facts}, indent=1, allow_nan=False, ensure_ascii=False)
    write_atomically(folder / PERFORMANCE, told.encode())
    write_atomically(folder / "index.html", page.encode())
    return folder / "index.html"


def _regressions(found: Sequence[Series]) -> Iterator[dict[str, Any]]:
    for series in found:
        for rise in series.regressions:
            before, after = series.points[rise.before], series.points[rise.after]
            yield {
                "benchmark": series.benchmark,
                "anchor": re.sub(r"\W+", "-", f"{series.benchmark}-{series.machine}"),
                "setting": series.label,
                "before": before.commit[:8],
                "after": after.commit[:8],
                "day": _day(after.date),
                "ratio": rise.ratio,
                "times": times(rise.ratio),
                "values": f"{_valued(rise.from_value, series.unit)} → {_valued(rise.to_value, series.unit)}",
                "now": _valued(series.points[-1].value, series.unit),
                "sure": rise.sure,
            }


def _pictures(name: str, machine: str, own: list[Series]) -> Iterator[dict[str, Any]]:
    for start in range(0, len(own), _MOST_LINES):
        few = own[start : start + _MOST_LINES]
        title = f"{name}-{machine}-{start}"
        with figure_style():
            svg = to_svg(
                _figure(few),
                name=re.sub(r"\W+", "-", title),
                alt=f"{name} by the date of the commit, in {few[0].unit or 'its unit'}",
            )
        yield {"svg": svg}


def _figure(own: Sequence[Series]) -> Figure:
    figure, axes = plt.subplots(figsize=(8.2, 3.0), layout="constrained")
    colours = sns.color_palette("colorblind", len(own))
    size, unit = (2**20, "MB") if own[0].unit == "bytes" else (1, own[0].unit)
    for series, colour, marker in zip(own, colours, itertools.cycle(_MARKERS), strict=False):
        days = [_when(p) for p in series.points]
        values = [p.value / size for p in series.points]
        (points,) = axes.plot(
            days, values, marker=marker, ms=4, lw=0, color=colour, label=series.label or None
        )
        told_as(
            points,
            x=[f"{p.commit[:8]} of {_day(p.date)}" for p in series.points],
            y=[_valued(p.value, series.unit) for p in series.points],
        )
        for point, day in zip(series.points, days, strict=True):
            if point.interval:
                ends = [end / size for end in point.interval]
                axes.plot([day, day], ends, color=colour, lw=0.8)
        for left, right, level in series.steps:
            axes.plot([days[left], days[right]], [level / size] * 2, color=colour, lw=1.4)
        for rise in series.regressions:
            sign = "x" if rise.sure else "$?$"
            place = [days[rise.after]], [values[rise.after]]
            axes.plot(*place, marker=sign, ms=10, mew=2 if rise.sure else 0.5, color=colour)
    spread = [p.value / size for s in own for p in s.points]
    if min(spread) > 0 and max(spread) > 20 * min(spread):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.1 * max(spread) or None)
    axes.set_ylabel(unit or "value")
    locator = matplotlib.dates.AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(matplotlib.dates.ConciseDateFormatter(locator))
    if any(s.label for s in own):
        explain(figure, *axes.get_legend_handles_labels())
    return figure


def _when(point: Point) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(point.date / 1000, datetime.UTC)


def _day(milliseconds: int) -> str:
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC).strftime("%Y-%m-%d")


def _valued(value: float, unit: str) -> str:
    """With its unit: seconds and bytes by the size that is read best."""
    if unit == "seconds":
        return seconds(value)
    return (
        byte_size(value) if unit == "bytes" else f"{number(value, 3, zeros=True)} {unit}".rstrip()
    )
