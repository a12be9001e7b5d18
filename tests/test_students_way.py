"""A metric of one's own, from ``pip install`` to its row; without the environment: tests/cli/test_rank.py."""

import pytest

from tests.students_way import go


@pytest.mark.endurance
def test_a_metric_is_ranked_from_a_fresh_environment(tmp_path):
    row, took = go(tmp_path)
    assert (row["name"], row["highlight"]) == ("my_metric", True)
    assert all(row["cells"][question]["word"] for question in ("invariant", "predictive", "costly"))
    assert "failed" not in row["figures"]
    assert len(took) == 4
