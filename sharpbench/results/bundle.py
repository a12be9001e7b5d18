"""A suite's results in one archive: records, weights, the suite's file, provenance, and a hash of each."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sharpbench.errors import InputError, first_line
from sharpbench.results.checksum import sealed
from sharpbench.results.disk import write_atomically
from sharpbench.results.store import ResultsStore
from sharpbench.version import __version__

__all__ = ["is_bundle", "opened", "write_bundle"]

_MANIFEST, _FORMAT = "bundle.json", 1
_NAME = re.compile(
    r"[0-9a-f]{20}/(subject\.json|measurements\.jsonl|weights\.safetensors)|(suites|runs|rules)/[\w.-]+\.json"
)
_MOST_BYTES = 1 << 26
"""Of the manifest: a million files fit."""
_WHEN = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the archive: equal results, equal archive."""


def write_bundle(store: ResultsStore, suite: str, path: Path) -> tuple[int, int, list[str]]:
    """Write what ``suite`` asked for and got; how many subjects and records, and what is left out of it.

    Records that are not believed are left out, as are those of other suites on the same networks. Raises
    InputError if the suite never ran in this folder.
    """
    manifest = store.manifest(suite)
    asked = set(manifest["plan_keys"])
    files: dict[str, bytes] = {}
    left_out: list[str] = []
    runs, records = {manifest["run"]}, 0
    for key in [*manifest["subjects"], *manifest.get("problems", [])]:
        folder = store.subject(key)
        stored = folder.load()
        left_out += map(str, stored.left_out)
        if stored.description is None:
            continue
        lines = []
        for line in folder.proven_lines().values():
            if line.record.plan_key in asked:
                lines.append(line.content)
                runs.add(line.record.run)
        records += len(lines)
        runs.add(stored.description.get("run", ""))
        own = {**folder.files(), "measurements.jsonl": b"".join(line + b"\n" for line in lines)}
        files |= {f"{folder.path.name}/{name}": content for name, content in own.items()}
    for kind, names in (("suites", {suite}), ("runs", runs), ("rules", None)):
        for name, content in store.documents(kind).items():
            if names is None or name in names:
                text = json.dumps(content, indent=1, ensure_ascii=False)
                files[f"{kind}/{name}.json"] = sealed(text, place=f"{kind}/{name}").encode()
    left_out += map(str, store.damaged_documents())
    told = {
        "bundle": _FORMAT,
        "suite": suite,
        "sharpbench": __version__,
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in sorted(files.items())
        },
    }
    _write(path, told, files)
    return sum(name.endswith("subject.json") for name in files), records, left_out


def _write(path: Path, told: dict[str, Any], files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as held:
        with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
            manifest = json.dumps(told, indent=1, ensure_ascii=False).encode()
            for name, content in [(_MANIFEST, manifest), *sorted(files.items())]:
                archive.writestr(zipfile.ZipInfo(name, _WHEN), content, zipfile.ZIP_DEFLATED)
        held.seek(0)
        write_atomically(path, held.read())


def is_bundle(path: Path) -> bool:
    """Whether ``path`` is an archive and no folder."""
    return path.is_file() and zipfile.is_zipfile(path)


@contextmanager
def opened(path: Path) -> Iterator[ResultsStore]:
    """The results in a folder of their own, gone afterwards; ``path`` is a bundle or a results folder.

    Raises InputError for what is neither, and for an archive that is not, byte by byte, what was written: no
    name leads out of the folder, and no file is larger than the manifest says.
    """
    if path.is_dir():
        yield ResultsStore(path)
        return
    if not is_bundle(path):
        raise InputError(f"{path} is neither a results folder nor a bundle of one")
    with tempfile.TemporaryDirectory(prefix="sharpbench-bundle-") as scratch:
        try:
            with zipfile.ZipFile(path) as archive:
                _extract(path, archive, Path(scratch))
        except (
            zipfile.BadZipFile,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OSError,
        ) as error:
            raise InputError(f"{path} is no whole bundle: {first_line(error)}") from error
        yield ResultsStore(Path(scratch))


def _extract(path: Path, archive: zipfile.ZipFile, folder: Path) -> None:
    told = json.loads(_bytes(archive, _MANIFEST, _MOST_BYTES))
    if told["bundle"] != _FORMAT:
        raise InputError(
            f"{path} is a bundle of format {told['bundle']}, and {_FORMAT} is read here"
        )
    there = archive.namelist()
    listed = told["files"]
    extra, lacking = set(there) - {_MANIFEST, *listed}, set(listed) - set(there)
    if extra or lacking or len(there) != len(set(there)):
        what = f"{min(extra)} is not in its manifest" if extra else "a file stands twice in it"
        raise InputError(f"{path}: {f'{min(lacking)} is missing' if lacking else what}")
    for name, known in listed.items():
        if not _NAME.fullmatch(name):
            raise InputError(f"{path}: {name!r} is no file of a results folder")
        content = _bytes(archive, name, known["bytes"])
        if len(content) != known["bytes"] or hashlib.sha256(content).hexdigest() != known["sha256"]:
            raise InputError(f"{path}: {name} is not what was written: its SHA-256 is another")
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def _bytes(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """A file of the archive, unpacked as far as ``most`` bytes and one."""
    with archive.open(name) as file:
        return file.read(most + 1)
