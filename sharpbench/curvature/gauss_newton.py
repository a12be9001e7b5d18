"""The exact trace of the Gauss-Newton matrix, from the length of each sample's gradient, call by call."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sharpbench.curvature.operator import coordinates
from sharpbench.curvature.sample_gradients import (
    Layout,
    SampleGradients,
    Spread,
    TooMany,
    Use,
    arranged,
    disjoint,
)
from sharpbench.curvature.taps import Taps
from sharpbench.errors import MetricFailed, TimeLimitExceeded
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.front import calls
from sharpbench.measurement import Work
from sharpbench.precision import on_the_way_to
from sharpbench.running import as_written
from sharpbench.seeds import torch_generator
from sharpbench.shared import ALONE, Shared
from sharpbench.subject import Loss
from sharpbench.taylor.expansion import propagated
from sharpbench.taylor.jet import Jet, Tally

__all__ = [
    "ExactTrace",
    "affine_in_each_parameter",
    "gauss_newton_gram",
    "gauss_newton_rows",
    "gauss_newton_trace",
    "gradient_lengths",
    "output_curvature",
]

_CHECKED = 32
"""At most so many samples show where the samples stand in each tensor and that they stay apart."""

_MOST_OUTPUTS = 64
"""Numbers of a sample's outputs, where these are of several tokens or pixels."""

_REFERENCE = 2
"""Samples whose gradients are compared with autograd's, one by one."""


@dataclass(frozen=True)
class ExactTrace:
    """(1/N) Σᵢ tr(JᵢᵀΛᵢJᵢ), its terms (N,) in float64, and what was checked on the way."""

    terms: Tensor
    checks: dict[str, float]

    @property
    def value(self) -> float:
        return float(self.terms.mean())

    @property
    def spread(self) -> float:
        """The standard deviation of the terms."""
        return float(self.terms.std()) if len(self.terms) > 1 else 0.0


def output_curvature(loss: Loss, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (N, C), rising, and eigenvectors (N, C, C) of each sample's Λ = ∇²_f ℓ(f, y)."""
    free = outputs.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(loss(free, targets).sum(), free, create_graph=True)
        matrix = _columns(slope, free)
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.mT))
    return values, vectors


