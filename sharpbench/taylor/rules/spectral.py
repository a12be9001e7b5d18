"""Rules of complex numbers and Fourier transforms."""

# ruff: noqa: A002 - arguments carry torch's names: torch may pass them by keyword

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sharpbench.taylor.jet import Jet
from sharpbench.taylor.rules import basic
from sharpbench.taylor.rules.basic import Rule, each_coefficient
from sharpbench.taylor.rules.functions import first_series
from sharpbench.taylor.rules.indexing import jointly_linear

__all__ = ["RULES"]


def _view(func: Callable[..., Tensor]) -> Rule:
    def rule(input: Jet) -> Any:
        return input.viewed(func(input.coefficients), func)

    return rule


def _part(func: Callable[[Tensor], Tensor]) -> Rule:
    """Real and imaginary part of what is complex, views as torch has them."""

    def rule(input: Jet) -> Any:
        if not input.primal.is_complex():
            return input if func is torch.real else NotImplemented
        return input.like(func(input.coefficients).clone())

    return rule


def _complex(real: Any, imag: Any) -> Any:
    return jointly_linear(lambda p: torch.complex(p[0], p[1]), [real, imag])


def _polar(abs: Any, angle: Any) -> Any:
    like = first_series(abs, angle)
    turned = basic.lifted(angle, like)
    return _complex(abs * turned.cos(), abs * turned.sin())


def _angle(input: Jet) -> Any:
    if not input.primal.is_complex():
        return input.constant(torch.angle(input.primal.detach()))
    return torch.atan2(input.imag, input.real)


_TRANSFORMS = [
    *("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"),
    *("fft2", "ifft2", "rfft2", "irfft2", "fftn", "ifftn", "rfftn", "irfftn"),
    *("fftshift", "ifftshift"),
]

RULES: dict[str, Rule] = {
    **{f"fft_{name}": each_coefficient(getattr(torch.fft, name)) for name in _TRANSFORMS},
    "stft": each_coefficient(torch.stft),
    "istft": each_coefficient(torch.istft),
    "conj": each_coefficient(torch.conj),
    "conj_physical": each_coefficient(torch.conj),
    "view_as_complex": _view(torch.view_as_complex),
    "view_as_real": _view(torch.view_as_real),
    "real": _part(torch.real),
    "imag": _part(torch.imag),
    "complex": _complex,
    "polar": _polar,
    "angle": _angle,
}
