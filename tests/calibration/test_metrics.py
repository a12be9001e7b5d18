"""A fast part of the suite ``calibration``: true coverage of stated errors, and false claims."""

from pathlib import Path

import pandas as pd
import pytest

from sharpbench.analysis.calibration import coverage
from sharpbench.analysis.names import with_short_names
from sharpbench.results.store import load_records
from sharpbench.suite.plan import make_plan
from sharpbench.suite.spec import find_suite, load_suite
from tests.suite.test_run import run

SUITE = """
name = "coverage"
title = "A fast part of the suite calibration"
seeds = 1

[[problems]]
problem = { name = "tiny_network", training_steps = 100, samples = 64 }
metrics = [{ name = "hessian_trace", method = ["hutchinson", "xtrace"], tolerance = 0.1 },
           { name = "hessian_frobenius_norm", tolerance = 0.1 },
           { name = "gauss_newton_trace" }]
repetitions = 150

[[problems]]
problem = { name = "softmax_regression", samples = 1024, features = 6, classes = 3 }
metrics = [{ name = "hessian_trace", samples = [128, 512], method = "gauss_newton" },
           { name = "sam_sharpness", samples = 256, m = 16 },
           { name = "fisher_rao_norm", samples = 128 },
           { name = "margin", samples = 64 },
           { name = "mean_confidence", samples = 64 },
           { name = "input_jacobian_norm", samples = 64 },
           { name = "input_gradient_change", samples = 64 }]
repetitions = 150

[[problems]]
problem = { name = "least_squares", features = 16 }
metrics = { name = "sam_sharpness", case = "average", m = 32 }
repetitions = 150

[[problems]]
problem = { name = "sine", dimension = 3, points = 2048 }
metrics = { name = "curvature_rate", target = 0, samples = 64, norm = ["geometric_mean", "rms"] }
repetitions = 150

[[problems]]
problem = { name = "tiny_network", training_steps = 100 }
metrics = { name = "hessian_top_eigenvalue", tolerance = [1e-1, 1e-3] }
seeds = 6
repetitions = 20

[[problems]]
problem = { name = "quadratic", features = 100, spectrum = ["crowded", "clustered"] }
metrics = { name = "hessian_top_eigenvalue", tolerance = [1e-1, 1e-3] }
repetitions = 60
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder: Path = tmp_path_factory.mktemp("coverage")
    path = folder / "coverage.toml"
    path.write_text(SUITE)
    outcomes, _ = run(path, folder / "results")
    assert not any(o.problems for o in outcomes)
    return coverage(with_short_names(load_records(folder / "results", suite="coverage")))


def test_stated_errors_hold(table):
    stated = table[table["n"] > 0]
    assert len(stated) >= 10
    told = stated[["metric", "problem", "covered", "low", "high", "verdict"]]
    assert set(stated["verdict"]) <= {"holds", "can't tell"}, told.to_string()
    assert (table["untold"] == 0).all()


def test_claims_hold(table):
    claimed = table[table["claims"] > 0]
    assert len(claimed) >= 5
    told = claimed[["metric", "problem", "false", "claims", "allowed", "claim_verdict"]]
    assert set(claimed["claim_verdict"]) <= {"holds", "can't tell"}, told.to_string()


def test_the_suite_asks_two_hundred_times_or_more():
    plan = make_plan(load_suite(find_suite("calibration")))
    asked: dict[tuple[str, str], int] = {}
    for subject in plan.subjects:
        for measurement in plan.asked(subject):
            key = (subject.problem.label, measurement.label)
            asked[key] = asked.get(key, 0) + 1
    assert min(asked.values()) >= 200
