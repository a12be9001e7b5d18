"""The graph of a network as it runs on an example: its layers, and what torch computes between them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from sharpbench.errors import TransformationRefused, first_line
from sharpbench.nest import leaves
from sharpbench.running import as_written

__all__ = [
    "THE_NETWORK",
    "Example",
    "example",
    "left_alone",
    "note_left",
    "note_rest",
    "note_written",
    "noting",
    "outputs_on",
    "recorded",
    "running_on",
    "spoken",
]

Example = Callable[[nn.Module], Any]
"""Runs a network once, on a few samples."""

THE_NETWORK = "the network itself"
"""What a layer is called that is the whole network."""

_EXAMPLE: ContextVar[Example | None] = ContextVar("example", default=None)
_LEFT: ContextVar[dict[str, str] | None] = ContextVar("left", default=None)
_WRITTEN: ContextVar[set[str] | None] = ContextVar("written", default=None)


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
    left = _LEFT.set(found)
    written = _WRITTEN.set(set() if (outer := _WRITTEN.get()) is None else outer)
    try:
        yield found
    finally:
        _LEFT.reset(left)
        _WRITTEN.reset(written)


def note_left(name: str, reason: str) -> None:
    """A layer is left as it is, and why."""
    found = _LEFT.get()
    if found is not None:
        found.setdefault(name or THE_NETWORK, reason)


def note_written(model: nn.Module, tensors: Iterable[Tensor]) -> None:
    """These parameters and buffers of ``model``, or views of them, are changed, be it that equal numbers have
    changed their places."""
    written = _WRITTEN.get()
    if written is not None:
        memory = {_memory(tensor) for tensor in tensors}
        named = (*model.named_parameters(), *model.named_buffers())
        written.update(name for name, tensor in named if _memory(tensor) in memory)


def written_into(model: nn.Module, layer: nn.Module) -> bool:
    """Whether a parameter of a layer is among what `note_written` was told of."""
    own = {id(parameter) for parameter in layer.parameters()}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in own}
    return not names.isdisjoint(_WRITTEN.get() or set())


def note_rest(before: nn.Module, after: nn.Module, reason: str) -> None:
    """Of the layers with parameters that a change left, those of which nothing is noted have ``reason``."""
    found = _LEFT.get()
    if found is None:
        return
    now, told, written = _layers(after), set(found), _WRITTEN.get() or set()
    for name, tensors in _layers(before).items():
        if written & tensors.keys():
            continue
        there = now.get(name, {})
        same = tensors.keys() == there.keys() and all(
            _same(t, there[k]) for k, t in tensors.items()
        )
        above = [name[:i] for i, letter in enumerate(name) if letter == "."]
        if same and not told & {name, *above}:
            note_left(name, reason)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and bool(torch.equal(one, other))


def _layers(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """By their names the modules that hold parameters, with all their tensors."""
    found: dict[str, dict[str, Tensor]] = {}
    named = list(model.named_parameters(remove_duplicate=False))
    held = {name.rpartition(".")[0].partition(".parametrizations")[0] for name, _ in named}
    for name, tensor in (*named, *model.named_buffers(remove_duplicate=False)):
        layer = name.rpartition(".")[0].partition(".parametrizations")[0]
        if layer in held:
            found.setdefault(layer, {})[name] = tensor
    return found


def left_alone(found: dict[str, str]) -> str:
    """What was left, in a sentence, by the reasons; of one that many layers have, four are named."""
    reasons: dict[str, list[str]] = {}
    for name, reason in found.items():
        reasons.setdefault(reason, []).append(name)
    each = []
    for reason, names in reasons.items():
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        each.append(f"{', '.join(names[:4])}{more} ({reason})")
    return f"left as they are: {'; '.join(each)}"


def recorded(
    model: nn.Module, run: Example, is_leaf: Callable[[nn.Module], bool] | None = None
) -> fx.Graph:
    """The graph of one pass: a node for each layer's call, and for what torch's functions make of others.

    As torch.fx writes it, but from what happened, so that what a forward pass asks of shapes and values is no
    matter: ``placeholder`` for the tensors that the network is given, ``call_module`` for the layers of
    torch.nn (and those that ``is_leaf``), ``call_function`` and ``call_method``, ``get_attr`` for parameters
    that are used themselves. Nodes note the ``shape`` of their result, and whether it is made of one tensor
    ``alone``, their first argument; what depends on neither an input nor a layer is a constant and stands for
    none. A tensor that was written into, be it through a view of it, is from then on what the writing made.

    Raises TransformationRefused where the network doesn't run.
    """
    recorder = _Recorder(model, is_leaf or (lambda module: False))
    try:
        with _watched(model), recorder.hooked(), recorder:
            outputs = run(model)
    except Exception as error:
        raise TransformationRefused(
            f"the network doesn't run on an example to see its structure: {first_line(error)}"
        ) from error
    recorder.close(outputs)
    return recorder.graph


def outputs_on(model: nn.Module, run: Example) -> list[Tensor]:
    """What a network gives for an example, as metrics run it."""
    with _watched(model):
        return [t.detach().clone() for t in _tensors(run(model))]


@contextmanager
def _watched(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, without gradients and as it is written; modes and random state stay."""
    modes = [(module, module.training) for module in model.modules()]
    devices = [p.device for p in model.parameters() if p.is_cuda][:1]
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad(), torch.random.fork_rng(devices=devices), as_written():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _of_torch(module: nn.Module) -> bool:
    """One of torch's own layers, that holds no other layer or is attention, whose parts are no calls."""
    if isinstance(module, nn.MultiheadAttention):
        return True
    if parametrize.is_parametrized(module):
        kind, parts = type(module).__mro__[1], len(list(module.children())) - 1
    else:
        kind, parts = type(module), len(list(module.children()))
    return kind.__module__.startswith("torch.nn.") and not parts


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module, is_leaf: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self._model = model
        self._leaves = {
            module: name
            for name, module in model.named_modules()
            if _of_torch(module) or is_leaf(module)
        }
        self._named = {id(t): n for n, t in (*model.named_parameters(), *model.named_buffers())}
        self._nodes: dict[int, tuple[fx.Node, int]] = {}
        """What made a tensor, by its id, and how often it had been written into then."""
        self._writers: dict[int, fx.Node] = {}
        """What last wrote, by the memory that it wrote into."""
        self._further: dict[int, tuple[fx.Node, int]] = {}
        """Of a layer's results those behind the first: the layer, and which one."""
        self._kept: list[Any] = []  # an id is given again once its object is gone
        self._inside = 0
        self._given: list[tuple[fx.Node, ...]] = []
        self._looking = False
        """Whether what is asked of a tensor is asked by this recorder."""

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = []
        if not isinstance(self._model, torch.jit.ScriptModule):
            handles.append(self._model.register_forward_pre_hook(self._begin, with_kwargs=True))
        for module in self._leaves:
            before = module.register_forward_pre_hook(self._enter, with_kwargs=True)
            after = module.register_forward_hook(self._leave, with_kwargs=True)
            handles += [before, after]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        before, self._looking = self._looking, True
        try:
            yield
        finally:
            self._looking = before

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        with self._unseen():
            for tensor in _tensors([args, kwargs]):
                if id(tensor) not in self._nodes:
                    self._note(tensor, self.graph.create_node("placeholder", "given"))

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not self._inside:
            with self._unseen():
                self._given.append(self._known([args, kwargs]))
        self._inside += 1

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self._inside -= 1
        if self._inside:
            return
        with self._unseen():
            node = self.graph.create_node("call_module", self._leaves[module], self._given.pop())
            given, made = _tensors([args, kwargs]), _tensors(output)
            for i, tensor in enumerate(made):
                if not i:
                    self._note(tensor, node)
                else:
                    self._further[id(tensor)] = (node, i)
                    self._kept.append(tensor)
                if any(tensor is one for one in given):
                    self._writers[_memory(tensor)] = node

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if self._inside or self._looking:
            return func(*args, **(kwargs or {}))
        given = _tensors([args, kwargs or {}])
        before = [_version(t) for t in given]
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if not given or name in _SHAPES or func in (Tensor.__repr__, Tensor.requires_grad_):
            return result
        written = [t for t, version in zip(given, before, strict=True) if _version(t) != version]
        tensors: Sequence[Any] = result if isinstance(result, (tuple, list)) else (result,)
        made = [one for one in tensors if isinstance(one, Tensor)]
        if not (made or written or name.strip("_") in _NUMBERS):
            return result
        # As they were before the call, which may have written into them.
        every = (self._node_of(t, version) for t, version in zip(given, before, strict=True))
        known = tuple(node for node in every if node is not None)
        if not known:
            return result
        kind, target = _target(func)
        # First the tensors that are known, then what is none: all that readers of the graph look at.
        rest = tuple(a for a in args if not _tensors([a]))
        named = {k: v for k, v in (kwargs or {}).items() if _writable(v)}
        whole = all(map(_writable, rest)) and len(named) == len(kwargs or {})
        arguments = (*known, *rest) if all(map(_writable, rest)) else known
        node = self.graph.create_node(kind, target, arguments, named)
        node.meta["alone"] = whole and bool(args) and len(given) == 1 and given[0] is args[0]
        for tensor in written:
            self._note(tensor, node)
            self._writers[_memory(tensor)] = node
        if isinstance(result, Tensor):
            self._note(result, node)
            return result
        for i, one in enumerate(tensors):
            if isinstance(one, Tensor):
                part = self.graph.create_node("call_function", operator.getitem, (node, i))
                self._note(one, part)
        return result

    def close(self, outputs: Any) -> None:
        found = self._known(outputs)
        self.graph.create_node("output", "output", (tuple(found),))
        for node in reversed(self.graph.nodes):  # what was made for its shape alone, say
            made = node.op in {"call_function", "call_method", "get_attr"}
            if made and not node.users and spoken(node) not in _NUMBERS:
                self.graph.erase_node(node)

    def _known(self, arguments: Any) -> tuple[fx.Node, ...]:
        every = (self._node_of(tensor, _version(tensor)) for tensor in _tensors(arguments))
        return tuple(node for node in every if node is not None)

    def _node_of(self, tensor: Tensor, now: int) -> fx.Node | None:
        """What made a tensor that was written into so often ``now``."""
        key = id(tensor)
        if key not in self._nodes and key in self._named:
            with suppress(Exception):
                self._note(tensor, self.graph.create_node("get_attr", self._named[key]))
        if key not in self._nodes and key in self._further:
            layer, i = self._further[key]
            node = self.graph.create_node("call_function", operator.getitem, (layer, i))
            node.meta["further"] = True
            self._note(tensor, node)
        if key not in self._nodes:
            return None
        node, version = self._nodes[key]
        if now != version:
            writer = self._writers.get(_memory(tensor))
            both = (node,) if writer is None else (node, writer)
            node = self.graph.create_node("call_method", "written", both)
            self._note(tensor, node)
        return node

    def _note(self, tensor: Tensor, node: fx.Node) -> None:
        node.meta["shape"] = tuple(tensor.shape)
        self._nodes[id(tensor)] = node, _version(tensor)
        self._kept.append(tensor)


def spoken(node: fx.Node) -> str:
    """What an operation is called."""
    return getattr(node.target, "__name__", str(node.target)).strip("_")


def _tensors(nest: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for _, leaf in leaves(nest):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif isinstance(leaf, (list, tuple)):  # single numbers, which in a batch are one column
            found += [
                one
                for part in leaf
                for one in ([part] if isinstance(part, Tensor) else _tensors(part))
            ]
    return found


def _version(tensor: Tensor) -> int:
    """How often a tensor, or a view of it, was written into, where torch counts it."""
    try:
        return tensor._version
    except RuntimeError:  # made in inference mode
        return 0


def _memory(tensor: Tensor) -> int:
    """The memory that it shares with its views."""
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):  # inside torch.func
        return id(tensor)


_NUMBERS = {
    "array", "bool", "float", "index", "int", "equal", "is_nonzero", "item", "numpy", "tolist",
}  # fmt: skip
"""What takes numbers out of torch."""
_SHAPES = {
    "empty_like", "full_like", "new_empty", "new_full", "new_ones", "new_zeros", "ones_like", "rand_like",
    "randint_like", "randn_like", "zeros_like",
}  # fmt: skip
"""What asks a tensor for nothing but its shape."""
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
