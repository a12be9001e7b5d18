"""`sharpbench perf`: what is wrong is told before asv is asked."""

import subprocess

import pytest

from sharpbench import perf
from sharpbench.errors import InputError


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True)

    (tmp_path / "asv.conf.json").write_text("{}")
    git("init", "-q")
    (tmp_path / "file").write_text("first")
    git("add", ".")
    git("commit", "-qm", "one")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="needs a checkout"):
        perf.run(None, quick=True)


def test_an_unknown_commit(checkout):
    with pytest.raises(InputError, match="'nonsense' is not a commit"):
        perf.compare("nonsense", "HEAD", None, quick=True, factor=1.1)


def test_a_pattern_that_is_none(checkout):
    with pytest.raises(InputError, match=r"--bench '\(' is not a regular expression"):
        perf.run("(", quick=True)


def test_each_commit_is_measured_from_its_own_files(checkout, monkeypatch):
    seen = []

    def asv(root, arguments, *, source=None):
        content = (source / "file").read_text() if source else None
        seen.append((arguments[0], content))
        return 0

    monkeypatch.setattr(perf, "_asv", asv)
    (checkout / "file").write_text("uncommitted")
    assert perf.compare("HEAD", "HEAD", "hessian", quick=True, factor=1.2) == 0
    assert seen == [("run", "first"), ("run", "first"), ("compare", None)]
    left = subprocess.run(
        ["git", "-C", str(checkout), "worktree", "list"], capture_output=True, text=True, check=True
    )
    assert len(left.stdout.splitlines()) == 1
