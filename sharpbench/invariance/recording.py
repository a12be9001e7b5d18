"""The graph of a network as it runs on an example: its layers, and what torch computes between them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from sharpbench.errors import TransformationRefused, first_line
from sharpbench.nest import leaves
from sharpbench.network import as_written

__all__ = ["Example", "example", "left_alone", "note_left", "noting", "recorded", "running_on"]

Example = Callable[[nn.Module], Any]
"""Runs a network once, on a few samples."""

_EXAMPLE: ContextVar[Example | None] = ContextVar("example", default=None)
_LEFT: ContextVar[dict[str, str] | None] = ContextVar("left", default=None)


@contextmanager
def running_on(run: Example | None) -> Iterator[None]:
    """Within it transformations see a network by what it does in ``run``; an outer example stays."""
    if run is None or _EXAMPLE.get() is not None:
        yield
        return
    token = _EXAMPLE.set(run)
    try:
        yield
    finally:
        _EXAMPLE.reset(token)


def example() -> Example | None:
    """How networks are run to see their structure, where that is known."""
    return _EXAMPLE.get()


@contextmanager
def noting() -> Iterator[dict[str, str]]:
    """Within it is noted which layers a transformation leaves alone, by their names, and why."""
    found: dict[str, str] = {}
    token = _LEFT.set(found)
    try:
        yield found
    finally:
        _LEFT.reset(token)


def note_left(name: str, reason: str) -> None:
    """A layer is left as it is, and why."""
    found = _LEFT.get()
    if found is not None:
        found.setdefault(name, reason)


def left_alone(found: dict[str, str]) -> str:
    """What was left, in a sentence."""
    each = [f"{name} ({reason})" for name, reason in found.items()]
    more = f" and {len(each) - 6} more" if len(each) > 6 else ""
    return f"left as they are: {', '.join(each[:6])}{more}"


def recorded(
    model: nn.Module, run: Example, is_leaf: Callable[[nn.Module], bool] | None = None
) -> fx.Graph:
    """The graph of one pass: a node for each layer's call, and for what torch's functions make of others.

    As torch.fx writes it, but from what happened, so that what a forward pass asks of shapes and values is no
    matter: ``call_module`` for the layers of torch.nn (and those that ``is_leaf``), ``call_function`` and
    ``call_method``, ``get_attr`` for parameters that are used themselves. Nodes note the ``shape`` of their
    result; what depends on no layer is a constant and stands for none.

    Raises TransformationRefused where the network doesn't run.
    """
    recorder = _Recorder(model, is_leaf or (lambda module: False))
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        devices = [p.device for p in model.parameters() if p.is_cuda][:1]
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices=devices),
            as_written(),
            recorder.hooked(),
            recorder,
        ):
            outputs = run(model)
    except Exception as error:
        raise TransformationRefused(
            f"the network doesn't run on an example to see its structure: {first_line(error)}"
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    recorder.close(outputs)
    return recorder.graph


def _of_torch(module: nn.Module) -> bool:
    """One of torch's own layers, that holds no other layer or is attention, whose parts are no calls."""
    if isinstance(module, nn.MultiheadAttention):
        return True
    own = type(module).__module__.startswith("torch.nn.")
    return own and not any(True for _ in module.children())


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module, is_leaf: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self._leaves = {
            module: name
            for name, module in model.named_modules()
            if _of_torch(module) or is_leaf(module)
        }
        self._named = {id(t): n for n, t in (*model.named_parameters(), *model.named_buffers())}
        self._nodes: dict[int, fx.Node] = {}
        self._kept: list[Any] = []  # an id is given again once its object is gone
        self._inside = 0
        self._given: list[tuple[fx.Node, ...]] = []

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = []
        for module in self._leaves:
            before = module.register_forward_pre_hook(self._enter, with_kwargs=True)
            after = module.register_forward_hook(self._leave)
            handles += [before, after]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not self._inside:
            self._given.append(self._known([args, kwargs]))
        self._inside += 1

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._inside -= 1
        if self._inside:
            return
        tensor = output[0] if isinstance(output, (tuple, list)) and output else output
        node = self.graph.create_node("call_module", self._leaves[module], self._given.pop())
        self._note(tensor, node)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._inside:
            return result
        tensors: Sequence[Any] = result if isinstance(result, (tuple, list)) else (result,)
        made = [one for one in tensors if isinstance(one, Tensor)]
        if not made or func in (Tensor.__repr__, Tensor.requires_grad_):
            return result
        known = self._known([args, kwargs or {}])
        if not known:
            return result
        kind, target = _target(func)
        # First the tensors that are known, then what is none: all that readers of the graph look at.
        rest = tuple(a for a in args if not any(isinstance(t, Tensor) for _, t in leaves([a])))
        arguments = (*known, *rest) if all(_writable(a) for a in rest) else known
        named = {k: v for k, v in (kwargs or {}).items() if _writable(v)}
        node = self.graph.create_node(kind, target, arguments, named)
        if isinstance(result, Tensor):
            self._note(result, node)
            return result
        for i, one in enumerate(tensors):
            if isinstance(one, Tensor):
                part = self.graph.create_node("call_function", operator.getitem, (node, i))
                self._note(one, part)
        return result

    def close(self, outputs: Any) -> None:
        found = [self._nodes[id(t)] for _, t in leaves(outputs) if id(t) in self._nodes]
        self.graph.create_node("output", "output", (tuple(found),))

    def _known(self, arguments: Any) -> tuple[fx.Node, ...]:
        found = []
        for _, leaf in leaves(arguments):
            if not isinstance(leaf, Tensor):
                continue
            if id(leaf) not in self._nodes and id(leaf) in self._named:
                with suppress(Exception):
                    self._note(leaf, self.graph.create_node("get_attr", self._named[id(leaf)]))
            if id(leaf) in self._nodes:
                found.append(self._nodes[id(leaf)])
        return tuple(found)

    def _note(self, tensor: Any, node: fx.Node) -> None:
        if isinstance(tensor, Tensor):
            node.meta["shape"] = tuple(tensor.shape)
            self._nodes[id(tensor)] = node
            self._kept.append(tensor)


_SUMS = {"__add__", "__radd__", "__iadd__", "add", "add_"}


def _target(func: Callable[..., Any]) -> tuple[str, Any]:
    """As torch.fx names what is called."""
    name = getattr(func, "__name__", str(func))
    if getattr(Tensor, name, None) is not func:
        return "call_function", func
    if name in _SUMS:
        return "call_function", operator.add
    if name == "__getitem__":
        return "call_function", operator.getitem
    return "call_method", name


def _writable(value: Any) -> bool:
    """Whether torch.fx takes it for an argument."""
    if isinstance(value, (tuple, list)):
        return all(map(_writable, value))
    if isinstance(value, slice):
        return all(map(_writable, (value.start, value.stop, value.step)))
    return (
        value is None
        or value is Ellipsis
        or isinstance(value, (bool, int, float, str, torch.dtype))
    )
