"""The outline of a plan, remembered in ``<results>/.plans``: what is left to do is told without torch.

A plan is a function of what a suite says and of the code that reads it. Its outline is believed if all of
that is as it was: the suite as it was understood, with what it extends; the Python, the machine, and where
Python finds which module and which distribution; and of each file that any module was loaded from, torch's
and sharpbench's among them, size, inode, modification and change time, which no program can set back. A file
that changed after the process had begun to load its modules, a plug-in of a user's own or of another package,
data whose key depends on what is in the data's folder, a failure that was taken for an answer: then nothing
is remembered, and the plan is made anew each time. What can't be proven is no error.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from sharpbench.errors import LeftOutWarning
from sharpbench.plugins import KINDS, own_places, registry_of
from sharpbench.results.checksum import Damaged, json_object, sealed
from sharpbench.results.disk import clear, read_file, sweep_partials, write_atomically
from sharpbench.results.keys import content_key
from sharpbench.suite.outline import Outline, OutlinedQuestion, OutlinedSubject, Trajectory
from sharpbench.suite.spec import SuiteFile

if TYPE_CHECKING:
    from sharpbench.datasets import Dataset
    from sharpbench.suite.plan import AnySubject, MeasurementPlan, Plan

__all__ = ["Memory", "Unproven", "outline_of", "warnings_as_doubts"]

_LAYOUT = 1
"""Raised when an outline says something else, or another way."""
_MOST_BYTES = 32 * 2**20
"""Of one outline with its proof; that of 10 000 networks has 3 MB."""
_MOST_PLANS = 8
"""In a results folder: the oldest goes first."""
_FOLDER = ".plans"
_SETTLING = 2.0
"""Seconds within which a second change could leave the same times."""
_PACKAGE = "sharpbench"


class Unproven(Exception):
    """Why an outline can't be remembered, or isn't believed."""


class Memory:
    """What a results folder remembers of one suite, run on one kind of device."""

    def __init__(self, results: Path, suite: SuiteFile, *, device: str) -> None:
        asked = [_LAYOUT, json.loads(suite.spec.model_dump_json()), device]
        self._results, self._name = results, content_key(asked)[:32]

    @property
    def _path(self) -> Path:
        return self._results / _FOLDER / f"{self._name}.json"

    def recall(self) -> Outline | None:
        """The outline, if it is there and all that it depends on is as it was; what is damaged is told."""
        if not _is_the_command():
            return None
        try:
            content = read_file(self._path)
            if content is None:
                return None
            if len(content) > _MOST_BYTES:
                raise Damaged("it is larger than any that is written")
            told, proven = json_object(content, place=self._place)
            if not proven:
                raise Damaged("its checksum is missing")
            if told["proof"] != _proof(told["proof"]["modules"], told["proof"]["names"]):
                return None
            return Outline.of_told(told["outline"])
        except Unproven:
            return None
        except OSError as error:
            fault: object = error.strerror
        except Damaged as error:
            fault = error
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            fault = f"it is none that is written here: {error!r}"
        warnings.warn(f"{self._path}: {fault}; the plan is made anew", LeftOutWarning, stacklevel=2)
        return None

    def keep(self, plan: Plan, data: Path, doubts: Sequence[str]) -> Outline | None:
        """Remember ``plan``, which this process made, where all that it depends on can be told; its outline.

        ``data``: where the files of datasets are; ``doubts``: what speaks against it. Nothing is written
        where there is no results folder yet.
        """
        try:
            if doubts or not _is_the_command() or not self._results.is_dir():
                return None
            outline = outline_of(plan, data)
            told = {"proof": _proof(_loaded(), _sought()), "outline": outline.told()}
            content = sealed(json.dumps(told, ensure_ascii=False), place=self._place).encode()
            if len(content) > _MOST_BYTES:
                return None
            self._write(content)
        except (Unproven, OSError):  # as if there were no such folder
            return None
        return outline

    def forget(self) -> None:
        """Remove what is remembered."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    @property
    def _place(self) -> str:
        return f"plans/{self._name}"

    def _write(self, content: bytes) -> None:
        folder, aside = self._path.parent, self._results / "damaged"
        if os.path.lexists(folder) and not folder.is_dir():
            raise Unproven(f"{folder} is no folder")
        folder.mkdir(exist_ok=True)
        clear(self._path, aside, _FOLDER)
        write_atomically(self._path, content)
        newest = self._path.stat().st_mtime
        sweep_partials(folder, before=newest - 3600)
        there = sorted(folder.glob("*.json"), key=lambda path: path.lstat().st_mtime)
        for path in there[:-_MOST_PLANS]:
            path.unlink(missing_ok=True)


