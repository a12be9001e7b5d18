import math

import pytest
import torch
from torch import nn

from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import verify_promise
from sharpbench.metrics import metrics


def rate(subject, **parameters):
    metric = metrics.create("curvature_rate", {"samples": 64, **parameters})
    return metric.measure(subject, seed=3).value


def changed(subject, name, **parameters):
    transformation = transformations.create(name, parameters)
    # A private copy: the fixture's network is shared by the session.
    before = subject.working_model(torch.float64)
    after = transformation.apply(before, seed=0)
    verify_promise(transformation, before, after, subject.inputs[:64])
    return subject.with_model(after).mapped(transformation.points)


@pytest.mark.parametrize("factor", [0.25, 3.0])
@pytest.mark.parametrize("network", ["trained_mlp", "trained_cnn"])
def test_an_input_in_another_unit_moves_the_rate_by_its_logarithm(request, network, factor):
    subject = request.getfixturevalue(network)
    other = changed(subject, "input_rescaling", factor=factor)
    assert torch.allclose(other.splits.test_inputs, factor * subject.splits.test_inputs.double())
    assert rate(other) - rate(subject) == pytest.approx(-math.log(factor), abs=1e-6)


def test_temperature_leaves_a_logits_growth_and_moves_that_of_the_loss(trained_mlp):
    sharper = changed(trained_mlp, "logit_temperature", temperature=0.25)
    logits = trained_mlp.working_model(torch.float64)(trained_mlp.inputs[:8].double())
    assert torch.allclose(sharper.model(sharper.inputs[:8].double()), 4 * logits.double())
    same = rate(sharper, target="max_logit") - rate(trained_mlp, target="max_logit")
    assert same == pytest.approx(0.0, abs=1e-9)
    assert rate(sharper) > rate(trained_mlp) + 0.3


def test_a_floor_turns_confidence_into_flatness(trained_mlp):
    confident = changed(trained_mlp, "logit_temperature", temperature=1 / 32)
    assert rate(confident, floor=1e-12) < rate(confident) - 1


def test_networks_without_a_place_for_it_are_refused():
    no_weights = nn.Sequential(nn.Flatten(), nn.ReLU())
    with pytest.raises(TransformationRefused, match="takes the input"):
        transformations.create("input_rescaling").apply(no_weights, seed=0)
    ends_in_norm = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    with pytest.raises(TransformationRefused, match="end in a linear layer"):
        transformations.create("logit_temperature").apply(ends_in_norm, seed=0)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("input_rescaling", {"factor": 0.0}),
        ("logit_temperature", {"temperature": -1.0}),
        ("logit_temperature", {"temperature": 1.0}),
    ],
)
def test_impossible_parameters_are_refused(name, parameters):
    with pytest.raises(ValueError, match="must be positive"):
        transformations.get(name)(**parameters)
