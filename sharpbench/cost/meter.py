"""Wall time and peak memory of a call."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from sharpbench.allocator import give_back_freed_memory

__all__ = ["Cost", "measure_cost"]

T = TypeVar("T")

_SCATTER = 0.25
"""Interquartile range, as a part of the median, beyond which times count as unstable."""

_FOREIGN = 0.5
"""Cores kept busy by others beyond which the machine counts as shared."""

_FLUSH_BYTES = 256 << 20
"""More than the last-level cache of any GPU: written between repeats, so that each starts cold."""


@dataclass(frozen=True)
class Cost:
    """Time and memory of one computation, raw times kept.

    ``seconds`` is what the user waits for; ``device_seconds``, on CUDA alone, are the same calls
    between two events on the device. ``first_seconds`` is the first call, with whatever had to be
    set up (the warm-up, if there are repeats). ``peak_bytes`` is the most memory held above what was
    held before: on CUDA the allocator's peak, on Linux the resident set's; None where it can't be
    read.
    """

    seconds: tuple[float, ...]
    first_seconds: float
    peak_bytes: int | None
    device: str
    threads: int
    device_seconds: tuple[float, ...] = ()
    foreign_cores: float | None = None
    """Cores that other processes kept busy meanwhile; None where it can't be told."""
    flops: int | None = None
    """Floating-point operations of one call, by torch's counter; None unless asked for."""

    @property
    def median_seconds(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread_seconds(self) -> float | None:
        """Interquartile range, None for fewer than three repeats."""
        if len(self.seconds) < 3:
            return None
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return high - low

    @property
    def unstable(self) -> bool:
        """Whether the times are not to be relied on: they scatter, or other work ran beside."""
        scattered = (self.spread_seconds or 0.0) > _SCATTER * self.median_seconds
        return scattered or (self.foreign_cores or 0.0) > _FOREIGN


def measure_cost(
    call: Callable[[], T],
    *,
    repeats: int,
    device: torch.device,
    first: Callable[[], T] | None = None,
    spread: float | None = None,
    most: int = 50,
    count_flops: bool = False,
) -> tuple[T, Cost]:
    """The result of the first of 1 + ``repeats`` calls, and what a call costs.

    The first call (``first`` if given, e.g. the same with checks around it) warms up and gives the
    peak memory; the ``repeats`` others are timed. With ``repeats = 0`` the first call's time is all
    there is. On CUDA the device is synchronised before each reading of the clock, and its cache is
    written over between repeats. With ``spread`` more calls follow, up to ``most``, until the
    interquartile range is at most that part of the median. ``count_flops`` makes one more call under
    torch's FLOP counter.
    """
    gc.collect()
    memory = _CudaPeak(device) if device.type == "cuda" else _ResidentPeak()
    result, first_seconds, first_on_device = _timed(first or call, device)
    peak = memory.peak()
    watch = _ForeignWork()
    timed: list[tuple[float, float | None]] = []
    while len(timed) < repeats or (repeats and _too_wide(timed, spread) and len(timed) < most):
        _flush(device)
        timed.append(_timed(call, device)[1:])
    timed = timed or [(first_seconds, first_on_device)]
    cost = Cost(
        tuple(seconds for seconds, _ in timed),
        first_seconds,
        peak,
        _device_name(device),
        torch.get_num_threads(),
        tuple(on_device for _, on_device in timed if on_device is not None),
        watch.cores(),
        _flops(call) if count_flops else None,
    )
    return result, cost


def _too_wide(timed: list[tuple[float, float | None]], spread: float | None) -> bool:
    if spread is None:
        return False
    if len(timed) < 3:
        return True
    seconds = [wall for wall, _ in timed]
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return high - low > spread * middle


def _flush(device: torch.device) -> None:
    if device.type == "cuda":
        torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=device).zero_()


class _NoModules:
    """In the place of torch's tracker of modules, whose hooks fail on a gradient in the inputs."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def _flops(call: Callable[[], object]) -> int | None:
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with counter:
        call()
    return int(counter.get_total_flops()) or None


class _ForeignWork:
    """How many cores other processes use between its making and `cores`."""

    def __init__(self) -> None:
        self._wall, self._busy, self._own = time.perf_counter(), _busy(), time.process_time()

    def cores(self) -> float | None:
        wall = time.perf_counter() - self._wall
        if wall < 0.2:  # the system's counters tick in hundredths of a second
            return None
        own = time.process_time() - self._own
        return round(max((_busy() - self._busy - own) / wall, 0.0), 3)


def _busy() -> float:
    times = psutil.cpu_times()
    return float(
        sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
    )


def _timed(call: Callable[[], T], device: torch.device) -> tuple[T, float, float | None]:
    """The result, the wall time, and on CUDA the time between two events; in seconds."""
    if device.type != "cuda":
        start = time.perf_counter()
        result = call()
        return result, time.perf_counter() - start, None
    with torch.cuda.device(device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start = time.perf_counter()
        begin.record()
        result = call()
        end.record()
        torch.cuda.synchronize()
        return result, time.perf_counter() - start, begin.elapsed_time(end) / 1000


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class _CudaPeak:
    def __init__(self, device: torch.device) -> None:
        self.device = device
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        self.before = torch.cuda.memory_allocated(device)

    def peak(self) -> int | None:
        torch.cuda.synchronize(self.device)
        return int(torch.cuda.max_memory_allocated(self.device) - self.before)


class _ResidentPeak:
    """Linux lets a process reset its peak resident size by writing 5 to /proc/self/clear_refs."""

    def __init__(self) -> None:
        self.before: int | None = None
        if not sys.platform.startswith("linux"):
            return
        try:
            # Hand freed memory back first: a call that reuses it would look free of cost.
            give_back_freed_memory()
            Path("/proc/self/clear_refs").write_text("5")
            self.before = _status_bytes("VmRSS")
        except (OSError, AttributeError):
            self.before = None

    def peak(self) -> int | None:
        if self.before is None:
            return None
        return max(_status_bytes("VmHWM") - self.before, 0)


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{key} is not in /proc/self/status")
