"""The Hessian of the mean loss in the parameters, its blocks, and its part beside the Gauss-Newton matrix."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Self

import torch
from torch import Tensor
from torch.func import functional_call, grad

from sharpbench.curvature.differentiation import Graph, second_derivatives
from sharpbench.curvature.loss_operator import LossOperator, Named, inner
from sharpbench.curvature.operator import coordinates
from sharpbench.curvature.product_check import Checks, Direction, added, check_hessian

__all__ = ["BlockDiagonalOperator", "HessianOperator", "ResidualOperator"]


class HessianOperator(LossOperator):
    """H = ∇²_w (1/N) Σᵢ ℓ(f_w(xᵢ), yᵢ): the gradient's graph, differentiated once more a product."""

    def gradient(self) -> Tensor:
        """As ever, and for nothing where the graph of the whole data is kept."""
        if not self.kept:
            return super().gradient()
        found = self.flat([g.detach() for g in self._whole()])
        self._count_whole()
        return found

    def guess(self) -> Tensor | None:
        """See `LossOperator.guess`."""
        if self.kept:
            self._count_whole()  # which the gradient is a part of
        return super().guess()

    def _checked(self, blocks: bool) -> Checks:
        return check_hessian(self, blocks=blocks)

    def _graph(self, x: Tensor, y: Tensor) -> Graph:
        return self._gradient(x, y, create_graph=True)

    def _product(self, graph: Graph, vector: Tensor) -> Tensor:
        return self.flat(self._in_pieces(graph, self.pieces(vector)))

    def _in_pieces(self, graph: Graph, pieces: Sequence[Tensor]) -> Sequence[Tensor]:
        active = [(g, v) for g, v in zip(graph, pieces, strict=True) if g.requires_grad]
        if not active:  # the loss is linear in every parameter
            return [torch.zeros_like(v) for v in pieces]
        return torch.autograd.grad(
            [g for g, _ in active],
            self.parameters,
            [v for _, v in active],
            retain_graph=True,
            materialize_grads=True,
        )

    def product_of(self, direction: Direction) -> list[Tensor]:
        """The product with a vector in pieces of the parameters' shapes, in such pieces; of a large network
        it holds no more than three vectors of the weights' length beside them."""
        total: list[Tensor] = []
        if self.dimension > self.large:
            self._give_back()
            for x, y in self._chunks():
                total = added(total, self._lean_product(x, y, direction))
        else:
            pieces = list(direction())
            if self.kept:
                self._count_whole()
            graphs = [self._whole()] if self.kept else (self._graph(*c) for c in self._chunks())
            for graph in graphs:
                with second_derivatives():
                    found = list(self._in_pieces(graph, pieces))
                total = added(total, found)
        self.work.hessian_vector += self.samples
        for piece in total:
            self.check_product(piece)
        return total

    def _add_products(self, total: Tensor, x: Tensor, y: Tensor, vectors: Tensor) -> None:
        if self.dimension <= self.large or not self._leans:
            super()._add_products(total, x, y, vectors)
            return
        sizes = [coordinates(p).numel() for p in self.parameters]
        for sums, vector in zip(total.unbind(1), vectors.unbind(1), strict=True):
            pieces = self._lean_product(x, y, partial(self._given, vector))
            self.work.hessian_vector += len(x)
            for own, piece in zip(sums.split(sizes), pieces, strict=True):
                own += coordinates(piece).reshape(-1)

    def _given(self, vector: Tensor) -> Iterator[Tensor]:
        yield from self.pieces(vector)

    _leans = True
    """Whether a product is the derivative of one inner product."""

    def _lean_product(self, x: Tensor, y: Tensor, direction: Direction) -> list[Tensor]:
        """What samples add to it: the derivative of ⟨∇L, v⟩, of which no ∇L is kept."""
        with second_derivatives(), torch.enable_grad():
            gradient = list(self._gradient(x, y, create_graph=True))
            nothing, terms = gradient[0].new_empty(0), []
            for i, v in enumerate(direction()):
                if gradient[i].requires_grad:
                    terms.append((coordinates(gradient[i]) * coordinates(v)).sum())
                gradient[i] = nothing
            if not terms:
                return [torch.zeros_like(p) for p in self.parameters]
            along = torch.stack(terms).sum()
            return list(torch.autograd.grad(along, self.parameters, materialize_grads=True))

    def _batched(self, graph: Graph, vectors: Tensor) -> Tensor:
        rows = self.pieces(vectors.T)
        active = [(g, v) for g, v in zip(graph, rows, strict=True) if g.requires_grad]
        if not active:
            return torch.zeros_like(vectors)
        products = torch.autograd.grad(
            [g for g, _ in active],
            self.parameters,
            [v for _, v in active],
            retain_graph=True,
            allow_unused=True,  # materialised, they would lack the batch axis
            is_grads_batched=True,
        )
        count = vectors.shape[1]
        rows = [
            vectors.new_zeros(count, coordinates(q).numel())
            if p is None
            else coordinates(p).reshape(count, -1)
            for p, q in zip(products, self.parameters, strict=True)
        ]
        return torch.cat(rows, 1).T

    def _product_at(self, parameters: Named, x: Tensor, y: Tensor, vector: Named) -> Named:
        def slope(at: Named) -> Tensor:
            return inner(grad(self._share_at)(at, x, y), vector)

        found: Named = grad(slope)(parameters)
        return found

    def _share_at(self, parameters: Named, x: Tensor, y: Tensor) -> Tensor:
        share: Tensor = self.loss(functional_call(self.model, parameters, (x,)), y).sum()
        return share / self.samples


