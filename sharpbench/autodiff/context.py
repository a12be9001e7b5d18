"""What torch needs to be told before a network is differentiated more than once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["repeatedly_differentiable"]


@contextmanager
def repeatedly_differentiable() -> Iterator[None]:
    """Attention by its defining matrix products: the fused CPU and CUDA kernels have no second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield
