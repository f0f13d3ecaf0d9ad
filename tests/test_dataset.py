"""Data sets on disk: pairs, label values, and every kind of damage refused by the name of the file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import BenchError
from bench.dataset import IGNORE, Dataset, as_picture, check_pair, find_pairs, fingerprint

CLASSES = ("sky", "sea", "boat")
SIZE = (7, 5)  # width, height


def picture(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def label(value: int | None = None, size: tuple[int, int] = SIZE) -> Image.Image:
    """All of `value`, or 0 to 3 in turn."""
    values = [0, 1, 2, 3] if value is None else [value]
    return Image.fromarray(np.resize(np.array(values, np.uint8), size[::-1]))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three sound pairs, a JPEG in the middle."""
    for kind in ("images", "annotations"):
        (tmp_path / kind / "training").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "c.png"):
        picture().save(tmp_path / "images/training" / name)
        label().save(tmp_path / "annotations/training" / f"{name[0]}.png")
    return tmp_path


def opened(root: Path, in_memory: bool = False) -> Dataset:
    return Dataset(root, "training", CLASSES, in_memory)


def both(root: Path, name: str) -> tuple[Path, Path]:
    """Paths of picture and label of a PNG pair."""
    return root / "images/training" / f"{name}.png", root / "annotations/training" / f"{name}.png"


# What is read


def test_pairs_come_sorted_by_name_and_other_files_are_left_alone(root: Path) -> None:
    (root / "images/training/notes.txt").write_text("not a picture")
    (root / "annotations/training/z.png").write_bytes(b"a label without a picture is no harm")
    names = [(image.name, label.name) for image, label in find_pairs(root, "training")]
    assert names == [("a.png", "a.png"), ("b.jpg", "b.png"), ("c.png", "c.png")]
    dataset = opened(root)
    assert (len(dataset), [dataset.name(index) for index in range(3)]) == (3, ["a", "b", "c"])


def test_endings_may_be_written_large(root: Path) -> None:
    for path in both(root, "a"):
        path.rename(path.with_suffix(".PNG"))
    assert len(find_pairs(root, "training")) == 3


@pytest.mark.parametrize("in_memory", [False, True])
def test_other_becomes_ignored_and_the_classes_count_from_zero(root: Path, in_memory: bool) -> None:
    image, numbers = opened(root, in_memory).pair(0)
    assert (image.dtype, numbers.dtype) == (np.uint8, np.uint8)
    assert (image.shape, numbers.shape) == ((*SIZE[::-1], 4), SIZE[::-1])
    assert np.array_equal(image[..., :3], np.asarray(picture()))
    stored = np.asarray(label())
    assert np.array_equal(numbers, np.where(stored == 0, IGNORE, stored.astype(int) - 1))


def test_a_data_set_in_memory_outlives_its_files(root: Path) -> None:
    dataset = opened(root, in_memory=True)
    before = [np.asarray(dataset.pair(index)[0]) for index in range(3)]
    for path in root.rglob("*.*"):
        path.unlink()
    assert all(np.array_equal(np.asarray(dataset.pair(index)[0]), before[index]) for index in range(3))


def test_labels_with_a_palette_are_read_by_their_numbers_not_their_colours(root: Path) -> None:
    colourful = label()
    colourful.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9])
    assert colourful.mode == "P"
    colourful.save(both(root, "a")[1])
    dataset = opened(root)
    assert np.array_equal(np.asarray(dataset.pair(0)[1]), np.asarray(dataset.pair(2)[1]))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_pictures_of_any_8_bit_mode_become_rgb(root: Path, mode: str) -> None:
    path = both(root, "a")[0]
    if mode == "CMYK":
        path.unlink()
        path = path.with_suffix(".jpg")
    picture(mode).save(path)
    with Image.open(path) as image:
        assert np.array_equal(opened(root).pair(0)[0][..., :3], np.asarray(image.convert("RGB")))


