"""Reading a data set in the layout of ADE20K: `{images,annotations}/{training,validation}/`.

Labels are 8-bit gray pictures: 0 is "other", which is ignored; value i + 1 is class i. In memory "other"
becomes `IGNORE`: subtracting one in uint8 does both.

In memory a picture is an array (H, W, 4) uint8: red, green, blue, and a byte that means nothing. Pixels of
four bytes are what decoders, resizers and devices handle at once.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import simplejpeg
from kornia_rs.io import decode_image_png_u8
from PIL import Image

from bench import BenchError

IGNORE = 255
SUFFIXES = (".jpg", ".jpeg", ".png")
LABELS = (".png",)
PNG = b"\x89PNG\r\n\x1a\n"  # how such a file begins
GRAY, RGB = (b"\x08\x00", b"\x08\x03"), (b"\x08\x02",)  # depth and colour: 8 bits, gray or palette; RGB

Pair = tuple[np.ndarray, np.ndarray]


class Dataset:
    """The pairs of one split, read on demand, or all at once with `in_memory`.

    `pair(i)` gives the picture (H, W, 4) and its label (H, W): class numbers from 0, `IGNORE` for other.
    `decoded` gives the same by the name of a picture, where a cache has it.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        classes: Sequence[str],
        in_memory: bool,
        leave_out: Collection[str] = (),
        decoded: Callable[[str], Pair] | None = None,
    ) -> None:
        self.paths = find_pairs(folder, split, leave_out)
        self.classes, self.decoded = len(classes), decoded
        self.kept = [self._read(index) for index in range(len(self))] if in_memory else None

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """File name of a picture without its ending."""
        return self.paths[index][0].stem

    def size(self, index: int) -> tuple[int, int]:
        """Width and height of a picture and its label. BenchError: the label is damaged."""
        if self.kept is not None or self.decoded is not None:
            height, width = self.pair(index)[1].shape
            return width, height
        return read_size(self.paths[index][1])

    def pair(self, index: int) -> Pair:
        """Picture and label of one size, not to be written to.

        BenchError: a damaged file, sizes that differ, a label too high.
        """
        return self.kept[index] if self.kept is not None else self._read(index)

    def _read(self, index: int) -> Pair:
        if self.decoded is not None:
            return self.decoded(self.name(index))
        return read_pair(*self.paths[index], self.classes)


def read_pair(image_path: Path, label_path: Path, classes: int) -> Pair:
    """Decode both, as `Dataset.pair` gives them. BenchError: as there."""
    label, pixels = _read_label(label_path, classes), _read_pixels(image_path)
    _check_sizes(label_path, label.shape[::-1], pixels.shape[1::-1])
    return pixels, label - np.uint8(1)