class BlockDiagonalOperator(HessianOperator):
    """The diagonal blocks of a Hessian, one for each group of parameters: (…, H_bb v_b, …) of (…, v_b, …).

    A product takes one backward pass a group, which ends at the group's own parameters.
    """

    groups: Sequence[Sequence[int]]
    _leans = False

    @classmethod
    def of(cls, hessian: HessianOperator, groups: Sequence[Sequence[int]]) -> Self:
        """``groups``: numbers of the operator's parameters, each in one group at most. The Hessian's own
        product is checked first. Raises MetricFailed where it is wrong."""
        hessian.verify()
        made = copy.copy(hessian)
        made.__class__ = cls
        assert isinstance(made, cls)
        made.groups, made._batches = groups, False
        return made

    def places(self) -> list[Tensor]:
        """Where each group's unknowns stand in a vector (P,)."""
        sizes = [coordinates(p).numel() for p in self.parameters]
        every = torch.arange(self.dimension, device=self.device).split(sizes)
        return [torch.cat([every[i] for i in group]) for group in self.groups]

    def _product(self, graph: Graph, vector: Tensor) -> Tensor:
        pieces, found = self.pieces(vector), [torch.zeros_like(p) for p in self.parameters]
        for group in self.groups:
            active = [i for i in group if graph[i].requires_grad and bool(pieces[i].any())]
            if not active:
                continue
            own = torch.autograd.grad(
                [graph[i] for i in active],
                [self.parameters[i] for i in group],
                [pieces[i] for i in active],
                retain_graph=True,
                materialize_grads=True,
            )
            for i, piece in zip(group, own, strict=True):
                found[i] = piece
        return self.flat(found)


class ResidualOperator(HessianOperator):
    """H − G: the part of the Hessian that comes from the network's own second derivatives.

    It is the Hessian of (1/N) Σᵢ ⟨∂ℓ/∂f(f(xᵢ), yᵢ), f_w(xᵢ)⟩ with the slope ∂ℓ/∂f held fixed, so that a
    product takes what one with H takes, and its check is that of H: the network is differentiated twice
    by the same operations, the loss once.

    In a network that is piecewise linear and uses each layer once, the outputs are linear in any one
    parameter, so that the diagonal of H − G, and with it its trace, is zero.
    """

    def _share(self, x: Tensor, y: Tensor) -> Tensor:
        outputs: Tensor = self.model(x)
        free = outputs.detach().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(self.loss(free, y).sum() / self.samples, free)
        return (slope * outputs).sum()

    def _share_at(self, parameters: Named, x: Tensor, y: Tensor) -> Tensor:
        outputs = functional_call(self.model, parameters, (x,))
        slope = grad(lambda z: self.loss(z, y).sum() / self.samples)(outputs.detach())
        share: Tensor = (slope.detach() * outputs).sum()
        return share

    def _checked(self, blocks: bool) -> Checks:
        raise AssertionError("held to the check of the Hessian beside it")
