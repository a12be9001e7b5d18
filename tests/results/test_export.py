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


def test_another_ending_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(InputError, match=r"must end in \.parquet or \.csv"):
        write_table(FRAME, tmp_path / "new" / "all.txt")
    assert not list(tmp_path.iterdir())
