"""Invariant? How far a metric moves under a transformation, against theory and against its own noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from sharpbench.analysis.failures import outcomes_of
from sharpbench.analysis.names import in_reading_order
from sharpbench.analysis.rank_correlation import kendall
from sharpbench.analysis.results import (
    SEED_COLUMNS,
    Results,
    computed_once,
    seeds,
    stratum,
)
from sharpbench.analysis.statistics import (
    beyond,
    bound_for_single,
    mean_over_seeds,
    networks_to_bound,
)

__all__ = [
    "FEWEST_RANKED",
    "NOT_TOLD",
    "TOLERANCE",
    "changes",
    "gauge_orbits",
    "invariance_matrix",
    "left_alone",
    "ranking_survival",
    "reachable",
]

TOLERANCE = 0.02
"""Relative change that counts as none."""

NOT_TOLD = "not told"

_CHANCE = 0.05
"""Share of changes that may exceed their noise by chance."""

_ROUNDING = 1e-10
"""Relative change of the logits, in float64, up to which a function counts as unchanged."""


@computed_once
def changes(results: Results) -> pd.DataFrame:
    """Each metric before and after each transformation, with the same seeds, on each subject and draw.

    Columns: ``subject``, ``seed``, ``metric``, ``name``, ``transformation``, ``transformation_name``,
    ``transformation_parameters``, ``keeps_function``, ``control`` (whether it is there to move every
    metric), ``before``, ``after``, ``expected`` (what theory says comes after; NaN where it says nothing but
    perhaps "the same"), ``promised`` (whether theory promises the same; None where the records, of an older
    version, do not tell),
    ``ratio`` (after/before; of 0/0 1), ``change`` (signed, from what is expected, else from before, over
    |before|), ``factor`` (after/before; where theory predicts an amount 1 + ``change``),
    ``relative_change`` (its size without the expectation), ``noise`` (relative standard error of the random
    numbers that the two figures do not share; NaN where one of them does not tell its error),
    ``moved`` (beyond the tolerance by more than three times the noise, by more still where that is estimated
    from few random numbers (`beyond`), and by what both iterations may be off; False where the noise is not
    known),
    ``deviates`` (the same, from the expectation), ``function_change``.
    """
    columns = ["subject", "label", "value", "unfinished", *_NOISE]
    base, rows = (
        found[[c for c in found.columns if c in _NEEDED]].assign(unfinished=_unfinished(found))
        for found in (results.measured, results.transformed)
    )
    joined = rows.merge(base[columns], on=["subject", "label"], suffixes=("", "_before"))
    before, after = joined["value_before"].astype(float), joined["value"].astype(float)
    # A value near zero is no measure of a change: a tenth of the metric's usual size at least.
    usual = before.abs().groupby(joined["label"]).transform("median")
    size = np.maximum(before.abs(), 0.1 * usual)
    expected = _column(joined, "expected").astype(float)
    noise, needed = _noise(joined)
    noise = noise / size
    unfinished = (joined["unfinished"] + joined["unfinished_before"]) / size
    allowed = TOLERANCE + unfinished + needed * noise
    relative = _part(after - before, size).abs()
    change = _part(after - expected.fillna(before), size)
    downwards = expected.isna() & (before < 0)
    return pd.DataFrame(
        {
            "subject": joined["subject"],
            "seed": joined["seed"],
            "metric": joined["metric_short"],
            "name": joined["name"],
            "transformation": joined["transformation"],
            "transformation_name": joined["transformation_name"],
            "transformation_parameters": _parameters_of(joined),
            "keeps_function": _keeps_function(joined),
            "control": _is_control(joined),
            "before": before,
            "after": after,
            "ratio": (after / before.where(before != 0)).where((before != 0) | (after != 0), 1.0),
            "expected": expected,
            "promised": _column(joined, "promised"),
            "change": change,
            "factor": 1 + change.where(~downwards, -change),
            "relative_change": relative,
            "noise": noise,
            "moved": relative > allowed,
            "deviates": change.abs() > allowed,
            "function_change": joined["function_change"],
        }
    )


def _part(difference: pd.Series, size: pd.Series) -> pd.Series:
    """``difference`` over ``size``; what stays 0 has not changed."""
    return (difference / size).where(difference != 0, 0.0)


@computed_once
def left_alone(results: Results) -> pd.DataFrame:
    """Which layers a transformation left as they are and why: ``transformation``, ``left`` (the sentence),
    ``networks`` (of how many it is said)."""
    rows = results.transformed.reset_index(drop=True)
    rows = rows.assign(left=_column(rows, "left_alone"))
    rows = rows[rows["left"].notna()]
    groups = rows.groupby(["transformation", "left"], sort=False, observed=True)
    found = groups["subject"].nunique().reset_index(name="networks")
    return found.sort_values("networks", ascending=False, kind="stable", ignore_index=True)


_NOISE = ["own_error", "own_scatter", "turned_error", "turned_scatter"]
_NEEDED = frozenset(
    {"subject", "seed", "label", "metric_short", "name", "transformation", "transformation_name",
     "transformation_kind", "transformation_parameters", "preserves", "promised", "expected", "value",
     "function_change", *_NOISE}
)  # fmt: skip
"""Columns that a change is told from: a merge of all would copy them."""


def _noise(joined: pd.DataFrame) -> tuple[pd.Series, np.ndarray]:
    """The standard error of each change, and how many of them it must exceed: where the error is estimated
    from few random numbers, more than where it is known."""
    of_units = _column(joined, "transformation_kind") == "units"
    one, other = (
        [
            joined[f"own_{part}{end}"].where(~of_units, joined[f"turned_{part}{end}"])
            for part in ("error", "scatter")
        ]
        for end in ("", "_before")
    )
    noise = np.hypot(one[0], other[0])
    return noise, beyond(noise, one[1] + other[1])


def _unfinished(rows: pd.DataFrame) -> pd.Series:
    """How far from its limit each figure's iteration may have stopped."""
    if "error_bound" not in rows:
        return pd.Series(0.0, index=rows.index)
    return rows["error_bound"].astype(float).fillna(0)


