"""What a measurement costs: wall time, peak memory, work."""

from sharpbench.cost.meter import Cost, measure_cost
from sharpbench.cost.orphans import end_with_parent, without_main
from sharpbench.cost.process_memory import peak_in_fresh_process

__all__ = [
    "Cost",
    "end_with_parent",
    "measure_cost",
    "peak_in_fresh_process",
    "without_main",
]
