"""Every kind of plug-in with its registry, each imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sharpbench.errors import InputError, nearest_names

if TYPE_CHECKING:
    from sharpbench.registry import Registry

__all__ = ["KINDS", "registry_of"]

_HOMES = {
    "metric": "sharpbench.metrics",
    "model": "sharpbench.models",
    "dataset": "sharpbench.datasets",
    "recipe": "sharpbench.training",
    "transformation": "sharpbench.invariance",
    "problem": "sharpbench.problems",
    "section": "sharpbench.report.sections",
}

KINDS = tuple(_HOMES)


def registry_of(kind: str) -> Registry[Any]:
    """The registry of ``metric``, ``model``, …; raises InputError for a kind that there is none of."""
    if kind not in _HOMES:
        raise InputError(f"unknown kind {kind!r}. {nearest_names(kind, KINDS)}")
    registry: Registry[Any] = getattr(importlib.import_module(_HOMES[kind]), f"{kind}s")
    return registry
