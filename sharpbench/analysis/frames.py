"""Views of the long record frame that every question starts from, and short names for its labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

__all__ = [
    "error_on_same_points",
    "error_without_random_numbers",
    "evaluations",
    "measured",
    "random_error",
    "short_names",
    "stratum",
    "with_short_names",
]


def measured(frame: pd.DataFrame) -> pd.DataFrame:
    """Successful measurements of trained subjects as they are: one row a subject and metric."""
    rows = (
        (frame["kind"] == "measurement")
        & (frame["status"] == "ok")
        & frame["transformation"].isna()
    )
    return frame[rows]


def random_error(frame: pd.DataFrame) -> pd.Series:
    """The standard error of each figure: 0 of an exact one, NaN where a component's size is not told."""
    return _sum_of_components(frame, leaving_out=frozenset())


def error_on_same_points(frame: pd.DataFrame) -> pd.Series:
    """`random_error` without the components ``points`` and ``directions``.

    Figures of one seed, by two implementations or before and after a transformation, are measured on
    the same points along the same directions: what these add to the error is the same in both.
    """
    return _sum_of_components(frame, leaving_out=frozenset({"points", "directions"}))


def error_without_random_numbers(frame: pd.DataFrame) -> pd.Series:
    """What of an error is left where the random numbers are the same: rounding, and what isn't told.

    0 where there are no components: a standard error that is stated whole is one of random numbers.
    """
    left = _sum_of_components(frame, leaving_out=_OF_RANDOM_NUMBERS)
    if "errors" not in frame:
        return 0 * left
    return left.where(frame["errors"].map(lambda e: isinstance(e, list) and bool(e)), 0.0)


_OF_RANDOM_NUMBERS = frozenset({"points", "directions", "probes", "draws"})


def _sum_of_components(frame: pd.DataFrame, *, leaving_out: frozenset[str]) -> pd.Series:
    total = frame["standard_error"].astype(float).fillna(0)
    if "errors" not in frame:
        return total
    return pd.Series(
        [
            math.hypot(
                *(
                    math.nan if e["size"] is None else e["size"]
                    for e in errors
                    if e["source"] not in leaving_out
                )
            )
            if isinstance(errors, list) and errors
            else float(known)
            for errors, known in zip(frame["errors"], total, strict=True)
        ],
        index=frame.index,
        dtype=float,
    )


def evaluations(frame: pd.DataFrame) -> pd.DataFrame:
    """Evaluated figures, one row a subject, one column a quantity."""
    rows = frame[(frame["kind"] == "evaluation") & (frame["status"] == "ok")]
    return rows.pivot_table(index="subject", columns="name", values="value", observed=True)


def stratum(frame: pd.DataFrame) -> pd.Series:
    """The stratum of each row: data set with its label noise, and model.

    Subjects of one stratum differ in recipe and seed alone: their ranks compare without confounding.
    """
    return frame["dataset_short"].astype(object) + " · " + frame["model_short"].astype(object)


def with_short_names(frame: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """``frame`` with columns ``metric_short`` and ``dataset_short``, ``model_short``, ``recipe_short``,
    ``problem_short``.

    A short name holds only the parameters that tell entries of this frame apart. ``titles`` maps
    names of metrics and problems to what a reader calls them.
    """
    frame = frame.copy()
    metrics = frame[frame["kind"].isin(["measurement", "trajectory", "problem", "calibration"])]
    # Along training a metric is often measured on fewer points: told apart within each kind.
    frame["metric_short"] = pd.Series(index=frame.index, dtype=object)
    for kind, rows in metrics.groupby("kind"):
        found = {
            label: (titles.get(name, name.replace("_", " ")), parameters)
            for label, name, parameters in zip(
                rows["label"], rows["name"], rows["parameters"], strict=True
            )
        }
        of_kind = frame["kind"] == kind
        frame.loc[of_kind, "metric_short"] = frame.loc[of_kind, "label"].map(short_names(found))
    for part in ("dataset", "model", "recipe", "problem"):
        columns = [c for c in frame.columns if c.startswith(f"{part}.")]
        distinct = frame.drop_duplicates(f"{part}_label").dropna(subset=f"{part}_label")
        found = {
            row[f"{part}_label"]: (
                titles.get(row[part], row[part]),
                {c.split(".", 1)[1]: row[c] for c in columns},
            )
            for row in distinct.to_dict("records")
        }
        frame[f"{part}_short"] = frame[f"{part}_label"].map(short_names(found))
    return frame


_MANY = 5
"""From so many variants of one thing on, a name tells only what differs from most of them."""


def short_names(entries: Mapping[str, tuple[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Label to name plus the parameters in which entries of that name differ."""
    short = {}
    for label, (name, parameters) in entries.items():
        protocol = parameters.get("protocol", "custom")
        namesakes = [p for n, p in entries.values() if n == name]
        # What a protocol sets need not be told: told apart among those of one protocol.
        rivals = [p for p in namesakes if p.get("protocol", "custom") == protocol]
        differing = [
            # A word says by itself what it is; a number needs its key.
            value
            if isinstance(value, str) and value != "all"
            else f"{key.replace('_', ' ')} {_spell(value)}"
            for key, value in parameters.items()
            if not _usual(value, [rival.get(key) for rival in rivals])
        ]
        if protocol != "custom" and len(namesakes) > 1:
            differing.insert(0, protocol.replace("_", " "))
        short[label] = f"{name} ({', '.join(differing)})" if differing else name
    return short


def _usual(value: Any, others: list[Any]) -> bool:
    """Whether a value goes without saying: all have it, or most of many."""
    same = sum(str(other) == str(value) for other in others)
    return same == len(others) or (len(others) >= _MANY and 2 * same > len(others))


def _spell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_spell(v)}" for k, v in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        if len(value) > 4 and value == list(range(value[0], value[0] + len(value))):
            return f"{value[0]}–{value[-1]}"
        return "-".join(_spell(v) for v in value)
    return str(value)
