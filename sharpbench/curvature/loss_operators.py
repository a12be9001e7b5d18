"""The Hessian and the Gauss-Newton matrix of the mean loss, and each point's Hessian in its input."""

from __future__ import annotations

import copy
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sharpbench.allocator import give_back_freed_memory
from sharpbench.copies import private_copy
from sharpbench.curvature.operator import SymmetricOperator, coordinates
from sharpbench.curvature.product_check import (
    Checks,
    Direction,
    added,
    check_blocks,
    check_gauss_newton,
    check_hessian,
    check_input_hessian,
    own_functions,
    where_it_runs,
)
from sharpbench.errors import MetricFailed, TimeLimitExceeded, nearest_names
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.formulas.convolution import ConvolutionsByFormula
from sharpbench.front import AtInputs, fronted
from sharpbench.measurement import Work
from sharpbench.seeds import torch_generator
from sharpbench.shared import ALONE, Shared, digest
from sharpbench.subject import Loss

__all__ = [
    "BlockDiagonalOperator",
    "GaussNewtonOperator",
    "HessianOperator",
    "InputHessianOperator",
    "ResidualOperator",
    "named_subset",
]

_PROBE = 4
"""Samples used to find out how much memory the gradient graph of one sample takes."""

_HELD = 4
"""A product holds at its peak about so many times what its graph saves (measured: 4.3, tanh MLP)."""

_SMALL = 4_000_000
"""Up to so many samples × parameters a block of products is one batched pass: Python's overhead then
outweighs what the batching costs (measured on networks of 5e3 to 1e6 parameters)."""

_LEAN = 4_000_000
"""Beyond so many parameters vectors of the weights' length are what takes the memory: a check keeps no graph,
chunks' products are added up in pieces, and what was freed is given back in between."""

_TOGETHER = 20_000_000
"""Up to so many samples × parameters, and numbers in all their products, groups of samples are one batched
pass (measured to 1.3e7)."""

Graph = tuple[Tensor, ...]
Named = dict[str, Tensor]


