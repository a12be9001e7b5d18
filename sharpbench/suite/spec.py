"""A suite file as typed objects; every error names the file, the line and the key."""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from glob import escape
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from sharpbench.errors import InputError, nearest_names, no_file, shortened
from sharpbench.registry import Plugin, Registry
from sharpbench.seeds import STREAMS, Seeds
from sharpbench.suite.given import SUITE_FILE, NetworkNamed

__all__ = [
    "SeedsSpec",
    "SuiteFile",
    "SuiteSpec",
    "axes",
    "expand",
    "find_suite",
    "grid_size",
    "known_suites",
    "load_suite",
    "number_of_seeds",
    "seeds_of",
]

P = TypeVar("P", bound=Plugin)
Block = dict[str, Any]
Blocks = Annotated[list[Block], Field(min_length=1)]


def _number(value: object) -> object:
    """Neither ``true`` nor a text that spells a number is one."""
    if isinstance(value, (bool, str)):
        raise ValueError(f"a number is meant, got {shortened(value)}")
    return value


Whole = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number), AllowInfNan(False)]
Flag = Annotated[bool, Strict()]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_MOST_SEEDS = 10_000
"""More are asked for by mistake: of who means a seed, and writes ``seeds = 20240131``."""


def _seed_list(value: object) -> object:
    """A number stands for that many seeds from 0."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= _MOST_SEEDS:
            raise ValueError(
                f"a number stands for that many seeds, from 1 to {_MOST_SEEDS}, got {shortened(value)}; "
                f"one seed is written as a list of one"
            )
        return list(range(value))
    if isinstance(value, list) and len(set(map(repr, value))) != len(value):
        raise ValueError("a seed stands twice")
    return value


_SeedsGiven = (
    Annotated[int, Field(ge=1, le=_MOST_SEEDS)]
    | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
)

SeedList = Annotated[
    list[Annotated[int, Field(ge=0, strict=True)]],
    Field(min_length=1),
    BeforeValidator(_seed_list, json_schema_input_type=_SeedsGiven),
]


class SeedsSpec(_Strict):
    """Seeds by stream: every combination of them, or with ``zip`` the first of each, the second, …

    A stream that is left out has the seed 0 throughout.
    """

    data: SeedList = [0]
    initialization: SeedList = [0]
    training: SeedList = [0]
    zip: Flag = False

    @model_validator(mode="after")
    def _fit(self) -> SeedsSpec:
        lengths = {len(s) for s in self._streams()} - {1}
        if self.zip and len(lengths) > 1:
            told = ", ".join(
                f"{n} has {len(s)}" for n, s in zip(STREAMS, self._streams(), strict=True)
            )
            raise ValueError(f"with zip every stream needs as many seeds, or one for all: {told}")
        return self

    def _streams(self) -> tuple[list[int], ...]:
        return self.data, self.initialization, self.training

    def count(self) -> int:
        """How many combinations there are."""
        lengths = [*map(len, self._streams())]
        return max(lengths) if self.zip else math.prod(lengths)

    def combinations(self) -> list[Seeds]:
        """The seeds of every network that these stand for, those of one data seed together."""
        if not self.zip:
            return [Seeds(*each) for each in itertools.product(*self._streams())]
        count = max(map(len, self._streams()))
        even = (s if len(s) == count else s * count for s in self._streams())
        return [Seeds(*each) for each in zip(*even, strict=True)]


def _kind_of_seeds(value: object) -> str:
    return "streams" if isinstance(value, (dict, SeedsSpec)) else "list"


SubjectSeeds = Annotated[
    Annotated[SeedList, Tag("list")] | Annotated[SeedsSpec, Tag("streams")],
    Discriminator(_kind_of_seeds),
]
"""One list for all streams, or a table by stream."""


def number_of_seeds(spec: list[int] | SeedsSpec) -> int:
    """How many networks each dataset, model and recipe stands for."""
    return spec.count() if isinstance(spec, SeedsSpec) else len(spec)


def seeds_of(spec: list[int] | SeedsSpec) -> list[Seeds]:
    """The seeds of every network."""
    return (
        spec.combinations() if isinstance(spec, SeedsSpec) else [Seeds.all(seed) for seed in spec]
    )


class SubjectsSpec(_Strict):
    """A grid of subjects: every dataset × model × recipe; a list for a scalar is an axis.

    ``seeds`` are the suite's where they are left out; a table gives data, initialization and training
    seeds of their own.
    """

    dataset: Blocks
    model: Blocks
    recipe: Blocks
    seeds: SubjectSeeds | None = None

    @field_validator(
        "dataset", "model", "recipe", mode="before", json_schema_input_type=Block | Blocks
    )
    @classmethod
    def _one_is_a_list_of_one(cls, value: object) -> object:
        return [value] if isinstance(value, dict) else value


class NetworksSpec(NetworkNamed):
    """Networks of one's own, as they are: nothing is trained.

    ``model``: package.module:build, a function of no arguments that returns the network; modules in the
    current folder are found. ``weights``: a file or several, or patterns of them such as ``runs/*.pt``, from
    the suite file's folder; each is a network. ``dataset``, ``data`` (package.module:batches) or ``inputs``
    with ``targets`` (files): what they are measured on; ``test`` (package.module:batches): what they are
    judged on; ``forward``, ``loss``, ``normaliser`` and ``differentiate`` as for ``sharpbench measure``.
    ``title``: what they are called. ``seed``: of the data's split, and of what is drawn to measure.
    """

    weights: list[str] | None = None
    title: str | None = None
    seed: Whole = Field(0, ge=0)

    @field_validator("weights", mode="before", json_schema_input_type=str | list[str] | None)
    @classmethod
    def _one_is_a_list_of_one(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("weights")
    @classmethod
    def _some(cls, value: list[str] | None) -> list[str] | None:
        if value == []:
            raise ValueError("names no file: leave weights out for the network as it is built")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> NetworksSpec:
        if fault := self.fault(SUITE_FILE):
            raise ValueError(fault)
        return self


class ProblemsSpec(_Strict):
    """Problems with known answers, each asked every one of these metrics; without metrics of its own those of
    the suite that say what they expect of some problem.

    ``repetitions``: each metric is asked so often of the same problem, with other random numbers each
    time: how often is the answer as far off as it says (see `analysis.calibration`)? Such answers stand
    apart from those to the plain question, and are not timed.
    """

    problem: Blocks
    metrics: Blocks | None = None
    seeds: SeedList | None = None
    repetitions: Whole = Field(1, ge=1)

    @field_validator("problem", "metrics", mode="before", json_schema_input_type=Block | Blocks)
    @classmethod
    def _one_is_a_list_of_one(cls, value: object) -> object:
        return [value] if isinstance(value, dict) else value


class AttackSpec(_Strict):
    """An attack on each test point: within ``radius`` of it, in the inputs' units, in so many ``steps``."""

    norm: Literal["l2", "linf"] = "l2"
    radius: Real = Field(0.5, gt=0)
    steps: Whole = Field(20, ge=1, le=10_000)


Corruption = Literal["noise", "blur", "rotation", "translation", "contrast", "occlusion"]


class EvaluationSpec(_Strict):
    """``outcomes``: store what each network did on each test point, which tells how sure differences between
    networks are. ``corruptions`` and ``attack``: judge networks away from their test data, too."""

    ece_bins: Whole = Field(15, ge=2, le=100_000)
    outcomes: Flag = False
    corruptions: list[Corruption] = []
    attack: AttackSpec | None = None


class CostSpec(_Strict):
    """Measurements of the lowest seed are timed ``repeats`` times after a warm-up.

    ``spread``: go on, up to 50 times, until the interquartile range is at most this part of the median.
    ``memory``: ``resident``, in the running process, or ``process``, in a fresh one (problems alone).
    ``flops``: count floating-point operations too.
    """

    repeats: Whole = Field(3, ge=0, le=100_000)
    spread: Real | None = Field(None, gt=0)
    memory: Literal["resident", "process"] = "resident"
    flops: Flag = False


class TrajectorySpec(_Strict):
    """Metrics measured along training: after epoch 1, every ``every`` epochs and after the last."""

    metrics: Blocks
    every: Whole = Field(5, ge=1)


class LimitsSpec(_Strict):
    """Seconds after which a training or a measurement is given up and recorded as timed out."""

    training_seconds: Real | None = Field(None, gt=0, le=1e8)
    measurement_seconds: Real | None = Field(None, gt=0, le=1e8)


class SuiteSpec(_Strict):
    """What a suite file may say."""

    extends: str = ""
    """A suite, by name or path, to whose blocks those of this one are added; other keys stand in place of its
    own."""
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)
    title: str = ""
    description: str = ""
    seeds: SubjectSeeds
    threads: Whole = Field(1, ge=1, le=1024)
    plugins: list[str] = []
    """Files and modules with plug-ins of one's own; paths start at the suite file."""
    highlight: list[str] = []
    """Names of metrics whose rows stand first in the scorecard."""
    subjects: list[SubjectsSpec] = []
    networks: list[NetworksSpec] = []
    problems: list[ProblemsSpec] = []
    metrics: list[Block] = []
    transformations: list[Block] = []
    evaluation: EvaluationSpec = EvaluationSpec(ece_bins=15)
    cost: CostSpec = CostSpec(repeats=3, spread=None)
    trajectory: TrajectorySpec | None = None
    limits: LimitsSpec = LimitsSpec(training_seconds=None, measurement_seconds=None)

    @model_validator(mode="after")
    def _something_to_do(self) -> SuiteSpec:
        if not self.subjects and not self.networks and not self.problems:
            raise ValueError(
                "a suite needs [[subjects]] to train, [[networks]] of your own or [[problems]] to solve"
            )
        for name in ("subjects", "networks"):
            if getattr(self, name) and not self.metrics:
                raise ValueError(f"[[{name}]] need [[metrics]] that measure them")
        if not self.metrics and any(p.metrics is None for p in self.problems):
            raise ValueError("[[problems]] need metrics of their own, or the suite [[metrics]]")
        if isinstance(self.seeds, SeedsSpec) and any(p.seeds is None for p in self.problems):
            raise ValueError(
                "[[problems]] are not trained and need seeds of their own, a number or a list: those of "
                "the suite are by stream"
            )
        return self


@dataclass(frozen=True)
class SuiteFile:
    """A parsed suite with its source, so that later errors can still point at a line."""

    spec: SuiteSpec
    path: Path
    text: str
    base: SuiteFile | None = None
    """The suite that it extends."""
    inherited: Mapping[str, int] = field(default_factory=dict)
    """How many of its blocks, by key, are that one's."""

    def error(
        self, location: tuple[str | int, ...], message: str, *, value: str | None = None
    ) -> InputError:
        """An InputError that names file, line and key (``value`` tells equal keys apart)."""
        if self.base is not None and location:
            first = self.inherited.get(str(location[0]), 0)
            if len(location) > 1 and isinstance(location[1], int):
                if location[1] < first:
                    return self.base.error(location, message, value=value)
                location = (location[0], location[1] - first, *location[2:])
        line = _line_of(self.text, location, value)
        where = f"{self.path}" + (f", line {line}" if line else "")
        return InputError(f"{where}: {_spell(location)}: {message}")


def known_suites() -> dict[str, Path]:
    """Name to path of the suites that come with sharpbench, from the wheel or the checkout."""
    packaged = Path(str(resources.files("sharpbench"))) / "_suites"
    checkout = Path(__file__).resolve().parents[2] / "suites"
    folder = packaged if packaged.is_dir() else checkout
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_suite(name: str) -> Path:
    """The suite file for a path or the name of a shipped suite. Raises InputError if there is none."""
    if name in (suites := known_suites()):
        return suites[name]
    fault = no_file(name)
    if fault is None:
        return Path(name)
    looks_like_path = name.endswith(".toml") or "/" in name
    what = fault if looks_like_path or not fault.startswith("there is no file") else None
    what = what or f"unknown suite {name!r}"
    raise InputError(f"{what}. {nearest_names(name, suites)} Or name the path of a suite file.")


_MOST_BYTES = 8 * 2**20
"""Of a suite file: a list of a million seeds fits."""

_DEEPEST = 64
"""Levels of lists and tables in a suite file."""

_PART = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
_DOTTED = re.compile(
    rf"(?:^|[\[{{,])[ \t]*({_PART})(?:[ \t]*\.[ \t]*{_PART}){{{_DEEPEST}}}", re.MULTILINE
)
"""A key of more parts than that: tomllib takes time with the square of their number."""


def load_suite(path: Path, above: tuple[Path, ...] = ()) -> SuiteFile:
    """Parse and validate a suite file. Raises InputError with file, line, key and nearest names.

    ``above``: the files that extend it.
    """
    text = _read(path)
    source = SuiteFile(SuiteSpec.model_construct(), path, text)
    try:
        if dotted := _DOTTED.search(text):
            raise _too_deep(path, text.count("\n", 0, dotted.start(1)) + 1)
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise _too_deep(path, _line_too_deep(text)) from None
    except InputError:
        raise
    except ValueError:  # Python's limit for the digits of an integer
        found = (i for i, line in enumerate(text.split("\n"), 1) if _MANY_DIGITS.search(line))
        told = "a number has thousands of digits: at most 64 bits are taken"
        raise InputError(f"{path}, line {next(found, 1)}: {told}") from None
    _check_content(source, content, ())
    base, inherited, content = _extended(source, content, above)
    source = replace(source, base=base, inherited=inherited)
    try:
        spec = SuiteSpec.model_validate(content)
    except ValidationError as error:
        first = next((e for e in error.errors() if e["type"] in _KEY_FAULTS), error.errors()[0])
        location = tuple(part for part in first["loc"] if part not in {"list", "streams"})
        if first["type"] == "extra_forbidden":
            message = "unknown key. " + _nearest_keys(location)
        elif first["type"] == "missing":
            message = "is missing, and has no default"
        else:
            message = first["msg"].removeprefix("Value error, ")  # before a reason of our own
        raise source.error(location, message) from None
    return replace(source, spec=spec)


_LISTS = ("subjects", "networks", "problems", "metrics", "transformations", "plugins")
_TABLES = ("evaluation", "cost", "limits")
_FILES_OF_NETWORKS = {f"networks.{key}" for key in ("weights", *NetworkNamed.FILES)}


def _extended(
    source: SuiteFile, content: dict[str, Any], above: tuple[Path, ...]
) -> tuple[SuiteFile | None, dict[str, int], dict[str, Any]]:
    """The suite that a file extends, how many blocks are from there, and both together."""
    name = content.get("extends")
    if not isinstance(name, str) or not name:
        return None, {}, content
    here = source.path.resolve()
    try:
        is_path = name.endswith(".toml") or "/" in name
        place = find_suite(str(here.parent / Path(name).expanduser()) if is_path else name)
        if place.resolve() in (*above, here):
            raise InputError(f"{name!r} extends this suite in turn")
        base = load_suite(place, (*above, here))
    except InputError as error:
        raise source.error(("extends",), str(error)) from None
    there = _moved(
        base.spec.model_dump(exclude_unset=True, exclude={"name"}), place.parent.resolve()
    )
    whole, inherited = {**there, **content}, {}
    for key in _LISTS:
        if there.get(key) and isinstance(own := content.get(key, []), list):
            whole[key], inherited[key] = [*there[key], *own], len(there[key])
    for key in _TABLES:
        if key in there and isinstance(own := content.get(key, {}), dict):
            whole[key] = {**there[key], **own}
    return base, inherited, whole


def _moved(value: Any, folder: Path, within: str = "") -> Any:
    """What a suite in ``folder`` says, for one that stands elsewhere: files by their whole path."""
    if isinstance(value, dict):
        inside = "networks" if within == "networks" else ""
        return {k: _moved(v, folder, f"{inside}.{k}" if inside else k) for k, v in value.items()}
    if isinstance(value, list):
        return [_moved(v, folder, within) for v in value]
    if isinstance(value, str) and within in _FILES_OF_NETWORKS:
        pattern = within == "networks.weights" and not (folder / value).is_file()
        return str(Path(escape(str(folder)) if pattern else folder) / value)
    of_file = isinstance(value, str) and re.fullmatch(r"[^:]*\.py(:[\w.]+)?", value)
    return str(folder / value) if of_file else value


def _too_deep(path: Path, line: int) -> InputError:
    return InputError(
        f"{path}, line {line}: nested too deep: at most {_DEEPEST} levels of lists and tables"
    )


def _line_too_deep(text: str) -> int:
    """The line on which more brackets are open than a suite may open (those in texts counted, too)."""
    depth, line = 0, 1
    for sign in text:
        line += sign == "\n"
        depth += (sign in "[{") - (sign in "]}")
        if depth > _DEEPEST:
            break
    return line


_MANY_DIGITS = re.compile(r"[0-9][0-9_]{3000}")
_KEY_FAULTS = ("extra_forbidden",)
"""Told before others: a misspelt key is the reason why the right one is missing."""


def _read(path: Path) -> str:
    """The text of a suite file. Raises InputError."""
    if fault := no_file(path):
        raise InputError(f"{fault}: name the path of a suite file")
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise InputError(f"{path}: larger than {_MOST_BYTES >> 20} MiB, which no suite is")
    if not data.strip():
        raise InputError(
            f'{path}: the file is empty; a suite begins with name = "…" and seeds = […]'
        )
    try:
        # Some editors begin a file with a byte-order mark; lines may end as on any system.
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: not a text in UTF-8 ({error.reason}): save the file as UTF-8"
        ) from None
    return text


def _check_content(source: SuiteFile, value: Any, at: tuple[str | int, ...]) -> None:
    """Raises InputError for what no key of a suite takes: too many levels, integers beyond 64 bits."""
    if len(at) > _DEEPEST:
        raise source.error(
            at[:3], f"nested too deep: at most {_DEEPEST} levels of lists and tables"
        )
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_content(source, inner, (*at, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            if isinstance(inner, (dict, list)):
                _check_content(source, inner, (*at, i))
            elif type(inner) is int and not -(2**63) <= inner < 2**63:
                raise source.error((*at, i), f"{shortened(inner)} does not fit into 64 bits")
    elif type(value) is int and not -(2**63) <= value < 2**63:
        raise source.error(at, f"{shortened(value)} does not fit into 64 bits")


def axes(registry: Registry[P], block: Block, also: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    """The values of every parameter that a block names: a list where a scalar is expected is an axis.

    ``also``: keys that the block may have beside the parameters, which are left out. Raises InputError for
    an unknown name or parameter.
    """
    if not isinstance(block.get("name"), str):
        raise InputError(
            f'a {registry.kind} needs a name, e.g. {{ name = "{registry.names()[0]}" }}'
        )
    name = block["name"]
    types = registry.parameter_types(name)
    found: dict[str, list[Any]] = {}
    for key, value in block.items():
        if key == "name" or key in also:
            continue
        if key not in types:
            near = nearest_names(key, [*types, *also])
            raise InputError(f"{registry.kind} {name!r} has no parameter {key!r}. {near}")
        found[key] = _axis(registry, name, key, value)
    return found


def expand(registry: Registry[P], block: Block, also: tuple[str, ...] = ()) -> list[P]:
    """Every plug-in that a block stands for, in the order of its axes; see `axes`.

    Raises InputError for an unknown name or parameter or a value that doesn't fit.
    """
    found = axes(registry, block, also)
    return [
        registry.create(block["name"], dict(zip(found, values, strict=True)))
        for values in itertools.product(*found.values())
    ]


def grid_size(registry: Registry[P], block: Block, also: tuple[str, ...] = ()) -> int:
    """How many plug-ins a block stands for; none is made."""
    return math.prod(map(len, axes(registry, block, also).values()))


def _axis(registry: Registry[P], name: str, key: str, value: Any) -> list[Any]:
    """The values of an axis: the list itself if it fits the parameter whole, or no element of it does."""
    if not isinstance(value, list):
        return [value]

    def fits(written: Any) -> bool:
        try:
            registry.value_of(name, key, written)
        except ValueError:
            return False
        return True

    return value if not fits(value) and any(map(fits, value)) else [value]


def _nearest_keys(location: tuple[str | int, ...]) -> str:
    model: type[BaseModel] = SuiteSpec
    parents: dict[str, type[BaseModel]] = {
        "subjects": SubjectsSpec,
        "networks": NetworksSpec,
        "problems": ProblemsSpec,
        "evaluation": EvaluationSpec,
        "cost": CostSpec,
        "trajectory": TrajectorySpec,
        "limits": LimitsSpec,
        "seeds": SeedsSpec,
    }
    if len(location) > 1:
        inner: dict[str | int, type[BaseModel]] = {"seeds": SeedsSpec, "attack": AttackSpec}
        model = inner.get(location[-2]) or parents[str(location[0])]
    return nearest_names(str(location[-1]), model.model_fields)


def _spell(location: tuple[str | int, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part + 1}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text or "the file"


def _line_of(text: str, location: tuple[str | int, ...], value: str | None) -> int | None:
    """The line (from 1) on which the innermost key of ``location`` stands, as well as it can be told.

    TOML parsers keep no positions: the table is found by its header, the key by its name and, among
    several, by its ``value``.
    """
    keys = [part for part in location if isinstance(part, str)]
    if not keys:
        return None
    lines = text.split("\n")
    index = location[1] if len(location) > 1 and isinstance(location[1], int) else 0
    headers = [
        i for i, line in enumerate(lines) if re.match(rf"\s*\[+\s*{re.escape(keys[0])}\b", line)
    ]
    position = headers[index] if index < len(headers) else 0
    following = [i for i, line in enumerate(lines) if i > position and re.match(r"\s*\[", line)]
    end = following[0] if headers and following else len(lines)
    found = position if headers else None
    for key in keys[1:] if headers else keys:
        pattern = rf"(?<![\w-])[\"']?{re.escape(key)}[\"']?\s*="
        hits = [i for i in range(position, end) if re.search(pattern, lines[i])]
        exact = [i for i in hits if key == keys[-1] and value and value in lines[i]]
        if hits:
            found = position = (exact or hits)[0]
    return None if found is None else found + 1
