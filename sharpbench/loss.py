"""Losses: one value a sample, whatever a user gave, and no reduction or broadcast in silence."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpbench.errors import InputError, first_line
from sharpbench.formulas.log_softmax import cross_entropy

__all__ = [
    "GivenAsLoss",
    "Loss",
    "PerSampleLoss",
    "Reads",
    "ScaledLoss",
    "Task",
    "TokenLoss",
    "agree",
    "as_module",
    "check_range",
    "ignore_index",
    "is_cross_entropy",
    "is_tensor_like",
    "labels_of",
    "of_torch",
    "on_test_data",
    "per_sample_loss",
    "reads",
    "reduces",
    "resolve_loss",
    "unreduced",
    "with_reduction",
]

Task = Literal["classification", "regression"]
Loss = Callable[[Tensor, Tensor], Tensor]
"""``loss(outputs, targets) -> (N,)``: one value a sample; the training loss is its mean."""
Reads = Literal["classes", "values", "anything"]
"""What a loss takes as targets: class ids (N,), reals of the outputs' shape, or what only it knows."""

_ELEMENTWISE = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.SoftMarginLoss,
    nn.PoissonNLLLoss,
    nn.KLDivLoss,
)
_OF_LABELS: dict[type[nn.Module], tuple[float, float]] = {
    nn.BCEWithLogitsLoss: (0.0, 1.0),
    nn.MultiLabelSoftMarginLoss: (0.0, 1.0),
    nn.SoftMarginLoss: (-1.0, 1.0),
}
"""Those whose outputs are logits of yes or no, and what no and yes are among the targets."""
_RANGES: dict[type[nn.Module], tuple[float, float, str]] = {
    nn.BCEWithLogitsLoss: (0.0, 1.0, ": (targets + 1) / 2 for −1 and 1, targets / 255 for a mask"),
    nn.BCELoss: (0.0, 1.0, ": (targets + 1) / 2 for −1 and 1, targets / 255 for a mask"),
    nn.MultiLabelSoftMarginLoss: (0.0, 1.0, ": (targets + 1) / 2 for −1 and 1"),
    nn.SoftMarginLoss: (-1.0, 1.0, ": 2 * targets − 1 for 0 and 1"),
    nn.HingeEmbeddingLoss: (-1.0, 1.0, ": 2 * targets − 1 for 0 and 1"),
    nn.CrossEntropyLoss: (0.0, 1.0, ": real targets are probabilities, class ids are integers"),
    nn.KLDivLoss: (0.0, 1.0, ": they are probabilities; their logarithms take log_target=True"),
    nn.PoissonNLLLoss: (0.0, math.inf, ": they are counts"),
}
"""Which targets a loss is defined for, and what may be meant by others."""
_OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
_DIVIDED_BY_WEIGHTS = (nn.CrossEntropyLoss, nn.NLLLoss)
"""torch divides their weighted sum by the sum of the weights of the samples' classes."""

_REDUCTIONS = {"mean", "batchmean", "sum"}

_MODULES: dict[Any, type[nn.Module]] = {
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
    F.multi_margin_loss: nn.MultiMarginLoss,
    F.mse_loss: nn.MSELoss,
    F.l1_loss: nn.L1Loss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.huber_loss: nn.HuberLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    F.soft_margin_loss: nn.SoftMarginLoss,
    F.poisson_nll_loss: nn.PoissonNLLLoss,
    F.kl_div: nn.KLDivLoss,
}


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs, targets, reduction="none")


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """½‖f(x) − y‖² a sample, so that the Hessian of a linear model is XᵀX/N."""
    if outputs.shape != targets.shape:
        # (N,) and (N, 1) are the same numbers; anything else would be broadcast or mixed up.
        if outputs.shape.numel() != len(outputs) or targets.shape.numel() != len(outputs):
            raise InputError(_unequal(outputs, targets))
        targets = targets.reshape(outputs.shape)
    return 0.5 * (outputs - targets).square().reshape(len(outputs), -1).sum(1)


def per_sample_loss(task: Task) -> Loss:
    """Cross-entropy for class targets, ½ squared error for real ones; both return (N,)."""
    return _cross_entropy if task == "classification" else _squared_error


def as_module(loss: Any) -> Any:
    """torch's functional losses as the module that means the same; everything else as it is."""
    if isinstance(loss, PerSampleLoss):
        return loss.original
    if isinstance(loss, partial) and not loss.args and loss.func in _MODULES:
        return _MODULES[loss.func](**loss.keywords)
    try:
        return _MODULES[loss]() if loss in _MODULES else loss
    except TypeError:  # not hashable
        return loss


