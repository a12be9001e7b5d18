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
