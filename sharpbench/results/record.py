"""One figure, or the reason why there is none."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sharpbench.results.checksum import Damaged, json_object, sealed, unsealed

__all__ = ["FINAL", "Kind", "Record", "Status"]

Kind = Literal[
    "measurement",
    "evaluation",
    "trajectory",
    "decision_map",
    "reliability",
    "problem",
    "calibration",
    "outcomes",
]
"""``calibration``: one of many answers to the same problem, with random numbers of its own. ``outcomes``:
what a network did on each point of a test set."""
Status = Literal["ok", "unsupported", "failed", "error", "timeout"]

FINAL: frozenset[str] = frozenset({"ok", "unsupported", "failed"})
"""Statuses that depend on the inputs alone. Errors and time-outs are tried again by the next run."""

_WITHOUT_VALUE: frozenset[Kind] = frozenset({"decision_map", "reliability", "outcomes"})


@dataclass(frozen=True)
class Record:
    """A row of the results.

    ``key`` identifies the figure (subject, weights, metric, transformation, draw, epoch);
    ``plan_key`` the question, which is the same for every subject. ``name`` is the metric or the
    evaluated quantity, ``label`` adds the parameters that differ from their defaults.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    key: str
    plan_key: str
    kind: Kind
    name: str
    label: str
    status: Status = "ok"
    reason: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    version: int = 1
    metric_source: str | None = None
    """SHA-256 of the file that the metric comes from, where no package has registered it."""
    title: str = ""
    """What a reader calls the metric or quantity, with its symbol."""
    unit: str = ""
    """The value's unit, "[…]" for that of what stands in it; empty for a pure number."""
    space: str = ""
    """Where the metric differentiates: parameter, input or function."""
    transformation: str | None = None
    transformation_name: str | None = None
    transformation_parameters: dict[str, Any] = field(default_factory=dict)
    transformation_kind: str | None = None
    """permutation, linear_gauge, chart, growth, units, decision or control."""
    preserves: str | None = None
    """What the transformation keeps: function, loss or nothing."""
    promised: bool | None = None
    """Whether theory promises that the transformation leaves this figure as it was."""
    function_change: float | None = None
    """max |Δ logits| / max |logits| of the transformation, in float64."""
    left_alone: str | None = None
    """Which layers the transformation left as they are, and why, in a sentence; None where there are none."""
    draw: int = 0
    epoch: int | None = None
    value: float | None = None
    standard_error: float | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    """Where the error comes from: ``source``, ``size``, ``degrees_of_freedom`` of each component."""
    error_bound: float | None = None
    """How far an unfinished iteration may be from its limit."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know of how the figure came about: points left out, a method that gave way."""
    converged: bool | None = None
    samples: int | None = None
    gradient_equivalents: float | None = None
    work: dict[str, float] = field(default_factory=dict)
    cost: dict[str, Any] | None = None
    details: dict[str, Any] = field(default_factory=dict)
    expected: float | None = None
    """Of a problem: what the metric's definition gives with exact derivatives.

    After a transformation: the value that theory predicts from the one before, where it predicts a
    change; None where it predicts none or nothing (``promised`` tells which).
    """
    expected_from: str | None = None
    """``theory``, or ``all points``: what the metric itself says of all of them.

    ``theory: …`` names what was expected of an implementation that computes another figure than the metric's.
    """
    adversarial: bool = False
    """Of a problem: made to be hard for estimators."""
    problem_title: str | None = None
    trap: str | None = None
    """Of a problem: the wrong answer that implementations are known to give there."""
    trap_kind: str | None = None
    """What goes wrong then: sign, stopping, averaging or missing_gradient."""
    limit: float | None = None
    """Of a problem: what the definition tends to as its orders grow."""
    diverges: str | None = None
    """``+∞`` or ``−∞`` in place of a limit."""
    run: str = ""

    def to_line(self) -> str:
        """One line of JSON with its checksum. Raises ValueError for what could not be read again: NaN, a
        value that is no number, nests without end."""
        try:
            text = json.dumps(dataclasses.asdict(self), allow_nan=False, ensure_ascii=False)
        except RecursionError:
            raise ValueError("it nests without end") from None
        line = sealed(text)
        Record.from_line(line.encode())
        return line

    @classmethod
    def from_line(cls, line: bytes) -> tuple[Record, bool]:
        """The record of a line, and whether the line's checksum proves it.

        Fields that a newer sharpbench wrote are left out. Raises Damaged, with the reason, for a line that
        no sharpbench wrote like this.
        """
        body, proven = unsealed(line)
        if not proven:
            # Only older versions wrote no checksum, and they knew no field that we don't.
            unknown = json_object(body)[0].keys() - _FIELDS
            if unknown:
                raise Damaged(
                    f"it has no checksum, and an entry {min(unknown)!r} that was never written"
                )
        try:
            record = _RECORDS.validate_json(body, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the line"
            raise Damaged(f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
        if fault := record._fault():
            raise Damaged(fault)
        return record, proven

    def _fault(self) -> str | None:
        """What no answer looks like, beyond the types of its fields."""
        if self.status == "ok" and self.value is None and self.kind not in _WITHOUT_VALUE:
            return "value: there is none, and the status is 'ok'"
        if not (self.key and self.plan_key and self.name):
            return "key, plan_key or name: empty"
        for component in self.errors:
            size = component.get("size")
            if not isinstance(component.get("source"), str) or not (size is None or _error(size)):
                return f"errors: {component} is no component of an error"
        for name in ("standard_error", "error_bound"):
            size = getattr(self, name)
            if not (size is None or _error(size)):
                return f"{name}: {size} is no error"
        return None

    def figure(self) -> tuple[object, ...]:
        """What must not change between two runs of the same suite: all but cost and run."""
        return (
            self.key,
            self.status,
            self.reason,
            self.value,
            self.standard_error,
            self.converged,
            json.dumps(self.details, sort_keys=True),
            json.dumps(self.work, sort_keys=True),
        )


_RECORDS = TypeAdapter(Record)
_FIELDS = frozenset(f.name for f in dataclasses.fields(Record))


def _error(size: Any) -> bool:
    return type(size) in (int, float) and size >= 0
