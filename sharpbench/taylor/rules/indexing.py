"""Rules of writing into tensors by index, of joining tensors, and of maps linear in several of them."""

# ruff: noqa: A002 - arguments carry torch's names: torch may pass them by keyword

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sharpbench.taylor.jet import Jet
from sharpbench.taylor.rules import arithmetic
from sharpbench.taylor.rules.linear import each_coefficient, linear_in_first, stack, wrapped
from sharpbench.taylor.table import Rule, rule

__all__ = ["jointly_linear"]


def jointly_linear(func: Callable[[list[Any]], Any], parts: Sequence[Any]) -> Any:
    """A map that is linear in all ``parts`` together, each a series, a tensor or a number."""
    like = next(p for p in parts if isinstance(p, Jet))
    orders = tuple(sorted({0, *(n for p in parts if isinstance(p, Jet) for n in p.orders)}))

    def coefficient(part: Any, n: int) -> Any:
        if isinstance(part, Jet):
            if n in part.orders:
                return part.coefficients[part.orders.index(n)]
            return torch.zeros_like(part.primal)
        if n == 0:
            return part
        return torch.zeros_like(part) if isinstance(part, Tensor) else 0

    found = [func([coefficient(p, n) for p in parts]) for n in orders]
    if isinstance(found[0], Tensor):
        return like.like(torch.stack(found), orders)
    return tuple(like.like(torch.stack(each), orders) for each in zip(*found, strict=True))


@rule("index_add")
def _index_add(input: Any, dim: int, index: Tensor, source: Any, *, alpha: float = 1) -> Any:
    return jointly_linear(
        lambda p: torch.index_add(p[0], dim, index, p[1], alpha=alpha), [input, source]
    )


@rule("index_copy")
def _index_copy(input: Any, dim: int, index: Tensor, source: Any) -> Any:
    return jointly_linear(lambda p: torch.index_copy(p[0], dim, index, p[1]), [input, source])


@rule("index_fill")
def _index_fill(input: Any, dim: int, index: Tensor, value: Any) -> Any:
    return jointly_linear(lambda p: torch.index_fill(p[0], dim, index, p[1]), [input, value])


