"""The section of the report that holds arXiv:2511.01438 against what is measured."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sharpbench.analysis.audit import Evidence, claims_table, with_first_rules
from sharpbench.analysis.results import Results, computed_once
from sharpbench.paper.claims import CLAIMS
from sharpbench.paper.evidence import SUITES
from sharpbench.paper.figures import figure_one
from sharpbench.paper.questions import QUESTIONS
from sharpbench.report.audit import reason
from sharpbench.report.sections.base import Picture, Section

__all__ = ["PaperSection"]

_VERDICTS = (
    "reproduced",
    "reproduced in direction",
    "contradicted",
    "inconclusive",
    "can't be tested",
    "not run",
)

_FIGURE_ONE = {"adam": "Adam", "crr": "CRR, scale 0.003"}


@dataclass(frozen=True)
class PaperSection(Section):
    """The audit of arXiv:2511.01438, from every suite of it that has run in this results folder."""

    name, title, link, place = "paper", "The paper, checked", "The paper", 10

    def applies(self, results: Results) -> bool:
        return results.suite in SUITES and results.store is not None

    def subtitle(self, results: Results) -> str:
        return "arXiv:2511.01438, claim by claim"

    def sentences(self, results: Results) -> list[str]:
        found = _claims(results)["verdict"].value_counts()
        told = ", ".join(f"{found[word]} {word}" for word in _VERDICTS if word in found)
        return [f"Of {found.sum()} claims: {told}."]

    def tables(self, results: Results) -> Mapping[str, Any]:
        rows = _claims(results).to_dict("records")
        if results.store:
            rows = with_first_rules(results.store, "paper", rows)
        questions = claims_table(_frames(results), QUESTIONS).to_dict("records")
        return {
            name: [{**row, "reason": reason(row)} for row in table]
            for name, table in (("claims", rows), ("questions", questions))
        }

    def pictures(self, results: Results) -> Iterable[Picture]:
        frame = _frames(results).get("paper_two_moons")
        if frame is None:
            return
        rows = frame[(frame["kind"] == "trajectory") & (frame["recipe.epochs"] == 50)]
        rows = rows[rows["status"] == "ok"].assign(recipe=lambda f: f["recipe"].map(_FIGURE_ONE))
        if len(rows):
            yield Picture(
                "figure_one",
                functools.partial(figure_one, rows),
                "λ along 50 epochs at 30% label noise. Left: the values that arXiv:2511.01438 states for its "
                "Figure 1 (means, with the 2.5–97.5 percentiles at the end); right: mean and the same "
                "percentiles over the seeds here.",
            )


@computed_once
def _frames(results: Results) -> Mapping[str, pd.DataFrame]:
    """The records of every suite of the audit that has run in the same folder."""
    return Evidence.of(results.store, SUITES).frames if results.store else {}


@computed_once
def _claims(results: Results) -> pd.DataFrame:
    return claims_table(_frames(results), CLAIMS)