def of_torch(loss: Any) -> bool:
    """Whether a loss is one of torch's modules, whose reductions are known."""
    return isinstance(loss, nn.Module) and type(loss).__module__.partition(".")[0] == "torch"


def reduces(loss: Any) -> bool:
    """Whether a loss is a module that says that it gives a mean or a sum."""
    return isinstance(loss, nn.Module) and getattr(loss, "reduction", "none") in _REDUCTIONS


def with_reduction(loss: Any, reduction: str) -> Any:
    """A copy of a loss with this reduction."""
    twin = copy.deepcopy(loss)
    twin.reduction = reduction
    return twin


def unreduced(loss: Any) -> Any:
    """What gives all values of a loss that may reduce them, its own tensors in the precision of outputs."""
    if not isinstance(loss, nn.Module):
        return loss
    return PerSampleLoss(loss, with_reduction(loss, "none") if reduces(loss) else loss).values


def reads(loss: Any, targets: Tensor) -> Reads:
    """What ``loss`` takes as targets."""
    if isinstance(loss, ScaledLoss):
        return reads(loss.loss, targets)
    loss = as_module(loss)
    if loss is _cross_entropy or (
        isinstance(loss, _OF_CLASSES)
        # torch takes class probabilities in cross-entropy too
        and not (isinstance(loss, nn.CrossEntropyLoss) and targets.is_floating_point())
    ):
        return "classes"
    if loss is _squared_error or isinstance(loss, (*_ELEMENTWISE, nn.CrossEntropyLoss)):
        return "values"
    return "anything"


def ignore_index(loss: Any) -> int | None:
    """The target of samples that ``loss`` leaves out; torch's own default for the default loss."""
    if isinstance(loss, ScaledLoss):
        return ignore_index(loss.loss)
    if isinstance(loss, TokenLoss):
        return loss.ignore if loss.function is None else None
    loss = as_module(loss)
    if loss is _cross_entropy:
        return -100
    index = getattr(loss, "ignore_index", None) if isinstance(loss, _OF_CLASSES) else None
    return index if isinstance(index, int) else None


def is_cross_entropy(loss: Any) -> bool:
    """Whether it is torch's or the own one."""
    return loss is _cross_entropy or isinstance(loss, nn.CrossEntropyLoss)


def check_range(loss: Any, targets: Tensor) -> None:
    """Raises InputError where ``targets`` are none that a loss of torch is defined for: torch takes them, and
    the figure is that of no such loss."""
    if isinstance(loss, ScaledLoss):
        return check_range(loss.loss, targets)
    if isinstance(loss, TokenLoss):
        loss = loss.original
    loss = as_module(loss)
    if not targets.is_floating_point() and isinstance(loss, nn.CrossEntropyLoss):
        return None
    limits = next((span for kind, span in _RANGES.items() if isinstance(loss, kind)), None)
    if limits is None or targets.is_complex() or (getattr(loss, "log_target", False)):
        return None
    low, high, hint = limits
    least, most = float(targets.min()), float(targets.max())
    ends = isinstance(loss, (nn.SoftMarginLoss, nn.HingeEmbeddingLoss))
    if least < low or most > high or (ends and bool((targets.abs() != 1).any())):
        between = f"from {low:g} to {high:g}" if high < math.inf else f"from {low:g}"
        between = f"{low:g} and {high:g}" if ends else between
        raise InputError(
            f"{type(loss).__name__} reads targets {between}, and these go from {least:g} to {most:g}{hint}"
        )
    return None


def labels_of(loss: Any) -> tuple[float, float] | None:
    """The targets that mean no and yes, of a loss whose outputs are logits of such labels."""
    if isinstance(loss, ScaledLoss):
        return labels_of(loss.loss)
    if isinstance(loss, TokenLoss) and loss.function is not None:
        loss = loss.original
    return _OF_LABELS.get(type(as_module(loss)))


