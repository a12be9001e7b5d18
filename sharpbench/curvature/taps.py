"""The length of each sample's parameter gradient, without forming the gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sharpbench.errors import MetricFailed

__all__ = ["LAYOUTS", "Layout", "Taps", "Use", "arranged", "squared_lengths"]

Layout = Literal["first", "folded", "second", "folded_second"]
"""Where the samples stand in a tensor: axis 0 (N, …); axis 0 with T rows a sample, one sample after the
other (N·T, …); axis 1, sequence first (T, N, …); axis 0 with all samples of a step together (T·N, …)."""

LAYOUTS: tuple[Layout, ...] = ("first", "folded", "second", "folded_second")

_KEPT_PATCHES = 1 << 23
"""A convolution's patches of so many numbers are kept between the backward passes."""

_MOST_CODES = 50_000_000
"""Numbers of an embedding's one-hot codes."""


class Taps(TorchFunctionMode):
    """Taps every call in which one of ``parameters`` takes part linearly, while a network runs.

    Such a call is y = A(x)·p + …: ``linear``, a convolution, a normalisation's scale and shift, an
    embedding, a sum or a product with a parameter. It is made with the parameter detached, and ``tap``
    gives what stands for y from there on: y plus something that can be differentiated in, on a tensor
    of its own, so that what the network does in place to it later is no concern. No rule looks at
    modules: what a subclass, a hook or a parametrisation does to a weight is another operation, which
    stays in the graph. So `unaccounted` tells of every use that was not tapped.

    What runs under ``torch.no_grad`` is left alone: parameters take no gradient there.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], tap: Callable[[Any], tuple[Any, Any]]
    ) -> None:
        super().__init__()
        self.parameters, self.tap = list(parameters), tap
        self.uses: list[Use] = []
        self._known = {id(p): _Alias(p, p, False) for p in parameters}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not torch.is_grad_enabled() or not self._concerned(args, kwargs):
            return func(*args, **kwargs)
        rule = _rule(func)
        if rule is not None:
            call = _Call(self)
            try:
                output = rule(call, *args, **kwargs)
            except TypeError:  # arguments that the rule does not know
                output = NotImplemented
            if output is not NotImplemented and call.terms:
                shape = tuple(output.shape)
                output, handle = self.tap(output)
                self.uses.append(Use(_name(func), shape, handle, call.terms))
                return output
        result = func(*args, **kwargs)
        self._note_view(func, args, kwargs, result)
        return result

    def unaccounted(self, outputs: Tensor) -> bool:
        """Whether ``outputs`` depend on a parameter by another way than the tapped calls.

        A gradient of exactly zero for random cotangents counts as none.
        """
        if not outputs.requires_grad or not self.parameters:
            return False
        cotangent = torch.linspace(0.7, 1.9, outputs.numel(), dtype=outputs.dtype)
        gradients = torch.autograd.grad(
            outputs,
            self.parameters,
            cotangent.to(outputs.device).view(outputs.shape),
            retain_graph=True,
            allow_unused=True,
        )
        return any(g is not None and bool((g != 0).any()) for g in gradients)

    def _concerned(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return any(id(a) in self._known for a in (*args, *kwargs.values()))

    def _note_view(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Remember a parameter that was only reshaped, and a matrix that was transposed."""
        source = self._known.get(id(args[0])) if args else None
        if source is None or not isinstance(result, Tensor) or result.requires_grad is False:
            return
        if result.numel() != source.tensor.numel():
            return
        name = _name(func)
        if name in _RESHAPES and not (name == "getitem" and not _takes_all(args[1])):
            if source.transposed:
                return  # its order of numbers is that of the transposed matrix: one more is too many
            self._known[id(result)] = _Alias(result, source.parameter, False)
        elif (
            name in _TRANSPOSES
            and source.tensor.ndim == 2
            and not kwargs
            and (len(args) == 1 or {a % 2 for a in args[1:]} == {0, 1})
        ):
            self._known[id(result)] = _Alias(result, source.parameter, not source.transposed)


