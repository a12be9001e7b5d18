import math

import pytest
import torch

from sharpbench.metrics import metrics
from sharpbench.problems import problems
from sharpbench.taylor.expansion import taylor
from sharpbench.truth import KnownDerivatives

SINGLE_INDEX = {
    "power_pole": {"points": 10, "half_width": 0.6, "power": 3, "scale": 1.3},
    "cubic_pole": {"points": 10, "half_width": 0.7},
    "runge": {"points": 10, "half_width": 0.5},
    "sine": {"points": 10, "scale": 3.0},
    "exponential": {"points": 10, "half_width": 1.0, "scale": 0.7},
    "gaussian": {"points": 10, "half_width": 1.9},
    "hyperbolic_tangent": {"points": 10},
}


def rate(problem, seed=0, **parameters):
    """λ measured and λ known."""
    metric = metrics.create("curvature_rate", {"target": 0, "samples": "all", **parameters})
    subject = problem.subject(seed=seed)
    return metric.measure(subject, seed=seed), metric.known(problem, subject)


@pytest.mark.parametrize("name", SINGLE_INDEX)
@pytest.mark.parametrize("dimension", [1, 5])
def test_closed_form_derivatives_are_those_of_taylor_mode(name, dimension):
    problem = problems.create(name, {**SINGLE_INDEX[name], "dimension": dimension})
    subject = problem.subject(seed=1)
    w = subject.model.weight.detach()
    along = (w / w.norm()).expand_as(subject.inputs)
    found = taylor(lambda x: subject.model(x).squeeze(1), subject.inputs, along, 20)
    logs = found.detach().abs().log() + torch.lgamma(torch.arange(1.0, 22.0).double()).unsqueeze(1)
    known = problem.log_derivatives(subject, 20)
    assert known.shape == (21, 10)
    off = (logs - known).abs().flatten()
    assert off.quantile(0.95) < 1e-8  # close to a zero of a derivative few digits are left
    assert off.median() < 1e-12


@pytest.mark.parametrize("name", ["band_limited", "fourier_features"])
def test_waves_have_the_derivatives_they_claim(name):
    small = (
        {"grid": 256, "points": 64} if name == "band_limited" else {"dimension": 1, "points": 64}
    )
    problem = problems.create(name, small)
    subject = problem.subject(seed=1)
    ones = torch.ones_like(subject.inputs)
    found = taylor(lambda x: subject.model(x).squeeze(1), subject.inputs, ones, 12).detach()
    logs = found.abs().log() + torch.lgamma(torch.arange(1.0, 14.0).double()).unsqueeze(1)
    known = problem.log_derivatives(subject, 12)
    big = known > known.max(1, keepdim=True).values - 6
    assert (logs - known)[big].abs().max() < 1e-9


@pytest.mark.parametrize("name", list(problems))
def test_every_problem_is_a_function_of_its_seed(name):
    problem = problems.create(name)
    a, b, c = (problem.subject(seed=s) for s in (1, 1, 2))
    assert torch.equal(a.inputs, b.inputs)
    assert torch.equal(a.model(a.inputs), b.model(b.inputs))
    nothing_drawn = name in {"cubic_pole", "exponential", "gaussian", "power_pole", "runge"}
    points = name in {
        "deep_rank_regression",
        "laplacian_mode",
        "monomial",
        "reduced_rank_regression",
    }  # they alone are drawn
    drawn = (a.inputs, c.inputs) if points else (a.model(a.inputs), c.model(a.inputs))
    assert torch.equal(*drawn) == nothing_drawn


@pytest.mark.parametrize(
    "name", [n for n in problems if isinstance(problems.create(n), KnownDerivatives)]
)
def test_what_knows_every_derivative_has_one_output(name):
    subject = problems.create(name).subject(seed=1)
    assert subject.model(subject.inputs).shape[1:] == (1,)


