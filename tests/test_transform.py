"""The transform: geometry against plain PIL, colour against torchvision, the promises at the edges, and the
distributions of everything that is drawn, measured on the pixels that come out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.colors import rgb_to_hsv
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from bench import transform
from bench.dataset import IGNORE
from bench.streams import AUGMENT, stream
from bench.transform import DRAWS, FILL, MEAN, STD, crop_sample, is_mixed, mirror, normalise, see

SIZES = [(97, 61), (61, 97), (40, 40), (33, 150)]  # width, height


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


PLACES = {"scale": np.s_[0], "flip": np.s_[1], "y": np.s_[2:22:2], "x": np.s_[3:22:2]}


def draws(index: int = 0, epoch: int = 0, seed: int = 1, **fixed: float) -> np.ndarray:
    """A row of uniforms; `scale`, `flip`, `y` and `x` (of all tries) may be set."""
    row = stream(seed, AUGMENT, epoch, index).random(DRAWS)
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


def cut(
    image: Image.Image, label: np.ndarray, size: int, row: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Pixels of four bytes and label, not yet mirrored, and their row of places."""
    out, out_label = np.full((size, size, 4), 77, np.uint8), np.full((size, size), 77, np.uint8)
    place = crop_sample(*see(np.asarray(image.convert("RGBX")), label), size, row, out, out_label)
    return out, out_label, torch.tensor([place])


