"""How far products in low precision are off, by the same products in float64.

Rounding moves the network to a neighbour, whose curvature matrix is as symmetric as the network's own: that
uᵀAv is vᵀAu tells little of it (on small networks trained until confident, a tenth and less).
"""

from __future__ import annotations

import math

import torch

from sharpbench.curvature.gauss_newton_operator import GaussNewtonOperator
from sharpbench.curvature.hessian_operator import HessianOperator
from sharpbench.curvature.operator import SymmetricOperator
from sharpbench.errors import TimeLimitExceeded
from sharpbench.seeds import torch_generator

__all__ = ["of_loss_operator", "relative_rounding"]

_FEW = 64
"""Samples that tell it: of more the errors average out, if anything."""


def relative_rounding(low: SymmetricOperator, high: SymmetricOperator) -> float:
    """‖Ãv − Av‖/‖Av‖ for a random sign vector v (P,), of the products Ã in low precision and A in float64.

    The trace of à is off by about so much of ‖A‖_F.
    """
    signs = torch.randint(0, 2, (high.dimension,), generator=torch_generator(0))
    v = (2.0 * signs.double() - 1).to(high.device)
    exact = high.matvec(v)
    length = float(exact.norm())
    return float((low.matvec(v).double() - exact).norm()) / length if length > 0 else 0.0


def of_loss_operator(operator: HessianOperator | GaussNewtonOperator) -> float | None:
    """`relative_rounding` on a few of its samples; 0 in float64, None where the network doesn't run in it.

    Takes one product more in each precision.
    """
    if operator.dtype == torch.float64:
        return 0.0
    return operator.shared.once("rounding", lambda: _of_twins(operator), operator.work)


def _of_twins(operator: HessianOperator | GaussNewtonOperator) -> float | None:
    try:
        found = relative_rounding(
            operator.twin(_FEW, operator.dtype), operator.twin(_FEW, torch.float64)
        )
    except TimeLimitExceeded:
        raise
    except Exception:
        return None
    return found if math.isfinite(found) else None