@dataclass(frozen=True)
class PerSampleLoss:
    """A loss given by the user, as one value a sample whose mean is the training loss.

    ``original``: what was given. ``function``: its form without reduction. ``mean_over_rest``: what a
    sample's several values become, their mean or their sum; None: several are refused.
    ``normaliser``: what each value is divided by, on test data ``test_normaliser``. ``flat``: the network
    gives (N,), which metrics see as (N, 1); ``original`` gets what the network gave.
    """

    original: Any
    function: Any
    over_rest: Literal["mean", "sum"] | None = None
    normaliser: float = 1.0
    test_normaliser: float | None = None
    flat: bool = False
    _placed: dict[tuple[torch.dtype, torch.device], Any] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        samples = len(outputs)
        losses = self.values(outputs, targets)
        if self.over_rest is not None and losses.ndim > 1 and len(losses) == samples:
            rest = losses.flatten(1)
            losses = rest.mean(1) if self.over_rest == "mean" else rest.sum(1)
        losses = _one_a_sample(losses, samples)
        return losses if self.normaliser == 1 else losses / self.normaliser

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What ``function`` returns."""
        try:
            losses = self._in(outputs)(outputs.squeeze(1) if self.flat else outputs, targets)
        except RuntimeError as error:
            if isinstance(self.original, nn.BCELoss) and "between 0 and 1" in str(error):
                raise InputError(
                    "BCELoss reads probabilities, from 0 to 1, and the network gives others for some of the "
                    "samples: for logits give loss=torch.nn.BCEWithLogitsLoss()"
                ) from error
            raise
        if not is_tensor_like(losses):
            raise InputError(
                f"the loss returned a {type(losses).__name__}; it must return a tensor of shape (N,)"
            )
        return losses

    @property
    def name(self) -> str:
        return getattr(self.original, "__name__", type(self.original).__name__)

    def _in(self, outputs: Tensor) -> Any:
        """The function with its own tensors (class weights) in the outputs' precision."""
        if not isinstance(self.function, nn.Module):
            return self.function
        key = (outputs.dtype, outputs.device)
        if key not in self._placed:
            self._placed[key] = copy.deepcopy(self.function).to(outputs.device, outputs.dtype)
        return self._placed[key]


@dataclass(frozen=True)
class TokenLoss:
    """The sum of the losses of a sample's tokens (or pixels), times ``scale`` (of test data ``test_scale``),
    (N,).

    ``function(outputs, targets)`` gives one value a token: (N, K) or (N, …), 0 where it is to be ignored.
    None: cross-entropy of outputs (N, C, K) and classes (N, K), with ``weight`` (C,) and ``smoothing``, and 0
    where a target is ``ignore``. ``original``: what was given.
    """

    scale: float = 1.0
    function: Any = None
    ignore: int = -100
    weight: Tensor | None = None
    smoothing: float = 0.0
    original: Any = None
    test_scale: float | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.function is not None:
            losses = self.function(outputs, targets)
        else:
            losses = cross_entropy(
                outputs,
                targets,
                weight=None if self.weight is None else self.weight.to(outputs),
                ignore_index=self.ignore,
                reduction="none",
                label_smoothing=self.smoothing,
            )
        if not is_tensor_like(losses) or losses.ndim == 0 or len(losses) != len(outputs):
            raise InputError(
                "the loss returned one number; it must return one value a sample or a token, (N, …): use "
                "reduction='none'"
            )
        total: Tensor = losses.reshape(len(outputs), -1).sum(1)
        return total if self.scale == 1 else total * self.scale

    @property
    def name(self) -> str:
        return getattr(self.original, "__name__", type(self.original).__name__)


@dataclass(frozen=True)
class ScaledLoss:
    """``factor`` times another per-sample loss (N,), of test data ``test_factor`` times."""

    loss: Loss
    factor: float
    test_factor: float | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(outputs, targets) * self.factor


@dataclass(frozen=True)
class GivenAsLoss:
    """A loss of model and batch stands in the outputs' place, (N, 1): this takes it as it is."""

    original: Any = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.squeeze(1)


def on_test_data(loss: Loss) -> Loss:
    """The same loss of the test data, whose mean has a normaliser of its own; or ``loss`` itself."""
    if isinstance(loss, ScaledLoss):
        inner = on_test_data(loss.loss)
        factor = loss.factor if loss.test_factor is None else loss.test_factor
        same = inner is loss.loss and factor == loss.factor
        return loss if same else ScaledLoss(inner, factor)
    if isinstance(loss, TokenLoss) and loss.test_scale not in (None, loss.scale):
        return dataclasses.replace(loss, scale=loss.test_scale, test_scale=None)
    if isinstance(loss, PerSampleLoss) and loss.test_normaliser not in (None, loss.normaliser):
        return dataclasses.replace(
            loss, normaliser=loss.test_normaliser, test_normaliser=None, _placed={}
        )
    return loss


