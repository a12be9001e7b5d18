"""What the outputs alone say, by hand."""

import pytest
import torch
from torch import nn

import sharpbench as sb


def passed_on(outputs, targets):
    layer = nn.Linear(outputs.shape[1], outputs.shape[1], bias=False).double()
    nn.init.eye_(layer.weight)
    return sb.Subject(layer, outputs, targets)


def test_the_logit_norm_is_that_of_the_logits_as_they_are():
    """Uncentred: (3, 4) has length 5 and (6, 8) length 10, though both are nearly constant."""
    subject = passed_on(torch.tensor([[3.0, 4.0], [6.0, 8.0]]).double(), torch.tensor([0, 1]))
    found = sb.measure(subject, "logit_norm")
    assert found.value == pytest.approx(7.5)
    assert found.exact


def test_margin_and_confidence_by_hand():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]]).double()
    subject = passed_on(logits, torch.tensor([0, 2]))
    assert sb.measure(subject, "margin").value == pytest.approx(((2 - 1) + (1 - 3)) / 2)
    exact = logits.softmax(1).max(1).values.mean()
    assert sb.measure(subject, "mean_confidence").value == pytest.approx(float(exact))
