"""The Laplace evidence and the effective dimension beside closed forms and dense matrices."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

import sharpbench as sb
from sharpbench.errors import InputError, MetricFailed
from sharpbench.metrics import metrics
from sharpbench.problems import problems

EVIDENCE, DIMENSION = "laplace_evidence", "effective_dimension"
PRECISION = 1.5


def regression(samples=40, features=6, seed=0):
    """At the mean of the posterior under a prior of precision 1.5 and noise of variance one."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(features, 1, generator=generator, dtype=torch.float64)
    y = y + torch.randn(samples, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(features, 1, bias=False).double()
    inside = x.T @ x + PRECISION * torch.eye(features, dtype=torch.float64)
    model.weight.data = torch.linalg.solve(inside, x.T @ y).T
    return sb.Subject(model, x, y)


def log_evidence(subject, precision=PRECISION):
    """log N(y; 0, I + XXᵀ/δ)."""
    x, y = subject.inputs, subject.targets[:, 0]
    covariance = torch.eye(len(x), dtype=torch.float64) + x @ x.T / precision
    normal = torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance)
    return float(normal.log_prob(y))


@pytest.mark.parametrize(("samples", "features"), [(40, 6), (400, 6), (10, 30)])
def test_of_linear_regression_it_is_the_evidence(samples, features):
    """By the Gram matrix, by the matrix itself, with more weights than samples."""
    subject = regression(samples, features)
    found = sb.measure(subject, EVIDENCE, prior_precision=PRECISION)
    assert -samples * found.value == pytest.approx(log_evidence(subject), rel=1e-10)
    assert found.exact


def network(samples=60, width=5):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3)).double()
        x = torch.randn(samples, 4, dtype=torch.float64)
    return sb.Subject(model, x, torch.arange(samples) % 3)


def eigenvalues(subject):
    """Of Σ JᵢᵀΛᵢJᵢ, dense."""
    model = subject.model
    weights = {k: p.detach() for k, p in model.named_parameters()}
    jacobian = jacrev(lambda w: functional_call(model, w, (subject.inputs,)))(weights)
    rows = torch.cat([j.flatten(2) for j in jacobian.values()], 2)
    p = model(subject.inputs).detach().softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.linalg.eigvalsh(torch.einsum("nap,nab,nbq->pq", rows, inner, rows)).clamp_min(0)


@pytest.mark.parametrize(("samples", "width"), [(60, 5), (200, 5), (200, 90)])
def test_both_are_sums_over_the_dense_spectrum(samples, width):
    """Gram matrix, whole matrix, quadrature within its error."""
    subject = network(samples, width)
    values = eigenvalues(subject)
    asked = {"probes": 8, "steps": 48}
    dimension = sb.measure(subject, DIMENSION, prior_precision=2.0, **asked)
    known = float((values / (values + 2)).sum())
    evidence = sb.measure(subject, EVIDENCE, prior_precision=2.0, **asked)
    length = sum(float(p.detach().square().sum()) for p in subject.model.parameters())
    outputs = subject.model(subject.inputs).detach()
    loss = float(nn.functional.cross_entropy(outputs, subject.targets))
    volume = float((values / 2).log1p().sum())
    of_all = loss + (0.5 * 2 * length + 0.5 * volume) / samples
    for found, exact in ((dimension, known), (evidence, of_all)):
        assert abs(found.value - exact) <= 3 * (found.standard_error or 0) + 1e-9 * exact
        assert found.exact == (width == 5)
        assert (found.standard_error or 0) < 0.1 * exact
        assert found.converged


@pytest.mark.parametrize("precision", [10.0, 1e-4])
def test_steps_that_are_too_few_bound_what_more_of_them_change(precision):
    """Half the steps agree with all of them where neither has come near a small precision."""
    subject = network(200, 90)
    asked = {"prior_precision": precision, "probes": 1, "seed": 4}
    for name in (DIMENSION, EVIDENCE):
        exact = sb.measure(subject, name, steps=300, **asked)
        assert exact.error_bound < 1e-6 * exact.value
        for steps in (4, 8, 16, 32):
            found = sb.measure(subject, name, steps=steps, **asked)
            off = abs(found.value - exact.value)
            assert off <= found.error_bound + exact.error_bound
            assert found.error_bound > 0
            assert not (found.converged and off > 0.01 * found.value)
        if precision > 1:
            assert found.error_bound < 0.01 * found.value


def test_the_precision_of_the_largest_evidence_is_found():
    subject = regression()
    best = sb.measure(subject, EVIDENCE)
    at = best.details["prior_precision"]
    for factor in (0.9, 1.1):
        assert sb.measure(subject, EVIDENCE, prior_precision=factor * at).value > best.value
    # MacKay: there δ‖w‖² is the effective number of parameters
    length = float(subject.model.weight.detach().square().sum())
    dimension = sb.measure(subject, DIMENSION, prior_precision=at).value
    assert at * length == pytest.approx(dimension, rel=1e-3)


def test_the_effective_dimension_is_known_of_problems():
    problem = problems.create("least_squares", {"features": 5, "samples": 50})
    subject = problem.subject(seed=0)
    metric = metrics.create(DIMENSION, {"prior_precision": 3.0})
    h = 50 / torch.arange(1, 6, dtype=torch.float64)
    known = metric.known(problem, subject)
    assert known.expected == pytest.approx(float((h / (h + 3)).sum()))
    assert metric.checked_measure(subject, seed=0).value == pytest.approx(known.expected)


def test_it_is_twice_the_localised_learning_coefficient_of_a_quadratic():
    problem = problems.create("monomial", {"exponents": (1,), "samples": 40})
    subject = problem.subject(seed=0)
    dimension = sb.measure(subject, DIMENSION, prior_precision=2.0).value
    assert dimension == pytest.approx(2 * problem.localised_coefficient(subject, 40, 2.0), rel=1e-6)


