"""Fetching an archive from servers that behave, and from those that do not. All of them are on loopback."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench import BenchError, download
from bench.archive import Archive
from tests.fake_data import Watcher, pack, published

NAME = "files.zip"


@dataclass
class Server:
    """What the server holds, and how it behaves, request by request."""

    content: bytes
    etag: str = '"1"'
    ranges: bool = True
    lengths: bool = True
    answers: list[int] = field(default_factory=list)  # codes of the next requests; then it serves
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    asked: list[str] = field(default_factory=list)  # Range of each request
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range", "")
        self.asked.append(asked)
        if self.answers:
            request.send_error(self.answers.pop(0))
            return
        first = int(re.findall(r"\d+", asked)[0]) if asked and self.ranges else 0
        if request.headers.get("If-Range", self.etag) != self.etag:
            first = 0
        if first >= len(self.content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.content)}")
            request.end_headers()
            return
        request.send_response(206 if first else 200)
        if first:
            last = len(self.content) - 1
            request.send_header("Content-Range", f"bytes {first}-{last}/{len(self.content)}")
        if self.lengths:
            request.send_header("Content-Length", str(len(self.content) - first))
        request.send_header("ETag", self.etag)
        request.end_headers()
        end = first + self.cuts.pop(0) if self.cuts else len(self.content)
        request.wfile.write(self.content[first:end])


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    pack(tmp_path / NAME, {"a.bin": bytes(range(256)) * 40, "b.bin": b"second"})
    behaviour = Server((tmp_path / NAME).read_bytes())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 - the name that http.server asks for
            behaviour.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        behaviour.url = f"http://127.0.0.1:{httpd.server_port}/{NAME}"
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield behaviour
        httpd.shutdown()
        thread.join()


@pytest.fixture
def wanted(server: Server, tmp_path: Path) -> Archive:
    return published(tmp_path / NAME, server.url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "new"


class Pauses(list[float]):
    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def fetch(wanted: Archive, folder: Path, watcher: Watcher | None = None) -> Path:
    return download.fetch(wanted, folder, watcher or Watcher(), Pauses())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def left(folder: Path, content: bytes, etag: str = '"1"') -> None:
    """What an interrupted download leaves."""
    folder.mkdir(exist_ok=True)
    (folder / f"{NAME}.partial").write_bytes(content)
    (folder / f"{NAME}.partial.etag").write_text(etag)


# What is fetched


def test_an_archive_is_fetched_and_checked(server: Server, wanted: Archive, folder: Path) -> None:
    watcher = Watcher()
    path = fetch(wanted, folder, watcher)
    assert (path, path.read_bytes()) == (folder / NAME, server.content)
    assert watcher.stages == [(f"fetching {NAME}", "bytes"), (f"checksums of {NAME}", "bytes")]
    assert names(folder) == [NAME]


def test_an_archive_that_is_there_is_checked_and_not_fetched(
    server: Server, wanted: Archive, folder: Path
) -> None:
    assert fetch(wanted, folder) == fetch(wanted, folder)
    assert server.asked == [""]


@pytest.mark.parametrize("share", [0.5, 1])
def test_a_wrong_archive_that_is_there_is_to_be_moved_away(
    server: Server, wanted: Archive, folder: Path, share: float
) -> None:
    folder.mkdir()
    (folder / NAME).write_bytes(b"PK" + server.content[3 : int(len(server.content) * share)] + b"x")
    with pytest.raises(BenchError, match="is not the published|is cut off") as caught:
        fetch(wanted, folder)
    assert caught.value.hint.startswith(f"delete or rename {folder / NAME}, then type the same command again")
    (folder / NAME).rename(folder / "old.zip")
    assert fetch(wanted, folder).read_bytes() == server.content


def test_an_interrupted_download_goes_on(server: Server, wanted: Archive, folder: Path) -> None:
    left(folder, server.content[:100])
    assert fetch(wanted, folder).read_bytes() == server.content
    assert server.asked == ["bytes=100-"]


def test_a_connection_cut_in_the_middle_goes_on_where_it_was(
    server: Server, wanted: Archive, folder: Path
) -> None:
    server.cuts = [10, 1, 0, 30]
    watcher = Watcher()
    assert fetch(wanted, folder, watcher).read_bytes() == server.content
    assert server.asked == ["", "bytes=10-", "bytes=11-", "bytes=11-", "bytes=41-"]
    assert watcher.stages[1] == (f"fetching {NAME} again (the connection was cut)", "bytes")


def test_tries_that_bring_something_are_not_counted(server: Server, wanted: Archive, folder: Path) -> None:
    server.cuts = [1] * (3 * download.TRIES)
    assert fetch(wanted, folder).read_bytes() == server.content


def test_a_server_without_ranges_is_asked_for_the_whole(
    server: Server, wanted: Archive, folder: Path
) -> None:
    server.ranges = False
    left(folder, b"x" * 100)
    assert fetch(wanted, folder).read_bytes() == server.content


def test_a_server_that_gives_no_length_is_trusted_to_the_checksum(
    server: Server, wanted: Archive, folder: Path
) -> None:
    server.lengths = False
    assert fetch(wanted, folder).read_bytes() == server.content


def test_halves_of_two_versions_are_not_joined(server: Server, wanted: Archive, folder: Path) -> None:
    left(folder, b"of the version before", etag='"0"')
    assert fetch(wanted, folder).read_bytes() == server.content
    assert server.asked == ["bytes=21-"]


def test_a_download_that_was_whole_is_only_checked(server: Server, wanted: Archive, folder: Path) -> None:
    left(folder, server.content)
    assert fetch(wanted, folder).read_bytes() == server.content


def test_a_download_longer_than_the_archive_starts_over(
    server: Server, wanted: Archive, folder: Path
) -> None:
    left(folder, server.content + b"more")
    assert fetch(wanted, folder).read_bytes() == server.content
    assert server.asked[1:] == [""]


def test_a_busy_server_is_asked_again_after_longer_and_longer_pauses(
    server: Server, wanted: Archive, folder: Path
) -> None:
    server.answers = [503, 500, 429]
    pauses = Pauses()
    assert download.fetch(wanted, folder, Watcher(), pauses).exists()
    assert pauses == [1, 2, 4]


# What is refused


@pytest.mark.parametrize(("code", "requests"), [(404, 1), (403, 1), (503, download.TRIES)])
def test_a_server_that_has_it_not_is_named_with_other_ways(
    server: Server, wanted: Archive, folder: Path, code: int, requests: int
) -> None:
    server.answers = [code] * 99
    left(folder, server.content[:100])
    with pytest.raises(BenchError, match=f"cannot fetch {server.url}: it answers {code}") as caught:
        fetch(wanted, folder)
    assert caught.value.hint == "try again later: it goes on. Ask a friend."
    assert len(server.asked) == requests
    assert (folder / f"{NAME}.partial").read_bytes() == server.content[:100]


def test_nobody_at_the_address_is_said_with_other_ways(
    server: Server, wanted: Archive, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr("socket.create_connection", refuse)
    with pytest.raises(BenchError, match=r"cannot fetch http.*: Connection refused"):
        fetch(wanted, folder)
    assert names(folder) == []


def test_a_server_that_always_cuts_at_the_same_place_is_given_up(
    server: Server, wanted: Archive, folder: Path
) -> None:
    server.ranges, server.cuts = False, [50] * 99
    with pytest.raises(BenchError, match="the connection was cut"):
        fetch(wanted, folder)


def test_a_server_that_falls_silent_is_given_up(
    server: Server, wanted: Archive, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silence(*_: object, **__: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr("http.client.HTTPResponse.read1", silence)
    with pytest.raises(BenchError, match="timed out"):
        fetch(wanted, folder)


@pytest.mark.parametrize("sent", ["page", "cut", "other"])
def test_wrong_bytes_are_dropped_so_that_the_next_try_is_fresh(
    server: Server, wanted: Archive, folder: Path, sent: str
) -> None:
    right = server.content
    other = bytes([*right[:50], right[50] ^ 1, *right[51:]])
    server.content = {"page": b"<html>moved</html>", "cut": right[:-30], "other": other}[sent]
    with pytest.raises(BenchError, match=f"{server.url} sent something else") as caught:
        fetch(wanted, folder)
    assert "Ask a friend." in caught.value.hint
    assert f"{NAME}.partial" not in names(folder)
    server.content = right
    assert fetch(wanted, folder).read_bytes() == right


def test_a_disk_with_too_little_room_is_said_before_the_first_byte(
    server: Server, wanted: Archive, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(BenchError, match=rf"too full: {len(server.content):,} bytes are needed, 10 are free"):
        fetch(wanted, folder)
    assert f"{NAME}.partial" not in names(folder)


def test_a_disk_that_fills_up_is_said_and_not_tried_again(
    server: Server, wanted: Archive, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_write", full)
    with pytest.raises(BenchError, match="the disk is full: cannot write .*partial"):
        fetch(wanted, folder)
    assert len(server.asked) == 1


def test_two_do_not_fetch_into_one_file(server: Server, wanted: Archive, folder: Path) -> None:
    left(folder, b"")
    with (folder / f"{NAME}.partial").open("rb") as held:
        assert download.lock(held.fileno(), Path(held.name))
        with pytest.raises(BenchError, match="another segbench fetches"):
            fetch(wanted, folder)
    assert server.asked == []
