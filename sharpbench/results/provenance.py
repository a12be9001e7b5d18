"""Where results come from: versions, machine, settings."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from sharpbench.version import __version__

__all__ = ["collect", "git_state", "new_run_id", "run_on_node", "same_run"]

_PACKAGES = ("torch", "numpy", "scipy", "pandas", "scikit-learn", "pyhessian", "safetensors")
_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "CUBLAS_WORKSPACE_CONFIG",
)

_ON_NODE = re.compile(r"^(\d{8}T\d{6}\.\d{6}-\d+)-[0-9a-f]{8}$")


def new_run_id() -> str:
    """A name for a run that sorts by time and does not repeat on one machine, nor in one process."""
    now = datetime.datetime.now(datetime.UTC)
    return f"{now:%Y%m%dT%H%M%S.%f}-{os.getpid()}"


def run_on_node(run: str, node: str) -> str:
    """What a run is called on a node of a cluster, whose figures have its provenance."""
    return f"{run}-{node[:8]}"


def same_run(one: str | None, other: str | None) -> bool:
    """Whether two names are of one run, whichever its nodes."""
    if one is None or other is None:
        return False
    return _ON_NODE.sub(r"\1", one) == _ON_NODE.sub(r"\1", other)


def collect(
    command: str, *, device: str, workers: int, threads: int, computes: bool = True
) -> dict[str, Any]:
    """Everything a reader needs to judge or repeat a run, as JSON-able values.

    ``computes``: whether anything is computed; else torch's settings and the GPU, which no figure depends on,
    are left out, and torch is not imported for them.
    """
    versions = {"python": platform.python_version(), "sharpbench": __version__}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "command": command,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git": git_state(),
        "versions": versions,
        "machine": {
            "system": f"{platform.system()} {platform.release()}",
            "processor": _processor(),
            "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
            "logical_cores": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
            "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        },
        "device": _device(device) if computes else {"type": device.partition(":")[0]},
        "settings": {
            "device": device,
            "workers": workers,
            "threads": threads,
            **(_of_torch() if computes else {}),
            "environment": {k: os.environ[k] for k in _VARIABLES if k in os.environ},
        },
    }


def _of_torch() -> dict[str, Any]:
    import torch  # not above: a run that has nothing to do tells where it ran, and takes none

    return {
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def git_state() -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout that sharpbench runs from, None for an installed wheel."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    if sys.platform.startswith("linux"):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _device(device: str) -> dict[str, Any]:
    if not device.startswith("cuda"):
        return {"type": "cpu"}
    import torch

    if not torch.cuda.is_available():  # a cluster's head: each node tells of its own
        return {"type": "cuda"}
    properties = torch.cuda.get_device_properties(device)
    return {
        "type": "cuda",
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "capability": f"{properties.major}.{properties.minor}",
    }
