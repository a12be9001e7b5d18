"""How alike a metric ranks networks when it is asked of them twice: what no rank correlation can exceed."""

from __future__ import annotations

from collections.abc import Mapping

from sharpbench.analysis.invariance import FEWEST_RANKED, changes
from sharpbench.analysis.rank_correlation import Association, kendall
from sharpbench.analysis.results import Results, computed_once, seeds, stratum

__all__ = ["noise_ceilings"]


@computed_once
def noise_ceilings(results: Results) -> Mapping[str, Association]:
    """Kendall's τ-b of each metric with itself, by its short name: before and after a mere permutation.

    A permutation of neurons, channels or heads leaves the network what it is, and a metric that promises to
    stay differs after it by its own random numbers alone, as if it were asked again with others (test–retest
    reliability; what ranks with τ = 0.4 like itself can't rank like anything else much better). Within equal
    data and model, with the 95% interval over seeds; of several permutations that of the most networks.
    Missing below `FEWEST_RANKED` networks, and for a metric that does not promise it.

    Points and directions of the input stay the same in both: what these add to the noise is not in it.
    """
    frame, moved = results.frame, changes(results)
    if moved.empty or "transformation_kind" not in frame:
        return {}
    of_kind = frame[frame["transformation_kind"] == "permutation"]
    rows = moved[moved["transformation"].isin(of_kind["transformation"]) & moved["keeps_function"]]
    rows = rows[rows["promised"].eq(True)].drop_duplicates(["metric", "transformation", "subject"])
    first = frame[frame["dataset_short"].notna()].drop_duplicates("subject").set_index("subject")
    strata = stratum(first)
    found: dict[str, Association] = {}
    for (metric, _), own in rows.groupby(["metric", "transformation"], sort=False):
        before = found.get(metric)
        if len(own) < max(FEWEST_RANKED, before.n + 1 if before else 0):
            continue
        same = kendall(
            own["before"].to_numpy(float),
            own["after"].to_numpy(float),
            strata.reindex(own["subject"]).to_numpy(),
            seeds(first.loc[own["subject"]]),
        )
        if same is not None:
            found[metric] = same
    return found
