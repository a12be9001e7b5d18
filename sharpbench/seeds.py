"""Random seeds derived from a base seed and the axes that should share randomness.

Nothing in sharpbench draws from global random state: a figure depends on its own derived seed alone,
whatever the order of the work or the number of workers. Where a plug-in or a user's own function does,
that state begins at a derived seed, too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = [
    "STREAMS",
    "Seeds",
    "derive_seed",
    "generator_there",
    "numpy_generator",
    "torch_generator",
]

STREAMS = ("data", "initialization", "training")
"""What of a trained network is random, each with a seed of its own."""


@dataclass(frozen=True, order=True)
class Seeds:
    """The seeds of a trained network.

    ``data``: the split and the label noise, and whatever is drawn to judge and to measure the network:
    networks of one data seed are compared on the same points. ``initialization``: the initial weights.
    ``training``: the order of the batches and the dropout masks.
    """

    data: int
    initialization: int
    training: int

    @classmethod
    def all(cls, seed: int) -> Seeds:
        """One seed for every stream."""
        return cls(seed, seed, seed)

    @property
    def alike(self) -> bool:
        return self.data == self.initialization == self.training

    def identity(self) -> int | dict[str, int]:
        """What a content key is made of: the number where one stands for all."""
        return self.data if self.alike else {s: getattr(self, s) for s in STREAMS}

    def __str__(self) -> str:
        if self.alike:
            return f"seed={self.data}"
        return ", ".join(f"{stream}={getattr(self, stream)}" for stream in STREAMS)


def derive_seed(base: int, *axes: str | int) -> int:
    """A 63-bit seed, a function of ``base`` and ``axes`` alone (SHA-256).

    Two callers that name the same axes share their randomness: two recipes of one base seed share
    ``derive_seed(seed, "init")``, and with it their initial weights.
    """
    text = "\x1f".join([str(int(base)), *map(str, axes)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int) -> torch.Generator:
    """A CPU generator: draws are made on the CPU and moved, so that every device sees the same ones."""
    import torch  # not above: suite files speak of seeds, and are read in an instant

    return torch.Generator(device="cpu").manual_seed(seed)


_MANY = 4_000_000


def generator_there(
    generator: torch.Generator, device: torch.device, numbers: int
) -> torch.Generator:
    """The generator itself, or one on a GPU, seeded by its next draw, for more than four million numbers:
    drawn on the processor they take longer than a product with them. Keys tell the kinds of device apart.
    """
    import torch

    if device.type != "cuda" or numbers <= _MANY:
        return generator
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)


def numpy_generator(seed: int) -> np.random.Generator:
    """NumPy's generator for ``seed``."""
    import numpy as np

    return np.random.default_rng(seed)
