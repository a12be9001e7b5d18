"""The length of each sample's parameter gradient, without forming the gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpbench.errors import MetricFailed
from sharpbench.shared import Room

__all__ = [
    "LAYOUTS",
    "Alias",
    "Broadcast",
    "Convolution",
    "Embedding",
    "Layout",
    "Product",
    "SampleGradients",
    "Spread",
    "Term",
    "TooMany",
    "Use",
    "arranged",
    "disjoint",
]

Layout = Literal["first", "folded", "second", "folded_second"]
"""Where the samples stand in a tensor: axis 0 (N, …); axis 0 with T rows a sample, one sample after the
other (N·T, …); axis 1, sequence first (T, N, …); axis 0 with all samples of a step together (T·N, …)."""

LAYOUTS: tuple[Layout, ...] = ("first", "folded", "second", "folded_second")

Spread = Literal["numbers", "axis", "new axis"]
"""How a call that is made once for all samples, which its output is broadcast to, is taken to have rows for
each: as the numbers of its parameter that it looked up, which the next call takes; by spreading its output
along axis 0, which has one row; or along a new axis in front."""

_KEPT_PATCHES = 256 << 20
"""Bytes that the patches of a batch's convolutions may take that are kept between the backward passes."""

_MOST_CODES = 50_000_000
"""Numbers of an embedding's one-hot codes."""

_MOST_GRADIENTS = 1 << 25
"""Numbers of all samples' gradients in one parameter, where they have to be formed."""


@dataclass
class Alias:
    """A wanted parameter, or a tensor that holds some of its numbers as they are, and which ones."""

    tensor: Tensor  # kept alive, so that no other tensor takes its id
    parameter: nn.Parameter
    source: Alias | None = None
    view: Callable[[Tensor], Tensor] | None = None
    once: bool = True
    """Whether no number stands in it twice."""
    permutes: bool = False
    """Whether ``view`` does nothing but permute the axes, whatever their sizes."""
    version: int = field(init=False)

    def __post_init__(self) -> None:
        self.version = self.tensor._version

    @property
    def unchanged(self) -> bool:
        """A copy of a parameter's numbers may be written into later."""
        return self.source is None or self.tensor._version == self.version

    @cached_property
    def places(self) -> Tensor:
        """Where in the flat parameter its numbers stand, of its own shape."""
        if self.source is None:
            every = torch.arange(self.parameter.numel(), device=self.parameter.device)
            return every.view(self.parameter.shape)
        assert self.view is not None
        return self.view(self.source.places)

    def untransposed(self, letters: str) -> tuple[Alias, str]:
        """What its axes were permuted from, and the letters of its axes in that order."""
        if self.source is None or self.view is None or not self.permutes:
            return self, letters
        corners = torch.empty([2] * self.source.tensor.ndim)
        strides = self.view(corners).stride()
        back = [letters[strides.index(stride)] for stride in corners.stride()]
        return self.source.untransposed("".join(back))


@dataclass(frozen=True)
class Use:
    """One tapped call: what it was, the shape of its output, its tap, its parameters' shares, and which of
    the calls it was."""

    name: str
    shape: tuple[int, ...]
    tap: Any
    terms: list[Term]
    number: int

    def layouts(self, samples: int) -> Iterator[Layout]:
        """Those that fit the output's shape, the most common first."""
        for layout in LAYOUTS:
            if self.laid_out(layout, samples) and all(
                t.fits(layout, self.shape) for t in self.terms
            ):
                yield layout

    def laid_out(self, layout: Layout, samples: int) -> bool:
        if layout == "second":
            return len(self.shape) > 1 and self.shape[1] == samples
        if not self.shape or not samples:
            return False
        rows = self.shape[0]
        return rows == samples if layout == "first" else rows > samples and rows % samples == 0

    def ways(self) -> Iterator[Spread]:
        """How it could have rows for each sample, if it is made once for all."""
        if len(self.terms) == 1 and isinstance(self.terms[0], Embedding):
            yield "numbers"
        if self.shape and self.shape[0] == 1:
            yield "axis"
        if not any(isinstance(term, Convolution) for term in self.terms):
            yield "new axis"

    def signature(self) -> tuple[Any, ...]:
        """What must be the same in every batch."""
        return self.name, tuple((type(t), id(t.alias.parameter)) for t in self.terms)


