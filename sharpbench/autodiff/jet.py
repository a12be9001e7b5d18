"""Taylor-mode automatic differentiation: all directional derivatives of a network in one pass."""

from __future__ import annotations

import inspect
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from sharpbench.autodiff.context import repeatedly_differentiable
from sharpbench.measurement import Work

__all__ = [
    "Jet",
    "Tally",
    "derivatives",
    "is_piecewise_linear",
    "jet",
    "log_factorials",
    "signed_sums",
    "taylor",
]

Function = Callable[[Any], Any]


def jet(
    function: Function,
    points: Tensor,
    directions: Tensor,
    order: int,
    *,
    work: Work | None = None,
    memory_budget: int | None = None,
) -> list[Tensor]:
    """[f(x), Df(x)[v], D²f(x)[v, v], …] up to ``order``, in one pass.

    The derivatives are plain ones, not divided by n!; `taylor` gives the normalised coefficients,
    which don't overflow. Differentiable once with respect to the parameters of ``function``.

    Parameters
    ----------
    function: a module or any function of tensors built from torch operations. An operation without a
        rule is differentiated by nested forward mode, with one warning that names it.
    points: (N, …) floating point.
    directions: the shape of ``points``, or (D, N, …) for D directions a point.
    order: highest order, at least 0.
    work: the passes made are added to it, in forward passes over samples.
    memory_budget: bytes; the points are then taken in chunks that should fit, which needs a function
        that treats the first axis sample by sample. None: all at once.

    Returns
    -------
    order + 1 tensors of the shape of ``function(points)``, with D in front if ``directions`` has it.

    Raises
    ------
    ValueError: shapes that don't fit, a negative order, or integer points.
    """
    coefficients = taylor(
        function, points, directions, order, work=work, memory_budget=memory_budget
    )
    return list(derivatives(coefficients))


def derivatives(coefficients: Tensor) -> Tensor:
    """Plain derivatives from normalised coefficients (order + 1, …): times n!."""
    factors = [math.factorial(n) for n in range(len(coefficients))]
    scale = torch.tensor([float(min(f, 10**308)) for f in factors], dtype=torch.float64)
    scale = scale.to(coefficients.device, coefficients.dtype)
    return coefficients * scale.view(-1, *[1] * (coefficients.ndim - 1))


