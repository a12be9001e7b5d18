"""The rise in the Monge metric: of a quadratic in closed form, and beside SAM's."""

import math

import pytest
import torch

import sharpbench as sb
from sharpbench.problems import problems


def test_of_a_quadratic_loss_it_is_known():
    """L(w + sg) − L(w) = s‖g‖² + ½s²gᵀHg with s = ρ/(‖g‖√(1 + ‖g‖²))."""
    subject = problems.create("least_squares").subject(seed=0)
    x = subject.inputs
    g = x.T @ (subject.model(x).detach() - subject.targets) / len(x)
    square, bent = float(g.square().sum()), float((x @ g).square().mean())
    for rho in (0.05, 5.0):
        step = rho / math.sqrt(square * (1 + square))
        found = sb.measure(subject, "monge_sharpness", rho=rho, m="all")
        assert found.value == pytest.approx(step * square + 0.5 * step**2 * bent)
        assert found.exact


def test_it_is_sams_figure_at_the_radius_that_the_slope_leaves():
    subject = problems.create("softmax_regression").subject(seed=0)
    length = sb.measure(subject, "gradient_norm").value
    monge = sb.measure(subject, "monge_sharpness", rho=0.3, m="all").value
    radius = 0.3 / math.hypot(1, length)
    assert monge == pytest.approx(sb.measure(subject, "sam_sharpness", rho=radius, m="all").value)
    with pytest.raises(ValueError, match="rho must be positive"):
        sb.measure(subject, "monge_sharpness", rho=0.0)


def test_batches_are_those_of_sam():
    subject = problems.create("softmax_regression").subject(seed=0)
    few = sb.measure(subject, "monge_sharpness", m=64)
    assert few.details["batches"] == 4
    assert few.standard_error > 0
    torch.manual_seed(1)
    assert few.value == sb.measure(subject, "monge_sharpness", m=64).value
