"""Where the spread over networks comes from: data, initialization or training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharpbench.analysis.results import Results
from sharpbench.analysis.seed_streams import apart, spreads
from sharpbench.report.sections.base import Section
from sharpbench.seeds import STREAMS

__all__ = ["Streams"]


@dataclass(frozen=True)
class Streams(Section):
    """The standard deviation of each figure as the seed of the data, the initial weights or the training
    is exchanged and no other: of suites that give these streams seeds of their own."""

    name, title, link, place = "streams", "Where the spread comes from", "Seeds", 45

    def applies(self, results: Results) -> bool:
        return apart(results)

    def subtitle(self, results: Results) -> str:
        return "data, initial weights or the order of training"

    def sentences(self, results: Results) -> list[str]:
        rows = spreads(results)
        clear = []
        for row in rows[rows["name"] == "test_error"].to_dict("records"):
            told = {s: row[s] for s in STREAMS if row[s] is not None}
            most = max(told, key=lambda s: told[s].value, default="")
            if len(told) > 1 and all(told[most].low > told[s].high for s in told if s != most):
                clear.append(f"{row['stratum']}, {row['recipe']}: {most}")
        if not clear:
            return []
        return [f"Of the seeds the test error spreads most with that of: {'; '.join(clear)}."]

    def tables(self, results: Results) -> Mapping[str, Any]:
        return {"spreads": spreads(results)}
