"""Every metric against a naive dense computation on a tiny network in float64."""

import math

import pytest
import torch
from torch.autograd.functional import jacobian

import sharpbench as sb
from sharpbench.metrics.base import sampled
from sharpbench.problems.quadratic import Quadratic
from sharpbench.seeds import derive_seed, torch_generator
from tests.calibration.coverage import assert_covers
from tests.curvature.test_operators import dense_hessian

SEED = 7


@pytest.fixture(scope="module")
def exact(tiny):
    model = tiny.working_model(torch.float64)
    x, y = tiny.data("train")
    return dense_hessian(model, tiny.loss, x.double(), y)


def test_top_eigenvalue(tiny, exact):
    top = float(torch.linalg.eigvalsh(exact)[-1])
    found = sb.measure(tiny, "hessian_top_eigenvalue", tolerance=1e-8, seed=SEED)
    assert found.converged
    assert abs(found.value - top) <= found.error_bound + 1e-12
    assert abs(found.value - top) < 1e-7 * top
    assert found.standard_error is None


def test_trace(tiny, exact):
    default = sb.measure(tiny, "hessian_trace", seed=SEED)
    assert default.details["method"] == "unit_vectors"
    assert default.exact
    assert default.value == pytest.approx(float(exact.trace()), rel=1e-10)
    found = sb.measure(
        tiny, "hessian_trace", method="hutchinson", max_probes=400, tolerance=0.0, seed=SEED
    )
    assert abs(found.value - float(exact.trace())) < 3 * found.standard_error
    assert found.standard_error < 0.2 * abs(found.value)
    checked = 4 * 4  # products with four samples
    assert found.work.hessian_vector == 400 * found.samples + checked


def test_sam_sharpness(tiny):
    found = sb.measure(tiny, "sam_sharpness", rho=0.1, m=100, seed=SEED)
    x, y = tiny.data("train")
    order = torch.randperm(len(x), generator=torch_generator(derive_seed(SEED, "batches")))
    rises = []
    for batch in order[: len(x) // 100 * 100].view(-1, 100):
        model = tiny.working_model(torch.float64)

        def loss(model=model, batch=batch):
            return torch.nn.functional.cross_entropy(model(x[batch].double()), y[batch])

        before = loss()
        before.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
        for p in model.parameters():
            p.data += 0.1 * p.grad / norm
        rises.append(float((loss() - before).detach()))
    assert found.value == pytest.approx(sum(rises) / len(rises), rel=1e-10)
    assert found.details["batches"] == len(rises) == 4
    assert found.standard_error == pytest.approx(torch.tensor(rises).std().item() / 2, rel=1e-6)


def test_curvature_rate_from_whole_derivative_tensors(tiny):
    """Dⁿℓ as explicit tensors, contracted with the metric's own directions."""
    samples = 6
    found = sb.measure(
        tiny, "curvature_rate", orders=(1, 2, 3), directions=2, samples=samples, seed=SEED
    )
    x, y = sampled(tiny.data("test"), samples, seed=derive_seed(SEED, "points"))
    model = tiny.working_model(torch.float64)
    generator = torch_generator(derive_seed(SEED, "directions"))
    every = torch.zeros(samples, 2, 3, dtype=torch.float64)
    for j in range(2):
        u = torch.randn(samples, 2, generator=generator, dtype=torch.float64)
        u = u / u.norm(dim=1, keepdim=True)
        for i in range(samples):

            def loss(point, i=i):
                return torch.nn.functional.cross_entropy(model(point.unsqueeze(0)), y[i : i + 1])

            def first(point, loss=loss):
                return jacobian(loss, point, create_graph=True)

            def second(point, first=first):
                return jacobian(first, point, create_graph=True)

            point = x[i].double()
            tensors = [first(point), second(point), jacobian(second, point)]
            for n, tensor in enumerate(tensors):
                for _ in range(n + 1):
                    tensor = tensor @ u[i]
                every[i, j, n] = tensor.abs().log().item()
    logs = every.mean(1)
    slopes = (logs[:, 2] - logs[:, 0]) / 2  # the least-squares slope over n = 1, 2, 3
    assert found.value == pytest.approx(float(slopes.mean()), rel=1e-9)
    points, directions = found.errors
    of_each = (every[:, :, 2] - every[:, :, 0]) / 2
    inside = float(of_each.var(1).sum()) / 2 / samples**2
    assert directions.size == pytest.approx(math.sqrt(inside), rel=1e-9)
    left = 1 - samples / len(tiny.data("test")[0])
    both = float(slopes.var()) / samples
    assert points.size == pytest.approx(math.sqrt(left * (both - inside)), rel=1e-9)
    assert found.details["log_derivative"] == pytest.approx(logs.mean(0).tolist(), rel=1e-9)


def test_the_negative_share_tells_the_error_of_its_probes():
    """Of ½wᵀAw with the eigenvalues known: Var(vᵀgv) = 2 tr g²/(P(P + 2)) on the unit sphere."""
    problem = Quadratic(features=20, spectrum="indefinite")
    subject = problem.subject(seed=0)
    spectrum = problem.eigenvalues(subject)
    sizes = spectrum.abs()
    share = float(sizes[spectrum < 0].sum() / sizes.sum())
    deviation = sizes * ((spectrum < 0).double() - share) / sizes.mean()
    one = math.sqrt(2 * float(deviation.square().sum()) / (20 * 22))
    many = sb.measure(subject, "hessian_spectral_density", probes=40, steps=20, seed=SEED)
    assert many.standard_error == pytest.approx(one / 40**0.5, rel=0.1)
    assert many.converged
    assert one > 0.05  # so that one probe does not tell the share to the default tolerance
    assert abs(many.value - share) < 3 * many.standard_error
    few = [
        sb.measure(subject, "hessian_spectral_density", probes=2, steps=20, seed=seed)
        for seed in range(60)
    ]
    assert_covers([interval for m in few if (interval := m.interval())], share)
    alone = sb.measure(subject, "hessian_spectral_density", probes=1, steps=20, seed=SEED)
    assert alone.error_bound is None
    assert not alone.converged
    assert alone.standard_error == pytest.approx(one, rel=0.6)
    assert 1 <= alone.errors[0].degrees_of_freedom < many.errors[0].degrees_of_freedom


def test_a_negative_share_of_few_steps_has_not_converged_and_says_how_far_off_it_may_be():
    problem = Quadratic(features=200, spectrum="indefinite")
    subject, metric = problem.subject(seed=0), "hessian_spectral_density"
    found = {
        steps: sb.measure(subject, metric, probes=4, steps=steps, seed=SEED)
        for steps in (3, 6, 12, 60, 200)
    }
    whole = found.pop(200)
    assert whole.converged
    assert whole.error_bound is None
    for m in found.values():
        assert abs(m.value - whole.value) <= m.error_bound
        assert m.converged == (max(m.error_bound, m.standard_error) <= 0.05)
    assert not found[3].converged
    assert found[60].error_bound < 0.3 * found[6].error_bound


def test_a_hessian_of_zero_has_no_spectrum():
    x, y = torch.randn(6, 3), torch.arange(6) % 2
    flat = sb.Subject(torch.nn.Linear(3, 2), x, y, loss=lambda f, t: 0 * f.sum(1))
    with pytest.raises(sb.MetricFailed, match="the Hessian is zero"):
        sb.measure(flat, "hessian_spectral_density")
    assert sb.measure(flat, "hessian_trace").value == 0
