"""Right? The curvature rate against problems whose derivatives are known at every order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

__all__ = [
    "accuracy",
    "by_dimension",
    "by_orders",
    "definitions",
    "estimation_error",
    "sentences",
    "solved",
    "traps",
]


def solved(frame: pd.DataFrame) -> pd.DataFrame:
    """Answered problems, one row an answer: ``problem``, ``seed``, the metric's parameters as columns,
    ``first_order`` and ``last_order``, ``value``, ``standard_error``, ``expected``, ``limit``,
    ``diverges``."""
    rows = frame[(frame["kind"] == "problem") & (frame["status"] == "ok")]
    rows = rows[rows["name"] == "curvature_rate"]
    told = rows["expected"].notna() | rows["limit"].notna() | rows["diverges"].notna()
    known = told.groupby(rows["problem_label"]).transform("any")
    rows = rows[known.astype(bool)]  # a workload is there for its cost alone
    if rows.empty:
        return pd.DataFrame()
    parameters = pd.DataFrame(rows["parameters"].tolist(), index=rows.index)
    orders = parameters["orders"]
    named = rows[
        ["seed", "value", "standard_error", "expected", "limit", "diverges", "metric_short"]
    ]
    dimensions = (
        rows["problem.dimension"].fillna(1).astype(int)
        if "problem.dimension" in rows
        else pd.Series(1, index=rows.index)
    )
    return pd.concat(
        [
            named,
            parameters.drop(columns="orders"),
            pd.DataFrame(
                {
                    "problem": rows["problem_short"],
                    "dimension": dimensions,
                    "first_order": orders.map(min),
                    "last_order": orders.map(max),
                    "steps": orders.map(len),
                }
            ),
        ],
        axis=1,
    ).reset_index(drop=True)


def accuracy(frame: pd.DataFrame) -> pd.DataFrame:
    """Other metrics than λ against known answers: a row a metric (with its implementation) and problem.

    ``family``: its implementation and method. ``error`` and ``worst``: median and largest
    |value − exact|/|exact| over ``n`` seeds (|value| where the exact value is 0); ``beyond``: the
    share beyond three standard errors told (NaN where none is); ``converged``: the share that said so;
    ``gradients`` and ``seconds``: medians (seconds where timed).
    """
    rows = frame[(frame["kind"] == "problem") & (frame["status"] == "ok")]
    rows = rows[(rows["name"] != "curvature_rate") & rows["expected"].notna()]
    if rows.empty:
        return pd.DataFrame()
    off = (rows["value"] - rows["expected"]).abs()
    timed = "cost.median_seconds" in rows
    table = pd.DataFrame(
        {
            "name": rows["name"],
            "metric": rows["metric_short"],
            "family": rows["parameters"].map(_family),
            "problem": rows["problem_short"],
            "error": off / rows["expected"].abs().replace(0.0, 1.0),
            "beyond": (off > 3 * rows["standard_error"]).where(rows["standard_error"].notna()),
            "converged": rows["converged"].astype(bool),
            "gradients": rows["gradient_equivalents"],
            "seconds": rows["cost.median_seconds"] if timed else np.nan,
        }
    )
    grouped = table.groupby(["name", "problem", "metric", "family"], sort=False)
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


def traps(frame: pd.DataFrame, known: Mapping[str, str]) -> list[dict[str, Any]]:
    """Where implementations are known to go wrong: a row a problem, metric and implementation.

    ``known``: problem label to the wrong answer it provokes. Of the lowest seed: ``exact``, ``value`` or
    the ``reason`` why there is none, ``converged`` as told, ``verdict``: ``right`` (within three standard
    errors or 1%), ``wrong``, ``wrong, and says converged`` or ``no answer``.
    """
    rows = frame[(frame["kind"] == "problem") & frame["problem_label"].isin(known.keys())]
    rows = rows[rows["expected"].notna() & (rows["seed"] == rows["seed"].min())]
    table = []
    for row in rows.to_dict("records"):
        answered = row["status"] == "ok"
        entry = {
            "problem": row["problem_short"],
            "trap": known[row["problem_label"]],
            "metric": row["metric_short"],
            "name": row["name"],
            "exact": row["expected"],
            "value": row["value"] if answered else None,
            "standard_error": row["standard_error"] if answered else None,
            "converged": bool(row["converged"]) if answered else False,
            "reason": row["reason"],
            "verdict": "no answer",
        }
        if answered:
            error = row["standard_error"]
            allowed = max(3 * error if error == error else 0.0, 0.01 * abs(row["expected"]))
            right = abs(row["value"] - row["expected"]) <= allowed
            claimed = ", and says converged" if entry["converged"] else ""
            entry["verdict"] = "right" if right else f"wrong{claimed}"
        table.append(entry)
    return table


def by_orders(rows: pd.DataFrame) -> pd.DataFrame:
    """Plain least-squares fits from order 1 on, averaged over points: how λ goes on with the orders."""
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


def definitions(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """A row a problem: both definitions at the paper's orders 1–4, at the most orders, in the limit."""
    table: list[dict[str, Any]] = []
    if rows.empty:
        return table
    for problem, group in by_orders(rows).groupby("problem", sort=False):
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


