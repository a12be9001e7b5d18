import pytest

from sharpbench.errors import InputError
from sharpbench.metrics import metrics
from sharpbench.models import models
from sharpbench.suite.plan import make_plan
from sharpbench.suite.spec import expand, find_suite, load_suite
from tests.conftest import MINI_SUITE


def line_of(text: str) -> int:
    return next(i for i, line in enumerate(MINI_SUITE.splitlines(), start=1) if text in line)


BROKEN = {
    "unknown top key": ('title = "A miniature"', 'titel = "x"', "titel", ["Did you mean 'title'"]),
    "unknown block key": ("[cost]\nrepeats", "[cost]\nrepets", "repets", ["Did you mean 'repeats'"]),
    "wrong type": ("seeds = [0, 1]", 'seeds = ["a"]', "seeds", ["valid integer"]),
    "seed twice": ("seeds = [0, 1]", "seeds = [1, 1]", "seeds", ["stands twice"]),
    "unknown metric": ('name = "hessian_trace"', 'name = "hesian_trace"', "hesian_trace",
                       ["unknown metric 'hesian_trace'", "'hessian_trace'"]),
    "unknown parameter": ("widths = [8]", "width = [8]", "width = [8]",
                          ["no parameter 'width'", "Did you mean 'widths'"]),
    "unknown dataset": ('"two_moons"', '"two_moon"', "two_moon", ["Did you mean 'two_moons'"]),
    "bad value": ('activation = ["tanh", "relu"]', 'activation = ["tanh", "rellu"]', "rellu",
                  ["'rellu'", "'relu'"]),
    "bad recipe in a list": ('name = "sam"', 'name = "samm"', "samm", ["Did you mean 'sam'"]),
    "bad trajectory": ("samples = 16", "sampels = 16", "sampels", ["Did you mean 'samples'"]),
    "bad transformation": ('"weight_noise"', '"weight_nose"', "weight_nose", ["'weight_noise'"]),
    "missing name": ('[[metrics]]\nname = "curvature_rate"\n', "[[metrics]]\n", None, ["needs a name"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_errors_name_file_line_key_and_the_nearest_name(mini_suite, case):
    old, new, key, told = BROKEN[case]
    assert old in MINI_SUITE
    text = MINI_SUITE.replace(old, new, 1)
    mini_suite.write_text(text)
    with pytest.raises(InputError) as caught:
        make_plan(load_suite(mini_suite))
    message = str(caught.value)
    assert str(mini_suite) in message
    lines = enumerate(text.splitlines(), start=1)
    where = [] if key is None else [f"line {next(i for i, x in lines if key in x)}:"]
    for part in (*told, *where):
        assert part in message


def test_broken_toml_is_told_with_its_place(mini_suite):
    mini_suite.write_text('name = "x\n')
    with pytest.raises(InputError, match=r"not valid TOML.*line 1"):
        load_suite(mini_suite)


def test_a_list_is_an_axis_where_a_scalar_is_expected():
    assert len(expand(models, {"name": "mlp", "widths": [8, 8]})) == 1
    assert [m.widths for m in expand(models, {"name": "mlp", "widths": [[8], [8, 8]]})] == [
        (8,),
        (8, 8),
    ]
    grid = expand(models, {"name": "mlp", "widths": [[8], [9]], "activation": ["tanh", "relu"]})
    assert len(grid) == 4
    assert len(expand(metrics, {"name": "curvature_rate", "orders": [1, 2, 3]})) == 1
    assert len(expand(metrics, {"name": "sam_sharpness", "m": [32, "all"]})) == 2


def test_the_grid_is_the_product_of_its_axes(mini_suite):
    plan = make_plan(load_suite(mini_suite))
    assert len(plan.subjects) == 2 * 2 * 2 * 2  # noise × activation × recipe × seed
    assert len(plan.measurements) == 3 * (1 + 2)  # metrics × (plain + transformations)
    assert len({s.key for s in plan.subjects}) == 16


def test_keys_depend_on_content_alone(mini_suite):
    first = make_plan(load_suite(mini_suite))
    text = MINI_SUITE.replace('["tanh", "relu"]', '["relu", "tanh"]').replace("[0, 1]", "[1, 0]")
    text = text.replace('name = "mini"', 'name = "other"')
    text = text.replace(
        "n = 200, label_noise", "noise = 0.2, n = 200, label_noise"
    )  # a default, spelt out
    mini_suite.write_text(text)
    second = make_plan(load_suite(mini_suite))
    assert {s.key for s in first.subjects} == {s.key for s in second.subjects}
    assert first.record_keys() == second.record_keys()
    mini_suite.write_text(MINI_SUITE.replace("n = 200", "n = 201"))
    assert not {s.key for s in first.subjects} & {
        s.key for s in make_plan(load_suite(mini_suite)).subjects
    }


def test_draws_are_separate_measurements(mini_suite):
    mini_suite.write_text(
        MINI_SUITE.replace('name = "weight_noise"', 'name = "weight_noise"\ndraws = 3')
    )
    assert len(make_plan(load_suite(mini_suite)).measurements) == 3 * (1 + 1 + 3)
    mini_suite.write_text(
        MINI_SUITE.replace('name = "weight_noise"', 'name = "weight_noise"\ndraws = 0')
    )
    with pytest.raises(InputError, match="draws: must be a positive whole number"):
        make_plan(load_suite(mini_suite))


def test_only_keeps_what_matches(mini_suite):
    plan = make_plan(load_suite(mini_suite))
    assert len(plan.only(["seed=1"]).subjects) == 8
    assert len(plan.only(["activation=relu", "sam("]).subjects) == 12
    with pytest.raises(InputError, match="matches none"):
        plan.only(["resnet"])


def test_unknown_suites_get_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'quick'"):
        find_suite("quik")
    with pytest.raises(InputError, match="no file"):
        find_suite("missing/suite.toml")


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ("2", [(0, 0, 0), (1, 1, 1)]),
        ("{ data = [4, 5], initialization = 2 }", [(4, 0, 0), (4, 1, 0), (5, 0, 0), (5, 1, 0)]),
        ("{ training = [1, 7] }", [(0, 0, 1), (0, 0, 7)]),
        (
            "{ data = [0, 1, 2], initialization = [5, 6, 7], training = [9], zip = true }",
            [(0, 5, 9), (1, 6, 9), (2, 7, 9)],
        ),
        ("{ data = 2, initialization = 2, training = 2, zip = true }", [(0, 0, 0), (1, 1, 1)]),
    ],
)
def test_seeds_by_stream(mini_suite, seeds, expected):
    mini_suite.write_text(MINI_SUITE.replace("seeds = [0, 1]", f"seeds = {seeds}"))
    plan = make_plan(load_suite(mini_suite))
    one = [
        s for s in plan.subjects if s.label.startswith(plan.subjects[0].label.rpartition(" · ")[0])
    ]
    found = [(s.seeds.data, s.seeds.initialization, s.seeds.training) for s in one]
    assert found == expected
    assert [s.seed for s in one] == [data for data, _, _ in expected]


def test_seeds_that_are_alike_are_known_by_their_number(mini_suite):
    """The content key of a network whose streams share a seed is that of before there were streams."""
    plain = make_plan(load_suite(mini_suite)).subjects
    assert {s.identity["seed"] for s in plain} == {0, 1}
    assert {s.label.rpartition(" · ")[2] for s in plain} == {"seed=0", "seed=1"}
    by_stream = "seeds = { data = 2, initialization = 2, training = 2, zip = true }"
    mini_suite.write_text(MINI_SUITE.replace("seeds = [0, 1]", by_stream))
    assert [s.key for s in make_plan(load_suite(mini_suite)).subjects] == [s.key for s in plain]
    apart = "seeds = { data = 2, initialization = [3] }"
    mini_suite.write_text(MINI_SUITE.replace("seeds = [0, 1]", apart))
    plan = make_plan(load_suite(mini_suite))
    streams = {"data": 1, "initialization": 3, "training": 0}
    assert plan.subjects[1].identity["seed"] == streams
    assert plan.subjects[1].label.endswith(" · data=1, initialization=3, training=0")
    assert len(plan.only(["data=1, initialization=3"]).subjects) == 8
    assert not {s.key for s in plan.subjects} & {s.key for s in plain}


@pytest.mark.parametrize(
    ("seeds", "told"),
    [
        (
            "{ data = [0], weights = [1] }",
            ["line 4: seeds.weights", "unknown key", "Known names: data, init"],
        ),
        ("{ data = [0], trainning = [1] }", ["line 4: seeds.trainning", "Did you mean 'training'"]),
        ("{ data = [0, 0] }", ["seeds.data", "stands twice"]),
        ("{ data = [-1] }", ["seeds.data[1]", "greater than or equal to 0"]),
        ("{ initialization = [] }", ["seeds.initialization", "at least 1 item"]),
        ("{ data = -1 }", ["seeds.data: a number stands for that many seeds, from 1 to", "got -1"]),
        ("20240131", ["seeds: a number stands for that many", "one seed is written as a list"]),
        ("[0, true]", ["seeds[2]", "valid integer"]),
        (
            "{ data = 2, initialization = 3, zip = true }",
            [
                "seeds",
                "as many seeds, or one for all: data has 2, initialization has 3, training has 1",
            ],
        ),
        (
            '{ data = 2 }\n[[problems]]\nproblem = { name = "sine" }\n'
            'metrics = { name = "curvature_rate", target = 0 }',
            ["[[problems]] are not trained and need seeds of their own"],
        ),
    ],
)
def test_errors_in_seeds_by_stream_are_clear(mini_suite, seeds, told):
    mini_suite.write_text(MINI_SUITE.replace("seeds = [0, 1]", f"seeds = {seeds}"))
    with pytest.raises(InputError) as caught:
        make_plan(load_suite(mini_suite))
    for part in (str(mini_suite), *told):
        assert part in str(caught.value)


def test_a_number_of_seeds_and_seeds_of_a_block(mini_suite):
    mini_suite.write_text(MINI_SUITE.replace("seeds = [0, 1]", "seeds = 3"))
    assert {s.seed for s in make_plan(load_suite(mini_suite)).subjects} == {0, 1, 2}
    text = MINI_SUITE.replace("[[metrics]]", "seeds = [7]\n\n[[metrics]]", 1)
    mini_suite.write_text(text)
    assert {s.seed for s in make_plan(load_suite(mini_suite)).subjects} == {7}
    for bad in ("0", "true", "[]"):
        mini_suite.write_text(MINI_SUITE.replace("seeds = [0, 1]", f"seeds = {bad}"))
        with pytest.raises(InputError, match="seeds"):
            load_suite(mini_suite)


def test_a_file_that_is_no_text_is_told_so(tmp_path):
    (tmp_path / "suite.toml").write_bytes(b"\xff\xfename")
    with pytest.raises(InputError, match=r"suite\.toml, line 1: not a text in UTF-8"):
        load_suite(tmp_path / "suite.toml")
