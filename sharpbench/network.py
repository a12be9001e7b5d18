"""A user's network, tried and examined, and the private copy that metrics work on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from sharpbench.copies import (
    check_initialised,
    in_precision,
    own_copy,
    refuse_unusual,
    stopped_by_a_cast,
    tensors_of,
    tried_as_is,
    unwrapped,
)
from sharpbench.errors import InputError, first_line
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.front import Front, tensor_of
from sharpbench.loss import is_tensor_like
from sharpbench.measurement import Work
from sharpbench.precision import HALF, Precisions, at_least_single, on_the_way_to, real_dtypes, told
from sharpbench.running import evaluated_untouched, quiet

__all__ = ["TOGETHER", "TRIED", "Network", "check_loss_apart", "computed"]

TRIED = 3
"""Samples on which a network is tried, and a copy is compared with its original."""

_BESIDE = 16
"""Samples from all over the data that are put before these, to see whether any depends on another."""

_ROOM = 1 << 22
"""Numbers among outputs that these take at most."""

TOGETHER = (
    "a sample's outputs depend on the other samples of its batch (batch norm without running "
    "statistics, a recurrent layer without batch_first, a random layer left on?)"
)
"""How a network whose samples don't pass through it apart is told; what follows from it comes behind."""

_FUSED = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)

_MOVED = 1.02
"""By what parameters are multiplied to see whether a network follows."""


