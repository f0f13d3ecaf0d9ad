"""Verification: every pair is looked at once, and what is wrong is named before anything trains."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from bench import BenchError, verification, workload
from bench.workload import Workload

FOLDER = {
    "source": "folder",
    "classes": ["sky", "sea"],
    "train_images": 0,
    "val_images": 0,
    "leave_out": [],
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four pairs of JPEG and PNG to train on, two to validate on; and a cache of its own."""
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for split, count in (("training", 4), ("validation", 2)):
        for kind in ("images", "annotations"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for index in range(count):
            pixels, label = (
                rng.integers(0, 256, (30, 40, 3), np.uint8),
                rng.integers(0, 3, (30, 40), np.uint8),
            )
            Image.fromarray(pixels).save(tmp_path / f"data/images/{split}/{index}.jpg")
            Image.fromarray(label).save(tmp_path / f"data/annotations/{split}/{index}.png")
    return tmp_path / "data"


def work(**data: object) -> Workload:
    mini = workload.load("mini")
    return replace(mini, values={**mini.values, "data": {**mini.values["data"], **FOLDER, **data}})


def looks(root: Path, setting: Workload | None = None) -> list[tuple[int, int]]:
    """What a verification tells of its progress; nothing where it has no need to look."""
    told: list[tuple[int, int]] = []
    verification.verify(root, setting or work(), lambda done, total: told.append((done, total)))
    return told


def test_every_pair_of_both_splits_is_looked_at(root: Path) -> None:
    assert looks(root) == [(done, 6) for done in range(1, 7)]


def test_what_was_found_sound_is_not_looked_at_again(root: Path) -> None:
    assert looks(root)
    assert looks(root) == []
    assert looks(root.parent / "data" / ".." / "data") == []


def test_a_renamed_data_set_stays_verified_but_a_copy_does_not(root: Path) -> None:
    looks(root)
    renamed = root.rename(root.with_name("renamed"))
    assert looks(renamed) == []
    assert looks(Path(shutil.copytree(renamed, root)))  # copies the times, too


def touch(path: Path) -> None:
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a picture written again": lambda root: touch(root / "images/training/2.jpg"),
    "a label written again": lambda root: touch(root / "annotations/validation/1.png"),
    "a picture more": lambda root: [
        Image.new(mode, (4, 4)).save(root / kind / "training" / f"9.{ending}")
        for mode, kind, ending in (("RGB", "images", "jpg"), ("L", "annotations", "png"))
    ],
    "a picture less": lambda root: (root / "images/training/0.jpg").unlink(),
}


def rewrite(path: Path) -> None:
    """In place, with the size and the time of before; its ctime tells."""
    found, content = path.stat(), path.read_bytes()
    before = found.st_ctime_ns
    while path.stat().st_ctime_ns == before:  # clocks of file systems tick every few ms
        path.write_bytes(content[::-1])
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def test_a_file_changed_in_place_behind_its_size_and_time_is_looked_at_again(root: Path) -> None:
    looks(root)
    rewrite(root / "images/training/2.jpg")
    with pytest.raises(BenchError, match="2.jpg cannot be read"):
        looks(root)


def pretend(monkeypatch: pytest.MonkeyPatch, **changes: int) -> None:
    """Every picture and label is said to be the same file of the same times, but for `changes`."""
    values = {"st_ino": 1, "st_size": 2, "st_mtime_ns": 3, "st_ctime_ns": 4, **changes}
    monkeypatch.setattr(verification, "look", lambda _: SimpleNamespace(**values))


