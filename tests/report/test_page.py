"""The report of a real run, read as text and in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from sharpbench.analysis.networks import every_figure
from sharpbench.analysis.results import Results
from sharpbench.errors import InputError
from sharpbench.paper.claims import CLAIMS
from sharpbench.report.page import write_report
from sharpbench.report.sections import every_figure as section
from sharpbench.results.store import ResultsStore
from tests.conftest import MINI_SUITE
from tests.suite.test_run import run

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    text = MINI_SUITE.replace(
        "[[metrics]]", '[[metrics]]\nname = "sam_sharpness"\nrho = [0.05, 1e30]\n\n[[metrics]]', 1
    )
    (folder / "mini.toml").write_text(text)
    run(folder / "mini.toml", folder / "results")
    return folder / "results"


@pytest.fixture(scope="module")
def page(results) -> Path:
    return write_report(results, "mini", results.parent / "reports" / "mini")


def test_a_table_too_long_to_read_shows_means_over_the_seeds(results, monkeypatch):
    view = Results.load(results, "mini")
    rows = every_figure(view)
    assert section.EveryFigure().tables(view)["rows_stand_for"] is None
    monkeypatch.setattr(section, "_MOST_ROWS", 10)
    table = section.EveryFigure().tables(view)
    assert table["rows_stand_for"] == len(rows)
    assert sum(row["seed"] for row in table["rows"]) == len(rows)
    row = next(row for row in table["rows"] if row["status"] == "ok" and row["seed"] == 2)
    same = ("metric", "dataset", "model", "recipe")
    own = [r for r in rows if all(r[k] == row[k] for k in same)]
    values = [r["value"] for r in own]
    assert row["value"] == pytest.approx(np.mean(values))
    assert row["standard_error"] == pytest.approx(abs(values[0] - values[1]) / 2)
    errors = [r["judged"]["test_error"][0] for r in own]
    assert row["judged"]["test_error"][0] == pytest.approx(np.mean(errors))
    assert {r["status"] for r in table["rows"]} == {r["status"] for r in rows}
    text = write_report(results, "mini", results.parent / "reports" / "means").read_text()
    assert f"{len(rows)} figures, as means over the seeds" in text


class _Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_asks_nothing_of_any_host(page):
    text = page.read_text()
    for tag, attributes in _Elements(text).found:
        for key in ("src", "href", "xlink:href", "srcset", "action"):
            value = attributes.get(key) or "#"
            assert value.startswith(("#", "data:")), (tag, key, value)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#|data:)", text)
    assert "fetch(" not in text
    assert "XMLHttpRequest" not in text


def test_every_picture_has_words_and_every_id_is_unique(page):
    elements = _Elements(page.read_text()).found
    pictures = [a for tag, a in elements if tag == "svg"]
    assert len(pictures) >= 8
    assert all(len(a["aria-label"]) > 40 and a["role"] == "img" for a in pictures)
    ids = [a["id"] for _, a in elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_every_question_and_every_measurement_is_on_the_page(page):
    text = page.read_text()
    for anchor in ("scorecard", "right", "invariant", "predictive", "costly", "training", "boundaries",
                   "figures", "failed", "provenance"):  # fmt: skip
        assert f'id="{anchor}"' in text
    body = text[text.index('id="measurements"') :].partition("</table>")[0]
    assert body.count("<tr>") == 1 + 16 * 5
    assert "positively homogeneous" in text
    assert "Tanh" in text
    assert page.stat().st_size < 3_000_000


def test_the_scorecard_is_the_first_section_and_links_to_the_evidence_on_the_page(page):
    text = page.read_text()
    sections = re.findall(r'<h2 id="([^"]*)"', text)
    assert sections[:2] == ["scorecard", "right"]
    table = text[text.index('id="scorecard-table"') :].partition("</table>")[0]
    links = set(re.findall(r'href="#([^"]*)"', table))
    assert {"right", "invariant", "predictive", "costly"} == links <= set(sections)
    # One row a metric, the other implementations of it folded beneath.
    assert table.count("<tbody") == 3
    assert table.count('class="other"') == 1
    assert "✗ moves" in table
    assert "answered by <code>lambda_ground_truth</code>" in table
    prose = text[text.index("</table>") :].partition("<h2")[0]
    assert "<li>" not in prose


def test_a_missing_part_of_the_suite_is_announced(results, tmp_path):
    store = ResultsStore(results)
    manifest = store.manifest("mini")
    store.write_document(
        "suites", "partial", {**manifest, "subjects": [*manifest["subjects"], "f" * 64]}
    )
    text = write_report(results, "partial", tmp_path).read_text()
    assert "1 of 17 networks of this suite have not run yet" in text


def test_a_suite_that_failed_throughout_has_a_report(tmp_path):
    text = MINI_SUITE.replace(
        """recipe  = [{ name = "adam", epochs = 3 }, { name = "sam", base = "adam", epochs = 3 }]""",
        """recipe  = { name = "sgd", lr = 1e38 }""",
    )
    assert "1e38" in text
    (tmp_path / "mini.toml").write_text(text)
    outcomes, _ = run(tmp_path / "mini.toml", tmp_path / "results")
    assert all(o.problems for o in outcomes)
    page = write_report(tmp_path / "results", "mini", tmp_path / "report").read_text()
    assert "training loss" in page
    assert page.count("diverged") >= 1


def test_no_results_are_told(results, tmp_path):
    with pytest.raises(InputError, match="no results of suite 'quick'"):
        write_report(results, "quick", tmp_path)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
class TestInABrowser:
    def dom(self, page: Path, tmp_path: Path, script: str) -> str:
        """The page's DOM after ``script`` ran in headless Chromium."""
        copy = tmp_path / "copy.html"
        copy.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
        with tempfile.TemporaryDirectory() as profile:
            done = subprocess.run(
                [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync",
                 "--disable-quic", f"--user-data-dir={profile}", "--virtual-time-budget=5000",
                 "--dump-dom", copy.as_uri()],
                capture_output=True, text=True, timeout=120, check=True,
            )  # fmt: skip
        return done.stdout

    def result(self, page, tmp_path, body: str) -> str:
        script = f"""
          const errors = []; addEventListener("error", (e) => errors.push(e.message));
          const result = (() => {{ {body} }})();
          document.title = "RESULT:" + JSON.stringify([result, errors]) + ":END";
        """
        return re.search(r"RESULT:(.*?):END", self.dom(page, tmp_path, script))[1].replace(
            "&amp;", "&"
        )

    def test_filtering(self, page, tmp_path):
        found = self.result(page, tmp_path, """
          const input = document.querySelector("input[data-filter]");
          input.value = "trace PYHESSIAN relu"; input.dispatchEvent(new Event("input"));
          const rows = [...document.querySelectorAll("#measurements tbody tr")].filter((r) => !r.hidden);
          return [rows.length, document.getElementById("measurements-count").textContent];
        """)  # fmt: skip
        assert found == '[[8,"8 of 80 rows"],[]]'

    def test_sorting(self, page, tmp_path):
        found = self.result(page, tmp_path, """
          const table = document.getElementById("measurements");
          const column = [...table.tHead.rows[0].cells].findIndex((c) => c.textContent.trim() === "value");
          const button = table.tHead.rows[0].cells[column].querySelector("button");
          const values = () => [...table.tBodies[0].rows].map((r) => r.cells[column].dataset.value)
            .filter((v) => v !== "").map(Number);
          button.click(); const up = values(); button.click(); const down = values();
          const sorted = (a) => a.every((v, i) => !i || a[i - 1] <= v);
          const order = table.tHead.rows[0].cells[column].getAttribute("aria-sort");
          return [sorted(up), sorted(down.reverse()), order];
        """)  # fmt: skip
        assert found == '[[true,true,"descending"],[]]'

    def test_the_scorecard_is_sorted_by_any_question_and_unfolds(self, page, tmp_path):
        found = self.result(page, tmp_path, """
          const table = document.getElementById("scorecard-table");
          const names = () => [...table.tBodies].map((b) => b.rows[0].cells[0].dataset.value);
          const heads = [...table.tHead.rows[0].cells];
          const before = names();
          heads[4].querySelector("button").click();
          const work = [...table.tBodies].map((b) => Number(b.rows[0].cells[4].dataset.value));
          heads[0].querySelector("button").click();
          const fold = table.querySelector("[data-fold]"), other = table.querySelector(".other");
          const folded = [other.hidden, fold.getAttribute("aria-expanded")];
          fold.click();
          return [work.every((v, i) => !i || work[i - 1] <= v), work.every((v) => v > 0),
            names().join() === before.join(), ...folded, other.hidden, fold.closest("tbody").rows.length];
        """)  # fmt: skip
        assert found == '[[true,true,true,true,"false",false,2],[]]'

    def test_saving_the_table_and_a_figure(self, page, tmp_path):
        found = self.result(page, tmp_path, """
          const saved = [];
          URL.createObjectURL = (blob) => { saved.push(blob.type + " " + (blob.size > 1000)); return "#"; };
          document.querySelector("button[data-csv]").click();
          document.querySelector("button[data-svg]").click();
          return saved;
        """)  # fmt: skip
        assert found == '[["text/csv true","image/svg+xml true"],[]]'

    def test_light_and_dark(self, page, tmp_path):
        found = self.result(page, tmp_path, """
          const colour = () => getComputedStyle(document.body).backgroundColor;
          const seen = [];
          for (let i = 0; i < 2; i++) { document.getElementById("theme").click(); seen.push(colour()); }
          return seen.sort();
        """)  # fmt: skip
        assert found == '[["rgb(20, 24, 29)","rgb(255, 255, 255)"],[]]'

    def test_nothing_overflows_a_phone(self, page, tmp_path):
        frame = tmp_path / "phone.html"
        copy = tmp_path / "copy2.html"
        copy.write_text(
            page.read_text().replace(
                "</body>",
                "<script>parent.postMessage([document.documentElement.scrollWidth, innerWidth], '*')"
                "</script></body>",
            )
        )
        frame.write_text(
            f'<body><iframe src="{copy.name}" style="width:390px;height:800px"></iframe>'
            "<script>addEventListener('message', (e) => "
            "{ document.title = 'RESULT:' + e.data.join() + ':END'; })</script></body>"
        )
        widths = re.search(r"RESULT:(\d+),(\d+):END", self.dom(frame, tmp_path, ""))
        assert int(widths[1]) <= int(widths[2])


def test_a_suite_of_the_audit_shows_every_claim(tmp_path):
    suite = tmp_path / "audit.toml"
    suite.write_text(
        'name = "lambda_ground_truth"\nseeds = 1\n[[problems]]\n'
        'problem = { name = "sine" }\n[problems.metrics]\nname = "curvature_rate"\n'
        'target = 0\nnorm = "rms"\nsamples = "all"\ndirections = 1\n'
    )
    run(suite, tmp_path / "results")
    text = write_report(tmp_path / "results", "lambda_ground_truth", tmp_path / "page").read_text()
    assert "The paper, checked" in text
    assert text.count("run: sharpbench run paper_mnist") > 5
    rows = re.findall(r"<tr><td>[^<]*</td><td><details>.*?</tr>", text, re.S)
    assert len(rows) == len(CLAIMS)
    (sine,) = (row for row in rows if "λ(sin x) = 0" in row)
    assert "✓ reproduced" in sine
    assert "(lambda_ground_truth)" in sine
