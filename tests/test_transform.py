"""The transform: geometry against plain PIL, colour against torchvision, and the promises at the edges."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from bench.dataset import IGNORE
from bench.streams import AUGMENT, stream
from bench.transform import DRAWS, FILL, MEAN, STD, color, crop_sample, normalise

SIZES = [(97, 61), (61, 97), (40, 40), (33, 150)]  # width, height


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


PLACES = {"scale": np.s_[0], "flip": np.s_[1], "y": np.s_[2:22:2], "x": np.s_[3:22:2]}


def draws(index: int = 0, **fixed: float) -> np.ndarray:
    """A row of uniforms; `scale`, `flip`, `y` and `x` (of all tries) may be set."""
    row = stream(1, AUGMENT, 0, index).random(DRAWS)
    for name, value in fixed.items():
        row[PLACES[name]] = value
    return row


def blocks(size: tuple[int, int], classes: int, seed: int = 0, side: int = 8) -> np.ndarray:
    """A label (H, W) of random blocks: class numbers and `IGNORE`."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(-1, classes, (-(-size[1] // side), -(-size[0] // side))).astype(np.uint8)
    return coarse.repeat(side, 0).repeat(side, 1)[: size[1], : size[0]]


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def ramp(size: tuple[int, int]) -> Image.Image:
    """Red says how far to the right a pixel lies, green how far down, in 255ths."""
    x, y = ((np.arange(length) + 0.5) / length * 255 for length in size)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = x[None].round(), y[:, None].round()
    return Image.fromarray(pixels)


