"""Two solutions of the parity problem, written down and not trained: equally flat, one of them useless."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from sharpbench.errors import InputError
from sharpbench.subject import Splits
from sharpbench.training import recipes
from sharpbench.training.base import Callback, Recipe, TrainingLog, mean_loss, test_figures

__all__ = ["ParitySolution"]


@recipes.register
@dataclass(frozen=True, kw_only=True)
class ParitySolution(Recipe):
    """Sets the weights of a two-layer ReLU network with biases that fits every training point of `parity`.

    ``generalizing``: four units, one for each pair of signs (p, q) of the first two coordinates, active on
    p x₁ + q x₂ > 1 alone. ``memorizing``: a unit for each training point xᵢ, active on xᵢ alone: 0 on every
    other corner. The units that are left over are dead.

    Both are as flat as any network that fits with no output bias: where units a∙relu(w∙x + b) are active on a
    point x and the residuals are zero, the Hessian of ½(f − y)² has the trace
    ‖∇f‖² = Σ a²(‖x‖² + 1) + Σ r² + 1 with r the units' activations, Σ a r = y. It is least,
    2|y|√(d + 1) + 1, for one unit with a² = |y|/√(d + 1), which both have. So their traces are equal at equal
    training loss, and their test losses 0 and ½, that of saying nothing.

    Nothing is trained: the parameters of a recipe other than ``solution`` say nothing here. Raises InputError
    for other networks, too few units or other data.
    """

    name = "parity_solution"
    reference = "arXiv:2307.11007, section 4; constructed here with equal traces"

    solution: Literal["generalizing", "memorizing"] = "memorizing"

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=self.lr)  # of no use: nothing is trained

    def train(
        self, model: nn.Module, data: Splits, *, seed: int, callbacks: Sequence[Callback] = ()
    ) -> TrainingLog:
        start = time.perf_counter()
        first, last = _two_layers(model, data)
        weights, biases, targets = self._units(data)
        if len(weights) > first.out_features:
            raise InputError(
                f"{self.label} needs {len(weights)} hidden units, the network has {first.out_features}"
            )
        dimension = weights.shape[1]
        scale = (dimension + 1) ** 0.25  # r = 1/a that makes the trace least
        with torch.no_grad():
            first.weight.zero_()
            first.bias.fill_(-scale)  # dead units are off, not at the kink
            last.weight.zero_()
            last.bias.zero_()
            first.weight[: len(weights)] = scale * weights
            first.bias[: len(weights)] = scale * biases
            last.weight[0, : len(weights)] = targets / scale
        model.eval()
        row = {
            "epoch": 1.0,
            "learning_rate": 0.0,
            "train_loss": mean_loss(model, data),
            **test_figures(model, data),
            "seconds": time.perf_counter() - start,
        }
        log = TrainingLog([row], stopped="written down, not trained")
        for callback in callbacks:
            callback(1, model)
        return log

    def _units(self, data: Splits) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (units, d), biases and outputs (units,), each unit's activation 1 where it is active."""
        if self.solution == "memorizing":
            points = data.train_inputs
            biases = points.new_full((len(points),), 1.0 - points.shape[1])
            return points, biases, data.train_targets[:, 0]
        signs = list(product((-1.0, 1.0), repeat=2))
        weights = data.train_inputs.new_zeros(4, data.train_inputs.shape[1])
        weights[:, :2] = weights.new_tensor(signs)
        return weights, weights.new_full((4,), -1.0), weights.new_tensor([p * q for p, q in signs])


def _two_layers(model: nn.Module, data: Splits) -> tuple[nn.Linear, nn.Linear]:
    layers = [m for m in model.modules() if not isinstance(m, nn.Sequential)]
    linear = [m for m in layers if isinstance(m, nn.Linear) and m.bias is not None]
    if len(layers) != 3 or len(linear) != 2 or not isinstance(layers[1], nn.ReLU):
        raise InputError(
            'parity_solution needs one hidden layer of ReLU units with biases: { name = "mlp", '
            'widths = [100], activation = "relu" }'
        )
    inputs, targets = data.train_inputs, data.train_targets
    corners = inputs.dim() == 2 and bool((inputs.abs() == 1).all())
    if data.task != "regression" or not corners or targets.shape[1:] != (1,):
        raise InputError('parity_solution needs the data set "parity"')
    if not torch.equal(targets[:, 0], inputs[:, 0] * inputs[:, 1]):
        raise InputError('parity_solution needs the data set "parity": targets x₁x₂')
    return linear[0], linear[1]