def test_a_gray_picture_has_three_equal_channels(root: Path) -> None:
    picture("L").save(both(root, "a")[0])
    red, green, blue, _ = np.moveaxis(opened(root).pair(0)[0], -1, 0)
    assert red.tobytes() == green.tobytes() == blue.tobytes() == picture("L").tobytes()


@pytest.mark.parametrize("value", [0, 1, 3])
def test_the_highest_label_and_labels_of_one_value_are_fine(root: Path, value: int) -> None:
    label(value).save(both(root, "a")[1])
    assert set(np.unique(np.asarray(opened(root).pair(0)[1]))) == {(value - 1) % 256}


def test_pictures_named_to_be_left_out_are_not_there(root: Path) -> None:
    dataset = Dataset(root, "training", CLASSES, in_memory=False, leave_out=["b", "never was"])
    assert [dataset.name(index) for index in range(len(dataset))] == ["a", "c"]


def test_labels_with_a_palette_may_have_fewer_bits(root: Path) -> None:
    colourful = label()
    colourful.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9])
    colourful.save(both(root, "a")[1])
    assert both(root, "a")[1].read_bytes()[24] == 2
    assert np.array_equal(np.asarray(opened(root).pair(0)[1]), np.asarray(opened(root).pair(2)[1]))


def test_what_pillow_makes_of_4_bits_would_pass_for_labels(root: Path) -> None:
    few_bits(both(root, "a")[1], 4)
    with Image.open(both(root, "a")[1]) as image:
        assert (image.mode, set(np.unique(np.asarray(image)))) == ("L", {17})
    with pytest.raises(BenchError, match="is 4-bit gray"):
        check_pair(*both(root, "a"), classes=150)


def test_a_draft_of_a_pair_is_judged_by_the_size_that_is_stored(root: Path) -> None:
    picture(size=(64, 40)).save(root / "images/training/b.jpg")
    label(size=(64, 40)).save(root / "annotations/training/b.png")
    check_pair(root / "images/training/b.jpg", root / "annotations/training/b.png", len(CLASSES))


def smooth(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Soft colours, as photographs have them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(97, 65), (8, 8), (1, 1), (17, 300), (640, 31)])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 20, "restart_marker_rows": 1}])
def test_a_jpeg_is_decoded_to_the_pixels_of_pillow(
    root: Path, size: tuple[int, int], subsampling: str, options: dict[str, Any]
) -> None:
    path = root / "images/training/b.jpg"
    smooth(size).save(path, subsampling=subsampling, **options)
    label(size=size).save(root / "annotations/training/b.png")
    with Image.open(path) as image:
        assert np.array_equal(opened(root).pair(1)[0][..., :3], np.asarray(image))


@pytest.mark.parametrize("size", [(97, 65), (1, 1), (17, 300)])
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"compress_level": 0}),
        ("RGB", {"transparency": (9, 9, 9)}),
        ("RGBA", {}),
        ("P", {}),
        ("L", {}),
    ],
)
def test_a_png_is_decoded_to_the_pixels_of_pillow(
    root: Path, size: tuple[int, int], mode: str, options: dict[str, Any]
) -> None:
    path = both(root, "a")[0]
    smooth(size).convert(mode).save(path, **options)
    label(size=size).save(both(root, "a")[1])
    with Image.open(path) as image:
        assert np.array_equal(opened(root).pair(0)[0], np.asarray(image.convert("RGB").convert("RGBX")))


