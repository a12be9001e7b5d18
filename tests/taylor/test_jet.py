import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.measurement import Work
from sharpbench.models import models
from sharpbench.models.base import ACTIVATIONS
from sharpbench.seeds import torch_generator
from sharpbench.taylor import dispatch
from sharpbench.taylor.directional import directional_derivatives
from sharpbench.taylor.expansion import jet, log_factorials, taylor
from tests.taylor.test_directional import with_explicit_norms

SHAPES = [("mlp", (3,)), ("cnn", (1, 6, 6)), ("resnet", (1, 8, 8)), ("vit", (1, 4, 4))]


def draw(*shapes, seed=3, dtype=torch.float64):
    generator = torch_generator(seed)
    return [torch.randn(s, dtype=torch.float64, generator=generator).to(dtype) for s in shapes]


def nested_forward(function, x, u, order):
    """Dⁿf(x)[u, …, u] of the whole batch by jvp within jvp."""
    line, t = (lambda s: function(x + s * u)), torch.zeros((), dtype=x.dtype)
    found = []
    with repeatedly_differentiable():
        for _ in range(order + 1):
            found.append(line(t))
            line = (lambda g: lambda s: torch.func.jvp(g, (s,), (torch.ones_like(s),))[1])(line)
    return torch.stack(found)


def relative(ours, judge):
    """Largest difference of each order over the largest derivative of that order."""
    ours, judge = (d.detach().reshape(len(d), -1) for d in (ours, judge))
    scale = judge.abs().max(1).values.clamp_min(1e-12)
    return float(((ours - judge).abs().max(1).values / scale).max())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_equal_to_nested_reverse_and_nested_forward_mode(name, shape, activation):
    network = models.create(name, {"activation": activation}).build(shape, 3, seed=0)
    network = network.double().eval()
    x, u = draw((3, *shape), (3, *shape))
    y = torch.arange(3)

    def loss(p, net=network):
        return F.cross_entropy(net(p), y, reduction="none")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = torch.stack(jet(loss, x, u, 6))
    assert relative(ours, directional_derivatives(loss, x, u, 6, work=Work())) < 1e-9
    judge = with_explicit_norms(network)
    forward = nested_forward(lambda p: loss(p, judge), x, u, 4)
    assert relative(ours[:5], forward) < 1e-9


def test_closed_forms_to_order_20():
    x = torch.linspace(-0.6, 0.6, 7, dtype=torch.float64)
    one = torch.ones_like(x)
    orders = range(21)

    def close(found, expected):
        assert relative(torch.stack(found), torch.stack(expected)) < 1e-11

    close(
        jet(lambda p: (2 * p).sin(), x, one, 20),
        [2.0**n * (2 * x + n * math.pi / 2).sin() for n in orders],
    )
    close(jet(lambda p: (-3 * p).exp(), x, one, 20), [(-3.0) ** n * (-3 * x).exp() for n in orders])
    close(
        jet(lambda p: 1 / (1 - p), x, one, 20),
        [math.factorial(n) / (1 - x) ** (n + 1) for n in orders],
    )
    found = taylor(torch.tanh, torch.zeros(1, dtype=torch.float64), torch.ones(1), 20)[:, 0]
    tangent = [1, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925, 21844 / 6081075]
    assert torch.allclose(found[1:14:2], torch.tensor(tangent, dtype=torch.float64), rtol=1e-13)
    assert (found[::2] == 0).all()
    # tanh = 1 − 2/(e^{2x} + 1): the ratio of far coefficients tells the pole at iπ/2.
    assert float(-found[19] / found[17]) == pytest.approx((2 / math.pi) ** 2, rel=1e-6)


