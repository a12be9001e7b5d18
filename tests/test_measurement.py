import math

import pytest
from scipy import stats

from sharpbench.errors import NotFinite
from sharpbench.measurement import ErrorComponent, Measurement, Work


def test_components_add_in_quadrature_with_satterthwaites_degrees_of_freedom():
    errors = (ErrorComponent("points", 3.0, 9), ErrorComponent("probes", 4.0, 19))
    m = Measurement(10.0, errors=errors)
    assert m.standard_error == 5.0
    assert m.degrees_of_freedom == pytest.approx(625 / (81 / 9 + 256 / 19))
    low, high = m.interval()
    width = 5 * stats.t.ppf(0.975, m.degrees_of_freedom)
    assert (low, high) == pytest.approx((10 - width, 10 + width))
    assert not m.exact


def test_exact_is_what_has_no_component_at_all():
    assert Measurement(1.0).exact
    assert Measurement(1.0).interval() == (1.0, 1.0)
    assert not Measurement(1.0, converged=False).exact
    assert not Measurement(1.0, error_bound=0.1).exact
    assert not Measurement(1.0, errors=(ErrorComponent("points", 0.0, 3),)).exact


def test_a_source_of_unknown_size_makes_the_whole_error_unknown():
    m = Measurement(1.0, errors=(ErrorComponent("points", None), ErrorComponent("probes", 1.0, 7)))
    assert m.standard_error is None
    assert not m.exact
    assert m.interval() is None


def test_a_plug_in_may_give_its_standard_error_alone():
    m = Measurement(1.0, standard_error=0.5)
    assert m.errors == (ErrorComponent("other", 0.5),)
    assert m.interval(0.95) == pytest.approx((1 - 0.5 * 1.959964, 1 + 0.5 * 1.959964))
    with pytest.raises(ValueError, match="leave it out"):
        Measurement(1.0, standard_error=0.5, errors=(ErrorComponent("points", 0.1),))


def test_what_is_not_finite_is_no_error():
    with pytest.raises(NotFinite):
        ErrorComponent("points", math.inf)
    with pytest.raises(ValueError, match="unknown source"):
        ErrorComponent("luck", 1.0)


def test_work_is_counted_in_passes_of_one_gradient():
    """Griewank & Walther: forward ⅓, backward ⅔, a Hessian-vector product 2, order k then 2^(k−1)."""
    assert (
        Work(forward=30, gradient=5, hessian_vector=2, higher=7).gradient_samples()
        == 10 + 5 + 4 + 7
    )
    assert Work(forward=30).gradient_equivalents(5) == 2
    work = Work()
    work.add_backward(30)
    assert work.gradient_samples() == pytest.approx(20)
    for order, cost in ((1, 30), (2, 60), (3, 120), (4, 240)):
        work = Work()
        work.add_derivative(order, 30)
        assert work.gradient_samples() == cost
