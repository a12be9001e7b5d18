"""The exact trace of the Gauss-Newton matrix, from the length of each sample's gradient, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpbench.autodiff.context import repeatedly_differentiable
from sharpbench.errors import MetricFailed
from sharpbench.measurement import Work
from sharpbench.subject import Loss

__all__ = ["gauss_newton_gram", "gauss_newton_trace", "output_curvature"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


def output_curvature(loss: Loss, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (N, C), rising, and eigenvectors (N, C, C) of each sample's Λ = ∇²_f ℓ(f, y)."""
    free = outputs.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(loss(free, targets).sum(), free, create_graph=True)
        columns = [
            torch.autograd.grad(column.sum(), free, retain_graph=True, materialize_grads=True)[0]
            if column.requires_grad
            else torch.zeros_like(free)
            for column in slope.unbind(1)
        ]
    matrix = torch.stack(columns, 2)
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.mT))
    return values, vectors


def gauss_newton_trace(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    *,
    work: Work,
    chunk: int = 256,
    only: Sequence[nn.Parameter] | None = None,
) -> tuple[float, float]:
    """(1/N) Σᵢ tr(JᵢᵀΛᵢJᵢ) and the standard deviation over samples of its terms.

    tr(JᵀΛJ) = Σ_c λ_c ‖Jᵀe_c‖² over the eigenpairs of Λ: one backward pass an output, of which only the
    layers' own gradients are needed, since a layer's per-sample parameter gradient is a product of its
    input and its output's gradient (Goodfellow, arXiv:1510.01799). Exact, without sampling error.

    ``only``: the parameters meant, all trainable ones if None.

    Raises MetricFailed for a layer type without a rule, a layer that runs twice in one pass, or a
    parameter that two layers share.
    """
    wanted = {id(p) for p in (model.parameters() if only is None else only) if p.requires_grad}
    owners = [
        module
        for module in model.modules()
        if any(id(p) in wanted for p in module.parameters(recurse=False))
    ]
    for module in owners:
        if _rule(module) is None:
            raise MetricFailed(f"no rule for the per-sample gradients of a {type(module).__name__}")
    shared = [id(p) for module in owners for p in module.parameters(recurse=False)]
    if len(set(shared)) < len(
        shared
    ):  # its gradient is a sum over layers, not known layer by layer
        raise MetricFailed("a parameter belongs to two layers")
    terms: list[Tensor] = []
    for x, y in zip(inputs.split(chunk), targets.split(chunk), strict=True):
        terms.append(_terms(model, loss, x, y, owners, wanted, work))
    each = torch.cat(terms).double()
    return float(each.mean()), float(each.std()) if len(each) > 1 else 0.0


def gauss_newton_gram(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    parameters: Sequence[nn.Parameter],
    *,
    work: Work,
) -> Tensor:
    """The Gram matrix (N·C, N·C) of √Λ·J/√N, with the non-zero eigenvalues of the Gauss-Newton matrix.

    Dangel, Tatzel & Hennig, arXiv:2106.02624 (ViViT). For small N·C: its rows are kept, (N·C, P).

    Raises MetricFailed for a loss that is not convex in the outputs.
    """
    with repeatedly_differentiable(), torch.enable_grad():
        outputs = model(inputs)
        work.forward += len(inputs)
        values, vectors = output_curvature(loss, outputs, targets)
        if float(values.min()) < -1e-10 * float(values.abs().max()):
            raise MetricFailed("the loss is not convex in the outputs: Λ has no square root")
        factors = vectors * values.clamp_min(0).sqrt().unsqueeze(1)
        rows = []
        for sample in range(len(inputs)):
            for column in range(outputs.shape[1]):
                seed = torch.zeros_like(outputs)
                seed[sample] = factors[sample, :, column]
                gradient = torch.autograd.grad(
                    outputs, parameters, seed, retain_graph=True, materialize_grads=True
                )
                rows.append(torch.cat([g.reshape(-1) for g in gradient]).double())
                work.gradient += len(inputs)
    stacked = torch.stack(rows)
    return stacked @ stacked.T / len(inputs)


