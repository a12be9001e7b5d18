"""Suite files as they come: whatever is in one, the message names file, line and key."""

from __future__ import annotations

import os

import pytest

from sharpbench.errors import InputError
from sharpbench.registry import Registry
from sharpbench.suite.plan import MOST_SUBJECTS, make_plan
from sharpbench.suite.spec import find_suite, load_suite
from tests.conftest import MINI_SUITE

PROBLEM = """
[[problems]]
problem = {{ name = "sine" }}
metrics = {{ name = "curvature_rate", target = 0 }}
{}
"""


def edited(old: str, new: str) -> str:
    assert old in MINI_SUITE
    return MINI_SUITE.replace(old, new, 1)


def many(values, spell="{}") -> str:
    return "[" + ", ".join(spell.format(v) for v in values) + "]"


NUMBERS = {
    "n = 200": [
        ("n = true", "dataset.n", "should be a number"),
        ('n = "200"', "dataset.n", "should be a number"),
        ("n = 1180591620717411303424", "dataset.n", "64 bits"),
        ("n = 0x" + "f" * 5000, "dataset.n", "an integer of 20,000 bits does not fit"),
        ("n = 2020-01-01", "dataset.n", "valid integer"),
        ("n = { a = 1 }", "dataset.n", "valid integer"),
        ("noise = nan", "dataset.noise", "finite number"),
        ("noise = -inf", "dataset.noise", "finite number"),
        ("noise = true", "dataset.noise", "should be a number"),
        ('noise = "0.2"', "dataset.noise", "should be a number"),
        ("standardize = 1", "dataset.standardize", "true or false"),
        ('standardize = "yes"', "dataset.standardize", "true or false"),
        ("n = 200, n = 300", None, "Duplicate inline table key 'n'"),
        ("n = [200, true]", "dataset.n", "should be a number"),
        ("label_nois = 0", "dataset.label_nois", "Did you mean 'label_noise'"),
    ],
    "label_noise = [0.0, 0.2]": [
        ("label_noise = nan", "dataset.label_noise", "finite"),
        ("label_noise = -0.1", "dataset.label_noise", "must lie in [0, 1]"),
        ("label_noise = []", "dataset.label_noise", "valid number"),
        ('label_noise = [0.0, "x"]', "dataset.label_noise", "valid number"),
    ],
    "widths = [8]": [
        ("widths = [true]", "model.widths", "should be a number"),
        ("widths = [0]", "model.widths", "must be positive"),
        ("widths = " + "[" * 300 + "8" + "]" * 300, "model", "nested too deep"),
        ("widths = " + "[" * 20_000, None, "nested too deep"),
        ("widths = " + "{ a = " * 20_000, None, "nested too deep"),
        ("w" + ".a" * 20_000 + " = 1", None, "nested too deep"),
        ("widths = [" + "1" * 5000 + "]", None, "thousands of digits"),
    ],
    "epochs = 3": [
        ("epochs = true", "recipe.epochs", "should be a number"),
        ("epochs = -1", "recipe.epochs", "at least 1"),
        ("lr = nan", "recipe.lr", "finite"),
        ("lr = inf", "recipe.lr", "finite"),
        ("lr = 0", "recipe.lr", "must be positive"),
    ],
    "samples = 32": [
        ("samples = true", "metrics[1].samples", "should be a number"),
        ("samples = 0", "metrics[1].samples", "at least 1"),
        ("orders = [true, 2]", "metrics[1].orders", "should be a number"),
    ],
    "max_probes = 10": [
        ("max_probes = 0", "metrics[2].max_probes", "at least 2"),
        ("tolerance = nan", "metrics[2].tolerance", "finite"),
        ('max_probes = "10"', "metrics[2].max_probes", "should be a number"),
    ],
    "repeats = 1": [
        ("repeats = true", "cost.repeats", "a number is meant, got True"),
        ('repeats = "1"', "cost.repeats", "a number is meant, got '1'"),
        ("repeats = nan", "cost.repeats", "finite"),
        ("repeats = -1", "cost.repeats", "greater than or equal to 0"),
        ("repeats = 1000000000", "cost.repeats", "less than or equal"),
        ("spread = inf", "cost.spread", "finite"),
        ("flops = 1", "cost.flops", "valid boolean"),
        ("repets = 1", "cost.repets", "Did you mean 'repeats'"),
    ],
    "every = 2": [
        ("every = true", "trajectory.every", "a number is meant"),
        ("every = 0", "trajectory.every", "greater than or equal to 1"),
    ],
    "recipe  =": [("recipes =", "subjects[1].recipes", "Did you mean 'recipe'")],
    'title = "A miniature"': [
        ("threads = true", "threads", "a number is meant"),
        ("threads = 1000000000", "threads", "less than or equal to 1024"),
        ("title = 2020-01-01", "title", "valid string"),
        ("titel = 'x'", "titel", "Did you mean 'title'"),
        ("limits = { training_seconds = inf }", "limits.training_seconds", "finite"),
        ("limits = { training_seconds = true }", "limits.training_seconds", "a number is meant"),
        ("limits = { measurement_seconds = 0 }", "limits.measurement_seconds", "greater than 0"),
        ("evaluation = { ece_bins = true }", "evaluation.ece_bins", "a number is meant"),
        ("evaluation = { ece_bins = 1000000000000 }", "evaluation.ece_bins", "less than or equal"),
    ],
    'name = "mini"': [
        (f'name = "{"a" * 5000}"', "name", "at most 100 characters"),
        ('name = "../x"', "name", "should match pattern"),
        ("name = 3", "name", "valid string"),
    ],
    "seeds = [0, 1]": [
        ("seeds = [nan]", "seeds[1]", "valid integer"),
        ("seeds = [1180591620717411303424]", "seeds[1]", "64 bits"),
        ("seeds = [0x" + "f" * 5000 + "]", "seeds[1]", "an integer of 20,000 bits"),
        ("seeds = { data = 2, zip = 'yes' }", "seeds.zip", "valid boolean"),
        ("seeds = [0, [1]]", "seeds[2]", "valid integer"),
    ],
    '"weight_noise"': [
        ('"weight_noise"\ndraws = true', "transformations[2].draws", "positive whole number"),
        ('"weight_noise"\ndraws = nan', "transformations[2].draws", "positive whole number"),
        ('"weight_noise"\ndrwas = 2', "transformations[2].drwas", "Did you mean 'draws'"),
    ],
}  # fmt: skip
"""What stands in the suite, and what might stand in its place: the key and the reason that are told."""


