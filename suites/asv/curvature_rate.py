"""How fast λ's derivatives and a CRR step are, as ratios measured side by side in one process.

A ratio moves less from machine to machine than a time; each side is the best of several interleaved
rounds. Less is better throughout, as asv takes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sharpbench.allocator import keep_freed_memory
from sharpbench.cost import measure_cost
from sharpbench.models import models
from sharpbench.taylor.expansion import jet
from sharpbench.training import recipes
from sharpbench.training.base import LossOfBatch

from .workloads import clock

_ROUNDS = 5


def nested_reverse(loss: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, order: int) -> None:
    """The way of the paper's code: the gradient in the whole input, once an order."""
    points = x.clone().requires_grad_()
    total = loss(points).sum()
    for _ in range(order):
        (gradient,) = torch.autograd.grad(total, points, create_graph=True)
        total = (gradient * v).sum()


def nested_forward(loss: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, order: int) -> None:
    """`torch.func.jvp` of `torch.func.jvp` …"""

    def differentiated(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda t: torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]

    along: Callable[[Tensor], Tensor] = lambda t: loss(x + t * v)  # noqa: E731
    zero = torch.zeros(())
    with torch.no_grad():
        along(zero)
        for _ in range(order):
            along = differentiated(along)
            along(zero)


def taylor_mode(loss: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, order: int) -> None:
    with torch.no_grad():
        jet(loss, x, v, order)


def forward_pass(loss: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, order: int) -> None:
    with torch.no_grad():
        loss(x)


WAYS = {f.__name__: f for f in (nested_reverse, nested_forward, taylor_mode, forward_pass)}


def as_in_a_suite() -> None:
    """One thread and the allocator of a suite's run."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    keep_freed_memory()


def problem(
    model: str, batch: int, device: str = "cpu", widths: Sequence[int] = (256, 256)
) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """The loss of a network of MNIST's shape at random points and unit directions."""
    as_in_a_suite()
    if model == "cnn":
        network = models.create("cnn").build((1, 28, 28), 10, seed=0)
    else:
        network = models.create("mlp", {"widths": list(widths)}).build((784,), 10, seed=0)
    x = torch.randn(batch, *((1, 28, 28) if model == "cnn" else (784,)))
    v = F.normalize(torch.randn_like(x).flatten(1), dim=1).view_as(x)
    y = torch.randint(10, (batch,))
    network, x, v, y = network.to(device).eval(), x.to(device), v.to(device), y.to(device)
    return lambda points: F.cross_entropy(network(points), y, reduction="none"), x, v


def best(steps: dict[str, Callable[[], None]], rounds: int = _ROUNDS) -> dict[str, float]:
    """The best of several interleaved rounds, seconds by name."""
    found = dict.fromkeys(steps, float("inf"))
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = clock()
            step()
            if number:  # the first round warms up
                found[name] = min(found[name], clock() - start)
    return found


_PRODUCTS = {
    "mm": (torch.mm, 0),
    "bmm": (torch.bmm, 0),
    "mv": (torch.mv, 0),
    "addmm": (torch.mm, 1),
    "baddbmm": (torch.bmm, 1),
    "addmv": (torch.mv, 1),
}
"""torch's products: what makes one alone, and where the factors stand among the arguments."""


