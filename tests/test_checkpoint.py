"""Checkpoints: replaced in one step, read without running code, and never taken for another run's."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import BenchError, checkpoint

IDENTITY = {"seed": 3, "recipe_fingerprint": "aa"}


def content(step: int = 7) -> dict[str, Any]:
    return {
        **IDENTITY,
        "step": step,
        "model": {"weight": torch.arange(2000.0), "half": torch.ones(3, dtype=torch.float16)},
        "optimizer": {
            "state": {0: {"momentum_buffer": torch.ones(4)}},
            "param_groups": [{"lr": 0.1, "fused": True}],
        },
        "evals": [{"miou": 1.5, "per_class_iou": {"sky": None}}],
        "log": torch.zeros(2, 3, dtype=torch.float64),
        "scaler": {},
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_reads_back_as_saved(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, content())
    found = checkpoint.load(tmp_path, **IDENTITY)
    assert found is not None
    assert found.keys() == {*content(), "version"}
    for part in ("weight", "half"):
        assert torch.equal(found["model"][part], content()["model"][part])
        assert found["model"][part].dtype == content()["model"][part].dtype
    assert torch.equal(found["optimizer"]["state"][0]["momentum_buffer"], torch.ones(4))
    assert (found["step"], found["evals"]) == (7, content()["evals"])
    assert names(tmp_path) == [checkpoint.NAME]


def test_a_later_one_replaces_it(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, content(step))
    assert (checkpoint.load(tmp_path) or {})["step"] == 2
    assert names(tmp_path) == [checkpoint.BEFORE, checkpoint.NAME]


def test_of_three_the_last_two_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, content(step))
    (tmp_path / checkpoint.NAME).unlink()
    assert (checkpoint.load(tmp_path) or {})["step"] == 2


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_where_the_last_was_cut_off_the_one_before_is_used(
    tmp_path: Path, share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, content(step))
    path = tmp_path / checkpoint.NAME
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert (checkpoint.load(tmp_path, **IDENTITY) or {})["step"] == 1
    assert f"it is kept as {checkpoint.NAME}.aside" in capsys.readouterr().out


@pytest.mark.parametrize("renames", [0, 1])
def test_a_crash_between_the_renames_leaves_one_of_the_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """Killed before the first rename the old one has its name; between them, it has its other name."""
    checkpoint.save(tmp_path, content(1))
    real, done = os.replace, []

    def crash(source: Path, target: Path) -> None:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(target)
        real(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, content(2))
    monkeypatch.undo()
    assert (checkpoint.load(tmp_path, **IDENTITY) or {})["step"] == 1
    checkpoint.save(tmp_path, content(3))
    assert (checkpoint.load(tmp_path, **IDENTITY) or {})["step"] == 3


def test_a_run_without_one_starts_from_nothing_and_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkpoint.load(tmp_path, **IDENTITY) is None
    assert capsys.readouterr().out == ""


def test_one_of_another_version_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoint, "VERSION", 1)
    checkpoint.save(tmp_path, content())
    monkeypatch.undo()
    assert checkpoint.load(tmp_path, **IDENTITY) is None
    assert "is of another version of segbench: not used" in capsys.readouterr().out


def test_one_that_cannot_be_used_is_left_where_it_is_unless_tidy(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, content(step))
    (tmp_path / checkpoint.NAME).write_bytes(b"spoilt")
    assert (checkpoint.load(tmp_path, tidy=False, **IDENTITY) or {})["step"] == 1
    assert names(tmp_path) == [checkpoint.BEFORE, checkpoint.NAME]


def test_removing_it_twice_is_no_error(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, content())
    checkpoint.remove(tmp_path)
    checkpoint.remove(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("other", [{"seed": 4}, {"recipe_fingerprint": "bb"}, {"workload_fingerprint": "cc"}])
def test_one_of_another_run_is_not_used(
    tmp_path: Path, other: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(tmp_path, content())
    assert checkpoint.load(tmp_path, **{**IDENTITY, **other}) is None
    assert "is of another run: not used" in capsys.readouterr().out


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_one_that_was_cut_off_is_not_used(
    tmp_path: Path, share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(tmp_path, content())
    path = tmp_path / checkpoint.NAME
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert checkpoint.load(tmp_path, **IDENTITY) is None
    assert "cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage", [b"text", b"\x80\x02.", b"\x80\x02(.", b"\x80\x02\x8c\x02\xc5\xff.", b"\x80\x02a"]
)
def test_any_other_file_is_not_used(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / checkpoint.NAME).write_bytes(damage)
    assert checkpoint.load(tmp_path, **IDENTITY) is None


@pytest.mark.parametrize("foreign", [[1, 2], torch.ones(3), "text", None])
def test_one_that_holds_no_run_is_not_used(tmp_path: Path, foreign: Any) -> None:
    torch.save(foreign, tmp_path / checkpoint.NAME)
    assert checkpoint.load(tmp_path, **IDENTITY) is None


class Trap:
    """A pickle that makes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_one_that_holds_code_is_refused_and_the_code_does_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    torch.save({**content(), "extra": Trap(trap)}, tmp_path / checkpoint.NAME)
    assert checkpoint.load(tmp_path, **IDENTITY) is None
    assert not trap.exists()
    torch.load(tmp_path / f"{checkpoint.NAME}.aside", weights_only=False)
    assert trap.exists()


# Disks


def test_a_disk_that_fills_up_is_an_error_and_the_old_one_stays(tmp_path: Path) -> None:
    """A real write error: no file may grow beyond three kilobytes."""
    checkpoint.save(tmp_path, content(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        with pytest.raises(BenchError, match=f"cannot write {tmp_path / checkpoint.NAME}") as caught:
            checkpoint.save(tmp_path, content(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "--results" in caught.value.hint
    assert (checkpoint.load(tmp_path, **IDENTITY) or {})["step"] == 1
    assert names(tmp_path) == [checkpoint.NAME]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_fails_late_is_an_error_and_the_old_one_stays(
    tmp_path: Path, call: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    checkpoint.save(tmp_path, content(1))
    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(BenchError, match=os.strerror(code)):
        checkpoint.save(tmp_path, content(2))
    monkeypatch.undo()
    assert (checkpoint.load(tmp_path, **IDENTITY) or {})["step"] == 1
    assert names(tmp_path) == [checkpoint.NAME]


def test_a_disk_that_turns_read_only_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing can be tidied up, either."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for owner, call in ((os, "fsync"), (Path, "unlink")):
        monkeypatch.setattr(owner, call, refuse)
    with pytest.raises(BenchError, match="Read-only file system"):
        checkpoint.save(tmp_path, content())


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="No such file"):
        checkpoint.save(tmp_path / "gone", content())


def test_a_crash_while_writing_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(value: object, file: Any) -> None:
        file.write(b"half of it")
        raise KeyboardInterrupt

    checkpoint.save(tmp_path, content(1))
    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, content(2))
    monkeypatch.undo()
    assert (checkpoint.load(tmp_path, **IDENTITY) or {})["step"] == 1
    checkpoint.save(tmp_path, content(3))
    assert names(tmp_path) == [checkpoint.BEFORE, checkpoint.NAME]
