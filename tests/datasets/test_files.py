import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import os
import struct
import tarfile
import threading
import tracemalloc

import numpy as np
import pytest

from sharpbench.datasets import files
from sharpbench.errors import DataUnavailable


def idx(array: np.ndarray) -> bytes:
    header = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def file_set(monkeypatch):
    """A file set of two small files that stands in for MNIST's."""
    rng = np.random.default_rng(0)
    content = {"images": idx(rng.integers(0, 256, (3, 4, 4))), "labels": idx(np.arange(3))}
    digests = {n: (len(c), hashlib.sha256(c).hexdigest()) for n, c in content.items()}
    small = files.FileSet("small", "Small/raw", digests, sources=())
    monkeypatch.setitem(files.FILE_SETS, "small", small)
    return small, content


def test_idx_round_trip(tmp_path):
    array = np.arange(24).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(idx(array))
    assert np.array_equal(files.read_idx(tmp_path / "a"), array)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", idx(np.zeros((4, 4)))[:-1]])
def test_anything_else_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataUnavailable):
        files.read_idx(tmp_path / "a")


@pytest.mark.parametrize("compressed", [False, True])
def test_prepare_copies_verified_files_from_a_folder(tmp_path, file_set, compressed):
    small, content = file_set
    source, root = tmp_path / "source", tmp_path / "root"
    source.mkdir()
    for name, data in content.items():
        if compressed:
            (source / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (source / name).write_bytes(data)
    lines = list(files.prepare("small", root, given=source))
    assert "SHA-256 verified" in lines[-1]
    assert small.locate(root) == root / "Small" / "raw"
    assert "already there" in next(iter(files.prepare("small", root)))


def test_two_that_prepare_at_once_do_not_disturb_each_other(tmp_path, file_set, monkeypatch):
    small, content = file_set
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    real, others = os.replace, [1]

    def replace(source, target):
        if others:
            others.pop()
            assert "verified" in list(files.prepare("small", tmp_path, given=tmp_path))[-1]
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    assert "verified" in list(files.prepare("small", tmp_path, given=tmp_path))[-1]
    assert {p.name for p in small.locate(tmp_path).iterdir()} == set(content)


def test_compressed_files_in_the_data_root_are_found(tmp_path, file_set):
    small, content = file_set
    folder = tmp_path / "Small" / "raw"
    folder.mkdir(parents=True)
    for name, data in content.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))
    assert small.missing(tmp_path)
    list(files.prepare("small", tmp_path))
    assert small.locate(tmp_path) == folder


def test_a_wrong_file_is_never_installed(tmp_path, file_set):
    small, content = file_set
    (tmp_path / "images").write_bytes(content["images"][:-1] + b"\x00")
    (tmp_path / "labels").write_bytes(content["labels"])
    with pytest.raises(DataUnavailable, match="SHA-256"):
        list(files.prepare("small", tmp_path / "root", given=tmp_path))
    assert small.missing(tmp_path / "root")


def test_a_file_that_was_corrupted_later_is_noticed(tmp_path, file_set):
    small, content = file_set
    folder = tmp_path / "Small" / "raw"
    folder.mkdir(parents=True)
    (folder / "labels").write_bytes(content["labels"])
    (folder / "images").write_bytes(content["images"][:-1] + b"\x07")
    with pytest.raises(DataUnavailable, match=r"corrupt.*data prepare small"):
        small.locate(tmp_path)


def test_all_failures_are_told(tmp_path, file_set, monkeypatch):
    small, _ = file_set

    def fail(folder):
        raise ConnectionError("no network here")

    sources = (files.Source("mirror one", fail), files.Source("package two", fail))
    monkeypatch.setitem(files.FILE_SETS, "small", dataclasses.replace(small, sources=sources))
    with pytest.raises(DataUnavailable) as caught:
        list(files.prepare("small", tmp_path))
    message = str(caught.value)
    assert "mirror one: ConnectionError: no network here" in message
    assert "package two" in message
    assert "--from" in message


def test_the_data_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SHARPBENCH_DATA", raising=False)
    assert files.data_root() == tmp_path / "cache" / "sharpbench"
    monkeypatch.setenv("SHARPBENCH_DATA", str(tmp_path / "mine"))
    assert files.data_root() == tmp_path / "mine"


HOSTILE = {
    "bomb": lambda name, data: (f"{name}.gz", gzip.compress(data + bytes(50 * 2**20))),
    "raw, too long": lambda name, data: (name, data + bytes(2**20)),
    "torn gz": lambda name, data: (f"{name}.gz", gzip.compress(data)[:-9]),
    "no gz": lambda name, data: (f"{name}.gz", b"hello"),
    "empty": lambda name, data: (name, b""),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_no_more_of_a_file_is_unpacked_than_the_real_one_holds(tmp_path, file_set, case):
    small, content = file_set
    for name, data in content.items():
        file, spoilt = HOSTILE[case](name, data)
        (tmp_path / file).write_bytes(spoilt)
    tracemalloc.start()
    with pytest.raises(DataUnavailable, match="could not be prepared"):
        list(files.prepare("small", tmp_path / "root", given=tmp_path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 2**20
    assert small.missing(tmp_path / "root")


def _archive(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_a_package_is_unpacked_within_bounds(tmp_path, monkeypatch):
    inside = {"./usr/share/a": b"one", "usr/share/deep/b": b"two", "../c": b"three"}
    _archive(tmp_path / "good.tgz", inside)
    target = tmp_path / "target"
    target.mkdir()
    with tarfile.open(tmp_path / "good.tgz") as archive:
        files._unpack(archive, "usr/share", target)
    assert {p.name: p.read_bytes() for p in target.iterdir()} == {"a": b"one"}
    monkeypatch.setattr(files, "_MOST_BYTES", 1000)
    _archive(tmp_path / "bomb.tgz", {"other": bytes(5000), "usr/share/a": b"one"})
    with (
        tarfile.open(tmp_path / "bomb.tgz") as archive,
        pytest.raises(DataUnavailable, match="more than 1000 bytes"),
    ):
        files._unpack(archive, "usr/share", target)


def test_a_download_ends_where_the_files_would(tmp_path, monkeypatch):
    (tmp_path / "endless").write_bytes(bytes(5000))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/endless"
        files._download(url, str(tmp_path / "whole"), None)
        monkeypatch.setattr(files, "_MOST_BYTES", 1000)
        with pytest.raises(DataUnavailable, match="more bytes than the files have"):
            files._download(url, str(tmp_path / "cut"), None)
        server.shutdown()
    assert (tmp_path / "whole").stat().st_size == 5000
    assert (tmp_path / "cut").stat().st_size <= 1000


def test_a_header_that_promises_more_than_the_file_is_told(tmp_path):
    (tmp_path / "a").write_bytes(b"\x00\x00\x08\xff" + bytes(8))
    with pytest.raises(DataUnavailable, match="not an IDX file"):
        files.read_idx(tmp_path / "a")
    (tmp_path / "b").write_bytes(b"\x00\x00\x08\x03" + b"\xff" * 12)
    with pytest.raises(DataUnavailable, match="is torn"):
        files.read_idx(tmp_path / "b")
