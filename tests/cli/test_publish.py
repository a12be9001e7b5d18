"""publish: a site of pages that mixes no versions and asks nobody for anything."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from sharpbench.api.results import Results
from sharpbench.cli.publish import publish as verb
from sharpbench.errors import InputError
from sharpbench.report.leaderboard import publish
from tests.browser import WIDTHS, in_a_browser, violations
from tests.cli.command import in_process
from tests.suite.test_run import run

SUITE = """
name = "{name}"
title = "<i>{name}</i>"
seeds = {seeds}

[[subjects]]
dataset = {{ name = "two_moons", n = 100 }}
model = {{ name = "mlp", widths = [4] }}
recipe = {{ name = "adam", epochs = 1 }}

{metrics}

[cost]
repeats = 0
"""
NORM, MARGIN = (f'[[metrics]]\nname = "{name}"' for name in ("parameter_norm", "inverse_margin"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two suites in one results folder, and one of the same name as one of them in another."""
    folder = tmp_path_factory.mktemp("publish")
    for place, name, seeds, metrics in (
        ("results", "one", [0, 1], NORM),
        ("results", "more", [0, 1], f"{NORM}\n{MARGIN}"),
        ("others", "one", [5], MARGIN),
    ):
        file = folder / f"{place}_{name}.toml"
        file.write_text(SUITE.format(name=name, seeds=seeds, metrics=metrics))
        run(file, folder / place)
    return folder


@pytest.fixture(scope="module")
def site(made):
    verb(made / "site", [made / "results"])
    return made / "site"


def test_a_site_tells_versions_and_protocols(made, site):
    board = json.loads((site / "leaderboard.json").read_text())
    one, more = sorted(board["protocols"], key=lambda p: p["suite"], reverse=True)
    assert (one["suite"], more["suite"]) == ("one", "more")
    assert re.fullmatch("[0-9a-f]{8}", one["protocol"])
    assert one["protocol"] == more["protocol"]  # another metric asked of the same networks
    rows = {row["name"]: row for row in board["metrics"]}
    assert set(rows) == {"parameter_norm", "inverse_margin"}
    assert [cell["suite"] for cell in rows["parameter_norm"]["cells"]["costly"]] == ["more", "one"]
    assert [cell["suite"] for cell in rows["inverse_margin"]["cells"]["costly"]] == ["more"]
    records = Results.load(made / "results", "more").frame
    version = records.loc[records["name"] == "parameter_norm", "version"].unique()
    assert rows["parameter_norm"]["version"] == f"{version.item():.0f}"
    pages = sorted(site.rglob("*.html"))
    assert [p.relative_to(site).as_posix() for p in pages] == [
        "index.html", "leaderboard.html", "more/index.html", "one/index.html",
    ]  # fmt: skip
    for page in pages:
        text = page.read_text()
        asked = re.findall(r"""(?:src|href|action|data|poster)=["'](?:https?:)?//[^"']*""", text)
        assert [a for a in asked if "href=" not in a] == []
        assert not re.search(r"""<link[^>]+href=["'](?!data:)""", text)
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//", text)
        for link in re.findall(r'<a [^>]*href="([^"#]+)', text):
            if not link.startswith(("http", "data:")):
                assert (page.parent / link).is_file(), link
    index = (site / "index.html").read_text()
    assert 'href="leaderboard.html"' in index
    assert "&lt;i&gt;one&lt;/i&gt;" in (site / "leaderboard.html").read_text()


@in_a_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_on_the_leaderboard(site, tmp_path, width):
    assert violations(site / "leaderboard.html", tmp_path, width=width) == []


def test_reports_are_published_as_they_are(site, tmp_path):
    report = site / "one"
    publish(tmp_path / "second", [], [report])
    for path in filter(Path.is_file, report.rglob("*")):
        if ".pictures" not in path.parts:
            copied = tmp_path / "second" / "one" / path.relative_to(report)
            assert copied.read_bytes() == path.read_bytes()
    again = publish(tmp_path / "second", [], [tmp_path / "second" / "one"])  # into itself
    assert again.is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{made}/results", "{made}/others"], "the suite 'one' is in suite 'one' in"),
        (
            ["{made}/results", "--suite", "oen"],
            "no suite 'oen' in what is given. Did you mean 'one'",
        ),
        (["{made}/nowhere"], "there is no "),
        (["{made}"], "no suite has run in "),
        (["{made}/results_one.toml"], "is neither a results folder, nor a bundle, nor a report"),
    ],
)
def test_what_cant_be_published_is_told_and_nothing_written(
    made, tmp_path, arguments, told, capsys, monkeypatch
):
    given = [argument.format(made=made) for argument in arguments]
    done = in_process(capsys, monkeypatch, "publish", str(tmp_path / "site"), *given)
    assert done.code == 2
    assert told in done.err
    assert not (tmp_path / "site").exists()


def test_versions_are_not_mixed(site, tmp_path):
    shutil.copytree(site, tmp_path / "reports")
    folders = [tmp_path / "reports" / name for name in ("one", "more")]
    card = folders[0] / "scorecard.json"
    written = json.loads(card.read_text())

    def fails(change, told):
        changed = json.loads(json.dumps(written))
        change(changed)
        card.write_text(json.dumps(changed))
        with pytest.raises(InputError, match=told):
            publish(tmp_path / "site", [], folders)
        assert not (tmp_path / "site").exists()

    fails(lambda c: c["metrics"][0].update(version="99"), "has version 99 in .*one and version ")
    fails(lambda c: c.update(mixed=["torch 2.1 and 2.2"]), "mixes versions: torch 2.1 and 2.2")
    fails(lambda c: c.pop("protocol"), "an older version and tells no protocol: write it again")
    fails(lambda c: c["metrics"][0].pop("version"), "tells no version")
    card.write_text("{")
    with pytest.raises(InputError, match=r"no scorecard\.json that can be read"):
        publish(tmp_path / "site", [], folders)
    shutil.rmtree(folders[0])
    assert publish(tmp_path / "site", [], folders[1:]).is_file()
