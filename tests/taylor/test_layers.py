"""All of torch.nn: Taylor mode and repeatedly differentiable networks are right, or refuse by name."""

import itertools
import math

import mpmath
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.seeds import torch_generator
from sharpbench.taylor import dispatch
from sharpbench.taylor.expansion import taylor
from tests.taylor.layers import ABSTRACT, ELSEWHERE, FUNCTIONS, LAYERS
from tests.taylor.references import coefficients_by_interpolation, coefficients_by_reverse_mode

D = torch.float64
EVERYTHING = {**LAYERS, **{f"F.{name}": case for name, case in FUNCTIONS.items()}}

REFUSED_BY_TAYLOR_MODE = {
    "CrossMapLRN2d": "resize_as",
    "CTCLoss": "ctc_loss",
    "F.grid_sample": "grid_sampler",
}
REFUSED_BY_REVERSE_MODE = {"CrossMapLRN2d": "out=", "CTCLoss": "ctc_loss"}


def expected(name):
    """A point whose components are far from each other and from 0, a direction, and the series there."""
    function, shape = EVERYTHING[name]
    generator = torch_generator(4)
    size = math.prod(shape)
    order = torch.randperm(size, generator=generator)
    x = torch.linspace(-1.9, 2.03, size, dtype=D)[order].view(shape)
    u = torch.randn(shape, dtype=D, generator=generator)
    u = u / u.norm()
    return function, x, u, *coefficients_by_interpolation(function, x, u, 4, radius=0.02, nodes=9)


def agree(found, wanted):
    # Rounding divided by the radius to the order.
    tolerances = torch.tensor([1e-13, 1e-11, 1e-9, 1e-6, 1e-3], dtype=D) * wanted.abs().max()
    return bool(((found - wanted).abs() <= tolerances).all())


@pytest.mark.filterwarnings("error:no Taylor rule")
@pytest.mark.parametrize("name", sorted(EVERYTHING.keys() - REFUSED_BY_TAYLOR_MODE.keys()))
def test_taylor_mode_of_every_layer(name, monkeypatch):
    monkeypatch.setattr(dispatch, "_warned", set())
    function, x, u, wanted, weights = expected(name)
    with torch.no_grad():
        found = taylor(function, x, u, 4).reshape(5, -1) @ weights
    assert agree(found, wanted)


@pytest.mark.filterwarnings("ignore:no Taylor rule")
@pytest.mark.parametrize(("name", "said"), REFUSED_BY_TAYLOR_MODE.items())
def test_taylor_mode_refuses_by_name(name, said):
    function, x, u, *_ = expected(name)
    with pytest.raises(NotImplementedError, match=said), torch.no_grad():
        taylor(function, x, u, 2)


@pytest.mark.parametrize("name", sorted(EVERYTHING.keys() - REFUSED_BY_REVERSE_MODE.keys()))
def test_reverse_mode_of_every_layer(name):
    function, x, u, wanted, _ = expected(name)
    try:
        found, _ = coefficients_by_reverse_mode(function, x, u, 4)
    except RuntimeError as error:
        if "grid_sample" in name and "is not implemented" in str(error):
            pytest.skip("torch 2.11 doesn't differentiate it twice")
        raise
    assert agree(found, wanted)


@pytest.mark.parametrize(("name", "said"), REFUSED_BY_REVERSE_MODE.items())
def test_reverse_mode_refuses_by_name(name, said):
    function, x, u, *_ = expected(name)
    with pytest.raises(RuntimeError, match=said):
        coefficients_by_reverse_mode(function, x, u, 2)


def test_no_layer_of_torch_is_forgotten():
    layers = {
        name
        for name in dir(nn)
        if isinstance(getattr(nn, name), type) and issubclass(getattr(nn, name), nn.Module)
    }
    tried = {name.split("(")[0].split(",")[0].split(" ")[0] for name in LAYERS}
    assert tried >= layers - ABSTRACT - ELSEWHERE


