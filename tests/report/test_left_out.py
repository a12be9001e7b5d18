"""What is not believed, and what versions are mixed, is said on the page."""

import shutil

import pytest

from sharpbench.analysis.results import Results
from sharpbench.report.page import write_report
from sharpbench.results.store import ResultsStore
from tests.suite.test_damage import CORRUPTIONS, SUITE
from tests.suite.test_run import run


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("left_out")
    (folder / "small.toml").write_text(SUITE)
    run(folder / "small.toml", folder / "results")
    return folder / "results"


def text_of(results, folder):
    return write_report(results, "small", folder / "report").read_text()


def test_the_page_lists_what_was_left_out(results, tmp_path):
    assert 'id="left-out"' not in text_of(results, tmp_path)
    damaged = tmp_path / "results"
    shutil.copytree(results, damaged)
    CORRUPTIONS["lines-0"](damaged)
    path = next((damaged / "runs").iterdir())
    path.write_bytes(path.read_bytes().replace(b"torch", b"Torch"))
    with pytest.warns(RuntimeWarning, match="left out"):
        text = text_of(damaged, tmp_path)
    left_out = text[text.index('id="left-out"') :]
    assert "measurements.jsonl, line 1: its checksum is not that of its content" in left_out
    assert f"runs/{path.name}: its checksum is not that of its content" in left_out
    assert "torch of an unknown version (" in text


def test_figures_of_two_versions_of_torch_are_marked_where_they_stand_together(results, tmp_path):
    mixed = tmp_path / "results"
    shutil.copytree(results, mixed)
    suite = tmp_path / "small.toml"
    suite.write_text(
        SUITE.replace(
            "[[transformations]]", '[[metrics]]\nname = "logit_norm"\n[[transformations]]'
        )
    )
    run(suite, mixed)
    assert Results.load(mixed, "small").mixed_versions() == []
    store = ResultsStore(mixed)
    last = store.manifest("small")["run"]
    provenance = store.documents("runs")[last]
    provenance["versions"]["torch"] = "1.0"
    store.write_document("runs", last, provenance)
    (told,) = Results.load(mixed, "small").mixed_versions(["measurement"])
    assert told.startswith("torch 1.0 (4 figures) and ")
    assert told.endswith("(8 figures)")
    text = text_of(mixed, tmp_path)
    assert (
        "Not all of these figures are known to be computed with the same versions: torch 1.0 ("
        in text
    )
    assert "stand side by side here: torch 1.0 (" in text
