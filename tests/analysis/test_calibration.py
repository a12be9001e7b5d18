"""Coverage and false claims, counted on made-up answers whose truth is known by construction."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sharpbench.analysis.calibration import coverage
from sharpbench.analysis.statistics import binomial_interval
from sharpbench.report.sections.right import stated_error_sentences
from sharpbench.seeds import numpy_generator

COMMON = {"kind": "calibration", "status": "ok", "subject": "s", "name": "m", "label": "m",
          "metric_short": "m", "problem_short": "p", "expected": 10.0, "expected_from": "theory",
          "adversarial": False, "converged": True, "error_bound": None, "parameters": {}}  # fmt: skip


def answers(values, errors, **fields) -> pd.DataFrame:
    """Answers with one component each: its size, and the degrees of freedom if given."""
    rows = []
    for value, error in zip(values, errors, strict=True):
        told = [
            {"source": "probes", "size": size, "degrees_of_freedom": free}
            for size, free in ([] if error is None else [error])
        ]
        rows.append({**COMMON, "value": value, "errors": told, **fields})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("k", "n"), [(0, 300), (1, 300), (285, 300), (300, 300)])
def test_the_binomial_interval_is_scipys_exact_one(k, n):
    exact = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    assert binomial_interval(k, n) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize(
    ("told", "free", "verdict"),
    [
        (1.0, None, "holds"),
        (0.6, None, "too small"),
        (2.0, None, "covers more than it says"),
        (1.0, 3, "covers more than it says"),
    ],
)
def test_errors_are_held_against_the_truth(told, free, verdict):
    values = 10 + numpy_generator(0).normal(size=600)
    table = coverage(answers(values, [(told, free)] * 600))
    row = table.iloc[0]
    half = told * (1.96 if free is None else stats.t.ppf(0.975, free))
    assert row["covered"] == np.mean(np.abs(values - 10) <= half)
    assert row["low"] < row["covered"] <= row["high"]
    assert row["verdict"] == verdict
    assert row["truth"] == "theory"
    assert row["claims"] == 0  # without a tolerance nothing is claimed
    said = "cover more than they say" if verdict.startswith("covers") else verdict
    assert said in stated_error_sentences(table)[0] or verdict == "holds"


def test_without_a_truth_the_mean_of_the_repetitions_stands_for_it():
    values = numpy_generator(1).normal(size=400)
    frame = answers(values, [(1.0, None)] * 400, expected=None, expected_from=None)
    other = answers(
        values + 50, [(1.0, None)] * 400, expected=None, expected_from=None, subject="t"
    )
    row = coverage(pd.concat([frame, other], ignore_index=True)).iloc[0]
    assert row["truth"] == "their mean"
    assert row["n"] == 800
    assert row["verdict"] == "holds"


@pytest.mark.parametrize(
    ("off", "bound", "false"),
    [(0.05, 0.06, 0), (0.05, 0.04, 0), (0.2, 0.3, 1), (0.0999, None, 0)],
)
def test_an_iterations_claim_is_false_beyond_its_tolerance_and_its_bound_is_counted_apart(
    off, bound, false
):
    frame = answers(
        [10.0 + off] * 20, [None] * 20, error_bound=bound, parameters={"tolerance": 0.01}
    )
    row = coverage(frame).iloc[0]
    exact = bound is None  # no error at all: then only rounding is allowed
    assert (row["claims"], row["false"]) == (20, 20 if false or exact else 0)
    assert row["allowed"] == pytest.approx(1 / 300)
    assert row["claim_verdict"] == ("too many" if false or exact else "holds")
    assert row["verdict"] == ""
    assert (row["bounded"], row["beyond"]) == (
        0 if exact else 20,
        20 if bound and off > bound else 0,
    )


def test_a_random_estimators_claim_allows_two_tolerances_and_an_exact_one_rounding():
    told = {"parameters": {"tolerance": 0.01}}
    row = coverage(answers([10.19, 10.21], [(0.1, None)] * 2, **told)).iloc[0]
    assert (row["claims"], row["false"]) == (2, 1)
    exact = coverage(answers([10.0 + 1e-9, 10.0 + 1e-6], [None] * 2)).iloc[0]
    assert (exact["claims"], exact["false"]) == (2, 1)
    zero = coverage(answers([10.0, 10.1], [(0.0, None)] * 2)).iloc[0]
    assert (zero["n"], zero["claims"], zero["false"]) == (0, 2, 1)
    hard = coverage(answers([10.0], [None], adversarial=True)).iloc[0]
    assert hard["allowed"] == 0.05


def test_an_error_without_its_size_and_a_missing_answer_are_counted():
    frame = pd.concat(
        [
            answers([10.0], [(None, None)]),
            answers([10.0], [(1.0, None)]),
            answers([None], [None], status="failed"),
        ],
        ignore_index=True,
    )
    row = coverage(frame).iloc[0]
    assert (row["n"], row["untold"], row["failed"], row["answers"]) == (1, 1, 1, 2)


def test_an_error_whose_size_is_never_told_counts_neither_as_covered_nor_as_failed():
    table = coverage(answers([9.0, 11.0], [(None, None)] * 2))
    row = table.iloc[0]
    assert (row["n"], row["untold"], row["verdict"]) == (0, 2, "states none")
    assert np.isnan(row["covered"])
    assert stated_error_sentences(table) == ["1 answer is by chance, without an error stated (m)."]


@pytest.mark.parametrize(("source", "claims", "false"), [("other", 2, 1), ("probes", 0, 0)])
def test_an_iterations_rule_claims_without_an_error_and_random_vectors_do_not(
    source, claims, false
):
    told = {"source": source, "size": None, "degrees_of_freedom": None}
    frame = answers([10.05, 10.11], [None] * 2, parameters={"tolerance": 0.01})
    row = coverage(frame.assign(errors=[[told]] * 2)).iloc[0]
    assert (row["claims"], row["false"]) == (claims, false)
    assert row["verdict"] == "states none"


def test_what_a_bound_adds_to_the_share_makes_no_error_too_large():
    values = 10 + numpy_generator(2).normal(size=400)
    with_bound = coverage(answers(values, [(1.0, None)] * 400, error_bound=3.0)).iloc[0]
    assert (with_bound["covered"], with_bound["verdict"]) == (1.0, "holds")
    wide = coverage(answers(values, [(2.0, None)] * 400, error_bound=3.0)).iloc[0]
    assert wide["verdict"] == "covers more than it says"


def test_a_bound_beside_a_random_error_widens_the_interval():
    frame = answers([10.0 + 2.5] * 3, [(1.0, None)] * 3, error_bound=1.0)
    assert coverage(frame).iloc[0]["covered"] == 1
    assert coverage(answers([10.0 + 2.5] * 3, [(1.0, None)] * 3)).iloc[0]["covered"] == 0


def test_other_suites_have_none():
    assert coverage(answers([1.0], [None], kind="problem")).empty
    assert stated_error_sentences(pd.DataFrame()) == []


def test_a_tolerance_of_the_figure_itself_is_no_part_of_the_truth():
    """A share of a hundredth, told to two hundredths by probes of which two standard errors are four."""
    told = {
        "parameters": {"tolerance": 0.05},
        "details": {"absolute_tolerance": 0.05},
        "expected": 0.01,
        "error_bound": 0.02,
    }
    row = coverage(answers([0.12, 0.1, 0.13, 0.02], [(0.02, None)] * 4, **told)).iloc[0]
    assert (row["claims"], row["false"]) == (4, 1)
    relative = coverage(
        answers(
            [0.0105, 0.0119], [(0.02, None)] * 2, **(told | {"details": None, "error_bound": None})
        )
    ).iloc[0]
    assert (relative["claims"], relative["false"]) == (2, 1)


def test_answers_that_happen_to_be_there_have_no_mean_to_be_held_to():
    frame = pd.concat(
        [
            answers([9.0, 11.0], [(0.1, None), (None, None)], expected=None, expected_from=None),
            answers([None], [None], status="failed", expected=None, expected_from=None),
        ],
        ignore_index=True,
    )
    table = coverage(frame)
    row = table.iloc[0]
    assert (row["truth"], row["n"], row["answers"], row["failed"]) == ("none", 0, 2, 1)
    assert (row["verdict"], row["claims"]) == ("", 0)
    assert stated_error_sentences(table) == []