def test_common_files_are_decoded_without_pillow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes twice as long, and would hide that the faster libraries no longer do it."""
    smooth(SIZE).save(both(root, "a")[0])
    smooth(SIZE).save(root / "images/training/b.jpg")
    monkeypatch.setattr("bench.dataset._decode", lambda *_, **__: pytest.fail("Pillow was asked"))
    for index in range(2):
        opened(root).pair(index)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_not_turned_by_what_a_camera_notes_in_it(root: Path, orientation: int) -> None:
    """Its label was drawn on the pixels as they are stored."""
    path = root / "images/training/b.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth((40, 24)).save(path, exif=exif)
    label(size=(40, 24)).save(root / "annotations/training/b.png")
    with Image.open(path) as image:
        assert np.array_equal(opened(root).pair(1)[0][..., :3], np.asarray(image))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_jpeg_in_gray_or_four_inks_is_read_as_pillow_reads_it(root: Path, mode: str) -> None:
    path = root / "images/training/b.jpg"
    smooth(SIZE).convert(mode).save(path)
    with Image.open(path) as image:
        assert np.array_equal(opened(root).pair(1)[0][..., :3], np.asarray(image.convert("RGB")))


def test_a_jpeg_with_a_harmless_fault_is_read_as_pillow_reads_it(root: Path) -> None:
    """Bytes before a marker that do not belong there: libjpeg warns, and goes on."""
    path = root / "images/training/b.jpg"
    smooth(SIZE).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b"\0\0\0" + content[-2:])
    with Image.open(path) as image:
        assert np.array_equal(opened(root).pair(1)[0][..., :3], np.asarray(image))


def test_a_picture_with_a_wrong_ending_is_read_all_the_same(root: Path) -> None:
    picture().save(root / "images/training/b.jpg", "PNG")
    assert np.array_equal(opened(root).pair(1)[0][..., :3], np.asarray(picture()))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("rows", [slice(None), slice(2, 7), slice(0, 8, 2)])
def test_pillow_sees_an_array_without_copying_it(mode: str, rows: slice) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 4) if mode == "CMYK" else (9, 12), np.uint8)
    part = pixels[rows, 3:9] if rows.step is None and rows.stop else pixels[rows]
    seen = as_picture(part, mode)
    assert np.array_equal(np.asarray(seen), part)
    part[0, 0] = 7
    assert np.all(np.asarray(seen)[0, 0] == 7)


# What is refused: (what is done to the pair, words of the error, which of the two it names)


def cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def broken_chunk(path: Path) -> None:
    """Damage that PIL reports as SyntaxError: a chunk with an impossible name before the pixels."""
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") : content.index(b"IDAT") + 4] = b"<\x00?>"
    path.write_bytes(bytes(content))


def short_header(path: Path) -> None:
    """Damage that PIL reports as ValueError: a header chunk that says it is shorter than it must be."""
    content = bytearray(path.read_bytes())
    content[8:12] = (5).to_bytes(4, "big")
    path.write_bytes(bytes(content))


def relink(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def few_bits(path: Path, bits: int) -> None:
    """A gray PNG of ones, `bits` a pixel: Pillow writes none with 2 or 4."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
        )

    width, height = SIZE
    row = int(f"{1:0{bits}b}" * (8 // bits), 2).to_bytes(1, "big") * -(-width * bits // 8)
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, 0, 0, 0, 0])
    pixels = zlib.compress((b"\0" + row) * height)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def repipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: dict[str, tuple[Callable[[Path, Path], object], str, int]] = {
    "picture cut off": (lambda image, label: cut(image), "cannot be read", 0),
    "label cut off": (lambda image, label: cut(label), "cannot be read", 1),
    "picture empty": (lambda image, label: image.write_bytes(b""), "cannot be read", 0),
    "picture of text": (lambda image, label: image.write_text("<html>"), "cannot be read", 0),
    "picture with a broken chunk": (lambda image, label: broken_chunk(image), "cannot be read", 0),
    "label with a broken chunk": (lambda image, label: broken_chunk(label), "cannot be read", 1),
    "picture with a short header": (lambda image, label: short_header(image), "cannot be read", 0),
    "picture gone": (lambda image, label: image.unlink(), "cannot be read", 0),
    "label gone": (lambda image, label: label.unlink(), "cannot be read", 1),
    "picture a link to nothing": (lambda image, label: relink(image), "cannot be read: it is a link to a", 0),
    "label a link to nothing": (lambda image, label: relink(label), "cannot be read: it is a link to a", 1),
    "picture a pipe": (lambda image, label: repipe(image), "cannot be read: it is not a regular file", 0),
    "label a pipe": (lambda image, label: repipe(label), "cannot be read: it is not a regular file", 1),
    "label in colour": (lambda image, label: picture().save(label), "has mode RGB", 1),
    "label with 16 bits": (
        lambda image, label: Image.fromarray(np.ones(SIZE[::-1], np.uint16)).save(label),
        "has mode I;16",
        1,
    ),
    "label with alpha": (lambda image, label: picture("LA").save(label), "has mode LA", 1),
    "label with one bit": (lambda image, label: picture("1").save(label), "has mode 1", 1),
    "label with 4 bits": (lambda image, label: few_bits(label, 4), "is 4-bit gray; labels are 8-bit", 1),
    "label with 2 bits": (lambda image, label: few_bits(label, 2), "is 2-bit gray; labels are 8-bit", 1),
    "picture with 16 bits": (
        lambda image, label: Image.fromarray(np.full(SIZE[::-1], 999, np.uint16)).save(image),
        "has mode I;16",
        0,
    ),
    "label larger": (
        lambda image, path: label(size=(SIZE[0] + 1, SIZE[1])).save(path),
        "is 8x5, its picture 7x5",
        1,
    ),
    "label turned": (lambda image, path: label(size=SIZE[::-1]).save(path), "is 5x7, its picture 7x5", 1),
    "label too high": (lambda image, path: label(4).save(path), "holds label 4, but .* has 3 classes", 1),
    "ignored written as 255": (lambda image, path: label(255).save(path), "holds label 255", 1),
}


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused_by_the_name_of_the_file(root: Path, kind: str, in_memory: bool) -> None:
    damage, words, which = DAMAGE[kind]
    paths = both(root, "c")
    sound = Dataset(root, "training", CLASSES, in_memory=False)  # finds the pairs before one is damaged
    damage(*paths)
    with pytest.raises(BenchError, match=f"{paths[which]} {words}") as caught:
        opened(root, in_memory=True) if in_memory and all(path.exists() for path in paths) else sound.pair(2)
    assert caught.value.hint
    assert sound.pair(0)


