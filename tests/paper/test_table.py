"""The table of claims in Markdown, read back, and why a verdict is another."""

import pytest

from sharpbench.analysis.audit import claims_table
from sharpbench.analysis.statistics import Estimate
from sharpbench.paper.__main__ import main
from sharpbench.paper.claims import CLAIMS
from sharpbench.paper.evidence import SUITES
from sharpbench.paper.table import Earlier, markdown, read_markdown, why_changed
from tests.paper.test_values import lawful


@pytest.fixture(scope="module")
def rows():
    return claims_table({suite: lawful(suite) for suite in SUITES}, CLAIMS).to_dict("records")


def test_a_table_is_read_back(rows):
    text = "Some note\n\n" + "\n".join(f"> {line}" for line in markdown(rows).splitlines())
    found = read_markdown(text + "\n\n| data | question | measured |\n|---|---|---|\n| a | b | 1 |")
    assert len(found) == len(CLAIMS)
    for row in rows:
        earlier = found[f"{row['section']}: {row['statement']}"]
        assert earlier.verdict == row["verdict"]
        now = row["estimate"] or Estimate(0.0, 0.0, 0.0, 0)
        then = earlier.found or Estimate(0.0, 0.0, 0.0, 0)
        told = (now.value, now.low, now.high)
        assert (then.value, then.low, then.high) == pytest.approx(told, rel=1e-3)
    with pytest.raises(ValueError, match="no table with the columns"):
        read_markdown("| a | b |\n|---|---|\n| 1 | 2 |")


def test_a_table_beside_itself_has_nothing_to_explain(rows):
    again = markdown(rows, read_markdown(markdown(rows)))
    cells = [line.split(" | ") for line in again.splitlines()[2:]]
    assert [c[5] for c in cells] == [c[6] for c in cells]
    assert {c[7].strip(" |") for c in cells} == {""}


@pytest.mark.parametrize(
    ("found", "then", "told"),
    [
        ((1.0, 0.8, 1.2, 9), (1.01, 0.81, 1.21, 9), "the same figure; the rule now: R"),
        ((1.0, 0.8, 1.2, 9), (1.1, 0.9, 1.3, 9), "another figure: 1.1 then; the rule now: R"),
        (
            (1.0, 0.8, 1.2, 9),
            (2.0, 1.9, 2.1, 9),
            "another figure: 2 then, outside its interval; the rule now: R",
        ),
        (
            (1.0, 0.5, 1.5, 3),
            (1.0, 0.8, 1.2, 9),
            "an interval of 1 for 0.4; over 3, told as 9 then; the rule now: R",
        ),
        (None, (1.0, 0.8, 1.2, 9), "not run with these records"),
        ((1.0, 0.8, 1.2, 9), None, "not measured then"),
    ],
)
def test_why_a_verdict_changed(found, then, told):
    row = {"estimate": found and Estimate(*found), "rule": "R"}
    row["verdict"] = "inconclusive" if found else "not run"
    assert why_changed(row, Earlier("reproduced", then and Estimate(*then))) == told


def test_noise_of_the_points_is_a_reason():
    row = {
        "estimate": Estimate(1.0, 0.9, 1.1, 3, noise=2.0),
        "rule": "R",
        "verdict": "inconclusive",
    }
    earlier = Earlier("reproduced", Estimate(1.0, 0.9, 1.1, 3))
    assert "within the noise of the points that all are judged on" in why_changed(row, earlier)


def test_what_is_not_there_is_told_in_a_sentence(tmp_path, capsys):
    for arguments in (["nowhere"], [str(tmp_path), "--before", str(tmp_path / "no.md")]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert "no results folder nowhere" in capsys.readouterr().err
    main([str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.startswith(f"{sum(c.measure is not None for c in CLAIMS)} not run, ")
