"""One trained subject from plan to records: train or load it, evaluate, measure, transform, measure again."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sharpbench.errors import (
    TimeLimitExceeded,
    first_line,
    message_of,
)
from sharpbench.loss import TokenLoss
from sharpbench.measurement import Measurement
from sharpbench.metrics import Metric
from sharpbench.metrics.base import state_hash
from sharpbench.metrics.untouched import data_of_splits, same_data
from sharpbench.outputs import Decisions
from sharpbench.results.checksum import Damaged
from sharpbench.results.keys import (
    trajectory_figure_key,
)
from sharpbench.results.record import Record
from sharpbench.results.store import SubjectFolder
from sharpbench.seeds import derive_seed
from sharpbench.shared import Room, Shared
from sharpbench.subject import Splits, Subject, Task
from sharpbench.suite.asking import Draft, asked_record, explain
from sharpbench.suite.measuring import Measuring, hash_of_tensors
from sharpbench.suite.plan import SubjectPlan
from sharpbench.suite.remaining import Remaining, remaining
from sharpbench.suite.task import Notify, Step, SubjectTask, Watch
from sharpbench.training.base import TrainingLog

__all__ = ["SubjectRun"]

_UNDEFINED = "needs classes, and this is a regression"


class SubjectRun(Measuring):
    """Trains a network unless its weights are there, and asks it the plan's questions."""

    def __init__(
        self,
        task: SubjectTask,
        subject: SubjectPlan,
        folder: SubjectFolder,
        notify: Notify,
        watch: Watch,
    ) -> None:
        super().__init__(task, folder, notify, watch)
        self.subject = subject
        self._splits: Splits | None = None

    @property
    def splits(self) -> Splits:
        """The data, loaded on first use: a subject that is complete never touches it."""
        if self._splits is None:
            seed = derive_seed(self.subject.seed, "data")
            with self.step(Step("data", "loading the data", self.plan.training_seconds)):
                splits = self.subject.dataset.load(self.task.data, seed=seed)
            self._splits = splits.to(self.device)
        return self._splits

    @property
    def judged(self) -> Splits:
        return self.splits

    @property
    def loss_task(self) -> Task:
        return self.splits.task

    @property
    def decisions(self) -> Decisions | None:
        return Decisions("token") if self._tokens else super().decisions

    @property
    def _tokens(self) -> int | None:
        """How many of a sample's tokens have a class; None where the sample has one."""
        targets = self.splits.train_targets
        if self.splits.task != "classification" or targets.ndim == 1:
            return None
        return targets[0].numel()

    def run(self) -> None:
        """Bring weights and records up to the plan."""
        left = remaining(self.plan, self.subject, self.folder, run=self.task.run)
        if left.training is None and self.subject.data is None:
            left = self._on_the_same_data(left)
        if left.training:
            left = self._trained()
        try:
            self._bring_up(left)
        except Damaged as error:
            if (
                self.folder.weights_fault() is None
            ):  # they are there, and not those that were measured
                self.mended.append(self.folder.set_weights_aside(str(error)))
                self._bring_up(self._trained())

    def _trained(self) -> Remaining:
        """Train, if that can be done, and keep what came of it; what is left then."""
        along: list[Record] = []
        try:
            model, log = self._train(along)
            found = self._network(model, log)
            weights = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        except TimeLimitExceeded as error:
            self._give_up("timeout", message_of(error))
        except Exception as error:
            self._give_up("error", explain(error))
        else:
            if log.diverged:
                self._give_up("diverged", log.diverged, dataclasses.asdict(log))
            else:
                self._keep(found, weights, along)
        return remaining(self.plan, self.subject, self.folder, run=self.task.run)

    def _on_the_same_data(self, left: Remaining) -> Remaining:
        """``left``, or everything where the data, of which only loading tells, are others or not known."""
        description = self.folder.read()
        if description is None or description["status"] != "trained":
            return left
        try:
            found = _data_hash(self.splits)
        except Exception as error:
            self.problems.append(f"{self.label}: {explain(error)}")
            return left
        if found == description.get("data"):
            return left
        known = "have changed" if "data" in description else "were not recorded"
        self.mended.append(self.folder.set_aside(f"the data it was trained and judged on {known}"))
        return remaining(self.plan, self.subject, self.folder, run=self.task.run)

    def _bring_up(self, left: Remaining) -> None:
        """Measure what is missing. Raises Damaged if the stored weights are not the described ones."""
        description = self.folder.read()
        assert description is not None
        if description["status"] == "trained":
            weights = description["weights"]
            self._ask(weights, left, lambda: self._stored_subject(weights))
        else:
            self.problems.append(f"{self.label}: {description['reason']}")

    # --- training -----------------------------------------------------------------------------

    def _build(self) -> nn.Module:
        seed = derive_seed(self.subject.seeds.initialization, "init")
        splits = self.splits
        with self.step(Step("model", "building the network", self.plan.training_seconds)):
            return self.subject.model.build(splits.input_shape, splits.outputs, seed=seed).to(
                self.device
            )

    def _train(self, along: list[Record]) -> tuple[nn.Module, TrainingLog]:
        """A trained network and how that went; what is measured along the way is added to ``along``."""
        self.notify(f"training {self.label}", 0)
        model = self._build()
        recipe = self.subject.recipe
        trajectory = self.plan.trajectory

        def measure_along(epoch: int, current: nn.Module) -> None:
            if trajectory.metrics and trajectory.due(epoch, recipe.epochs):
                point = self._as_subject(current)
                with point.sharing(Shared(Room())):
                    along.extend(
                        self._trajectory_record(m, point, epoch) for m in trajectory.metrics
                    )

        training = Step("training", "training", self.plan.training_seconds, trains=True)
        with self.step(training), same_data(recipe.label, data_of_splits(self.splits)):
            log = recipe.train(
                model,
                self.splits,
                seed=derive_seed(self.subject.seeds.training, "training"),
                callbacks=[measure_along],
            )
        if not isinstance(log, TrainingLog):
            raise TypeError(
                f"{recipe.label}: train must return a TrainingLog, not {type(log).__name__}"
            )
        return model, log

    def _network(self, model: nn.Module, log: TrainingLog) -> dict[str, Any]:
        """What the description says of a trained network."""
        return {
            **self._description("trained", None),
            "weights": state_hash(model),
            "parameters": sum(p.numel() for p in model.parameters()),
            "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()}),
            "data": _data_hash(self.splits),
            "training": dataclasses.asdict(log),
            "shared_machine": self.task.shared_machine,
        }

    def _keep(self, found: dict[str, Any], weights: dict[str, Tensor], along: list[Record]) -> None:
        """Commit weights and description, with what was measured along training."""
        before = self.folder.read()
        done: dict[str, list[int]] = {}
        if before and before["status"] == "trained":
            if before["weights"] == found["weights"]:
                known = before.get("trajectory_epochs") or {}
                done = {q: known.get(q, []) for q in before.get("trajectories") or []}
            elif self.folder.weights_fault() is None:
                self.mended.append(
                    self.folder.set_aside(
                        "training again, to measure along the way, gave other weights: another version of "
                        "torch or another machine"
                    )
                )
        trajectory = self.plan.trajectory
        done |= {trajectory.metric_key(metric): [] for metric in trajectory.metrics}
        for record in along:
            done[record.plan_key].append(record.epoch or 0)
        if along:
            self.write(along)
        told = {"trajectories": sorted(done), "trajectory_epochs": done}
        self.folder.commit({**found, **told}, weights)
        self.trained = True

    def _give_up(self, status: str, reason: str, log: dict[str, Any] | None = None) -> None:
        existing = self.folder.read()
        if existing and existing["status"] == "trained":
            # The trained network stays; only the measurements along training are missing.
            self.problems.append(f"{self.label}: {reason}")
            return
        self.folder.commit({**self._description(status, reason), "training": log}, None)

    def _description(self, status: str, reason: str | None) -> dict[str, Any]:
        return {
            "key": self.subject.key,
            "label": self.label,
            "dataset_label": self.subject.dataset.label,
            "model_label": self.subject.model.label,
            "recipe_label": self.subject.recipe.label,
            "identity": self.subject.identity,
            "unsaid": self.subject.unsaid,
            "status": status,
            "reason": reason,
            "run": self.task.run,
        }

    def _trajectory_record(self, metric: Metric, subject: Subject, epoch: int) -> Record:
        question = self.plan.trajectory.metric_key(metric)
        key = trajectory_figure_key(self.subject.key, question, epoch)
        base = asked_record(key, question, metric, "trajectory", self.task.run)

        def ask(draft: Draft) -> tuple[Measurement, None]:
            draft.add(unit=metric.unit_on(subject))
            with self.limited():
                return metric.checked_measure(subject, seed=self._metric_seed), None

        return self.attempt(metric, dataclasses.replace(base, epoch=epoch), ask)

    def _stored_subject(self, weights: str) -> Subject | None:
        """The trained network on its data; None, with the reason told, if it can't be built.

        Raises Damaged unless the hash of what is stored is ``weights``.
        """
        stored = self.folder.weights()
        try:
            model = self._build()
            with self.step(Step("weights", "loading its weights", self.plan.training_seconds)):
                misfit = _misfit(model, stored)
                model.to(self.device).eval()
        except Exception as error:
            self.problems.append(f"{self.label}: {explain(error)}")
            return None
        if misfit:
            raise Damaged(f"it is of another network: {misfit}")
        if state_hash(model) != weights:
            raise Damaged("its weights are not the trained ones: their hash is another")
        return self._as_subject(model)

    def _as_subject(self, model: nn.Module) -> Subject:
        splits = self.splits
        return Subject(
            model,
            splits.train_inputs,
            splits.train_targets,
            # The mean over the tokens of all samples, which is what training took.
            loss=TokenLoss(1 / self._tokens) if self._tokens else None,
            task=splits.task,
            splits=splits,
            initial=self._initial,
        )

    @cached_property
    def _initial(self) -> nn.Module:
        """The network as training found it, derived anew from the seed; the random state stays."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            return self._build()


def _misfit(model: nn.Module, weights: dict[str, Tensor]) -> str | None:
    """Load ``weights`` into ``model``; why they don't fit, if they don't."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        return first_line(error)
    return None


def _data_hash(splits: Splits) -> str:
    """SHA-256 of everything that is trained on and judged by."""
    names = ("train_inputs", "train_targets", "test_inputs", "test_targets")
    return hash_of_tensors((name, getattr(splits, name)) for name in names)
