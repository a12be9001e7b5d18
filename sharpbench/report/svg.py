"""matplotlib figures as inline SVG that follows the page's light or dark theme."""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl
import seaborn as sns
from markupsafe import Markup, escape
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sharpbench.report.compact import KEPT, compact
from sharpbench.report.marks import marks, named_series
from sharpbench.report.rastered import images_of_series

__all__ = ["figure_style", "to_svg"]

# Stand-ins that matplotlib draws with; in the SVG they become the page's own colours.
_INK = "#0a0b0c"
_GRID = "#a1b2c3"


@contextmanager
def figure_style() -> Iterator[None]:
    """seaborn's theme with a colour-blind-safe palette and theme-following ink."""
    with mpl.rc_context(), sns.axes_style("whitegrid"), sns.plotting_context("paper"):
        sns.set_palette("colorblind")
        mpl.rcParams.update(
            {
                "svg.fonttype": "none",
                "font.family": "sans-serif",
                "font.size": 10,
                "axes.labelsize": 10,
                "axes.titlesize": 10,
                "legend.fontsize": 9,
                "text.color": _INK,
                "axes.labelcolor": _INK,
                "axes.titlecolor": _INK,
                "axes.edgecolor": _INK,
                "xtick.color": _INK,
                "ytick.color": _INK,
                "xtick.labelcolor": _INK,
                "ytick.labelcolor": _INK,
                "grid.color": _GRID,
                "grid.linewidth": 0.6,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.linewidth": 0.7,
                "legend.frameon": False,
                "figure.constrained_layout.use": True,
            }
        )
        yield


def to_svg(figure: Figure, *, name: str, alt: str) -> Markup:
    """The figure as inline SVG with ``alt`` as its text alternative; the figure is closed.

    ``name`` keeps the ids of different figures apart and makes the output reproducible. What is drawn of an
    entry of the legend carries its number (``data-of``), and the SVG's ``metadata`` holds the values of all
    marks as JSON (`marks`), for the page to show. Of what is drawn as an image each entry has its own.
    """
    buffer = io.StringIO()
    series = named_series(figure)
    colours = [k for k, entry in enumerate(series) if entry["colour"]]
    shapes = [k for k, entry in enumerate(series) if not entry["colour"]]
    with mpl.rc_context({"svg.hashsalt": name}), images_of_series(figure, [colours, shapes]):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    panels = marks(figure, series)
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(_INK, "currentColor").replace(_GRID, "var(--grid)")
    text = compact(text, name)
    of_series = rf'id="{KEPT}\d+-([\d-]+)"'
    text = re.sub(of_series, lambda m: f'data-of="{m[1].replace("-", " ")}"', text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]+"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]+"', r"\1", text, count=1)
    # Shown at one scale, so that letters have one size across the figures.
    width = round(110 * float(figure.get_figwidth()))
    attributes = f'role="img" aria-label="{escape(alt)}" style="max-width:{width}px"'
    text = text.replace("<svg", f"<svg {attributes}", 1)
    if panels or "data-of" in text:
        told = json.dumps(
            {"legend": series, "panels": panels}, ensure_ascii=False, separators=(",", ":")
        )
        text = text.replace(
            "</svg>", f"<metadata>{html.escape(told, quote=False)}</metadata></svg>"
        )
    return Markup(text)
