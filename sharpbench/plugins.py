"""Plug-ins wherever they stand: every kind with its registry, files and modules of one's own among them.

A plug-in of one's own is named ``my_metric.py:MyMetric`` or ``package.module:MyMetric`` wherever a name is
taken. What it is made of, its file with everything that this imports from its own folder, is hashed, and the
hash is a part of its identity: what a changed file is asked is measured again.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpbench.errors import InputError, first_line, guarded, nearest_names, no_file
from sharpbench.registry import Plugin, import_object

if TYPE_CHECKING:
    from sharpbench.registry import Registry

__all__ = [
    "KINDS",
    "PluginSource",
    "digest_of_module",
    "load_plugins",
    "own_places",
    "plugin_name",
    "registry_of",
]

_HOMES = {
    "metric": "sharpbench.metrics",
    "model": "sharpbench.models",
    "dataset": "sharpbench.datasets",
    "recipe": "sharpbench.training",
    "transformation": "sharpbench.invariance",
    "problem": "sharpbench.problems",
    "section": "sharpbench.report.sections",
}

KINDS = tuple(_HOMES)


def registry_of(kind: str) -> Registry[Any]:
    """The registry of ``metric``, ``model``, …; raises InputError for a kind that there is none of."""
    if kind not in _HOMES:
        raise InputError(f"unknown kind {kind!r}. {nearest_names(kind, KINDS)}")
    registry: Registry[Any] = getattr(importlib.import_module(_HOMES[kind]), f"{kind}s")
    return registry


@dataclass(frozen=True)
class PluginSource:
    """Where plug-ins come from that no package has registered.

    ``place``: a file's path, or a module's name; ``digest``: SHA-256 of what it is made of; ``code``: the
    bytes of a file, so that another process runs what was hashed, whatever becomes of the file meanwhile.
    """

    place: str
    digest: str
    code: bytes | None = field(default=None, repr=False)

    def module(self, *, strict: bool = False) -> types.ModuleType:
        """The module, with its plug-ins registered.

        Those that can't be are left out, or with ``strict`` raise InputError that says what is wrong.
        """
        known = _LOADED.get(self.place)
        if known is None or known[0] != self.digest:
            module = _imported(self.place) if self.code is None else self._run(self.code)
            _LOADED[self.place] = known = self.digest, module
        for cls in _plugins_in(known[1]):
            if not inspect.isabstract(cls) and "name" in vars(cls):
                with contextlib.nullcontext() if strict else contextlib.suppress(InputError):
                    self.register(cls)
        return known[1]

    def register(self, cls: type[Plugin]) -> str:
        """Make a class of this source known; its name. Raises InputError for what is wrong with it."""
        if _by_contract(cls):
            return cls.name
        try:
            registry_of(_kind_of(cls)).register(cls)
        except (TypeError, ValueError) as error:
            told = str(error).removeprefix(f"{cls.__module__}:{cls.__qualname__} ")
            raise InputError(f"{self.place}:{cls.__qualname__}: {told}") from None
        cls._source = self
        return cls.name

    def restored(self, qualname: str, state: dict[str, Any]) -> Plugin:
        """A plug-in of this source as it was pickled, in a process that may never have seen the file."""
        cls: Any = functools.reduce(getattr, qualname.split("."), self.module())
        made: Plugin = cls.__new__(cls)
        for key, value in state.items():
            object.__setattr__(made, key, value)
        return made

    def _run(self, code: bytes) -> types.ModuleType:
        """The file as a module of its own; what is next to it can be imported."""
        path = Path(self.place)
        if self.digest != _digest(_reached(path, code)):
            raise InputError(
                f"what {self.place} imports from its folder is not what it was when the run began: run again"
            )
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))  # last: nothing there hides what is installed
        place = hashlib.sha256(self.place.encode()).hexdigest()[:8]
        module = types.ModuleType(f"sharpbench_plugin_{path.stem}_{place}")
        module.__file__ = self.place
        before = sys.modules.get(module.__name__)
        sys.modules[module.__name__] = module
        try:
            with guarded(), contextlib.redirect_stdout(sys.stderr):
                exec(compile(code, self.place, "exec"), module.__dict__)
        except Exception as error:
            if before is None:
                del sys.modules[module.__name__]
            else:
                sys.modules[module.__name__] = before
            raise InputError(
                f"{self.place}{_line_in(error, self.place)} raised {first_line(error)}"
            ) from error
        self._own_neighbours()
        return module

    def _own_neighbours(self) -> None:
        """What a file next to this one has registered is made of that file, too."""
        files = set(map(str, _reached(Path(self.place), self.code or b"")))
        for name, module in list(sys.modules.items()):
            if getattr(module, "__file__", None) in files and name in sys.modules:
                for cls in _plugins_in(module):
                    if vars(cls).get("_source") is None and not _by_contract(cls):
                        cls._source = PluginSource(name, self.digest)


_LOADED: dict[str, tuple[str, types.ModuleType]] = {}
"""By place, what was loaded last, and the digest of what it is made of."""


def own_places() -> list[str]:
    """The files and modules of users that this process has loaded plug-ins from."""
    return list(_LOADED)


def load_plugins(place: str | os.PathLike[str], folder: Path | None = None) -> types.ModuleType:
    """Import a user's file, or module, and register the plug-ins that it defines.

    ``folder``: where a relative path starts; the working directory if None. Raises InputError that says what
    is wrong with the file, or with one of its plug-ins; or that it brings none.
    """
    there = _of_users()
    source = _source(os.fspath(place), folder)
    module = source.module(strict=True)
    if not (_of_users() - there or _brings(module)):
        raise InputError(
            f"{source.place} holds no plug-in, a class derived from sharpbench.metrics.Metric (Model, "
            f"Dataset, Recipe, Transformation …) with a `name`{_nearly_one(module)}"
        )
    return module


def _of_users() -> set[type[Plugin]]:
    """The plug-ins that were registered and are neither built in nor installed."""
    homes = ((kind, sys.modules.get(home)) for kind, home in _HOMES.items())
    every = (cls for kind, home in homes if home is not None for cls in registry_of(kind).loaded())
    return {cls for cls in every if not _by_contract(cls)}


def _brings(module: types.ModuleType) -> bool:
    """Whether plug-ins of users stand in a module, or in one that it imports."""
    values = list(vars(module).values())
    named = {getattr(v, "__name__" if inspect.ismodule(v) else "__module__", None) for v in values}
    places = tuple(f"{name}." for name in (*named, module.__name__) if isinstance(name, str))
    return any(f"{cls.__module__}.".startswith(places) for cls in _of_users())


def _nearly_one(module: types.ModuleType) -> str:
    """What the first class of a module that was likely meant as a plug-in lacks, behind a colon."""
    for cls in _plugins_in(module):
        if "name" not in vars(cls):
            taken = f", and {cls.name!r} is taken" if hasattr(cls, "name") else ""
            return f': {cls.__qualname__} has no `name` of its own{taken}; write name = "…" in it'
        lacks = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        return f": {cls.__qualname__} lacks {lacks}"
    for cls in vars(module).values():
        if inspect.isclass(cls) and cls.__module__ == module.__name__ and hasattr(cls, "measure"):
            return f": {cls.__qualname__} has measure() and derives from no Metric"
    return ""


def plugin_name(kind: str, text: str, folder: Path | None = None) -> str:
    """The name that ``text`` stands for: itself, or that of the class at ``file.py:Class`` or
    ``package.module:Class``, which is registered; of a file with one class of this kind ``file.py`` does.

    Raises InputError with the nearest names for a path, module or class that there isn't.
    """
    place, colon, qualname = text.rpartition(":")
    if not colon:
        if not text.endswith(".py"):
            return text
        place, qualname = text, ""
    source = _source(place, folder)
    module = source.module()
    base = registry_of(kind).base
    there = [c.__qualname__ for c in _plugins_in(module) if issubclass(c, base)]
    if not qualname:
        if len(there) != 1:
            told = f"it has {', '.join(there)}" if there else f"it has no class of a {kind}"
            raise InputError(f"{text!r}: name one class as {place}:Class; {told}")
        (qualname,) = there
    try:
        cls: Any = functools.reduce(getattr, qualname.split("."), module)
    except AttributeError:
        raise InputError(
            f"{text!r}: {place} has no {qualname!r}. {nearest_names(qualname, there)}"
        ) from None
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise InputError(
            f"{text!r} is not a class derived from {base.__module__.removesuffix('.base')}.{base.__name__}"
        )
    if cls.__module__ != module.__name__:  # it stands elsewhere, and is imported there
        source = _source(cls.__module__, folder)
        source.module()
    return source.register(cls)


def _source(place: str, folder: Path | None) -> PluginSource:
    """Where the plug-ins of a file or module stand. What changed since it was loaded is imported anew."""
    named = not place.endswith(".py") and "/" not in place and os.sep not in place
    if named and not (folder or Path()).joinpath(place).is_file():
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        path = Path(getattr(_imported(place), "__file__", None) or "")  # built-in modules have none
        if path.suffix != ".py" or not path.is_file():
            return PluginSource(place, "")
        files = _reached(path, path.read_bytes(), place)
        return PluginSource(place, _forget_changed(_LOADED.get(place), files))
    path = Path(os.path.abspath((folder or Path()) / Path(place).expanduser()))
    if fault := no_file(path):
        near = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise InputError(f"{fault}. {nearest_names(path.name, near)}" if near else fault)
    if path.suffix != ".py":
        raise InputError(f"{str(path)!r} is no Python file (it must end in .py)")
    code = path.read_bytes()
    digest = _forget_changed(_LOADED.get(str(path)), _reached(path, code))
    return PluginSource(str(path), digest, code)


def _imported(name: str) -> types.ModuleType:
    try:
        import_object(f"{name}:__name__")
    except ImportError as error:
        near = ""
        if isinstance(error, ModuleNotFoundError) and Path(f"{name}.py").is_file():
            near = f". For the file say {name}.py"
        raise InputError(f"{name!r}: {error}{near}") from error
    return sys.modules[name]


def _plugins_in(module: types.ModuleType) -> Iterator[type[Plugin]]:
    """The classes of plug-ins that a module defines, whatever it imports."""
    for value in list(vars(module).values()):
        if (
            inspect.isclass(value)
            and issubclass(value, Plugin)
            and value.__module__ == module.__name__
        ):
            yield value


def _kind_of(cls: type[Plugin]) -> str:
    homes = ((kind, sys.modules.get(home)) for kind, home in _HOMES.items())
    for kind, home in homes:
        if home is not None and issubclass(cls, getattr(home, f"{kind}s").base):
            return kind
    raise InputError(
        f"{cls.__module__}:{cls.__qualname__} derives from none of the classes that can be plugged in"
    )


def _by_contract(cls: type[Plugin]) -> bool:
    """Whether it is a built-in or an entry point: then its version tells when its figures change."""
    name, registry = getattr(cls, "name", None), registry_of(_kind_of(cls))
    if not isinstance(name, str) or not registry.pointer(name):
        return False
    try:
        return registry.get(name) is cls
    except InputError:
        return False


def _line_in(error: BaseException, file: str) -> str:
    """``, line 3``: the last place in the file that the error passed through."""
    if isinstance(error, SyntaxError) and error.filename == file and error.lineno:
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if frame.filename == file]  # fmt: skip
    return f", line {lines[-1]}" if lines else ""


# --- what a plug-in is made of --------------------------------------------------------------------


def _digest(files: Mapping[Path, bytes]) -> str:
    """SHA-256 over the contents: it does not hang on where the files are."""
    digest = hashlib.sha256()
    for content in files.values():
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def digest_of_module(name: str, path: Path) -> str:
    """SHA-256 of a user's module: of its file and, of those that stand beside its package, of all that it
    imports from there; of an installed one of all code that was installed with it. What is torch's or
    Python's own is told by its own file: it has versions.

    If that isn't what it was when this was asked last, the modules are to be imported anew.
    """
    code = path.read_bytes()
    if _installed(_root_of(path, name)):
        files = {path: code, **_installed_with(name)}
    else:
        files = _reached(path, code, name)
    digest = _forget_changed(_ASKED.get(name), files)
    _ASKED[name] = (digest,)
    return digest if len(files) > 1 else hashlib.sha256(code).hexdigest()


_ASKED: dict[str, tuple[str]] = {}
"""By module, what `digest_of_module` found last."""


def _installed_with(module: str) -> dict[Path, bytes]:
    """What a module's distribution says of the code in it: a line with the hash of each file."""
    package = module.partition(".")[0]
    if package in _VERSIONED or package in sys.stdlib_module_names:
        return {}
    found = {}
    for name in _distributions(tuple(sys.path)).get(package, ()):
        told = importlib.metadata.distribution(name).read_text("RECORD") or ""
        lines = sorted(line for line in told.splitlines() if ".py," in line or ".so," in line)
        found[Path(name)] = "\n".join(lines).encode()
    return found


