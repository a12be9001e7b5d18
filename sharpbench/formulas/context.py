"""What torch needs to be told before a network is differentiated more than once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils.checkpoint import CheckpointFunction

from sharpbench.formulas import layers, log_softmax, losses, normalization

__all__ = ["plain_checkpoints", "repeatedly_differentiable"]


@contextmanager
def repeatedly_differentiable() -> Iterator[None]:
    """Within it a network's derivatives of any order are right.

    - Attention runs by its defining matrix products: the fused kernels have no second derivative.
    - Layer norm, instance norm and batch norm without running statistics run by their formula:
      torch's own are silently wrong from the third derivative on in nested reverse mode and from the
      second on in nested forward mode (torch 2.13; found by finite differences, kept by a test).
      So does group norm, whose batched products raise, and weight norm, whose second derivative takes
      the norms for constants.
    - Hardsigmoid, distances by ``cdist`` and ``pdist``, embedding bags and the margin losses of several
      classes run by their formulas: torch's own have one derivative alone; so do CELU, whose slope torch
      rounds to single precision, and GELU by tanh, whose third derivative it makes NaN far out.
    - Cross-entropy, softplus and the losses like them keep the relative precision of confident points.
    - Embeddings have dense gradients, not scaled by how often a row is taken (``sparse``,
      ``scale_grad_by_freq``), which is their derivative.
    - What a reentrant checkpoint wraps runs as if it wasn't: its parameters would get no gradient.
    """
    with sdpa_kernel(SDPBackend.MATH), _ByFormula(), plain_checkpoints():
        yield


class _ByFormula(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        replacement = _REPLACEMENTS.get(func, func)
        return replacement(*args, **(kwargs or {}))


def _log_softmax(
    input: Tensor,  # noqa: A002 - torch's own name, given by keyword
    dim: int,
    dtype: torch.dtype | None = None,
) -> Tensor:
    return log_softmax.log_softmax(input, dim, dtype=dtype)


_REPLACEMENTS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.layer_norm: normalization.layer_norm,
    torch.layer_norm: normalization.layer_norm,
    F.instance_norm: normalization.instance_norm,
    F.batch_norm: normalization.batch_norm,
    F.group_norm: normalization.group_norm,
    torch.group_norm: normalization.group_norm,
    F.rms_norm: normalization.rms_norm,
    torch.rms_norm: normalization.rms_norm,
    torch._weight_norm: normalization.weight_norm,
    torch._weight_norm_interface: normalization.weight_norm_interface,
    torch.norm_except_dim: normalization.norm_except_dim,
    F.hardsigmoid: layers.hardsigmoid,
    F.gelu: layers.gelu,
    F.celu: layers.celu,
    torch.celu: layers.celu,
    F.celu_: layers.celu_,
    torch.cdist: layers.cdist,
    F.pdist: layers.pdist,
    F.native_channel_shuffle: layers.native_channel_shuffle,
    F.embedding: layers.embedding,
    F.embedding_bag: layers.embedding_bag,
    F.softplus: losses.softplus,
    **{loss: losses.reducing(single) for loss, single in losses.BY_FORMULA.items()},
    F.log_softmax: log_softmax.log_softmax,
    torch.log_softmax: _log_softmax,
    Tensor.log_softmax: _log_softmax,
    F.cross_entropy: log_softmax.cross_entropy,
    F.logsigmoid: log_softmax.logsigmoid,
    F.binary_cross_entropy_with_logits: log_softmax.binary_cross_entropy_with_logits,
}


@contextmanager
def plain_checkpoints(*, every: bool = False) -> Iterator[None]:
    """`torch.utils.checkpoint(use_reentrant=True)` calls its function and keeps the graph.

    ``every``: so do those that aren't reentrant, which torch would run again in the backward pass.
    """
    with ExitStack() as patches:
        if "apply" not in vars(CheckpointFunction):  # else an outer context did
            CheckpointFunction.apply = staticmethod(_called)  # type: ignore[method-assign]
            patches.callback(delattr, CheckpointFunction, "apply")
        name = "_checkpoint_without_reentrant_generator"
        if every and hasattr(checkpoint, name):
            patches.callback(setattr, checkpoint, name, getattr(checkpoint, name))
            setattr(checkpoint, name, _nothing_around)
        yield


def _called(function: Callable[..., Any], preserve_random_state: bool, *args: Any) -> Any:
    return function(*args)


def _nothing_around(*args: Any, **kwargs: Any) -> Iterator[None]:
    """In place of what torch does before and after a checkpointed function."""
    yield
