"""``sharpbench schema`` against the suites that ship, and what versions before this one have stored."""

import json
import shutil
import tomllib
from pathlib import Path

import jsonschema
import pytest

from sharpbench.results.checksum import json_object
from sharpbench.results.store import load_records
from sharpbench.suite.spec import known_suites
from tests.cli.command import in_process

HISTORY = Path(__file__).resolve().parents[1] / "results" / "history"
"""Folders of results as the version of 2026-11-25 wrote them, before lines had checksums; shortened."""


@pytest.fixture
def schema(capsys, monkeypatch):
    def of(kind):
        told = in_process(capsys, monkeypatch, "schema", kind)
        assert told.code == 0, told.err
        found = json.loads(told.out)
        jsonschema.Draft202012Validator.check_schema(found)
        return jsonschema.Draft202012Validator(found)

    return of


def test_every_shipped_suite_fits(schema):
    validator = schema("suite")
    for name, path in known_suites().items():
        assert not list(validator.iter_errors(tomllib.loads(path.read_text()))), name


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": 3},
        {"seeds": 0},
        {"seeds": [-1]},
        {"evaluation": {"bins": 3}},
        {"threads": "two"},
        {"subjects": [{"dataset": {"name": "digits"}}]},
    ],
)
def test_what_a_run_refuses_does_not_fit(schema, wrong):
    suite = tomllib.loads(known_suites()["quick"].read_text())
    validator = schema("suite")
    assert validator.is_valid(suite)
    assert not validator.is_valid({**suite, **wrong})


def test_what_earlier_versions_stored_fits_and_is_read(schema, tmp_path):
    record, subject = schema("record"), schema("subject")
    kinds = set()
    for folder in (path.parent for path in HISTORY.glob("*/subject.json")):
        assert not list(subject.iter_errors(json.loads((folder / "subject.json").read_text())))
        for line in (folder / "measurements.jsonl").read_text().splitlines():
            told, _ = json_object(line.encode())
            assert not list(record.iter_errors(told))
            kinds.add(told["kind"])
            assert not record.is_valid({**told, "kind": "guess"})
            assert not record.is_valid({k: v for k, v in told.items() if k != "plan_key"})
    assert kinds == {"measurement", "evaluation", "reliability", "problem"}
    shutil.copytree(HISTORY, tmp_path / "results")
    with pytest.warns(match="without checksums"):
        frame = load_records(tmp_path / "results")
    told = frame[frame["kind"] == "measurement"]
    plain, rescaled = (
        told[told["transformation"].notna() == after]["value"].item() for after in (False, True)
    )
    assert plain == pytest.approx(1.734229, abs=1e-6)
    assert rescaled == pytest.approx(plain, rel=1e-9)


def test_an_unknown_kind_names_the_nearest(capsys, monkeypatch):
    told = in_process(capsys, monkeypatch, "schema", "suites")
    assert told.code == 2
    assert "suite" in told.err
