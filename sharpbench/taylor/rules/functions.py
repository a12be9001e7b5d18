"""Rules of scalar functions, norms, statistics, orderings, products and losses."""

# ruff: noqa: A001, A002, A006 - arguments carry torch's names: torch may pass them by keyword

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sharpbench.formulas import layers, losses
from sharpbench.formulas.log_softmax import reduced
from sharpbench.taylor.jet import Jet
from sharpbench.taylor.rules import arithmetic, elementwise, selections
from sharpbench.taylor.rules.linear import cat, each_coefficient, stack
from sharpbench.taylor.rules.losses import loss_rule
from sharpbench.taylor.rules.selections import lifted, of_the_value
from sharpbench.taylor.table import Rule, rule

__all__ = ["first_series", "integrated"]


def first_series(*values: Any) -> Jet:
    """Any of the arguments that is a series."""
    return next(v for v in values if isinstance(v, Jet))


# --- functions given by their derivative ------------------------------------------------------------


def integrated(value: Tensor, *terms: tuple[Any, Jet]) -> Jet:
    """y with y(0) = ``value`` and y' = Σ w·x' over the ``terms`` (w, x)."""
    like = terms[0][1]
    total: Jet | None = None
    for slope, x in terms:
        moving = [(n, c) for n, c in zip(x.orders, x.coefficients, strict=True) if n]
        if not moving or not like.degree:
            continue
        rate = x.like(torch.stack([n * c for n, c in moving]), tuple(n - 1 for n, _ in moving))
        term = arithmetic.mul(lifted(slope, x), rate)
        total = term if total is None else arithmetic.add(total, term)
    if total is None:
        return like.constant(value)
    places = [i for i, n in enumerate(total.orders) if n < like.degree]
    orders = tuple(total.orders[i] + 1 for i in places)
    rest = torch.stack([total.coefficients[i] / n for i, n in zip(places, orders, strict=True)])
    return like.like(torch.cat([value.unsqueeze(0), rest]), (0, *orders))


def _with_slope(func: Callable[[Tensor], Tensor], slope: Callable[[Any], Any]) -> Rule:
    return lambda input: integrated(func(input.primal), (slope(input), input))


rule("asin", "arcsin")(_with_slope(torch.asin, lambda x: (1 - x * x) ** -0.5))
rule("acos", "arccos")(_with_slope(torch.acos, lambda x: -((1 - x * x) ** -0.5)))
rule("atan", "arctan")(_with_slope(torch.atan, lambda x: 1 / (1 + x * x)))
rule("asinh", "arcsinh")(_with_slope(torch.asinh, lambda x: (1 + x * x) ** -0.5))
rule("acosh", "arccosh")(_with_slope(torch.acosh, lambda x: (x * x - 1) ** -0.5))
rule("atanh", "arctanh")(_with_slope(torch.atanh, lambda x: 1 / (1 - x * x)))


def _scaled_log(func: Callable[[Tensor], Tensor], base: float) -> Rule:
    return _with_slope(func, lambda x: 1 / (x * math.log(base)))


rule("log2")(_scaled_log(torch.log2, 2))
rule("log10")(_scaled_log(torch.log10, 10))


@rule("atan2", "arctan2")
def _atan2(input: Any, other: Any) -> Any:
    like = first_series(input, other)
    y, x = lifted(input, like), lifted(other, like)
    inverse = 1 / (x * x + y * y)
    return integrated(torch.atan2(y.primal, x.primal), (x * inverse, y), (-(y * inverse), x))


@rule("hypot")
def _hypot(input: Any, other: Any) -> Any:
    return _root_of_sum(input * input + other * other)


@rule("logaddexp")
def _logaddexp(input: Any, other: Any) -> Any:
    like = first_series(input, other)
    shape = torch.broadcast_shapes(input.shape, other.shape)
    parts = [lifted(x, like).expand(shape) for x in (input, other)]
    return stack(parts, -1).logsumexp(-1)


