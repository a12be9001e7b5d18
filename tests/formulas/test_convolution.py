"""Convolutions by the formula against torch's own, to third derivatives, and where they are left to torch."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import jvp, vmap

from sharpbench.formulas.convolution import ConvolutionsByFormula

BEYOND_TORCH = "transposed, with an output padding"
"""torch's own second derivative raises."""

CASES = {
    "1d": (F.conv1d, (3, 4, 9), (5, 4, 3), {"padding": 1}),
    "plain": (F.conv2d, (3, 2, 7, 6), (4, 2, 3, 2), {}),
    "padded": (F.conv2d, (3, 2, 7, 6), (4, 2, 3, 3), {"padding": (1, 2)}),
    "padded beyond the kernel": (F.conv2d, (3, 2, 5, 5), (4, 2, 1, 1), {"padding": 2}),
    "strided": (F.conv2d, (3, 2, 8, 7), (4, 2, 3, 3), {"stride": (2, 3), "padding": 1}),
    "dilated": (F.conv2d, (3, 2, 9, 9), (4, 2, 3, 3), {"dilation": 2, "padding": 1}),
    "in groups": (F.conv2d, (3, 4, 7, 6), (6, 2, 3, 3), {"groups": 2}),
    "3d": (F.conv3d, (2, 2, 4, 5, 4), (3, 2, 2, 3, 2), {"padding": (0, 1, 0)}),
    "transposed": (F.conv_transpose2d, (3, 4, 5, 4), (4, 2, 3, 3), {"stride": 2, "padding": 1}),
    BEYOND_TORCH: (
        F.conv_transpose1d,
        (3, 4, 5),
        (4, 3, 3),
        {"stride": 3, "output_padding": 2, "groups": 2, "dilation": 2},
    ),
}


def drawn(case, dtype, bias=True):
    function, x, w, more = CASES[case]
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()

    tensors = [leaf(*x), leaf(*w)]
    if bias:
        outputs = w[1] * more.get("groups", 1) if "transpose" in function.__name__ else w[0]
        tensors.append(leaf(outputs))
    return lambda x, w, b=None: function(x, w, b, **more), tensors


def derivatives(function, tensors, context):
    """Value, gradient, a Hessian product and a derivative of that, as one list."""
    generator = torch.Generator().manual_seed(1)
    found = []
    with context:
        value = (function(*tensors).tanh() ** 2).sum()
        found.append(value)
        for _ in range(3):
            gradient = torch.autograd.grad(value, tensors, create_graph=True)
            found += gradient
            value = sum(
                (g * torch.randn(g.shape, generator=generator).to(g)).sum() for g in gradient
            )
    return [f.detach() for f in found]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", [c for c in CASES if c != BEYOND_TORCH])
def test_three_derivatives_are_torchs(case, dtype):
    function, tensors = drawn(case, dtype)
    ours = derivatives(function, tensors, ConvolutionsByFormula())
    theirs = derivatives(function, tensors, contextlib.nullcontext())
    allowed = 1e-11 if dtype == torch.float64 else 1e-3
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= allowed * b.norm()


def test_an_output_padding_has_second_derivatives():
    function, tensors = drawn(BEYOND_TORCH, torch.float64)
    with ConvolutionsByFormula():
        assert torch.autograd.gradgradcheck(lambda *leaves: function(*leaves), tensors)


@pytest.mark.parametrize("case", ["plain", "strided", "transposed"])
def test_products_in_a_block_are_single_ones(case):
    function, tensors = drawn(case, torch.float64)
    with ConvolutionsByFormula():
        gradient = torch.autograd.grad(
            function(*tensors).tanh().sum(), tensors[1:], create_graph=True
        )
        v = [torch.randn(3, *g.shape, dtype=torch.float64) for g in gradient]
        block = torch.autograd.grad(
            gradient, tensors[1:], v, is_grads_batched=True, retain_graph=True
        )
        for i in range(3):
            one = torch.autograd.grad(gradient, tensors[1:], [u[i] for u in v], retain_graph=True)
            for many, single in zip(block, one, strict=True):
                assert torch.allclose(many[i], single, rtol=1e-12, atol=1e-12)


def by_formula(function, *tensors):
    with ConvolutionsByFormula():
        found = function(*tensors)
    names = set()
    stack = [found.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None:
            names.add(type(node).__name__)
            stack.extend(n for n, _ in node.next_functions)
    return "_ConvolutionBackward" in names


def test_what_the_formula_does_not_fit_is_torchs_own():
    function, (x, w, b) = drawn("plain", torch.float64)
    assert by_formula(function, x, w, b)
    assert by_formula(function, x.detach(), w)
    assert not by_formula(function, x[0], w, b)
    assert not by_formula(
        lambda x, w: F.conv1d(x[:, :, 0], w[:, :, :, :1].squeeze(3), padding="same"), x, w
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert not by_formula(function, x.float(), w.float())
    complex_x, complex_w = x.to(torch.complex128), w.to(torch.complex128)
    assert not by_formula(function, complex_x, complex_w)

    class Own(torch.Tensor):
        pass

    assert not by_formula(function, x.as_subclass(Own), w)
    with ConvolutionsByFormula(), torch.no_grad():
        assert not function(x, w).requires_grad


def test_forward_mode_and_functorch_stay_possible():
    function, (x, w) = drawn("plain", torch.float64, bias=False)
    tangent = torch.randn_like(w)
    expected = function(x, tangent)
    with ConvolutionsByFormula():
        assert torch.allclose(jvp(lambda w: function(x, w), (w,), (tangent,))[1], expected)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(w, tangent)
            found = torch.autograd.forward_ad.unpack_dual(function(x, dual)).tangent
        assert torch.allclose(found, expected)
        stacked = vmap(function, (None, 0))(x, torch.stack([w, tangent]))
    assert torch.allclose(stacked[1], expected)


def test_layers_meet_it_too():
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for layer in (nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(3, 4, 3)):
        assert by_formula(layer.double(), x)