def crop(
    image: Image.Image, label: np.ndarray, size: int, row: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Pixels, label, first row and column of the picture, and its extent."""
    out, out_label = np.full((size, size, 3), 77, np.uint8), np.full((size, size), 77, np.uint8)
    first, extent = crop_sample(image, Image.fromarray(label), size, row, out, out_label)
    return out, out_label, first, extent


def mixed(window: np.ndarray) -> bool:
    counts = np.unique(window[window != IGNORE], return_counts=True)[1]
    return bool(len(counts)) and counts.max() / counts.sum() < 0.75


def slowly(
    image: Image.Image, label: np.ndarray, size: int, row: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same by resizing all of both pictures, cutting, mirroring and padding."""
    side = int(np.round(size * (0.5 + 1.5 * row[0])))
    pixels = np.array(image.resize((side, side), Image.Resampling.BILINEAR))
    numbers = np.array(Image.fromarray(label).resize((side, side), Image.Resampling.NEAREST))
    room, extent = max(0, side - size) + 1, min(side, size)
    for y, x in row[2:22].reshape(10, 2):
        top, left = int(y * room), int(x * room)
        window = np.s_[top : top + extent, left : left + extent]
        if mixed(numbers[window]):
            break
    pixels, numbers = pixels[window], numbers[window]
    if row[1] < 0.5:
        pixels, numbers = pixels[:, ::-1], numbers[:, ::-1]
    before = (size - extent) // 2
    around = ((before, size - extent - before),) * 2
    padded = [np.pad(pixels[..., c], around, constant_values=FILL[c]) for c in range(3)]
    return np.stack(padded, -1), np.pad(numbers, around, constant_values=IGNORE)


# Geometry


@pytest.mark.parametrize("crop_size", [24, 37])
@pytest.mark.parametrize("size", SIZES)
def test_resizing_only_the_window_equals_resizing_everything(size: tuple[int, int], crop_size: int) -> None:
    image, label = noise(size), blocks(size, 5)
    for index in range(12):
        row = draws(index)
        pixels, numbers, *_ = crop(image, label, crop_size, row)
        expected, expected_numbers = slowly(image, label, crop_size, row)
        difference = np.abs(pixels.astype(int) - expected)  # PIL rounds filters and both passes to integers
        assert difference.max() <= 2
        assert (difference > 1).mean() < 0.002
        assert (numbers != expected_numbers).mean() < 0.002  # a centre between two pixels may go either way


@pytest.mark.parametrize("size", [(96, 60), (60, 96), (48, 48), (36, 144)])
def test_picture_and_label_stay_aligned_through_crop_flip_and_padding(size: tuple[int, int]) -> None:
    label = blocks(size, 5, side=12)
    colours = np.random.default_rng(1).integers(0, 256, (256, 3), np.uint8)
    colours[IGNORE] = FILL
    for index in range(12):
        pixels, numbers, *_ = crop(Image.fromarray(colours[label]), label, 32, draws(index))
        around = np.lib.stride_tricks.sliding_window_view(numbers, (5, 5))
        calm = (around == numbers[2:-2, 2:-2, None, None]).all((2, 3))  # no border of blocks nearby
        assert calm.mean() > 0.05
        assert np.abs(pixels[2:-2, 2:-2].astype(int) - colours[numbers[2:-2, 2:-2]])[calm].max() <= 1


@pytest.mark.parametrize("u", [0.0, 0.1, 0.2, 1 / 3, 0.34, 0.6, 0.999999])
@pytest.mark.parametrize("size", SIZES)
def test_the_scale_runs_evenly_from_a_half_to_two_and_squashes(size: tuple[int, int], u: float) -> None:
    pixels, _, first, extent = crop(ramp(size), blocks(size, 9), 40, draws(scale=u, y=0.5, x=0.5, flip=0.9))
    scale = 0.5 + 1.5 * u
    assert extent == min(round(40 * scale), 40)
    assert first == (40 - extent) // 2
    seen = pixels[first : first + extent, first : first + extent]
    span = 255 * min(1, 1 / scale)  # from edge to edge, less half a pixel on both sides
    for channel, axis in ((0, 1), (1, 0)):
        line = seen[..., channel].mean(1 - axis)
        assert line[-1] - line[0] == pytest.approx(span * (1 - 1 / extent), abs=5)


@pytest.mark.parametrize(("u", "position"), [(1e-6, 0.0), (0.5, 0.5), (1 - 1e-6, 1.0)])
def test_the_window_lies_anywhere_from_edge_to_edge(u: float, position: float) -> None:
    size = (128, 128)
    pixels = crop(ramp(size), blocks(size, 9), 64, draws(scale=1 - 1e-9, y=u, x=1 - u, flip=0.9))[0]
    centre = pixels.astype(float).mean((0, 1))
    assert centre[1] == pytest.approx(255 * (0.25 + position / 2), abs=2)
    assert centre[0] == pytest.approx(255 * (0.75 - position / 2), abs=2)


def test_half_of_the_samples_are_mirrored() -> None:
    size, mirrored = (32, 32), 0
    for index in range(1000):
        pixels = crop(ramp(size), blocks(size, 3), 16, draws(index, scale=1 / 3))[0].astype(int)
        mirrored += pixels[8, 0, 0] > pixels[8, -1, 0]
        assert pixels[0, 8, 1] < pixels[-1, 8, 1]  # never upside down
    assert 450 < mirrored < 550


@pytest.mark.parametrize(("extent", "before", "after"), [(20, 10, 10), (31, 4, 5), (39, 0, 1), (40, 0, 0)])
def test_what_is_smaller_than_the_crop_is_centred(extent: int, before: int, after: int) -> None:
    u = (extent / 40 - 0.5) / 1.5
    image = Image.new("RGB", (50, 30), (1, 2, 3))
    pixels, numbers, first, found = crop(image, np.zeros((30, 50), np.uint8), 40, draws(scale=u))
    assert (first, found) == (before, extent)
    inside = np.zeros((40, 40), bool)
    inside[before : 40 - after, before : 40 - after] = True
    assert (pixels[inside] == (1, 2, 3)).all()
    assert (pixels[~inside] == FILL).all()
    assert np.array_equal(numbers == 0, inside)
    assert (numbers[~inside] == IGNORE).all()


def test_a_window_is_mixed_whenever_one_of_ten_tries_is() -> None:
    label = np.zeros((80, 80), np.uint8)
    label[:, 66:] = 1
    outcomes = []
    for index in range(100):
        row = draws(index, scale=0.9)
        side = round(32 * (0.5 + 1.5 * 0.9))
        full = np.array(Image.fromarray(label).resize((side, side), Image.Resampling.NEAREST))
        starts = [(int(y * (side - 31)), int(x * (side - 31))) for y, x in row[2:22].reshape(10, 2)]
        tries = [mixed(full[y : y + 32, x : x + 32]) for y, x in starts]
        got = crop(noise((80, 80)), label, 32, row)[1]
        assert mixed(got) == any(tries)
        outcomes.append((tries[0], any(tries)))
    assert set(outcomes) == {(True, True), (False, True), (False, False)}


def first_and_last() -> np.ndarray:
    """Ten tries, of which only the first lies at the top and only the last at the bottom."""
    row = draws(scale=1 - 1e-9, y=0.5, x=0.5, flip=0.9)
    row[2], row[20] = 0, 1 - 1e-9
    return row


@pytest.mark.parametrize(
    ("columns", "taken"),
    [
        ([0, 1], "first"),
        ([0] + 7 * [IGNORE] + [1] + 7 * [IGNORE], "first"),
        ([0, 1, 1, 1], "last"),
        ([3, IGNORE], "last"),
        ([3], "last"),
        ([IGNORE], "last"),
    ],
    ids=["mixed", "mixed, mostly other", "three quarters", "one class and other", "one class", "all other"],
)
def test_other_does_not_count_when_a_window_is_judged(columns: list[int], taken: str) -> None:
    label = np.resize(np.array(columns, np.uint8), (64, 64))
    pixels = crop(ramp((64, 64)), label, 32, first_and_last())[0]
    assert pixels[..., 1].mean() == pytest.approx({"first": 64, "last": 191}[taken], abs=3)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (300, 2), (32, 32)])