class Network:
    """A user's network as metrics see it: private copies whose outputs are one tensor (N, …), ndim ≥ 2.

    A copy is in evaluation mode and in any precision. It is made also where ``copy.deepcopy`` refuses:
    tensors that a step left behind with their graph (hooks of weight norm, spectral norm, pruning) are
    copied by value, and what can't be copied at all (locks, files, generators) is shared. What wraps a
    network without changing its function (torch.compile, DataParallel) is taken off.

    Outputs: a tensor, or the ``logits`` of a mapping or an object. Outputs (N,) become (N, 1). A network
    that writes into its input gets a copy of it.

    One whose weights are in half precision, or in several, is given inputs in the first precision that it
    runs in (as they are, then that of each of its weights); everything else is tried on a copy in one
    precision that holds all of them, float32 at least, where the network runs in it.

    Raises InputError, at once, for a network that is no module, has uninitialised parameters or such that
    are not finite, doesn't run on the inputs, or computes something else as a copy.
    """

    def __init__(self, model: nn.Module, inputs: Tensor, front: Front | None = None) -> None:
        refuse_unusual(model)
        if torch.is_inference_mode_enabled():
            raise InputError(
                "inside torch.inference_mode() nothing can be differentiated: leave it, or write "
                "torch.no_grad()"
            )
        self.model, self.front = model, front
        self.flat = False
        """Whether the network gives (N,)."""
        self.coupled = False
        """Whether a sample's outputs depend on the other samples of its batch."""
        self._writes = False
        self.ends_in_sigmoid = False
        """Whether the outputs are those of a sigmoid."""
        self.detached = False
        """Whether the outputs depend on none of the parameters that are there to be differentiated in."""
        self._computes_in: dict[torch.dtype, torch.dtype] = {}
        original = unwrapped(model)
        check_initialised(original)
        few = inputs[torch.arange(TRIED, device=inputs.device) % len(inputs)]
        self.dtypes = real_dtypes(original)
        """The real precisions of the weights."""
        self.dtype = at_least_single(self.dtypes) if self.dtypes else inputs.dtype
        """The one that holds them all, float32 at least; that of the inputs for a network without any."""
        devices = [t.device for t in tensors_of(original)] or [inputs.device]
        self.device = devices[0]
        if inputs.device not in devices:
            raise InputError(
                f"the network is on {self.device} and the inputs on {inputs.device}: move one of them"
            )
        self.takes: torch.dtype | None = self.dtype
        """The precision of real inputs for the network as it is; None: as they are given."""
        self.not_as_given = ""
        """Why the network as it is doesn't run: only copies in one precision do."""
        self.rounding: float | None = None
        """max |Δ outputs| / max |outputs| between it and a copy in `dtype`, where weights are no such."""
        self._own: Tensor | None = None
        """Its outputs for all the samples that are tried, where they don't meet."""
        self.apart: float | None = None
        """The same between a network in float32 and its copy in float64, where that is more than rounding: a
        threshold, or a bin, that rounding crosses."""
        self._tried_in: torch.dtype | None = None
        """The precision of the copies that are tried; None: as the weights are given."""
        if not tried_as_is(self.dtypes):
            self._settle_precision(original, few)
        # numbers stay exact
        reach = len(inputs) if front is None else min(len(inputs), front.reach)
        spread = torch.linspace(0, reach - 1, min(reach, _BESIDE), device=inputs.device)
        beside = torch.cat([inputs[spread.round().long()], few])
        self._few, self._beside = (
            t if front is not None or self.takes is None else t.to(self._tried_in or self.takes)
            for t in (few, beside)
        )
        self.outputs = self._examine(original)
        """Outputs of the first samples (repeated where there are fewer), as in a copy."""
        known = (self.outputs if self._own is None else self._own).detach()
        self.span = float(known.min()), float(known.max())
        """The least and the most of the outputs of all samples that were tried."""
        self._own = None

    def copy(self, dtype: torch.dtype) -> nn.Module:
        """A private copy in ``dtype`` and evaluation mode. Raises InputError for NaN weights."""
        return self._fitted_out(in_precision(own_copy(unwrapped(self.model)), dtype))

    def _fitted_out(self, model: nn.Module) -> nn.Module:
        """In place: a copy that answers with one tensor (N, …), ndim ≥ 2, and leaves its input."""
        if self.front is not None:
            return self.front.dressed(model)
        if self._writes:
            model.register_forward_pre_hook(_cloned_inputs)
        if self._adapted:
            model.register_forward_hook(_as_matrix)
        return model

    def computes_in(self, dtype: torch.dtype) -> torch.dtype:
        """The least accurate of ``dtype`` and of what a copy in it computes in, by its own wish."""
        if dtype not in self._computes_in:
            seen: set[torch.dtype] = set()
            with suppress(Exception), quiet(self.device), torch.no_grad():
                seen = self._rounded_to(self.copy(dtype), self._few.to(dtype))
            self._computes_in[dtype] = max({dtype, *seen}, key=lambda one: torch.finfo(one).eps)
        return self._computes_in[dtype]

    @property
    def of_precision(self) -> str:
        """What a reader must know of weights that are not in float32 or float64 throughout, or nothing."""
        if self.apart is not None:
            return (
                f"a copy in float64 gives other outputs than the network in float32, by {self.apart:.1g} of "
                f"the largest on {len(self._beside)} samples (a threshold or a bin that rounding crosses, or "
                "numbers drawn from a seed?): dtype='float32' measures it as it is"
            )
        if tried_as_is(self.dtypes):
            return ""
        found = f"the weights are {told(self.dtypes)}: metrics measure a copy in the precision asked for"
        if self._tried_in is None:
            return f"{found}, and in {told((self.dtype,))} it does not run"
        if self.not_as_given:
            return f"{found}, since as it is given {self.not_as_given}"
        if self.rounding is None:
            return found
        by = f"{self.rounding:.1g} of the largest on the first {TRIED} samples"
        return f"{found}, whose outputs differ from the network's own by {by}"

    def judged(self) -> tuple[nn.Module, torch.dtype]:
        """A private copy, and the precision of inputs for it: `dtype` where it runs in that."""
        if tried_as_is(self.dtypes) or self._tried_in is not None:
            return self.copy(self.dtype), self.dtype
        return self._fitted_out(own_copy(unwrapped(self.model))), self.takes or self.dtype

    def stopped_by_a_cast(self, model: nn.Module, dtype: torch.dtype) -> str:
        """See `stopped_by_a_cast`, of a copy in ``dtype``."""
        return stopped_by_a_cast(model, lambda: self.tried(model, dtype))

    def check_runs(self, inputs: Tensor, what: str) -> None:
        """Raises InputError unless the network gives for ``inputs`` outputs like those for its own."""
        model, few = self._examinee(), inputs[:TRIED]
        try:
            with quiet(self.device), torch.no_grad():
                outputs = _as_matrix(None, None, self._run(model, few.clone()))
        except InputError as error:
            raise InputError(f"{what}: {error}") from error
        theirs, ours = (tuple(t.shape[1:]) for t in (outputs, self.outputs))
        if theirs != ours:
            raise InputError(
                f"{what}: the network gives outputs of the shape {theirs} for a sample of them, and {ours} "
                "for one of its other data"
            )

    def run_few(self, model: nn.Module) -> Tensor:
        """What a network like this one gives for the few samples, in its own precision."""
        if self.not_as_given and real_dtypes(model) == self.dtypes:
            model = self.copy(self.dtype)
        outputs: Tensor = tensor_of(self._run(model, self._few))
        return outputs

    def tried(self, copied: nn.Module, dtype: torch.dtype) -> Tensor:
        """Outputs of a copy in ``dtype`` for the few samples. Raises InputError where it doesn't run."""
        with quiet(self.device), torch.no_grad():
            return _as_matrix(None, None, self._run(copied, self._few.to(dtype)))

    def input_fault(self, dtype: torch.dtype, work: Work) -> str | None:
        """Why derivatives in the inputs are not those of the network's function, or None if they are.

        On the few samples: an output depends on its own sample alone, a graph leads from it to the
        inputs, and torch's gradient is a central difference of the outputs, in float64 where the
        network runs in it. The passes made are added to ``work``.
        """
        if self.coupled:
            return f"{TOGETHER}, so that no point has derivatives of its own"
        with quiet(self.device), repeatedly_differentiable(), torch.enable_grad():
            if self.front is not None and self.front.varied is None:
                return self.front.no_points
            try:
                run, x = self._at_inputs(torch.float64)
                outputs = run(x.requires_grad_())
            except InputError as error:
                try:
                    run, x = self._at_inputs(dtype)
                    outputs = run(x.requires_grad_())
                except InputError:
                    if self.front is None:
                        raise
                    return str(error)
            work.gradient += len(x)
            if not any(leaf is x for leaf in _leaves(outputs)):
                return (
                    "the outputs don't depend differentiably on the inputs (token ids, rounded, compared "
                    "or detached inputs?); measure the network that begins behind that step"
                )
            generator = torch.Generator().manual_seed(0)

            def drawn(like: Tensor) -> Tensor:
                return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)

            def at(points: Tensor) -> Tensor:
                work.forward += len(points)
                with torch.no_grad():
                    return run(points).detach()  # some differentiate inside, whatever is asked

            start = x.detach()
            size = start.flatten(1).norm(dim=1) / max(start[0].numel(), 1) ** 0.5
            direction = drawn(start) * size.clamp_min(1e-3).view(-1, *[1] * (start.ndim - 1))
            if not _close(at(start), outputs.detach()):
                return None  # it is random, which metrics refuse in their words
            for shift in (0.0, 1e-2):  # a second place, for a network that is bent at the first
                place = (start + shift * drawn(start) * direction.abs()).requires_grad_()
                cotangent = drawn(outputs)
                combined = (run(place) * cotangent).sum()
                (gradient,) = torch.autograd.grad(combined, place, materialize_grads=True)
                work.gradient += len(x)
                if not torch.isfinite(gradient).all():
                    return None  # which metrics name by its order
                here = place.detach()

                def difference(h: float, here: Tensor = here, c: Tensor = cotangent) -> float:
                    return float(
                        ((at(here + h * direction) - at(here - h * direction)) * c).sum()
                    ) / (2 * h)

                apart = _apart(
                    difference,
                    float((gradient * direction).sum()),
                    float((gradient * direction).abs().sum()),
                    torch.finfo(x.dtype).eps * float((outputs.detach() * cotangent).abs().sum()),
                )
                if apart <= 1:
                    return None
        return (
            "torch's gradient of this network in its inputs is not the derivative of its outputs: a "
            "detach(), torch.no_grad(), a straight-through or custom backward, or a part in half precision "
            "stands in the way; measure the network without it"
        )

    def _at_inputs(self, dtype: torch.dtype) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """The network as a function of what metrics of the input differentiate in; and where it is tried."""
        model, front, few = self.copy(dtype), self.front, self._few

        def run(points: Tensor) -> Tensor:
            if front is None:
                return _as_matrix(None, None, self._run(model, points))
            try:
                outputs: Tensor = model(few, points)
            except InputError:
                raise
            except Exception as error:
                raise InputError(
                    f"the network doesn't run with {front.varied!r} replaced: {first_line(error)}"
                ) from error
            return outputs

        return run, few.to(dtype) if front is None else front.points(model, few, dtype)

    def _run(self, model: nn.Module, inputs: Tensor) -> Any:
        """A copy, or the network itself, with inputs in the precision that it takes."""
        dtypes = real_dtypes(model)
        takes = self.takes if len(dtypes) > 1 else dtypes[0] if dtypes else None
        if self.front is None and takes is not None:
            inputs = inputs.to(takes)
        return _run(model, inputs, self.front, takes)

    def _settle_precision(self, original: nn.Module, few: Tensor) -> None:
        """Find out what the network takes, and in which precision copies are tried.

        Raises InputError where it runs in none.
        """
        as_it_is = None if self.front is not None else few.dtype
        asked = self.dtypes if len(self.dtypes) == 1 else (as_it_is, *self.dtypes)
        with quiet(self.device), torch.no_grad():
            for self.takes in dict.fromkeys(asked):
                try:
                    self._run(own_copy(original), few)
                    self.not_as_given = ""
                    break
                except InputError as error:
                    self.not_as_given = self.not_as_given or str(error)
            wide = in_precision(own_copy(original), self.dtype)
            try:
                self._run(wide, few)
                self._tried_in = self.dtype
            except InputError as error:
                if self.not_as_given:
                    why = stopped_by_a_cast(wide, lambda: self._run(wide, few))
                    raise InputError(
                        f"{error} (a copy in {told((self.dtype,))}; the weights are {told(self.dtypes)}, "
                        "and as it is given it does not run either)" + (f"; {why}" if why else "")
                    ) from error

    def _examinee(self) -> nn.Module:
        """A private copy to be tried."""
        model = own_copy(unwrapped(self.model))
        return model if self._tried_in is None else in_precision(model, self._tried_in)

    def _rounded_to(self, model: nn.Module, few: Tensor) -> set[torch.dtype]:
        """The precisions below that of a copy to which it rounds on its way to the outputs."""
        seen = Precisions()
        with seen, torch.enable_grad():
            outputs = tensor_of(self._run(model, few))
        return (seen.dtypes & set(HALF)) | (on_the_way_to(outputs) & {torch.float32})

    def _alike(self, one: Tensor, other: Tensor) -> bool:
        """Whether outputs are the same but for what rounding allows, in whatever the network computes."""
        if _close(one, other) or one.shape != other.shape:
            return one.shape == other.shape
        coarse: set[torch.dtype] = set()
        with suppress(Exception), torch.no_grad():
            coarse = self._rounded_to(self._examinee(), self._few.clone())
        return any(_close(one, other, torch.finfo(dtype).eps) for dtype in coarse)

    def _examine(self, original: nn.Module) -> Tensor:
        """Compare a copy with the original on a few samples, and see what it returns."""
        with quiet(self.device):
            return self._examined(original)

    def _examined(self, original: nn.Module) -> Tensor:
        duplicate = self._examinee()
        theirs = {id(p): p for p in original.parameters()}  # held: an id can be given again
        versions = [p._version for p in duplicate.parameters()]
        given = self._few.clone()
        version = given._version
        torch.manual_seed(0)
        with torch.enable_grad():
            raw = self._run(duplicate, given)
        if any(p.grad is not None for p in duplicate.parameters()):
            raise InputError(
                "the network or its loss calls backward() itself: return the loss, and leave derivatives to "
                "the metric"
            )
        found = tensor_of(raw)
        self.ends_in_sigmoid = _last_steps(found) == {"SigmoidBackward0"}
        self.detached = not found.requires_grad and any(
            p.requires_grad for p in duplicate.parameters()
        )
        _check_outputs(found, len(given), self.front)
        _check_unwritten(duplicate, original, versions)
        with torch.no_grad():  # two counts, for a network that gives (outputs, N)
            fewer = tensor_of(self._run(duplicate, self._few[1:].clone()))
        _check_outputs(fewer, TRIED - 1, self.front)
        room = _ROOM // max(found[0].numel(), 1)
        others = self._beside[:-TRIED]
        if room < len(others):  # a word's outputs can be as many as there are words
            others = others[torch.linspace(0, len(others) - 1, room).round().long()]
            self._beside = torch.cat([others, self._few])
        self.coupled = self._couples(duplicate, found.detach(), fewer)
        self._writes = given._version > version
        self.flat = found.ndim == 1
        self._adapted = self.flat or raw is not found
        if any(id(p) in theirs for p in _leaves(found)):
            by = "" if self.front is None else ", and in forward=… through the model it is given"
            raise InputError(
                "the network's forward pass uses parameters by another way than `self` (a closure, a "
                "lambda or a replaced method that names the network), so that a copy can't be measured: "
                f"reach them through `self`{by}"
            )
        found = _as_matrix(None, None, found).detach()
        torch.manual_seed(0)
        with torch.no_grad():
            second = _as_matrix(None, None, self._run(duplicate, self._few.clone()))
        if not self._alike(second, found):
            raise InputError(
                "the network gives other outputs when it is called again with the same inputs: its forward "
                "pass keeps a state (statistics or a counter that it updates in evaluation mode too, a "
                "random generator of its own); make it a function of its inputs alone"
            )
        self._check_fused(duplicate, found)
        self._check_follows(original, duplicate)
        if not self.not_as_given:
            self._check_copied(original, found)
        if self.dtypes == (torch.float32,):
            self.apart = self._apart_in_double(original)
        return found

    def _apart_in_double(self, original: nn.Module) -> float | None:
        """See `apart`; None too for a network that doesn't run in float64, or that is random."""
        beside = self._beside if self.front is not None else self._beside.double()

        def outputs(dtype: torch.dtype, seed: int) -> Tensor:
            model = in_precision(own_copy(original), dtype)
            rows = beside if dtype == torch.float64 else self._beside
            torch.manual_seed(seed)
            with torch.no_grad():
                return _as_matrix(None, None, self._run(model, rows.clone()))

        try:
            there = outputs(torch.float64, 0)
            own = outputs(torch.float32, 0) if self._own is None else self._own
            if self._alike(own, there):
                return None
            own = outputs(torch.float32, 0)
            if self._alike(own, there) or not self._alike(own, outputs(torch.float32, 1)):
                return None
        except InputError:
            return None
        return float((own - there).abs().max() / own.abs().max().clamp_min(1e-300))

    def _couples(self, model: nn.Module, found: Tensor, fewer: Tensor) -> bool:
        """Whether the outputs ``found`` for the few samples are others where one of them is missing
        (``fewer``: the first), or where others are beside them."""
        each = _as_matrix(None, None, found)
        if not self._alike(_as_matrix(None, None, fewer), each[1:]):
            return True
        for rows, places in ((self._few[::2], slice(None, None, 2)), (self._beside, slice(None))):
            with torch.no_grad():
                outputs = _as_matrix(None, None, self._run(model, rows.clone()))
            if not self._alike(outputs[-len(each[places]) :], each[places]):
                return True
        self._own = outputs
        return False

    def _check_copied(self, original: nn.Module, found: Tensor) -> None:
        """Raises InputError where a copy computes something else than the network itself."""
        copied = found
        if self._tried_in is not None:
            torch.manual_seed(0)
            with torch.no_grad():
                copied = _as_matrix(None, None, self._run(own_copy(original), self._few.clone()))
        torch.manual_seed(0)
        with evaluated_untouched(original):
            expected = _as_matrix(None, None, self._run(original, self._few.clone()))
            if not self._alike(copied, expected):
                torch.manual_seed(1)
                again = _as_matrix(None, None, self._run(original, self._few.clone()))
                if self._alike(
                    expected, again
                ):  # else it is random, which metrics refuse in their words
                    raise InputError(
                        "a copy of the network gives other outputs than the network itself: "
                        + _why_another(own_copy(original))
                    )
        if self._tried_in is not None:
            size = float(expected.abs().max())
            self.rounding = float((found - expected).abs().max()) / size if size > 0 else None

    def _check_fused(self, duplicate: nn.Module, found: Tensor) -> None:
        """Raises InputError where torch's fused transformer layers compute another function."""
        if not any(isinstance(module, _FUSED) for module in duplicate.modules()):
            return
        off = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(True)
        try:
            with torch.no_grad():
                fused = _as_matrix(None, None, self._run(duplicate, self._few.clone()))
        finally:
            torch.backends.mha.set_fastpath_enabled(off)
        if not self._alike(fused, found):
            raise InputError(
                "the network gives other outputs without gradients than with them: torch's fused transformer "
                "layers put zeros in the place of padded tokens; leave these out of what the network reads, "
                "or build nn.TransformerEncoder with enable_nested_tensor=False"
            )

    def _check_follows(self, original: nn.Module, used: nn.Module) -> None:
        """Raises InputError where a network that ran before gives other outputs than a fresh copy with the
        same, moved parameters: it kept what it had computed from the old ones.
        """
        fresh, outputs = self._examinee(), []
        inner = (m for m in original.modules() if unwrapped(m) is m)
        for theirs, ours in zip(inner, fresh.modules(), strict=True):
            for name, value in vars(theirs).items():
                # Made by an earlier call, and either made anew at each or kept.
                if isinstance(value, Tensor) and not value.is_leaf:
                    vars(ours)[name] = _MOVED * vars(ours)[name]
        for model in (used, fresh):
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.is_floating_point() or parameter.is_complex():
                        parameter.mul_(_MOVED)
                torch.manual_seed(0)
                try:
                    outputs.append(_as_matrix(None, None, self._run(model, self._few.clone())))
                except InputError:  # not defined there
                    return
        if not self._alike(*outputs):
            raise InputError(
                "the network does not follow when its parameters move: its forward pass keeps what it "
                "computed from them in an earlier call (a merged or cached weight); derive it anew in each "
                "call"
            )