_OWN = (TokenLoss, ScaledLoss, GivenAsLoss)
"""Losses that are made here, fitted to their data already."""


def resolve_loss(
    loss: Any,
    outputs: Tensor,
    targets: Tensor,
    all_targets: Tensor,
    test_targets: Tensor | None = None,
    *,
    flat: bool,
) -> Loss:
    """``loss`` as one value a sample, tried on a few ``outputs`` beside ``targets`` that tell (`telling`), as
    many as these.

    - sharpbench's own losses stay; torch's plain cross-entropy is the own one.
    - A torch module (or function, or a module of the user's with the attribute ``reduction``) that
      returns a mean is run without reduction; the values of one sample are averaged as its mean does.
      Class weights: each weighted value is divided by the mean weight of ``all_targets``, so that the
      mean over them is torch's, and of the test data by that of ``test_targets``. A loss that has them
      already keeps its normalisers.
    - Everything else must return (N,), sample by sample; (N, 1) is taken for (N,).

    Raises InputError for a scalar, another shape, values that depend on the other samples, a sum, or a
    mean that is not that of single samples.
    """
    known = loss if isinstance(loss, PerSampleLoss) else None
    loss = as_module(loss)
    if isinstance(loss, TokenLoss) and loss.function is not None:
        _check_by_sample(loss, outputs, targets)
    if loss is _cross_entropy or loss is _squared_error or isinstance(loss, _OWN):
        own: Loss = loss
        return own
    if not callable(loss):
        raise InputError(
            f"the loss must be callable, got a {type(loss).__name__}: loss=torch.nn.CrossEntropyLoss(), or "
            "another of torch's or your own"
        )
    if isinstance(loss, type) and issubclass(loss, nn.Module):
        raise InputError(f"the loss is the class {loss.__name__}: give an instance of it")
    if type(loss) is nn.CrossEntropyLoss and not targets.is_floating_point():
        plain = loss.weight is None and loss.label_smoothing == 0
        if plain and loss.reduction != "sum":
            return _cross_entropy
    reduction = getattr(loss, "reduction", None) if isinstance(loss, nn.Module) else None
    resolved = PerSampleLoss(loss, loss, flat=flat and not isinstance(loss, _ELEMENTWISE))
    if reduction == "sum":
        raise InputError(
            f"{type(loss).__name__} sums over the samples, and a subject's loss is the mean over "
            "them: give it reduction='mean' or 'none'"
        )
    if reduction in {"mean", "batchmean"}:
        over: Literal["mean", "sum"] = "mean" if reduction == "mean" else "sum"
        resolved = PerSampleLoss(loss, with_reduction(loss, "none"), over, flat=resolved.flat)
        weight = getattr(loss, "weight", None)
        if (
            isinstance(loss, _DIVIDED_BY_WEIGHTS)
            and isinstance(weight, Tensor)
            and not targets.is_floating_point()
        ):
            weight = weight.to(outputs.device, torch.float64)
            _check_same(resolved, outputs, targets, float(weight[targets].mean()))
            normaliser = known.normaliser if known else _mean_weight(weight, all_targets, "")
            of_test = known.test_normaliser if known else None
            if of_test is None and test_targets is not None:
                of_test = _mean_weight(weight, test_targets, "test ")
            return dataclasses.replace(resolved, normaliser=normaliser, test_normaliser=of_test)
        _check_same(resolved, outputs, targets, 1.0)
    _check_by_sample(resolved, outputs, targets)
    return resolved


def _mean_weight(weight: Tensor, targets: Tensor, of: str) -> float:
    """Of the classes of ``targets``, which torch's mean is divided by."""
    found = float(weight[targets].mean())
    if not found > 0:
        raise InputError(f"the class weights of the {of}targets add up to nothing")
    return found


def _check_same(
    resolved: PerSampleLoss, outputs: Tensor, targets: Tensor, normaliser: float
) -> None:
    """The mean of the single values is the mean that the given loss returns."""
    mean = _evaluated(resolved, outputs, targets).mean() / normaliser
    reduced = dataclasses.replace(resolved, function=resolved.original, _placed={})
    given = _tried(reduced.values, outputs, targets, resolved.name)
    values = _tried(resolved.values, outputs, targets, resolved.name)
    if given.ndim or not agree(mean, given.to(mean), values):
        of_tokens = "normaliser='tokens' for a mean over tokens, or " if targets.ndim > 1 else ""
        raise InputError(
            f"the mean that {resolved.name} returns is not the mean of its values without "
            f"reduction ({given.tolist()} and {float(mean):g}): give {of_tokens}a loss that returns one "
            "value a sample, shape (N,)"
        )


