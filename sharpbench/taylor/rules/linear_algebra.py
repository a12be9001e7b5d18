"""Rules of products of matrices and of linear systems: series of matrices by recurrences.

An inverse, a solution or a determinant of A(t) = Σ Aₖ tᵏ follows from A(t)·Y(t) = B(t), order by order.
"""

# ruff: noqa: A002, A006 - arguments carry torch's names: torch may pass them by keyword

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sharpbench.taylor.jet import Jet
from sharpbench.taylor.rules import arithmetic, linear
from sharpbench.taylor.rules.linear import bilinear
from sharpbench.taylor.rules.selections import lifted
from sharpbench.taylor.table import Rule, rule


def _listed(x: Jet) -> list[Tensor | None]:
    places = {order: place for place, order in enumerate(x.orders)}
    return [x.coefficients[places[n]] if n in places else None for n in range(x.degree + 1)]


def _everything(x: Jet, coefficients: list[Tensor]) -> Jet:
    return x.like(torch.stack(coefficients), tuple(range(x.degree + 1)))


def _solved(a: Jet, b: Any, solve: Callable[[Tensor, Tensor], Tensor]) -> Jet:
    """Y with A·Y = B, from ``solve(A₀, ·)``: Yₙ = A₀⁻¹(Bₙ − Σ_{k≥1} Aₖ Yₙ₋ₖ)."""
    matrices, right = _listed(a), _listed(lifted(b, a))
    found: list[Tensor] = []
    for n in range(a.degree + 1):
        rest = right[n]
        for k in range(1, n + 1):
            matrix = matrices[k]
            if matrix is not None:
                term = matrix @ found[n - k]
                rest = -term if rest is None else rest - term
        start = matrices[0]
        assert start is not None
        found.append(torch.zeros_like(found[0]) if rest is None else solve(start, rest))
    return _everything(a, found)


@rule("linalg_solve")
def _solve(A: Any, B: Any, *, left: bool = True, check_errors: bool = False) -> Any:
    if not left:
        return _solve(A.mT, B.mT).mT
    like = A if isinstance(A, Jet) else B
    a = lifted(A, like)
    vector = B.ndim == 1 or (B.ndim == A.ndim - 1 and tuple(B.shape) == tuple(A.shape[:-1]))
    right = B.unsqueeze(-1) if vector else B
    factors, pivots = torch.linalg.lu_factor(a.primal)
    found = _solved(a, right, lambda _, r: torch.linalg.lu_solve(factors, pivots, r))
    return found.squeeze(-1) if vector else found


@rule("inverse", "linalg_inv")
def _inverse(A: Jet) -> Any:
    return _solve(A, torch.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand(A.shape))


@rule("linalg_solve_triangular")
def _solve_triangular(
    A: Any, B: Any, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Any:
    if not left or unitriangular:
        return NotImplemented
    like = A if isinstance(A, Jet) else B
    a = lifted(A, like)
    a = a.triu() if upper else a.tril()
    return _solved(a, B, lambda m, r: torch.linalg.solve_triangular(m, r, upper=upper))


@rule("linalg_cholesky")
def _cholesky(A: Jet, *, upper: bool = False) -> Any:
    """L·Lᵀ = A: Lₙ = L₀·Φ(L₀⁻¹(Aₙ − Σ_{0<k<n} Lₖ Lₙ₋ₖᵀ)L₀⁻ᵀ), Φ the lower half."""
    if A.primal.is_complex():
        return NotImplemented
    matrices = _listed(A)
    start = torch.linalg.cholesky(A.primal)
    found = [start]
    for n in range(1, A.degree + 1):
        known = matrices[n]
        rest = torch.zeros_like(start) if known is None else 0.5 * (known + known.mT)
        for k in range(1, n):
            rest = rest - found[k] @ found[n - k].mT
        inner = torch.linalg.solve_triangular(start, rest, upper=False)
        inner = torch.linalg.solve_triangular(start, inner.mT, upper=False)
        half = inner.tril() - 0.5 * torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1))
        found.append(start @ half)
    result = _everything(A, found)
    return result.mT if upper else result


def _log_determinant(A: Jet, value: Tensor) -> Jet:
    """(log det A)' = tr(A⁻¹A')."""
    inverse, matrices = _listed(_inverse(A)), _listed(A)
    found = [value]
    for n in range(1, A.degree + 1):
        total = torch.zeros_like(value)
        for k in range(1, n + 1):
            left, right = inverse[n - k], matrices[k]
            if left is not None and right is not None:
                total = total + k / n * (left * right.mT).sum((-2, -1))
        found.append(total)
    return _everything(A, found)


class _SignAndLog(NamedTuple):
    sign: Any
    logabsdet: Any


