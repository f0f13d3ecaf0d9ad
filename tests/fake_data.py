"""Small data sets in the forms in which ADE20K and CamVid are published."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from bench.archive import Archive, Tell

TOP = "ADEChallengeData2016"
PAIRS = {"training": 3, "validation": 2}


def ade20k() -> dict[str, bytes]:
    """Path -> content of what the archive holds: three pairs for training, two for validation."""
    rng = np.random.default_rng(0)
    files = {f"{TOP}/objectInfo150.txt": b"Idx\n", f"{TOP}/sceneCategories.txt": b"ADE_train_00000001 hall\n"}
    for split, number in PAIRS.items():
        for index in range(1, number + 1):
            name = f"{split}/ADE_{split[:5]}_{index:08d}"
            picture = rng.integers(0, 256, (30, 40, 3), np.uint8)
            files[f"{TOP}/images/{name}.jpg"] = encoded(picture, "JPEG")
            files[f"{TOP}/annotations/{name}.png"] = encoded(rng.integers(0, 151, (30, 40), np.uint8), "PNG")
    return files


def camvid(splits: Mapping[str, int]) -> dict[str, bytes]:
    """Path -> content of so many pairs of each split ("train", "val") as SegNet has them; labels 0 to 11."""
    rng = np.random.default_rng(0)
    files = {}
    for split, number in splits.items():
        for index in range(number):
            picture, labels = rng.integers(0, 256, (30, 40, 3), np.uint8), np.arange(1200) % 12
            files[f"CamVid/{split}/{index:04d}.png"] = encoded(picture, "PNG")
            files[f"CamVid/{split}annot/{index:04d}.png"] = encoded(
                labels.reshape(30, 40).astype(np.uint8), "PNG"
            )
    return files


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def pack(path: Path, files: Mapping[str | zipfile.ZipInfo, bytes] | Mapping[str, bytes]) -> Archive:
    """Write a zip of these files, deflated as the published one; what would be published of it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return published(path)


def published(path: Path, url: str = "") -> Archive:
    """What would be published of the archive at `path`, at the address `url`."""
    content = path.read_bytes()
    md5, sha1 = (hashlib.new(kind, content, usedforsecurity=False).hexdigest() for kind in ("md5", "sha1"))
    return Archive(path.name, url, "Ask a friend.", md5, sha1)


def unpack(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write these files below `folder`."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Path -> content of all files below `folder`."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


class Watcher:
    """Remembers what it is told: (what, unit) of each stage, and the news of the last."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, str]] = []
        self.news: list[tuple[int, int]] = []

    def __call__(self, what: str, unit: str) -> Tell:
        self.stages.append((what, unit))
        self.news.clear()
        return self.tell

    def tell(self, done: int, total: int) -> None:
        self.news.append((done, total))
