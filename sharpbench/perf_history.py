"""What asv has measured of every commit, and where it changed for good."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpbench.errors import InputError, first_line

__all__ = ["LEAST", "Point", "Regression", "Series", "history"]

LEAST = 0.05
"""Smaller rises, as a share of the value before, are not told."""


@dataclass(frozen=True)
class Point:
    """``value`` of one commit, with the interval that asv states where it has several samples."""

    commit: str
    date: int
    """Milliseconds since 1970, of the commit."""
    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Regression:
    """A rise that stayed for two commits or more: between the positions ``before`` and ``after`` of a series.

    ``sure``: both have several samples; of one each nothing is concluded.
    """

    before: int
    after: int
    from_value: float
    to_value: float
    sure: bool

    @property
    def ratio(self) -> float:
        return self.to_value / self.from_value if self.from_value else math.inf


@dataclass(frozen=True)
class Series:
    """One benchmark with one set of parameters on one machine, by the commits' dates.

    ``steps``: (first position, last position, level) of each stretch in which nothing changed for good.
    """

    benchmark: str
    parameters: tuple[tuple[str, str], ...]
    machine: str
    unit: str
    points: tuple[Point, ...]
    steps: tuple[tuple[int, int, float], ...]
    regressions: tuple[Regression, ...]

    @property
    def label(self) -> str:
        """The parameters in words; empty where there are none."""
        return ", ".join(f"{name} {value}" for name, value in self.parameters)


def history(results: Path) -> list[Series]:
    """Every series under asv's results folder, from asv's own files.

    Values of another version of a benchmark are of another benchmark: they are left out. Steps and
    regressions are found by asv's step detection, each point with the same weight. Raises InputError if
    nothing was measured, or if asv can't read it.
    """
    from asv.results import iter_results

    try:
        known = json.loads((results / "benchmarks.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"nothing is measured in {results} ({first_line(error)}). Run: sharpbench perf run"
        ) from error
    found: dict[tuple[str, tuple[tuple[str, str], ...], str], dict[str, Point]] = {}
    try:
        for one in iter_results(str(results)):
            for key, told in _values(one, known):
                found.setdefault(key, {})[told.commit] = told
    except Exception as error:  # asv raises what it comes by
        raise InputError(f"{results}: asv can't read its results: {first_line(error)}") from error
    if not found:
        raise InputError(f"nothing is measured in {results}. Run: sharpbench perf run")
    return [_series(key, points.values(), known) for key, points in sorted(found.items())]


def _values(one: Any, known: Any) -> Iterator[tuple[tuple[Any, ...], Point]]:
    machine = one.params.get("machine", "")
    for name in one.get_all_result_keys():
        told = known.get(name)
        if not isinstance(told, dict) or one.benchmark_version.get(name) != told["version"]:
            continue
        axes = one.get_result_params(name)
        values = one.get_result_value(name, axes)
        stats = one.get_result_stats(name, axes) or [None] * len(values)
        for setting, value, stat in zip(itertools.product(*axes), values, stats, strict=True):
            if value is None or not math.isfinite(value):
                continue
            named = tuple(zip(told["param_names"], map(_plain, setting), strict=False))
            ends = (stat or {}).get("ci_99_a"), (stat or {}).get("ci_99_b")
            interval = (
                ends if all(isinstance(e, float) and math.isfinite(e) for e in ends) else None
            )
            yield (name, named, machine), Point(one.commit_hash, one.date, float(value), interval)  # type: ignore[arg-type]


def _plain(value: str) -> str:
    """asv keeps parameters as Python writes them."""
    return value[1:-1] if value[:1] in {"'", '"'} and value[:1] == value[-1:] else value


def _series(key: Any, points: Any, known: Any) -> Series:
    from asv.step_detect import detect_regressions, detect_steps

    name, parameters, machine = key
    ordered: Sequence[Point] = sorted(points, key=lambda p: (p.date, p.commit))
    steps = detect_steps([p.value for p in ordered])
    _, _, rises = detect_regressions(steps, threshold=LEAST)
    regressions = []
    for before, after, from_value, to_value in rises or ():
        sure = all(ordered[i].interval is not None for i in (before, after))
        regressions.append(Regression(before, after, from_value, to_value, sure))
    return Series(
        name,
        parameters,
        machine,
        known[name].get("unit", ""),
        tuple(ordered),
        tuple((left, right - 1, value) for left, right, value, *_ in steps),
        tuple(r for r in regressions if r.ratio > 1 + LEAST),
    )
