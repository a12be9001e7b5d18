"""What a columnar copy is keyed by: the code that shapes its rows, all of it and nothing else."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sharpbench
from sharpbench.results.definitions import digest_of
from sharpbench.results.reading import content_of, read_stored
from sharpbench.results.store import ResultsStore
from tests.results.test_store import DESCRIPTION, KEY, record

PACKAGE = Path(sharpbench.__file__).parent


def source(module: str) -> str:
    return PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py").read_text("utf-8")


@functools.cache
def digest(module="", old="", new=""):
    """That of the reader, with ``new`` in the place of ``old`` in one module."""

    def edited(name):
        text = source(name)
        if name == module:
            assert old in text
            text = text.replace(old, new)
        return text

    return digest_of(read_stored, content_of, source=edited)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("reading", '"value": value,', '"value": -value,'),
        ("reading", 'frozenset({"training", "identity"})', 'frozenset({"training"})'),
        ("reading", "class LeftOut:", "class LeftOut(tuple):"),
        ("record", '"decision_map", "reliability", "outcomes"}', '"decision_map"}'),
        ("record", 'title: str = ""', 'title: str = "untitled"'),
        ("record", "strict=True)", "strict=False)"),
        ("description", 'columns[f"{part}.{key}"]', 'columns[f"{part}_{key}"]'),
        ("description", "FOLDER_NAME = 20", "FOLDER_NAME = 21"),
        ("checksum", "zlib.crc32(place.encode())", "1"),
        ("keys", 'f"{key}:{name}"', 'f"{key}/{name}"'),
        ("disk", "return path.read_bytes()", "return path.read_bytes().strip()"),
    ],
)
def test_a_changed_reader_makes_another_copy(module, old, new):
    assert digest(f"sharpbench.results.{module}", old, new) != digest()


def test_what_is_reached_in_other_folders_counts():
    changed = digest("sharpbench.seeds", '("data", "initialization", "training")', '("data",)')
    assert changed != digest()


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("reading", "Everything in ``folder`` that is proven", "All"),
        ("reading", "# Else it is of a training", "# Otherwise of a training"),
        ("reading", "def read_stored(", "\n\ndef read_stored(\n    "),
        ("record", "What a reader calls the metric", "How a reader calls the metric"),
        ("keys", "_SEEDING = 2", "_SEEDING = 3"),
        ("disk", "os.fsync(file.fileno())", "os.fdatasync(file.fileno())"),
        ("columns", "_ROWS = 50_000", "_ROWS = 40_000"),
    ],
)
def test_what_shapes_no_row_makes_none(module, old, new):
    assert digest(f"sharpbench.results.{module}", old, new) == digest()


def test_a_copy_outlives_an_edit_beside_its_reader_and_no_edit_of_it(tmp_path):
    root, package = tmp_path / "results", tmp_path / "code" / "sharpbench"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    folder = ResultsStore(root).subject(KEY)
    folder.commit(DESCRIPTION, None)
    folder.append([record("q", 1.0)])

    def labels(module="", old="", new=""):
        """What another process reads by the edited package, and which copy it believes."""
        path = package / "results" / f"{module}.py"
        if module:
            assert old in path.read_text("utf-8")
            path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
        read = (
            "import sys; from sharpbench.results.store import load_records; "
            "print(*load_records(sys.argv[1])['subject_label'], 'torch' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", read, str(root)],
            capture_output=True, text=True, check=True, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(package.parent)},
        )  # fmt: skip
        (part,) = {*(root / ".columns").glob("*.parquet")} - {root / ".columns" / "index.parquet"}
        return done.stdout.strip(), part.stat().st_ino

    told, copy = labels()
    assert told == "p · seed=0 False"  # who reads figures needs no torch
    assert labels("export", "the file must end", "it must end") == (told, copy)
    told, other = labels("description", 'description["label"]', 'description["label"].upper()')
    assert told == "P · SEED=0 False"
    assert other != copy
