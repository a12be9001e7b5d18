"""Costly? Time, memory and work of a measurement, and how they grow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from sharpbench.analysis.names import in_reading_order, names_but_for
from sharpbench.analysis.problems import known
from sharpbench.analysis.results import Results, computed_once
from sharpbench.analysis.statistics import Estimate, line

__all__ = ["FOREIGN_CORES", "cost_table", "device_ratios", "exponents", "scaling", "sweeps"]

_PARAMETERS, _ORDER = "network_parameters", "order"

_AXES = {
    _PARAMETERS: "parameters",
    "problem.samples": "samples",
    "problem.classes": "classes",
    "problem.inputs": "input dimension",
    _ORDER: "highest order",
}
"""Columns along which cost is swept, with what a reader calls them. A size of a problem that is none of the
data's is one of its network, which is swept by the number of its parameters."""

FOREIGN_CORES = 0.5
"""Cores kept busy by other processes beyond which a time was not taken alone."""


@computed_once
def cost_table(results: Results) -> pd.DataFrame:
    """One row a metric and stratum's model: medians over the timed subjects.

    Columns: ``metric``, ``subject`` (data set and model), ``n`` subjects timed, ``seconds``,
    ``spread`` (median interquartile range over the repeats, seconds), ``repeats``, ``peak_bytes``,
    ``gradients`` (work in gradient-equivalents), ``gradient_times`` (seconds over those of one
    gradient; only from times taken alone on the machine, and repeated), ``flops``, ``device``, ``threads``,
    ``shared`` (whether other subjects or processes ran beside: such times are not comparable),
    ``unstable`` (whether the times scattered), ``first_call`` (whether one is that of a first call, with all
    that this sets up: no repeat was asked for).
    """
    columns = ["metric", "subject", "n", "seconds", "spread", "repeats", "peak_bytes", "gradients",
               "gradient_times", "flops", "device", "threads", "shared", "unstable",
               "first_call"]  # fmt: skip
    timed = _timed(results.measured)
    rows = []
    for (metric, dataset, model, device), group in timed.groupby(
        ["metric_short", "dataset", "model_short", "cost.device"]
    ):
        alone = group[~group["shared"]]
        rows.append(
            {
                "metric": metric,
                "subject": f"{dataset} · {model}",
                "n": len(group),
                "seconds": group["cost.median_seconds"].median(),
                "spread": group["cost.spread_seconds"].astype(float).median(),
                "repeats": int(group["cost.seconds"].map(len).min()),
                "peak_bytes": group["cost.peak_bytes"].astype(float).median(),
                "gradients": group["gradient_equivalents"].median(),
                "gradient_times": alone["gradient_times"].median(),
                "flops": group["flops"].median(),
                "device": device,
                "threads": int(group["cost.threads"].iloc[0]),
                "shared": bool(group["shared"].any()),
                "unstable": bool(group["unstable"].any()),
                "first_call": bool(group["first_call"].any()),
            }
        )
    return in_reading_order(pd.DataFrame(rows, columns=columns), "metric", "subject")


def _timed(rows: pd.DataFrame) -> pd.DataFrame:
    """The timed rows, with ``shared``, ``unstable``, ``first_call``, ``gradient_times`` and ``flops``."""
    if "cost.median_seconds" not in rows.columns:
        rows = rows.iloc[:0]
        return rows.assign(shared=False, unstable=False, first_call=False, gradient_times=math.nan,
                           flops=math.nan, **{"cost.device": None})  # fmt: skip
    rows = rows[rows["cost.median_seconds"].notna()].copy()  # in few blocks: columns are added

    def column(name: str, default: Any) -> pd.Series:
        found = rows.get(f"cost.{name}", pd.Series(default, index=rows.index))
        return found.astype(object).where(found.notna(), default)

    foreign = column("foreign_cores", 0.0).astype(float) > FOREIGN_CORES
    gradient = column("gradient_seconds", math.nan).astype(float)
    seconds = rows["cost.median_seconds"].astype(float)
    first = seconds == column("first_seconds", math.nan).astype(float)  # there was no other call
    return rows.assign(
        shared=column("shared_machine", False).astype(bool) | foreign,
        unstable=column("unstable", False).astype(bool),
        first_call=first,
        gradient_times=(seconds / gradient).where(~first),
        flops=column("flops", math.nan).astype(float),
    )


