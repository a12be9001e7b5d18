"""log|dₙ| against the order n, whose slope λ is."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sharpbench.analysis.results import Results, computed_once, stratum

__all__ = ["fitted_orders"]


@computed_once
def fitted_orders(results: Results) -> pd.DataFrame:
    """Mean over seeds of the logarithms that a suite's first λ was fitted to.

    Columns ``stratum``, ``recipe``, ``order``, ``log_derivative``, ``low``, ``high`` (the range over
    seeds), ``fit`` (the least-squares line) and ``metric``.
    """
    rows = results.measured
    told = rows["details"].map(
        lambda d: isinstance(d, dict) and {"orders", "log_derivative"} <= d.keys()
    )
    rows = rows[told.astype(bool)]
    if rows.empty:
        return pd.DataFrame()
    first = rows["metric_short"].iloc[0]
    rows = rows[rows["metric_short"] == first].assign(stratum=lambda f: stratum(f))
    found = []
    for (where, recipe), group in rows.groupby(["stratum", "recipe_short"], sort=False):
        orders = np.array(group["details"].iloc[0]["orders"], dtype=float)
        logs = np.array([d["log_derivative"] for d in group["details"]])
        # Of equal numbers the mean is off by its rounding, and would lie outside of their range.
        middle = logs.mean(0).clip(logs.min(0), logs.max(0))
        line = np.polyval(np.polyfit(orders, middle, 1), orders)
        found += [
            {
                "metric": first,
                "stratum": where,
                "recipe": recipe,
                "order": int(order),
                "log_derivative": middle[i],
                "low": logs[:, i].min(),
                "high": logs[:, i].max(),
                "fit": line[i],
            }
            for i, order in enumerate(orders)
        ]
    return pd.DataFrame(found)
