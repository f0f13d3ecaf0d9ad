"""A folder that appears under its name only once it is whole.

It is built beside its name, as `.NAME.partial`, which stays after any stop: the next try writes only what is
not there yet. A file counts as there when it holds, byte for byte, what would be written, so that nothing
half-written is ever taken for done, however it was stopped.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import BenchError
from bench.archive import File, Tell

GO_ON = "then type the same command again: it goes on"


@dataclass(frozen=True)
class Draft:
    """A folder in the making: `folder` is where it is built, `name` what it will be called."""

    name: Path
    folder: Path

    def fill(self, files: Sequence[File], tell: Tell) -> None:
        """Make the draft hold these files and no others; `tell` is told files.

        BenchError: the disk is full or cannot be written, or a file cannot be read. What is written stays.
        """
        paths = {self.folder / file.name: file for file in files}
        with writing(self.folder):
            for path in [path for path in self.folder.rglob("*") if path.is_file() and path not in paths]:
                path.unlink()  # of another source, which was given up
        check_room(self.folder, sum(file.size for path, file in paths.items() if not path.exists()))
        needed = sum(file.size for file in files)
        for done, (path, file) in enumerate(paths.items(), 1):
            content = file.read()
            with writing(path, needed):
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists() or path.read_bytes() != content:
                    path.write_bytes(content)
            needed -= file.size
            tell(done, len(paths))

    def publish(self) -> None:
        """Give the folder its name, once all of it has reached the disk. BenchError: the name is taken."""
        os.sync()
        with writing(self.name):
            self.folder.rename(self.name)


@contextmanager
def open_draft(name: Path) -> Iterator[Draft]:
    """The draft of the folder `name`, its own process's alone while it is open.

    BenchError: another process has it, or it cannot be written.
    """
    folder = name.with_name(f".{name.name}.partial")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    ours = False
    try:
        # the other may have published between our two looks: then what we hold has its name already
        ours = lock(handle, folder) and _is_at(handle, folder)
        if not ours or is_taken(name):
            raise BenchError(f"another segbench prepares {name}", f"wait for it, {GO_ON}")
        yield Draft(name, folder)
    finally:
        if ours:
            with contextlib.suppress(OSError):
                folder.rmdir()  # leaves no empty folder behind
        os.close(handle)


def is_taken(name: Path) -> bool:
    """Whether something other than an empty folder has this name. BenchError: nobody may look."""
    with writing(name):
        return os.path.lexists(name) and not (name.is_dir() and not any(name.iterdir()))


def lock(handle: int, path: Path) -> bool:
    """Lock `path`, open as `handle`, until it is closed or the process dies. False: another has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise BenchError(f"cannot lock {path}: {error.strerror}", "name a DEST on a local disk") from error
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Whether what is open as `handle` is what has the name `path` now."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def writing(path: Path, needed: int = 0) -> Iterator[None]:
    """Turns whatever goes wrong while `path` is written into a BenchError; `needed`: bytes still to write."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            wanted = f"{needed:,} bytes are needed, " if needed > 0 else ""
            raise BenchError(
                f"the disk is full: cannot write {path}; {wanted}{_free(path):,} are free",
                f"free some space, {GO_ON}",
            ) from error
        raise BenchError(
            f"cannot write {path}: {error.strerror or error}", "name a new folder where you may write as DEST"
        ) from error


def check_room(folder: Path, needed: int) -> None:
    """BenchError: the disk of `folder` has not so many bytes left."""
    if needed > (free := _free(folder)):
        raise BenchError(
            f"the disk of {folder} is too full: {needed:,} bytes are needed, {free:,} are free",
            f"free {needed - free:,} bytes, {GO_ON}",
        )


def _free(path: Path) -> int:
    """Bytes left on the disk where `path` is or will be."""
    there = next(each for each in (path, *path.parents) if each.exists())
    return shutil.disk_usage(there).free