def crop(
    image: Image.Image, label: np.ndarray, size: int, row: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Pixels, label, first row and column of the picture, and its extent."""
    out, out_label, places = cut(image, label, size, row)
    words, numbers = torch.from_numpy(out).view(torch.int32), torch.from_numpy(out_label)
    pixels = mirror(words.view(1, size, size), places[:, 2]).view(size, size, 1).view(torch.uint8)
    first, extent, _ = places[0].tolist()
    return pixels.numpy()[..., :3], mirror(numbers[None], places[:, 2])[0].numpy(), first, extent


def color(images: Tensor, uniforms: Tensor, places: Tensor) -> Tensor:
    """The colour half on pictures (N, 3, S, S)."""
    pixels = torch.full((len(images), *images.shape[2:], 4), 77, dtype=torch.uint8)
    pixels[..., :3] = images.permute(0, 2, 3, 1)
    return transform.color(pixels, uniforms, places)


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


@pytest.mark.parametrize("other", [0, 24, 1000])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_window_is_refused_from_three_quarters_of_one_class_on(other: int, more: int) -> None:
    """To the pixel: other is taken off first; exactly three quarters is too much, as in mmsegmentation."""
    window = np.ones(32 * 32, np.uint8)
    window[:other] = IGNORE
    window[other : other + 3 * (32 * 32 - other) // 4 + more] = 0
    label = np.zeros((64, 64), np.uint8)
    label[:32, 16:48] = np.random.default_rng(0).permutation(window).reshape(32, 32)
    pixels = crop(ramp((64, 64)), label, 32, first_and_last())[0]
    assert pixels[..., 1].mean() == pytest.approx(64 if more < 0 else 191, abs=3)


def test_ten_windows_are_tried_each_with_its_chance() -> None:
    """The share of mixed samples is 1 - (1 - p)^10, with p the share of mixed ones among all windows."""
    label = np.zeros((64, 64), np.uint8)
    label[:, 53:] = 1
    windows = np.lib.stride_tricks.sliding_window_view(label[0], 32)
    chance = np.mean([mixed(window) for window in windows])
    image = noise((64, 64))
    found = sum(mixed(crop(image, label, 32, draws(index, scale=1 - 1e-9))[1]) for index in range(4000))
    assert 0.05 < chance < 0.15
    assert stats.binomtest(found, 4000, 1 - (1 - chance) ** 10).pvalue > 0.01


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (300, 2), (32, 32)])
@pytest.mark.parametrize("u", [0.0, 0.5, 0.999999])
def test_a_picture_of_any_shape_fills_the_crop(size: tuple[int, int], u: float) -> None:
    gray, label = Image.new("RGB", size, (9, 9, 9)), np.zeros(size[::-1], np.uint8)
    pixels, numbers, *_ = crop(gray, label, 32, draws(scale=u, x=u, y=u))
    assert ((pixels == 9).all(-1) == (numbers == 0)).all()
    assert (numbers == 0).sum() == min(32, round(32 * (0.5 + 1.5 * u))) ** 2


def test_the_sources_are_left_alone() -> None:
    image, label = np.asarray(noise((50, 40)).convert("RGBX")).copy(), blocks((50, 40), 3)
    before = image.tobytes(), label.tobytes()
    out, out_label = np.empty((24, 24, 4), np.uint8), np.empty((24, 24), np.uint8)
    crop_sample(*see(image, label), 24, draws(), out, out_label)
    assert (image.tobytes(), label.tobytes()) == before


# Geometry as it is distributed: scale, window and mirroring are found again from the pixels

MAP = (
    255,
    85,
)  # width and height of a picture whose red is x and whose green is 3 y, so that both go up to 255
SIDE, EPOCHS, IMAGES = 32, 4, 1000
QUANTITIES = ("scale", "x", "y", "flip")
RARE = 1e-3  # what is less likely than this is taken for a fault; the seeds are fixed, so it never flickers


def chart() -> Image.Image:
    x, y = np.meshgrid(*(np.arange(length, dtype=np.uint8) for length in MAP))
    return Image.fromarray(np.stack([x, 3 * y, np.zeros_like(x)], -1))


def found_in(pixels: np.ndarray, numbers: np.ndarray) -> tuple[int, int, int, bool]:
    """Side of the resized picture, top and left of the window and whether it is mirrored, off a chart."""
    inside = numbers != IGNORE
    extent = int(inside.any(0).sum())
    seen = pixels[inside].reshape(extent, extent, 3)[2:-2, 2:-2].astype(float)
    places = np.arange(2, extent - 2) + 0.5
    across, down = seen[..., 0].mean(0), seen[..., 1].mean(1)
    flip = bool(across[-1] < across[0])
    sides, starts = [], []
    for values, step in ((down, 3), (across[::-1] if flip else across, 1)):
        slope, start = np.polyfit(places, values, 1)
        sides.append(255 / slope)
        starts.append((start + step / 2) / slope)
    side, (top, left) = round(sides[1]), (round(start) for start in starts)
    assert [*sides, *starts] == pytest.approx([side, side, top, left], abs=0.4)  # square, whole pixels
    return side, top, left, flip


@pytest.fixture(scope="module")
def harvest() -> dict[str, np.ndarray]:
    """Arrays (epochs, images); x and y are the place of the window in 0..1, NaN where it has no choice.

    What is whole pixels is blurred by less than a pixel, so that it should be evenly distributed.
    """
    label = np.random.default_rng(0).integers(0, 9, MAP[::-1], np.uint8)
    rows = [[draws(index, epoch) for index in range(IMAGES)] for epoch in range(EPOCHS)]
    found = np.array([[found_in(*crop(chart(), label, SIDE, row)[:2]) for row in some] for some in rows])
    sides, tops, lefts, flips = np.moveaxis(found, -1, 0)
    blur = np.random.default_rng(1).random((3, EPOCHS, IMAGES))
    room = np.where(sides > SIDE, sides - SIDE + 1, np.nan)
    scale = np.clip((sides - 0.5 + blur[0]) / SIDE, 0.5, 2)
    return {"scale": scale, "x": (lefts + blur[1]) / room, "y": (tops + blur[2]) / room, "flip": flips}


def uniform(values: np.ndarray, low: float, high: float) -> float:
    """How likely values that are uniform in low..high look as these do or worse (Kolmogorov and Smirnov)."""
    return float(stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue)


def unrelated(one: np.ndarray, other: np.ndarray) -> float:
    """How likely independent values are correlated as these are or worse (Spearman)."""
    both = ~np.isnan(one + other)
    return float(stats.spearmanr(one[both], other[both]).pvalue)


def test_every_pixel_comes_from_where_scale_window_and_mirror_say() -> None:
    """Labels exactly, in whole numbers (no centre falls between two pixels); pictures up to rounding."""
    x, y = np.meshgrid(*(np.arange(length, dtype=np.uint8) for length in MAP))
    for index in range(300):
        row = draws(index)
        pixels, across, first, extent = crop(chart(), x, SIDE, row)
        down = crop(chart(), y, SIDE, row)[1]
        side, top, left, flip = found_in(pixels, across)
        columns, lines = left + np.arange(extent)[:: -1 if flip else 1], top + np.arange(extent)
        inside = np.s_[first : first + extent, first : first + extent]
        assert np.array_equal(across[inside], np.tile((2 * columns + 1) * MAP[0] // (2 * side), (extent, 1)))
        assert np.array_equal(down[inside].T, np.tile((2 * lines + 1) * MAP[1] // (2 * side), (extent, 1)))
        assert (across != IGNORE).sum() == (down != IGNORE).sum() == extent**2
        red, green = pixels[inside][2:-2, 2:-2, :2].astype(float).transpose(2, 0, 1)  # away from its edges
        assert np.abs(red - (255 * (columns + 0.5) / side - 0.5)[2:-2]).max() <= 1
        assert np.abs(green.T - (255 * (lines + 0.5) / side - 1.5)[2:-2]).max() <= 1


def test_the_scale_is_uniform(harvest: dict[str, np.ndarray]) -> None:
    assert uniform(harvest["scale"].ravel(), 0.5, 2) > RARE
    assert 0.5 <= harvest["scale"].min() < 0.51
    assert 1.99 < harvest["scale"].max() <= 2


@pytest.mark.parametrize("axis", ["x", "y"])
def test_the_place_of_the_window_is_uniform_at_any_scale(harvest: dict[str, np.ndarray], axis: str) -> None:
    values = harvest[axis][~np.isnan(harvest[axis])]
    assert len(values) > EPOCHS * IMAGES / 2
    assert uniform(values, 0, 1) > RARE


def test_each_window_of_whole_pixels_is_as_likely_as_any_other() -> None:
    counts, label = np.zeros((9, 9)), np.random.default_rng(0).integers(0, 9, MAP[::-1], np.uint8)
    for index in range(2000):
        side, top, left, _ = found_in(*crop(chart(), label, SIDE, draws(index, scale=0.5))[:2])
        assert side == SIDE + 8
        counts[top, left] += 1
    assert stats.chisquare(counts.ravel()).pvalue > RARE


def test_a_sample_is_mirrored_with_probability_one_half(harvest: dict[str, np.ndarray]) -> None:
    assert stats.binomtest(int(harvest["flip"].sum()), EPOCHS * IMAGES).pvalue > RARE


@pytest.mark.parametrize(("one", "other"), list(combinations(QUANTITIES, 2)))
def test_what_is_drawn_for_a_sample_is_independent(
    harvest: dict[str, np.ndarray], one: str, other: str
) -> None:
    assert unrelated(harvest[one].ravel(), harvest[other].ravel()) > RARE


@pytest.mark.parametrize("name", QUANTITIES)
def test_neither_epochs_nor_neighbours_nor_seeds_are_related(
    harvest: dict[str, np.ndarray], name: str
) -> None:
    values = harvest[name]
    assert unrelated(values[:-1].ravel(), values[1:].ravel()) > RARE
    assert unrelated(values[:, :-1].ravel(), values[:, 1:].ravel()) > RARE
    seeds = [
        np.hstack([draws(index, seed=seed)[PLACES[name]] for index in range(IMAGES)]) for seed in range(3)
    ]
    assert all(unrelated(one, other) > RARE for one, other in combinations(seeds, 2))


# Colour

STEPS = ("brightness", "contrast", "saturation", "hue")
SPREAD = {"brightness": 32 / 255, "contrast": 0.5, "saturation": 0.5, "hue": 18 / 255}
ADJUST: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": lambda x, change: reference.adjust_brightness(x, 1 + change),
    "contrast": lambda x, change: reference.adjust_contrast(x, 1 + change),
    "saturation": lambda x, change: reference.adjust_saturation(x, 1 + change),
    "hue": lambda x, change: reference.adjust_hue(x, change),
}
WHOLE = torch.tensor([[0, 20, 0]])


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


def test_padding_and_normalisation_have_the_numbers_of_the_baseline() -> None:
    pixels = crop(Image.new("RGB", (9, 9)), np.zeros((9, 9), np.uint8), 16, draws(scale=0))[0]
    assert pixels[0, 0].tolist() == [123, 116, 103]
    black_and_white = torch.tensor([0, 255], dtype=torch.uint8).expand(1, 3, 1, 2)
    channels = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]
    expected = torch.tensor([[-mean / deviation, (1 - mean) / deviation] for mean, deviation in channels])
    assert torch.allclose(normalise(black_and_white).view(3, 2), expected)


def plainly(image: Image.Image, label: np.ndarray, size: int, row: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """The whole transform as one would write it down: resize all, crop, mirror, distort, pad, normalise."""
    side = int(np.round(size * (0.5 + 1.5 * row[0])))
    small, before = min(side, size), (size - min(side, size)) // 2
    pixels, numbers = slowly(image, label, size, row)
    inside = np.s_[:, before : before + small, before : before + small]
    x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1) / 255
    shown, places = x[inside], row[-9:]
    late = ("brightness", "saturation", "hue", "contrast")
    for name in late if places[8] < 0.5 else STEPS:
        coin, strength = places[2 * STEPS.index(name) :][:2]
        if coin < 0.5:
            shown = ADJUST[name](shown, float((2 * strength - 1) * SPREAD[name]))
    x[inside] = shown
    return plain(x), numbers


ODD = [(97, 65), (65, 97), (400, 20), (20, 400), (3, 2), (1, 1), (64, 64), (683, 512)]  # width, height


@pytest.mark.parametrize("size", ODD)
@pytest.mark.parametrize("smooth", [False, True])
def test_the_transform_is_the_plain_one(size: tuple[int, int], smooth: bool) -> None:
    """Of any draws and shape, larger than the crop and smaller: a level or two of 255, times what the
    distortion makes of them (1.5 twice over by contrast and saturation, 1.13 by brightness, 2 by hue)."""
    label = blocks(size, 5)
    image = ramp(size) if smooth else noise(size)
    for index in range(16):
        row = draws(index, epoch=size[0])
        pixels, numbers, places = cut(image, label, 33, row)
        made = transform.color(torch.from_numpy(pixels)[None], torch.tensor(row[None, -9:]).float(), places)
        numbers = mirror(torch.from_numpy(numbers)[None], places[:, 2])[0].numpy()
        expected, expected_numbers = plainly(image, label, 33, row)
        assert (numbers != expected_numbers).mean() < 0.1  # a line or two of centres between two pixels
        levels = 255 * (made[0] - expected).abs() * torch.tensor(STD).view(3, 1, 1)
        assert levels.mean() < 0.6
        assert levels.max() < 2 * 1.5 * 1.5 * 1.13 * 2


def test_no_window_lies_outside_the_picture_by_rounding() -> None:
    """The resizer refuses one that does."""
    for index in range(3000):
        row = draws(index, x=1 - 1e-12, y=1 - 1e-12)
        width, height = np.random.default_rng(index).integers(1, 3000, 2).tolist()
        pixels = np.zeros((1, width, 4), np.uint8) if index % 2 else np.zeros((height, 1, 4), np.uint8)
        out, out_label = np.zeros((3, 3, 4), np.uint8), np.zeros((3, 3), np.uint8)
        crop_sample(*see(pixels, np.zeros(pixels.shape[:2], np.uint8)), 3, row, out, out_label)


@pytest.mark.parametrize("share", [0.5, 0.74, 0.75, 0.76, 1.0])
@pytest.mark.parametrize("size", [1, 2, 7, 128, 131])
def test_a_window_is_mixed_where_no_class_has_three_quarters(size: int, share: float) -> None:
    """Wherever the classes lie: of a large one every so many pixels are looked at first."""
    for seed in range(24):
        rng = np.random.default_rng(seed)
        flat = np.where(np.arange(size * size) < share * size * size, 3, rng.integers(0, 3, size * size))
        flat[rng.random(size * size) < rng.choice([0, 0.3, 1])] = IGNORE
        lines = flat.astype(np.uint8).reshape(size, size)
        for window in (lines, rng.permutation(lines), rng.permutation(lines.ravel()).reshape(size, size)):
            for some in (window, np.concatenate([window[::2], window[1::2]])):
                assert is_mixed(some) == mixed(some)


@pytest.mark.parametrize("late", [False, True])
def test_without_a_step_colour_only_normalises(late: bool) -> None:
    images = pictures(3)
    done = color(images, uniforms(late).expand(3, 9), WHOLE.expand(3, 3))
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
    together = color(images, rows, WHOLE.expand(6, 3))
    for index in range(6):
        alone = color(images[index : index + 1], rows[index : index + 1], WHOLE)
        assert torch.allclose(together[index], alone[0], atol=1e-5)


@pytest.mark.parametrize(("first", "extent"), [(0, 20), (5, 10), (4, 11), (9, 1)])
def test_padding_is_untouched_and_does_not_touch_the_picture(first: int, extent: int) -> None:
    images = torch.tensor(FILL, dtype=torch.uint8).view(1, 3, 1, 1).repeat(1, 1, 20, 20)
    inside = (..., slice(first, first + extent), slice(first, first + extent))
    images[inside] = pictures(size=max(4, extent))[..., :extent, :extent]
    strengths = {"brightness": -0.9, "contrast": 0.8, "saturation": -0.7, "hue": 0.6}
    done = color(images, uniforms(late=True, **strengths), torch.tensor([[first, extent, 0]]))
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
            changed[name] += not torch.equal(
                color(images, only, torch.tensor([[0, 4, 0]])), normalise(images)
            )
    assert all(75 < count < 125 for count in changed.values())
    assert 260 < int((rows[:, 8] < 0.5).sum()) < 340


# Colour as it is distributed: each factor is found again from the pixels


def swatches() -> Tensor:
    """(3, 3, 3): six hues of one value and chroma, and the grays 96, 128 and 160.

    The mean gray is 128, and no step but brightness changes it: hues a sixth apart keep the mean of each
    channel wherever they turn. And no step, nor all of them together, leads out of 0..255.
    """
    hues = [(160, 96, 96), (160, 160, 96), (96, 160, 96), (96, 160, 160), (96, 96, 160), (160, 96, 160)]
    grays = [(96, 96, 96), (128, 128, 128), (160, 160, 160)]
    return torch.tensor([*hues, *grays], dtype=torch.uint8).T.reshape(3, 3, 3)


COLOURED = 6000


@pytest.fixture(scope="module")
def rows() -> Tensor:
    return torch.tensor(np.stack([draws(index)[-9:] for index in range(COLOURED)]), dtype=torch.float32)


@pytest.fixture(scope="module")
def factors(rows: Tensor) -> dict[str, np.ndarray]:
    """What each step did to each of many samples, as the change of its factor, from the colours alone."""
    places = torch.tensor([[0, 3, 0]]).expand(COLOURED, 3)
    done = color(swatches().expand(COLOURED, 3, 3, 3), rows, places)
    x = (
        (done * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1))
        .double()
        .flatten(2)
        .numpy()
    )
    dark, middle, light = x[:, 0, 6:].T * 255
    brightness = middle / 128
    contrast = (light - dark) / (64 * brightness)
    chroma = np.ptp(x[..., 0], axis=1) * 255  # of the red one
    return {
        "brightness": brightness - 1,
        "contrast": contrast - 1,
        "saturation": chroma / (64 * brightness * contrast) - 1,
        "hue": (rgb_to_hsv(x[..., 0])[:, 0] + 0.5) % 1 - 0.5,
    }


@pytest.mark.parametrize("name", STEPS)
def test_a_factor_is_uniform_and_applied_to_half_of_the_samples(
    factors: dict[str, np.ndarray], name: str
) -> None:
    change, most = factors[name], SPREAD[name]
    applied = np.abs(change) > 1e-3 * most  # beyond the rounding of a step that was not
    assert stats.binomtest(int(applied.sum()), COLOURED).pvalue > RARE
    assert uniform(change[applied], -most, most) > RARE
    assert np.abs(change).max() == pytest.approx(most, rel=5e-3)


@pytest.mark.parametrize(("one", "other"), list(combinations(STEPS, 2)))
def test_the_steps_are_independent(factors: dict[str, np.ndarray], one: str, other: str) -> None:
    coins = [np.abs(factors[name]) > 1e-3 * SPREAD[name] for name in (one, other)]
    assert unrelated(*(coin.astype(float) for coin in coins)) > RARE
    changes = [np.where(coin, factors[name], np.nan) for coin, name in zip(coins, (one, other), strict=True)]
    assert unrelated(*changes) > RARE
    assert unrelated(changes[0], coins[1].astype(float)) > RARE
    assert unrelated(changes[1], coins[0].astype(float)) > RARE


def test_contrast_comes_late_in_half_of_the_samples(rows: Tensor) -> None:
    """Told from the pixels of a picture whose mean gray depends on its hue."""
    images = torch.tensor([[200, 40, 40], [90, 90, 90]], dtype=torch.uint8).T.reshape(1, 3, 1, 2)
    images = images.repeat(1, 1, 2, 1).expand(COLOURED, 3, 2, 2)
    places = torch.tensor([[0, 2, 0]]).expand(COLOURED, 3)
    orders = [rows.clone() for _ in range(2)]
    orders[0][:, 8], orders[1][:, 8] = 0.7, 0.2
    found, early, late = (color(images, some, places) for some in (rows, *orders))
    told = (early - late).abs().amax((1, 2, 3)) > 1e-3
    is_late = (found == late).flatten(1).all(1)
    assert ((found == early).flatten(1).all(1) != is_late)[told].all()
    assert told.sum() > 1000
    assert stats.binomtest(int(is_late[told].sum()), int(told.sum())).pvalue > RARE
