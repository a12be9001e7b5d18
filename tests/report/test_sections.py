"""Sections of the report: the order, what calls them up, and sections from outside."""

import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sharpbench.analysis.networks import notes
from sharpbench.analysis.results import Results, computed_once
from sharpbench.report.drawn import Drawings
from sharpbench.report.page import _show, environment, write_report
from sharpbench.report.sections import Section, sections
from tests.analysis.test_invariance import records
from tests.analysis.test_retest import PERMUTED, TRAINED
from tests.suite.test_run import run

OUTSIDE = """
from dataclasses import dataclass

import pandas as pd
from matplotlib import pyplot as plt
from sharpbench.analysis.results import computed_once
from sharpbench.analysis.statistics import Estimate
from sharpbench.report.sections import Picture, Section


@computed_once
def answered(results):
    rows = results.of_kind("problem")
    return pd.DataFrame([{"metric": "λ", "n": len(rows), "mean_value": Estimate(-1.5, -1.75, -1.25, 9)}])


@dataclass(frozen=True)
class Robust(Section):
    \"\"\"Is a metric robust? The newcomer's question.\"\"\"

    name, title, place = "robust", "Robust?", 55
    needs = frozenset({"problem"})

    def sentences(self, results):
        return [f"Asked {answered(results)['n'].item()} times."]

    def tables(self, results):
        return {"answers": answered(results)}

    def pictures(self, results):
        yield Picture("robust", self.draw, "One line that rises from the lower left to the upper right.")

    def draw(self):
        figure, axis = plt.subplots()
        axis.plot([0, 1], [0, 1])
        return figure


@dataclass(frozen=True)
class Broken(Robust):
    \"\"\"Raises while it is drawn.\"\"\"

    name, title = "broken", "Broken"

    def draw(self):
        raise ZeroDivisionError("no <line>")
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sections")
    (folder / "one.toml").write_text(
        'name = "one"\nseeds = 2\n[[problems]]\nproblem = { name = "sine" }\n'
        '[problems.metrics]\nname = "curvature_rate"\ntarget = 0\nsamples = "all"\ndirections = 1\n'
    )
    run(folder / "one.toml", folder / "results")
    return folder / "results"


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Sections from outside: two of a module, one of a module that isn't there."""
    (tmp_path / "robustness.py").write_text(textwrap.dedent(OUTSIDE))
    monkeypatch.syspath_prepend(tmp_path)
    pointers = {
        "robust": "robustness:Robust",
        "broken": "robustness:Broken",
        "absent": "no_such_module:Absent",
    }
    for name, pointer in pointers.items():
        monkeypatch.setitem(sections._pointers, name, pointer)
    yield
    for name in pointers:
        sections.forget(name)
    sys.modules.pop("robustness", None)


def test_a_newcomers_section_needs_no_template_and_the_others_stand(results, outside, tmp_path):
    text = write_report(results, "one", tmp_path / "page").read_text()
    assert '<a href="#robust">Robust?</a>' in text
    assert "<li>Asked 2 times.</li>" in text
    body = text[text.index('<h2 id="robust">') :].partition("<h2")[2].partition("<h2")[0]
    for head in ("metric", "n", "mean value"):
        assert f">{head}</th>" in body
    assert "<td>λ</td>" in body
    assert '<td class="n">2</td>' in body
    assert "<td>−1.50\N{NO-BREAK SPACE}[−1.75,\N{NO-BREAK SPACE}−1.25]</td>" in body
    assert 'id="figure-robust"' in body
    order = [text.index(f'<h2 id="{name}"') for name in ("right", "robust", "failed", "provenance")]
    assert order == sorted(order)


def test_sections_that_cant_be_shown_are_named_with_the_reason(results, outside, tmp_path):
    text = write_report(results, "one", tmp_path / "page").read_text()
    missing = text[text.index('<h2 id="missing">') :]
    assert '<b>Broken</b>: <span class="flag">ZeroDivisionError: no &lt;line&gt;</span>' in missing
    assert "no_such_module" in missing
    assert '<h2 id="broken">' not in text
    assert 'id="provenance"' in text