def _apart(difference: Callable[[float], float], slope: float, size: float, noise: float) -> float:
    """The least distance of a central difference from ``slope``, over what steps and rounding allow."""
    distances = []
    for step in (1e-4, 1e-5, 1e-3, 1e-6):
        allowed = 1e-4 * size + 100 * noise / step
        distances.append(abs(difference(step) - slope) / max(allowed, 1e-300))
        if distances[-1] <= 1:
            break
    return min(distances)


def check_loss_apart(model: nn.Module, loss: Any, losses: Callable[[], Tensor]) -> None:
    """Raises InputError for a loss of outputs and targets that reads the network's parameters by itself: in
    copies they move, and for it they stay. ``losses()``: its values on a few samples."""
    theirs = {id(p): name for name, p in model.named_parameters()}
    held = loss.parameters() if isinstance(loss, nn.Module) else ()
    found = next((theirs[id(p)] for p in held if id(p) in theirs), None)
    if found is None:
        try:
            with torch.enable_grad():
                read = _leaves(losses())
                found = next((theirs[id(p)] for p in read if id(p) in theirs), None)
        except Exception:  # which is told where it is measured
            return
    if found is not None:
        raise InputError(
            f"the loss reads the parameter {found!r} of the network by itself, so that it would be a "
            "constant: give Subject.from_batches a loss of the model and the batch, loss=lambda model, "
            "batch: …, that reaches it through the model it is given"
        )


