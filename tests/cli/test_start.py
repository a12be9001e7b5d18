"""What every verb shares: a start without torch, exit codes, one sentence for bad input."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from tests.cli.command import sharpbench


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


def test_suites_are_listed_without_torch():
    script = (
        "import sys; from sharpbench.cli.inspect import list_; list_('suites'); "
        "print([m for m in ('torch', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "quick" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


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
