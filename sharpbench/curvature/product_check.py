"""One product of an operator beside differences of first derivatives, on a few samples in float64.

A product is torch's derivative of torch's derivative: what an operation's own backward pass leaves out or
gets wrong stays in it in silence. Differences of gradients see it; the Gauss-Newton matrix, whose Jacobian is
the one that backward() gives, is held to plain backward passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from sharpbench.curvature.operator import coordinates
from sharpbench.errors import MetricFailed, TimeLimitExceeded, in_words
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.measurement import Work
from sharpbench.precision import Precisions, Widened
from sharpbench.seeds import generator_there, torch_generator
from sharpbench.subject import Loss

__all__ = [
    "Checks",
    "Direction",
    "LinearPart",
    "OfInputs",
    "OfParameters",
    "OfSecondOrder",
    "added",
    "check_blocks",
    "check_gauss_newton",
    "check_hessian",
    "check_input_hessian",
    "own_functions",
    "where_it_runs",
]

Checks = dict[str, float | str]

_FEW = 4


@dataclass(frozen=True)
class _Accuracy:
    """What differences can tell of a network by the lowest precision in which it computes.

    ``steps`` in units of the direction; ``allowed`` relative deviation; ``rounding``: what a gradient may be
    off, relative to its length. ``fine``: steps after the first, for a network that is bent within it:
    some of a million ReLUs pass their kink on any that is longer. One is taken where rounding leaves a
    deviation of what is allowed to be seen.
    """

    steps: tuple[float, ...]
    allowed: float
    rounding: float
    fine: tuple[float, ...] = ()


_FULL = _Accuracy(
    (1e-4, 1e-5, 1e-3, 1e-6, 1e-2),
    1e-5,
    1e2 * torch.finfo(torch.float64).eps,
    (1e-8, 1e-9, 1e-10),
)
_SINGLE = _Accuracy((1e-2, 3e-3, 1e-3, 3e-2), 1e-2, 1e2 * torch.finfo(torch.float32).eps)
"""Of a network in float64 that computes in float32 by its own wish."""
_HALF = _Accuracy((0.1, 0.2, 0.05), 0.2, 2 * torch.finfo(torch.bfloat16).eps)

Direction = Callable[[], Iterator[Tensor]]
"""A vector in pieces of the parameters' shapes, drawn anew each time it is asked for."""

_LEFT_OUT = (
    "casts to lower precisions are left out of the check: beside their rounding, kinks are met"
)

_ASIDE = (0.0, 1e-3)
"""Where the product is checked: at the weights, and a little aside, since zero biases sit on kinks."""


class _Checkable(Protocol):
    """A network's curvature at the points it was given, by its products."""

    model: nn.Module
    loss: Loss
    targets: Tensor
    samples: int
    work: Work

    def matmat(self, vectors: Tensor) -> Tensor: ...

    def twin(self, samples: int) -> Self:
        """The same of the first ``samples``, in float64 and unchecked, on a copy of the network."""
        ...


_Operator = TypeVar("_Operator", bound=_Checkable)


class OfParameters(_Checkable, Protocol):
    """A curvature matrix of the mean loss in a network's parameters."""

    inputs: Tensor
    parameters: list[nn.Parameter]
    device: torch.device

    def matvec(self, vector: Tensor) -> Tensor: ...

    def share(self) -> Tensor:
        """The mean loss, within the context of repeated derivatives."""
        ...

    def plain_share(self) -> Tensor:
        """The mean loss as the network is written."""
        ...

    def plain_gradients(self) -> Iterator[list[Tensor]]:
        """Parts of its gradient, in pieces, at the weights as they are now, whatever was kept."""
        ...

    def forget(self) -> None:
        """Let go of what was kept: the weights are others."""
        ...

    def pieces(self, vector: Tensor) -> list[Tensor]:
        """(P,) cut into the shapes of the parameters."""
        ...

    def flat(self, pieces: Iterable[Tensor]) -> Tensor:
        """One vector (P,) of such pieces."""
        ...

    def batches_agree(self, agree: bool) -> None:
        """Whether products may be taken a block at a time."""
        ...


