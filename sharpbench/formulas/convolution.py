"""Convolutions whose second derivatives take what they must: torch's own compute every part of them at
any rate, and the weights' part by convolutions with kernels of the images' size.

⟨g, x ∗ w⟩ is linear in each of the three. The convolution and its two adjoints are the derivatives in g,
in x and in w, and so is each derivative of theirs one of the three: derivatives of any order take three
calls of torch's forward and first backward passes.
"""

# ruff: noqa: A002 - arguments carry torch's names: torch may pass them by keyword

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

__all__ = ["ConvolutionsByFormula"]

Geometry = tuple[list[int], list[int], list[int], bool, list[int], int]
"""Stride, padding, dilation, whether it is the transposed one, output padding, groups."""


class ConvolutionsByFormula(TorchFunctionMode):
    """Within it convolutions that are differentiated are taken by the formula where it is proved to fit:
    plain real tensors of one precision in a batch, paddings in numbers. All others are torch's own."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _FORMULAS:
            found = _FORMULAS[func](*args, **(kwargs or {}))
            if found is not None:
                return found
        return func(*args, **(kwargs or {}))


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor | None:
    if isinstance(padding, str):
        return None
    return _by_formula(input, weight, bias, stride, padding, dilation, False, 0, groups)


def _transposed(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor | None:
    return _by_formula(input, weight, bias, stride, padding, dilation, True, output_padding, groups)


_FORMULAS: dict[Callable[..., Any], Callable[..., Tensor | None]] = {
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.conv3d: _convolution,
    F.conv_transpose1d: _transposed,
    F.conv_transpose2d: _transposed,
    F.conv_transpose3d: _transposed,
}


def _by_formula(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    transposed: bool,
    output_padding: int | Sequence[int],
    groups: int,
) -> Tensor | None:
    if not _fits(x, w, bias):
        return None
    axes = w.ndim - 2
    geometry: Geometry = (
        _each(stride, axes),
        _each(padding, axes),
        _each(dilation, axes),
        transposed,
        _each(output_padding, axes),
        groups,
    )
    found: Tensor = _convolved(x, w, geometry)
    return found if bias is None else found + bias.view(-1, *[1] * axes)


def _fits(x: Tensor, w: Tensor, bias: Tensor | None) -> bool:
    tensors = [x, w] if bias is None else [x, w, bias]
    return (
        torch.is_grad_enabled()
        and all(type(t) in (Tensor, torch.nn.Parameter) for t in tensors)
        and x.ndim == w.ndim
        and len({(t.dtype, t.device) for t in tensors}) == 1
        and x.is_floating_point()
        and any(t.requires_grad for t in tensors)
        and not torch.is_autocast_enabled(x.device.type)
        # Functions without a rule for forward mode and for functorch's levels.
        and torch._C._functorch.peek_interpreter_stack() is None
        and all(forward_ad.unpack_dual(t).tangent is None for t in tensors)
    )


def _each(number: int | Sequence[int], axes: int) -> list[int]:
    numbers = [number] if isinstance(number, int) else list(number)
    return numbers * axes if len(numbers) == 1 else numbers


class _Convolution(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
        return torch.convolution(x, w, None, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Geometry], output: Tensor) -> None:
        x, w, ctx.geometry = inputs
        ctx.save_for_backward(x, w)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        (x, w), (g,) = ctx.saved_tensors, slopes
        in_x, in_w, _ = ctx.needs_input_grad
        return (
            _in_input(g, w, x.shape, ctx.geometry) if in_x else None,
            _in_weight(g, x, w.shape, ctx.geometry) if in_w else None,
            None,
        )


class _InInput(torch.autograd.Function):
    """The derivative of ⟨g, x ∗ w⟩ in x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, w: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
        if (padding := _turned_padding(g, w, geometry)) is not None:
            turned = w.transpose(0, 1).flip(*range(2, w.ndim))
            dilation = geometry[2]
            return torch.convolution(g, turned, None, [1], padding, dilation, False, [0], 1)
        x = g.new_empty(shape)  # torch asks for it, and takes its shape alone
        return _adjoints(g, x, w, geometry, [True, False, False])[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        g, w, _, ctx.geometry = inputs
        ctx.save_for_backward(g, w)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        (g, w), (x,) = ctx.saved_tensors, slopes
        in_g, in_w, *_ = ctx.needs_input_grad
        return (
            _convolved(x, w, ctx.geometry) if in_g else None,
            _in_weight(g, x, w.shape, ctx.geometry) if in_w else None,
            None,
            None,
        )


class _InWeight(torch.autograd.Function):
    """The derivative of ⟨g, x ∗ w⟩ in w."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, x: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
        w = x.new_empty(shape)
        return _adjoints(g, x, w, geometry, [False, True, False])[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        g, x, _, ctx.geometry = inputs
        ctx.save_for_backward(g, x)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        (g, x), (w,) = ctx.saved_tensors, slopes
        in_g, in_x, *_ = ctx.needs_input_grad
        return (
            _convolved(x, w, ctx.geometry) if in_g else None,
            _in_input(g, w, x.shape, ctx.geometry) if in_x else None,
            None,
            None,
        )


def _turned_padding(g: Tensor, w: Tensor, geometry: Geometry) -> list[int] | None:
    """The padding with which the derivative in x is a convolution with the kernel turned; None where it
    is none, or not faster so: in float32 on CPUs (oneDNN) it is, by up to a factor of four."""
    stride, padding, dilation, transposed, _, groups = geometry
    if g.dtype != torch.float32 or g.device.type != "cpu":
        return None
    if transposed or groups != 1 or set(stride) != {1}:
        return None
    sizes = zip(w.shape[2:], padding, dilation, strict=True)
    turned = [d * (k - 1) - p for k, p, d in sizes]
    return turned if min(turned) >= 0 else None


def _adjoints(
    g: Tensor, x: Tensor, w: Tensor, geometry: Geometry, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        g, x, w, None, *geometry, wanted
    )
    return found


_convolved: Callable[..., Tensor] = _Convolution.apply
_in_input: Callable[..., Tensor] = _InInput.apply
_in_weight: Callable[..., Tensor] = _InWeight.apply
