"""What stands between metrics, which ask for samples by number, and a network that takes batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpbench.batches import Batches
from sharpbench.errors import InputError
from sharpbench.loss import is_tensor_like
from sharpbench.nest import Path, described, leaves, written
from sharpbench.precision import first_dtype, real_dtypes

__all__ = ["AtInputs", "Form", "Front", "calls", "fronted", "tensor_of"]

Form = Literal["as they are", "tokens first", "classes first"]
"""Where the classes of outputs with several a sample stand: (N, T, V) or (N, C, …)."""

_AT_ONCE = 256
"""Samples whose points are computed in one pass."""

_FRONT, _INSIDE = "_sharpbench_front", "_sharpbench_inside"

Forward = Callable[[nn.Module, Any], Any]


def tensor_of(raw: Any, *, first: bool = False) -> Tensor:
    """The outputs among what a network returned: a tensor, or the ``logits`` of a mapping or an object.

    ``first``: else the one tensor of a mapping, or the first of a tuple. Raises InputError.
    """
    if is_tensor_like(raw):
        return raw
    found = raw.get("logits") if isinstance(raw, Mapping) else getattr(raw, "logits", None)
    if is_tensor_like(found):
        return found
    if raw is None:
        raise InputError("the network returned None: does its forward pass return its result?")
    if isinstance(raw, (np.ndarray, str, int, float)):
        raise InputError(
            f"the network returned a {type(raw).__name__}, which has no derivatives: it must return the "
            "tensor (N, …) that it computes"
        )
    if first:
        # A scalar is a loss; behind a part that is a nest itself no tensor is the first.
        if isinstance(raw, Mapping):
            tensors = [value for value in raw.values() if is_tensor_like(value) and value.ndim]
            found = raw.get("out") if "out" in raw else tensors[0] if len(tensors) == 1 else None
        elif isinstance(raw, (tuple, list)):
            nests = (Mapping, tuple, list)
            parts = (one for one in raw if isinstance(one, nests) or is_tensor_like(one))
            found = next((one for one in parts if isinstance(one, nests) or one.ndim), None)
        if is_tensor_like(found):
            return found
        there = [(path, leaf) for path, leaf in leaves(raw) if is_tensor_like(leaf)]
        if len(there) == 1 and not there[0][1].ndim:
            raise InputError(
                f"the network returned one number ({described(raw)}) and no outputs: give a loss of the "
                f"model and the batch, loss=lambda model, batch: model(…){written(raw, there[0][0])}"
            )
        raise InputError(
            f"the network returned a {type(raw).__name__} ({described(raw)}), and which of it are the "
            f"outputs can't be told: give forward=lambda model, batch: model(…){_first_of(raw)}, or another "
            "of it"
        )
    keys = f" with the keys {', '.join(map(str, raw))}" if isinstance(raw, Mapping) else ""
    raise InputError(
        f"the network returned a {type(raw).__name__}{keys}; it must return one tensor (N, …), or a "
        "mapping or an object that has it as 'logits': wrap it in a module that does"
    )


def _first_of(raw: Any) -> str:
    """How one writes the first tensor of a nest that is no scalar."""
    path = next((p for p, leaf in leaves(raw) if isinstance(leaf, Tensor) and leaf.ndim), None)
    return "[…]" if path is None else written(raw, path)


class Front:
    """Calls a network on the batch of samples that are asked for by their numbers, rows (n, 1).

    ``forward(model, batch)`` gives the outputs. ``form``: outputs with several a sample become (n, C, K),
    the classes on axis 1 and the K tokens or pixels on one axis, padded by zeros to ``tokens`` where samples
    differ in length; ``shift``: without the last so many. ``loss``: of model and batch in the outputs'
    place, one value a sample or, where `Batches.whole`, a batch, each multiplied by ``weights``.
    ``varied``: what `points` shows: the path of a tensor of the batch, or the name of a submodule.
    ``mixed``: the network that is given may have weights in several precisions. ``hint``: what to write where
    it doesn't run on samples.
    """

    def __init__(
        self,
        batches: Batches,
        forward: Forward,
        *,
        form: Form = "as they are",
        tokens: int = 0,
        shift: int = 0,
        loss: Forward | None = None,
        weights: Tensor | None = None,
        varied: Path | str | None = None,
        no_points: str = "",
        mixed: bool = False,
        hint: str = "",
    ) -> None:
        self.batches, self.forward, self.loss, self.weights = batches, forward, loss, weights
        self.form, self.tokens, self.shift = form, tokens, shift
        self.varied, self.no_points, self.mixed, self.hint = varied, no_points, mixed, hint

    def __deepcopy__(self, memo: Any) -> Front:
        return self  # nothing in it changes

    def outputs(
        self,
        model: nn.Module,
        rows: Tensor,
        points: Tensor | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Outputs (n, …) of the samples whose numbers are ``rows`` (n, 1), at ``points`` if given.

        ``dtype``: of the batches' real tensors; None: that of the network's weights, and as they were given
        where these have several.
        """
        numbers = rows.reshape(len(rows), -1)[:, 0].long()
        put = {self.varied: points} if points is not None and isinstance(self.varied, tuple) else {}
        if dtype is None and not (self.mixed and len(real_dtypes(model)) > 1):
            dtype = first_dtype(model) or (rows if points is None else points).dtype
        found: list[tuple[Tensor | None, Tensor]] = []
        for places, batch in self.batches.take(numbers, dtype, put):
            here = points if points is None or places is None else points[places]
            inner = here if isinstance(self.varied, str) else None
            with _inside(model), _replaced(model, self.varied, inner):
                found.append((places, self._of_batch(model, batch)))
        if self.weights is None:
            return _together(found, len(rows))
        outputs = _together(found, len(rows))
        return outputs * self.weights.to(outputs)[numbers].unsqueeze(1)

    @property
    def reach(self) -> int:
        """From how many of the first samples some may be taken at little cost: none where batches stand for
        samples, which never meet, and those of one batch where each is read anew."""
        if self.batches.whole:
            return 0
        return self.batches.sizes[0] if self.batches.streamed else self.batches.count

    def shown(self, rows: Tensor) -> str:
        """What the network is given of the first of these samples, in a few words."""
        numbers = rows.reshape(len(rows), -1)[:1, 0].long()
        return described(next(iter(self.batches.take(numbers, torch.get_default_dtype())))[1])

    def points(self, model: nn.Module, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """What is differentiated in where metrics differentiate in the input, (n, …), of these samples.

        Raises InputError where there is no such tensor.
        """
        if self.varied is None:
            raise InputError(self.no_points)
        numbers = rows.reshape(len(rows), -1)[:, 0].long()
        if isinstance(self.varied, tuple):
            return self.batches.leaf(self.varied, numbers).to(dtype)
        seen: list[Any] = []

        def note(module: nn.Module, args: Any, output: Any) -> None:
            # The next operation may write into it.
            seen.append(output.clone() if isinstance(output, Tensor) else output)

        handle = dict(model.named_modules())[self.varied].register_forward_hook(note)
        try:
            with torch.no_grad():
                self.outputs(model, rows)
        finally:
            handle.remove()
        if len(seen) != 1:
            raise InputError(
                f"differentiate={self.varied!r} names a part that runs {len(seen)} times in one forward "
                "pass: name one that runs once"
            )
        found = seen[0]
        if (
            not isinstance(found, Tensor)
            or not found.is_floating_point()
            or len(found) != len(rows)
        ):
            raise InputError(
                f"differentiate={self.varied!r} names a part that returns {described(found)}: it must return "
                f"one real tensor with one entry a sample, ({len(rows)}, …)"
            )
        return found.detach().to(dtype)

    def dressed(self, model: nn.Module) -> nn.Module:
        """The same module, which called with rows (n, 1) answers `outputs`; its own call is left inside."""
        if isinstance(model, torch.jit.ScriptModule):
            raise InputError(
                "a TorchScript network takes single tensors here: give the module that was scripted"
            )
        model.__class__ = _dressed(type(model))  # type: ignore[arg-type]
        vars(model)[_FRONT] = self
        return model

    def _of_batch(self, model: nn.Module, batch: Any) -> Tensor:
        if self.loss is not None:
            found = _called(self.loss, model, batch)
            if not is_tensor_like(found):
                raise InputError(
                    f"the loss returned a {type(found).__name__}; it must return a tensor: one value for the "
                    "batch, or one a sample (N,)"
                )
            return found.reshape(-1, 1)
        return self.formed(tensor_of(_called(self.forward, model, batch), first=True))

    def formed(self, outputs: Tensor) -> Tensor:
        """A network's outputs (n, …) as metrics see them."""
        if self.form == "as they are":
            return outputs
        if self.form == "tokens first":
            outputs = outputs.movedim(-1, 1)
        outputs = outputs.flatten(2)
        if self.shift:
            outputs = outputs[:, :, : -self.shift]
        short = self.tokens - outputs.shape[2]
        return F.pad(outputs, (0, short)) if short else outputs


class AtInputs(nn.Module):
    """A network as a function of what metrics of the input differentiate in, beside what else it reads.

    ``forward(points, context)``: the points (n, …) and, from `of`, what belongs to each of them (n, …).
    """

    def __init__(self, model: nn.Module, front: Front | None, targets: Tensor) -> None:
        super().__init__()
        self.model, self.front = model, front
        self._shape, self._real = tuple(targets.shape[1:]), targets.is_floating_point()
        self.eval()

    def forward(self, points: Tensor, context: Tensor) -> Tensor:
        arguments = (points,) if self.front is None else (context[:, :1], points)
        outputs: Tensor = self.model(*arguments)
        return outputs

    def of(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Points and context of samples: their inputs and targets themselves where a network takes a tensor.

        Raises InputError where there is nothing to differentiate in.
        """
        if self.front is None:
            return inputs, targets
        dtype = inputs.dtype
        parts = [self.front.points(self.model, rows, dtype) for rows in inputs.split(_AT_ONCE)]
        own = targets.reshape(len(targets), -1).double()
        return torch.cat(parts), torch.cat([inputs.double(), own], 1)

    def targets(self, context: Tensor) -> Tensor:
        """The targets in it."""
        if self.front is None:
            return context
        own = context[:, 1:].reshape(len(context), *self._shape)
        return own.to(first_dtype(self.model) or own.dtype) if self._real else own.long()


def calls(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Places of the inputs that a copy of a network is called with at once: batches may differ in shape."""
    front = fronted(model)
    if front is None:
        return [torch.arange(len(inputs), device=inputs.device)]
    return front.batches.alike(inputs.reshape(len(inputs), -1)[:, 0].long())


def fronted(model: nn.Module) -> Front | None:
    """The front that a copy was given."""
    found = vars(model).get(_FRONT)
    return found if isinstance(found, Front) else None


@lru_cache(maxsize=256)
def _dressed(cls: type[nn.Module]) -> type[nn.Module]:
    """A class whose call answers by the front, but for calls from within one."""

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        front = fronted(self)
        if front is None or vars(self).get(_INSIDE):
            return cls.__call__(self, *args, **kwargs)
        outputs = front.outputs(self, *args, **kwargs)
        return outputs.unsqueeze(1) if outputs.ndim == 1 else outputs

    own = {"__call__": call, "__module__": cls.__module__, "__doc__": cls.__doc__}
    return type(cls.__name__, (_Unnoticed, cls), own)


class _Unnoticed:
    """Before a class: what it does with each class that inherits from it, as to register it, is not done."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        pass


@contextmanager
def _inside(model: nn.Module) -> Iterator[None]:
    if fronted(model) is None:
        yield
        return
    vars(model)[_INSIDE] = True
    try:
        yield
    finally:
        vars(model).pop(_INSIDE, None)


@contextmanager
def _replaced(model: nn.Module, name: Path | str | None, points: Tensor | None) -> Iterator[None]:
    """Within it the named submodule returns ``points``, in a tensor that the network may write into."""
    if points is None or not isinstance(name, str):
        yield
        return
    handle = dict(model.named_modules())[name].register_forward_hook(lambda *_: points.clone())
    try:
        yield
    finally:
        handle.remove()


def _called(function: Forward, model: nn.Module, batch: Any) -> Any:
    """What a user's function of model and batch returns, also where it differentiates inside."""
    if torch.is_grad_enabled():
        return function(model, batch)
    try:
        return function(model, batch)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
    with torch.enable_grad():
        found = function(model, batch)
    return found.detach() if isinstance(found, Tensor) else found


def _together(found: list[tuple[Tensor | None, Tensor]], samples: int) -> Tensor:
    """The outputs of all samples in their order, (n, …)."""
    if len(found) == 1 and found[0][0] is None:
        return found[0][1]
    for places, outputs in found:
        if places is not None and len(outputs) != len(places):
            raise InputError(
                f"the network returned the shape {tuple(outputs.shape)} for {len(places)} samples"
            )
    shapes = {tuple(outputs.shape[1:]) for _, outputs in found}
    if len(shapes) > 1:
        raise InputError(
            "the outputs of samples of different shapes differ in shape, too "
            f"({', '.join(map(str, sorted(shapes)))}): pad all batches to one length, or give a loss of the "
            "model and the batch, loss=lambda model, batch: …"
        )
    order = torch.cat([places for places, _ in found if places is not None])
    stacked = torch.cat([outputs for _, outputs in found])
    assert len(order) == samples
    return stacked[order.argsort()]
