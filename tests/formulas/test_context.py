"""torch's own derivatives of some layers are wrong beyond the second; ours are held to differences."""

import pytest
import torch
from torch import nn

from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.measurement import Work
from sharpbench.seeds import torch_generator
from sharpbench.taylor.directional import directional_derivatives


class WeightNorm(nn.Module):
    """What torch.nn.utils.weight_norm does with the direction of a weight, here the input."""

    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, v):
        g = v.mean().sin() + torch.ones_like(torch.norm_except_dim(v, 2, self.dim))
        return torch._weight_norm(v, g, self.dim) + torch._weight_norm_interface(v, g, self.dim)[1]


LAYERS = {
    "layer_norm": (nn.LayerNorm(6), (4, 6)),
    "layer_norm_plain": (nn.LayerNorm((4, 6), elementwise_affine=False), (4, 6)),
    "group_norm": (nn.GroupNorm(2, 4), (4, 6)),
    "instance_norm": (nn.InstanceNorm1d(4, affine=True), (4, 6)),
    "batch_norm": (nn.BatchNorm2d(4).eval(), (4, 3, 3)),
    "rms_norm": (nn.RMSNorm(6), (4, 6)),
    "softmax": (nn.Softmax(-1), (4, 6)),
    "gelu": (nn.GELU(), (6,)),
    "silu": (nn.SiLU(), (6,)),
    "softplus": (nn.Softplus(), (6,)),
    "elu": (nn.ELU(), (6,)),
    "max_pool": (nn.MaxPool2d(2), (2, 4, 4)),
    "log_softmax": (nn.LogSoftmax(-1), (4, 6)),
    "logsigmoid": (nn.LogSigmoid(), (6,)),
    "rms_norm_plain": (nn.RMSNorm((4, 6), elementwise_affine=False), (4, 6)),
    "local_response_norm": (nn.LocalResponseNorm(3), (4, 6)),
    "weight_norm": (WeightNorm(0), (4, 6)),
    "weight_norm_of_the_last_axis": (WeightNorm(2), (4, 6)),
    "weight_norm_of_all": (WeightNorm(-1), (4, 6)),
    "attention": (nn.MultiheadAttention(6, 2, batch_first=True), (4, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_each_order_is_the_difference_quotient_of_the_order_below(name):
    layer, shape = LAYERS[name]
    layer = layer.double()
    generator = torch_generator(11)
    x, u = (torch.randn(1, *shape, dtype=torch.float64, generator=generator) for _ in range(2))

    def function(points):
        out = layer(points, points, points)[0] if name == "attention" else layer(points)
        return (1.3 * out.flatten(1)).sin().sum(1)

    def derivatives(t, order):
        return directional_derivatives(function, x + t * u, u, order, work=Work())[:, 0]

    exact, h = derivatives(0.0, 4), 1e-4
    for order in range(1, 5):
        below = order - 1
        quotient = (derivatives(h, below)[below] - derivatives(-h, below)[below]) / (2 * h)
        assert torch.allclose(exact[order], quotient, rtol=1e-4, atol=1e-4), order


@pytest.mark.parametrize("name", LAYERS)
def test_batched_products_are_the_single_ones(name):
    layer, shape = LAYERS[name]
    layer = layer.double()
    generator = torch_generator(12)
    x = torch.randn(2, *shape, dtype=torch.float64, generator=generator, requires_grad=True)
    vectors = torch.randn(3, *x.shape, dtype=torch.float64, generator=generator)
    with repeatedly_differentiable():
        out = layer(x, x, x)[0] if name == "attention" else layer(x)
        (slope,) = torch.autograd.grad((1.3 * out).sin().sum(), x, create_graph=True)

        def product(v, batched):
            (found,) = torch.autograd.grad(slope, x, v, retain_graph=True, is_grads_batched=batched)
            return found

        batch = product(vectors, True)
        singles = torch.stack([product(v, False) for v in vectors])
    assert torch.allclose(batch, singles, rtol=1e-12, atol=1e-14)


def test_batch_norm_without_running_statistics():
    layer = nn.BatchNorm1d(3, track_running_stats=False).double().eval()
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch_generator(0))
    u = torch.randn(5, 3, dtype=torch.float64, generator=torch_generator(1))

    def function(t):  # the batch is one point here: its samples are normalised together
        return (1.3 * layer(x + t[0] * u)).sin().sum().reshape(1)

    def derivatives(t, order):
        point, one = torch.tensor([[t]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
        return directional_derivatives(lambda p: function(p[0]), point, one, order, work=Work())[
            :, 0
        ]

    exact, h = derivatives(0.0, 3), 1e-4
    quotient = (derivatives(h, 2)[2] - derivatives(-h, 2)[2]) / (2 * h)
    assert torch.allclose(exact[3], quotient, rtol=1e-4)
