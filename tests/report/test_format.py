"""Figures as they are printed, on the terminal and in the report."""

import math
import re

import pytest

from sharpbench.analysis.names import change_in_words
from sharpbench.analysis.statistics import Estimate
from sharpbench.measurement import ErrorComponent, Measurement
from sharpbench.report.format import (
    byte_size,
    count,
    figure,
    fixed,
    interval,
    kept,
    number,
    percent,
    percent_figure,
    percent_interval,
    prose,
    roughly,
    seconds,
    times,
    work,
)


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
        (told(1e9, ("points", 2e7, 9)), "(1.000 ± 0.020)×10⁹ (points)"),
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


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.23456, 0.0123, "1.235 ± 0.012"),
        (123.456, 12.3, "123 ± 12"),
        (-0.5, None, "−0.5"),
        (-1.5, 0.25, "−1.50 ± 0.25"),
        (math.nan, 1.0, "–"),
        (1e-3, 5.0, "0.0 ± 5.0"),
        (1e-9, 1e-12, "(1.0000 ± 0.0010)×10⁻⁹"),
        (-2.5e7, 123456.0, "(−2.500 ± 0.012)×10⁷"),
        (0.0, 1e-20, "(0.0 ± 1.0)×10⁻²⁰"),
        (1e9, 1e-6, "1×10⁹ ± 1×10⁻⁶"),
        (12345.6, 0.0, "12,346"),
    ],
)
def test_the_error_decides_on_the_digits(value, error, text):
    assert figure(value, error) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.0, 4, "0"),
        (-0.5, 4, "−0.5"),
        (math.pi, 3, "3.14"),
        (12345.6, 4, "12,346"),
        (2e-5, 2, "2×10⁻⁵"),
        (-3.21e-14, 3, "−3.21×10⁻¹⁴"),
        (1.5e6, 2, "1.5×10⁶"),
        (math.inf, 4, "∞"),
        (-math.inf, 4, "−∞"),
        (None, 4, "–"),
        (math.nan, 4, "–"),
    ],
)
def test_numbers_have_a_true_minus_and_powers_of_ten(value, digits, text):
    assert number(value, digits) == text


def test_signs_and_places():
    assert number(0.5, sign=True) == "+0.5"
    assert number(-math.inf, sign=True) == "−∞"
    assert number(math.inf, sign=True) == "+∞"
    assert [fixed(v, 2, sign=True) for v in (0.254, -0.256, 0.0)] == ["+0.25", "−0.26", "+0.00"]
    assert fixed(math.nan, 2) == "–"
    assert count(1234567) == "1,234,567"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1234, "12.3%"),
        (-0.1234, "−12.3%"),
        (0.0014, "0.14%"),
        (2e-7, "2×10⁻⁷"),
        (3e-16, "3×10⁻¹⁶"),
        (137.28, "13,728%"),
        (3e5, "3×10⁷%"),
        (0.0, "0%"),
        (1.0, "100.0%"),
        (math.inf, "∞"),
        (None, "–"),
    ],
)
def test_percentages(value, text):
    assert percent(value) == text


def test_percentages_with_their_errors():
    assert percent_figure(0.0394, 0.0062) == "3.94 ± 0.62%"
    assert percent_figure(-0.0394, 0.062) == "−3.9 ± 6.2%"
    assert percent_figure(0.0394) == percent_figure(0.0394, math.nan) == "3.9%"
    assert percent_interval(0.95, 0.9211, 0.9734) == "95.0 [92.1, 97.3]%"


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((0.87, 0.81, 0.94), "0.87 [0.81, 0.94]"),
        ((-0.39, -0.52, -0.26), "−0.39 [−0.52, −0.26]"),
        ((427.23, 400.0, 455.0), "427 [400, 455]"),
        ((1e-9, 0.9e-9, 1.2e-9), "1.0×10⁻⁹ [9.0×10⁻¹⁰, 1.2×10⁻⁹]"),
        ((1.0, -math.inf, math.inf), "1.0 [−∞, ∞]"),
        ((2.0, 2.0, 2.0), "2"),
    ],
)
def test_an_intervals_width_decides_on_its_digits(ends, text):
    assert interval(Estimate(*ends, n=9)) == text


def test_an_interval_of_stated_places():
    tau = Estimate(-0.4, -0.9, 0.1, 9)
    assert interval(tau, 2, sign=True) == "−0.40 [−0.90, +0.10]"


