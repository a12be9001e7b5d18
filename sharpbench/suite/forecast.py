"""How long a plan will take, from the recorded costs of like measurements."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sharpbench.results.store import ResultsStore, load_records
from sharpbench.suite.outline import AnyPlan, Question, SubjectLike
from sharpbench.suite.survey import Standing

if TYPE_CHECKING:
    import pandas as pd

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
        frame = _costs(store)
        self._times: dict[str, dict[Network, float]] = {}
        self._epochs: dict[Network, float] = {}
        self._ratios: dict[tuple[Network, Network], float | None] = {}
        if frame is None:
            return
        of_problem = frame["problem_label"].notna()
        for problems, parts in (
            (False, ["dataset", "model_label", "device"]),
            (True, ["problem_label", "device"]),
        ):
            rows = frame[of_problem == problems]
            timed = rows[rows["cost.median_seconds"].notna()]
            medians = timed.groupby(["label", *parts])["cost.median_seconds"].median()
            for (label, *network), seconds in medians.items():
                self._times.setdefault(label, {})[tuple(network)] = float(seconds)
        log = frame[(frame["kind"] == "training") & (frame["name"] == "seconds")]
        keys = ["dataset", "model_label", "recipe", "device"]
        self._epochs = {k: float(v) for k, v in log.groupby(keys)["value"].median().items()}

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


def _costs(store: ResultsStore) -> pd.DataFrame | None:
    columns = ["kind", "name", "label", "value", "dataset", "model_label", "recipe", "problem_label",
               "device", "cost.median_seconds"]  # fmt: skip
    if not store.root.is_dir() or not store.subjects():
        return None
    found: Any = load_records(
        store.root, columns=columns, kinds={"measurement", "problem", "training"}
    )
    return found[found["cost.median_seconds"].notna() | (found["kind"] == "training")]
