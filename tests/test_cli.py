"""The command line, mostly in a real process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sharpbench.models import models
from tests.conftest import MINI_SUITE


def sharpbench(*arguments: str, cwd: Path | None = None, **environment: str):
    return subprocess.run(
        [sys.executable, "-m", "sharpbench", *arguments],
        capture_output=True, text=True, timeout=300, cwd=cwd,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", **environment},
    )  # fmt: skip


def test_help_is_instant_because_torch_is_not_imported():
    script = (
        "import sys, sharpbench.cli; "
        "print([m for m in ('torch', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    helped = sharpbench("--help")
    assert helped.returncode == 0
    for verb in (
        "run",
        "report",
        "list",
        "show",
        "measure",
        "check",
        "data",
        "compare",
        "export",
        "env",
    ):
        assert re.search(rf"\b{verb}\b", helped.stdout)


def test_importing_the_package_does_not_import_torch():
    script = "import sys, sharpbench; print('torch' in sys.modules, sharpbench.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[0] == "False"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quik"], "Did you mean 'quick'"),
        (["run", "nowhere.toml"], "no file 'nowhere.toml'"),
        (["run", "quick", "--workers", "0"], "Invalid value"),
        (["run", "quick", "--device", "tpu9"], "device"),
        (["run", "quick", "--only", "resnet"], "matches none"),
        (["report", "quick", "--results", "nowhere"], "no results of suite 'quick'"),
        (["show", "metric", "curvature"], "Did you mean 'curvature_rate'"),
        (["show", "metrik", "x"], "Did you mean 'metric'"),
        (["list", "metric"], "Did you mean 'metrics'"),
        (["data", "prepare", "mnits"], "Did you mean 'mnist'"),
        (["data", "prepare", "digits"], "needs no files"),
        (["check", "nothing"], "unknown metric"),
        (["measure", "--model", "x", "--dataset", "digits", "--metric", "sam_sharpness"], "package.module"),
        (
            ["measure", "--model", "builtins:dict", "--dataset", "digits", "--metric", "hessian"],
            "Did you mean",
        ),
        (["export", "x.csv", "--results", "nowhere"], "no results folder"),
        (["runn", "quick"], "No such command"),
    ],
)  # fmt: skip
def test_bad_input_exits_with_two_and_one_clear_message(arguments, message, tmp_path):
    done = sharpbench(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_cuda_where_there_is_none(tmp_path):
    done = sharpbench("run", "quick", "--device", "cuda", cwd=tmp_path)
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr


def test_missing_data_is_told_before_anything_is_trained(tmp_path):
    done = sharpbench("run", "mnist", cwd=tmp_path, SHARPBENCH_DATA=str(tmp_path / "empty"))
    assert done.returncode == 2
    assert "sharpbench data prepare mnist" in done.stderr
    assert "nothing was trained" in done.stderr
    assert not list(tmp_path.iterdir())


def test_run_report_export_compare(tmp_path):
    (tmp_path / "mini.toml").write_text(MINI_SUITE.replace("seeds = [0, 1]", "seeds = [0]"))
    dry = sharpbench("run", "mini.toml", "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0
    assert "8 to train, 0 cached; 72 measurements to make. Nothing was done" in dry.stdout
    assert not (tmp_path / "results").exists()
    done = sharpbench("run", "mini.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "reports/mini/index.html" in done.stdout.replace("\n", "")
    assert "[8/8]" in done.stderr
    page = tmp_path / "reports" / "mini" / "index.html"
    assert "sharpbench run mini.toml" in page.read_text()
    again = sharpbench("run", "mini.toml", "--dry-run", cwd=tmp_path)
    assert "0 to train, 8 cached; 0 measurements" in again.stdout
    page.unlink()
    assert sharpbench("report", "mini", cwd=tmp_path).returncode == 0
    assert page.exists()
    exported = sharpbench("export", "all.parquet", "--suite", "mini", cwd=tmp_path)
    assert exported.returncode == 0
    assert (tmp_path / "all.parquet").stat().st_size > 1000
    same = sharpbench("compare", "results", "results", cwd=tmp_path)
    assert same.returncode == 0
    assert "0 of them differ" in same.stdout


def test_failed_subjects_exit_with_one_and_are_in_the_report(tmp_path):
    text = MINI_SUITE.replace("seeds = [0, 1]", "seeds = [0]")
    text = text.replace('{ name = "adam", epochs = 3 }', '{ name = "sgd", lr = 1e38, epochs = 3 }')
    (tmp_path / "mini.toml").write_text(text)
    done = sharpbench("run", "mini.toml", cwd=tmp_path)
    assert done.returncode == 1
    assert "training loss" in done.stderr
    assert "diverged" in (tmp_path / "reports" / "mini" / "index.html").read_text()


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


def test_list_show_and_status(tmp_path):
    listed = sharpbench("list")
    for name in ("curvature_rate", "vit", "fashion_mnist", "sam", "weight_noise", "quick"):
        assert name in listed.stdout
    shown = sharpbench("show", "metric", "curvature_rate")
    assert "arXiv:2511.01438" in shown.stdout
    assert "directions" in shown.stdout
    status = sharpbench("data", "status", "--data-dir", str(tmp_path))
    assert "mnist: sharpbench data prepare mnist" in status.stdout
    assert json.loads(sharpbench("env").stdout)["versions"]["torch"]


def test_data_prepare_from_a_wrong_folder_says_what_it_tried(tmp_path):
    done = sharpbench(
        "data", "prepare", "mnist", "--from", str(tmp_path), "--data-dir", str(tmp_path / "d")
    )
    assert done.returncode == 2
    assert "neither train-images-idx3-ubyte nor train-images-idx3-ubyte.gz" in done.stderr


def test_third_party_plugins_come_through_entry_points(tmp_path):
    """Two installed packages: one whose metric works, one whose import fails."""
    info = tmp_path / "site" / "flat_metrics-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flat-metrics\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[sharpbench.metrics]\nweight_norm = flat_metrics:WeightNorm\nbroken = no_such_thing:Metric\n"
    )
    (tmp_path / "site" / "flat_metrics.py").write_text(
        "from dataclasses import dataclass\n"
        "from sharpbench.measurement import Measurement\n"
        "from sharpbench.metrics.base import Metric\n\n"
        "@dataclass(frozen=True)\n"
        "class WeightNorm(Metric):\n"
        '    """l2 norm of all parameters."""\n'
        '    name, title, space = "weight_norm", "weight norm", "parameter"\n'
        "    def measure(self, subject, *, seed):\n"
        "        total = sum(float(p.detach().double().square().sum()) for p in subject.model.parameters())\n"
        "        return Measurement(total**0.5, samples=len(subject.inputs))\n"
    )
    site = {"PYTHONPATH": str(tmp_path / "site")}
    listed = sharpbench("list", "metrics", cwd=tmp_path, **site)
    assert listed.returncode == 0
    assert "l2 norm of all parameters" in listed.stdout
    assert "unavailable" in listed.stdout
    assert "No module named 'no_such_thing'" in listed.stdout
    text = MINI_SUITE.replace("seeds = [0, 1]", "seeds = [0]").replace(
        '"curvature_rate"\nsamples = 32', '"weight_norm"'
    )
    (tmp_path / "mini.toml").write_text(text)
    done = sharpbench("run", "mini.toml", "--workers", "2", cwd=tmp_path, **site)
    assert done.returncode == 0, done.stderr
    assert "weight norm" in (tmp_path / "reports" / "mini" / "index.html").read_text()
    broken = sharpbench("show", "metric", "broken", cwd=tmp_path, **site)
    assert broken.returncode == 2
    assert "unavailable: ModuleNotFoundError" in broken.stderr