def _columns(slope: Tensor, free: Tensor) -> Tensor:
    """∂slope/∂free of each sample, (N, C, C), from as many backward passes as there are outputs, in one
    where the loss's operations can be batched."""
    if not slope.requires_grad:  # a loss that is linear in the outputs
        return slope.new_zeros((*slope.shape, slope.shape[1]))
    units = torch.eye(slope.shape[1], dtype=slope.dtype, device=slope.device)
    units = units.unsqueeze(1).expand(-1, *slope.shape)
    try:
        (columns,) = torch.autograd.grad(
            slope, free, units, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    except RuntimeError:  # torch has no batching rule for one of them
        each = [
            torch.autograd.grad(slope, free, unit, retain_graph=True, allow_unused=True)[0]
            for unit in units
        ]
        columns = None if each[0] is None else torch.stack(each)
    return torch.zeros_like(units).movedim(0, 2) if columns is None else columns.movedim(0, 2)


def gauss_newton_trace(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    *,
    work: Work,
    chunk: int = 256,
    only: Sequence[nn.Parameter] | None = None,
    shared: Shared = ALONE,
) -> ExactTrace:
    """(1/N) Σᵢ tr(JᵢᵀΛᵢJᵢ), exactly.

    tr(JᵀΛJ) = Σ_c λ_c ‖Jᵀe_c‖² over the eigenpairs of Λ: one backward pass an output, of which only the
    gradients at the calls that use a parameter are needed, since a sample's gradient in a parameter is a
    product of the call's input and its output's gradient (Goodfellow, arXiv:1510.01799).

    That holds where every use of a parameter is such a call (`Taps`) and samples pass through the network
    apart. Both are verified, not assumed. On a few samples drawn at random from the data:

    - ``samples_apart``: outputs and losses are those of the same samples in another batch; and outputs of
      some samples have no gradient in the rows of others, which also tells where each tensor's samples are;
    - ``sample_gradients``: squared length of each sample's gradient in each parameter, for a random
      combination of the outputs, against autograd's.

    In every batch: no parameter reaches the outputs otherwise than through a tapped call; and where the
    network picks rows by the data (experts that take some of the tokens), each row is that sample's.

    A call that is made once for all samples, as of positions (1, T), is taken to have a row for each of them
    (`Spread`), if the outputs are the same then and this holds: its gradients are verified like all others'.

    ``only``: the parameters meant, all trainable ones if None. ``shared``: of these points and parameters.

    Raises MetricFailed, with the reason, where one of this does not hold.
    """

    def square_roots(outputs: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Columns of √|Λ|, with the signs of their eigenvalues."""
        shape, flat = outputs.shape, outputs.detach().flatten(1)
        if outputs.ndim > 2 and flat.shape[1] > _MOST_OUTPUTS:
            raise MetricFailed(
                f"outputs {tuple(shape)} have {flat.shape[1]} numbers a sample, each of which takes a "
                f"backward pass: for at most {_MOST_OUTPUTS}"
            )
        values, vectors = output_curvature(lambda z, t: loss(z.reshape(shape), t), flat, y)
        sizes = values.abs().amax(0)
        # Cross-entropy does not see a common shift of the logits.
        seen = (~(sizes <= 1e-14 * sizes.max())).nonzero().flatten().tolist()
        # Each sample's share of an eigenvalue is in its cotangent: with a convex loss the sum is right even
        # where a network lines its samples up in another order than in the check.
        roots, signs = values.abs().sqrt(), values.sign().double()
        for column in seen:
            cotangent = vectors[:, :, column] * roots[:, column : column + 1]
            yield signs[:, column], cotangent.view(shape)

    def found() -> ExactTrace:
        return _summed(model, loss, inputs, targets, square_roots, work, chunk, only)

    return shared.once("gauss_newton_trace", found, work)


def gradient_lengths(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    *,
    work: Work,
    chunk: int = 256,
    only: Sequence[nn.Parameter] | None = None,
    shared: Shared = ALONE,
) -> ExactTrace:
    """‖∇ℓᵢ‖² of each sample as the terms, exactly, by one backward pass; as `gauss_newton_trace`.

    Raises MetricFailed, with the reason, where what that assumes does not hold.
    """

    def slope(outputs: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        free = outputs.detach().requires_grad_()
        with torch.enable_grad():
            each = loss(free, y)
            (found,) = torch.autograd.grad(each.sum(), free, materialize_grads=True)
        yield torch.ones(len(found), dtype=torch.float64, device=found.device), found

    def found() -> ExactTrace:
        return _summed(model, loss, inputs, targets, slope, work, chunk, only)

    return shared.once("gradient_lengths", found, work)


_Cotangents = Callable[[Tensor, Tensor], Iterator[tuple[Tensor, Tensor]]]
"""From outputs and targets of a batch: signs (N,) and cotangents (N, …), one after the other."""


def _summed(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    cotangents: _Cotangents,
    work: Work,
    chunk: int,
    only: Sequence[nn.Parameter] | None,
) -> ExactTrace:
    """Σ sign·‖Jᵢᵀv‖² over the cotangents v of each sample."""
    parameters = [p for p in (model.parameters() if only is None else only) if p.requires_grad]
    places = calls(model, inputs)
    if len(places) == 1:
        alike = [(inputs, targets)]
    else:
        alike = [(inputs[where], targets[where.to(targets.device)]) for where in places]
    with as_written():
        found = [_of_calls(model, loss, *xy, parameters, cotangents, work, chunk) for xy in alike]
    terms = torch.cat([each.terms for each in found])
    checks = {
        name: max(each.checks[name] for each in found)
        for name in (found[0].checks if found else {})
    }
    return ExactTrace(terms if len(found) == 1 else terms[torch.cat(places).argsort()], checks)


def _of_calls(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    parameters: Sequence[nn.Parameter],
    cotangents: _Cotangents,
    work: Work,
    chunk: int,
) -> ExactTrace:
    """`_summed` of samples that the network is called with at once."""
    plan, checked = None, _CHECKED
    terms, start, end = [], 0, len(inputs)
    while start < end:
        here = slice(start, start + chunk)
        x, y = inputs[here], targets[here]
        try:
            if plan is None:
                plan = _planned(model, loss, inputs, targets, parameters, checked, work)
            terms.append(_terms(model, x, y, parameters, cotangents, plan, start, work))
        except TooMany:
            if plan is None and checked > _REFERENCE:
                checked //= 2
            elif plan is None or len(x) == 1:
                raise
            else:
                chunk = max(1, len(x) // 2)
            continue
        start += len(x)
    assert plan is not None
    return ExactTrace(torch.cat(terms), plan.checks)


def gauss_newton_gram(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    parameters: Sequence[nn.Parameter],
    *,
    work: Work,
    shared: Shared = ALONE,
) -> Tensor:
    """The Gram matrix (N·C, N·C) of √Λ·J/√N, with the non-zero eigenvalues of the Gauss-Newton matrix.

    Dangel, Tatzel & Hennig, arXiv:2106.02624 (ViViT). Raises what `gauss_newton_rows` raises.
    """

    def found() -> Tensor:  # the rows, of which there are as many as parameters, are not kept
        rows = gauss_newton_rows(model, loss, inputs, targets, parameters, work=work)
        return rows @ rows.T / len(inputs)

    return shared.once("gram", found, work)


def gauss_newton_rows(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    parameters: Sequence[nn.Parameter],
    *,
    work: Work,
    shared: Shared = ALONE,
) -> Tensor:
    """√Λ·J (N·C, P) in float64, whose square is N times the Gauss-Newton matrix: a sample's rows follow one
    another, as the eigenvalues of its Λ rise. For small N·C.

    Raises MetricFailed for a loss that is not convex in the outputs, and for outputs that are not (N, C).
    """

    def found() -> Tensor:
        return _rows(model, loss, inputs, targets, parameters, work)

    return shared.once("rows", found, work)


def _rows(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    parameters: Sequence[nn.Parameter],
    work: Work,
) -> Tensor:
    with repeatedly_differentiable(), torch.enable_grad():
        outputs = model(inputs)
        work.forward += len(inputs)
        if outputs.ndim != 2:
            raise MetricFailed(f"needs outputs (N, C), got {tuple(outputs.shape)}")
        values, vectors = output_curvature(loss, outputs, targets)
        rounding = max(1e-10, 64 * torch.finfo(values.dtype).eps)
        if float(values.min()) < -rounding * float(values.abs().max()):
            raise MetricFailed("the loss is not convex in the outputs: Λ has no square root")
        factors = vectors * values.clamp_min(0).sqrt().unsqueeze(1)
        rows = []
        for sample in range(len(inputs)):
            for column in range(outputs.shape[1]):
                seed = torch.zeros_like(outputs)
                seed[sample] = factors[sample, :, column]
                gradient = torch.autograd.grad(
                    outputs, parameters, seed, retain_graph=True, materialize_grads=True
                )
                rows.append(torch.cat([coordinates(g).reshape(-1) for g in gradient]).double())
                work.gradient += len(inputs)
    return torch.stack(rows)


def affine_in_each_parameter(
    model: nn.Module, inputs: Tensor, parameters: Sequence[nn.Parameter], *, work: Work
) -> tuple[bool, float | str]:
    """Whether each output is, around here, an affine function of every single parameter: then H and its
    Gauss-Newton part have the same diagonal, and the same trace.

    It is where each number of a parameter takes part in one call, linearly, and the outputs depend
    piecewise linearly on what all these calls return. The latter is read off their Taylor series, in which
    a second-order coefficient is structurally zero or not, whatever the point; and it is confirmed by
    torch's second derivative along one random direction. Being piecewise linear in the *inputs* says nothing
    about it.

    Returns the answer with the relative second derivative found, or the reason why it was not proved.
    ``inputs``: a few samples.
    """
    generator = torch_generator(0)
    with as_written(), torch.enable_grad():
        step = torch.zeros((), dtype=inputs.dtype, device=inputs.device, requires_grad=True)

        def moved(y: Tensor) -> tuple[Tensor, Tensor]:
            direction = _normal(y, generator)
            return y + step * direction, direction

        taps = Taps(parameters, moved)
        with repeatedly_differentiable(), taps:
            outputs = model(inputs)
        work.forward += len(inputs)
        if reason := taps.unaccounted(outputs):
            return False, f"not made: {reason}"
        if not disjoint([term.alias for use in taps.uses for term in use.terms]):
            return False, "not made: a parameter takes part in two calls"
        second, first = _second_derivative(outputs, step, generator)
        work.add_derivative(1, len(inputs))
        work.add_derivative(2, len(inputs))
        found = abs(second) / max(abs(first), 1e-300)
        if found > _allowed(outputs.dtype):
            return False, found
        directions = iter([use.tap for use in taps.uses])
        tally = Tally()

        def started(y: Any) -> tuple[Any, None]:
            direction = next(directions).detach()
            series = Jet(torch.stack([torch.zeros_like(direction), direction]), (0, 1), 2, tally)
            return y + series, None

        def run() -> Any:
            with Taps(parameters, started):
                return model(inputs)

        result = propagated(run, 2, tally)
        work.forward += 3 * len(inputs)
    if _deviation(result.primal, outputs) > _allowed(outputs.dtype):
        return False, "not made: Taylor mode gives other outputs than the network"
    return result.orders[-1] <= 1, found


def _second_derivative(
    outputs: Tensor, step: Tensor, generator: torch.Generator
) -> tuple[float, float]:
    """The second and the first derivative in ``step`` of a random combination of the outputs."""
    combined = (outputs * _normal(outputs, generator)).sum()
    if not combined.requires_grad:
        return 0.0, 0.0
    with repeatedly_differentiable():
        (first,) = torch.autograd.grad(combined, step, create_graph=True, materialize_grads=True)
        if not first.requires_grad:
            return 0.0, float(first.detach())
        (second,) = torch.autograd.grad(first, step, materialize_grads=True)
    return float(second.detach()), float(first.detach())


@dataclass(frozen=True)
class _Plan:
    """What the check found: the calls, where each one's samples stand, and outputs to compare with."""

    calls: list[tuple[Any, ...]]
    shapes: list[tuple[int, ...]]
    layouts: list[Layout | None]  # None: no gradient came through in the check
    spread: Mapping[int, Spread]
    samples: int
    order: list[int]
    outputs: Tensor
    checks: dict[str, float]


def _run(
    model: nn.Module,
    x: Tensor,
    parameters: Sequence[nn.Parameter],
    work: Work,
    spread: Mapping[int, Spread],
) -> tuple[Tensor, Taps]:
    """The outputs, with every call of a parameter tapped: its output plus a differentiable zero."""

    def tap(y: Tensor) -> tuple[Tensor, Tensor]:
        zero = torch.zeros((), dtype=y.dtype, device=y.device, requires_grad=True).expand_as(y)
        return y + zero, zero

    taps = Taps(parameters, tap, samples=len(x), spread=spread)
    with repeatedly_differentiable(), torch.enable_grad(), taps:
        outputs = model(x)
    work.forward += len(x)
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or len(outputs) != len(x):
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise MetricFailed(f"needs outputs (N, C), got {shape}")
    if reason := taps.unaccounted(outputs):
        raise MetricFailed(reason)
    return outputs, taps


def _gradients(outputs: Tensor, uses: Sequence[Use], cotangents: Tensor) -> list[Tensor]:
    if not outputs.requires_grad or not uses:
        return [torch.zeros_like(use.tap) for use in uses]
    return list(
        torch.autograd.grad(
            outputs, [u.tap for u in uses], cotangents, retain_graph=True, materialize_grads=True
        )
    )


@dataclass(frozen=True)
class _Trial:
    """A run of a few samples, and where those may stand in each call's output.

    ``deltas``: the gradients at the calls, for each of the masked halves of the samples.
    """

    spread: Mapping[int, Spread]
    outputs: Tensor
    uses: list[Use]
    deltas: list[list[Tensor]]
    fitting: list[list[Layout | None]]

    @property
    def fault(self) -> Use | None:
        """The first call whose rows are not the samples."""
        found = zip(self.uses, self.fitting, strict=True)
        return next((use for use, fitting in found if not fitting), None)


class _NotAutograds(MetricFailed):
    """Gradients found call by call are not those of the samples."""


def _planned(*asked: Any) -> _Plan:
    """`_verified`, by both halves of the samples where one tells it wrong: that of a call which is made once
    for as many places as there are samples, and whose gradient stands in the right rows by chance."""
    try:
        return _verified(*asked, thorough=False)
    except _NotAutograds:
        return _verified(*asked, thorough=True)


def _verified(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    parameters: Sequence[nn.Parameter],
    checked: int,
    work: Work,
    *,
    thorough: bool,
) -> _Plan:
    """See `gauss_newton_trace`. The samples are taken out of order, so that a network that goes by the
    place in the batch is found out too.

    At most ``checked`` of them, half of which are masked; and the other half, too, if ``thorough`` or if
    it is one sample: from one's gradient it can't be told whether another's is in its rows.
    """
    generator = torch_generator(0)
    size = min(len(inputs), checked, max(4, len(inputs) // 32))
    order = torch.randperm(len(inputs), generator=generator)[:size]
    x, y = inputs[order.to(inputs.device)], targets[order.to(targets.device)]
    outputs, taps = _run(model, x, parameters, work, {})
    halves = torch.randperm(size, generator=generator).tensor_split([(size + 1) // 2])
    mask = torch.zeros(size, dtype=torch.bool)
    mask[halves[0]] = True
    mask = mask.to(outputs.device)
    both = size > 1 and (thorough or len(halves[0]) < _REFERENCE)
    masks = [mask, ~mask] if both else [mask]
    cotangents = [_normal(outputs, generator) * _of_samples(each, outputs) for each in masks]

    def tried(outputs: Tensor, taps: Taps) -> _Trial:
        uses = taps.uses
        deltas = [_gradients(outputs, uses, cotangent) for cotangent in cotangents]
        work.gradient += size * len(masks)
        fitting = [
            _fitting(use, list(zip(each, masks, strict=True)))
            for use, *each in zip(uses, *deltas, strict=True)
        ]
        return _Trial(taps.spread, outputs, uses, deltas, fitting)

    def spread_out(spread: Mapping[int, Spread]) -> _Trial:
        return tried(*_run(model, x, parameters, work, spread))

    trial = _with_rows(tried(outputs, taps), spread_out)
    outputs, uses, fitting = trial.outputs, trial.uses, trial.fitting
    if not both and any(len(each) > 1 for each in fitting):  # the other samples tell these apart
        others = _normal(outputs, generator) * _of_samples(~mask, outputs)
        work.gradient += size
        fitting = [
            [layout for layout in each if len(each) == 1 or _apart(delta, layout, ~mask)] or each
            for each, delta in zip(fitting, _gradients(outputs, uses, others), strict=True)
        ]
    layouts = [each[0] for each in fitting]
    gradients = SampleGradients(uses, layouts, size)
    checks = {"samples_apart": 0.0, "sample_gradients": 0.0}
    for half, cotangent, deltas in zip(halves, cotangents, trial.deltas, strict=False):
        few = half[:_REFERENCE].to(outputs.device)
        plain, exact = _sample_gradients(model, x[few], cotangent[few], parameters, work)
        apart = _deviation(outputs[few], plain)
        with torch.no_grad():
            apart = max(apart, _deviation(loss(outputs, y)[few], loss(plain, y[few])))
        _require(apart, outputs.dtype, "a sample's output depends on the batch that it is in")
        found = gradients.squared_lengths(deltas)
        lengths = torch.stack(
            [found[p][few] if p in found else torch.zeros_like(exact[:, 0]) for p in parameters], 1
        )
        floor = 1e-6 * exact.sum(1, keepdim=True) + torch.finfo(exact.dtype).tiny
        off = float(((lengths - exact).abs() / torch.maximum(exact, floor)).max())
        if not off <= _allowed(outputs.dtype):
            raise _NotAutograds(
                "the gradients found call by call are not autograd's (relative deviation "
                f"{off:.2g})"
            )
        checks = {
            "samples_apart": max(apart, checks["samples_apart"]),
            "sample_gradients": max(off, checks["sample_gradients"]),
        }
    return _Plan(
        [use.signature() for use in uses],
        [use.shape for use in uses],
        layouts,
        trial.spread,
        size,
        order.tolist(),
        outputs.detach(),
        checks,
    )


def _with_rows(trial: _Trial, spread_out: Callable[[Mapping[int, Spread]], _Trial]) -> _Trial:
    """The network with rows for the samples in each call, those too that are made once for all of them.

    ``spread_out`` runs it with some calls spread. Raises MetricFailed where that makes another network of
    it, or leaves a call without rows.
    """
    plain = trial.outputs
    while (fault := trial.fault) is not None:
        for way in fault.ways():
            try:
                found = spread_out({**trial.spread, fault.number: way})
            except TimeLimitExceeded:
                raise
            except Exception:  # the network does not take it so
                continue
            same = _deviation(found.outputs, plain) <= _allowed(plain.dtype)
            further = found.fault is None or found.fault.number > fault.number
            if same and further:
                trial = found
                break
        else:
            raise MetricFailed(
                f"the rows of a {fault.name} of shape {fault.shape} are not the samples, or these do not "
                "stay apart"
            )
    return trial


def _of_samples(mask: Tensor, outputs: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (outputs.ndim - 1))


def _fitting(use: Use, halves: Sequence[tuple[Tensor, Tensor]]) -> list[Layout | None]:
    """Where the samples may stand: such that no gradient of masked outputs is in the others' rows.

    ``halves``: gradients of masked outputs, and the mask (N,).
    """
    if not any(bool((delta != 0).any()) for delta, _ in halves):
        return [None]
    return [
        layout
        for layout in use.layouts(len(halves[0][1]))
        if all(_apart(delta, layout, mask) for delta, mask in halves)
    ]


def _apart(delta: Tensor, layout: Layout | None, mask: Tensor) -> bool:
    """Whether the gradient stands in the masked samples' rows alone."""
    assert layout is not None
    others = arranged(delta, layout, len(mask))[~mask]
    return not others.numel() or float(others.abs().max()) <= 1e-12 * float(delta.abs().max())


def _sample_gradients(
    model: nn.Module,
    x: Tensor,
    cotangents: Tensor,
    parameters: Sequence[nn.Parameter],
    work: Work,
) -> tuple[Tensor, Tensor]:
    """Outputs (n, C), and by autograd ‖∂(v·f)ᵢ/∂p‖² (n, parameters)."""
    with repeatedly_differentiable(), torch.enable_grad():
        outputs = model(x)
        rows = []
        for i in range(len(x)):
            one = torch.zeros_like(outputs)
            one[i] = cotangents[i]
            gradients = (
                torch.autograd.grad(
                    outputs, parameters, one, retain_graph=True, materialize_grads=True
                )
                if outputs.requires_grad
                else [torch.zeros_like(p) for p in parameters]
            )
            rows.append(torch.stack([g.square().sum() for g in gradients]))
    work.forward += len(x)
    work.gradient += len(x) * len(x)
    return outputs.detach(), torch.stack(rows)


def _terms(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    parameters: Sequence[nn.Parameter],
    cotangents: _Cotangents,
    plan: _Plan,
    start: int,
    work: Work,
) -> Tensor:
    outputs, taps = _run(model, x, parameters, work, plan.spread)
    uses = taps.uses
    _check_as_planned(outputs, uses, plan, start)
    if taps.selects:
        _check_owners(outputs, uses, plan.layouts, work)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    gradients = SampleGradients(uses, plan.layouts, len(x))
    for signs, cotangent in cotangents(outputs, y):
        deltas = _gradients(outputs, uses, cotangent)
        work.gradient += len(x)
        lengths = gradients.squared_lengths(deltas)
        if lengths:
            total += signs * torch.stack([*lengths.values()]).double().sum(0)
    return total


def _check_as_planned(outputs: Tensor, uses: Sequence[Use], plan: _Plan, start: int) -> None:
    """Raises MetricFailed if this batch went another way than the one that was checked."""
    samples = len(outputs)
    if [use.signature() for use in uses] != plan.calls:
        raise MetricFailed("the network makes other calls in another batch")
    for use, layout, shape in zip(uses, plan.layouts, plan.shapes, strict=True):
        axis = 1 if layout == "second" else 0
        expected = list(shape)
        if layout is not None:
            expected[axis] = shape[axis] // plan.samples * samples
            if list(use.shape) != expected:
                raise MetricFailed(
                    f"the rows of a {use.name} of shape {use.shape} are not the {samples} samples"
                )
    here = [(i, j - start) for i, j in enumerate(plan.order) if start <= j < start + samples]
    if here:
        checked, places = (list(each) for each in zip(*here, strict=True))
        apart = _deviation(outputs[places], plan.outputs[checked])
        _require(apart, outputs.dtype, "a sample's output depends on the batch that it is in")


def _check_owners(
    outputs: Tensor, uses: Sequence[Use], layouts: Sequence[Layout | None], work: Work
) -> None:
    """Raises MetricFailed unless each row of each call is its sample's, where rows are picked by data.

    A row's gradient is proportional to what its sample's outputs are multiplied by, and to no other's.
    """
    samples = len(outputs)
    cotangent = _normal(outputs, torch_generator(0))
    factors = 1 + torch.arange(samples, dtype=outputs.dtype, device=outputs.device) / samples
    plain = _gradients(outputs, uses, cotangent)
    scaled = _gradients(outputs, uses, cotangent * _of_samples(factors, outputs))
    work.gradient += 2 * samples
    # Its own part may be computed in less than its outputs, as norms in float32 are.
    least = max(
        torch.finfo(one).eps
        for one in {outputs.dtype, *on_the_way_to(outputs)}
        if one.is_floating_point
    )
    allowed = max(1e3 * least, 1e-10)
    for use, layout, *deltas in zip(uses, layouts, plain, scaled, strict=True):
        if layout is None:
            continue
        before, after = (arranged(delta, layout, samples) for delta in deltas)
        expected = before * _of_samples(factors, before)
        if not float((after - expected).abs().max()) <= allowed * float(before.abs().max()):
            raise MetricFailed(
                f"the rows of a {use.name} of shape {use.shape} are picked by the data, and those of a "
                "sample are not in one place"
            )


def _deviation(found: Tensor, expected: Tensor) -> float:
    """The largest difference relative to the largest value."""
    if found.shape != expected.shape:
        return math.inf
    scale = max(float(expected.detach().abs().max()), torch.finfo(expected.dtype).tiny)
    return float((found - expected).detach().abs().max()) / scale


def _allowed(dtype: torch.dtype) -> float:
    return 10 * math.sqrt(torch.finfo(dtype).eps)


def _require(deviation: float, dtype: torch.dtype, fault: str) -> None:
    if not deviation <= _allowed(dtype):
        raise MetricFailed(f"{fault} (relative deviation {deviation:.2g})")


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
