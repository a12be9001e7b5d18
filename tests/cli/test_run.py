"""run, report, export, compare."""

from __future__ import annotations

import signal

import pytest
import typer

from sharpbench.cli import run as verb
from sharpbench.errors import Terminated
from tests.cli.command import sharpbench
from tests.conftest import MINI_SUITE


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


def test_what_is_not_installed_is_told_before_the_run(monkeypatch):
    from sharpbench.metrics.backends import base
    from sharpbench.suite.prepared import prepare

    prepared = prepare("hessian_ground_truth")
    plan = prepared.plan
    assert prepared.not_installed() == []
    there = base.find_spec
    monkeypatch.setattr(base, "find_spec", lambda n: None if n == "curvlinops" else there(n))
    (told,) = prepared.not_installed()
    asked = [q.metric for s in plan.subjects for q in plan.asked(s)]
    rivals = sum(getattr(m, "implementation", "") == "curvlinops" for m in asked)
    assert rivals > 0
    assert told == (
        f"{rivals:,} of {len(asked):,} measurements: curvlinops is not installed: "
        "pip install 'sharpbench[rivals]'"
    )


@pytest.mark.parametrize(
    ("first", "code"), [(KeyboardInterrupt(), 130), (Terminated(signal.SIGTERM), 143)]
)
def test_a_second_signal_does_not_cut_off_what_is_said_of_the_first(monkeypatch, first, code):
    said = []

    def presses(text, **how):
        signal.raise_signal(signal.SIGINT)
        said.append(text)

    monkeypatch.setattr(verb.err, "print", presses)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(typer.Exit) as ended, verb.resumable():
            raise first
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.exit_code == code
    (told,) = said
    assert told.endswith("what was recorded is kept, the same command resumes")