@dataclass(frozen=True)
class _Alias:
    tensor: Tensor  # kept alive, so that no other tensor takes its id
    parameter: nn.Parameter
    transposed: bool


@dataclass(frozen=True)
class Use:
    """One tapped call: what it was, the shape of its output, its tap, and its parameters' shares."""

    name: str
    shape: tuple[int, ...]
    tap: Any
    terms: list[_Term]

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

    def signature(self) -> tuple[Any, ...]:
        """What must be the same in every batch."""
        return self.name, tuple((type(t), id(t.parameter)) for t in self.terms)


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


def squared_lengths(
    uses: Iterable[tuple[Use, Layout, Tensor]], samples: int
) -> dict[nn.Parameter, Tensor]:
    """‖∂(v·f)ᵢ/∂p‖² of each sample, (N,), for each parameter, from the gradients at the taps."""
    shares: dict[nn.Parameter, list[_Outer | Tensor]] = {}
    for use, layout, delta in uses:
        slope = _Slope(delta, layout, samples)
        for term in use.terms:
            term.check_unchanged()
            shares.setdefault(term.parameter, []).append(term.gradient(slope))
    return {p: _squared_length(each) for p, each in shares.items()}


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

    def __init__(self, delta: Tensor, layout: Layout, samples: int) -> None:
        self.delta, self.layout, self.samples = delta, layout, samples

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
    """The gradient Σ_l a_l ⊗ b_l of each sample and group: a (N, G, A, L), b (N, G, B, L)."""

    a: _Factor
    b: _Factor

    def dense(self) -> Tensor:
        product: Tensor = self.a.tensor @ self.b.tensor.mT
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


def _squared_length(shares: list[_Outer | Tensor]) -> Tensor:
    """Of the sum of a parameter's shares; it has several when it is used more than once."""
    outer = [s for s in shares if isinstance(s, _Outer)]
    if len(outer) == len(shares):
        if len(outer) == 1:
            return outer[0].squared_length()
        if len({(o.a.tensor.shape[:3], o.b.tensor.shape[:3]) for o in outer}) == 1:
            both = (
                _Factor(torch.cat([factor.tensor for factor in factors], 3))
                for factors in zip(*((o.a, o.b) for o in outer), strict=True)
            )
            return _Outer(*both).squared_length()
    total = shares[0].dense() if isinstance(shares[0], _Outer) else shares[0]
    for share in shares[1:]:
        total = total + (share.dense() if isinstance(share, _Outer) else share)
    return total.square().sum(1)


# --- the parameters' shares of a call ---------------------------------------------------------------


@dataclass
class _Term:
    """One parameter's share of a call's output. ``data``: what it was combined with."""

    parameter: nn.Parameter
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

    def fits(self, layout: Layout, shape: tuple[int, ...]) -> bool:
        return layout != "second" or len(shape) > 2

    def gradient(self, slope: _Slope) -> _Outer | Tensor:
        """Each sample's, (N, …), from that of the call's output. What ``data`` adds is kept."""
        raise NotImplementedError


@dataclass
class _Linear(_Term):
    """y = x·pᵀ, or x·p where ``transposed``."""

    transposed: bool = False
    kept: _Factor | None = None

    def fits(self, layout: Layout, shape: tuple[int, ...]) -> bool:
        return len(shape) > (2 if layout == "second" else 1)

    def gradient(self, slope: _Slope) -> _Outer:
        assert self.data is not None
        if self.kept is None:
            self.kept = _Factor(slope.rows_of(self.data))
        out, into = slope.rows, self.kept
        return _Outer(into, out) if self.transposed else _Outer(out, into)


