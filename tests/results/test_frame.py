"""`load_records` against the records themselves, read one by one."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sharpbench.errors import InputError
from sharpbench.results import columns, nested
from sharpbench.results.coded import SORTS
from sharpbench.results.export import write_table
from sharpbench.results.frame import column
from sharpbench.results.nested import NestedArray
from sharpbench.results.record import Record
from sharpbench.results.store import ResultsStore, load_records, record_pieces
from sharpbench.suite.engines import make_engine
from sharpbench.suite.forecast import forecast
from sharpbench.suite.plan import make_plan
from sharpbench.suite.remaining import remaining
from sharpbench.suite.session import intents, run_plan
from sharpbench.suite.spec import load_suite
from sharpbench.suite.survey import survey

SUITE = """
name = "tiny"
title = "Tiny"
seeds = {seeds}

[[subjects]]
dataset = {{ name = "two_moons", n = 60 }}
model   = {{ name = "mlp", widths = [4], activation = ["tanh", "relu"] }}
recipe  = {{ name = "adam", epochs = 2 }}

[[metrics]]
name = ["logit_norm", "margin"]

[[transformations]]
name = "sign_flip"

[trajectory]
metrics = [{{ name = "logit_norm" }}]
every = 1

[cost]
repeats = 1
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with the results of a suite, and the suite's plan."""
    folder = tmp_path_factory.mktemp("tiny")
    plan = plan_of(folder, 2)
    run(folder, plan)
    return folder, plan


def plan_of(folder, seeds, **changes):
    path = folder / "tiny.toml"
    text = SUITE.format(seeds=seeds).replace('name = ["logit_norm", "margin"]',
                                             'name = "logit_norm"\n[[metrics]]\nname = "margin"')  # fmt: skip
    path.write_text(text)
    return dataclasses.replace(make_plan(load_suite(path)), **changes)


def run(folder, plan):
    return run_plan(
        plan, plan, ResultsStore(folder / "results"), folder, suite_text="", command="test",
        engine=make_engine("inline"), notify=lambda text, dealt_with: None,
        finished=lambda outcome: None,
    )  # fmt: skip


def test_every_field_of_every_record_is_in_the_frame(tiny):
    folder, plan = tiny
    frame = load_records(folder / "results", suite="tiny").set_index("key")
    records = [
        record
        for subject in plan.subjects
        for record in ResultsStore(folder / "results").subject(subject.key).records()
    ]
    assert frame.index.dropna().tolist() == [record.key for record in records]
    for record in records:
        row = frame.loc[record.key]
        for name in SORTS.keys() - {"key", "cost"}:
            told, found = getattr(record, name), row[name]
            assert pd.isna(found) if told is None else found == told, (name, told, found)
        for name, value in (record.cost or {}).items():
            found = row[f"cost.{name}"]
            assert (value is None and pd.isna(found)) or found == value
    assert frame.loc[frame.index.isna(), "kind"].eq("training").all()


def test_columns_and_kinds_are_those_of_the_whole_frame(tiny):
    whole = load_records(tiny[0] / "results")
    asked = ["subject", "model.activation", "value", "details", "cost.median_seconds", "recipe.rho"]
    part = load_records(tiny[0] / "results", columns=asked, kinds={"measurement", "evaluation"})
    assert set(part.columns) == set(asked)
    assert part.pop("recipe.rho").isna().all()  # no recipe here has one
    expected = whole[whole["kind"].isin(["measurement", "evaluation"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, expected[list(part.columns)], check_categorical=False)
    with pytest.raises(InputError, match=r"no record has a column 'valeu'.*value"):
        load_records(tiny[0] / "results", columns=["valeu"])


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_an_export_in_pieces_is_the_whole_frame(tiny, tmp_path, monkeypatch, ending):
    monkeypatch.setattr("sharpbench.results.columns._ROWS", 40)
    assert len(list(record_pieces(tiny[0] / "results"))) > 1
    target = tmp_path / f"all.{ending}"
    whole = load_records(tiny[0] / "results")
    assert write_table(record_pieces(tiny[0] / "results"), target) == len(whole)
    read = pd.read_parquet(target) if ending == "parquet" else pd.read_csv(target)
    assert set(read.columns) == set(whole.columns)
    assert read["value"].tolist() == pytest.approx(whole["value"].tolist(), nan_ok=True, rel=0)
    assert read["kind"].tolist() == whole["kind"].tolist()
    there = read["details"].notna()
    assert [json.loads(t) for t in read["details"][there]] == whole["details"][there].tolist()
    assert list(tmp_path.iterdir()) == [target]


def lines_of(folder, subject):
    return folder / "results" / subject.key[:20] / "measurements.jsonl"


def without_a_measurement(folder, plan):
    path = lines_of(folder, plan.subjects[0])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if b'"margin"' not in line))


def without_an_evaluation(folder, plan):
    path = lines_of(folder, plan.subjects[0])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if b'"test_error"' not in line))