def arranged(tensor: Tensor, layout: Layout, samples: int) -> Tensor:
    """(N, T, …) from a tensor in this layout."""
    if layout == "first":
        return tensor.unsqueeze(1)
    if layout == "second":
        return tensor.transpose(0, 1)
    steps = len(tensor) // samples
    if layout == "folded":
        return tensor.reshape(samples, steps, *tensor.shape[1:])
    return tensor.reshape(steps, samples, *tensor.shape[1:]).transpose(0, 1)


class SampleGradients:
    """‖∂(v·f)ᵢ/∂p‖² of each sample for each parameter p, from the gradients at the taps.

    ``layouts``: of each use's output; None where no gradient comes through.
    """

    def __init__(self, uses: Sequence[Use], layouts: Sequence[Layout | None], samples: int) -> None:
        self.uses, self.layouts, self.samples = uses, layouts, samples
        self._room = Room(_KEPT_PATCHES)
        self._terms: dict[nn.Parameter, list[tuple[int, Term]]] = {}
        for number, (use, layout) in enumerate(zip(uses, layouts, strict=True)):
            for term in use.terms if layout is not None else ():
                self._terms.setdefault(term.alias.parameter, []).append((number, term))
        self._sets = {p: _sets([term.alias for _, term in each]) for p, each in self._terms.items()}

    def squared_lengths(self, deltas: Sequence[Tensor]) -> dict[nn.Parameter, Tensor]:
        """(N,) for each parameter. Raises MetricFailed for a gradient that was not expected."""
        slopes: list[_Slope | None] = []
        for use, layout, delta in zip(self.uses, self.layouts, deltas, strict=True):
            if layout is None and bool((delta != 0).any()):
                raise MetricFailed(f"a {use.name} had no gradient to check its rows by")
            slopes.append(
                None if layout is None else _Slope(delta, layout, self.samples, self._room)
            )
        return {p: self._squared_length(p, slopes) for p in self._terms}

    def _squared_length(self, parameter: nn.Parameter, slopes: Sequence[_Slope | None]) -> Tensor:
        shares: list[tuple[Alias, _Outer | Tensor]] = []
        for number, term in self._terms[parameter]:
            slope = slopes[number]
            assert slope is not None
            term.check_unchanged()
            shares.append((term.alias, term.gradient(slope)))
        sets = self._sets[parameter]
        if sets is None:
            return self._scattered(parameter, shares).square().sum(1)
        lengths = [_squared_length([shares[i][1] for i in members]) for members in sets]
        return lengths[0] if len(lengths) == 1 else torch.stack(lengths).sum(0)

    def _scattered(
        self, parameter: nn.Parameter, shares: Sequence[tuple[Alias, _Outer | Tensor]]
    ) -> Tensor:
        """The gradients themselves, (N, numbers)."""
        if self.samples * parameter.numel() > _MOST_GRADIENTS:
            raise TooMany("a parameter's parts are used apart and its gradients are too many")
        first = shares[0][1]
        like = first.a.tensor if isinstance(first, _Outer) else first
        total = like.new_zeros(self.samples, parameter.numel())
        for alias, share in shares:
            each = share.dense() if isinstance(share, _Outer) else share
            total.index_add_(1, alias.places.flatten(), each)
        return total


def disjoint(aliases: Sequence[Alias]) -> bool:
    """Whether no two of them hold a number of the same parameter."""
    by_parameter: dict[nn.Parameter, list[Alias]] = {}
    for alias in aliases:
        by_parameter.setdefault(alias.parameter, []).append(alias)
    sets = [[[0]] if len(each) == 1 else _sets(each) for each in by_parameter.values()]
    return all(s is not None and all(len(members) == 1 for members in s) for s in sets)


