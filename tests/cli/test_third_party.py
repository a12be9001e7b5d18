"""Plug-ins of other packages, whole and broken ones, in every verb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.command import sharpbench

METRIC = """
from dataclasses import dataclass
from sharpbench.measurement import Measurement
from sharpbench.metrics import Metric, metrics

class Own(Metric):
    title, unit, space = "weight norm", "", "parameter"

    def measure(self, subject, *, seed):
        total = sum(float(p.detach().double().square().sum()) for p in subject.model.parameters())
        return Measurement(total**0.5, samples=len(subject.inputs))
"""

MODULES = {
    "flat/__init__.py": "from flat.norms import *\n",
    # Exported from another place than where it stands, and registered by hand as well.
    "flat/norms.py": METRIC
    + '''
@metrics.register
@dataclass(frozen=True)
class WeightNorm(Own):
    """l2 norm of all parameters."""
    name = "weight_norm"

@dataclass(frozen=True)
class Leaving(Own):
    """Ends the program when it is asked."""
    name = "leaving"
    def measure(self, subject, *, seed): raise SystemExit(3)

@dataclass(frozen=True)
class OtherName(Own):
    """Called otherwise."""
    name = "another_name"

@dataclass(frozen=True)
class Silent(Own):
    name = "silent"

@dataclass
class Blank:
    """No metric at all."""
    name = "blank"

class Plain(Own):
    """Not a dataclass of its own."""
    name = "plain"

@dataclass(frozen=True)
class Needy(Own):
    """Wants a parameter."""
    name = "needy"
    size: int

@dataclass(frozen=True)
class Odd(Own):
    """Has a parameter of an unknown type."""
    name = "odd"
    size: "Nowhere" = None

@dataclass(frozen=True)
class Hollow(Metric):
    """Measures nothing."""
    name, title, unit, space = "hollow", "hollow", "", "parameter"

@dataclass(frozen=True)
class CurvatureRate(Own):
    """Takes a name."""
    name = "curvature_rate"

number = 5
''',
    "raises.py": "raise KeyError('at import')\n",
    "leaves.py": "import sys\nsys.exit(0)\n",
    "stops.py": "raise KeyboardInterrupt\n",
    "changes.py": '''
from dataclasses import dataclass
from sharpbench.invariance import Transformation

@dataclass(frozen=True)
class Needy(Transformation):
    """Can't be made with its defaults."""
    name, kind, preserves = "picky", "chart", "function"
    factor: float = 0.0
    def __post_init__(self):
        raise KeyError("factor")
    def change(self, model, *, seed): pass

@dataclass(frozen=True)
class Bursting(Transformation):
    """Raises when it is applied."""
    name, kind, preserves = "bursting", "chart", "function"
    def change(self, model, *, seed): raise OSError("no such layer")
