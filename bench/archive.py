"""What a data set comes in: an archive whose checksums are known, a zip, or a folder.

The half that unpacks sees only a `Source`: folders, and files that can be read whole. An archive is refused
before anything is read from it where it is not the one that was published, is cut off, or holds a member
that would land elsewhere.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Protocol, Self

from bench import BenchError

BLOCK = 1 << 20  # bytes read at once
ENCRYPTED = 0x1  # the flag of such a member
DAMAGED: tuple[type[Exception], ...] = (
    OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
with suppress(ImportError):  # before Python 3.14 nothing unpacks it
    from compression.zstd import ZstdError  # type: ignore[import-not-found]

    DAMAGED += (ZstdError,)
PACKED_OTHERWISE = "packed in a way that Python cannot read"
UNPACK = "unpack it and name the folder"
Tell = Callable[[int, int], None]  # done, in all
Watch = Callable[[str, str], Tell]  # begins a stage: what is done, and the unit that its news will be in


@dataclass(frozen=True)
class Archive:
    """A published archive: its file name, where it is published, what else to try where that fails, and
    its checksums in hex digits."""

    name: str
    url: str
    elsewhere: str
    md5: str
    sha1: str


@dataclass(frozen=True)
class File:
    """A file of a data set: its path below the data set's folder, about how many bytes it has, and a function
    that reads it whole and raises BenchError where that fails."""

    name: str
    size: int
    read: Callable[[], bytes]


class Source(Protocol):
    """Where files come from; folders are named from its top, "" for the top itself."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def folders(self) -> list[str]:
        """The names of the folders at the top, sorted."""

    def files(self, folder: str) -> list[File]:
        """The files in `folder`, not those in folders below it; by name. None there: an empty list."""


def open_source(path: Path) -> Source:
    """The folder or zip at `path`. BenchError: there is none, or the zip is cut off or not to be trusted."""
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        hint = "name a folder or a zip archive that is there as SOURCE"
        raise BenchError(f"there is no {path}", hint) from None
    except OSError as error:
        raise _unreadable(path, error) from error
    return Folder(path) if is_folder else Zip(path)


def check(path: Path, archive: Archive, tell: Tell) -> None:
    """Read the file once and compare both checksums; `tell` is told bytes.

    BenchError: it is no zip, is cut off, or has another checksum.
    """
    _check_ends(path)
    digests = hashlib.md5(usedforsecurity=False), hashlib.sha1(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            size, done = os.fstat(file.fileno()).st_size, 0
            while block := file.read(BLOCK):
                for digest in digests:
                    digest.update(block)
                done += len(block)
                tell(done, size)
    except OSError as error:
        raise _unreadable(path, error) from error
    found = tuple(digest.hexdigest() for digest in digests)
    if found != (archive.md5, archive.sha1):
        raise BenchError(
            f"{path} ({size:,} bytes) is not the published {archive.name}: "
            f"its MD5 is {found[0]}, not {archive.md5}",
            f"it is damaged or another version: get it again. {archive.elsewhere}",
        )


class Folder:
    """Files in a folder on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def folders(self) -> list[str]:
        return sorted(path.name for path in self._list("") if stat.S_ISDIR(self._look(path).st_mode))

    def files(self, folder: str) -> list[File]:
        """Links to nothing, pipes and devices count as files, so that reading them says what they are."""
        found = [(path, self._look(path)) for path in sorted(self._list(folder))]
        return [
            File(path.name, look.st_size, partial(self._read, path))
            for path, look in found
            if not stat.S_ISDIR(look.st_mode)
        ]

    def _look(self, path: Path) -> os.stat_result:
        """What the disk says of a file; of the link where it leads nowhere."""
        try:
            return path.stat() if path.exists() else path.lstat()
        except OSError as error:
            raise _unreadable(path, error) from error

    def _list(self, folder: str) -> list[Path]:
        try:
            return list((self.path / folder).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unreadable(self.path / folder, error) from error

    def _read(self, path: Path) -> bytes:
        _check_regular(path)
        try:
            return path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from error


class Zip:
    """Files in a zip archive, every member of which would land below its top."""

    def __init__(self, path: Path) -> None:
        _check_ends(path)
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except NotImplementedError as error:
            raise BenchError(f"{path} is {PACKED_OTHERWISE}: {error}", UNPACK) from error
        except UnicodeDecodeError as error:
            hint = "get the archive again, or unpack it and name the folder"
            raise BenchError(f"{path} holds a name that is not UTF-8 as it claims", hint) from error
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise _unreadable(path, error) from error
        self._members: dict[str, dict[str, zipfile.ZipInfo]] = {}  # folder -> name -> member
        for member in self._zip.infolist():
            if danger := _danger(member):
                self._zip.close()
                raise BenchError(
                    f"{path} holds {member.filename!r}, which {danger}: nothing was unpacked",
                    "get the archive from where it is published",
                )
            if not member.is_dir():
                place = PurePosixPath(member.filename)
                self._members.setdefault(_folder(place), {})[place.name] = member

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def folders(self) -> list[str]:
        return sorted({folder.partition("/")[0] for folder in self._members} - {""})

    def files(self, folder: str) -> list[File]:
        members = self._members.get(_folder(PurePosixPath(folder, "*")), {})
        return [
            File(name, member.file_size, partial(self._read, member))
            for name, member in sorted(members.items())
        ]

    def _read(self, member: zipfile.ZipInfo) -> bytes:
        """The content of a member; zipfile compares its CRC."""
        if member.flag_bits & ENCRYPTED:
            raise BenchError(f"{member.filename} in {self.path} is encrypted", UNPACK)
        try:
            return self._zip.read(member)
        except NotImplementedError as error:
            raise BenchError(
                f"{member.filename} in {self.path} is {PACKED_OTHERWISE}: {error}", UNPACK
            ) from error
        except DAMAGED as error:
            raise BenchError(
                f"{member.filename} in {self.path} is damaged: {error}",
                "get the archive again; the same command then goes on",
            ) from error


def _folder(place: PurePosixPath) -> str:
    """The folder of a member, "" at the top."""
    return "" if place.parent == PurePosixPath() else str(place.parent)


def _danger(member: zipfile.ZipInfo) -> str | None:
    """What a member would do outside its folder, in words; None where it is harmless."""
    name, mode = member.filename, member.external_attr >> 16
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "has an absolute path"
    if ".." in re.split(r"[/\\]", name):
        return "leads out of its folder"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    return None


def _check_ends(path: Path) -> None:
    """Refuse a file that does not begin or does not end like a zip: seconds before its checksum would."""
    _check_regular(path)
    try:
        with path.open("rb") as file:
            begins = file.read(2) == b"PK"
        ends = zipfile.is_zipfile(path)
        size = path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error
    if not begins:
        raise BenchError(f"{path} is not a zip archive", "name the archive as it was published, or a folder")
    if not ends:
        raise BenchError(
            f"{path} is cut off: {size:,} bytes, and the end of a zip archive is not among them",
            "get it again, whole",
        )


def _check_regular(path: Path) -> None:
    """Refuse a link to nothing, and a pipe, which would be waited for, or a device."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BenchError(f"{path} is not a regular file", "put a file in its place, or remove it")
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> BenchError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return BenchError(f"cannot read {path}: {reason}", "see that it may be read, or get it again")
