"""Symmetries of attention: its heads' order, and changes of basis inside each head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.invariance.recording import note_left
from sharpbench.seeds import torch_generator

__all__ = [
    "Attention",
    "AttentionGL",
    "AttentionRescaling",
    "HeadPermutation",
    "attentions",
    "is_attention",
]

_PARTS = ("query", "key", "value", "output")

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


def attentions(model: nn.Module) -> list[Attention]:
    """Every attention layer.

    A module with four linear maps under the names that libraries use and a number of heads, torch's
    nn.MultiheadAttention, or one whose queries, keys and values are made by one map (``c_attn``, ``qkv``).
    The map of the output may stand in the module beside it (Hugging Face's ``self`` and ``output``). Of
    layers that look like one and are none that can be changed it is noted why (`noting`).
    """
    parents = {id(c): (m, n) for m in model.modules() for n, c in m.named_children()}
    found = []
    for name, module in model.named_modules():
        made = _attention(name, module, parents)
        if isinstance(made, str):
            note_left(name, made)
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


@dataclass(frozen=True)
class _HeadTransformation(Transformation, ABC):
    """Changes every attention layer (`attentions`)."""

    preserves = "function"

    def change(self, model: nn.Module, *, seed: int) -> None:
        found = attentions(model)
        if not found:
            raise TransformationRefused(
                "the network has no attention layer (a module with linear query, key, value and "
                "output and a number of heads)"
            )
        generator = torch_generator(seed)
        for layer in found:
            self.change_layer(layer, generator)

    @abstractmethod
    def change_layer(self, layer: Attention, generator: torch.Generator) -> None:
        """Change one attention layer in place."""


def is_attention(module: nn.Module) -> bool:
    """Whether a module has linear query, key, value and output and a number of ``heads``."""
    linear = all(isinstance(getattr(module, part, None), nn.Linear) for part in _PARTS)
    return linear and isinstance(getattr(module, "heads", None), int)


def _rows(tensors: Sequence[Tensor | None], heads: int) -> Rows:
    """Views (heads, size, …) of what makes the heads."""
    return [t.unflatten(0, (heads, -1)) for t in tensors if t is not None]


def _columns(weight: Tensor, heads: int) -> Tensor:
    """A view (out, heads, size) of what reads the heads."""
    view: Tensor = weight.unflatten(1, (heads, -1))
    return view


@transformations.register
@dataclass(frozen=True)
class HeadPermutation(_HeadTransformation):
    """Permutes the heads of every attention layer; the function stays the same."""

    name = "head_permutation"
    reference = "Hecht-Nielsen (1990), with heads for neurons"
    kind = "permutation"

    def change_layer(self, layer: Attention, generator: torch.Generator) -> None:
        order = torch.randperm(layer.heads, generator=generator).to(layer.output.device)
        for rows in (*layer.query, *layer.key, *layer.value):
            rows.copy_(rows[order].clone())
        layer.output.copy_(layer.output[:, order].clone())


@transformations.register
@dataclass(frozen=True)
class AttentionRescaling(_HeadTransformation):
    """Multiplies each head's queries by α and divides its keys; the same for values and outputs by β.

    log α and log β are ``strength`` times a standard normal number a head.
    """

    name = "attention_rescaling"
    reference = "da Silva, Dangel & Oore, arXiv:2505.05409 (scalars among their matrices)"
    kind = "linear_gauge"
    traits = frozenset({"diagonal"})

    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 10:
            raise ValueError(f"strength must lie in (0, 10], got {self.strength}")

    def change_layer(self, layer: Attention, generator: torch.Generator) -> None:
        for makers, readers in ((layer.query, layer.key), (layer.value, None)):
            z = torch.randn(layer.heads, generator=generator, dtype=torch.float64)
            alpha = (self.strength * z).exp().to(layer.output)
            for rows in makers:
                rows.mul_(alpha.view(-1, *[1] * (rows.ndim - 1)))
            if readers is None:
                layer.output.div_(alpha.view(1, -1, 1))
                continue
            for rows in readers:
                rows.div_(alpha.view(-1, *[1] * (rows.ndim - 1)))


@transformations.register
@dataclass(frozen=True)
class AttentionGL(_HeadTransformation):
    """Another basis in each head: Gᵀ on queries, G⁻¹ on keys, M on values, M⁻¹ on the outputs.

    qᵀk and the mixed values' contribution stay. G and M are random with condition number ``condition``.
    """

    name = "attention_gl"
    kind = "linear_gauge"
    reference = "da Silva, Dangel & Oore, arXiv:2505.05409 (the symmetry)"

    condition: float = 10.0

    def __post_init__(self) -> None:
        if not 1 <= self.condition <= 1e4:
            raise ValueError(f"condition must lie in [1, 1e4], got {self.condition}")

    def change_layer(self, layer: Attention, generator: torch.Generator) -> None:
        size = layer.query[0].shape[1]
        for head in range(layer.heads):
            g, inverse = self._basis(size, generator)
            for rows, matrix in ((layer.query, g.T), (layer.key, inverse), (layer.value, None)):
                if matrix is None:
                    matrix, back = self._basis(size, generator)
                    columns = layer.output[:, head]
                    columns.copy_(columns @ back.to(columns))
                for block in rows:
                    block[head] = matrix.to(block) @ block[head]

    def _basis(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        left, right = (
            torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
            for _ in range(2)
        )
        half = 0.5 * torch.log10(torch.tensor(self.condition)).item()
        scales = torch.logspace(-half, half, size, dtype=torch.float64)
        return left * scales @ right.T, right / scales @ left.T
