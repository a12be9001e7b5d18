"""The local learning coefficient beside closed forms: quadratics, monomials, reduced rank regression."""

import itertools
import math

import pytest
import torch
from scipy import integrate, stats
from torch import nn

import sharpbench as sb
from sharpbench.errors import InputError, MetricFailed
from sharpbench.metrics import metrics
from sharpbench.metrics.local_learning_coefficient import split_r_hat
from sharpbench.problems import problems

NAME = "local_learning_coefficient"
CURVATURES = torch.tensor([2.0, 0.5, 0.05, 0.0], dtype=torch.float64)


def bowl(samples=200, offset=0.0):
    """Least squares in four weights, at its minimum, H = diag(CURVATURES); from there by ``offset`` each."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(samples, 4, generator=generator, dtype=torch.float64)
    x = torch.linalg.qr(drawn).Q * (CURVATURES * samples).sqrt()
    model = nn.Linear(4, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    y = model(x).detach()
    model.weight.data += offset
    return sb.Subject(model, x, y)


def localised(pull, samples=200, step=0.0):
    """½ Σ nβh/(a (1 − εa/4)), a = nβh + γ; steps of variance ε without rejection."""
    tempered = samples / math.log(samples) * CURVATURES
    a = tempered + pull
    return float((0.5 * tempered / (a * (1 - step * a / 4))).sum())


def within(found, known, errors=3.5):
    """``errors`` standard errors, of few degrees of freedom."""
    quantile = stats.t.ppf(stats.norm.cdf(errors), found.degrees_of_freedom)
    return abs(found.value - known) < quantile * found.standard_error


def test_of_a_quadratic_it_is_half_the_localised_dimension():
    found = sb.measure(bowl(), NAME, localization=1.0, draws=400)
    assert within(found, localised(1.0))
    assert found.standard_error < 0.1 * localised(1.0)
    assert found.details["inverse_temperature"] == pytest.approx(200 / math.log(200))
    assert found.details["lower_losses"] == 0
    assert found.work.gradient == 200 * (4 * 700 + 2)


def test_steps_that_are_all_taken_have_the_bias_that_is_known():
    """At ε = 1/a₁ the stiffest weight's share is 4/3 of its own: told from the unbiased one."""
    step = 1 / (200 / math.log(200) * 2 + 100)
    asked = {"localization": 100.0, "step": step, "chains": 4, "draws": 500, "burn_in": 20}
    biased = sb.measure(bowl(), NAME, sampler="sgld", **asked)
    assert within(biased, localised(100.0, step=step))
    assert not within(biased, localised(100.0), errors=2.5)
    fair = sb.measure(bowl(), NAME, sampler="mala", **asked)
    assert within(fair, localised(100.0))


def test_a_part_of_the_data_has_the_temperature_of_all():
    found = sb.measure(bowl(), NAME, samples=50, draws=10, burn_in=5)
    assert found.details["inverse_temperature"] == pytest.approx(200 / math.log(200))
    assert [e.source for e in found.errors] == ["draws", "points"]
    assert found.standard_error is None


def test_away_from_a_minimum_it_is_negative_and_says_so():
    """Off by 3 in each weight the chains fall: nβ(E[L] − L) = ½Σ… − nβ Σ ½h·9·(1 − (γ/a)²)."""
    pull, tempered = 1.0, 200 / math.log(200) * CURVATURES
    a = tempered + pull
    fall = float((4.5 * tempered * (1 - (pull / a) ** 2)).sum())
    found = sb.measure(bowl(offset=3.0), NAME, localization=pull, draws=200, burn_in=150)
    assert found.value == pytest.approx(localised(pull) - fall, abs=6 * found.standard_error)
    assert found.value < 0 < found.details["lower_losses"]
    (note, _) = metrics.create(NAME, {}).notes(found.details)
    assert note.startswith("negative: the loss is lower nearby")


