"""Training on convex combinations of samples."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpbench.seeds import derive_seed, numpy_generator, torch_generator
from sharpbench.training import recipes
from sharpbench.training.base import LossOfBatch
from sharpbench.training.based import BasedRecipe

__all__ = ["Mixup"]


@recipes.register
@dataclass(frozen=True, kw_only=True)
class Mixup(BasedRecipe):
    """Mixup: each batch is mixed with itself in another order, x ← μx + (1 − μ)x', losses alike.

    The loss is μℓ(f, y) + (1 − μ)ℓ(f, y') at the mixed point, with one μ ~ Beta(``alpha``, ``alpha``) each,
    as in the authors' code, from a random stream of its own. For real targets that is ½ squared error of the
    mixed target up to a constant. The running training loss and error are those of mixed points, the error
    with the labels y of the first of each pair; ``alpha`` = 0 mixes nothing.

    Parameters: ``base`` names the recipe whose optimizer is used, ``base_parameters`` its own parameters.
    """

    name = "mixup"
    reference = "Zhang, Cisse, Dauphin & Lopez-Paz 2018, arXiv:1710.09412"

    base: str = "adam"
    alpha: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha >= 0:
            raise ValueError(f"alpha must not be negative, got {self.alpha}")

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: LossOfBatch) -> Tensor:
        if not self.alpha:
            return super().step(model, optimizer, loss)
        seed = derive_seed(loss.seed, "mixup", loss.step)
        share = float(numpy_generator(seed).beta(self.alpha, self.alpha))
        partner = torch.randperm(len(loss.inputs), generator=torch_generator(seed))
        partner = partner.to(loss.inputs.device)

        def mixed(outputs: Tensor, targets: Tensor) -> Tensor:
            own, other = loss.loss(outputs, targets), loss.loss(outputs, targets[partner])
            return share * own + (1 - share) * other

        inputs = share * loss.inputs + (1 - share) * loss.inputs[partner]
        batch = dataclasses.replace(loss, inputs=inputs, loss=mixed)
        value = super().step(model, optimizer, batch)
        loss.outputs = batch.outputs
        return value
