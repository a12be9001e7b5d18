"""docs/your_network.md as a reader follows it: its blocks in their order, in one folder."""

from __future__ import annotations

import importlib
import os
import re
import shlex
from pathlib import Path

import pytest
import torch

from tests.cli.command import in_process

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "your_network.md"
BLOCK = re.compile(r"^```(\w+)(?: (\w+)=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(DOCUMENT.read_text(encoding="utf-8"))


class Reader:
    """Who has come so far, in a folder of their own and one Python session."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.session, self.read = folder, {}, 0

    def reads(self, number: int, capsys, monkeypatch) -> None:
        language, key, value, text = BLOCKS[number]
        if key == "file":
            (self.folder / value).write_text(text, encoding="utf-8")
        elif language == "python":
            torch.manual_seed(number)
            exec(compile(text, f"{DOCUMENT.name}, block {number}", "exec"), self.session)
        else:
            monkeypatch.syspath_prepend(str(self.folder))
            for line in text.splitlines():
                command = shlex.split(line.removeprefix("$ sharpbench "))
                told = in_process(capsys, monkeypatch, *command)
                assert told.code == 0, told.err


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    before = os.getcwd()
    os.chdir(path := tmp_path_factory.mktemp("reader"))
    try:
        yield Reader(path)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs_as_it_stands(number, reader, capsys, monkeypatch):
    """After those above it, which another process may have read."""
    if (missing := lacks(number)) is not None:
        pytest.skip(missing)
    for block in range(reader.read, number + 1):
        if lacks(block) is None:
            reader.reads(block, capsys, monkeypatch)
    reader.read = max(reader.read, number + 1)


def lacks(number: int) -> str | None:
    """What a block needs that isn't installed here."""
    _, key, value, _ = BLOCKS[number]
    if key != "requires":
        return None
    try:
        importlib.import_module(value)
        importlib.import_module("tests.test_hugging_face")
    except ImportError:
        return f"{value} is not installed: pip install 'sharpbench[test-hf]'"
    except pytest.skip.Exception as reason:
        return str(reason)
    return None


def test_the_page_has_all_it_promises():
    languages = [language for language, *_ in BLOCKS]
    assert languages.count("console") == 1
    assert languages.count("python") >= 9
    assert any(value == "transformers" for _, _, value, _ in BLOCKS)
