"""Right? Metrics against problems with known answers, λ against derivatives of every order among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sharpbench.analysis.names import names_but_for
from sharpbench.analysis.numbers import number
from sharpbench.analysis.results import Results, computed_once, random_error, scatter_of_error
from sharpbench.analysis.statistics import ROUNDING, beyond

__all__ = [
    "accuracy",
    "answers",
    "by_dimension",
    "by_orders",
    "checked",
    "definitions",
    "estimation_error",
    "known",
    "solved",
    "traps",
]


_DEFINITION = ("orders", "normalization", "norm", "fit", "weight_decay", "directions",
               "direction_law", "samples")  # fmt: skip
"""What defines the growth of derivatives with their order: a metric with all of these parameters is one."""


@computed_once
def solved(results: Results) -> pd.DataFrame:
    """Answers of metrics that fit the growth of derivatives with their order (λ), one row each: ``problem``,
    ``function`` (the same for one function in every dimension), ``dimension``, ``seed``, the metric's
    parameters as columns, ``first_order`` and ``last_order``, ``value``, ``standard_error``, ``expected``,
    ``limit``, ``diverges``."""
    rows = _answered(results)
    rows = rows[_is_growth(rows)]
    rows = rows[known(rows)]  # a workload is there for its cost alone
    if rows.empty:
        return pd.DataFrame()
    parameters = pd.DataFrame(rows["parameters"].tolist(), index=rows.index)
    orders = parameters["orders"]
    named = rows[
        ["seed", "value", "standard_error", "expected", "limit", "diverges", "metric_short"]
    ]
    which = rows["name"].map(results.title) + ": " if len(set(rows["name"])) > 1 else ""
    columns = {c: c.removeprefix("problem.") for c in rows if c.startswith("problem.")}
    of_problems = rows[[*columns]].rename(columns=columns)
    dimensions = of_problems.get(_DIMENSION, pd.Series(1, index=rows.index))
    own = pd.Series(of_problems.to_dict("records"), index=rows.index)
    return pd.concat(
        [
            named,
            parameters.drop(columns="orders"),
            pd.DataFrame(
                {
                    "problem": which + rows["problem_short"],
                    "function": which
                    + names_but_for(_DIMENSION, rows["problem_label"], _titles(rows), own),
                    "dimension": dimensions.fillna(1).astype(int),
                    "first_order": orders.map(min),
                    "last_order": orders.map(max),
                    "steps": orders.map(len),
                }
            ),
        ],
        axis=1,
    ).reset_index(drop=True)


_DIMENSION = "dimension"
"""The parameter of a problem that is its number of variables."""


def _answered(results: Results) -> pd.DataFrame:
    rows = results.of_kind("problem")
    return rows[rows["status"] == "ok"]


def _is_growth(rows: pd.DataFrame) -> pd.Series:
    return rows["parameters"].map(lambda own: set(_DEFINITION) <= own.keys()).astype(bool)


def known(rows: pd.DataFrame) -> pd.Series:
    """Whether of each row's problem something is known: what some metric should say of it."""
    told = pd.Series(False, index=rows.index)
    for column in ("expected", "limit", "diverges"):
        if column in rows:
            told |= rows[column].notna()
    return told.groupby(rows["problem_label"]).transform("any").astype(bool)


def _titles(rows: pd.DataFrame) -> pd.Series:
    if "problem_title" not in rows:
        return rows["problem"]
    return rows["problem_title"].where(rows["problem_title"].notna(), rows["problem"])


