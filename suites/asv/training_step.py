"""One epoch of each recipe, in epochs of plain Adam.

The second epoch: what a recipe does once, as CRR's check of its derivatives, is told by `CrrCheck`.
"""

from __future__ import annotations

from pathlib import Path

from sharpbench.datasets import datasets
from sharpbench.models import models
from sharpbench.training import recipes

from . import workloads

_ROUNDS = 5


class Epoch:
    params = (["sgd", "sam", "crr"],)
    param_names = ("recipe",)
    timeout = 300
    unit = "Adam epochs"

    def setup(self, recipe: str) -> None:
        workloads.as_in_a_suite()
        self.splits = datasets.create("digits").load(Path(), seed=0)

    def _second_epoch(self, recipe: str, **parameters: object) -> float:
        network = models.create("mlp", {"widths": [128, 128]}).build(
            self.splits.input_shape, self.splits.outputs, seed=1
        )
        log = recipes.create(recipe, {"epochs": 2, "lr": 1e-3, **parameters}).train(
            network, self.splits, seed=2
        )
        return log.epochs[1]["seconds"]

    def track_over_adam(self, recipe: str) -> float:
        extra = {"base": "adam"} if recipe == "sam" else {}
        found = [
            (self._second_epoch(recipe, **extra), self._second_epoch("adam"))
            for _ in range(_ROUNDS)
        ]
        ours, adam = (min(seconds) for seconds in zip(*found, strict=True))
        return ours / adam
