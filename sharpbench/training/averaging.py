"""Recipes whose network is an average of the iterates of another optimizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from sharpbench.subject import Splits
from sharpbench.training import recipes
from sharpbench.training.base import Iterates
from sharpbench.training.based import BasedRecipe

__all__ = ["Ema", "Swa"]


@recipes.register
@dataclass(frozen=True, kw_only=True)
class Swa(BasedRecipe):
    """Stochastic weight averaging: the network is the mean of the weights at the ends of the last epochs.

    Averaged are the epochs after the part ``start`` of ``epochs``; before it, the network is the last
    iterate. Test figures, callbacks and a ``stop_loss`` on the evaluated network are those of the average,
    the running training loss is that of the iterates. Batch normalisation's running statistics are taken
    anew for the average, over the training inputs in their order (torch.optim.swa_utils).

    Parameters: ``base`` names the recipe whose optimizer is used, ``base_parameters`` its own parameters.
    """

    name = "swa"
    reference = "Izmailov et al. 2018, arXiv:1803.05407"

    start: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.start < 1:
            raise ValueError(f"start must lie in [0, 1), got {self.start}")

    def iterates(self, model: nn.Module, data: Splits) -> Iterates:
        average = AveragedModel(model)
        return _AtEpochs(
            model, average, data.train_inputs, self.batch_size, self.start * self.epochs
        )


@recipes.register
@dataclass(frozen=True, kw_only=True)
class Ema(BasedRecipe):
    """Exponential moving average: the network is w̄ ← ``decay``·w̄ + (1 − ``decay``)·w, w after every update.

    w̄ starts at the weights after the first update. Test figures, callbacks and a ``stop_loss`` on the
    evaluated network are those of the average, the running training loss is that of the iterates. Batch
    normalisation's running statistics are taken anew for the average, over the training inputs in order.

    Parameters: ``base`` names the recipe whose optimizer is used, ``base_parameters`` its own parameters.
    """

    name = "ema"
    reference = "Polyak & Juditsky 1992; torch.optim.swa_utils"

    decay: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {self.decay}")

    def iterates(self, model: nn.Module, data: Splits) -> Iterates:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(self.decay))
        return _AtSteps(model, average, data.train_inputs, self.batch_size)


class _Averaged(Iterates, ABC):
    """The model is ``average`` where it is settled, the last iterate in between."""

    def __init__(
        self, model: nn.Module, average: AveragedModel, inputs: Tensor, batch_size: int
    ) -> None:
        self._model, self._average = model, average
        self._inputs, self._batch_size = inputs, batch_size
        self._iterate: list[Tensor] = []

    @abstractmethod
    def settle(self, epoch: int) -> None: ...

    def resume(self) -> None:
        for tensor, value in zip(self._tensors(), self._iterate, strict=bool(self._iterate)):
            tensor.copy_(value)
        self._iterate = []

    def _take(self) -> None:
        self._average.update_parameters(self._model)

    def _show(self) -> None:
        self._iterate = [tensor.clone() for tensor in self._tensors()]
        with torch.no_grad():
            for p, mean in zip(
                self._model.parameters(), self._average.module.parameters(), strict=True
            ):
                p.copy_(mean)
        update_bn(self._inputs.split(self._batch_size), self._model)

    def _tensors(self) -> list[Tensor]:
        return [t.detach() for t in (*self._model.parameters(), *self._model.buffers())]


class _AtEpochs(_Averaged):
    def __init__(
        self,
        model: nn.Module,
        average: AveragedModel,
        inputs: Tensor,
        batch_size: int,
        start: float,
    ) -> None:
        super().__init__(model, average, inputs, batch_size)
        self._start = start

    def settle(self, epoch: int) -> None:
        if epoch > self._start:
            self._take()
            self._show()


class _AtSteps(_Averaged):
    def stepped(self) -> None:
        self._take()

    def settle(self, epoch: int) -> None:
        self._show()
