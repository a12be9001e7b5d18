"""The claims as a Markdown table, beside the verdicts of an earlier one, with why they changed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharpbench.analysis.audit import NOT_RUN
from sharpbench.analysis.statistics import Estimate
from sharpbench.report.audit import reason
from sharpbench.report.format import number, prose

__all__ = ["Earlier", "markdown", "read_markdown", "why_changed"]

_COLUMNS = ("§", "claim", "paper", "its code printed", "measured [95%]", "verdict")
_NUMBER = r"[-−+]?(?:\d{1,3}(?:,\d{3})+|[\d.]+)(?:e[-+]?\d+|×10[⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)?|[-−+]?(?:inf|∞)"
_FIGURE = re.compile(
    rf"(?P<value>{_NUMBER})(?: \[(?P<low>{_NUMBER}), (?P<high>{_NUMBER})\])?(?:, n=(?P<n>\d+))?"
)
_PLAIN = str.maketrans("−⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-+-0123456789", ",")


@dataclass(frozen=True)
class Earlier:
    """What an earlier table says of a claim; ``found`` is None where nothing was measured."""

    verdict: str
    found: Estimate | None


def markdown(rows: Sequence[Mapping[str, Any]], before: Mapping[str, Earlier] | None = None) -> str:
    """The rows of `analysis.audit.claims_table` as a Markdown table.

    ``before``: an earlier table by `read_markdown`; its verdicts stand beside, with `why_changed`.
    """
    head = [*_COLUMNS, *(["before", "why"] if before is not None else [])]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [
            row["section"],
            row["statement"],
            prose(row["stated"]) or "–",
            prose(row["code"]) or "–",
            _measured(row),
            row["verdict"],
        ]
        if before is not None:
            earlier = before.get(f"{row['section']}: {row['statement']}")
            cells += [earlier.verdict if earlier else "–", why_changed(row, earlier)]
        lines.append("| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines)


def _measured(row: Mapping[str, Any]) -> str:
    found = row["estimate"]
    if found is None:
        return reason(row)
    if found.low == found.high:
        return f"{number(found.value)} (exact)"
    return f"{number(found.value)} [{number(found.low)}, {number(found.high)}], n={found.n}"


def read_markdown(text: str) -> dict[str, Earlier]:
    """The claims of a table that `markdown` made, by section and statement; quotation marks are no matter.

    Raises ValueError where there is no such table.
    """
    lines = [line.lstrip("> ").strip() for line in text.splitlines()]
    lines = [line for line in lines if line.startswith("|")]
    heads = [i for i, line in enumerate(lines) if _cells(line)[: len(_COLUMNS)] == list(_COLUMNS)]
    if not heads:
        raise ValueError(f"no table with the columns {', '.join(_COLUMNS)}")
    found: dict[str, Earlier] = {}
    for line in lines[heads[0] + 1 :]:
        cells = _cells(line)
        if cells[: len(_COLUMNS)] == list(_COLUMNS):
            break  # another table
        if len(cells) < len(_COLUMNS) or set(cells[0]) <= {"-", ":"}:
            continue
        section, statement, _, _, measured, verdict = cells[: len(_COLUMNS)]
        found[f"{section}: {statement}"] = Earlier(verdict, _figure(measured))
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _figure(text: str) -> Estimate | None:
    match = _FIGURE.match(text)
    if match is None:
        return None
    value = _read(match["value"])
    low, high = (_read(match[k]) if match[k] else value for k in ("low", "high"))
    return Estimate(value, low, high, int(match["n"] or 1))


def _read(text: str) -> float:
    """A number as `report.format` writes it, or as Python does."""
    return float(text.translate(_PLAIN).replace("×10", "e").replace("∞", "inf"))


def why_changed(row: Mapping[str, Any], earlier: Earlier | None) -> str:
    """Why a verdict is another than that of an earlier table; empty where it is the same.

    Not run now or then; else whether the figure or its interval is another, over how many networks, and the
    rule that judges it now.
    """
    if earlier is None:
        return "a claim that the earlier table hasn't"
    if row["verdict"] == earlier.verdict:
        return ""
    found, then = row["estimate"], earlier.found
    if found is None:
        return "not run with these records" if row["verdict"] == NOT_RUN else "not measured now"
    if then is None:
        return "not measured then"
    parts = [_other_figure(found, then)]
    if found.n != then.n:
        parts.append(f"over {found.n}, told as {then.n} then")
    if found.noise and abs(found.value) < found.noise:
        parts.append("within the noise of the points that all are judged on")
    by_rule = f"the rule now: {row['rule']}"
    return "; ".join([part for part in parts if part] + [by_rule])


def _other_figure(found: Estimate, then: Estimate) -> str:
    """How a figure differs from an earlier one, beyond a tenth of its interval and its printed digits."""
    wide, before = found.high - found.low, then.high - then.low
    digits = 1e-3 * abs(then.value)
    if abs(found.value - then.value) > max(0.1 * before, digits):
        outside = "" if then.low <= found.value <= then.high else ", outside its interval"
        return f"another figure: {number(then.value)} then{outside}"
    if abs(wide - before) > max(0.1 * before, digits):
        return f"an interval of {number(wide, 2)} for {number(before, 2)}"
    return "the same figure"
