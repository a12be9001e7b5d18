"""An audit of statements: each has a figure that is read from the records, and a rule that judges it.

Nothing here knows of a particular paper: `sharpbench.paper` is one audit, another would be a folder
beside it. A statement says where its figure comes from and by which rule it is judged; no verdict is
typed in.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from sharpbench.analysis.names import with_short_names
from sharpbench.analysis.results import Results
from sharpbench.analysis.rules import INCONCLUSIVE, Judgement, Rule
from sharpbench.analysis.statistics import Estimate
from sharpbench.results.store import ResultsStore, load_records

__all__ = [
    "CANT_BE_TESTED",
    "NOT_RUN",
    "Claim",
    "Evidence",
    "Measure",
    "Missing",
    "claims_table",
    "with_first_rules",
]

CANT_BE_TESTED = "can't be tested"
NOT_RUN = "not run"


class Missing(Exception):
    """The records that a statement needs are not there."""


class Evidence:
    """The records of an audit's suites, one row a network with its figures as columns."""

    def __init__(self, frames: Mapping[str, pd.DataFrame]) -> None:
        self.frames = frames

    @classmethod
    def of(cls, store: ResultsStore, suites: Sequence[str]) -> Evidence:
        """Of those of the suites that have run in a results folder."""
        ran = store.documents("suites")
        return cls({name: load_records(store.root, suite=name) for name in suites if name in ran})

    def frame(self, suite: str) -> pd.DataFrame:
        """All records of a suite. Raises Missing if it has not run."""
        if suite not in self.frames:
            raise Missing(suite)
        return self.frames[suite]

    @functools.cache  # noqa: B019 - lives as long as the report
    def results(self, suite: str) -> Results:
        """The records of a suite as its own report reads them. Raises Missing if it has not run."""
        return Results(with_short_names(self.frame(suite)))

    @functools.cache  # noqa: B019 - lives as long as the report
    def networks(self, suite: str) -> pd.DataFrame:
        """Parameters (``dataset.label_noise`` …), metrics by label, one that the suite asks with one set of
        parameters by its name, too, evaluated figures (``= ece`` …) and their standard errors
        (``± ece`` …) by name."""
        frame = self.frame(suite)
        own = Results(frame).measured
        if own.empty:
            raise Missing(suite)
        judged = frame[(frame["kind"] == "evaluation") & (frame["status"] == "ok")]
        columns = [c for c in frame.columns if c.split(".")[0] in {"dataset", "model", "recipe"}]
        who = frame.drop_duplicates("subject").set_index("subject")[["seed", *columns]]
        # A time that is not known to have been taken alone on the machine is none.
        alone = frame["cost.shared_machine"].eq(False)
        log = frame[(frame["kind"] == "training") & (frame["name"] == "seconds") & alone]
        return who.join(
            [
                _with_names(own.pivot_table(index="subject", columns="label", values="value"), own),
                judged.pivot_table(index="subject", columns="name", values="value").add_prefix(
                    "= "
                ),
                judged.pivot_table(
                    index="subject", columns="name", values="standard_error"
                ).add_prefix("± "),
                log.groupby("subject")["value"].sum().rename("training_seconds"),
            ]
        )

    def where(self, suite: str, **conditions: Any) -> pd.DataFrame:
        """Networks whose ``part__parameter`` equals the value, by seed. Raises Missing if there are none."""
        rows = self.networks(suite)
        for key, value in conditions.items():
            column = key.replace("__", ".")
            if column not in rows.columns:
                raise Missing(suite)
            held = rows[column].map(lambda v, w=value: v == w or (isinstance(w, list) and v == w))
            rows = rows[held.astype(bool)]
        if rows.empty:
            raise Missing(suite)
        return rows.sort_values("seed")


