"""Sums, products, quotients, powers, choices by a mask, and dropout."""

# ruff: noqa: A002, A006 - arguments carry torch's names: torch may pass them by keyword

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sharpbench.taylor import series
from sharpbench.taylor.jet import Jet, aligned
from sharpbench.taylor.rules import elementwise
from sharpbench.taylor.table import Rule, rule

__all__ = ["add", "constant", "div", "dropout", "masked_fill", "mul", "square", "sub", "where"]


def constant(value: Any, like: Jet) -> Tensor:
    if isinstance(value, Tensor):
        return value
    dtype = None if isinstance(value, complex) else like.primal.dtype
    return torch.as_tensor(value, dtype=dtype, device=like.primal.device)


@rule("add", "radd")
def add(input: Any, other: Any, *, alpha: float = 1) -> Jet:
    if not isinstance(other, Jet):
        return _plus_constant(input, alpha * constant(other, input))
    if not isinstance(input, Jet):
        scaled = other if alpha == 1 else other.like(alpha * other.coefficients)
        return _plus_constant(scaled, constant(input, other))
    rank = max(input.primal.ndim, other.primal.ndim)
    a, b = aligned(input.coefficients, rank), aligned(other.coefficients, rank)
    if input.orders == other.orders:
        return input.like(torch.add(a, b, alpha=alpha))
    shape = torch.broadcast_shapes(a.shape[1:], b.shape[1:])
    first = dict(zip(input.orders, a, strict=True))
    second = dict(zip(other.orders, b, strict=True))
    orders = tuple(sorted({*first, *second}))
    parts = []
    for n in orders:
        if n in first and n in second:
            parts.append(torch.add(first[n], second[n], alpha=alpha))
        else:
            part = first[n] if n in first else alpha * second[n]
            parts.append(part.expand(shape))
    return input.like(torch.stack(parts), orders)


def _plus_constant(x: Jet, constant: Tensor) -> Jet:
    c = aligned(x.coefficients, max(x.primal.ndim, constant.ndim))
    value = c[:1] + constant
    return x.like(torch.cat([value, c[1:].expand(-1, *value.shape[1:])]))


@rule("sub", "subtract")
def sub(input: Any, other: Any, *, alpha: float = 1) -> Jet:
    return add(input, other, alpha=-alpha)


@rule("rsub")
def _rsub(input: Any, other: Any, *, alpha: float = 1) -> Jet:
    return add(other, input, alpha=-alpha)


@rule("neg", "negative")
def _neg(input: Jet) -> Jet:
    return input.like(-input.coefficients)


@rule("mul", "multiply", "rmul")
def mul(input: Any, other: Any) -> Jet:
    if isinstance(input, Jet) and isinstance(other, Jet):
        rank = max(input.primal.ndim, other.primal.ndim)
        a = aligned(input.coefficients, rank)
        b = a if other is input else aligned(other.coefficients, rank)
        return input.like(*series.product(a, input.orders, b, other.orders, input.degree))
    x, factor = (input, other) if isinstance(input, Jet) else (other, input)
    if isinstance(factor, Tensor):
        return x.like(aligned(x.coefficients, max(x.primal.ndim, factor.ndim)) * factor)
    return x.like(x.coefficients * factor)


@rule("div", "truediv", "true_divide", "divide")
def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        return _quotient_rounded(input, other, rounding_mode)
    if isinstance(other, Tensor):
        rank = max(input.primal.ndim, other.ndim)
        return input.like(aligned(input.coefficients, rank) / other)
    if not isinstance(other, Jet):
        return input.like(input.coefficients / other)
    return mul(input, elementwise.elementwise("pow", other, exponent=-1.0))


def _quotient_rounded(input: Any, other: Any, rounding_mode: str) -> Any:
    a, b = (x.primal if isinstance(x, Jet) else x for x in (input, other))
    like = input if isinstance(input, Jet) else other
    return like.constant(torch.div(a, b, rounding_mode=rounding_mode))


@rule("rdiv", "rtruediv")
def _rdiv(input: Any, other: Any) -> Any:
    return div(other, input)


@rule("reciprocal")
def _reciprocal(input: Any) -> Any:
    return elementwise.elementwise("pow", input, exponent=-1.0)