''',
}  # fmt: skip

METRICS = {
    "absent": ("no_such_thing:Metric", "No module named 'no_such_thing'"),
    "called_so": ("flat:OtherName", "its class attribute `name` is 'another_name'"),
    "silent": ("flat:Silent", "needs a docstring"),
    "blank": ("flat:Blank", "must derive from Metric"),
    "plain": ("flat:Plain", "must be a frozen dataclass"),
    "needy": ("flat:Needy", "has a parameter 'size' without a default"),
    "odd": ("flat:Odd", "name 'Nowhere' is not defined"),
    "hollow": ("flat:Hollow", "lacks measure"),
    "number": ("flat:number", "must derive from Metric"),
    "missing": ("flat:Missing", "'flat' has no 'Missing'"),
    "spelled": ("flat.norms", "must be package.module:name"),
    "raises": ("raises:X", "'raises' raised KeyError: 'at import'"),
    "leaves": ("leaves:X", "'leaves' raised SystemExit: 0"),
    "stops": ("stops:X", "'stops' raised KeyboardInterrupt"),
    "twice": ("flat:WeightNorm", "both take the name"),
}
"""Name to the entry point and the reason why it is none."""

SUITE = """
name = "tiny"
seeds = [0]

[[subjects]]
dataset = { name = "two_moons", n = 120 }
model = { name = "mlp", widths = [4] }
recipe = { name = "adam", epochs = 1 }

[[metrics]]
name = "weight_norm"

[[metrics]]
name = "leaving"

[[transformations]]
name = "bursting"

[[transformations]]
name = "neuron_permutation"
"""


def _distribution(site: Path, name: str, groups: dict[str, dict[str, str]]) -> None:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, points in groups.items():
        lines += [f"[sharpbench.{group}]", *(f"{key} = {value}" for key, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Two packages with one sound metric and everything that can be wrong with others, in every kind."""
    site = tmp_path_factory.mktemp("site")
    for name, text in MODULES.items():
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(text)
    broken = {"raises": "raises:X", "leaves": "leaves:X", "stops": "stops:X"}
    points = {name: pointer for name, (pointer, _) in METRICS.items()}
    _distribution(
        site,
        "flat_metrics",
        {
            "metrics": {
                **points,
                "weight_norm": "flat:WeightNorm",
                "leaving": "flat:Leaving",
                "curvature_rate": "flat:CurvatureRate",
            },
            "models": {**broken, "mlp": "flat:CurvatureRate"},
            "datasets": {**broken, "two_moons": "leaves:X"},
            "recipes": {**broken, "adam": "stops:X"},
            "transformations": {
                **broken,
                "picky": "changes:Needy",
                "bursting": "changes:Bursting",
            },
            "problems": broken,
            "sections": {**broken, "right": "leaves:X"},
        },
    )
    _distribution(site, "more_metrics", {"metrics": {"twice": "flat:Silent"}})
    return {"PYTHONPATH": f"{site}:{Path(__file__).parents[2]}"}


def test_they_are_listed_with_the_reason(installed, tmp_path):
    listed = sharpbench("list", cwd=tmp_path, COLUMNS="400", **installed)
    assert listed.returncode == 0, listed.stderr
    rows = {line.split()[0]: line for line in listed.stdout.splitlines() if "unavail" in line}
    for name, (_, reason) in METRICS.items():
        assert reason in rows[name]
    assert "l2 norm of all parameters" in listed.stdout
    assert "'curvature_rate' is the built-in one: flat:CurvatureRate has to take another" in (
        listed.stdout
    )
    assert listed.stdout.count("'leaves' raised SystemExit: 0") >= 6
    assert "note: metric 'curvature_rate' is the built-in one" in listed.stderr
    assert "both take the name metric 'twice': neither is used" in listed.stderr
    assert "hessian_trace" in listed.stdout


def test_to_show_one_tells_the_reason(installed, tmp_path):
    shown = sharpbench("show", "metric", "stops", cwd=tmp_path, **installed)
    assert shown.returncode == 2
    assert "unavailable" in shown.stderr
    assert "raised KeyboardInterrupt" in shown.stderr
    sound = sharpbench("show", "metric", "weight_norm", cwd=tmp_path, **installed)
    assert sound.returncode == 0
    assert "l2 norm" in sound.stdout
    taken = sharpbench("show", "metric", "curvature_rate", cwd=tmp_path, **installed)
    assert taken.returncode == 0
    assert "arXiv:2511.01438" in taken.stdout
    assert "flat:CurvatureRate has to take another name" in taken.stderr


def test_no_run_or_report_breaks_on_them(installed, tmp_path):
    (tmp_path / "tiny.toml").write_text(SUITE)
    dry = sharpbench("run", "tiny.toml", "--dry-run", cwd=tmp_path, **installed)
    assert dry.returncode == 0, dry.stderr
    assert "1 to train" in dry.stdout
    assert "dataset 'two_moons' is the built-in one: leaves:X" in dry.stderr
    assert "metric 'curvature_rate' is the built-in one: flat:CurvatureRate" in dry.stderr
    assert dry.stderr.count("both take the name metric 'twice': neither is used") == 1
    done = sharpbench("run", "tiny.toml", "--workers", "2", cwd=tmp_path, **installed)
    assert done.returncode == 1  # a transformation raises, and a metric wants to leave
    assert "OSError: no such layer" in done.stderr
    assert "leaving on two_moons" in done.stderr
    assert "it called sys.exit(3)" in done.stderr
    page = tmp_path / "reports" / "tiny" / "index.html"
    assert "weight norm" in page.read_text()
    page.unlink()
    again = sharpbench("report", "tiny", cwd=tmp_path, **installed)
    assert again.returncode == 0, again.stderr
    assert page.exists()
    for name in ("leaves", "stops"):
        (tmp_path / "bad.toml").write_text(SUITE.replace("weight_norm", name))
        bad = sharpbench("run", "bad.toml", "--dry-run", cwd=tmp_path, **installed)
        assert bad.returncode == 2
        assert "bad.toml, line 11: metrics[1].name: metric" in bad.stderr.replace("\n", " ")
        assert "is unavailable" in bad.stderr


def test_measure_and_data_status_do_not_break_on_them(installed, tmp_path):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\ndef build():\n    return nn.Linear(2, 2)\n"
    )
    common = ["measure", "--model", "nets:build", "--dataset", "two_moons", "--json"]
    measured = sharpbench(*common, "--metric", "weight_norm", cwd=tmp_path, **installed)
    assert measured.returncode == 0, measured.stderr
    assert json.loads(measured.stdout)["value"] > 0
    refused = sharpbench(*common, "--metric", "leaves", cwd=tmp_path, **installed)
    assert refused.returncode == 2
    assert "'leaves' raised SystemExit: 0" in refused.stderr
    status = sharpbench("data", "status", cwd=tmp_path, **installed)
    assert status.returncode == 0
    assert "digits: needs no files" in status.stdout
    said = [line.split()[0] for line in status.stdout.splitlines()]
    assert said.count("unavailable") == 3
    assert "dataset 'two_moons' is the built-in one" in status.stderr


def test_check_does_not_break_on_them(installed, tmp_path):
    done = sharpbench("check", "weight_norm", cwd=tmp_path, **installed)
    assert "Traceback" not in done.stderr
    assert "picky: not made: transformation 'picky': KeyError: 'factor'" in done.stdout
    assert "not applied: OSError: no such layer" in done.stdout
    assert "deterministic on" in done.stdout
    refused = sharpbench("check", "stops:X", cwd=tmp_path, **installed)
    assert refused.returncode == 2
    assert "raised KeyboardInterrupt" in refused.stderr
