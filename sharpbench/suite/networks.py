"""Networks of a user's own in a plan: never trained, measured as they are."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sharpbench.datasets import Dataset
from sharpbench.errors import InputError, first_line, guarded, no_file_near
from sharpbench.plugins import digest_of_module
from sharpbench.results.keys import content_key
from sharpbench.seeds import Seeds
from sharpbench.suite.given import Given
from sharpbench.suite.outline import Kind

__all__ = ["NetworkPlan", "hash_of_file", "source_of"]


@dataclass(frozen=True)
class NetworkPlan:
    """A network with the data on which it is measured, as a user names them.

    ``parts``: of ``dataset``, ``model`` and ``recipe``, what tells them from others: names, parameters and
    the hashes of files, never where these are. ``labels``: what the three are called.
    """

    given: Given
    parts: Mapping[str, Mapping[str, Any]]
    labels: Mapping[str, str]
    seed: int
    device: str = "cpu"
    threads: int = 1
    data_from: Dataset | None = None
    """The one that is named, where one is: another process knows nothing of a user's file by its name."""
    seed_itself: bool = False
    """Whether metrics are given the seed itself, as `sharpbench.measure` does, and none derived from it."""

    recipe_name = ""
    epochs = 0
    data_known = True

    @property
    def kind(self) -> Kind:
        return "own"

    @property
    def dataset_name(self) -> str:
        return str(self.parts["dataset"]["name"])

    @property
    def network(self) -> tuple[str, ...]:
        """What networks share whose costs are alike."""
        return self.dataset_name, self.labels["model"], self.device

    @cached_property
    def seeds(self) -> Seeds:
        """The data's is shared by all; how each network came about is taken for independent of the others."""
        own = int(content_key([self.parts["model"], self.parts["recipe"]])[:7], 16)
        return Seeds(self.seed, own, own)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that is known of the network and its data before they are loaded."""
        kind = {"device": self.device.partition(":")[0]}
        threads = {} if self.threads == 1 else {"threads": self.threads}
        parts = {name: dict(part) for name, part in self.parts.items()}
        asked = {"asked": "measure"} if self.seed_itself else {}
        return {**parts, "seed": self.seeds.identity(), **kind, **threads, **asked}

    @cached_property
    def key(self) -> str:
        return content_key(self.identity)

    @property
    def label(self) -> str:
        return " · ".join((*self.labels.values(), f"seed={self.seed}"))

    def missing(self, root: Path) -> str | None:
        """Nothing: to load its data tells what is missing, and is recorded."""
        return None


def hash_of_file(path: Path) -> str:
    """SHA-256 of a file. Raises InputError if it can't be read."""
    if fault := no_file_near(path):
        raise InputError(fault)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error


def source_of(pointer: str) -> str:
    """SHA-256 of what ``package.module`` in ``package.module:name`` is made of (`digest_of_module`).

    Edited, its network is another one, also with the same weights.
    Empty for a module without a file. Raises InputError where there is none of that name.
    """
    module = pointer.partition(":")[0]
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        with guarded():
            found = importlib.util.find_spec(module)
    except Exception as error:
        raise InputError(f"{pointer!r}: {first_line(error)}") from error
    if found is None:
        raise InputError(f"{pointer!r}: there is no module {module!r} here")
    file = Path(found.origin or "")
    if not file.is_file():
        return ""
    return digest_of_module(module, file) if file.suffix == ".py" else hash_of_file(file)
