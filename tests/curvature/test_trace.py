"""Random trace estimators: XTrace's own formulas by brute force, and when they stop."""

import pytest
import torch
from torch import Tensor

from sharpbench.curvature.operator import MatrixOperator, SymmetricOperator
from sharpbench.curvature.rounding import relative_rounding
from sharpbench.curvature.trace import (
    _Sketch,
    degrees_of_freedom,
    estimate_trace,
    squared_frobenius_norm,
)
from sharpbench.measurement import ErrorComponent, Measurement
from sharpbench.seeds import torch_generator
from tests.calibration.coverage import assert_covers
from tests.curvature.test_operators import symmetric


def brute_force(operator: SymmetricOperator, omega: Tensor) -> list[float]:
    """XTrace's basic estimates by their definition: a new sketch for each test vector left out."""
    found = []
    for i in range(omega.shape[1]):
        others = torch.cat([omega[:, :i], omega[:, i + 1 :]], 1)
        basis = torch.linalg.qr(operator.matmat(others)).Q
        left = omega[:, i] - basis @ (basis.T @ omega[:, i])
        found.append(float((basis * operator.matmat(basis)).sum() + left @ operator.matvec(left)))
    return found


def test_xtrace_leaves_out_one_test_vector_and_then_another():
    operator = MatrixOperator(symmetric([1 / k - 0.1 for k in range(1, 31)], 0))
    omega = torch.randn(30, 7, generator=torch_generator(1), dtype=torch.float64)
    sketch = _Sketch(operator)
    sketch.extend(omega[:, :4])
    sketch.extend(omega[:, 4:])
    estimates, without = sketch.leave_one_out(omega)
    assert estimates.tolist() == pytest.approx(brute_force(operator, omega), rel=1e-9)
    for j in range(7):
        rest = torch.cat([omega[:, :j], omega[:, j + 1 :]], 1)
        own = brute_force(operator, rest)
        assert float(without[j]) == pytest.approx(sum(own) / len(own), rel=1e-9)


@pytest.mark.parametrize(("method", "share"), [("hutchinson", 1.0), ("hutch++", 0.97)])
def test_an_error_just_within_the_tolerance_is_no_reason_to_stop(method, share):
    """A mean tells up to the tolerance itself where it stops, a sketch its own error."""
    operator = MatrixOperator(symmetric([0.1 + 0.003 * k for k in range(300)], 2))
    for seed in range(5):
        found = estimate_trace(
            operator,
            method=method,
            tolerance=0.01,
            max_products=900,
            generator=torch_generator(seed),
        )
        assert found.converged
        assert found.standard_error <= share * 0.01 * abs(found.value)
        assert found.degrees_of_freedom >= 1


@pytest.mark.parametrize("most", [8, 10, 11, 12, 25, 50])
@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
def test_the_budget_is_kept_and_products_are_counted(method, most):
    operator = MatrixOperator(symmetric([0.1 + 0.003 * k for k in range(200)], 2))
    found = estimate_trace(
        operator, method=method, tolerance=0.0, max_products=most, generator=torch_generator(0)
    )
    assert not found.converged
    assert found.products == operator.work.hessian_vector
    assert most - 3 < found.products <= most


def test_xtraces_error_lies_between_that_of_its_estimates_and_their_jackknife():
    operator = MatrixOperator(symmetric([1 / k - 0.1 for k in range(1, 31)], 0))
    found = estimate_trace(
        operator,
        method="xtrace",
        distribution="gaussian",
        tolerance=0.0,
        max_products=16,
        generator=torch_generator(3),
    )
    generator = torch_generator(3)
    draws = [torch.randn(30, generator=generator, dtype=torch.float64) for _ in range(8)]
    omega = torch.stack(draws, 1)
    estimates = torch.tensor(brute_force(operator, omega))
    without = torch.tensor(
        [
            sum(brute_force(operator, torch.cat([omega[:, :j], omega[:, j + 1 :]], 1))) / 7
            for j in range(8)
        ]
    )
    own = float(estimates.std()) / 8**0.5
    jackknife = (7 / 8 * float((without - without.mean()).square().sum())) ** 0.5
    assert found.value == pytest.approx(float(estimates.mean()), rel=1e-6)
    assert found.standard_error == pytest.approx((own * jackknife) ** 0.5, rel=1e-4)
    assert found.degrees_of_freedom == 7


SPECTRA = {
    "decaying": [10.0 ** (-k / 4) for k in range(60)],
    "one far above the rest": [1.0] + [1e-7] * 59,
    "of both signs, trace far below the norm": [(-1.0) ** k * 0.8**k for k in range(60)],
    "flat": [1 + 1e-3 * k for k in range(60)],
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
def test_intervals_in_float32_hold_the_trace_in_float64(method, spectrum):
    held = 0
    for seed in range(200):
        high = MatrixOperator(symmetric(SPECTRA[spectrum], seed))
        low = MatrixOperator(high.matrix.float())
        found = estimate_trace(
            low, method=method, tolerance=0.0, max_products=72, generator=torch_generator(seed)
        )
        rounding = relative_rounding(low, high) * found.scale
        errors = (
            ErrorComponent("probes", found.standard_error, found.degrees_of_freedom),
            ErrorComponent("rounding", rounding),
        )
        below, above = Measurement(found.value, errors=errors).interval(0.95)
        held += below <= float(high.matrix.trace()) <= above
    assert held >= 184  # 95% of 200 less three standard deviations, rounded up


@pytest.mark.parametrize("power", [1, 2])
def test_a_mean_that_stops_at_its_tolerance_still_covers(power):
    """A spectrum k^−1, whose few large eigenvalues skew a probe's law; power 2: the Frobenius norm's."""
    spectrum = torch.arange(1, 41, dtype=torch.float64) ** -1.0
    operator = MatrixOperator(torch.diag(spectrum))
    settings = {"tolerance": 0.2, "max_products": 400, "distribution": "gaussian"}
    of = estimate_trace if power == 1 else squared_frobenius_norm
    found = [of(operator, generator=torch_generator(seed), **settings) for seed in range(400)]
    truth = float((spectrum**power).sum())
    told = [
        Measurement(
            f.value, errors=(ErrorComponent("probes", f.standard_error, f.degrees_of_freedom),)
        )
        for f in found
    ]
    assert_covers([interval for m in told if (interval := m.interval())], truth)
    assert all(f.converged and f.standard_error <= 0.2 * f.value for f in found)
    false = sum(abs(f.value - truth) > 1.96 * 0.2 * truth for f in found)
    assert false <= 0.05 * len(found)


def test_degrees_of_freedom_have_no_unit():
    """A saturated network has a Hessian whose squares are next to nothing."""
    values = torch.randn(9, generator=torch_generator(3), dtype=torch.float64).exp()
    expected = degrees_of_freedom(values)
    for scale in (1e-60, 1e-110, 1e-250):
        assert degrees_of_freedom(values * scale) == pytest.approx(expected, rel=1e-9)
    assert degrees_of_freedom(torch.zeros(9)) == 8