_UNCUT = (
    "; what can't be cut into samples takes a loss of the model and the batch, "
    "loss=lambda model, batch: …"
)


def computed(layer: nn.Module) -> bool:
    """Whether a layer's weight or bias is no parameter of it: writing into it changes nothing that stays."""
    return any(
        isinstance(getattr(layer, name, None), Tensor) and name not in layer._parameters
        for name in ("weight", "bias")
    )


_SAME_NUMBERS = (
    "Alias", "Cat", "Clone", "Expand", "Index", "Permute", "Reshape", "Select", "Slice", "Squeeze", "Stack",
    "T", "ToCopy", "Transpose", "UnsafeView", "Unsqueeze", "View",
)  # fmt: skip
"""How torch names steps that compute nothing."""


def _last_steps(outputs: Tensor) -> set[str]:
    """What torch calls the steps that outputs come from, behind those that only place them."""
    found: set[str] = set()
    left: list[Any] = [outputs.grad_fn]
    while left:
        step = left.pop()
        name = type(step).__name__
        if name.rstrip("0123456789").removesuffix("Backward") in _SAME_NUMBERS:
            left += [before for before, _ in step.next_functions]
        else:
            found.add(name)
    return found


def _check_outputs(outputs: Tensor, samples: int, front: Front | None = None) -> None:
    if not outputs.is_floating_point():
        whole = not outputs.is_complex()
        hint = ": predicted classes? Let the network return its logits" if whole else ""
        raise InputError(f"outputs must be real floating-point numbers, got {outputs.dtype}{hint}")
    if outputs.ndim == 0 or len(outputs) != samples:
        raise InputError(
            f"the network returned the shape {tuple(outputs.shape)} for {samples} inputs: it must return "
            "one row an input, (N, …)" + ("" if front is None else f"{front.hint}{_UNCUT}")
        )
    if outputs.numel() == 0:
        raise InputError(f"the network returned nothing: outputs of shape {tuple(outputs.shape)}")


