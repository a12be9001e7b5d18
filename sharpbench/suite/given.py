"""What a user names of a network of their own: in a suite file's [[networks]], and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["Given", "NetworkNamed"]


class NetworkNamed(BaseModel):
    """A network and the data on which it is measured, by their names.

    ``model``: package.module:build, a function of no arguments that returns the network; modules in the
    current folder are found. ``dataset``, ``data`` (package.module:batches) or ``inputs`` with ``targets``
    (files): what it is measured on. ``test``: batches of test data beside those, package.module:batches, by
    which it is judged. ``forward``, ``loss``, ``normaliser`` and ``differentiate`` as for
    `Subject.from_batches`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    dataset: dict[str, Any] | None = None
    data: str | None = None
    inputs: str | None = None
    targets: str | None = None
    test: str | None = None
    forward: str | None = None
    loss: str | None = None
    normaliser: Literal["samples", "tokens", "sum"] | None = None
    differentiate: str | None = None

    SOURCES: ClassVar = ("dataset", "data", "inputs")
    FILES: ClassVar = ("inputs", "targets")
    OPTIONS: ClassVar = ("forward", "loss", "normaliser", "differentiate")
    """What says how the network is called on its data, and what of it."""

    def told(self, *names: str) -> dict[str, Any]:
        """Those of the fields that were given."""
        every = ((name, getattr(self, name)) for name in names)
        return {name: value for name, value in every if value is not None}

    def fault(self, dataset: str, data: str, inputs: str) -> str | None:
        """Why the data can't be told, or None; how each of the three sources is written stands in it."""
        if len(named := self.told(*self.SOURCES)) != 1:
            return (
                f"the data are named by one of {dataset}, {data} and {inputs}, "
                f"got {' and '.join(named) or 'none'}"
            )
        if self.targets is not None and self.inputs is None:
            return "targets go with inputs"
        if self.test is not None and self.dataset is not None:
            return "a dataset has its own test data: leave test out"
        return None


class Given(NetworkNamed):
    """One network: with these ``weights``, or as it is built. Files by paths from the current folder."""

    weights: Path | None = None
