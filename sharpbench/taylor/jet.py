"""A tensor that moves along t: its truncated Taylor series, which stands in for it in torch functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "OF_THE_VALUE",
    "Jet",
    "Storage",
    "Tally",
    "aligned",
    "interpreters",
    "memory_of",
    "spread",
]


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


class Storage:
    """What a series and its views share: a write through one of them is seen by all."""

    __slots__ = ("coefficients", "memory", "orders", "version")

    def __init__(
        self, coefficients: Tensor, orders: tuple[int, ...], memory: Tensor | None = None
    ) -> None:
        self.coefficients = coefficients
        self.orders = orders
        self.version = 0
        self.memory = memory
        """A plain tensor's memory, flat, that keeps the values at t = 0."""

    def place(self, coefficients: Tensor, orders: tuple[int, ...], view: View | None) -> None:
        """Write a series where ``view`` looks, or everywhere."""
        self.version += 1
        if view is None:
            self.coefficients, self.orders = coefficients, orders
        else:
            together = tuple(sorted({*self.orders, *orders}))
            shape = self.coefficients.shape[1:]
            base = spread(self.coefficients, self.orders, together).flatten(1)
            every = torch.arange(shape.numel(), device=base.device).view(shape)
            places = view(every).flatten().expand(len(together), -1)
            values = spread(coefficients, orders, together).flatten(1).to(base.dtype)
            self.coefficients = base.scatter(1, places, values).unflatten(1, shape)
            self.orders = together
        if self.memory is not None:
            self.memory.copy_(self.coefficients[0].detach())


View = Callable[[Tensor], Tensor]
"""From a tensor to the part of it that a view shows."""


def spread(coefficients: Tensor, orders: Sequence[int], wanted: Sequence[int]) -> Tensor:
    """The coefficients of the ``wanted`` orders, zeros where a series has none."""
    if tuple(orders) == tuple(wanted):
        return coefficients
    places = {order: place for place, order in enumerate(orders)}
    zero = torch.zeros_like(coefficients[0])
    return torch.stack([coefficients[places[n]] if n in places else zero for n in wanted])


