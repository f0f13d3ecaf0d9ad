"""The prepared cache: what is mapped is what would be decoded, and no damage or other data set passes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import BenchError, cache, evaluate, prepare
from bench.batches import Batches
from bench.cache import Cache
from bench.dataset import Dataset
from tests import fake_data
from tests.fake_data import PAIRS, TOP, Watcher, encoded, tree, unpack

ROOT = Path(__file__).parents[1]
CLASSES = [str(number) for number in range(150)]
ADE20K = {name.removeprefix(f"{TOP}/"): content for name, content in fake_data.ade20k().items()}


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair of 30 x 40 pixels is 6,000 bytes: two of them fill a piece."""
    monkeypatch.setattr(cache, "PIECE", 10_000)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return unpack(tmp_path / "data", ADE20K)


def make(data: Path) -> Path:
    """The cache of `data`, beside it."""
    assert prepare.cache(data, data.parent / "cache", Watcher()).pairs == PAIRS
    return data.parent / "cache"


def opened(data: Path, split: str, prepared: Path | None = None, in_memory: bool = False) -> Dataset:
    decoded = prepared and partial(Cache(prepared, data).pair, split)
    return Dataset(data, split, CLASSES, in_memory, decoded=decoded)


# What is in it


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("split", PAIRS)
def test_what_is_mapped_is_what_would_be_decoded(data: Path, split: str, in_memory: bool) -> None:
    plain, mapped = opened(data, split), opened(data, split, make(data), in_memory)
    assert len(mapped) == len(plain) == PAIRS[split]
    for index in range(len(plain)):
        assert mapped.size(index) == plain.size(index) == (40, 30)
        for ours, theirs in zip(mapped.pair(index), plain.pair(index), strict=True):
            assert np.array_equal(ours, theirs)


def test_batches_and_validation_are_the_same_to_the_bit(data: Path) -> None:
    prepared = make(data)
    plain, mapped = (Batches(opened(data, "training", which), 24, 4, seed=3) for which in (None, prepared))
    for step in range(12):
        for ours, theirs in zip(*(vars(each.make(step)).values() for each in (mapped, plain)), strict=True):
            assert torch.equal(ours, theirs)
    scored = [
        evaluate.Validation(opened(data, "validation", which), protocol, 24, 2)
        for protocol in ("squash", "native")
        for which in (None, prepared)
    ]
    for theirs, ours in (scored[:2], scored[2:]):
        for batch, same in zip(ours, theirs, strict=True):
            assert all(torch.equal(*both) for both in zip(batch, same, strict=True))


def test_a_picture_is_not_opened_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = opened(data, "training", make(data))
    monkeypatch.setattr(Path, "open", None)
    monkeypatch.setattr(Path, "read_bytes", None)
    assert mapped.pair(2)[0].shape == (30, 40, 4)


def test_nothing_in_it_can_be_written_to(data: Path) -> None:
    pixels, label = opened(data, "training", make(data)).pair(0)
    for array in (pixels, label):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_pieces_are_filled_and_pairs_begin_where_vector_instructions_like_it(data: Path) -> None:
    places = Cache(make(data), data).places
    assert sorted({place.piece for place in places.values()}) == [f"piece-0000{n}" for n in range(3)]
    assert [(place.start, place.end) for place in places.values()][:2] == [(0, 6000), (6016, 12016)]


# What is refused


def refused(data: Path, prepared: Path, words: str) -> None:
    with pytest.raises(BenchError, match=words) as caught:
        Cache(prepared, data)
    assert "segbench prepare cache" in caught.value.hint
    assert "\n" not in caught.value.message


def test_a_cache_of_other_pictures_is_refused(data: Path) -> None:
    prepared = make(data)
    (data / "images/training/ADE_train_00000001.jpg").write_bytes(b"another picture")
    refused(data, prepared, "cache was made of other pictures than .*data holds")


def test_a_folder_that_is_none_is_refused(data: Path) -> None:
    refused(data, data, "data is no cache: there is no index.json in it")
    refused(data, data / "images" / "nowhere", "nowhere is no cache")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def rewrite(path: Path) -> None:
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))


def renew(path: Path) -> None:
    content = {**json.loads(path.read_text())["content"], "version": 2}
    checksum = cache._sum(cache._written(content))
    path.write_text(json.dumps({"checksum": checksum, "content": content}))


