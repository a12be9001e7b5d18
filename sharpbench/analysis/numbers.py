"""Numbers as a reader meets them, the plain ones: `sharpbench.report.format` has figures with their errors.

A minus is a minus sign (U+2212) and never stands before a zero, a power of ten is written as one, a missing
figure is a dash.
"""

from __future__ import annotations

import math
import re

__all__ = ["MISSING", "PLAIN", "count", "fixed", "minus", "number", "power", "prose"]

MISSING = "–"
_MINUS = "\N{MINUS SIGN}"
_RAISED = str.maketrans("+-0123456789", "⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
PLAIN = 1e6
"""From here on numbers are written with a power of ten."""


def number(value: float | None, digits: int = 4, *, sign: bool = False, zeros: bool = False) -> str:
    """``value`` to so many significant digits: ``−0.5``, ``12,345``, ``2×10⁻⁵``; with its ``zeros``, of
    what was measured to so many, ``−0.5000`` and ``2.000×10⁻⁵``."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return ("+" if sign else "") + "∞" if value > 0 else f"{_MINUS}∞"
    plus = "+" if sign else ""
    if 10**digits - 0.5 <= abs(value) < PLAIN:
        return minus(f"{value:{plus}z,.0f}")
    mantissa, _, exponent = f"{value:{plus}z{'#' if zeros and value else ''}.{digits}g}".partition(
        "e"
    )
    return minus(mantissa.removesuffix(".")) + (power(int(exponent)) if exponent else "")


def fixed(value: float | None, places: int, *, sign: bool = False) -> str:
    """``value`` to so many places behind the point."""
    if value is None or math.isnan(value):
        return MISSING
    return minus(f"{value:{'+' if sign else ''}z.{places}f}")


def count(value: int) -> str:
    """``12,345``."""
    return f"{value:,}"


def prose(text: str) -> str:
    """A text with the numbers in it as they are written here: a minus sign before a digit, ∞, 10⁻⁶."""
    text = re.sub(r"(?<![\w.])(\d[\d.]*)e([+-]?\d+)\b", _raised, text)
    return re.sub(r"(?<![\w.)\]])-(?=[\d.∞])", _MINUS, re.sub(r"\binf\b", "∞", text))


def _raised(found: re.Match[str]) -> str:
    told = power(int(found[2]))
    return told.removeprefix("×") if found[1] == "1" else found[1] + told


def minus(text: str) -> str:
    """``text`` with minus signs for hyphens."""
    return text.replace("-", _MINUS)


def power(exponent: int) -> str:
    """``×10⁻³``."""
    return f"×10{str(exponent).translate(_RAISED)}"