def _parameters_of(rows: pd.DataFrame) -> pd.Series:
    """Those of the transformation, an object for all rows of equal ones."""
    if "transformation_parameters" not in rows:
        return pd.Series([{}] * len(rows), index=rows.index, dtype=object)
    return rows["transformation_parameters"].map(lambda p: p if isinstance(p, dict) else {})


def _column(rows: pd.DataFrame, name: str) -> pd.Series:
    """A column that older records lack, with None for what is missing."""
    if name not in rows:
        return pd.Series(None, index=rows.index, dtype=object)
    found = rows[name].astype(object)
    return found.where(found.notna(), None)


def _keeps_function(rows: pd.DataFrame) -> pd.Series:
    """Whether the transformation promises to keep the function; where that is not told, whether it did."""
    told, moved = _column(rows, "preserves"), rows["function_change"].astype(float)
    return (told == "function") | (told.isna() & (moved <= _ROUNDING))


def _is_control(rows: pd.DataFrame) -> pd.Series:
    """Whether the transformation is there to change the function, and every metric with it."""
    return _column(rows, "transformation_kind") == "control"


@computed_once
def invariance_matrix(results: Results) -> pd.DataFrame:
    """One row a metric and transformation.

    ``n`` subjects (several draws of one are averaged), ``median_change`` and ``largest_change``
    (relative), ``moved_share`` of the networks that move by themselves, ``low`` and ``high`` (the 95%
    interval over seeds of the geometric mean of the ``factor`` over networks, less 1; NaN where there are not
    two seeds), ``bound`` (with 95% confidence 95% of networks change by no larger factor than 1 + it, up or
    down), ``median_ratio``, ``lowest_ratio`` and
    ``highest_ratio`` (the median and the extremes of after/before over every draw and subject),
    ``function_change`` (the largest, of the logits), ``theory`` and the ``verdict``:

    - ``invariant``: ``bound`` and every change found are within the tolerance;
    - ``equivariant``: the same for the difference from the amount that theory predicts;
    - ``moves`` if the interval lies outside the tolerance, or at least half of the networks move by
      themselves, each beyond the tolerance by three times the noise of its own random numbers (an
      implementation that does not tell its noise moves by its spread over networks alone);
    - ``mixed`` if fewer do, but some: without any noise of their own, or more than 5% of them, since
      among many networks three times the noise is exceeded by chance;
    - ``can't tell`` otherwise: no change is shown, and none is excluded;
    - where no figure stands before and after (n = 0), what became of them: ``not applicable`` where the
      transformation refuses every subject, ``failed``, ``timed out`` or ``not installed`` where one did.

    Spreads are those of the paired changes over networks, on the scale ln(after/before), where changes by
    large and unlike factors lie evenly about their middle; where some change their sign there is no
    logarithm, and they are taken as ±ln(1 + |change|). A normal spread is supposed: what befalls single
    networks alone, and none of those that were seen, is in neither. Recipes of few seeds are not taken for
    many networks: the mean is that of these configurations over seeds (`mean_over_seeds`), the bound counts
    networks of one seed by how alike they are at most (`bound_for_single`).

    What would decide where one ``can't tell``, if everything else stayed as it is: ``networks``, how many of
    them, or else ``precision``, how many times smaller the errors that the two figures do not share would
    have to be. Both are NaN where the metric does not tell these errors.

    ``theory`` is ``invariant``, ``equivariant``, ``not told`` (by records of an older version) or empty (it
    promises nothing), ``disagrees`` says where measurement and theory part: ``promise broken``, ``invariant
    though not promised`` or ``a control does not move it``.
    """
    moved = dict(list(changes(results).groupby(["metric", "transformation"])))
    networks = _networks(results)
    columns = [
        "metric_short",
        "transformation",
        "name",
        "transformation_name",
        "status",
        "subject",
        "reason",
    ]
    every = results.of_kind("measurement", columns=columns)
    changed = every["transformation"].notna()
    asked, before = every[changed], dict(list(every[~changed].groupby("metric_short")))
    rows = []
    for (metric, transformation), group in asked.groupby(["metric_short", "transformation"]):
        found = moved.get((metric, transformation), changes(results).iloc[:0])
        ratios = found["ratio"]
        spread = _spread(found, networks)
        if found.empty:
            verdict = _why_none(pd.concat([before.get(metric, every.iloc[:0]), group]))
        else:
            verdict = _verdict(found, spread)
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
                "low": spread.low,
                "high": spread.high,
                "bound": spread.bound,
                "median_ratio": float(ratios.median()),
                "lowest_ratio": float(ratios.min()),
                "highest_ratio": float(ratios.max()),
                "function_change": float(found["function_change"].max()),
                "theory": theory,
                "verdict": verdict,
                **_what_would_tell(found, verdict, spread),
                "disagrees": _disagreement(theory, verdict, control=bool(found["control"].any())),
            }
        )
    return (
        in_reading_order(pd.DataFrame(rows), "metric", "transformation") if rows else pd.DataFrame()
    )


