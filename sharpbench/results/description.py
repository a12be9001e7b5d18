"""``subject.json``: what a subject is, what became of it, and the hash of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sharpbench.registry import SOURCE_HASH
from sharpbench.results.checksum import Damaged, json_object
from sharpbench.results.keys import content_key
from sharpbench.seeds import STREAMS

__all__ = [
    "ANSWERED",
    "FOLDER_NAME",
    "PARTS",
    "SCHEMA",
    "Description",
    "Outcome",
    "read_description",
    "subject_columns",
]

Outcome = Literal["trained", "known", "diverged", "timeout", "error"]
"""What became of a subject: a problem or a user's own network that could be built is ``known``, one that a
recipe made ``trained``."""

ANSWERED: frozenset[Outcome] = frozenset({"trained", "known"})
"""The outcomes that leave a network to be measured."""

SCHEMA = 2
"""Raised when a folder is written in another way. 1: descriptions and lines may lack checksums."""

FOLDER_NAME = 20
"""How much of a subject's key its folder is called by."""

PARTS = ("dataset", "model", "recipe", "problem")
"""What a subject is made of: the first three, or a problem."""
_TRAINED = PARTS[:3]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Named(_Strict):
    name: str


class _Identity(_Strict):
    seed: int | dict[Literal["data", "initialization", "training"], int]
    device: str
    dataset: _Named | None = None
    model: _Named | None = None
    recipe: _Named | None = None
    problem: _Named | None = None


class _Training(_Strict):
    epochs: list[dict[str, float]]


class Description(_Strict):
    """What ``subject.json`` holds."""

    schema_: int = Field(alias="schema")
    key: str
    label: str
    identity: _Identity
    status: Outcome
    reason: str | None
    run: str = ""
    weights: str | None = None
    parameters: int | None = None
    training: _Training | None = None
    shared_machine: bool | None = None
    trajectories: list[str] | None = None
    trajectory_epochs: dict[str, list[int]] | None = None
    dataset_label: str | None = None
    model_label: str | None = None
    recipe_label: str | None = None
    problem_label: str | None = None
    unsaid: dict[str, dict[str, Any]] | None = None


def read_description(content: bytes, folder: str) -> tuple[dict[str, Any], bool]:
    """The description of the subject in ``folder``, and whether its checksum proves it.

    Raises Damaged for one that no sharpbench wrote like this, and for that of another folder.
    """
    found, proven = json_object(content)
    try:
        told = Description.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        raise Damaged(
            f"{'.'.join(map(str, first['loc']))}: {first['msg'][:1].lower()}{first['msg'][1:]}"
        ) from None
    if told.schema_ >= SCHEMA and not proven:
        raise Damaged("its checksum is missing")
    if content_key(found["identity"]) != told.key:
        raise Damaged("its key is not that of its content")
    if told.key[:FOLDER_NAME] != folder:
        raise Damaged(f"it belongs into the folder {told.key[:FOLDER_NAME]}")
    is_problem = told.identity.problem is not None
    needed = ("problem",) if is_problem else _TRAINED
    if any(getattr(told.identity, part) is None for part in needed):
        raise Damaged(f"identity: {' or '.join(needed)} is missing")
    if any(found.get(f"{part}_label") is None for part in needed):
        raise Damaged("a label is missing")
    if told.status in ANSWERED and not told.weights:
        raise Damaged("weights: the hash is missing")
    if isinstance(told.identity.seed, dict) and len(told.identity.seed) != len(STREAMS):
        raise Damaged("identity.seed: a stream is missing")
    return found, proven


def subject_columns(description: Mapping[str, Any]) -> dict[str, Any]:
    """What every row of a subject says of it."""
    identity = description["identity"]
    columns: dict[str, Any] = {
        "subject": description["key"],
        "subject_label": description["label"],
        **_seed_columns(identity["seed"]),
        "device": identity["device"],
        "network_parameters": description.get("parameters"),
    }
    for part in PARTS:
        if part not in identity:
            columns |= {part: None, f"{part}_label": None}
            continue
        columns[part] = identity[part]["name"]
        columns[f"{part}_label"] = description[f"{part}_label"]
        unsaid = (description.get("unsaid") or {}).get(part, {})
        for key, value in {**unsaid, **identity[part]}.items():
            own_words = {"name", "version", "data", SOURCE_HASH}
            if key not in own_words and not key.endswith(("sha256", "source")):
                columns[f"{part}.{key}"] = value
    return columns


def _seed_columns(seed: int | dict[str, int]) -> dict[str, int]:
    """``seed``, that of the data, and ``seed.data``, ``seed.initialization`` and ``seed.training``."""
    streams = seed if isinstance(seed, dict) else dict.fromkeys(STREAMS, seed)
    return {"seed": streams["data"], **{f"seed.{name}": streams[name] for name in STREAMS}}
