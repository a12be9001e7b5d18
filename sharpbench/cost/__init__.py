"""What a measurement costs: wall time, peak memory, work."""

from sharpbench.cost.meter import Cost, measure_cost

__all__ = ["Cost", "measure_cost"]
