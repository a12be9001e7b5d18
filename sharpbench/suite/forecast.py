"""How long a plan will take, from the recorded costs of like measurements."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharpbench.results.coded import coded
from sharpbench.results.store import ResultsStore, left_out_of, tell_left_out
from sharpbench.suite.outline import AnyPlan, Question, SubjectLike
from sharpbench.suite.survey import Standing

__all__ = ["Expected", "forecast"]


@dataclass(frozen=True)
class Expected:
    """What a subject will take: ``seconds`` of work, without the ``unlike`` of its ``measurements``, of
    which nothing is recorded, and without training (``trains``) if nothing is known of that
    (``untrained``)."""

    seconds: float = 0.0
    measurements: int = 0
    unlike: int = 0
    untrained: bool = False
    trains: bool = False


def forecast(plan: AnyPlan, store: ResultsStore, standings: Sequence[Standing]) -> list[Expected]:
    """What is left to do for each subject of ``plan``, whose ``standings`` are given.

    A measurement takes the median of those of the same metric, with its parameters, on the same model, data
    set and kind of device. One that was never made there is scaled from those on other networks by how much
    longer other metrics take on this one than on those; a training by its number of epochs.
    """
    if not any(s.left.training or s.left.questions for s in standings):
        return [Expected() for _ in standings]
    recorded = _Recorded(store)
    return [
        _expected(plan, subject, standing, recorded, timed=plan.timed(subject))
        for subject, standing in zip(plan.subjects, standings, strict=True)
    ]


def _expected(
    plan: AnyPlan,
    subject: SubjectLike,
    standing: Standing,
    recorded: _Recorded,
    *,
    timed: bool,
) -> Expected:
    network = subject.network
    seconds, unlike, untrained = 0.0, 0, False
    trains = bool(standing.left.training) and subject.kind == "trained"
    if trains:
        epochs = subject.epochs
        each = recorded.epoch(subject)
        untrained = each is None
        due = sum(plan.trajectory.due(epoch, epochs) for epoch in range(1, epochs + 1))
        along = [recorded.measurement(label, network) or 0.0 for label in plan.trajectory.labels]
        seconds += epochs * (each or 0.0) + due * sum(along)
    for question in standing.left.questions:
        one = recorded.measurement(question.metric_label, network)
        if one is None:
            unlike += 1
        else:
            seconds += one * _times(plan, question, timed=timed)
    return Expected(seconds, len(standing.left.questions), unlike, untrained, trains)


def _times(plan: AnyPlan, question: Question, *, timed: bool) -> int:
    """How often a measurement is made: those whose cost is recorded are repeated."""
    return 1 + plan.repeats if timed and question.alone else 1


Network = tuple[str, ...]


class _Recorded:
    """The costs that the results folder knows, of all of its suites."""

    def __init__(self, store: ResultsStore) -> None:
        times: dict[tuple[str, Network], list[float]] = {}
        epochs: dict[Network, list[float]] = {}
        for label, network, seconds in _costs(store):
            if label is None:
                epochs.setdefault(network, []).append(seconds)
            else:
                times.setdefault((label, network), []).append(seconds)
        self._times: dict[str, dict[Network, float]] = {}
        for (name, network), found in times.items():
            self._times.setdefault(name, {})[network] = statistics.median(found)
        self._epochs = {network: statistics.median(found) for network, found in epochs.items()}
        self._ratios: dict[tuple[Network, Network], float | None] = {}

    def epoch(self, subject: SubjectLike) -> float | None:
        """Seconds of an epoch of such a training."""
        dataset, model, device = subject.network
        return self._epochs.get((dataset, model, subject.recipe_name, device))

    def measurement(self, label: str, network: Network) -> float | None:
        """Seconds of one measurement."""
        known = self._times.get(label, {})
        if network in known:
            return known[network]
        scaled = {
            other: seconds * ratio
            for other, seconds in known.items()
            if other[-1] == network[-1] and (ratio := self._ratio(network, other)) is not None
        }
        if not scaled:
            return None
        found = statistics.median(scaled.values())
        self._times[label][network] = found
        return found

    def _ratio(self, network: Network, other: Network) -> float | None:
        """How many times as long metrics take on ``network``, over those that were measured on both."""
        if (network, other) not in self._ratios:
            both = [
                times[network] / times[other]
                for times in self._times.values()
                if network in times and times.get(other, 0) > 0
            ]
            self._ratios[network, other] = statistics.median(both) if both else None
        return self._ratios[network, other]


def _costs(store: ResultsStore) -> Iterator[tuple[str | None, Network, float]]:
    """A metric's label, the network and the seconds of each measurement; without a label those of an epoch,
    of whose network the recipe is a part.

    Without pandas, whose import takes as long as all the rest of a dry run.
    """
    folders, _ = store.asked(None)
    if not folders:
        return
    rows = store.columns.rows(folders, ("kind", "name", "label", "value", "cost"), convert=coded)
    tell_left_out(store.root, left_out_of(rows.facts), sum(f["unproven"] for f in rows.facts))
    kind, name, label = (rows.columns[column] for column in ("kind", "name", "label"))
    value, cost = rows.columns["value"], rows.columns["cost"]
    seconds = np.array([_median_seconds(text) for text in cost.words] + [np.nan])[cost.codes]
    of_cost = kind.among("measurement", "problem") & (label.codes >= 0) & np.isfinite(seconds)
    of_epoch = kind.among("training") & name.among("seconds") & np.isfinite(value)
    for row in np.flatnonzero(of_cost | of_epoch).tolist():
        about = rows.facts[rows.folder[row]]["columns"] or {}
        parts = ["dataset", "model_label"]
        if of_epoch[row]:
            parts += ["recipe"]
        elif about.get("problem_label") is not None:
            parts = ["problem_label"]
        network: tuple[Any, ...] = tuple(about.get(part) for part in (*parts, "device"))
        if None in network:
            continue
        if of_epoch[row]:
            yield None, network, float(value[row])
        else:
            yield label.words[label.codes[row]], network, float(seconds[row])


def _median_seconds(cost: str) -> float:
    found = json.loads(cost).get("median_seconds")
    return np.nan if found is None else float(found)