@contextmanager
def warnings_as_doubts(doubts: list[str]) -> Iterator[None]:
    """What is warned of inside is told as ever, and is a doubt: else it would be told only once."""
    with warnings.catch_warnings(record=True) as found:
        yield
    for one in found:
        doubts.append(str(one.message))
        warnings.showwarning(one.message, one.category, one.filename, one.lineno)


def outline_of(plan: Plan, data: Path) -> Outline:
    """What is known of ``plan``. Raises Unproven where it is no function of the suite and of installed code.

    ``data``: where the files of datasets are.
    """
    _check_plugins()
    questions: dict[int, OutlinedQuestion] = {}

    def outlined(question: MeasurementPlan) -> OutlinedQuestion:
        if id(question) not in questions:
            questions[id(question)] = OutlinedQuestion(
                question.key, question.metric_label, question.alone, question.missing()
            )
        return questions[id(question)]

    file_sets: dict[str, str | None] = {}

    def subject_of(subject: AnySubject) -> OutlinedSubject:
        own, file_set = None, None
        if subject.kind == "own":
            raise Unproven("networks of one's own are found in their files")
        if subject.kind == "problem":
            own = tuple(map(outlined, subject.measurements))  # type: ignore[union-attr]
        else:
            dataset: Dataset = subject.dataset  # type: ignore[union-attr]
            if (name := repr(dataset)) not in file_sets:
                file_sets[name] = _file_set(dataset, subject.data, data)  # type: ignore[union-attr]
            file_set = file_sets[name]
        return OutlinedSubject(
            subject.key, subject.label, subject.kind, subject.seeds, subject.network,
            subject.recipe_name, subject.epochs, subject.dataset_name, file_set, own,
        )  # fmt: skip

    return Outline(
        name=plan.name,
        title=plan.title,
        description=plan.description,
        highlight=plan.highlight,
        expects_nothing=plan.expects_nothing,
        threads=plan.threads,
        repeats=plan.repeats,
        subjects=tuple(map(subject_of, plan.subjects)),
        measurements=tuple(map(outlined, plan.measurements)),
        evaluated=plan.evaluated,
        trajectory=Trajectory(plan.trajectory.keys, plan.trajectory.labels, plan.trajectory.every),
        keys=frozenset(plan.record_keys()),
    )


def _check_plugins() -> None:
    """Raises Unproven if a plug-in was loaded that is no part of sharpbench."""
    if places := own_places():
        raise Unproven(f"{places[0]} is a user's own")
    for kind in (k for k in KINDS if k != "section"):  # those are the report's
        for cls in registry_of(kind).loaded():
            if cls.__module__.partition(".")[0] != _PACKAGE:
                raise Unproven(f"{cls.__module__}:{cls.__qualname__} is of another package")


class _NotLookedAt:
    """Stands for a folder: whoever looks into it fails."""

    def __getattr__(self, name: str) -> Any:
        raise Unproven("what is in the data's folder is a part of the answer")

    def __fspath__(self) -> str:
        raise Unproven("what is in the data's folder is a part of the answer")

    def __truediv__(self, other: object) -> Path:
        raise Unproven("what is in the data's folder is a part of the answer")


