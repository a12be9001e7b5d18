"""The one generic registry behind metrics, models, datasets, recipes and transformations.

A plug-in is a frozen dataclass: its fields are its parameters, its docstring is its documentation.
Built-in plug-ins are named by ``"module:Class"`` and imported on first use; third parties register
through entry points or with the ``register`` decorator. A plug-in whose import fails is listed as
unavailable with the reason and never breaks anything else.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import inspect
import math
import multiprocessing
import os
import sys
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from sharpbench.errors import (
    InputError,
    PluginWarning,
    first_line,
    guarded,
    message_of,
    nearest_names,
    shortened,
)

__all__ = ["SOURCE_HASH", "Plugin", "Registry", "added_later", "import_object", "lazily"]


def added_later(default: Any) -> Any:
    """A parameter that came after results had been stored: where it has its ``default`` the plug-in does what
    it did without it, and its identity is what it was."""
    return dataclasses.field(default=default, metadata={_LATER: True})


_LATER = "added later"

SOURCE_HASH = "source file"
"""In an identity, the hash of the file that a plug-in comes from; no parameter can be called so."""


class Plugin:
    """Base of everything that can be plugged in. Subclasses are frozen dataclasses."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    reference: ClassVar[str] = ""
    _source: ClassVar[Any] = None
    """Where a class comes from that was named by its file or module (`sharpbench.plugins.PluginSource`)."""

    def parameters(self) -> dict[str, Any]:
        """Every field with its resolved value, defaults included."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {field.name: _plain(getattr(self, field.name)) for field in fields}

    def identity(self) -> dict[str, Any]:
        """What makes a figure this plug-in's: name, version and resolved parameters, and of one that comes
        from a user's file what that holds."""
        unsaid = self.unsaid()
        told = {k: v for k, v in self.parameters().items() if k not in unsaid}
        own = getattr(vars(type(self)).get("_source"), "digest", "")
        if files := list(
            filter(None, (own, *(p.identity().get(SOURCE_HASH) for p in self.uses())))
        ):
            told[SOURCE_HASH] = " ".join(files)
        return {"name": self.name, "version": self.version, **told}

    def uses(self) -> Iterable[Plugin]:
        """Other plug-ins that this one names by its parameters and works by."""
        return ()

    def unsaid(self) -> dict[str, Any]:
        """The parameters that `identity` leaves out: those `added_later` that have their default."""
        later, told = self.defaults_added_later(), self.parameters()
        return {name: default for name, default in later.items() if told[name] == default}

    @classmethod
    def defaults_added_later(cls) -> dict[str, Any]:
        """The default of each parameter that was `added_later`."""
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]
        return {f.name: _plain(f.default) for f in fields if f.metadata.get(_LATER)}

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Of a user's file another process knows nothing: it is given what the file held."""
        if restored := getattr(vars(type(self)).get("_source"), "restored", None):
            fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
            return restored, (type(self).__qualname__, {**self.__dict__, **fields})
        return super().__reduce_ex__(protocol)

    @property
    def label(self) -> str:
        """``name`` or ``name(key=value, …)`` with the parameters that differ from their defaults."""
        return self._labelled(self._defaults())

    def _defaults(self) -> dict[str, Any]:
        """Every field's default; a field without one is left out."""
        found = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if field.default is not dataclasses.MISSING:
                found[field.name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                found[field.name] = field.default_factory()
        return found

    def _labelled(self, usual: Mapping[str, Any], first: tuple[str, ...] = ()) -> str:
        """The name with ``first`` and the parameters that are not ``usual``."""
        told = list(first)
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.name not in usual or value != usual[field.name]:
                told.append(f"{field.name}={_short(value)}")
        return f"{self.name}({', '.join(told)})" if told else self.name


P = TypeVar("P", bound=Plugin)


class Registry(Generic[P]):
    """Names to plug-in classes of one kind.

    Parameters
    ----------
    kind: what an entry is called in messages, e.g. ``"metric"``.
    base: the class that every entry must derive from, or ``"module:Class"``: names are then known without an
        import of what that needs.
    group: the entry-point group through which third parties register.
    builtins: name to ``"module:Class"``, imported on first use.
    """

    def __init__(
        self, kind: str, base: type[P] | str, *, group: str, builtins: Mapping[str, str]
    ) -> None:
        self.kind = kind
        self._base = base
        self.group = group
        self._builtins = dict(builtins)
        self._pointers: dict[str, str] = dict(builtins)
        self._classes: dict[str, type[P]] = {}
        self._types: dict[type[P], dict[str, Any]] = {}
        self._adapters: dict[tuple[type[P], str], TypeAdapter[Any]] = {}
        self._sound: set[str] = set()
        """Names of classes whose parameters were looked at, too."""
        self._refused: dict[str, list[str]] = {}
        """Name to the reasons why entry points of that name aren't used."""
        self._entry_points_read = False

    @property
    def base(self) -> type[P]:
        """The class that every entry derives from."""
        if isinstance(self._base, str):
            self._base = import_object(self._base)
        return self._base  # type: ignore[return-value]

    def register(self, cls: type[P]) -> type[P]:
        """Class decorator: validates the plug-in and makes it known under ``cls.name``."""
        where = _where(cls)
        if fault := self._fault(cls):
            raise TypeError(f"{where} {fault}")
        name = cls.name
        taken = self._pointers.get(name)
        if taken and name not in self._builtins and _package(taken) == _package(where):
            taken = None  # a package may export its class from another place than where it stands
        known = self._classes.get(name)
        if known and _same_file(known, cls):
            known = None  # one class, its file imported in two ways
        if (taken and taken != where) or (known and _where(known) != where):
            other = taken or _where(known)
            raise ValueError(f"{self.kind} {name!r} of {where} is already registered by {other}")
        if self._classes.get(name) is not cls:
            self._sound.discard(name)
        self._classes[name] = cls
        return cls

    def get(self, name: str) -> type[P]:
        """The class called ``name``. Raises `InputError` with the nearest names if there is none."""
        self._read_entry_points()
        if name in self._sound:
            return self._classes[name]
        if name not in self._classes and name not in self._pointers:
            if reasons := self._refused.get(name):
                raise InputError(f"{self.kind} {name!r} is unavailable: {reasons[0]}")
            raise InputError(f"unknown {self.kind} {name!r}. {nearest_names(name, self.names())}")
        pointer = self._pointers.get(name) or _where(self._classes[name])
        try:
            with guarded():
                cls = self._classes.get(name) or self._loaded(name, pointer)
                if fault := _parameter_fault(cls):
                    raise TypeError(f"it {fault}")
        except Exception as error:
            raise InputError(
                f"{self.kind} {name!r} ({pointer}) is unavailable: {first_line(error)}"
            ) from error
        self._sound.add(name)
        return cls

    def names(self) -> list[str]:
        """Every known name, sorted; those whose import fails among them."""
        self._read_entry_points()
        return sorted({*self._pointers, *self._classes, *self._refused})

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def loaded(self) -> list[type[P]]:
        """The classes that this process has imported or registered so far."""
        return list(self._classes.values())

    def available(self) -> list[str]:
        """The names that can be used here, sorted."""
        return [name for name in self.names() if self.unavailable(name) is None]

    def unavailable(self, name: str) -> str | None:
        """The reason why ``name`` can't be used here, or None if it can."""
        try:
            self.get(name)
        except InputError as error:
            return str(error)
        return None

    def refused(self, name: str) -> list[str]:
        """Why entry points called ``name`` aren't used, where another plug-in has the name."""
        self._read_entry_points()
        return list(self._refused.get(name, ())) if name in self._pointers else []

    def origin(self, name: str) -> str:
        """``module:Class`` of an entry."""
        return self._pointers.get(name) or _where(self.get(name))

    def pointer(self, name: str) -> str | None:
        """Where a built-in or an entry point of this name stands; None of a class that was registered."""
        return self._pointers.get(name)

    def create(self, name: str, parameters: Mapping[str, Any] | None = None) -> P:
        """An instance with validated parameters; unnamed ones take their defaults.

        Raises `InputError` that names the parameter and the nearest valid ones.
        """
        cls = self.get(name)
        types = self.parameter_types(name)
        values: dict[str, Any] = {}
        for key, value in (parameters or {}).items():
            if key not in types:
                raise InputError(
                    f"{self.kind} {name!r} has no parameter {key!r}. {nearest_names(key, types)}"
                )
            try:
                values[key] = self.value_of(name, key, value)
            except ValueError as error:
                raise InputError(
                    f"{self.kind} {name!r}, parameter {key!r} = {shortened(value)}: {error}"
                ) from None
        try:
            with guarded():
                made = cls(**values)
                made.identity(), made.label  # what keys and messages are made of
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.kind} {name!r}: {message_of(error)}") from None
        except Exception as error:
            raise InputError(f"{self.kind} {name!r}: {first_line(error)}") from error
        return made

    def parameter_types(self, name: str) -> dict[str, Any]:
        """Field name to resolved type annotation."""
        cls = self.get(name)
        if cls not in self._types:
            hints = typing.get_type_hints(cls, include_extras=True)
            self._types[cls] = {
                field.name: hints[field.name]
                for field in dataclasses.fields(cls)  # type: ignore[arg-type]
            }
        return dict(self._types[cls])

    def value_of(self, name: str, key: str, value: Any) -> Any:
        """``value`` as parameter ``key`` of ``name`` takes it. Raises ValueError that says what is wrong.

        Nothing is taken for what it isn't: ``true`` is no number, nor is a text that spells one; NaN and
        infinity aren't numbers of a parameter, and integers fit into 64 bits.
        """
        try:
            cls = self.get(name)
            if (cls, key) not in self._adapters:
                self._adapters[cls, key] = TypeAdapter(self.parameter_types(name)[key])
            taken = self._adapters[cls, key].validate_python(value)
        except ValidationError as error:
            told = ("a list is meant" if e["type"] in _LISTS else e["msg"] for e in error.errors())
            raise ValueError("; ".join(told)) from None
        if fault := _other_kind(value, taken):
            raise ValueError(fault)
        return taken

    def forget(self, name: str) -> None:
        """Remove a registered class (for tests)."""
        self._classes.pop(name, None)
        self._pointers.pop(name, None)
        self._sound.discard(name)

    def _read_entry_points(self) -> None:
        """Note where other packages' plug-ins are; none is imported.

        A name of a built-in stays the built-in's. A name that two packages give is neither's: which one
        would be used must not hang on the order in which they are found. A PluginWarning announces both.
        """
        if self._entry_points_read:
            return
        self._entry_points_read = True
        found: dict[str, list[str]] = {}
        for point in _entry_points().select(group=self.group):
            pointers = found.setdefault(point.name, [])
            if point.value not in pointers:
                pointers.append(point.value)
        for name, pointers in found.items():
            if name in self._builtins:
                self._refused[name] = [
                    f"{self.kind} {name!r} is the built-in one: {pointer} has to take another name"
                    for pointer in pointers
                    if pointer != self._builtins[name]
                ]
            elif len(pointers) > 1:
                places = " and ".join(sorted(pointers))
                self._refused[name] = [
                    f"{places} both take the name {self.kind} {name!r}: neither is used"
                ]
            elif name not in self._pointers:
                self._pointers[name] = pointers[0]
        if multiprocessing.parent_process() is None:  # once, not by every worker
            for reason in (r for reasons in self._refused.values() for r in reasons):
                warnings.warn(reason, PluginWarning, stacklevel=3)

    def _loaded(self, name: str, pointer: str) -> type[P]:
        """The class at ``pointer``, registered. Raises if it is no plug-in called ``name``."""
        cls = import_object(pointer)
        if fault := self._fault(cls):
            raise TypeError(f"it {fault}")
        if cls.name != name:
            raise TypeError(f"its class attribute `name` is {cls.name!r}: the two must be equal")
        return self.register(cls)

    def _fault(self, cls: Any) -> str | None:
        """What is wrong with a class as a plug-in of this kind, said of it."""
        if not (inspect.isclass(cls) and issubclass(cls, self.base)):
            return f"must derive from {self.base.__name__} to be a {self.kind}"
        if not getattr(vars(cls).get("__dataclass_params__"), "frozen", False):
            return "must be a frozen dataclass"
        name = getattr(cls, "name", None)
        if not isinstance(name, str) or not name.isidentifier():
            return "needs a class attribute `name` that is an identifier"
        documentation = (cls.__doc__ or "").strip()
        if not documentation or documentation.startswith(f"{cls.__name__}("):
            return f"needs a docstring: it is the {self.kind}'s documentation"
        if inspect.isabstract(cls):
            return f"lacks {', '.join(sorted(getattr(cls, '__abstractmethods__')))}"  # noqa: B009
        return None


