"""The section of prediction over a grid: its words are those of the table."""

import re

import pandas as pd
import pytest

from sharpbench.analysis.generalization import Score, scores
from sharpbench.analysis.results import Results
from sharpbench.analysis.scorecard import scorecard
from sharpbench.report.drawn import Drawings
from sharpbench.report.page import _show, environment, write_page
from sharpbench.report.sections import sections
from sharpbench.report.sections.generalization import joined
from tests.analysis.test_generalization import population
from tests.browser import WIDTHS, in_a_browser, violations


@pytest.fixture(scope="module")
def results():
    frame = population(outcomes=True, seeds=6, missed={1, 2}).frame
    asked = {"label": frame["name"], "parameters": [{}] * len(frame), "reason": None}
    return Results(frame.assign(**asked, transformation_name=None, function_change=None))


@pytest.fixture(scope="module")
def shown(results, tmp_path_factory):
    drawings = Drawings(tmp_path_factory.mktemp("pictures"))
    return _show(sections.create("generalization"), results, environment(), drawings)


def test_the_page_says_what_the_table_says(results, shown):
    rows = {s.row: s for s in scores(results) if s.target == "test_error"}
    first = shown.sentences[0]
    assert first.startswith(
        "On 70 networks that differ in one setting at a time, knows ranks the test error"
    )
    assert f"Ψ +{rows['knows'].mean.value:.2f} [" in first
    adds = next(s for s in shown.sentences if s.startswith("Adds to the hyperparameters"))
    assert "knows" in adds
    assert "proxy" not in adds
    assert "noise" not in adds
    regret = rows["knows"].choice.regret.value
    assert any(f"loses {100 * regret:.1f}% of the range" in s for s in shown.sentences)


def test_the_scorecard_has_the_scores_of_the_grid(results):
    rows = {s.row: s for s in scores(results) if s.target == "test_error"}
    cells = {e.name: e.cells["predictive"] for e in scorecard(results)}
    knows, noise = cells["knows"], cells["noise"]
    assert (knows.word, knows.measure, knows.evidence) == ("predicts", "psi", "generalization")
    assert (knows.value, knows.low, knows.n) == (
        rows["knows"].mean.value, rows["knows"].mean.low, rows["knows"].mean.n,
    )  # fmt: skip
    assert noise.word == "can't tell"
    assert not noise.tied


def test_the_largest_of_what_shows_nothing_is_not_called_the_best(tmp_path):
    frame = population(seeds=4).frame
    frame = frame[~frame["name"].isin(["knows", "proxy"])]
    twin = frame[frame["name"] == "noise"].copy()
    turned = twin["value"].sample(frac=1, random_state=1).to_numpy()
    twin = twin.assign(name="lot", metric_short="lot", value=turned)
    view = Results(pd.concat([frame, twin], ignore_index=True))
    rows = [s for s in scores(view) if s.kind == "metric" and s.target == "test_error"]
    assert [s.mean.stars for s in rows] == ["", ""]
    assert not any(s.tied for s in rows)
    shown = _show(sections.create("generalization"), view, environment(), Drawings(tmp_path))
    assert "no metric is shown to rank the test error" in shown.sentences[0]
    assert f"; {rows[0].row} has the largest Ψ" in shown.sentences[0]


def test_rivals_and_controls_stand_in_the_same_table(shown):
    body = re.sub(r"<svg.*?</svg>", "", str(shown.body), flags=re.DOTALL)
    assert (
        "70 networks: 12 configurations on 4 axes (values: recipe 2, width 2, lr 2, momentum 2)"
        in body
    )
    assert "Dropped: 2 (training loss not reached)." in body
    first = body[body.index("<tbody>") : body.index("</tbody>")]
    for row in (
        "target itself",
        "hyperparameters alone",
        "knows",
        "number of parameters",
        "a random figure",
    ):
        assert first.count(f"<td>{row}") == 1
    for name in (
        "generalization",
        "generalization-axes",
        "generalization-groups",
        "generalization-cost",
    ):
        assert f'id="figure-{name}"' in body
    assert body.count(": every score</summary>") == 2  # test error and test loss
    assert "the width changes from 16 to 64" in first


@pytest.fixture(scope="module")
def page(results, tmp_path_factory):
    asked = {"suite": "seeds = 1", "run": "", "subjects": [], "highlight": ["knows"]}
    view = Results(results.frame.assign(plan_key=""), suite="grid", manifest=asked)
    return write_page(view, tmp_path_factory.mktemp("reports") / "grid")


@in_a_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_wrong_with_a_grid_and_a_metric_of_ones_own(page, tmp_path, width):
    text = page.read_text()
    assert '<h2 id="generalization">' in text
    assert '<span class="yours">yours</span>' in text
    assert violations(page, tmp_path, width=width) == []


def test_a_suite_without_a_grid_has_no_such_section():
    section = sections.create("generalization")
    assert not section.applies(population(seeds=2))


def test_lines_join_neighbours_that_are_not_told_apart():
    """Of a b c d by falling Ψ: a apart from c and d, b from d gives the runs ab, bc, cd."""

    def ranked(**apart):
        return [
            Score(name, "metric", "test_error", (), None, None, None, "", None, None, apart=frozenset(o))
            for name, o in apart.items()
        ]  # fmt: skip

    assert joined(ranked(a="cd", b="d", c="a", d="ab")) == [(0, 1), (1, 2), (2, 3)]
    assert joined(ranked(a="", b="", c="", d="")) == [(0, 3)]
    assert joined(ranked(a="bcd", b="acd", c="abd", d="abc")) == []
    assert joined(ranked(a="d", b="", c="", d="a")) == [(0, 2), (1, 3)]
