"""CONTRIBUTING.md as a newcomer follows it, in a copy of the package: five additions of one file and one
line each, and a new question in one file beside it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENTRY_POINTS = re.compile(r"^```toml\n(\[project\.entry-points.*?)^```$", re.MULTILINE | re.DOTALL)

DOCUMENT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

SUITE = """
name = "additions"
seeds = [0]

[[subjects]]
dataset = { name = "circles", n = 200 }
model = { name = "linear_classifier", bias = [true, false] }
recipe = { name = "adam", epochs = 2 }

[[metrics]]
name = "weight_norm"

[[transformations]]
name = "weight_shrinking"
"""

ASK = """
import math
from sharpbench.results.store import load_records
rows = load_records("results")
asked = rows[(rows["kind"] == "measurement") & (rows["status"] == "ok")]
before = asked[asked["transformation"].isna()]["value"].tolist()
after = asked[asked["transformation"].notna()]["value"].tolist()
assert len(before) == len(after) == 2, rows[["label", "status", "reason"]].to_string()
assert all(math.isclose(a, 0.9 * b) for a, b in zip(after, before, strict=True))
"""


def _run(copy: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=copy, capture_output=True, text=True, timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(copy), "COLUMNS": "200", "NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory):
    """A copy of the package with everything added that the document adds."""
    copy = tmp_path_factory.mktemp("newcomer")
    shutil.copytree(
        ROOT / "sharpbench", copy / "sharpbench", ignore=shutil.ignore_patterns("__pycache__")
    )
    blocks = BLOCK.findall(DOCUMENT)
    lines = [(place, text) for place, text in blocks if place.endswith("__init__.py")]
    files = [(place, text) for place, text in blocks if not place.endswith("__init__.py")]
    files = [(place, text) for place, text in files if "/" in place]
    assert len(files) == len(lines) == 5
    for place, text in files:
        assert not (copy / place).exists()
        (copy / place).write_text(text, encoding="utf-8")
    for place, text in lines:
        assert text.count("\n") == 1
        registry = (copy / place).read_text(encoding="utf-8")
        assert registry.count("    builtins={\n") == 1
        added = registry.replace("    builtins={\n", f"    builtins={{\n        {text}")
        (copy / place).write_text(added, encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def reported(newcomer) -> str:
    """The page of a suite of what was added."""
    (newcomer / "additions.toml").write_text(SUITE)
    _run(newcomer, "-m", "sharpbench", "run", "additions.toml")
    return (newcomer / "reports" / "additions" / "index.html").read_text(encoding="utf-8")


def test_what_the_document_adds_is_listed_runs_and_is_reported(newcomer, reported):
    listed = _run(newcomer, "-m", "sharpbench", "list")
    names = ("weight_norm", "linear_classifier", "circles", "weight_shrinking", "converged")
    rows = [line for line in listed.splitlines() if line.strip().split(" ")[0] in names]
    assert len(rows) == len(names)
    assert "unavailable" not in listed
    _run(newcomer, "-c", ASK)
    assert "weight norm" in reported
    assert "weight_shrinking" in reported
    assert 'id="converged"' in reported
    assert 'id="average"' not in reported


def test_a_new_question_is_one_file_beside_the_package(newcomer, reported):
    """The sixth addition: nothing of the package is touched, and the results that are there answer it."""
    (file,) = [(place, text) for place, text in BLOCK.findall(DOCUMENT) if "/" not in place]
    (newcomer / file[0]).write_text(file[1], encoding="utf-8")
    told = [
        tomllib.loads(text)["project"]["entry-points"] for text in ENTRY_POINTS.findall(DOCUMENT)
    ]
    (points,) = [
        groups["sharpbench.sections"] for groups in told if "sharpbench.sections" in groups
    ]
    info = newcomer / "question-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: question\nVersion: 1.0\n")
    lines = "\n".join(f"{name} = {pointer}" for name, pointer in points.items())
    (info / "entry_points.txt").write_text(f"[sharpbench.sections]\n{lines}\n")
    assert "average" in _run(newcomer, "-m", "sharpbench", "list")
    _run(newcomer, "-m", "sharpbench", "report", "additions")
    page = (newcomer / "reports" / "additions" / "index.html").read_text(encoding="utf-8")
    assert 'id="average"' in page
    assert re.search(r"weight norm is [\d.]+ \[[−\d.]+, [\d.]+\] on average\.", page)
    assert 'id="missing"' not in page


def test_the_metric_of_the_document_stands_alone_too(newcomer, tmp_path):
    """Beside the installed package, as its first section has it."""
    source = newcomer / "sharpbench" / "metrics" / "weight_norm.py"
    shutil.copy(source, tmp_path / "weight_norm.py")
    done = subprocess.run(
        [sys.executable, "-m", "sharpbench", "check", "weight_norm:WeightNorm"],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout
    assert "stays under neuron_permutation" in done.stdout


def test_the_document_names_every_floor():
    from tests.imports import FLOORS

    table = [line for line in DOCUMENT.splitlines() if line.startswith("| `")]
    named = [sorted(re.findall(r"`([a-z_]+)/?`", line.split("|")[1])) for line in table]
    assert named == [sorted(set(floor) - {"__main__"}) for floor in reversed(FLOORS)]