def test_no_function_of_torch_is_forgotten():
    class Called(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            names.add(func.__name__)
            return func(*args, **(kwargs or {}))

    names: set[str] = set()
    generator = torch_generator(4)
    with Called():
        for function, shape in EVERYTHING.values():
            function(torch.randn(shape, dtype=D, generator=generator))
    public = {
        name
        for name in dir(F)
        if callable(getattr(F, name)) and not name.startswith("_") and name[0].islower()
    }
    assert public - names - {*FUNCTIONS} == NOT_OF_ONE_REAL_TENSOR | ALIASES


NOT_OF_ONE_REAL_TENSOR = {
    *("assert_int_or_pair", "boolean_dispatch", "handle_torch_function", "has_torch_function"),
    *("has_torch_function_unary", "has_torch_function_variadic", "one_hot"),
    *("grouped_mm", "scaled_grouped_mm", "scaled_mm"),  # of low precision alone
}
ALIASES = {"logsigmoid", "relu6", "threshold"}
"""Which reach torch under another name."""


# --- far tails, against fifty digits ----------------------------------------------------------------

_ONE = torch.ones(1, dtype=D)


def _log1pexp(x):
    return mpmath.log1p(mpmath.exp(x))


def _sigma(x):
    return 1 / (1 + mpmath.exp(-x))


LOSSES = {
    "softplus": (F.softplus, _log1pexp),
    "softplus of 2x": (lambda p: F.softplus(p, 2.0), lambda x: _log1pexp(2 * x) / 2),
    "logsigmoid": (F.logsigmoid, lambda x: -_log1pexp(-x)),
    "logistic loss": (lambda p: F.soft_margin_loss(p, _ONE), lambda x: _log1pexp(-x)),
    "labels": (
        lambda p: F.multilabel_soft_margin_loss(torch.stack([p, -p], 1), torch.eye(2, dtype=D)[:1]),
        lambda x: _log1pexp(-x),
    ),
    "binary": (
        lambda p: F.binary_cross_entropy_with_logits(p, 0.25 * _ONE),
        lambda x: 0.25 * _log1pexp(-x) + 0.75 * _log1pexp(x),
    ),
    "cross-entropy": (
        lambda p: F.cross_entropy(torch.stack([p, 0 * p], 1), torch.tensor([0])),
        lambda x: _log1pexp(-x),
    ),
}
"""Their derivatives keep their relative precision, however confident the point."""

ACTIVATIONS = {
    "tanh": (torch.tanh, mpmath.tanh),
    "sigmoid": (torch.sigmoid, _sigma),
    "silu": (F.silu, lambda x: x * _sigma(x)),
    "mish": (F.mish, lambda x: x * mpmath.tanh(_log1pexp(x))),
    "gelu": (F.gelu, lambda x: x * mpmath.ncdf(x)),
    "gelu by tanh": (
        lambda p: F.gelu(p, approximate="tanh"),
        lambda x: x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + 0.044715 * x**3))),
    ),
    "softsign": (F.softsign, lambda x: x / (1 + abs(x))),
    "tanhshrink": (F.tanhshrink, lambda x: x - mpmath.tanh(x)),
}
"""Theirs are right to the rounding of the value."""

POINTS = (-45.0, -21.0, -6.0, -0.4, 0.7, 5.0, 22.0, 45.0)


@pytest.mark.parametrize("name", [*LOSSES, *ACTIVATIONS])
def test_far_tails(name):
    function, exact = {**LOSSES, **ACTIVATIONS}[name]
    for point in POINTS:
        x = torch.tensor([point], dtype=D)
        with mpmath.workdps(80):
            wanted = torch.tensor([float(c) for c in mpmath.taylor(exact, point, 3)], dtype=D)
        with torch.no_grad():
            ours = taylor(lambda p: function(p).reshape(1), x, _ONE, 3)[:, 0]
        theirs, _ = coefficients_by_reverse_mode(lambda p: function(p).reshape(1), x, _ONE, 3)
        theirs = theirs / -0.7  # the weight of the first output
        size = wanted.abs() if name in LOSSES else wanted.abs() + 1e-3 * (1 + abs(point))
        assert ((ours - wanted).abs() <= 1e-11 * size + 1e-60).all(), (point, ours, wanted)
        assert ((theirs - wanted).abs() <= 1e-11 * size + 1e-60).all(), (point, theirs, wanted)


# --- kinks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        *(F.elu, F.celu, F.selu, F.hardswish, F.hardsigmoid, F.hardtanh),
        *(F.relu, F.relu6, F.leaky_relu, torch.abs),
        lambda p: F.elu(p, 2.0),
        lambda p: F.celu(p, 0.5),
        lambda p: F.huber_loss(p - 1, 0 * p, reduction="sum"),
        lambda p: F.smooth_l1_loss(p - 1, 0 * p, reduction="sum"),
    ],
)
def test_at_a_kink_the_derivatives_are_one_sides(function):
    """Of zeros and ones: each order is that of the series on the left or on the right, or their mean."""
    for point in (0.0, 1.0, -1.0, 3.0, -3.0, 6.0):
        x = torch.tensor([point], dtype=D)
        sides = []
        for side in (-1e-9, 1e-9):
            with torch.no_grad():
                sides.append(taylor(lambda p: function(p).reshape(1), x + side, _ONE, 3)[:, 0])
        with torch.no_grad():
            found = taylor(lambda p: function(p).reshape(1), x, _ONE, 3)[:, 0]
        choices = [*sides, sum(sides) / 2]
        by_torch = x.clone().requires_grad_()
        with repeatedly_differentiable():
            (slope,) = torch.autograd.grad(function(by_torch).sum(), by_torch)
        assert torch.allclose(found[1], slope[0], atol=1e-8)
        assert all(min(abs(found[n] - c[n]) for c in choices) < 1e-8 for n in range(1, 4)), (
            point,
            found,
            sides,
        )


def test_bags_are_those_of_torch():
    tokens, weight = (
        torch.tensor([0, 2, 4, 1, 1, 3]),
        torch.linspace(-1, 1.3, 20, dtype=D).view(5, 4),
    )
    for mode, last, padding in itertools.product(("sum", "mean", "max"), (False, True), (None, 1)):
        offsets = [0, 2, 2, 6] if last else [0, 2, 2, 5]

        def bag(w, mode=mode, last=last, padding=padding, offsets=offsets):
            return F.embedding_bag(
                tokens,
                w,
                torch.tensor(offsets),
                mode=mode,
                include_last_offset=last,
                padding_idx=padding,
            )

        plain = bag(weight)
        with repeatedly_differentiable():
            assert torch.equal(bag(weight), plain) or torch.allclose(bag(weight), plain, rtol=1e-14)
