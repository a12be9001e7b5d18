"""The device that a user names."""

from __future__ import annotations

from sharpbench.errors import InputError

__all__ = ["check_device"]


def check_device(device: str) -> None:
    """Raises InputError unless ``device`` is cpu, cuda or cuda:N and is there."""
    if device == "cpu":
        return
    import torch  # not above: the processor is there without it

    try:
        named = torch.device(device)
    except RuntimeError:
        raise InputError(f"unknown device {device!r}: cpu, cuda or cuda:N") from None
    if named.type not in {"cpu", "cuda"}:
        raise InputError(f"device {device!r} is not supported: cpu, cuda or cuda:N")
    if named.type == "cpu":
        return
    if not torch.cuda.is_available():
        raise InputError("no CUDA device is available here (torch.cuda.is_available() is False)")
    if (named.index or 0) >= (count := torch.cuda.device_count()):
        raise InputError(f"device {device!r} is not here: CUDA devices count from 0 to {count - 1}")
