"""The path norm: what all paths through the network weigh together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sharpbench.change import Change
from sharpbench.errors import MetricFailed, MetricUnsupported
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Dtype, Metric, torch_dtype
from sharpbench.network import TOGETHER
from sharpbench.running import as_written
from sharpbench.subject import Subject
from sharpbench.truth import Known, KnownPathNorm, Truth

__all__ = ["PathNorm"]

_CHECKED = 4
"""Samples on which the paths are compared with the network itself."""


@metrics.register
@dataclass(frozen=True)
class PathNorm(Metric):
    """Path norm (Σ over paths of ∏ |w|^p)^{1/p} with p = ``order``, from every input to every output.

    The sum is what the network with |w|^p for every weight gives for an input of ones (Neyshabur et al.).
    A path's factors are the numbers that the network multiplies by between input and output: weights as
    they are used (of a layer under weight norm: those of the layer), the scale of batch norm, the 1/k of an
    average over k. ReLU and leaky ReLU count as 1; a maximum lets each of its inputs through (Gonon et al.).
    Paths that meet are added. ``biases``: those that begin at a bias, or at another constant that is added,
    count too. (The code that goes with arXiv:2010.11924 gives the square for p = 2, with biases.)

    Exact, from one pass, and without data. That the network consists of such steps alone is proven on its own
    operations: anything else that is done to what comes from the input (another activation, attention, a
    product of two signals) is refused by name; with the weights' signs the same walk must give the network's
    outputs (``network`` in ``checks``), and with other inputs it must meet the same weights and constants.

    Stays under every rescaling of units that keeps the function, for p = 1 and 2 alike.
    """

    name = "path_norm"
    title = "path norm"
    unit = "[output]/[input]"
    space = "parameter"
    reference = "Neyshabur, Tomioka & Srebro, arXiv:1503.00036; Gonon et al., arXiv:2310.01225"

    order: float = 2.0
    biases: bool = False
    dtype: Dtype = "float64"

    def __post_init__(self) -> None:
        if not 0 < self.order < float("inf"):
            raise ValueError(f"order must be positive and finite, got {self.order}")

    def unit_on(self, subject: Subject) -> str:
        return "" if self.biases else super().unit_on(subject)  # a bias has the unit of an output

    def stays_under(self, change: Change) -> bool:
        kept = change.properties
        if "logit_shift" in kept and not self.biases:
            return True
        # Each path keeps its product; other coordinates keep the weights that are used.
        return not kept.isdisjoint({"permutation", "chart"}) or kept >= {"linear_gauge", "diagonal"}

    def expected_after(self, change: Change, before: float) -> float | None:
        if change.temperature != 1:
            return before / change.temperature
        kept, scale = change.properties, change.input_scale
        if kept >= {"units", "diagonal"} and scale and scale != 1 and not self.biases:
            return before / scale
        return None

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        if not isinstance(truth, KnownPathNorm) or self.biases:
            return None
        return Known(expected=truth.path_norm(subject, self.order))

    def notes(self, details: Mapping[str, Any]) -> list[str]:
        biases = "with" if self.biases else "without"
        return [*super().notes(details), f"of order {self.order:g}, {biases} biases"]

    def unsupported(self, subject: Subject) -> str | None:
        if subject.front is not None:
            return "it takes batches, of which there is none of ones; give Subject(model, inputs, targets)"
        return None

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype = torch_dtype(self.dtype)
        model = subject.working_model(dtype)
        few = subject.inputs[:_CHECKED].to(dtype)
        if subject.coupled:
            raise MetricUnsupported(f"{TOGETHER}, so that paths lead from one to the other")
        with as_written(), torch.no_grad():
            plain = model(few)
            signed, met = _walked(model, few, None, biases=True)
            apart = float((signed - plain).abs().max() / plain.abs().max().clamp_min(1e-300))
            if not apart <= 1e3 * torch.finfo(dtype).eps:
                raise MetricFailed(
                    f"walking along the paths gives other outputs than the network (by {apart:.1e})"
                )
            if _walked(model, 0.3 - 0.5 * few, None, biases=True)[1] != met:
                raise MetricUnsupported(
                    "no path norm is known of a network whose weights or constants depend on its inputs"
                )
            ones = torch.ones_like(few[:1]).expand(2, *few.shape[1:]).contiguous()
            ending, _ = _walked(model, ones, self.order, biases=self.biases)
            total = float(ending[0].double().sum())
        return Measurement(
            value=total ** (1 / self.order),
            samples=len(few),
            work=Work(forward=3 * len(few) + 2),
            details={"checks": {"network": apart}},
        )


def _walked(
    model: nn.Module, x: Tensor, order: float | None, *, biases: bool
) -> tuple[Tensor, list[float]]:
    """What ``model`` gives for ``x`` with |w|^order for each weight, as it is for None; and the weights and
    constants that it met, by their sums."""
    walk = _Walk(x, order, biases)
    try:
        with walk:
            outputs: Tensor = model(x)
    except Exception as error:
        if walk.refused is None:
            raise
        raise walk.refused from error  # TorchScript wraps it into an error of its own
    if not walk.follows(outputs):
        raise MetricUnsupported(
            "no path norm is known of a network whose outputs can't be followed from its inputs"
        )
    return outputs, walk.met


class _Walk(TorchDispatchMode):
    """Runs a network on sums over paths: whatever comes from the input is handled by a rule of its own."""

    def __init__(self, x: Tensor, order: float | None, biases: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.order, self.biases = order, biases
        self.met: list[float] = []
        self.refused: MetricUnsupported | None = None
        self._signals: dict[int, Any] = {}  # storages, held so that none is given again
        self._note(x)

    def follows(self, tensor: Any) -> bool:
        """Whether it holds what came from the input."""
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            return False
        return tensor.untyped_storage()._cdata in self._signals

    def _note(self, result: Any) -> None:
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                if leaf.layout != torch.strided:
                    raise MetricUnsupported(
                        "no path norm is known of a network with sparse signals"
                    )
                storage = leaf.untyped_storage()
                self._signals[storage._cdata] = storage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(self.follows(leaf) for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        try:
            return self._by_rule(func, args, kwargs)
        except MetricUnsupported as reason:
            self.refused = reason
            raise

    def _by_rule(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = func.overloadpacket.__name__
        if name in _CONSTANT:
            return func(*args, **kwargs)
        in_place = name.endswith("_") and not name.startswith("_")
        rule = _RULES.get(name.removesuffix("_") if in_place else name)
        if rule is None:
            raise MetricUnsupported(
                f"no path norm is known of a network with {name.strip('_')} on the way from its inputs"
            )
        result = rule(self, func, *args, **kwargs)
        if in_place and result is not args[0]:
            result = args[0].copy_(result)
        self._note(result)
        return result

    def weight(self, value: Any) -> Any:
        """The factor of a path: |w|^order, or w itself in a walk with signs."""
        self._meet(value)
        if self.order is None:
            return value
        return abs(value) ** self.order

    def bias(self, value: Any) -> Any:
        """What a constant adds."""
        return self.weight(value) if self.biases else 0 * value

    def _meet(self, value: Any) -> None:
        self.met.append(float(value.double().sum()) if isinstance(value, Tensor) else float(value))


# --- one rule an operation ------------------------------------------------------------------------------
# Each takes the walk, torch's operation and its arguments; at least one argument is a signal.

_Rule = Callable[..., Any]


def _moved(walk: _Walk, func: Any, *args: Any, **kwargs: Any) -> Any:
    """What only moves numbers about, or adds them."""
    return func(*args, **kwargs)


def _factor(walk: _Walk, given: Tensor) -> Tensor:
    found: Tensor = given if walk.follows(given) else walk.weight(given)
    return found


def _only_one(walk: _Walk, name: str, *given: Any) -> None:
    if sum(walk.follows(g) for g in given) > 1:
        raise MetricUnsupported(
            f"no path norm is known of a network with a {name} of two signals from its inputs"
        )


def _product(walk: _Walk, func: Any, a: Tensor, b: Tensor) -> Any:
    _only_one(walk, "product", a, b)
    return func(_factor(walk, a), _factor(walk, b))


def _product_and_sum(
    walk: _Walk, func: Any, c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Any:
    _only_one(walk, "product", a, b)
    if not (walk.follows(a) or walk.follows(b)):
        product = walk.bias(func(torch.zeros_like(c), a, b))
    else:
        zero = torch.zeros((), dtype=a.dtype, device=a.device)
        product = func(zero, _factor(walk, a), _factor(walk, b))
    return _added(walk, c, product, beta, alpha, second=True)


def _added(
    walk: _Walk, a: Any, b: Any, first: Any = 1, scale: Any = 1, *, second: bool = False
) -> Any:
    """first·a + scale·b; ``second``: b is a signal whatever its storage says."""
    left = walk.weight(first) * a if walk.follows(a) else walk.bias(first * a)
    right = walk.weight(scale) * b if second or walk.follows(b) else walk.bias(scale * b)
    return left + right


def _add(walk: _Walk, func: Any, a: Any, b: Any, *, alpha: Any = 1) -> Any:
    return _added(walk, a, b, 1, alpha)


def _subtract(walk: _Walk, func: Any, a: Any, b: Any, *, alpha: Any = 1) -> Any:
    return _added(walk, a, b, 1, -alpha)


def _reverse_subtract(walk: _Walk, func: Any, a: Any, b: Any, alpha: Any = 1) -> Any:
    return _added(walk, a, b, -alpha, 1)


def _scaled(walk: _Walk, func: Any, a: Any, b: Any) -> Any:
    _only_one(walk, "product", a, b)
    return _factor(walk, a) * _factor(walk, b)


def _divided(walk: _Walk, func: Any, a: Any, b: Any, **kwargs: Any) -> Any:
    if walk.follows(b) or kwargs:
        raise MetricUnsupported("no path norm is known of a network that divides by a signal")
    return a * walk.weight(1 / b)


def _negative(walk: _Walk, func: Any, a: Tensor) -> Any:
    return a * walk.weight(-1.0)


def _mean(walk: _Walk, func: Any, a: Tensor, *args: Any, **kwargs: Any) -> Any:
    mean = func(a, *args, **kwargs)
    count = a.numel() / max(mean.numel(), 1)
    return mean if walk.order is None else mean * count ** (1 - walk.order)


def _rectified(walk: _Walk, func: Any, a: Tensor, *args: Any) -> Any:
    return func(a, *args) if walk.order is None else a.clone()


def _leaky(walk: _Walk, func: Any, a: Tensor, slope: float = 0.01) -> Any:
    if not -1 <= slope <= 1:
        raise MetricUnsupported(f"no path norm is known of a leaky ReLU with the slope {slope}")
    return _rectified(walk, func, a, slope)


def _clamped(walk: _Walk, func: Any, a: Tensor, low: Any = None, high: Any = None) -> Any:
    if low is None or isinstance(low, Tensor) or low != 0 or high is not None:
        raise MetricUnsupported("no path norm is known of a network that clamps but as ReLU does")
    return _rectified(walk, func, a, low)


def _threshold(walk: _Walk, func: Any, a: Tensor, threshold: Any, value: Any) -> Any:
    if threshold != 0 or value != 0:
        raise MetricUnsupported("no path norm is known of a threshold other than 0")
    return _rectified(walk, func, a, threshold, value)


def _convolution(
    walk: _Walk, func: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any
) -> Any:
    _only_one(walk, "convolution", x, weight)
    if not walk.follows(x):
        raise MetricUnsupported("no path norm is known of a network whose inputs are kernels")
    found = func(x, walk.weight(weight), None, *rest)
    if bias is None:
        return found
    return found + walk.bias(bias).view(-1, *[1] * (x.ndim - 2))


def _batch_norm(
    walk: _Walk,
    func: Any,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    *rest: Any,
) -> Any:
    training = rest[0] if len(rest) == 3 else False
    if training or mean is None:
        raise MetricUnsupported("no path norm is known of batch norm by the batch itself")
    scale = (variance + rest[-1]).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = (-1, *[1] * (x.ndim - 2))
    found = x * walk.weight(scale).view(shape) + walk.bias(shift).view(shape)
    others = 3 if func.overloadpacket.__name__ == "cudnn_batch_norm" else 2
    return found, *(x.new_empty(0) for _ in range(others))


def _averaged(
    walk: _Walk,
    func: Any,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    given = (kernel, stride, padding, ceil_mode, count_include_pad)
    mean = func(x, *given, divisor_override)
    if walk.order is None:
        return mean
    counts = func(torch.ones_like(x), *given, 1) / func(
        torch.ones_like(x), *given, divisor_override
    )
    return mean * counts ** (1 - walk.order)


def _averaged_adaptively(walk: _Walk, func: Any, x: Tensor, size: Sequence[int]) -> Any:
    mean = func(x, size)
    if walk.order is None:
        return mean
    places = x.shape[-len(size) :]
    if any(a % b for a, b in zip(places, size, strict=True)):
        raise MetricUnsupported(
            "no path norm is known of adaptive pooling with windows of several sizes"
        )
    return mean * (x.numel() / mean.numel()) ** (1 - walk.order)


def _maximum(
    walk: _Walk,
    func: Any,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Any:
    found = func(x, kernel, stride, padding, dilation, ceil_mode)
    if walk.order is None:
        return found
    if any(d != 1 for d in dilation):
        raise MetricUnsupported("no path norm is known of dilated pooling")
    total = F.avg_pool2d(x, [*kernel], [*stride] or None, [*padding], ceil_mode, True, 1)
    return total, found[1]


def _padded(walk: _Walk, func: Any, x: Tensor, pad: Sequence[int], value: Any = 0) -> Any:
    return func(x, pad, 0 if not value else walk.bias(value))


_CONSTANT = {
    f"{how}_{what}" if how == "new" else f"{what}_{how}"
    for how in ("new", "like")
    for what in ("empty", "zeros", "ones", "full")
}
"""What takes no more than the shape of a signal."""

_RULES: dict[str, _Rule] = {
    **dict.fromkeys(
        (
            "alias",
            "as_strided",
            "cat",
            "clone",
            "copy",
            "detach",
            "expand",
            "flip",
            "index_select",
            "permute",
            "pixel_shuffle",
            "pixel_unshuffle",
            "reflection_pad2d",
            "roll",
            "select",
            "slice",
            "split",
            "split_with_sizes",
            "squeeze",
            "stack",
            "t",
            "_to_copy",
            "transpose",
            "unbind",
            "unsafe_split",
            "unsqueeze",
            "_unsafe_view",
            "view",
            "_reshape_alias",
        ),
        _moved,
    ),
    "mm": _product,
    "bmm": _product,
    "mv": _product,
    "addmm": _product_and_sum,
    "baddbmm": _product_and_sum,
    "add": _add,
    "sub": _subtract,
    "rsub": _reverse_subtract,
    "mul": _scaled,
    "div": _divided,
    "neg": _negative,
    "sum": _moved,
    "mean": _mean,
    "relu": _rectified,
    "leaky_relu": _leaky,
    "clamp": _clamped,
    "clamp_min": _clamped,
    "threshold": _threshold,
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "cudnn_batch_norm": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "avg_pool2d": _averaged,
    "_adaptive_avg_pool2d": _averaged_adaptively,
    "max_pool2d_with_indices": _maximum,
    "constant_pad_nd": _padded,
}
