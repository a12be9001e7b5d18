"""Where the networks of two-dimensional problems decide."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.colors
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sharpbench.analysis.networks import decision_maps
from sharpbench.analysis.results import Results
from sharpbench.report.drawing import DIVERGING, wrapped
from sharpbench.report.format import figure, percent_figure
from sharpbench.report.sections.base import Picture, Section

__all__ = ["Boundaries"]

_MOST = 16

# The map's middle part: test points stay visible on it.
_SOFT = mpl.colors.ListedColormap(DIVERGING(np.linspace(0.2, 0.8, 256)))


@dataclass(frozen=True)
class Boundaries(Section):
    """Decision boundaries of the networks of the lowest seed, with their first metric and error."""

    name, title, link, place = "boundaries", "Decision boundaries", "Boundaries", 64
    needs = frozenset({"decision_map"})

    def pictures(self, results: Results) -> Iterable[Picture]:
        maps = [
            {
                "title": f"{found['dataset']}\n{found['model']} · {found['recipe']}",
                "caption": _caption(found),
                "details": found["details"],
            }
            for found in decision_maps(results)[:_MOST]
        ]
        yield Picture(
            "boundaries",
            functools.partial(_boundary_figure, maps),
            "Decision boundaries (black line) of the networks of the lowest seed over some of the test "
            "points (● class 0, ▲ class 1), with their figures.",
        )


def _caption(found: dict[str, Any]) -> str:
    parts = []
    if found["figure"] is not None:
        parts.append(f"{found['metric']} {figure(*found['figure'])}")
    if found["test_error"] is not None:
        parts.append(f"error {percent_figure(*found['test_error'])}")
    return "\n".join(parts)


def _boundary_figure(maps: list[dict[str, Any]]) -> Figure:
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
            probability, origin="lower", extent=extent, cmap=_SOFT, vmin=0, vmax=1,
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
        axis.set_title("\n".join(wrapped(t, 42) for t in entry["title"].splitlines()), size=9)
        lines = [wrapped(line, 40) for line in entry["caption"].splitlines()]
        axis.set_xlabel("\n".join(lines), size=9)
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
    for axis in axes.flat[len(maps) :]:
        axis.set_visible(False)
    if image is not None:
        figure.colorbar(image, ax=axes, label="probability of class 1 (▲)", shrink=0.7, pad=0.01)
    return figure