@functools.lru_cache(maxsize=4)
def _distributions(path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Which distributions each package that is found on the ``path`` comes from."""
    return importlib.metadata.packages_distributions()


_VERSIONED = frozenset({"torch", "sharpbench"})
"""Installed packages of which results name the version."""


def _root_of(path: Path, module: str) -> Path:
    """The folder in which the package of a module stands, or the module itself."""
    return path.parents[module.count(".") + (path.name == "__init__.py")]


def _installed(root: Path) -> bool:
    """Whether what stands in this folder came with Python or was installed beside it."""
    own = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
    return root.name in {"site-packages", "dist-packages"} or root.resolve() in own


def _forget_changed(before: tuple[Any, ...] | None, files: Mapping[Path, bytes]) -> str:
    """The digest; if it isn't the one ``before``, the modules are to be imported anew."""
    digest = _digest(files)
    if before is not None and before[0] != digest:
        paths = set(map(str, files))
        changed = [n for n, m in sys.modules.items() if getattr(m, "__file__", None) in paths]
        for name in changed:
            del sys.modules[name]
    return digest


def _reached(path: Path, code: bytes, module: str | None = None) -> dict[Path, bytes]:
    """The file at ``path`` and those of its folder that it imports at any place, and those that these import.

    Of a ``module`` those beside its package, too, and of an installed one those of its package. sharpbench's
    own are left out, as is all that is installed beside a file: what they compute has versions.
    """
    found, waiting = {path: code}, [(path, code)]
    root, only = path.parent if module is None else _root_of(path, module), None
    if _installed(root):
        if module is None:
            return found
        only = module.partition(".")[0]
    while waiting:
        file, content = waiting.pop()
        for parts in _named_by(content, list(file.relative_to(root).parts[:-1])):
            if not parts or parts[0] == "sharpbench" or (only is not None and parts[0] != only):
                continue
            for end in range(1, len(parts) + 1):
                inner = root.joinpath(*parts[:end])
                for one in (inner.with_name(f"{inner.name}.py"), inner / "__init__.py"):
                    if one not in found and one.is_file():
                        found[one] = one.read_bytes()
                        waiting.append((one, found[one]))
    return found


def _named_by(content: bytes, package: list[str]) -> Iterator[list[str]]:
    """The dotted names that a file imports, those relative to its ``package`` spelled out."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return  # the import says so
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = [*above, *(node.module.split(".") if node.module else [])]
            yield from ([*base, alias.name] for alias in node.names)
