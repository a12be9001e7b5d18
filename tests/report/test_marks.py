"""Of every mark the page knows the place and the values, and an SVG made small looks the same."""

from __future__ import annotations

import base64
import datetime
import html
import io
import json
import re
from importlib import resources
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
import seaborn as sns
from matplotlib import pyplot as plt
from PIL import Image

from sharpbench.report.compact import compact
from sharpbench.report.drawing import (
    explain,
    explain_beside,
    finish_panels,
    legend,
    of_change,
)
from sharpbench.report.svg import figure_style, to_svg
from sharpbench.report.weight import lightened
from tests.browser import dom, in_a_browser, with_script

X = np.array([0.001, 0.02, 0.3, 40.0])
Y = np.array([-1.0, 2.0, 3.5, 0.25])
SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"


def told(svg: str) -> dict:
    return json.loads(html.unescape(re.search(r"<metadata>(.*)</metadata>", svg, re.DOTALL)[1]))


def drawn(svg: str) -> list[tuple[float, float]]:
    """Where the SVG itself puts its marks, without ticks, which are as wide as high and stand on an axis."""
    root = ElementTree.fromstring(svg)
    return [
        (float(use.get("x")), float(use.get("y")))
        for part in root.iter(f"{SVG}g")
        if part.get("data-of") is not None
        for use in part.iter(f"{SVG}use")
    ]


def test_a_mark_is_where_it_is_drawn_and_has_its_value():
    with figure_style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
        left.scatter(X, Y, color="#cc3311", label="red")
        left.set(xscale="log", xlabel="size\n(n)", title="one")
        right.errorbar(
            X, Y, yerr=[[0.5] * 4, [0.5, 0.5, 0.5, 1.0]], fmt="s", color="#0077bb", label="blue"
        )
        right.set_xscale("symlog", linthresh=0.1)
        right.axhline(1.0, color="#0077bb")
        finish_panels(figure, np.array([left, right]), 2)
        svg = str(to_svg(figure, name="some", alt="Marks."))
    found = told(svg)
    assert found["legend"] == [
        {"label": "red", "colour": "#cc3311", "shape": ""},
        {"label": "blue", "colour": "#0077bb", "shape": "-0.5,0.5 0.5,0.5 0.5,-0.5 -0.5,-0.5 -0.5,0.5"},
    ]  # fmt: skip
    one, two = found["panels"]
    assert (one["title"], one["x"]) == ("one", "size (n)")
    (red,), (blue,) = one["series"], two["series"]
    assert (red["name"], red["of"], blue["name"], blue["of"]) == ("red", [0], "blue", [1])
    assert red["xs"] == ["0.001", "0.02", "0.3", "40"]
    assert red["ys"] == ["−1", "2", "3.5", "0.25"]
    # An error that is as large both ways, and one that is not.
    assert (blue["ys"][0], blue["ys"][3]) == ("−1.00 ± 0.50", "0.2 [−0.2, 1.2]")
    places = np.array(red["places"] + blue["places"]).reshape(-1, 2)
    assert places == pytest.approx(np.array(drawn(svg)), abs=0.06)
    left_, top, right_, bottom = one["box"]
    assert ((places[:4] > [left_, top]) & (places[:4] < [right_, bottom])).all()
    # The mark and its error bar go together; a line across the panel is no series.
    assert re.findall(r'data-of="([\d ]+)"', svg) == ["0", "1", "1"]


def test_of_colours_and_shapes_both_name_a_mark():
    colours, shapes = {"digits": "#0077bb", "mnist": "#cc3311"}, {"sgd": "o", "sam": "X"}
    with figure_style():
        figure, axis = plt.subplots()
        for place, (colour, shape) in enumerate(
            (c, s) for c in colours.values() for s in shapes.values()
        ):
            axis.scatter([place], [place], color=colour, marker=shape)
        figure.legend(handles=legend(colours, shapes))
        found = told(to_svg(figure, name="some", alt="Marks."))
    names = [series["name"] for series in found["panels"][0]["series"]]
    assert names == ["digits, sgd", "digits, sam", "mnist, sgd", "mnist, sam"]
    assert [series["of"] for series in found["panels"][0]["series"]] == [
        [0, 2],
        [0, 3],
        [1, 2],
        [1, 3],
    ]
    assert [entry["colour"] for entry in found["legend"]] == ["#0077bb", "#cc3311", "", ""]


