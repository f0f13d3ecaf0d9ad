"""What data sets come in: what is read, and every archive that is refused before anything is unpacked."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import stat
import zipfile
from pathlib import Path

import pytest

from bench import BenchError, archive
from bench.archive import open_source
from tests.fake_data import Watcher, pack, unpack

METHODS = [  # the last since Python 3.14
    getattr(zipfile, name) for name in ("ZIP_LZMA", "ZIP_BZIP2", "ZIP_ZSTANDARD") if hasattr(zipfile, name)
]
FILES = {"top/a.txt": b"first", "top/below/b.txt": b"second" * 1000, "other.txt": b"third"}


@pytest.fixture(params=["folder", "zip"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "folder":
        return unpack(tmp_path / "files", FILES)
    pack(tmp_path / "files.zip", FILES)
    return tmp_path / "files.zip"


# What is read


def test_a_folder_and_a_zip_hold_the_same_files(source: Path) -> None:
    with open_source(source) as opened:
        assert opened.folders() == ["top"]
        for folder, name in (("", "other.txt"), ("top", "a.txt"), ("top/below", "b.txt")):
            [file] = opened.files(folder)
            path = f"{folder}/{name}".lstrip("/")
            assert (file.name, file.size, file.read()) == (name, len(FILES[path]), FILES[path])


def test_a_folder_that_is_not_there_has_no_files(source: Path) -> None:
    with open_source(source) as opened:
        assert opened.files("nowhere") == opened.files("other.txt") == []


def test_both_checksums_are_taken_in_one_reading(tmp_path: Path) -> None:
    path, watcher = tmp_path / "files.zip", Watcher()
    wanted = pack(path, FILES)
    archive.check(path, wanted, watcher("checksums", "bytes"))
    assert watcher.news == [(path.stat().st_size, path.stat().st_size)]


# What is refused


def test_a_link_to_nothing_and_a_pipe_are_refused_only_where_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "b.png")
    with open_source(tmp_path) as opened:
        assert opened.folders() == []
        first, second = opened.files("")
        with pytest.raises(BenchError, match=f"cannot read {tmp_path}/a.png: No such file"):
            first.read()
        with pytest.raises(BenchError, match=f"{tmp_path}/b.png is not a regular file"):
            second.read()


def test_a_pipe_is_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BenchError, match="pipe is not a regular file"):
        open_source(tmp_path / "pipe")


def test_a_folder_that_may_be_listed_but_not_entered_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").touch()

    def refuse(path: Path, **_: object) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied")

    opened = open_source(tmp_path)
    monkeypatch.setattr(Path, "stat", refuse)  # the tests may run as root, who may look anywhere
    for refused in (opened.folders, lambda: opened.files("")):
        with pytest.raises(BenchError, match=r"cannot read .*a.png: Permission denied"):
            refused()


@pytest.mark.parametrize("digest", ["md5", "sha1"])
def test_another_checksum_is_refused_with_where_to_get_it(tmp_path: Path, digest: str) -> None:
    path = tmp_path / "files.zip"
    wanted = dataclasses.replace(pack(path, FILES), **{digest: "0" * 32})
    with pytest.raises(BenchError, match=r"files.zip \(\d+ bytes\) is not the published files.zip") as caught:
        archive.check(path, wanted, Watcher().tell)
    assert "Ask a friend." in caught.value.hint


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="there is no .*nowhere"):
        open_source(tmp_path / "nowhere")


@pytest.mark.parametrize("length", [2, 3, 20, 60, 300])
def test_a_truncated_archive_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "files.zip"
    wanted = pack(path, FILES)
    path.write_bytes(path.read_bytes()[:length])
    for refuse in (lambda: open_source(path), lambda: archive.check(path, wanted, Watcher().tell)):
        with pytest.raises(BenchError, match=f"files.zip is cut off: {length} bytes"):
            refuse()


@pytest.mark.parametrize("content", [b"", b"<html>503</html>", b"\x1f\x8b tar"])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "files.zip"
    path.write_bytes(content)
    with pytest.raises(BenchError, match="files.zip is not a zip archive"):
        open_source(path)


@pytest.mark.parametrize(
    ("name", "danger"),
    [
        ("/etc/passwd", "absolute"),
        ("\\windows\\x", "absolute"),
        ("C:/windows/x", "absolute"),
        ("c:x", "absolute"),
        ("../x", "leads out"),
        ("a/../../x", "leads out"),
        ("a\\..\\..\\x", "leads out"),
    ],
)
def test_members_that_would_land_elsewhere_are_refused(tmp_path: Path, name: str, danger: str) -> None:
    pack(tmp_path / "files.zip", {**FILES, name: b"evil"})
    with pytest.raises(BenchError, match=danger) as caught:
        open_source(tmp_path / "files.zip")
    assert repr(name) in caught.value.message


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    member = zipfile.ZipInfo("link")
    member.external_attr = (kind | 0o644) << 16
    pack(tmp_path / "files.zip", {member: b"/etc/passwd"})
    with pytest.raises(BenchError, match="'link', which is a link or a device"):
        open_source(tmp_path / "files.zip")


def test_names_with_dots_and_colons_are_harmless(tmp_path: Path) -> None:
    pack(tmp_path / "files.zip", {"a..b/..c": b"x", "time 12:30": b"y"})
    with open_source(tmp_path / "files.zip") as opened:
        assert [file.read() for file in opened.files("a..b") + opened.files("")] == [b"x", b"y"]


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    path = tmp_path / "files.zip"
    with zipfile.ZipFile(path, "w") as packed:  # stored: a flipped bit shows in nothing but the CRC
        packed.writestr("a/b.png", b"pixels")
    path.write_bytes(path.read_bytes().replace(b"pixels", b"pixelz", 1))
    with open_source(path) as opened, pytest.raises(BenchError, match=r"a/b.png in .*zip is damaged: .*CRC"):
        opened.files("a")[0].read()


def test_a_name_that_is_not_what_it_claims_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "files.zip"
    pack(path, {"\u00e4.png": b"pixels"})  # a name that is flagged UTF-8
    whole = path.read_bytes()
    for count, words in ((-1, "holds a name that is not UTF-8"), (1, "is damaged")):  # in both places, in one
        path.write_bytes(whole.replace("\u00e4".encode(), b"\xff\xff", count))
        with pytest.raises(BenchError, match=words), open_source(path) as opened:
            opened.files("")[0].read()


def test_an_encrypted_archive_is_said_to_be_one(tmp_path: Path) -> None:
    with (
        open_source(flagged(tmp_path, flags=1)) as opened,
        pytest.raises(BenchError, match=r"a.png in .*files.zip is encrypted") as caught,
    ):
        opened.files("")[0].read()
    assert caught.value.hint == "unpack it and name the folder"


def test_an_archive_packed_in_an_unknown_way_is_said_to_be_one(tmp_path: Path) -> None:
    with (
        open_source(flagged(tmp_path, method=9)) as opened,  # deflate64
        pytest.raises(BenchError, match=r"a.png in .* is packed in a way that Python cannot read") as caught,
    ):
        opened.files("")[0].read()
    assert caught.value.hint == "unpack it and name the folder"


def test_what_is_not_packed_as_it_says_is_damaged_or_packed_in_an_unknown_way(tmp_path: Path) -> None:
    """Zstandard, which Python knows since 3.14."""
    with (
        open_source(flagged(tmp_path, method=93)) as opened,
        pytest.raises(BenchError, match=r"a.png in .* is (damaged|packed in a way that Python cannot read)"),
    ):
        opened.files("")[0].read()


def flagged(folder: Path, flags: int = 0, method: int = 0) -> Path:
    """A zip whose only member says of itself that it has these flags and is packed by this method."""
    path = folder / "files.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("a.png", b"pixels")
    content = bytearray(path.read_bytes())
    for place in (6, content.index(b"PK\x01\x02") + 8):
        content[place : place + 4] = bytes([flags, 0, method, 0])
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("method", METHODS)
def test_every_damage_to_a_member_is_refused_however_it_is_packed(tmp_path: Path, method: int) -> None:
    path = tmp_path / "files.zip"
    with zipfile.ZipFile(path, "w", method) as packed:
        packed.writestr("a.png", bytes(range(256)) * 4)
        size = packed.infolist()[0].compress_size
    whole = path.read_bytes()
    for place in range(35, 35 + size):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with contextlib.suppress(BenchError), open_source(path) as opened:
            assert opened.files("")[0].read() == bytes(range(256)) * 4


def test_every_damage_to_an_archive_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "files.zip"
    pack(path, FILES)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            with open_source(path) as opened:
                found = {f"top/{file.name}": file.read() for file in opened.files("top")}
        except BenchError:
            continue
        assert all(FILES.get(name, content) == content for name, content in found.items())
