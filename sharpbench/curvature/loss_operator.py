"""What curvature matrices of a mean loss in the parameters share: chunks, blocks of products, checks."""

from __future__ import annotations

import copy
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sharpbench.allocator import give_back_freed_memory
from sharpbench.copies import private_copy
from sharpbench.curvature.differentiation import (
    Graph,
    check_twice_differentiable,
    first_derivatives,
    out_of_memory,
    second_derivatives,
)
from sharpbench.curvature.operator import SymmetricOperator, coordinates
from sharpbench.curvature.parameters import named_subset
from sharpbench.curvature.product_check import Checks, check_blocks, own_functions, where_it_runs
from sharpbench.errors import MetricFailed, TimeLimitExceeded
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.front import fronted
from sharpbench.measurement import Work
from sharpbench.shared import ALONE, Shared, digest
from sharpbench.subject import Loss

__all__ = ["PROBE", "LossOperator", "Named", "inner"]

PROBE = 4
"""Samples used to find out how much memory the gradient graph of one sample takes."""

_HELD = 4
"""A product holds at its peak about so many times what its graph saves (measured: 4.3, tanh MLP)."""

_SMALL = 4_000_000
"""Up to so many samples × parameters a block of products is one batched pass: Python's overhead then
outweighs what the batching costs (measured on networks of 5e3 to 1e6 parameters)."""

_TOGETHER = 20_000_000
"""Up to so many samples × parameters, and numbers in all their products, groups of samples are one batched
pass (measured to 1.3e7)."""

Named = dict[str, Tensor]
"""A vector of the parameters' length, in pieces by their names."""


class LossOperator(SymmetricOperator):
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
        if self.dimension > self.large and self.device.type == "cpu":
            give_back_freed_memory()

    def _within_memory(self, vectors: Tensor) -> Tensor:
        try:
            return self._block(vectors)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not out_of_memory(error) or self.chunk == 1:
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
            check_twice_differentiable(graph)
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
            with second_derivatives(), torch.enable_grad():
                return own_functions(self._share(x[begin:end], y[begin:end]))

        number = where_it_runs(functions, name, len(x))
        alone = copy.copy(self)
        alone.inputs, alone.targets = x[number : number + 1], y[number : number + 1]
        alone.samples = alone.chunk = 1
        alone._kept, alone._counted, alone._unseen = None, True, 0
        alone._checked(blocks=False)

    large = 4_000_000
    """Beyond so many parameters vectors of the weights' length are what takes the memory: a check keeps no
    graph, chunks' products are added up in pieces, and what was freed is given back in between."""

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
        keep = twin.kept and self.dimension <= self.large
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
        with second_derivatives():
            if vectors.shape[1] > 1 and self._takes_blocks(samples):
                try:
                    return self._batched(graph, vectors)
                except RuntimeError as error:  # torch has no batching rule, or one that fails
                    if out_of_memory(error):
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
                    with first_derivatives(), warnings.catch_warnings():
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
        context = second_derivatives() if create_graph else first_derivatives()
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
        x, y = self.inputs[:PROBE], self.targets[:PROBE]
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

        probe = min(PROBE, self.samples)
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
        check_twice_differentiable(graph)
        front = fronted(self.model)
        read = 0 if front is None else 2 * front.batches.read_bytes  # from its batch into another
        per_sample = max(_HELD * sum(saved.values()) // probe + read, 1)
        return max(1, min(self.samples, memory_budget // per_sample))


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


def inner(some: Named, others: Named) -> Tensor:
    """⟨a, b⟩ of vectors in pieces by the parameters' names."""
    return torch.stack([(some[name] * others[name]).sum() for name in some]).sum()
