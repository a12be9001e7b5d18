"""Plug-ins of other packages, whole and broken ones, in every verb."""

from __future__ import annotations

from tests.cli.command import sharpbench
from tests.conftest import MINI_SUITE


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
