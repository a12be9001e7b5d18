"""measure, with networks and checkpoints as people have them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from sharpbench.models import models
from tests.cli.command import sharpbench


def test_measure_a_users_own_network(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\ndef build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))\n"
    )
    network = models.create("mlp", {"widths": [8], "activation": "relu"}).build(
        (1, 8, 8), 10, seed=0
    )
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    common = [
        "measure",
        "--model",
        "nets:build",
        "--weights",
        "w.safetensors",
        "--dataset",
        "digits",
    ]
    done = sharpbench(
        *common, "--metric", "curvature_rate", "--param", "orders=[1,2]", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["details"]["orders"] == [1, 2]
    assert row["standard_error"] > 0
    two = ("--metric", "sam_sharpness", "--metric", "hessian_top_eigenvalue")
    table = sharpbench(*common, *two, cwd=tmp_path)
    assert table.returncode == 0
    assert "sam_sharpness" in table.stdout
    assert "hessian_top_eigenvalue" in table.stdout


NETS = """
import torch
from torch import nn

def mlp(outputs=10):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, outputs))

class Logits(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()
    def forward(self, x):
        return {"logits": self.net(x)}

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.b.weight = self.a.weight
    def forward(self, x):
        return self.c(self.b(self.a(x.flatten(1))))

def three(): return mlp(3)
def one(): return mlp(1)
def boom(): raise KeyError("oops")
def nothing(): pass
def needs(n): return mlp()
def wide(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
five = 5
"""


def _files(nets):
    """Weights as people keep them, by file name; each an everyday checkpoint of `mlp`, or none."""
    from safetensors.torch import save_file, save_model

    state = nets.mlp().state_dict()
    torch.save(state, "plain.pt")
    torch.save({"module." + k: v for k, v in state.items()}, "parallel.pt")
    torch.save({"_orig_mod." + k: v for k, v in state.items()}, "compiled.pt")
    torch.save({"state_dict": {"model." + k: v for k, v in state.items()}, "epoch": 3}, "ckpt.pt")
    torch.save({"model": state, "optimizer": {"state": {}}}, "model.pt")
    torch.save({"epoch": 3, "note": "x"}, "no_state.pt")
    torch.save(nets.mlp(), "whole.pt")
    torch.save([1, 2], "list.pt")
    torch.save(torch.zeros(3), "tensor.pt")
    torch.save({k: v for k, v in state.items() if k != "3.bias"}, "lacks.pt")
    torch.save(state | {"1.weight": torch.zeros(4, 63)}, "shape.pt")
    save_file({k: v.half() for k, v in state.items()}, "half.bin")
    save_file(state | {"1.weihgt": torch.zeros(1)}, "extra.safetensors")
    save_file(state | {"1.bias": torch.full((4,), torch.nan)}, "nan.safetensors")
    save_model(nets.Tied(), "tied.safetensors")
    torch.save(nets.Tied().state_dict() | {"b.weight": torch.zeros(64, 64)}, "untied.pt")
    Path("text.pt").write_text("hello")
    Path("empty.pt").write_bytes(b"")
    Path("cut.pt").write_bytes(Path("plain.pt").read_bytes()[:500])
    Path("cut.safetensors").write_bytes(Path("half.bin").read_bytes()[:100])


def test_measure_loads_everyday_networks_and_says_what_is_wrong_with_others(
    tmp_path, monkeypatch, capsys
):
    """In this process, one after the other: the exit code and one sentence, never a traceback."""
    import importlib

    from sharpbench import cli

    monkeypatch.chdir(tmp_path)
    (tmp_path / "entering_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    nets = importlib.import_module("entering_nets")
    _files(nets)
    wrong = {
        ("three", ""): "class 9, and the network has 3 outputs",
        ("one", ""): "one output a class",
        ("boom", ""): "raised KeyError: 'oops'",
        ("nothing", ""): "returned NoneType",
        ("needs", ""): "without arguments",
        ("wide", ""): "doesn't run on inputs of shape (N, 1, 8, 8)",
        ("five", ""): "is a int, not a function",
        ("mlp", "text.pt"): "neither a safetensors file",
        ("mlp", "empty.pt"): "is empty",
        ("mlp", "cut.pt"): "damaged or incomplete",
        ("mlp", "cut.safetensors"): "damaged or incomplete",
        ("mlp", "whole.pt"): "could run code",
        ("mlp", "list.pt"): "holds a list",
        ("mlp", "tensor.pt"): "holds a Tensor",
        ("mlp", "no_state.pt"): "no state dict: its entries are 'epoch', 'note'",
        ("mlp", "lacks.pt"): "it lacks '3.bias'",
        ("mlp", "shape.pt"): "'1.weight' has the shape (4, 63)",
        ("mlp", "extra.safetensors"): "no '1.weihgt'. Did you mean '1.weight'",
        ("mlp", "nan.safetensors"): "'1.bias' of the network holds NaN",
        ("Tied", "untied.pt"): "two values for 'a.weight' and 'b.weight'",
        ("mlp", "nowhere.pt"): "no weights file",
    }
    right = [("Logits", ""), ("Tied", ""), ("Tied", "tied.safetensors"), ("mlp", "")]
    right += [("mlp", f) for f in ("plain.pt", "parallel.pt", "compiled.pt", "ckpt.pt", "model.pt")]
    right += [("mlp", "half.bin")]
    ends = {}
    for builder, weights in [*wrong, *right]:
        command = ["sharpbench", "measure", "--model", f"entering_nets:{builder}", "--json"]
        command += ["--dataset", "digits", "--metric", "margin", "--param", "samples=20"]
        monkeypatch.setattr(sys, "argv", command + (["--weights", weights] if weights else []))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        ends[builder, weights] = (ended.value.code, *capsys.readouterr())
    for asked, told in wrong.items():
        code, _, said = ends[asked]
        assert (code, len(said.splitlines())) == (2, 1), asked
        assert told in said
    for asked in right:
        assert ends[asked][0] == 0, (asked, ends[asked])
    values = {asked: json.loads(ends[asked][1])["value"] for asked in right}
    plain = values.pop(("mlp", ""))
    assert values.pop(("Tied", "tied.safetensors")) == values.pop(("Tied", ""))
    assert all(v == pytest.approx(plain, rel=1e-2) for v in values.values())