def lazily(module: str, **pointers: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module some of whose names are imported, from ``"module:name"``, when they are
    asked for."""

    def find(name: str) -> Any:
        if name in pointers:
            return import_object(pointers[name])
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return find


def import_object(pointer: str) -> Any:
    """What stands at ``module:name``. Raises ImportError that says what stood in the way.

    Whatever the import raises is told so, also where it wants to end the program; only the user's own
    Ctrl-C goes through.
    """
    module, _, qualname = pointer.partition("[")[0].strip().partition(":")
    if not module or not qualname:
        raise ImportError(f"{pointer!r} must be package.module:name")
    if module.endswith(".py") or "/" in module or os.sep in module:
        parts = Path(module).with_suffix("").parts
        dotted = ".".join(part for part in parts if part.isidentifier())
        raise ImportError(
            f"{module!r} is a file, and a module is named: write {dotted}:{qualname}, from the folder in "
            "which it can be imported"
        )
    try:
        with guarded():
            target: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        here = [path.stem for path in Path().glob("*.py")]
        near = nearest_names(module, here, most=0) if error.name == module else ""
        if not near:
            raise
        raise ModuleNotFoundError(f"{error}. {near}") from error
    except ImportError:
        raise
    except Exception as error:
        ended = error.__cause__  # what it raised to end the program
        own = error if ended is None or isinstance(ended, Exception) else ended
        raise ImportError(f"{module!r} raised {first_line(own)}") from error
    for part in qualname.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            near = nearest_names(part, (n for n in dir(target) if n[0] != "_"), most=12)
            raise ImportError(f"{module!r} has no {qualname!r}{near and '. '}{near}") from None
    return target


_LISTS = frozenset({"tuple_type", "list_type"})
"""What pydantic calls the fault of something else than a list, which is what users write."""


def _parameter_fault(cls: type) -> str | None:
    """What is wrong with a plug-in's parameters, said of it."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception as error:
        return f"has an annotation that can't be read: {error}"
    for field in dataclasses.fields(cls):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            return f"has a parameter {field.name!r} without a default"
        try:
            TypeAdapter(hints[field.name])
        except Exception as error:
            reason = str(error).partition("\n")[0]
            return f"has a parameter {field.name!r} that no suite file could set: {reason}"
    return None


def _other_kind(written: Any, taken: Any) -> str | None:
    """Why ``taken``, which pydantic made of what was ``written``, isn't what was meant; None if it is."""
    if isinstance(taken, bool):
        return None if isinstance(written, bool) else "Input should be true or false"
    if isinstance(taken, (int, float)):
        if isinstance(written, (bool, str, bytes)):
            return "Input should be a number"
        if isinstance(taken, float) and not math.isfinite(taken):
            return "Input should be a finite number"
        if isinstance(taken, int) and not -(2**63) <= taken < 2**63:
            return "Input should be a number of at most 64 bits"
    elif isinstance(taken, Mapping) and isinstance(written, Mapping):
        return _other_kind(list(written.values()), list(taken.values()))
    elif isinstance(taken, (list, tuple, set, frozenset)):
        pairs = zip(written, taken, strict=False) if isinstance(written, (list, tuple)) else ()
        return next((fault for pair in pairs if (fault := _other_kind(*pair))), None)
    return None


@functools.cache
def _entry_points() -> Any:
    """Those of everything that is installed, looked through once for all registries."""
    return importlib.metadata.entry_points()


def _where(cls: Any) -> str:
    return f"{getattr(cls, '__module__', '?')}:{getattr(cls, '__qualname__', cls)}"


def _same_file(one: Any, other: Any) -> bool:
    files = {getattr(sys.modules.get(c.__module__), "__file__", None) for c in (one, other)}
    return one.__qualname__ == other.__qualname__ and len(files) == 1 and None not in files


def _package(pointer: str) -> str:
    return pointer.partition(":")[0].partition(".")[0]


def _plain(value: Any) -> Any:
    """JSON-able twin of a parameter value."""
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return value


def _short(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "[" + ",".join(_short(v) for v in value) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
