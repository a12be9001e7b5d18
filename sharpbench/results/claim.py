"""One writer a subject, also where several machines share a file system that knows no locks."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sharpbench.errors import InputError
from sharpbench.results.checksum import Damaged, json_object, sealed
from sharpbench.results.disk import clear, fault_of, named_in_errors, read_file

__all__ = ["Claim", "ClaimLost", "claimed", "deleted_meanwhile"]

LEASE = 60.0
"""Seconds without a sign of life after which the claim of another machine counts as left behind."""

_POLL = 0.2

_NO_LINKS = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
"""How a file system says that it has no hard links."""


_DRAFT = re.compile(r"\.[0-9a-f]{32}")


class ClaimLost(InputError):
    """The folder that this process writes to isn't its own any more: deleted, or taken over."""


def deleted_meanwhile(path: Path, others: int = 0) -> str:
    """What a run says of a folder of its results that is gone, and of so many others."""
    more = f", and so {'were' if others > 1 else 'was'} {others} more" if others else ""
    return f"{path} was deleted while the run wrote to it{more}; run again, and what is missing is done again"


class Claim:
    """A file that names the host and the process that write to a folder.

    Who holds it renews it, four times a lease. Another process takes it over if its holder is dead, which
    can be told on the same machine, or if it was not renewed for a lease, by the clock of the file system.
    """

    def __init__(self, path: Path, lease: float) -> None:
        self.path, self.lease = path, lease
        told = {
            "host": _host(),
            "process": os.getpid(),
            "since": psutil.Process().create_time(),
            "lease_seconds": lease,
            "token": uuid.uuid4().hex,
        }
        self._mine = sealed(json.dumps(told)).encode()
        self._released = threading.Event()

    def check(self) -> None:
        """Raises ClaimLost if the claim is another's by now: nothing may be written then."""
        found = _content(self.path)
        if found is None:
            raise ClaimLost(deleted_meanwhile(self.path.parent))
        if found != self._mine:
            raise ClaimLost(
                f"{self.path.parent} was taken over by another process, since this one gave no sign of "
                f"life for {self.lease:g} s; run again to resume"
            )

    def acquire(self) -> None:
        """Wait until nobody else has it."""
        while not self._created():
            found = _content(self.path)
            if found is None:  # it was given up just now, or what stands there is no file
                clear(self.path, self.path.parent.parent / "damaged", self.path.parent.name)
            elif self._abandoned(found):
                self._remove(found)
                continue
            time.sleep(_POLL)
        self._sweep()
        threading.Thread(target=self._renew, daemon=True).start()

    def release(self) -> None:
        """Give it up, unless it is another's by now."""
        self._released.set()
        if _content(self.path) == self._mine:
            self.path.unlink(missing_ok=True)

    def _created(self) -> bool:
        """Whether the file was not there, and is now, whole: a link is made at once or not at all."""
        draft = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")
        try:
            with named_in_errors(draft):
                draft.write_bytes(self._mine)
            os.link(draft, self.path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            try:
                with self.path.open("xb") as file:
                    file.write(self._mine)
            except FileExistsError:
                return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _sweep(self) -> None:
        """Remove the drafts that killed processes left beside it; who waits makes one for an instant."""
        with suppress(OSError):
            before = self.path.stat().st_mtime - self.lease
            for path in sorted(self.path.parent.glob(f"{self.path.name}.*")):
                if _DRAFT.fullmatch(path.suffix) and path.lstat().st_mtime < before:
                    path.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._released.wait(self.lease / 4):
            with suppress(OSError):
                if _content(self.path) == self._mine:
                    os.utime(self.path)

    def _abandoned(self, found: bytes) -> bool:
        try:
            holder, proven = json_object(found)
            told = _Holder.model_validate(holder)
        except (Damaged, ValidationError):  # whoever wrote it gives a sign of life, or is none
            return self._silence() > self.lease
        if told.host == _host() and not _lives(told.process, told.since):
            return True
        return self._silence() > (told.lease_seconds if proven else self.lease)

    def _silence(self) -> float:
        """Seconds since the claim was renewed, by the clock of the file system alone."""
        probe = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")
        try:
            probe.touch()
            return probe.stat().st_mtime - self.path.stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            probe.unlink(missing_ok=True)

    def _remove(self, found: bytes) -> None:
        """Remove an abandoned claim; one that somebody made in its place meanwhile is put back."""
        aside = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        if _content(aside) != found:
            with suppress(FileExistsError):  # then its holder finds that it was lost, and stops
                os.link(aside, self.path)
        aside.unlink(missing_ok=True)


class _Holder(BaseModel):
    """What a claim says of who made it."""

    model_config = ConfigDict(strict=True)

    host: str
    process: int = Field(gt=0, lt=2**31)
    since: float
    lease_seconds: float = Field(gt=0)


@contextmanager
def claimed(folder: Path, *, lease: float = LEASE) -> Iterator[Claim]:
    """Hold the folder's claim; who else wants it waits."""
    claim = Claim(folder / ".claim", lease)
    claim.acquire()
    try:
        yield claim
    finally:
        claim.release()


def _content(path: Path) -> bytes | None:
    """The bytes of a claim: none of one that may not be read; None where there is no file."""
    try:
        return read_file(path)
    except Damaged:
        return None if fault_of(path) else b""


def _host() -> str:
    """Names a machine, and within it what counts processes: two containers can share a host's name."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _lives(process: int, since: float) -> bool:
    """Whether a process of this machine is there, and is the one that began then."""
    try:
        found = psutil.Process(process)
        return bool(abs(found.create_time() - since) < 1 and found.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True
