"""Norms of the layers' linear maps, multiplied or added."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sharpbench.change import Change
from sharpbench.curvature.lanczos import extreme_eigenvalues
from sharpbench.curvature.operator import SymmetricOperator
from sharpbench.curvature.parameters import named_subset
from sharpbench.errors import MetricFailed, MetricUnsupported
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Dtype, Metric, torch_dtype
from sharpbench.registry import added_later
from sharpbench.running import as_written
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject

__all__ = ["LayerNorms"]

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


@metrics.register
@dataclass(frozen=True)
class LayerNorms(Metric):
    """Norms s_l of the L layers' linear maps: their product, or sums of them.

    ``norm``: the ``spectral`` norm of the map, the largest singular value; of a convolution that of what it
    does to inputs of the size it gets, with its stride, padding, dilation and groups, and not of the
    kernel as a matrix (nor, as by FFT, of one that wraps around). Or the ``frobenius`` norm of the weights,
    of a convolution those of the kernel.

    ``combine``: ``product`` ∏ s_l², the form of the bounds; ``log_product``, its logarithm, which ranks
    networks alike and doesn't overflow; ``sum`` L·(∏ s_l²)^{1/L}; ``total`` Σ s_l²; ``stable_rank``
    Σ ‖W_l‖_F²/s_l² with the spectral norm (of a convolution both are of the map). The sources divide by the
    margin, which is `inverse_margin`.

    Layers are the linear ones and convolutions, each set of weights once however often it is used, with
    the weights as they are used. Scales of batch norm are no layer here: fold them first. Refused where
    another weight matrix takes part otherwise, by name. ``error_bound``: of the iteration for a convolution's
    spectral norm, wrong with a chance of 1 in 1000 a layer at the default ``tolerance``.

    ``parameters_of``: names or shell patterns of the parameters whose layers are meant, all if empty; other
    weight matrices may then take part as they will.
    """

    name = "layer_norms"
    title = "norms of the layers"
    unit = ""
    space = "parameter"
    reference = "Jiang et al., arXiv:1912.02178, appendix C.3; Bartlett et al., arXiv:1706.08498"

    norm: Literal["spectral", "frobenius"] = "spectral"
    combine: Literal["product", "log_product", "sum", "total", "stable_rank"] = "log_product"
    tolerance: float = 1e-6
    dtype: Dtype = "float64"
    parameters_of: tuple[str, ...] = added_later(())

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must lie in (0, 1), got {self.tolerance}")

    def stays_under(self, change: Change) -> bool:
        kept = change.properties
        # Permutations, signs and shifts of biases keep each map's singular values; a chart the map.
        return not kept.isdisjoint({"permutation", "logit_shift", "chart"}) or kept >= {
            "isometry",
            "diagonal",
        }

    def notes(self, details: Mapping[str, Any]) -> list[str]:
        words = f"{self.combine.replace('_', ' ')} of {self.norm} norms"
        return [*super().notes(details), words]

    def unsupported(self, subject: Subject) -> str | None:
        if any(p.is_complex() for p in subject.model.parameters()):
            return "it has complex parameters"
        return None

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype = torch_dtype(self.dtype)
        model, work = subject.working_model(dtype), Work()
        few = subject.inputs[:2].to(dtype)
        with as_written():
            layers = _layers(model, few, self.parameters_of)
            others = _layers(model, subject.inputs[-2:].to(dtype), self.parameters_of)
        work.forward += 2 * len(few)
        if [x.weight.shape for x in layers] != [x.weight.shape for x in others] or not all(
            torch.equal(x.weight, y.weight) for x, y in zip(layers, others, strict=True)
        ):
            raise MetricUnsupported("the layers or their weights depend on the inputs")
        found = [self._of(layer, derive_seed(seed, "layer", i)) for i, layer in enumerate(layers)]
        if any(not s > 0 for s, _ in found):
            raise MetricFailed("a layer's weights are all zero")
        logs = [2 * math.log(s) for s, _ in found]
        relative = [2 * bound / s for s, bound in found]
        total = sum(logs)
        error: float
        if self.combine == "log_product":
            value, error = total, sum(relative)
        elif self.combine in ("product", "sum"):
            share = 1 if self.combine == "product" else 1 / len(logs)
            if total * share > 700:
                raise MetricFailed('the product overflows; ask for combine = "log_product"')
            value = math.exp(total * share) * (1 if self.combine == "product" else len(logs))
            error = value * math.expm1(sum(relative) * share)
        else:
            squares = [math.exp(log) for log in logs]
            if self.combine == "stable_rank":
                squares = [layer.square() / s for layer, s in zip(layers, squares, strict=True)]
            value = sum(squares)
            error = sum(s * r for s, r in zip(squares, relative, strict=True))
        return Measurement(
            value=value,
            error_bound=error or None,
            samples=len(few),
            work=work,
            details={"layers": len(layers), "norms": [s for s, _ in found][:64]},
        )

    def _of(self, layer: _Layer, seed: int) -> tuple[float, float]:
        """The norm, and how far it may lie above."""
        if self.norm == "frobenius" and self.combine != "stable_rank":
            return float(layer.weight.norm()), 0.0
        if layer.shape is None:
            return float(torch.linalg.matrix_norm(layer.weight.double(), 2)), 0.0
        result = extreme_eigenvalues(
            _Gram(layer),
            tolerance=self.tolerance,
            max_products=1000,
            generator=torch_generator(seed),
        )
        if not result.converged:
            raise MetricFailed("the iteration for a convolution's norm did not converge")
        size = math.sqrt(max(result.value, 0.0))
        above = math.sqrt(max(result.value + (result.error_bound or 0.0), 0.0))
        return size, above - size


@dataclass(frozen=True)
class _Layer:
    """A linear map by its weights; of a convolution the call without bias and the shape of one input."""

    weight: Tensor
    shape: tuple[int, ...] | None = None
    call: _Call | None = None

    def square(self) -> float:
        """‖·‖_F² of the map: of a convolution, how often it takes each weight counts."""
        if self.call is None or self.shape is None:
            return float(self.weight.double().square().sum())
        ones = torch.ones(1, *self.shape, dtype=self.weight.dtype, device=self.weight.device)
        return float(self.call.squared(ones).double().sum())


class _Call:
    """A convolution as a function of its input, and the same with squared weights."""

    def __init__(self, function: Any, weight: Tensor, rest: tuple[Any, ...]) -> None:
        self._function, self._weight, self._rest = function, weight, rest

    def __call__(self, x: Tensor) -> Tensor:
        made: Tensor = self._function(x, self._weight, None, *self._rest)
        return made

    def squared(self, x: Tensor) -> Tensor:
        made: Tensor = self._function(x, self._weight.square(), None, *self._rest)
        return made


class _Gram(SymmetricOperator):
    """AᵀA of a convolution A."""

    def __init__(self, layer: _Layer) -> None:
        assert layer.shape is not None
        assert layer.call is not None
        self._call, self._shape = layer.call, layer.shape
        self.dimension = math.prod(layer.shape)
        self.dtype, self.device = layer.weight.dtype, layer.weight.device
        self.samples, self.work = 1, Work()

    def matmat(self, vectors: Tensor) -> Tensor:
        with torch.enable_grad():
            x = vectors.T.reshape(-1, *self._shape).to(self.dtype).requires_grad_()
            image = self._call(x)
            (back,) = torch.autograd.grad(image, x, image.detach())
        return self.check_product(back.flatten(1).T)


class _Calls(TorchFunctionMode):
    """Notes the linear layers and convolutions called within."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[tuple[Tensor, _Layer]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is not F.linear and func not in _CONVOLUTIONS:
            return result
        if torch._C._functorch.is_functorch_wrapped_tensor(result):
            return result  # mapped over by torch.func: no meaning outside
        if func is F.linear:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            self._note(given["weight"], _Layer(given["weight"].detach()))
        else:
            names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
            given = dict(zip(names, args, strict=False)) | kwargs
            defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
            rest = tuple(given.get(name, default) for name, default in defaults.items())
            weight = given["weight"]
            call = _Call(func, weight.detach(), rest)
            shape = tuple(given["input"].shape[1:])
            if given["input"].ndim == weight.ndim:  # else without an axis of samples
                self._note(weight, _Layer(weight.detach(), shape, call))
        return result

    def _note(self, weight: Tensor, layer: _Layer) -> None:
        same = (
            layer.shape == seen.shape
            and layer.weight.shape == seen.weight.shape
            and torch.equal(layer.weight, seen.weight)
            for _, seen in self.layers
        )
        if not any(same):
            self.layers.append((weight, layer))


