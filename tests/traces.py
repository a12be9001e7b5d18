"""What a test leaves behind in its process, where the tests that are run after it would meet it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sharpbench import plugins
from sharpbench.registry import Registry
from sharpbench.surroundings import Surroundings

__all__ = ["Traces", "forgotten"]


@contextmanager
def forgotten() -> Iterator[None]:
    """What commands and users' files leave in the process that they run in is gone afterwards: modules of
    files that do not last, plug-ins that are not sharpbench's, places where to look for more, handlers of
    signals. A command has a process of its own everywhere but in tests."""
    path, modules, loaded = list(sys.path), dict(sys.modules), dict(plugins._LOADED)
    tables = {registry: _tables(registry) for registry in _registries()}
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        sys.path[:] = path
        _put_back(sys.modules, modules, _lasts)
        _put_back(plugins._LOADED, loaded, lambda _: False)
        for registry in _registries():
            classes, pointers = tables.get(registry, ({}, registry._builtins))
            _put_back(registry._classes, classes, _shipped)
            _put_back(registry._pointers, pointers, lambda _: False)
            registry._sound &= {n for n, c in registry._classes.items() if _shipped(c)}
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


_SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]


def _put_back(table: dict[str, Any], before: dict[str, Any], stays: Callable[[Any], bool]) -> None:
    """What was there is there again; of what came since, what ``stays`` is kept."""
    for name, value in list(table.items()):
        if name not in before and not stays(value):
            del table[name]
    for name, value in before.items():
        if table.get(name) is not value:
            table[name] = value


def _registries() -> list[Registry[Any]]:
    homes = ((kind, sys.modules.get(home)) for kind, home in plugins._HOMES.items())
    return [getattr(module, f"{kind}s") for kind, module in homes if module is not None]


def _tables(registry: Registry[Any]) -> tuple[dict[str, Any], dict[str, str]]:
    return dict(registry._classes), dict(registry._pointers)


def _shipped(cls: type) -> bool:
    return cls.__module__.startswith("sharpbench.")


def _lasts(module: Any) -> bool:
    """Whether a module is the repository's, or installed, or made by one that is."""
    file = getattr(module, "__file__", None)
    return not isinstance(file, str) or os.path.realpath(file).startswith(_LASTING)


_LASTING = tuple(
    f"{os.path.realpath(place)}{os.sep}"
    for place in (sys.prefix, sys.base_prefix, Path(__file__).parents[1])
)


class Traces:
    """How the process is now, and what is otherwise later and nobody brings back."""

    def __init__(self) -> None:
        self._surroundings = Surroundings()
        self._before = {name: read() for name, read in _READ.items()}

    def left(self) -> Iterator[str]:
        """What is not as it was, in words; each is told once."""
        yield from (part for part in self._surroundings.restore() if part not in _LET_BE)
        for what, read in _READ.items():
            before, now = self._before[what], read()
            for key in {**before, **now}:
                if key not in now or key not in before or before[key] != now[key]:
                    yield f"{what} {key}"


_LET_BE = {
    "torch's global random state",  # begins anew for each test
    "numpy's global random state",
    "Python's global random state",
    "the standard streams",  # pytest's
    "environment variables",  # pytest has one that it changes; those added count here, too
}

_SET_BY_LIBRARIES = (
    "PYTEST_", "KMP_", "TORCHINDUCTOR_", "RAY_", "PYTHONBREAKPOINT", "CUBLAS_"
)  # fmt: skip


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(_SET_BY_LIBRARIES)}


def _threads() -> dict[str, bool]:
    """Those that would outlive the test."""
    return {t.name: True for t in threading.enumerate() if not t.daemon and t.is_alive()}


def _children() -> dict[str, bool]:
    """Processes of this one but for the two by which Python starts others, and stays with, and for those of a
    Ray cluster, whose nodes come and go with tests, and all with their module."""
    found = {}
    for place in Path("/proc/self/task").glob("*/children"):
        try:
            children = place.read_text().split()
        except OSError:  # the thread ended meanwhile
            continue
        for pid in children:
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")[:200]
            except OSError:
                continue
            if not words:  # it is ending, and has no memory any more
                continue
            if state != "Z" and b"multiprocessing." not in words and b"/ray/" not in words:
                found[f"{pid} {words.decode(errors='replace')}"] = True
    return found


def _umask() -> dict[str, int]:
    os.umask(now := os.umask(0o077))
    return {"": now}


def _figures() -> dict[str, Any]:
    pyplot = sys.modules.get("matplotlib.pyplot")
    return {"": pyplot.get_fignums() if pyplot is not None else []}


_READ: dict[str, Callable[[], dict[Any, Any]]] = {
    "the environment's": _environment,
    "the thread": _threads,
    "the process": _children,
    "the file mode": _umask,
    "a log's level": lambda: {"": (logging.getLogger().level, logging.root.manager.disable)},
    "a figure of matplotlib's": _figures,
}
