"""`sharpbench perf`: what is wrong is told before asv is asked."""

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sharpbench import perf
from sharpbench.errors import InputError
from sharpbench.perf_history import history
from sharpbench.report.perf_page import write_perf_page
from sharpbench.report.site import write_index
from tests.browser import WIDTHS, in_a_browser, violations

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True)

    (tmp_path / "asv.conf.json").write_text("{}")
    git("init", "-q")
    (tmp_path / "file").write_text("first")
    git("add", ".")
    git("commit", "-qm", "one")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="needs a checkout"):
        perf.run(None, quick=True)


def test_an_unknown_commit(checkout):
    with pytest.raises(InputError, match="'nonsense' is not a commit"):
        perf.compare("nonsense", "HEAD", None, quick=True, factor=1.1)


def test_a_pattern_that_is_none(checkout):
    with pytest.raises(InputError, match=r"--bench '\(' is not a regular expression"):
        perf.run("(", quick=True)


def test_each_commit_is_measured_from_its_own_files(checkout, monkeypatch):
    seen = []

    def asv(root, arguments, *, source=None):
        content = (source / "file").read_text() if source else None
        seen.append((arguments[0], content))
        return 0

    monkeypatch.setattr(perf, "_asv", asv)
    (checkout / "file").write_text("uncommitted")
    assert perf.compare("HEAD", "HEAD", "hessian", quick=False, factor=1.2) == 0
    assert seen == [("run", "first"), ("run", "first"), ("compare", None)]
    seen.clear()
    assert perf.compare("HEAD", "HEAD", "hessian", quick=True, factor=1.2) == 0
    assert seen == [("run", "first"), ("run", "first")]  # one sample each: no verdict
    left = subprocess.run(
        ["git", "-C", str(checkout), "worktree", "list"], capture_output=True, text=True, check=True
    )
    assert len(left.stdout.splitlines()) == 1


def test_the_time_of_an_import_is_that_of_the_files_that_are_measured(tmp_path):
    """A clock that the package itself turns on shows, whatever is installed."""
    slow = tmp_path / "slow"
    shutil.copytree(
        ROOT / "sharpbench", slow / "sharpbench", ignore=shutil.ignore_patterns("__pycache__")
    )
    path = slow / "sharpbench" / "__init__.py"
    turned = "import time\nof_old = time.perf_counter\ntime.perf_counter = lambda: of_old() + 1e6\n"
    path.write_text(f"{path.read_text()}\n{turned}")
    code = (
        "import importlib.util, sys; sys.path.insert(0, sys.argv[1]); "
        "spec = importlib.util.spec_from_file_location('import_time', sys.argv[2]); "
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); "
        "module._REPEATS = 1; print(module.Import().track_package())"
    )
    took = {}
    for name, source in (("as it is", ROOT), ("slow", slow)):
        done = subprocess.run(
            [sys.executable, "-c", code, str(source), str(ROOT / "suites" / "asv" / "import_time.py")],
            capture_output=True, text=True, check=True, cwd=tmp_path,
        )  # fmt: skip
        took[name] = float(done.stdout)
    assert took["slow"] > 1e6 > took["as it is"]


@pytest.fixture
def measured(tmp_path):
    """asv's own files of eight commits: one benchmark doubles at the fifth, one had an earlier version."""
    from asv.benchmarks import Benchmarks
    from asv.results import Results
    from asv.runner import BenchmarkResult
    from asv.util import write_json

    told = {
        name: {"name": name, "version": "2", "param_names": ["size"], "params": [["10", "'big'"]],
               "unit": unit, "type": "time", "code": "", "number": 0, "timeout": 60}
        for name, unit in (("hessian.time_product", "seconds"), ("sam.peakmem_step", "bytes"))
    }  # fmt: skip
    folder = tmp_path / "results"
    (folder / "m").mkdir(parents=True)
    write_json(str(folder / "benchmarks.json"), told, Benchmarks.api_version)
    write_json(str(folder / "m" / "machine.json"), {"machine": "m"}, 1)
    for number in range(8):
        one = Results(
            {"machine": "m"},
            {},
            f"{number:08x}" * 5,
            1_790_000_000_000 + number * 86_400_000,
            "3.11",
            "env",
            {},
        )
        for name, benchmark in told.items():
            old = number == 0 and name.startswith("sam")
            slow = 2.0 if number >= 4 and name.startswith("hessian") else 1.0
            size = 1e6 if name.startswith("sam") else 1.0
            base = [0.01 * slow * size, 0.2 * size]
            samples = [[v * (1 + 0.001 * k) for k in range(5)] for v in base]
            result = BenchmarkResult(base, samples, [1, 1], 0, "", None)
            one.add_result({**benchmark, "version": "1" if old else "2"}, result)
        one.save(str(folder))
    return folder


def test_the_history_is_by_commit_and_tells_what_rose_for_good(measured):
    found = {(s.benchmark, s.label): s for s in history(measured)}
    assert len(found) == 4
    slow = found["hessian.time_product", "size 10"]
    assert [p.date for p in slow.points] == sorted(p.date for p in slow.points)
    assert len(slow.points) == 8
    assert (
        len(found["sam.peakmem_step", "size big"].points) == 7
    )  # the other version is another benchmark
    (rise,) = slow.regressions
    assert (rise.before, rise.after) == (3, 4)
    assert rise.ratio == pytest.approx(2, rel=0.01)
    assert rise.sure
    assert [(left, right) for left, right, _ in slow.steps] == [(0, 3), (4, 7)]
    assert all(
        not s.regressions for key, s in found.items() if key != ("hessian.time_product", "size 10")
    )


def test_the_page_shows_every_benchmark_and_asks_no_other_host(measured, tmp_path):
    page = write_perf_page(history(measured), tmp_path / "perf").read_text()
    assert page.count("<figure>") == 2
    assert "<b>8</b> commits" in page
    assert "×2.00<" in page
    assert "<code>00000003</code> and <code>00000004</code>" in page
    first = json.loads(html.unescape(re.search("<metadata>(.*?)</metadata>", page)[1]))
    points = first["panels"][0]["series"][0]
    assert points["name"] == "size 10"
    assert points["xs"][0].startswith("00000000 of 2026-")
    assert points["ys"][0] == "10.0 ms"
    assert not re.findall(r"""<(?:script|link|img)[^>]*(?:src|href)=["']https?:""", page)


@in_a_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_wrong_with_the_page(measured, tmp_path, width):
    page = write_perf_page(history(measured), tmp_path / "perf", index=True)
    assert violations(page, tmp_path, width=width) == []


def test_the_index_of_reports_has_a_line_of_it(measured, tmp_path):
    write_perf_page(history(measured), tmp_path / "reports" / "perf")
    text = write_index(tmp_path / "reports").read_text()
    assert '<a href="perf/index.html">Performance by commit</a>: 8 commits, 2 benchmarks' in text
    assert '<span class="flag">1 slower for good</span>' in text
    assert "<b>0</b> reports" in text


def test_what_rests_on_single_samples_is_no_verdict(measured, tmp_path):
    for path in (measured / "m").glob("0*.json"):
        told = json.loads(path.read_text())
        for name, row in told["results"].items():
            told["results"][name] = row[:4] if isinstance(row, list) else row
        path.write_text(json.dumps(told))
    found = history(measured)
    rises = [rise for series in found for rise in series.regressions]
    assert [rise.sure for rise in rises] == [False]
    page = write_perf_page(found, tmp_path / "perf").read_text()
    assert "no verdict (1)" in page
    assert "<p>Nothing.</p>" in page


def test_without_measurements_it_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match="sharpbench perf run"):
        history(tmp_path)
