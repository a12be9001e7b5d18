"""What ought to predict nothing: a random number, and the confidence that gᵀF⁺g is."""

import pytest
import torch
from torch import nn

import sharpbench as sb
from sharpbench.errors import MetricFailed

NAME = "fisher_decrement"


def subject(width, samples=8, scale=1.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3)).double()
        x = torch.randn(samples, 4, dtype=torch.float64)
    with torch.no_grad():
        model[2].weight *= scale
    return sb.Subject(model, x, torch.arange(samples) % 3)


def dense(of):
    """gᵀF⁺g by the pseudo-inverse of the whole matrix."""
    weights, f = list(of.model.parameters()), of.model(of.inputs)

    def flat(y):
        found = torch.autograd.grad(y, weights, retain_graph=True)
        return torch.cat([p.reshape(-1) for p in found])

    g = flat(nn.functional.cross_entropy(f, of.targets))
    rows = torch.stack([flat(z) for z in f.reshape(-1)]).view(*f.shape, -1)
    p = f.softmax(1).detach()
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    fisher = (rows.mT @ curvature @ rows).mean(0)
    return float(g @ torch.linalg.pinv(fisher, hermitian=True, rtol=1e-11) @ g)


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_of_many_parameters_it_is_confidence_alone(scale):
    wide = subject(20, scale=scale)
    found = sb.measure(wide, NAME, samples="all")
    p = wide.model(wide.inputs).softmax(1).gather(1, wide.targets[:, None])
    assert found.value == pytest.approx(float((1 / p.detach() - 1).mean()), rel=1e-9)
    assert found.value == pytest.approx(dense(wide), rel=1e-5)
    assert found.details["confidence_alone"]
    assert found.exact


def test_of_few_parameters_it_is_that_of_the_dense_matrix():
    narrow = subject(1, samples=20)  # 9 parameters, 40 free outputs
    found = sb.measure(narrow, NAME, samples="all")
    assert found.value == pytest.approx(dense(narrow), rel=1e-8)
    assert not found.details["confidence_alone"]


def test_where_there_is_no_answer():
    with pytest.raises(MetricFailed, match="ask for fewer samples"):
        sb.measure(subject(4, samples=100), NAME, samples="all")
    linear = subject(4)
    flat = sb.Subject(
        linear.model,
        linear.inputs,
        linear.targets,
        loss=lambda z, y: z[:, 0],
        task="classification",
    )
    with pytest.raises(MetricFailed, match="no curvature"):
        sb.measure(flat, NAME, samples="all")


def test_a_random_number_is_the_networks_own():
    one, other = subject(4), subject(5)

    def of(subject, seed):
        return sb.measure(subject, "random_number", seed=seed).value

    assert of(one, 1) == of(one, 1)
    assert len({of(one, 1), of(one, 2), of(other, 1)}) == 3
    drawn = torch.tensor([of(one, seed) for seed in range(400)])
    assert abs(float(drawn.mean())) < 0.2
    assert float(drawn.std()) == pytest.approx(1, abs=0.12)
