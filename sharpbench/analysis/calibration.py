"""Right? Whether estimators say truly how far off they are: coverage and claims on known answers.

A suite asks one metric of one problem many times, with random numbers of its own each time
(``repetitions`` in a block of ``[[problems]]``). Of a stated error the share of answers whose 95% interval
holds the truth is told, with its own binomial interval; of a claim to have converged, how often it was
false. Nothing of the estimator but its answers enters.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from sharpbench.analysis.results import Results, computed_once
from sharpbench.analysis.statistics import CONFIDENCE, NORMAL, ROUNDING, binomial_interval
from sharpbench.measurement import ErrorComponent, Measurement

__all__ = ["BAND", "STATED", "WIDE", "coverage", "stated_errors"]

STATED = CONFIDENCE
BAND = (0.92, 0.98)
"""A stated 95% holds if this much is covered."""

WIDE = "covers more than it says"

_FALSE_CLAIMS = 1 / 300
_FALSE_ADVERSARIAL = 0.05
_FALSE_RANDOM = 1 - BAND[0]
"""Shares of false claims to have converged that are let pass: of iterations, of iterations on spectra made
to be hard, and of random estimators, whose claim is that the standard error is at most the tolerance."""


@computed_once
def stated_errors(results: Results) -> pd.DataFrame:
    """The `coverage` of a suite's records."""
    return coverage(results.frame)


def coverage(frame: pd.DataFrame) -> pd.DataFrame:
    """Stated against true errors: a row a metric and problem that was asked again and again.

    ``truth``: ``theory`` (with what it is of, where an implementation says to compute another figure than
    the metric's: PyHessian the eigenvalue of largest magnitude), ``all points`` (what the metric says of all
    of them), ``their mean`` (of the repetitions: the error is tested, a bias is not) or ``none``, where some
    of the repetitions have no answer, so that the mean of the others is of those that happened to have one.
    ``n``: answers that state the size of an error, where there is a truth; ``covered``: the share whose 95%
    interval, widened by an iteration's bound, holds the truth, with its 95% binomial interval ``low`` to
    ``high``; ``verdict``: ``holds`` if that share lies in `BAND`, ``can't tell`` if its interval reaches it,
    else the errors are ``too small``, or the interval ``covers more than it says``: wide, not wrong (a bound
    is no interval: what it adds to the share doesn't count). ``untold``: answers that name a source of error
    without its size; where all do, the verdict is ``states none``, and ``""`` where none has any error to
    state, or there is no truth.

    ``claims``: answers of all points called converged (to a ``tolerance``) or exact where the truth is
    known; ``false`` of them, with the share's interval ``false_low`` to ``false_high``, and how large a
    share is ``allowed``. Of an iteration a claim is false if the error exceeds the tolerance, which is a part
    of the truth unless the details have an ``absolute_tolerance``; of a random estimator if it exceeds 1.96
    tolerances, and the bound that it states beside; of an exact answer if it is more than rounding. A random
    estimator that does not tell its error claims nothing.
    ``claim_verdict`` as above. ``beyond`` of ``bounded`` answers are further off than the bound that an
    iteration states, which it does with the mean ``chance`` to fail.
    ``answers`` of all kinds; ``failed``: no answer.
    """
    rows = frame[frame["kind"] == "calibration"]
    if rows.empty:
        return pd.DataFrame()
    ok = rows["status"] == "ok"
    answered = rows[ok]
    every = ok.groupby([rows["subject"], rows["label"]]).transform("all")
    own = answered.groupby(["subject", "label"])["value"].transform("mean").where(every[ok])
    answered = answered.assign(truth=answered["expected"].where(answered["expected"].notna(), own))
    checked = pd.DataFrame(
        [_check(row) for row in answered.to_dict("records")], index=answered.index
    )
    together = answered.join(checked)
    failed = rows[rows["status"] != "ok"].groupby(["metric_short", "problem_short"]).size()
    found = []
    for (metric, problem), group in together.groupby(["metric_short", "problem_short"], sort=False):
        source = group["expected_from"].iloc[0]
        found.append(
            {
                "name": group["name"].iloc[0],
                "metric": metric,
                "problem": problem,
                "truth": _truth(group, source),
                **_covered(group),
                **_claims(group),
                "failed": int(failed.get((metric, problem), 0)),
            }
        )
    return pd.DataFrame(found)