@pytest.mark.parametrize("field", ["st_ino", "st_size", "st_mtime_ns", "st_ctime_ns"])
def test_each_thing_known_of_a_file_counts_alone(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    pairs = [(Path("/data/images/training/a.jpg"), Path("/data/annotations/training/a.png"))]
    pretend(monkeypatch)
    before = verification._seal(pairs, 2)
    pretend(monkeypatch, **{field: 9})
    assert verification._seal(pairs, 2) != before


@pytest.mark.parametrize(
    "moved", ["images/validation/a.jpg", "images/training/b.jpg", "pictures/training/a.jpg"]
)
def test_the_place_of_a_file_in_the_data_set_counts(monkeypatch: pytest.MonkeyPatch, moved: str) -> None:
    pretend(monkeypatch)
    label = Path("/data/annotations/training/a.png")
    before = verification._seal([(Path("/data/images/training/a.jpg"), label)], 2)
    assert verification._seal([(Path("/data", moved), label)], 2) != before
    assert verification._seal([(Path("/renamed/images/training/a.jpg"), label)], 2) == before


def test_a_look_that_sees_more_looks_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks(root)
    monkeypatch.setattr(verification, "VERSION", verification.VERSION + 1)
    assert looks(root)


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_looked_at_again(root: Path, change: str) -> None:
    looks(root)
    CHANGES[change](root)
    assert looks(root)


def test_more_classes_do_not_vouch_for_fewer(root: Path) -> None:
    looks(root)
    with pytest.raises(BenchError, match="holds label 2, but the workload has 1 classes"):
        looks(root, work(classes=["sky"]))


def test_nothing_is_remembered_of_what_is_not_sound(root: Path) -> None:
    path = root / "images/training/2.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    for _ in range(2):
        with pytest.raises(BenchError, match=f"{path} cannot be read as a picture"):
            looks(root)


@pytest.mark.parametrize("name", ["images/training/2.jpg", "annotations/validation/1.png"])
def test_a_link_to_nothing_is_named(root: Path, name: str) -> None:
    (root / name).unlink()
    (root / name).symlink_to("nowhere")
    with pytest.raises(BenchError, match=f"{root / name} cannot be read: it is a link to a file that is not"):
        looks(root)


def test_several_faults_are_named_together(root: Path) -> None:
    for index in range(4):
        (root / f"annotations/training/{index}.png").write_bytes(b"")
    with pytest.raises(
        BenchError, match=r"training/0.png cannot be read .*\(4 pairs are not sound\)"
    ) as caught:
        looks(root)
    assert "training/1.png" in caught.value.hint
    assert caught.value.hint.endswith("and 1 more")
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(("split", "key"), [("training", "train_images"), ("validation", "val_images")])
def test_the_number_of_pictures_is_that_of_the_workload(root: Path, split: str, key: str) -> None:
    assert looks(root, work(train_images=4, val_images=2))
    with pytest.raises(BenchError, match=f"pictures for {split}, but mini has 7"):
        looks(root, work(**{key: 7}))


def test_pictures_left_out_are_neither_counted_nor_looked_at(root: Path) -> None:
    (root / "images/training/3.jpg").write_bytes(b"gray")
    setting = work(leave_out=["3"], train_images=3)
    assert len(looks(root, setting)) == 5
    with pytest.raises(BenchError, match=r"3 pictures for training \(without 1 that it leaves out\), but"):
        looks(root, work(leave_out=["3"], train_images=4))


@pytest.mark.parametrize("counts", [{}, {"train_images": 4}, {"train_images": 3, "val_images": 2}])
@pytest.mark.parametrize(
    ("names", "words", "hint"),
    [
        (["nine"], "names nine, which", "mend the name"),
        (["3", "8", "nine"], r"names 8 \(and 1 more\), which", "mend the name"),
        (["0.jpg"], "names 0.jpg, which", 'without its ending: "0"'),
    ],
)
def test_a_name_to_leave_out_that_is_no_picture_is_refused(
    root: Path, counts: dict[str, int], names: list[str], words: str, hint: str
) -> None:
    if "3" in names and counts:
        counts = {"train_images": 1}
    with pytest.raises(BenchError, match=f"leave_out {words} is no picture of {root}") as caught:
        looks(root, work(leave_out=names, **counts))
    assert hint in caught.value.hint


def test_pictures_to_leave_out_may_be_gone_where_the_numbers_fit(root: Path) -> None:
    assert len(looks(root, work(leave_out=["nine"], train_images=4, val_images=2))) == 6


def test_a_cache_that_cannot_be_written_costs_another_look_and_no_more(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root.parent / "file").touch()
    monkeypatch.setenv("SEGBENCH_CACHE", str(root.parent / "file"))
    assert looks(root) == looks(root) != []


def test_a_stop_ends_it_at_once_and_nothing_is_remembered(root: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verification.verify(root, work(), stop)
    assert looks(root)
