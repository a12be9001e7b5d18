"""Networks are run as they are written, and stay as they are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from sharpbench.copies import trainers

__all__ = ["as_written", "evaluated_untouched", "quiet"]


@contextmanager
def quiet(device: torch.device) -> Iterator[None]:
    """Within it global random state stays, and networks run as they are written."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), as_written():
        yield


@contextmanager
def as_written() -> Iterator[None]:
    """Within it networks run as they are written.

    What torch.compile was asked to compile runs eagerly: compiled code has no second derivative and makes no
    calls to see. torch's fused transformer layers, taken only where no gradient is asked for, stay off: the
    function is the one that is differentiated. An autocast around all of this is none of the network's.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            if "torch._dynamo" in sys.modules:  # seconds to import; else nothing is compiled
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@contextmanager
def evaluated_untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards attributes, buffers and modes are as before."""
    every = list(model.modules())
    modes = [module.training for module in every]
    modules = [m for m in every if not isinstance(m, torch.jit.ScriptModule)]
    inner = ("_parameters", "_buffers", "_modules")
    saved = [(dict(vars(m)), {k: dict(vars(m)[k]) for k in inner if k in vars(m)}) for m in modules]
    buffers = [(b, b.clone()) for b in model.buffers() if b.layout == torch.strided]
    try:
        for module in every:
            module.training = False
        for module, _ in trainers(model):
            vars(module)["_trainer"] = None
        with torch.no_grad():
            yield
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
    finally:
        for module, (attributes, inside) in zip(modules, saved, strict=True):
            vars(module).clear()
            vars(module).update(attributes)
            for key, entries in inside.items():
                vars(module)[key].clear()
                vars(module)[key].update(entries)
        for module, mode in zip(every, modes, strict=True):
            module.training = mode