@rule("linalg_slogdet", "slogdet")
def _slogdet(A: Jet) -> Any:
    if A.primal.is_complex():
        return NotImplemented
    sign, log = torch.linalg.slogdet(A.primal)
    return _SignAndLog(A.constant(sign.detach()), _log_determinant(A, log))


@rule("logdet")
def _logdet(A: Jet) -> Any:
    return _log_determinant(A, torch.logdet(A.primal))


@rule("linalg_det", "det")
def _det(A: Jet) -> Any:
    """By Leverrier's products alone where a matrix is (nearly) singular, else from its logarithm."""
    n = A.shape[-1]
    value = torch.linalg.det(A.primal)
    scale = torch.linalg.matrix_norm(A.primal.detach()).pow(n)
    if n > _SMALL and (value.detach().abs() > _SINGULAR * scale).all():
        log = _log_determinant(A, torch.zeros_like(value))
        return log.exp() * value
    if n > 2 * _SMALL:
        return NotImplemented
    eye = torch.eye(n, dtype=A.dtype, device=A.device)
    product = A
    for k in range(1, n):
        trace = product.diagonal(dim1=-2, dim2=-1).sum(-1) / k
        inner = product - trace.unsqueeze(-1).unsqueeze(-1) * eye
        product = linear.matmul(A, inner)
    return product.diagonal(dim1=-2, dim2=-1).sum(-1) * ((-1) ** (n - 1) / n)


_SMALL = 4
_SINGULAR = 1e-8


@rule("matrix_power", "linalg_matrix_power")
def _matrix_power(A: Jet, n: int) -> Any:
    if n < 0:
        return _matrix_power(_inverse(A), -n)
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand(A.shape)
    result: Any = A.constant(eye)
    for _ in range(n):
        result = linear.matmul(result, A)
    return result


def _added(product: Any, input: Any, beta: float, alpha: float) -> Any:
    scaled = product * alpha
    return scaled if beta == 0 else arithmetic.add(scaled, input * beta)


def _with_product(product: Callable[[Any, Any], Any]) -> Rule:
    """β·input + α·(a times b)."""

    def applied(input: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
        return _added(product(a, b), input, beta, alpha)

    return applied


def _matmul(a: Any, b: Any) -> Any:
    moving = isinstance(a, Jet) or isinstance(b, Jet)
    return linear.matmul(a, b) if moving else torch.matmul(a, b)


@rule("outer", "ger")
def _outer(input: Any, vec2: Any) -> Any:
    return input.unsqueeze(1) * vec2.unsqueeze(0)


def _summed_matmul(a: Any, b: Any) -> Any:
    return _matmul(a, b).sum(0)


rule("baddbmm")(_with_product(_matmul))
rule("addbmm")(_with_product(_summed_matmul))
rule("addmm")(_with_product(_matmul))
rule("addmv")(_with_product(_matmul))
rule("addr")(_with_product(_outer))


def _of_two(func: Callable[..., Tensor]) -> Rule:
    """A function that is linear in each of its first two arguments."""

    def applied(input: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
        return bilinear(lambda a, b: func(a, b, *args, **kwargs), input, other)

    return applied


rule("kron")(_of_two(torch.kron))
rule("cross")(_of_two(torch.cross))
rule("linalg_cross")(_of_two(torch.linalg.cross))
rule("inner")(_of_two(torch.inner))
rule("tensordot")(_of_two(torch.tensordot))


@rule("vdot")
def _vdot(input: Any, other: Any) -> Any:
    return bilinear(torch.vdot, input, other)


@rule("linalg_vecdot")
def _vecdot(x: Any, y: Any, *, dim: int = -1) -> Any:
    return (x.conj() * y).sum(dim)


@rule("linalg_multi_dot")
def _multi_dot(tensors: Any) -> Any:
    result = tensors[0]
    for factor in tensors[1:]:
        result = _matmul(result, factor)
    return result


@rule("bilinear")
def _bilinear_layer(input1: Any, input2: Any, weight: Any, bias: Any = None) -> Any:
    if isinstance(weight, Jet):
        return NotImplemented
    out = bilinear(lambda a, b: F.bilinear(a, b, weight), input1, input2)
    return out if bias is None else arithmetic.add(out, bias)


@rule("lerp")
def _lerp(input: Any, end: Any, weight: Any) -> Any:
    return input + weight * (end - input)


@rule("addcmul")
def _addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Any:
    return input + tensor1 * tensor2 * value


@rule("addcdiv")
def _addcdiv(input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Any:
    return input + tensor1 / tensor2 * value


rule("cholesky")(lambda input, upper=False: _cholesky(input, upper=upper))
rule("chain_matmul")(lambda *matrices: _multi_dot(matrices))
