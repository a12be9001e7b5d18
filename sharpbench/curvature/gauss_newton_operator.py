"""The Gauss-Newton matrix of the mean loss in the parameters, by products."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.func import functional_call, grad, vjp

from sharpbench.curvature.differentiation import Graph, second_derivatives
from sharpbench.curvature.loss_operator import PROBE, LossOperator, Named, inner
from sharpbench.curvature.product_check import Checks, check_gauss_newton
from sharpbench.errors import MetricFailed
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.seeds import torch_generator

__all__ = ["GaussNewtonOperator"]


class GaussNewtonOperator(LossOperator):
    """G = (1/N) Σᵢ JᵢᵀΛᵢJᵢ with Jᵢ = ∂f(xᵢ)/∂w and Λᵢ = ∇²_f ℓ(f(xᵢ), yᵢ), positive semidefinite for a
    convex ℓ; the Fisher matrix for cross-entropy (Martens, arXiv:1412.1193).

    J·v is the derivative of the linear map u ↦ Jᵀu, so that one graph serves every product.
    """

    def _graph(self, x: Tensor, y: Tensor) -> Graph:
        with second_derivatives(), torch.enable_grad():
            outputs = self.model(x)
            free = outputs.detach().requires_grad_()
            (slope,) = torch.autograd.grad(
                self.loss(free, y).sum() / self.samples, free, create_graph=True
            )
            if not outputs.requires_grad:
                raise MetricFailed("the outputs depend on no parameter that is differentiated")
            dual = torch.zeros_like(outputs, requires_grad=True)
            adjoint = torch.autograd.grad(
                outputs, self.parameters, dual, create_graph=True, materialize_grads=True
            )
        self.work.gradient += len(x)
        self._look(outputs, (slope, *adjoint), x, y)
        return (outputs, free, slope, dual, *adjoint)

    def sample_slopes(self, vector: Tensor) -> Tensor:
        """⟨v, ∇_w ℓᵢ⟩ for v (P,): how each sample's loss grows along it, (N,)."""
        vector = vector.to(self.device, self.dtype)
        slopes = [self._slopes(x, y, vector) for x, y in self._chunks()]
        return self.check_product(torch.cat(slopes))

    def sample_curvatures(self, vector: Tensor) -> Tensor:
        """vᵀJᵢᵀΛᵢJᵢv for v (P,): each sample's curvature along it, whose mean is vᵀGv, (N,)."""
        vector, found = vector.to(self.device, self.dtype), []
        for graph in self._graphs():
            _, free, slope, *_ = graph
            with second_derivatives():
                forward = self._forward(graph, vector)
                image = torch.zeros_like(forward)
                if slope.requires_grad:
                    (image,) = torch.autograd.grad(slope, free, forward, retain_graph=True)
            found.append(self.samples * (forward * image).flatten(1).sum(1))
        self.work.gradient += self.samples
        return self.check_product(torch.cat(found))

    def kernel_products(self, vectors: Tensor) -> Tensor:
        """JJᵀ·U of all samples for U (K, N, C), with outputs (N, C); (K, N, C)."""
        vectors = vectors.to(self.device, self.dtype)
        pulled = torch.zeros(len(vectors), self.dimension, device=self.device, dtype=self.dtype)
        start = 0
        for outputs, *_ in self._graphs():
            stop = start + len(outputs)
            for row, v in zip(pulled, vectors[:, start:stop], strict=True):
                with second_derivatives():
                    row += self.flat(
                        torch.autograd.grad(
                            outputs, self.parameters, v, retain_graph=True, materialize_grads=True
                        )
                    )
            start = stop
        found = []
        for graph in self._graphs():
            with second_derivatives():
                along = [self._forward(graph, row).detach() for row in pulled]
            found.append(torch.stack(along))
        self.work.hessian_vector += self.samples * len(vectors)
        return self.check_product(torch.cat(found, 1))

    def _graphs(self) -> Iterator[Graph]:
        if not self.kept:
            yield from (self._graph(x, y) for x, y in self._chunks())
            return
        self._count_whole()
        yield self._whole()

    def check_slopes(self, vector: Tensor) -> float:
        """The relative deviation of a random combination of a few `sample_slopes` from ⟨v, its gradient⟩.

        Raises MetricFailed if it is more than rounding: torch's second derivative of some operation in the
        network, which J·v is taken by, is wrong then.
        """
        vector = vector.to(self.device, self.dtype)
        x, y = self.inputs[:PROBE], self.targets[:PROBE]
        weights = torch.randn(len(x), generator=torch_generator(0)).to(vector)
        found = weights @ self._slopes(x, y, vector)
        with repeatedly_differentiable(), torch.enable_grad():
            combined = (weights * self.loss(self.model(x), y)).sum()
            pieces = torch.autograd.grad(combined, self.parameters, materialize_grads=True)
        self.work.gradient += len(x)
        terms = vector * self.flat(pieces)
        scale = float(terms.abs().sum()) + torch.finfo(self.dtype).tiny
        deviation = float((found - terms.sum()).abs()) / scale
        if not deviation <= 10 * math.sqrt(torch.finfo(self.dtype).eps):
            raise MetricFailed(
                "torch's derivative of the network along its parameters is not that of its gradients "
                f"(relative deviation {deviation:.2g}): some operation in it has a wrong second derivative"
            )
        return deviation

    def _slopes(self, x: Tensor, y: Tensor, vector: Tensor) -> Tensor:
        graph = self._graph(x, y)
        with second_derivatives():
            along = self.samples * graph[2].detach() * self._forward(graph, vector)
        self.work.gradient += len(x)
        return along.flatten(1).sum(1)

    _tries_blocks = False

    def _checked(self, blocks: bool) -> Checks:
        self._batches = True  # blocks are single products one after the other
        return check_gauss_newton(self)

    def parts(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """J·v and ΛJ·v of all samples, of the outputs' shape."""
        graph = self._graph(self.inputs, self.targets)
        with second_derivatives():
            forward = self._forward(graph, vector)
        _, free, slope, *_ = graph
        if not slope.requires_grad:
            return forward, torch.zeros_like(forward)
        return forward, torch.autograd.grad(slope, free, forward, retain_graph=True)[0]

    def curvature(self, outputs: Tensor, along: Tensor) -> Tensor:
        """Λ·``along`` at other outputs."""
        free = outputs.detach().requires_grad_()
        with second_derivatives(), torch.enable_grad():
            share = self.loss(free, self.targets).sum() / self.samples
            (slope,) = torch.autograd.grad(share, free, create_graph=True)
            if not slope.requires_grad:
                return torch.zeros_like(along)
            (image,) = torch.autograd.grad(slope, free, along)
        return image

    def _forward(self, graph: Graph, vector: Tensor) -> Tensor:
        """J·v, of the outputs' shape."""
        _, _, _, dual, *adjoint = graph
        pairs = zip(adjoint, self.pieces(vector), strict=True)
        active = [(g, v) for g, v in pairs if g.requires_grad]
        (forward,) = torch.autograd.grad(
            [g for g, _ in active], dual, [v for _, v in active], retain_graph=True
        )
        return forward

    def _product(self, graph: Graph, vector: Tensor) -> Tensor:
        outputs, free, slope, *_ = graph
        forward = self._forward(graph, vector)
        if not slope.requires_grad:  # a loss that is linear in the outputs
            return torch.zeros_like(vector)
        (weighted,) = torch.autograd.grad(slope, free, forward, retain_graph=True)
        return self.flat(
            torch.autograd.grad(
                outputs, self.parameters, weighted, retain_graph=True, materialize_grads=True
            )
        )

    def _batched(self, graph: Graph, vectors: Tensor) -> Tensor:
        return torch.stack([self._product(graph, v) for v in vectors.unbind(1)], 1)

    def _product_at(self, parameters: Named, x: Tensor, y: Tensor, vector: Named) -> Named:
        outputs, pull, *_ = vjp(lambda at: functional_call(self.model, at, (x,)), parameters)

        def share(z: Tensor) -> Tensor:
            return self.loss(z, y).sum() / self.samples

        along = grad(lambda u: inner(pull(u)[0], vector))(torch.zeros_like(outputs))
        weighted = grad(lambda z: (grad(share)(z) * along).sum())(outputs)
        found: Named = pull(weighted)[0]
        return found
