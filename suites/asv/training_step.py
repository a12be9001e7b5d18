"""One epoch of each recipe, in epochs of plain Adam."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sharpbench.datasets import datasets
from sharpbench.models import models
from sharpbench.training import recipes

from . import workloads
from .curvature_rate import best


class Epoch:
    params = (["sgd", "sam", "crr"],)
    param_names = ("recipe",)
    timeout = 300
    unit = "Adam epochs"

    def setup(self, recipe: str) -> None:
        workloads.as_in_a_suite()
        self.splits = datasets.create("digits").load(Path(), seed=0)

    def _epoch(self, recipe: str, **parameters: object) -> Callable[[], None]:
        built = models.create("mlp", {"widths": [128, 128]})

        def epoch() -> None:
            network = built.build(self.splits.input_shape, self.splits.outputs, seed=1)
            recipes.create(recipe, {"epochs": 1, "lr": 1e-3, **parameters}).train(
                network, self.splits, seed=2
            )

        return epoch

    def track_over_adam(self, recipe: str) -> float:
        extra = {"base": "adam"} if recipe == "sam" else {}
        found = best({"ours": self._epoch(recipe, **extra), "adam": self._epoch("adam")})
        return found["ours"] / found["adam"]