def _sets(aliases: Sequence[Alias]) -> list[list[int]] | None:
    """The numbers of those that hold the same numbers of a parameter, if all others hold others of it."""
    if not all(alias.once for alias in aliases):
        return None
    sets: list[list[int]] = []
    for number, alias in enumerate(aliases):
        for members in sets:
            if _same(aliases[members[0]], alias):
                members.append(number)
                break
        else:
            sets.append([number])
    if len(sets) > 1:
        every = torch.cat([aliases[members[0]].places.flatten() for members in sets])
        if len(every.unique()) < len(every):
            return None
    return sets


def _same(first: Alias, second: Alias) -> bool:
    if first.source is None and second.source is None:
        return True
    return torch.equal(first.places.flatten(), second.places.flatten())


class _Factor:
    """A tensor (N, G, D, L), with what several gradients need of it computed once."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @cached_property
    def squares(self) -> Tensor:
        """Σ over the last two axes of the squares, (N, G)."""
        lengths: Tensor = torch.linalg.vector_norm(self.tensor, dim=(2, 3))
        return lengths.square()

    @cached_property
    def gram(self) -> Tensor:
        """Products of the places, (N, G, L, L)."""
        return self.tensor.mT @ self.tensor


class _Slope:
    """The gradient at a tap, in the layout of its samples; its rows serve all terms of the use."""

    def __init__(self, delta: Tensor, layout: Layout, samples: int, room: Room) -> None:
        self.delta, self.layout, self.samples, self.room = delta, layout, samples, room

    def arranged(self, tensor: Tensor) -> Tensor:
        """(N, T, …) of a tensor in this layout."""
        return arranged(tensor, self.layout, self.samples)

    def rows_of(self, tensor: Tensor) -> Tensor:
        """(N, 1, D, L) of (…, D)."""
        return self.arranged(tensor).flatten(1, -2).mT.unsqueeze(1)

    @cached_property
    def rows(self) -> _Factor:
        return _Factor(self.rows_of(self.delta))


@dataclass(frozen=True)
class _Outer:
    """The gradient Σ_l a_l ⊗ b_l of each sample and group: a (N, G, A, L), b (N, G, B, L).

    ``order``: the sizes that G, A and B stand for, and in which order the parameter has these axes;
    None where it has them so.
    """

    a: _Factor
    b: _Factor
    order: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def dense(self) -> Tensor:
        product: Tensor = self.a.tensor @ self.b.tensor.mT
        if self.order is not None:
            sizes, places = self.order
            product = product.reshape(len(product), *sizes).permute(0, *(1 + p for p in places))
        return product.flatten(1)

    def squared_length(self) -> Tensor:
        a, b = self.a.tensor, self.b.tensor
        height, width, places = a.shape[2], b.shape[2], a.shape[3]
        if places == 1:
            length = (self.a.squares * self.b.squares).sum(1)
        elif places * (height + width) < height * width:
            length = (self.a.gram * self.b.gram).sum((1, 2, 3))
        else:
            length = (a @ b.mT).square().sum((1, 2, 3))
        return length


def _squared_length(shares: Sequence[_Outer | Tensor]) -> Tensor:
    """Of the sum of the shares of the same numbers; there are several where these are used again."""
    outer = [s for s in shares if isinstance(s, _Outer)]
    if len(outer) == len(shares):
        if len(outer) == 1:
            return outer[0].squared_length()
        if len({(o.a.tensor.shape[:3], o.b.tensor.shape[:3], o.order) for o in outer}) == 1:
            a, b = (
                _Factor(torch.cat([factor.tensor for factor in factors], 3))
                for factors in zip(*((o.a, o.b) for o in outer), strict=True)
            )
            return _Outer(a, b).squared_length()
    total = shares[0].dense() if isinstance(shares[0], _Outer) else shares[0]
    for share in shares[1:]:
        total = total + (share.dense() if isinstance(share, _Outer) else share)
    return total.square().sum(1)


# --- the parameters' shares of a call ---------------------------------------------------------------


class TooMany(MetricFailed):
    """Of fewer samples at a time it would be found."""


@dataclass
class Term:
    """One parameter's share of a call's output. ``data``: what it was combined with."""

    alias: Alias
    data: Tensor | None = None
    version: int = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.data, Tensor):  # a series: nothing but the call itself is wanted
            self.data = None
        if self.data is not None:
            self.data = self.data.detach()  # shares the version counter
            self.version = self.data._version

    def check_unchanged(self) -> None:
        """Raises MetricFailed if what was noted at the call was changed in place since."""
        if self.data is not None and self.data._version != self.version:
            raise MetricFailed("the input of a layer is changed in place after the call")

    def spread_over(self, samples: int, way: Spread) -> None:
        """Take the call's output to be spread over the samples, ``axis`` or ``new axis``."""

    def fits(self, layout: Layout, shape: tuple[int, ...]) -> bool:
        return layout != "second" or len(shape) > 2

    def gradient(self, slope: _Slope) -> _Outer | Tensor:
        """Each sample's, (N, …), from that of the call's output. What ``data`` adds is kept."""
        raise NotImplementedError