def _check_unwritten(duplicate: nn.Module, original: nn.Module, versions: Sequence[int]) -> None:
    """Raises InputError where a forward pass wrote into a parameter of the copy that it was made with."""
    every = zip(duplicate.named_parameters(), original.parameters(), versions, strict=True)
    for (name, now), before, version in every:
        if now._version != version or not torch.equal(now, before.to(now.dtype)):
            raise InputError(
                f"the network's forward pass writes into its own parameter {name!r} (an embedding with "
                "max_norm does that), so that it is no function of its parameters: derive what it needs from "
                "the parameter, e.g. by torch.nn.utils.parametrize"
            )


def _why_another(copied: nn.Module) -> str:
    """Why a copy in evaluation mode may compute something else than the network in it."""
    for name, module in copied.named_modules():
        if module.training:
            return (
                f"its part {name!r}, a {type(module).__name__}, stays in training mode when eval() is "
                "called: let train() and eval() set its mode as those of other modules do"
            )
    return "does its forward pass read something that copy.deepcopy doesn't bring along?"


def _as_matrix(module: Any, args: Any, output: Any) -> Tensor:
    tensor = tensor_of(output)
    return tensor.unsqueeze(1) if tensor.ndim == 1 else tensor


def _cloned_inputs(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.clone() if is_tensor_like(a) else a for a in args)