Interpreter = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""What a torch function of series gives, from the function, its arguments and its named ones."""

interpreters: list[Interpreter] = []
"""Those of the propagations under way, the innermost last."""


def _operators(*names: str) -> Iterator[Callable[..., Any]]:
    def operator(name: str) -> Callable[..., Any]:
        member = getattr(Tensor, f"__{name}__")
        gives_way = name in ("add", "sub", "mul", "matmul")

        def operate(*args: Any) -> Any:
            if gives_way and isinstance(args[1], nn.Parameter):
                return NotImplemented  # then Python asks the parameter, whose uses a mode may watch
            return _dispatch(member, args, {})

        return operate

    return (operator(name) for name in names)


class Jet:
    """A tensor that moves along t, by its truncated Taylor series Σ cₙ tⁿ.

    Stands in for a tensor in torch functions and modules. ``coefficients`` (m, *shape) are
    normalised (f⁽ⁿ⁾/n!); ``orders`` says which ones they are, the others are structurally zero.
    Comparisons, shapes and control flow see the value at t = 0. Views share their storage with what
    they look at, so that a write in place is seen as torch's tensors see it.
    """

    def __init__(
        self,
        coefficients: Tensor,
        orders: tuple[int, ...],
        degree: int,
        tally: Tally,
    ) -> None:
        self._coefficients = coefficients
        self._orders = orders
        self.degree = degree
        self.tally = tally
        self._storage = Storage(coefficients, orders)
        self._view: View | None = None
        self._version = 0
        tally.largest = max(tally.largest, coefficients.numel())

    @classmethod
    def of_storage(cls, storage: Storage, view: View | None, degree: int, tally: Tally) -> Jet:
        """The part of ``storage`` that ``view`` shows."""
        result = cls(storage.coefficients, storage.orders, degree, tally)
        result._storage, result._view, result._version = storage, view, -1
        return result

    def like(self, coefficients: Tensor, orders: tuple[int, ...] | None = None) -> Jet:
        """Another series of the same propagation."""
        return Jet(coefficients, self.orders if orders is None else orders, self.degree, self.tally)

    def constant(self, value: Tensor) -> Jet:
        """A series of the same propagation that does not move."""
        return Jet(value.unsqueeze(0), (0,), self.degree, self.tally)

    def viewed(self, coefficients: Tensor, view: View) -> Jet:
        """The part that ``view`` shows, whose coefficients are ``coefficients``.

        It shares its storage if they share theirs: torch.reshape is a view or a copy by the strides.
        """
        result = self.like(coefficients)
        if memory_of(coefficients) == memory_of(self._coefficients):
            result._storage, result._version = self._storage, self._storage.version
            outer = self._view
            result._view = view if outer is None else lambda c: view(outer(c))
        return result

    def write(self, value: Jet | Tensor) -> Jet:
        """Become ``value`` in place, broadcast and converted as torch does; all aliases see it."""
        if not isinstance(value, Jet):
            value = self.constant(value)
        if value.primal.is_complex() and not self.primal.is_complex():
            raise NotImplementedError("a complex series can't be written into a real tensor")
        c = aligned(value.coefficients, self.primal.ndim).to(self.primal.dtype)
        c = c.expand(len(c), *self.primal.shape)
        self._storage.place(c, value.orders, self._view)
        return self

    def _write_part(self, index: Any, value: Any) -> None:
        """``self[index] = value``."""
        if not isinstance(value, (Jet, Tensor)):
            value = torch.as_tensor(value, device=self.primal.device)
        parts = index if isinstance(index, tuple) else (index,)
        parts = tuple(p.primal if isinstance(p, Jet) else p for p in parts)
        outer = self._view

        def view(c: Tensor) -> Tensor:
            return c[parts] if outer is None else outer(c)[parts]

        part = self.like(self.primal[parts].unsqueeze(0), (0,))
        part._storage, part._view, part._version = self._storage, view, self._storage.version
        part.write(value)

    def look_through(self, view: View) -> Jet:
        """Change shape in place, as ``unsqueeze_`` does: the same storage through another view."""
        outer = self._view
        self._view = view if outer is None else lambda c: view(outer(c))
        self._version = -1
        return self

    @property
    def coefficients(self) -> Tensor:
        """(m, *shape), one for each of ``orders``."""
        if self._version != self._storage.version:
            self._refresh()
        return self._coefficients

    @property
    def orders(self) -> tuple[int, ...]:
        """The orders that aren't structurally zero, rising; 0 is always there."""
        if self._version != self._storage.version:
            self._refresh()
        return self._orders

    def _refresh(self) -> None:
        storage = self._storage
        c = storage.coefficients
        with torch._C.DisableTorchFunction():  # plain tensors, of no interest to a mode
            self._coefficients = c if self._view is None else torch.vmap(self._view)(c)
        self._orders, self._version = storage.orders, storage.version

    def full(self) -> Tensor:
        """All coefficients 0 … degree, zeros included."""
        return spread(self.coefficients, self.orders, range(self.degree + 1))

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
        if name in {"T", "mT", "H", "mH"}:
            turned = self.transpose(-2, -1) if self.primal.ndim > 1 else self
            if name == "T" and self.primal.ndim > 2:
                turned = self.permute(*range(self.primal.ndim - 1, -1, -1))
            return turned.conj() if name in {"H", "mH"} else turned
        if name in {"real", "imag", "data"}:
            if name == "real" and not self.primal.is_complex():
                return self
            return _dispatch(_ATTRIBUTES[name], (self,), {})
        member = getattr(Tensor, name, None)
        if callable(member) and name not in OF_THE_VALUE:
            return lambda *args, **kwargs: _dispatch(member, (self, *args), kwargs)
        return getattr(self.primal, name)

    __add__, __radd__, __iadd__ = _operators("add", "radd", "iadd")
    __sub__, __rsub__, __isub__ = _operators("sub", "rsub", "isub")
    __mul__, __rmul__, __imul__ = _operators("mul", "rmul", "imul")
    __truediv__, __rtruediv__, __itruediv__ = _operators("truediv", "rtruediv", "itruediv")
    __floordiv__, __rfloordiv__, __ifloordiv__ = _operators("floordiv", "rfloordiv", "ifloordiv")
    __mod__, __rmod__, __imod__ = _operators("mod", "rmod", "imod")
    __pow__, __rpow__, __ipow__ = _operators("pow", "rpow", "ipow")
    __matmul__, __rmatmul__ = _operators("matmul", "rmatmul")
    __neg__, __pos__, __abs__ = _operators("neg", "pos", "abs")
    __eq__, __ne__ = _operators("eq", "ne")
    __lt__, __le__, __gt__, __ge__ = _operators("lt", "le", "gt", "ge")

    def __getitem__(self, index: Any) -> Any:
        return _dispatch(Tensor.__getitem__, (self, index), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        _dispatch(Tensor.__setitem__, (self, index, value), {})

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

    def __complex__(self) -> complex:
        return complex(self.primal)

    def __format__(self, form: str) -> str:
        return format(self.primal.detach(), form)

    def __deepcopy__(self, memo: dict[int, Any]) -> Jet:
        return self.like(self.coefficients.clone())

    __hash__ = object.__hash__


OF_THE_VALUE = frozenset(
    {
        "size",
        "dim",
        "ndimension",
        "numel",
        "nelement",
        "element_size",
        "stride",
        "storage_offset",
        "is_contiguous",
        "is_complex",
        "is_floating_point",
        "is_conj",
        "is_neg",
        "get_device",
        "item",
        "tolist",
        "numpy",
        "data_ptr",
        "untyped_storage",
    }
)
"""Methods that a series answers by its value at t = 0, with a plain answer."""

_ATTRIBUTES: dict[str, Callable[..., Any]] = {
    "real": torch.real,
    "imag": torch.imag,
    "data": Tensor.detach,
}


def aligned(x: Tensor, rank: int) -> Tensor:
    """Axes of size 1 behind the axis of coefficients, so that the rest broadcasts as tensors do."""
    if x.ndim == rank + 1:
        return x
    return x.reshape(x.shape[0], *[1] * (rank + 1 - x.ndim), *x.shape[1:])


def memory_of(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


def _dispatch(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not interpreters:
        raise RuntimeError("a series is only defined while it is propagated")
    return interpreters[-1](func, args, kwargs)