def _layers(model: nn.Module, few: Tensor, patterns: Sequence[str]) -> list[_Layer]:
    """The layers in the order of their calls, of those whose weights ``patterns`` name, all if there is none.
    Raises MetricUnsupported where there are others."""
    matrices = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    for parameter in matrices.values():
        parameter.requires_grad_()
    if patterns:
        named = {id(p) for p in named_subset(model, patterns)}
        matrices = {n: p for n, p in matrices.items() if id(p) in named}
        if not matrices:
            raise MetricFailed("parameters_of names no weight matrix")
    with torch.enable_grad(), _Calls() as calls:
        model(few)
    reached: set[int] = set()
    layers = []
    for weight, layer in calls.layers:
        meant = not patterns
        if weight.requires_grad and matrices:
            found = torch.autograd.grad(
                weight.sum(), [*matrices.values()], retain_graph=True, allow_unused=True
            )
            made_of = {
                id(p) for p, g in zip(matrices.values(), found, strict=True) if g is not None
            }
            reached |= made_of
            meant = meant or bool(made_of)
        if meant:
            layers.append(layer)
    left = [name for name, p in matrices.items() if id(p) not in reached]
    if left or not layers:
        raise MetricUnsupported(
            f"not every weight matrix is seen as that of a linear layer or a convolution: "
            f"{', '.join(left[:3]) or 'there is no such layer'}"
        )
    return layers