@pytest.mark.parametrize(
    ("old", "new", "key", "told"),
    [
        pytest.param(old, new, key, told, id=new[:30])
        for old, cases in NUMBERS.items()
        for new, key, told in cases
    ],
)
def test_what_is_no_number_or_no_key_is_told_with_file_line_and_key(
    mini_suite, old, new, key, told
):
    text = edited(old, new)
    mini_suite.write_text(text)
    with pytest.raises(InputError) as caught:
        make_plan(load_suite(mini_suite))
    message = str(caught.value)
    line = text[: text.index(new)].count("\n") + 1 + new.count("\n")
    if key is not None:
        assert f"{mini_suite}, line {line}: " in message
        assert f"{key}: " in message
    assert f"line {line}" in message
    assert told in message
    assert len(message) < 1000


LARGE = {
    "datasets": (
        edited("n = 200", f"n = {many(range(100, 1100))}, noise = {many(range(1000))}"),
        "line 6: subjects[1]: a grid of 16,000,000 networks "
        "(2,000,000 datasets × 2 models × 2 recipes × 2 seeds), and at most 100,000",
    ),
    "three axes of a thousand": (
        MINI_SUITE.replace("n = 200", f"n = {many(range(100, 1100))}")
        .replace("widths = [8]", f"widths = {many(range(1, 1001), '[{}]')}")
        .replace("epochs = 3 }", f"epochs = {many(range(1, 1001))} }}", 1),
        "a grid of 8,008,000,000 networks (2,000 datasets × 2,000 models × 1,001 recipes × 2 seeds)",
    ),
    "seeds by stream": (
        edited(
            "seeds = [0, 1]",
            "seeds = { data = 10000, initialization = 10000, training = 10000 }",
        ),
        "× 1,000,000,000,000 seeds)",
    ),
    "many seeds": (edited("[0, 1]", many(range(60_000))), "60,000 seeds"),
    "draws": (
        edited('"weight_noise"', '"weight_noise"\ndraws = 1000000000'),
        "line 25: transformations[2].draws: a grid of 3,000,000,000 measurements",
    ),
    "metrics": (
        edited(
            "samples = 32", f"samples = {many(range(1, 1001))}\ndirections = {many(range(1, 1001))}"
        ),
        "metrics: a grid of 1,000,002 metrics",
    ),
    "trajectory": (
        edited(
            "samples = 16", f"samples = {many(range(1, 400))}, directions = {many(range(1, 400))}"
        ),
        "line 27: trajectory.metrics: a grid of 159,201 metrics along training",
    ),
    "repetitions": (
        MINI_SUITE + PROBLEM.format("repetitions = 1000000000"),
        "line 36: problems[1].repetitions: a grid of 1,000,000,000 questions",
    ),
    "problems": (
        MINI_SUITE
        + PROBLEM.format("").replace('"sine"', f'"sine", dimension = {many(range(1, 60_001))}'),
        "problems[1]: a grid of 120,000 problems (60,000 problems × 2 seeds)",
    ),
    "all in all": (
        edited("n = 200", f"n = {many(range(100, 5100))}").replace(
            '"weight_noise"', '"weight_noise"\ndraws = 10000'
        ),
        "a grid of 2,400,480,000 measurements in all",
    ),
}