@rule("xlogy", "special_xlogy")
def _xlogy(input: Any, other: Any) -> Any:
    like = first_series(input, other)
    x, y = lifted(input, like), lifted(other, like)
    nothing = (x.primal == 0).expand(torch.broadcast_shapes(x.shape, y.shape))
    safe = arithmetic.where(nothing, 1.0, y)
    return arithmetic.where(nothing, 0.0, x * safe.log())


@rule("logit", "special_logit")
def _logit(input: Jet, eps: float | None = None) -> Any:
    if eps is not None:
        input = input.clamp(eps, 1 - eps)
    return integrated(torch.logit(input.primal), (1 / (input * (1 - input)), input))


@rule("ndtr", "special_ndtr")
def _ndtr(input: Jet) -> Any:
    density = (input * input * -0.5).exp() / math.sqrt(2 * math.pi)
    return integrated(torch.special.ndtr(input.primal), (density, input))


@rule("erfc")
def _erfc(input: Jet) -> Any:
    slope = (-(input * input)).exp() * (-2 / math.sqrt(math.pi))
    return integrated(torch.erfc(input.primal), (slope, input))


_SINC_NEAR = 1.0


@rule("sinc", "special_sinc")
def _sinc(input: Jet) -> Any:
    """sin πx / πx; near 0, where that is 0/0, by its power series."""
    near = input.primal.abs() <= _SINC_NEAR
    far = arithmetic.where(near, 2.0, input) * math.pi
    quotient = far.sin() / far
    x = arithmetic.where(near, input, 0.0) * math.pi
    square = x * x
    terms = 16 + input.degree
    total: Any = 0.0
    for k in range(terms, -1, -1):
        total = square * total + (-1.0) ** k * math.exp(-math.lgamma(2 * k + 2))
    return arithmetic.where(near, total, quotient)


def _remainder(func: Callable[..., Tensor], rounding: str) -> Rule:
    def applied(input: Any, other: Any) -> Any:
        a, b = (x.primal if isinstance(x, Jet) else x for x in (input, other))
        turns = torch.div(a, b, rounding_mode=rounding).detach()
        result = arithmetic.sub(
            input, arithmetic.mul(other, turns) if isinstance(other, Jet) else other * turns
        )
        return _with_value(result, func(a, b))

    return applied


remainder = rule("remainder", "mod")(_remainder(torch.remainder, "floor"))
rule("rmod")(lambda input, other: remainder(other, input))
rule("fmod")(_remainder(torch.fmod, "trunc"))


def _with_value(x: Jet, value: Tensor) -> Jet:
    """The same series with coefficient 0 as torch itself has it."""
    return x.like(torch.cat([value.unsqueeze(0), x.coefficients[1:]]))


@rule("frac")
def _frac(input: Jet) -> Any:
    return _with_value(input * 1, input.primal.frac())