def read_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture or label, from its header. BenchError: it is damaged."""
    return _decode(path, header=True)[1]


def as_picture(pixels: np.ndarray, mode: str) -> Image.Image:
    """Pillow's view of an array (H, W) or (H, W, 4) of whole lines or parts of them; nothing is copied.

    What is then pasted, or written to the picture by its address, is in the array. Below the last line there
    must be as many bytes as lie between two.
    """
    height, width = pixels.shape[:2]
    memory, stride = pixels, pixels[0].nbytes
    if not pixels.flags.c_contiguous:
        stride = pixels.strides[0]
        memory = np.lib.stride_tricks.as_strided(pixels, (height * stride,), (1,))
    picture = Image.frombuffer(mode, (width, height), memory, "raw", mode, stride, 1)
    picture.readonly = int(not pixels.flags.writeable)  # else Pillow would paste into a copy
    return picture


def check_pair(image_path: Path, label_path: Path, classes: int) -> None:
    """Decode both and see that they fit: a JPEG at an eighth of its size, which notices the same damage in
    half the time. BenchError: as `Dataset.pair`."""
    label = _read_label(label_path, classes)
    _, size = _decode(image_path, draft=True)
    _check_sizes(label_path, label.shape[::-1], size)


def _read_pixels(path: Path) -> np.ndarray:
    """A picture (H, W, 4). BenchError: it is damaged, or has more than 8 bits a channel."""
    look(path)  # opening a pipe would wait for ever
    pixels: np.ndarray
    with suppress(Exception):  # no narrower class comes; Pillow says what is wrong, or finds that it will do
        content = path.read_bytes()
        if size := _size_of_png(content, RGB):
            pixels = np.full((*size, 4), 255, np.uint8)
            pixels[:, :, :3] = decode_image_png_u8(content, size, "rgb")
            return pixels
        if path.suffix.lower() != ".png" and simplejpeg.decode_jpeg_header(content)[2] == "YCbCr":
            pixels = simplejpeg.decode_jpeg(content, "RGBX")
            return pixels
    image, _ = _decode(path)
    return np.asarray(image.convert("RGB").convert("RGBX"))


def _read_label(path: Path, classes: int) -> np.ndarray:
    """A label (H, W) as it is stored. BenchError: damaged, another mode or depth, a label too high."""
    label = _read_gray(path)
    highest = int(label.max())
    if highest > classes:
        raise BenchError(
            f"{path} holds label {highest}, but the workload has {classes} classes",
            "mend the file, or name all classes in the workload's [data] classes",
        )
    return label


def _read_gray(path: Path) -> np.ndarray:
    """The values (H, W) of an 8-bit gray picture. BenchError: it is damaged, or something else."""
    look(path)  # opening a pipe would wait for ever
    with suppress(Exception):  # no narrower class comes; Pillow says what is wrong, or finds that it will do
        content = path.read_bytes()
        if size := _size_of_png(content, GRAY):
            label: np.ndarray = decode_image_png_u8(content, size, "mono")[:, :, 0]
            return label
    image, _ = _decode(path)
    if image.mode not in ("L", "P"):
        raise BenchError(
            f"{path} has mode {image.mode}, not 8-bit gray", "labels are 8-bit gray PNG: 0 other, 1.. classes"
        )
    if image.mode == "L" and (bits := _bits(path)) < 8:  # Pillow stretches them to 0 .. 255
        raise BenchError(
            f"{path} is {bits}-bit gray; labels are 8-bit", "save it as 8-bit gray PNG, values as they are"
        )
    return np.asarray(image)


def _size_of_png(content: bytes, kinds: Collection[bytes]) -> tuple[int, int] | None:
    """Height and width, where a header promises one of these depths and colours, and no more pixels than
    anyone has."""
    width, height = (int.from_bytes(content[place : place + 4], "big") for place in (16, 20))
    promised = content.startswith(PNG) and content[24:26] in kinds
    return (height, width) if promised and width * height <= (Image.MAX_IMAGE_PIXELS or 0) else None


def _check_sizes(label_path: Path, label: tuple[int, ...], picture: tuple[int, ...]) -> None:
    if label != picture:
        raise BenchError(
            f"{label_path} is {label[0]}x{label[1]}, its picture {picture[0]}x{picture[1]}",
            "mend or remove the pair",
        )


def fingerprint(folder: Path) -> str:
    """12 hex digits of the names and sizes of all pictures and labels. BenchError: one cannot be read, or
    there is none."""
    digest = hashlib.sha256()
    paths = [
        path
        for kind, endings in (("images", SUFFIXES), ("annotations", LABELS))
        for split in _list(folder / kind)
        for path in _list(split)
        if path.suffix.lower() in endings
    ]
    if not paths:
        raise BenchError(
            f"{folder} is not a data set in the ADE20K layout: there are no pictures in it",
            _elsewhere(folder),
        )
    for path in sorted(paths):
        digest.update(f"{path.relative_to(folder)} {look(path).st_size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:12]


def look(path: Path) -> os.stat_result:
    """What the disk says of a picture or label. BenchError: it is not there, or is a device or a pipe."""
    try:
        found = path.stat()
    except OSError as error:
        dangling = isinstance(error, FileNotFoundError) and path.is_symlink()
        reason = "it is a link to a file that is not there" if dangling else error.strerror
        raise BenchError(f"{path} cannot be read: {reason}", "mend it, or remove the pair") from error
    if not stat.S_ISREG(found.st_mode):
        raise BenchError(f"{path} cannot be read: it is not a regular file", "replace it, or remove the pair")
    return found


def find_pairs(folder: Path, split: str, leave_out: Collection[str] = ()) -> list[tuple[Path, Path]]:
    """(picture, label) paths of a split, sorted by name, without the pictures named in `leave_out`.

    BenchError: no such folder or nobody may look into it, no picture in it, or a picture without its label.
    """
    images, labels = folder / "images" / split, folder / "annotations" / split
    for path in (images, labels):
        if not os.path.isdir(path):
            _list(path)  # says so where it is only that nobody may look
            raise BenchError(
                f"{folder} is not a data set in the ADE20K layout: there is no {path}",
                _elsewhere(folder),
            )
    pictures = [path for path in find_pictures(folder, split) if path.stem not in leave_out]
    if not pictures:
        raise BenchError(f"{images} holds no pictures", _elsewhere(folder))
    named = {path.stem: path for path in _list(labels) if path.suffix.lower() in LABELS}
    lonely = [path for path in pictures if path.stem not in named]
    if lonely:
        raise BenchError(
            f"{lonely[0]} has no label {labels / lonely[0].stem}.png ({len(lonely)} in all)",
            "add the missing labels or remove the pictures",
        )
    twins = [(a, b) for a, b in pairwise(pictures) if a.stem == b.stem]
    if twins:
        raise BenchError(
            f"{twins[0][0]} and {twins[0][1].name} have one label between them", "remove one of the two"
        )
    return [(path, named[path.stem]) for path in pictures]


def find_pictures(folder: Path, split: str) -> list[Path]:
    """The pictures of a split, sorted by name, whether they have a label or not."""
    return sorted(path for path in _list(folder / "images" / split) if path.suffix.lower() in SUFFIXES)


def _list(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where it is none. BenchError: nobody may look."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise BenchError(
            f"cannot read {folder}: {error.strerror}",
            "see that the folder may be read and entered (chmod u+rx)",
        ) from error


def _elsewhere(folder: Path) -> str:
    """What to name instead: a folder further down if a data set is there, as archives are unpacked."""
    there = next((path.parent for path in sorted(folder.glob("*/images")) if os.path.isdir(path)), None)
    return f"name the folder that holds images/ and annotations/{f': {there}' if there else ''}"


def _decode(path: Path, draft: bool = False, header: bool = False) -> tuple[Image.Image, tuple[int, int]]:
    """The picture, and its size before a draft made it smaller; of the `header` only the size is good."""
    look(path)  # opening a pipe would wait for ever
    try:
        with Image.open(path) as image:
            size = image.size
            if draft:
                image.draft(None, (max(1, size[0] // 8), max(1, size[1] // 8)))
            if not header:
                image.load()
            if not image.mode.startswith(("I", "F")):
                return image, size
    # Pillow's words for damage, in a header that promises more pixels than anyone has, too
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        hint = "replace the file, or remove the pair"
        raise BenchError(f"{path} cannot be read as a picture: {error}", hint) from error
    # converting would clip them to 255, mostly to white
    raise BenchError(f"{path} has mode {image.mode}, not 8 bits a channel", "save it with 8 bits a channel")


def _bits(path: Path) -> int:
    """Bits a channel, as the header of a PNG has it; 8 for what is none."""
    with path.open("rb") as file:
        header = file.read(25)
    return header[24] if header.startswith(PNG) and len(header) == 25 else 8
