import copy
import math

import pytest
import torch
from torch import nn

from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.measurement import Work
from sharpbench.models import models
from sharpbench.models.base import ACTIVATIONS
from sharpbench.seeds import torch_generator
from sharpbench.taylor.directional import directional_derivatives


def test_closed_forms():
    x = torch.linspace(-1, 1, 7, dtype=torch.float64).unsqueeze(1)
    u = torch.full_like(x, 2.0)  # d/dt f(x + 2t): each order brings a factor 2
    sine = directional_derivatives(lambda p: p[:, 0].sin(), x, u, 6, work=Work())
    for n in range(7):
        expected = 2.0**n * torch.sin(x[:, 0] + n * math.pi / 2)
        assert torch.allclose(sine[n], expected, rtol=1e-12, atol=1e-12)
    inverse = directional_derivatives(lambda p: 1 / (3 - p[:, 0]), x, u, 6, work=Work())
    for n in range(7):
        expected = 2.0**n * math.factorial(n) / (3 - x[:, 0]) ** (n + 1)
        assert torch.allclose(inverse[n], expected, rtol=1e-12)


def test_derivatives_that_vanish_are_zero_and_cost_nothing():
    work = Work()
    x = torch.randn(5, 3, dtype=torch.float64)
    result = directional_derivatives(lambda p: (p**2).sum(1), x, torch.ones_like(x), 5, work=work)
    assert torch.allclose(result[2], torch.full((5,), 6.0, dtype=torch.float64))
    assert (result[3:] == 0).all()


class ExplicitLayerNorm(nn.Module):
    """Layer norm by its formula.

    torch 2.13 gives wrong second derivatives for nested jvp through its own layer_norm (4.04 instead
    of 2e-5 on a 3×4 example, by finite differences), so forward mode can't be the judge there.
    """

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + self.norm.eps).rsqrt()
        return centred * scale * self.norm.weight + self.norm.bias


def with_explicit_norms(network):
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.LayerNorm):
                setattr(parent, name, ExplicitLayerNorm(child))
    return network


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("name", "shape"), [("mlp", (3,)), ("cnn", (1, 6, 6)), ("vit", (1, 4, 4))])
def test_equal_to_nested_forward_mode(name, shape, activation):
    network = models.create(name, {"activation": activation}).build(shape, 2, seed=0)
    network = network.double().eval()
    judge = with_explicit_norms(network)
    generator = torch_generator(4)
    x, u = (torch.randn(4, *shape, dtype=torch.float64, generator=generator) for _ in range(2))

    def value(points, net=network):
        return net(points)[:, 0].tanh()

    ours = directional_derivatives(value, x, u, 3, work=Work())

    def along(function):
        return lambda t: torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]

    for i in range(len(x)):

        def line(t, i=i):
            return value((x[i] + t * u[i]).unsqueeze(0), judge)[0]

        function, t = line, torch.zeros((), dtype=torch.float64)
        with repeatedly_differentiable():
            for n in range(4):
                assert torch.allclose(ours[n, i], function(t), rtol=1e-9, atol=1e-12)
                function = along(function)


def test_chunks_change_nothing_and_work_is_counted():
    x, u = torch.randn(10, 2, dtype=torch.float64), torch.randn(10, 2, dtype=torch.float64)
    works = Work(), Work()
    results = [
        directional_derivatives(lambda p: p.prod(1).exp(), x, u, 4, work=w, chunk=c)
        for w, c in zip(works, (3, 100), strict=True)
    ]
    assert torch.equal(*results)
    assert works[0] == works[1] == Work(gradient=10, hessian_vector=10, higher=10 * (4 + 8))