def _promise(found: pd.DataFrame) -> str:
    if found.empty:
        return ""
    if found["expected"].notna().all():
        return "equivariant"
    if found["promised"].isna().any():
        return NOT_TOLD
    return "invariant" if found["promised"].astype(bool).all() else ""


def _disagreement(theory: str, verdict: str, *, control: bool) -> str:
    if theory == NOT_TOLD:
        return ""
    if theory and verdict in {"moves", "mixed"}:
        return "promise broken"
    if theory or verdict != "invariant":
        return ""
    return "a control does not move it" if control else "invariant though not promised"


@dataclass(frozen=True)
class _Spread:
    """Changes over networks: the ends of the interval of their mean and the bound for single ones, as parts;
    ``each`` network's on the scale of logarithms with its seed of the data, and how many times the networks
    that it would take for the mean to leave the tolerance (NaN where no number would)."""

    low: float = math.nan
    high: float = math.nan
    bound: float = math.nan
    each: pd.Series = field(default_factory=lambda: pd.Series(dtype=float))
    seed: pd.Series = field(default_factory=lambda: pd.Series(dtype=float))
    times: float = math.nan


def _networks(results: Results) -> pd.DataFrame:
    """By subject its seeds, the data's first, and the number of its configuration: data, model and recipe."""
    rows = results.measured.drop_duplicates("subject").set_index("subject")
    if rows.empty:
        return pd.DataFrame({"configuration": []})
    names = [c for c in ("dataset_short", "model_short", "recipe_short") if c in rows]
    number = rows.groupby([rows[c].astype(str) for c in names]).ngroup() if names else 0
    streams = [c for c in SEED_COLUMNS if c in rows and rows[c].notna().all()]
    return rows[streams or ["seed"]].assign(configuration=number)


