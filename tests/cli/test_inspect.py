"""list, show, data, env."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path

from sharpbench.version import __version__
from tests.cli.command import in_process, sharpbench
from tests.waiting import PATIENCE


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


def test_list_as_json_has_what_a_program_needs(capsys, monkeypatch):
    listed = json.loads(in_process(capsys, monkeypatch, "list", "metrics", "--json").out)
    (trace,) = [row for row in listed["metrics"] if row["name"] == "hessian_trace"]
    assert trace["parameters"]["implementation"] == "native"
    assert trace["summary"].startswith("Trace")
    assert list(listed) == ["metrics"]
    suites = json.loads(in_process(capsys, monkeypatch, "list", "suites", "--json").out)
    assert {"name": "quick", "title": "Four sharpness metrics on small networks"} in suites[
        "suites"
    ]


def test_to_list_suites_torch_is_not_needed():
    told = "import sys, sharpbench.cli as c; sys.argv = ['sharpbench', 'list', 'suites']\n"
    told += "try: c.main()\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_cite_names_version_commit_and_sources(capsys, monkeypatch):
    told = in_process(capsys, monkeypatch, "cite", "hessian_trace").out
    assert f"version = {{{__version__}}}" in told
    assert "commit" in told
    assert "hessian_trace, version " in told
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    last = project["tool"]["hatch"]["version"]["fallback-version"]
    assert f"version: {last}\n" in (root / "CITATION.cff").read_text()
    assert __version__ == importlib.metadata.version("sharpbench")
