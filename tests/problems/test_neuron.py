"""One neuron at every width, also after its units are split."""

import pytest
import torch

from sharpbench.invariance import transformations
from sharpbench.metrics import metrics
from sharpbench.problems import problems


@pytest.mark.parametrize("order", [1.0, 2.0])
@pytest.mark.parametrize("width", [1, 7, 64])
def test_the_path_norm_is_that_of_the_neuron(width, order):
    problem = problems.create("one_neuron", {"width": width, "norm": 3.0})
    subject = problem.subject(seed=0)
    metric = metrics.create("path_norm", {"order": order})
    known = metric.known(problem, subject).expected
    assert metric.checked_measure(subject, seed=0).value == pytest.approx(known)
    if order == 1:
        assert known == pytest.approx(3.0)
    assert metrics.create("path_norm", {"biases": True}).known(problem, subject) is None


def test_splitting_units_keeps_the_norm_of_order_one_alone():
    subject = problems.create("one_neuron").subject(seed=0)
    split = transformations.create("neuron_splitting").transform(subject.model, seed=1).model
    assert sum(p.numel() for p in split.parameters()) > sum(
        p.numel() for p in subject.model.parameters()
    )
    moved = subject.with_model(split)
    for order, keeps in ((1.0, True), (2.0, False)):
        metric = metrics.create("path_norm", {"order": order})
        before, after = (metric.checked_measure(s, seed=0).value for s in (subject, moved))
        assert (after == pytest.approx(before, rel=1e-9)) == keeps


def test_it_is_one_neuron():
    problem = problems.create("one_neuron", {"width": 5})
    subject, other = problem.subject(seed=0), problem.subject(seed=1)
    w = subject.model[0].weight[0] / subject.model[0].weight[0].abs().sum()
    expected = 2 * (subject.inputs @ w).relu()
    assert torch.allclose(subject.targets[:, 0], expected)
    assert not torch.equal(subject.targets, other.targets)