def test_a_bar_tells_its_length_its_error_and_where_it_stands():
    colours = {"first": "#0077bb", "second": "#cc3311"}
    with figure_style():
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9, 3))
        left.bar(["one", "two"], [1, 2], yerr=[0.1, 0.2], label="first", color=colours["first"])
        left.bar(["one", "two"], [3, -4], bottom=[1, 2], label="second", color=colours["second"])
        middle.barh([0, 1], [10, 1000])
        middle.set_xscale("log")
        middle.set_yticks([0, 1], ["lower", "upper"])
        right.hist([0.0, 0.1, 1.5, 2.0], bins=[0, 1, 2])
        figure.legend(loc="outside lower center")
        svg = str(to_svg(figure, name="some", alt="Bars."))
    panels = told(svg)["panels"]
    (first, second), (lying,), (counts,) = (panel["series"] for panel in panels)
    assert (first["name"], first["of"], second["of"]) == ("first", [0], [1])
    assert (first["xs"], first["ys"]) == (["one", "two"], ["1.00 ± 0.10", "2.00 ± 0.20"])
    assert second["ys"] == ["3", "−4"]
    assert (lying["xs"], lying["ys"]) == (["10", "1000"], ["lower", "upper"])
    assert (counts["xs"], counts["ys"]) == (["0 to 1", "1 to 2"], "2")
    # The bar of height 3 stands on that of height 1 and is three times as high; none leaves its panel.
    assert second["halves"][1] == pytest.approx(3 * first["halves"][1], abs=0.1)
    assert second["places"][1] + second["halves"][1] == pytest.approx(
        first["places"][1] - first["halves"][1], abs=0.2
    )
    assert lying["places"][0] - lying["halves"][0] == pytest.approx(panels[1]["box"][0], abs=1)
    # The error bar goes with its bar.
    assert re.findall(r'data-of="([\d ]+)"', svg) == ["0", "0", "1", "1", "0"]


def images(svg: str) -> dict[str, list[bytes]]:
    """The images by the entries of the legend that they are of."""
    found: dict[str, list[bytes]] = {}
    for part in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        for image in part.iter(f"{SVG}image"):
            if part.get("data-of") is not None:
                content = base64.b64decode(image.get(HREF).partition(",")[2])
                found.setdefault(part.get("data-of"), []).append(content)
    return found


def scattered(panels: int, colours: dict[str, str], shapes: dict[str, str]) -> plt.Figure:
    figure, axes = plt.subplots(1, panels, squeeze=False)
    for axis in axes.flat:
        for place, (colour, shape) in enumerate(
            (c, s) for c in colours.values() for s in shapes.values()
        ):
            axis.errorbar(X + place, Y, yerr=0.1, fmt=shape, color=colour, rasterized=True)
    figure.legend(handles=legend(colours, shapes))
    return figure


def test_of_what_is_drawn_as_an_image_each_series_has_its_own():
    colours, shapes = {"digits": "#0077bb", "mnist": "#cc3311"}, {"sgd": "o", "sam": "X"}
    with figure_style():
        figure = scattered(2, colours, shapes)
        svg = str(to_svg(figure, name="some", alt="Marks."))
    found = images(svg)
    assert {of: len(own) for of, own in found.items()} == {"0 2": 2, "0 3": 2, "1 2": 2, "1 3": 2}
    assert svg.count("<image") == 8
    for of, own in found.items():
        drawn = np.asarray(Image.open(io.BytesIO(own[0])).convert("RGBA"))
        visible = drawn[drawn[..., 3] > 200][:, :3]
        wanted = mpl.colors.to_rgb(list(colours.values())[int(of[0])])
        assert np.abs(visible.mean(axis=0) / 255 - wanted).max() < 0.02
    assert len(told(svg)["panels"][0]["series"]) == 4


def test_where_that_would_be_very_many_images_colours_alone_are_kept_apart():
    colours = {f"c{k}": mpl.colors.to_hex(mpl.colormaps["tab20"](k)) for k in range(20)}
    shapes = dict(zip("abcd", "oXs^", strict=True))
    with figure_style():
        svg = str(to_svg(scattered(4, colours, shapes), name="some", alt="Marks."))
    assert {of: len(own) for of, own in images(svg).items()} == {str(k): 4 for k in range(20)}


def test_a_scale_of_changes_has_room_for_a_percent_and_for_a_thousandfold():
    figure, axis = plt.subplots()
    of_change(axis, 0.1, 7000)

    def place(ratio):
        return axis.transData.transform((ratio, 0))[0]

    assert place(1) - place(0.5) == pytest.approx(place(2) - place(1))
    # √|log₁₀|: of ×10⁴ 2, of ×10 1, of ×1.02 0.093.
    assert (place(1.02) - place(1)) / (place(10) - place(1)) == pytest.approx(0.0927, abs=1e-3)
    assert (place(1e4) - place(1)) / (place(10) - place(1)) == pytest.approx(2)
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert labels[0] == "×0.1"
    assert "×1" in labels
    plt.close(figure)