@pytest.mark.parametrize(
    ("value", "text"),
    [(12.34, "12.3 s"), (0.01234, "12.3 ms"), (2e-5, "20.0 µs"), (0.0, "0 µs"), (None, "–")],
)
def test_times(value, text):
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2048.0, "2.0 KiB"),
        (1.5 * 2**20, "1.5 MiB"),
        (3.0 * 2**30, "3.0 GiB"),
        (0.0, "0 MiB"),
        (math.nan, "–"),
    ],
)
def test_sizes(value, text):
    assert byte_size(value) == text


@pytest.mark.parametrize("value", [-0.0, -1e-9])
def test_no_minus_stands_before_a_zero(value):
    assert fixed(value, 2) == "0.00"
    assert fixed(value, 2, sign=True) == "+0.00"
    assert number(-0.0) == "0"
    assert (number(9999.4), number(9999.6), number(-9999.6)) == ("9999", "10,000", "−10,000")
    assert percent(-0.0) == "0%"
    assert interval(Estimate(value, -0.004, 0.5, 3), 2) == "0.00 [0.00, 0.50]"


def test_what_was_measured_to_so_many_digits_keeps_its_zeros():
    assert figure(1.2, 0.05) == "1.200 ± 0.050"
    assert interval(Estimate(1.2, 1.15, 1.25, 9)) == "1.20 [1.15, 1.25]"
    told = [number(v, 3, zeros=True) for v in (1.2, 2.0, 100.0, 2e-5, -4.0, 12345.0, 0.0, math.nan)]
    assert told == ["1.20", "2.00", "100", "2.00×10⁻⁵", "−4.00", "12,345", "0", "–"]
    assert (seconds(0.046), times(2.1, 293.0), work(54.0), percent(0.002)) == (
        "46.0 ms", "×2.10 to ×293", "54.0", "0.20%",
    )  # fmt: skip
    assert (number(1.2), number(0.05), number(2.0)) == (
        "1.2",
        "0.05",
        "2",
    )  # a setting, as it is given


def test_numbers_in_a_text_get_their_minus_signs():
    assert prose("Δλ = -0.39 ± 0.1, in [-1, -.5]") == "Δλ = −0.39 ± 0.1, in [−1, −.5]"
    assert prose("in [-1e-06, 2.5e+3], by 1e-6; commit 5a3e97, 1e9f") == (
        "in [−10⁻⁶, 2.5×10³], by 10⁻⁶; commit 5a3e97, 1e9f"
    )
    assert prose("in [-inf, inf], information") == "in [−∞, ∞], information"
    assert prose("orders 1-4 and x-2, 2023-01-02, well-known -x") == (
        "orders 1-4 and x-2, 2023-01-02, well-known -x"
    )


def test_what_is_foretold_has_two_digits():
    assert [roughly(v) for v in (3, 36, 100, 101, 21153.0)] == [
        "some 3", "some 36", "some 100", "some 110", "some 22,000",
    ]  # fmt: skip


def test_a_figure_stays_in_one_line_with_its_name_its_interval_and_its_unit():
    told = kept("quick: Ψ −0.08 [−0.36, +0.22], n = 72 and 82.0 gradients (34.0–82.0)")
    parts = [re.sub("[\u00a0\u2060]", lambda found: " " if found[0] == "\u00a0" else "", part)
             for part in told.split(" ")]  # fmt: skip
    assert parts == [
        "quick:", "Ψ −0.08 [−0.36, +0.22],", "n = 72", "and", "82.0 gradients", "(34.0–82.0)",
    ]  # fmt: skip


def test_a_change_is_told_as_after_over_before():
    assert (times(3.93, 406.2), times(0.998, 1.002)) == ("×3.93 to ×406", "×0.998 to ×1.00")
    assert (times(1.0, 1.0 + 1e-9), times(16.83), times(math.nan, 2.0)) == ("×1", "×16.8", "–")


def test_work_that_was_not_counted_is_no_zero():
    assert [work(v) for v in (0.0, None, math.nan, 1 / 3, 22.26)] == [
        *["not counted"] * 3, "0.333", "22.3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("neuron_permutation", "neuron permutation"),
        ("attention_gl(condition=5)", "attention GL (condition 5)"),
        ("layer_rescaling(alpha=100)", "layer rescaling (α 100)"),
        ("weight_noise(scale=0.1, of=all_layers)", "weight noise (scale 0.1, of all layers)"),
    ],
)
def test_a_transformation_in_words(label, words):
    assert change_in_words(label) == words