def _check_by_sample(loss: PerSampleLoss | TokenLoss, outputs: Tensor, targets: Tensor) -> None:
    """One value a sample, which doesn't depend on the others."""
    every = _evaluated(loss, outputs, targets)
    for size in {len(every) - 1, (len(every) + 1) // 2, 2}:
        fewer = _evaluated(loss, outputs[:size], targets[:size])
        if not agree(fewer, every[:size], every):
            raise InputError(
                f"the loss {loss.name} of a sample depends on which other samples are beside it: give a loss "
                "whose value (N,) is each sample's own, or one of the model and the batch to "
                "Subject.from_batches, loss=lambda model, batch: …, which is that of its whole batch"
            )


def agree(one: Tensor, other: Tensor, values: Tensor) -> bool:
    """Whether losses are the same as far as rounding allows, among ``values`` of their size."""
    sizes = values.detach().abs().nan_to_num(0.0, 0.0, 0.0)
    size = float(sizes.max()) if sizes.numel() else 0.0
    return torch.allclose(one, other, rtol=1e-3, atol=1e-6 * size, equal_nan=True)


def _evaluated(loss: PerSampleLoss | TokenLoss, outputs: Tensor, targets: Tensor) -> Tensor:
    return _tried(loss, outputs, targets, loss.name)


def _tried(loss: Loss, outputs: Tensor, targets: Tensor, name: str) -> Tensor:
    try:
        return loss(outputs, targets).detach()
    except InputError:
        raise
    except Exception as error:
        hint = _of_sample_weights(loss, outputs)
        if isinstance(loss, PerSampleLoss) and not isinstance(loss.original, nn.Module):
            hint = (
                "; it is called as loss(outputs, targets), and one of model and batch is told by the name of "
                "its first argument, model"
            )
        elif isinstance(error, TypeError):
            hint = "; one that takes more than outputs and targets is loss=lambda model, batch: …"
        raise InputError(
            f"the loss {name} can't be evaluated on outputs {tuple(outputs.shape)} and "
            f"targets {targets.dtype} {tuple(targets.shape)}: {first_line(error)}{hint}"
        ) from error


def _of_sample_weights(loss: Loss, outputs: Tensor) -> str:
    """What to write where a module of torch holds a weight for each sample, as it seems."""
    module = loss.original if isinstance(loss, PerSampleLoss) else None
    for name in ("weight", "pos_weight"):
        held = getattr(module, name, None)
        if (
            isinstance(module, _ELEMENTWISE)
            and isinstance(held, Tensor)
            and held.ndim
            and len(held) not in (1, *outputs.shape[1:])
        ):
            return (
                f"; its {name} {tuple(held.shape)} goes with one batch alone: keep what belongs to samples "
                "in the batches, [{'x': …, 'weight': …, 'y': …}], and give loss=lambda model, batch: "
                "(batch['weight'] * …(model(batch['x']), batch['y'], reduction='none')).flatten(1).mean(1)"
            )
    return ""


def _one_a_sample(losses: Tensor, samples: int) -> Tensor:
    if losses.ndim == 1 and len(losses) == samples:
        return losses
    if losses.shape.numel() == samples and (losses.ndim == 0 or len(losses) == samples):
        return losses.reshape(samples)
    if losses.ndim == 0:
        raise InputError(
            "the loss returned one number (a mean or a sum over the samples); it must return one value "
            "a sample, shape (N,): use reduction='none', or give one of the model and the batch to "
            "Subject.from_batches, loss=lambda model, batch: …, whose number is the mean over its batch"
        )
    raise InputError(
        f"the loss returned the shape {tuple(losses.shape)} for {samples} samples; it must return "
        f"one value a sample, shape (N,): take the sum or the mean over the other axes, "
        "e.g. lambda f, y: loss(f, y).flatten(1).sum(1)"
    )


def _unequal(outputs: Tensor, targets: Tensor) -> str:
    return (
        f"real targets must have the outputs' shape, for nothing is broadcast: outputs "
        f"(N, {', '.join(map(str, outputs.shape[1:]))}), targets "
        f"(N, {', '.join(map(str, targets.shape[1:]))})"
    )


def is_tensor_like(value: Any) -> TypeGuard[Tensor]:
    """A tensor, or what torch's functions take for one (a series of Taylor mode)."""
    return isinstance(value, Tensor) or hasattr(type(value), "__torch_function__")
