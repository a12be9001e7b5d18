"""The section of the report that holds arXiv:2511.01438 against what is measured."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sharpbench.analysis.audit import claims_table
from sharpbench.analysis.results import Results
from sharpbench.paper.claims import CLAIMS
from sharpbench.paper.evidence import PAGES, SUITES
from sharpbench.paper.figures import figure_one
from sharpbench.paper.questions import QUESTIONS
from sharpbench.report.audit import AuditSection, with_reasons
from sharpbench.report.sections.base import Picture

__all__ = ["PaperSection"]

_FIGURE_ONE = {"adam": "Adam", "crr": "CRR, scale 0.003"}


@dataclass(frozen=True)
class PaperSection(AuditSection):
    """The audit of arXiv:2511.01438, from every suite of it that has run in this results folder."""

    name, title, link, place = "paper", "The paper, checked", "The paper", 10
    audit, claims, suites, pages = "paper", CLAIMS, SUITES, PAGES

    def subtitle(self, results: Results) -> str:
        return "arXiv:2511.01438, claim by claim"

    def tables(self, results: Results) -> Mapping[str, Any]:
        questions = claims_table(results.once(self.frames), QUESTIONS).to_dict("records")
        return {**super().tables(results), "questions": with_reasons(questions)}

    def pictures(self, results: Results) -> Iterable[Picture]:
        frame = results.once(self.frames).get("paper_two_moons")
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
