"""Copies of a user's network: without wrappers, in any precision, sharing no tensor with it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from sharpbench.errors import InputError, first_line
from sharpbench.front import fronted
from sharpbench.precision import at_least_single, real_dtypes

__all__ = [
    "check_initialised",
    "copied",
    "copies",
    "in_precision",
    "of_dtypes",
    "own_copy",
    "private_copy",
    "refuse_unusual",
    "stopped_by_a_cast",
    "tensors_of",
    "trainers",
    "tried_as_is",
    "unwrapped",
]


def unwrapped(model: nn.Module) -> nn.Module:
    """Without what wraps it and leaves its function: torch.compile, DataParallel."""
    dynamo = sys.modules.get(
        "torch._dynamo.eval_frame"
    )  # seconds to import; else nothing is compiled
    while True:
        if dynamo is not None and isinstance(model, dynamo.OptimizedModule):
            model = model._orig_mod
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


def tensors_of(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def check_initialised(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise InputError(
                f"{name!r} of the network is not initialised (a lazy module): run it once on a batch "
                "before it is measured"
            )
        if tensor.is_meta:
            raise InputError(f"{name!r} of the network is on the meta device and has no values")


def _check_finite(model: nn.Module) -> None:
    for kind, named in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in named:
            if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_sparse:
                continue
            tensor = tensor.detach()
            # Buffers may be infinite, as a mask is.
            if tensor.isnan().any() or (kind == "parameter" and tensor.isinf().any()):
                what = "NaN" if tensor.isnan().any() else "infinite"
                raise InputError(f"the {kind} {name!r} of the network holds {what} values")


def copies(model: nn.Module) -> Iterator[tuple[nn.Module, torch.dtype | None]]:
    """Copies of a user's network to try things on, in evaluation mode and without wrappers, each with the
    precision of the inputs for it (None: as they are given).

    One, in its own precision, of a network whose weights are in float32 or float64. Of others first one in a
    single precision that holds them all, float32 at least, then the network as it is with inputs in each of
    its precisions: a network may run in none but one of these.
    """
    original = unwrapped(model)
    check_initialised(original)
    dtypes = real_dtypes(original)
    if not tried_as_is(dtypes):
        wide = at_least_single(dtypes)
        yield in_precision(own_copy(original), wide), wide
    if len(dtypes) > 1:
        yield own_copy(original), None
    for dtype in dtypes or (torch.get_default_dtype(),):
        yield own_copy(original), dtype


def tried_as_is(dtypes: tuple[torch.dtype, ...]) -> bool:
    """Whether weights in these precisions are tried as they are."""
    return dtypes in ((), (torch.float32,), (torch.float64,))


def stopped_by_a_cast(model: nn.Module, run: Callable[[], object]) -> str:
    """Why a copy in another precision doesn't run: where, and what to write there; or nothing, where torch
    doesn't complain of the kind of numbers."""
    inside: list[str] = []
    handles: list[Any] = []
    for name, module in model.named_modules():
        enter = partial(_entered, inside, name)
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(lambda *_: inside.pop() and None))
    try:
        run()
    except Exception as error:
        if not of_dtypes(error.__cause__ or error):
            return ""
        part = next((name for name in reversed(inside) if name), "")
    else:
        return ""
    finally:
        for handle in handles:
            handle.remove()
    weight = next((n for n, _ in model.get_submodule(part).named_parameters()), "weight")
    to = f"self.{part}.{weight}.dtype" if part else "weight.dtype"
    before = f" before {part!r}" if part else ""
    return (
        f"the forward pass casts to a fixed precision{before}, as x.to(torch.bfloat16) and x.float() do, or "
        "takes a tensor that is no parameter, buffer or attribute of its modules: let it follow the weights, "
        f"x.to({to})"
    )


def of_dtypes(error: BaseException) -> bool:
    """Whether torch complains of the kind of numbers."""
    words = ("dtype", "scalar type", "not implemented for", "DoubleTensor", "Input type (")
    return any(word in str(error) for word in words)


def _entered(inside: list[str], name: str, *_: Any) -> None:
    inside.append(name)


def _of_quantisation(kind: type) -> bool:
    home = kind.__module__
    return home.startswith(("bitsandbytes", "torchao")) or (
        home.startswith("torch.") and ".quantized" in home
    )