@pytest.mark.parametrize("case", LARGE)
def test_a_grid_too_large_is_refused_by_its_size_before_anything_of_it_is_made(
    mini_suite, monkeypatch, case
):
    text, told = LARGE[case]
    mini_suite.write_text(text)

    def made(*_):
        raise AssertionError("a plug-in was made")

    monkeypatch.setattr(Registry, "create", made)
    with pytest.raises(InputError) as caught:
        make_plan(load_suite(mini_suite))
    assert str(mini_suite) in str(caught.value)
    assert told in str(caught.value)
    assert "shorten an axis" in str(caught.value)


def test_a_study_of_ten_thousand_networks_is_no_such_grid(mini_suite):
    mini_suite.write_text(edited("seeds = [0, 1]", "seeds = { data = 10, initialization = 125 }"))
    assert len(make_plan(load_suite(mini_suite)).subjects) == 10_000 < MOST_SUBJECTS


CONTENTS = {
    b"": "the file is empty",
    b"\n \n": "the file is empty",
    b"# nothing": "name: is missing",
    MINI_SUITE.encode("utf-16"): "line 1: not a text in UTF-8 (invalid start byte): save the file",
    MINI_SUITE.replace("miniature", "miniatür").encode("latin-1"): "line 3: not a text in UTF-8",
    MINI_SUITE.encode() + b"\0": "not valid TOML",
    MINI_SUITE.encode() + b"\n[cost]\n": "Cannot declare ('cost',) twice",
    MINI_SUITE.encode() + b"x" * 2**23: "larger than 8 MiB",
}


@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: repr(content[:12]))
def test_a_file_that_is_no_suite_is_told(mini_suite, content):
    mini_suite.write_bytes(content)
    with pytest.raises(InputError) as caught:
        make_plan(load_suite(mini_suite))
    assert str(mini_suite) in str(caught.value)
    assert CONTENTS[content] in str(caught.value)


def test_a_byte_order_mark_and_any_ending_of_lines_are_read(mini_suite):
    before = make_plan(load_suite(mini_suite)).record_keys()
    mini_suite.write_bytes(b"\xef\xbb\xbf" + MINI_SUITE.replace("\n", "\r\n").encode())
    assert make_plan(load_suite(mini_suite)).record_keys() == before


def test_a_whole_number_may_be_written_as_a_real_one(mini_suite):
    before = {s.key for s in make_plan(load_suite(mini_suite)).subjects}
    mini_suite.write_text(edited("n = 200", "n = 2e2"))
    assert {s.key for s in make_plan(load_suite(mini_suite)).subjects} == before


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fifo.toml", "'fifo.toml' is a FIFO, not a file"),
        ("folder.toml", "'folder.toml' is a folder, not a file"),
        ("/dev/zero", "'/dev/zero' is a device, not a file"),
        ("zero.toml", "'zero.toml' is a device, not a file"),
        ("circle.toml", "can't be opened: Too many levels of symbolic links"),
        ("nowhere.toml", "there is no file 'nowhere.toml' (a link to 'gone')"),
        ("x" * 5000, "File name too long"),
        ("a\0b.toml", "can't be opened"),
        ("", "unknown suite ''"),
        ("quik", "Did you mean 'quick'"),
    ],
)
def test_what_is_no_file_is_never_opened(tmp_path, monkeypatch, name, told):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.toml")
    os.mkdir("folder.toml")
    os.symlink("/dev/zero", "zero.toml")
    os.symlink("circle.toml", "circle.toml")
    os.symlink("gone", "nowhere.toml")
    with pytest.raises(InputError) as caught:
        find_suite(name)
    assert told in str(caught.value)
    assert "name the path of a suite file" in str(caught.value)
