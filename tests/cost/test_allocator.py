"""In processes of their own: the allocator's setting can't be taken back."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import torch
from pathlib import Path
from sharpbench.allocator import give_back_freed_memory, keep_freed_memory
from sharpbench.cost import measure_cost

def resident():
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in x)
    return int(line.split()[1]) / 1024

kept = {keep}
if kept:
    assert keep_freed_memory()
    assert keep_freed_memory()
before = resident()
tensor = torch.ones(50_000_000)  # 191 MiB
del tensor
held = resident() - before
assert (held > 150) == kept, held
give_back_freed_memory()
assert resident() - before < 20
_, cost = measure_cost(lambda: torch.ones(25_000_000).sum(), repeats=0, device=torch.device("cpu"))
assert 80 < cost.peak_bytes / 2**20 < 130, cost.peak_bytes / 2**20
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="set for glibc alone")
@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_is_kept_and_the_peak_of_a_call_still_seen(keep):
    script = SCRIPT.replace("{keep}", str(keep))
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
