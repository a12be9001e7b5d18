"""Pooling, extrema, and what sees the values at t = 0 alone."""

# ruff: noqa: A001, A002 - arguments carry torch's names: torch may pass them by keyword

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from sharpbench.taylor.jet import Jet
from sharpbench.taylor.rules import arithmetic, elementwise
from sharpbench.taylor.table import Rule, rule

__all__ = ["amax", "clamp", "larger", "lifted", "of_the_value"]


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
            return larger(input, dim, largest)
        if dim is None:
            return amax(largest)(input)
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


@rule("clamp", "clip")
def clamp(input: Jet, min: Any = None, max: Any = None) -> Any:
    if any(isinstance(x, Jet) for x in (min, max)) or not isinstance(input, Jet):
        low = input if min is None else _extremum(True)(input, min)
        return low if max is None else _extremum(False)(low, max)
    active = torch.ones_like(input.primal, dtype=torch.bool)
    if min is not None:
        active = active & (input.primal >= min)
    if max is not None:
        active = active & (input.primal <= max)
    return elementwise.masked(input, active, input.primal.clamp(min, max))


def larger(input: Any, other: Any, largest: bool) -> Any:
    """The larger or smaller of two; where they are equal each gives half, as torch has it."""
    a, b = (x.primal if isinstance(x, Jet) else x for x in (input, other))
    like = input if isinstance(input, Jet) else other
    a, b = arithmetic.constant(a, like), arithmetic.constant(b, like)
    taken = arithmetic.where((a > b) == largest, input, other)
    tied = a == b
    if not tied.any():
        return taken
    return arithmetic.where(
        tied, arithmetic.mul(arithmetic.add(lifted(input, like), other), 0.5), taken
    )


def lifted(value: Any, like: Jet) -> Jet:
    """A number or plain tensor as a series that does not move."""
    return value if isinstance(value, Jet) else like.constant(arithmetic.constant(value, like))


def amax(largest: bool) -> Rule:
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


rule("amax")(amax(True))
rule("amin")(amax(False))


def of_the_value(func: Callable[..., Any]) -> Rule:
    """The rule of what only sees the values at t = 0: the answer is plain."""

    def applied(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map(
            lambda a: a.primal.detach() if isinstance(a, Jet) else a, (args, kwargs)
        )
        return func(*args, **kwargs)

    return applied


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
