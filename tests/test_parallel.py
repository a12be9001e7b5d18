"""Networks in real process groups: what wraps them is taken off, or refused with a sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.waiting import PATIENCE

WORKER = """
import json, sys
import torch
import torch.distributed as dist
from torch import nn
import sharpbench as sb
from sharpbench.errors import InputError
from sharpbench.subject import Subject

rank, where = int(sys.argv[1]), sys.argv[2]
try:
    dist.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=2)
except RuntimeError as error:
    print(json.dumps({"skipped": str(error)}))
    sys.exit()

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))

def figures(model):
    # Each process has data of its own: a backward pass through the wrapper would mix them.
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(rank))
    subject = Subject(model, x, torch.arange(10) % 3)
    names = ("hessian_trace", "sam_sharpness", "curvature_rate")
    return [sb.measure(subject, name).value for name in names]

def tried(wrap):
    try:
        wrapped = wrap(build())
    except Exception as error:
        return {"unwrapped": f"{type(error).__name__}: {error}"}
    try:
        return {"figures": figures(wrapped)}
    except InputError as error:
        return {"refused": str(error)}

def fsdp2(model):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.device_mesh import init_device_mesh
    mesh = init_device_mesh("cpu", (2,))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)

def fsdp1(model):
    from torch.distributed.fsdp import FullyShardedDataParallel
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"))

told = {"plain": figures(build())}
told["ddp"] = tried(nn.parallel.DistributedDataParallel)
told["compiled ddp"] = tried(lambda m: torch.compile(nn.parallel.DistributedDataParallel(m)))
told["fsdp2"] = tried(fsdp2)
told["fsdp1"] = tried(fsdp1)
print(json.dumps(told))
dist.barrier()
dist.destroy_process_group()
"""


def test_each_process_measures_its_own_network_on_its_own_data(tmp_path):
    command = [sys.executable, "-c", WORKER]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for rank in range(2)
    ]  # fmt: skip
    told = []
    try:
        for worker in workers:
            out, err = worker.communicate(timeout=PATIENCE)
            assert worker.returncode == 0, err
            told.append(json.loads(out.splitlines()[-1]))
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    if "skipped" in told[0]:
        pytest.skip(f"a gloo group can't be started here: {told[0]['skipped']}")
    first, second = told
    assert first["plain"] != second["plain"]
    for one in told:
        assert one["ddp"]["figures"] == one["plain"]
        assert one["compiled ddp"]["figures"] == one["plain"]
        for name in ("fsdp2", "fsdp1"):  # where this torch can shard on a CPU at all
            assert "figures" not in one[name]
            assert "sharded over processes" in one[name].get("refused", "sharded over processes")