@dataclass
class _Embedding(_Term):
    """y = p[codes]; a row ``padding`` takes no gradient."""

    padding: int | None = None

    def fits(self, layout: Layout, shape: tuple[int, ...]) -> bool:
        return len(shape) > (2 if layout == "second" else 1)

    def gradient(self, slope: _Slope) -> _Outer:
        assert self.data is not None
        kinds = len(self.parameter)
        if self.data.numel() * kinds > _MOST_CODES:
            raise MetricFailed("an embedding's one-hot codes are too many")
        hot = F.one_hot(self.data, kinds).to(slope.delta.dtype)
        if self.padding is not None:
            hot[..., self.padding] = 0
        return _Outer(_Factor(slope.rows_of(hot)), slope.rows)


@dataclass
class _Convolution(_Term):
    """y = x * p; the gradient is the product of y's with the patches of x (and for a transposed
    convolution of x with the patches of y's)."""

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    kept: _Factor | None = None

    def fits(self, layout: Layout, shape: tuple[int, ...]) -> bool:
        return layout != "second" and len(shape) == len(self.kernel) + 2

    def gradient(self, slope: _Slope) -> _Outer:
        assert self.data is not None
        whole, cut = (self.data, slope.delta) if self.transposed else (slope.delta, self.data)
        patches = self.kept
        if patches is None:
            patches = _Factor(self._grouped(self._patches(cut, whole.shape[2:]), slope))
            if not self.transposed and patches.tensor.numel() <= _KEPT_PATCHES:
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
class _Broadcast(_Term):
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


# --- the rules --------------------------------------------------------------------------------------


class _Call:
    """What a rule needs: the parameters among its arguments, and the place to note its terms."""

    def __init__(self, taps: Taps) -> None:
        self._known = taps._known
        self.terms: list[_Term] = []

    def alias(self, tensor: Any) -> _Alias | None:
        return self._known.get(id(tensor))

    def fixed(self, tensor: Any) -> Any:
        """The same numbers, detached if they are a wanted parameter's."""
        return tensor.detach() if id(tensor) in self._known else tensor

    def plain(self, tensor: Any) -> bool:
        """Whether it is no transposed view: those have a rule in products alone."""
        alias = self.alias(tensor)
        return alias is None or not alias.transposed

    def spread(self, tensor: Any, data: Tensor | None = None, *, sign: float = 1.0) -> None:
        """Note a parameter that is broadcast, alone or times ``data``."""
        alias = self.alias(tensor)
        if alias is not None:
            self.terms.append(
                _Broadcast(alias.parameter, data, shape=tuple(tensor.shape), sign=sign)
            )