@pytest.mark.parametrize("draft", [False, True])
def test_every_cut_of_a_jpeg_is_refused(root: Path, draft: bool) -> None:
    path = root / "images/training/b.jpg"
    picture(size=(64, 64)).save(path)
    label(size=(64, 64)).save(root / "annotations/training/b.png")
    whole, labels = path.read_bytes(), root / "annotations/training/b.png"
    for length in range(0, len(whole) - 16, 53):
        path.write_bytes(whole[:length])
        with pytest.raises(BenchError, match=f"{path} cannot be read"):
            check_pair(path, labels, len(CLASSES)) if draft else opened(root).pair(1)


def test_random_damage_to_a_png_is_read_or_refused_but_never_a_crash(root: Path) -> None:
    path, rng, refused = both(root, "a")[0], np.random.default_rng(0), 0
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    for _ in range(150):
        content = bytearray(buffer.getvalue())
        for place in rng.integers(8, len(content), 3):
            content[place] = rng.integers(256)
        path.write_bytes(bytes(content))
        with contextlib.suppress(BenchError):
            opened(root).pair(0)
            refused -= 1
        refused += 1
    assert refused > 130


def test_a_picture_without_a_label_is_refused_with_the_number_of_such(root: Path) -> None:
    for name in "ac":
        both(root, name)[1].unlink()
    with pytest.raises(BenchError, match=r"images/training/a.png has no label .*a.png \(2 in all\)"):
        opened(root)


@pytest.mark.parametrize("missing", ["images", "annotations"])
def test_a_folder_in_another_layout_is_refused(root: Path, missing: str) -> None:
    (root / missing).rename(root / "elsewhere")
    with pytest.raises(BenchError, match=f"there is no {root / missing / 'training'}") as caught:
        opened(root)
    assert "images/ and annotations/" in caught.value.hint


