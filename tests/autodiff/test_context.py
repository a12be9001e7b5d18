"""torch's own derivatives of some layers are wrong beyond the second; ours are held to differences."""

import pytest
import torch
from torch import nn

from sharpbench.autodiff.directional import directional_derivatives
from sharpbench.measurement import Work
from sharpbench.seeds import torch_generator

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
