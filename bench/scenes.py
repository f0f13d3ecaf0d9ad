"""The data set of the workload `mini`: scenes drawn from a seed, kept as PNG files in the layout of ADE20K.

A scene depends on (seed, split, index) alone, so a set can be drawn anywhere and in any order. Random streams
and antialiasing may differ between versions of numpy and Pillow: so a set says which drew it, and carries a
checksum of its pixels. It appears under its name only once it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from bench import BenchError, places
from bench.brush import HEIGHT, WIDTH, Dice, Pixels

VERSION = 1  # of the pictures: raise it with every change that moves a pixel
SPLITS = ("training", "validation")
DESCRIPTION = "scenes.json"

# Labels are 1 to 12 in this order; 0 is "other": ignored by loss and metric
CLASSES: tuple[str, ...] = (
    "sky", "hill", "building", "road", "grass", "tree", "water", "car", "person", "boat", "sign", "animal",
)  # fmt: skip

Progress = Callable[[int, int], None]  # scenes done, scenes in all


def draw(seed: int, split: str, index: int) -> tuple[Pixels, Pixels]:
    """One scene: its image, uint8 (64, 80, 3), and its labels, uint8 (64, 80), from 0 to 12.

    `split` is "training" or "validation", `index` counts from 0. Equal arguments give equal pixels.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}: a scene is one of {' or '.join(SPLITS)}")
    key = np.random.SeedSequence([VERSION, seed, SPLITS.index(split), index])
    dice = Dice(np.random.Generator(np.random.Philox(key)))
    world = places.compose(dice)
    return world.canvas.picture(world.light, dice), world.canvas.labels()


def cache_folder() -> Path:
    """Where drawn sets are kept: $SEGBENCH_CACHE, else $XDG_CACHE_HOME/segbench, else ~/.cache/segbench."""
    if own := os.environ.get("SEGBENCH_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "segbench"


def folder_of(cache: Path, train_images: int, val_images: int, seed: int) -> Path:
    """Where this set lies below `cache`, drawn or not."""
    return cache / f"scenes-v{VERSION}-{train_images}-{val_images}-seed{seed}"


def ensure(
    cache: Path, train_images: int, val_images: int, seed: int, progress: Progress | None = None
) -> Path:
    """The folder of this set below `cache`, drawn if it is not there yet.

    A set that is there is looked over cheaply (all files, their total size), not decoded: see `checksum`.
    Raises BenchError if it cannot be written, or is damaged.
    """
    folder = folder_of(cache, train_images, val_images, seed)
    if not folder.exists():
        write(folder, train_images, val_images, seed, progress)
    _inspect(folder, {"train_images": train_images, "val_images": val_images, "seed": seed})
    return folder


def write(
    folder: Path, train_images: int, val_images: int, seed: int, progress: Progress | None = None
) -> None:
    """Draw a whole set into `folder`.

    It is drawn beside `folder` and renamed when it is whole. Where another process was faster, its set stays
    and this one is dropped. `progress` is told (scenes done, scenes in all).
    Raises BenchError if it cannot be written.
    """
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    with _writable(folder):
        try:
            for path in _folders(draft):
                path.mkdir(parents=True)
            description = _draw_all(draft, (train_images, val_images), seed, progress)
            (draft / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
            try:
                draft.rename(folder)
            except OSError:
                if not (folder / DESCRIPTION).exists():
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def checksum(folder: Path) -> str:
    """SHA-256 over the decoded pixels of a set: training, then validation; of each scene image, then labels.

    Equals `sha256` in scenes.json while the set is sound. Raises BenchError if a file is missing or damaged.
    """
    description, digest = _describe(folder), hashlib.sha256()
    for split, count in zip(SPLITS, (description["train_images"], description["val_images"]), strict=True):
        for index in range(count):
            for path in _paths(folder, split, index):
                digest.update(_pixels(folder, path).tobytes())
    return digest.hexdigest()


def _folders(folder: Path) -> list[Path]:
    return [folder / kind / split for kind in ("images", "annotations") for split in SPLITS]


def _name(index: int) -> str:
    return f"scene_{index + 1:08d}.png"


def _paths(folder: Path, split: str, index: int) -> tuple[Path, Path]:
    return folder / "images" / split / _name(index), folder / "annotations" / split / _name(index)


def _draw_all(draft: Path, counts: tuple[int, int], seed: int, progress: Progress | None) -> dict[str, Any]:
    """Draw and save all scenes; returns what scenes.json says of them."""
    digest, size, done = hashlib.sha256(), 0, 0
    for split, count in zip(SPLITS, counts, strict=True):
        for index in range(count):
            for pixels, path in zip(draw(seed, split, index), _paths(draft, split, index), strict=True):
                # a fast level: the pictures are noisy and small, more effort gains next to nothing
                Image.fromarray(pixels).save(path, compress_level=1)
                digest.update(pixels.tobytes())
                size += path.stat().st_size
            done += 1
            if progress:
                progress(done, sum(counts))
    return {
        "version": VERSION,
        "train_images": counts[0],
        "val_images": counts[1],
        "seed": seed,
        "classes": CLASSES,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "file_bytes": size,
        "sha256": digest.hexdigest(),
    }


def _describe(folder: Path) -> dict[str, Any]:
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{DESCRIPTION} cannot be read") from error
    if not isinstance(description, dict) or not {"train_images", "val_images"} <= description.keys():
        raise _damaged(folder, f"{DESCRIPTION} is not a description of a set")
    return description


def _inspect(folder: Path, expected: dict[str, int]) -> None:
    """Raise BenchError unless `folder` says that it is the expected set and all its files are there."""
    description, size = _describe(folder), 0
    for key, value in {"version": VERSION, **expected}.items():
        if description.get(key) != value:
            raise _damaged(folder, f"{DESCRIPTION} says {key} = {description.get(key)}, not {value}")
    for path in _folders(folder):
        count = description["train_images" if path.name == SPLITS[0] else "val_images"]
        with _readable(folder, path), os.scandir(path) as entries:
            sizes = {entry.name: entry.stat().st_size for entry in entries}
        missing = next((name for name in map(_name, range(count)) if name not in sizes), None)
        if missing:
            raise _damaged(folder, f"{path.relative_to(folder) / missing} is missing")
        size += sum(sizes.values())
    if size != description.get("file_bytes"):
        raise _damaged(folder, "its files are not of the size they were written with")


def _pixels(folder: Path, path: Path) -> Pixels:
    with _readable(folder, path), Image.open(path) as image:
        pixels = np.asarray(image)
    if pixels.shape[:2] != (HEIGHT, WIDTH):
        raise _damaged(folder, f"{path.relative_to(folder)} is not {WIDTH} x {HEIGHT} pixels")
    return pixels


@contextmanager
def _readable(folder: Path, path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SyntaxError) as error:  # Pillow calls a broken PNG either
        raise _damaged(folder, f"{path.relative_to(folder)} is missing or cannot be read") from error


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BenchError(
            f"cannot write the scenes of `mini` to {folder}: {error.strerror or error}",
            "set SEGBENCH_CACHE to a folder with room that you may write to",
        ) from error


def _damaged(folder: Path, fault: str) -> BenchError:
    return BenchError(
        f"the scenes in {folder} are damaged: {fault}", f"rm -r '{folder}'   they are drawn anew"
    )
