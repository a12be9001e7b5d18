"""Figures as they are printed, on the terminal and in the report."""

import math

import pytest

from sharpbench.measurement import ErrorComponent, Measurement
from sharpbench.report.format import figure


def told(value, *errors, **kwargs):
    m = Measurement(value, errors=tuple(ErrorComponent(*e) for e in errors), **kwargs)
    return figure(m.value, m.standard_error, m.errors, m.error_bound, m.converged)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (told(1.23456), "1.235, exact"),
        (told(1.23456, converged=False), "1.235, not converged"),
        (told(1.23456, error_bound=1e-3), "1.235, within 0.001"),
        (told(10.0, ("points", 3.0, 9), ("probes", 4.0, 7)), "10.0 ± 5.0 (points, probes)"),
        (told(1.2345, ("points", 0.05, 9), error_bound=1e-3), "1.234 ± 0.050 (points), within 0.001"),
        (told(1.2345, ("points", None), ("probes", 0.1, 3)), "1.234 ± unknown (points)"),
        (told(1.2345, ("probes", 0.0, 3)), "1.234 ± 0 (probes)"),
        (told(1.2345, ("probes", 0.1, 3), ("probes", 0.1, 3)), "1.23 ± 0.14 (probes)"),
        (told(1e9, ("points", 2e7, 9)), "1e+09 ± 2e+07 (points)"),
    ],
)  # fmt: skip
def test_a_figure_says_where_its_error_comes_from(text, expected):
    assert text == expected


def test_components_of_a_record_are_told_like_those_of_a_measurement():
    errors = [{"source": "points", "size": 0.05, "degrees_of_freedom": 9.0}]
    assert figure(1.2345, 0.05, errors) == "1.234 ± 0.050 (points)"


def test_nothing_is_called_exact_whose_sources_are_not_known():
    assert figure(0.5) == "0.5"
    assert figure(0.5, math.nan, None, math.nan) == "0.5"
    assert figure(0.5, 0.25) == "0.50 ± 0.25"
    assert figure(None) == figure(math.nan) == "–"
