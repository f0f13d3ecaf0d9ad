"""The scenes of `mini`: a seed draws the same pixels, every class can be learnt, a set is whole or absent."""

from __future__ import annotations

import errno
import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import BenchError, scenes
from bench.brush import Canvas, Dice, Light

SAMPLE = 150
COUNTS = (5, 3)


@pytest.fixture(scope="module")
def sample() -> tuple[np.ndarray, np.ndarray]:
    """Images (150, 64, 80, 3) and labels (150, 64, 80)."""
    drawn = [scenes.draw(3, "training", index) for index in range(SAMPLE)]
    return np.stack([image for image, _ in drawn]), np.stack([label for _, label in drawn])


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.ensure(tmp_path_factory.mktemp("cache"), *COUNTS, seed=1)


@pytest.fixture
def cache(small_set: Path, tmp_path: Path) -> Path:
    """A cache of its own that holds the small set, to be damaged."""
    shutil.copytree(small_set, tmp_path / small_set.name)
    return tmp_path


# Pictures


def test_a_scene_depends_on_seed_split_and_index_alone() -> None:
    keys = [(0, "training", 0), (0, "training", 1), (0, "validation", 0), (1, "training", 0)]
    first = [scenes.draw(*key) for key in keys]
    again = [scenes.draw(*key) for key in reversed(keys)][::-1]
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(one[0], two[0])
        assert np.array_equal(one[1], two[1])
    assert len({image.tobytes() for image, _ in first}) == len(keys)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="no split 'test'"):
        scenes.draw(0, "test", 0)


def test_shapes_and_types(sample: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = sample
    assert images.shape == (SAMPLE, 64, 80, 3)
    assert labels.shape == (SAMPLE, 64, 80)
    assert images.dtype == labels.dtype == np.uint8
    assert labels.max() == len(scenes.CLASSES) == 12


def test_every_class_is_frequent_enough_to_be_learnt(sample: tuple[np.ndarray, np.ndarray]) -> None:
    pixels = np.stack([np.bincount(label.ravel(), minlength=13) for label in sample[1]])
    total = pixels.sum(axis=0)
    shares = total[1:] / total[1:].sum()
    present = (pixels[:, 1:] >= 20).mean(axis=0)
    for name, share, presence in zip(scenes.CLASSES, shares, present, strict=True):
        assert share > 0.02, name
        assert presence > 0.25, name
    assert shares.max() < 0.22
    assert 0.005 < total[0] / total.sum() < 0.05


def test_pictures_use_the_range_of_brightness(sample: tuple[np.ndarray, np.ndarray]) -> None:
    spread = sample[0].reshape(SAMPLE, -1).std(axis=1)
    assert spread.min() > 10


def test_labels_lie_on_the_picture() -> None:
    """A bright box on a dark ground: where it covers more than half a pixel, it labels the pixel."""
    canvas = Canvas()
    canvas.brush(1).rectangle(0, 0, 80, 64, (0, 0, 0))
    canvas.brush(2).rectangle(20, 10.5, 40, 30, (255, 255, 255))
    label, colour = canvas.labels(), np.asarray(canvas.colour.reduce(3))[:, :, 0]
    assert np.array_equal(label == 2, colour > 127)
    assert np.argwhere(label == 2).min(axis=0).tolist() == [10, 20]
    assert np.argwhere(label == 2).max(axis=0).tolist() == [29, 39]


def test_colours_change_where_labels_do(sample: tuple[np.ndarray, np.ndarray]) -> None:
    """Colours differ most exactly at the border of two classes."""
    images, labels = sample[0].astype(float), sample[1]
    step = np.abs(np.diff(images, axis=2)).mean(axis=3)
    border = np.diff(labels.astype(int), axis=2) != 0
    at_border = step[border].mean()
    assert at_border > 1.8 * step[~border].mean()
    for shift in (-2, 2):
        assert at_border > step[np.roll(border, shift, axis=2) & ~border].mean()


def test_the_picture_leaves_the_labels_alone() -> None:
    dice = Dice(np.random.default_rng(0))
    canvas = Canvas()
    canvas.brush(7, kind=3, strength=0.9).rectangle(0, 0, 80, 64, (90, 90, 90))
    canvas.shadow(40, 30, 30, 10, 0.5)
    before = canvas.labels()
    light = Light(1, (0, 0, 0), (0, 0, 0), (1, 1, 1), 1, 0.4)
    assert canvas.picture(light, dice).shape == (64, 80, 3)
    assert np.array_equal(canvas.labels(), before)
    assert (before == 7).all()


def test_a_mirrored_brush_mirrors_the_shape() -> None:
    masks = []
    for way in (1, -1):
        canvas = Canvas()
        canvas.brush(5).at(40, 50, 20, way).polygon([(0, 0), (0.8, 0), (0.8, 1.2)], (9, 9, 9))
        masks.append(canvas.labels() == 5)
    assert masks[0][26:50, 40:].any()
    assert not masks[0][:, :39].any()
    assert np.abs(masks[0].sum() - masks[1].sum()) < 12


# Files


def test_the_layout_is_that_of_ade20k(small_set: Path) -> None:
    for split, count in zip(("training", "validation"), COUNTS, strict=True):
        names = [f"scene_{number:08d}.png" for number in range(1, count + 1)]
        for kind, mode in (("images", "RGB"), ("annotations", "L")):
            files = sorted((small_set / kind / split).iterdir())
            assert [file.name for file in files] == names
            for file in files:
                with Image.open(file) as image:
                    assert (image.mode, image.size) == (mode, (80, 64))


def test_files_hold_the_drawn_pixels(small_set: Path) -> None:
    image, label = scenes.draw(1, "validation", 2)
    for kind, pixels in (("images", image), ("annotations", label)):
        with Image.open(small_set / kind / "validation" / "scene_00000003.png") as stored:
            assert np.array_equal(np.asarray(stored), pixels)


def test_the_set_describes_itself(small_set: Path) -> None:
    description = json.loads((small_set / "scenes.json").read_text())
    assert (description["train_images"], description["val_images"], description["seed"]) == (*COUNTS, 1)
    assert description["version"] == scenes.VERSION
    assert description["numpy"] == np.__version__
    assert description["sha256"] == scenes.checksum(small_set)


def test_a_set_that_is_there_is_not_drawn_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "write", None)
    assert scenes.ensure(cache, *COUNTS, seed=1).parent == cache


