"""Random seeds derived from a base seed and the axes that should share randomness.

Nothing in sharpbench draws from global random state: a figure depends on its own derived seed alone,
whatever the order of the work or the number of workers.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

__all__ = ["derive_seed", "numpy_generator", "torch_generator"]


def derive_seed(base: int, *axes: str | int) -> int:
    """A 63-bit seed, a function of ``base`` and ``axes`` alone (SHA-256).

    Two callers that name the same axes share their randomness: two recipes of one base seed share
    ``derive_seed(seed, "init")``, and with it their initial weights.
    """
    text = "\x1f".join([str(int(base)), *map(str, axes)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int) -> torch.Generator:
    """A CPU generator: draws are made on the CPU and moved, so that every device sees the same ones."""
    return torch.Generator(device="cpu").manual_seed(seed)


def numpy_generator(seed: int) -> np.random.Generator:
    """NumPy's generator for ``seed``."""
    return np.random.default_rng(seed)
