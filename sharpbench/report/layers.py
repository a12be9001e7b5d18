"""The picture of the curvature of every layer."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from sharpbench.errors import InputError

__all__ = ["check_picture", "draw_layers"]

_SHOWN = (
    ("trace", "trace_standard_error", "trace"),
    ("frobenius_norm", "frobenius_norm_standard_error", "Frobenius norm"),
    ("top_eigenvalue", "top_eigenvalue_bound", "top eigenvalue"),
)


def check_picture(path: Path) -> None:
    """Raises InputError where no picture can be written so."""
    from matplotlib.figure import Figure

    known = Figure().canvas.get_supported_filetypes()
    kind = path.suffix.removeprefix(".").lower()
    if kind not in known:
        raise InputError(
            f"a picture is written as .{', .'.join(sorted(known))}, and {str(path)!r} names no such file"
        )
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {str(path.parent)!r} for the picture")


def draw_layers(frame: pd.DataFrame, path: Path) -> None:
    """Bars of trace, Frobenius norm and top eigenvalue, a row a layer, with their errors, into a file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1 + 0.3 * len(frame)), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    places = range(len(frame))
    for axis, (column, error, title) in zip(axes, _SHOWN, strict=True):
        axis.barh(places, frame[column], xerr=frame[error], color="#4878b0", ecolor="#333")
        axis.set_title(title)
        axis.axvline(0, color="#333", linewidth=0.8)
    axes[0].set_yticks(places, frame.index)
    axes[0].invert_yaxis()
    figure.supxlabel("[loss]/[weight]², each layer's own block of the Hessian")
    figure.savefig(path)