def _run(
    model: nn.Module, inputs: Tensor, front: Front | None = None, takes: torch.dtype | None = None
) -> Any:
    try:
        return model(inputs) if front is None else front.outputs(model, inputs, dtype=takes)
    except InputError:
        raise
    except Exception as error:
        if front is not None:
            raise InputError(
                f"the network doesn't run on its batches ({front.shown(inputs)}): "
                f"{first_line(error)}; how it is called says forward=lambda model, batch: …"
                f"{front.hint}{_UNCUT}"
            ) from error
        raise InputError(
            f"the network doesn't run on inputs of shape (N, {', '.join(map(str, inputs.shape[1:]))}), "
            f"of which {len(inputs)} were tried: {first_line(error)}"
        ) from error


def _close(one: Tensor, other: Tensor, eps: float | None = None) -> bool:
    one, other = one.detach(), other.detach()
    if one.shape != other.shape:
        return False
    size = other.abs().nan_to_num(0, 0, 0).max()
    allowed = (eps or torch.finfo(one.dtype).eps) ** 0.5 * float(size)
    return torch.allclose(one, other.to(one.dtype), rtol=0, atol=allowed, equal_nan=True)


def _leaves(tensor: Tensor) -> Iterator[Tensor]:
    """The leaf tensors that a tensor was computed from."""
    stack = [tensor.grad_fn] if tensor.grad_fn is not None else []
    known: set[Any] = set(stack)
    while stack:
        node = stack.pop()
        if (variable := getattr(node, "variable", None)) is not None:
            yield variable
        following = {n for n, _ in node.next_functions if n is not None} - known
        known |= following
        stack.extend(following)