@computed_once
def sweeps(results: Results) -> pd.DataFrame:
    """Costs along each size that is varied alone: a row a metric, axis and size.

    Of problems of which nothing is known, which are there for their cost. An axis is the number of
    network parameters (as one parameter of the problem varies), a size of the data, or the highest order of
    the metric; a row belongs to it if at least two others differ from it in that alone. Columns:
    ``metric``, ``axis`` (what a reader calls it), ``size``, ``group`` (the rest of the workload, in words
    and by what tells it from others), ``seconds``, ``spread``, ``peak_bytes``, ``gradients``,
    ``gradient_times``, ``device``, ``shared``, ``unstable``.
    """
    rows = results.of_kind("problem")
    if rows.empty:
        return pd.DataFrame()
    rows = _timed(rows[(rows["status"] == "ok") & ~known(rows)])
    if rows.empty:
        return pd.DataFrame()
    orders = rows["parameters"].map(lambda p: max(p["orders"]) if "orders" in p else math.nan)
    titles = rows["name"].map(results.title)
    problem = rows[[c for c in rows if c.startswith("problem.")]]
    words = [c for c in problem if not pd.api.types.is_numeric_dtype(problem[c])]
    problem = problem.assign(**{c: problem[c].map(str, na_action="ignore") for c in words})
    table = problem.assign(
        **{
            "metric": names_but_for("orders", rows["label"], titles, rows["parameters"]),
            "problem": rows["problem"],
            _PARAMETERS: rows["network_parameters"],
            _ORDER: orders,
            "seconds": rows["cost.median_seconds"].astype(float),
            "spread": rows["cost.spread_seconds"].astype(float),
            "peak_bytes": rows["cost.peak_bytes"].astype(float),
            "gradients": rows["gradient_equivalents"],
            "gradient_times": rows["gradient_times"],
            "device": rows["cost.device"],
            "shared": rows["shared"],
            "unstable": rows["unstable"],
        }
    )
    of_network = [c for c in problem if c not in {*words, *_AXES}]
    found = []
    for axis, title in _AXES.items():
        if axis not in table:
            continue
        for moving in of_network if axis == _PARAMETERS else [axis]:
            # The number of network parameters follows from the problem's, and moves with them.
            held = [c for c in problem if c != moving]
            rest = [c for c in ("metric", "device", "problem", *held, _ORDER) if c != moving]
            for _, group in table.groupby(rest, dropna=False, sort=False):
                if group[axis].nunique() >= 3:
                    found.append(
                        group.assign(
                            axis=title,
                            size=group[axis],
                            held=[tuple(group[held].iloc[0].dropna().items())] * len(group),
                        )
                    )
    if not found:
        return pd.DataFrame()
    swept = pd.concat(found, ignore_index=True)
    swept["group"] = _workloads(swept, frozenset(words))
    swept["axis"] = pd.Categorical(swept["axis"], [*_AXES.values()])
    swept = swept.sort_values(["axis", "metric", "size"]).astype({"axis": str})
    return swept.reset_index(drop=True)


def _workloads(swept: pd.DataFrame, words: frozenset[str]) -> pd.Series:
    """What is held along each row's axis: the parameters in words, and numbers that tell workloads apart."""
    found = pd.Series("", index=swept.index)
    for _, rows in swept.groupby(["axis", "metric", "device"]):
        each = {held: dict(held) for held in rows["held"]}
        columns = dict.fromkeys(column for held in each.values() for column in held)
        told = [c for c in columns if c in words or len({str(h.get(c)) for h in each.values()}) > 1]
        found[rows.index] = rows["held"].map(
            {
                held: ", ".join(
                    f"{c.removeprefix('problem.').replace('_', ' ')} {own[c]}"
                    for c in told
                    if c in own
                )
                for held, own in each.items()
            }
        )
    return found


@computed_once
def scaling(results: Results) -> pd.DataFrame:
    """How cost grows along the `sweeps`, by `exponents`."""
    return exponents(sweeps(results))


def exponents(swept: pd.DataFrame) -> pd.DataFrame:
    """Fitted exponents of time, memory and work against size, each an `Estimate`, or None.

    A row a metric and axis of `sweeps`: least squares of log cost on log size over the sizes (``n``),
    Student's t interval; figures taken beside other work are left out.
    """
    rows = []
    if swept.empty:
        return pd.DataFrame()
    for (axis, metric, group_name, device), group in swept[~swept["shared"]].groupby(
        ["axis", "metric", "group", "device"], sort=False
    ):
        row: dict[str, Any] = {
            "axis": axis,
            "metric": metric,
            "workload": group_name,
            "device": device,
            "n": len(group),
            "smallest": group["size"].min(),
            "largest": group["size"].max(),
            "gradient_times": group["gradient_times"].median(),
        }
        for column, short in (("seconds", "time"), ("peak_bytes", "memory"), ("gradients", "work")):
            row[short] = _exponent(group["size"], group[column])
        rows.append(row)
    return pd.DataFrame(rows)


def _exponent(size: pd.Series, cost: pd.Series) -> Estimate | None:
    good = (cost > 0).to_numpy() & cost.notna().to_numpy()
    if good.sum() < 3 or len(set(size[good])) < 3:
        return None
    return line(np.log(size[good].to_numpy(float)), np.log(cost[good].to_numpy(float)))


@computed_once
def device_ratios(results: Results) -> pd.DataFrame:
    """Time on the CPU over time on each other device, for measurements made on both."""
    swept = sweeps(results)
    if swept.empty or swept["device"].nunique() < 2:
        return pd.DataFrame()
    alone = swept[~swept["shared"]]
    times = alone.pivot_table(
        index=["metric", "axis", "group", "size"], columns="device", values="seconds"
    )
    if "cpu" not in times:
        return pd.DataFrame()
    ratios = times.drop(columns="cpu").rdiv(times["cpu"], axis=0)
    long = ratios.reset_index().melt(
        id_vars=["metric", "axis", "group", "size"], var_name="device", value_name="ratio"
    )
    return long.dropna(subset="ratio")