@pytest.mark.parametrize(
    ("name", "harm", "words"),
    [
        ("piece-00001", cut, "piece-00001 has 6,008 bytes, not 12,016"),
        ("piece-00001", Path.unlink, "piece-00001 cannot be read: No such file"),
        ("index.json", cut, "index.json cannot be read"),
        ("index.json", change, "index.json cannot be read"),
        ("index.json", rewrite, "index.json cannot be read: its checksum is another"),
        ("index.json", renew, "index.json cannot be read: it has version 2, this segbench 1"),
        ("index.json", lambda path: path.write_text("[]"), "index.json cannot be read"),
    ],
)
def test_a_damaged_cache_is_refused_when_it_is_opened(
    data: Path, name: str, harm: Callable[[Path], None], words: str
) -> None:
    prepared = make(data)
    harm(prepared / name)
    refused(data, prepared, words)


def test_a_changed_bit_is_found_when_it_is_prepared_again(data: Path) -> None:
    prepared = make(data)
    assert prepare.cache(data, prepared, watcher := Watcher()).before
    assert watcher.news[-1] == (5, 5)
    change(prepared / "piece-00001")
    with pytest.raises(BenchError, match="ADE_.* is damaged in .*piece-00001"):
        prepare.cache(data, prepared, Watcher())


# Making it


def test_a_damaged_picture_ends_it_and_is_named(data: Path) -> None:
    (data / "images/validation/ADE_valid_00000001.jpg").write_bytes(b"no picture")
    with pytest.raises(BenchError, match="ADE_valid_00000001.jpg cannot be read"):
        make(data)
    assert not (data.parent / "cache").exists()
    unpack(data, ADE20K)
    make(data)


def test_a_data_set_that_changes_meanwhile_is_noticed(data: Path) -> None:
    plan = cache.plan(data)
    *pieces, index = plan.files
    assert [file.size for file in pieces] == [len(file.read()) for file in pieces]
    (data / "images/training/ADE_train_00000001.jpg").write_bytes(b"another picture")
    with pytest.raises(BenchError, match="data changed while it was read"):
        index.read()
    wider = np.zeros((30, 41), np.uint8)
    (data / "annotations/training/ADE_train_00000002.png").write_bytes(encoded(wider, "PNG"))
    (data / "images/training/ADE_train_00000002.jpg").write_bytes(encoded(np.dstack([wider] * 3), "JPEG"))
    (data / "images/training/ADE_train_00000001.jpg").write_bytes(
        ADE20K["images/training/ADE_train_00000001.jpg"]
    )
    with pytest.raises(BenchError, match="data changed while it was read"):
        pieces[0].read()


def test_a_disk_that_is_too_small_is_said_beforehand(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.draft._free", lambda _: 5000)
    with pytest.raises(BenchError, match=r"too full: 3\d,\d{3} bytes are needed, 5,000 are free") as caught:
        make(data)
    assert "it goes on" in caught.value.hint
    assert sorted(path.name for path in data.parent.iterdir()) == ["data"]


def test_a_disk_that_fills_up_is_said_and_the_next_try_goes_on(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == "piece-00001":
            write(path, content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(BenchError, match="the disk is full: cannot write .*piece-00001"):
            make(data)
    kept = data.parent / ".cache.partial" / "piece-00000"
    before = kept.stat().st_mtime_ns
    assert (make(data) / "piece-00000").stat().st_mtime_ns == before


def test_what_the_disk_did_not_keep_is_noticed_before_it_has_its_name(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", lambda path, content: write(path, content[:-1] + b"?"))
        with pytest.raises(BenchError) as caught:
            make(data)
    assert "it goes on" in caught.value.hint
    assert not (data.parent / "cache").exists()
    make(data)


def test_a_place_that_is_taken_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="data is no cache"):
        prepare.cache(data, data, Watcher())
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match="file is no cache"):
        prepare.cache(data, tmp_path / "file", Watcher())


KILLED = """
import os, signal, sys
from pathlib import Path
from bench import cache, draft, prepare
from tests.fake_data import Watcher

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

data, place = Path(sys.argv[1]), sys.argv[2]
cache.PIECE, write = 10_000, Path.write_bytes
def write_and_die(path, content):
    if path.name != place:
        return write(path, content)
    write(path, content[:len(content) // 2])
    die()

Path.write_bytes = write_and_die
if place == "check":
    cache.Cache.check = die
elif place == "publish":
    draft.Draft.publish = die
elif place == "end":
    draft.os.close = die
prepare.cache(data, data.parent / "cache", Watcher())
"""


@pytest.mark.parametrize("place", ["piece-00000", "piece-00002", "index.json", "check", "publish", "end"])
def test_killed_at_any_time_the_same_command_completes_it(data: Path, tmp_path: Path, place: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, data, place],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "cache").exists() == (place == "end")
    prepared = make(data)
    undisturbed = prepare.cache(data, tmp_path / "other", Watcher())
    assert not undisturbed.before
    assert tree(prepared) == tree(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data", "other"]
