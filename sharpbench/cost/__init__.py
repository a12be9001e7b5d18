"""What a measurement costs: wall time, peak memory, work."""

from sharpbench.cost.meter import Cost, measure_cost
from sharpbench.cost.process_memory import peak_in_fresh_process

__all__ = [
    "Cost",
    "measure_cost",
    "peak_in_fresh_process",
]
