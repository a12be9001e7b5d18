"""``sharpbench env``."""

from __future__ import annotations

__all__ = ["env"]


def env() -> None:
    """Print versions, machine and settings: what a run stores as its provenance."""
    import json

    import torch

    from sharpbench.results.provenance import collect

    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = collect("sharpbench env", device=device, workers=1, threads=torch.get_num_threads())
    print(json.dumps(found, indent=1))
