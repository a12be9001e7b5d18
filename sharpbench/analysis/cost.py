"""Costly? Time, memory and work of a measurement, and how they grow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from sharpbench.analysis.results import Results, computed_once
from sharpbench.analysis.statistics import Estimate, line

__all__ = ["AXES", "FOREIGN_CORES", "cost_table", "device_ratios", "exponents", "scaling", "sweeps"]

AXES = {
    "network_parameters": "parameters",
    "samples": "samples",
    "classes": "classes",
    "inputs": "input dimension",
    "order": "highest order",
}
"""Columns along which cost is swept, with what a reader calls them."""

FOREIGN_CORES = 0.5
"""Cores kept busy by other processes beyond which a time was not taken alone."""

_WORKLOAD = ("kind", "activation", "width", "inputs", "classes", "samples")


_MOVES_WITH = {
    "network_parameters": "width",
    "inputs": "network_parameters",
    "classes": "network_parameters",
}


@computed_once
def cost_table(results: Results) -> pd.DataFrame:
    """One row a metric and stratum's model: medians over the timed subjects.

    Columns: ``metric``, ``subject`` (data set and model), ``n`` subjects timed, ``seconds``,
    ``spread`` (median interquartile range over the repeats, seconds), ``repeats``, ``peak_bytes``,
    ``gradients`` (work in gradient-equivalents), ``gradient_times`` (seconds over those of one
    gradient; only from times taken alone on the machine), ``flops``, ``device``, ``threads``,
    ``shared`` (whether other subjects or processes ran beside: such times are not comparable),
    ``unstable`` (whether the times scattered).
    """
    columns = ["metric", "subject", "n", "seconds", "spread", "repeats", "peak_bytes", "gradients",
               "gradient_times", "flops", "device", "threads", "shared", "unstable"]  # fmt: skip
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
            }
        )
    return pd.DataFrame(rows, columns=columns)


def _timed(rows: pd.DataFrame) -> pd.DataFrame:
    """The timed rows, with ``shared``, ``unstable``, ``gradient_times`` and ``flops``."""
    if "cost.median_seconds" not in rows.columns:
        rows = rows.iloc[:0]
        return rows.assign(shared=False, unstable=False, gradient_times=math.nan, flops=math.nan,
                           **{"cost.device": None})  # fmt: skip
    rows = rows[rows["cost.median_seconds"].notna()]

    def column(name: str, default: Any) -> pd.Series:
        found = rows.get(f"cost.{name}", pd.Series(default, index=rows.index))
        return found.astype(object).where(found.notna(), default)

    foreign = column("foreign_cores", 0.0).astype(float) > FOREIGN_CORES
    gradient = column("gradient_seconds", math.nan).astype(float)
    return rows.assign(
        shared=column("shared_machine", False).astype(bool) | foreign,
        unstable=column("unstable", False).astype(bool),
        gradient_times=rows["cost.median_seconds"].astype(float) / gradient,
        flops=column("flops", math.nan).astype(float),
    )


@computed_once
def sweeps(results: Results) -> pd.DataFrame:
    """Costs of workloads along each axis of `AXES`: a row a metric, axis and size.

    A row belongs to an axis if at least two others differ from it in that alone. Columns: ``metric``,
    ``axis``, ``size``, ``group`` (the rest of the workload), ``seconds``, ``spread``, ``peak_bytes``,
    ``gradients``, ``gradient_times``, ``device``, ``shared``, ``unstable``.
    """
    rows = results.of_kind("problem")
    rows = rows[rows["status"] == "ok"]
    if "problem" not in rows or not (rows["problem"] == "workload").any():
        return pd.DataFrame()
    rows = _timed(rows[rows["problem"] == "workload"])
    if rows.empty:
        return pd.DataFrame()
    orders = rows["parameters"].map(lambda p: max(p["orders"]) if "orders" in p else math.nan)
    table = pd.DataFrame(
        {
            "metric": rows["metric_short"].where(orders.isna(), rows["name"].str.replace("_", " ")),
            **{key: rows[f"problem.{key}"] for key in _WORKLOAD},
            "network_parameters": rows["network_parameters"],
            "order": orders,
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
    found = []
    for axis in AXES:
        # A width, or the size of the input or output, moves the number of parameters with it.
        moving = {axis, _MOVES_WITH.get(axis, axis)}
        rest = [c for c in ("metric", "device", *_WORKLOAD, "network_parameters", "order")
                if c not in moving]  # fmt: skip
        for _, group in table.groupby(rest, dropna=False, sort=False):
            if group[axis].nunique() >= 3:
                fixed = ", ".join(f"{c} {group[c].iloc[0]}" for c in ("kind", "activation"))
                found.append(group.assign(axis=axis, size=group[axis], group=fixed))
    if not found:
        return pd.DataFrame()
    return pd.concat(found).sort_values(["axis", "metric", "size"]).reset_index(drop=True)


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
            "axis": AXES[str(axis)],
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
