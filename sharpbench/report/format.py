"""Numbers as a reader meets them: on the terminal, and in the report's tables, sentences and pictures.

A minus is a minus sign (U+2212) and never stands before a zero, a power of ten is written as one, a missing
figure is a dash, and an uncertain one has the digits that its error leaves it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sharpbench.analysis.numbers import MISSING, PLAIN, count, fixed, minus, number, power, prose
from sharpbench.analysis.statistics import Estimate
from sharpbench.measurement import ErrorComponent

__all__ = [
    "byte_size",
    "count",
    "figure",
    "fixed",
    "interval",
    "kept",
    "number",
    "percent",
    "percent_figure",
    "percent_interval",
    "prose",
    "roughly",
    "seconds",
    "times",
    "work",
]


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
        return MISSING
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
        text += f", within {number(error_bound, 1)}"
    elif converged is False:
        text += ", not converged"
    elif parts == [] and not standard_error:
        text += ", exact"
    return text


def interval(estimate: Estimate, places: int | None = None, *, sign: bool = False) -> str:
    """``0.87 [0.81, 0.94]``: to ``places``, else to the second digit of the interval's width; an exact figure
    to four digits."""
    ends = (estimate.low, estimate.high)
    width = estimate.high - estimate.low
    if width == 0 and places is None:
        return number(estimate.value, sign=sign)
    if places is None and math.isfinite(width):
        places = max(0, 1 - math.floor(math.log10(width)))
    if places is None or places > 6 or not math.isfinite(width):
        told = [number(v, 2, sign=sign, zeros=True) for v in (estimate.value, *ends)]
    else:
        told = [fixed(v, places, sign=sign) for v in (estimate.value, *ends)]
    return f"{told[0]} [{told[1]}, {told[2]}]"


def percent(value: float | None) -> str:
    """``12.3%``, ``0.14%``, ``13,728%``; of a part that is no hundredth of one, the part: ``2×10⁻⁷``."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return number(value)
    if 0 < abs(value) < 1e-4:
        return number(value, 1)
    if abs(value) < 1e-2:
        return f"{number(100 * value, 2, zeros=True)}%"
    if abs(value) < 10:
        return minus(f"{value:z.1%}")
    return f"{number(100 * value, 3)}%"


def percent_figure(value: float | None, error: float | None = None) -> str:
    """``3.94 ± 0.62%``; without an error to the first place."""
    if value is None or math.isnan(value):
        return MISSING
    if not error or math.isnan(error):
        return percent(value)
    text = _rounded(100 * value, 100 * error, 4)
    return f"{text}%"


def percent_interval(value: float, low: float, high: float) -> str:
    """``95.0 [92.1, 97.3]%``."""
    return f"{fixed(100 * value, 1)} [{fixed(100 * low, 1)}, {fixed(100 * high, 1)}]%"


def byte_size(value: float | None) -> str:
    """``1.5 MiB``, in KiB below a tenth of one and in GiB from 1024 on."""
    if value is None or math.isnan(value):
        return MISSING
    for unit, size, limit in (("KiB", 2.0**10, 0.1 * 2.0**20), ("MiB", 2.0**20, 2.0**30)):
        if 0 < value < limit:
            return f"{fixed(value / size, 1)} {unit}"
    return f"{fixed(value / 2.0**30, 1)} GiB" if value else "0 MiB"


def seconds(value: float | None) -> str:
    """``20.0 µs``, ``1.23 ms``, ``12.3 s``."""
    if value is None or math.isnan(value):
        return MISSING
    unit, size = ("s", 1.0) if value >= 1 else ("ms", 1e-3) if value >= 1e-3 else ("µs", 1e-6)
    return f"{number(value / size, 3, zeros=True)} {unit}"


def times(low: float | None, high: float | None = None, digits: int = 3) -> str:
    """A change as after/before: ``×3.50``, or from the least to the most ``×3.50 to ×127``; of none
    ``×1``."""
    ends = [
        number(end, digits, zeros=end is not None and abs(end - 1) > _NO_CHANGE)
        for end in (low, low if high is None else high)
    ]
    if MISSING in ends:
        return MISSING
    return " to ".join(f"×{end}" for end in _once(ends))


_NO_CHANGE = 1e-8
"""What rounding leaves of a change that is none."""


def work(gradients: float | None) -> str:
    """Gradients over the measured samples: ``20.3``; of what counted none ``not counted``."""
    if gradients is None or math.isnan(gradients) or gradients <= 0:
        return "not counted"
    return number(gradients, 3, zeros=True)


def roughly(value: float) -> str:
    """A number that is foretold, to two digits: ``some 36``, ``some 21,000``."""
    size = 10 ** max(0, math.floor(math.log10(max(value, 1))) - 1)
    return f"some {count(math.ceil(value / size) * size)}"


def kept(text: str) -> str:
    """``text`` that breaks neither within ``n = 12`` nor within a figure with its name, interval, range or
    unit."""
    whole = r"(?:[Ψτ] )?\S+ \[[^]]*\]%?|n = \S+|\S+ gradients|\(\S+–\S+\)"
    joined = str.maketrans({" ": "\N{NO-BREAK SPACE}", "–": "\N{WORD JOINER}–\N{WORD JOINER}"})
    return re.sub(whole, lambda found: found[0].translate(joined), text)


def _source_and_size(error: ErrorComponent | Mapping[str, Any]) -> tuple[str, float | None]:
    if isinstance(error, ErrorComponent):
        return error.source, error.size
    return str(error["source"]), error["size"]


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _rounded(value: float, error: float | None, digits: int) -> str:
    """``value ± error``, the error to two digits; a power of ten is put before both of them."""
    if not error:
        return number(value, digits)
    places = 1 - math.floor(math.log10(error))
    if places <= 8 and abs(value) < PLAIN:
        return f"{fixed(value, max(0, places))} ± {fixed(error, max(0, places))}"
    exponent = math.floor(math.log10(max(abs(value), error)))
    places += exponent
    if places > 8:  # so precise that one power of ten does not do for both
        return f"{number(value, 9)} ± {number(error, 2)}"
    told = [fixed(v / 10.0**exponent, max(0, places)) for v in (value, error)]
    return f"({told[0]} ± {told[1]}){power(exponent)}"