def test_progress_counts_the_scenes(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    scenes.ensure(tmp_path, 2, 1, 0, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_an_interrupted_set_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scenes.ensure(tmp_path, *COUNTS, seed=1, progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    assert scenes.checksum(scenes.ensure(tmp_path, *COUNTS, seed=1))


@pytest.mark.parametrize("file", ["images/training/scene_00000002.png", "scenes.json", "annotations"])
def test_a_missing_file_is_named(cache: Path, file: str) -> None:
    path = next(cache.iterdir()) / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(BenchError, match=file) as caught:
        scenes.ensure(cache, *COUNTS, seed=1)
    assert "rm -r" in caught.value.hint


def test_a_file_cut_short_is_noticed(cache: Path) -> None:
    folder = next(cache.iterdir())
    path = folder / "annotations/validation/scene_00000001.png"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BenchError, match="size"):
        scenes.ensure(cache, *COUNTS, seed=1)
    with pytest.raises(BenchError, match=r"scene_00000001\.png"):
        scenes.checksum(folder)


def test_a_changed_pixel_changes_the_checksum(cache: Path) -> None:
    folder = next(cache.iterdir())
    path = folder / "images/validation/scene_00000001.png"
    with Image.open(path) as image:
        pixels = np.asarray(image).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    assert scenes.checksum(folder) != json.loads((folder / "scenes.json").read_text())["sha256"]


def test_another_set_under_this_name_is_refused(cache: Path) -> None:
    folder = next(cache.iterdir())
    folder.rename(folder.with_name(folder.name.replace("seed1", "seed2")))
    with pytest.raises(BenchError, match="seed = 1, not 2"):
        scenes.ensure(cache, *COUNTS, seed=2)


def test_a_cache_that_cannot_be_written_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BenchError, match="cannot write") as caught:
        scenes.ensure(tmp_path / "file", *COUNTS, seed=1)
    assert "SEGBENCH_CACHE" in caught.value.hint


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(BenchError, match="No space left on device"):
        scenes.ensure(tmp_path, *COUNTS, seed=1)
    assert list(tmp_path.iterdir()) == []


def test_the_slower_of_two_writers_keeps_the_set_of_the_faster(tmp_path: Path) -> None:
    folder = tmp_path / "set"

    def overtake(done: int, total: int) -> None:
        if done == total:
            scenes.write(folder, 1, 1, 0)

    scenes.write(folder, 1, 1, 0, progress=overtake)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert scenes.checksum(folder)


def test_two_processes_may_write_at_once(small_set: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=scenes.ensure, args=(tmp_path, *COUNTS, 1)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == [small_set.name]
    assert scenes.checksum(tmp_path / small_set.name) == scenes.checksum(small_set)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("SEGBENCH_CACHE", raising=False)
    assert scenes.cache_folder() == Path("/home/someone/.cache/segbench")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert scenes.cache_folder() == Path("/var/cache/segbench")
    monkeypatch.setenv("SEGBENCH_CACHE", "~/scenes")
    assert scenes.cache_folder() == Path("/home/someone/scenes")
