"""matplotlib figures as inline SVG that follows the page's light or dark theme."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl
import seaborn as sns
from markupsafe import Markup, escape
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

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

    ``name`` keeps the ids of different figures apart and makes the output reproducible.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(_INK, "currentColor").replace(_GRID, "var(--grid)")
    # matplotlib names its ids by place in the drawing; the prefix keeps figures apart on one page.
    ids = set(re.findall(r'id="([^"]+)"', text))
    text = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(
        r'(url\(#|href="#)([^)"]+)',
        lambda m: f"{m[1]}{name}-{m[2]}" if m[2] in ids else m[0],
        text,
    )
    text = re.sub(r'(<svg[^>]*?) width="[^"]+"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]+"', r"\1", text, count=1)
    label = escape(alt)
    # Shown at one scale, so that letters have one size across the figures.
    width = round(110 * float(figure.get_figwidth()))
    attributes = f'role="img" aria-label="{label}" style="max-width:{width}px"'
    text = text.replace("<svg", f"<svg {attributes}", 1)
    return Markup(text)