def without_a_point_along_training(folder, plan):
    path = lines_of(folder, plan.subjects[0])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if b'"epoch": 1,' not in line))


def with_a_changed_digit(folder, plan):
    path = lines_of(folder, plan.subjects[1])
    path.write_bytes(path.read_bytes().replace(b'"samples": 42', b'"samples": 43', 1))


def without_weights(folder, plan):
    (lines_of(folder, plan.subjects[0]).parent / "weights.safetensors").unlink()


def without_a_description(folder, plan):
    (lines_of(folder, plan.subjects[0]).parent / "subject.json").unlink()


def as_it_was(folder, plan):
    pass


@pytest.mark.parametrize(
    "harm",
    [as_it_was, without_a_measurement, without_an_evaluation, without_a_point_along_training,
     with_a_changed_digit, without_weights, without_a_description],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::sharpbench.errors.LeftOutWarning")
def test_the_survey_says_of_each_subject_what_its_lines_say(tiny, tmp_path, harm):
    shutil.copytree(tiny[0] / "results", tmp_path / "results")
    plan = plan_of(tmp_path, 3)  # one seed more than there are results of
    harm(tmp_path, plan)
    store = ResultsStore(tmp_path / "results")
    found = survey(plan, store)
    for subject, standing in zip(plan.subjects, found, strict=True):
        left = remaining(plan, subject, store.subject(subject.key))
        bare = dataclasses.replace(left, answered=(), along=())
        assert standing.left == bare
        nothing = not (left.training or left.evaluation or left.questions)
        assert standing.settled == (nothing and not store.subject(subject.key).load().left_out)
    assert sum(s.settled for s in found) == (4 if harm is as_it_was else 3)


def test_a_run_that_has_nothing_to_do_writes_no_record_and_opens_no_network(tiny, monkeypatch):
    folder, plan = tiny
    monkeypatch.setattr("sharpbench.suite.run.run_subject", None)
    outcomes = run(folder, plan)
    assert [(o.key, o.trained, o.measured, o.problems) for o in outcomes] == [
        (subject.key, False, 0, ()) for subject in plan.subjects
    ]


def test_what_is_left_is_foretold_from_like_costs(tiny):
    folder, _ = tiny
    plan = plan_of(folder, 3)
    store = ResultsStore(folder / "results")
    expected = forecast(plan, store, survey(plan, store))
    frame = load_records(folder / "results")
    assert [e.seconds for e in expected if not e.measurements] == [0.0] * 4
    for subject, found in zip(plan.subjects, expected, strict=True):
        if found.measurements:
            own = frame[frame["model_label"] == subject.model.label]
            costs = own.groupby("label")["cost.median_seconds"].median()
            epoch = own.loc[
                (own["kind"] == "training") & (own["name"] == "seconds"), "value"
            ].median()
            # Two metrics as they are and after a transformation, one at each of two epochs.
            told = (
                2 * costs["logit_norm"] + 2 * costs["margin"] + 2 * epoch + 2 * costs["logit_norm"]
            )
            assert found.seconds == pytest.approx(told)
            assert (found.measurements, found.unlike, found.untrained) == (4, 0, False)


def test_what_was_never_made_like_it_is_counted(tiny, tmp_path):
    plan = plan_of(tmp_path, 1)
    found = [intent.expected for intent in intents(plan, tmp_path / "results", tmp_path)]
    assert [(e.seconds, e.unlike, e.untrained) for e in found] == [(0.0, 4, True)] * 2
    assert not (tmp_path / "results").exists()


def test_a_nested_column_behaves_as_one_of_objects():
    values = [{"a": 1}, None, [1, 2], {"a": 1}]
    series = pd.Series(NestedArray._from_sequence(values))
    objects = pd.Series(values, dtype=object)
    assert series.isna().tolist() == objects.isna().tolist()
    for chosen in ([True, False, True, True], [False] * 4):
        assert series[chosen].dropna().tolist() == objects[chosen].dropna().tolist()
    kind = type
    assert series.map(lambda v: kind(v).__name__).tolist() == ["dict", "float", "list", "dict"]
    assert pd.concat([series, series]).iloc[6] == [1, 2]
    assert series.take([3, 0]).tolist() == [{"a": 1}, {"a": 1}]
    assert series.reindex([2, 9]).isna().tolist() == [False, True]
    with pytest.raises(TypeError, match="neither a list nor a dict"):
        NestedArray._from_sequence(["text"])


def test_every_field_of_a_record_has_a_sort():
    assert SORTS.keys() == {field.name for field in dataclasses.fields(Record)}
    assert (SORTS["value"], SORTS["kind"], SORTS["details"]) == ("real", "word", "long nested")


def test_a_column_of_one_value_may_take_the_memory_of_one_and_is_a_column_like_any_other(tiny):
    folder, _ = tiny
    frame = load_records(folder / "results", suite="tiny", read_only=True)
    own = load_records(folder / "results", suite="tiny")
    pd.testing.assert_frame_equal(frame, own)
    plain = [c for c in frame if isinstance(frame[c].dtype, np.dtype)]
    of_one = [c for c in plain if not any(frame[c].to_numpy().strides)]
    assert all(len(set(map(str, frame[c]))) == 1 for c in of_one)
    assert {"dataset", "dataset.n", "model", "problem", "trap", "limit", "recipe.epochs"} <= {
        *of_one
    }
    assert frame["model.activation"].to_numpy().strides == (8,)
    assert frame["dataset.n"].sum() == 60 * len(frame)
    assert frame.groupby("dataset")["value"].size().to_dict() == {"two_moons": len(frame)}
    tanh = frame["model.activation"] == "tanh"
    with pytest.raises(ValueError, match="read-only"):
        frame.loc[tanh, "dataset"] = "other"
    for name, value in (
        ("dataset", "other"),
        ("dataset.n", 1),
        ("value", 0.5),
        ("converged", True),
    ):
        own.loc[tanh, name] = value
        assert (own[name] == value).sum() >= tanh.sum() > 0
    assert set(own["dataset"]) == {"two_moons", "other"}
    for name in of_one:
        frame[name].sort_values().reset_index(drop=True).drop_duplicates()


def test_texts_that_repeat_are_kept_once_and_read_as_they_were():
    texts = [json.dumps({"k": i % 3}) for i in range(2000)]
    chunks = pa.chunked_array([texts[:500], [*texts[500:], None]], pa.string())
    few, many = (
        column("details", chunks),
        column("details", pa.chunked_array([map(str, range(2000))])),
    )
    assert few.nbytes < 0.5 * chunks.nbytes
    assert list(few)[:2000] == [{"k": i % 3} for i in range(2000)]
    assert few.isna().tolist() == [False] * 2000 + [True]
    assert few[1999] == {"k": 1}
    assert list(many) == list(range(2000))


PART = {"source": "points", "size": 0.1, "degrees_of_freedom": 7}
LISTS = [
    [PART, {"source": 'ä "b"\n\u2028', "size": None, "degrees_of_freedom": None, "more": [1]}],
    None,
    [],
    [{"source": "draws", "size": 1e-320}],
    [{"source": "x" * (1 << 21), "size": 0}],
]


@pytest.mark.parametrize("together", [50_000, 2])
@pytest.mark.parametrize("repeated", [False, True])
def test_members_are_those_of_the_decoded_entries(monkeypatch, together, repeated):
    monkeypatch.setattr(nested, "_PARSED", together)
    values = [*LISTS, *LISTS[::-1]]
    array = NestedArray._from_sequence(values)
    if repeated:
        array = NestedArray(array.texts.dictionary_encode())[1:]
        values = values[1:]
    fields = {"source": pa.string(), "size": pa.float64(), "degrees_of_freedom": pa.float64()}
    rows, found = array.members(fields)
    expected = [(i, one) for i, entry in enumerate(values) for one in entry or ()]
    assert rows.tolist() == [i for i, _ in expected]
    for name in fields:
        assert found[name].to_pylist() == [one.get(name) for _, one in expected]
    rows, found = array[:0].members(fields)
    assert (len(rows), *map(len, found.values())) == (0, 0, 0, 0)
    with pytest.raises(pa.ArrowInvalid):
        NestedArray._from_sequence([{"source": "no list"}]).members(fields)


@pytest.mark.parametrize("repeated", [False, True])
def test_texts_stay_where_they_are_and_are_chosen_by_their_numbers(repeated):
    values = [{"k": i % 3 if repeated else i} for i in range(2000)]
    stored = pa.array([*map(json.dumps, values[:-1]), None], pa.string())
    order = np.random.default_rng(0).permutation(2000)
    found = column("details", pa.chunked_array([stored[:700], stored[700:]]), order)
    values[-1] = None
    assert [None if v != v else v for v in found] == [values[i] for i in order]
    assert len(found.texts.dictionary) == (3 if repeated else 2000)


def test_more_letters_than_32_bits_count_are_counted_in_64(monkeypatch):
    monkeypatch.setattr(columns, "_COUNTED", 100)
    values = [[{"source": f"s{i}"}] for i in range(20)]
    texts = pa.chunked_array([[*map(json.dumps, values)]])
    array = column("errors", texts)
    assert pa.types.is_large_string(array.texts.type)
    assert array.members({"source": pa.string()})[1]["source"].to_pylist() == [
        v[0]["source"] for v in values
    ]
    small = NestedArray._from_sequence([[1]])
    assert list(pd.concat([pd.Series(array), pd.Series(small)])) == [*values, [1]]
    coded = NestedArray(pa.DictionaryArray.from_arrays(pa.array([3, 1]), array.texts))
    assert [*coded, *coded.plain().to_pylist()] == [
        values[3], values[1], json.dumps(values[3]), json.dumps(values[1])
    ]  # fmt: skip