PROBLEMS = [
    ("monomial", {"exponents": (1,)}, 0.5),
    ("monomial", {"exponents": (2,)}, 0.25),
    ("monomial", {"exponents": (3,)}, 1 / 6),
    ("monomial", {"exponents": (1, 1)}, 0.5),
    ("monomial", {"exponents": (1, 2)}, 0.25),
    ("monomial", {"exponents": (1, 1, 2)}, 0.25),
    ("reduced_rank_regression", {"inputs": 1, "hidden": 1, "outputs": 3}, 0.5),
    ("reduced_rank_regression", {"inputs": 3, "hidden": 1, "outputs": 1}, 0.5),
    ("reduced_rank_regression", {"inputs": 1, "hidden": 3, "outputs": 1}, 0.5),
    ("reduced_rank_regression", {"inputs": 2, "hidden": 1, "outputs": 2}, 1.0),
    ("reduced_rank_regression", {}, 1.5),
    ("reduced_rank_regression", {"inputs": 2, "hidden": 3, "outputs": 2}, 2.0),
    ("reduced_rank_regression", {"inputs": 3, "hidden": 2, "outputs": 4}, 3.0),
    ("deep_rank_regression", {"widths": (1, 2, 2, 1)}, 0.5),
    ("deep_rank_regression", {"widths": (1, 3, 4, 2)}, 1.0),
    ("deep_rank_regression", {"widths": (5, 3, 4, 4, 1)}, 1.5),
]


@pytest.mark.parametrize(("name", "parameters", "limit"), PROBLEMS)
def test_the_localised_figure_tends_to_the_learning_coefficient(name, parameters, limit):
    """As the temperature falls, as fast as a term 1/log(nβ) where two arms cross, else as a power."""
    problem = problems.create(name, parameters)
    subject = problem.subject(seed=0)
    assert problem.learning_coefficient(subject) == pytest.approx(limit)
    rising = [problem.localised_coefficient(subject, b, 1.0) for b in (1e2, 1e5, 1e8, 1e11)]
    assert rising == sorted(rising)
    assert limit * (1 - 2.6 / math.log(1e11)) < rising[-1] < limit * (1 + 1e-4)


@pytest.mark.parametrize("weights", [(1, 1), (1, 2)])
def test_the_localised_figure_of_monomials_is_the_integral(weights):
    """By SciPy's adaptive quadrature over the plane."""
    problem, b, pull = problems.create("monomial", {"exponents": weights}), 40.0, 2.0

    def weight(v, w):
        loss = 0.5 * (v ** weights[0] * w ** weights[1]) ** 2
        return loss, math.exp(-b * loss - 0.5 * pull * (v * v + w * w))

    over = (0, 5, 0, 5)
    norm = integrate.dblquad(lambda v, w: weight(v, w)[1], *over, epsabs=1e-9)[0]
    mean = integrate.dblquad(lambda v, w: math.prod(weight(v, w)), *over, epsabs=1e-9)[0]
    found = problem.localised_coefficient(problem.subject(seed=0), b, pull)
    assert found == pytest.approx(b * mean / norm, rel=1e-6)


@pytest.mark.parametrize("sizes", [(1, 1, 2), (2, 2, 2), (3, 2, 4)])
def test_the_localised_figure_of_reduced_rank_is_that_of_draws(sizes):
    """Against importance sampling from the localising normal, whatever the eigenvalues are."""
    inputs, hidden, outputs = sizes
    problem = problems.create(
        "reduced_rank_regression", {"inputs": inputs, "hidden": hidden, "outputs": outputs}
    )
    b, pull, draws = 3.0, 1.5, 400_000
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(draws, hidden, inputs, generator=generator) / pull**0.5
    second = torch.randn(draws, outputs, hidden, generator=generator) / pull**0.5
    losses = 0.5 * (second @ first).square().sum((1, 2)).double()
    weights = (-b * losses).exp()
    mean = float((weights * losses).sum() / weights.sum())
    error = float((weights * (losses - mean)).square().sum().sqrt() / weights.sum())
    found = problem.localised_coefficient(problem.subject(seed=0), b, pull)
    assert found == pytest.approx(b * mean, abs=4 * b * error)
    assert 4 * error < 0.02 * mean


def test_deep_linear_regression_is_that_of_two_layers_and_of_monomials():
    for inputs, hidden, outputs in itertools.product(range(1, 6), repeat=3):
        deep = problems.create("deep_rank_regression", {"widths": (inputs, hidden, outputs)})
        sizes = {"inputs": inputs, "hidden": hidden, "outputs": outputs}
        two = problems.create("reduced_rank_regression", sizes)
        subject = two.subject(seed=0)
        assert deep.learning_coefficient(subject) == two.learning_coefficient(subject), sizes
    subject = problems.create("monomial", {"exponents": (1, 1, 1)}).subject(seed=0)
    deep = problems.create("deep_rank_regression", {"widths": (1, 1, 1, 1)})
    assert deep.learning_coefficient(subject) == pytest.approx(0.5)
    found = deep.localised_coefficient(subject, 50.0, 2.0)
    product = problems.create("monomial", {"exponents": (1, 1, 1)})
    assert found == pytest.approx(product.localised_coefficient(subject, 50.0, 2.0), rel=1e-6)


