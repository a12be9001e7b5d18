"""Two solutions of the parity problem against their closed forms."""

import math
from pathlib import Path

import pytest
import torch

from sharpbench.datasets import datasets
from sharpbench.errors import InputError
from sharpbench.metrics import metrics
from sharpbench.models import models
from sharpbench.subject import Subject
from sharpbench.training import recipes


def parity(**parameters):
    return datasets.create("parity", parameters).load(Path(), seed=3)


def solved(data, solution, width=100):
    shape, network = data.input_shape, {"widths": [width], "activation": "relu"}
    model = models.create("mlp", network).build(shape, 1, seed=0)
    recipe = recipes.create("parity_solution", {"solution": solution})
    return model, recipe.train(model, data, seed=0)


def test_points_are_distinct_corners_labelled_by_two_coordinates():
    data = parity(dimension=9, train=100, test=412)
    points = torch.cat([data.train_inputs, data.test_inputs])
    assert len(torch.unique(points, dim=0)) == 512 == 2**9
    assert set(points.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(data.test_targets[:, 0], data.test_inputs[:, :2].prod(1))
    again = parity(dimension=9, train=100, test=412)
    assert torch.equal(again.train_inputs, data.train_inputs)


@pytest.mark.parametrize(
    "parameters", [{"dimension": 5, "train": 30, "test": 3}, {"label_noise": 0.1}]
)
def test_what_cannot_be_is_refused(parameters):
    with pytest.raises(InputError, match=r"distinct points|real targets"):
        datasets.create("parity", parameters)


@pytest.mark.parametrize(("solution", "test_loss"), [("generalizing", 0.0), ("memorizing", 0.5)])
@pytest.mark.parametrize("dimension", [8, 12])
def test_both_fit_equally_flat_and_one_says_nothing_elsewhere(solution, test_loss, dimension):
    data = parity(dimension=dimension, train=60, test=150)
    model, log = solved(data, solution)
    assert log.epochs[-1]["train_loss"] == pytest.approx(0, abs=1e-10)
    assert log.epochs[-1]["test_loss"] == pytest.approx(test_loss, abs=1e-10)
    subject = Subject(model.double(), data.train_inputs.double(), data.train_targets.double())
    trace = metrics.create("hessian_trace", {}).measure(subject, seed=0)
    assert trace.value == pytest.approx(2 * math.sqrt(dimension + 1) + 1, rel=1e-6)
    least = torch.zeros(())
    for x, y in zip(subject.inputs, subject.targets, strict=True):
        subject.model.zero_grad()
        output = subject.model(x[None])[0, 0]
        output.backward()
        assert output.item() == pytest.approx(y.item(), abs=1e-6)
        least += sum(p.grad.square().sum() for p in subject.model.parameters())
    assert least.item() / 60 == pytest.approx(trace.value, rel=1e-6)


def test_other_networks_and_data_are_refused():
    data = parity(train=60)
    with pytest.raises(InputError, match="60 hidden units, the network has 32"):
        solved(data, "memorizing", width=32)
    deep = models.create("mlp", {"widths": [64, 64], "activation": "relu"}).build((12,), 1, seed=0)
    recipe = recipes.create("parity_solution", {})
    with pytest.raises(InputError, match="one hidden layer of ReLU"):
        recipe.train(deep, data, seed=0)
    digits = datasets.create("digits", {"train_size": 20}).load(Path(), seed=0)
    flat = models.create("mlp", {"widths": [64], "activation": "relu"}).build((1, 8, 8), 10, seed=0)
    with pytest.raises(InputError, match=r"one hidden layer|data set .parity."):
        recipe.train(flat, digits, seed=0)