def _with_names(figures: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """``figures`` with a column more for each metric that has one label, another than its name."""
    labels = own.groupby("name")["label"].unique()
    alone = {name: each[0] for name, each in labels.items() if len(each) == 1}
    return figures.assign(**{n: figures[at] for n, at in alone.items() if n not in figures})


class Measure(Protocol):
    """How a figure is read from the records."""

    @property
    def suites(self) -> tuple[str, ...]:
        """The suites that give it: the first that has figures is taken, they are never mixed."""

    def __call__(self, evidence: Evidence, suite: str) -> Estimate | None:
        """The figure; None for too few networks. Raises Missing where there are no records of it."""


@dataclass(frozen=True)
class Claim:
    """A statement with its ``section``, or a question that was left open.

    ``stated`` is what the text says, ``code`` what its own code printed; ``measure`` gives the
    figure, ``rule`` the verdict. Without ``measure`` the ``reason`` says why it can't be tested.
    """

    section: str
    statement: str
    stated: str = ""
    code: str = ""
    measure: Measure | None = None
    rule: Rule | None = None
    unit: str = ""
    reason: str = ""

    @property
    def name(self) -> str:
        return f"{self.section}: {self.statement}"


def claims_table(frames: Mapping[str, pd.DataFrame], claims: Sequence[Claim]) -> pd.DataFrame:
    """One row a claim: ``section``, ``statement``, ``stated``, ``code``, ``estimate`` (or None),
    ``unit``, ``verdict``, ``rule`` and its hash ``identity``, ``suite`` (where the figure comes from),
    ``reason`` (why there is no figure), ``resolution`` and ``networks`` (of an inconclusive verdict, see
    `Judgement`).

    Of several suites the first with figures is taken and named; their figures are never mixed.
    """
    evidence = Evidence(frames)
    return pd.DataFrame([_row(evidence, claim) for claim in claims], dtype=object)


def _row(evidence: Evidence, claim: Claim) -> dict[str, Any]:
    row: dict[str, Any] = {
        "section": claim.section,
        "statement": claim.statement,
        "stated": claim.stated,
        "code": claim.code,
        "unit": claim.unit,
        "rule": claim.rule.text if claim.rule else "",
        "identity": claim.rule.identity if claim.rule else "",
        "estimate": None,
        "resolution": None,
        "networks": None,
        "suite": "",
        "reason": claim.reason,
        "verdict": CANT_BE_TESTED,
    }
    if claim.measure is None:
        return row
    row |= {"verdict": NOT_RUN, "reason": f"run: sharpbench run {claim.measure.suites[0]}"}
    for suite in claim.measure.suites:
        try:
            found = claim.measure(evidence, suite)
        except Missing:
            continue
        if found is None or not math.isfinite(found.value):
            row["reason"] = f"too few networks of {suite} have run"
            continue
        judged = _judged(claim.rule, found)
        row |= {"estimate": found, "suite": suite, "reason": "", "verdict": judged.verdict}
        row |= {"resolution": judged.resolution, "networks": judged.networks}
        break
    return row


def _judged(rule: Rule | None, found: Estimate) -> Judgement:
    if rule is None:
        return Judgement("")
    if abs(found.value) < found.noise:
        return Judgement(INCONCLUSIVE, found.noise)
    return rule.judge(found)


def with_first_rules(
    store: ResultsStore, audit: str, rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rows of `claims_table` with ``judged_first``: the run that another rule than today's judged
    first, or None.

    Rules are remembered in the results folder (``rules/<audit>.json``, a hash a claim with the run that
    it judged first), so that one that was changed after the fact shows.
    """
    first = store.documents("rules").get(audit, {})
    known = len(first)
    for row in rows:
        row["judged_first"] = None
        if row["estimate"] is None or not row["identity"]:
            continue
        name = f"{row['section']}: {row['statement']}"
        run = store.manifest(row["suite"])["run"]
        before = first.setdefault(name, {"rule": row["identity"], "run": run})
        if before["rule"] != row["identity"]:
            row["judged_first"] = before["run"]
    if len(first) > known:
        store.write_document("rules", audit, first)
    return rows
