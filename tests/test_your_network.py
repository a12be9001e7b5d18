"""docs/your_network.md as a reader follows it: its blocks in their order, in one folder."""

from __future__ import annotations

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The reader's folder, and the names of the Python session."""
    before = os.getcwd()
    os.chdir(path := tmp_path_factory.mktemp("reader"))
    try:
        yield path, {}
    finally:
        os.chdir(before)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs_as_it_stands(number, folder, capsys, monkeypatch):
    path, session = folder
    language, key, value, text = BLOCKS[number]
    if key == "file":
        (path / value).write_text(text, encoding="utf-8")
    elif language == "python":
        if key == "requires":
            pytest.importorskip(
                value, reason=f"{value} is not installed: pip install 'sharpbench[test-hf]'"
            )
            pytest.importorskip("tests.test_hugging_face", reason="it can't be imported")
        torch.manual_seed(number)
        exec(compile(text, f"{DOCUMENT.name}, block {number}", "exec"), session)
    else:
        monkeypatch.syspath_prepend(str(path))
        for line in text.splitlines():
            command = shlex.split(line.removeprefix("$ sharpbench "))
            told = in_process(capsys, monkeypatch, *command)
            assert told.code == 0, told.err


def test_the_page_has_all_it_promises():
    languages = [language for language, *_ in BLOCKS]
    assert languages.count("console") == 1
    assert languages.count("python") >= 9
    assert any(value == "transformers" for _, _, value, _ in BLOCKS)