def test_normalisation_layers_are_told():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3)).double()
        x = torch.randn(30, 4, dtype=torch.float64)
    found = sb.measure(sb.Subject(model, x, torch.arange(30) % 3), EVIDENCE)
    assert any(
        "normalisation" in note for note in metrics.create(EVIDENCE, {}).notes(found.details)
    )
    plain = sb.measure(network(20), EVIDENCE)
    assert metrics.create(EVIDENCE, {}).notes(plain.details) == []


def test_a_part_of_the_data_stands_for_all():
    found = sb.measure(regression(400), EVIDENCE, samples=100, prior_precision=PRECISION)
    assert [e.source for e in found.errors] == ["points"]
    assert 400 * found.value == pytest.approx(-log_evidence(regression(400)), rel=0.1)


def test_a_loss_that_is_no_likelihood_is_refused():
    subject = regression()
    other = sb.Subject(subject.model, subject.inputs, subject.targets, loss=nn.L1Loss())
    with pytest.raises(MetricFailed, match="the likelihood is known of cross-entropy"):
        sb.measure(other, EVIDENCE)


@pytest.mark.parametrize(
    ("name", "parameters", "told"),
    [(EVIDENCE, {"prior_precision": 0.0}, "must be positive"), (DIMENSION, {"steps": 2}, "steps at least 4"),
     (DIMENSION, {"prior_precision": -1.0}, "must be positive"), (EVIDENCE, {"tolerance": 1.0}, "tolerance")],
)  # fmt: skip
def test_impossible_parameters_are_refused(name, parameters, told):
    with pytest.raises(InputError, match=told):
        metrics.create(name, parameters)


def dense_bound(subject, structure, precision, block=0):
    """Σ log(1 + l/δ) of the blocks of Σ JᵀΛJ, or of the kernel with the symmetric root of Λ."""
    model = subject.model
    weights = {k: p.detach() for k, p in model.named_parameters()}
    jacobian = jacrev(lambda w: functional_call(model, w, (subject.inputs,)))(weights)
    rows = torch.cat([j.flatten(2) for j in jacobian.values()], 2)
    p = model(subject.inputs).detach().softmax(1)
    values, vectors = torch.linalg.eigh(torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
    root = vectors @ torch.diag_embed(values.clamp_min(0).sqrt()) @ vectors.mT
    rows = root @ rows
    if structure == "samples":
        blocks = [r.flatten(0, 1) @ r.flatten(0, 1).T for r in rows.split(block)]
    elif structure == "outputs":
        blocks = [r @ r.T for r in rows.unbind(1)]
    else:
        whole = torch.einsum("ncp,ncq->pq", rows, rows)
        sizes = [p.numel() for p in weights.values()]
        sizes = (
            [sizes[0] + sizes[1], sizes[2] + sizes[3]]
            if structure == "layers"
            else [1] * sum(sizes)
        )
        starts = torch.tensor([0, *sizes]).cumsum(0)
        blocks = [whole[a : a + n, a : a + n] for a, n in zip(starts, sizes, strict=False)]
    return sum(float((torch.eye(len(b)) + b / precision).logdet()) for b in blocks)


@pytest.mark.parametrize("samples", [60, 200])
@pytest.mark.parametrize("structure", ["samples", "outputs", "layers", "diagonal"])
def test_each_bound_is_that_of_the_dense_blocks(structure, samples):
    subject = network(samples)
    full = sb.measure(subject, EVIDENCE, prior_precision=2.0)
    found = sb.measure(subject, EVIDENCE, prior_precision=2.0, structure=structure, block=7)
    volume = float((eigenvalues(subject) / 2).log1p().sum())
    bound = dense_bound(subject, structure, 2.0, 7)
    assert found.value - full.value == pytest.approx(0.5 * (bound - volume) / samples, rel=1e-8)
    assert found.value > full.value
    assert found.exact
    assert found.details["parts"] == {"samples": -(-samples // 7), "outputs": 3, "layers": 2}.get(
        structure, 43
    )
    (note,) = metrics.create(EVIDENCE, {"structure": structure}).notes(found.details)
    assert "lower bound of the evidence" in note


def test_bounds_fall_with_the_size_of_the_blocks():
    """Of linear regression, where the whole is the evidence itself; single samples last."""
    subject = regression()
    exact = -log_evidence(subject) / 40
    asked = {"prior_precision": PRECISION, "structure": "samples"}
    bounds = [
        sb.measure(subject, EVIDENCE, **asked, block=block).value for block in (40, 20, 10, 5, 1)
    ]
    assert bounds[0] == pytest.approx(exact, rel=1e-10)
    assert bounds == sorted(bounds)
    assert bounds[-1] > bounds[0] + 0.1


def test_drawn_blocks_estimate_the_bound():
    subject = network(200)
    asked = {"prior_precision": 2.0, "structure": "samples", "block": 5}
    whole = sb.measure(subject, EVIDENCE, **asked)
    drawn = [sb.measure(subject, EVIDENCE, **asked, batches=10, seed=s) for s in range(40)]
    assert {e.source for e in drawn[0].errors} == {"draws"}
    mean = sum(d.value for d in drawn) / 40
    error = sum(d.standard_error**2 for d in drawn) ** 0.5 / 40
    assert abs(mean - whole.value) < 4 * error
    inside = sum(d.interval()[0] < whole.value < d.interval()[1] for d in drawn)
    assert inside >= 34
    with pytest.raises(InputError, match="batches are drawn where structure"):
        metrics.create(EVIDENCE, {"batches": 3})
