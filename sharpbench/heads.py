"""Attention layers by their heads, as libraries write them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sharpbench.network import computed

__all__ = ["Attention", "Rows", "attentions", "once_read_otherwise"]

_NAMES = (
    ("query", "key", "value", "output"),
    ("query", "key", "value", "dense"),
    ("query", "key", "value", "out_proj"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("q_lin", "k_lin", "v_lin", "out_lin"),
    ("to_q", "to_k", "to_v", "to_out"),
    ("q", "k", "v", "o"),
)
"""Under which names libraries keep the four maps of an attention layer."""

_BY_HEAD = "query_key_value"
"""The joint map of BLOOM and GPT-NeoX, whose rows lie head by head."""

_HEADS = ("heads", "num_heads", "num_attention_heads", "n_heads", "n_head", "nhead")

Rows = Sequence[Tensor]


@dataclass(frozen=True)
class Attention:
    """An attention layer by its weights: views (heads, size, …) of what makes queries, keys and values,
    biases too, and (out, heads, size) of what reads the mixed values.

    Of heads that share keys and values: (groups, size, …), for each place in a group one of the queries, and
    (out, groups, places, size).
    """

    name: str
    heads: int
    query: Rows
    key: Rows
    value: Rows
    output: Tensor
    weights: tuple[Tensor, ...]
    """The parameters that these are views of, one map after another."""


def attentions(
    model: nn.Module, left: Callable[[str, str], None] | None = None, *, grouped: bool = False
) -> list[Attention]:
    """Every attention layer; with ``grouped`` also those whose heads share keys and values in groups.

    A module with four linear maps under the names that libraries use and a number of heads, torch's
    nn.MultiheadAttention, or one whose queries, keys and values are made by one map (``c_attn``, ``qkv``).
    The map of the output may stand in the module beside it (Hugging Face's ``self`` and ``output``), or with
    a dropout behind it. Rows of a joint map are queries, keys, values (``qkv``, ``c_attn``), or these three
    head by head (``query_key_value`` of BLOOM and GPT-NeoX). Of layers that look like one and are none whose
    heads are found, or whose weights are computed from others, ``left`` is told name and reason.
    """
    parents = {id(c): (m, n) for m in model.modules() for n, c in m.named_children()}
    found = []
    for name, module in model.named_modules():
        made = _attention(name, module, parents, grouped)
        if isinstance(made, str):
            if left is not None:
                left(name, made)
        elif made is not None:
            found.append(made)
    return found


def once_read_otherwise(model: nn.Module) -> bool:
    """Whether a network has heads that were taken for other ones, or for none, when `attentions` was new:
    those that share keys and values, those whose queries, keys and values lie head by head, and those whose
    weights are computed from others. Figures of that time are not this network's."""
    computed_ones: list[str] = []
    found = attentions(
        model,
        lambda _, reason: computed_ones.extend([reason] * (reason == _COMPUTED)),
        grouped=True,
    )
    by_head = any(isinstance(getattr(m, _BY_HEAD, None), nn.Linear) for m in model.modules())
    return (
        bool(computed_ones) or any(a.output.ndim == 4 for a in found) or (by_head and bool(found))
    )


def _attention(
    name: str, module: Any, parents: Mapping[int, Any], grouped: bool
) -> Attention | str | None:
    if isinstance(module, nn.MultiheadAttention):
        if module.in_proj_weight is None or module.bias_k is not None:
            return "keys and values of another width, or with a bias of their own, are not followed"
        if module._parameters.get("in_proj_weight") is None or computed(module.out_proj):
            return _COMPUTED
        each: list[Tensor] = [
            module.in_proj_weight,
            *([module.in_proj_bias] if module.in_proj_bias is not None else []),
        ]
        return _of_one_map(name, module.num_heads, each, module.out_proj.weight)
    heads = _number_of_heads(module)
    for names in _NAMES:
        parts = [getattr(module, n, None) for n in names[:3]]
        if not all(isinstance(part, nn.Module) for part in parts):
            continue
        makers = [part for part in parts if isinstance(part, nn.Linear)]
        if len(makers) < 3:
            if heads is None:
                continue
            other = next(type(p).__name__ for p in parts if not isinstance(p, nn.Linear))
            return f"one of its maps is a {other}, which is not followed"
        readers = [
            _linear(getattr(module, other[3], None)) for other in _NAMES if other[:3] == names[:3]
        ]
        output = next((o for o in readers if o is not None), _beside(module, parents))
        if heads is None or not isinstance(output, nn.Linear):
            return "its number of heads, or what reads them, is not found"
        if any(map(computed, (*makers, output))):
            return _COMPUTED
        sizes = {part.weight.shape[0] for part in makers}
        if grouped and len(sizes) == 2 and (found := _groups(name, heads, makers, output)):
            return found
        if len(sizes) > 1 or output.weight.shape[1] not in sizes or sizes.pop() % heads:
            return "its heads share keys and values, or are not of one size"
        query, key, value = (_rows([part.weight, part.bias], heads) for part in makers)
        columns, weights = _columns(output.weight, heads), [m.weight for m in (*makers, output)]
        return Attention(name, heads, query, key, value, columns, tuple(weights))
    for maker, reader in (("c_attn", "c_proj"), ("qkv", "proj"), (_BY_HEAD, "dense")):
        joint, output = getattr(module, maker, None), getattr(module, reader, None)
        if joint is None or output is None or heads is None:
            continue
        turned = type(joint).__name__ == "Conv1D"  # Hugging Face's, whose weight is (in, out)
        if not turned and not isinstance(joint, nn.Linear):
            return f"one of its maps is a {type(joint).__name__}, which is not followed"
        if computed(joint) or computed(output):
            return _COMPUTED
        weights = [layer.weight.T if turned else layer.weight for layer in (joint, output)]
        if weights[0].shape[0] != 3 * weights[1].shape[1]:
            return "queries, keys and values are not three equal parts"
        each = [weights[0], *([joint.bias] if joint.bias is not None else [])]
        by_head = maker == _BY_HEAD
        found = _of_one_map(name, heads, each, weights[1], by_head)
        return dataclasses.replace(found, weights=(joint.weight, output.weight))
    return None


def _groups(
    name: str, heads: int, makers: Sequence[nn.Linear], output: nn.Linear
) -> Attention | None:
    """Attention by its groups: each has one key and one value, and several queries in a row."""
    wide, narrow = makers[0].weight.shape[0], makers[1].weight.shape[0]
    size = wide // heads
    fits = wide == heads * size == output.weight.shape[1] and makers[2].weight.shape[0] == narrow
    if not size or not fits or narrow % size or wide % narrow:
        return None
    groups, each = narrow // size, wide // narrow
    queries = [
        t.unflatten(0, (groups, each, size)).select(1, i)
        for t in (makers[0].weight, makers[0].bias)
        if t is not None
        for i in range(each)
    ]
    key, value = (_rows([part.weight, part.bias], groups) for part in makers[1:])
    columns = output.weight.unflatten(1, (groups, each, size))
    weights = tuple(m.weight for m in (*makers, output))
    return Attention(name, groups, queries, key, value, columns, weights)


_COMPUTED = "its weights are computed from others (weight norm, pruning, a parametrisation)"


def _of_one_map(
    name: str, heads: int, joint: Rows, output: Tensor, by_head: bool = False
) -> Attention:
    shape, at = ((heads, 3, -1), 1) if by_head else ((3, heads, -1), 0)
    query, key, value = ([t.unflatten(0, shape).select(at, i) for t in joint] for i in range(3))
    weights = (joint[0], output)
    return Attention(name, heads, query, key, value, _columns(output, heads), weights)


def _linear(module: object) -> nn.Linear | None:
    """A linear layer, or the one of a list in which nothing else has parameters (diffusers' ``to_out``)."""
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        first, *rest = [*module] or [None]
        return _linear(first) if not any(True for m in rest for _ in m.parameters()) else None
    return module if isinstance(module, nn.Linear) else None


def _number_of_heads(module: nn.Module) -> int | None:
    for holder in (module, getattr(module, "config", None)):
        for name in _HEADS:
            value = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _beside(module: nn.Module, parents: Mapping[int, Any]) -> nn.Module | None:
    """The map of the output in the module that stands beside this one."""
    parent, _ = parents.get(id(module), (None, ""))
    output = getattr(parent, "output", None)
    if isinstance(output, nn.Linear):
        return output
    dense = getattr(output, "dense", None)
    return dense if isinstance(dense, nn.Linear) else None


def _rows(tensors: Sequence[Tensor | None], heads: int) -> Rows:
    """Views (heads, size, …) of what makes the heads."""
    return [t.unflatten(0, (heads, -1)) for t in tensors if t is not None]


def _columns(weight: Tensor, heads: int) -> Tensor:
    """A view (out, heads, size) of what reads the heads."""
    view: Tensor = weight.unflatten(1, (heads, -1))
    return view