@computed_once
def accuracy(results: Results) -> pd.DataFrame:
    """Metrics that are no `solved` growth against known answers: a row a metric (with its implementation)
    and problem.

    ``family``: its implementation and method. ``error`` and ``worst``: median and largest
    |value − exact|/|exact| over ``n`` seeds (|value| where the exact value is 0); ``beyond``: the
    share beyond three standard errors told, or as many more as few random numbers excuse, and beyond
    rounding, to which probes can agree by luck (NaN where none is told); ``converged``: the share that said
    so; ``gradients`` and ``seconds``: medians (seconds where timed).
    """
    rows = _answered(results)
    rows = rows[~_is_growth(rows) & rows["expected"].notna()]
    if rows.empty:
        return pd.DataFrame()
    off = (rows["value"] - rows["expected"]).abs()
    timed = "cost.median_seconds" in rows
    needed = beyond(rows["standard_error"], scatter_of_error(rows, random_error))
    rounding = rows["parameters"].map(lambda own: ROUNDING[own.get("dtype", "float64")])
    allowed = np.fmax(needed * rows["standard_error"], rounding * rows["expected"].abs())
    errors = pd.DataFrame(
        {
            "name": rows["name"],
            "metric": rows["metric_short"],
            "family": rows["parameters"].map(_family),
            "problem": rows["problem_short"],
            "error": off / rows["expected"].abs().replace(0.0, 1.0),
            "beyond": (off > allowed).where(rows["standard_error"].notna()),
            "converged": rows["converged"].astype(bool),
            "gradients": rows["gradient_equivalents"],
            "seconds": rows["cost.median_seconds"] if timed else np.nan,
        }
    )
    grouped = errors.groupby(["name", "problem", "metric", "family"], sort=False)
    found = grouped.agg(
        n=("error", "size"),
        error=("error", "median"),
        worst=("error", "max"),
        beyond=("beyond", "mean"),
        converged=("converged", "mean"),
        gradients=("gradients", "median"),
        seconds=("seconds", "median"),
    ).reset_index()
    return found.astype({"beyond": float})


def _family(parameters: Mapping[str, Any]) -> str:
    """The implementation, and the method of the native one: what has one line in a figure of cost."""
    implementation = str(parameters.get("implementation", "native"))
    method = parameters.get("method")
    return (
        f"{implementation}, {method}" if method and implementation == "native" else implementation
    )


@computed_once
def traps(results: Results) -> list[dict[str, Any]]:
    """Where implementations are known to go wrong: a row a problem, metric and implementation.

    ``trap``: the wrong answer that the problem provokes. Over all seeds: how often it was ``asked``, how
    many ``answered``, how many of these were ``wrong`` (further off than three standard errors, more where
    few random numbers tell them, and than 1%), and how many of the wrong ones said that they had converged
    (``claimed``); how many allow so much that 0 would be right as well (``open``). Of the answer that is
    furthest off for what it allows: ``exact``, ``value`` or the ``reason`` why there is none, and
    ``standard_error``. ``verdict``: ``right`` if none is wrong, or ``can't tell`` if at least half are
    open, ``wrong`` if at least half are, else ``sometimes wrong``, both with ``, and says converged`` if
    one does, or ``no answer``. Empty for records of older versions, which tell no trap.
    """
    rows = results.of_kind("problem")
    if "trap" not in rows:
        return []
    rows = rows[rows["trap"].notna() & rows["expected"].notna()]
    off = (rows["value"].astype(float) - rows["expected"].astype(float)).abs()
    allowed = _allowed(rows)
    answered = rows["status"] == "ok"
    rows = rows.assign(
        answered=answered,
        excess=(off / allowed).where(answered, -1.0),
        wrong=answered & ~(off <= allowed),
        open=answered & (off <= allowed) & _open(rows, allowed),
    )
    rows = rows.assign(claimed=rows["wrong"] & rows["converged"].eq(True))
    table = []
    for _, own in rows.groupby(["problem_short", "metric_short"], sort=False):
        worst = own.loc[own["excess"].fillna(np.inf).idxmax()]
        n, wrong, claimed, open_ = (
            int(own[c].sum()) for c in ("answered", "wrong", "claimed", "open")
        )
        verdict = "can't tell" if n and 2 * open_ >= n else "right" if n else "no answer"
        if wrong:
            verdict = "wrong" if 2 * wrong >= n else "sometimes wrong"
            verdict += ", and says converged" if claimed else ""
        table.append(
            {
                "problem": worst["problem_short"],
                "trap": worst["trap"],
                "metric": worst["metric_short"],
                "name": worst["name"],
                "asked": len(own),
                "answered": n,
                "wrong": wrong,
                "open": open_,
                "claimed": claimed,
                "exact": worst["expected"],
                "value": worst["value"] if n else None,
                "standard_error": worst["standard_error"] if n else None,
                "reason": worst["reason"],
                "verdict": verdict,
            }
        )
    return table


