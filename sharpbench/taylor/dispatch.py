"""Which rule answers a torch function that meets a Taylor series, and what a write in place does."""

from __future__ import annotations

import inspect
import math
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from sharpbench.taylor.jet import OF_THE_VALUE, Jet, Storage, Tally, interpreters, memory_of
from sharpbench.taylor.table import RULES

__all__ = ["Propagation", "python_body"]


class Propagation(TorchFunctionMode):
    """One propagation of series through a function.

    A plain tensor can't become a series, so where one is written into a plain tensor (a buffer that is
    filled, an accumulator) its memory is noted, and every later use of that memory reads the series.
    """

    def __init__(self, degree: int, tally: Tally) -> None:
        self.degree = degree
        self.tally = tally
        self.written: dict[int, tuple[Storage, Any]] = {}
        self.in_rule = False

    def __enter__(self) -> Self:
        interpreters.append(self.answer)
        _introduce_to_einops()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        interpreters.pop()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if not self.written or self.in_rule:
            return func(*args, **(kwargs or {}))
        name = func.__name__
        if name == "__get__":
            attribute = getattr(getattr(func, "__self__", None), "__name__", "")
            if attribute in _MOVING_ATTRIBUTES and (series := self.series_of(args[0])) is not None:
                return getattr(series, attribute)
            return func(*args, **(kwargs or {}))
        if name.strip("_") in OF_THE_VALUE or name == "__len__":
            return func(*args, **(kwargs or {}))
        replaced = self.replaced((args, kwargs or {}))
        if replaced is not None:
            return self.answer(func, *replaced, plain=args[0] if args else None)
        return func(*args, **(kwargs or {}))

    def answer(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        plain: Any = None,
    ) -> Any:
        """``func`` of arguments among which there are series.

        ``plain`` is the first argument as the caller has it, where it was replaced by its series.
        """
        if plain is None:
            plain = args[0] if args else None
            if self.written and not self.in_rule:
                replaced = self.replaced((args, kwargs))
                if replaced is not None:
                    args, kwargs = replaced
        outside = self.in_rule
        self.in_rule = True
        try:
            return _answer(self, func, args, kwargs, plain)
        finally:
            self.in_rule = outside

    def series_of(self, tensor: Any) -> Jet | None:
        """The series in the memory of a plain tensor; None if none was written there."""
        if not isinstance(tensor, Tensor) or torch._C._functorch.is_functorch_wrapped_tensor(
            tensor
        ):
            return None
        if memory_of(tensor) not in self.written:
            return None
        storage, _ = self.written[memory_of(tensor)]
        if storage.coefficients.dtype != tensor.dtype:
            raise NotImplementedError("a series can't be read through a view of another dtype")
        return Jet.of_storage(storage, _places(tensor), self.degree, self.tally)

    def replaced(self, value: Any) -> Any | None:
        """``value`` with the series in place of tensors that hold one; None if there are none."""
        leaves, tree = tree_flatten(value)
        found = False
        for i, leaf in enumerate(leaves):
            if (series := self.series_of(leaf)) is not None:
                leaves[i], found = series, True
        return tree_unflatten(leaves, tree) if found else None

    def entered(self, tensor: Tensor) -> Jet:
        """The series of a plain tensor that is about to be written into."""
        if (known := self.series_of(tensor)) is not None:
            return known
        base = tensor if tensor._base is None else tensor._base
        if base.dtype != tensor.dtype:
            raise NotImplementedError("a series can't be written into a view of another dtype")
        length = tensor.untyped_storage().nbytes() // tensor.element_size()
        memory = torch.as_strided(tensor.detach(), (length,), (1,), 0)
        content = memory.clone()
        if base.requires_grad:
            places = _places(base)(torch.arange(length, device=tensor.device))
            content = content.scatter(0, places.flatten(), base.flatten())
        storage = Storage(content.unsqueeze(0), (0,), memory)
        self.written[memory_of(tensor)] = storage, tensor.untyped_storage()
        return Jet.of_storage(storage, _places(tensor), self.degree, self.tally)


def _introduce_to_einops() -> None:
    """einops asks for a tensor's type; a series does what it needs of torch's."""
    backends: Any = sys.modules.get("einops._backends")
    if backends is not None and Jet not in backends._type2backend:
        backends._type2backend[Jet] = backends.get_backend(torch.zeros(()))


_IN_PLACE = {
    "iadd": "add",
    "isub": "sub",
    "imul": "mul",
    "idiv": "div",
    "itruediv": "div",
    "ifloordiv": "floor_divide",
    "imod": "remainder",
    "ipow": "pow",
}
"""Operators that write into their first operand, and what they write."""

_SHAPES_IN_PLACE = frozenset(
    {"unsqueeze", "squeeze", "t", "transpose", "swapaxes", "swapdims", "resize"}
)
"""Operations in place that change how a tensor is looked at, not what is in it."""

_MOVING_ATTRIBUTES = frozenset({"T", "mT", "H", "mH", "real", "imag", "data"})


