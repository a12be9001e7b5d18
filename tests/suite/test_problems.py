"""Suites that ask problems with known answers."""

from __future__ import annotations

import json
import math

import pytest

from sharpbench.errors import InputError
from sharpbench.report.page import write_report
from sharpbench.results.store import ResultsStore, load_records
from sharpbench.suite.plan import make_plan
from sharpbench.suite.session import intents
from sharpbench.suite.spec import load_suite
from tests.suite.test_run import figures, run

SUITE = """
name = "known"
title = "Known answers"
seeds = 2

[[problems]]
problem = [{ name = "sine", scale = [1.0, 3.0] }, { name = "power_pole" }]

[[problems.metrics]]
name = "curvature_rate"
target = 0
samples = "all"
orders = [[1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6]]
normalization = ["none", "factorial"]

[[problems]]
problem = { name = "hyperbolic_tangent", dimension = 3 }
metrics = [{ name = "curvature_rate", target = 0 }, { name = "logit_norm" }]
seeds = [5]
"""


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "known.toml"
    path.write_text(SUITE)
    return path


def test_answers_stand_beside_the_truth(suite, tmp_path):
    outcomes, _ = run(suite, tmp_path / "results")
    assert len(outcomes) == 3 * 2 + 1
    assert not any(o.problems or o.trained for o in outcomes)
    frame = load_records(tmp_path / "results", suite="known")
    assert set(frame["kind"]) == {"problem"}
    assert len(frame) == 6 * 6 + 2
    rates = frame[frame["expected"].notna()]
    exact = rates[rates["problem"] != "hyperbolic_tangent"]
    assert (exact["value"] - exact["expected"]).abs().max() < 1e-10
    pole = frame[frame["problem"] == "power_pole"]
    raw = pole["parameters"].map(lambda p: p["normalization"]) == "none"
    assert set(pole[raw]["diverges"]) == {"+∞"}
    assert pole[raw]["limit"].isna().all()
    assert pole[~raw]["limit"].abs().max() < 1e-12
    sine = frame[(frame["problem"] == "sine") & (frame["problem.scale"] == 3.0)]
    known = sine[sine["limit"].notna()]
    assert known["limit"].tolist() == pytest.approx([math.log(3)] * len(known))
    norm = frame[frame["name"] == "logit_norm"]
    assert norm["expected"].isna().all()
    assert norm["value"].notna().all()


def test_a_second_run_does_nothing_and_workers_change_nothing(suite, tmp_path):
    run(suite, tmp_path / "one")
    before = figures(tmp_path / "one")
    again, notes = run(suite, tmp_path / "one")
    assert sum(o.measured for o in again) == 0
    assert sum(dealt for _, dealt in notes) == len(before)
    run(suite, tmp_path / "two", workers=2)
    assert figures(tmp_path / "two") == before
    plan = make_plan(load_suite(suite))
    left = intents(plan, tmp_path / "one", tmp_path)
    assert {(i.training, i.to_measure) for i in left} == {("none", 0)}
    fresh = intents(plan, tmp_path / "nowhere", tmp_path)
    assert sum(i.to_measure for i in fresh) == len(before)


def test_infinite_limits_are_words_in_the_file(suite, tmp_path):
    run(suite, tmp_path / "results")
    folders = ResultsStore(tmp_path / "results").subjects()
    lines = [
        line for f in folders for line in (f.path / "measurements.jsonl").read_text().splitlines()
    ]
    assert all("Infinity" not in line for line in lines)
    assert {json.loads(line)["diverges"] for line in lines} == {None, "+∞", "−∞"}


def test_a_report_without_networks(suite, tmp_path):
    run(suite, tmp_path / "results")
    page = write_report(tmp_path / "results", "known", tmp_path / "reports").read_text()
    assert "λ against the truth" in page
    assert "sin s (scale 3)" in page
    assert 'id="figure-growth"' in page
    assert "38</b> answers to problems" in page
    for absent in (
        'id="predictive"',
        'id="costly"',
        "networks of this suite",
        "The paper, checked",
    ):
        assert absent not in page


