"""Rules of what networks are made of: arithmetic, linear maps, activations, normalisation, losses."""

# ruff: noqa: A001, A002, A006 - arguments carry torch's names: torch may pass them by keyword

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from sharpbench.formulas import layers, normalization
from sharpbench.formulas.log_softmax import reduced
from sharpbench.taylor import series
from sharpbench.taylor.jet import Jet, aligned
from sharpbench.taylor.table import Rule, rule

__all__ = [
    "bilinear",
    "cat",
    "each_coefficient",
    "lifted",
    "linear_in_first",
    "loss_rule",
    "of_the_value",
    "stack",
    "wrapped",
]

aten = torch.ops.aten


# --- elementwise ------------------------------------------------------------------------------------


def _elementwise(name: str, x: Any, **parameters: float) -> Any:
    everything = tuple(range(x.degree + 1))
    return x.like(
        series.elementwise(name, x.coefficients, x.orders, x.degree, **parameters), everything
    )


def _smooth(name: str) -> Rule:
    # `inplace` is the dispatcher's business.
    return lambda input, inplace=False: _elementwise(name, input)


for _name in ("tanh", "silu", "exp", "log", "sin", "cos", "sinh", "cosh"):
    rule(_name)(_smooth(_name))
rule("sigmoid", "special_expit")(_smooth("sigmoid"))
rule("erf", "special_erf")(_smooth("erf"))


@rule("gelu")
def _gelu(input: Any, approximate: str = "none") -> Any:
    if approximate == "none":
        return _elementwise("gelu", input)
    return layers.gelu(input, approximate)


