"""Curvature Rate Regularization of arXiv:2511.01438."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpbench.errors import MetricFailed
from sharpbench.formulas.context import plain_checkpoints
from sharpbench.measurement import Work
from sharpbench.subject import frozen_statistics
from sharpbench.taylor.expansion import derivatives, is_piecewise_linear, signed_sums, taylor
from sharpbench.taylor.growth import growth_rate
from sharpbench.taylor.series_check import check_series
from sharpbench.training import recipes
from sharpbench.training.base import LossOfBatch
from sharpbench.training.based import BasedRecipe

__all__ = ["CurvatureRateRegularization"]

_LossOfPoints = Callable[[Tensor, Tensor], Tensor]
"""Points and targets to the loss of each."""

_SMALLEST = 1e-12
"""Below it |dₙ| has no useful logarithm in float32."""


@recipes.register
@dataclass(frozen=True, kw_only=True)
class CurvatureRateRegularization(BasedRecipe):
    """CRR: cross-entropy plus a penalty on the input derivatives of each point's loss.

    The paper's code adds ``scale`` times the mean over the orders of mean |dₙ|, where
    dₙ = Dⁿℓ(x)[u, …, u] for one random unit direction a point: it penalises the sizes of the
    derivatives, not their growth λ. With ``target_rate`` λ* the penalty is ``scale``·(λ − λ*)²
    instead, λ the least-squares slope of mean log|dₙ| (the author's follow-up).

    Parameters: ``orders``; ``scale``; ``directions`` a point; ``fresh_directions``: an own one in each
    slot, Dⁿℓ(x)[u₁, …, uₙ], as in the paper's Two Moons and MNIST code, else one for all;
    ``penalty_batch``: the first so many points of the batch (the paper: 64 on Two Moons, 32 and 128 on
    MNIST; None: all); ``dropout`` in the penalty, ``frozen`` (off) or ``live``; ``every`` so many
    steps; ``base`` names the recipe whose optimizer is used, ``base_parameters`` its own parameters.
    """

    name = "crr"
    version = 2
    reference = "arXiv:2511.01438, sections 5.2, 5.4 and 5.6, and its code"

    base: str = "adam"
    orders: tuple[int, ...] = (2, 3)
    scale: float = 3e-3
    directions: int = 1
    fresh_directions: bool = False
    penalty_batch: int | None = 64
    dropout: Literal["frozen", "live"] = "frozen"
    every: int = 1
    target_rate: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.orders or min(self.orders) < 1:
            raise ValueError(f"orders must be at least 1, got {list(self.orders)}")
        if self.scale < 0:
            raise ValueError(f"scale must not be negative, got {self.scale}")
        for key in ("directions", "every"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, got {getattr(self, key)}")
        if self.penalty_batch is not None and self.penalty_batch < 1:
            raise ValueError(
                f"penalty_batch must be at least 1 or left out, got {self.penalty_batch}"
            )
        if self.target_rate is not None and len(set(self.orders)) < 2:
            raise ValueError("target_rate needs at least two different orders to fit a slope")

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: LossOfBatch) -> Tensor:
        if not self.scale:
            return super().step(model, optimizer, loss)
        with plain_checkpoints():  # the loss's gradients reach what the penalty's reach
            return self._step(model, optimizer, loss)

    def _step(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: LossOfBatch
    ) -> Tensor:
        if loss.step == 0:
            _refuse_backward_hooks(model)
            self._check(model, loss.inputs[:2], loss.targets[:2])
        optimizer.zero_grad()
        if loss.step % self.every:
            value = total = loss()
        elif (parts := self._parts(model, loss)) is not None:
            value, sizes = self._shared_pass(*parts, loss)
            total = value + self.scale * self._penalty_of(sizes)
        else:
            value = loss()
            total = value + self.scale * self.penalty(model, loss.inputs, loss.targets)
        total.backward()
        optimizer.step()
        return value.detach()

    def _check(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """Once a run: derivatives and their gradients by Taylor mode against other means.

        In evaluation mode, where the network is one function; raises MetricFailed. It costs about
        two steps of a small MLP, 4% of one of the paper's network (asv: CrrCheck).
        """
        training = [(module, module.training) for module in model.modules()]
        parameters = [p for p in model.parameters() if p.requires_grad]
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            u = _unit(x)
            model.eval()
            try:
                check_series(
                    lambda p: _losses(model(p), y),
                    x,
                    u,
                    max(self.orders),
                    work=Work(),
                    parameters=parameters,
                )
            except NotImplementedError as error:
                raise MetricFailed(f"CRR needs Taylor series of the network: {error}") from error
            finally:
                for module, mode in training:
                    module.training = mode

    def _parts(self, model: nn.Module, loss: LossOfBatch) -> tuple[nn.Module, nn.Sequential] | None:
        """The leading part of the network that loss and penalty have in common, and the rest.

        In one pass through it the series carries both: its coefficient 0 is the value, and a whole
        forward and backward pass is spared. None if there is no such part.
        """
        whole = self.penalty_batch is None or self.penalty_batch >= len(loss.inputs)
        if not whole or self.directions > 1 or self.fresh_directions:
            return None
        if self.dropout == "live" or not _depends_on_mode(model):
            return model, nn.Sequential()
        if type(model) is not nn.Sequential:
            return None
        place = next(i for i, child in enumerate(model) if _depends_on_mode(child))
        if not place:
            return None
        return cast("nn.Sequential", model[:place]), cast("nn.Sequential", model[place:])

    def _shared_pass(
        self, common: nn.Module, rest: nn.Sequential, loss: LossOfBatch
    ) -> tuple[Tensor, Tensor]:
        """The batch's loss, and |dₙ| (orders, points)."""
        kept: list[Tensor] = []

        def losses(points: Any) -> Any:
            series = common(points)
            # Copied: an activation that works in place must not write into the series.
            kept.append(rest(series.primal.clone()) if len(rest) else series.primal)
            rest.eval()
            try:
                return _losses(rest(series), loss.targets)
            finally:
                rest.train(loss.model.training)

        x = loss.inputs
        found = derivatives(taylor(losses, x, _unit(x), max(self.orders)))
        loss.outputs = kept[0].detach()
        return loss.loss(kept[0], loss.targets), found[list(self.orders)].abs()

    def penalty(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """mean over orders of mean |dₙ|, or (λ − λ*)² with ``target_rate``; differentiable."""
        x, y = inputs[: self.penalty_batch], targets[: self.penalty_batch]
        training = model.training
        if self.dropout == "frozen":
            model.eval()
        try:
            with frozen_statistics(model):
                sizes = self._sizes(model, x, y)
        finally:
            model.train(training)
        return self._penalty_of(sizes)

    def _penalty_of(self, sizes: Tensor) -> Tensor:
        if self.target_rate is None:
            return sizes.mean()
        logs = sizes.clamp_min(_SMALLEST).log().mean(1).double()
        rate, _ = growth_rate(self.orders, logs.unsqueeze(0))
        return (rate[0] - self.target_rate).square().to(sizes.dtype)

    def _sizes(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """|dₙ| of the wanted orders, (orders, points × directions)."""

        def losses(points: Tensor) -> Tensor:
            return _losses(model(points), y)

        found = []
        for _ in range(self.directions):
            if self.fresh_directions:
                found.append(self._mixed(model, x, y))
            else:
                everything = derivatives(taylor(losses, x, _unit(x), max(self.orders)))
                found.append(everything[list(self.orders)])
        return torch.cat(found, 1).abs()

    def _mixed(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Dⁿℓ[u₁, …, uₙ] of the wanted orders, (orders, points)."""

        def losses(points: Tensor, targets: Tensor) -> Tensor:
            return _losses(model(points), targets)

        draws = torch.stack([_unit(x) for _ in range(max(self.orders))])
        function: _LossOfPoints = losses
        points = x
        if is_piecewise_linear(model, x[:2]):
            # The outputs are linear along every direction: only the loss sees their sums.
            outputs = self._along(lambda p, _: model(p), model, x, y, draws, 1)
            function = _losses
            points, draws = outputs[0, 0], outputs[1]
        rows = []
        for n in self.orders:
            signs, sums = zip(*signed_sums(draws[:n]), strict=True)
            each = self._along(function, model, points, y, torch.stack(sums), n)[n]
            weights = torch.tensor(signs, dtype=each.dtype, device=each.device) / 2 ** (n - 1)
            rows.append(weights @ each)
        return torch.stack(rows)

    def _along(
        self,
        function: _LossOfPoints,
        model: nn.Module,
        points: Tensor,
        targets: Tensor,
        directions: Tensor,
        order: int,
    ) -> Tensor:
        """Normalised coefficients along each direction, (order + 1, directions, points, …).

        In training mode points are not independent and masks are random: there each direction has
        its own pass, all with the same masks.
        """
        if self.dropout == "frozen" or not _depends_on_mode(model):
            every = targets.repeat(len(directions), *[1] * (targets.ndim - 1))
            return taylor(lambda p: function(p, every), points, directions, order)
        mask = int(torch.randint(2**62, ()))
        found = []
        for u in directions:
            with torch.random.fork_rng(devices=[points.device] if points.is_cuda else []):
                torch.manual_seed(mask)
                found.append(taylor(lambda p: function(p, targets), points, u, order))
        return torch.stack(found, 1)


def _losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """The plain loss of each point: smoothing of labels is the training's, not the penalty's."""
    if targets.is_floating_point():
        errors = F.mse_loss(outputs, targets.reshape(len(targets), -1), reduction="none")
        return errors.sum(1) / 2
    losses = F.cross_entropy(outputs, targets, reduction="none")
    return losses if losses.ndim == 1 else losses.flatten(1).mean(1)  # of tokens their mean


def _refuse_backward_hooks(model: nn.Module) -> None:
    """Raises MetricFailed: no such hook is called for series, whatever it does to gradients."""
    for name, module in model.named_modules():
        if module._backward_hooks or module._backward_pre_hooks:
            raise MetricFailed(
                f"the part {name or type(module).__name__} of the network has a backward hook, which "
                "CRR's penalty would pass by: remove it, or put what it does into the forward pass"
            )


def _depends_on_mode(model: nn.Module) -> bool:
    """Whether training and evaluation mode may be two different functions."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)

    def depends(module: nn.Module) -> bool:
        if isinstance(module, nn.modules.dropout._DropoutNd):
            return module.p > 0
        return isinstance(module, norms) or _reads_mode(type(module))

    return any(depends(module) for module in model.modules())


def _reads_mode(kind: type[nn.Module]) -> bool:
    """Whether a method of the class looks at ``self.training``, say for torch.nn.functional.dropout."""
    own = itertools.takewhile(lambda cls: cls is not nn.Module, kind.__mro__)
    codes = (getattr(member, "__code__", None) for cls in own for member in vars(cls).values())
    return any(code is not None and "training" in code.co_names for code in codes)


def _unit(x: Tensor) -> Tensor:
    """A random unit direction a point, from the random stream of the training loop."""
    drawn = torch.randn(x.shape, dtype=x.dtype).to(x.device)
    unit: Tensor = drawn / drawn.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))
    return unit
