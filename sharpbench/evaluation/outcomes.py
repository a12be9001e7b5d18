"""What a network did on each test point, small enough to be stored: two networks are compared by them.

Networks that are judged on the same points differ in what each gets right and the other doesn't; how sure
that difference is depends on these points alone (McNemar 1947), and no figure over all of them tells it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sharpbench.subject import Loss, Task

__all__ = ["OUTCOMES_VERSION", "Outcomes", "outcomes"]

OUTCOMES_VERSION = 1


@dataclass(frozen=True)
class Outcomes:
    """Of each of n test points: ``loss`` (n,), and whether it is ``wrong`` (n,), None in a regression.

    ``points``: a hash of the test points and their targets: equal for networks judged on the same ones.
    """

    loss: np.ndarray
    wrong: np.ndarray | None
    points: str

    def packed(self) -> dict[str, Any]:
        """JSON-able: losses as float16 (relative error 2⁻¹¹, from 6·10⁻⁸ on), bits of what is wrong."""
        with np.errstate(over="ignore"):
            losses = self.loss.astype("<f2")
        found: dict[str, Any] = {"samples": len(self.loss), "points": self.points}
        found["loss"] = base64.b64encode(losses.tobytes()).decode()
        if self.wrong is not None:
            found["wrong"] = base64.b64encode(np.packbits(self.wrong).tobytes()).decode()
        return found

    @classmethod
    def unpacked(cls, stored: Mapping[str, Any]) -> Outcomes:
        """The outcomes of what `packed` gave. Raises ValueError or KeyError for anything else."""
        count = stored["samples"]
        loss = np.frombuffer(base64.b64decode(stored["loss"]), "<f2").astype(float)
        wrong = None
        if "wrong" in stored:
            bits = np.frombuffer(base64.b64decode(stored["wrong"]), np.uint8)
            wrong = np.unpackbits(bits, count=count).astype(bool)
        if len(loss) != count or (wrong is not None and len(wrong) != count):
            raise ValueError(f"outcomes of {count} points are stored, and {len(loss)} losses")
        return cls(loss, wrong, stored["points"])


def outcomes(
    model: nn.Module, inputs: Tensor, targets: Tensor, task: Task, loss: Loss | None = None
) -> Outcomes:
    """The outcomes of ``model`` at ``inputs`` (n, …) with ``targets`` (n,), computed in float64 from its
    outputs. ``loss``: of a regression, one value a sample; else ½ squared error."""
    import torch  # not above: a report reads outcomes, and takes no torch

    from sharpbench.subject import batched_outputs, per_sample_loss

    found = batched_outputs(model, inputs).double()
    real = targets.double() if targets.is_floating_point() else targets
    by_loss = loss if loss is not None and task == "regression" else per_sample_loss(task)
    losses = by_loss(found, real).cpu().numpy()
    wrong = (found.argmax(1) != targets).cpu().numpy() if task == "classification" else None
    digest = hashlib.sha256()
    for part in (inputs, targets):
        part = part.detach().cpu().contiguous()
        digest.update(f"{part.dtype}:{tuple(part.shape)}".encode())
        digest.update(part.reshape(-1).view(torch.uint8).numpy().data)
    return Outcomes(losses, wrong, digest.hexdigest()[:20])
