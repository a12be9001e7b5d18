"""What every verb shares: a start without torch, exit codes, one sentence for bad input."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch

from tests.cli.command import sharpbench
from tests.conftest import MINI_SUITE


def told_by(script: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout


def loaded_by(script: str, *heavy: str) -> list[str]:
    """Which of the packages a fresh process has loaded after running ``script``."""
    told = told_by(f"import json, sys; {script}; print(json.dumps([*sys.modules]))")
    return sorted(set(json.loads(told.splitlines()[-1])) & set(heavy))


def test_help_is_instant_because_torch_is_not_imported():
    assert loaded_by("import sharpbench.cli", "torch", "pandas", "scipy") == []
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


HEAVY = ("matplotlib", "pandas", "scipy", "sklearn", "torch")
LISTED = "from sharpbench.cli.inspect import list_; list_({!r})"


def test_suites_are_listed_without_torch():
    assert "quick" in told_by(LISTED.format("suites"))
    assert loaded_by(LISTED.format("suites"), *HEAVY) == []


def test_names_are_completed_without_torch():
    script = "from sharpbench.cli.options import names_of; print(names_of({!r}, ''))"
    for kind in ("metric", "model", "dataset", "recipe", "transformation", "problem"):
        assert loaded_by(script.format(kind), *HEAVY) == []


def test_datasets_are_listed_without_scikit_learn():
    assert loaded_by(LISTED.format("datasets"), "matplotlib", "pandas", "sklearn") == []


def test_results_are_read_and_reported_without_torch():
    assert (
        loaded_by("from sharpbench.api.results import Results, load_records, report", "torch") == []
    )


def test_importing_the_package_does_not_import_torch():
    assert loaded_by("import sharpbench; sharpbench.__version__", "torch") == []


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
        (["list", "metrik"], "Did you mean 'metric'"),
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


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "suite.toml", "--results", "taken"],
        ["run", "suite.toml", "--results", "taken/below"],
        ["run", "taken/suite.toml"],
        ["export", "all.csv", "--results", "taken"],
    ],
)
def test_a_file_where_a_folder_is_meant_is_told(arguments, tmp_path):
    (tmp_path / "taken").write_text("")
    (tmp_path / "suite.toml").write_text(MINI_SUITE)
    done = sharpbench(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "taken" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_cuda_where_there_is_none(tmp_path):
    done = sharpbench("run", "quick", "--device", "cuda", cwd=tmp_path)
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr
