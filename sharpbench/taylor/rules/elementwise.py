"""Activations and what else acts number by number."""

# ruff: noqa: A002, A006 - arguments carry torch's names: torch may pass them by keyword

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sharpbench.formulas import layers
from sharpbench.taylor import series
from sharpbench.taylor.jet import Jet, aligned
from sharpbench.taylor.table import Rule, rule

__all__ = ["absolute", "elementwise", "leaky_relu", "masked", "softplus"]

aten = torch.ops.aten


def elementwise(name: str, x: Any, **parameters: float) -> Any:
    everything = tuple(range(x.degree + 1))
    return x.like(
        series.elementwise(name, x.coefficients, x.orders, x.degree, **parameters), everything
    )


def _smooth(name: str) -> Rule:
    # `inplace` is the dispatcher's business.
    return lambda input, inplace=False: elementwise(name, input)


for _name in ("tanh", "silu", "exp", "log", "sin", "cos", "sinh", "cosh"):
    rule(_name)(_smooth(_name))
rule("sigmoid", "special_expit")(_smooth("sigmoid"))
rule("erf", "special_erf")(_smooth("erf"))


@rule("gelu")
def _gelu(input: Any, approximate: str = "none") -> Any:
    if approximate == "none":
        return elementwise("gelu", input)
    return layers.gelu(input, approximate)


@rule("softplus")
def softplus(input: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    # From 20 on the threshold only saves torch rounding: see sharpbench.formulas.losses.softplus.
    threshold = threshold if threshold < 20 else math.inf
    return elementwise("softplus", input, beta=beta, threshold=threshold)


@rule("logsigmoid", "log_sigmoid")
def _logsigmoid(input: Any) -> Any:
    return -elementwise("softplus", -input, threshold=math.inf)


@rule("elu")
def _elu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    return elementwise("elu", input, alpha=alpha)


@rule("selu")
def _selu(input: Any, inplace: bool = False) -> Any:
    return 1.0507009873554805 * elementwise("elu", input, alpha=1.6732632423543772)


@rule("mish")
def _mish(input: Any, inplace: bool = False) -> Any:
    return input * elementwise("tanh", elementwise("softplus", input, threshold=math.inf))


@rule("relu")
def _relu(input: Jet, inplace: bool = False) -> Jet:
    # One fused kernel for the whole stack: each coefficient where the value is positive.
    return input.like(aten.threshold_backward(input.coefficients, input.primal.detach(), 0))


@rule("leaky_relu")
def leaky_relu(input: Jet, negative_slope: float = 0.01, inplace: bool = False) -> Jet:
    value = input.primal.detach()
    return input.like(aten.leaky_relu_backward(input.coefficients, value, negative_slope, False))


def masked(x: Jet, active: Tensor, value: Tensor) -> Jet:
    """``value`` where not active, and no derivative there."""
    c = aligned(x.coefficients, value.ndim).expand(-1, *value.shape)
    coefficients = torch.where(active, c, torch.zeros_like(c))
    return x.like(torch.cat([value.unsqueeze(0), coefficients[1:]]))


def _masked_inside(input: Jet, low: float, high: float) -> Jet:
    """Clamped, with no derivative on the bounds: torch's hardtanh, unlike its clamp."""
    inside = (input.primal > low) & (input.primal < high)
    return masked(input, inside, input.primal.clamp(low, high))


@rule("relu6")
def _relu6(input: Jet, inplace: bool = False) -> Any:
    return _masked_inside(input, 0, 6)


@rule("hardtanh", "hardtanh_")
def _hardtanh(
    input: Jet,
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
) -> Any:
    return _masked_inside(input, min_val, max_val)


def absolute(input: Jet) -> Jet:
    return input.like(input.coefficients * input.primal.detach().sign())


def _piecewise_constant(name: str) -> Rule:
    def constant(input: Jet, *args: Any, **kwargs: Any) -> Jet:
        return input.constant(getattr(torch, name)(input.primal.detach(), *args, **kwargs))

    return constant


for _name in ("sign", "floor", "ceil", "round", "trunc", "fix"):
    rule(_name)(_piecewise_constant(_name))


@rule("detach")
def _detach(input: Jet) -> Jet:
    return input.constant(input.primal.detach())
