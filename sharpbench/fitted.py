"""Batches, a network and a loss fitted to each other: what are targets, and what is a sample's loss."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sharpbench.batches import TARGETS, Batches, read, size_of, targets_of, turned
from sharpbench.copies import copies, of_dtypes, refuse_unusual, stopped_by_a_cast, unwrapped
from sharpbench.errors import InputError, first_line, nearest_names, shortened
from sharpbench.formulas.log_softmax import cross_entropy
from sharpbench.front import Form, Front, tensor_of
from sharpbench.loss import (
    GivenAsLoss,
    Task,
    TokenLoss,
    agree,
    as_module,
    ignore_index,
    is_tensor_like,
    of_torch,
    reduces,
    unreduced,
    with_reduction,
)
from sharpbench.nest import Path, at, described, from_array, leaves, named, parsed, written
from sharpbench.precision import real_dtypes
from sharpbench.running import quiet
from sharpbench.samples import no_class
from sharpbench.streamed import HELD, Chained, Shelf, Streamed, roomy

__all__ = ["Fitted", "Normaliser", "fit"]

Normaliser = Literal["samples", "tokens", "sum"]

_FEW_VALUES, _NUMBERS = 16, 1 << 22
"""Targets of which it is seen whether a loss leaves them out: so many at least, and as many as take so many
numbers of outputs."""

_MODEL = frozenset({"model", "net", "network", "module"})
"""A loss whose first argument has such a name takes model and batch."""

_BATCH = frozenset({"batch", "data", "sample", "samples", "features", "inputs"})
"""Names that an argument has that is a batch itself."""

_NO_TARGETS = (
    "the batches hold no targets: the last entry of a tuple (inputs, targets) is taken, or what a dict has "
    f"under {', '.join(TARGETS)}; name another with targets='…', write [(x, x)] for an autoencoder, or "
    "give a loss of the model and the batch, loss=lambda model, batch: …"
)


_RANDOM = (
    "the loss is another one when it is evaluated again (a draw inside, as a variational autoencoder's, or a "
    "random layer left on?), and has no derivative of its own: keep what is drawn in the batches"
)


@dataclass(frozen=True)
class Fitted:
    """What `Subject` is made of: rows (N, 1), or inputs where no ``front`` is needed, and targets.

    ``train``: the first so many rows are the training data, where there are test batches, too.
    ``summed``: losses are to be added, not averaged.
    """

    inputs: Tensor
    targets: Tensor
    train: int
    loss: Any
    task: Task | None
    front: Front | None
    summed: bool
    said: tuple[str, ...]


def fit(
    model: nn.Module,
    batches: Any,
    test: Any = None,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    loss: Any = None,
    normaliser: Normaliser | None = None,
    targets: str | int | Callable[[Any], Any] | None = None,
    differentiate: str | nn.Module | None = None,
    task: Task | None = None,
) -> Fitted:
    """See `Subject.from_batches`. Raises InputError."""
    if normaliser not in (None, "samples", "tokens", "sum"):
        raise InputError(f"unknown normaliser {normaliser!r}: 'samples', 'tokens' or 'sum'")
    call: Any = forward
    if call is not None and not callable(call):
        given = shortened(call) if isinstance(call, str) else f"a {type(call).__name__}"
        raise InputError(
            f"forward must be a function of model and batch, got {given}: "
            "forward=lambda model, batch: model(…)"
        )
    part: Any = differentiate
    if not isinstance(part, (str, int, tuple, nn.Module, type(None))):
        raise InputError(
            f"differentiate must be a name or a part of the network, got a {type(part).__name__}"
        )
    refuse_unusual(model)
    found: Sequence[Any] = read(batches)
    parts = [len(found)]
    if test is not None:
        more = read(test, "the test batches")
        both = isinstance(found, list) and isinstance(more, list)
        found = [*found, *more] if both else Chained(found, more)
        parts.append(len(found) - parts[0])
    return _Fit(model, found, parts, forward, loss, normaliser, targets, differentiate, task).made()


class _Fit:
    def __init__(
        self,
        model: nn.Module,
        found: Sequence[Any],
        parts: list[int],
        forward: Callable[[nn.Module, Any], Any] | None,
        loss: Any,
        normaliser: Normaliser | None,
        where: str | int | Callable[[Any], Any] | None,
        differentiate: str | nn.Module | None,
        task: Task | None,
    ) -> None:
        self.model, self.found, self.parts = model, found, parts
        self.loss, self.normaliser, self.task = as_module(loss), normaliser, task
        self.said: list[str] = []
        self.mixed = len(real_dtypes(model)) > 1
        self._ways = copies(model)
        self.copy, self.dtype = next(self._ways)
        devices = [t.device for t in (*self.copy.parameters(), *self.copy.buffers())]
        self.device = devices[0] if devices else torch.device("cpu")
        self.path = targets_of(found[0], where)[1]
        self.targets, self.sizes = [], []
        shelf = None if isinstance(found, list) else Shelf()
        for batch in found:
            target = self._target(targets_of(batch, where)[0])
            self.sizes.append(size_of(batch, target))
            if shelf is not None and target is not None:
                target = shelf.place(target)
            self.targets.append(target)
        if shelf is not None:
            self._note(_streamed(found, shelf.bytes))
        self.custom = forward
        self.forward = forward or _DefaultForward(unwrapped(model), found[0], self.path)
        self.differentiate = differentiate

    def made(self) -> Fitted:
        if self.loss is not None and (
            _takes_model(self.loss) or (self.targets[0] is None and callable(self.loss))
        ):
            return self._of_model_and_batch()
        if any(not path and not isinstance(leaf, Tensor) for path, leaf in leaves(self.found[0])):
            raise InputError(
                f"the batches hold no tensor or array ({described(self.found[0])}): make one of what are "
                "numbers in them, torch.tensor(…), at least of the targets"
            )
        if any(t is None for t in self.targets):
            raise InputError(_NO_TARGETS)
        if None in self.sizes:
            raise InputError(
                f"how many samples a batch has can't be told: its tensors have different lengths "
                f"({described(self.found[0])}); give a loss of the model and the batch, "
                "loss=lambda model, batch: …"
            )
        return self._of_outputs()

    # --- a loss of the model and the batch ----------------------------------------------------------

    def _of_model_and_batch(self) -> Fitted:
        if self.normaliser == "tokens":
            raise InputError(
                "normaliser='tokens' needs the tokens' own losses: let the loss of model and batch be a sum "
                "over the tokens, divide it yourself, and give normaliser='sum'"
            )
        known = [size for size in self.sizes if size is not None]
        sizes = known if len(known) == len(self.sizes) else None
        kind = "whole"
        if sizes is not None:  # the largest shows what samples have to do with each other
            largest = sizes.index(max(sizes))
            kind = self._losses_of(self.found[largest], sizes[largest])
        whole = kind != "samples"
        given = self.loss
        if kind == "coupled":
            over: Literal["mean", "sum"] = "sum" if self.normaliser == "sum" else "mean"
            self.loss = _Reduced(given, over)
            self._note(
                f"a sample's loss depends on the others of its batch: their {over} is taken for each batch, "
                "and batches stand where samples stand elsewhere"
            )
        elif whole:
            self._note("the loss is one value a batch: batches stand where samples stand elsewhere")
        if whole and sizes is None and len(self.found) > 1 and self.normaliser != "sum":
            raise InputError(
                f"how many samples a batch has can't be told ({described(self.found[0])}), so that means "
                "over batches can't be weighted: give normaliser='sum' and a loss that is a sum, or "
                "batches whose tensors have one entry a sample"
            )
        if whole and sizes is not None and len(set(sizes)) > 1 and self.normaliser != "sum":
            told = ", ".join(map(str, sizes[:8])) + (", …" if len(sizes) > 8 else "")
            self._note(f"batches weigh by their samples: {told}")
        every = Batches(self.found, self.device, whole=whole, sizes=sizes)
        weights = self._weights(whole, sizes or [1] * len(self.found))
        front = Front(
            every, self.forward, loss=self.loss, weights=weights, **self._of_network(every)
        )
        train = self.parts[0] if whole else sum((sizes or [])[: self.parts[0]])
        rows = _rows(every)
        empty = torch.zeros(len(rows), 1, dtype=torch.float64, device=self.device)
        return Fitted(
            rows, empty, train, GivenAsLoss(given), "regression", front, False, tuple(self.said)
        )

    def _losses_of(self, batch: Any, size: int) -> Literal["whole", "samples", "coupled"]:
        """Whether the loss of model and batch gives one value, or one a sample, and that its own or not."""
        one = Batches([batch], self.device, whole=True, sizes=None)
        front = Front(one, self.forward, loss=self.loss, mixed=self.mixed)
        rows = torch.zeros(1, 1, dtype=torch.float64, device=self.device)

        def loss_of_batch() -> Any:
            (_, given), *_ = one.take(rows[:, 0].long(), self.dtype)
            with quiet(self.device), torch.enable_grad():
                return self.loss(self.copy, given), given

        try:
            loss, given = self._in_its_precision(loss_of_batch)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"the loss of model and batch can't be evaluated on a batch ({described(batch)}): "
                f"{first_line(error)}"
            ) from error
        if not is_tensor_like(loss):
            front._of_batch(self.copy, given)  # says what it returned
        if loss.numel() == 1 and not (size == 1 and loss.ndim == 1):
            return "whole"
        if loss.shape != (size,):
            raise InputError(
                f"the loss of model and batch returned the shape {tuple(loss.shape)} for a batch of {size}; "
                f"it must be one value, or one a sample, ({size},)"
            )
        if size == 1:
            return "samples"
        with contextlib.suppress(Exception), quiet(self.device), torch.enable_grad():
            torch.manual_seed(1)
            again = self.loss(self.copy, next(iter(one.take(rows[:, 0].long(), self.dtype)))[1])
            if not agree(again, loss, loss):
                self._note(_RANDOM)
                return "samples"
        part = Batches([batch], self.device, whole=False, sizes=[size])
        half = torch.arange((size + 1) // 2, device=self.device)
        (_, few), *_ = part.take(half, self.dtype)
        try:
            with quiet(self.device), torch.enable_grad():
                fewer = self.loss(self.copy, few)
            alone = agree(fewer, loss[: len(half)], loss)
        except Exception:  # it can't be had of a part of the batch
            alone = False
        return "samples" if alone else "coupled"

    def _weights(self, whole: bool, sizes: Sequence[int]) -> Tensor | None:
        """By which the losses of samples, or of whole batches, are multiplied; None for one each."""
        weights, start = [], 0
        for count in self.parts:
            own = list(sizes[start : start + count])
            start += count
            units = count if whole else sum(own)
            if self.normaliser == "sum":
                weights += [float(units)] * units
            elif whole:
                weights += [units * size / sum(own) for size in own]
            else:
                weights += [1.0] * units
        found = torch.tensor(weights, dtype=torch.float64, device=self.device)
        return None if bool((found == 1).all()) else found

    # --- outputs and targets ------------------------------------------------------------------------

    def _of_outputs(self) -> Fitted:
        sizes = [size or 0 for size in self.sizes]
        for number, (size, target) in enumerate(zip(sizes, self.targets, strict=True)):
            if target.ndim == 0:
                raise InputError(
                    f"batch {number} is a single sample ({described(self.found[number])}): for a list of "
                    "samples write DataLoader(samples, batch_size=…)"
                )
            if size == 0:
                raise InputError(f"batch {number} has no sample: {described(self.found[number])}")
        every = Batches(self.found, self.device, whole=False, sizes=sizes)
        shown = next((i for i, t in enumerate(self.targets) if bool((t != -100).any())), 0)
        if isinstance(self.forward, _DefaultForward) and self.forward.by_position is not None:
            self._note(
                f"the network is given {self.forward.by_position!r} of a batch by its position"
            )
        raw = self._outputs_of(every, shown)
        outputs = tensor_of(raw, first=True)
        self._say_which(raw, outputs)
        first = self.targets[shown]
        if outputs.ndim == 0 or len(outputs) != len(first):
            raise InputError(
                f"the network returned the shape {tuple(outputs.shape)} for targets {tuple(first.shape)}: it "
                f"must return one row a sample, (N, …): {self._reshaped(outputs, first)}"
            )
        front_form = self._form(every, outputs, first, raw)
        shift = self._shift(raw, outputs, first, front_form)
        train = sum(sizes[: self.parts[0]])
        if front_form != "as they are":
            return self._of_tokens(every, front_form, shift, train)
        return self._of_samples(every, raw, outputs, train)

    def _of_samples(self, every: Batches, raw: Any, outputs: Tensor, train: int) -> Fitted:
        several = self.normaliser is not None and self.targets[0].ndim > 1
        loss, summed, task = self.loss, self.normaliser == "sum", self.task
        if not summed and self.normaliser == "tokens" and several:
            integers = not self.targets[0].is_floating_point()
            if not integers or loss is None:
                raise InputError(
                    "normaliser='tokens' needs one class a token: integer targets (N, T) beside outputs "
                    f"(N, T, classes); got outputs {_shape(outputs)} and targets "
                    f"{self.targets[0].dtype} {_shape(self.targets[0])}"
                )
        if summed and getattr(loss, "reduction", None) == "sum" and isinstance(loss, nn.Module):
            loss = with_reduction(loss, "mean" if of_torch(loss) else "none")
        averages = reduces(loss) and (of_torch(loss) or self.normaliser == "samples")
        if several and loss is not None and not averages:
            # It may give several values a sample.
            each = unreduced(loss)
            scale, of_test = self._scales(self._left_out(each, outputs))
            loss = TokenLoss(scale, each, original=loss, test_scale=of_test)
            summed = False
            task = task or "regression"
        targets = self._joined(self._equal(self.targets))
        plain = (
            self.custom is None
            and self.differentiate is None
            and not every.ragged
            and not every.streamed
            and (is_tensor_like(raw) or is_tensor_like(getattr(raw, "logits", None)))
            and isinstance(self.found[0], (tuple, list))
            and len(self.found[0]) == 2
            and self.path == (1,)
            and isinstance(self.found[0][0], Tensor)
            and self.found[0][0].is_floating_point()
            and (0,) in every.cut
        )
        if plain:
            inputs = every.leaf((0,))
            return Fitted(inputs, targets, train, loss, task, None, summed, tuple(self.said))
        front, rows = Front(every, self.forward, **self._of_network(every)), _rows(every)
        return Fitted(rows, targets, train, loss, task, front, summed, tuple(self.said))

    def _of_tokens(self, every: Batches, form: Form, shift: int, train: int) -> Fitted:
        module = self.loss
        reduction = "none" if module is None else getattr(module, "reduction", "none")
        if reduction != "none" and self.normaliser is None:
            over = "tokens" if reduction == "mean" else "sum"
            raise InputError(
                f"{type(module).__name__} gives the {reduction} over tokens: say normaliser={over!r} for "
                "that, or normaliser='samples' for the sum over a sample's tokens, averaged over the samples"
            )
        ignore = -100 if module is None else ignore_index(module)
        weight = getattr(module, "weight", None)
        smoothing = float(getattr(module, "label_smoothing", 0.0))
        longest = max(t[:1, shift:].numel() for t in self.targets)
        filler = -100 if ignore is None else ignore

        def padded(target: Tensor) -> Tensor:
            flat = target[:, shift:].flatten(1).long()
            return torch.nn.functional.pad(flat, (0, longest - flat.shape[1]), value=filler)

        targets = self._joined(map(padded, self.targets), torch.long, (longest,))
        self.targets = list(targets.split([len(t) for t in self.targets]))
        spans = [one.aminmax() for t in self.targets if len(one := t[t != filler])]
        if not spans:
            raise InputError(f"every target is {filler}, which the loss ignores")
        if shift:
            self._note(
                "outputs predict the next token, as the network's own loss does: targets are shifted"
            )
        kind = self.normaliser or "samples"
        over = {
            "samples": "summed over a sample's tokens, averaged over the samples",
            "tokens": "averaged over all tokens",
            "sum": "summed over all tokens",
        }[kind]
        self._note(f"cross-entropy of one class a token (or pixel), {over}")
        scale, of_test = self._scales((filler,), weight)
        loss = TokenLoss(scale, None, filler, weight, smoothing, module, of_test)
        front = Front(
            every, self.forward, form=form, tokens=longest, shift=shift, **self._of_network(every)
        )
        classes = self._classes
        low, high = min(int(s.min) for s in spans), max(int(s.max) for s in spans)
        if low < 0 or high >= classes:
            raise InputError(no_class(low if low < 0 else high, classes, "outputs a token"))
        rows, said = _rows(every), tuple(self.said)
        return Fitted(rows, targets, train, loss, "classification", front, False, said)

    def _form(self, every: Batches, outputs: Tensor, target: Tensor, raw: Any) -> Form:
        """Where the classes stand in outputs with one class a token or pixel."""
        loss = self.loss
        of_classes = loss is None or isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss))
        integers = not (target.is_floating_point() or target.is_complex())
        if not of_classes or not integers or target.ndim < 2 or outputs.ndim != target.ndim + 1:
            return "as they are"
        if isinstance(loss, nn.NLLLoss):
            raise InputError(
                "NLLLoss is not taken of tokens: give loss=torch.nn.CrossEntropyLoss(), which is the same of "
                "log_softmax, and of logits what is meant"
            )
        last = outputs.shape[:-1] == target.shape
        second = (outputs.shape[0], *outputs.shape[2:]) == tuple(target.shape)
        if not last and not second:
            raise InputError(
                f"outputs {_shape(outputs)} don't fit targets {_shape(target)} with one class a token or "
                "pixel: outputs must be (N, T, classes), or (N, classes, …) with targets (N, …)"
            )
        if last and second:
            for number, other in enumerate(self.targets):
                if other.shape[1:] != target.shape[1:]:  # of so many tokens only one axis is right
                    raw = self._outputs_of(every, number)
                    return self._form(every, tensor_of(raw, first=True), other, raw)
            if loss is None and is_tensor_like(raw):
                raise InputError(
                    f"outputs {_shape(outputs)} with targets {_shape(target)} can have their classes on axis "
                    "1 or on the last: give loss=torch.nn.CrossEntropyLoss() for axis 1, and for the last "
                    "forward=lambda model, batch: model(…).movedim(-1, 1) beside it"
                )
            where = "the last axis" if loss is None else "axis 1, where torch's loss has them"
            self._note(f"the outputs {_shape(outputs)} have their classes on {where}")
        form: Form = (
            "classes first" if second and (loss is not None or not last) else "tokens first"
        )
        self._classes = outputs.shape[-1 if form == "tokens first" else 1]
        return form

    def _shift(self, raw: Any, outputs: Tensor, target: Tensor, form: Form) -> int:
        """By how many tokens targets are ahead, which the loss that the network itself returns tells."""
        own, at_own = self._own_loss(raw)
        if self.loss is not None or own is None:
            return 0
        integers = not target.is_floating_point()
        found: list[tuple[int, float]] = []
        value = float(own)
        if integers and form != "as they are":
            logits = outputs.movedim(-1, 1) if form == "tokens first" else outputs
            found = [(0, _mean_entropy(logits, target))]
            if form == "tokens first" and logits.ndim == 3 and logits.shape[2] > 1:
                found.append((1, _mean_entropy(logits[:, :, :-1], target[:, 1:])))
        elif integers and target.ndim == 1 and outputs.ndim == 2:
            found = [(0, _mean_entropy(outputs, target))]
        # At the start of a training all are near ln V: the nearest is meant, where it is nearer by far.
        near = sorted((abs(mean - value), shift) for shift, mean in found)
        allowed = 1e-3 * max(abs(value), 1e-3)
        if near and near[0][0] <= allowed and (len(near) < 2 or near[0][0] <= 0.1 * near[1][0]):
            return near[0][1]
        told = isinstance(self.forward, _DefaultForward) and self.forward.without is None
        if (
            isinstance(raw, (tuple, list)) and not told
        ):  # a number that knows nothing of the targets
            self._note(f"the number {value:.4g} beside the outputs is not taken for a loss")
            return 0
        tried = ", ".join(f"{mean:.6g}" for _, mean in found) or "none here"
        which = "can be either" if near and near[0][0] <= allowed else "is not the"
        raise InputError(
            f"the network returns a loss of its own, {value:.6g}, which {which} mean cross-entropy of its "
            f"outputs and targets ({tried}): give loss=lambda model, batch: model(**batch){at_own} for "
            "its own, or loss=torch.nn.… for another"
        )

    def _reshaped(self, outputs: Tensor, target: Tensor) -> str:
        """How outputs become one row a sample."""
        if outputs.ndim > 1 and target.ndim > 1 and len(outputs) == target.numel():
            return "forward=lambda model, batch: model(…).unflatten(0, (-1, T)), T tokens a sample"
        if outputs.ndim > 1 and target.ndim > 1 and outputs.shape[:2] == target.shape[:2][::-1]:
            return "forward=lambda model, batch: model(…).transpose(0, 1)"
        batch = self.found[0]
        path = next((p for p, t in leaves(batch) if isinstance(t, Tensor) and p != self.path), ())
        for name, module in self.copy.named_modules():
            if getattr(module, "batch_first", True) is False:
                return (
                    f"{name or 'it'} is a {type(module).__name__} without batch_first=True, whose samples "
                    "stand on axis 1: put it there, or give forward=lambda model, batch: model(batch"
                    f"{written(batch, path)}.transpose(0, 1))"
                )
        return "give a loss of the model and the batch, loss=lambda model, batch: …"

    def _own_loss(self, raw: Any) -> tuple[Tensor | None, str]:
        """The loss that a network returns beside its outputs, and how one writes it: its ``loss``, or the one
        number of a tuple."""
        if isinstance(raw, (tuple, list)) and not hasattr(raw, "loss"):
            numbers = [i for i, t in enumerate(raw) if isinstance(t, Tensor) and not t.ndim]
            own, at_own = (raw[numbers[0]], f"[{numbers[0]}]") if len(numbers) == 1 else (None, "")
        elif isinstance(raw, Mapping):
            own = raw.get("loss")
            at_own = "['loss']" if not hasattr(raw, "loss") else ".loss"
        else:
            own, at_own = getattr(raw, "loss", None), ".loss"
        real = isinstance(own, Tensor) and not own.ndim and own.is_floating_point()
        return (own if real else None), at_own

    def _outputs_of(self, every: Batches, batch_number: int) -> Any:
        before = sum(size or 0 for size in self.sizes[:batch_number])
        numbers = before + torch.arange(self.sizes[batch_number] or 1, device=self.device)

        def outputs() -> Any:
            (_, batch), *_ = every.take(numbers, self.dtype)
            with quiet(self.device), torch.no_grad():
                return self.forward(self.copy, batch)

        try:
            return self._in_its_precision(outputs)
        except InputError:
            raise
        except Exception as error:
            hint = "forward(model, batch) must give the outputs"
            if of_dtypes(error) and self.mixed:
                hint = stopped_by_a_cast(self.copy, outputs)
            elif self.custom is None:
                hint = self._how_to_call(error)
            if self.loss is not None and not isinstance(self.loss, nn.Module):
                hint += (
                    "; a loss of model and batch is told by the name of its first argument, model"
                )
            raise InputError(
                f"the network doesn't run on a batch ({described(self.found[0])}): "
                f"{first_line(error)}; {hint}"
            ) from error

    def _in_its_precision(self, run: Callable[[], Any]) -> Any:
        """What ``run()`` gives, ``self.copy`` and ``self.dtype`` being the first of `copies` that let it.

        Raises what it raised with the first of all.
        """
        first, failed = (self.copy, self.dtype), None
        while True:
            try:
                return run()
            except Exception as error:
                failed = failed or error
            try:
                self.copy, self.dtype = next(self._ways)
            except StopIteration:
                self.copy, self.dtype = first
                raise failed from None

    def _how_to_call(self, error: Exception) -> str:
        """What to write where the network doesn't take a batch as it is."""
        own = [(p, leaf) for p, leaf in leaves(self.found[0]) if p != self.path]
        tensors = [(p, leaf) for p, leaf in own if isinstance(leaf, Tensor)]
        if not tensors:
            return "batches must hold tensors or arrays: torch.tensor(…) of what is in them"
        whole = [leaf for _, leaf in tensors if not (leaf.is_floating_point() or leaf.is_complex())]
        if isinstance(error, IndexError) and whole:
            least, most = min(int(t.min()) for t in whole), max(int(t.max()) for t in whole)
            return f"the batch's integers go from {least} to {most}: is each of them embedded?"
        path, leaf = tensors[0]
        if (
            len({p[:1] for p, _ in own}) == 1 and len(own) > 1
        ):  # one entry beside the targets, a nest
            path = path[:1]
        place = written(self.found[0], path)
        real = leaf.is_floating_point() or leaf.is_complex() or not of_dtypes(error)
        if real and (arguments := self._keywords(error) or self._itself(error)):
            return f"give forward=lambda model, batch: model({arguments})"
        # A fixed precision, .float(), would be another than that of a copy.
        call = f"batch{place}" if real else f"batch{place}.to(next(model.parameters()).dtype)"
        told = (
            "" if real else f", if {str(leaf.dtype).removeprefix('torch.')} is no number of a token"
        )
        return f"give forward=lambda model, batch: model({call}){told}"

    def _itself(self, error: Exception) -> str:
        """``batch`` where the network seems to take a batch itself, as one argument."""
        if not isinstance(self.found[0], Mapping):
            return ""
        with contextlib.suppress(TypeError, ValueError):
            taken = list(inspect.signature(unwrapped(self.model).forward).parameters)
            if len(taken) == 1 and (taken[0] in _BATCH or "'str'" in str(error)):
                return "batch"
        return ""

    def _keywords(self, error: Exception) -> str:
        """The entries of a batch that have the names of what the network takes, as they are written in a
        call, where it was given others; nothing unless these are all that it needs."""
        batch = self.found[0]
        if not isinstance(batch, Mapping) or "unexpected keyword" not in str(error):
            return ""
        with contextlib.suppress(TypeError, ValueError):
            taken = inspect.signature(unwrapped(self.model).forward).parameters.values()
            kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            needed = {p.name for p in taken if p.default is p.empty and p.kind not in kinds}
            own = [p.name for p in taken if p.name in batch and (p.name,) != self.path]
            if own and needed <= set(own) and len(own) < len(batch):
                return ", ".join(f"{name}=batch[{name!r}]" for name in own)
        return ""

    def _say_which(self, raw: Any, outputs: Tensor) -> None:
        if is_tensor_like(raw):
            return
        entries = raw if isinstance(raw, Mapping) else getattr(raw, "__dict__", {})
        name = next((str(key) for key, value in entries.items() if value is outputs), "")
        if name == "logits" or (not name and getattr(raw, "logits", None) is outputs):
            what = "its logits are"
        else:
            what = f"its {name!r} is" if name else "the first tensor is"
        self._note(
            f"the network returns a {type(raw).__name__}: {what} taken for the outputs "
            f"{_shape(outputs)}"
        )

    def _left_out(self, loss: Any, outputs: Tensor) -> tuple[int, ...]:
        """The targets of tokens that a loss of the user's own leaves out: those for which it gives 0 whatever
        the outputs. Said, for a mean over the tokens depends on it."""
        if self.normaliser != "tokens":
            return ()
        values = self._values_of_targets(max(_FEW_VALUES, _NUMBERS // outputs[0].numel()))
        shape = self.targets[0].shape[1:]
        alone = values.view(-1, *[1] * len(shape)).expand(-1, *shape)  # a sample of nothing else
        f = outputs[torch.arange(len(alone), device=outputs.device) % len(outputs)]
        zero, ran = torch.ones_like(values, dtype=torch.bool), False
        for other in (f, *(f.roll(1, axis) for axis in range(1, f.ndim)), -10 * f):
            with contextlib.suppress(Exception), torch.no_grad():  # told where the loss is checked
                losses = loss(other, alone)
                zero &= (losses == 0).reshape(len(values), -1).all(1)
                ran = losses.shape == alone.shape
        left = tuple(values[zero].tolist() if ran else ()) or (-100,)
        told = ", ".join(map(str, left[:8])) + (", …" if len(left) > 8 else "")
        self._note(f"the losses are averaged over the tokens whose target is not {told}")
        return left

    def _values_of_targets(self, most: int) -> Tensor:
        """Which targets there are; of more than so many those that are likely to stand for none."""
        each: list[tuple[Tensor, Tensor]] = [t.unique(return_counts=True) for t in self.targets]
        values: Tensor
        values, which = torch.cat([v for v, _ in each]).unique(return_inverse=True)
        counts = torch.zeros_like(values, dtype=torch.long)
        counts.index_add_(0, which, torch.cat([count for _, count in each]))
        if len(values) <= most:
            return values
        frequent = values[counts.argsort(descending=True)[: most - 6]]
        usual = values[torch.isin(values, values.new_tensor([-100, -1, 0]))]
        likely: Tensor = torch.cat([values[:2], values[-1:], usual, frequent]).unique()
        return likely

    def _scales(
        self, ignore: tuple[int, ...], weight: Tensor | None = None
    ) -> tuple[float, float | None]:
        """What a sample's sum over its tokens is multiplied by, as the normaliser says: in the training and
        in the test data, None where there are none."""

        def counted(target: Tensor) -> Tensor:
            return ~torch.isin(target, target.new_tensor(ignore))

        def tokens(part: Sequence[Tensor]) -> float:
            if weight is not None:
                each = (t[counted(t)].flatten() for t in part)
                of_class = weight.to(self.device, torch.float64)
                if isinstance(self.found, list):
                    return float(of_class[torch.cat(list(each))].sum())
                return sum(float(of_class[one].sum()) for one in each)
            return float(sum(int(counted(t).sum()) for t in part))

        def scale(part: Sequence[Tensor], of: str) -> float:
            samples = float(sum(len(t) for t in part))
            if self.normaliser == "sum":
                return samples
            if self.normaliser != "tokens":
                return 1.0
            count = tokens(part)
            if not count > 0:
                raise InputError(f"no token{of} has a target, or those that have weigh nothing")
            return samples / count

        first = self.parts[0]
        test = scale(self.targets[first:], " of the test data") if len(self.parts) > 1 else None
        return scale(self.targets[:first], ""), test

    def _joined(
        self,
        parts: Iterable[Tensor],
        dtype: torch.dtype | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> Tensor:
        """The parts one behind another; where batches are streamed, without a second copy in memory."""
        if isinstance(self.found, list):
            return torch.cat(list(parts))
        first = self.targets[0]
        count = sum(len(t) for t in self.targets)
        shape = tuple(first.shape[1:]) if shape is None else shape
        dtype = dtype or functools.reduce(torch.promote_types, {t.dtype for t in self.targets})
        whole, begin = roomy((count, *shape), dtype, first.device), 0
        for part in parts:
            whole[begin : begin + len(part)] = part
            begin += len(part)
        return whole

    def _equal(self, targets: list[Tensor]) -> list[Tensor]:
        shapes = {tuple(t.shape[1:]) for t in targets}
        if len(shapes) > 1:
            raise InputError(
                "targets have different shapes in different batches "
                f"({', '.join(map(str, sorted(shapes)))}): pad them to one, or give a loss of the model and "
                "the batch, loss=lambda model, batch: …"
            )
        return targets

    # --- what the front is told of the network ------------------------------------------------------

    def _of_network(self, every: Batches) -> dict[str, Any]:
        return {"mixed": self.mixed, "hint": self._uncut(every), **self._varied(every)}

    def _uncut(self, every: Batches) -> str:
        """What to write where a network doesn't run on some of the samples of a batch, behind a semicolon:
        of what is no sample's own, though it seems to be."""
        batch, size = every.first, every.sizes[0]
        if every.whole:
            return ""
        for path, leaf in leaves(batch):
            if path in every.cut or path == self.path:
                continue
            if isinstance(leaf, Tensor) and (hint := turned(batch, path, size)):
                return hint
            above = path[:-1]
            if above and isinstance(part := at(batch, above), (list, tuple)) and len(part) == size:
                place = f"batch{written(batch, above)}"
                return (
                    f"; {named(above)} is a {type(part).__name__} of {size} tensors: put "
                    f"torch.stack({place}) in its place, or pad them to one shape before"
                )
        return ""

    # --- what input metrics differentiate in --------------------------------------------------------

    def _varied(self, every: Batches) -> dict[str, Any]:
        asked, modules = self.differentiate, dict(self.copy.named_modules())
        alike = "samples have different shapes, and directions must have one: pad all batches to one length"
        if every.whole:
            if asked is not None:
                raise InputError(
                    f"differentiate={asked!r}: batches stand where samples stand elsewhere, so that no "
                    "sample has an input of its own; let the loss of model and batch return one value a "
                    "sample, (N,)"
                )
            return {
                "no_points": "batches stand where samples stand, and none has an input of its own"
            }
        if every.ragged:
            if asked is not None:
                raise InputError(f"differentiate={asked!r}: {alike}")
            return {"no_points": alike}
        if asked is None:
            real = [p for p in every.real_leaves() if p != self.path]
            if len(real) == 1 and "mask" not in named(real[0]):
                return {"varied": real[0]}
            held = described(self.found[0])
            what = (
                "no tensor of the batches holds real numbers"
                if not real
                else f"several tensors of the batches are real ({', '.join(map(named, real))})"
                if len(real) > 1
                else f"the one real tensor of the batches is {named(real[0])}"
            )
            return {
                "no_points": f"what to differentiate in isn't said: {what} ({held}); {self._where(real)}"
            }
        if isinstance(asked, nn.Module):
            inner = unwrapped(self.model)
            name = next((n for n, m in inner.named_modules() if m is asked), None)
            if name == "":
                raise InputError(f"differentiate is the network itself: {self._where([])}")
            if not name:
                raise InputError(
                    f"differentiate is a {type(asked).__name__} that is no part of the network"
                )
            return {"varied": name}
        path = parsed(asked)
        try:
            leaf = at(every.first, path)
        except KeyError:
            leaf = None
        if isinstance(leaf, Tensor):
            found = next((p for p in every.real_leaves() if named(p) == named(path)), None)
            if asked in modules:  # a number can name both
                which = (
                    f"the part {asked!r} of the network"
                    if found is None
                    else f"{asked!r} of the batch"
                )
                other = (
                    f"{asked!r} of the batch"
                    if found is None
                    else "the part of the network of that name"
                )
                self._note(f"input metrics differentiate in {which}, not in {other}")
            if found is None and asked in modules:
                return {"varied": asked}
            if found is None:
                raise InputError(
                    f"differentiate={asked!r} names {described(leaf)} of the batch, which is not real "
                    f"with one entry a sample: {self._where(every.real_leaves())}"
                )
            return {"varied": found}
        if asked == "inputs_embeds" and (embedding := self._embedding()):
            return {"varied": embedding}
        if asked in modules and asked:
            return {"varied": asked}
        known = [*(named(p) for p in every.real_leaves()), *(n for n in modules if n)]
        raise InputError(
            f"differentiate={asked!r} is neither a tensor of the batch nor a part of the network. "
            f"{nearest_names(str(asked), known)}"
        )

    def _where(self, real: Sequence[Path]) -> str:
        """What to write for ``differentiate``: something that is there."""
        parts = [name for name, _ in self.copy.named_children()]
        names = [self._embedding(), *map(named, real), *parts]
        found = next((name for name in names if name), None)
        if found is None:
            return "name a tensor of the batch, differentiate='…', once there is a real one"
        return (
            f"give differentiate={found!r}, the name of another part whose output it should be, or of a "
            "tensor of the batch"
        )

    def _embedding(self) -> str | None:
        """The name of the layer that embeds token ids."""
        get = getattr(self.copy, "get_input_embeddings", None)
        try:
            layer = get() if callable(get) else None
        except Exception:
            layer = None
        for name, module in self.copy.named_modules():
            if module is layer or (
                layer is None and isinstance(module, (nn.Embedding, nn.EmbeddingBag))
            ):
                return name or None
        return None

    def _target(self, target: Any) -> Any:
        if target is None:
            return None
        if not isinstance(target, Tensor):
            try:
                target = torch.as_tensor(from_array(target))
            except Exception as error:
                raise InputError(
                    f"targets must be tensors, got {described(target)}: {first_line(error)}; what takes "
                    "others is a loss of the model and the batch, loss=lambda model, batch: …"
                ) from None
        return target.detach().to(self.device)

    def _note(self, text: str) -> None:
        if text not in self.said:
            self.said.append(text)


def _streamed(found: Sequence[Any], held: int) -> str:
    parts = found.parts if isinstance(found, Chained) else (found,)
    size = sum(part.bytes for part in parts if isinstance(part, Streamed))
    return (
        f"the batches take {size / 2**20:.0f} MiB: they are read anew for each pass, and compared with those "
        f"of the first; their targets ({held / 2**20:.0f} MiB) are held, what is beyond "
        f"{HELD >> 20} MiB of them in a temporary file"
    )


class _Reduced:
    """The mean, or the sum, of the losses that another loss of model and batch gives."""

    def __init__(self, loss: Any, over: Literal["mean", "sum"]) -> None:
        self.loss, self.over = loss, over

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        losses: Tensor = self.loss(model, batch)
        return losses.mean() if self.over == "mean" else losses.sum()


class _DefaultForward:
    """``model(**batch)`` or ``model(*batch)``, without the targets where the network takes none."""

    def __init__(self, model: nn.Module, batch: Any, target: Path | None) -> None:
        self.without: Path | None = target
        self.by_position: str | None = None
        """The one key of a batch, where the network takes none of its name."""
        if not isinstance(batch, Mapping):
            return
        try:
            accepted = list(inspect.signature(model.forward).parameters.values())
        except (TypeError, ValueError):
            return
        names = {p.name for p in accepted}
        anything = any(p.kind is p.VAR_KEYWORD for p in accepted)
        leave = str(target[0]) if target is not None and len(target) == 1 else None
        if leave is not None and (leave in names or anything):
            self.without = None
        given = [str(key) for key in batch if self.without is None or str(key) != leave]
        if len(given) == 1 and given[0] not in names and not anything:
            self.by_position = given[0]

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        leave = self.without[0] if self.without is not None and len(self.without) == 1 else None
        if isinstance(batch, Mapping):
            if self.by_position is not None:
                return model(next(batch[k] for k in batch if str(k) == self.by_position))
            return model(**{str(k): batch[k] for k in batch if str(k) != str(leave)})
        if isinstance(batch, (tuple, list)):
            fields = getattr(batch, "_fields", range(len(batch)))
            rest = [x for k, x in zip(fields, batch, strict=True) if str(k) != str(leave)]
            if len(rest) == 1 and isinstance(rest[0], Mapping):
                return model(**rest[0])
            if len(rest) == 1 and isinstance(rest[0], (tuple, list)):
                return model(*rest[0])
            return model(*rest)
        return model(batch)


def _takes_model(loss: Any) -> bool:
    """Whether the loss is one of model and batch, by the name of its first argument."""
    if isinstance(loss, nn.Module):
        return False
    try:
        names = list(inspect.signature(loss).parameters)
    except (TypeError, ValueError):
        return False
    return bool(names) and names[0] in _MODEL


def _mean_entropy(logits: Tensor, targets: Tensor) -> float:
    return float(cross_entropy(logits.double(), targets.long()))


def _rows(every: Batches) -> Tensor:
    if every.count >= 1 << 24:
        raise InputError(f"{every.count:,} samples are more than can be numbered in float32")
    return torch.arange(every.count, dtype=torch.float64, device=every.device).unsqueeze(1)


def _shape(tensor: Tensor) -> str:
    rest = ", ".join(map(str, tensor.shape[1:]))
    return f"(N, {rest})" if rest else "(N,)"