@rule("softplus")
def _softplus(input: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    # From 20 on the threshold only saves torch rounding: see sharpbench.formulas.losses.softplus.
    threshold = threshold if threshold < 20 else math.inf
    return _elementwise("softplus", input, beta=beta, threshold=threshold)


@rule("logsigmoid", "log_sigmoid")
def _logsigmoid(input: Any) -> Any:
    return -_elementwise("softplus", -input, threshold=math.inf)


@rule("elu")
def _elu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    return _elementwise("elu", input, alpha=alpha)


@rule("selu")
def _selu(input: Any, inplace: bool = False) -> Any:
    return 1.0507009873554805 * _elementwise("elu", input, alpha=1.6732632423543772)


@rule("mish")
def _mish(input: Any, inplace: bool = False) -> Any:
    return input * _elementwise("tanh", _elementwise("softplus", input, threshold=math.inf))


@rule("relu")
def _relu(input: Jet, inplace: bool = False) -> Jet:
    # One fused kernel for the whole stack: each coefficient where the value is positive.
    return input.like(aten.threshold_backward(input.coefficients, input.primal.detach(), 0))


@rule("leaky_relu")
def _leaky_relu(input: Jet, negative_slope: float = 0.01, inplace: bool = False) -> Jet:
    value = input.primal.detach()
    return input.like(aten.leaky_relu_backward(input.coefficients, value, negative_slope, False))


def _masked(x: Jet, active: Tensor, value: Tensor) -> Jet:
    """``value`` where not active, and no derivative there."""
    c = aligned(x.coefficients, value.ndim).expand(-1, *value.shape)
    coefficients = torch.where(active, c, torch.zeros_like(c))
    return x.like(torch.cat([value.unsqueeze(0), coefficients[1:]]))


@rule("clamp", "clip")
def _clamp(input: Jet, min: Any = None, max: Any = None) -> Any:
    if any(isinstance(x, Jet) for x in (min, max)) or not isinstance(input, Jet):
        low = input if min is None else _extremum(True)(input, min)
        return low if max is None else _extremum(False)(low, max)
    active = torch.ones_like(input.primal, dtype=torch.bool)
    if min is not None:
        active = active & (input.primal >= min)
    if max is not None:
        active = active & (input.primal <= max)
    return _masked(input, active, input.primal.clamp(min, max))


def _masked_inside(input: Jet, low: float, high: float) -> Jet:
    """Clamped, with no derivative on the bounds: torch's hardtanh, unlike its clamp."""
    inside = (input.primal > low) & (input.primal < high)
    return _masked(input, inside, input.primal.clamp(low, high))


@rule("relu6")
def _relu6(input: Jet, inplace: bool = False) -> Any:
    return _masked_inside(input, 0, 6)


@rule("hardtanh", "hardtanh_")
def _hardtanh(
    input: Jet,
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
) -> Any:
    return _masked_inside(input, min_val, max_val)


def _abs(input: Jet) -> Jet:
    return input.like(input.coefficients * input.primal.detach().sign())


def _piecewise_constant(name: str) -> Rule:
    def constant(input: Jet, *args: Any, **kwargs: Any) -> Jet:
        return input.constant(getattr(torch, name)(input.primal.detach(), *args, **kwargs))

    return constant


for _name in ("sign", "floor", "ceil", "round", "trunc", "fix"):
    rule(_name)(_piecewise_constant(_name))


@rule("detach")
def _detach(input: Jet) -> Jet:
    return input.constant(input.primal.detach())


@rule("dropout")
def _dropout(
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
        return _add(_mul(input, func(ones, p, True) - shift), shift)

    return applied


rule("alpha_dropout")(_affine_dropout(torch.alpha_dropout))
rule("feature_alpha_dropout")(_affine_dropout(torch.feature_alpha_dropout))


# --- arithmetic -------------------------------------------------------------------------------------


def _constant(value: Any, like: Jet) -> Tensor:
    if isinstance(value, Tensor):
        return value
    dtype = None if isinstance(value, complex) else like.primal.dtype
    return torch.as_tensor(value, dtype=dtype, device=like.primal.device)


@rule("add", "radd")
def _add(input: Any, other: Any, *, alpha: float = 1) -> Jet:
    if not isinstance(other, Jet):
        return _plus_constant(input, alpha * _constant(other, input))
    if not isinstance(input, Jet):
        scaled = other if alpha == 1 else other.like(alpha * other.coefficients)
        return _plus_constant(scaled, _constant(input, other))
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
def _sub(input: Any, other: Any, *, alpha: float = 1) -> Jet:
    return _add(input, other, alpha=-alpha)


@rule("rsub")
def _rsub(input: Any, other: Any, *, alpha: float = 1) -> Jet:
    return _add(other, input, alpha=-alpha)


@rule("neg", "negative")
def _neg(input: Jet) -> Jet:
    return input.like(-input.coefficients)


@rule("mul", "multiply", "rmul")
def _mul(input: Any, other: Any) -> Jet:
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
def _div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        return _quotient_rounded(input, other, rounding_mode)
    if isinstance(other, Tensor):
        rank = max(input.primal.ndim, other.ndim)
        return input.like(aligned(input.coefficients, rank) / other)
    if not isinstance(other, Jet):
        return input.like(input.coefficients / other)
    return _mul(input, _elementwise("pow", other, exponent=-1.0))


def _quotient_rounded(input: Any, other: Any, rounding_mode: str) -> Any:
    a, b = (x.primal if isinstance(x, Jet) else x for x in (input, other))
    like = input if isinstance(input, Jet) else other
    return like.constant(torch.div(a, b, rounding_mode=rounding_mode))


@rule("rdiv", "rtruediv")
def _rdiv(input: Any, other: Any) -> Any:
    return _div(other, input)


@rule("reciprocal")
def _reciprocal(input: Any) -> Any:
    return _elementwise("pow", input, exponent=-1.0)


@rule("square")
def _square(input: Jet) -> Jet:
    return _mul(input, input)


@rule("pow")
def _pow(input: Any, exponent: Any) -> Any:
    if isinstance(exponent, Jet):
        if not isinstance(input, Jet):
            base = _constant(input, exponent).to(exponent.primal.dtype)
            return _elementwise("exp", _mul(exponent, torch.log(base)))
        return _elementwise("exp", _mul(exponent, _elementwise("log", input)))
    if isinstance(exponent, Tensor):
        if exponent.numel() != 1:
            return _elementwise("exp", _mul(_elementwise("log", input), exponent))
        exponent = float(exponent)
    if exponent == 2:
        return _square(input)
    return _elementwise("pow", input, exponent=float(exponent))


@rule("rpow")
def _rpow(input: Any, exponent: Any) -> Any:
    return _pow(exponent, input)


def _root(exponent: float) -> Rule:
    return lambda input: _elementwise("pow", input, exponent=exponent)


rule("sqrt")(_root(0.5))
rule("rsqrt")(_root(-0.5))


@rule("expm1")
def _expm1(input: Any) -> Any:
    e = _elementwise("exp", input)
    return e.like(torch.cat([torch.expm1(input.primal).unsqueeze(0), e.coefficients[1:]]))


@rule("log1p")
def _log1p(input: Any) -> Any:
    log = _elementwise("log", 1 + input)
    return log.like(torch.cat([torch.log1p(input.primal).unsqueeze(0), log.coefficients[1:]]))


@rule("tan")
def _tan(input: Jet) -> Any:
    return _div(_elementwise("sin", input), _elementwise("cos", input))


@rule("where")
def _where(condition: Any, input: Any = None, other: Any = None) -> Any:
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
            return _constant(x, like) if n == 0 else zero
        return x.coefficients[x.orders.index(n)] if n in x.orders else zero

    orders = tuple(
        sorted({0, *(n for x in (input, other) if isinstance(x, Jet) for n in x.orders)})
    )
    parts = [torch.where(condition, part(input, n), part(other, n)) for n in orders]
    shape = torch.broadcast_shapes(*(p.shape for p in parts), parts[0].shape)
    return like.like(torch.stack([p.expand(shape) for p in parts]), orders)


@rule("masked_fill")
def _masked_fill(input: Any, mask: Tensor, value: Any) -> Any:
    return _where(~mask, input, value)


# --- linear maps ------------------------------------------------------------------------------------


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
def _linear(input: Any, weight: Any, bias: Any = None) -> Any:
    if isinstance(weight, Jet) or isinstance(bias, Jet) or not isinstance(input, Jet):
        moving = isinstance(input, Jet) or isinstance(weight, Jet)
        turned = weight.transpose(-1, -2)
        out = _matmul(input, turned) if moving else torch.matmul(input, turned)
        return out if bias is None else _add(out, bias)
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
            return out if bias is None else _add(out, bias.reshape(-1, *[1] * dimensions))
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
def _matmul(input: Any, other: Any) -> Any:
    if isinstance(input, Jet) and isinstance(other, Jet):
        rows = input.primal.numel()
        columns = other.primal.shape[-1] if other.primal.ndim > 1 else 1
        pairs = sum(i + j <= input.degree for i in input.orders for j in other.orders)
        input.tally.count(rows * columns, pairs)
        a, b = input.primal, other.primal
        batched = a.ndim > 2 and a.shape[:-2] == b.shape[:-2] and a.dtype == b.dtype
        if not batched or _looked_on(input.coefficients, other.coefficients):
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


def _looked_on(*tensors: Tensor) -> bool:
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
    return _matmul(other, input)


@rule("conv_tbc")
def _conv_tbc(input: Any, weight: Any, bias: Any, pad: int = 0) -> Any:
    like = next(x for x in (input, weight, bias) if isinstance(x, Jet))
    nothing = torch.zeros(weight.shape[-1], dtype=like.dtype, device=like.device)
    out = bilinear(lambda a, b: torch.conv_tbc(a, b, nothing, pad), input, weight)
    return _add(out, bias)


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
    return _add(padded, F.pad(torch.zeros_like(input.primal), pad, mode, value))


@rule("to")
def _to(input: Any, *args: Any, **kwargs: Any) -> Any:
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
    return _to(input, other.dtype)


# --- selections -------------------------------------------------------------------------------------


def _pooled(x: Jet, pool: Callable[[Tensor], Any], dimensions: int) -> tuple[Jet, Tensor]:
    """Max-pooling: each coefficient of the sample that is largest at t = 0.

    Of several that are the largest but for rounding it is the first, as with torch of equal ones: a black
    border gives the same derivative whatever rounding made of it.
    """
    _, index = pool(_less_precise(x.primal.detach()))
    stack = x.coefficients.flatten(-dimensions)
    places = index.flatten(-dimensions).expand(len(stack), *index.shape[:-dimensions], -1)
    return x.like(stack.gather(-1, places).unflatten(-1, index.shape[-dimensions:])), index


def _less_precise(values: Tensor) -> Tensor:
    """Rounded by the last bits of their mantissa, where rounding errors are (Veltkamp's splitting)."""
    factor = {torch.float64: 2.0**16 + 1, torch.float32: 2.0**5 + 1}.get(values.dtype)
    if factor is None:
        return values
    scaled = factor * values
    rounded = (values - scaled).add_(scaled)
    # The sum is finite only where all is; it may overflow where they are.
    return rounded if rounded.sum().isfinite() else rounded.where(rounded.isfinite(), values)


def _max_pool(func: Callable[..., Any], dimensions: int, *, always: bool = False) -> Rule:
    def applied(
        input: Jet,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        pooled = _pooled(
            input,
            lambda v: func(
                v, kernel_size, stride, padding, dilation, ceil_mode, return_indices=True
            ),
            dimensions,
        )
        return pooled if return_indices or always else pooled[0]

    return applied


def _adaptive_max_pool(func: Callable[..., Any], dimensions: int, *, always: bool = False) -> Rule:
    def applied(input: Jet, output_size: Any, return_indices: bool = False) -> Any:
        pooled = _pooled(input, lambda v: func(v, output_size, return_indices=True), dimensions)
        return pooled if return_indices or always else pooled[0]

    return applied


def _fractional_max_pool(
    func: Callable[..., Any], dimensions: int, *, always: bool = False
) -> Rule:
    def applied(
        input: Jet,
        kernel_size: Any,
        output_size: Any = None,
        output_ratio: Any = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None,
    ) -> Any:
        pooled = _pooled(
            input,
            lambda v: func(v, kernel_size, output_size, output_ratio, True, _random_samples),
            dimensions,
        )
        return pooled if return_indices or always else pooled[0]

    return applied


for _d in (1, 2, 3):
    for _kind, _family in (("max_pool", _max_pool), ("adaptive_max_pool", _adaptive_max_pool)):
        _name = f"{_kind}{_d}d"
        rule(_name)(_family(getattr(F, _name), _d))
        rule(f"{_name}_with_indices")(_family(getattr(F, _name), _d, always=True))
for _d in (2, 3):
    _name = f"fractional_max_pool{_d}d"
    _pool = getattr(F, f"{_name}_with_indices")
    rule(_name)(_fractional_max_pool(_pool, _d))
    rule(f"{_name}_with_indices")(_fractional_max_pool(_pool, _d, always=True))


class _Extremum(NamedTuple):
    values: Jet
    indices: Tensor


def _extremum(largest: bool) -> Rule:
    def applied(input: Jet, dim: Any = None, keepdim: bool = False) -> Any:
        choose = torch.argmax if largest else torch.argmin
        if dim is None and not isinstance(input, Jet):
            return NotImplemented
        if isinstance(dim, (Jet, Tensor)) or not isinstance(input, Jet):
            return _larger(input, dim, largest)
        if dim is None:
            return _amax(largest)(input)
        index = choose(input.primal, dim, keepdim=True)
        values = torch.vmap(lambda c: c.gather(dim, index))(input.coefficients)
        if not keepdim:
            index = index.squeeze(dim)
            values = torch.vmap(lambda c: c.squeeze(dim))(values)
        return _Extremum(input.like(values), index)

    return applied


rule("max")(_extremum(True))
rule("min")(_extremum(False))
rule("maximum")(_extremum(True))
rule("minimum")(_extremum(False))


def _larger(input: Any, other: Any, largest: bool) -> Any:
    """The larger or smaller of two; where they are equal each gives half, as torch has it."""
    a, b = (x.primal if isinstance(x, Jet) else x for x in (input, other))
    like = input if isinstance(input, Jet) else other
    a, b = _constant(a, like), _constant(b, like)
    taken = _where((a > b) == largest, input, other)
    tied = a == b
    if not tied.any():
        return taken
    return _where(tied, _mul(_add(lifted(input, like), other), 0.5), taken)


def lifted(value: Any, like: Jet) -> Jet:
    """A number or plain tensor as a series that does not move."""
    return value if isinstance(value, Jet) else like.constant(_constant(value, like))


def _amax(largest: bool) -> Rule:
    def applied(input: Jet, dim: Any = (), keepdim: bool = False) -> Any:
        axes = (dim,) if isinstance(dim, int) else tuple(dim) or tuple(range(input.primal.ndim))
        for axis in axes:
            best = input.primal.amax(axis, True) if largest else input.primal.amin(axis, True)
            tied = (input.primal == best).to(input.primal.dtype)
            # Equal ones share the derivative, as torch has it.
            input = (input * (tied / tied.sum(axis, keepdim=True))).sum(axis, keepdim=True)
        if keepdim:
            return input
        places = {axis % input.primal.ndim for axis in axes}
        return input.reshape([n for i, n in enumerate(input.shape) if i not in places])

    return applied


rule("amax")(_amax(True))
rule("amin")(_amax(False))


def of_the_value(func: Callable[..., Any]) -> Rule:
    """The rule of what only sees the values at t = 0: the answer is plain."""

    def applied(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map(
            lambda a: a.primal.detach() if isinstance(a, Jet) else a, (args, kwargs)
        )
        return func(*args, **kwargs)

    return applied


# --- softmax, losses --------------------------------------------------------------------------------


def _axis(dim: int, x: Jet) -> int:
    return dim - x.primal.ndim if dim >= 0 else dim


def _everything(x: Jet) -> tuple[int, ...]:
    return tuple(range(x.degree + 1))


@rule("softmax", "special_softmax")
def _softmax(
    input: Jet,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> Any:
    if dim is None:
        return NotImplemented
    input = input if dtype is None else _to(input, dtype)
    p = series.softmax(input.coefficients, input.orders, input.degree, _axis(dim, input))
    return input.like(p, _everything(input))


@rule("logsumexp", "special_logsumexp")
def _logsumexp(input: Jet, dim: Any, keepdim: bool = False) -> Any:
    if not isinstance(dim, int):
        if len(dim) != 1:
            axes = sorted(d % input.primal.ndim for d in dim)
            rest = [d for d in range(input.primal.ndim) if d not in axes]
            out = _logsumexp(input.permute(*rest, *axes).flatten(len(rest)), -1)
            if not keepdim:
                return out
            return out.reshape([1 if i in axes else n for i, n in enumerate(input.shape)])
        dim = dim[0]
    axis = _axis(dim, input)
    out = series.logsumexp(input.coefficients, input.orders, input.degree, axis)
    # A single number has no axis that could be taken away.
    shown = out if keepdim or not input.primal.ndim else out.squeeze(axis)
    return input.like(shown, _everything(input))


@rule("log_softmax", "special_log_softmax")
def _log_softmax(
    input: Jet,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> Any:
    if dim is None:
        return NotImplemented
    input = input if dtype is None else _to(input, dtype)
    return _sub(input, _logsumexp(input, dim, keepdim=True))


@rule("cross_entropy")
def _cross_entropy(
    input: Jet,
    target: Any,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """−log softmax as log(1 + exp m), m = log Σ_{c≠y} exp(z_c − z_y).

    The same function, but its derivatives keep their relative precision for confident points:
    p_y − 1 cancels once the margin exceeds 36 in float64, and the growth of the derivatives would
    then be that of rounding errors.
    """
    if size_average is not None or reduce is not None:
        return NotImplemented
    plain = weight is None and not label_smoothing
    by_class = isinstance(target, Tensor) and not target.is_floating_point()
    if not plain or not by_class or input.primal.ndim != 2 or (target == ignore_index).any():
        return _general_cross_entropy(
            input, target, weight, ignore_index, reduction, label_smoothing
        )
    classes = input.primal.shape[1]
    shift = torch.arange(1, classes, device=target.device)
    others = (target.unsqueeze(1) + shift) % classes
    c = input.coefficients
    differences = c.gather(2, others.expand(len(c), -1, -1)) - c.gather(
        2, target.unsqueeze(1).expand(len(c), -1, -1)
    )
    margin = _logsumexp(input.like(differences), 1)
    return reduced(_elementwise("softplus", margin, threshold=math.inf), reduction)


def _general_cross_entropy(
    input: Any,
    target: Any,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    smoothing: float,
) -> Any:
    axis = 0 if input.primal.ndim == 1 else 1
    logs = _log_softmax(input, axis)
    classes = input.shape[axis]
    if isinstance(target, Tensor) and not target.is_floating_point():
        hard = _nll_loss(logs, target, weight, None, ignore_index, None, reduction)
        if not smoothing:
            return hard
        scaled = logs if weight is None else _mul(logs, _by_class(weight, axis, logs))
        ignored = target == ignore_index
        uniform = _masked_fill(-scaled.sum(axis), ignored, 0.0)
        if reduction == "mean":
            kept = ~ignored
            total = kept.sum() if weight is None else weight[target[kept]].sum()
            uniform = _div(uniform.sum(), total)
        else:
            uniform = reduced(uniform, reduction)
        return hard * (1 - smoothing) + uniform * (smoothing / classes)
    if smoothing:
        target = target * (1 - smoothing) + smoothing / classes
    if weight is not None:
        logs = _mul(logs, _by_class(weight, axis, logs))
    losses = -_mul(logs, target).sum(axis)
    if reduction == "mean":
        return losses.sum() / max(input.primal.numel() / classes, 1)
    return reduced(losses, reduction)


def _by_class(weight: Tensor, axis: int, like: Jet) -> Tensor:
    return weight.view(-1, *[1] * (like.primal.ndim - axis - 1))


@rule("nll_loss")
def _nll_loss(
    input: Any,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    if size_average is not None or reduce is not None or not isinstance(input, Jet):
        return NotImplemented
    axis = 0 if input.primal.ndim == 1 else 1
    kept = target != ignore_index
    safe = target.masked_fill(~kept, 0)
    losses = -input.gather(axis, safe.unsqueeze(axis)).squeeze(axis)
    factor = kept.to(input.primal.dtype) if weight is None else weight[safe] * kept
    # Not a product with the mask: an ignored loss may be infinite.
    losses = _masked_fill(losses, ~kept, 0.0) if weight is None else _mul(losses, factor)
    return _div(losses.sum(), factor.sum()) if reduction == "mean" else reduced(losses, reduction)


def loss_rule(name: str) -> Callable[[Rule], Rule]:
    """Enters a function of single losses as torch's loss ``name``, which reduces them as it is asked."""

    def enter(losses: Rule) -> Rule:
        def answer(
            *args: Any,
            size_average: Any = None,
            reduce: Any = None,
            reduction: str = "mean",
            **options: Any,
        ) -> Any:
            if not isinstance(reduction, str):  # torch's inner functions number them
                return NotImplemented
            found = losses(*args, **options)
            if found is NotImplemented:
                return found
            old_style = size_average is not None or reduce is not None
            if reduction == "batchmean" and name == "kl_div" and not old_style:
                return found.sum() / args[0].shape[0]
            return reduced(found, reduction, size_average, reduce)

        own = inspect.signature(losses)
        ours = [
            p for p in inspect.signature(answer).parameters.values() if p.kind is p.KEYWORD_ONLY
        ]
        # Dispatch asks it which arguments the rule knows.
        answer.__signature__ = own.replace(parameters=[*own.parameters.values(), *ours])  # type: ignore[attr-defined]
        rule(name)(answer)
        return losses

    return enter


@loss_rule("mse_loss")
def _mse_losses(input: Any, target: Any, weight: Any = None) -> Any:
    return NotImplemented if weight is not None else _square(_sub(input, target))


@rule("scaled_dot_product_attention")
def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(groups, -3) for x in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    like = next(x for x in (query, key, value, attn_mask) if isinstance(x, Jet))
    query = lifted(query, like)
    scores = _matmul(query, key.transpose(-2, -1))
    scores = _scaled(scores, scale)
    if is_causal:
        attn_mask = torch.ones(
            query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device
        ).tril()
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        scores = _where(attn_mask, scores, -math.inf)
    elif attn_mask is not None:
        scores = _add(scores, attn_mask)
    if attn_mask is None:
        return _matmul(_dropout(_softmax(scores, -1), dropout_p, True), value)
    # A query that may look nowhere: torch gives it zeros.
    nowhere = (scores.primal == -math.inf).all(-1, keepdim=True)
    weights = _softmax(_masked_fill(scores, nowhere, 0.0), -1)
    return _matmul(_dropout(_masked_fill(weights, nowhere, 0.0), dropout_p, True), value)


# --- normalisation ----------------------------------------------------------------------------------


def _scaled(x: Any, factor: Any) -> Any:
    """``factor`` times what nobody else holds: in place, where that is possible."""
    if not isinstance(x, Jet) or not _may_take(x, factor):
        return x * factor
    return x.like(x.coefficients.mul_(factor))


def _shifted(x: Any, shift: Any) -> Any:
    """What nobody else holds plus ``shift``: in place, where that is possible."""
    if not isinstance(x, Jet) or not _may_take(x, shift):
        return x + shift
    c = x.coefficients
    c[0].add_(shift)
    return x.like(c)


def _may_take(x: Jet, constant: Any) -> bool:
    """Whether a result of x's shape and dtype is that of x and a constant, and may be written into x."""
    if not isinstance(constant, Tensor):
        return isinstance(constant, (int, float)) and not _looked_on(x.coefficients)
    if constant.ndim > x.primal.ndim or constant.dtype != x.primal.dtype:
        return False
    if torch.broadcast_shapes(constant.shape, x.primal.shape) != x.primal.shape:
        return False
    return constant.device == x.primal.device and not _looked_on(x.coefficients, constant)


def _weighted(x: Any, weight: Any, bias: Any) -> Any:
    """Scale and shift of what a normalisation gave."""
    x = x if weight is None else _scaled(x, weight)
    return x if bias is None else _shifted(x, bias)


@rule("layer_norm")
def _layer_norm(
    input: Any,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    return _weighted(normalization.layer_norm(input, normalized_shape, eps=eps), weight, bias)


@rule("rms_norm")
def _rms_norm(
    input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None
) -> Any:
    return _weighted(normalization.rms_norm(input, normalized_shape, eps=eps), weight, None)


rule("group_norm")(normalization.group_norm)


@rule("batch_norm")
def _batch_norm(
    input: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if not training:
        return _by_statistics(input, running_mean, running_var, weight, bias, eps)
    if running_mean is not None and momentum:
        # The running statistics move as they would for the plain network.
        value = input.primal.detach()
        F.batch_norm(value, running_mean, running_var, None, None, True, momentum, eps)
    return normalization.batch_norm(input, None, None, weight, bias, True, eps=eps)


@rule("instance_norm")
def _instance_norm(
    input: Any,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if not use_input_stats:
        return _by_statistics(input, running_mean, running_var, weight, bias, eps)
    if running_mean is not None:
        value = input.primal.detach()
        F.instance_norm(value, running_mean, running_var, None, None, True, momentum, eps)
    return normalization.instance_norm(input, None, None, weight, bias, True, eps=eps)


def _by_statistics(
    input: Any, mean: Tensor | None, variance: Tensor | None, weight: Any, bias: Any, eps: float
) -> Any:
    """Scale and shift by channel, the second axis."""
    assert mean is not None
    assert variance is not None
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    channels = (-1, *[1] * (input.primal.ndim - 2))
    shift = shift if bias is None else shift + bias
    return _shifted(_mul(input, scale.view(channels)), shift.view(channels))


# --- families of functions -----------------------------------------------------------------------

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
    "argmax",
    "argmin",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "not_equal",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "isnan",
    "isfinite",
    "isinf",
    "isclose",
    "allclose",
    "equal",
    "signbit",
    "logical_and",
    "logical_or",
    "logical_xor",
    "logical_not",
    "argsort",
    "bucketize",
    "searchsorted",
    "histc",
    "unique",
    "nonzero",
    "count_nonzero",
    "any",
    "all",
    "is_nonzero",
    "is_floating_point",
    "is_complex",
    "result_type",
    "zeros_like",
    "ones_like",
    "rand_like",
    "randn_like",
    "empty_like",
    "full_like",
]:
    rule(_name)(of_the_value(getattr(torch, _name)))
for _name in [
    "item",
    "tolist",
    "numpy",
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    "new_tensor",
    "size",
    "dim",
    "numel",
    "stride",
    "is_contiguous",
]:
    rule(_name)(of_the_value(getattr(Tensor, _name)))
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
    rule(_name)(partial(_to, dtype=getattr(torch, _type)))
