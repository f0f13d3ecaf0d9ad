"""A folder that is there whole or not at all: stopped, full, locked, read-only."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import BenchError, draft
from bench.archive import File
from bench.draft import open_draft
from tests.fake_data import Watcher, tree

CONTENTS = {"images/a.png": b"picture", "annotations/a.png": b"label", "list.txt": b"a\n"}


def files(contents: dict[str, bytes] = CONTENTS) -> list[File]:
    def reading(content: bytes) -> Callable[[], bytes]:
        return lambda: content

    return [File(name, len(content), reading(content)) for name, content in contents.items()]


def fail(error: Exception) -> Callable[[], bytes]:
    def read() -> bytes:
        raise error

    return read


def make(name: Path, contents: dict[str, bytes] = CONTENTS) -> None:
    with open_draft(name) as opened:
        opened.fill(files(contents), Watcher().tell)
        opened.publish()


def test_a_folder_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    name, watcher = tmp_path / "new" / "data", Watcher()
    with open_draft(name) as opened:
        opened.fill(files(), watcher.tell)
        assert not name.exists()
        opened.publish()
    assert tree(name) == CONTENTS
    assert watcher.news == [(1, 3), (2, 3), (3, 3)]
    assert os.listdir(name.parent) == ["data"]


def test_an_empty_folder_of_that_name_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    make(tmp_path / "data")
    assert tree(tmp_path / "data") == CONTENTS


def test_a_failure_keeps_what_is_written_and_the_next_try_writes_the_rest(tmp_path: Path) -> None:
    name = tmp_path / "data"
    *first, last = files()
    broken = File(last.name, last.size, fail(BenchError("cannot read it")))
    with pytest.raises(BenchError, match="cannot read it"), open_draft(name) as opened:
        opened.fill([*first, broken], Watcher().tell)
    assert not name.exists()
    kept = tmp_path / ".data.partial" / "images" / "a.png"
    before = kept.stat().st_mtime_ns
    make(name)
    assert tree(name) == CONTENTS
    assert (name / "images" / "a.png").stat().st_mtime_ns == before


@pytest.mark.parametrize("left", [b"", b"pic", b"PICTURE", b"picture and more"])
def test_a_file_with_other_content_is_written_anew(tmp_path: Path, left: bytes) -> None:
    kept = tmp_path / ".data.partial" / "images" / "a.png"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(left)
    make(tmp_path / "data")
    assert tree(tmp_path / "data") == CONTENTS


def test_what_another_source_left_is_dropped(tmp_path: Path) -> None:
    with open_draft(tmp_path / "data") as opened:
        opened.fill(files({**CONTENTS, "images/z.png": b"of another version"}), Watcher().tell)
    make(tmp_path / "data")
    assert tree(tmp_path / "data") == CONTENTS


def test_a_draft_in_which_nothing_was_written_leaves_nothing(tmp_path: Path) -> None:
    with open_draft(tmp_path / "data"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_draft_belongs_to_one_process(tmp_path: Path) -> None:
    with open_draft(tmp_path / "data") as first:
        first.fill(files(), Watcher().tell)
        with pytest.raises(BenchError, match="another segbench prepares .*data"), open_draft(first.name):
            pass
        first.publish()
    assert tree(tmp_path / "data") == CONTENTS


def test_the_empty_draft_of_another_process_is_left_to_it(tmp_path: Path) -> None:
    with open_draft(tmp_path / "data") as first:
        with pytest.raises(BenchError, match="another segbench prepares"), open_draft(first.name):
            pass
        assert first.folder.is_dir()


def test_a_lock_on_a_folder_that_was_removed_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft_folder = tmp_path / ".data.partial"

    def replaced(handle: int, path: Path) -> bool:
        draft_folder.rmdir()
        (tmp_path / "another").mkdir()  # so that the inode is not the same again
        draft_folder.mkdir()
        return True

    monkeypatch.setattr(draft, "lock", replaced)
    with pytest.raises(BenchError, match="another segbench prepares"), open_draft(tmp_path / "data"):
        pass
    assert draft_folder.is_dir()


def test_a_disk_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(BenchError, match="cannot lock .*No locks available"), open_draft(tmp_path / "data"):
        pass


def test_a_draft_whose_name_was_taken_meanwhile_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "data")
    with pytest.raises(BenchError, match="another segbench"), open_draft(tmp_path / "data"):
        pass
    assert tree(tmp_path / "data") == CONTENTS


def test_too_little_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with (
        pytest.raises(BenchError, match="too full: 14 bytes are needed, 10 are free") as caught,
        open_draft(tmp_path / "data") as opened,
    ):
        opened.fill(files(), Watcher().tell)
    assert caught.value.hint.startswith("free 4 bytes, then type the same command again")
    assert os.listdir(tmp_path) == []


def test_only_what_is_missing_needs_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_draft(tmp_path / "data") as opened:
        opened.fill(files({"images/a.png": b"picture"}), Watcher().tell)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    make(tmp_path / "data")
    assert tree(tmp_path / "data") == CONTENTS


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_is_said_and_what_is_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name != "list.txt":
            return write(path, content)
        write(path, content[:1])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        BenchError, match=r"the disk is full: cannot write .*list.txt; 2 bytes are needed, [\d,]+ are free"
    ):
        make(tmp_path / "data")
    monkeypatch.undo()
    assert set(tree(tmp_path / ".data.partial")) == set(CONTENTS)
    make(tmp_path / "data")
    assert tree(tmp_path / "data") == CONTENTS


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # the tests may run as root, who may write anywhere
    with (
        pytest.raises(BenchError, match="cannot write .*: Permission denied") as caught,
        open_draft(tmp_path / "x"),
    ):
        pass
    assert "DEST" in caught.value.hint


def test_a_file_in_the_way_of_the_draft_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="cannot write"), open_draft(tmp_path / "file" / "data"):
        pass


@pytest.mark.parametrize(
    ("make", "taken"),
    [
        (lambda path: None, False),
        (lambda path: path.mkdir(), False),
        (lambda path: path.write_text(""), True),
        (lambda path: path.symlink_to("nowhere"), True),
        (lambda path: (path / "below").mkdir(parents=True), True),
    ],
)
def test_only_an_empty_folder_leaves_a_name_free(
    tmp_path: Path, make: Callable[[Path], object], taken: bool
) -> None:
    make(tmp_path / "data")
    assert draft.is_taken(tmp_path / "data") is taken
