"""The report of a real run, read as text and in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from sharpbench.analysis.networks import every_figure
from sharpbench.analysis.prediction import associations
from sharpbench.analysis.results import Results
from sharpbench.errors import InputError
from sharpbench.paper.claims import CLAIMS
from sharpbench.report.leaderboard import write_leaderboard
from sharpbench.report.page import write_page, write_report
from sharpbench.report.sections import every_figure as section
from sharpbench.report.site import write_index
from sharpbench.results.store import ResultsStore
from sharpbench.suite.spec import known_suites
from tests.browser import WIDTHS, dom, framed, in_a_browser, violations, with_script
from tests.conftest import MINI_SUITE
from tests.suite.test_run import run


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
    monkeypatch.setattr(section, "_MOST_ROWS", len(rows) - 1)
    table = section.EveryFigure().tables(view)
    assert table["rows_stand_for"] == len(rows)
    assert table["shown"]
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
    monkeypatch.setattr(section, "_MOST_ROWS", len(table["rows"]) - 1)
    folder = results.parent / "reports" / "beside"
    text = write_report(results, "mini", folder).read_text()
    assert 'id="measurements"' not in text
    assert '<a href="tables/figures-rows.json">' in text
    beside = json.loads((folder / "tables/figures-rows.json").read_text("utf-8"))
    assert len(beside["rows"]) == len(table["rows"])


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
            beside = ":" not in value and (page.parent / value).is_file()
            assert beside or value.startswith(("#", "data:")), (tag, key, value)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#|data:)", text)
    assert "fetch(" not in text
    assert "XMLHttpRequest" not in text


def test_every_table_stands_beside_the_page_as_json(results, page):
    view = Results.load(results, "mini")
    told = json.loads((page.parent / "tables" / "figures-rows.json").read_text())
    assert (told["suite"], told["table"], told["schema"]) == ("mini", "figures-rows", 1)
    rows = every_figure(view)
    assert len(told["rows"]) == len(rows) == 80
    found = next(r for r in rows if r["status"] == "ok" and r["standard_error"] > 0)
    same = next(r for r in told["rows"] if r["value"] == found["value"])
    assert same["standard_error"] == found["standard_error"]
    assert same["judged"]["test_error"] == list(found["judged"]["test_error"])
    tau = next(r for r in associations(view).to_dict("records") if r["within"])
    beside = json.loads((page.parent / "tables" / "predictive-associations.json").read_text())
    same = next(
        r for r in beside["rows"] if (r["metric"], r["target"]) == (tau["metric"], tau["target"])
    )
    assert (same["within"]["value"], same["within"]["n"]) == (tau["within"].value, tau["within"].n)
    # What a page has no longer does not stay.
    (page.parent / "tables" / "old-table.json").write_text("{}")
    write_page(view, page.parent)
    assert not (page.parent / "tables" / "old-table.json").exists()


def test_an_index_that_is_there_is_linked(results, page):
    link, view = '<a href="../index.html"', Results.load(results, "mini")
    (page.parents[1] / "index.html").unlink(missing_ok=True)
    assert link not in write_page(view, page.parent).read_text()
    write_index(page.parents[1])
    assert link in write_page(view, page.parent).read_text()


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


@in_a_browser
class TestInABrowser:
    def result(self, page, tmp_path, body: str) -> str:
        script = f"""
          const errors = []; addEventListener("error", (e) => errors.push(e.message));
          const result = (() => {{ {body} }})();
          document.title = "RESULT:" + JSON.stringify([result, errors]) + ":END";
        """
        copy = with_script(page, script, tmp_path / "copy.html")
        return re.search(r"RESULT:(.*?):END", dom(copy))[1].replace("&amp;", "&")

    def test_filtering(self, page, tmp_path):
        found = self.result(page, tmp_path, """
          const input = document.querySelector("[data-filter=measurements]");
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
          for (const form of ["csv", "json"]) document.querySelector(`[data-${form}=measurements]`).click();
          document.querySelector("button[data-svg]").click();
          return saved;
        """)  # fmt: skip
        assert found == '[["text/csv true","application/json true","image/svg+xml true"],[]]'

    def test_marks_tell_their_values_and_series_are_hidden(self, page, tmp_path):
        found = self.result(page, tmp_path, """
          const figure = document.getElementById("figure-scatter"), svg = figure.querySelector("svg");
          const chart = JSON.parse(svg.querySelector("metadata").textContent);
          const { title, x, series } = chart.panels[0];
          const tip = figure.querySelector(".tip");
          const at = new DOMPoint(...series[0].places.slice(0, 2)).matrixTransform(svg.getScreenCTM());
          const where = { clientX: at.x + 1, clientY: at.y + 1, bubbles: true };
          svg.dispatchEvent(new PointerEvent("pointermove", where));
          // Of marks that overlap the nearest one is told.
          const ring = svg.querySelector(".ring");
          const at_ring = ["cx", "cy"].map((key) => Number(ring.getAttribute(key)));
          const told = series
            .flatMap((s) => [s.xs].flat().map((value, k) => [s, value, ...s.places.slice(2 * k, 2 * k + 2)]))
            .filter(([, , left, top]) => left === at_ring[0] && top === at_ring[1]);
          const near = Math.hypot(at_ring[0] - series[0].places[0], at_ring[1] - series[0].places[1]) < 2;
          const pointed = near && told.some(([s, value]) =>
            tip.textContent.includes(`${x}: ${value}`) && tip.textContent.includes(s.name));
          svg.dispatchEvent(new PointerEvent("pointerleave", where));
          const gone = tip.textContent === "" && !svg.querySelector(".ring");
          const press = (key) => svg.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
          press("End"); const last = tip.textContent; press("ArrowLeft"); const before = tip.textContent;
          press("ArrowRight"); const again = tip.textContent; press("Escape");
          const button = figure.querySelector(".series button");
          const own = [...svg.querySelectorAll("[data-of]")]
            .filter((part) => part.dataset.of.split(" ").includes("0"));
          button.click();
          const hidden = own.every((part) => part.getAttribute("display") === "none");
          press("Home"); const first = tip.textContent;
          button.click();
          const shown = own.every((part) => part.getAttribute("display") !== "none");
          return [pointed, gone, last === again && last !== before && last !== "", tip.textContent === "",
            own.length > 0, hidden, !first.includes(chart.legend[0].label), shown,
            button.getAttribute("aria-pressed")];
        """)  # fmt: skip
        assert found == '[[true,true,true,true,true,true,true,true,"true"],[]]'

    def test_light_and_dark(self, page, tmp_path):
        found = self.result(page, tmp_path, """
          const colour = () => getComputedStyle(document.body).backgroundColor;
          const seen = [];
          for (let i = 0; i < 2; i++) { document.getElementById("theme").click(); seen.push(colour()); }
          return seen.sort();
        """)  # fmt: skip
        assert found == '[["rgb(20, 24, 29)","rgb(255, 255, 255)"],[]]'

    def test_nothing_overflows_a_phone(self, page, tmp_path):
        script = "parent.postMessage([document.documentElement.scrollWidth, innerWidth], '*')"
        content, window = framed(page, script, tmp_path, width=390)
        assert content <= window == 390

    @pytest.mark.parametrize("width", WIDTHS)
    def test_axe_finds_nothing(self, page, tmp_path, width):
        assert violations(page, tmp_path, width=width) == []
        shutil.copytree(page.parent, tmp_path / "site" / "mini")
        for other in (write_index(tmp_path / "site"), write_leaderboard(tmp_path / "site")):
            assert violations(other, tmp_path, width=width) == []

    def test_what_scrolls_and_nothing_else_is_a_stop_of_the_keyboard(self, page, tmp_path):
        script = """
          addEventListener("load", () => requestAnimationFrame(() => setTimeout(() => {
            const found = [...document.querySelectorAll(".scroll, .tall, pre")].map((element) => [
              element.scrollWidth > element.clientWidth + 1
                || element.scrollHeight > element.clientHeight + 1,
              element.tabIndex === 0, element.ariaLabel !== null && element.ariaLabel.length > 4]);
            parent.postMessage(found, "*");
          }, 500)));
        """
        found = framed(page, script, tmp_path, width=390)
        assert {tuple(row) for row in found} == {(True, True, True), (False, False, False)}


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


@pytest.mark.endurance
@in_a_browser
@pytest.mark.parametrize("suite", ["quick", "invariance", "generalization_quick", "reference"])
def test_axe_finds_nothing_wrong_with_the_pages_of_shipped_suites(suite, tmp_path):
    run(known_suites()[suite], tmp_path / "results", workers=2)
    page = write_report(tmp_path / "results", suite, tmp_path / "reports" / suite)
    assert page.stat().st_size < 3_000_000
    for width in WIDTHS:
        assert violations(page, tmp_path, width=width) == []
