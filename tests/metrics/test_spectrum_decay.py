"""The exponent of spectra that are known."""

import pytest

import sharpbench as sb
from sharpbench.metrics import metrics
from sharpbench.problems import problems

NAME = "hessian_spectrum_decay"


@pytest.mark.parametrize("decay", [0.5, 1.0, 2.0])
def test_of_a_power_law_it_is_the_exponent(decay):
    problem = problems.create("least_squares", {"decay": decay})
    subject, metric = problem.subject(seed=0), metrics.create(NAME)
    known = metric.known(problem, subject)
    assert known.expected == pytest.approx(decay)
    assert metric.checked_measure(subject, seed=0).value == pytest.approx(decay, rel=1e-6)


def test_a_bound_covers_what_lanczos_leaves():
    problem = problems.create("quadratic", {"spectrum": "clustered"})
    subject = problem.subject(seed=0)
    metric = metrics.create(NAME, {"max_products": 60, "tolerance": 0.2})
    found = metric.checked_measure(subject, seed=0)
    assert found.error_bound > 0
    assert abs(found.value - metric.known(problem, subject).expected) <= found.error_bound


def test_no_power_law_of_negative_eigenvalues():
    negative = problems.create("quadratic", {"spectrum": "negative"}).subject(seed=0)
    with pytest.raises(sb.MetricFailed, match="positive"):
        sb.measure(negative, NAME)
    small = problems.create("least_squares", {"features": 4}).subject(seed=0)
    with pytest.raises(sb.MetricFailed, match="10 eigenvalues asked of 4 parameters"):
        sb.measure(small, NAME)