class OfSecondOrder(OfParameters, Protocol):
    """A Hessian."""

    def product_of(self, direction: Direction) -> list[Tensor]:
        """The product with a vector in pieces."""
        ...


class LinearPart(OfParameters, Protocol):
    """A Gauss-Newton matrix."""

    def outputs(self) -> Tensor:
        """The network's outputs at the weights as they are now."""
        ...

    def parts(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """J·v and ΛJ·v of all samples, of the outputs' shape."""
        ...

    def curvature(self, outputs: Tensor, along: Tensor) -> Tensor:
        """Λ·``along`` at other outputs."""
        ...


class OfInputs(_Checkable, Protocol):
    """The points' Hessians in their inputs."""

    points: Tensor

    @property
    def gradient(self) -> Tensor: ...

    def at(self, points: Tensor) -> Self:
        """The same at other points of the same targets."""
        ...

    def losses_at(self, points: Tensor) -> Tensor:
        """The losses (N,) there."""
        ...


def check_hessian(operator: OfSecondOrder, *, blocks: bool) -> Checks:
    """Hv against central differences of the gradient, and uᵀHv against vᵀHu.

    ``blocks``: tell the operator, too, whether a block of products is that of single ones.

    Raises MetricFailed where the product is not the derivative of the gradient, or a gradient is lost.
    """
    twin = _twin(operator)
    if isinstance(twin, str):
        return {"product": f"not made: {twin}"}
    skipped, scale = _silent(twin)
    weights = _Weights(twin, operator)
    checks = _check_silent(twin, skipped, weights)
    u, v = (_direction(twin, skipped, seed) for seed in (1, 2))
    known = [twin.product_of(along) for along in (u, v)] if blocks else []
    if blocks:
        single = torch.stack([twin.flat(image) for image in known], 1)
        operator.batches_agree(_block_agrees(twin, u, v, single))
        del single
    # Of a large network each vector takes as much memory as its weights: as few as can be are held at once,
    # and directions are drawn anew where they are needed.
    held: list[tuple[list[Tensor], float]] = []

    def products() -> tuple[list[Tensor], float]:
        """H·v in pieces, and how uneven uᵀHv and vᵀHu are."""
        image = known.pop(0) if known else twin.product_of(u)
        across, size = _inner(image, v()), _length(u()) * _length(image)
        del image
        image = known.pop() if known else twin.product_of(v)
        uneven = abs(_inner(image, u()) - across)
        return image, uneven / max(size + _length(v()) * _length(image), 1e-300)

    def compare(shift: float, accuracy: _Accuracy) -> tuple[float, list[float], float]:
        if shift:
            held.clear()
        image, uneven = held[0] if held else products()
        if not shift:
            held[:] = [(image, uneven)]

        def difference(h: float) -> list[Tensor]:
            total: list[Tensor] = []
            for sign in (1, -1):
                with weights.moved(v, sign * h):
                    for gradient in twin.plain_gradients():
                        total = added(total, gradient, sign)
            return [p.zero_() if i in skipped else p.div_(2 * h) for i, p in enumerate(total)]

        return *_least(difference, image, scale, accuracy), uneven

    apart, _, uneven = compare(0.0, _FULL)
    if not (apart <= _FULL.allowed and uneven <= 1e-3 * _FULL.allowed):
        accuracy = _accuracy_of(lambda: next(iter(twin.plain_gradients())))

        def settled(accuracy: _Accuracy) -> tuple[float, float]:
            asked = partial(compare, accuracy=accuracy)
            return _settled(twin, weights, asked, accuracy, "the Hessian's")

        def uncast() -> tuple[float, float]:
            held.clear()
            twin.forget()
            return settled(_FULL)

        try:
            apart, uneven = settled(accuracy)
        except MetricFailed:
            if accuracy is _FULL or (found := _without_casts(uncast)) is None:
                raise
            (apart, uneven), checks["casts"] = found, _LEFT_OUT
    return {**checks, "product": apart, "symmetry": uneven}


def check_blocks(operator: OfParameters) -> None:
    """Tell the operator whether a block of products is that of single ones, as far as that can be tried."""
    twin = _twin(operator)
    if isinstance(twin, str):
        operator.batches_agree(True)
        return
    u, v = (_direction(twin, [], seed) for seed in (1, 2))
    single = torch.stack([twin.matvec(twin.flat(along())) for along in (u, v)], 1)
    operator.batches_agree(_block_agrees(twin, u, v, single))


def check_gauss_newton(operator: LinearPart) -> Checks:
    """⟨c, Jv⟩ against ⟨Jᵀc, v⟩, and Λ(Jv) against central differences of the loss's own gradient.

    J is the one that backward() gives, so that what is detached on purpose stays so. Raises MetricFailed.
    """
    twin = _twin(operator)
    if isinstance(twin, str):
        return {"product": f"not made: {twin}"}
    skipped, _ = _silent(twin)
    checks = _check_silent(twin, skipped, _Weights(twin, operator))
    v = twin.flat(_direction(twin, skipped, 1)())
    with torch.enable_grad():
        outputs = twin.outputs()
        generator = torch_generator(6)
        c = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
        pulled = torch.autograd.grad(outputs, twin.parameters, c, materialize_grads=True)
    along, image = twin.parts(v)
    transposed = float(twin.flat(pulled) @ v)
    size = max(float(along.norm() * c.norm()), float(twin.flat(pulled).norm() * v.norm()), 1e-300)
    apart = abs(float((c * along).sum()) - transposed) / size
    here = outputs.detach()

    def slope(z: Tensor) -> Tensor:
        free = z.clone().requires_grad_()
        with torch.enable_grad():
            value = twin.loss(free, twin.targets).sum() / twin.samples
            (found,) = torch.autograd.grad(value, free, materialize_grads=True)
        return found

    step = along / along.norm().clamp_min(1e-300) * here.norm().clamp_min(1.0)
    scale = float(step.norm() / along.norm().clamp_min(1e-300))

    def bent(accuracy: _Accuracy) -> float:
        least = math.inf
        for shift in _ASIDE:  # a loss may have kinks too
            z = here + shift * c
            own = image if shift == 0 else twin.curvature(z, along)

            def difference(h: float, z: Tensor = z) -> list[Tensor]:
                return [(slope(z + h * step) - slope(z - h * step)) / (2 * h * scale)]

            apart, _ = _least(difference, [own], float(slope(z).norm()) / scale, accuracy)
            least = min(least, apart)
            if least <= accuracy.allowed:
                break
        return least

    accuracy = _FULL
    found = max(apart, bent(accuracy))
    if found > accuracy.allowed:
        accuracy = _accuracy_of(twin.outputs)
        found = max(apart, bent(accuracy))
    if found > accuracy.allowed:
        raise MetricFailed(_sentence("the Gauss-Newton matrix's", found, None, twin.plain_share))
    return {**checks, "product": found}


def check_input_hessian(operator: OfInputs) -> Checks:
    """Each point's Hessian in its input, as `check_hessian`."""
    twin = _twin(operator)
    if isinstance(twin, str):
        return {"product": f"not made: {twin}"}
    x = twin.points
    operator.work.gradient += 5 * len(x)
    gradient = _input_gradients(twin)
    generator = torch_generator(3)
    size = x.square().mean().sqrt().clamp_min(1e-3)
    v, aside = (size * torch.randn(x.shape, generator=generator).double().to(x) for _ in range(2))

    def compare(shift: float, accuracy: _Accuracy) -> float:
        here = twin.at(x + shift * aside) if shift else twin
        product = here.matmat(v.reshape(-1, 1))[:, 0]
        place = here.points

        def difference(h: float) -> list[Tensor]:
            return [((gradient(place + h * v) - gradient(place - h * v)) / (2 * h)).reshape(-1)]

        return _least(difference, [product], float(here.gradient.norm()), accuracy)[0]

    apart = compare(0.0, _FULL)
    if apart <= _FULL.allowed:
        return {"product": apart}
    accuracy = _accuracy_of(lambda: gradient(x))
    for shift in _ASIDE:
        apart = min(apart, compare(shift, accuracy))
        if apart <= accuracy.allowed:
            return {"product": apart}

    def uncast() -> float:
        return min(compare(shift, _FULL) for shift in _ASIDE)

    found = None if accuracy is _FULL else _without_casts(uncast)
    if found is not None and found <= _FULL.allowed:
        return {"product": found, "casts": _LEFT_OUT}

    def share() -> Tensor:
        return twin.losses_at(x.clone().requires_grad_()).sum()

    raise MetricFailed(_sentence("the input Hessian's", apart, None, share))


# --- how ------------------------------------------------------------------------------------------


def _twin(operator: _Operator) -> _Operator | str:
    """The same operator on a few samples in float64, on a copy; a sentence where that doesn't run."""
    try:
        return operator.twin(min(_FEW, operator.samples))
    except TimeLimitExceeded:
        raise
    except Exception as reason:
        return f"the network was not checked in float64 ({in_words(reason)})"


def _silent(twin: OfParameters) -> tuple[list[int], float]:
    """The numbers of the parameters that get no gradient, and the length of all the others'."""
    with torch.enable_grad():
        share = twin.share()
        if not share.requires_grad:
            return list(range(len(twin.parameters))), 0.0
        found = torch.autograd.grad(share, twin.parameters, allow_unused=True)
    length = _length(g for g in found if g is not None)
    return [i for i, g in enumerate(found) if g is None], length


def _check_silent(twin: OfParameters, numbers: Sequence[int], weights: _Weights) -> Checks:
    """Parameters without gradient on which the loss depends: cut off on purpose, or lost on the way?

    ``numbers``: those of the parameters without gradient.

    Raises MetricFailed for gradients that ``backward()`` would give.
    """
    if not numbers:
        return {}
    others = [i for i in range(len(twin.parameters)) if i not in numbers]
    with torch.no_grad():
        before = float(twin.share())
        with weights.moved(_direction(twin, others, 4), 1e-3):
            after = float(twin.share())
    names = {id(p): n for n, p in twin.model.named_parameters()}
    told = ", ".join(names[id(twin.parameters[i])] for i in numbers)
    if abs(after - before) <= 1e-12 * max(abs(before), 1e-12):
        return {"parameters without effect": told}
    x = twin.inputs.clone().requires_grad_()
    with torch.enable_grad():
        loss = twin.loss(twin.model(x), twin.targets).sum()
        if loss.requires_grad:
            loss.backward()
    lost = [i for i in numbers if twin.parameters[i].grad is not None]
    for parameter in twin.model.parameters():
        parameter.grad = None
    if lost:
        raise MetricFailed(
            f"the gradient of {told} is lost, although backward() gives one: a checkpoint that calls "
            "backward() inside its own does that; take torch.utils.checkpoint with use_reentrant=False"
        )
    return {"parameters without gradient": told}


def _direction(twin: OfParameters, skipped: Sequence[int], seed: int) -> Direction:
    """A random direction of each parameter's own size here, zero in those ``skipped`` and in the row that an
    embedding has for padding, which takes no gradient and stays."""
    numbers = sum(p.numel() for p in twin.parameters)
    padding, sizes = _padding(twin), []
    for i, parameter in enumerate(twin.parameters):
        p = coordinates(parameter.detach())
        known = p.numel() and i not in skipped
        # Not p.square(): of a large embedding it would be a second one in memory.
        size = torch.linalg.vector_norm(p) / math.sqrt(p.numel()) if known else torch.zeros(())
        sizes.append(size.clamp_min(1e-2) if known else size)

    def drawn() -> Iterator[Tensor]:
        generator = generator_there(torch_generator(seed), twin.device, numbers)
        for parameter, size in zip(twin.parameters, sizes, strict=True):
            p = coordinates(parameter.detach())
            # Uniform in float32: normal numbers in float64 would take half of the time of a large check.
            piece = torch.rand(p.shape, generator=generator, device=generator.device) - 0.5
            piece = piece.to(p.device, torch.float64)
            piece *= math.sqrt(12)
            if id(parameter) in padding:
                piece[padding[id(parameter)]] = 0.0
            piece *= size.to(piece)
            yield torch.view_as_complex(piece) if parameter.is_complex() else piece

    return drawn


def added(total: list[Tensor], more: list[Tensor], sign: int = 1) -> list[Tensor]:
    """``total`` ± ``more``, both in pieces and used up; ``more`` itself where the total is empty.

    Not in place, for a gradient may be anybody's; the largest piece last, when the others are gone.
    """
    if not total:
        return more if sign > 0 else [-piece for piece in more]
    nothing = more[0].new_empty(0)
    for i in sorted(range(len(more)), key=lambda i: more[i].numel()):
        total[i] = torch.add(total[i], more[i], alpha=sign)
        more[i] = nothing
    return total


def _inner(some: Iterable[Tensor], others: Iterable[Tensor]) -> float:
    """⟨a, b⟩ of two vectors in pieces."""
    found = []
    for a, b in zip(some, others, strict=True):
        found.append(float(coordinates(a).reshape(-1) @ coordinates(b).reshape(-1)))
    return math.fsum(found)


def _length(pieces: Iterable[Tensor]) -> float:
    """‖a‖ of a vector in pieces."""
    return math.hypot(*(float(torch.linalg.vector_norm(coordinates(a))) for a in pieces))


def _padding(twin: OfParameters) -> dict[int, int]:
    """The rows that embeddings have for padding, by the id of their weight."""
    layers = [m for m in twin.model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
    return {id(m.weight): m.padding_idx for m in layers if m.padding_idx is not None}


class _Weights:
    """Those of a twin, which are moved and come back from the network that it is a copy of: no second copy
    of them is kept."""

    def __init__(self, twin: OfParameters, operator: OfParameters) -> None:
        self._twin, self._origin = twin, operator.parameters
        self._moves: list[tuple[Direction, float]] = []

    @contextmanager
    def moved(self, direction: Direction, length: float) -> Iterator[None]:
        """At w + length·direction, within; what was kept at w is forgotten."""
        self._twin.forget()
        try:
            self._step(direction, length)
            self._moves.append((direction, length))
            yield
        finally:
            self._moves = self._moves[:-1]
            with torch.no_grad():
                for p, original in zip(self._twin.parameters, self._origin, strict=True):
                    p.copy_(original)
            for move in self._moves:
                self._step(*move)
            self._twin.forget()

    def _step(self, direction: Direction, length: float) -> None:
        with torch.no_grad():
            for p, step in zip(self._twin.parameters, direction(), strict=True):
                p.add_(step.to(p.dtype), alpha=length)


def _least(
    difference: Callable[[float], list[Tensor]],
    product: Sequence[Tensor],
    slope: float,
    accuracy: _Accuracy,
) -> tuple[float, list[float]]:
    """The least relative deviation of a difference from the product over the steps, and how far they are
    apart there in each piece. What ``difference`` gives is used up.

    What rounding of the ``slope`` may add to a difference counts as none.
    """
    length = _length(product)
    best, where = math.inf, [0.0] * len(product)
    seen = accuracy.rounding * slope / (accuracy.allowed * max(length, 1e-300))
    first, *others = accuracy.steps
    for h in (first, *(fine for fine in accuracy.fine if fine >= seen), *others):
        gap = difference(h)
        size = max(length, _length(gap))
        for piece, own in zip(gap, product, strict=True):
            piece.sub_(own)
        apart_in = [_length([piece]) for piece in gap]
        del gap
        excess = max(math.hypot(*apart_in) - accuracy.rounding * slope / h, 0.0)
        apart = excess / size if size > 0 else 0.0
        if apart < best:
            best, where = apart, apart_in
        if best <= accuracy.allowed:
            break
    return best, where


def _settled(
    twin: OfParameters,
    weights: _Weights,
    compare: Callable[[float], tuple[float, list[float], float]],
    accuracy: _Accuracy,
    whose: str,
) -> tuple[float, float]:
    """Deviation and asymmetry, each the better of the two places. Raises MetricFailed."""
    allowed = accuracy.allowed
    best, uneven, sizes = math.inf, math.inf, [0.0]
    for shift in _ASIDE:
        with weights.moved(_direction(twin, [], 5), shift) if shift else nullcontext():
            apart, gap, asymmetry = compare(shift)
        if apart < best:
            best, sizes = apart, gap
        uneven = min(uneven, asymmetry)
        if best <= allowed and uneven <= 1e-3 * allowed:
            return best, uneven
    if best <= allowed and uneven <= allowed:
        return best, uneven
    names = {id(p): n for n, p in twin.model.named_parameters()}
    most = names[id(twin.parameters[sizes.index(max(sizes))])] if max(sizes) > 0 else None
    if best <= allowed:
        raise MetricFailed(
            f"{whose} product is not symmetric (by {uneven:.1g}): an operation's second derivative in the "
            f"network is wrong{_suspects(twin.plain_share)}"
        )
    raise MetricFailed(_sentence(whose, best, most, twin.plain_share))


def _sentence(whose: str, apart: float, most: str | None, run: Callable[[], Any]) -> str:
    place = f", most in {most}" if most else ""
    return (
        f"{whose} product is not the derivative of first derivatives (they differ by {apart:.1%}{place}): a "
        "detach, torch.no_grad() or an operation whose second derivative is wrong stands in the way"
        f"{_suspects(run)}; write it with torch's own differentiable operations"
    )


def _suspects(run: Callable[[], Any]) -> str:
    """The autograd.Functions of the network's own, by name."""
    with torch.enable_grad():
        result = run()
    names = sorted(own_functions(result))
    return f" (its autograd.Functions: {', '.join(names)})" if names else ""


def own_functions(result: Any) -> set[str]:
    """The names of the autograd.Functions, no operations of torch's own, by which a result was computed."""
    stack = [result.grad_fn] if getattr(result, "grad_fn", None) is not None else []
    known: set[Any] = set(stack)
    found = set()
    while stack:
        node = stack.pop()
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            found.add(type(node).__name__.removesuffix("Backward"))
        following = {n for n, _ in node.next_functions if n is not None} - known
        known |= following
        stack.extend(following)
    return found


def where_it_runs(functions: Callable[[int, int], set[str]], name: str, samples: int) -> int:
    """The number of a sample for which the autograd.Function of this ``name`` runs, of so many of which one
    does; ``functions(begin, end)`` are those of a part of them.

    Raises MetricFailed where it runs for none of them alone.
    """
    begin, end = 0, samples
    while end - begin > 1 or name not in functions(begin, end):
        middle = (begin + end) // 2
        if begin < middle and name in functions(begin, middle):
            end = middle
        elif begin < middle and name in functions(middle, end):
            begin = middle
        else:
            raise MetricFailed(
                f"the network's autograd.Function {name} runs for some samples beside others alone, so that "
                "its second derivative can't be checked; write it with torch's own differentiable operations"
            )
    return begin


def _accuracy_of(run: Callable[[], object]) -> _Accuracy:
    """What can be told of a network in float64 that computes on the way as ``run`` does: looked for where
    what is asked of float64 is not met."""
    precisions = Precisions()
    with precisions:
        run()
    if precisions.dtypes & {torch.bfloat16, torch.float16}:
        return _HALF
    return _SINGLE if torch.float32 in precisions.dtypes else _FULL


_Found = TypeVar("_Found")


def _without_casts(check: Callable[[], _Found]) -> _Found | None:
    """What ``check`` finds where nothing is cast below float64; None where it isn't passed so.

    Steps that show more than float32's rounding are so long that a network of many ReLUs meets kinks on all
    of them. Without casts they may be as short as they are elsewhere; a cast's own derivative is torch's.
    """
    with suppress(Exception), Widened():
        return check()
    return None


def _block_agrees(twin: OfParameters, u: Direction, v: Direction, single: Tensor) -> bool:
    """Whether the products with a block of two are the ``single`` ones, (P, 2)."""
    block = twin.matmat(torch.stack([twin.flat(u()), twin.flat(v())], 1))
    return bool((block - single).norm() <= 1e-7 * single.norm().clamp_min(1e-300))


def _input_gradients(twin: OfInputs) -> Callable[[Tensor], Tensor]:
    def gradient(x: Tensor) -> Tensor:
        free = x.detach().clone().requires_grad_()
        with repeatedly_differentiable(), torch.enable_grad():
            total = twin.losses_at(free).sum()
            (found,) = torch.autograd.grad(total, free, materialize_grads=True)
        return found

    return gradient
