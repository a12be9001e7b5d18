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
"""Relative change that counts as none."""

_ERRORS = 3.0
"""Standard errors of its own random numbers by which a single change must exceed the tolerance."""

_LEVEL = 0.05

_CHANCE = 0.05
"""Share of changes that may exceed their noise by chance."""

_COVERED = 0.95
"""Share of networks that a tolerance bound speaks for, with 95% confidence."""


def changes(frame: pd.DataFrame) -> pd.DataFrame:
    """Each metric before and after each transformation, with the same seeds, on each subject and draw.

    Columns: ``subject``, ``seed``, ``metric``, ``name``, ``transformation``, ``transformation_name``,
    ``transformation_parameters``, ``before``, ``after``, ``expected`` (what theory says comes after;
    NaN where it says nothing but perhaps "the same"), ``promised`` (whether theory promises the same),
    ``change`` (signed, from what is expected, else from before, over |before|), ``relative_change``
    (its size without the expectation), ``noise`` (relative standard error of the random numbers that the
    two figures do not share; NaN where one of them does not tell its error), ``moved`` (beyond the
    tolerance by more than three times the noise and what both iterations may be off; False where the noise
    is not known), ``deviates`` (the same, from the expectation), ``function_change``.
    """
    base = measured(frame)
    base = base.assign(error=error_on_same_points(base), unfinished=_unfinished(base))
    rows = frame[
        (frame["kind"] == "measurement")
        & (frame["status"] == "ok")
        & frame["transformation"].notna()
    ]
    rows = rows.assign(error=error_on_same_points(rows), unfinished=_unfinished(rows))
    joined = rows.merge(
        base[["subject", "label", "value", "error", "unfinished"]],
        on=["subject", "label"],
        suffixes=("", "_before"),
    )
    before, after = joined["value_before"].astype(float), joined["value"].astype(float)
    # A value near zero is no measure of a change: a tenth of the metric's usual size at least.
    usual = before.abs().groupby(joined["label"]).transform("median")
    size = np.maximum(before.abs(), 0.1 * usual)
    theory = [_theory(row) for row in joined.to_dict("records")]
    expected = pd.Series([t[0] for t in theory], index=joined.index, dtype=float)
    noise = np.hypot(joined["error"], joined["error_before"]) / size
    unfinished = (joined["unfinished"] + joined["unfinished_before"]) / size
    allowed = TOLERANCE + unfinished + _ERRORS * noise
    relative = (after - before).abs() / size
    change = (after - expected.fillna(before)) / size
    return pd.DataFrame(
        {
            "subject": joined["subject"],
            "seed": joined["seed"],
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
            "moved": relative > allowed,
            "deviates": change.abs() > allowed,
            "function_change": joined["function_change"],
        }
    )


def _unfinished(rows: pd.DataFrame) -> pd.Series:
    """How far from its limit each figure's iteration may have stopped."""
    if "error_bound" not in rows:
        return pd.Series(0.0, index=rows.index)
    return rows["error_bound"].astype(float).fillna(0)


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
    (relative), ``moved_share`` of the networks that move by themselves, ``low`` and ``high`` (the 95%
    interval of the mean signed change over networks, from the expected value where there is one),
    ``bound`` (with 95% confidence 95% of networks change by no more), ``lowest_ratio`` and
    ``highest_ratio`` (the extremes of after/before over every draw and subject), ``function_change`` (the
    largest, of the logits), ``theory`` and the ``verdict``:

    - ``invariant``: ``bound`` and every change found are within the tolerance;
    - ``equivariant``: the same for the difference from the amount that theory predicts;
    - ``moves`` if the interval lies outside the tolerance, or at least half of the networks move by
      themselves, each beyond the tolerance by three times the noise of its own random numbers (an
      implementation that does not tell its noise moves by its spread over networks alone);
    - ``mixed`` if fewer do, but some: without any noise of their own, or more than 5% of them, since
      among many networks three times the noise is exceeded by chance;
    - ``unclear`` otherwise: no change is shown, and none is excluded;
    - ``not applicable`` (n = 0) where the transformation refuses every subject.

    Spreads are those of the paired changes over networks; networks of one seed count by how alike they are
    (their intraclass correlation), so that many recipes of few seeds are not taken for many networks.

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
        low, high, bound = _spread(found)
        verdict = _verdict(found, low, high, bound)
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
                "moved_share": float(found.groupby("subject")["moved"].mean().mean()),
                "low": low,
                "high": high,
                "bound": bound,
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


def _spread(found: pd.DataFrame) -> tuple[float, float, float]:
    """The 95% interval of the mean change over networks, and the bound for 95% of single networks."""
    if found.empty:
        return np.nan, np.nan, np.nan
    each = found.groupby("subject").agg(change=("change", "mean"), seed=("seed", "first"))
    change = each["change"].to_numpy(float)
    centre, size = float(change.mean()), _effective(change, each["seed"].to_numpy())
    if len(change) < 2 or size <= 1:
        settled = bool(np.abs(change).max() <= 1e-9)  # rounding, whatever the number of networks
        width = 0.0 if settled else np.inf
        return centre - width, centre + width, abs(centre) + width
    deviation = float(change.std(ddof=1))
    half = float(stats.t.ppf(1 - _LEVEL / 2, size - 1)) * deviation / np.sqrt(size)
    # Howe's factor of a two-sided normal tolerance interval (J. Am. Stat. Assoc. 64, 1969).
    factor = stats.norm.ppf(0.5 * (1 + _COVERED)) * np.sqrt(
        (size - 1) * (1 + 1 / size) / stats.chi2.ppf(_LEVEL, size - 1)
    )
    return centre - half, centre + half, abs(centre) + float(factor) * deviation


def _effective(values: np.ndarray, blocks: np.ndarray) -> float:
    """How many independent values as many of these are, which are alike within a block.

    n/(1 + (m − 1)·ICC) with the intraclass correlation of a one-way analysis of variance (Kish 1965).
    """
    _, group, sizes = np.unique(blocks, return_inverse=True, return_counts=True)
    n, groups = len(values), len(sizes)
    if groups in {1, n}:
        return float(n) if groups == n else 1.0
    means = np.bincount(group, weights=values) / sizes
    between = float((sizes * np.square(means - values.mean())).sum()) / (groups - 1)
    within = float(np.square(values - means[group]).sum()) / (n - groups)
    typical = (n - float(np.square(sizes).sum()) / n) / (groups - 1)
    total = between + (typical - 1) * within
    alike = max((between - within) / total, 0.0) if total > 0 else 0.0
    return n / (1 + (typical - 1) * alike)


def _verdict(found: pd.DataFrame, low: float, high: float, bound: float) -> str:
    if found.empty:
        return "not applicable"
    predicted = bool(found["expected"].notna().all())
    by_itself = found["deviates"] if predicted else found["moved"]
    share = float(by_itself.groupby(found["subject"]).mean().ge(0.5).mean())
    if bound <= TOLERANCE and float(found["change"].abs().max()) <= TOLERANCE:
        return "equivariant" if predicted else "invariant"
    if low > TOLERANCE or high < -TOLERANCE or share >= 0.5:
        return "moves"
    certain = bool((by_itself & (found["noise"] == 0)).any())
    return "mixed" if certain or by_itself.mean() > _CHANCE else "unclear"


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
    and after (``association``, within equal data and model, 95% interval over seeds), each network with
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
