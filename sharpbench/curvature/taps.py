"""Tapping the calls of a running network in which a parameter takes part linearly."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sharpbench.curvature.sample_gradients import (
    Alias,
    Broadcast,
    Convolution,
    Embedding,
    Product,
    Spread,
    Term,
    Use,
)
from sharpbench.errors import MetricFailed
from sharpbench.formulas.layers import embedding_bag
from sharpbench.taylor.dispatch import python_body

__all__ = ["Taps"]


class Taps(TorchFunctionMode):
    """Taps every call in which one of ``parameters`` takes part linearly, while a network runs.

    Such a call is y = A(x)·p + …: a product, a convolution, a normalisation's scale and shift, an
    embedding, a sum or a product with a parameter. It is made with the parameter detached, and ``tap``
    gives what stands for y from there on: y plus something that can be differentiated in, on a tensor
    of its own, so that what the network does in place to it later is no concern. No rule looks at
    modules: what a subclass, a hook or a parametrisation does to a weight is another operation, which
    stays in the graph. So `unaccounted` tells of every use that was not tapped.

    A view of a parameter, a part of it too, is that parameter's numbers. Functions that torch writes in
    Python are followed inside (multi-head attention), and some that it doesn't by their formula.

    ``selects``: whether rows were picked by data on the way, and may be other samples' in another batch.

    ``spread``: of a call that is made once for all ``samples``, by its number, how each of these gets rows of
    its own (`Spread`).

    What runs under ``torch.no_grad`` is left alone: parameters take no gradient there.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        tap: Callable[[Any], tuple[Any, Any]],
        *,
        samples: int = 0,
        spread: Mapping[int, Spread] | None = None,
    ) -> None:
        super().__init__()
        self.parameters, self.tap = list(parameters), tap
        self.samples, self.spread = samples, spread or {}
        self.uses: list[Use] = []
        self.selects = False
        self._calls = 0
        self._known = {id(p): Alias(p, p) for p in parameters}
        self._others: dict[nn.Parameter, dict[str, None]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        self.selects = self.selects or _selects(func, args)
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
                number, self._calls = self._calls, self._calls + 1
                way = self.spread.get(number)
                if way == "numbers":
                    return self._numbers(func(*args, **kwargs), call.terms)
                if way is not None:
                    output = _spread_over(output, call.terms, self.samples, way)
                shape = tuple(output.shape)
                output, handle = self.tap(output)
                self.uses.append(Use(_name(func), shape, handle, call.terms, number))
                return output
        formula = _FORMULAS.get(func) or python_body(func)
        if formula is not None and _takes(formula, args, kwargs):
            with self:  # what it does is seen, too
                return formula(*args, **kwargs)
        result = func(*args, **kwargs)
        if not self._note_view(func, args, kwargs, result) and _differentiable(result):
            for parameter in self._concerned(args, kwargs):
                self._others.setdefault(parameter, {})[_name(func)] = None
        return result

    def alias(self, tensor: Any) -> Alias | None:
        """Which parameter's numbers a tensor holds, if any."""
        found = self._known.get(id(tensor))
        return found if found is not None and found.unchanged else None

    def unaccounted(self, outputs: Tensor) -> str | None:
        """How ``outputs`` depend on a parameter otherwise than by the tapped calls; None if they don't.

        A gradient of exactly zero for random cotangents counts as none.
        """
        if not outputs.requires_grad or not self.parameters:
            return None
        cotangent = torch.linspace(0.7, 1.9, outputs.numel(), dtype=outputs.dtype)
        gradients = torch.autograd.grad(
            outputs,
            self.parameters,
            cotangent.to(outputs.device).view(outputs.shape),
            retain_graph=True,
            allow_unused=True,
        )
        seen: dict[str, None] = {}
        found = False
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None and bool((gradient != 0).any()):
                found = True
                seen |= self._others.get(parameter, {})
        if not found:
            return None
        functions = ", ".join(seen) or "what is no function of torch's"
        return f"a parameter takes part outside of a call that has a rule, in {functions}"

    def _concerned(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[nn.Parameter]:
        found: list[nn.Parameter] = []
        for each in (*args, *kwargs.values()):
            for one in each if isinstance(each, (list, tuple)) else (each,):
                if id(one) in self._known:
                    found.append(self._known[id(one)].parameter)
        return found

    def _numbers(self, output: Tensor, terms: Sequence[Term]) -> Tensor:
        """What an embedding looked up, from here on numbers of its parameter."""
        (term,) = terms
        assert isinstance(term, Embedding)
        codes = term.looked_up()
        once = term.alias.once and len(codes.unique()) == codes.numel()
        self._known[id(output)] = Alias(
            output, term.alias.parameter, term.alias, lambda numbers: numbers[codes], once
        )
        return output

    def _note_view(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> bool:
        """Remember a tensor that shows numbers of a parameter as they are, all or some, if it is one."""
        source = self.alias(args[0]) if args else None
        name = _name(func)
        if source is None or name not in _VIEWS:
            return False
        each = result if isinstance(result, (tuple, list)) else (result,)
        once = source.once and not (name == "getitem" and not _takes_whole_steps(args[1]))
        for i, part in enumerate(each):
            if not isinstance(part, Tensor) or not part.requires_grad or id(part) in self._known:
                continue

            def view(numbers: Tensor, i: int = i) -> Tensor:
                shown = func(numbers, *args[1:], **kwargs)
                found: Tensor = shown[i] if isinstance(shown, (tuple, list)) else shown
                return found

            self._known[id(part)] = Alias(
                part, source.parameter, source, view, once, name in _PERMUTES
            )
        return True


def _spread_over(output: Tensor, terms: Sequence[Term], samples: int, way: Spread) -> Tensor:
    """The output of a call that is made once for all samples, and its terms, with rows for each of them.

    Raises MetricFailed where it has several rows already.
    """
    for term in terms:
        term.spread_over(samples, way)
    if way == "new axis":
        return output.unsqueeze(0).expand(samples, *output.shape)
    if output.shape[0] != 1:
        raise MetricFailed(
            "a call that is made once for all samples in one batch is not in another"
        )
    return output.expand(samples, *output.shape[1:])


# --- the rules --------------------------------------------------------------------------------------


class _Call:
    """What a rule needs: the parameters among its arguments, and the place to note its terms."""

    def __init__(self, taps: Taps) -> None:
        self.alias = taps.alias
        self.terms: list[Term] = []

    def fixed(self, tensor: Any) -> Any:
        """The same numbers, detached if they are a wanted parameter's."""
        return tensor if self.alias(tensor) is None else tensor.detach()

    def spread(
        self,
        tensor: Any,
        data: Tensor | None = None,
        *,
        shape: tuple[int, ...] | None = None,
        sign: float = 1.0,
    ) -> None:
        """Note a parameter that is broadcast, alone or times ``data``, as if it had this ``shape``."""
        if (alias := self.alias(tensor)) is not None:
            own = tuple(tensor.shape) if shape is None else shape
            self.terms.append(Broadcast(alias, data, shape=own, sign=sign))

    def product(self, tensor: Any, own: str, data: Any, into: str, out: str) -> None:
        """Note a parameter, with axes ``own``, times ``data``, summed to the axes ``out``."""
        if (alias := self.alias(tensor)) is not None:
            self.terms.append(Product(alias, data, into=into, own=own, out=out))

    def one_of(self, *tensors: Any) -> bool:
        """Whether exactly one of these is a parameter's."""
        return sum(self.alias(t) is not None for t in tensors) == 1


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _linear(call: _Call, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:  # noqa: A002
    if call.alias(input) is not None or weight.ndim != 2:
        return NotImplemented
    rows = _LETTERS[: input.ndim - 1]
    call.product(weight, "yz", input, rows + "z", rows + "y")
    call.spread(bias)
    return F.linear(input, call.fixed(weight), call.fixed(bias))


def _matmul(call: _Call, input: Tensor, other: Tensor) -> Any:  # noqa: A002
    if not call.one_of(input, other) or not _noted_product(call, input, other):
        return NotImplemented
    return torch.matmul(call.fixed(input), call.fixed(other))


def _noted_product(call: _Call, first: Any, second: Any) -> bool:
    """Whether ``first @ second``, one of them a parameter's, is of a kind that has a rule."""
    parameter, data = (second, first) if call.alias(first) is None else (first, second)
    batch, more = _LETTERS[: max(parameter.ndim - 2, 0)], _LETTERS[: max(data.ndim - 2, 0)]
    if min(first.ndim, second.ndim) < 1 or (batch and batch != more):
        return False
    if batch and parameter.shape[:-2] != data.shape[:-2]:
        return False
    left = {1: "y"}.get(first.ndim, "xy")
    right = {1: "y"}.get(second.ndim, "yz")
    out = more + left[:-1] + right[1:]
    if parameter is first:
        call.product(parameter, batch + left, data, more + right, out)
    else:
        call.product(parameter, batch + right, data, more + left, out)
    return True


def _addmm(
    call: _Call,
    input: Tensor,  # noqa: A002
    first: Tensor,
    second: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
) -> Any:
    """addmm and baddbmm."""
    if beta != 1 or alpha != 1:
        return NotImplemented
    product = call.one_of(first, second)
    if (call.alias(first) is not None) and (call.alias(second) is not None):
        return NotImplemented
    if product and not _noted_product(call, first, second):
        return NotImplemented
    call.spread(input)
    return call.fixed(input) + torch.matmul(call.fixed(first), call.fixed(second))


def _einsum(call: _Call, equation: Any, *operands: Any) -> Any:
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) != 2 or not call.one_of(*operands):
        return NotImplemented
    read = _read_einsum(equation, operands)
    if read is None:
        return NotImplemented
    letters, out = read
    number = 0 if call.alias(operands[1]) is None else 1
    own, into = letters[number], letters[1 - number]
    data = operands[1 - number]
    unseen = [i for i, c in enumerate(into) if c not in own and c not in out]
    if any(c not in into and c not in out for c in own):
        return NotImplemented
    if unseen:
        data, into = data.sum(unseen), "".join(c for c in into if c in own or c in out)
    call.product(operands[number], own, data, into, out)
    return torch.einsum(equation, *(call.fixed(o) for o in operands))


def _read_einsum(equation: str, operands: Sequence[Any]) -> tuple[list[str], str] | None:
    """The axes' letters of each operand and of the result, where each is one letter of one size."""
    given, arrow, out = equation.replace(" ", "").partition("->")
    parts = given.split(",")
    if len(parts) != len(operands):
        return None
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + _LETTERS if c not in equation]
    rest = ["".join(spare[: o.ndim - len(p) + 3]) for p, o in zip(parts, operands, strict=True)]
    dots = [r for p, r in zip(parts, rest, strict=True) if "..." in p]
    if len(set(dots)) > 1:
        return None
    parts = [p.replace("...", r) for p, r in zip(parts, rest, strict=True)]
    joined = "".join(parts)
    if arrow:
        out = out.replace("...", dots[0] if dots else "")
    else:
        single = sorted(c for c in set(joined) if joined.count(c) == 1 and c not in "".join(dots))
        out = (dots[0] if dots else "") + "".join(single)
    sizes: dict[str, int] = {}
    for part, operand in zip(parts, operands, strict=True):
        if len(set(part)) < len(part) or len(part) != operand.ndim:
            return None
        for letter, size in zip(part, operand.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                return None
    return parts, out


def _prelu(call: _Call, input: Any, weight: Tensor) -> Any:  # noqa: A002
    shape = (-1, *[1] * (input.ndim - 2)) if weight.numel() > 1 else (1,)
    negative = input.detach().clamp(max=0) if isinstance(input, Tensor) else None
    call.spread(weight, negative, shape=shape)
    return F.prelu(input, call.fixed(weight))


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
    if alias is None or max_norm is not None:
        return NotImplemented
    call.terms.append(Embedding(alias, input.long(), padding=padding_idx))
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
        if call.alias(input) is not None or input.ndim != axes + 2:
            return NotImplemented
        kernel, spread = tuple(weight.shape[2:]), _tuple(dilation, axes)
        if padding == "same":  # an odd number more goes behind
            total = [d * (k - 1) for d, k in zip(spread, kernel, strict=True)]
            around = tuple((t // 2, t - t // 2) for t in total)
        else:
            around = tuple((p, p) for p in _tuple(0 if padding == "valid" else padding, axes))
        if (alias := call.alias(weight)) is not None:
            call.terms.append(
                Convolution(alias, input, kernel, _tuple(stride, axes), around, spread, groups)
            )
        call.spread(bias, shape=(-1, *[1] * axes))
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
        if call.alias(input) is not None or input.ndim != axes + 2:
            return NotImplemented
        if (alias := call.alias(weight)) is not None:
            around = tuple((p, p) for p in _tuple(padding, axes))
            kernel, spread = tuple(weight.shape[2:]), _tuple(dilation, axes)
            term = Convolution(
                alias, input, kernel, _tuple(stride, axes), around, spread, groups, True
            )
            call.terms.append(term)
        call.spread(bias, shape=(-1, *[1] * axes))
        options = (stride, padding, output_padding, groups, dilation)
        return function(input, call.fixed(weight), call.fixed(bias), *options)

    return rule


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
    output = normalized
    for parameter, data in ((weight, normalized), (bias, None)):
        if parameter is None:
            continue
        call.spread(parameter, data, shape=shape)
        values = call.fixed(parameter).view(shape)
        output = output * values if data is not None else output + values
    return output


def _add(call: _Call, first: Any, second: Any, *, sign: float = 1.0) -> Any:
    call.spread(first)
    call.spread(second, sign=sign)
    return call.fixed(first) + sign * call.fixed(second)


def _sub(call: _Call, first: Any, second: Any) -> Any:
    return _add(call, first, second, sign=-1.0)


def _reversed_sub(call: _Call, first: Any, second: Any) -> Any:
    return _add(call, second, first, sign=-1.0)


def _mul(call: _Call, first: Any, second: Any) -> Any:
    parameter, data = (first, second) if call.alias(first) is not None else (second, first)
    if call.alias(data) is not None:
        return NotImplemented
    if isinstance(data, (int, float)):
        data = torch.full((), data, dtype=parameter.dtype, device=parameter.device)
    call.spread(parameter, data)
    return parameter.detach() * data


def _where(call: _Call, condition: Tensor, input: Any, other: Any) -> Any:  # noqa: A002
    if condition.dtype is not torch.bool:
        return NotImplemented
    for each, there in ((input, condition), (other, ~condition)):
        if (alias := call.alias(each)) is not None:
            call.spread(each, there.to(alias.tensor.dtype))
    return torch.where(condition, call.fixed(input), call.fixed(other))


def _masked_fill(call: _Call, input: Tensor, mask: Tensor, value: Any) -> Any:  # noqa: A002
    if call.alias(input) is None or call.alias(value) is not None:
        return NotImplemented
    return _where(call, mask, value, input)


def _expand(call: _Call, input: Tensor, *sizes: Any) -> Any:  # noqa: A002
    call.spread(input)
    return input.detach().expand(*sizes)


def _expand_as(call: _Call, input: Tensor, other: Tensor) -> Any:  # noqa: A002
    return _expand(call, input, other.shape)


def _repeat(call: _Call, input: Tensor, *sizes: Any) -> Any:  # noqa: A002
    each = sizes[0] if isinstance(sizes[0], Sequence) else sizes
    padded = (1,) * (len(each) - input.ndim) + tuple(input.shape)
    if any(s > 1 and r > 1 for s, r in zip(padded, each, strict=True)):
        return NotImplemented
    call.spread(input)
    return input.detach().repeat(*each)


_BY_FUNCTION: dict[Callable[..., Any], Callable[..., Any]] = {
    F.linear: _linear,
    F.embedding: _embedding,
    torch.einsum: _einsum,
    torch.where: _where,
    F.prelu: _prelu,
    torch.prelu: _prelu,
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
    "bmm": _matmul,
    "mv": _matmul,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "add": _add,
    "radd": _add,
    "sub": _sub,
    "rsub": _reversed_sub,
    "mul": _mul,
    "rmul": _mul,
    "masked_fill": _masked_fill,
    "expand": _expand,
    "expand_as": _expand_as,
    "repeat": _repeat,
}
"""Methods and operators of tensors, which have many spellings."""


def _bilinear(first: Tensor, second: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    pairs = (first.unsqueeze(-1) * second.unsqueeze(-2)).flatten(-2)
    return F.linear(pairs, weight.flatten(1), bias)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(groups, -3) for x in (key, value))
    scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    found: Tensor = F.dropout(scores.softmax(-1), dropout_p) @ value
    return found


_FORMULAS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.bilinear: _bilinear,
    F.embedding_bag: embedding_bag,
    F.scaled_dot_product_attention: _attention,
}

_PERMUTES = frozenset(
    {
        *("t", "T", "mT", "transpose", "permute", "movedim", "moveaxis"),
        *("swapaxes", "swapdims", "contiguous", "clone"),
    }
)
_VIEWS = _PERMUTES | {
    *("unsqueeze", "squeeze", "view", "reshape", "flatten", "unflatten", "ravel", "view_as"),
    *("reshape_as", "getitem", "select", "narrow", "split", "split_with_sizes", "chunk"),
    *("tensor_split", "unbind", "index_select", "diagonal"),
}


_SELECTING = frozenset(
    {
        *(
            "index_select",
            "masked_select",
            "nonzero",
            "argwhere",
            "gather",
            "take",
            "take_along_dim",
        ),
        *(
            "sort",
            "argsort",
            "msort",
            "topk",
            "unique",
            "unique_consecutive",
            "bincount",
            "one_hot",
        ),
        *(
            "scatter",
            "scatter_",
            "scatter_add",
            "scatter_add_",
            "scatter_reduce",
            "scatter_reduce_",
        ),
        *("index_add", "index_add_", "index_copy", "index_copy_", "index_put", "index_put_", "put"),
        *(
            "masked_scatter",
            "masked_scatter_",
            "put_",
            "argmax",
            "argmin",
            "item",
            "tolist",
            "numpy",
        ),
        *("array", "bool", "int", "float", "index", "equal", "allclose", "is_nonzero", "contains"),
    }
)
"""What picks by the numbers in a tensor, or gives them to Python."""


def _selects(func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    name = _name(func)
    if name in ("getitem", "setitem"):
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(isinstance(i, Tensor) for i in index)
    if name == "embedding":  # of what was computed
        return any(isinstance(table, Tensor) and not table.is_leaf for table in args[1:2])
    return name in _SELECTING or (name == "where" and len(args) == 1)


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


def _takes_whole_steps(index: Any) -> bool:
    """Whether an index takes nothing twice: tensors of numbers may."""
    each = index if isinstance(index, tuple) else (index,)
    return all(i is None or i is Ellipsis or isinstance(i, (slice, int)) for i in each)


def _takes(function: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _differentiable(result: Any) -> bool:
    each = result if isinstance(result, (tuple, list)) else (result,)
    return any(isinstance(r, Tensor) and r.requires_grad for r in each)