def _spread(found: pd.DataFrame, networks: pd.DataFrame) -> _Spread:
    if found.empty:
        return _Spread()
    factor = found["factor"].astype(float)
    positive = bool((factor > 0).all())
    away = factor - 1
    scale = np.log(factor) if positive else np.sign(away) * np.log1p(away.abs())
    each = scale.groupby(found["subject"]).mean()
    if not np.isfinite(each).all():
        return _Spread()
    own = networks.loc[each.index]
    own_seeds = own.drop(columns="configuration").to_numpy()
    bound = bound_for_single(each.to_numpy(), own_seeds[:, 0])
    told = _Spread(bound=_as_part(bound), each=each, seed=own.iloc[:, 0])
    middle = mean_over_seeds(each.to_numpy(), own_seeds, own["configuration"].to_numpy())
    if middle is None:
        return told
    low, high = (
        _as_part(end) if positive else math.copysign(_as_part(abs(end)), end)
        for end in (middle.low, middle.high)
    )
    half, room = 0.5 * (middle.high - middle.low), abs(middle.value) - math.log1p(TOLERANCE)
    times = (half / room) ** 2 if room > 0 and math.isfinite(half) else math.nan
    return replace(told, low=low, high=high, times=times)


def _as_part(logarithm: float) -> float:
    """The change by a factor of such a logarithm; infinite where no number holds it."""
    return math.expm1(logarithm) if logarithm < _LARGEST else math.inf


_LARGEST = 700.0


def _why_none(asked: pd.DataFrame) -> str:
    """What became of figures of which none stands before and after a change."""
    told = set(outcomes_of(asked))
    return next(
        (word for word in ("failed", "timed out", "not installed") if word in told),
        "not applicable",
    )


def _verdict(found: pd.DataFrame, spread: _Spread) -> str:
    predicted = bool(found["expected"].notna().all())
    by_itself = found["deviates"] if predicted else found["moved"]
    share = float(by_itself.groupby(found["subject"]).mean().ge(0.5).mean())
    if spread.bound <= TOLERANCE and float(found["change"].abs().max()) <= TOLERANCE:
        return "equivariant" if predicted else "invariant"
    if spread.low > TOLERANCE or spread.high < -TOLERANCE or share >= 0.5:
        return "moves"
    certain = bool((by_itself & (found["noise"] == 0)).any())
    return "mixed" if certain or by_itself.mean() > _CHANCE else "can't tell"


