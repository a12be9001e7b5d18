"""The one generic registry behind metrics, models, datasets, recipes and transformations.

A plug-in is a frozen dataclass: its fields are its parameters, its docstring is its documentation.
Built-in plug-ins are named by ``"module:Class"`` and imported on first use; third parties register
through entry points or with the ``register`` decorator. A plug-in whose import fails is listed as
unavailable with the reason and never breaks anything else.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from sharpbench.errors import InputError, nearest_names

__all__ = ["Plugin", "Registry"]


class Plugin:
    """Base of everything that can be plugged in. Subclasses are frozen dataclasses."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    reference: ClassVar[str] = ""

    def parameters(self) -> dict[str, Any]:
        """Every field with its resolved value, defaults included."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {field.name: _plain(getattr(self, field.name)) for field in fields}

    def identity(self) -> dict[str, Any]:
        """What makes a figure this plug-in's: name, version and resolved parameters."""
        return {"name": self.name, "version": self.version, **self.parameters()}

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
    base: the class that every entry must derive from.
    group: the entry-point group through which third parties register.
    builtins: name to ``"module:Class"``, imported on first use.
    """

    def __init__(
        self, kind: str, base: type[P], *, group: str, builtins: Mapping[str, str]
    ) -> None:
        self.kind = kind
        self.base = base
        self.group = group
        self._pointers: dict[str, str] = dict(builtins)
        self._classes: dict[str, type[P]] = {}
        self._entry_points_read = False

    def register(self, cls: type[P]) -> type[P]:
        """Class decorator: validates the plug-in and makes it known under ``cls.name``."""
        where = f"{cls.__module__}:{cls.__qualname__}"
        if not (inspect.isclass(cls) and issubclass(cls, self.base)):
            raise TypeError(f"{where} must derive from {self.base.__name__} to be a {self.kind}")
        parameters = getattr(cls, "__dataclass_params__", None)
        if parameters is None or not parameters.frozen:
            raise TypeError(f"{where} must be a frozen dataclass")
        name = getattr(cls, "name", None)
        if not isinstance(name, str) or not name.isidentifier():
            raise TypeError(f"{where} needs a class attribute `name` that is an identifier")
        if not cls.__doc__ or cls.__doc__.startswith(f"{cls.__name__}("):
            raise TypeError(f"{where} needs a docstring: it is the {self.kind}'s documentation")
        taken = self._pointers.get(name)
        known = self._classes.get(name)
        if (taken and taken != where) or (known and self._origin(known) != where):
            other = taken or self._origin(typing.cast("type[P]", known))
            raise ValueError(f"{self.kind} {name!r} of {where} is already registered by {other}")
        self._classes[name] = cls
        return cls

    def get(self, name: str) -> type[P]:
        """The class called ``name``. Raises `InputError` with the nearest names if there is none."""
        self._read_entry_points()
        if name not in self._classes:
            if name not in self._pointers:
                raise InputError(
                    f"unknown {self.kind} {name!r}. {nearest_names(name, self.names())}"
                )
            pointer = self._pointers[name]
            try:
                cls = self._import(pointer)
            except Exception as error:
                raise InputError(
                    f"{self.kind} {name!r} ({pointer}) is unavailable: "
                    f"{type(error).__name__}: {error}"
                ) from error
            self.register(cls)
        return self._classes[name]

    def names(self) -> list[str]:
        """Every known name, sorted; those whose import fails among them."""
        self._read_entry_points()
        return sorted({*self._pointers, *self._classes})

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def unavailable(self, name: str) -> str | None:
        """The reason why ``name`` can't be used here, or None if it can."""
        try:
            self.get(name)
        except InputError as error:
            return str(error)
        return None

    def origin(self, name: str) -> str:
        """``module:Class`` of an entry."""
        return self._pointers.get(name) or self._origin(self.get(name))

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
                values[key] = TypeAdapter(types[key]).validate_python(value)
            except ValidationError as error:
                reason = "; ".join(e["msg"] for e in error.errors())
                raise InputError(
                    f"{self.kind} {name!r}, parameter {key!r} = {value!r}: {reason}"
                ) from None
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.kind} {name!r}: {error}") from None

    def parameter_types(self, name: str) -> dict[str, Any]:
        """Field name to resolved type annotation."""
        cls = self.get(name)
        hints = typing.get_type_hints(cls, include_extras=True)
        return {field.name: hints[field.name] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]

    def forget(self, name: str) -> None:
        """Remove a registered class (for tests)."""
        self._classes.pop(name, None)
        self._pointers.pop(name, None)

    def _read_entry_points(self) -> None:
        if self._entry_points_read:
            return
        self._entry_points_read = True
        for point in importlib.metadata.entry_points(group=self.group):
            taken = self._pointers.get(point.name)
            if taken is None or taken == point.value:
                self._pointers[point.name] = point.value

    def _import(self, pointer: str) -> type[P]:
        module, _, qualname = pointer.partition(":")
        target: Any = importlib.import_module(module)
        for part in qualname.split("."):
            target = getattr(target, part)
        return typing.cast("type[P]", target)

    @staticmethod
    def _origin(cls: type) -> str:
        return f"{cls.__module__}:{cls.__qualname__}"


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