def test_two_blocks_of_one_problem_are_asked_together(suite):
    suite.write_text(SUITE.replace('name = "hyperbolic_tangent", dimension = 3', 'name = "sine"'))
    plan = make_plan(load_suite(suite))
    counts = {s.label: len(plan.asked(s)) for s in plan.subjects}
    assert counts["sine · seed=0"] == 6
    assert counts["sine · seed=5"] == 2
    suite.write_text(suite.read_text().replace("seeds = [5]", ""))
    together = make_plan(load_suite(suite))
    assert {len(together.asked(s)) for s in together.subjects if s.label == "sine · seed=0"} == {8}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"sine"', '"sinus"', "unknown problem 'sinus'"),
        ("scale = [1.0", "skale = [1.0", "Did you mean 'scale'"),
        ('"logit_norm"', '"logit_nrom"', "'logit_norm'"),
        ("[[problems]]\nproblem = {", "[[problms]]\nproblem = {", "Did you mean 'problems'"),
        ("dimension = 3", "dimension = 0", "dimension must be at least 1"),
    ],
)
def test_errors_name_the_place(suite, old, new, told):
    suite.write_text(SUITE.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        make_plan(load_suite(suite))
    assert told in str(caught.value)
    assert f"{suite}, line" in str(caught.value)


def test_a_suite_needs_something_to_do(suite):
    suite.write_text('name = "known"\nseeds = 1\n')
    with pytest.raises(InputError, match=r"needs \[\[subjects\]\]"):
        make_plan(load_suite(suite))


REPEATED = """
name = "again"
title = "Asked again"
seeds = 2

[[problems]]
problem = { name = "tiny_network", samples = 64, training_steps = 5 }
metrics = [{ name = "hessian_trace", method = "hutchinson", tolerance = 0.2 },
           { name = "margin", samples = 8 }]
repetitions = 6

[[problems]]
problem = { name = "tiny_network", samples = 64, training_steps = 5 }
metrics = { name = "hessian_trace", method = "hutchinson", tolerance = 0.2 }
"""


def test_repetitions_ask_one_problem_with_other_random_numbers(tmp_path):
    path = tmp_path / "again.toml"
    path.write_text(REPEATED)
    outcomes, notes = run(path, tmp_path / "results")
    assert len(outcomes) == 2
    assert sum(dealt for _, dealt in notes) == 2 * (6 + 6 + 1)
    frame = load_records(tmp_path / "results", suite="again")
    plain, again = frame[frame["kind"] == "problem"], frame[frame["kind"] == "calibration"]
    assert len(plain) == 2
    assert len(again) == 24
    trace = again[again["name"] == "hessian_trace"]
    assert set(trace["draw"]) == set(range(1, 7))
    assert trace["value"].nunique() == 12
    assert not set(plain["value"]) & set(trace["value"])
    for subject, answers in trace.groupby("subject"):
        expected = plain.loc[plain["subject"] == subject, "expected"].item()
        assert set(answers["expected"]) == {expected}
    assert set(trace["expected_from"]) == {"theory"}
    margin = again[again["name"] == "margin"]
    assert set(margin["expected_from"]) == {"all points"}
    assert margin.groupby("subject")["expected"].nunique().tolist() == [1, 1]
    # Nothing is done twice, and more repetitions leave the first ones as they are.
    again_outcomes, _ = run(path, tmp_path / "results")
    assert sum(o.measured for o in again_outcomes) == 0
    path.write_text(REPEATED.replace("repetitions = 6", "repetitions = 7"))
    more, _ = run(path, tmp_path / "results")
    assert sum(o.measured for o in more) == 2 * 2
    page = write_report(tmp_path / "results", "again", tmp_path / "reports").read_text()
    assert "Do they say truly how far off they are?" in page
    assert 'id="figure-coverage"' in page


CLAIMED = """
name = "claimed"
title = "What an implementation says to compute"
seeds = 1

[[problems]]
problem = { name = "quadratic", features = 20, spectrum = "indefinite" }
metrics = { name = "hessian_top_eigenvalue", implementation = ["native", "pyhessian"], tolerance = 1e-2 }
repetitions = 2

[[problems]]
problem = { name = "quadratic", features = 20, spectrum = "indefinite" }
metrics = { name = "hessian_top_eigenvalue", implementation = "pyhessian", tolerance = 1e-2 }

[[problems]]
problem = { name = "tiny_network", samples = 64, training_steps = 5 }
metrics = { name = "gauss_newton_top_eigenvalue", samples = 32, tolerance = 0.1 }
repetitions = 2
"""


def test_a_claim_is_held_against_what_the_implementation_says_to_compute(tmp_path):
    """PyHessian's own eigenvalue is −2, of largest magnitude; for the top one, 1, it is the wrong one."""
    path = tmp_path / "claimed.toml"
    path.write_text(CLAIMED)
    run(path, tmp_path / "results")
    frame = load_records(tmp_path / "results", suite="claimed")
    asked = frame[frame["name"] == "hessian_top_eigenvalue"]
    theirs = asked["parameters"].map(lambda p: p["implementation"]) == "pyhessian"
    repeated = asked["kind"] == "calibration"
    assert asked.loc[theirs & repeated, "expected"].tolist() == pytest.approx([-2, -2])
    assert set(asked.loc[theirs & repeated, "expected_from"]) == {"theory: largest magnitude"}
    assert asked.loc[theirs & ~repeated, "expected"].tolist() == pytest.approx([1.0])
    assert asked.loc[~theirs, "expected"].tolist() == pytest.approx([1.0, 1.0])
    assert set(asked.loc[~theirs, "expected_from"]) == {"theory"}
    # Of some points an iteration is held against what it converges to on all of them.
    gauss_newton = frame[frame["name"] == "gauss_newton_top_eigenvalue"]
    assert set(gauss_newton["expected_from"]) == {"all points"}
    assert gauss_newton["expected"].nunique() == 1