def named_subset(model: nn.Module, patterns: Sequence[str]) -> list[nn.Parameter]:
    """The trainable parameters that ``patterns`` name; all if there is none: each is a parameter's name, the
    name of a module, for all in it, or a shell pattern of parameters' names. One that is tied has as many
    names.

    Raises MetricFailed where nothing is trainable and, with the nearest names, for a pattern that fits none.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise MetricFailed("the model has no parameter that requires gradients")
    every = dict(model.named_parameters(remove_duplicate=False))
    named = {n: p for n, p in every.items() if p.requires_grad}
    for pattern in patterns:
        if not any(_fits(name, pattern) for name in named):
            frozen = any(_fits(name, pattern) for name in every)
            why = "Those that do require no gradients." if frozen else nearest_names(pattern, named)
            raise MetricFailed(f"no trainable parameter fits {pattern!r}. {why}")
    if not patterns:
        return trainable
    meant = {id(p) for n, p in named.items() if any(_fits(n, q) for q in patterns)}
    return [p for p in trainable if id(p) in meant]


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")


class _LossOperator(SymmetricOperator):
    """What curvature matrices of (1/N) Σᵢ ℓ(f_w(xᵢ), yᵢ) in the parameters share.

    The data is cut into chunks whose graph fits ``memory_budget`` bytes, each weighted by its number of
    samples, so that the sum over chunks is the full-data mean exactly. With a single chunk the graph
    is built once and kept; otherwise it is rebuilt at each block of products. A chunk that runs out of
    memory is tried once more at a quarter of its size.

    Parameters
    ----------
    model: in evaluation mode; it is not changed, its ``.grad`` fields neither.
    loss: per-sample loss (N,).
    inputs, targets: N samples on the model's device.
    work: the passes made are added to it.
    parameters: names (of modules too) or shell patterns of the parameters meant; all trainable ones if empty.
    verify: check one product against differences of first derivatives before the first one is given;
        what was found stands in ``checks``.
    shared: where operators of the same network, loss, data and settings leave what they find alike: the
        check, the size of a chunk, and products with the same vectors.

    Raises
    ------
    MetricFailed: no parameter requires gradients, the loss is not finite, it differs between two
        evaluations (dropout left on), or it is not twice differentiable; at the first product, where that
        is not what differences say.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        work: Work,
        memory_budget: int = 1 << 30,
        parameters: Sequence[str] = (),
        verify: bool = True,
        shared: Shared = ALONE,
    ) -> None:
        self.parameters = named_subset(model, parameters)
        self.patterns = tuple(parameters)
        self.checks: Checks = {}
        self._verify = verify
        self.shared = shared
        self._versions = self._counts()
        self.model, self.loss, self.work = model, loss, work
        self.inputs, self.targets = inputs, targets
        self.samples = len(inputs)
        self.dimension = sum(coordinates(p).numel() for p in self.parameters)
        self.device, self.dtype = self.parameters[0].device, self.parameters[0].dtype.to_real()
        self._known: frozenset[str] | None = None
        self._unseen = len(inputs) if verify else 0
        self._waiting: list[tuple[set[str], Tensor, Tensor]] = []
        self.chunk, self._known = shared.once(
            "chunk", lambda: (self._chunk_size(memory_budget), self._known), work
        )
        self._kept: Graph | None = None
        self._counted = False
        self._batches: bool | None = None if verify else True

    @property
    def kept(self) -> bool:
        """Whether the whole data's graph fits the memory budget and is kept between products."""
        return self.chunk >= self.samples

    def matmat(self, vectors: Tensor) -> Tensor:
        self.verify(blocks=vectors.shape[1] > 1)
        vectors = vectors.to(self.device, self.dtype)
        if not self._unmoved:
            total = self._anew(vectors)
        else:
            key = "product", digest(vectors)
            total = self.shared.once(key, lambda: self._anew(vectors), self.work)
        if self.kept:
            self._count_whole()
        return self.check_product(total)

    def _anew(self, vectors: Tensor) -> Tensor:
        self._give_back()
        found = self._within_memory(vectors)
        self._give_back()
        return found

    def _give_back(self) -> None:
        """What was freed, of a large network: else each step's gaps are added to the next one's needs."""
        if self.dimension > _LEAN and self.device.type == "cpu":
            give_back_freed_memory()

    def _within_memory(self, vectors: Tensor) -> Tensor:
        try:
            return self._block(vectors)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _out_of_memory(error) or self.chunk == 1:
                raise
            self.forget()
            self.chunk = max(1, self.chunk // 4)
            return self._block(vectors)

    @property
    def _unmoved(self) -> bool:
        """Whether products are shared, and the weights those that the others' are of."""
        return self.shared.remembers and self._counts() == self._versions

    def _counts(self) -> list[int]:
        return [p._version for p in self.parameters]

    def _whole(self) -> Graph:
        """The graph of all data, built where it isn't kept; `_count_whole` counts it."""
        if self._kept is None:
            counted = self.work.gradient
            self._kept = self._graph(self.inputs, self.targets)
            self.work.gradient = counted
        return self._kept

    def _count_whole(self) -> None:
        """Count the graph of all data where it is first needed: also where what it would be built for is
        known."""
        if not self._counted:
            self._counted = True
            self.work.gradient += self.samples

    def __copy__(self) -> Self:
        """One that may become another operator: it shares with nobody."""
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.shared = ALONE
        return made

    def verify(self, *, blocks: bool = True) -> None:
        """Check a product now, if none was checked; and ``blocks`` of them, if these follow.

        Raises MetricFailed where it is wrong.
        """
        if self._verify:
            tried = blocks and self._batches is None and self._tries_blocks

            self._give_back()

            def found() -> tuple[Checks, bool | None]:
                return self._checked(tried), self._batches

            self.checks, self._batches = self.shared.once(("checks", tried), found, self.work)
            self._verify = False
            self._look_at_waiting()

    def _look(self, result: Tensor, graph: Graph, x: Tensor, y: Tensor) -> None:
        """Look, once, at the graph of each sample: what runs for some of them alone was not in the check.

        Raises MetricFailed for what is not twice differentiable.
        """
        if self._known is None:  # of the first ones, which are those of the check
            self._known = frozenset(own_functions(result))
        elif self._unseen > 0:
            self._unseen -= len(x)
            _check_twice_differentiable(graph)
            self._waiting.append((own_functions(result), x, y))
            self._look_at_waiting()

    def _look_at_waiting(self) -> None:
        while self._waiting and not self._verify:
            functions, x, y = self._waiting.pop()
            for name in sorted(functions - (self._known or frozenset())):
                self._known = (self._known or frozenset()) | {name}
                self._check_function(name, x, y)

    def _check_function(self, name: str, x: Tensor, y: Tensor) -> None:
        """The check on a sample for which an autograd.Function runs. Raises MetricFailed."""

        def functions(begin: int, end: int) -> set[str]:
            self.work.forward += end - begin
            with _products(), torch.enable_grad():
                return own_functions(self._share(x[begin:end], y[begin:end]))

        number = where_it_runs(functions, name, len(x))
        alone = copy.copy(self)
        alone.inputs, alone.targets = x[number : number + 1], y[number : number + 1]
        alone.samples = alone.chunk = 1
        alone._kept, alone._counted, alone._unseen = None, True, 0
        alone._checked(blocks=False)

    _tries_blocks = True
    """Whether a block of products is anything but single ones, one after another."""

    @abstractmethod
    def _checked(self, blocks: bool) -> Checks:
        """What a check of one product found. Raises MetricFailed where it is wrong."""

    def share(self) -> Tensor:
        """The mean loss, within the context of repeated derivatives."""
        with repeatedly_differentiable():
            return self._share(self.inputs, self.targets)

    def plain_share(self) -> Tensor:
        """The mean loss as the network is written."""
        return self._share(self.inputs, self.targets)

    def plain_gradients(self) -> Iterator[list[Tensor]]:
        """The parts of the gradient at the weights as they are now, whatever was kept, in pieces."""
        for x, y in self._chunks():
            yield [g.detach() for g in self._gradient(x, y, create_graph=False)]

    def outputs(self) -> Tensor:
        """The network's outputs at the weights as they are now."""
        with repeatedly_differentiable():
            outputs: Tensor = self.model(self.inputs)
        return outputs

    def forget(self) -> None:
        """Let go of the graph that was kept, and of what is shared: weights, or chunks, are others."""
        self._kept, self._counted, self.shared = None, False, ALONE
        self._give_back()

    def twin(self, samples: int, dtype: torch.dtype = torch.float64) -> Self:
        """The same of the first ``samples``, in this precision and unchecked, on a copy of the network.

        Raises what the network raises in that precision.
        """
        twin = copy.copy(self)
        twin.model = private_copy(self.model, dtype)
        twin.parameters = named_subset(twin.model, self.patterns)
        twin.dtype = twin.parameters[0].dtype.to_real()
        y = self.targets[:samples]
        twin.inputs = self.inputs[:samples].to(dtype)
        twin.targets = y.to(dtype) if y.is_floating_point() else y
        twin.samples = len(y)
        twin.chunk = max(1, min(twin.samples, self.chunk // 2))  # its numbers may be twice as long
        twin.checks, twin._verify, twin._batches = {}, False, True
        twin._unseen, twin._waiting = 0, []
        graph = twin._graph(twin.inputs[: twin.chunk], twin.targets[: twin.chunk])
        keep = twin.kept and self.dimension <= _LEAN
        twin._kept, twin._counted = (graph, True) if keep else (None, False)
        del graph
        twin._give_back()
        return twin

    def batches_agree(self, agree: bool) -> None:
        """Whether products may be taken a block at a time."""
        self._batches = agree

    def _takes_blocks(self, samples: int) -> bool:
        if samples * self.dimension > _SMALL:
            return False
        if self._batches is None:

            def agree() -> bool | None:
                check_blocks(self)
                return self._batches

            self._batches = self.shared.once("blocks", agree, self.work)
        return bool(self._batches)

    def _block(self, vectors: Tensor) -> Tensor:
        if self.kept:
            return self._products(self._whole(), vectors, self.samples)
        total = torch.zeros_like(vectors)
        for x, y in self._chunks():
            self._add_products(total, x, y, vectors)
        return total

    def _add_products(self, total: Tensor, x: Tensor, y: Tensor, vectors: Tensor) -> None:
        total += self._products(self._graph(x, y), vectors, len(x))

    def _products(self, graph: Graph, vectors: Tensor, samples: int) -> Tensor:
        self.work.hessian_vector += samples * vectors.shape[1]
        with _products():
            if vectors.shape[1] > 1 and self._takes_blocks(samples):
                try:
                    return self._batched(graph, vectors)
                except RuntimeError as error:  # torch has no batching rule, or one that fails
                    if _out_of_memory(error):
                        raise
                    self._batches = False
            columns = [self._product(graph, v) for v in vectors.unbind(1)]
        # A stack of one would be a copy.
        return columns[0].unsqueeze(1) if len(columns) == 1 else torch.stack(columns, 1)

    def group_products(self, vectors: Tensor, groups: Sequence[Tensor]) -> Iterator[Tensor]:
        """What each group of samples adds to A·V (P, K): together they are ``matmat``.

        ``groups``: numbers of samples. Small groups are taken together in one batched pass, where it agrees
        with the first and the last of them; else each group's gradient is built anew.
        """
        vectors = vectors.to(self.device, self.dtype)
        numbers = max(self.samples * self.dimension, len(groups) * vectors.numel())
        small = self.kept and numbers <= _TOGETHER and len(groups) > 2
        together = self._groups_together(vectors, groups) if small else None
        one_by_one = (self._of_group(vectors, group) for group in groups)
        yield from map(self.check_product, together or one_by_one)

    def _of_group(self, vectors: Tensor, group: Tensor) -> Tensor:
        total = torch.zeros_like(vectors)
        for members in group.to(self.device).split(self.chunk):
            graph = self._graph(self.inputs[members], self.targets[members])
            total += self._products(graph, vectors, len(members))
        return total

    def _groups_together(self, vectors: Tensor, groups: Sequence[Tensor]) -> list[Tensor] | None:
        """The same (P, K) of every group by functorch; None where it can't, or says something else."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        named = {names[id(p)]: p.detach() for p in self.parameters}
        at_once = vectors.shape[1] if self.samples * self.dimension <= _SMALL else 1
        found: list[Tensor] = [vectors] * len(groups)
        try:
            alone = copy.copy(self)  # a network may keep what it computes, which ends with the pass
            alone.model = private_copy(self.model, self.dtype)
            over_vectors = vmap(alone._product_at, (None, None, None, 0))
            for size in {len(group) for group in groups}:
                where = [i for i, group in enumerate(groups) if len(group) == size]
                members = torch.stack([groups[i] for i in where]).to(self.device)
                x, y = self.inputs[members], self.targets[members]
                rows = []
                for v in vectors.T.split(at_once):
                    directions = dict(zip(named, self.pieces(v), strict=True))
                    with _first_derivatives(), warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # of rules that functorch lacks
                        products = vmap(over_vectors, (None, 0, 0, None))(named, x, y, directions)
                    pieces = [coordinates(products[n]).flatten(2) for n in named]
                    rows.append(torch.cat(pieces, 2).detach())
                for i, block in zip(where, torch.cat(rows, 1), strict=True):
                    found[i] = block.T
            for i in (0, -1):
                single = self._of_group(vectors, groups[i])
                allowed = math.sqrt(torch.finfo(self.dtype).eps) * float(single.norm())
                if not float((found[i] - single).norm()) <= allowed:
                    return None
        except TimeLimitExceeded:
            raise
        except Exception:  # what functorch can't batch
            return None
        self.work.gradient += self.samples
        self.work.hessian_vector += self.samples * vectors.shape[1]
        return found

    @abstractmethod
    def _product_at(self, parameters: Named, x: Tensor, y: Tensor, vector: Named) -> Named:
        """What samples add to the product with one vector, as a function of the parameters' values."""

    @abstractmethod
    def _graph(self, x: Tensor, y: Tensor) -> Graph:
        """What is differentiated again at each product: this chunk's share of the mean loss."""

    @abstractmethod
    def _product(self, graph: Graph, vector: Tensor) -> Tensor:
        """This chunk's share of the product with one vector (P,)."""

    @abstractmethod
    def _batched(self, graph: Graph, vectors: Tensor) -> Tensor:
        """The same for a block (P, K), in one batched pass."""

    def gradient(self) -> Tensor:
        """∇_w of the mean loss, (P,)."""
        total = torch.zeros(self.dimension, device=self.device, dtype=self.dtype)
        for x, y in self._chunks():
            total += self.flat(g.detach() for g in self._gradient(x, y, create_graph=False))
        return total

    def guess(self) -> Tensor | None:
        """The gradient, which leans on the leading eigenvectors as training goes on (arXiv:1812.04754)."""
        if not self._unmoved:
            return self.gradient()
        return self.shared.once("guess", self.gradient, self.work)

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.inputs.split(self.chunk), self.targets.split(self.chunk), strict=True)

    def pieces(self, vectors: Tensor) -> list[Tensor]:
        """(P,) or (K, P) cut into the shapes of the parameters, (…) or (K, …)."""
        real = [coordinates(p) for p in self.parameters]
        pieces = vectors.split([r.numel() for r in real], dim=-1)
        shaped = []
        for piece, r, parameter in zip(pieces, real, self.parameters, strict=True):
            v = piece.reshape((*vectors.shape[:-1], *r.shape))
            shaped.append(torch.view_as_complex(v.clone()) if parameter.is_complex() else v)
        return shaped

    @staticmethod
    def flat(pieces: Iterable[Tensor]) -> Tensor:
        """One vector (P,) of pieces of the parameters' shapes."""
        return torch.cat([coordinates(p).reshape(-1) for p in pieces])

    @property
    def point(self) -> Tensor:
        """The parameters themselves as a vector (P,)."""
        return self.flat(p.detach() for p in self.parameters)

    def _share(self, x: Tensor, y: Tensor) -> Tensor:
        share: Tensor = self.loss(self.model(x), y).sum() / self.samples
        return share

    def _gradient(self, x: Tensor, y: Tensor, *, create_graph: bool) -> Graph:
        """Gradient of this chunk's share of the mean loss."""
        # The plain gradient, which products are checked by, is torch's own.
        context = _products() if create_graph else _first_derivatives()
        with context, torch.enable_grad():
            share = self._share(x, y)
            gradient = torch.autograd.grad(
                share, self.parameters, create_graph=create_graph, materialize_grads=True
            )
        self.work.gradient += len(x)
        if create_graph:
            self._look(share, gradient, x, y)
        return gradient

    def _check_deterministic(self) -> None:
        x, y = self.inputs[:_PROBE], self.targets[:_PROBE]
        with torch.no_grad():
            first, second = (self.loss(self.model(x), y) for _ in range(2))
        self.work.forward += 2 * len(x)
        if not torch.isfinite(first).all():
            raise MetricFailed("the loss is not finite")
        if not torch.equal(first, second):
            raise MetricFailed(
                "two evaluations of the loss differ: is dropout or another random layer left on?"
            )

    def _chunk_size(self, memory_budget: int) -> int:
        """As many samples as fit the budget, from the tensors that a small graph saves."""
        self._check_deterministic()
        weights = {p.untyped_storage().data_ptr() for p in self.parameters}
        saved: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            if tensor.layout != torch.strided:  # an adjacency matrix: no sample's own
                return tensor
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        probe = min(_PROBE, self.samples)
        # Copies: a slice would share, and count, the storage of all the data.
        x, y = self.inputs[:probe].clone(), self.targets[:probe].clone()
        try:
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                graph = self._graph(x, y)
        except RuntimeError as error:
            if "saved tensor hooks" not in str(error):
                raise
            # torch.func within the network takes no hooks: everything computed is as much, and more.
            with _Results(note):
                graph = self._graph(x, y)
        _check_twice_differentiable(graph)
        front = fronted(self.model)
        read = 0 if front is None else 2 * front.batches.read_bytes  # from its batch into another
        per_sample = max(_HELD * sum(saved.values()) // probe + read, 1)
        return max(1, min(self.samples, memory_budget // per_sample))


class HessianOperator(_LossOperator):
    """H = ∇²_w (1/N) Σᵢ ℓ(f_w(xᵢ), yᵢ): the gradient's graph, differentiated once more a product."""

    def gradient(self) -> Tensor:
        """As ever, and for nothing where the graph of the whole data is kept."""
        if not self.kept:
            return super().gradient()
        found = self.flat([g.detach() for g in self._whole()])
        self._count_whole()
        return found

    def guess(self) -> Tensor | None:
        """See `_LossOperator.guess`."""
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
        if self.dimension > _LEAN:
            self._give_back()
            for x, y in self._chunks():
                total = added(total, self._lean_product(x, y, direction))
        else:
            pieces = list(direction())
            if self.kept:
                self._count_whole()
            graphs = [self._whole()] if self.kept else (self._graph(*c) for c in self._chunks())
            for graph in graphs:
                with _products():
                    found = list(self._in_pieces(graph, pieces))
                total = added(total, found)
        self.work.hessian_vector += self.samples
        for piece in total:
            self.check_product(piece)
        return total

    def _add_products(self, total: Tensor, x: Tensor, y: Tensor, vectors: Tensor) -> None:
        if self.dimension <= _LEAN or not self._leans:
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
        with _products(), torch.enable_grad():
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
            return _inner(grad(self._share_at)(at, x, y), vector)

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


class GaussNewtonOperator(_LossOperator):
    """G = (1/N) Σᵢ JᵢᵀΛᵢJᵢ with Jᵢ = ∂f(xᵢ)/∂w and Λᵢ = ∇²_f ℓ(f(xᵢ), yᵢ), positive semidefinite for a
    convex ℓ; the Fisher matrix for cross-entropy (Martens, arXiv:1412.1193).

    J·v is the derivative of the linear map u ↦ Jᵀu, so that one graph serves every product.
    """

    def _graph(self, x: Tensor, y: Tensor) -> Graph:
        with _products(), torch.enable_grad():
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
            with _products():
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
                with _products():
                    row += self.flat(
                        torch.autograd.grad(
                            outputs, self.parameters, v, retain_graph=True, materialize_grads=True
                        )
                    )
            start = stop
        found = []
        for graph in self._graphs():
            with _products():
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
        x, y = self.inputs[:_PROBE], self.targets[:_PROBE]
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
        with _products():
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
        with _products():
            forward = self._forward(graph, vector)
        _, free, slope, *_ = graph
        if not slope.requires_grad:
            return forward, torch.zeros_like(forward)
        return forward, torch.autograd.grad(slope, free, forward, retain_graph=True)[0]

    def curvature(self, outputs: Tensor, along: Tensor) -> Tensor:
        """Λ·``along`` at other outputs."""
        free = outputs.detach().requires_grad_()
        with _products(), torch.enable_grad():
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

        along = grad(lambda u: _inner(pull(u)[0], vector))(torch.zeros_like(outputs))
        weighted = grad(lambda z: (grad(share)(z) * along).sum())(outputs)
        found: Named = pull(weighted)[0]
        return found


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


@dataclass
class _Point:
    gradient: Tensor
    inputs: Tensor


class InputHessianOperator(SymmetricOperator):
    """The Hessians ∇²_x ℓ(f(xᵢ), yᵢ) of all points at once: block diagonal, of shape (N·d, N·d).

    ``gradient`` (N, …) is kept beside. ``model``: of inputs alone, or `AtInputs`, whose points and context
    are then ``inputs`` and ``targets``. ``verify``: hold a product of the first points, and of one for which
    an autograd.Function runs that they lack, to differences; ``functions``: those that were held before.

    Raises MetricFailed where the loss is not twice differentiable.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        work: Work,
        verify: bool = True,
        functions: set[str] | None = None,
    ) -> None:
        self.samples, self.work = len(inputs), work
        self.model, self.loss, self.points, self.targets = model, loss, inputs, targets
        self.dimension, self.dtype, self.device = inputs.numel(), inputs.dtype, inputs.device
        x = inputs.clone().requires_grad_()
        with _products(), torch.enable_grad():
            total = self.losses_at(x).sum()
            (gradient,) = torch.autograd.grad(total, x, create_graph=True, materialize_grads=True)
        work.gradient += len(x)
        _check_twice_differentiable((gradient,))
        self._at = _Point(gradient, x)
        self.checks: Checks = check_input_hessian(self) if verify else {}
        if functions is not None:
            self._check_functions(own_functions(total), functions)

    def _check_functions(self, running: set[str], known: set[str]) -> None:
        """The check on a point for each autograd.Function that runs and is not ``known``, to which it is
        added. Raises MetricFailed."""

        def functions(begin: int, end: int) -> set[str]:
            self.work.forward += end - begin
            x = self.points[begin:end].clone().requires_grad_()
            with _products(), torch.enable_grad():
                return own_functions(self._part(begin, end).losses_at(x))

        if running and self.checks:
            known |= functions(0, min(_PROBE, self.samples))
        for name in sorted(running - known):
            known.add(name)
            number = where_it_runs(functions, name, self.samples)
            check_input_hessian(self._part(number, number + 1))

    def _part(self, begin: int, end: int) -> Self:
        """The same of some of the points, to be twinned."""
        made = copy.copy(self)
        made.points, made.targets = self.points[begin:end], self.targets[begin:end]
        made.samples = end - begin
        return made

    def twin(self, samples: int) -> Self:
        """The same of the first ``samples``, in float64 and unchecked, on a copy of the network."""
        return type(self)(
            private_copy(self.model, torch.float64),
            self.loss,
            self.points[:samples].double(),
            _double(self.targets[:samples]),
            work=Work(),
            verify=False,
        )

    def at(self, points: Tensor) -> Self:
        """The same at other points of the same targets."""
        return type(self)(self.model, self.loss, points, self.targets, work=self.work, verify=False)

    def losses_at(self, points: Tensor) -> Tensor:
        """The losses (N,) at other points of the same targets."""
        if isinstance(self.model, AtInputs):
            outputs = self.model(points, self.targets)
            return self.loss(outputs, self.model.targets(self.targets))
        return self.loss(self.model(points), self.targets)

    @property
    def gradient(self) -> Tensor:
        return self._at.gradient.detach()

    @property
    def linear(self) -> bool:
        """Whether the loss is linear in the input, so that every product vanishes."""
        return not self._at.gradient.requires_grad

    def matmat(self, vectors: Tensor) -> Tensor:
        if self.linear:
            return torch.zeros_like(vectors)
        shape = self._at.inputs.shape
        columns = []
        for v in vectors.to(self._at.inputs).unbind(1):
            with _products():
                (product,) = torch.autograd.grad(
                    self._at.gradient,
                    self._at.inputs,
                    v.reshape(shape),
                    retain_graph=True,
                    materialize_grads=True,
                )
            columns.append(product.reshape(-1))
            self.work.hessian_vector += self.samples
        return self.check_product(torch.stack(columns, 1))


def _double(targets: Tensor) -> Tensor:
    return targets.double() if targets.is_floating_point() else targets


class _Results(TorchDispatchMode):
    """Shows ``note`` every tensor that is computed."""

    def __init__(self, note: Callable[[Tensor], object]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.note(leaf)
        return result


def _inner(some: Named, others: Named) -> Tensor:
    return torch.stack([(some[name] * others[name]).sum() for name in some]).sum()


@contextmanager
def _first_derivatives() -> Iterator[None]:
    with repeatedly_differentiable(), _named_reasons():
        yield


@contextmanager
def _products() -> Iterator[None]:
    """What a graph is made in, and differentiated again."""
    with _first_derivatives(), ConvolutionsByFormula():
        yield


@contextmanager
def _named_reasons() -> Iterator[None]:
    """Torch's complaints about missing second derivatives as reasons a report can show."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if any(part in text for part in _NOT_TWICE):
            first = text.splitlines()[0]
            raise MetricFailed(f"the loss is not twice differentiable: {first}") from error
        raise


def _check_twice_differentiable(graph: Graph) -> None:
    """torch cuts what is differentiable once out of the graph in silence: find the place it left.

    Raises MetricFailed where there is one.
    """
    stack = [t.grad_fn for t in graph if t.grad_fn is not None]
    known = set(stack)
    while stack:
        node = stack.pop()
        if node.name().rpartition("::")[2] in {"Error", "DelayedError"}:
            raise MetricFailed(
                "the loss is not twice differentiable: an operation in it is marked "
                "once_differentiable, and torch would leave its second derivative out"
            )
        following = {n for n, _ in node.next_functions if n is not None} - known
        known |= following
        stack.extend(following)


_NOT_TWICE = (
    "once_differentiable",
    "is not implemented",
    "not differentiable",
    "does not require grad",
    "double backward",
    "nested",  # nested tensors have hardly any second derivatives
)


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        "not enough memory" in str(error) or "out of memory" in str(error)
    )
