"""Rules of complex numbers and Fourier transforms."""

# ruff: noqa: A002 - arguments carry torch's names: torch may pass them by keyword

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sharpbench.taylor.jet import Jet
from sharpbench.taylor.rules import selections
from sharpbench.taylor.rules.functions import first_series
from sharpbench.taylor.rules.indexing import jointly_linear
from sharpbench.taylor.rules.linear import each_coefficient
from sharpbench.taylor.table import Rule, rule


def _view(func: Callable[..., Tensor]) -> Rule:
    def applied(input: Jet) -> Any:
        return input.viewed(func(input.coefficients), func)

    return applied


rule("view_as_complex")(_view(torch.view_as_complex))
rule("view_as_real")(_view(torch.view_as_real))


def _part(func: Callable[[Tensor], Tensor]) -> Rule:
    """Real and imaginary part of what is complex, views as torch has them."""

    def applied(input: Jet) -> Any:
        if not input.primal.is_complex():
            return input if func is torch.real else NotImplemented
        return input.like(func(input.coefficients).clone())

    return applied


rule("real")(_part(torch.real))
rule("imag")(_part(torch.imag))


@rule("complex")
def _complex(real: Any, imag: Any) -> Any:
    return jointly_linear(lambda p: torch.complex(p[0], p[1]), [real, imag])


@rule("polar")
def _polar(abs: Any, angle: Any) -> Any:
    like = first_series(abs, angle)
    turned = selections.lifted(angle, like)
    return _complex(abs * turned.cos(), abs * turned.sin())


@rule("angle")
def _angle(input: Jet) -> Any:
    if not input.primal.is_complex():
        return input.constant(torch.angle(input.primal.detach()))
    return torch.atan2(input.imag, input.real)


_TRANSFORMS = [
    *("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"),
    *("fft2", "ifft2", "rfft2", "irfft2", "fftn", "ifftn", "rfftn", "irfftn"),
    *("fftshift", "ifftshift"),
]

for _name in _TRANSFORMS:
    rule(f"fft_{_name}")(each_coefficient(getattr(torch.fft, _name)))
rule("stft")(each_coefficient(torch.stft))
rule("istft")(each_coefficient(torch.istft))
rule("conj")(each_coefficient(torch.conj))
rule("conj_physical")(each_coefficient(torch.conj))