@dataclass
class Product(Term):
    """y = x·p, summed over the axes that only x and p have: einsum of their axes' letters.

    Axes of x and y alone are rows, those of all three groups. ``data``: x.
    """

    into: str = ""
    own: str = ""
    out: str = ""
    kept: _Factor | None = None

    def __post_init__(self) -> None:
        self.alias, self.own = self.alias.untransposed(self.own)
        self.rows = "".join(c for c in self.out if c not in self.own)
        self.groups = "".join(c for c in self.own if c in self.into and c in self.out)
        self.inner = "".join(c for c in self.own if c not in self.out)
        self.outer = "".join(c for c in self.own if c not in self.into)
        super().__post_init__()

    def spread_over(self, samples: int, way: Spread) -> None:
        assert self.data is not None
        if way == "new axis":
            self.rows, self.into, self.out = (
                f"#{each}" for each in (self.rows, self.into, self.out)
            )
            self.data = self.data.unsqueeze(0)
        if self.fits("first", ()):
            axis = self.into.index(self.out[0])
            sizes = [samples if a == axis else -1 for a in range(self.data.ndim)]
            self.data = self.data.expand(sizes)

    def fits(self, layout: Layout, shape: tuple[int, ...]) -> bool:
        used = 2 if layout == "second" else 1
        return self.out[:used] == self.rows[:used] and len(self.rows) >= used

    def gradient(self, slope: _Slope) -> _Outer:
        assert self.data is not None
        if self.kept is None:
            self.kept = self._factor(slope, self.data, self.into, self.inner)
        plain = self.out == self.rows + self.outer and len(self.outer) == 1
        out = slope.rows if plain else self._factor(slope, slope.delta, self.out, self.outer)
        if self.own == self.groups + self.outer + self.inner:
            return _Outer(out, self.kept)
        now = self.groups + self.inner + self.outer
        if self.own == now:
            return _Outer(self.kept, out)
        sizes = dict(zip(self.own, self.alias.tensor.shape, strict=True))
        order = tuple(sizes[c] for c in now), tuple(now.index(c) for c in self.own)
        return _Outer(self.kept, out, order)

    def _factor(self, slope: _Slope, tensor: Tensor, letters: str, last: str) -> _Factor:
        """(N, G, D, L) with D the axes ``last``, of a tensor whose axes are ``letters``."""
        wanted = self.rows + self.groups + last
        tensor = tensor.permute([letters.index(c) for c in wanted])
        size, rows = tensor.shape, len(self.rows)
        split = rows + len(self.groups)
        groups, width = math.prod(size[rows:split]), math.prod(size[split:])
        each = slope.arranged(tensor.reshape(*size[:rows], groups, width))
        return _Factor(each.flatten(1, -3).permute(0, 2, 3, 1))


@dataclass
class Embedding(Term):
    """y = p[codes]; a row ``padding`` takes no gradient."""

    padding: int | None = None

    def spread_over(self, samples: int, way: Spread) -> None:
        assert self.data is not None
        codes = self.data.unsqueeze(0) if way == "new axis" else self.data
        self.data = codes.expand(samples, *codes.shape[1:])

    def looked_up(self) -> Tensor:
        """The codes. Raises MetricFailed if one of them takes no gradient."""
        assert self.data is not None
        if self.padding is not None and bool((self.data == self.padding).any()):
            raise MetricFailed("an embedding looks up its padding")
        return self.data

    def fits(self, layout: Layout, shape: tuple[int, ...]) -> bool:
        return len(shape) > (2 if layout == "second" else 1)

    def gradient(self, slope: _Slope) -> _Outer:
        assert self.data is not None
        kinds = len(self.alias.tensor)
        if self.data.numel() * kinds > _MOST_CODES:
            raise TooMany("an embedding's one-hot codes are too many")
        hot = F.one_hot(self.data, kinds).to(slope.delta.dtype)
        if self.padding is not None:
            hot[..., self.padding] = 0
        return _Outer(_Factor(slope.rows_of(hot)), slope.rows)


