"""Paint: a canvas that draws a picture and its label map at once, and the light that falls on it.

Shapes are given in pixels of the finished picture (x to the right, y down) and drawn ZOOM times larger. The
colours are then averaged, while label and texture are read at the middle of each block: so the picture is
antialiased and the labels lie exactly under it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT, ZOOM = 80, 64, 3

Colour = tuple[float, float, float]  # red, green, blue, 0 to 255
Point = tuple[float, float]
Pixels = NDArray[np.uint8]
Field = NDArray[np.float32]
T = TypeVar("T")

PLAIN, SPECKLE, MOTTLE, RIPPLE, BLADES, COURSES, CLOUDY, LEAFY = range(8)


class Dice:
    """Random numbers by name, all of them drawn from uniform doubles."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        self.random = generator.random

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def whole(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int(self.random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def side(self) -> int:
        return 1 if self.random() < 0.5 else -1

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.random() * len(options))]

    def tone(self, options: Sequence[Colour], spread: float = 18.0) -> Colour:
        """One of the colours, its brightness and each channel shifted a little."""
        red, green, blue = self.pick(options)
        lift = self.between(-spread, spread)
        return (
            red + lift + self.between(-spread, spread) / 2,
            green + lift + self.between(-spread, spread) / 2,
            blue + lift + self.between(-spread, spread) / 2,
        )


