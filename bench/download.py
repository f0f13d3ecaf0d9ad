"""Fetching a published archive: what arrived is kept, and the next try asks for the rest.

A download bears the name of its archive only once its checksums are right; until then it is `NAME.partial`,
and beside it lies the ETag of what the server sent, so that halves of two versions are never joined.
"""

from __future__ import annotations

import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from bench import BenchError, __version__, archive
from bench.archive import BLOCK, Archive, Tell, Watch
from bench.draft import GO_ON, check_room, lock, writing

TIMEOUT_S = 20.0
TRIES = 5  # in a row that brought nothing new
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP answers that another try may better


def fetch(wanted: Archive, folder: Path, watch: Watch, pause: Callable[[float], None] = time.sleep) -> Path:
    """The path of the archive in `folder`, fetched if it is not there yet, its checksums right.

    `pause` waits so many seconds between two tries. BenchError: the server does not answer or sends something
    else, another process fetches the same, or the disk is full. What has arrived is kept, unless it is wrong.
    """
    path = folder / wanted.name
    if path.exists():
        try:
            archive.check(path, wanted, watch(f"checksums of {path.name}", "bytes"))
        except BenchError as error:
            hint = f"delete or rename {path}, then type the same command again: it fetches it"
            raise BenchError(error.message, hint) from error
        return path
    partial = folder / f"{wanted.name}.partial"
    with writing(partial):
        folder.mkdir(parents=True, exist_ok=True)
        file = partial.open("a+b", buffering=0)  # so that nothing is left to fail when it is closed
    with file:
        # the other may have ended between our two looks
        if not lock(file.fileno(), partial) or path.exists():
            raise BenchError(f"another segbench fetches {partial}", f"wait for it, {GO_ON}")
        try:
            _fetch_all(wanted, partial, file, watch, pause)
        finally:
            if file.tell() == 0:
                partial.unlink(missing_ok=True)
        try:
            archive.check(partial, wanted, watch(f"checksums of {path.name}", "bytes"))
        except BenchError as error:  # whole and wrong: nothing can be joined to it
            partial.unlink(missing_ok=True)
            raise BenchError(
                f"{wanted.url} sent something else: {error.message}",
                f"nothing of it is kept: try again. {wanted.elsewhere}",
            ) from error
        with writing(path):
            partial.rename(path)
            _etag(partial).unlink(missing_ok=True)
    return path


def _fetch_all(
    wanted: Archive, partial: Path, file: FileIO, watch: Watch, pause: Callable[[float], None]
) -> None:
    """Ask for what is missing until all of it is there; give up after some tries that bring nothing."""
    what, most, vain = f"fetching {wanted.name}", file.tell(), 0
    while True:
        try:
            if _fetch_rest(wanted.url, partial, file, watch(what, "bytes")):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"it answers {error.code} {error.reason}"
            if error.code not in PASSING:
                raise _unavailable(wanted, reason) from error
        except (OSError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        most, vain = max(most, file.tell()), vain + 1 if file.tell() <= most else 0
        if vain >= TRIES:
            raise _unavailable(wanted, reason)
        pause(2.0**vain / 2)
        what = f"fetching {wanted.name} again ({reason})"


def _fetch_rest(url: str, partial: Path, file: FileIO, tell: Tell) -> bool:
    """One request for what follows the bytes in `file`; whether that was the last of them.

    OSError, HTTPException: the request failed or broke off.
    """
    have = file.seek(0, os.SEEK_END)
    try:
        response = urllib.request.urlopen(_request(url, have, _etag(partial)), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        error.close()
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return True
        _start_over(file)  # longer than what the server has: not the beginning of it
        return False
    with response:
        if response.status == 206:
            first, total = _range(response.headers.get("Content-Range", ""))
            if first != have:
                _start_over(file)
                return False
        else:  # the whole, as from a server that knows no ranges, or has another version by now
            _start_over(file)
            total = response.length or 0
            with writing(partial):
                _etag(partial).write_text(response.headers.get("ETag", ""), encoding="utf-8")
        check_room(partial, total - file.tell())
        while block := response.read1(BLOCK):
            with writing(partial, total - file.tell()):
                _write(file, block)
            tell(file.tell(), total)
    return file.tell() >= total


def _request(url: str, have: int, etag: Path) -> urllib.request.Request:
    headers = {"User-Agent": f"segbench/{__version__}"}
    if have:
        headers["Range"] = f"bytes={have}-"
        known = etag.read_text(encoding="utf-8") if etag.exists() else ""
        if known.startswith('"'):  # a weak one, W/"...", does not promise the same bytes
            headers["If-Range"] = known
    return urllib.request.Request(url, headers=headers)


def _range(header: str) -> tuple[int, int]:
    """First byte and bytes in all of a Content-Range; (-1, 0) where it is none."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", header)
    return (int(found[1]), int(found[2])) if found else (-1, 0)


def _write(file: FileIO, block: bytes) -> None:
    """All of it: an unbuffered file takes less than it is given where the disk is nearly full."""
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) :]


def _start_over(file: FileIO) -> None:
    file.seek(0)
    file.truncate()


def _etag(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.etag")


def _unavailable(wanted: Archive, reason: str) -> BenchError:
    hint = f"try again later: it goes on. {wanted.elsewhere}"
    return BenchError(f"cannot fetch {wanted.url}: {reason}", hint)
