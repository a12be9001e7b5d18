"""Taylor mode sees writes in place as torch's tensors see them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sharpbench as sb
from sharpbench.errors import MetricFailed
from sharpbench.measurement import Work
from sharpbench.seeds import torch_generator
from sharpbench.taylor.expansion import is_piecewise_linear, jet, taylor
from sharpbench.taylor.series_check import check_series
from tests.taylor.references import coefficients_by_interpolation

_MASK = torch.tensor([[True, False, True, True], [False, True, False, True], [True] * 4])


def accumulator(p):
    total = torch.zeros(3, 4, dtype=p.dtype)
    total.add_(p.exp())
    return total.sin() + p


def augmented_assignment(p):
    total = torch.zeros_like(p)
    for row in p.sin():
        total += row
    return total * p


def filled_by_row(p):
    out = torch.empty(3, 4, dtype=p.dtype)
    for i in range(3):
        out[i] = p[i].exp() * (i + 1)
    return out.cumsum(0)


def filled_by_mask(p):
    out = torch.zeros_like(p)
    out[_MASK] = p.sin()[_MASK]
    out[~_MASK] = 2.0
    return out.exp()


def filled_by_time(p):
    buffer, h = torch.zeros(3, 4, 2, dtype=p.dtype), torch.zeros(3, 2, dtype=p.dtype)
    for t in range(4):
        h = torch.tanh(h + p[:, t : t + 1])
        buffer[:, t] = h
    return buffer.flatten(1).square()


def view_made_before_the_write(p):
    out = torch.zeros(3, 4, dtype=p.dtype)
    row, flat = out[1], out.view(-1)
    row.copy_(p[0].exp())
    out[2].add_(p[1])
    return flat.sin() + out.flatten()


def skip_that_is_an_alias(p):
    h = p.sin()
    skip = h
    h *= 2
    h += p
    return skip * p


def base_read_through_view(p):
    h = p.exp()
    g = h.view(4, 3)
    h.mul_(2.0)
    return g.sin()


def view_written_read_through_base(p):
    h = p.exp()
    h[:, 1:3].mul_(p[:, :2])
    h.t()[0].neg_()
    return h.square()


def view_of_a_view(p):
    h = p.exp()
    part = h[1:]
    part[:, ::2].sin_()
    (first, _), last = part.unbind(0), h.select(1, 3)
    first = part.unbind(0)[0]
    first += 1.0
    last.tanh_()
    return h * part.sum()


def split_then_write(p):
    h = p.sin().clone()
    a, b = h.chunk(2, 1)
    a.mul_(b)
    return h


def orders_grow_in_a_part(p):
    h = p * 1
    F.relu(h, inplace=True)
    h[0].exp_()
    return h * h


def setitem_on_a_series(p):
    h = p.sin()
    h[0] = 0
    h[:, 1] = p[:, 0] ** 2
    h[torch.tensor([1, 2]), torch.tensor([0, 3])] = p[0, :2].exp()
    h[h > 0.7] = 0.25
    return h * p


def index_add(p):
    out = torch.zeros(2, 4, dtype=p.dtype)
    out.index_add_(0, torch.tensor([0, 1, 0]), p.exp())
    return out.square()


def scatters(p):
    index = torch.tensor([[0, 1, 1, 0], [1, 0, 2, 2], [2, 2, 0, 1]])
    a = torch.zeros_like(p).scatter_(0, index, p.sin())
    b = torch.ones_like(p).scatter_add(0, index, p.square())
    c = torch.zeros_like(p).index_copy_(1, torch.tensor([3, 1]), p[:, :2].exp())
    d = p.clone().index_fill_(1, torch.tensor([0]), 2.0)
    e = p.sin().masked_scatter(_MASK, p.flatten())
    f = torch.zeros_like(p).index_put_(
        (torch.tensor([0, 0]), torch.tensor([1, 1])), p[0, :2].exp(), True
    )
    return a * b + c * d + e * f


def masked_fill(p):
    h = p.exp()
    h.masked_fill_(_MASK, 3.0)
    g = torch.ones_like(p).masked_fill(_MASK, p.sum())
    return h * g


def into_out(p):
    buffer = torch.empty(3, 4, dtype=p.dtype)
    torch.mul(p, p.sin(), out=buffer)
    return buffer.exp()


def zeroed(p):
    h = p.exp()
    h.zero_()
    h.add_(p)
    return h.sin()


def shape_in_place(p):
    h = p.sin()
    view = h
    h.unsqueeze_(1)
    h.squeeze_(1).t_()
    return (h * 2 @ p).exp() + view.sum()


def expanded_read(p):
    h = p[:, :1].exp()
    wide = h.expand(3, 4)
    h.mul_(2)
    return wide * p


def constant_over_time(p):
    h = p.sin()
    h.copy_(torch.ones_like(h))
    return h * p.exp()


def in_place_activations(p):
    h = p * 2
    for name in ("tanh_", "sigmoid_", "exp_", "neg_", "sqrt_")[:4]:
        getattr(h, name)()
    return F.elu(h, inplace=True) + F.leaky_relu_(h * 1, 0.2) + h.clamp_(-0.3, 5)


def swapped_values(p):
    h = p.sin()
    h[0], h[1] = h[1].clone(), h[0].clone()
    return h * p


IDIOMS = [
    accumulator,
    augmented_assignment,
    filled_by_row,
    filled_by_mask,
    filled_by_time,
    view_made_before_the_write,
    skip_that_is_an_alias,
    base_read_through_view,
    view_written_read_through_base,
    view_of_a_view,
    split_then_write,
    orders_grow_in_a_part,
    setitem_on_a_series,
    index_add,
    scatters,
    masked_fill,
    into_out,
    zeroed,
    shape_in_place,
    expanded_read,
    constant_over_time,
    in_place_activations,
    swapped_values,
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("idiom", IDIOMS, ids=lambda f: f.__name__)
def test_writes_in_place_are_seen_by_all_aliases(idiom):
    generator = torch_generator(5)
    x, u = (torch.randn(3, 4, dtype=torch.float64, generator=generator) for _ in range(2))

    def function(p):
        return idiom(p.clone())

    expected, weights = coefficients_by_interpolation(function, x, u, 3)
    found = taylor(function, x, u, 3).flatten(1) @ weights
    assert torch.allclose(found, expected, rtol=1e-7, atol=1e-8)
    assert not is_piecewise_linear(function, x)


def test_a_piecewise_linear_network_may_write_in_place():
    def function(p):
        out = torch.zeros(len(p), 8, dtype=p.dtype)
        out[:, :4] = p
        out[:, 4:] = F.relu(-p)
        out += 1
        return out.max(1).values

    x = torch.randn(3, 4, dtype=torch.float64, generator=torch_generator(5))
    assert is_piecewise_linear(function, x)


def test_an_operation_in_place_without_a_rule_is_refused_by_name():
    x = torch.ones(3, 4, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="uniform_"):
        jet(lambda p: (p * 1).uniform_(), x, x, 2)


class _Net(nn.Module):
    """A network of one idiom."""

    def __init__(self, idiom):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.idiom = idiom

    def forward(self, x):
        return self.idiom(self.scale * x)


def measured(idiom, x, **parameters):
    subject = sb.Subject(_Net(idiom), x, torch.zeros(len(x), 1, dtype=x.dtype))
    return sb.measure(
        subject, "curvature_rate", target=0, directions=1, samples="all", **parameters
    )


X = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]


def test_the_rate_of_a_filled_accumulator_equals_its_closed_form():
    def accumulates(x):
        total = torch.zeros(len(x), 1, dtype=x.dtype)
        total.add_(torch.exp(2 * x))
        return total + torch.exp(3 * x)

    v, orders = X[:, 0].numpy(), np.arange(1, 5)
    logs = [np.log(2.0**n * np.exp(2 * v) + 3.0**n * np.exp(3 * v)).mean() for n in orders]
    found = measured(accumulates, X)
    assert found.value == pytest.approx(np.polyfit(orders, logs, 1)[0], rel=1e-12)
    assert found.details["checks"]["coefficient 0"] < 1e-12
    assert found.details["checks"]["orders against reverse mode"] < 1e-10


def checked(function):
    return check_series(function, X, torch.ones_like(X), 3, work=Work())


def test_a_function_that_leaves_torch_is_refused():
    def leaves(x):
        return torch.tensor(np.exp(x.detach().numpy())) + 0 * x

    def stopped(x):
        return x.exp() + (x.sin() - x.cos()).detach()

    with pytest.raises(MetricFailed):
        measured(leaves, X)
    # A stopped gradient is meant: reverse mode has the same derivatives.
    assert checked(stopped)["orders against reverse mode"] < 1e-10


def test_a_random_function_is_refused_by_name():
    generator = torch_generator(0)
    with pytest.raises(MetricFailed, match="random numbers"):
        checked(lambda x: x.exp() + torch.rand(1, generator=generator).double())