@rule("nan_to_num")
def _nan_to_num(
    input: Jet, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Any:
    value = torch.nan_to_num(input.primal, nan, posinf, neginf)
    return elementwise.masked(input, torch.isfinite(input.primal), value)


@rule("clamp_min")
def _clamp_min(input: Any, min: Any) -> Any:
    return selections.clamp(input, min, None)


@rule("clamp_max")
def _clamp_max(input: Any, max: Any) -> Any:
    return selections.clamp(input, None, max)


@rule("copysign")
def _copysign(input: Jet, other: Any) -> Any:
    return _abs(input) * (
        1 - 2 * torch.signbit(arithmetic.constant(_plain(other), input)).to(input.dtype)
    )


def _plain(x: Any) -> Any:
    return x.primal if isinstance(x, Jet) else x


def _constant_of(func: Callable[..., Tensor]) -> Rule:
    """Piecewise constant in all its arguments."""

    def applied(*args: Any, **kwargs: Any) -> Any:
        like = first_series(*args, *kwargs.values())
        return like.constant(of_the_value(func)(*args, **kwargs))

    return applied


rule("floor_divide", "floordiv")(_constant_of(torch.floor_divide))
rule("rfloordiv")(_constant_of(lambda a, b: torch.floor_divide(b, a)))
rule("heaviside")(_constant_of(torch.heaviside))
rule("sgn")(_constant_of(torch.sgn))


@rule("abs", "absolute")
def _abs(input: Jet) -> Any:
    if input.primal.is_complex():
        return _root_of_sum(input.real * input.real + input.imag * input.imag)
    return elementwise.absolute(input)


# --- activations ------------------------------------------------------------------------------------


@rule("glu")
def _glu(input: Jet, dim: int = -1) -> Any:
    value, gate = input.chunk(2, dim)
    return value * gate.sigmoid()


rule("cdist")(layers.cdist)
rule("pdist")(layers.pdist)
rule("celu")(layers.celu)
rule("embedding_bag")(layers.embedding_bag)
rule("native_channel_shuffle")(layers.native_channel_shuffle)


@rule("hardsigmoid")
def _hardsigmoid(input: Jet, inplace: bool = False) -> Any:
    inside = (input.primal > -3) & (input.primal < 3)
    return elementwise.masked(input / 6 + 0.5, inside, F.hardsigmoid(input.primal))


@rule("hardswish")
def _hardswish(input: Jet, inplace: bool = False) -> Any:
    inner = arithmetic.where(input.primal < 3, input * (input / 6 + 0.5), input)
    return arithmetic.masked_fill(inner, input.primal <= -3, 0.0)


@rule("prelu")
def _prelu(input: Any, weight: Any) -> Any:
    like = first_series(input, weight)
    input = lifted(input, like)
    if weight.numel() > 1 and input.primal.ndim > 2:
        weight = weight.reshape(-1, *[1] * (input.primal.ndim - 2))
    return arithmetic.where(input.primal > 0, input, input * weight)


@rule("rrelu")
def _rrelu(
    input: Jet,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Any:
    if not training:
        return elementwise.leaky_relu(input, (lower + upper) / 2)
    above = input.primal > 0
    probe = torch.where(above, torch.ones_like(input.primal), -torch.ones_like(input.primal))
    slopes = torch.where(above, 1.0, -F.rrelu(probe.detach(), lower, upper, True))
    return input * slopes


@rule("threshold")
def _threshold(input: Jet, threshold: float, value: float, inplace: bool = False) -> Any:
    return arithmetic.where(input.primal > threshold, input, value)


@rule("softshrink")
def _softshrink(input: Jet, lambd: float = 0.5) -> Any:
    return _with_value(
        arithmetic.masked_fill(input, input.primal.abs() <= lambd, 0.0),
        F.softshrink(input.primal, lambd),
    )


@rule("hardshrink")
def _hardshrink(input: Jet, lambd: float = 0.5) -> Any:
    return arithmetic.masked_fill(input, input.primal.abs() <= lambd, 0.0)


# --- norms and statistics ---------------------------------------------------------------------------


def _root_of_sum(squares: Jet) -> Any:
    """√ of a sum of squares; where all vanish it has no derivative, and is taken constant as by torch."""
    nothing = squares.primal == 0
    if not nothing.any():
        return squares.sqrt()
    return arithmetic.masked_fill(
        arithmetic.masked_fill(squares, nothing, 1.0).sqrt(), nothing, 0.0
    )


def _sum(x: Any, dim: Any, keepdim: bool) -> Any:
    return x.sum() if dim is None and not keepdim else x.sum(_axes(x, dim), keepdim=keepdim)


def _axes(x: Any, dim: Any) -> tuple[int, ...]:
    if isinstance(dim, int):
        return (dim,)
    return tuple(dim) if dim is not None and len(dim) else tuple(range(x.ndim))


@rule("vector_norm", "linalg_vector_norm")
def _vector_norm(
    x: Jet,
    ord: Any = 2,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Any:
    x = x if dtype is None else x.to(dtype)
    order = float(ord)
    if order == 2:
        squares = x * x if not x.primal.is_complex() else x.real * x.real + x.imag * x.imag
        return _root_of_sum(_sum(squares, dim, keepdim))
    size = _abs(x)
    if order == 1:
        return _sum(size, dim, keepdim)
    if math.isinf(order):
        return selections.amax(order > 0)(size, _axes(size, dim), keepdim)
    if order == 0:
        return x.constant(torch.linalg.vector_norm(x.primal.detach(), 0, dim, keepdim))
    safe = arithmetic.masked_fill(size, size.primal == 0, 1.0)
    total = _sum(arithmetic.masked_fill(safe**order, size.primal == 0, 0.0), dim, keepdim)
    nothing = total.primal == 0
    return arithmetic.masked_fill(
        arithmetic.masked_fill(total, nothing, 1.0) ** (1 / order), nothing, 0.0
    )


@rule("norm")
def _norm(
    input: Jet,
    p: Any = "fro",
    dim: Any = None,
    keepdim: bool = False,
    dtype: torch.dtype | None = None,
    out: None = None,
) -> Any:
    if p == "nuc":
        return NotImplemented
    return _vector_norm(input, 2 if p in {"fro", None} else p, dim, keepdim, dtype=dtype)


@rule("linalg_norm")
def _linalg_norm(
    input: Jet,
    ord: Any = None,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Any:
    axes = _axes(input, dim)
    if ord is None or ord == "fro":
        return _vector_norm(input, 2, dim, keepdim, dtype=dtype)
    if len(axes) == 2 or isinstance(ord, str):
        return NotImplemented
    return _vector_norm(input, ord, dim, keepdim, dtype=dtype)


@rule("linalg_matrix_norm")
def _matrix_norm(
    input: Jet,
    ord: Any = "fro",
    dim: Any = (-2, -1),
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Any:
    return _linalg_norm(input, ord, dim, keepdim, dtype=dtype) if ord == "fro" else NotImplemented


@rule("pairwise_distance")
def _distance(x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Any:
    return _vector_norm(x1 - x2 + eps, p, -1, keepdim)


@rule("cosine_similarity")
def _cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    def unit(x: Any) -> Any:
        if isinstance(x, Jet):
            return x / _clamp_min(_vector_norm(x, 2, dim, True), eps)
        return x / torch.linalg.vector_norm(x, 2, dim, True).clamp_min(eps)

    return (unit(x1) * unit(x2)).sum(dim)


def _variance(input: Jet, dim: Any, unbiased: Any, correction: Any, keepdim: bool) -> Any:
    if isinstance(dim, bool):  # var(unbiased)
        dim, unbiased = None, dim
    axes = _axes(input, dim)
    count = math.prod(input.shape[a] for a in axes)
    if correction is None:
        correction = 1 if unbiased is None or unbiased else 0
    centred = input - input.mean(axes, keepdim=True)
    return (centred * centred).sum(axes, keepdim=keepdim) / max(count - correction, 0)


@rule("var")
def _var(
    input: Jet,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> Any:
    return _variance(input, dim, unbiased, correction, keepdim)


@rule("std")
def _std(
    input: Jet,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> Any:
    return _root_of_sum(_variance(input, dim, unbiased, correction, keepdim))


def _and_mean(spread: Rule) -> Rule:
    def applied(
        input: Jet,
        dim: Any = None,
        unbiased: Any = None,
        keepdim: bool = False,
        *,
        correction: Any = None,
    ) -> Any:
        axes = _axes(input, None if isinstance(dim, bool) else dim)
        of = spread(input, dim, unbiased, keepdim, correction=correction)
        return of, input.mean(axes, keepdim=keepdim)

    return applied


rule("var_mean")(_and_mean(_var))
rule("std_mean")(_and_mean(_std))


# --- orderings --------------------------------------------------------------------------------------


class _Chosen(NamedTuple):
    values: Jet
    indices: Tensor


def _selection(func: Callable[..., Any]) -> Rule:
    """Values that are picked along an axis: each coefficient where the value at t = 0 is picked."""

    def applied(input: Jet, *args: Any, **kwargs: Any) -> Any:
        found = func(input.primal.detach(), *args, **kwargs)
        if isinstance(found, Tensor):  # the lower median of all
            flat = input.flatten()
            place = (flat.primal.detach() == found).nonzero()
            return flat[place[0, 0]] if len(place) else NotImplemented
        dim, keepdim = _where_from(func, args, kwargs)
        index = found.indices
        removed = func in _REMOVES_AXIS and not keepdim and input.primal.ndim > 0
        places = index.unsqueeze(dim) if removed else index
        values = input.gather(dim, places)
        return _Chosen(values.squeeze(dim) if removed else values, index)

    return applied


def _where_from(func: Callable[..., Any], args: Any, kwargs: Any) -> tuple[int, bool]:
    names = _ARGUMENTS[func]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return given.get("dim", -1), given.get("keepdim", False)


_ARGUMENTS: dict[Callable[..., Any], tuple[str, ...]] = {
    torch.sort: ("dim", "descending"),
    torch.topk: ("k", "dim"),
    torch.kthvalue: ("k", "dim", "keepdim"),
    torch.median: ("dim", "keepdim"),
    torch.mode: ("dim", "keepdim"),
    torch.cummax: ("dim",),
    torch.cummin: ("dim",),
}
_REMOVES_AXIS = frozenset({torch.kthvalue, torch.median, torch.mode})


@rule("msort")
def _msort(input: Jet) -> Any:
    return input.sort(0).values


# --- products ---------------------------------------------------------------------------------------


@rule("cumprod")
def _cumprod(input: Jet, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    parts = list(input.unbind(dim))
    for i in range(1, len(parts)):
        parts[i] = parts[i - 1] * parts[i]
    return stack(parts, dim)


@rule("prod")
def _prod(
    input: Jet, dim: int | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Any:
    """By pairs, so that a factor of zero is like any other."""
    if dim is None:
        return _prod(input.flatten(), 0)
    length = input.shape[dim]
    if not length:
        return NotImplemented
    while length > 1:
        half = length // 2
        pairs = input.narrow(dim, 0, half) * input.narrow(dim, half, half)
        if length % 2:
            pairs = cat([pairs, input.narrow(dim, length - 1, 1)], dim)
        input, length = pairs, half + length % 2
    return input if keepdim else input.squeeze(dim)


@rule("logcumsumexp")
def _logcumsumexp(input: Jet, dim: int) -> Any:
    top = input.primal.detach().amax(dim, keepdim=True)
    return _with_value((input - top).exp().cumsum(dim).log(), torch.logcumsumexp(input.primal, dim))


# --- losses -----------------------------------------------------------------------------------------


for _loss, _single in losses.BY_FORMULA.items():
    loss_rule(_loss.__name__)(_single)


@loss_rule("margin_ranking_loss")
def _margin_ranking(input1: Any, input2: Any, target: Any, margin: float = 0.0) -> Any:
    return (margin - target * (input1 - input2)).relu()


@loss_rule("hinge_embedding_loss")
def _hinge_embedding(input: Any, target: Tensor, margin: float = 1.0) -> Any:
    if isinstance(target, Jet):
        return NotImplemented
    far = arithmetic.where(target == 1, 0.0, (margin - input).relu())
    return arithmetic.where(target == -1, 0.0, input) + far


@loss_rule("cosine_embedding_loss")
def _cosine_embedding(input1: Any, input2: Any, target: Tensor, margin: float = 0.0) -> Any:
    sizes = [(x * x).sum(-1) + 1e-12 for x in (input1, input2)]  # torch's own floor
    cosine = (input1 * input2).sum(-1) / (sizes[0] * sizes[1]).sqrt()
    losses = arithmetic.where(target == 1, 1 - cosine, 0.0)
    return losses + arithmetic.where(target == -1, (cosine - margin).relu(), 0.0)


@loss_rule("triplet_margin_loss")
def _triplet_margin(
    anchor: Any,
    positive: Any,
    negative: Any,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
) -> Any:
    def distance(a: Any, b: Any) -> Any:
        return F.pairwise_distance(a, b, p, eps)

    far = distance(anchor, negative)
    if swap:
        far = torch.minimum(far, distance(positive, negative))
    return (distance(anchor, positive) - far + margin).relu()


@rule("l1_loss")
def _l1_loss(
    input: Any,
    target: Any,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Any = None,
) -> Any:
    if not isinstance(reduction, str):  # torch's inner function numbers them
        return NotImplemented
    losses = _l1_losses(input, target)
    weight = _weight_of_l1_loss() if weight is None else weight
    if weight is None:
        return reduced(losses, reduction, size_average, reduce)
    total = reduced(losses * weight, reduction, size_average, reduce)
    averaged = size_average is None or size_average
    if size_average is not None or reduce is not None:
        averaged = averaged and reduce is not False
    else:
        averaged = reduction == "mean"
    return total * weight.numel() / weight.sum() if averaged else total


def _l1_losses(input: Any, target: Any) -> Any:
    return (input - target).abs()


def _weight_of_l1_loss() -> Any:
    """The weight that torch's function was called with: it is the one argument that it does not hand on."""
    frame, found = inspect.currentframe(), None
    while frame is not None and found is None:  # modes call it again, without the weight
        if frame.f_code is F.l1_loss.__code__:
            found = frame.f_locals["weight"]
        frame = frame.f_back
    return found


def _huber(difference: Any, delta: float) -> Any:
    size = difference.abs()
    near = size.primal <= delta
    return arithmetic.where(near, difference * difference * 0.5, (size - 0.5 * delta) * delta)


@loss_rule("huber_loss")
def _huber_losses(input: Any, target: Any, delta: float = 1.0, weight: Any = None) -> Any:
    return NotImplemented if weight is not None else _huber(input - target, delta)


@loss_rule("smooth_l1_loss")
def _smooth_l1_losses(input: Any, target: Any, beta: float = 1.0) -> Any:
    return _l1_losses(input, target) if beta == 0 else _huber(input - target, beta) / beta


@loss_rule("binary_cross_entropy")
def _bce(input: Any, target: Any, weight: Any = None) -> Any:
    """torch holds the logarithms above −100."""
    like = first_series(input, target)
    input = lifted(input, like)
    losses = -(
        target * _clamp_min(input.log(), -100) + (1 - target) * _clamp_min((1 - input).log(), -100)
    )
    return losses if weight is None else losses * weight


@loss_rule("binary_cross_entropy_with_logits")
def _bce_with_logits(input: Any, target: Any, weight: Any = None, pos_weight: Any = None) -> Any:
    like = first_series(input, target)
    input = lifted(input, like)
    rest = elementwise.softplus(-input, threshold=math.inf)
    if pos_weight is None:
        losses = (1 - target) * input + rest
    else:
        losses = (1 - target) * input + (1 + (pos_weight - 1) * target) * rest
    return losses if weight is None else losses * weight


@loss_rule("poisson_nll_loss")
def _poisson(
    input: Any, target: Any, log_input: bool = True, full: bool = False, eps: float = 1e-8
) -> Any:
    losses = input.exp() - target * input if log_input else input - target * (input + eps).log()
    if full:
        beyond = arithmetic.where(
            (target <= 1), 1.0, target
        )  # below it Stirling's formula is left out
        stirling = beyond * beyond.log() - beyond + 0.5 * (2 * math.pi * beyond).log()
        losses = losses + arithmetic.where(target <= 1, 0.0, stirling)
    return losses


@loss_rule("kl_div")
def _kl_div(input: Any, target: Any, log_target: bool = False) -> Any:
    if log_target:
        return target.exp() * (target - input)
    logs = _xlogy(target, target) if isinstance(target, Jet) else torch.xlogy(target, target)
    return logs - target * input


rule("exp2")(lambda input: _with_value((input * math.log(2)).exp(), torch.exp2(input.primal)))
rule("deg2rad")(lambda input: input * (math.pi / 180))
rule("rad2deg")(lambda input: input * (180 / math.pi))
rule("logaddexp2")(
    lambda input, other: _logaddexp(input * math.log(2), other * math.log(2)) / math.log(2)
)
rule("pos", "positive")(lambda input: input)
rule("fmax")(lambda input, other: selections.larger(input, other, True))
rule("fmin")(lambda input, other: selections.larger(input, other, False))
for _func in _ARGUMENTS:
    rule(_func.__name__)(_selection(_func))
rule("max_unpool1d")(each_coefficient(F.max_unpool1d))
rule("max_unpool2d")(each_coefficient(F.max_unpool2d))
rule("max_unpool3d")(each_coefficient(F.max_unpool3d))
rule("im2col")(each_coefficient(torch._C._nn.im2col))