def _allowed(rows: pd.DataFrame) -> pd.Series:
    """How far each answer may be from the exact one: three standard errors, more where few random numbers
    tell them, or 1% of it."""
    error = rows["standard_error"].astype(float)
    noise = beyond(error, scatter_of_error(rows, random_error)) * error
    return pd.Series(np.fmax(noise, 0.01 * rows["expected"].astype(float).abs()), index=rows.index)


def _open(rows: pd.DataFrame, allowed: pd.Series) -> pd.Series:
    """Whether an answer is allowed to be off by as much as the exact one's size: 0 would be right, too.

    The growth of derivatives is a logarithm, of which 0 is as good a figure as any: a factor of e an order.
    """
    size = rows["expected"].astype(float).abs()
    size = size.where(~_is_growth(rows), size.clip(lower=1.0))
    return (size > _ZERO) & (allowed >= size)


@computed_once
def checked(results: Results) -> pd.DataFrame:
    """Every answer whose exact value is known, of all seeds: ``name``, ``metric``, ``parameters``,
    ``problem``, ``seed``, and the ``verdict``.

    ``right`` as the `traps` are judged (off an exact 0 by up to 0.01), also within the bound that an
    iteration states, and, of one that states no error, within the tolerance that it claims; else ``wrong``,
    or ``can't tell`` if it says itself that it has not converged or does not know its error; ``too wide`` is
    one that is right by errors with which 0 would be right, too.
    """
    rows = _answered(results)
    columns = ["name", "metric", "parameters", "problem", "seed", "verdict"]
    if rows.empty or "expected" not in rows:
        return pd.DataFrame(columns=columns)
    rows = rows[rows["expected"].notna()]
    expected = rows["expected"].astype(float)
    size = expected.abs().where(expected.abs() > _ZERO, 1.0)
    error = random_error(rows)
    claimed = rows["parameters"].map(lambda own: own.get("tolerance") or 0.0).astype(float) * size
    bound = rows.get("error_bound", pd.Series(0.0, index=rows.index)).astype(float).fillna(0)
    allowed = np.fmax(_allowed(rows), 0.01 * size) + bound
    allowed = np.fmax(allowed, claimed.where(error == 0, 0.0))
    off = (rows["value"].astype(float) - expected).abs()
    told = rows["converged"].astype(bool) & error.notna()
    right = np.where(_open(rows, _allowed(rows)), "too wide", "right")
    verdict = np.where(off <= allowed, right, np.where(told, "wrong", "can't tell"))
    found = rows[["name", "parameters", "seed"]].assign(
        metric=rows["metric_short"], problem=rows["problem_short"], verdict=verdict
    )
    return found[columns].reset_index(drop=True)


_ZERO = 1e-12
"""An exact answer below it is 0 but for rounding."""


@computed_once
def by_orders(results: Results) -> pd.DataFrame:
    """Plain least-squares fits from order 1 on, averaged over points: how λ goes on with the orders."""
    rows = solved(results)
    if rows.empty:
        return rows
    plain = rows[
        (rows["first_order"] == 1)
        & (rows["fit"] == "least_squares")
        & (rows["norm"] == "geometric_mean")
        & (rows["dimension"] == 1)
        & (rows["steps"] == rows["last_order"])
        & (rows["weight_decay"] == 0)
    ]
    several = plain.groupby("problem")["last_order"].transform("nunique") > 2
    return plain[several].sort_values(["problem", "normalization", "last_order"])


