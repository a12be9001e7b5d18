"""How fast a sequence of derivatives grows with the order."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Fit", "growth_rate"]

Fit = Literal["least_squares", "endpoints", "log_corrected"]


def growth_rate(
    orders: tuple[int, ...], y: Tensor, fit: Fit = "least_squares", weight_decay: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Slope of yₙ against n for each row of ``y`` (…, orders), and the residual's root mean square.

    ``least_squares`` and ``log_corrected`` (regressors 1, n, log n) weight order n by
    1/(1 + ``weight_decay`` n); ``endpoints`` joins the lowest and the highest order.
    """
    n = torch.tensor(orders, dtype=torch.float64, device=y.device)
    columns = [torch.ones_like(n), n]
    if fit == "log_corrected":
        columns.append(n.log())
    design = torch.stack(columns, 1)
    weights = 1 / (1 + weight_decay * n)
    if fit == "endpoints":
        weights = ((n == n.min()) | (n == n.max())).double()
    root = weights.sqrt()
    solution = torch.linalg.pinv(root.unsqueeze(1) * design) @ (root * y).mT  # (…, terms, rows)
    residual = (y - (design @ solution).mT).square().mean(-1).sqrt()
    return solution[..., 1, :], residual