def _file_set(dataset: Dataset, data: str | None, root: Path) -> str | None:
    """The files that are looked for whenever the outline is used, if there are any.

    Raises Unproven where the key depends on the data's folder, or where it can't be told what to look for.
    """
    from sharpbench.datasets.files import FILE_SETS

    nothing: Any = _NotLookedAt()
    try:
        if data is None or dataset.fingerprint(nothing) != data:
            raise Unproven("the data's folder tells the key")
        if dataset.name in FILE_SETS:
            if dataset.missing(root) != FILE_SETS[dataset.name].missing(root):
                raise Unproven("it says otherwise what is missing")
            return dataset.name
        if dataset.missing(nothing) is not None:
            raise Unproven("something is missing that may come")
    except Unproven:
        raise
    except Exception as error:
        raise Unproven(f"{dataset.label}: {error}") from error
    return None


# --- what a plan depends on -----------------------------------------------------------------------


def _is_the_command() -> bool:
    """Whether this process is the ``sharpbench`` command: any other program can change what it imported."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return bool(spec.name == f"{_PACKAGE}.__main__")
    return Path(getattr(main, "__file__", None) or "").stem == _PACKAGE


def _loaded() -> list[str]:
    """The files of all modules that this process has loaded.

    Raises Unproven if one of them, or what is found in a folder that Python looks into, changed since the
    process began: it may have worked by what was there before.
    """
    found = set()
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)  # what other modules made has none
        if name != "__main__" and spec is not None and spec.has_location and spec.origin:
            found.add(os.path.abspath(spec.origin))
    began = psutil.Process().create_time() - _SETTLING
    places = set(found)
    for folder, own, _ in _found(frozenset(_sought())):
        places.update(os.path.join(folder, name) for name in own)
        if any(
            name.endswith(_INSTALLED) for name in own
        ):  # what is removed from there is seen, too
            places.add(folder)
    for path in places:
        if os.lstat(path).st_ctime >= began or os.stat(path).st_ctime >= began:
            raise Unproven(f"{path} changed after this process had begun")
    return sorted(found)


def _sought() -> list[str]:
    """The names that Python was asked for, and that it would take from a folder that has them."""
    from sharpbench.metrics.backends import BACKENDS

    loaded = {name.partition(".")[0] for name in sys.modules} - {"__main__"}
    optional = {backend.package.partition(".")[0] for backend in BACKENDS.values()} - {""}
    return sorted(loaded | optional | {"sitecustomize", "usercustomize"})


def _proof(modules: Iterable[str], names: Iterable[str]) -> dict[str, Any]:
    """What the files of ``modules`` and what is found under ``names`` are now. Raises Unproven, OSError."""
    modules, names = list(modules), list(names)
    return {
        "python": [sys.version, sys.prefix, sys.flags.optimize, platform.node()],
        "names": names,
        "found": _found(frozenset(names)),
        "modules": modules,
        "states": [_state(path) for path in modules],
    }


def _state(path: str) -> list[int]:
    try:
        state = os.stat(path)
    except OSError as error:
        raise Unproven(f"{path}: {error.strerror}") from None
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


_INSTALLED = (".dist-info", ".egg-info", ".egg-link", ".pth")


def _found(names: frozenset[str]) -> list[list[Any]]:
    """In the order in which Python looks: what each folder has of ``names``, and what is installed there."""
    found = []
    for folder in dict.fromkeys(os.path.abspath(place) for place in sys.path):
        if os.path.isfile(folder):
            raise Unproven(f"{folder} is an archive")
        try:
            with os.scandir(folder) as there:
                own = sorted(entry.name for entry in there if _is_found(entry, names))
        except OSError:  # Python finds nothing there, either
            continue
        if own:
            # What a path file says is executed when Python starts.
            paths = [_state(os.path.join(folder, n)) for n in own if n.endswith(".pth")]
            found.append([folder, own, paths])
    return found


def _is_found(entry: os.DirEntry[str], names: frozenset[str]) -> bool:
    """Whether Python takes it for one of ``names``, or it says what is installed. A program of the same name
    is neither."""
    name, dot, _ = entry.name.partition(".")
    return entry.name.endswith(_INSTALLED) or (name in names and bool(dot or entry.is_dir()))
