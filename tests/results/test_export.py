"""Records as a table in a file."""

import json

import pandas as pd
import pytest

from sharpbench.errors import InputError
from sharpbench.results.export import write_table

FRAME = pd.DataFrame(
    {"value": [1.5, 2.5], "details": [{"orders": [1, 2]}, {}], "name": ["a", None]}
)


@pytest.mark.parametrize(("ending", "read"), [("csv", pd.read_csv), ("parquet", pd.read_parquet)])
def test_a_table_is_read_again_with_nested_values_as_json(tmp_path, ending, read):
    target = tmp_path / "new" / f"all.{ending}"
    assert write_table(FRAME, target) == 2
    table = read(target)
    assert table["value"].tolist() == [1.5, 2.5]
    assert [json.loads(text) for text in table["details"]] == FRAME["details"].tolist()
    assert table["name"].isna().tolist() == [False, True]


@pytest.mark.parametrize(("ending", "read"), [("csv", pd.read_csv), ("parquet", pd.read_parquet)])
def test_two_that_write_a_table_at_once_leave_a_whole_one(tmp_path, ending, read):
    target = tmp_path / f"all.{ending}"

    def pieces():
        yield FRAME
        write_table(FRAME, target)
        yield FRAME

    assert write_table(pieces(), target) == 4
    assert read(target)["value"].tolist() == [1.5, 2.5, 1.5, 2.5]
    assert list(tmp_path.iterdir()) == [target]


def test_another_ending_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(InputError, match=r"must end in \.parquet or \.csv"):
        write_table(FRAME, tmp_path / "new" / "all.txt")
    assert not list(tmp_path.iterdir())


def test_a_csv_file_holds_no_formula_and_a_parquet_file_every_text_as_it_is(tmp_path):
    texts = ["=1+1", "+cmd", "-2+3", "@SUM(1)", "\tx", "\rx", "\n=x", "＝1", "plain", None]
    numbers = ["-1.5", "+2e-3", "-inf", ".5", "1", "-3.", "1e5", "nan", "0", "7"]
    frame = pd.DataFrame(
        {
            "text": texts,
            "kinds": pd.Categorical(texts),
            "number_texts": numbers,
            "mixed": [-1.5, "=x", *[None] * 8],
            "value": [-float(n) for n in range(10)],
            "=header": range(10),
        }
    )
    assert write_table(frame, tmp_path / "a.csv") == 10
    table = pd.read_csv(tmp_path / "a.csv", keep_default_na=False, dtype=str, lineterminator="\n")
    safe = [f"'{t}" for t in texts[:8]]
    assert table["text"].tolist()[:8] == safe
    assert table["kinds"].tolist()[:8] == safe
    assert table["text"].tolist()[8:] == ["plain", ""]
    assert table["number_texts"].tolist() == numbers
    assert table["mixed"].tolist()[:2] == ["-1.5", "'=x"]
    assert [float(v) for v in table["value"]] == frame["value"].tolist()
    assert table.columns[-1] == "'=header"
    write_table(frame, tmp_path / "a.parquet")
    whole = pd.read_parquet(tmp_path / "a.parquet")
    assert whole["text"].tolist()[:9] == texts[:9]
    assert whole.columns.tolist() == frame.columns.tolist()
