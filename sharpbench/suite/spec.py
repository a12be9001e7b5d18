"""A suite file as typed objects; every error names the file, the line and the key."""

from __future__ import annotations

import itertools
import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from sharpbench.errors import InputError, nearest_names
from sharpbench.registry import Plugin, Registry
from sharpbench.seeds import STREAMS, Seeds

__all__ = [
    "SeedsSpec",
    "SuiteFile",
    "SuiteSpec",
    "expand",
    "find_suite",
    "known_suites",
    "load_suite",
    "seeds_of",
]

P = TypeVar("P", bound=Plugin)
Block = dict[str, Any]
Blocks = Annotated[list[Block], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_MOST_SEEDS = 10_000
"""More are asked for by mistake: of who means a seed, and writes ``seeds = 20240131``."""


def _seed_list(value: object) -> object:
    """A number stands for that many seeds from 0."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= _MOST_SEEDS:
            raise ValueError(
                f"a number stands for that many seeds, from 1 to {_MOST_SEEDS}, got {value}; "
                f"one seed is written as a list of one"
            )
        return list(range(value))
    if isinstance(value, list) and len(set(map(str, value))) != len(value):
        raise ValueError("a seed stands twice")
    return value


SeedList = Annotated[
    list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1), BeforeValidator(_seed_list)
]


class SeedsSpec(_Strict):
    """Seeds by stream: every combination of them, or with ``zip`` the first of each, the second, …

    A stream that is left out has the seed 0 throughout.
    """

    data: SeedList = [0]
    initialization: SeedList = [0]
    training: SeedList = [0]
    zip: bool = False

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

    @field_validator("dataset", "model", "recipe", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: object) -> object:
        return [value] if isinstance(value, dict) else value


class ProblemsSpec(_Strict):
    """Problems with known answers, each asked every one of these metrics.

    ``repetitions``: each metric is asked so often of the same problem, with other random numbers each
    time: how often is the answer as far off as it says (see `analysis.calibration`)? Such answers stand
    apart from those to the plain question, and are not timed.
    """

    problem: Blocks
    metrics: Blocks
    seeds: SeedList | None = None
    repetitions: int = Field(1, ge=1)

    @field_validator("problem", "metrics", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: object) -> object:
        return [value] if isinstance(value, dict) else value


class EvaluationSpec(_Strict):
    ece_bins: int = Field(15, ge=2)


class CostSpec(_Strict):
    """Measurements of the lowest seed are timed ``repeats`` times after a warm-up.

    ``spread``: go on, up to 50 times, until the interquartile range is at most this part of the median.
    ``memory``: ``resident``, in the running process, or ``process``, in a fresh one (problems alone).
    ``flops``: count floating-point operations too.
    """

    repeats: int = Field(3, ge=0)
    spread: float | None = Field(None, gt=0)
    memory: Literal["resident", "process"] = "resident"
    flops: bool = False


class TrajectorySpec(_Strict):
    """Metrics measured along training: after epoch 1, every ``every`` epochs and after the last."""

    metrics: Blocks
    every: int = Field(5, ge=1)


class LimitsSpec(_Strict):
    """Seconds after which a training or a measurement is given up and recorded as timed out."""

    training_seconds: float | None = Field(None, gt=0)
    measurement_seconds: float | None = Field(None, gt=0)


class SuiteSpec(_Strict):
    """What a suite file may say."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str = ""
    description: str = ""
    seeds: SubjectSeeds
    threads: int = Field(1, ge=1)
    subjects: list[SubjectsSpec] = []
    problems: list[ProblemsSpec] = []
    metrics: list[Block] = []
    transformations: list[Block] = []
    evaluation: EvaluationSpec = EvaluationSpec(ece_bins=15)
    cost: CostSpec = CostSpec(repeats=3, spread=None)
    trajectory: TrajectorySpec | None = None
    limits: LimitsSpec = LimitsSpec(training_seconds=None, measurement_seconds=None)

    @model_validator(mode="after")
    def _something_to_do(self) -> SuiteSpec:
        if not self.subjects and not self.problems:
            raise ValueError("a suite needs [[subjects]] to train or [[problems]] to solve")
        if self.subjects and not self.metrics:
            raise ValueError("[[subjects]] need [[metrics]] that measure them")
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

    def error(
        self, location: tuple[str | int, ...], message: str, *, value: str | None = None
    ) -> InputError:
        """An InputError that names file, line and key (``value`` tells equal keys apart)."""
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
    if Path(name).is_file():
        return Path(name)
    looks_like_path = name.endswith(".toml") or "/" in name
    what = f"no file {name!r}" if looks_like_path else f"unknown suite {name!r}"
    raise InputError(f"{what}. {nearest_names(name, suites)} Or name the path of a suite file.")


def load_suite(path: Path) -> SuiteFile:
    """Parse and validate a suite file. Raises InputError with file, line, key and nearest names."""
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text in UTF-8: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    try:
        spec = SuiteSpec.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        location = tuple(part for part in first["loc"] if part not in {"list", "streams"})
        unknown = first["type"] == "extra_forbidden"
        told = first["msg"].removeprefix("Value error, ")  # pydantic's, before a reason of our own
        message = "unknown key. " + _nearest_keys(location) if unknown else told
        source = SuiteFile(SuiteSpec.model_construct(), path, text)
        raise source.error(location, message) from None
    return SuiteFile(spec, path, text)


def expand(registry: Registry[P], block: Block) -> list[P]:
    """Every plug-in that a block stands for: a list where a scalar is expected is an axis.

    Raises InputError for an unknown name or parameter or a value that doesn't fit.
    """
    if not isinstance(block.get("name"), str):
        raise InputError(
            f'a {registry.kind} needs a name, e.g. {{ name = "{registry.names()[0]}" }}'
        )
    name = block["name"]
    types = registry.parameter_types(name)
    combinations: list[dict[str, Any]] = [{}]
    for key, value in block.items():
        if key == "name":
            continue
        values = _axis(types[key], value) if key in types else [value]
        combinations = [{**c, key: v} for c in combinations for v in values]
    return [registry.create(name, parameters) for parameters in combinations]


def _axis(annotation: Any, value: Any) -> list[Any]:
    """The values of an axis: the list itself if it fits the parameter whole, else its elements."""
    if not isinstance(value, list):
        return [value]
    try:
        TypeAdapter(annotation).validate_python(value)
    except ValidationError:
        return value or [value]
    return [value]


def _nearest_keys(location: tuple[str | int, ...]) -> str:
    model: type[BaseModel] = SuiteSpec
    parents: dict[str, type[BaseModel]] = {
        "subjects": SubjectsSpec,
        "problems": ProblemsSpec,
        "evaluation": EvaluationSpec,
        "cost": CostSpec,
        "trajectory": TrajectorySpec,
        "limits": LimitsSpec,
        "seeds": SeedsSpec,
    }
    if len(location) > 1:
        model = SeedsSpec if location[-2] == "seeds" else parents[str(location[0])]
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
    lines = text.splitlines()
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