def test_without_sections_from_outside_nothing_is_missing(results, tmp_path):
    text = write_report(results, "one", tmp_path / "page").read_text()
    assert 'id="missing"' not in text
    # No networks: the questions about them do not stand there.
    for name in ("invariant", "predictive", "costly", "figures", "training", "boundaries"):
        assert f'<h2 id="{name}"' not in text


def test_every_builtin_section_is_documented_and_has_a_place_of_its_own():
    built = [sections.create(name) for name in sections]
    places = [section.place for section in built]
    assert len(set(places)) == len(places) >= 12
    assert all(section.title and type(section).__doc__ for section in built)
    # Headings, tables and pictures of a section without a fragment are laid out by the page.
    assert sections.create("training").fragment() is None
    assert "picture(" in sections.create("predictive").fragment()


def test_a_table_is_computed_once_for_each_view():
    calls = []

    @computed_once
    def asked(view):
        calls.append(view)
        return len(view.frame)

    one = Results(pd.DataFrame({"kind": ["problem"]}))
    two = Results(pd.DataFrame({"kind": []}))
    assert [asked(one), asked(one), asked(two), asked(one)] == [1, 1, 0, 1]
    assert calls == [one, two]


def test_the_kinds_of_records_call_a_section_up():
    class Either(Section):
        needs = frozenset({"trajectory", "calibration"})

    assert Either().applies(Results(pd.DataFrame({"kind": ["problem", "calibration"]})))
    assert not Either().applies(Results(pd.DataFrame({"kind": ["problem"]})))
    assert Section().applies(Results(pd.DataFrame({"kind": []})))


NOTED = """
name = "noted"
title = "Figures with something to say"
seeds = [0, 1]
[[subjects]]
dataset = { name = "two_moons", n = 120 }
model = { name = "mlp", widths = [4] }
recipe = { name = "adam", epochs = 1 }
[[metrics]]
name = "curvature_rate"
points = "boundary"
band = [0.0, 0.1]
[[metrics]]
name = "sam_sharpness"
samples = 30
m = "all"
"""


def test_what_a_metric_says_of_its_figures_is_on_the_page(tmp_path):
    (tmp_path / "noted.toml").write_text(NOTED)
    results = tmp_path / "results"
    run(tmp_path / "noted.toml", results)
    table = notes(Results.load(results, "noted")).set_index("metric")
    rate = table.loc["curvature rate λ"]
    assert rate["note"] == "no point lies in the band of confidence: the nearest ones were taken"
    assert (rate["networks"], rate["figures"]) == (2, 2)
    assert table.loc["SAM sharpness", "note"].startswith("one batch of drawn samples")
    page = write_report(results, "noted", tmp_path / "page").read_text("utf-8")
    assert (
        page.count("the nearest ones were taken") == 3
    )  # in the table of notes, beside two figures


@pytest.mark.parametrize(("networks", "as_image"), [(10, False), (900, True)])
def test_a_picture_of_very_many_points_does_not_list_them(networks, as_image):
    from matplotlib import pyplot as plt

    from sharpbench.report.sections.predictive import _pairs_figure

    values = {name: np.linspace(1, 2, networks) for name in ("λ", "trace", "SAM")}
    figure = _pairs_figure(pd.DataFrame({**values, "stratum": "one"}), {})
    drawn = [marks for axis in figure.axes for marks in axis.collections]
    plt.close(figure)
    assert len(drawn) == 3
    assert {marks.get_rasterized() for marks in drawn} == {as_image}


