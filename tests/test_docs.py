"""The documentation's site as CI builds it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sharpbench.plugins import KINDS, registry_of
from sharpbench.suite.plan import make_plan
from sharpbench.suite.spec import known_suites, load_suite
from tests.cli.command import sharpbench
from tests.conftest import shipped
from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_every_plugin_and_suite_has_its_place_in_the_reference(site):
    for kind in KINDS:
        text = (site / "reference" / f"{kind}s.html").read_text()
        for name in shipped(registry_of(kind)):
            assert f'<h2 id="{name}">{name}' in text
            for parameter in registry_of(kind).parameter_types(name):
                assert f"<td><code>{parameter}</code></td>" in text
    suites = (site / "reference" / "suites.html").read_text()
    assert all(f'<h2 id="{name}">' in suites for name in known_suites())
    python = (site / "reference" / "python.html").read_text()
    assert "<strong>Parameters</strong>" in python
    assert "<li><strong>model</strong>" in python.replace("\n", "").replace("<p>", "")


def test_the_notebook_is_executed(site):
    notebook = json.loads((site / "python.ipynb").read_text())
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    shown = [c for c in cells if "skip-execution" not in c["metadata"].get("tags", ())]
    assert len(shown) > 10
    assert {o["output_type"] for c in cells for o in c["outputs"]} == {"execute_result"}
    assert len(cells) == len(shown) + 1
    page = (site / "python.html").read_text()
    for told in ("✗ moves", "Subject", "95% interval", "hessian_trace", "reports/moons/index.html"):
        assert told in page
    (picture,) = re.findall(r'<img [^>]*src="(executed/[^"]+)"', page)
    assert (site / picture).read_bytes().startswith(b"\x89PNG")


def test_the_options_that_are_shown_are_some(tmp_path, monkeypatch):
    from sharpbench.cli.app import app
    from sharpbench.cli.defaults import defaults

    blocks = BLOCK.findall((ROOT / "docs" / "terminal.md").read_text())
    (text,) = (text for language, text in blocks if language == "toml")
    (tmp_path / "sharpbench.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert defaults(app)["run"] == {
        "results": "/data/results", "workers": 4, "device": "cuda", "log_file": "run.log"
    }  # fmt: skip


def test_no_page_asks_another_host_for_anything(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        asked = re.findall(
            r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["'](https?:)?//""", page.read_text()
        )
        assert not asked, page


def test_the_suite_that_is_shown_is_one(tmp_path):
    blocks = BLOCK.findall((ROOT / "docs" / "your_suite.md").read_text())
    (suite,) = (text for language, text in blocks if language == "toml")
    (tmp_path / "mine.toml").write_text(suite)
    plan = make_plan(load_suite(tmp_path / "mine.toml"))
    assert len(plan.subjects) == 2 * 4 * 4 * 5


def test_every_command_that_is_shown_is_one():
    shown = {
        line.removeprefix("$ ").split()[1]
        for page in PAGES
        for language, text in BLOCK.findall(page.read_text())
        if language in {"sh", "console"}
        for line in text.removeprefix("$ ").splitlines()
        if line.removeprefix("$ ").startswith("sharpbench ")
    }
    verbs = re.findall(r"^│ (\w+) ", sharpbench("--help").stdout, re.MULTILINE)
    assert {"run", "export", "list"} <= shown
    assert shown <= set(verbs)
