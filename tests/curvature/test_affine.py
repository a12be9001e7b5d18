"""Whether H and G have the same diagonal: the proof against the diagonals themselves, in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from sharpbench.curvature.gauss_newton import affine_in_each_parameter
from sharpbench.measurement import Work
from tests.curvature.test_gauss_newton import (
    CROSS_ENTROPY,
    C,
    D,
    Net,
    attention,
    conv_bn_relu,
    data,
    dense_gauss_newton,
    hooked,
    in_place,
    mlp,
    recurrent,
    vector,
)


def both(forward, **more):
    return Net(forward, a=nn.Linear(D, 6), b=nn.Linear(6, C), **more)


def max_pooled():
    return nn.Sequential(
        nn.Conv2d(2, 3, 2, padding=1),
        nn.MaxPool2d(2),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Conv2d(3, 3, 2, groups=3),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(3, C),
    )


def residual():
    def forward(s, x):
        h = F.relu(s.first(x))
        h = h + s.out(F.relu(s.into(h)))
        return s.last(F.relu(h))

    return Net(
        forward,
        first=nn.Linear(D, 4),
        into=nn.Linear(4, 6),
        out=nn.Linear(6, 4),
        last=nn.Linear(4, C),
    )


def residual_norm():
    """A convolutional residual block with BatchNorm of running statistics."""

    def forward(s, x):
        h = s.stem(x)
        h = F.relu_(h + s.norm(s.conv(h)))
        return s.head(h.mean((2, 3)))

    norm = nn.BatchNorm2d(3)
    nn.init.normal_(norm.weight)
    norm.running_var.uniform_(0.5, 2)
    return Net(
        forward,
        stem=nn.Conv2d(2, 3, 2),
        conv=nn.Conv2d(3, 3, 3, padding=1),
        norm=norm,
        head=nn.Linear(3, C),
    )


AFFINE = {
    "linear": (lambda: nn.Linear(D, C), (D,)),
    "deep linear": (lambda: mlp(nn.Linear(6, 6)), (D,)),
    "relu": (lambda: mlp(nn.ReLU()), (D,)),
    "relu in place": (lambda: in_place(F.relu_), (D,)),
    "hardtanh": (
        lambda: mlp(nn.Hardtanh(), nn.Linear(6, 6), nn.PReLU().requires_grad_(False)),
        (D,),
    ),
    "abs": (lambda: both(lambda s, x: s.b(s.a(x).abs())), (D,)),
    "conv bn relu": (conv_bn_relu, (2, 5, 5)),
    "max pooling": (max_pooled, (2, 5, 5)),
    "residual": (residual, (D,)),
    "residual conv bn": (residual_norm, (2, 5, 5)),
    "maxout": (
        lambda: both(lambda s, x: s.b(torch.stack([s.a(x), s.c(x)]).amax(0)), c=nn.Linear(D, 6)),
        (D,),
    ),
    "sorted": (lambda: both(lambda s, x: s.b(s.a(x).sort(1).values)), (D,)),
    "gate of the input": (
        lambda: both(lambda s, x: s.b(F.relu(s.a(x)) * x.sum(1, True).sigmoid())),
        (D,),
    ),
    "a gain after a layer": (
        lambda: both(lambda s, x: s.b(s.g * F.relu(s.a(x))), g=vector(6)),
        (D,),
    ),
    "a gain before a layer, from the right": (
        lambda: both(
            lambda s, x: s.b((F.relu(s.a(x)) * s.g + s.h - s.k) @ s.w),
            g=vector(6),
            h=vector(6),
            k=vector(6),
            w=vector(6, 6),
        ),
        (D,),
    ),
    "learned slopes": (lambda: mlp(nn.PReLU(6)), (D,)),
    "products by other names": (
        lambda: both(
            lambda s, x: torch.addmm(
                s.b.bias, F.relu(torch.einsum("nd,hd->nh", x, s.a.weight)), s.b.weight.t()
            )
        ),
        (D,),
    ),
    "parts of one weight": (
        lambda: Net(
            lambda s, x: F.relu(F.linear(x, s.w.chunk(2)[0])) @ s.v + F.linear(x, s.w[6:])[:, :C],
            w=vector(12, D),
            v=vector(6, C),
        ),
        (D,),
    ),
    "normalised input": (lambda: nn.Sequential(nn.LayerNorm(D), *mlp(nn.ReLU())), (D,)),
    "scaled by a hook": (lambda: nn.Sequential(hooked(2.0)[0], nn.ReLU(), nn.Linear(6, C)), (D,)),
    "dropout": (lambda: mlp(nn.ReLU(), nn.Dropout(0.5)), (D,)),
}
CURVED = {
    "tanh": (lambda: mlp(nn.Tanh()), (D,)),
    "gelu": (lambda: mlp(nn.GELU()), (D,)),
    "one smooth unit": (
        lambda: both(lambda s, x: s.b(torch.cat([F.relu(s.a(x)[:, 1:]), s.a(x)[:, :1].tanh()], 1))),
        (D,),
    ),
    # Piecewise linear in x, and curved in a weight that doesn't see it.
    "gate of a weight": (
        lambda: both(lambda s, x: s.b(F.relu(s.a(x)) * s.g.sigmoid()), g=vector(6)),
        (D,),
    ),
    "positive weights": (
        lambda: both(lambda s, x: s.b(F.relu(F.linear(x, s.a.weight.exp())))),
        (D,),
    ),
    "squared gain": (lambda: both(lambda s, x: s.b(F.relu(s.a(x)) * s.g**2), g=vector(6)), (D,)),
    "bias twice": (lambda: both(lambda s, x: s.b(F.relu(s.a(x)) * s.a.bias)), (D,)),
    "tied": (
        lambda: Net(
            lambda s, x: s.b(F.relu(F.linear(x, s.w)) @ s.w), w=vector(6, D), b=nn.Linear(D, C)
        ),
        (D,),
    ),
    "used twice": (
        lambda: Net(
            lambda s, x: s.b(F.relu(s.a(F.relu(s.a(x))))), a=nn.Linear(D, D), b=nn.Linear(D, C)
        ),
        (D,),
    ),
    "weight norm": (
        lambda: nn.Sequential(
            parametrizations.weight_norm(nn.Linear(D, 6)), nn.ReLU(), nn.Linear(6, C)
        ),
        (D,),
    ),
    "spectral norm": (
        lambda: nn.Sequential(
            parametrizations.spectral_norm(nn.Linear(D, 6)), nn.ReLU(), nn.Linear(6, C)
        ),
        (D,),
    ),
    "layer norm": (lambda: mlp(nn.LayerNorm(6), nn.ReLU()), (D,)),
    "batch statistics": (
        lambda: mlp(nn.BatchNorm1d(6, track_running_stats=False), nn.ReLU()),
        (D,),
    ),
    "cosine head": (
        lambda: both(lambda s, x: F.linear(F.normalize(F.relu(s.a(x))), F.normalize(s.b.weight))),
        (D,),
    ),
    "attention": (attention, (3, D)),
    "recurrent": (recurrent, (3, D)),
    "squared unit": (lambda: mlp(nn.ReLU(), nn.Linear(6, 6), Net(lambda s, x: x**2)), (D,)),
}

# Affine in each parameter, but not in all calls' outputs at once: nothing is proved, nothing is claimed.
UNPROVED = {
    "bilinear": (lambda: both(lambda s, x: s.b(s.a(x) * s.c(x)), c=nn.Linear(D, 6)), (D,)),
    "two gains": (
        lambda: both(lambda s, x: s.b(F.relu(s.a(x)) * (s.g * s.h)), g=vector(6), h=vector(6)),
        (D,),
    ),
}


def built(table, name):
    torch.manual_seed(3)
    make, shape = table[name]
    return make().double().eval(), *data(*shape)


def proof(net, x):
    parameters = [p for p in net.parameters() if p.requires_grad]
    before = copy.deepcopy(net.state_dict())
    found = affine_in_each_parameter(net, x[:4], parameters, work=Work())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    return found


def apart(net, x, y, step=1e-5):
    """diag(H) − diag(G), (P,), over the largest entry of G: H by central differences of gradients."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    diagonal = []
    for p in parameters:
        weights = p.data.view(-1)
        for k in range(len(weights)):
            kept, slopes = weights[k].clone(), []
            for side in (1, -1):
                weights[k] = kept + side * step
                loss = CROSS_ENTROPY(net(x), y).mean()
                (gradient,) = torch.autograd.grad(loss, p, materialize_grads=True)
                slopes.append(gradient.reshape(-1)[k])
            weights[k] = kept
            diagonal.append((slopes[0] - slopes[1]) / (2 * step))
    linear = dense_gauss_newton(net, x, y).diagonal()
    return float((torch.stack(diagonal) - linear).abs().max() / linear.max())


@pytest.mark.parametrize("name", AFFINE)
def test_what_is_affine_in_each_parameter_is_proved(name):
    net, x, y = built(AFFINE, name)
    assert apart(net, x, y) < 1e-7
    proved, found = proof(net, x)
    assert proved, found
    assert found < 1e-12


@pytest.mark.parametrize("name", CURVED)
def test_what_is_curved_in_a_parameter_is_not(name):
    net, x, y = built(CURVED, name)
    assert apart(net, x, y) > 1e-4
    assert not proof(net, x)[0]


@pytest.mark.parametrize("name", UNPROVED)
def test_what_is_affine_for_another_reason_is_not_claimed(name):
    net, x, y = built(UNPROVED, name)
    assert apart(net, x, y) < 1e-7
    assert not proof(net, x)[0]