def test_a_recipe_looks_the_same_in_every_panel_along_training_and_stands_in_the_legend():
    from matplotlib import pyplot as plt

    from sharpbench.report.sections.training import _trajectory_figure

    rows = [
        {"metric": "λ", "stratum": stratum, "recipe": recipe, "seed": seed, "epoch": epoch,
         "value": 1.0 + epoch, "test_error": 0.1}
        for stratum, scale in (("moons", 0.003), ("digits", 0.1))
        for recipe in ("adam", f"crr (scale {scale})") for seed in (0, 1) for epoch in (1, 2)
    ]  # fmt: skip
    figure = _trajectory_figure(pd.DataFrame(rows))
    (legend,) = figure.legends
    named = {
        text.get_text(): handle
        for text, handle in zip(legend.texts, legend.legend_handles, strict=True)
    }
    plt.close(figure)
    assert list(named) == ["adam", "crr (scale 0.003)", "crr (scale 0.1)"]
    moons, digits = (
        {line.get_color() for line in axis.lines if len(line.get_xdata())}
        for axis in figure.axes[:2]
    )  # those without data are the legend's
    of = {name: handle.get_color() for name, handle in named.items()}
    assert of["crr (scale 0.1)"] in digits - moons
    assert of["crr (scale 0.003)"] in moons - digits
    assert of["adam"] in moons & digits


def test_numbers_of_marks_that_lie_on_each_other_stand_beside_each_other():
    from sharpbench.report.sections.generalization import _near

    places = np.array([[10.0, 10], [100, 10], [12, 12], [100, 30], [104, 6]])
    assert _near(places) == [[0, 2], [1, 4], [3]]


@pytest.mark.parametrize("count", [1, 10, 11, 30])
def test_no_two_series_have_one_colour(count):
    from matplotlib.colors import to_hex

    from sharpbench.report.drawing import colours_of

    colours = colours_of(pd.Series([f"metric {k}" for k in range(count)] * 2))
    assert len({to_hex(colour) for colour in colours.values()}) == len(colours) == count


def test_a_setting_is_not_broken_over_lines():
    from sharpbench.report.drawing import wrapped

    assert wrapped("digits · uniform_mlp (width 16)") == "digits · uniform_mlp\n(width 16)"
    assert wrapped("short (width 16)") == "short (width 16)"
    long = "one (of very many words that no line holds together)"
    assert max(map(len, wrapped(long).splitlines())) <= 30


@pytest.mark.parametrize(
    ("networks", "drawn"),
    [(1, ["scatter"]), (12, ["scatter", "associations", "pairs", "metrics"])],
)
def test_of_one_network_no_ranking_is_drawn(networks, drawn):
    """A metric that agrees with itself on one network is no rank correlation of 1."""
    figures = [(float(i), float(i)) for i in range(networks)]
    frame = pd.concat([records(name, figures, **PERMUTED) for name in ("trace", "norm")])
    frame = frame[frame["transformation"].isna()]
    judged = frame[frame["metric_short"] == "trace"].assign(
        kind="evaluation", name="test_error", title="test error"
    )
    frame = pd.concat([frame, judged], ignore_index=True).assign(**TRAINED)
    pictures = sections.create("predictive").pictures(Results(frame))
    assert [picture.name for picture in pictures] == drawn


def test_changes_of_which_no_figure_is_left_are_told(tmp_path):
    frame = records("trace", [(1.0, np.nan)], **PERMUTED, promised=True).assign(**TRAINED)
    frame.loc[frame["value"].isna(), ["status", "reason"]] = "error", "KeyError: 'x'"
    results = Results(frame)
    section = sections.create("invariant")
    (told,) = section.sentences(results)
    assert told == "Neuron permutation: no figure stands before and after it (trace failed)."
    pages = environment()
    pages.filters["change"] = results.change
    shown = str(_show(section, results, pages, Drawings(tmp_path)).body)
    assert '<span class="verdict moves">⊗ failed</span>' in shown


@pytest.mark.parametrize(("seeds", "told"), [(3, "+1.00</td>"), (5, "+1.00 [")])
def test_of_three_seeds_no_interval_of_a_surviving_ranking_is_told(seeds, told, tmp_path):
    frame = records("trace", [(float(i), float(i)) for i in range(40)], **PERMUTED, promised=True)
    frame = frame.assign(**TRAINED, seed=frame["subject"].map(lambda s: int(s[1:]) % seeds))
    results, pages = Results(frame), environment()
    pages.filters["change"] = results.change
    shown = _show(sections.create("invariant"), results, pages, Drawings(tmp_path))
    found = str(shown.body)[str(shown.body).index("Does the ranking survive?") :].replace(
        "\u00a0", " "
    )
    assert told in found
    assert ("too few here" in found) == (seeds < 4)
