"""Taylor mode of networks as people write them, against nested reverse mode or values alone."""

import pytest
import torch

import sharpbench as sb
from sharpbench.seeds import torch_generator
from sharpbench.taylor.expansion import taylor
from tests.taylor.everyday import NETWORKS, seeded
from tests.taylor.references import coefficients_by_interpolation, coefficients_by_reverse_mode


@pytest.mark.filterwarnings("error:no Taylor rule")
@pytest.mark.parametrize(("build", "shape"), NETWORKS.values(), ids=NETWORKS)
def test_each_network_against_other_means(build, shape):
    generator = torch_generator(5)
    x, u = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    u = u / u.norm()
    network = seeded(build)

    def function(p):
        return network(p.clone())

    tolerance = 1e-10
    try:
        expected, weights = coefficients_by_reverse_mode(function, x, u, 3)
    except RuntimeError:  # torch has no such derivative
        expected, weights = coefficients_by_interpolation(function, x, u, 3)
        tolerance = 1e-6
    with torch.no_grad():
        found = taylor(function, x, u, 3).reshape(4, -1) @ weights
    assert torch.allclose(
        found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max())
    )


@pytest.mark.filterwarnings("error:no Taylor rule")
@pytest.mark.parametrize(("build", "shape"), NETWORKS.values(), ids=NETWORKS)
def test_digits_are_the_same_with_autograd_and_without(build, shape):
    """Without it sums and scales are made in place, and products of batches without a tensor for each."""
    generator = torch_generator(6)
    x, u = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    network = seeded(build).requires_grad_(True)
    with_graph = taylor(lambda p: network(p.clone()), x.requires_grad_(), u, 4).detach()
    with torch.no_grad():
        assert torch.equal(taylor(lambda p: network(p.clone()), x, u, 4), with_graph)


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU])
def test_the_rate_of_a_recurrent_network_in_both_precisions(kind):
    class Recurrent(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = kind(4, 6, batch_first=True), torch.nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.layer(x)[0][:, -1])

    network = seeded(Recurrent).float()
    x = torch.randn(12, 5, 4, generator=torch_generator(1))
    subject = sb.Subject(network, x, torch.arange(12) % 3)
    exact = sb.measure(subject, "curvature_rate", seed=0)
    rounded = sb.measure(subject, "curvature_rate", dtype="float32", seed=0)
    assert rounded.value == pytest.approx(exact.value, abs=1e-3)
    assert exact.details["checks"]["orders against reverse mode"] < 1e-8
