"""Attention layers by their heads, as libraries write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

__all__ = ["Attention", "attentions"]

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

_HEADS = ("heads", "num_heads", "num_attention_heads", "n_heads", "n_head", "nhead")

Rows = Sequence[Tensor]


@dataclass(frozen=True)
class Attention:
    """An attention layer by its weights: views (heads, size, …) of what makes queries, keys and values,
    biases too, and (out, heads, size) of what reads the mixed values."""

    name: str
    heads: int
    query: Rows
    key: Rows
    value: Rows
    output: Tensor


def attentions(model: nn.Module, left: Callable[[str, str], None] | None = None) -> list[Attention]:
    """Every attention layer.

    A module with four linear maps under the names that libraries use and a number of heads, torch's
    nn.MultiheadAttention, or one whose queries, keys and values are made by one map (``c_attn``, ``qkv``).
    The map of the output may stand in the module beside it (Hugging Face's ``self`` and ``output``). Of
    layers that look like one and are none whose heads are found, ``left`` is told name and reason.
    """
    parents = {id(c): (m, n) for m in model.modules() for n, c in m.named_children()}
    found = []
    for name, module in model.named_modules():
        made = _attention(name, module, parents)
        if isinstance(made, str):
            if left is not None:
                left(name, made)
        elif made is not None:
            found.append(made)
    return found


def _attention(name: str, module: Any, parents: Mapping[int, Any]) -> Attention | str | None:
    if isinstance(module, nn.MultiheadAttention):
        if module.in_proj_weight is None or module.bias_k is not None:
            return "keys and values of another width, or with a bias of their own, are not followed"
        each = [
            module.in_proj_weight,
            *([module.in_proj_bias] if module.in_proj_bias is not None else []),
        ]
        return _of_one_map(name, module.num_heads, each, module.out_proj.weight)
    heads = _number_of_heads(module)
    for names in _NAMES:
        makers = [m for n in names[:3] if isinstance(m := getattr(module, n, None), nn.Linear)]
        if len(makers) < 3:
            continue
        readers = [getattr(module, other[3], None) for other in _NAMES if other[:3] == names[:3]]
        output = next((o for o in readers if isinstance(o, nn.Linear)), _beside(module, parents))
        if heads is None or not isinstance(output, nn.Linear):
            return "its number of heads, or what reads them, is not found"
        sizes = {part.weight.shape[0] for part in makers}
        if len(sizes) > 1 or output.weight.shape[1] not in sizes or sizes.pop() % heads:
            return "its heads share keys and values, or are not of one size"
        query, key, value = (_rows([part.weight, part.bias], heads) for part in makers)
        return Attention(name, heads, query, key, value, _columns(output.weight, heads))
    for maker, reader in (("c_attn", "c_proj"), ("qkv", "proj"), ("query_key_value", "dense")):
        joint, output = getattr(module, maker, None), getattr(module, reader, None)
        if joint is None or output is None or heads is None:
            continue
        turned = type(joint).__name__ == "Conv1D"  # Hugging Face's, whose weight is (in, out)
        if not turned and not isinstance(joint, nn.Linear):
            continue
        weights = [layer.weight.T if turned else layer.weight for layer in (joint, output)]
        if weights[0].shape[0] != 3 * weights[1].shape[1]:
            return "queries, keys and values are not three equal parts"
        each = [weights[0], *([joint.bias] if joint.bias is not None else [])]
        return _of_one_map(name, heads, each, weights[1])
    return None


def _of_one_map(name: str, heads: int, joint: Rows, output: Tensor) -> Attention:
    query, key, value = ([t.unflatten(0, (3, heads, -1))[i] for t in joint] for i in range(3))
    return Attention(name, heads, query, key, value, _columns(output, heads))


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
