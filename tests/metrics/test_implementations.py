"""native against PyHessian, and the traps that PyHessian is known for."""

import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.errors import MetricFailed


@pytest.fixture(params=["trained_mlp", "trained_cnn"])
def subject(request):
    return request.getfixturevalue(request.param)


def test_top_eigenvalues_agree_within_their_tolerances(subject):
    ours = sb.measure(subject, "hessian_top_eigenvalue", samples=400, tolerance=1e-4, seed=3)
    theirs = sb.measure(
        subject, "hessian_top_eigenvalue", implementation="pyhessian", samples=400,
        tolerance=1e-6, max_products=500, seed=3,
    )  # fmt: skip
    assert ours.converged
    # A successive-difference stop of 1e-6 leaves a true error of up to about 30 times as much.
    assert theirs.value == pytest.approx(ours.value, rel=1e-3)
    assert theirs.value <= ours.value + ours.details["error_bound"]


def test_traces_agree_within_three_standard_errors(subject):
    ours, theirs = (
        sb.measure(
            subject,
            "hessian_trace",
            implementation=i,
            samples=400,
            tolerance=0.0,
            max_probes=60,
            seed=3,
        )
        for i in ("native", "pyhessian")
    )
    error = (ours.standard_error**2 + theirs.standard_error**2) ** 0.5
    assert abs(ours.value - theirs.value) < 3 * error
    assert ours.work.hessian_vector == theirs.work.hessian_vector == 60 * 400


def test_pyhessian_in_batches_equals_pyhessian_at_once(trained_mlp, monkeypatch):
    from sharpbench.metrics import pyhessian

    def measured():
        return sb.measure(
            trained_mlp, "hessian_top_eigenvalue", implementation="pyhessian", samples=300,
            tolerance=1e-8, max_products=300, seed=0,
        )  # fmt: skip

    at_once = measured()
    monkeypatch.setattr(pyhessian, "_BATCH", 130)  # unequal batches: 130, 130, 40
    batched = measured()
    assert batched.value == pytest.approx(at_once.value, rel=1e-6)
    # In batches PyHessian takes the gradient anew for each product.
    assert batched.work.gradient == pytest.approx(batched.work.hessian_vector)


@pytest.mark.parametrize("implementation", ["native", "pyhessian"])
def test_measuring_twice_gives_the_same_figure(trained_mlp, implementation):
    """PyHessian alone doubles every figure on a second construction; a private copy can't."""
    first, second = (
        sb.measure(
            trained_mlp,
            "hessian_top_eigenvalue",
            implementation=implementation,
            samples=200,
            seed=1,
        ).value
        for _ in range(2)
    )
    assert first == second


def test_a_failing_rival_is_a_failed_measurement():
    class Partial(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.used(x)

    subject = sb.Subject(Partial(), torch.randn(8, 3), torch.arange(8) % 3)
    with pytest.raises(MetricFailed, match="PyHessian failed"):
        sb.measure(subject, "hessian_trace", implementation="pyhessian")
    assert sb.measure(subject, "hessian_trace").value > 0


def test_an_unmet_tolerance_is_admitted(trained_mlp):
    eigenvalue = sb.measure(trained_mlp, "hessian_top_eigenvalue", samples=200, max_products=2)
    trace = sb.measure(trained_mlp, "hessian_trace", samples=200, max_probes=8, tolerance=1e-4)
    assert not eigenvalue.converged
    assert eigenvalue.details["error_bound"] > 1e-3 * eigenvalue.value
    assert not trace.converged