@pytest.mark.parametrize("u", [0.0, 0.5, 0.999999])
def test_a_picture_of_any_shape_fills_the_crop(size: tuple[int, int], u: float) -> None:
    gray, label = Image.new("RGB", size, (9, 9, 9)), np.zeros(size[::-1], np.uint8)
    pixels, numbers, *_ = crop(gray, label, 32, draws(scale=u, x=u, y=u))
    assert ((pixels == 9).all(-1) == (numbers == 0)).all()
    assert (numbers == 0).sum() == min(32, round(32 * (0.5 + 1.5 * u))) ** 2


def test_the_sources_are_left_alone() -> None:
    image, label = noise((50, 40)), Image.fromarray(blocks((50, 40), 3))
    before = image.tobytes(), label.tobytes()
    out, out_label = np.empty((24, 24, 3), np.uint8), np.empty((24, 24), np.uint8)
    crop_sample(image, label, 24, draws(), out, out_label)
    assert (image.tobytes(), label.tobytes()) == before


# Colour

STEPS = ("brightness", "contrast", "saturation", "hue")
SPREAD = {"brightness": 32 / 255, "contrast": 0.5, "saturation": 0.5, "hue": 18 / 255}
ADJUST: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": lambda x, change: reference.adjust_brightness(x, 1 + change),
    "contrast": lambda x, change: reference.adjust_contrast(x, 1 + change),
    "saturation": lambda x, change: reference.adjust_saturation(x, 1 + change),
    "hue": lambda x, change: reference.adjust_hue(x, change),
}
WHOLE = torch.tensor([[0, 20]])


def pictures(count: int = 1, size: int = 20) -> Tensor:
    """Noise, with gray, black, white and pure pixels among it."""
    pixels = np.random.default_rng(2).integers(0, 256, (count, 3, size, size), np.uint8)
    pixels[..., 0, :4] = np.array([[0, 255, 128, 255], [0, 255, 128, 0], [0, 255, 128, 0]], np.uint8)
    return torch.from_numpy(pixels)


def uniforms(late: bool = False, **strengths: float) -> Tensor:
    """Draws that apply the named steps with the given strengths in -1..1, and no others."""
    coins = [0.2 if name in strengths else 0.7 for name in STEPS]
    values = [(strengths.get(name, 0.9) + 1) / 2 for name in STEPS]
    pairs = [number for pair in zip(coins, values, strict=True) for number in pair]
    return torch.tensor([[*pairs, 0.2 if late else 0.7]])


def plain(x: Tensor) -> Tensor:
    """Values in 0..1, normalised by hand."""
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.mark.parametrize("late", [False, True])
def test_without_a_step_colour_only_normalises(late: bool) -> None:
    images = pictures(3)
    done = color(images, uniforms(late).expand(3, 9), WHOLE.expand(3, 2))
    assert torch.equal(done, normalise(images))
    assert torch.allclose(done, plain(images / 255), atol=1e-6)