def by_dimension(rows: pd.DataFrame) -> pd.DataFrame:
    """Answers to one problem in several dimensions, by law of directions and norm."""
    if rows.empty:
        return rows
    laws = rows.assign(
        law=np.where(
            rows["norm"] == "geometric_mean",
            rows["direction_law"],
            rows["norm"] + ", " + rows["direction_law"],
        ),
        function=rows["problem"].str.replace(r"dimension \d+(, )?", "", regex=True),
    )
    several = (
        laws.groupby(["law", "function", "metric_short"])["dimension"].transform("nunique") > 2
    )
    return laws[several]


def estimation_error(rows: pd.DataFrame) -> pd.DataFrame:
    """Root mean square of estimate − exact over seeds, against ``directions`` and ``samples``.

    ``axis`` says which of the two varies, ``amount`` its value, ``seeds`` how many runs.
    """
    found = []
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


def sentences(rows: pd.DataFrame, others: pd.DataFrame) -> list[str]:
    """What the problems say, in words: of λ (`solved`) and of other metrics (`accuracy`)."""
    return _of_the_rate(rows) + _of_others(others)


def _of_others(others: pd.DataFrame) -> list[str]:
    """One sentence a metric and implementation, at its setting with the smallest median error."""
    found: list[str] = []
    if others.empty:
        return found
    for _, group in others.groupby(["name", "family"], sort=False):
        medians = group.groupby("metric", sort=False)["error"].median()
        best = group[group["metric"] == medians.idxmin()]
        worst = best.loc[best["worst"].idxmax()]
        text = (
            f"{worst['metric']} is {best['error'].median():.2g} (relative) off the exact value in the "
            f"median over {len(best)} problems, {worst['worst']:.2g} at worst ({worst['problem']})"
        )
        wrong = group[(group["worst"] > 0.5) & (group["converged"] == 1)]
        if len(wrong):
            places = ", ".join(dict.fromkeys(wrong["problem"]))
            text += f"; wrong by more than half on {places}, and says it converged"
        found.append(text + ".")
    return found


def _of_the_rate(rows: pd.DataFrame) -> list[str]:
    if rows.empty:
        return []
    exact = rows[(rows["norm"] == "geometric_mean") & (rows["dimension"] == 1)]
    off = (exact["value"] - exact["expected"]).abs().dropna()
    found = []
    if len(off):
        found.append(
            f"On problems of one variable λ differs from its value by exact derivatives by at most "
            f"{off.max():.0e} ({len(off)} answers, orders up to {exact['last_order'].max()})."
        )
    table = definitions(rows)
    for key, name in (("none", "λ raw"), ("factorial", "λ with factorials divided out")):
        diverging = [row["problem"] for row in table if row.get(key, {}).get("diverges")]
        if diverging:
            found.append(f"{name} has no limit on {', '.join(diverging)}.")
    limited = [
        abs(row[key]["at_four"] - row[key]["limit"])
        for row in table
        for key in ("none", "factorial")
        if key in row and not row[key]["diverges"] and row[key]["at_four"] is not None
    ]
    if limited:
        found.append(
            f"Where there is a limit, orders 1 to 4 miss it by {np.median(limited):.2f} in the median and "
            f"{max(limited):.2f} at most."
        )
    return found