@computed_once
def definitions(results: Results) -> list[dict[str, Any]]:
    """A row a problem: both definitions at the paper's orders 1–4, at the most orders, in the limit."""
    table: list[dict[str, Any]] = []
    rows = by_orders(results)
    if rows.empty:
        return table
    for problem, group in rows.groupby("problem", sort=False):
        entry: dict[str, Any] = {"problem": problem}
        for definition, own in group.groupby("normalization"):
            at_four = own[own["last_order"] == 4]
            last = own.iloc[-1]
            entry[str(definition)] = {
                "at_four": float(at_four["value"].iloc[0]) if len(at_four) else None,
                "at_most": float(last["value"]),
                "most": int(last["last_order"]),
                "limit": last["diverges"] if isinstance(last["diverges"], str) else last["limit"],
                "diverges": isinstance(last["diverges"], str),
                "error": float((own["value"] - own["expected"]).abs().max()),
            }
        table.append(entry)
    return table


@computed_once
def by_dimension(results: Results) -> pd.DataFrame:
    """Answers to one problem in several dimensions, by law of directions and norm."""
    rows = solved(results)
    if rows.empty:
        return rows
    laws = rows.assign(
        law=np.where(
            rows["norm"] == "geometric_mean",
            rows["direction_law"],
            rows["norm"] + ", " + rows["direction_law"],
        )
    )
    several = (
        laws.groupby(["law", "function", "metric_short"])["dimension"].transform("nunique") > 2
    )
    return laws[several]


@computed_once
def estimation_error(results: Results) -> pd.DataFrame:
    """Root mean square of estimate − exact over seeds, against ``directions`` and ``samples``.

    ``axis`` says which of the two varies, ``amount`` its value, ``seeds`` how many runs.
    """
    found: list[dict[str, Any]] = []
    rows = solved(results)
    if rows.empty:
        return pd.DataFrame()
    several = rows.assign(amount=rows["samples"].map(lambda s: s if isinstance(s, int) else None))
    for (problem, norm), group in several.groupby(["problem", "norm"], sort=False):
        for axis, own in (
            (
                "directions a point",
                group[group["amount"].isna()].assign(x=lambda g: g["directions"]),
            ),
            ("points", group[group["amount"].notna()].assign(x=lambda g: g["amount"])),
        ):
            if own["x"].nunique() < 3 or own["seed"].nunique() < 5:
                continue
            for amount, at in own.groupby("x"):
                error = (at["value"] - at["expected"]).to_numpy(float)
                found.append(
                    {
                        "problem": problem,
                        "norm": norm,
                        "axis": axis,
                        "amount": float(amount),
                        "rms": float(np.sqrt(np.mean(error**2))),
                        "told": float(np.sqrt(np.mean(at["standard_error"].astype(float) ** 2))),
                        "seeds": len(at),
                    }
                )
    return pd.DataFrame(found)


@computed_once
def answers(results: Results) -> list[dict[str, Any]]:
    """Every answer in `solved`: ``problem``, ``definition`` (in a few words), ``seed``,
    ``value``, ``standard_error``, ``expected``, ``limit`` (a number, or ``+∞`` or ``−∞``)."""
    return [
        {
            **{k: row[k] for k in ("problem", "seed", "value", "standard_error", "expected")},
            "definition": _definition(row),
            "limit": row["diverges"] if isinstance(row["diverges"], str) else row["limit"],
        }
        for row in solved(results).to_dict("records")
    ]


def _definition(row: dict[str, Any]) -> str:
    """λ's definition in a few words."""
    raw = "raw" if row["normalization"] == "none" else "factorial"
    orders = f"{row['steps']} orders {row['first_order']}–{row['last_order']}"
    many = f"{row['directions']} {row['direction_law']} direction" + "s" * (row["directions"] > 1)
    points = "all points" if row["samples"] == "all" else f"{row['samples']} points"
    words = [raw, orders, row["norm"].replace("_", " "), many, points]
    if row["fit"] != "least_squares":
        words.append(row["fit"].replace("_", " "))
    if row["weight_decay"]:
        words.append(f"weights 1/(1 + {number(row['weight_decay'], 6)} n)")
    return ", ".join(words)
