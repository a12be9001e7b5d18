"""A network of a user's own from plan to records: built anew by each run, measured where it is another."""

from __future__ import annotations

from typing import Any

from torch import nn

from sharpbench.heads import once_read_otherwise
from sharpbench.metrics.base import state_hash
from sharpbench.metrics.untouched import data_of
from sharpbench.outputs import Decisions
from sharpbench.precision import told
from sharpbench.results.keys import content_key
from sharpbench.results.store import SubjectFolder
from sharpbench.subject import Loss, Splits, Subject, Task
from sharpbench.suite.given import SUITE_FILE
from sharpbench.suite.measuring import Measuring, hash_of_tensors
from sharpbench.suite.networks import NetworkPlan
from sharpbench.suite.own import change_seed, own_subject
from sharpbench.suite.remaining import remaining
from sharpbench.suite.task import Notify, Step, SubjectTask, Watch

__all__ = ["NetworkRun"]


class NetworkRun(Measuring):
    """Builds a user's network on its data and asks it the plan's questions.

    Figures belong to the network's state and to the bytes of the data: where either is another, all is
    measured again.
    """

    def __init__(
        self,
        task: SubjectTask,
        network: NetworkPlan,
        folder: SubjectFolder,
        notify: Notify,
        watch: Watch,
    ) -> None:
        super().__init__(task, folder, notify, watch)
        self.network = network
        self._subject: Subject | None = None

    def run(self) -> None:
        """Write the records that are missing."""
        building = Step("network", "building the network", self.plan.training_seconds)
        if (found := self.built_anew(building, self._built, self._told)) is None:
            return
        subject, weights = found
        self._subject = subject
        left = remaining(self.plan, self.network, self.folder, run=self.task.run)
        self._ask(weights, left, lambda: subject)

    def _built(self) -> tuple[Subject, str]:
        subject = self._subject_built()
        parts = [state_hash(subject.model), _data_hash(subject)]
        decisions = subject.decisions
        if self.network.given.loss is not None and decisions != Decisions():
            # Once judged by half the squared error, whatever its loss was, and as one that decides nothing.
            parts.append("judged by its loss")
        if once_read_otherwise(subject.model):
            parts.append("heads in groups, head by head, or of weights that are computed")
        if subject.weights_in not in ((), (subject.dtype,)):
            parts.append(f"judged in {told((subject.judged_model()[1],))}")
        return subject, content_key(parts)

    def _subject_built(self) -> Subject:
        given, device = self.network.given, self.network.device
        return own_subject(
            given,
            SUITE_FILE,
            seed=self.seed,
            device=device,
            data=self.task.data,
            dataset=self.network.data_from,
        )

    @property
    def _metric_seed(self) -> int:
        return self.seed if self.network.seed_itself else super()._metric_seed

    def _change_seed(self, name: str, draw: int) -> int:
        if self.network.seed_itself:
            return change_seed(self.seed, name)
        return super()._change_seed(name, draw)

    @property
    def loss_task(self) -> Task:
        assert self._subject is not None
        assert self._subject.task is not None
        return self._subject.task

    @property
    def judged(self) -> Splits | str:
        assert self._subject is not None
        if self._subject.splits is None:
            return (
                "there are no test data beside those that it is measured on: name batches of them, test = "
                '"package.module:batches"'
            )
        if self._subject.front is not None:
            return self._subject.splits
        return self._subject.splits.to(self._subject.device, self._subject.judged_model()[1])

    @property
    def decisions(self) -> Decisions | None:
        assert self._subject is not None
        found = self._subject.decisions
        return None if isinstance(found, str) else found

    @property
    def own_loss(self) -> Loss | None:
        assert self._subject is not None
        return self._subject.loss_of_samples

    @property
    def takes_tensors(self) -> bool:
        assert self._subject is not None
        return self._subject.front is None

    def _judged_model(self, subject: Subject) -> nn.Module:
        return subject.judged_model()[0]

    def _told(self, subject: Subject | None) -> dict[str, Any]:
        labels = {f"{part}_label": label for part, label in self.network.labels.items()}
        return {**labels, "said": None if subject is None else list(subject.said)}


def _data_hash(subject: Subject) -> str:
    return hash_of_tensors((str(i), part) for i, part in enumerate(data_of(subject)))
