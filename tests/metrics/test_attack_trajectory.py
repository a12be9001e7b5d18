"""A metric along an attack whose path is known, and on a real network."""

from pathlib import Path

import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.datasets import datasets
from sharpbench.errors import InputError
from sharpbench.metrics import metrics
from sharpbench.models import models
from sharpbench.training import recipes

NAME = "attack_trajectory"


class Bowl(nn.Module):
    """f(x) = ½‖x‖²·w."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x):
        return 0.5 * x.square().sum(1, keepdim=True) * self.w


def value(outputs, targets):
    return outputs[:, 0]


def bowl(points=20):
    x = torch.randn(points, 3, generator=torch.Generator().manual_seed(0)).double()
    return sb.Subject(Bowl(), x, torch.zeros(points, 1).double(), loss=value, task="regression")


def test_uphill_in_a_bowl_is_straight_away_from_its_centre():
    """x becomes x(1 + r/‖x‖), so that the outputs grow to ½(‖x‖ + r)²."""
    subject = bowl()
    lengths = subject.inputs.norm(dim=1)
    found = sb.measure(subject, NAME, of="logit_norm", radius=0.7, stops=3)
    expected = [float(0.5 * (lengths + 0.7 * part).square().mean()) for part in (0, 5 / 6, 1, 1)]
    assert [row["step"] for row in found.details["path"]] == [0, 4, 8, 12]
    assert [row["value"] for row in found.details["path"]] == pytest.approx(expected)
    assert found.value == pytest.approx(expected[-1] / expected[0])
    assert found.exact


def test_of_a_cube_every_coordinate_moves_by_the_radius():
    subject = bowl()
    found = sb.measure(subject, NAME, of="logit_norm", radius=0.7, norm="linf", stops=1)
    there = subject.inputs + 0.7 * subject.inputs.sign()
    expected = there.square().sum(1).mean() / subject.inputs.square().sum(1).mean()
    assert found.value == pytest.approx(float(expected))


def test_on_a_trained_network_it_ends_among_wrong_answers():
    splits = datasets.create("digits").load(Path(), seed=0)
    model = models.create("mlp", {"widths": [16]}).build(splits.input_shape, splits.outputs, seed=0)
    recipes.create("adam", {"epochs": 8}).train(model, splits, seed=0)
    subject = sb.Subject(model, splits.train_inputs, splits.train_targets, splits=splits)
    found = sb.measure(subject, NAME, of="input_jacobian_norm", samples=64, radius=2.0)
    wrong = [row["wrong"] for row in found.details["path"]]
    assert wrong[0] < 0.2 < 0.8 < wrong[-1]
    assert {e.source for e in found.errors} == {"points"}
    assert found.work.gradient > 13 * 64
    drawn = sb.measure(subject, NAME, of="sam_sharpness", of_parameters={"m": 16}, samples=64)
    assert {e.source for e in drawn.errors} == {"draws", "points"}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"of": "logit_nrm"}, "Did you mean 'logit_norm'"),
        ({"of": NAME}, "must be another metric"),
        ({"of": "margin", "of_parameters": {"split": "train"}}, "split and samples are those of"),
        ({"radius": 0.0}, "radius must be positive"),
        ({"stops": 40}, "stops must lie in"),
    ],
)
def test_what_can_not_be_asked(asked, message):
    with pytest.raises(InputError, match=message):
        metrics.create(NAME, asked)


def test_a_metric_that_is_not_positive_has_no_ratio():
    model = nn.Linear(2, 2, bias=False).double()
    nn.init.eye_(model.weight)
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double()
    wrong = sb.Subject(model, x, torch.tensor([1, 0]))
    with pytest.raises(sb.MetricFailed, match="margin is -1 on the points"):
        sb.measure(wrong, NAME, of="margin")


def test_a_metric_that_has_no_answer_is_named():
    reshaped = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)))
    subject = sb.Subject(reshaped, torch.randn(9, 4), torch.randn(9, 2, 3))
    with pytest.raises(
        sb.MetricFailed, match=r"^relative_flatness \(by of_parameters\): the network"
    ):
        sb.measure(subject, NAME)
