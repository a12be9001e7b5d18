"""Linear maps: views, sums, products of matrices, convolutions, conversions."""

# ruff: noqa: A002 - arguments carry torch's names: torch may pass them by keyword

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from sharpbench.taylor import series
from sharpbench.taylor.jet import Jet
from sharpbench.taylor.rules import arithmetic
from sharpbench.taylor.table import Rule, rule

__all__ = [
    "bilinear",
    "cat",
    "each_coefficient",
    "linear",
    "linear_in_first",
    "looked_on",
    "matmul",
    "stack",
    "to",
    "wrapped",
]


def linear_in_first(func: Callable[..., Any]) -> Rule:
    """The rule of an operation that is linear in its first argument: every coefficient alike."""

    def applied(*args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else kwargs.pop("input")
        if not isinstance(first, Jet) or any(
            isinstance(a, Jet) for a in (*args[1:], *kwargs.values())
        ):
            return NotImplemented

        def each(c: Tensor) -> Any:
            return func(c, *args[1:], **kwargs)

        return wrapped(torch.vmap(each)(first.coefficients), first, each)

    return applied


def each_coefficient(func: Callable[..., Tensor]) -> Rule:
    """The same for what torch.vmap doesn't take, one coefficient after the other."""

    def applied(input: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(input, Jet) or any(isinstance(a, Jet) for a in (*args, *kwargs.values())):
            return NotImplemented
        return input.like(torch.stack([func(c, *args, **kwargs) for c in input.coefficients]))

    return applied


def wrapped(mapped: Any, like: Jet, each: Callable[[Tensor], Any]) -> Any:
    """The series of coefficients that were mapped by ``each``; of one or of several results."""
    if isinstance(mapped, Tensor):
        return like.viewed(mapped, each)

    def part(i: int) -> Callable[[Tensor], Any]:
        return lambda c: each(c)[i]

    return tuple(wrapped(m, like, part(i)) for i, m in enumerate(mapped))


@rule("getitem")
def _getitem(input: Any, index: Any) -> Any:
    if not isinstance(input, Jet):
        return NotImplemented
    parts = index if isinstance(index, tuple) else (index,)
    parts = tuple(p.primal if isinstance(p, Jet) else p for p in parts)
    if any(isinstance(p, (Tensor, list)) for p in parts):
        leading = (slice(None),) if _indices_are_adjacent(parts) else None
        if leading is None:
            return input.like(torch.stack([c[parts] for c in input.coefficients]))
        return input.like(input.coefficients[(*leading, *parts)])
    return input.viewed(input.coefficients[(slice(None), *parts)], lambda c: c[parts])


def _indices_are_adjacent(parts: tuple[Any, ...]) -> bool:
    """Whether an axis in front changes nothing: separated index tensors put theirs first."""
    at = [i for i, p in enumerate(parts) if isinstance(p, (Tensor, list, int))]
    return at == list(range(at[0], at[-1] + 1))


@rule("linear")
def linear(input: Any, weight: Any, bias: Any = None) -> Any:
    if isinstance(weight, Jet) or isinstance(bias, Jet) or not isinstance(input, Jet):
        moving = isinstance(input, Jet) or isinstance(weight, Jet)
        turned = weight.transpose(-1, -2)
        out = matmul(input, turned) if moving else torch.matmul(input, turned)
        return out if bias is None else arithmetic.add(out, bias)
    rows = math.prod(input.primal.shape[:-1])
    input.tally.count(rows * weight.numel(), len(input.orders))
    out = F.linear(input.coefficients, weight)
    return input.like(out if bias is None else series.add_to_first(out, bias))


def _convolution(func: Callable[..., Tensor], dimensions: int) -> Rule:
    def applied(
        input: Any,
        weight: Any,
        bias: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if isinstance(weight, Jet) or isinstance(bias, Jet) or not isinstance(input, Jet):
            plain = partial(_call_with_rest, func, args, kwargs)
            out = bilinear(plain, input, weight)
            return out if bias is None else arithmetic.add(out, bias.reshape(-1, *[1] * dimensions))
        c = input.coefficients
        batched = input.primal.ndim == dimensions + 2
        out = func(c.flatten(0, 1) if batched else c, weight, None, *args, **kwargs)
        if bias is not None:
            rows = input.primal.shape[0] if batched else 1
            out = series.add_to_first(out, bias.view(-1, *[1] * dimensions), rows)
        if batched:
            out = out.unflatten(0, c.shape[:2])
        transposed = "transpose" in getattr(func, "__name__", "")
        places = input.primal if transposed else out[0]
        once = places.numel() * weight.numel() / weight.shape[0]
        input.tally.count(once, len(input.orders))
        return input.like(out)

    return applied


rule("conv1d")(_convolution(F.conv1d, 1))
rule("conv2d")(_convolution(F.conv2d, 2))
rule("conv3d")(_convolution(F.conv3d, 3))
rule("conv_transpose1d")(_convolution(F.conv_transpose1d, 1))
rule("conv_transpose2d")(_convolution(F.conv_transpose2d, 2))
rule("conv_transpose3d")(_convolution(F.conv_transpose3d, 3))


def _call_with_rest(
    func: Callable[..., Tensor], args: Any, kwargs: Any, input: Tensor, weight: Tensor
) -> Tensor:
    return func(input, weight, None, *args, **kwargs)


def bilinear(func: Callable[[Tensor, Tensor], Tensor], a: Any, b: Any) -> Any:
    """Σ_{i+j=n} f(a_i, b_j) of two factors, one of which may be plain."""
    if not isinstance(a, Jet):
        if not isinstance(b, Jet):
            return func(a, b)
        return b.like(torch.stack([func(a, c) for c in b.coefficients]))
    if not isinstance(b, Jet):
        return a.like(torch.stack([func(c, b) for c in a.coefficients]))
    parts: dict[int, Tensor] = {}
    for i, left in zip(a.orders, a.coefficients, strict=True):
        for j, right in zip(b.orders, b.coefficients, strict=True):
            if i + j <= a.degree:
                term = func(left, right)
                parts[i + j] = parts[i + j] + term if i + j in parts else term
    orders = tuple(sorted(parts))
    return a.like(torch.stack([parts[n] for n in orders]), orders)


@rule("matmul", "linalg_matmul", "mm", "bmm", "mv", "dot", "spmm", "sparse_mm")
def matmul(input: Any, other: Any) -> Any:
    if isinstance(input, Jet) and isinstance(other, Jet):
        rows = input.primal.numel()
        columns = other.primal.shape[-1] if other.primal.ndim > 1 else 1
        pairs = sum(i + j <= input.degree for i in input.orders for j in other.orders)
        input.tally.count(rows * columns, pairs)
        a, b = input.primal, other.primal
        batched = a.ndim > 2 and a.shape[:-2] == b.shape[:-2] and a.dtype == b.dtype
        if not batched or looked_on(input.coefficients, other.coefficients):
            return bilinear(torch.matmul, input, other)
        return input.like(*_batched_products(input, other))
    if isinstance(input, Jet):
        columns = other.shape[-1] if other.ndim > 1 else 1
        input.tally.count(input.primal.numel() * columns, len(input.orders))
        mapped = torch.vmap(lambda c: torch.matmul(c, other))(input.coefficients)
        return input.like(mapped)
    rows = input.shape[-2] if input.ndim > 1 else 1
    other.tally.count(other.primal.numel() * rows, len(other.orders))
    if input.layout != torch.strided:  # which torch.vmap doesn't take
        return other.like(torch.stack([torch.matmul(input, c) for c in other.coefficients]))
    return other.like(torch.vmap(lambda c: torch.matmul(input, c))(other.coefficients))


def looked_on(*tensors: Tensor) -> bool:
    """Whether something differentiates or maps what is computed of these, which takes no writing in place."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _batched_products(a: Jet, b: Jet) -> tuple[Tensor, tuple[int, ...]]:
    """The same as `bilinear`, digit by digit, without a new tensor for each product and each sum.

    Attention's heads are views with long strides, which each product would gather anew.
    """
    orders = tuple(sorted({i + j for i in a.orders for j in b.orders if i + j <= a.degree}))
    lefts, rights = (_gathered(x.coefficients) for x in (a, b))
    shape = (*lefts.shape[1:3], rights.shape[3])
    out = lefts.new_empty((len(orders), *shape))
    sums = dict(zip(orders, out.unbind(), strict=True))
    term = lefts.new_empty(shape)
    begun: set[int] = set()
    for i, left in zip(a.orders, lefts.unbind(), strict=True):
        for j, right in zip(b.orders, rights.unbind(), strict=True):
            if (n := i + j) > a.degree:
                continue
            if n in begun:
                sums[n].add_(torch.bmm(left, right, out=term))
            else:
                torch.bmm(left, right, out=sums[n])
                begun.add(n)
    return out.view(len(orders), *a.primal.shape[:-1], shape[-1]), orders


def _gathered(c: Tensor) -> Tensor:
    """Coefficients of matrices as (m, matrices, rows, columns), densely, transposed where they are."""
    c = c.flatten(1, -3)
    return c.mT.contiguous().mT if c.stride(-2) == 1 and c.stride(-1) != 1 else c.contiguous()


@rule("rmatmul")
def _rmatmul(input: Any, other: Any) -> Any:
    return matmul(other, input)


@rule("conv_tbc")
def _conv_tbc(input: Any, weight: Any, bias: Any, pad: int = 0) -> Any:
    like = next(x for x in (input, weight, bias) if isinstance(x, Jet))
    nothing = torch.zeros(weight.shape[-1], dtype=like.dtype, device=like.device)
    out = bilinear(lambda a, b: torch.conv_tbc(a, b, nothing, pad), input, weight)
    return arithmetic.add(out, bias)


@rule("einsum")
def _einsum(equation: Any, *operands: Any) -> Any:
    operands = tuple(operands[0]) if isinstance(operands[0], (list, tuple)) else operands
    if not isinstance(equation, str):
        return NotImplemented
    moving = [i for i, o in enumerate(operands) if isinstance(o, Jet)]

    def call(values: dict[int, Tensor]) -> Tensor:
        return torch.einsum(equation, *(values.get(i, o) for i, o in enumerate(operands)))

    if len(moving) == 1:
        only = operands[moving[0]]
        return only.like(torch.vmap(lambda c: call({moving[0]: c}))(only.coefficients))
    if len(moving) == 2:
        i, j = moving
        return bilinear(lambda a, b: call({i: a, j: b}), operands[i], operands[j])
    like: Jet = operands[moving[0]]
    parts: dict[int, Tensor] = {}
    for places in itertools.product(*(range(len(operands[i].orders)) for i in moving)):
        chosen = list(zip(moving, places, strict=True))
        n = sum(operands[i].orders[p] for i, p in chosen)
        if n <= like.degree:
            term = call({i: operands[i].coefficients[p] for i, p in chosen})
            parts[n] = parts[n] + term if n in parts else term
    return like.like(torch.stack([parts[n] for n in sorted(parts)]), tuple(sorted(parts)))


def _joined(func: Callable[..., Tensor]) -> Rule:
    """torch.cat and torch.stack: constants among the parts have coefficient 0 alone."""

    def applied(tensors: Any = None, dim: int = 0) -> Any:
        parts = list(tensors)
        like = next(p for p in parts if isinstance(p, Jet))
        orders = tuple(sorted({n for p in parts if isinstance(p, Jet) for n in p.orders}))

        def coefficient(part: Any, n: int) -> Tensor:
            if isinstance(part, Jet):
                if n in part.orders:
                    return part.coefficients[part.orders.index(n)]
                return torch.zeros_like(part.primal)
            return part if n == 0 else torch.zeros_like(part)

        if all(isinstance(p, Jet) and p.orders == orders for p in parts):
            axis = dim + 1 if dim >= 0 else dim
            return like.like(func([p.coefficients for p in parts], axis))
        return like.like(
            torch.stack([func([coefficient(p, n) for p in parts], dim) for n in orders]), orders
        )

    return applied


cat = rule("cat", "concatenate", "concat")(_joined(torch.cat))
stack = rule("stack")(_joined(torch.stack))


@rule("expand_as")
def _expand_as(input: Jet, other: Any) -> Any:
    return input.expand(other.shape)


@rule("view_as", "reshape_as")
def _view_as(input: Jet, other: Any) -> Any:
    return input.reshape(other.shape)


@rule("embedding")
def _embedding(input: Tensor, weight: Any, *args: Any, **kwargs: Any) -> Any:
    if isinstance(input, Jet) or not isinstance(weight, Jet):
        return NotImplemented
    return weight.like(torch.stack([F.embedding(input, c) for c in weight.coefficients]))


@rule("pad")
def _pad(input: Jet, pad: Any, mode: str = "constant", value: float | None = None) -> Any:
    padded = linear_in_first(F.pad)(input, pad, mode)
    if mode != "constant" or not value:
        return padded
    return arithmetic.add(padded, F.pad(torch.zeros_like(input.primal), pad, mode, value))


@rule("to")
def to(input: Any, *args: Any, **kwargs: Any) -> Any:
    args, kwargs = tree_map(lambda a: a.primal if isinstance(a, Jet) else a, (args, kwargs))
    if not isinstance(input, Jet):
        return input.to(*args, **kwargs)
    changed = input.coefficients.to(*args, **kwargs)
    if changed is input.coefficients:  # as torch does: the same tensor, not a copy
        return input
    if not (changed.is_floating_point() or changed.is_complex()):
        return changed[0].detach()
    if input.primal.is_complex() and not changed.is_complex():
        return NotImplemented
    return input.like(changed)


@rule("type_as")
def _type_as(input: Any, other: Any) -> Any:
    return to(input, other.dtype)


_LINEAR_VIEWS = [
    "reshape",
    "view",
    "flatten",
    "unflatten",
    "permute",
    "transpose",
    "swapaxes",
    "movedim",
    "moveaxis",
    "unsqueeze",
    "squeeze",
    "expand",
    "narrow",
    "select",
    "diagonal",
    "split",
    "chunk",
    "unbind",
    "tensor_split",
    "broadcast_to",
    "contiguous",
    "t",
    "unfold",
    "swapdims",
    "ravel",
    "hsplit",
    "vsplit",
    "dsplit",
    "split_with_sizes",
    "adjoint",
]

_LINEAR = [
    "sum",
    "mean",
    "cumsum",
    "flip",
    "roll",
    "repeat",
    "repeat_interleave",
    "tile",
    "gather",
    "index_select",
    "take_along_dim",
    "tril",
    "triu",
    "trace",
    "clone",
    "diag",
    "diag_embed",
    "diagflat",
    "rot90",
    "fliplr",
    "flipud",
    "sum_to_size",
    "diff",
]

for _name in _LINEAR_VIEWS:
    rule(_name)(linear_in_first(getattr(Tensor, _name)))
for _name in _LINEAR:
    rule(_name)(linear_in_first(getattr(Tensor, _name)))
for _name in [
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "interpolate",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "fold",
]:
    rule(_name)(linear_in_first(getattr(F, _name)))
for _name, _type in {
    "double": "float64",
    "float": "float32",
    "half": "float16",
    "bfloat16": "bfloat16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
    "char": "int8",
    "bool": "bool",
}.items():
    rule(_name)(partial(to, dtype=getattr(torch, _type)))