def _terms(
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    y: Tensor,
    owners: list[nn.Module],
    wanted: set[int],
    work: Work,
) -> Tensor:
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def note(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if module in seen:
            raise MetricFailed(f"a {type(module).__name__} runs twice in one pass")
        seen[module] = (args[0].detach(), output)

    hooks = [module.register_forward_hook(note) for module in owners]
    try:
        with repeatedly_differentiable(), torch.enable_grad():
            outputs = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    work.forward += len(x)
    if outputs.ndim != 2:
        raise MetricFailed(f"needs outputs (N, C), got {tuple(outputs.shape)}")
    values, vectors = output_curvature(loss, outputs, y)
    largest = float(values.abs().max())
    used = [module for module in owners if module in seen]
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for column in range(outputs.shape[1]):
        if float(values[:, column].abs().max()) <= 1e-14 * largest:
            continue  # cross-entropy does not see a common shift of the logits
        deltas = torch.autograd.grad(
            outputs,
            [seen[module][1] for module in used],
            vectors[:, :, column],
            retain_graph=True,
            materialize_grads=True,
        )
        work.gradient += len(x)
        for module, delta in zip(used, deltas, strict=True):
            rule = _rule(module)
            assert rule is not None
            lengths = rule(module, seen[module][0], delta, wanted)
            total += values[:, column].double() * lengths.double()
    return total


_Rule = Callable[[Any, Tensor, Tensor, set[int]], Tensor]


def _rule(module: nn.Module) -> _Rule | None:
    """‖∂(δ·output)/∂parameters‖² of each sample, (N,), for this kind of layer."""
    if isinstance(module, nn.Linear):
        return _linear
    if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros":
        return None if isinstance(module.padding, str) else _convolution
    if isinstance(module, _NORMS):
        return _normalization
    return None


def _linear(layer: nn.Linear, x: Tensor, delta: Tensor, wanted: set[int]) -> Tensor:
    total = torch.zeros(len(x), dtype=delta.dtype, device=delta.device)
    if id(layer.weight) in wanted:
        if x.ndim == 2:
            total = total + x.square().sum(1) * delta.square().sum(1)
        else:  # tokens (N, T, ·): the per-sample gradient is a sum over tokens
            x3, d3 = x.flatten(1, -2), delta.flatten(1, -2)
            total = total + ((x3 @ x3.mT) * (d3 @ d3.mT)).sum((1, 2))
    if layer.bias is not None and id(layer.bias) in wanted:
        summed = delta if delta.ndim == 2 else delta.flatten(1, -2).sum(1)
        total = total + summed.square().sum(1)
    return total


def _convolution(layer: nn.Conv2d, x: Tensor, delta: Tensor, wanted: set[int]) -> Tensor:
    total = torch.zeros(len(x), dtype=delta.dtype, device=delta.device)
    assert not isinstance(layer.padding, str)
    d = delta.flatten(2)
    if id(layer.weight) in wanted:
        patches = F.unfold(
            x, layer.kernel_size, layer.dilation, layer.padding, layer.stride
        )  # (N, in·kh·kw, L)
        groups = layer.groups
        n, _, places = patches.shape
        left = d.view(n, groups, -1, places)
        right = patches.view(n, groups, -1, places)
        total = total + (left @ right.mT).square().sum((1, 2, 3))
    if layer.bias is not None and id(layer.bias) in wanted:
        total = total + d.sum(2).square().sum(1)
    return total


def _normalization(layer: Any, x: Tensor, delta: Tensor, wanted: set[int]) -> Tensor:
    total = torch.zeros(len(x), dtype=delta.dtype, device=delta.device)
    if layer.weight is None:
        return total
    if isinstance(layer, nn.LayerNorm):
        normalized = F.layer_norm(x, layer.normalized_shape, None, None, layer.eps)
        over = list(range(1, x.ndim - len(layer.normalized_shape)))
    else:
        normalized = F.batch_norm(
            x, layer.running_mean, layer.running_var, None, None, False, 0.0, layer.eps
        )
        over = list(range(2, x.ndim))
    for parameter, gradient in ((layer.weight, delta * normalized), (layer.bias, delta)):
        if parameter is not None and id(parameter) in wanted:
            summed = gradient.sum(over) if over else gradient
            total = total + summed.flatten(1).square().sum(1)
    return total
