"""Content keys: what makes a subject, a question and a figure the same in two runs.

Equal content, equal key. A *question* is asked of every subject alike; a *figure* is its answer for the
weights of one subject.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sharpbench.registry import Plugin

__all__ = [
    "attack_question",
    "change_key",
    "content_key",
    "corruption_question",
    "evaluation_question",
    "expected_key",
    "figure_key",
    "outcomes_question",
    "part_of_figure",
    "question_key",
    "question_keys_of",
    "trajectory_figure_key",
    "trajectory_question",
]

_SEEDING = 2
"""Raised when metrics or transformations get their seeds in another way: figures are not mixed then.

2: one seed for all metrics of a subject, so that they measure the same points, and a transformation's
random numbers of its own for each network.
"""

_PARTS = frozenset({"evaluation", "decision_map", "reliability", "outcomes"})
"""Kinds of records that are found together, under one question."""


def content_key(identity: Any) -> str:
    """SHA-256 of the canonical JSON of ``identity``: equal content, equal key, whatever the order."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def question_key(metric: Plugin, transformation: Plugin | None, draw: int) -> str:
    """Of a metric, asked after a draw of a transformation or, without one, as often as ``draw`` counts."""
    changed = transformation.identity() if transformation else None
    return _question(metric.identity(), changed, draw, _SEEDING)


def question_keys_of(metric: Mapping[str, Any], draw: int) -> list[str]:
    """Those that a metric of this identity, asked without a transformation, has or had: under the seeding
    of today and under earlier ones."""
    return [_question(metric, None, draw, seeding) for seeding in range(_SEEDING, 0, -1)]


def _question(
    metric: Mapping[str, Any], transformation: Mapping[str, Any] | None, draw: int, seeding: int
) -> str:
    return content_key(
        {
            "metric": dict(metric),
            "transformation": transformation,
            "draw": draw,
            "seeding": seeding,
        }
    )


def trajectory_question(metric: Plugin, every: int) -> str:
    """Of a metric measured along training."""
    return content_key({"metric": metric.identity(), "every": every, "seeding": _SEEDING})


def evaluation_question(version: int, ece_bins: int) -> str:
    """Of everything that is evaluated together."""
    return content_key({"evaluation": version, "ece_bins": ece_bins})


def outcomes_question(version: int) -> str:
    """Of what a network did on each test point."""
    return content_key({"outcomes": version})


def corruption_question(version: int, names: Sequence[str]) -> str:
    """Of the errors under corruptions, which all enter the mean."""
    return content_key({"corruptions": sorted(names), "version": version})


def attack_question(version: int, attack: Mapping[str, Any]) -> str:
    """Of the error under an attack with these parameters."""
    return content_key({"attack": dict(attack), "version": version})


def figure_key(subject: str, weights: str, question: str) -> str:
    """Of the answer to ``question`` by the weights of a subject."""
    return content_key([subject, weights, question])


def part_of_figure(key: str, name: str) -> str:
    """Of one of several quantities found together."""
    return f"{key}:{name}"


def trajectory_figure_key(subject: str, question: str, epoch: int) -> str:
    """Of the answer at the end of an epoch."""
    return content_key([subject, question, "epoch", epoch])


def expected_key(
    kind: str, subject: str, weights: str, question: str, *, name: str, epoch: int | None
) -> str:
    """That of a record of ``kind``, if it is an answer of this subject with these weights."""
    if kind == "trajectory":
        return trajectory_figure_key(subject, question, -1 if epoch is None else epoch)
    key = figure_key(subject, weights, question)
    return part_of_figure(key, name) if kind in _PARTS else key


def change_key(transformation: Plugin, draw: int) -> str:
    """Of one draw of a transformation."""
    return content_key([transformation.identity(), draw])