FUNCTIONS = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": F.relu,
    "leaky_relu": lambda p: F.leaky_relu(p, 0.1),
    "gelu": F.gelu,
    "gelu_tanh": lambda p: F.gelu(p, approximate="tanh"),
    "silu": F.silu,
    "softplus": lambda p: F.softplus(p, beta=2.0),
    "logsigmoid": F.logsigmoid,
    "elu": lambda p: F.elu(p, 0.7),
    "selu": F.selu,
    "mish": F.mish,
    "softmax": lambda p: p.softmax(-1),
    "log_softmax": lambda p: F.log_softmax(p, 1),
    "logsumexp": lambda p: p.logsumexp(1),
    "squared error": lambda p: F.mse_loss(p, torch.ones_like(p), reduction="none"),
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": lambda p: (p.square() + 1).log(),
    "log1p": lambda p: p.square().log1p(),
    "sqrt": lambda p: (p * p + 2).sqrt(),
    "rsqrt": lambda p: (p * p + 2).rsqrt(),
    "pow": lambda p: (p**2 + 1) ** 1.7,
    "natural powers": lambda p: p**3 + p.pow(5) - 2 * p**4,
    "power of a power": lambda p: (p**2 + 1) ** p,
    "sin, cos": lambda p: p.sin() * p.cos(),
    "tan": lambda p: (0.3 * p).tan(),
    "erf": torch.erf,
    "division": lambda p: (p + 1) / (p * p + 3) - 2 / (p**2 + 1),
    "abs, clamp": lambda p: p.abs() + p.clamp(-0.5, 0.7),
    "where": lambda p: torch.where(p > 0, p**3, p.sin()),
    "max": lambda p: p.max(1).values + p.amin(1) ** 2,
    "cat, split, index": lambda p: torch.cat([p[:, :2] ** 2, p[:, [0, 2]], *p.split(2, 1)], 1),
    "stack, permute": lambda p: torch.stack([p, p**2], 1).permute(0, 2, 1).flatten(1),
    "broadcasting": lambda p: p[:, :1] * p + p.mean(1, keepdim=True) - p.sum(),
    "matmul": lambda p: p.T @ p.tanh(),
    "bmm": lambda p: torch.bmm(p.unsqueeze(2), p.sin().unsqueeze(1)),
    "einsum": lambda p: torch.einsum("ni,nj->nij", p, p.exp()),
    "masked": lambda p: p.masked_fill(p > 0.4, 2.0).tril(),
    "detach": lambda p: p * p.detach(),
    "iteration": lambda p: sum(row.square().sum() for row in p),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_each_operation_equals_nested_forward_mode(function):
    x, u = draw((4, 4), (4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = torch.stack(jet(function, x, u, 6))
    assert relative(ours, nested_forward(function, x, u, 6)) < 1e-9


LAYERS = {
    "conv stride dilation groups": (nn.Conv2d(4, 6, 3, 2, 1, dilation=2, groups=2), (2, 4, 7, 7)),
    "conv same": (nn.Conv2d(4, 2, 3, padding="same", padding_mode="reflect"), (2, 4, 5, 5)),
    "conv1d": (nn.Conv1d(3, 2, 3), (2, 3, 8)),
    "conv3d": (nn.Conv3d(1, 2, 2), (2, 1, 3, 3, 3)),
    "transposed": (nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1), (2, 2, 3, 3)),
    "unbatched": (nn.Conv2d(2, 3, 3), (2, 5, 5)),
    "group norm": (nn.GroupNorm(2, 4), (3, 4, 3, 3)),
    "instance norm": (nn.InstanceNorm2d(4, affine=True), (3, 4, 3, 3)),
    "layer norm": (nn.LayerNorm((4, 3)), (3, 4, 3)),
    "batch norm of the batch": (nn.BatchNorm1d(4, track_running_stats=False), (5, 4)),
    "max pool": (nn.MaxPool2d(3, 2, 1), (2, 2, 7, 7)),
    "max pool 1d": (nn.MaxPool1d(2), (2, 2, 7)),
    "average pool": (nn.AvgPool2d(2, padding=1), (2, 2, 6, 6)),
    "adaptive": (
        nn.Sequential(nn.AdaptiveMaxPool2d(3), nn.Tanh(), nn.AdaptiveAvgPool2d(2)),
        (2, 2, 7, 7),
    ),
    "in place": (nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Tanh()), (3, 4)),
    "bilinear upsampling": (nn.Upsample(scale_factor=2, mode="bilinear"), (2, 2, 3, 3)),
}


@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)
def test_layers(layer, shape):
    layer = layer.double()
    (x, u) = draw(shape, shape)

    def function(p):
        return layer(p.sin()).square()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = torch.stack(jet(function, x, u, 5))
    reverse = directional_derivatives(
        lambda t: function(x + t * u).sum().unsqueeze(0),
        torch.zeros(1, dtype=torch.float64),
        torch.ones(1, dtype=torch.float64),
        5,
        work=Work(),
    )
    assert relative(ours.flatten(1).sum(1, keepdim=True), reverse) < 1e-9


@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal):
    x, u = draw((2, 5, 12), (2, 5, 12))

    def function(p):
        q, k, v = p.unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    ours = torch.stack(jet(function, x, u, 5))
    assert relative(ours, nested_forward(function, x, u, 5)) < 1e-9


def test_embedding_of_a_perturbed_table():
    table, u = draw((6, 3), (6, 3))
    tokens = torch.tensor([[0, 2], [5, 5]])

    def function(w):
        return F.embedding(tokens, w).tanh().sum(-1)

    assert (
        relative(torch.stack(jet(function, table, u, 4)), nested_forward(function, table, u, 4))
        < 1e-12
    )