@rule("square")
def square(input: Jet) -> Jet:
    return mul(input, input)


@rule("pow")
def _pow(input: Any, exponent: Any) -> Any:
    if isinstance(exponent, Jet):
        if not isinstance(input, Jet):
            base = constant(input, exponent).to(exponent.primal.dtype)
            return elementwise.elementwise("exp", mul(exponent, torch.log(base)))
        return elementwise.elementwise("exp", mul(exponent, elementwise.elementwise("log", input)))
    if isinstance(exponent, Tensor):
        if exponent.numel() != 1:
            return elementwise.elementwise(
                "exp", mul(elementwise.elementwise("log", input), exponent)
            )
        exponent = float(exponent)
    if exponent == 2:
        return square(input)
    return elementwise.elementwise("pow", input, exponent=float(exponent))


@rule("rpow")
def _rpow(input: Any, exponent: Any) -> Any:
    return _pow(exponent, input)


def _root(exponent: float) -> Rule:
    return lambda input: elementwise.elementwise("pow", input, exponent=exponent)


rule("sqrt")(_root(0.5))
rule("rsqrt")(_root(-0.5))


@rule("expm1")
def _expm1(input: Any) -> Any:
    e = elementwise.elementwise("exp", input)
    return e.like(torch.cat([torch.expm1(input.primal).unsqueeze(0), e.coefficients[1:]]))


@rule("log1p")
def _log1p(input: Any) -> Any:
    log = elementwise.elementwise("log", 1 + input)
    return log.like(torch.cat([torch.log1p(input.primal).unsqueeze(0), log.coefficients[1:]]))


@rule("tan")
def _tan(input: Jet) -> Any:
    return div(elementwise.elementwise("sin", input), elementwise.elementwise("cos", input))


@rule("where")
def where(condition: Any, input: Any = None, other: Any = None) -> Any:
    if isinstance(condition, Jet):
        condition = condition.primal != 0
    if input is None:
        return torch.where(condition)
    like = input if isinstance(input, Jet) else other
    if not isinstance(like, Jet):
        return torch.where(condition, input, other)
    zero = torch.zeros((), dtype=like.primal.dtype, device=like.primal.device)

    def part(x: Any, n: int) -> Tensor:
        if not isinstance(x, Jet):
            return constant(x, like) if n == 0 else zero
        return x.coefficients[x.orders.index(n)] if n in x.orders else zero

    orders = tuple(
        sorted({0, *(n for x in (input, other) if isinstance(x, Jet) for n in x.orders)})
    )
    parts = [torch.where(condition, part(input, n), part(other, n)) for n in orders]
    shape = torch.broadcast_shapes(*(p.shape for p in parts), parts[0].shape)
    return like.like(torch.stack([p.expand(shape) for p in parts]), orders)


@rule("masked_fill")
def masked_fill(input: Any, mask: Tensor, value: Any) -> Any:
    return where(~mask, input, value)


@rule("dropout")
def dropout(
    input: Jet,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Jet:
    if not training or p == 0:
        return input
    mask = F.dropout(torch.ones_like(input.primal), p, True)
    return input.like(input.coefficients * mask)


@rule("feature_dropout")
def _channel_dropout(input: Jet, p: float, train: bool) -> Jet:
    if not train or p == 0:
        return input
    return input.like(
        input.coefficients * torch.feature_dropout(torch.ones_like(input.primal), p, True)
    )


def _affine_dropout(func: Callable[..., Tensor]) -> Rule:
    """Of what drops to a value other than zero and rescales: a·x + b with random a and b."""

    def applied(input: Jet, p: float, train: bool) -> Jet:
        if not train or p == 0:
            return input
        ones = torch.ones_like(input.primal)
        with torch.random.fork_rng(devices=[ones.device] if ones.is_cuda else []):
            shift = func(torch.zeros_like(ones), p, True)
        return add(mul(input, func(ones, p, True) - shift), shift)

    return applied


rule("alpha_dropout")(_affine_dropout(torch.alpha_dropout))
rule("feature_alpha_dropout")(_affine_dropout(torch.feature_alpha_dropout))
