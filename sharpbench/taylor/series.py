"""Truncated power series of tensors: their recurrences, and the reverse mode through them.

A series Σ c_n tⁿ is a stack of *normalised* coefficients c_n = f⁽ⁿ⁾(0)/n!, shape (m, …), with the
tuple of the orders that are present; absent ones are structurally zero and never computed.

Everything rests on one fact. If y(t) = f(x(t)) then y' = w·x' with w(t) = f'(x(t)), so the
coefficients follow from those of w by a recurrence (Griewank & Walther 2008, ch. 13); and a change
δx of the input changes the output by δy = w·δx, so that reverse mode is a correlation with the same
w. Each function therefore only says how to find y and w.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["ELEMENTWISE", "add_to_first", "elementwise", "logsumexp", "product", "softmax"]

Coefficients = list[Tensor | None]
"""Coefficient n at place n; None is a structural zero."""

Solver = Callable[..., tuple[Tensor, Tensor | None]]
"""``solver(x, degree, complete, into, **parameters) -> (y, w)``: both stacked in full, orders 0 … degree.

y may be written ``into`` a tensor of its shape. w's last coefficient is needed by reverse mode alone: it
may be left out unless ``complete``.
"""


def elementwise(
    name: str, x: Tensor, orders: tuple[int, ...], degree: int, **parameters: float
) -> Tensor:
    """f applied to a series: all coefficients 0 … degree, shape (degree + 1, …).

    ``name`` is one of `ELEMENTWISE`. Differentiable once with respect to ``x``.
    """
    return _apply(_Elementwise, x, orders, degree, ELEMENTWISE[name], parameters)


def product(
    a: Tensor, a_orders: tuple[int, ...], b: Tensor, b_orders: tuple[int, ...], degree: int
) -> tuple[Tensor, tuple[int, ...]]:
    """The elementwise product of two series (Cauchy), with broadcasting, and its orders."""
    orders = tuple(sorted({i + j for i in a_orders for j in b_orders if i + j <= degree}))
    return _apply(_Product, a, a_orders, b, b_orders, orders), orders


def softmax(x: Tensor, orders: tuple[int, ...], degree: int, dim: int) -> Tensor:
    """Softmax of a series along ``dim`` (negative): all coefficients."""
    return _apply(_Softmax, x, orders, degree, dim)


def logsumexp(x: Tensor, orders: tuple[int, ...], degree: int, dim: int) -> Tensor:
    """log Σ exp of a series along ``dim`` (negative), which is kept with size 1: all coefficients."""
    return _apply(_LogSumExp, x, orders, degree, dim)


def add_to_first(x: Tensor, constant: Tensor, rows: int = 1) -> Tensor:
    """``constant`` added to the first ``rows`` rows (those of coefficient 0), in place.

    ``x`` must be no view: autograd would copy the whole of it.
    """
    return _apply(_AddToFirst, x, constant, rows)


def _apply(function: Any, *args: Any) -> Tensor:
    with torch._C.DisableTorchFunction():  # only plain tensors here: no mode need look at each step
        if torch.is_grad_enabled() or torch._C._functorch.peek_interpreter_stack() is not None:
            return cast("Tensor", function.apply(*args))
        return cast("Tensor", function.forward(_NOTHING_KEPT, *args))


class _NothingKept:
    """In the place of autograd's context where nothing is differentiated, which saves what that costs."""

    needs_input_grad = (False,) * 8

    def save_for_backward(self, *tensors: Tensor) -> None: ...

    def mark_dirty(self, *tensors: Tensor) -> None: ...

    def __setattr__(self, name: str, value: Any) -> None: ...


_NOTHING_KEPT = _NothingKept()


# --- arithmetic on coefficients ---------------------------------------------------------------------


def _listed(x: Tensor, orders: Sequence[int], degree: int) -> Coefficients:
    result: Coefficients = [None] * (degree + 1)
    for part, order in zip(x.unbind(), orders, strict=False):
        result[order] = part
    return result


Term = tuple[Tensor | None, Tensor | None, float]