def refuse_unusual(model: nn.Module) -> None:
    """Raises InputError for what is no network, and for one whose weights are no real numbers of its own:
    quantised or sharded."""
    if isinstance(model, type):
        raise InputError(f"the model is the class {model.__name__}: give an instance of it")
    if not isinstance(model, nn.Module):
        raise InputError(
            f"the model must be a torch.nn.Module, got a {type(model).__name__}: put its parameters "
            "and its forward pass into one"
        )
    for name, module in model.named_modules():
        kind = type(module)
        where = f"{name or 'it'} is a {kind.__module__}.{kind.__name__}"
        if kind.__name__ == "FullyShardedDataParallel":
            raise InputError(
                f"the network is sharded over processes ({where}): gather its state (by "
                "get_model_state_dict of torch.distributed.checkpoint.state_dict, full_state_dict=True), "
                "load it into a plain copy and measure that"
            )
        if _of_quantisation(kind):
            raise InputError(
                f"the network is quantised ({where}), and its weights have no derivatives: measure the "
                "network before quantisation, in float32"
            )
    _refuse_shared_memory(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        kind = type(tensor)
        if is_lazy(tensor):
            continue
        if kind.__name__ == "DTensor":
            raise InputError(
                f"the parameter {name!r} is a DTensor, sharded over processes: gather it "
                "(tensor.full_tensor()), load it into a plain copy and measure that"
            )
        if isinstance(tensor, nn.Parameter) and tensor.layout != torch.strided:
            raise InputError(
                f"the parameter {name!r} is {tensor.layout}, and derivatives are taken in dense ones: make "
                "it dense, or a buffer"
            )
        if tensor.is_floating_point() and tensor.dtype.itemsize < 2:
            raise InputError(
                f"the parameter {name!r} is {str(tensor.dtype).removeprefix('torch.')}, in which nothing is "
                "computed: measure the network in float32"
            )
        if tensor.is_quantized or _of_quantisation(kind) or hasattr(tensor, "quant_state"):
            raise InputError(
                f"the parameter {name!r} is quantised ({kind.__name__}, {tensor.dtype}) and has no "
                "derivatives: measure the network before quantisation, in float32"
            )


def _refuse_shared_memory(model: nn.Module) -> None:
    """Raises InputError for two parameters in one memory: moving one moves the other, of which torch's
    gradients know nothing, and in copies they are apart."""
    spans = [
        (p.data_ptr(), p.data_ptr() + p.nbytes, name)
        for name, p in model.named_parameters()
        if not is_lazy(p) and not p.is_meta and _has_storage(p) and type(p) is nn.Parameter
    ]
    for (first, end, one), (begin, _, other) in pairwise(sorted(spans)):
        # A strided one may leave room for others in between.
        if begin == first or (begin < end and model.get_parameter(one).is_contiguous()):
            raise InputError(
                f"the parameters {one!r} and {other!r} are two in one memory, of which torch's gradients "
                "know nothing: to tie them let both modules have the same parameter, a.weight = b.weight, "
                "not their .data"
            )


def private_copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a metric's own copy in another precision."""
    made, front = in_precision(own_copy(model), dtype), fronted(model)
    return front.dressed(made) if front is not None and fronted(made) is None else made


def own_copy(original: nn.Module) -> nn.Module:
    """A copy of the network in evaluation mode, in its own precision, that shares no tensor with it."""
    _check_finite(original)
    model = copied(original)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if (inner := unwrapped(child)) is not child:
                module._modules[name] = inner
    theirs = {t.data_ptr() for t in tensors_of(original) if _has_storage(t)}
    if model is original or any(
        t.data_ptr() in theirs for t in tensors_of(model) if _has_storage(t)
    ):
        raise InputError(
            "a copy of the network shares its tensors with the network (does it define __deepcopy__?), "
            "and metrics change the copy"
        )
    model.eval()
    for parameter in model.parameters():
        if not parameter.is_leaf:  # a scripted module's copy has a graph that leads to the original
            parameter.detach_().requires_grad_()
        parameter.grad = None
    return model


def _has_storage(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.numel() > 0


class _ByValue(TorchFunctionMode):
    """Within it copy.deepcopy takes a tensor that has a graph by its value, which torch refuses."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))


def trainers(model: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    """The modules that hold the Lightning trainer that trained them, with all its data and optimizers."""
    for module in model.modules():
        trainer = vars(module).get("_trainer")
        if type(trainer).__module__.partition(".")[0] in {"lightning", "pytorch_lightning"}:
            yield module, trainer


def copied(model: nn.Module) -> nn.Module:
    """A copy. It has no trainer, and shares what can't be copied at all."""
    # A copy is trained by nobody: what it logs is not meant for the trainer, which refuses it.
    nobody: dict[int, Any] = {id(trainer): None for _, trainer in trainers(model)}
    with _ByValue():
        try:
            return copy.deepcopy(model, dict(nobody))
        except Exception as error:
            failed = error
        shared: dict[int, Any] = nobody
        itself = {id(m): m for m in model.modules()}
        for module in model.modules():
            for value in vars(module).values():
                _share_uncopyable(value, itself, shared)
        try:
            return copy.deepcopy(model, shared)
        except Exception:
            raise InputError(
                f"the network can't be copied, and metrics work on a copy: {first_line(failed)}"
            ) from failed


def _share_uncopyable(value: Any, known: dict[int, Any], shared: dict[int, Any]) -> None:
    """Note in ``shared`` the parts of ``value`` that can't be copied."""
    try:
        copy.deepcopy(value, known | shared)
    except Exception:
        if isinstance(value, Mapping):
            for part in value.values():
                _share_uncopyable(part, known, shared)
        elif isinstance(value, (list, tuple, set)):
            for part in value:
                _share_uncopyable(part, known, shared)
        else:
            shared[id(value)] = value


def in_precision(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """In place: every floating-point tensor of the network in ``dtype``, complex ones in its complex."""

    def convert(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(dtype.to_complex())
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    model._apply(convert)
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        # Tensors that are plain attributes: torch would leave them as they are.
        for name, value in list(vars(module).items()):
            if name not in _REGISTERED:
                vars(module)[name] = _converted(value, convert, set())
    return model


_REGISTERED = frozenset({"_parameters", "_buffers", "_modules"})


def _converted(value: Any, convert: Callable[[Tensor], Tensor], above: set[int]) -> Any:
    """An attribute of a module with the tensors in it converted, lists and dicts in place; modules that stand
    in them, which torch doesn't know of, too."""
    if isinstance(value, Tensor):
        return convert(value)
    if isinstance(value, nn.Module):
        return value._apply(convert) if above else value
    if id(value) in above or type(value) not in (list, dict, tuple):
        return value
    inside = {*above, id(value)}
    if type(value) is tuple:
        return tuple(_converted(v, convert, inside) for v in value)
    if type(value) is list:
        value[:] = [_converted(v, convert, inside) for v in value]
    else:
        value.update({k: _converted(v, convert, inside) for k, v in value.items()})
    return value