def test_one_input_is_as_narrow_as_the_narrowest_layer():
    """∏ χ² of the layers: the pole of E(1 + b∏sᵢ)^−n/2 is at half of the fewest units."""
    for widths in itertools.product([1], (1, 2, 3), (2, 4), (1, 3, 5)):
        deep = problems.create("deep_rank_regression", {"widths": widths})
        subject = deep.subject(seed=0)
        assert deep.learning_coefficient(subject) == pytest.approx(min(widths[1:]) / 2), widths
        assert deep.localised_coefficient(subject, 10.0, 0.0) is None
    wide = problems.create("deep_rank_regression", {"widths": (3, 3, 3, 3)})
    assert wide.localised_coefficient(wide.subject(seed=0), 10.0, 1.0) is None
    assert wide.learning_coefficient(subject) == pytest.approx(
        27 - 24
    )  # all of them, ℓ = 3, S = 12


@pytest.mark.endurance
@pytest.mark.parametrize(("name", "parameters", "limit"), PROBLEMS)
def test_chains_find_the_localised_figure(name, parameters, limit):
    problem = problems.create(name, parameters)
    subject = problem.subject(seed=0)
    metric = metrics.create(NAME, {"localization": 1.0, "draws": 4000, "chains": 8})
    found = metric.checked_measure(subject, seed=0)
    known = metric.known(problem, subject)
    assert known.limit == pytest.approx(limit)
    assert within(found, known.expected)


@pytest.mark.parametrize(("name", "parameters", "limit"), [PROBLEMS[9]])
def test_chains_find_the_localised_figure_of_singular_models(name, parameters, limit):
    problem = problems.create(name, parameters)
    subject = problem.subject(seed=0)
    metric = metrics.create(NAME, {"localization": 1.0, "draws": 500, "chains": 4})
    found = metric.checked_measure(subject, seed=0)
    known = metric.known(problem, subject)
    assert within(found, known.expected)
    assert known.limit == pytest.approx(limit)


def test_r_hat_tells_chains_that_differ_or_drift():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(4, 1000, generator=generator, dtype=torch.float64)
    assert split_r_hat(draws) == pytest.approx(1.0, abs=0.01)
    apart = draws + 2 * torch.arange(4.0)[:, None]
    # between: the variance of 0, 0, 2, 2, 4, 4, 6, 6; within: 1
    assert split_r_hat(apart) == pytest.approx(math.sqrt(1 + 40 / 7), rel=0.02)
    drifting = draws + torch.linspace(0, 4, 1000, dtype=torch.float64)
    assert split_r_hat(drifting) > 1.2
    assert split_r_hat(torch.ones(2, 10)) == 1.0


def test_chains_that_have_not_mixed_are_not_converged():
    found = sb.measure(bowl(), NAME, localization=1e-3, step=1e-5, draws=50, burn_in=1)
    assert not found.converged
    assert max(found.details["r_hat"].values()) > 1.05


def test_steps_too_long_to_be_taken_are_refused():
    with pytest.raises(MetricFailed, match="too long for a sampler that takes them all"):
        sb.measure(bowl(), NAME, sampler="sgld", step=10.0, draws=2000)
    rejected = sb.measure(bowl(), NAME, sampler="mala", step=10.0, draws=20, burn_in=20)
    assert rejected.details["acceptance"] < 0.2


def test_one_sample_has_no_temperature():
    subject = sb.Subject(nn.Linear(1, 1), torch.ones(1, 1), torch.ones(1, 1))
    with pytest.raises(MetricFailed, match="two samples at least"):
        sb.measure(subject, NAME)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [({"chains": 0}, "chains must be at least 1"), ({"step": 0.0}, "step must be positive"),
     ({"localization": -1.0}, "must not be negative"), ({"largest_r_hat": 1.0}, "must be above 1")],
)  # fmt: skip
def test_impossible_parameters_are_refused(parameters, told):
    with pytest.raises(InputError, match=told):
        metrics.create(NAME, parameters)