def signed_sums(directions: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(±1, u₁ ± u₂ ± … ± uₙ) for the 2ⁿ⁻¹ choices of signs, of ``directions`` (n, …).

    By polarisation Dⁿf[u₁, …, uₙ] = 2¹⁻ⁿ Σ ± cₙ(u₁ ± … ± uₙ), cₙ the nth normalised coefficient.
    """
    for signs in itertools.product((1, -1), repeat=len(directions) - 1):
        total = directions[0].clone()
        for sign, other in zip(signs, directions[1:], strict=True):
            total += sign * other
        yield math.prod(signs), total


def log_factorials(degree: int) -> Tensor:
    """log n! for n = 0 … degree, float64."""
    return torch.lgamma(torch.arange(1, degree + 2, dtype=torch.float64))


def taylor(
    function: Function,
    points: Tensor,
    directions: Tensor,
    order: int,
    *,
    work: Work | None = None,
    memory_budget: int | None = None,
) -> Tensor:
    """The normalised coefficients Dⁿf(x)[v, …, v]/n!, stacked (order + 1, …); see `jet`."""
    if order < 0:
        raise ValueError(f"order must not be negative, got {order}")
    if not points.is_floating_point():
        raise ValueError(f"points must be floating point, got {points.dtype}")
    if directions.shape == points.shape:
        shape = None
    elif directions.shape[1:] == points.shape:
        shape = directions.shape[:2]
        points = points.expand_as(directions).flatten(0, 1)
        directions = directions.flatten(0, 1)
    else:
        raise ValueError(
            f"directions need the shape of the points {tuple(points.shape)}, or that with a leading "
            f"axis; got {tuple(directions.shape)}"
        )
    directions = directions.to(points)
    tally = Tally()
    if memory_budget is None:
        result = _propagate(function, points, directions, order, tally)
    else:
        result = _in_chunks(function, points, directions, order, tally, memory_budget)
    if work is not None:
        work.forward += tally.passes(order) * len(points)
    return result if shape is None else result.unflatten(1, shape)


def is_piecewise_linear(function: Function, points: Tensor) -> bool:
    """Whether every derivative above the first is structurally zero, as in ReLU networks."""
    tally = Tally()
    start = Jet(torch.stack([points, torch.ones_like(points)]), (0, 1), 2, tally)
    with repeatedly_differentiable(), torch.no_grad():
        result = function(start)
    return not isinstance(result, Jet) or result.orders[-1] <= 1


def _in_chunks(
    function: Function, points: Tensor, directions: Tensor, order: int, tally: Tally, budget: int
) -> Tensor:
    """The first sample tells how large the largest intermediate series is."""
    pieces = [_propagate(function, points[:1], directions[:1], order, tally)]
    per_sample = _LIVE_SERIES * tally.largest * points.element_size()
    chunk = max(int(budget / max(per_sample, 1)), 1)
    rest = zip(points[1:].split(chunk), directions[1:].split(chunk), strict=True)
    pieces += [_propagate(function, x, v, order, tally) for x, v in rest if len(x)]
    return torch.cat(pieces, dim=1)


_LIVE_SERIES = 4
"""Series of the largest size alive at once: the input, y, w and one scratch."""


def _propagate(function: Function, x: Tensor, v: Tensor, order: int, tally: Tally) -> Tensor:
    start = Jet(torch.stack([x, v]) if order else x.unsqueeze(0), (0, 1)[: order + 1], order, tally)
    with repeatedly_differentiable():
        result = function(start)
    if isinstance(result, Tensor):  # it doesn't depend on the input
        result = Jet(result.unsqueeze(0), (0,), order, tally)
    if not isinstance(result, Jet):
        raise TypeError(f"the function must return one tensor, it returned {type(result).__name__}")
    return result.full()


@dataclass
class Tally:
    """What a propagation did: products counted by its linear maps, and the largest series."""

    products: float = 0.0
    """Scalar multiplications in linear and bilinear maps, all coefficients together."""
    single: float = 0.0
    """Those of one plain forward pass."""
    largest: int = 0
    """Elements of the largest series."""

    def count(self, once: float, coefficients: int) -> None:
        self.single += once
        self.products += once * coefficients

    def passes(self, order: int) -> float:
        """Cost in plain forward passes; a function without linear maps counts its coefficients."""
        return self.products / self.single if self.single else order + 1.0


class Jet:
    """A tensor that moves along t, by its truncated Taylor series Σ cₙ tⁿ.

    Stands in for a tensor in torch functions and modules. ``coefficients`` (m, *shape) are
    normalised (f⁽ⁿ⁾/n!); ``orders`` says which ones they are, the others are structurally zero.
    Comparisons, shapes and control flow see the value at t = 0.
    """

    def __init__(
        self,
        coefficients: Tensor,
        orders: tuple[int, ...],
        degree: int,
        tally: Tally,
        *,
        view: bool = False,
    ) -> None:
        self.coefficients = coefficients
        self.orders = orders
        self.degree = degree
        self.tally = tally
        self.is_view = view
        tally.largest = max(tally.largest, coefficients.numel())

    def like(self, coefficients: Tensor, orders: tuple[int, ...] | None = None) -> Jet:
        """Another series of the same propagation."""
        return Jet(coefficients, self.orders if orders is None else orders, self.degree, self.tally)

    def full(self) -> Tensor:
        """All coefficients 0 … degree, zeros included."""
        if len(self.orders) == self.degree + 1:
            return self.coefficients
        places = {order: place for place, order in enumerate(self.orders)}
        zero = torch.zeros_like(self.coefficients[0])
        return torch.stack(
            [self.coefficients[places[n]] if n in places else zero for n in range(self.degree + 1)]
        )

    @property
    def primal(self) -> Tensor:
        """The value at t = 0."""
        return self.coefficients[0]

    # --- as a tensor ----------------------------------------------------------------------------

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return _dispatch(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in {"T", "mT"}:
            return self.transpose(-2, -1)
        member = getattr(Tensor, name, None)
        if callable(member) and name not in _OF_THE_VALUE:
            return lambda *args, **kwargs: _dispatch(member, (self, *args), kwargs)
        return getattr(self.primal, name)

    def __getitem__(self, index: Any) -> Any:
        return _dispatch(Tensor.__getitem__, (self, index), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        raise NotImplementedError(
            "a network that writes into a tensor by index can't be propagated in Taylor mode; "
            "torch.where or torch.cat say the same without writing"
        )

    def __iter__(self) -> Iterator[Jet]:
        return iter(self.unbind(0))

    def __len__(self) -> int:
        return len(self.primal)

    def __bool__(self) -> bool:
        return bool(self.primal)

    def __float__(self) -> float:
        return float(self.primal)

    def __int__(self) -> int:
        return int(self.primal)

    __hash__ = object.__hash__


_OF_THE_VALUE = frozenset({"size", "dim", "numel", "stride", "is_contiguous", "get_device", "item"})


def _operator(name: str) -> Callable[..., Any]:
    member = getattr(Tensor, name)
    return lambda *args: _dispatch(member, args, {})


for _name in [
    "add",
    "radd",
    "sub",
    "rsub",
    "mul",
    "rmul",
    "truediv",
    "rtruediv",
    "pow",
    "rpow",
    "neg",
    "matmul",
    "rmatmul",
    "abs",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
]:
    setattr(Jet, f"__{_name}__", _operator(f"__{_name}__"))


def _dispatch(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    from sharpbench.autodiff.rules import ALIASES, RULES

    name = getattr(func, "__name__", str(func)).strip("_")
    name = ALIASES.get(name, name)
    written = getattr(func, "__name__", "")
    in_place = kwargs.get("inplace") is True or (
        written.endswith("_") and not written.endswith("__")
    )
    rule = RULES.get(name)
    result = NotImplemented
    if rule is not None:
        try:
            result = rule(*args, **kwargs)
        except TypeError:
            # Arguments that the rule doesn't know are left to the fallback.
            with suppress(TypeError):
                inspect.signature(rule).bind(*args, **kwargs)
                raise
    if result is NotImplemented:
        if in_place and not name.endswith("dropout"):
            raise NotImplementedError(f"no Taylor rule for the in-place operation {written}")
        result = _by_nested_forward_mode(func, args, kwargs)
    if in_place and isinstance(args[0], Jet):
        target = args[0]
        if target.is_view:
            raise NotImplementedError(
                f"{written} changes a view in place; Taylor mode can't follow that"
            )
        target.coefficients, target.orders = result.coefficients, result.orders
        return target
    return result


_warned: set[str] = set()


def _by_nested_forward_mode(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The series of an operation without a rule, by differentiating it along t again and again."""
    name = getattr(func, "__name__", str(func))
    if name not in _warned:
        _warned.add(name)
        warnings.warn(
            f"no Taylor rule for {name}: it is differentiated by nested forward mode, which is "
            "exact but slow at high orders",
            stacklevel=4,
        )
    leaves, tree = tree_flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Jet)]
    first: Jet = leaves[places[0]]

    def call(values: Sequence[Tensor]) -> Any:
        filled = list(leaves)
        for place, value in zip(places, values, strict=True):
            filled[place] = value
        positional, named = tree_unflatten(filled, tree)
        return func(*positional, **named)

    value, structure = tree_flatten(call([leaves[i].primal for i in places]))
    moving = [i for i, v in enumerate(value) if isinstance(v, Tensor) and v.is_floating_point()]

    def along(t: Tensor) -> tuple[Tensor, ...]:
        values = [
            sum(
                c * t**n if n else c
                for n, c in zip(leaves[i].orders, leaves[i].coefficients, strict=True)
            )
            for i in places
        ]
        outputs, _ = tree_flatten(call(values))
        return tuple(outputs[i] for i in moving)

    t = torch.zeros((), dtype=first.dtype, device=first.device)
    one = torch.ones_like(t)
    series: list[list[Tensor]] = [[value[i]] for i in moving]
    current: Callable[[Tensor], tuple[Tensor, ...]] = along
    for n in range(1, first.degree + 1):
        current = _differentiated(current, one)
        for collected, derivative in zip(series, current(t), strict=True):
            collected.append(derivative / math.factorial(n))
    for place, collected in zip(moving, series, strict=True):
        value[place] = first.like(torch.stack(collected), tuple(range(first.degree + 1)))
    return tree_unflatten(value, structure)


def _differentiated(
    function: Callable[[Tensor], tuple[Tensor, ...]], one: Tensor
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    return lambda t: torch.func.jvp(function, (t,), (one,))[1]
