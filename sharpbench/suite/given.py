"""What a user names of a network of their own: in a suite file's [[networks]], and on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["COMMAND_LINE", "SUITE_FILE", "Given", "NetworkNamed", "Words"]


@dataclass(frozen=True)
class Words:
    """How keys and values are written where a network was named.

    ``place``: what that is called. ``key``, ``value`` (one that was given) and ``line`` (what is to be
    written): formats of ``key`` and ``value``. ``dataset``: the line of a dataset.
    """

    place: str
    key: str
    value: str
    line: str
    dataset: str

    def named(self, key: str, value: str | Path | None = None) -> str:
        """A key, or a key with the value that was given."""
        return (self.key if value is None else self.value).format(key=key, value=str(value))

    def to_write(self, key: str, value: str) -> str:
        """A key with what stands for its value."""
        return self.dataset if key == "dataset" else self.line.format(key=key, value=value)

    def of_python(self, told: str) -> str:
        """A sentence that asks for arguments of `Subject.from_batches`, with what stands for them here."""
        asked = [
            how.format(*(self.to_write(key, value) for key, value in lines))
            for argument, (how, *lines) in _ARGUMENTS.items()
            if f"{argument}=" in told
        ]
        return f"{told} ({self.place} {', '.join(asked)})" if asked else told


_FUNCTION = "package.module:function"
_ARGUMENTS: dict[str, Any] = {
    "forward": ("{}", ("forward", _FUNCTION)),
    "loss": ("{}, or the name of a loss of torch.nn", ("loss", _FUNCTION)),
    "normaliser": ("{}", ("normaliser", "samples|tokens|sum")),
    "differentiate": ("{}", ("differentiate", "NAME")),
    "task": ("in place of a task {}", ("loss", _FUNCTION)),
    "targets": ("batches (inputs, targets) by {}", ("data", "package.module:batches")),
    "splits": ("{}", ("test", "package.module:batches")),
}
"""By the arguments of `Subject.from_batches`, what is written in their place."""

COMMAND_LINE = Words(
    "at the command line", "--{key}", "--{key} {value!r}", "--{key} {value}", "--dataset NAME"
)
SUITE_FILE = Words(
    "in [[networks]]", "{key}", "{key} = {value!r}", '{key} = "{value}"', "dataset = { name = … }"
)


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

    def fault(self, words: Words) -> str | None:
        """Why the data can't be told, in these words, or None."""
        if len(named := self.told(*self.SOURCES)) != 1:
            sources = (("dataset", "NAME"), ("data", "package.module:batches"), ("inputs", "FILE"))
            dataset, data, inputs = (words.to_write(*source) for source in sources)
            found = " and ".join(map(words.named, named)) or "none"
            return (
                f"the data are named by one of {dataset}, {data} and {inputs} (with "
                f"{words.to_write('targets', 'FILE')}), got {found}"
            )
        if self.targets is not None and self.inputs is None:
            return f"{words.named('targets')} goes with {words.named('inputs')}"
        if self.test is not None and self.dataset is not None:
            return f"a dataset has its own test data: leave {words.named('test')} out"
        return None


class Given(NetworkNamed):
    """One network: with these ``weights``, or as it is built. Files by paths from the current folder."""

    weights: Path | None = None