def _places(tensor: Tensor) -> Callable[[Tensor], Tensor]:
    """From flat memory to what the tensor shows of it."""
    size, stride, offset = tensor.size(), tensor.stride(), tensor.storage_offset()
    every = torch.arange(tensor.untyped_storage().nbytes() // tensor.element_size())
    shown = every.as_strided(size, stride, offset).to(tensor.device)
    return lambda flat: flat[shown]


def _answer(
    active: Propagation,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    plain: Any,
) -> Any:
    written = getattr(func, "__name__", str(func))
    name = written.strip("_")
    if name == "setitem":
        _target(active, args[0])._write_part(args[1], args[2])
        return None
    in_place = kwargs.get("inplace") is True or (
        written.endswith("_") and not written.endswith("__")
    )
    if written.startswith("__") and name in _IN_PLACE:
        name, in_place = _IN_PLACE[name], True
    if in_place and name in _SHAPES_IN_PLACE and isinstance(args[0], Jet):
        if plain is not args[0]:
            raise NotImplementedError(f"no Taylor rule for {written} of a tensor written into")
        view = getattr(Tensor, name)
        return args[0].look_through(lambda c: view(c, *args[1:], **kwargs))
    out = kwargs.get("out")
    if out is not None:
        kwargs = {key: value for key, value in kwargs.items() if key != "out"}
    result: Any = NotImplemented
    rule = RULES.get(name)
    if rule is not None:
        try:
            result = rule(*args, **kwargs)
        except TypeError:
            # Arguments that the rule doesn't know are left to the fallback.
            with suppress(TypeError):
                inspect.signature(rule).bind(*args, **kwargs)
                raise
    if result is NotImplemented and (body := python_body(func)) is not None:
        active.in_rule = False
        result = body(*args, **kwargs)
        in_place = in_place and result is not args[0] and result is not plain
        if active.written and isinstance(result, Tensor):
            result = active.series_of(result) or result
    if result is NotImplemented:
        if in_place:
            raise NotImplementedError(f"no Taylor rule for the in-place operation {written}")
        try:
            result = _by_nested_forward_mode(func, args, kwargs)
        except (RuntimeError, RecursionError) as error:
            said = str(error).strip().partition("\n")[0]
            if isinstance(error, NotImplementedError) and written in said:
                raise
            raise NotImplementedError(
                f"no Taylor rule for {written}, and torch can't differentiate it along a line: {said}"
            ) from error
    if out is not None:
        if isinstance(out, (tuple, list)):
            raise NotImplementedError(f"no Taylor rule for {written} with several tensors out")
        _target(active, out).write(result)
        return out
    if in_place:
        _target(active, args[0]).write(result)
        return plain
    return result


def _target(active: Propagation, tensor: Any) -> Jet:
    """What an operation in place writes into."""
    return tensor if isinstance(tensor, Jet) else active.entered(tensor)


@cache
def python_body(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """torch functions that are written in Python run as they are, on series."""
    if not isinstance(func, types.FunctionType) or func.__module__ not in _IN_PYTHON:
        return None
    looked_up = dict(func.__globals__)
    for test in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"):
        looked_up[test] = lambda *_: False
    body = types.FunctionType(
        func.__code__, looked_up, func.__name__, func.__defaults__, func.__closure__
    )
    body.__kwdefaults__ = func.__kwdefaults__
    return body


_IN_PYTHON = frozenset({"torch.nn.functional", "torch.functional", "torch._tensor"})


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
            "slow at high orders",
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

    t = torch.zeros((), dtype=first.primal.dtype, device=first.primal.device)
    one = torch.ones_like(t)
    series: list[list[Tensor]] = [[value[i]] for i in moving]
    current: Callable[[Tensor], tuple[Tensor, ...]] = along
    for n in range(1, first.degree + 1):
        current = _differentiated(current, one)
        for collected, derivative in zip(series, current(t), strict=True):
            collected.append(derivative / math.factorial(n))
    if not torch.is_grad_enabled():  # while training the first step was checked as a whole
        _compare_with_reverse_mode(name, along, t, series)
    for place, collected in zip(moving, series, strict=True):
        value[place] = first.like(torch.stack(collected), tuple(range(first.degree + 1)))
    return tree_unflatten(value, structure)


def _differentiated(
    function: Callable[[Tensor], tuple[Tensor, ...]], one: Tensor
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    return lambda t: torch.func.jvp(function, (t,), (one,))[1]


_COMPARED = 4
"""Orders of a fallback that are compared."""


def _compare_with_reverse_mode(
    name: str,
    along: Callable[[Tensor], tuple[Tensor, ...]],
    t: Tensor,
    series: Sequence[Sequence[Tensor]],
) -> None:
    """Raises NotImplementedError where torch's forward and reverse mode say different things.

    Each is wrong for some functions at some points, so neither is believed alone. All results are
    summed with signs by turns.
    """

    def total(values: Sequence[Tensor]) -> Tensor:
        signed = [
            v.flatten() * (1 - 2 * (torch.arange(v.numel(), device=v.device) % 2)) for v in values
        ]
        return torch.stack([v.sum() for v in signed]).sum()

    try:
        with torch.enable_grad():
            moving = t.detach().clone().requires_grad_()
            current = total(along(moving))
            for n in range(1, min(len(series[0]), _COMPARED + 1)):
                if current.requires_grad:
                    (current,) = torch.autograd.grad(
                        current, moving, create_graph=True, materialize_grads=True
                    )
                else:
                    current = torch.zeros_like(current)
                parts = [collected[n] * math.factorial(n) for collected in series]
                size = sum(float(p.abs().sum()) for p in parts)
                deviation = abs(float(total(parts) - current))
                if deviation > torch.finfo(t.dtype).eps ** 0.4 * size:
                    raise NotImplementedError(
                        f"torch's forward and reverse mode disagree on the derivative of order {n} of "
                        f"{name}, for which there is no Taylor rule"
                    )
    except NotImplementedError:
        raise
    except RuntimeError:  # no reverse mode: the check of the whole network has to do
        return