@dataclass
class Convolution(Term):
    """y = x * p; the gradient is the product of y's with the patches of x (and for a transposed
    convolution of x with the patches of y's)."""

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    kept: _Factor | None = None

    def spread_over(self, samples: int, way: Spread) -> None:
        assert self.data is not None
        self.data = self.data.expand(samples, *self.data.shape[1:])

    def fits(self, layout: Layout, shape: tuple[int, ...]) -> bool:
        return layout != "second" and len(shape) == len(self.kernel) + 2

    def gradient(self, slope: _Slope) -> _Outer:
        assert self.data is not None
        whole, cut = (self.data, slope.delta) if self.transposed else (slope.delta, self.data)
        patches = self.kept
        if patches is None:
            patches = _Factor(self._grouped(self._patches(cut, whole.shape[2:]), slope))
            size = patches.tensor.numel() * patches.tensor.element_size()
            if not self.transposed and slope.room.taken(size):
                self.kept = patches
        return _Outer(_Factor(self._grouped(whole.flatten(2), slope)), patches)

    def _grouped(self, t: Tensor, slope: _Slope) -> Tensor:
        """(N, G, C/G, T·L) of (N·T, C, L)."""
        each = slope.arranged(t).transpose(1, 2)  # (N, C, T, L)
        return each.reshape(slope.samples, self.groups, each.shape[1] // self.groups, -1)

    def _patches(self, x: Tensor, places: Sequence[int]) -> Tensor:
        """(N, C·K, L): what the kernel sees at each place."""
        around = [side for pair in reversed(self.padding) for side in pair]
        x = F.pad(x, around) if any(around) else x
        axes = len(self.kernel)
        for axis in range(axes):
            span = self.dilation[axis] * (self.kernel[axis] - 1) + 1
            x = x.unfold(2 + axis, span, self.stride[axis])
            x = x[..., :: self.dilation[axis]].narrow(2 + axis, 0, places[axis])
        order = (0, 1, *range(2 + axes, 2 + 2 * axes), *range(2, 2 + axes))
        return x.permute(order).reshape(x.shape[0], -1, math.prod(places))


@dataclass
class Broadcast(Term):
    """y = p, or p·data, broadcast to the output's shape; ``sign`` −1 where it is subtracted.

    ``shape``: the parameter's, with the axes that it had in the call.
    """

    shape: tuple[int, ...] = ()
    sign: float = 1.0

    def fits(self, layout: Layout, shape: tuple[int, ...]) -> bool:
        used = 2 if layout == "second" else 1
        return len(shape) >= used and all(s == 1 for s in self._padded(len(shape))[:used])

    def _padded(self, axes: int) -> tuple[int, ...]:
        return (1,) * (axes - len(self.shape)) + self.shape

    def gradient(self, slope: _Slope) -> _Outer | Tensor:
        axes = slope.delta.ndim
        alone = self.data is None and slope.layout == "first" and axes == 2
        if alone and self._padded(2)[1] == slope.delta.shape[1]:
            one = slope.delta.new_full((slope.samples, 1, 1, 1), self.sign)
            return _Outer(_Factor(one), slope.rows)  # whose squares the weight's share needs, too
        each = slope.arranged(slope.delta if self.data is None else slope.delta * self.data)
        rest = self._padded(axes)[axes - (each.ndim - 2) :]
        over = [axis for axis, size in enumerate((1, *rest), 1) if size == 1 < each.shape[axis]]
        summed = each.sum(over) if over else each
        return self.sign * summed.reshape(slope.samples, -1)
