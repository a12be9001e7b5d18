"""Invariant? How far a metric moves under a transformation, against theory and against its own noise."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from sharpbench.analysis.frames import error_on_same_points, measured, stratum
from sharpbench.analysis.prediction import kendall
from sharpbench.errors import InputError
from sharpbench.invariance import Transformation, transformations
from sharpbench.metrics import Metric, metrics

__all__ = [
    "TOLERANCE",
    "changes",
    "gauge_orbits",
    "invariance_matrix",
    "ranking_survival",
    "reachable",
]

TOLERANCE = 0.02
"""Relative change that counts as none: the bound of the equivalence test."""

_ERRORS = 3.0
"""Combined standard errors below which a change counts as noise."""

_LEVEL = 0.05
"""Of each of the two one-sided tests."""


def changes(frame: pd.DataFrame) -> pd.DataFrame:
    """Each metric before and after each transformation, with the same seeds, on each subject and draw.

    Columns: ``subject``, ``metric``, ``name``, ``transformation``, ``transformation_name``,
    ``transformation_parameters``, ``before``, ``after``, ``expected`` (what theory says comes after;
    NaN where it says nothing but perhaps "the same"), ``promised`` (whether theory promises the same),
    ``change`` (signed, from what is expected, else from before, over |before|), ``relative_change``
    (its size without the expectation), ``noise`` (the change that counts as noise: three combined
    standard errors, those of the points left out since they are the same, at least the tolerance),
    ``moved``, ``deviates`` (from the expectation),
    ``function_change``.
    """
    base = measured(frame)
    base = base.assign(error=error_on_same_points(base))
    rows = frame[
        (frame["kind"] == "measurement")
        & (frame["status"] == "ok")
        & frame["transformation"].notna()
    ]
    joined = rows.assign(error=error_on_same_points(rows)).merge(
        base[["subject", "label", "value", "error"]],
        on=["subject", "label"],
        suffixes=("", "_before"),
    )
    before, after = joined["value_before"].astype(float), joined["value"].astype(float)
    # A value near zero is no measure of a change: a tenth of the metric's usual size at least.
    usual = before.abs().groupby(joined["label"]).transform("median")
    size = np.maximum(before.abs(), 0.1 * usual)
    errors = np.hypot(joined["error"], joined["error_before"])
    theory = [_theory(row) for row in joined.to_dict("records")]
    expected = pd.Series([t[0] for t in theory], index=joined.index, dtype=float)
    noise = np.maximum(_ERRORS * errors / size, TOLERANCE)
    relative = (after - before).abs() / size
    change = (after - expected.fillna(before)) / size
    return pd.DataFrame(
        {
            "subject": joined["subject"],
            "metric": joined["metric_short"],
            "name": joined["name"],
            "transformation": joined["transformation"],
            "transformation_name": joined["transformation_name"],
            "transformation_parameters": _parameters_of(joined),
            "before": before,
            "after": after,
            "expected": expected,
            "promised": [t[1] for t in theory],
            "change": change,
            "relative_change": relative,
            "noise": noise,
            "moved": relative > noise,
            "deviates": change.abs() > noise,
            "function_change": joined["function_change"],
        }
    )


def _parameters_of(rows: pd.DataFrame) -> list[dict[str, Any]]:
    if "transformation_parameters" not in rows:
        return [{}] * len(rows)
    return [p if isinstance(p, dict) else {} for p in rows["transformation_parameters"]]


def _theory(row: dict[str, Any]) -> tuple[float, bool]:
    """What theory expects after the change (NaN: nothing), and whether it promises no change."""
    parameters = row.get("transformation_parameters")
    found = _plugins(
        str(row["name"]),
        json.dumps(row["parameters"], sort_keys=True),
        str(row["transformation_name"]),
        json.dumps(parameters if isinstance(parameters, dict) else {}, sort_keys=True),
    )
    if found is None:
        return float("nan"), False
    metric, transformation = found
    expected = metric.expected_after(transformation, float(row["value_before"]))
    return (float("nan") if expected is None else expected), metric.promises(transformation)


@lru_cache(maxsize=4096)
def _plugins(
    name: str, parameters: str, transformation: str, transformation_parameters: str
) -> tuple[Metric, Transformation] | None:
    """The plug-ins of a record; None where they are not installed here (a third party's, say)."""
    try:
        return (
            metrics.create(name, json.loads(parameters)),
            transformations.create(transformation, json.loads(transformation_parameters)),
        )
    except InputError:
        return None


def invariance_matrix(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a metric and transformation.

    ``n`` subjects (several draws of one are averaged), ``median_change`` and ``largest_change``
    (relative), ``moved_share`` of the changes that exceed the noise, ``low`` and ``high`` (the 90%
    interval of the mean change over subjects, from the expected value where there is one),
    ``lowest_ratio`` and ``highest_ratio`` (the extremes of after/before over every draw and subject),
    ``function_change`` (the largest, of the logits), ``theory`` and the ``verdict``:

    - ``invariant``: two one-sided tests at 5% show the mean change to be smaller than the tolerance, and
      at most 5% of the changes exceed their noise;
    - ``equivariant``: the same for the difference from the amount that theory predicts;
    - ``moves`` if the change exceeds the noise in at least half of the cases;
    - ``mixed`` if it does in more than 5% of them;
    - ``unclear`` otherwise: no change beyond the noise, but equivalence is not shown either;
    - ``not applicable`` (n = 0) where the transformation refuses every subject.

    ``theory`` is ``invariant``, ``equivariant`` or empty (it promises nothing), ``disagrees`` says where
    measurement and theory part: ``promise broken``, ``invariant though not promised`` or ``a control does
    not move it``.
    """
    moved = changes(frame)
    asked = frame[(frame["kind"] == "measurement") & frame["transformation"].notna()]
    rows = []
    for (metric, transformation), group in asked.groupby(["metric_short", "transformation"]):
        found = moved[(moved["metric"] == metric) & (moved["transformation"] == transformation)]
        ratios = found["after"] / found["before"].where(found["before"] != 0)
        low, high = _interval(found)
        verdict = _verdict(found, low, high)
        theory = _promise(found)
        rows.append(
            {
                "metric": metric,
                "name": group["name"].iloc[0],
                "transformation": transformation,
                "transformation_name": group["transformation_name"].iloc[0],
                "n": found["subject"].nunique(),
                "not_applicable": group.loc[group["status"] == "unsupported", "subject"].nunique(),
                "median_change": float(found["relative_change"].median()),
                "largest_change": float(found["relative_change"].max()),
                "moved_share": float(found["moved"].mean()) if len(found) else np.nan,
                "low": low,
                "high": high,
                "lowest_ratio": float(ratios.min()),
                "highest_ratio": float(ratios.max()),
                "function_change": float(found["function_change"].max()),
                "theory": theory,
                "verdict": verdict,
                "disagrees": _disagreement(theory, verdict, group["transformation_name"].iloc[0]),
            }
        )
    return pd.DataFrame(rows)


def _promise(found: pd.DataFrame) -> str:
    if found.empty:
        return ""
    if found["expected"].notna().all():
        return "equivariant"
    return "invariant" if found["promised"].all() else ""


def _disagreement(theory: str, verdict: str, transformation: str) -> str:
    if theory and verdict in {"moves", "mixed"}:
        return "promise broken"
    if theory or verdict != "invariant" or transformation not in transformations:
        return ""
    control = transformations.get(transformation).preserves == "nothing"
    return "a control does not move it" if control else "invariant though not promised"


def _interval(found: pd.DataFrame) -> tuple[float, float]:
    """The interval of the mean change over subjects to which both one-sided tests belong."""
    if found.empty:
        return float("nan"), float("nan")
    each = found.groupby("subject")["change"].mean().to_numpy(float)
    if len(each) == 1:
        half = float(found["noise"].iloc[0]) / _ERRORS * stats.norm.ppf(1 - _LEVEL)
        half = half if abs(each[0]) > 1e-9 else 0.0
    else:
        error = each.std(ddof=1) / np.sqrt(len(each))
        half = float(stats.t.ppf(1 - _LEVEL, len(each) - 1) * error)
    return float(each.mean() - half), float(each.mean() + half)


def _verdict(found: pd.DataFrame, low: float, high: float) -> str:
    if found.empty:
        return "not applicable"
    predicted = bool(found["expected"].notna().all())
    beyond = found["deviates"] if predicted else found["moved"]
    equivalent = low >= -TOLERANCE and high <= TOLERANCE
    if equivalent and beyond.mean() <= 0.05:
        return "equivariant" if predicted else "invariant"
    if beyond.mean() >= 0.5:
        return "moves"
    return "mixed" if beyond.mean() > 0.05 else "unclear"


def gauge_orbits(frame: pd.DataFrame) -> pd.DataFrame:
    """Each metric against the strength α along one way of unchanged function, `layer_rescaling`.

    Columns: ``metric``, ``subject``, ``alpha``, ``ratio`` (after/before); empty with fewer than three α.
    """
    moved = changes(frame)
    if moved.empty:
        return moved
    rows = moved[moved["transformation_name"] == "layer_rescaling"]
    alphas = rows["transformation_parameters"].map(lambda p: p.get("alpha"))
    if alphas.nunique() < 3:
        return rows.iloc[:0]
    return pd.DataFrame(
        {
            "metric": rows["metric"],
            "name": rows["name"],
            "subject": rows["subject"],
            "alpha": alphas.astype(float),
            "ratio": rows["after"] / rows["before"].where(rows["before"] != 0),
        }
    ).sort_values(["metric", "subject", "alpha"])


def reachable(frame: pd.DataFrame) -> pd.DataFrame:
    """How far one network can be pushed without changing its function: a row a metric and family.

    Over every strength and draw of a transformation that preserves the function, ``lowest`` and ``highest``
    after/before met on any one of ``n`` networks, in ``tried`` changes.
    """
    moved = changes(frame)
    if moved.empty:
        return pd.DataFrame()
    names = moved["transformation_name"].map(
        lambda n: n in transformations and transformations.get(n).preserves == "function"
    )
    kept = moved[names.astype(bool) & (moved["before"] != 0)]
    kept = kept.assign(ratio=kept["after"] / kept["before"])
    grouped = kept.groupby(["metric", "transformation_name"], sort=False)
    found = grouped.agg(
        lowest=("ratio", "min"),
        highest=("ratio", "max"),
        tried=("ratio", "size"),
        n=("subject", "nunique"),
    ).reset_index()
    return found.rename(columns={"transformation_name": "family"})


_FEWEST = 30
"""Networks from which on it is told whether a ranking survives."""


def ranking_survival(frame: pd.DataFrame) -> pd.DataFrame:
    """Does the ranking of trained networks survive a random change that keeps their function?

    A row a metric and random transformation that preserves the function: Kendall's τ of the metric before
    and after (``association``, within equal data and model, 95% bootstrap interval), each network with
    random numbers of its own, over ``n`` ≥ 30 networks.
    """
    moved = changes(frame)
    if moved.empty:
        return pd.DataFrame()
    first = frame[frame["dataset_short"].notna()].drop_duplicates("subject").set_index("subject")
    strata = stratum(first)
    rows = []
    for (metric, transformation), group in moved.groupby(["metric", "transformation"]):
        name = group["transformation_name"].iloc[0]
        if name not in transformations or transformations.get(name).preserves != "function":
            continue
        once = group.drop_duplicates("subject")
        if len(once) < _FEWEST:
            continue
        found = kendall(
            once["before"].to_numpy(float),
            once["after"].to_numpy(float),
            strata.reindex(once["subject"]).to_numpy(),
            first["seed"].reindex(once["subject"]).to_numpy(),
        )
        if found is not None:
            rows.append({"metric": metric, "transformation": transformation, "association": found})
    return pd.DataFrame(rows)