def _linear(call: _Call, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:  # noqa: A002
    if not call.plain(bias):
        return NotImplemented
    if (alias := call.alias(weight)) is not None:
        call.terms.append(_Linear(alias.parameter, input, transposed=alias.transposed))
    call.spread(bias)
    return F.linear(input, call.fixed(weight), call.fixed(bias))


def _matmul(call: _Call, input: Tensor, other: Tensor) -> Any:  # noqa: A002
    alias = call.alias(other)
    if alias is None or other.ndim != 2 or input.ndim < 2:
        return NotImplemented
    call.terms.append(_Linear(alias.parameter, input, transposed=not alias.transposed))
    return torch.matmul(input, other.detach())


def _embedding(
    call: _Call,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    alias = call.alias(weight)
    if alias is None or alias.transposed or max_norm is not None or scale_grad_by_freq or sparse:
        return NotImplemented
    call.terms.append(_Embedding(alias.parameter, input.long(), padding=padding_idx))
    return F.embedding(input, weight.detach(), padding_idx)


def _convolution(axes: int) -> Callable[..., Any]:
    function = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]

    def rule(
        call: _Call,
        input: Tensor,  # noqa: A002
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        if not (call.plain(weight) and call.plain(bias)) or input.ndim != axes + 2:
            return NotImplemented
        kernel, spread = tuple(weight.shape[2:]), _tuple(dilation, axes)
        if padding == "same":  # an odd number more goes behind
            total = [d * (k - 1) for d, k in zip(spread, kernel, strict=True)]
            around = tuple((t // 2, t - t // 2) for t in total)
        else:
            around = tuple((p, p) for p in _tuple(0 if padding == "valid" else padding, axes))
        if (alias := call.alias(weight)) is not None:
            call.terms.append(
                _Convolution(
                    alias.parameter, input, kernel, _tuple(stride, axes), around, spread, groups
                )
            )
        _channel_bias(call, bias, axes)
        return function(
            input, call.fixed(weight), call.fixed(bias), stride, padding, dilation, groups
        )

    return rule


def _transposed_convolution(axes: int) -> Callable[..., Any]:
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]

    def rule(
        call: _Call,
        input: Tensor,  # noqa: A002
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Any:
        if not (call.plain(weight) and call.plain(bias)) or input.ndim != axes + 2:
            return NotImplemented
        if (alias := call.alias(weight)) is not None:
            around = tuple((p, p) for p in _tuple(padding, axes))
            kernel, spread = tuple(weight.shape[2:]), _tuple(dilation, axes)
            term = _Convolution(
                alias.parameter, input, kernel, _tuple(stride, axes), around, spread, groups, True
            )
            call.terms.append(term)
        _channel_bias(call, bias, axes)
        options = (stride, padding, output_padding, groups, dilation)
        return function(input, call.fixed(weight), call.fixed(bias), *options)

    return rule


def _channel_bias(call: _Call, bias: Tensor | None, axes: int) -> None:
    if (alias := call.alias(bias)) is not None:
        call.terms.append(_Broadcast(alias.parameter, None, shape=(-1, *[1] * axes)))


def _tuple(value: Any, axes: int) -> tuple[int, ...]:
    each = tuple(value) if isinstance(value, Sequence) else (value,)
    return each * axes if len(each) == 1 else each


def _batch_norm(
    call: _Call,
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if training:  # the samples share the batch's statistics
        return NotImplemented
    normalized = F.batch_norm(input, running_mean, running_var, None, None, False, 0.0, eps)
    return _scaled(call, normalized, weight, bias, (-1, *[1] * (input.ndim - 2)))


def _layer_norm(
    call: _Call,
    input: Tensor,  # noqa: A002
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    normalized = F.layer_norm(input, normalized_shape, None, None, eps)
    return _scaled(call, normalized, weight, bias, tuple(normalized_shape))


def _rms_norm(
    call: _Call,
    input: Tensor,  # noqa: A002
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Any:
    normalized = F.rms_norm(input, normalized_shape, None, eps)
    return _scaled(call, normalized, weight, None, tuple(normalized_shape))


def _group_norm(
    call: _Call,
    input: Tensor,  # noqa: A002
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    normalized = F.group_norm(input, num_groups, None, None, eps)
    return _scaled(call, normalized, weight, bias, (-1, *[1] * (input.ndim - 2)))


def _instance_norm(
    call: _Call,
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if use_input_stats and running_mean is not None:  # it would update them
        return NotImplemented
    normalized = F.instance_norm(
        input, running_mean, running_var, None, None, use_input_stats, 0.0, eps
    )
    return _scaled(call, normalized, weight, bias, (-1, *[1] * (input.ndim - 2)))


def _scaled(
    call: _Call,
    normalized: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    shape: tuple[int, ...],
) -> Any:
    """normalized·weight + bias, both of ``shape``."""
    if not (call.plain(weight) and call.plain(bias)):
        return NotImplemented
    output = normalized
    for parameter, data in ((weight, normalized), (bias, None)):
        if parameter is None:
            continue
        if (alias := call.alias(parameter)) is not None:
            call.terms.append(_Broadcast(alias.parameter, data, shape=shape))
        values = call.fixed(parameter).view(shape)
        output = output * values if data is not None else output + values
    return output


def _add(call: _Call, first: Any, second: Any, *, sign: float = 1.0) -> Any:
    if not (call.plain(first) and call.plain(second)):
        return NotImplemented
    call.spread(first)
    call.spread(second, sign=sign)
    return call.fixed(first) + sign * call.fixed(second)


def _sub(call: _Call, first: Any, second: Any) -> Any:
    return _add(call, first, second, sign=-1.0)


def _reversed_sub(call: _Call, first: Any, second: Any) -> Any:
    return _add(call, second, first, sign=-1.0)


def _mul(call: _Call, first: Any, second: Any) -> Any:
    parameter, data = (first, second) if call.alias(first) is not None else (second, first)
    if not call.plain(parameter) or call.alias(data) is not None:
        return NotImplemented
    if isinstance(data, (int, float)):
        data = torch.full((), data, dtype=parameter.dtype, device=parameter.device)
    call.spread(parameter, data)
    return parameter.detach() * data


def _expand(call: _Call, input: Tensor, *sizes: Any) -> Any:  # noqa: A002
    if not call.plain(input):
        return NotImplemented
    call.spread(input)
    return input.detach().expand(*sizes)


def _expand_as(call: _Call, input: Tensor, other: Tensor) -> Any:  # noqa: A002
    return _expand(call, input, other.shape)


def _repeat(call: _Call, input: Tensor, *sizes: Any) -> Any:  # noqa: A002
    each = sizes[0] if isinstance(sizes[0], Sequence) else sizes
    padded = (1,) * (len(each) - input.ndim) + tuple(input.shape)
    if not call.plain(input) or any(s > 1 and r > 1 for s, r in zip(padded, each, strict=True)):
        return NotImplemented
    call.spread(input)
    return input.detach().repeat(*each)


_BY_FUNCTION: dict[Callable[..., Any], Callable[..., Any]] = {
    F.linear: _linear,
    F.embedding: _embedding,
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    **{f: _convolution(i + 1) for i, f in enumerate((F.conv1d, F.conv2d, F.conv3d))},
    **{
        f: _transposed_convolution(i + 1)
        for i, f in enumerate((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d))
    },
}

_BY_NAME: dict[str, Callable[..., Any]] = {
    "matmul": _matmul,
    "mm": _matmul,
    "add": _add,
    "radd": _add,
    "sub": _sub,
    "rsub": _reversed_sub,
    "mul": _mul,
    "rmul": _mul,
    "expand": _expand,
    "expand_as": _expand_as,
    "repeat": _repeat,
}
"""Methods and operators of tensors, which have many spellings."""

_RESHAPES = frozenset(
    {"unsqueeze", "squeeze", "view", "reshape", "flatten", "unflatten", "getitem"}
)
_TRANSPOSES = frozenset({"t", "transpose", "T", "mT", "swapaxes", "adjoint"})


def _rule(func: Callable[..., Any]) -> Callable[..., Any] | None:
    found = _BY_FUNCTION.get(func)
    if found is None and _in_torch(func):
        found = _BY_NAME.get(_name(func))
    return found


def _name(func: Callable[..., Any]) -> str:
    """A function's name without underscores; a property's own name for its getter."""
    written = getattr(func, "__name__", "")
    if written == "__get__":
        return str(getattr(getattr(func, "__self__", None), "__name__", ""))
    if written.endswith("_") and not written.endswith("__"):
        return written  # in place
    return written.strip("_")


def _in_torch(func: Callable[..., Any]) -> bool:
    """Not a function of that name that someone else wrapped."""
    return (getattr(func, "__module__", None) or "torch").split(".")[0] == "torch"


def _takes_all(index: Any) -> bool:
    """Whether an index only adds axes or takes whole ones."""
    each = index if isinstance(index, tuple) else (index,)
    return all(i is None or i is Ellipsis or isinstance(i, slice) for i in each)