def _check(row: dict[str, Any]) -> dict[str, Any]:
    """Of one answer: ``inside`` its interval (None without one), also if it were ``unwidened`` by a bound;
    ``untold``, ``claim`` and ``false``."""
    measurement = Measurement(
        value=row["value"],
        converged=bool(row["converged"]),
        errors=tuple(ErrorComponent(**e) for e in row["errors"]),
        error_bound=None if _missing(row["error_bound"]) else row["error_bound"],
    )
    truth, parameters = row["truth"], row["parameters"]
    off = abs(measurement.value - truth)
    scale = abs(measurement.value if _missing(truth) else truth)
    rounding = ROUNDING[parameters.get("dtype", "float64")] * max(scale, 1e-12)
    bound, interval = measurement.error_bound, measurement.interval(STATED)
    # An error of zero is a claim to be exact.
    states = any(e.size is None or e.size > rounding for e in measurement.errors)
    told = states and interval is not None
    inside = unwidened = None
    if told and interval is not None and not _missing(truth):
        unwidened = off <= interval[1] - measurement.value + rounding
        inside = unwidened or off <= interval[1] - measurement.value + (bound or 0.0) + rounding
    tolerance = parameters.get("tolerance")
    exact = measurement.converged and not bound and not states
    of_all = not any(e.source.startswith("points") for e in measurement.errors)
    known = not _missing(row["expected"])
    # An iteration's own rule can claim what it gives no error for; of random vectors only an error can.
    silent = any(e.size is None and e.source != "other" for e in measurement.errors)
    to_tolerance = measurement.converged and tolerance is not None and not silent
    claim = of_all and known and (exact or to_tolerance)
    details = row.get("details") or {}
    allowed = rounding
    if not exact and tolerance is not None:
        size = details.get("absolute_tolerance", tolerance * abs(truth))
        allowed += size * NORMAL + (bound or 0.0) if told else size
    return {
        "inside": inside,
        "unwidened": unwidened,
        "untold": states and not told,
        "claim": claim,
        "false": claim and off > allowed,
        "bounded": bound is not None and of_all and known and not states,
        "beyond": bound is not None and off > bound + rounding,
        "chance": details.get("failure_probability", 0.0),
        "random": claim and told,
    }


def _truth(group: pd.DataFrame, source: Any) -> str:
    if not _missing(source):
        return str(source)
    return "their mean" if group["truth"].notna().all() else "none"


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _covered(group: pd.DataFrame) -> dict[str, Any]:
    told = group["inside"].dropna().astype(bool)
    n, k = len(told), int(told.sum())
    low, high = binomial_interval(k, n) if n else (math.nan, math.nan)
    share = k / n if n else math.nan
    verdict = "states none" if group["untold"].any() and group["truth"].notna().all() else ""
    if n:
        alone = float(group["unwidened"].dropna().astype(bool).mean())
        verdict = "too small" if share < BAND[0] else WIDE
        if BAND[0] <= share <= BAND[1] or (share > BAND[1] >= alone):
            verdict = "holds"
        elif low <= BAND[1] and high >= BAND[0]:
            verdict = "can't tell"
    return {
        "n": n,
        "covered": share,
        "low": low,
        "high": high,
        "verdict": verdict,
        "untold": int(group["untold"].sum()),
    }


def _claims(group: pd.DataFrame) -> dict[str, Any]:
    claims = group[group["claim"].astype(bool)]
    n, k = len(claims), int(claims["false"].sum())
    low, high = binomial_interval(k, n) if n else (math.nan, math.nan)
    allowed = _FALSE_ADVERSARIAL if bool(group["adversarial"].iloc[0]) else _FALSE_CLAIMS
    if n and claims["random"].any():
        allowed = _FALSE_RANDOM
    verdict = ""
    if n:
        verdict = "holds" if k <= allowed * n else "can't tell" if low <= allowed else "too many"
    return {
        "answers": len(group),
        "claims": n,
        "false": k,
        "false_low": low,
        "false_high": high,
        "allowed": allowed,
        "claim_verdict": verdict,
        "bounded": int(group["bounded"].sum()),
        "beyond": int((group["bounded"] & group["beyond"]).sum()),
        "chance": float(group["chance"].mean()),
    }
