"""One transformation after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Changed, Points, Transformation
from sharpbench.invariance.recording import note_left, noting
from sharpbench.seeds import derive_seed
from sharpbench.subject import Splits

__all__ = ["Composition"]


@transformations.register
@dataclass(frozen=True)
class Composition(Transformation):
    """The transformations ``of``, by name and with their defaults, one after another.

    Each must preserve the function; those that do not apply to a network are left out, and it is refused if
    none does.
    """

    name = "composition"
    reference = "its parts' own"
    preserves = "function"

    of: tuple[str, ...] = ("neuron_rescaling", "neuron_permutation")

    def __post_init__(self) -> None:
        if len(self.of) < 2 or self.name in self.of:
            raise ValueError(
                f"of must name at least two other transformations, got {list(self.of)}"
            )
        for part in self.parts:
            if part.preserves != "function":
                raise ValueError(f"{part.name} does not preserve the function")

    @property
    def parts(self) -> tuple[Transformation, ...]:
        return tuple(transformations.create(name) for name in self.of)

    def uses(self) -> tuple[Transformation, ...]:
        return self.parts

    def transform(self, model: nn.Module, *, seed: int, splits: Splits | None = None) -> Changed:
        changed, maps = model, []
        each: list[tuple[str, dict[str, str]]] = []
        without: list[tuple[str, str]] = []
        for place, part in enumerate(self.parts):
            with noting() as left:
                try:
                    # A copy for each: one that refuses half-way leaves no trace.
                    one = part.transform(
                        changed, seed=derive_seed(seed, part.name, place), splits=splits
                    )
                except TransformationRefused as refusal:
                    reason = refusal
                    without.append((part.name, str(refusal)))
                    continue
            changed = one.model
            maps.append(one.points)
            each.append((part.name, left))
        if not maps:
            raise TransformationRefused(f"none of {', '.join(self.of)} applies: {reason}")
        for name, why in without:
            note_left(name, f"as a whole: {why}")
        for name, left in each:
            for layer, why in left.items():
                alone = all(layer in other for _, other in each)
                note_left(layer, why if alone else f"by {name}: {why}")
        return Changed(changed, partial(_one_after_another, maps))

    def apply(self, model: nn.Module, *, seed: int, splits: Splits | None = None) -> nn.Module:
        return self.transform(model, seed=seed, splits=splits).model

    def change(self, model: nn.Module, *, seed: int) -> None:
        raise NotImplementedError("a composition takes copies of a network: see `transform`")

    def points(self, inputs: Tensor) -> Tensor:
        """With every part applied; `transform` knows which ones were."""
        return _one_after_another([part.points for part in self.parts], inputs)


def _one_after_another(maps: Sequence[Points], inputs: Tensor) -> Tensor:
    for each in maps:
        inputs = each(inputs)
    return inputs