def _what_would_tell(found: pd.DataFrame, verdict: str, spread: _Spread) -> dict[str, float]:
    told = {"networks": math.nan, "precision": math.nan}
    if verdict != "can't tell" or len(spread.each) < 2:
        return told
    largest = float(found["change"].abs().max())
    if largest <= TOLERANCE:
        enough = networks_to_bound(
            spread.each.to_numpy(), spread.seed.to_numpy(), math.log1p(TOLERANCE)
        )
        return told if enough is None else told | {"networks": float(enough)}
    if (found["noise"] > 0).any():
        return told | {"precision": max(spread.bound, largest) / TOLERANCE}
    if math.isfinite(spread.times):
        told["networks"] = math.ceil(len(spread.each) * spread.times)
    return told


@computed_once
def gauge_orbits(results: Results) -> pd.DataFrame:
    """Each metric against the strength of a change that keeps the function, along one way of many strengths.

    Columns: ``family`` (the transformation), ``parameter`` (the one that alone varies, over three values or
    more), ``strength``, ``metric``, ``name``, ``subject``, ``ratio`` (after/before).
    """
    moved = changes(results)
    found = []
    for family, rows in moved[moved["keeps_function"]].groupby("transformation_name", sort=False):
        settings = pd.DataFrame(rows["transformation_parameters"].tolist(), index=rows.index)
        varied = [c for c in settings if len(set(settings[c].map(str))) > 1]
        if len(varied) != 1 or not pd.api.types.is_numeric_dtype(settings[varied[0]]):
            continue
        strength = settings[varied[0]]
        if strength.nunique() < 3:
            continue
        found.append(
            pd.DataFrame(
                {
                    "family": family,
                    "parameter": varied[0],
                    "strength": strength.astype(float),
                    "metric": rows["metric"],
                    "name": rows["name"],
                    "subject": rows["subject"],
                    "ratio": rows["ratio"],
                }
            ).sort_values(["metric", "subject", "strength"])
        )
    return pd.concat(found) if found else pd.DataFrame()


@computed_once
def reachable(results: Results) -> pd.DataFrame:
    """How far one network can be pushed without changing its function: a row a metric and family.

    Over every strength and draw of a transformation that keeps the function, ``lowest`` and ``highest``
    after/before met on any one of ``n`` networks, in ``tried`` changes.
    """
    moved = changes(results)
    kept = moved[moved["keeps_function"] & moved["ratio"].notna()]
    grouped = kept.groupby(["metric", "transformation_name"], sort=False)
    found = grouped.agg(
        lowest=("ratio", "min"),
        highest=("ratio", "max"),
        tried=("ratio", "size"),
        n=("subject", "nunique"),
    ).reset_index()
    found = found.rename(columns={"transformation_name": "family"})
    return in_reading_order(found, "metric", "family")


FEWEST_RANKED = 30
"""Networks from which on it is told whether a ranking survives."""


@computed_once
def ranking_survival(results: Results) -> pd.DataFrame:
    """Does the ranking of trained networks survive a random change that keeps their function?

    A row a metric and transformation that keeps the function: Kendall's τ of the metric before and after
    (``association``, within equal data and model, 95% interval over seeds), each network with random
    numbers of its own, over ``n`` ≥ 30 networks.
    """
    moved, frame = changes(results), results.frame
    first = frame[frame["dataset_short"].notna()].drop_duplicates("subject").set_index("subject")
    strata = stratum(first)
    rows = []
    kept = moved[moved["keeps_function"]]
    for (metric, transformation), group in kept.groupby(["metric", "transformation"]):
        once = group.drop_duplicates("subject")
        if len(once) < FEWEST_RANKED:
            continue
        found = kendall(
            once["before"].to_numpy(float),
            once["after"].to_numpy(float),
            strata.reindex(once["subject"]).to_numpy(),
            seeds(first.loc[once["subject"]]),
        )
        if found is not None:
            rows.append({"metric": metric, "transformation": transformation, "association": found})
    return (
        in_reading_order(pd.DataFrame(rows), "metric", "transformation") if rows else pd.DataFrame()
    )