@pytest.mark.parametrize("strength", [-1.0, -0.4, 0.3, 1.0])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_torchvisions(name: str, late: bool, strength: float) -> None:
    images = pictures()
    expected = ADJUST[name](images / 255, strength * SPREAD[name])
    done = color(images, uniforms(late, **{name: strength}), WHOLE)
    assert not torch.allclose(done, normalise(images), atol=1e-2)
    assert torch.allclose(done, plain(expected), atol=2e-3)


@pytest.mark.parametrize("late", [False, True])
def test_contrast_comes_before_saturation_and_hue_or_after_them(late: bool) -> None:
    images = pictures()
    strengths = {"brightness": 0.9, "contrast": 0.95, "saturation": 0.9, "hue": -0.8}
    order = ("brightness", "saturation", "hue", "contrast") if late else STEPS
    expected = images / 255
    for name in order:
        expected = ADJUST[name](expected, strengths[name] * SPREAD[name])
    done, other = (color(images, uniforms(choice, **strengths), WHOLE) for choice in (late, not late))
    assert torch.allclose(done, plain(expected), atol=2e-3)
    assert not torch.allclose(other, plain(expected), atol=2e-3)


def test_each_picture_of_a_batch_has_its_own_changes() -> None:
    images = pictures(6)
    rows = torch.from_numpy(np.random.default_rng(3).random((6, 9), np.float32))
    together = color(images, rows, WHOLE.expand(6, 2))
    for index in range(6):
        alone = color(images[index : index + 1], rows[index : index + 1], WHOLE)
        assert torch.allclose(together[index], alone[0], atol=1e-5)


@pytest.mark.parametrize(("first", "extent"), [(0, 20), (5, 10), (4, 11), (9, 1)])
def test_padding_is_untouched_and_does_not_touch_the_picture(first: int, extent: int) -> None:
    images = torch.tensor(FILL, dtype=torch.uint8).view(1, 3, 1, 1).repeat(1, 1, 20, 20)
    inside = (..., slice(first, first + extent), slice(first, first + extent))
    images[inside] = pictures(size=max(4, extent))[..., :extent, :extent]
    strengths = {"brightness": -0.9, "contrast": 0.8, "saturation": -0.7, "hue": 0.6}
    done = color(images, uniforms(late=True, **strengths), torch.tensor([[first, extent]]))
    expected = images[inside] / 255
    for name in ("brightness", "saturation", "hue", "contrast"):
        expected = ADJUST[name](expected, strengths[name] * SPREAD[name])
    assert torch.allclose(done[inside], plain(expected), atol=2e-3)
    outside = torch.ones(20, 20, dtype=torch.bool)
    outside[inside[1:]] = False
    fill = normalise(torch.tensor(FILL, dtype=torch.uint8).view(1, 3, 1, 1)).view(1, 3, 1)
    assert torch.equal(done[..., outside], fill.expand(1, 3, int(outside.sum())))


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_picture_of_one_gray_gives_finite_numbers(value: int) -> None:
    images = torch.full((1, 3, 20, 20), value, dtype=torch.uint8)
    done = color(images, uniforms(brightness=1, contrast=1, saturation=1, hue=1), WHOLE)
    assert done.isfinite().all()
    assert (done.amax((2, 3)) - done.amin((2, 3))).max() < 1e-5


def test_the_pictures_given_are_left_alone() -> None:
    images = pictures()
    before = images.clone()
    color(images, uniforms(brightness=1, hue=1), WHOLE)
    normalise(images)
    assert torch.equal(images, before)


def test_half_of_the_samples_get_each_step_and_half_of_them_contrast_late() -> None:
    rows = torch.tensor(np.stack([draws(index)[-9:] for index in range(600)]), dtype=torch.float32)
    changed = dict.fromkeys(STEPS, 0)
    images = pictures(1, 4)
    for row in rows[:200]:
        for place, name in enumerate(STEPS):
            only = uniforms()
            only[0, 2 * place : 2 * place + 2] = row[2 * place : 2 * place + 2]
            changed[name] += not torch.equal(color(images, only, torch.tensor([[0, 4]])), normalise(images))
    assert all(75 < count < 125 for count in changed.values())
    assert 260 < int((rows[:, 8] < 0.5).sum()) < 340