def test_a_split_without_pictures_is_refused(root: Path) -> None:
    for path in (root / "images/training").iterdir():
        path.unlink()
    with pytest.raises(BenchError, match="holds no pictures"):
        opened(root)


def test_two_pictures_of_one_name_are_refused(root: Path) -> None:
    picture().save(root / "images/training/a.jpg")
    with pytest.raises(BenchError, match=r"images/training/a.jpg and a.png have one label between them"):
        opened(root)


def test_a_data_set_further_down_is_pointed_at(root: Path) -> None:
    root.rename(root.parent / "ADEChallengeData2016")
    with pytest.raises(BenchError) as caught:
        opened(root.parent)
    assert caught.value.hint.endswith(str(root.parent / "ADEChallengeData2016"))


def test_a_header_that_promises_billions_of_pixels_is_damage(root: Path) -> None:
    path = both(root, "a")[0]
    content = bytearray(path.read_bytes())
    content[16:24] = (100_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(bytes(content))
    with pytest.raises(BenchError, match=f"{path} cannot be read as a picture"):
        opened(root).pair(0)


# What cannot be looked at


def shut(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Nobody may look into the folder; the tests may run as root, who may look anywhere."""
    iterdir = Path.iterdir

    def refuse(path: Path) -> Iterator[Path]:
        if path == folder:
            raise PermissionError(errno.EACCES, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)


@pytest.mark.parametrize("kind", ["images", "annotations"])
def test_a_folder_that_nobody_may_look_into_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    shut(monkeypatch, root / kind / "training")
    for refuse in (lambda: find_pairs(root, "training"), lambda: fingerprint(root)):
        with pytest.raises(BenchError, match=f"cannot read {root}/{kind}/training: Permission denied"):
            refuse()


def test_a_folder_behind_one_that_nobody_may_enter_is_not_said_to_be_absent(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut(monkeypatch, root / "images/training")
    monkeypatch.setattr(os.path, "isdir", lambda _: False)
    with pytest.raises(BenchError, match="cannot read .*training: Permission denied"):
        find_pairs(root, "training")


# The fingerprint


def test_a_fingerprint_is_of_names_and_sizes_in_order(root: Path) -> None:
    """As committed records hold it: this must never change."""
    sizes = {path: path.stat().st_size for path in root.glob("*/*/*")}
    text = "".join(f"{path.relative_to(root)} {sizes[path]}\n" for path in sorted(sizes))
    assert text.splitlines()[0].startswith("annotations/training/a.png ")
    assert fingerprint(root) == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_a_folder_without_pictures_has_no_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "ade" / "images").mkdir(parents=True)
    with pytest.raises(BenchError, match="is not a data set in the ADE20K layout: there are no") as caught:
        fingerprint(tmp_path)
    assert caught.value.hint == f"name the folder that holds images/ and annotations/: {tmp_path / 'ade'}"


@pytest.mark.parametrize("place", ["images/training", "images", "annotations/training", "annotations"])
def test_what_is_no_picture_and_no_label_changes_no_fingerprint(root: Path, place: str) -> None:
    before = fingerprint(root)
    for name in (".DS_Store", "Thumbs.db", "notes.txt"):
        (root / place / name).write_bytes(b"left by something else")
    (root / place / "gone.txt").symlink_to("nowhere")
    (root / place / "below").mkdir()
    assert fingerprint(root) == before
    assert len(find_pairs(root, "training")) == 3


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("spoil", [relink, repipe])
def test_a_fingerprint_of_what_cannot_be_read_is_refused(
    root: Path, spoil: Callable[[Path], None], which: int
) -> None:
    path = both(root, "a")[which]
    spoil(path)
    with pytest.raises(BenchError, match=f"{path} cannot be read: it is "):
        fingerprint(root)
