"""What an audit is, without any paper: rules are remembered, and a small audit of its own is judged."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from sharpbench.analysis.audit import Claim, Evidence, claims_table, with_first_rules
from sharpbench.analysis.rules import Level, Sign
from sharpbench.analysis.statistics import (
    Estimate,
    over_seeds,
    pearson,
    slope,
    spearman,
)
from sharpbench.report.audit import reason
from sharpbench.results.store import ResultsStore


@dataclass(frozen=True)
class Fixed:
    """A figure that is what it is."""

    found: Estimate | None
    suites: tuple[str, ...] = ("mine",)

    def __call__(self, evidence: Evidence, suite: str) -> Estimate | None:
        evidence.frame(suite)
        return self.found


FRAMES = {"mine": pd.DataFrame({"kind": []})}


def rows_of(*claims):
    return claims_table(FRAMES, claims).to_dict("records")


def test_a_claim_of_ones_own_is_judged():
    up = Fixed(Estimate(1.0, 0.5, 1.5, 4))
    rows = rows_of(
        Claim("1", "it rises", measure=up, rule=Sign(1)),
        Claim("2", "it falls", measure=up, rule=Sign(-1)),
        Claim("3", "chance", measure=Fixed(Estimate(1.0, 0.5, 1.5, 4, noise=2.0)), rule=Sign(1)),
        Claim("4", "too few", measure=Fixed(None), rule=Sign(1)),
        Claim("5", "elsewhere", measure=Fixed(None, ("other",)), rule=Sign(1)),
        Claim("6", "vague", reason="no quantity"),
        Claim("7", "question", measure=up),
    )
    assert [row["verdict"] for row in rows] == [
        "reproduced", "contradicted", "inconclusive", "not run", "not run", "can't be tested", "",
    ]  # fmt: skip
    assert reason(rows[2]) == (
        "no larger than chance among the points that all are judged on (within ±2)"
    )
    assert reason(rows[3]) == "too few networks of mine have run"
    assert rows[4]["reason"] == "run: sharpbench run other"
    assert [row["suite"] for row in rows[:2]] == ["mine", "mine"]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        # Four networks tell 1.5 apart from 0; 0.5 would take nine times as many.
        ((0.5, -1.0, 2.0), "the smallest effect to be seen: 1.5; it would take some 36 networks"),
        ((0.0, -1.0, 1.0), "the smallest effect to be seen: 1; more networks would not decide it"),
        # Two seeds tell no width at all.
        (
            (0.5, -math.inf, math.inf),
            "few networks, or equal ones, tell no spread: it would take more of them",
        ),
    ],
)
def test_an_inconclusive_claim_says_what_it_could_have_shown(found, told):
    (row,) = rows_of(Claim("1", "it rises", measure=Fixed(Estimate(*found, 4)), rule=Sign(1)))
    assert row["verdict"] == "inconclusive"
    assert reason(row) == told


def test_the_hash_of_a_rule_stays_with_the_run_that_it_judged_first(tmp_path):
    store = ResultsStore(tmp_path)
    figure, none = Fixed(Estimate(1.0, 0.9, 1.1, 4)), Fixed(None)

    def judged(run, rule, measure=figure):
        store.write_document("suites", "mine", {"run": run})
        rows = rows_of(
            Claim("1", "level", measure=measure, rule=rule), Claim("2", "untouched", measure=figure)
        )
        return [row["judged_first"] for row in with_first_rules(store, "mine", rows)]

    first, wider = Level(1.0, 0.2), Level(1.0, 0.5)
    assert judged("run 0", wider, none) == [None, None]  # nothing was judged yet
    assert store.documents("rules") == {}
    assert judged("run 1", first) == [None, None]
    known = {"1: level": {"rule": first.identity, "run": "run 1"}}
    assert store.documents("rules")["mine"] == known
    assert judged("run 2", first) == [None, None]
    assert judged("run 3", wider) == ["run 1", None]
    assert judged("run 4", wider) == ["run 1", None]  # a changed rule never becomes the first
    assert store.documents("rules")["mine"] == known


@pytest.mark.parametrize(
    ("statistic", "gap", "alike"),
    [(pearson, 1.0, 0.8), (pearson, 0.0, 0.0), (spearman, 1.0, 0.8), (slope, 1.0, 0.8)],
)
def test_three_levels_of_three_seeds_have_an_interval_that_covers(statistic, gap, alike):
    """Levels −gap, 0 and gap in x against y, ``alike`` the share of each variance that a seed fixes.

    The truth is that of 40 000 seeds.
    """
    rng = np.random.default_rng(1)

    def draw(seeds):
        level, seed = np.tile([-1.0, 0.0, 1.0], seeds), np.repeat(np.arange(seeds), 3)
        shared = np.sqrt(alike) * rng.normal(size=(2, seeds))[:, seed]
        x, y = shared + np.sqrt(1 - alike) * rng.normal(size=(2, 3 * seeds))
        return x + gap * level, y - gap * level, seed

    truth = statistic(*draw(40_000)[:2])
    trials, held = 300, 0
    for _ in range(trials):
        x, y, seed = draw(3)
        found = over_seeds(statistic, x, y, seeds=seed, correlation=statistic is not slope)
        held += found.low <= truth <= found.high
    assert held / trials >= 0.92