def _sum_into(out: Tensor, terms: Iterable[Term]) -> Tensor:
    """out = Σ c·a·b, fused and in place; terms with a structural zero cost nothing."""
    empty = True
    for a, b, c in terms:
        if a is None or b is None:
            continue
        if not empty:
            out.addcmul_(a, b, value=c)
        elif c == 1:
            torch.mul(a, b, out=out)
        else:
            torch.addcmul(_zero(out), a, b, value=c, out=out)
        empty = False
    return out.zero_() if empty else out


def _zero(like: Tensor) -> Tensor:
    """A zero to add to; a new one costs as much as a product of a small block."""
    if type(like) is not Tensor:  # a mode's stand-in for a tensor
        return like.new_zeros(())
    return _kept_zero(like.dtype, like.device)


@cache
def _kept_zero(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.zeros((), dtype=dtype, device=device)


def _integral(out: Tensor, x: Sequence[Tensor | None], w: Sequence[Tensor | None], n: int) -> None:
    """y_n = (1/n) Σ_{k=1…n} k x_k w_{n−k}, from y' = w·x'."""
    empty = True
    for k in range(1, n + 1):  # `_sum_into` in full: a small network's time is that of such loops
        a, b = x[k], w[n - k]
        if a is None or b is None:
            continue
        if k == n:
            torch.mul(a, b, out=out) if empty else out.addcmul_(a, b)
        elif empty:
            torch.addcmul(_zero(out), a, b, value=k / n, out=out)
        else:
            out.addcmul_(a, b, value=k / n)
        empty = False
    if empty:
        out.zero_()


def _cauchy(a: Sequence[Tensor | None], b: Sequence[Tensor | None], n: int) -> Iterable[Term]:
    return ((a[i], b[n - i], 1.0) for i in range(n + 1))


def _square(a: Sequence[Tensor | None], n: int, factor: float = 1.0) -> Iterable[Term]:
    """The terms of coefficient n of a², each mixed pair once."""
    for i in range(n // 2 + 1):
        yield a[i], a[n - i], factor * (1 if 2 * i == n else 2)


def _empty(x: Coefficients, degree: int, into: Tensor | None = None) -> Tensor:
    """Room for coefficients 0 … degree, which is ``into`` if that is given."""
    if into is not None:
        return into
    first = cast("Tensor", x[0])
    return torch.empty((degree + 1, *first.shape), dtype=first.dtype, device=first.device)


# --- elementwise functions --------------------------------------------------------------------------


def _tanh(
    x: Coefficients, degree: int, complete: bool, into: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """w = 1 − y²."""
    y = _empty(x, degree, into)
    w = _empty(x, degree if complete else max(degree - 1, 0))
    ys, ws = y.unbind(), w.unbind()  # once: each indexing is as dear as a product of a block
    torch.tanh(cast("Tensor", x[0]), out=ys[0])
    torch.addcmul(y.new_ones(()), ys[0], ys[0], value=-1, out=ws[0])
    slope = -2 * ys[0] if len(ws) > 1 else None
    for n in range(1, degree + 1):
        _integral(ys[n], x, ws, n)
        if n < len(ws):
            torch.mul(cast("Tensor", slope), ys[n], out=ws[n])
            _add_inner_square(ws[n], ys, n, -1.0)
    return y, w


def _add_inner_square(out: Tensor, y: Sequence[Tensor], n: int, factor: float) -> None:
    """out += factor · Σ_{0<i<n} y_i y_{n−i}."""
    for i in range(1, n // 2 + 1):
        out.addcmul_(y[i], y[n - i], value=factor * (1 if 2 * i == n else 2))


def _sigmoid(
    x: Coefficients,
    degree: int,
    complete: bool,
    into: Tensor | None = None,
    *,
    saturated: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """w = y(1 − y), with 1 − y as sigmoid(−x): both tails keep their relative precision.

    Where ``saturated``, y is 1 and constant.
    """
    y = _empty(x, degree, into)
    w = _empty(x, degree)
    ys, ws = y.unbind(), w.unbind()
    start = cast("Tensor", x[0])
    torch.sigmoid(start, out=ys[0])
    complement = torch.sigmoid(-start)
    if saturated is not None:
        ys[0].masked_fill_(saturated, 1.0)
        complement.masked_fill_(saturated, 0.0)
    torch.mul(ys[0], complement, out=ws[0])
    slope = complement - ys[0]
    for n in range(1, degree + 1):
        _integral(ys[n], x, ws, n)
        if n < degree or complete:
            torch.mul(slope, ys[n], out=ws[n])
            _add_inner_square(ws[n], ys, n, -1.0)
    return y, w


def _softplus(
    x: Coefficients,
    degree: int,
    complete: bool,
    into: Tensor | None = None,
    *,
    beta: float = 1.0,
    threshold: float = 20.0,
) -> tuple[Tensor, Tensor]:
    """log(1 + exp βx)/β; w = sigmoid(βx). Above ``threshold`` it is x itself, as torch has it."""
    start = cast("Tensor", x[0])
    scaled = x if beta == 1 else [None if c is None else beta * c for c in x]
    saturated = None if math.isinf(threshold) else cast("Tensor", scaled[0]) > threshold
    w, _ = _sigmoid(scaled, degree, False, saturated=saturated)
    y = _empty(x, degree, into)
    ys, ws = y.unbind(), w.unbind()
    if math.isinf(threshold):
        torch.logaddexp(beta * start, start.new_zeros(()), out=ys[0]).div_(beta)
    else:
        ys[0].copy_(torch.nn.functional.softplus(start, beta, threshold))
    for n in range(1, degree + 1):
        _integral(ys[n], x, ws, n)
    return y, w


def _silu(
    x: Coefficients, degree: int, complete: bool, into: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """y = x·s, s = sigmoid(x); w = s + x·s(1 − s)."""
    s, s_slope = _sigmoid(x, degree, complete)
    return _times_argument(x, s, s_slope, degree, complete)


def _gelu(
    x: Coefficients, degree: int, complete: bool, into: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """y = x·Φ(x); w = Φ + m with m = x·φ, and Φ' = φ·x', φ' = −m·x'."""
    start = cast("Tensor", x[0])
    last = degree if complete else max(degree - 1, 0)
    w = _empty(x, last)
    densities, weighted, ws = _empty(x, last).unbind(), _empty(x, last).unbind(), w.unbind()
    torch.mul(start, start, out=densities[0])
    densities[0].mul_(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))
    torch.mul(start, densities[0], out=weighted[0])
    cumulative = torch.special.ndtr(start)
    y = _empty(x, degree, into)
    ys = y.unbind()
    torch.mul(start, cumulative, out=ys[0])
    torch.add(cumulative, weighted[0], out=ws[0])
    for n in range(1, degree + 1):
        _integral(ys[n], x, ws, n)
        if n <= last:
            _integral(densities[n], x, weighted, n)
            densities[n].neg_()
            _sum_into(weighted[n], _cauchy(x, densities, n))
            _integral(ws[n], x, densities, n)
            ws[n].add_(weighted[n])
    return y, w


def _times_argument(
    x: Coefficients, g: Tensor, g_slope: Tensor, degree: int, complete: bool
) -> tuple[Tensor, Tensor | None]:
    """y = x·g(x), w = g + x·g'(x)."""
    y = _empty(x, degree)
    w = _empty(x, degree) if complete else None
    ys, gs, slopes = y.unbind(), g.unbind(), g_slope.unbind()
    for n in range(degree + 1):
        _sum_into(ys[n], _cauchy(x, gs, n))
        if w is not None:
            _sum_into(w[n], _cauchy(x, slopes, n)).add_(gs[n])
    return y, w


def _normal_density(x: Coefficients, degree: int) -> Tensor:
    """exp(−x²/2)/√(2π)."""
    half_square: Coefficients = [*_empty(x, degree).unbind()]
    for n in range(degree + 1):
        _sum_into(cast("Tensor", half_square[n]), _square(x, n, -0.5))
    density, _ = _exp(half_square, degree, False)
    return density.mul_(1 / math.sqrt(2 * math.pi))


def _erf(
    x: Coefficients, degree: int, complete: bool, into: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """w = 2/√π exp(−x²)."""
    root = math.sqrt(2)
    w = _normal_density([None if c is None else root * c for c in x], degree)
    w.mul_(2 * root)
    y = _empty(x, degree, into)
    ys, ws = y.unbind(), w.unbind()
    torch.erf(cast("Tensor", x[0]), out=ys[0])
    for n in range(1, degree + 1):
        _integral(ys[n], x, ws, n)
    return y, w


def _exp(
    x: Coefficients, degree: int, complete: bool, into: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """w = y."""
    y = _empty(x, degree, into)
    ys = y.unbind()
    torch.exp(cast("Tensor", x[0]), out=ys[0])
    for n in range(1, degree + 1):
        _integral(ys[n], x, ys, n)
    return y, y


def _elu(
    x: Coefficients, degree: int, complete: bool, into: Tensor | None = None, *, alpha: float = 1.0
) -> tuple[Tensor, Tensor]:
    """x above zero, α(eˣ − 1) below; w = 1 or αeˣ."""
    start = cast("Tensor", x[0])
    above = start > 0
    below = list(x)
    below[0] = start.clamp(max=0)
    y, _ = _exp(below, degree, complete)
    y.mul_(alpha)
    w = y.clone()
    y[0] = torch.where(above, start, alpha * torch.expm1(cast("Tensor", below[0])))
    w[0].masked_fill_(above, 1.0)
    for n in range(1, degree + 1):
        w[n].masked_fill_(above, 0.0)
        linear = x[n]
        if linear is None:
            y[n].masked_fill_(above, 0.0)
        else:
            torch.where(above, linear, y[n], out=y[n])
    return y, w


def _power(
    x: Coefficients, degree: int, complete: bool, into: Tensor | None = None, *, exponent: float
) -> tuple[Tensor, Tensor | None]:
    """x^p by x·y' = p·y·x'; w = p x^(p−1). Natural exponents by products: they may start at 0."""
    if exponent == 0:
        y = torch.zeros_like(_empty(x, degree))
        y[0] = 1.0
        return y, torch.zeros_like(y)
    if exponent == int(exponent) and 0 < exponent <= 64:
        return _natural_power(x, degree, int(exponent))
    y = _raised(x, degree, exponent)
    w = _raised(x, degree, exponent - 1).mul_(exponent) if complete else None
    return y, w


def _raised(x: Coefficients, degree: int, exponent: float) -> Tensor:
    start = cast("Tensor", x[0])
    y = _empty(x, degree)
    ys = y.unbind()
    torch.pow(start, exponent, out=ys[0])
    inverse = start.reciprocal()
    for n in range(1, degree + 1):
        terms = ((x[k], ys[n - k], (k * exponent - (n - k)) / n) for k in range(1, n + 1))
        _sum_into(ys[n], terms).mul_(inverse)
    return y


def _natural_power(x: Coefficients, degree: int, exponent: int) -> tuple[Tensor, Tensor]:
    below = torch.zeros_like(_empty(x, degree))
    below[0] = 1.0
    y = below
    for step in range(exponent):
        below, y = y, _empty(x, degree)
        powers, ys = below.unbind(), y.unbind()
        left = x if step == 0 else powers
        right = [powers[0]] + [None] * degree if step == 0 else x
        for n in range(degree + 1):
            _sum_into(ys[n], _cauchy(left, right, n))
    return y, exponent * below


def _log(
    x: Coefficients, degree: int, complete: bool, into: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """w = 1/x."""
    w = _raised(x, degree, -1.0)
    y = _empty(x, degree, into)
    ys, ws = y.unbind(), w.unbind()
    torch.log(cast("Tensor", x[0]), out=ys[0])
    for n in range(1, degree + 1):
        _integral(ys[n], x, ws, n)
    return y, w


def _sin_cos(x: Coefficients, degree: int) -> tuple[Tensor, Tensor]:
    start = cast("Tensor", x[0])
    sine, cosine = _empty(x, degree), _empty(x, degree)
    sines, cosines = sine.unbind(), cosine.unbind()
    torch.sin(start, out=sines[0])
    torch.cos(start, out=cosines[0])
    for n in range(1, degree + 1):
        _integral(sines[n], x, cosines, n)
        _sum_into(cosines[n], ((x[k], sines[n - k], -k / n) for k in range(1, n + 1)))
    return sine, cosine


def _sin(
    x: Coefficients, degree: int, complete: bool, into: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """w = cos x."""
    return _sin_cos(x, degree)


def _cos(
    x: Coefficients, degree: int, complete: bool, into: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """w = −sin x."""
    sine, cosine = _sin_cos(x, degree)
    return cosine, -sine if complete else None


def _sinh_cosh(x: Coefficients, degree: int) -> tuple[Tensor, Tensor]:
    start = cast("Tensor", x[0])
    sine, cosine = _empty(x, degree), _empty(x, degree)
    sines, cosines = sine.unbind(), cosine.unbind()
    torch.sinh(start, out=sines[0])
    torch.cosh(start, out=cosines[0])
    for n in range(1, degree + 1):
        _integral(sines[n], x, cosines, n)
        _integral(cosines[n], x, sines, n)
    return sine, cosine


def _sinh(
    x: Coefficients, degree: int, complete: bool, into: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """w = cosh x."""
    return _sinh_cosh(x, degree)


def _cosh(
    x: Coefficients, degree: int, complete: bool, into: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """w = sinh x."""
    sine, cosine = _sinh_cosh(x, degree)
    return cosine, sine


ELEMENTWISE: dict[str, Solver] = {
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "silu": _silu,
    "gelu": _gelu,
    "erf": _erf,
    "exp": _exp,
    "elu": _elu,
    "pow": _power,
    "log": _log,
    "sin": _sin,
    "cos": _cos,
    "sinh": _sinh,
    "cosh": _cosh,
}


# --- reverse mode -----------------------------------------------------------------------------------


def _correlate(
    gradient: Tensor, orders: Sequence[int], w: Coefficients, wanted: Sequence[int], like: Tensor
) -> Tensor:
    """x̄_k = Σ_n ȳ_n w_{n−k} for the wanted orders k, where δy = w·δx; broadcast axes are summed."""
    if (
        gradient.is_complex()
        or like.is_complex()
        or any(v is not None and v.is_complex() for v in w)
    ):
        # torch's convention: the gradient is that with respect to the conjugate.
        turned = [None if v is None else v.conj().resolve_conj() for v in w]
        parts = _complex_correlate(gradient, orders, turned, wanted, like)
        return parts if like.is_complex() else torch.real(parts).contiguous()
    result = torch.empty((len(wanted), *like.shape[1:]), dtype=like.dtype, device=like.device)
    shape = gradient.shape[1:]
    block = _block(gradient)
    if (
        block is not None
        and shape == result.shape[1:]
        and all(v is None or (v.shape == shape and v.is_contiguous()) for v in w)
    ):
        for start in range(0, gradient[0].numel(), block):
            part = slice(start, start + block)
            pieces = [None if v is None else v.flatten()[part] for v in w]
            flat = gradient.flatten(1)[:, part]
            for place, k in enumerate(wanted):
                terms = [
                    (flat[i], pieces[n - k], 1.0)
                    for i, n in enumerate(orders)
                    if 0 <= n - k < len(w)
                ]
                _sum_into(result[place].view(-1)[part], terms)
        return result
    for place, k in enumerate(wanted):
        terms = [(gradient[i], w[n - k], 1.0) for i, n in enumerate(orders) if 0 <= n - k < len(w)]
        if shape == result.shape[1:]:
            _sum_into(result[place], terms)
        else:
            full = torch.empty(shape, dtype=like.dtype, device=like.device)
            result[place] = _sum_into(full, terms).sum_to_size(result.shape[1:])
    return result


def _complex_correlate(
    gradient: Tensor, orders: Sequence[int], w: Coefficients, wanted: Sequence[int], like: Tensor
) -> Tensor:
    found = []
    for k in wanted:
        total = torch.zeros_like(gradient[0])
        for i, n in enumerate(orders):
            slope = w[n - k] if 0 <= n - k < len(w) else None
            if slope is not None:
                total = total + gradient[i] * slope
        found.append(total.sum_to_size(like.shape[1:]))
    return torch.stack(found)


def _block(x: Tensor) -> int | None:
    """Elements of a coefficient to deal with at a time, None for all of them.

    A recurrence reads its coefficients again and again: on a CPU it is faster in pieces that stay in the
    cache, which half a megabyte a coefficient does; smaller ones cost more in calls than they save. Below
    torch's grain of 32768 elements nothing runs on a second thread.
    """
    if x.device.type != "cpu" or not x.is_contiguous():
        return None
    block = max((1 << 19) // x.element_size(), torch.get_num_threads() << 15)
    return block if x[0].numel() > 2 * block else None


def _in_blocks(
    x: Tensor, orders: tuple[int, ...], degree: int, complete: bool, solve: Solver
) -> tuple[Tensor, Tensor | None]:
    block = _block(x)
    if block is None:
        return solve(_listed(x, orders, degree), degree, complete)
    flat = x.flatten(1)
    y = torch.empty((degree + 1, *x.shape[1:]), dtype=x.dtype, device=x.device)
    w: Tensor | None = None
    for start in range(0, flat.shape[1], block):
        part = slice(start, start + block)
        into = y.flatten(1)[:, part]
        values, slopes = solve(_listed(flat[:, part], orders, degree), degree, complete, into)
        if values is not into:
            into.copy_(values)
        if slopes is not None and complete:
            if w is None:
                w = y.new_empty((len(slopes), *x.shape[1:]))
            w.flatten(1)[:, part] = slopes
    return y, w


class _Elementwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        orders: tuple[int, ...],
        degree: int,
        solver: Solver,
        parameters: dict[str, float],
    ) -> Tensor:
        needed = ctx.needs_input_grad[0]
        y, w = _in_blocks(x, orders, degree, needed, partial(solver, **parameters))
        if needed:
            ctx.orders, ctx.degree = orders, degree
            ctx.save_for_backward(x, w)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, w = ctx.saved_tensors
        everything = range(ctx.degree + 1)
        return _correlate(gradient, everything, list(w), ctx.orders, x), None, None, None, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        a_orders: tuple[int, ...],
        b: Tensor,
        b_orders: tuple[int, ...],
        orders: tuple[int, ...],
    ) -> Tensor:
        degree = orders[-1]
        first = _listed(a, [o for o in a_orders if o <= degree], degree)
        second = _listed(b, [o for o in b_orders if o <= degree], degree)
        shape = torch.broadcast_shapes(a.shape[1:], b.shape[1:])
        kind = torch.result_type(a, b)
        out = torch.empty((len(orders), *shape), dtype=kind, device=a.device)
        same = a is b
        for part, n in zip(out.unbind(), orders, strict=True):
            _sum_into(part, _square(first, n) if same else _cauchy(first, second, n))
        ctx.orders = (a_orders, b_orders, orders)
        ctx.save_for_backward(a, b)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        a, b = ctx.saved_tensors
        a_orders, b_orders, orders = ctx.orders
        degree = max(orders[-1], a_orders[-1], b_orders[-1])
        to_a = to_b = None
        if ctx.needs_input_grad[0]:
            to_a = _correlate(gradient, orders, _listed(b, b_orders, degree), a_orders, a)
        if ctx.needs_input_grad[2]:
            to_b = _correlate(gradient, orders, _listed(a, a_orders, degree), b_orders, b)
        return to_a, None, to_b, None, None


def _solve_softmax(
    x: Coefficients, degree: int, dim: int, p: Tensor, log_sum: Tensor, wanted: bool
) -> None:
    """p = softmax(x) and l = log Σ exp x by l' = ⟨p, x'⟩ and p' = p·(x' − l').

    ``p`` and ``log_sum`` are filled, of the latter l₀ only if it is ``wanted``: p needs the rest alone.
    """
    start = cast("Tensor", x[0])
    ps, sums = p.unbind(), log_sum.unbind()
    if wanted:
        torch.logsumexp(start, dim, keepdim=True, out=sums[0])
    torch.softmax(start, dim, out=ps[0])
    rest = [None, *torch.empty_like(p[1:]).unbind()]  # x − l, from order 1 on
    for n in range(1, degree + 1):
        _integral(ps[n], x, ps, n)  # as scratch: (1/n) Σ k x_k p_{n−k}
        torch.sum(ps[n], dim, keepdim=True, out=sums[n])
        linear, difference = x[n], cast("Tensor", rest[n])
        if linear is None:
            difference.copy_(-sums[n])
        else:
            torch.sub(linear, sums[n], out=difference)
        _integral(ps[n], rest, ps, n)


def _softmax_in_blocks(
    x: Tensor, orders: tuple[int, ...], degree: int, dim: int, wanted: bool
) -> tuple[Tensor, Tensor]:
    """p and log Σ exp, row by row in pieces that stay in the cache; see `_block`."""
    shape = x.shape[1:]
    kept = [*shape]
    if kept:
        kept[dim] = 1
    p = x.new_empty((degree + 1, *shape))
    log_sum = x.new_empty((degree + 1, *kept))
    block, axis = _block(x), len(shape) + dim
    rows = math.prod(shape[:axis])
    if block is None or rows < 2:
        _solve_softmax(_listed(x, orders, degree), degree, dim, p, log_sum, wanted)
        return p, log_sum
    step = max(block * rows // x[0].numel(), 1)
    flat = [t.view(len(t), rows, *t.shape[axis + 1 :]) for t in (x, p, log_sum)]
    for start in range(0, rows, step):
        piece, of_p, of_sum = (t[:, start : start + step] for t in flat)
        _solve_softmax(_listed(piece, orders, degree), degree, dim, of_p, of_sum, wanted)
    return p, log_sum


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, orders: tuple[int, ...], degree: int, dim: int) -> Tensor:
        p, _ = _softmax_in_blocks(x, orders, degree, dim, False)
        ctx.orders, ctx.degree, ctx.dim = orders, degree, dim
        ctx.save_for_backward(x, p)
        return p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """δp = p·(δx − ⟨p, δx⟩)."""
        x, p = ctx.saved_tensors
        everything = range(ctx.degree + 1)
        direct = _correlate(gradient, everything, list(p), everything, p)
        common = direct.sum(ctx.dim, keepdim=True)
        result = direct[list(ctx.orders)]
        result -= _correlate(common.expand_as(p), everything, list(p), ctx.orders, x)
        return result, None, None, None


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, orders: tuple[int, ...], degree: int, dim: int) -> Tensor:
        p, log_sum = _softmax_in_blocks(x, orders, degree, dim, True)
        ctx.orders, ctx.degree = orders, degree
        ctx.save_for_backward(x, p)
        return log_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """δl = ⟨p, δx⟩."""
        x, p = ctx.saved_tensors
        everything = range(ctx.degree + 1)
        spread = gradient.expand_as(p)
        return _correlate(spread, everything, list(p), ctx.orders, x), None, None, None


class _AddToFirst(torch.autograd.Function):
    """Plain autograd would copy the whole gradient for an in-place change of a part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, constant: Tensor, rows: int) -> Tensor:
        ctx.shape, ctx.rows = constant.shape, rows
        ctx.mark_dirty(x)
        x[:rows] += constant
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        constant = None
        if ctx.needs_input_grad[1]:
            constant = gradient[: ctx.rows].sum_to_size(ctx.shape)
        return gradient, constant, None