@pytest.mark.parametrize("beside", [False, True])
def test_a_legend_stays_within_its_picture_and_leaves_the_panels_their_room(beside):
    names = [f"a metric with quite a long name, number {k}" for k in range(34)]
    with figure_style():
        figure, axis = plt.subplots(figsize=(8, 4))
        handles = [axis.plot([0, 1], [0, k], "o", label=name)[0] for k, name in enumerate(names)]
        explain_beside(figure, handles, names) if beside else explain(figure, handles)
        figure.draw_without_rendering()
        width, height = figure.bbox.size
        (box,) = (found.get_window_extent().extents for found in figure.legends)
        assert (box >= 0).all()
        assert (box <= [width, height, width, height]).all()
        panel = axis.get_window_extent()
        assert panel.height > 2.5 * figure.dpi
        assert panel.width > 3 * figure.dpi
    plt.close(figure)


def test_a_page_sheds_what_weighs_most_and_says_so():
    with figure_style():
        svg = to_svg(scattered(1, {"a": "#0077bb", "b": "#cc3311"}, {"s": "o"}), name="x", alt="X.")
    figure = f"<figure>{svg}<figcaption>Marks.</figcaption></figure>"
    rows = "<tr><td>1</td></tr>" * 500
    page = f'{figure}<div class="tall"><table><thead></thead><tbody>{rows}</tbody></table></div>é'
    assert lightened(page) == page
    values = len(re.search(r"<metadata>.*</metadata>", svg)[0])
    light = lightened(page, len(page.encode()) - values // 4)
    assert light.count("<td>") == 500
    found = told(light)
    assert (found["panels"], [e["label"] for e in found["legend"]]) == ([], ["a", "b", "s"])
    assert "left out" in light
    lightest = lightened(page, 100)
    assert "<td>" not in lightest
    assert "500 rows are left out" in lightest


@in_a_browser
def test_within_a_bar_its_value_is_told_and_an_image_of_a_series_is_hidden(tmp_path):
    with figure_style():
        figure, axis = plt.subplots(figsize=(6, 3))
        axis.bar(["one", "two"], [4, 2], color="#0077bb")
        axis.set_ylabel("height")
        bars = to_svg(figure, name="bars", alt="Bars.")
        marks = to_svg(
            scattered(1, {"a": "#0077bb", "b": "#cc3311"}, {"s": "o", "t": "X"}),
            name="marks",
            alt="X.",
        )
    figures = "".join(
        f'<figure><div class="scroll">{svg}</div><div class="tools"></div></figure>'
        for svg in (bars, marks)
    )
    page = tmp_path / "page.html"
    charts = (resources.files("sharpbench.report") / "static" / "charts.js").read_text("utf-8")
    page.write_text(f"<body>{figures}<script>{charts}</script></body>")
    script = """
      const [bars, marks] = document.querySelectorAll("figure");
      const svg = bars.querySelector("svg"), [x, y] = JSON.parse(
        svg.querySelector("metadata").textContent).panels[0].series[0].places;
      const pointed = (left, high) => {
        const at = new DOMPoint(left, high).matrixTransform(svg.getScreenCTM());
        svg.dispatchEvent(new PointerEvent("pointermove", { clientX: at.x, clientY: at.y }));
        return bars.querySelector(".tip").textContent;
      };
      const far = [pointed(x + 40, y + 40), pointed(x, y - 200)];
      const shown = () => [...marks.querySelectorAll("[data-of]")]
        .filter((part) => part.getAttribute("display") !== "none").map((part) => part.dataset.of);
      const before = shown();
      const buttons = [...marks.querySelectorAll(".series button")];
      buttons[1].click(); const one = shown(); buttons[2].click(); const two = shown();
      document.title = "RESULT:" + JSON.stringify(
        [far, before, one, two, buttons.map((b) => b.querySelector("polygon, circle").tagName)]) + ":END";
    """
    found = re.search("RESULT:(.*?):END", dom(with_script(page, script, tmp_path / "copy.html")))
    far, before, one, two, shapes = json.loads(html.unescape(found[1]))
    assert far == ["oneheight: 4", ""]
    assert before == ["0 2", "0 3", "1 2", "1 3"]
    assert (one, two) == (["0 2", "0 3"], ["0 3"])
    assert shapes == ["circle", "circle", "circle", "polygon"]


def test_a_cell_has_its_value_and_the_names_of_its_row_and_column():
    values = np.array([[0.5, np.nan], [-0.25, 1e-6]])
    with figure_style():
        figure, axis = plt.subplots()
        sns.heatmap(values, ax=axis, xticklabels=["τ", "ρ"], yticklabels=["one", "two"])
        (panel,) = told(to_svg(figure, name="some", alt="Cells."))["panels"]
    (cells,) = panel["series"]
    assert panel["cells"]
    assert list(zip(cells["ys"], cells["xs"], cells["values"], strict=True)) == [
        ("one", "τ", "0.5"), ("two", "τ", "−0.25"), ("two", "ρ", "1×10⁻⁶"),
    ]  # fmt: skip
    places = np.array(cells["places"]).reshape(-1, 2)
    assert places[0][0] == places[1][0] < places[2][0]
    assert places[0][1] < places[1][1] == places[2][1]


def test_what_has_no_values_to_be_read_tells_none():
    with figure_style():
        figure, axis = plt.subplots()
        axis.scatter(X, Y)
        axis.set(xticks=[], yticks=[])
        assert "<metadata>" not in to_svg(figure, name="some", alt="A picture.")


def test_days_and_categories_are_told_by_name_and_what_is_missing_not_at_all():
    days = [datetime.datetime(2026, 11, day) for day in (1, 2, 3)]
    with figure_style():
        figure, (left, middle, right) = plt.subplots(1, 3)
        left.plot(days, [1, 2, np.nan], "o")
        middle.scatter(["one", "two"], [1.0, 2.0])
        right.errorbar([1, 2], [1.0, 2.0], yerr=[0.5, np.nan], fmt="o")
        dates, words, errors = told(to_svg(figure, name="some", alt="Marks."))["panels"]
    assert dates["series"][0]["xs"] == ["2026-11-01", "2026-11-02"]
    assert words["series"][0]["xs"] == ["one", "two"]
    assert errors["series"][0]["ys"] == ["1.00 ± 0.50", "2"]


def test_of_parts_of_a_figure_each_has_its_place_and_of_a_projection_nothing_is_told():
    with figure_style():
        figure = plt.figure(layout="none")
        first, second = figure.subfigures(1, 2)
        first.subplots().plot([1, 2], [3, 4], "o", label="first")
        second.subplots().plot([1, 2], [3, 4], "s", label="second")
        panels = told(to_svg(figure, name="some", alt="Marks."))["panels"]
        assert panels[0]["box"][2] < panels[1]["box"][0]
        for panel in panels:
            left, top, right, bottom = panel["box"]
            places = np.array(panel["series"][0]["places"]).reshape(-1, 2)
            assert ((places > [left, top]) & (places < [right, bottom])).all()
        figure = plt.figure()
        figure.add_subplot(projection="3d").scatter([1, 2], [1, 2], [3, 4])
        assert "<metadata>" not in to_svg(figure, name="some", alt="Marks in space.")


def test_a_small_svg_looks_the_same_and_stands_beside_others():
    figure, axis = plt.subplots()
    axis.scatter(X, Y, color="#cc3311", alpha=0.5)
    axis.plot(X, Y, "--", color="#0077bb")
    axis.scatter(X + 1, Y, rasterized=True)
    axis.set_title("a & b < c")
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg")
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    small = compact(text, "here")
    assert len(small) < 0.6 * len(text)
    before, after = ElementTree.fromstring(text), ElementTree.fromstring(small)
    (sheet,) = after.iter(f"{SVG}style")
    rules = dict(re.findall(r"#svg-here \.(\w+)\{([^}]*)\}", sheet.text))
    assert sheet.text.startswith("#svg-here *{stroke-linejoin")
    assert after.get("id") == "svg-here"
    ids = {element.get("id") for element in after.iter()}
    for shape in ("path", "use", "text", "image"):
        pairs = zip(before.iter(SVG + shape), after.iter(SVG + shape), strict=True)
        for old, new in pairs:
            assert rules.get(new.get("class")) == old.get("style")
            assert new.text == old.text or not (old.text or "").strip()
            for key in ("x", "y"):
                assert float(new.get(key, 0)) == pytest.approx(float(old.get(key, 0)), abs=0.0051)
            lengths = [np.array(re.findall(r"-?[\d.]+", e.get("d", "")), float) for e in (old, new)]
            assert lengths[1] == pytest.approx(lengths[0], abs=0.0051)
            commands = [re.sub(r"[^A-Za-z]", "", e.get("d", "")) for e in (old, new)]
            assert commands[0] == commands[1]
            assert (new.get(HREF, "#").startswith("data:")) or new.get(HREF, "#svg-here")[1:] in ids
    assert "a &amp; b &lt; c" in small