@rule("index_put")
def _index_put(input: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    return jointly_linear(
        lambda p: torch.index_put(p[0], tuple(indices), p[1], accumulate), [input, values]
    )


@rule("scatter")
def _scatter(
    input: Any,
    dim: int,
    index: Tensor,
    src: Any = None,
    value: Any = None,
    *,
    reduce: str | None = None,
) -> Any:
    if reduce is not None:
        return NotImplemented
    src = value if src is None else src
    return jointly_linear(lambda p: torch.scatter(p[0], dim, index, p[1]), [input, src])


@rule("scatter_add")
def _scatter_add(input: Any, dim: int, index: Tensor, src: Any) -> Any:
    return jointly_linear(lambda p: torch.scatter_add(p[0], dim, index, p[1]), [input, src])


def _reduces_linearly(name: str) -> Rule:
    def applied(
        input: Any,
        dim: int,
        index: Tensor,
        src: Any,
        reduce: str,
        *,
        include_self: bool = True,
    ) -> Any:
        if reduce not in {"sum", "mean"}:
            return NotImplemented
        func = getattr(torch, name)
        return jointly_linear(
            lambda p: func(p[0], dim, index, p[1], reduce, include_self=include_self), [input, src]
        )

    return applied


rule("scatter_reduce")(_reduces_linearly("scatter_reduce"))
rule("index_reduce")(_reduces_linearly("index_reduce"))


@rule("masked_scatter")
def _masked_scatter(input: Any, mask: Tensor, source: Any) -> Any:
    return jointly_linear(lambda p: torch.masked_scatter(p[0], mask, p[1]), [input, source])


@rule("masked_select")
def _masked_select(input: Jet, mask: Tensor) -> Any:
    shape = torch.broadcast_shapes(input.shape, mask.shape)
    return input.expand(shape)[mask.expand(shape)]


@rule("take")
def _take(input: Jet, index: Tensor) -> Any:
    return input.flatten()[index]


@rule("slice_scatter")
def _slice_scatter(
    input: Any,
    src: Any,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Any:
    return jointly_linear(
        lambda p: torch.slice_scatter(p[0], p[1], dim, start, end, step), [input, src]
    )


@rule("select_scatter")
def _select_scatter(input: Any, src: Any, dim: int, index: int) -> Any:
    return jointly_linear(lambda p: torch.select_scatter(p[0], p[1], dim, index), [input, src])


@rule("diagonal_scatter")
def _diagonal_scatter(input: Any, src: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    return jointly_linear(
        lambda p: torch.diagonal_scatter(p[0], p[1], offset, dim1, dim2), [input, src]
    )


@rule("copy")
def _copy(input: Any, src: Any, non_blocking: bool = False) -> Any:
    return src


@rule("fill")
def _fill(input: Any, value: Any) -> Any:
    return value if isinstance(value, Jet) else input.constant(torch.full_like(input.primal, value))


@rule("zero")
def _zero(input: Jet) -> Any:
    return input.constant(torch.zeros_like(input.primal))


@rule("fill_diagonal")
def _fill_diagonal(input: Jet, fill_value: float, wrap: bool = False) -> Any:
    mask = torch.zeros_like(input.primal, dtype=torch.bool).fill_diagonal_(True, wrap)
    return arithmetic.where(mask, fill_value, input)


def _list_of_tensors(func: Callable[..., Any]) -> Rule:
    """Of a function that puts tensors together, given as a list or one by one."""

    def applied(*tensors: Any, **kwargs: Any) -> Any:
        given = tensors[0] if isinstance(tensors[0], (list, tuple)) else tensors
        if not all(isinstance(t, (Jet, Tensor)) for t in given):
            return NotImplemented
        return jointly_linear(lambda p: func(p, **kwargs), given)

    return applied


rule("block_diag")(_list_of_tensors(lambda parts: torch.block_diag(*parts)))


def _spread_tensors(func: Callable[..., Any]) -> Rule:
    """Of a function of several tensors each of which has a result of its own."""

    def applied(*tensors: Any, **kwargs: Any) -> Any:
        given = tensors[0] if isinstance(tensors[0], (list, tuple)) else tensors
        like = next(t for t in given if isinstance(t, Jet))
        plain = [t.primal if isinstance(t, Jet) else t for t in given]
        results = []
        for place, part in enumerate(given):
            if not isinstance(part, Jet):
                results.append(func(plain, **kwargs)[place])
                continue

            def each(c: Tensor, place: int = place) -> Tensor:
                result: Tensor = func([*plain[:place], c, *plain[place + 1 :]], **kwargs)[place]
                return result

            results.append(
                like.like(torch.stack([each(c) for c in part.coefficients]), part.orders)
            )
        return tuple(results)

    return applied


meshgrid = rule("meshgrid")(_spread_tensors(lambda parts, **kw: torch.meshgrid(*parts, **kw)))
rule("broadcast_tensors")(_spread_tensors(lambda parts: torch.broadcast_tensors(*parts)))


@rule("requires_grad", "retain_grad", "cpu", "pin_memory", "resolve_conj", "resolve_neg")
def _same(input: Any, *args: Any, **kwargs: Any) -> Any:
    """What changes how a tensor is differentiated or stored, not what it is."""
    return input


@rule("cartesian_prod")
def _cartesian_product(*tensors: Any) -> Any:
    given = tensors[0] if isinstance(tensors[0], (list, tuple)) else tensors
    grids = meshgrid(*given, indexing="ij")
    return stack([g.flatten() for g in grids], 1)


def _at_least(func: Callable[[Tensor], Tensor]) -> Rule:
    def applied(*tensors: Any) -> Any:
        given = tensors[0] if isinstance(tensors[0], (list, tuple)) else tensors
        found = [
            wrapped(torch.stack([func(c) for c in t.coefficients]), t, func)
            if isinstance(t, Jet)
            else func(t)
            for t in given
        ]
        return found[0] if len(tensors) == 1 and given is tensors else tuple(found)

    return applied


for _name in ("hstack", "vstack", "row_stack", "dstack", "column_stack"):
    rule(_name)(_list_of_tensors(getattr(torch, _name)))
for _n in (1, 2, 3):
    rule(f"atleast_{_n}d")(_at_least(getattr(torch, f"atleast_{_n}d")))
rule("grid_sampler")(linear_in_first(torch.grid_sampler))
rule("affine_grid_generator")(each_coefficient(torch.affine_grid_generator))


@rule("register_hook", "register_post_accumulate_grad_hook")
def _hook(input: Jet, hook: Any) -> Any:
    raise NotImplementedError("a hook on the gradient of an intermediate tensor is not followed")
