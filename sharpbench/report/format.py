"""Figures as a reader meets them, on the terminal and in the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from sharpbench.measurement import ErrorComponent

__all__ = ["figure"]


def figure(
    value: float | None,
    standard_error: float | None = None,
    errors: Iterable[ErrorComponent | Mapping[str, Any]] | None = None,
    error_bound: float | None = None,
    converged: bool | None = True,
    *,
    digits: int = 4,
) -> str:
    """``1.234 ± 0.012 (points, probes)``: the error to two digits, the value to the same place.

    ``errors``: the components of `standard_error`, as of a Measurement or of a Record; None where they are
    not known (a mean over networks), and nothing is said about them then. Only a converged figure without
    any component and bound is called exact. A component of unknown size makes the error unknown:
    ``1.234 ± unknown (points)``. An unfinished iteration's bound stands behind:
    ``1.234, within 0.001``.
    """
    if value is None or math.isnan(value):
        return "–"
    if standard_error is not None and math.isnan(standard_error):
        standard_error = None
    if error_bound is not None and math.isnan(error_bound):
        error_bound = None
    parts = None if errors is None else [_source_and_size(e) for e in errors]
    text = _rounded(value, standard_error, digits)
    if parts:
        unknown = [source for source, size in parts if size is None]
        if unknown:
            text += f" ± unknown ({', '.join(_once(unknown))})"
        elif not standard_error:
            text += f" ± 0 ({', '.join(_once(s for s, _ in parts))})"
        else:
            text += f" ({', '.join(_once(s for s, _ in parts))})"
    if error_bound:
        text += f", within {error_bound:.1g}"
    elif converged is False:
        text += ", not converged"
    elif parts == [] and not standard_error:
        text += ", exact"
    return text


def _source_and_size(error: ErrorComponent | Mapping[str, Any]) -> tuple[str, float | None]:
    if isinstance(error, ErrorComponent):
        return error.source, error.size
    return str(error["source"]), error["size"]


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _rounded(value: float, error: float | None, digits: int) -> str:
    if not error:
        return f"{value:.{digits}g}"
    places = max(0, 1 - math.floor(math.log10(error)))
    if places > 8 or abs(value) >= 1e6:
        return f"{value:.3g} ± {error:.1g}"
    return f"{value:.{places}f} ± {error:.{places}f}"
