"""Counts, norms, distances and margins by hand; initial weights as a suite derives them."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.datasets import datasets
from sharpbench.metrics import metrics
from sharpbench.models import models
from sharpbench.problems import problems
from sharpbench.results.store import load_records
from sharpbench.seeds import derive_seed
from sharpbench.training import recipes
from tests.suite.test_run import run


def network(scale: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2, bias=False)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(scale)
    return model


def test_by_hand():
    x, y = torch.randn(5, 2).double(), torch.tensor([0, 1, 0, 1, 0])
    model = network(3.0)
    subject = sb.Subject(model, x, y, initial=network(1.0))
    assert sb.measure(subject, "parameter_count").value == 10
    assert sb.measure(subject, "parameter_norm").value == pytest.approx(3 * math.sqrt(10))
    assert sb.measure(subject, "distance_from_initialization").value == pytest.approx(
        2 * math.sqrt(10)
    )
    relative = sb.measure(subject, "distance_from_initialization", quantity="relative")
    assert relative.value == pytest.approx(2)
    of = {"parameters_of": ["2.weight"]}
    assert sb.measure(subject, "parameter_norm", **of).value == pytest.approx(6)
    assert sb.measure(subject, "distance_from_initialization", **of).value == pytest.approx(4)
    model[0].weight.requires_grad_(False)
    frozen = sb.Subject(model, x, y, initial=network(1.0))
    assert sb.measure(frozen, "parameter_count").value == 6
    assert sb.measure(frozen, "parameter_norm").value == pytest.approx(3 * math.sqrt(6))


def test_a_distance_needs_a_beginning_of_the_same_form():
    x, y = torch.randn(5, 2).double(), torch.tensor([0, 1, 0, 1, 0])
    with pytest.raises(sb.MetricFailed, match="give them as Subject"):
        sb.measure(sb.Subject(network(1.0), x, y), "distance_from_initialization")
    other = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    with pytest.raises(sb.MetricFailed, match=r"no parameter '0\.weight' of the shape \(2, 2\)"):
        sb.measure(sb.Subject(network(1.0), x, y, initial=other), "distance_from_initialization")


def test_a_suite_derives_the_initial_weights_from_the_seed(tmp_path: Path):
    path = tmp_path / "distance.toml"
    path.write_text(
        """
name = "distance"
title = "How far does training go?"
seeds = [3]
[[subjects]]
dataset = { name = "two_moons", n = 600 }
model   = { name = "mlp", widths = [4] }
recipe  = { name = "adam", epochs = 2 }
[[metrics]]
name = "distance_from_initialization"
[trajectory]
metrics = [{ name = "distance_from_initialization" }]
"""
    )
    outcomes, _ = run(path, tmp_path / "results")
    assert not any(o.problems for o in outcomes)
    frame = load_records(tmp_path / "results", suite="distance")
    along = frame[frame["kind"] == "trajectory"].sort_values("epoch")["value"].tolist()
    final = frame[frame["kind"] == "measurement"]["value"].item()

    build = models.create("mlp", {"widths": [4]}).build
    start, end = (build((2,), 2, seed=derive_seed(3, "init")) for _ in range(2))
    splits = datasets.create("two_moons", {"n": 600}).load(tmp_path, seed=derive_seed(3, "data"))
    recipes.create("adam", {"epochs": 2}).train(end, splits, seed=derive_seed(3, "training"))
    squares = sum(
        float((a.double() - b.double()).detach().square().sum())
        for a, b in zip(end.parameters(), start.parameters(), strict=True)
    )
    assert final == pytest.approx(math.sqrt(squares), rel=1e-9)
    assert along[-1] == final
    assert 0 < along[0] < final


def test_the_inverse_margin_by_ranks():
    logits = torch.arange(11.0).double().unsqueeze(1) * torch.tensor([[1.0, 0.0]]).double() + 1
    logits[:, 1] = 0
    layer = nn.Linear(2, 2, bias=False).double()
    nn.init.eye_(layer.weight)
    subject = sb.Subject(layer, logits, torch.zeros(11, dtype=torch.long))
    # Margins 1, 2, …, 11: the 10th percentile is the second of them.
    found = sb.measure(subject, "inverse_margin")
    assert found.value == pytest.approx(1 / 4)
    assert found.exact
    assert sb.measure(subject, "inverse_margin", percentile=0).value == pytest.approx(1)
    wrong = sb.Subject(layer, logits, torch.ones(11, dtype=torch.long))
    with pytest.raises(sb.MetricFailed, match="no margin separates them"):
        sb.measure(wrong, "inverse_margin")
    with pytest.raises(ValueError, match="percentile"):
        metrics.create("inverse_margin", {"percentile": 100})
    regression = problems.create("least_squares").subject(seed=0)
    with pytest.raises(sb.MetricFailed, match="needs classes"):
        sb.measure(regression, "inverse_margin")


def test_a_margin_that_is_hardly_told_from_none_has_an_error_of_untold_size():
    """All points have no margin at this percentile: the few draws that do must not claim to know it."""
    subject = problems.create("softmax_regression", {"samples": 4096}).subject(seed=0)
    whole = metrics.create("inverse_margin", {"percentile": 80})
    with pytest.raises(sb.MetricFailed):
        whole.measure(subject, seed=0)
    told, untold = 0, 0
    for seed in range(60):
        try:
            found = dataclasses.replace(whole, samples=128).measure(subject, seed=seed)
        except sb.MetricFailed:
            continue
        told += found.interval() is not None
        untold += found.interval() is None
    assert untold > 10
    assert told <= 3