def test_an_operation_without_a_rule_falls_back_with_one_warning():
    dispatch._warned.clear()
    x, u = draw((3, 4), (3, 4))

    def function(p):
        return torch.erfinv(p.sin() / 2) + torch.erfinv(p.cos() / 2)

    with pytest.warns(UserWarning, match="no Taylor rule for erfinv") as caught:
        ours = torch.stack(jet(function, x, u, 5))
    assert len(caught) == 1
    assert relative(ours, nested_forward(function, x, u, 5)) < 1e-9
    values = jet(lambda p: p.topk(2).values, x, u, 2)
    assert torch.equal(values[0], x.topk(2).values)
    assert (values[2] == 0).all()


def test_what_cannot_be_followed_is_refused():
    x, u = draw((3, 4), (3, 4))

    with pytest.raises(NotImplementedError, match="uniform_"):
        jet(lambda p: (p * 1).uniform_(), x, u, 2)
    with pytest.raises(ValueError, match="leading axis"):
        jet(torch.sin, x, u[:2], 2)
    with pytest.raises(ValueError, match="floating"):
        jet(torch.sin, x.long(), u, 2)
    with pytest.raises(ValueError, match="negative"):
        jet(torch.sin, x, u, -1)


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "elu"])
def test_gradients_of_the_derivatives_equal_those_of_nested_reverse_mode(activation):
    layer = nn.ELU if activation == "elu" else ACTIVATIONS[activation]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 3, 3),
            layer(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.LayerNorm(12),
            nn.Linear(12, 5),
            layer(),
            nn.Linear(5, 3),
        ).double()
    x, u = draw((4, 1, 6, 6), (4, 1, 6, 6))
    y = torch.arange(4) % 3
    parameters = list(network.parameters())

    def loss(p):
        return F.cross_entropy(network(p), y, reduction="none")

    ours = torch.stack(jet(loss, x, u, 4))[1:].abs().mean()
    t = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    with repeatedly_differentiable():
        d, judge = loss(x + t.view(-1, 1, 1, 1) * u), torch.zeros((), dtype=torch.float64)
        for _ in range(4):
            (d,) = torch.autograd.grad(d.sum(), t, create_graph=True)
            judge = judge + d.abs().mean() / 4
        expected = torch.autograd.grad(judge, parameters, materialize_grads=True)
    found = torch.autograd.grad(ours, parameters, materialize_grads=True)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:no Taylor rule")
def test_gradients_through_attention_softmax_and_the_fallback():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        w = nn.Parameter(torch.randn(4, 4, dtype=torch.float64))
    x, u = draw((2, 3, 4), (2, 3, 4))

    def function(p):
        q = p @ w
        mixed = F.scaled_dot_product_attention(q, p, q).softmax(-1).logsumexp(-1)
        return torch.special.erfcx(mixed).exp().sum(1)

    (found,) = torch.autograd.grad(torch.stack(jet(function, x, u, 3)).square().sum(), w)
    (expected,) = torch.autograd.grad(nested_forward(function, x, u, 3).square().sum(), w)
    assert torch.allclose(found, expected, rtol=1e-9)


def test_directions_chunks_and_precisions():
    network = models.create("mlp", {}).build((5,), 3, seed=0).double()
    x, u = draw((20, 5), (3, 20, 5))
    together = torch.stack(jet(network, x, u, 4))
    assert together.shape == (5, 3, 20, 3)
    for d in range(3):
        alone = torch.stack(jet(network, x, u[d], 4, memory_budget=20_000))
        assert torch.allclose(alone, together[:, d], rtol=1e-12)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.1)):
        low = torch.stack(jet(network.to(dtype), x.to(dtype), u[0].to(dtype), 4))
        assert low.dtype is dtype
        assert relative(low.double(), together[:, 0]) < tolerance


def test_structural_zeros_cost_nothing_and_work_is_counted():
    relu = models.create("mlp", {"activation": "relu"}).build((5,), 3, seed=0).double()
    tanh = models.create("mlp", {"widths": [64] * 8}).build((5,), 3, seed=0).double()
    x, u = draw((7, 5), (7, 5))
    work = Work()
    found = jet(relu, x, u, 12, work=work)
    assert work.forward == 2 * 7
    assert (torch.stack(found[2:]) == 0).all()
    work = Work()
    jet(tanh, x, u, 4, work=work)
    assert 4.9 * 7 < work.forward < 5 * 7


def test_orders_beyond_the_factorials_range():
    x = torch.zeros(1, dtype=torch.float64)
    coefficients = taylor(lambda p: 1 / (1 - p), x, torch.ones(1), 200)
    assert torch.allclose(coefficients, torch.ones_like(coefficients))
    assert float(log_factorials(200)[200]) == pytest.approx(math.lgamma(201))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu():
    network = models.create("cnn", {"activation": "gelu"}).build((1, 8, 8), 3, seed=0)
    network = network.double().eval()
    x, u = draw((4, 1, 8, 8), (4, 1, 8, 8))
    here = torch.stack(jet(network, x, u, 4))
    there = torch.stack(jet(network.cuda(), x.cuda(), u.cuda(), 4)).cpu()
    assert relative(there, here) < 1e-9
