"""Penalties on first derivatives, by double backpropagation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.running import as_written
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.training import recipes
from sharpbench.training.base import LossOfBatch
from sharpbench.training.based import BasedRecipe

__all__ = ["GradientNormPenalty", "InputGradientPenalty", "JacobianPenalty"]


@dataclass(frozen=True, kw_only=True)
class _Penalised(BasedRecipe, ABC):
    """The base optimizer steps on the training loss plus ``scale`` times a penalty, both of one pass."""

    base: str = "adam"
    scale: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale < 0:
            raise ValueError(f"scale must not be negative, got {self.scale}")

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: LossOfBatch) -> Tensor:
        if not self.scale:
            return super().step(model, optimizer, loss)
        with repeatedly_differentiable(), as_written():
            optimizer.zero_grad()
            value, penalty = self.loss_and_penalty(loss)
            (value + self.scale * penalty).backward()
        optimizer.step()
        return value.detach()

    @abstractmethod
    def loss_and_penalty(self, loss: LossOfBatch) -> tuple[Tensor, Tensor]:
        """The batch's mean training loss and the penalty, both with their graphs."""


@recipes.register
@dataclass(frozen=True, kw_only=True)
class GradientNormPenalty(_Penalised):
    """Penalises the gradient in the weights: loss + ``scale``·‖∇_w L‖₂ᵖ of each batch, p = ``power``.

    p = 1 is the penalty of which SAM is an approximation (Zhao et al.), p = 2 that of implicit gradient
    regularization (Barrett & Dherin: steps of length h add h/4 by themselves). Exact, by double
    backpropagation through the batch's own pass.

    Parameters: ``base`` names the recipe whose optimizer is used, ``base_parameters`` its own parameters.
    """

    name = "gradient_norm_penalty"
    reference = (
        "Zhao et al. 2022, arXiv:2202.03599; power 2: Barrett & Dherin 2021, arXiv:2009.11162"
    )

    power: Literal[1, 2] = 1

    def loss_and_penalty(self, loss: LossOfBatch) -> tuple[Tensor, Tensor]:
        parameters = [p for p in loss.model.parameters() if p.requires_grad]
        value = loss()
        gradient = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
        sizes = torch.stack([torch.linalg.vector_norm(g) for g in gradient])
        return value, torch.linalg.vector_norm(sizes) ** self.power


@recipes.register
@dataclass(frozen=True, kw_only=True)
class InputGradientPenalty(_Penalised):
    """Double backpropagation: loss + ``scale``·mean ‖∇ₓℓ‖₂ᵖ, of each point's training loss in its input.

    p = ``power``; Drucker & LeCun's penalty is p = 2 with ``scale`` ½ of theirs. Exact, through the batch's
    own pass: with its dropout masks, and where batch normalisation couples points the gradient of the batch's
    summed loss. Label smoothing is in ℓ.

    Parameters: ``base`` names the recipe whose optimizer is used, ``base_parameters`` its own parameters.
    """

    name = "input_gradient_penalty"
    reference = "Drucker & LeCun 1992, IEEE Trans. Neural Networks 3(6); Ross & Doshi-Velez, arXiv:1711.09404"

    power: Literal[1, 2] = 2

    def loss_and_penalty(self, loss: LossOfBatch) -> tuple[Tensor, Tensor]:
        points = _differentiated(loss)
        value = loss()
        (gradient,) = torch.autograd.grad(
            value * len(points), points, create_graph=True, materialize_grads=True
        )
        sizes = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        return value, (sizes**self.power).mean()


@recipes.register
@dataclass(frozen=True, kw_only=True)
class JacobianPenalty(_Penalised):
    """Jacobian regularization: loss + ``scale``·mean ‖J(x)‖_F², J the outputs' derivative in the input.

    ‖J‖_F² is estimated without bias by C·‖vᵀJ‖² with ``projections`` random unit vectors v in the space of
    the C outputs, fresh for each point and step, from a random stream of their own; "all": exactly, by C
    backward passes. Hoffman et al. write λ/2 for ``scale``. Through the batch's own pass: with its dropout
    masks, and where batch normalisation couples points the derivative of the batch's summed outputs.

    Parameters: ``base`` names the recipe whose optimizer is used, ``base_parameters`` its own parameters.
    """

    name = "jacobian_penalty"
    reference = "Hoffman, Roberts & Yaida 2019, arXiv:1908.02729"

    projections: int | Literal["all"] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.projections != "all" and self.projections < 1:
            raise ValueError(f'projections must be at least 1 or "all", got {self.projections}')

    def loss_and_penalty(self, loss: LossOfBatch) -> tuple[Tensor, Tensor]:
        points = _differentiated(loss)
        outputs = loss.model(loss.inputs)
        loss.outputs = outputs.detach()
        rows = outputs.reshape(len(outputs), -1)
        total = outputs.new_zeros(())
        for v in self._vectors(rows, loss):
            (pulled,) = torch.autograd.grad(
                rows, points, v, create_graph=True, materialize_grads=True
            )
            total = total + pulled.square().sum()
        return loss.loss(outputs, loss.targets), total / len(points)

    def _vectors(self, rows: Tensor, loss: LossOfBatch) -> list[Tensor]:
        """v of each point, (N, C) each, so scaled that Σ‖vᵀJ‖² has the mean ‖J‖_F²."""
        outputs = rows.shape[1]
        if self.projections == "all":
            return list(torch.eye(outputs).to(rows)[:, None].expand(-1, len(rows), -1))
        generator = torch_generator(derive_seed(loss.seed, "projections", loss.step))
        drawn = torch.randn(self.projections, *rows.shape, generator=generator, dtype=rows.dtype)
        unit = drawn / drawn.norm(dim=2, keepdim=True)
        return list((unit * (outputs / self.projections) ** 0.5).to(rows.device))


def _differentiated(loss: LossOfBatch) -> Tensor:
    """The batch's inputs as what is differentiated in; the network is given a copy, to write into."""
    points = loss.inputs.detach().requires_grad_()
    loss.inputs = points.clone()
    return points