def test_the_papers_radii_of_convergence():
    """arXiv:2511.01438, section 5.1: 1, 0.5 and (by its code) 0.988403 for (1 − x)⁻³."""
    fit = {
        "normalization": "factorial",
        "fit": "log_corrected",
        "weight_decay": 0.02,
        "orders": tuple(range(2, 61)),
    }
    for parameters, radius in (({}, 1.0), ({"scale": 2.0}, 0.5), ({"power": 3}, 0.988403)):
        found, known = rate(problems.create("power_pole", parameters), **fit)
        assert math.exp(-found.value) == pytest.approx(radius, abs=1e-6)
        assert found.value == pytest.approx(known.expected, abs=1e-12)
    # The function of its text, at the orders that don't vanish at 0.
    found, known = rate(problems.create("cubic_pole"), **{**fit, "orders": tuple(range(3, 61, 3))})
    assert math.exp(-found.value) == pytest.approx(1.0, abs=1e-9)
    assert known.limit == pytest.approx(0.0, abs=1e-12)


def test_the_papers_band_edges():
    """Section 5.1: Ω = 450.38 estimated as 427.2 by a line and 448.1 with a log n regressor."""
    problem = problems.create("band_limited")
    assert problem.edge == pytest.approx(450.378723, abs=1e-6)
    common = {"norm": "rms", "directions": 1, "weight_decay": 0.05}
    line, known = rate(problem, orders=tuple(range(31)), **common)
    assert math.exp(line.value) == pytest.approx(427.232520, abs=1e-3)
    assert line.value == pytest.approx(known.expected, abs=1e-9)
    corrected, _ = rate(problem, orders=tuple(range(1, 31)), fit="log_corrected", **common)
    assert math.exp(corrected.value) == pytest.approx(448.138122, abs=1e-5)
    assert known.limit == pytest.approx(math.log(450.19), abs=1e-4)  # the highest wave on the grid


def test_which_definition_has_a_limit():
    limits = {
        (name, normalization): rate(
            problems.create(name, SINGLE_INDEX[name]), normalization=normalization
        )[1].limit
        for name in SINGLE_INDEX
        for normalization in ("none", "factorial")
    }
    for name in ("power_pole", "cubic_pole", "runge", "hyperbolic_tangent"):
        assert limits[name, "none"] == math.inf
        assert math.isfinite(limits[name, "factorial"])
    for name, scale in (("sine", 3.0), ("exponential", 0.7)):
        assert limits[name, "none"] == pytest.approx(math.log(scale))
        assert limits[name, "factorial"] == -math.inf
    assert limits["gaussian", "none"] == math.inf
    assert limits["gaussian", "factorial"] == -math.inf


@pytest.mark.parametrize("name", ["runge", "hyperbolic_tangent"])
def test_the_factorial_rate_approaches_its_limit(name):
    problem = problems.create(name, SINGLE_INDEX[name])
    errors = [
        abs(found.value - known.limit)
        for found, known in (
            rate(problem, orders=tuple(range(1, n + 1)), normalization="factorial")
            for n in (4, 12, 30)
        )
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02


@pytest.mark.parametrize(
    "parameters",
    [
        {"direction_law": "sphere"},
        {"direction_law": "gaussian"},
        {"direction_law": "gradient"},
        {"direction_law": "sphere", "norm": "rms", "orders": (1, 2)},
        {"direction_law": "gaussian", "norm": "rms", "orders": (1, 2)},
        {"direction_law": "sphere", "norm": "frobenius"},
        {"direction_law": "gaussian", "norm": "frobenius"},
    ],
    ids=lambda p: "-".join(map(str, p.values())),
)
def test_what_directions_add_is_known_in_any_dimension(parameters):
    problem = problems.create("hyperbolic_tangent", {"dimension": 20, "points": 512})
    found, known = rate(problem, directions=16, **parameters)
    assert found.exact == (parameters["direction_law"] == "gradient")
    assert abs(found.value - known.expected) < 4 * (found.standard_error or 0.0) + 1e-9


def test_what_a_problem_does_not_know_is_not_told():
    features = problems.create("fourier_features")
    assert rate(features)[1] is None
    assert rate(features, norm="frobenius", orders=(1, 2))[1] is not None
    sine = problems.create("sine")
    subject = sine.subject(seed=0)
    assert metrics.create("curvature_rate").known(sine, subject) is None  # the loss
    assert (
        metrics.create("curvature_rate", {"target": 0, "floor": 1e-3}).known(sine, subject) is None
    )
    assert metrics.create("logit_norm").known(sine, subject) is None


def test_a_range_that_reaches_a_pole_is_refused():
    with pytest.raises(ValueError, match="pole"):
        problems.get("power_pole")(points=3, half_width=1.2)
