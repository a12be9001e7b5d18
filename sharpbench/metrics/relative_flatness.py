"""Relative flatness: the curvature of one layer times the size of its weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sharpbench.change import Change
from sharpbench.curvature.gauss_newton import output_curvature
from sharpbench.curvature.hessian_operator import HessianOperator
from sharpbench.errors import MetricFailed, MetricUnsupported
from sharpbench.front import calls
from sharpbench.measurement import ErrorComponent, Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import torch_dtype
from sharpbench.metrics.curvature import ProbeBudget
from sharpbench.metrics.hessian import GroupedOperator, trace_by_products
from sharpbench.metrics.mean_over_points import jackknife
from sharpbench.metrics.sampling import (
    random_groups,
    sampling_error,
)
from sharpbench.network import TOGETHER
from sharpbench.running import as_written
from sharpbench.subject import Subject
from sharpbench.truth import Known, Truth

__all__ = ["RelativeFlatness"]

_BATCH = 1024

_CONSTANT = 1e-12
"""A feature whose spread is so small a part of its size does not vary."""


@metrics.register
@dataclass(frozen=True)
class RelativeFlatness(ProbeBudget):
    """Relative flatness κ_Tr = Σ_{s,s'} ⟨w_s, w_s'⟩ tr H_{s,s'} of one layer with the weights W.

    w_s are the rows of W (d_out, d_in) and H_{s,s'} (d_in, d_in) the blocks of the mean loss's Hessian in
    them; the bias takes no part. Multiplying a layer by a number and dividing another one by it leaves
    κ as it is. (The first power ‖W‖_F·tr H that FAM minimises is another figure.)

    Without ``parameters_of`` the layer is the last one, with W as it is used, whatever parameters it is
    computed from. The outputs are Wφ + b and κ = E[‖φ‖² tr(WᵀΛW)] with the loss's Hessian Λ in the outputs,
    in closed form; for cross-entropy E[‖φ‖² Var_{s∼p}(w_s)], the variance of the rows under the predicted
    probabilities. ``features`` ``normalized`` first divides each φ_j by its standard deviation over the
    samples (and multiplies column j of W by it), so that κ stays also where every unit is rescaled by itself;
    one that does not vary acts as a bias and is left out. (Of the authors' scripts one divides by the
    standard deviation, two by the variance.) It fails where the network doesn't end in such a layer, or the
    layer's weights take part elsewhere.

    ``parameters_of``: the name, or a shell pattern that fits it alone, of any other layer's weights; a
    convolution's are the matrix (d_out, d_in·k). By products with H, exact by unit vectors where
    ``max_probes`` serve the min(d_out, d_in)·d_in of them, else by XTrace with its standard error.

    Errors: ``probes`` of an estimate; ``points`` where some of the samples are drawn. Parameters: as those
    of ``hessian_trace``.
    """

    name = "relative_flatness"
    title = "relative flatness κ"
    unit = "[loss]"
    reference = "Petzka et al., arXiv:2001.00939, definition 3; Walter et al., arXiv:2510.14231"

    features: Literal["plain", "normalized"] = "plain"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features == "normalized" and self.parameters_of:
            raise ValueError("normalized features are those of the last layer: no parameters_of")

    def stays_under(self, change: Change) -> bool:
        kept = change.properties
        if not kept.isdisjoint({"permutation", "logit_shift"}) or kept >= {"isometry", "diagonal"}:
            return True
        if self.parameters_of:
            return False
        if "chart" in kept:  # features and weights as they are used are the same
            return True
        return ("diagonal" if self.features == "normalized" else "input_isometry") in kept

    def unsupported(self, subject: Subject) -> str | None:
        if subject.of_model_and_batch and not self.parameters_of:
            return (
                "the loss is one of model and batch; name the weights of a layer in parameters_of"
            )
        return super().unsupported(subject)

    def notes(self, details: Mapping[str, Any]) -> list[str]:
        divided = ["features divided by their standard deviation"]
        return [*super().notes(details), *(divided if self.features == "normalized" else [])]

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        return None  # a spectrum alone does not tell it

    def of_spectrum(self, eigenvalues: Tensor) -> float:
        raise NotImplementedError

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        return self._of_block(subject, seed) if self.parameters_of else self._of_last(subject, seed)

    # --- the last layer, in closed form -------------------------------------------------------------

    def _of_last(self, subject: Subject, seed: int) -> Measurement:
        inputs, targets = self._data(subject, seed)
        model, work = subject.working_model(torch_dtype(self.dtype)), Work()
        if subject.coupled:
            raise MetricFailed(f"{TOGETHER}, so that no sample has features of its own")
        assert subject.loss is not None
        with as_written():
            few = inputs[:2][calls(model, inputs[:2])[0]]
            _check_apart(model, few)
            work.forward += len(few)
            features, columns = [], []
            for x, y in _called_together(model, inputs, targets):
                with torch.no_grad():
                    call, outputs = _last_call(model, x)
                work.forward += len(x)
                found = output_curvature(subject.loss, outputs, y)
                values, vectors = (each.detach() for each in found)
                mapped = vectors.mT @ call.weight.detach()  # (n, C, d)
                features.append(call.inputs.double())
                columns.append((values.unsqueeze(2) * mapped.square()).sum(1).double())
        phi, curvature = torch.cat(features), torch.cat(columns)
        population = self._population(subject)
        details: dict[str, Any] = {"features": phi.shape[1]}
        if self.features == "plain":
            each = phi.square().sum(1) * curvature.sum(1)
            value = float(each.mean())
            errors = sampling_error(each / len(each), population)
        else:
            value, constant = _normalized(phi, curvature)
            errors = self._jackknife(phi, curvature, population, seed)
            details["constant_features"] = constant
        return Measurement(
            value=value, errors=errors, samples=len(inputs), work=work, details=details
        )

    def _jackknife(
        self, phi: Tensor, curvature: Tensor, population: int, seed: int
    ) -> tuple[ErrorComponent, ...]:
        n = len(phi)
        if n >= population:
            return ()
        without = []
        for group in random_groups(n, seed=seed):
            kept = torch.ones(n, dtype=torch.bool, device=phi.device)
            kept[group.to(phi.device)] = False
            without.append(_normalized(phi[kept], curvature[kept])[0] if n > 2 else math.nan)
        values = torch.tensor(without, dtype=torch.float64)
        return (jackknife(values, source="points", left=1 - n / population),)

    # --- any layer, by products ---------------------------------------------------------------------

    def _of_block(self, subject: Subject, seed: int) -> Measurement:
        operator = self._operator(HessianOperator, subject, seed, Work())
        assert isinstance(operator, HessianOperator)
        names = {id(p): n for n, p in operator.model.named_parameters()}
        found = [names[id(p)] for p in operator.parameters]
        weight = operator.parameters[0]
        if len(found) > 1 or weight.ndim < 2 or weight.is_complex():
            raise MetricFailed(
                "relative flatness is that of one real weight matrix, and parameters_of names "
                + ", ".join(found)
            )
        scaled = _Scaled(operator, weight.detach().flatten(1))
        population, details = self._population(subject), {"layer": found[0]}
        return trace_by_products(self, operator, population, seed, details=details, of=scaled)


class _Scaled(GroupedOperator):
    """(F ⊗ 1)ᵀ H (F ⊗ 1) with FFᵀ = WWᵀ and as few columns as W has dimensions: its trace is κ."""

    def __init__(self, operator: HessianOperator, weight: Tensor) -> None:
        left, sizes, _ = torch.linalg.svd(weight, full_matrices=False)
        self._operator, self._factor = operator, left * sizes
        self._inputs = weight.shape[1]
        self.dimension = len(sizes) * self._inputs
        self.dtype, self.device, self.work = operator.dtype, operator.device, operator.work
        self.samples = operator.samples

    def matmat(self, vectors: Tensor) -> Tensor:
        return self._down(self._operator.matmat(self._up(vectors)))

    def group_products(self, vectors: Tensor, groups: Sequence[Tensor]) -> Iterator[Tensor]:
        for product in self._operator.group_products(self._up(vectors), groups):
            yield self._down(product)

    def _up(self, vectors: Tensor) -> Tensor:
        blocks = vectors.to(self._factor).unflatten(0, (-1, self._inputs))
        raised: Tensor = torch.tensordot(self._factor, blocks, 1).flatten(0, 1)
        return raised

    def _down(self, products: Tensor) -> Tensor:
        blocks = products.to(self._factor).unflatten(0, (-1, self._inputs))
        lowered: Tensor = torch.tensordot(self._factor.T, blocks, 1).flatten(0, 1)
        return lowered


def _called_together(
    model: nn.Module, inputs: Tensor, targets: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Samples and targets that the network takes in one call."""
    for x, y in zip(inputs.split(_BATCH), targets.split(_BATCH), strict=True):
        for where in calls(model, x):
            yield x[where], y[where]


def _normalized(phi: Tensor, curvature: Tensor) -> tuple[float, int]:
    """κ with each feature divided by its spread, and how many features have none.

    ``phi`` (n, d); ``curvature`` (n, d): w_jᵀΛᵢw_j of each column of W.
    """
    spread = phi.std(0, correction=0)
    varies = spread > _CONSTANT * phi.square().mean(0).sqrt()
    phi, square = phi[:, varies] / spread[varies], spread[varies].square()
    each = phi.square().sum(1) * (curvature[:, varies] * square).sum(1)
    return float(each.mean()), int((~varies).sum())


# --- which layer is the last one ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """A call of a linear layer: Wφ + b with φ (N, …, d), W (d_out, d)."""

    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    outputs: Tensor


class _LinearCalls(TorchFunctionMode):
    """Notes the last call of a linear layer within."""

    def __init__(self) -> None:
        super().__init__()
        self.last: _Call | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # What is mapped over by torch.func has no meaning outside.
        if func is F.linear and not torch._C._functorch.is_functorch_wrapped_tensor(result):
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | (kwargs or {})
            self.last = _Call(given["input"], given["weight"], given.get("bias"), result)
        return result


def _last_call(model: nn.Module, x: Tensor) -> tuple[_Call, Tensor]:
    """The linear layer that gives the outputs, with these. Raises MetricFailed where none does."""
    with _LinearCalls() as calls:
        outputs = model(x)
    call = calls.last
    if call is None or not (
        call.outputs.numel() == outputs.numel()
        and call.inputs.ndim == outputs.ndim == 2
        and torch.equal(call.outputs.reshape(outputs.shape), outputs)
    ):
        raise MetricUnsupported(
            "the network does not end in a linear layer (N, d) → (N, outputs): name the weights of a layer "
            "in parameters_of"
        )
    return call, outputs


def _check_apart(model: nn.Module, few: Tensor) -> None:
    """Raises MetricFailed where the last layer's weights take part in its inputs or its bias too."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_()
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.enable_grad():
        call, _ = _last_call(model, few)
        own = _reached(call.weight, parameters)
        for other in (call.inputs, call.bias):
            if other is not None and _reached(other, own):
                raise MetricUnsupported(
                    "the weights of the last layer take part elsewhere in the network, so that the Hessian "
                    "in them has no closed form: name them in parameters_of"
                )


def _reached(tensor: Tensor, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Those of ``parameters`` that a gradient of ``tensor`` reaches."""
    if not tensor.requires_grad or not parameters:
        return []
    found = torch.autograd.grad(tensor.sum(), parameters, retain_graph=True, allow_unused=True)
    return [p for p, g in zip(parameters, found, strict=True) if g is not None]
