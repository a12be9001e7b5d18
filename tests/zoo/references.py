"""What every metric should say of a small network, in float64 and from first derivatives alone.

Second derivatives are central differences of gradients, those in the input up to order 4 come from
polynomials through gradients. Each reference tells its own error.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import brentq
from torch import Tensor, nn

from sharpbench.heads import attentions
from sharpbench.seeds import derive_seed, torch_generator

__all__ = ["Figure", "Reference"]

_STEPS = (2e-3, 2e-4, 2e-5)
_NODES = 9
_RADII = (0.5, 0.25, 0.12, 0.06, 0.03, 0.015, 0.007, 0.003, 0.0015)


@dataclass(frozen=True)
class Figure:
    """A reference and how far it may be off itself; ``spread``: its standard error where it is random."""

    value: float
    error: float = 0.0
    spread: float = 0.0


class Reference:
    """Dense references of one network, one data set and one per-sample loss.

    ``input_model``: the network for derivatives in the input, where it isn't ``model``.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
        input_model: nn.Module | None = None,
    ) -> None:
        self.model, self.x, self.y, self.loss = model, inputs, targets, loss
        self.input_model = input_model or model
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.dimension = sum(p.numel() for p in self.parameters)

    # --- in the parameters ------------------------------------------------------------------------

    def mean_loss(self) -> Tensor:
        return self.loss(self.model(self.x), self.y).mean()

    def gradient(self) -> Tensor:
        """∇L, (P,), zero for a parameter that gets none."""
        return _flat(
            torch.autograd.grad(
                self.mean_loss(), self.parameters, allow_unused=True, materialize_grads=True
            )
        ).detach()

    @cached_property
    def trained(self) -> Tensor:
        """Which parameters get a gradient, (P,): not those of a backbone under no_grad."""
        found = torch.autograd.grad(self.mean_loss(), self.parameters, allow_unused=True)
        flags = [
            torch.full((p.numel(),), float(g is not None), dtype=torch.float64)
            for p, g in zip(self.parameters, found, strict=True)
        ]
        return torch.cat(flags)

    @cached_property
    def hessian(self) -> tuple[Tensor, float]:
        """∇²L over the trained parameters, (P, P), and the largest error of an entry."""
        rows, worst = [], 0.0
        for parameter in self.parameters:
            weights = parameter.data.view(-1)
            for i in range(len(weights)):
                row, error = _derivative(self.gradient, weights, i)
                rows.append(row)
                worst = max(worst, error)
        matrix = torch.stack(rows) * self.trained.outer(self.trained)
        return 0.5 * (matrix + matrix.T), worst

    @cached_property
    def eigenvalues(self) -> Tensor:
        return torch.linalg.eigvalsh(self.hessian[0])

    @cached_property
    def output_curvature(self) -> Tensor:
        """Λᵢ = ∇²_f ℓ for each sample, (N, C, C)."""
        outputs = self.model(self.x).detach()
        flat = outputs.reshape(len(self.x), -1)

        def slope() -> Tensor:
            free = flat.clone().requires_grad_()
            total = self.loss(free.view_as(outputs), self.y).mean() * len(self.x)
            return torch.autograd.grad(total, free, materialize_grads=True)[0].detach()

        columns = []
        for c in range(flat.shape[1]):
            column, _ = _derivative(slope, flat[:, c], slice(None))
            columns.append(column)
        return torch.stack(columns, 2)

    @cached_property
    def jacobian(self) -> Tensor:
        """∂fᵢ/∂w, (N, C, P)."""
        return self._jacobian()

    def _jacobian(self) -> Tensor:
        flat = self.model(self.x).reshape(len(self.x), -1)
        rows = [
            _flat(
                torch.autograd.grad(
                    f,
                    self.parameters,
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
            )
            for f in flat.reshape(-1)
        ]
        return torch.stack(rows).reshape(*flat.shape, -1).detach()

    @cached_property
    def gauss_newton(self) -> Tensor:
        """(1/N) Σ JᵢᵀΛᵢJᵢ, (P, P)."""
        weighted = self.output_curvature @ self.jacobian
        return torch.einsum("ncp,ncq->pq", self.jacobian, weighted) / len(self.x)

    def tangent_kernel_top(self) -> Figure:
        j = self.jacobian.flatten(0, 1)
        return Figure(float(torch.linalg.eigvalsh(j.T @ j)[-1]) / len(self.x))

    def tangent_kernel_alignment(self) -> Figure:
        """yᵀΘy/(‖Θ‖ ‖y‖²), y one-hot classes less 1/C."""
        j = self.jacobian.flatten(0, 1)
        classes = self.jacobian.shape[1]
        y = self.y.double().reshape(-1)
        if not self.y.is_floating_point():
            y = (torch.eye(classes, dtype=torch.float64)[self.y] - 1 / classes).reshape(-1)
        kernel = j @ j.T
        return Figure(float(y @ kernel @ y / (kernel.norm() * y.square().sum())))

    def tangent_kernel_drift(self, factor: float) -> Figure:
        """‖Θ − Θ₀‖_F/‖Θ₀‖_F, Θ₀ that of the same network with all parameters ``factor`` times as large."""
        kept = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            for p in self.parameters:
                p.mul_(factor)
        then = self._jacobian().flatten(0, 1)
        with torch.no_grad():
            for p, old in zip(self.parameters, kept, strict=True):
                p.copy_(old)
        now, before = self.jacobian.flatten(0, 1), then @ then.T
        if not float(before.norm()) > 0:
            raise ArithmeticError("there is no kernel to drift from")
        return Figure(float((now @ now.T - before).norm() / before.norm()))

    def gradient_share(self) -> Figure:
        """‖Pg‖²/‖g‖² in the space of as many leading eigenvectors of G as there are outputs."""
        values, vectors = torch.linalg.eigh(self.gauss_newton)
        values, vectors = values.flip(0), vectors.flip(1)
        if not float(values[0]) > 0:
            raise ArithmeticError("there is no curvature")
        rank = int((values > 1e-12 * values[0]).sum())
        count = min(self.jacobian.shape[1], rank)
        gap = float((values[count - 1] - values[count]) / values[0]) if count < rank else 1.0
        if gap < 1e-7:
            raise ArithmeticError("the space is not defined")
        gradient = self.gradient()
        if not float(gradient.norm()) > 0:
            raise ArithmeticError("there is no gradient")
        share = (vectors[:, :count].T @ gradient).square().sum() / gradient.square().sum()
        return Figure(float(share), 1e-10 / gap)

    def gradient_norm(self) -> Figure:
        return Figure(float(self.gradient().norm()))

    def fisher_decrement(self) -> Figure:
        """gᵀG⁺g by the pseudo-inverse."""
        values, vectors = torch.linalg.eigh(self.gauss_newton)
        top = float(values[-1])
        if not top > 0:
            raise ArithmeticError("there is no curvature")
        shares = (vectors.T @ self.gradient()).square() / values.clamp_min(1e-300)
        strict, loose = (float(shares[values > z * top].sum()) for z in (1e-7, 1e-11))
        return Figure(loose, abs(loose - strict) + 1e-6 * abs(loose))

    def representation_shift(self, factor: float) -> Figure:
        """All units' weights and biases moved by 1 − ``factor`` of themselves: root mean square length."""
        counted: dict[int, Tensor] = {}
        units: dict[int, int] = {}
        for module in self.model.modules():
            own = dict(module.named_parameters(recurse=False))
            for name, weight in own.items():
                if weight.ndim < 2 or not weight.requires_grad:
                    continue
                counted[id(weight)] = weight
                units[id(weight)] = count = getattr(module, "out_channels", len(weight))
                bias = own.get(name.replace("weight", "bias"))
                if bias is not None and bias.shape == (count,) and bias.requires_grad:
                    counted[id(bias)] = bias
        if not units:
            raise ArithmeticError("there are no units")
        square = sum(float(p.detach().abs().square().sum()) for p in counted.values())
        return Figure(abs(1 - factor) * math.sqrt(square / sum(units.values())))

    def monge(self, radius: float) -> Figure:
        g = self.gradient()
        length = float(g.norm())
        return Figure(self._rise(radius * g / (length * math.hypot(1, length))))

    def effective_dimension(self) -> Figure:
        values = len(self.x) * torch.linalg.eigvalsh(self.gauss_newton).clamp_min(0)
        return Figure(float((values / (values + 1)).sum()))

    def laplace_evidence(self) -> Figure:
        """−(1/N) log q(D) at a prior of precision one; ½ squared error is normal noise of variance one."""
        fit = float(self.mean_loss())
        if self.y.is_floating_point():
            fit += 0.5 * math.log(2 * math.pi) * self.y[0].numel()
        values = len(self.x) * torch.linalg.eigvalsh(self.gauss_newton).clamp_min(0)
        length = sum(float(p.detach().square().sum()) for p in self.parameters)
        return Figure(fit + 0.5 * (length + float(values.log1p().sum())) / len(self.x))

    def top_eigenvalue(self) -> Figure:
        return Figure(float(self.eigenvalues[-1]), self._spectral_error)

    def smallest_eigenvalue(self) -> Figure:
        return Figure(float(self.eigenvalues[0]), self._spectral_error)

    def trace(self) -> Figure:
        return Figure(float(self.eigenvalues.sum()), self.dimension * self.hessian[1])

    def frobenius_norm(self) -> Figure:
        return Figure(float(self.eigenvalues.norm()), self._spectral_error)

    def negative_share(self) -> Figure:
        sizes = self.eigenvalues.abs()
        total = float(sizes.sum())
        # What differences leave of zero eigenvalues has either sign.
        return Figure(
            float(sizes[self.eigenvalues < 0].sum()) / total,
            self.dimension * self.hessian[1] / total,
        )

    def gauss_newton_trace(self) -> Figure:
        return Figure(float(self.gauss_newton.trace()))

    def gauss_newton_top(self) -> Figure:
        return Figure(float(torch.linalg.eigvalsh(self.gauss_newton)[-1]))

    def fisher_rao(self) -> Figure:
        w = _flat([p.detach() for p in self.parameters])
        return Figure(math.sqrt(max(float(w @ self.gauss_newton @ w), 0.0)))

    def fisher_rao_observed(self) -> Figure:
        """√((1/N) Σ ⟨w, ∇ℓᵢ⟩²), with the labels given."""
        w = _flat([p.detach() for p in self.parameters])
        slopes = [
            w
            @ _flat(
                torch.autograd.grad(
                    loss,
                    self.parameters,
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
            )
            for loss in self.loss(self.model(self.x), self.y)
        ]
        return Figure(float(torch.stack(slopes).square().mean().sqrt()))

    def relative_flatness(self) -> Figure:
        """Σ ⟨w_s, w_s'⟩ tr H_{s,s'} of the last weight matrix, from the dense Hessian; of a matrix that is
        computed from parameters (pruned) E[‖φ‖² tr(WᵀΛW)]."""
        outputs = self.outputs().shape[1]
        layers = [m for m in self.model.modules() if isinstance(m, nn.Linear)]
        if layers and "weight" not in layers[-1]._parameters:
            kept: list[Tensor] = []
            hook = layers[-1].register_forward_hook(
                lambda layer, given, _: kept.extend([given[0].detach(), layer.weight.detach()])
            )
            self.outputs()
            hook.remove()
            along = torch.einsum("sd,nst,td->n", kept[1], self.output_curvature, kept[1])
            return Figure(float((kept[0].square().sum(1) * along).mean()), 1e-8)
        last = max(
            (i for i, p in enumerate(self.parameters) if p.ndim == 2 and len(p) == outputs),
            default=None,
        )
        if last is None:
            raise ArithmeticError("no weight matrix gives the outputs")
        weight = self.parameters[last].detach()
        start = sum(p.numel() for p in self.parameters[:last])
        block = self.hessian[0][start:, start:][: weight.numel(), : weight.numel()]
        blocks = block.view(*weight.shape, *weight.shape)
        gram = weight @ weight.T
        value = torch.einsum("st,sjtj->", gram, blocks)
        return Figure(float(value), weight.numel() * self.hessian[1] * float(gram.abs().sum()))

    def path_norm(self) -> Figure:
        """What the network gives for ones with |W| and |b| in every layer: for ReLU and its like."""

        def positive(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def called(x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any) -> Tensor:
                if x.ndim < 2 or len(x) == 1:  # a constant's layer makes a constant
                    return function(x, weight, bias, *rest).abs()
                return function(x, weight.abs(), None if bias is None else bias.abs(), *rest)

            return called

        def affine(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def called(x: Tensor, *rest: Any, **named: Any) -> Tensor:
                zero = function(torch.zeros_like(x), *rest, **named)
                return (function(torch.ones_like(x), *rest, **named) - zero).abs() * x + zero.abs()

            return called

        model = copy.deepcopy(self.model)
        with contextlib.ExitStack() as stack, torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.RNN):
                    for parameter in module.parameters():
                        parameter.abs_()
            for name, change in (
                ("linear", positive),
                ("conv1d", positive),
                ("conv2d", positive),
                ("batch_norm", affine),
                ("instance_norm", affine),
            ):
                stack.enter_context(mock.patch.object(F, name, change(getattr(F, name))))
            return Figure(float(model(torch.ones_like(self.x[:2]))[0].sum()))

    def layer_norms(self) -> Figure:
        """log ∏ σ²_max of the layers' maps, each as a dense matrix, every set of weights once."""
        seen: list[tuple[Tensor, Tensor]] = []

        def spied(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def called(x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any) -> Tensor:
                if function is not linear:
                    size = x[0].numel()
                    basis = torch.eye(size, dtype=x.dtype).view(size, *x.shape[1:])
                    matrix = function(basis, weight, None, *rest).flatten(1)
                else:
                    matrix = weight
                if not any(matrix.shape == m.shape and torch.equal(matrix, m) for m, _ in seen):
                    seen.append((matrix, torch.linalg.matrix_norm(matrix, 2)))
                return function(x, weight, bias, *rest)

            return called

        linear = F.linear
        with contextlib.ExitStack() as stack, torch.no_grad():
            for name in ("linear", "conv1d", "conv2d", "conv3d"):
                stack.enter_context(mock.patch.object(F, name, spied(getattr(F, name))))
            self.model(self.x[:2])
        return Figure(2 * sum(math.log(float(norm)) for _, norm in seen))

    def gradient_noise(self) -> Figure:
        """(1/N) Σ ‖∇ℓᵢ − ∇L‖², from each sample's own gradient."""
        each = [
            _flat(
                torch.autograd.grad(
                    loss,
                    self.parameters,
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
            )
            for loss in self.loss(self.model(self.x), self.y)
        ]
        return Figure(float(torch.stack(each).var(0, correction=0).sum()))

    def sam_worst(self, radius: float, *, asam: float | None = None) -> Figure:
        """L(w + Tε) − L(w) at ε = ρ T∇L/‖T∇L‖; ``asam``: η of T = |w| + η for weights, 1 for vectors."""
        scale = torch.ones(self.dimension, dtype=torch.float64)
        if asam is not None:
            scale = _flat(
                [
                    p.detach().abs() + asam if p.ndim > 1 else torch.ones_like(p)
                    for p in self.parameters
                ]
            )
        gradient = scale * self.gradient()
        return Figure(self._rise(radius * scale * gradient / gradient.norm()))

    def sam_average(self, radius: float, pairs: int = 12) -> Figure:
        """E over the sphere, from ±ε with the known quadratic part ρ² tr H/2P taken out of each pair."""
        generator = torch.Generator().manual_seed(12345)
        rest = []
        for _ in range(pairs):
            epsilon = torch.randn(self.dimension, generator=generator, dtype=torch.float64)
            epsilon *= radius / epsilon.norm()
            quadratic = 0.5 * float(epsilon @ self.hessian[0] @ epsilon)
            rest.append(0.5 * (self._rise(epsilon) + self._rise(-epsilon)) - quadratic)
        values = np.array(rest)
        return Figure(
            0.5 * radius**2 * self.trace().value / self.dimension + values.mean(),
            spread=values.std(ddof=1) / math.sqrt(pairs),
        )

    def pac_bayes_flatness(self, drop: float, seed: int, pairs: int) -> Figure:
        """1/σ² with the σ at which the mean loss rises by ``drop`` under noise ±u, u ~ N(0, σ²), in the
        metric's own draws: what is compared is what becomes of them."""
        noise = []
        for pair in range(pairs):
            generator = torch_generator(derive_seed(seed, "perturbations", pair))
            drawn = [
                torch.randn(p.shape, generator=generator, dtype=torch.float64)
                for p in self.parameters
            ]
            noise.append(_flat(drawn))

        def rise(sigma: float) -> float:
            each = [self._rise(sign * sigma * u) for u in noise for sign in (1, -1)]
            finite = [r if math.isfinite(r) else math.inf for r in each]
            return min(sum(finite) / len(finite), 10 * drop)

        sigma = 0.01 * float(_flat(self.parameters).detach().square().mean().sqrt())
        reached = rise(sigma) >= drop
        factor = 0.25 if reached else 4.0
        for _ in range(30):
            if (rise(factor * sigma) >= drop) != reached:
                break
            sigma *= factor
        else:
            raise ArithmeticError("no noise makes the loss rise by as much")
        low, high = sorted((sigma, factor * sigma))
        found = brentq(
            lambda log: rise(math.exp(log)) - drop, math.log(low), math.log(high), xtol=1e-3
        )
        return Figure(math.exp(-2 * found))

    def critical_sharpness(self) -> Figure:
        """2/η at the first of doubled steps −ηg between which the loss rises above where it starts."""
        down = self.gradient()
        weights = _flat(self.parameters).detach()

        def rise(log: float) -> float:
            found = self._rise(-math.exp(log) * down)
            return min(found if math.isfinite(found) else math.inf, abs(base) + 1)

        base = float(self.mean_loss().detach())
        log = math.log(0.01 * float(weights.norm()) / float(down.norm()))
        above = rise(log) > 0
        for _ in range(60):
            following = log + (-1 if above else 1) * math.log(2)
            if (rise(following) > 0) != above:
                found = brentq(rise, *sorted((log, following)), xtol=1e-5)
                return Figure(2 * math.exp(-found))
            log = following
        raise ArithmeticError("the loss does not rise, or does not fall, along the gradient")

    def geodesic_sharpness(self, radius: float = 0.05) -> Figure:
        """Of a network without attention: L(w + ρ w²∘g/‖w∘g‖) − L(w). With it no other is known here."""
        if attentions(self.model):
            return Figure(0.0, error=math.inf)
        w, g = _flat(self.parameters).detach(), self.gradient()
        return Figure(self._rise(radius * w.square() * g / (w * g).norm()))

    @property
    def _spectral_error(self) -> float:
        return self.dimension * self.hessian[1]

    def _rise(self, step: Tensor) -> float:
        pieces = step.split([p.numel() for p in self.parameters])
        kept = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            before = self.mean_loss()
            for p, s in zip(self.parameters, pieces, strict=True):
                p += s.view_as(p)
            after = self.mean_loss()
            for p, old in zip(self.parameters, kept, strict=True):
                p.copy_(old)
        return float(after - before)

    # --- in the input -----------------------------------------------------------------------------

    def losses_at(self, x: Tensor) -> Tensor:
        return self.loss(self.input_model(x), self.y)

    def input_gradients(self, x: Tensor) -> Tensor:
        """∇ℓ of each point, (N, d)."""
        return _input_gradients(self.losses_at, x)

    @cached_property
    def input_hessians(self) -> Tensor:
        """∇²_x ℓ of each point, (N, d, d)."""
        x = self.x.clone()
        flat = x.view(len(x), -1)
        columns = [
            _derivative(lambda: self.input_gradients(x), flat[:, k], slice(None))[0]
            for k in range(flat.shape[1])
        ]
        matrix = torch.stack(columns, 2)
        return 0.5 * (matrix + matrix.mT)

    def input_curvature(self, epsilon: float = 1e-6) -> Figure:
        norms = torch.linalg.matrix_norm(self.input_hessians, 2)
        return Figure(float((norms / (self.input_gradients(self.x).norm(dim=1) + epsilon)).mean()))

    def gradient_change(self, step: float = 0.1) -> Figure:
        here = self.input_gradients(self.x)
        signs = here.sign()
        z = signs / signs.norm(dim=1, keepdim=True).clamp_min(1)
        there = self.input_gradients(self.x + step * z.view_as(self.x))
        return Figure(float((there - here).norm(dim=1).mean()))

    def attack_trajectory(self, radius: float, steps: int) -> Figure:
        """Mean output norm after projected ascent of the losses over that before."""
        moved = torch.zeros_like(self.x)
        shape = (-1, *[1] * (self.x.dim() - 1))
        for _ in range(steps):
            slope = self.input_gradients(self.x + moved).view_as(self.x)
            moved = moved + 2.5 * radius / steps * slope / slope.flatten(1).norm(dim=1).clamp_min(
                1e-300
            ).view(shape)
            length = moved.flatten(1).norm(dim=1).clamp_min(1e-300).view(shape)
            moved = moved * (radius / length).clamp_max(1)

        def norm(x: Tensor) -> float:
            with torch.no_grad():
                return float(self.input_model(x).reshape(len(x), -1).norm(dim=1).mean())

        return Figure(norm(self.x + moved) / norm(self.x))

    def jacobian_norm(self, *, softmax: bool) -> Figure:
        def outputs(x: Tensor) -> Tensor:
            z = self.input_model(x).reshape(len(x), -1)
            return z.softmax(1) if softmax else z

        count = outputs(self.x).shape[1]
        squares = sum(
            _input_gradients(lambda x, c=c: outputs(x)[:, c], self.x).square().sum(1)
            for c in range(count)
        )
        return Figure(float(squares.sqrt().mean()))

    def outputs(self) -> Tensor:
        with torch.no_grad():
            return self.model(self.x).reshape(len(self.x), -1)

    def logit_norm(self) -> Figure:
        return Figure(float(self.outputs().norm(dim=1).mean()))

    def margin(self) -> Figure:
        z = self.outputs().clone()
        own = z[range(len(z)), self.y].clone()
        z[range(len(z)), self.y] = -math.inf
        return Figure(float((own - z.max(1).values).mean()))

    def inverse_margin(self) -> Figure:
        """1/γ² with the 90th percentile γ of the margins."""
        z = self.outputs().detach().numpy()
        own = z[range(len(z)), self.y]
        others = np.where(np.eye(z.shape[1], dtype=bool)[self.y], -np.inf, z).max(1)
        gamma = np.percentile(own - others, 90)
        if not gamma > 0:
            raise ArithmeticError("the margin is not positive")
        return Figure(gamma**-2)

    def parameter_norm(self) -> Figure:
        return Figure(
            math.sqrt(sum(float(p.detach().abs().square().sum()) for p in self.parameters))
        )

    def confidence(self) -> Figure:
        return Figure(float(self.outputs().softmax(1).max(1).values.mean()))

    def curvature_rate(self, target: str | int = "loss") -> Figure:
        """λ of the orders 1 to 4 along each point's own gradient."""

        def scalar(x: Tensor) -> Tensor:
            if target == "loss":
                return self.losses_at(x)
            return self.input_model(x).reshape(len(x), -1)[:, target]

        gradients = _input_gradients(scalar, self.x)
        unit = (gradients / gradients.norm(dim=1, keepdim=True)).view_as(self.x)
        derivatives, errors = _along(scalar, self.x, unit)
        size = derivatives.abs()
        # A point with a derivative that vanishes has no logarithm and is left out.
        kept = (size > 10 * errors + 1e-13).all(0)
        if not bool((kept | (size <= 3 * errors + 1e-13).any(0)).all()) or not bool(kept.any()):
            raise ArithmeticError("a derivative of the network vanishes")
        size, errors = size[:, kept], errors[:, kept]
        orders = torch.arange(1.0, 5.0, dtype=torch.float64)
        slope = (orders - orders.mean()) / (orders - orders.mean()).square().sum()
        y = size.log().mean(1)
        relative = (errors / size).mean(1)
        return Figure(float(slope @ y), float(slope.abs() @ relative))


def _flat(pieces: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.cat([p.reshape(-1) for p in pieces])


def _derivative(
    function: Callable[[], Tensor], place: Tensor, index: int | slice
) -> tuple[Tensor, float]:
    """d function / d place[index] by Richardson's central differences, and the error of an entry.

    Three steps are tried: a kink near the point spoils the long ones.
    """
    kept = place[index].clone()

    def central(h: float) -> Tensor:
        place[index] = kept + h
        ahead = function()
        place[index] = kept - h
        behind = function()
        place[index] = kept
        return (ahead - behind) / (2 * h)

    best: tuple[Tensor, float] | None = None
    for h in _STEPS:
        coarse, fine = central(h), central(h / 2)
        value = (4 * fine - coarse) / 3
        # The difference is the error of the coarse one, O(h²); what is left after Richardson is O(h⁴).
        gap = float((fine - coarse).abs().max())
        error = gap * h + 2e-16 * float(value.abs().max() + 1) / h
        if best is None or error < best[1]:
            best = value, error
        if gap <= 100 * h**2 * max(float(value.abs().max()), 1e-3):
            break
    assert best is not None
    return best


def _input_gradients(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x).sum(), x, materialize_grads=True)
    return gradient.detach().flatten(1)


def _along(function: Callable[[Tensor], Tensor], x: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives (4, N) of the orders 1 to 4 of ``function`` along ``unit``, and their errors.

    From polynomials through the slopes at Chebyshev nodes of intervals of falling length: of each point
    and order the one that agrees best with its neighbour, since a long one leaves the Taylor series' disk
    or meets a kink and a short one drowns in rounding.
    """
    nodes = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
    fit = np.linalg.inv(np.vander(nodes, increasing=True))[:4]  # rows: monomials of order 0 to 3
    factorials = np.array([1.0, 1.0, 2.0, 6.0])[:, None]
    direction = unit.flatten(1)
    estimates = []
    for radius in _RADII:
        slopes = np.stack(
            [
                (_input_gradients(function, x + radius * t * unit) * direction).sum(1).numpy()
                for t in nodes
            ]
        )
        estimates.append(factorials * (fit @ slopes) / radius ** np.arange(4.0)[:, None])
    table = np.stack(estimates)
    gaps = np.abs(np.diff(table, axis=0))
    best = gaps.argmin(0)
    chosen = np.take_along_axis(table[1:], best[None], 0)[0]
    return torch.from_numpy(chosen), 3 * torch.from_numpy(gaps.min(0))