def shade(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def blend(one: Colour, two: Colour, share: float) -> Colour:
    """`share` of `two` in `one`: 0 is `one`, 1 is `two`."""
    return (
        one[0] + (two[0] - one[0]) * share,
        one[1] + (two[1] - one[1]) * share,
        one[2] + (two[2] - one[2]) * share,
    )


@dataclass(frozen=True)
class Light:
    """Time of day and weather: what colours the sky and everything below it."""

    sun: int  # -1: from the left, 1: from the right
    zenith: Colour
    haze: Colour  # the sky at the horizon; far things fade into it
    tint: Colour  # factors on red, green, blue
    saturation: float
    shadow: float  # how dark a cast shadow is, 0 to 1

    def face(self, colour: Colour, side: int) -> Colour:
        """The colour of a face that looks to `side`."""
        return shade(colour, 1.08 if side == self.sun else 0.74)


class Canvas:
    """Three drawings of the same shapes: colour, label and texture (32 x kind + strength)."""

    def __init__(self) -> None:
        size = (WIDTH * ZOOM, HEIGHT * ZOOM)
        self.colour = Image.new("RGB", size)
        self.label = Image.new("L", size)
        self.texture = Image.new("L", size)
        # mode RGBA blends with what is there: shadows and glass need that
        self.pens = (
            ImageDraw.Draw(self.colour, "RGBA"),
            ImageDraw.Draw(self.label),
            ImageDraw.Draw(self.texture),
        )

    def brush(self, label: int, kind: int = PLAIN, strength: float = 0.0) -> Brush:
        """A brush that leaves `label`, and a texture of a relative contrast from 0 to 1."""
        return Brush(self, label, 32 * kind + min(31, int(strength * 32)))

    def gradient(self, top: Colour, bottom: Colour, horizon: float) -> None:
        """Fill the colours from `top` at the upper edge to `bottom` at the horizon and below."""
        share = np.minimum(np.arange(HEIGHT * ZOOM) / (horizon * ZOOM), 1.0)[:, None]
        rows = np.asarray(top) * (1 - share) + np.asarray(bottom) * share
        column = Image.fromarray(rows.clip(0, 255).astype(np.uint8)[:, None, :])
        self.colour.paste(column.resize(self.colour.size, Image.Resampling.NEAREST))

    def shadow(self, x: float, y: float, width: float, height: float, darkness: float) -> None:
        """A soft patch on the ground: it changes the colour only, the ground below keeps its label."""
        left, top = (x - width / 2) * ZOOM, (y - height / 2) * ZOOM
        box = (left, top, left + width * ZOOM, top + height * ZOOM)
        self.pens[0].ellipse(box, fill=(8, 10, 24, int(255 * darkness)))

    def labels(self) -> Pixels:
        """The label map, uint8 (HEIGHT, WIDTH)."""
        return np.asarray(self.label)[ZOOM // 2 :: ZOOM, ZOOM // 2 :: ZOOM].copy()

    def picture(self, light: Light, dice: Dice) -> Pixels:
        """The finished picture, uint8 (HEIGHT, WIDTH, 3): texture, then light, then the camera."""
        codes = np.asarray(self.texture)[ZOOM // 2 :: ZOOM, ZOOM // 2 :: ZOOM]
        textures = _textures(dice)
        rows, columns = np.indices(codes.shape)
        relief = textures[codes >> 5, rows, columns] * ((codes & 31) / np.float32(32))
        colours = np.asarray(self.colour.reduce(ZOOM), np.float32) * (1 + 0.5 * relief)[:, :, None]
        return _photograph(colours, light, dice)


@dataclass(frozen=True)
class Brush:
    """Draws shapes of one label and one texture; the colour comes with each shape.

    Lengths are pixels, y down, until `at` moves the brush into the frame of a thing.
    """

    canvas: Canvas
    label: int
    texture: int
    x: float = 0
    y: float = 0
    across: float = 1
    down: float = 1

    def at(self, x: float, y: float, size: float, way: int = 1) -> Brush:
        """This brush with (x, y) as its origin, `size` as its unit and y upwards; `way` -1 mirrors."""
        return dataclasses.replace(self, x=x, y=y, across=size * way, down=-size)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self._draw("polygon", self._place(points), colour)

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self._draw("rectangle", self._box(left, top, right, bottom), colour)

    def ellipse(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self._draw("ellipse", self._box(left, top, right, bottom), colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.ellipse(x - radius, y - radius, x + radius, y + radius, colour)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        thickness = max(1, round(width * abs(self.across) * ZOOM))
        self._draw("line", self._place(points), colour, width=thickness)

    def _place(self, points: Sequence[Point]) -> list[float]:
        place: list[float] = []
        for x, y in points:
            place += ((self.x + self.across * x) * ZOOM, (self.y + self.down * y) * ZOOM)
        return place

    def _box(self, left: float, top: float, right: float, bottom: float) -> list[float]:
        one, two, three, four = self._place([(left, top), (right, bottom)])
        # Pillow counts the last pixel in, and refuses boxes that are inside out
        left, top, right, bottom = min(one, three), min(two, four), max(one, three), max(two, four)
        return [left, top, max(left, right - 1), max(top, bottom - 1)]

    def _draw(self, shape: str, place: list[float], colour: Colour, **more: Any) -> None:
        fills = (_bytes(colour), self.label, self.texture)
        for pen, fill in zip(self.canvas.pens, fills, strict=True):
            getattr(pen, shape)(place, fill=fill, **more)


def _bytes(colour: Colour) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, int(value))) for value in colour)
    return red, green, blue


def _smooth(dice: Dice, rows: int, columns: int) -> Field:
    """Noise of about unit deviation (HEIGHT, WIDTH), smooth between the points of a grid."""
    grid = dice.generator.random((rows, columns), np.float32) * 5 - 2.5
    return np.asarray(Image.fromarray(grid).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def _textures(dice: Dice) -> Field:
    """One field of noise a kind of texture, float32 (8, HEIGHT, WIDTH), about unit deviation."""
    speckle = dice.generator.random((HEIGHT, WIDTH), np.float32) * 3.4 - 1.7
    mottle = _smooth(dice, 20, 25)
    wobble = _smooth(dice, 8, 10)
    rows = np.arange(HEIGHT, dtype=np.float32)[:, None]
    courses = np.where((rows + dice.whole(0, 3)) % dice.whole(3, 4) < 1, -1.6, 0.4) + 0.4 * speckle
    return np.stack(
        [
            np.zeros_like(speckle),
            speckle,
            mottle,
            _smooth(dice, 40, 10) * 0.8 + 0.8 * np.sin(rows * dice.between(1.2, 2.2) + wobble),
            _smooth(dice, 14, 70) + 0.3 * speckle,
            courses.astype(np.float32),
            _smooth(dice, 10, 6) + 0.5 * wobble,
            0.7 * mottle + 0.8 * speckle,
        ]
    )


@functools.cache
def _slopes() -> tuple[Field, Field]:
    """How far right and how far down a pixel lies, each from -1 to 1."""
    down, right = np.meshgrid(np.linspace(-1, 1, HEIGHT), np.linspace(-1, 1, WIDTH), indexing="ij")
    return right.astype(np.float32), down.astype(np.float32)


def _photograph(colours: Field, light: Light, dice: Dice) -> Pixels:
    """Light and camera: uneven light, tint, contrast, a little blur, noise. Colours 0-255 in, uint8 out."""
    gray = colours.mean(axis=2, keepdims=True)
    colours = gray + (colours - gray) * np.float32(light.saturation)
    right, down = _slopes()
    uneven = 1 + dice.between(0, 0.16) * light.sun * right + dice.between(-0.1, 0.1) * down
    uneven += dice.between(0, 0.09) * _smooth(dice, 3, 4)  # shadows of clouds
    uneven -= dice.between(0, 0.16) * (right * right + down * down) / 2  # the lens darkens the corners
    colours *= uneven[:, :, None] * np.asarray(light.tint, np.float32)
    contrast = dice.between(0.75, 1.12)
    colours = (colours - 118) * np.float32(contrast) + np.float32(118 + dice.between(-16, 16))
    picture = colours.clip(0, 255).astype(np.uint8)
    if dice.chance(0.5):
        blur = ImageFilter.GaussianBlur(dice.between(0.25, 0.6))
        picture = np.asarray(Image.fromarray(picture).filter(blur))
    noise = dice.generator.standard_normal(picture.shape, np.float32) * np.float32(dice.between(2, 8))
    return (picture + noise).clip(0, 255).astype(np.uint8)