class _Products(TorchDispatchMode):
    """Takes note of the matrix products and convolutions that are made within it, and makes them again."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[Callable[..., Tensor], Sequence[Any]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in _PRODUCTS:
            product, first = _PRODUCTS[name]
            self.made.append((product, [t.clone() for t in args[first : first + 2]]))
        elif name == "convolution":
            copies = [a.clone() if isinstance(a, Tensor) else a for a in args]
            self.made.append((func, [*copies[:2], None, *copies[3:]]))
        return func(*args, **(kwargs or {}))

    def again(self) -> None:
        for func, factors in self.made:
            func(*factors)


def products_alone(
    function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, order: int
) -> Callable[[], None]:
    """The matrix products that Taylor mode of ``order`` makes, one after the other and nothing else.

    Their factors are dense copies of those it had, and none of them is made twice: two coefficients through
    a layer that only the input stands before, order + 1 through the others, and in attention one product
    for each pair of coefficients whose orders add up to ``order`` at most.
    """
    with torch.no_grad(), _Products() as products:
        jet(function, x, v, order)
    return products.again


def block(name: str) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """A part of a transformer at 64 sequences of 32 vectors with 64 entries, in float32."""
    as_in_a_suite()
    x, v = torch.randn(64, 32, 64), torch.randn(64, 32, 64)
    if name == "attention":
        attention = nn.MultiheadAttention(64, 4, batch_first=True).eval()
        return lambda points: attention(points, points, points, need_weights=False)[0], x, v
    if name == "layer_norm":
        layers = [nn.Linear(64, 64), nn.LayerNorm(64), nn.Tanh(), nn.Linear(64, 64)]
        return nn.Sequential(*layers).eval(), x, v
    encoder = nn.TransformerEncoderLayer(64, 4, 256, 0.0, activation="gelu", batch_first=True)
    return encoder.eval(), x, v


class OverItsProducts:
    """Taylor mode over the matrix products that it makes, both in the same rounds."""

    params = (["mlp", "wide_mlp", "attention", "layer_norm", "encoder"], [4, 6, 7])
    param_names = ("network", "order")
    timeout = 600
    unit = "ratio"

    def setup(self, network: str, order: int, device: str = "cpu") -> None:
        if network == "mlp":
            self.problem = problem("mlp", 1000, device)
        elif network == "wide_mlp":
            self.problem = problem("mlp", 256, device, widths=(1024, 1024))
        else:
            function, x, v = block(network)
            self.problem = function, x.to(device), v.to(device)

    def track_over_products(self, network: str, order: int) -> float:
        steps = {
            "ours": lambda: taylor_mode(*self.problem, order),
            "products": products_alone(*self.problem, order),
        }
        found = best(steps, rounds=3 * _ROUNDS)
        return found["ours"] / found["products"]


class DerivativesOfTheLoss:
    """Tanh MLP 784-256-256-10, batch 1000: orders 1 … n of the loss in one direction."""

    params = ([4, 6, 7],)
    param_names = ("order",)
    timeout = 600
    unit = "ratio"

    def setup(self, order: int, device: str = "cpu") -> None:
        self.device = device
        self.loss, self.x, self.v = problem("mlp", 1000, device)

    def _seconds(self, order: int, *ways: str) -> list[float]:
        steps = {
            name: lambda way=WAYS[name]: way(self.loss, self.x, self.v, order) for name in ways
        }
        return list(best(steps).values())

    def track_forward_passes(self, order: int) -> float:
        ours, once = self._seconds(order, "taylor_mode", "forward_pass")
        return ours / once

    def track_over_nested_reverse(self, order: int) -> float:
        ours, theirs = self._seconds(order, "taylor_mode", "nested_reverse")
        return ours / theirs

    def track_over_nested_forward(self, order: int) -> float:
        if order > 4:
            return float("nan")  # minutes
        ours, theirs = self._seconds(order, "taylor_mode", "nested_forward")
        return ours / theirs

    def track_memory_of_nested_reverse(self, order: int) -> float:
        """Peak memory above what was held before: ours over nested reverse."""
        ours, theirs = (
            peak_bytes(way, order, self.device) for way in ("taylor_mode", "nested_reverse")
        )
        return ours / theirs


class PiecewiseLinear:
    """The paper's ReLU network, batch 128: the cost must not grow with the order."""

    params = ([2, 4, 8],)
    param_names = ("order",)
    unit = "forward passes"

    def setup(self, order: int, device: str = "cpu") -> None:
        self.loss, self.x, self.v = problem("cnn", 128, device)

    def track_forward_passes(self, order: int) -> float:
        found = best(
            {
                "ours": lambda: taylor_mode(self.loss, self.x, self.v, order),
                "once": lambda: forward_pass(self.loss, self.x, self.v, order),
            }
        )
        return found["ours"] / found["once"]


class Growth:
    """Order 12 against order 6 on the tanh MLP: at most quadratic is at most 4."""

    unit = "ratio"
    timeout = 600

    def track_order_12_over_6(self) -> float:
        loss, x, v = problem("mlp", 500)
        found = best({str(n): lambda n=n: taylor_mode(loss, x, v, n) for n in (6, 12)})
        return found["12"] / found["6"]


class CrrStep:
    """A training step with orders 1–4 of the paper's network at batch 128 over a SAM step."""

    params = (["relu", "tanh", "gelu"], ["live", "frozen"])
    param_names = ("activation", "dropout")
    timeout = 600
    unit = "SAM steps"

    def track_over_sam(self, activation: str, dropout: str, device: str = "cpu") -> float:
        as_in_a_suite()
        x, y = torch.randn(128, 1, 28, 28).to(device), torch.randint(10, (128,)).to(device)
        penalty = {"orders": [1, 2, 3, 4], "penalty_batch": None, "dropout": dropout}
        steps: dict[str, Callable[[], None]] = {}
        for name, parameters in (("sam", {"base": "adam"}), ("crr", penalty)):
            network = models.create("cnn", {"activation": activation})
            network = network.build((1, 28, 28), 10, seed=0).train().to(device)
            recipe = recipes.create(name, {"lr": 1e-3, **parameters})
            optimizer = recipe.optimizer(list(network.parameters()))
            number = itertools.count()  # only the step 0, which warms up, makes CRR's check
            steps[name] = lambda r=recipe, n=network, o=optimizer, i=number: r.step(
                n, o, LossOfBatch(n, F.cross_entropy, x, y, next(i))
            )
        found = best(steps)
        return found["crr"] / found["sam"]


class CrrCheck:
    """CRR's check of its derivatives, made once a training, over one of its steps at batch 128."""

    params = (["mlp", "cnn"],)
    param_names = ("model",)
    unit = "CRR steps"

    def track_check(self, model: str) -> float:
        as_in_a_suite()
        x, y = torch.randn(128, 1, 28, 28), torch.randint(10, (128,))
        network = models.create(model).build((1, 28, 28), 10, seed=0).train()
        recipe = recipes.create("crr", {"lr": 1e-3})
        optimizer = recipe.optimizer(list(network.parameters()))

        def step(number: int) -> None:
            recipe.step(network, optimizer, LossOfBatch(network, F.cross_entropy, x, y, number))

        found = best({"first": lambda: step(0), "later": lambda: step(1)})
        return (found["first"] - found["later"]) / found["later"]


def peak_bytes(way: str, order: int, device: str = "cpu") -> int:
    """Memory held at the peak of one call above what was held before."""
    loss, x, v = problem("mlp", 1000, device)
    _, cost = measure_cost(lambda: WAYS[way](loss, x, v, order), repeats=0, device=x.device)
    assert cost.peak_bytes is not None, "this system doesn't tell the peak of a process' memory"
    return max(cost.peak_bytes, 1)
