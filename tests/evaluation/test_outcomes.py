"""What networks did on each test point: stored small, and told by every run that asks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sharpbench.evaluation.outcomes import Outcomes, outcomes
from sharpbench.results.store import load_records
from sharpbench.seeds import numpy_generator
from tests.suite.test_run import run

SUITE = """
name = "stored"
title = "With outcomes"
seeds = 2
[[subjects]]
dataset = { name = "two_moons", n = 120 }
model = { name = "mlp", widths = [4] }
recipe = { name = "adam", epochs = 2, lr = [1e-3, 1e-1] }
[[metrics]]
name = "margin"
"""


def test_packed_outcomes_come_back():
    rng = numpy_generator(0)
    loss, wrong = rng.exponential(size=541) ** 4, rng.random(541) < 0.1
    found = Outcomes.unpacked(Outcomes(loss, wrong, "here").packed())
    assert (found.wrong == wrong).all()
    assert found.loss == pytest.approx(loss, rel=2**-11, abs=6e-8)
    assert found.points == "here"
    real = Outcomes(loss, None, "").packed()
    assert Outcomes.unpacked(real).wrong is None
    with pytest.raises(ValueError, match="541 losses"):
        Outcomes.unpacked({**real, "samples": 540})


def test_outcomes_are_those_of_the_points():
    torch.manual_seed(0)
    model, inputs, classes = nn.Linear(3, 4), torch.randn(50, 3), torch.randint(4, (50,))
    found = outcomes(model, inputs, classes, "classification")
    logits = model(inputs).detach().double()
    assert found.loss == pytest.approx(F.cross_entropy(logits, classes, reduction="none").numpy())
    assert (found.wrong == (logits.argmax(1) != classes).numpy()).all()
    assert outcomes(nn.Linear(3, 4), inputs, classes, "classification").points == found.points
    assert outcomes(model, inputs, classes.flip(0), "classification").points != found.points
    real = outcomes(model, inputs, torch.randn(50, 4), "regression")
    assert real.wrong is None
    assert real.loss.shape == (50,)


def test_a_suite_that_asks_for_outcomes_gets_them_without_training_again(tmp_path):
    results, suite = tmp_path / "results", tmp_path / "stored.toml"
    suite.write_text(SUITE)
    run(suite, results)
    assert "outcomes" not in set(load_records(results, suite="stored").kind)
    suite.write_text(SUITE + "[evaluation]\noutcomes = true\n")
    done, _ = run(suite, results)
    assert not any(o.trained or o.problems for o in done)
    frame = load_records(results, suite="stored")
    rows = frame[frame.kind == "outcomes"]
    assert len(rows) == 4
    judged = frame[frame.kind == "evaluation"]
    errors = judged[judged.name == "test_error"].set_index("subject").value
    points = set()
    for row in rows.to_dict("records"):
        found = Outcomes.unpacked(row["details"])
        points.add((row["seed"], found.points))
        assert np.mean(found.wrong) == errors[row["subject"]]
    assert len(points) == 2  # one test set a data seed
    again, _ = run(suite, results)
    assert not any(o.trained or o.measured or o.problems for o in again)
