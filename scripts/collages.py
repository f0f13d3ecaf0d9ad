"""Collages: the task on which the weights of the embedded default are trained beforehand.

Every pixel of a picture belongs to one of 24 classes that have nothing to do with colour, which is random.
The first ten are surfaces and differ in texture alone; the others are things put together from the same
parts, so that a box is told from a house by the roof above it, and a bush from a tree by the stem below. A
collage depends on (seed, split, index) alone. No scene of the workload `mini`, nor any code that composes
one, is used here; only the paint is shared.
"""

from __future__ import annotations

import colorsys
import dataclasses
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from bench.brush import HEIGHT, PLAIN, WIDTH, Brush, Canvas, Colour, Dice, Light, Pixels, Point, shade
from bench.dataset import Dataset

SPLITS = ("training", "validation")


class Collages(Dataset):
    """`count` collages of a split, drawn at once and kept in memory; read like any data set."""

    def __init__(self, seed: int, split: str, count: int) -> None:
        self.classes = len(CLASSES)
        drawn = (draw(seed, split, index) for index in range(count))
        self.kept = [(np.asarray(Image.fromarray(image).convert("RGBX")), label) for image, label in drawn]

    def __len__(self) -> int:
        return len(self.kept or ())


def draw(seed: int, split: str, index: int) -> tuple[Pixels, Pixels]:
    """One collage: image, uint8 (64, 80, 3), and class numbers from 0, uint8 (64, 80). Equal arguments give
    equal pixels."""
    key = np.random.SeedSequence([seed, SPLITS.index(split), index])
    dice = Dice(np.random.Generator(np.random.Philox(key)))
    canvas, light = Canvas(), any_light(dice)
    lay_surfaces(canvas, dice)
    place_things(canvas, dice, light)
    return canvas.picture(light, dice), canvas.labels() - np.uint8(1)


# Colour and light


def any_colour(dice: Dice, saturation: float = 0.9) -> Colour:
    """Any hue, up to `saturation`, not too dark."""
    red, green, blue = colorsys.hsv_to_rgb(dice.random(), saturation * dice.random(), dice.between(0.25, 1))
    return 255 * red, 255 * green, 255 * blue


def any_light(dice: Dice) -> Light:
    """A light from either side, of slightly any colour."""
    tint = (dice.between(0.85, 1.15), dice.between(0.9, 1.1), dice.between(0.85, 1.15))
    haze = any_colour(dice, 0.3)
    return Light(
        sun=dice.side(),
        zenith=haze,
        haze=haze,
        tint=tint,
        saturation=dice.between(0.5, 1.2),
        shadow=dice.between(0, 0.6),
    )


# Surfaces: a class each, told apart by texture alone. The first eight carry the textures of `bench.brush`.


def lay_surfaces(canvas: Canvas, dice: Dice) -> None:
    """Fill the canvas with a surface, lay bands and wedges over it, then a few patches."""
    whole = [(0, 0), (WIDTH, 0), (WIDTH, HEIGHT), (0, HEIGHT)]
    surface(canvas, dice).polygon(whole, any_colour(dice, 0.7))
    if dice.chance(0.3):
        canvas.gradient(any_colour(dice, 0.7), any_colour(dice, 0.7), dice.between(20, 64))
    level = dice.between(10, 34)
    while level < HEIGHT - 6:
        surface(canvas, dice).polygon(band(dice, level), any_colour(dice, 0.7))
        level += dice.between(12, 34)
    if dice.chance(0.3):
        surface(canvas, dice).polygon(wedge(dice), any_colour(dice, 0.7))
    for _ in range(dice.whole(0, 3)):
        x, y, size = dice.between(0, WIDTH), dice.between(0, HEIGHT), dice.between(6, 20)
        if dice.chance(0.5):
            surface(canvas, dice).polygon(outline(dice, x, y, size), any_colour(dice, 0.7))
        else:
            dice.pick((draw_stripes, draw_checks))(canvas, dice, x, y, size)


def surface(canvas: Canvas, dice: Dice) -> Brush:
    """A brush for one of the eight textured surfaces, strong enough to be told apart."""
    kind = dice.whole(0, 7)
    return canvas.brush(1 + kind, kind, dice.between(0.3, 0.9))


def band(dice: Dice, level: float) -> list[Point]:
    """Everything below an uneven line at about `level`."""
    tilt, rough = dice.between(-8, 8), dice.between(0, 4)
    edge = [
        (WIDTH * part / 8, level + tilt * (part / 4 - 1) + dice.between(-rough, rough)) for part in range(9)
    ]
    return [*edge, (WIDTH, HEIGHT), (0, HEIGHT)]


def wedge(dice: Dice) -> list[Point]:
    """A strip that widens towards the lower edge."""
    x, y, base = dice.between(10, 70), dice.between(10, 40), dice.between(-10, 60)
    top, bottom = dice.between(1, 8), dice.between(20, 50)
    return [(x, y), (x + top, y), (base + bottom, HEIGHT), (base, HEIGHT)]


def outline(dice: Dice, x: float, y: float, size: float) -> list[Point]:
    """A closed uneven outline around (x, y)."""
    points = []
    for part in range(9):
        radius, angle = size * dice.between(0.55, 1), math.tau * part / 9
        points.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
    return points


def draw_stripes(canvas: Canvas, dice: Dice, x: float, y: float, size: float) -> None:
    draw_tiles(canvas.brush(9), dice, (x, y, size), (dice.whole(4, 9), 1))


def draw_checks(canvas: Canvas, dice: Dice, x: float, y: float, size: float) -> None:
    draw_tiles(canvas.brush(10), dice, (x, y, size), (dice.whole(3, 6), dice.whole(3, 6)))


def draw_tiles(brush: Brush, dice: Dice, place: tuple[float, float, float], tiles: tuple[int, int]) -> None:
    """A turned parallelogram around (x, y) of `size`, of tiles in two colours."""
    x, y, size = place
    turn, skew = dice.between(0, math.tau), dice.between(-0.4, 0.4)
    right = (size * math.cos(turn), size * math.sin(turn))
    down = (size * math.cos(turn + 1.57 + skew), size * math.sin(turn + 1.57 + skew))
    colours = (any_colour(dice), any_colour(dice))

    def corner(column: int, row: int) -> Point:
        across, along = 2 * column / tiles[0] - 1, 2 * row / tiles[1] - 1
        return x + across * right[0] + along * down[0], y + across * right[1] + along * down[1]

    for column in range(tiles[0]):
        for row in range(tiles[1]):
            corners = [corner(column + i, row + j) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))]
            brush.polygon(corners, colours[(column + row) % 2])


# Things: drawn in a frame of their own, the origin between their feet, y up, about 1 high.


def place_things(canvas: Canvas, dice: Dice, light: Light) -> None:
    """Three to nine things, the lower before the higher, some with a shadow."""
    count = dice.whole(3, 9)
    feet = sorted(dice.between(18, HEIGHT + 4) for _ in range(count))
    for y in feet:
        thing = dice.whole(0, len(THINGS) - 1)
        x, size = dice.between(2, WIDTH - 2), dice.between(10, 18) + y * dice.between(0, 0.35)
        if dice.chance(0.6):
            canvas.shadow(x, y, size * dice.between(0.6, 1.4), size * 0.2, light.shadow)
        brush = canvas.brush(1 + SURFACES + thing).at(x, y, size, dice.side())
        THINGS[thing](brush, dice, light)


def part(brush: Brush, dice: Dice) -> Brush:
    """The brush for a part: same class, any texture, so that texture gives no thing away."""
    kind = dice.whole(0, 7) if dice.chance(0.6) else PLAIN
    return dataclasses.replace(brush, texture=32 * kind + dice.whole(0, 20))


def draw_block(brush: Brush, dice: Dice, light: Light, width: float, top: float) -> Colour:
    """A front `2 width` wide and `top` high, maybe with a side face and openings; returns its colour."""
    colour, wall = any_colour(dice), part(brush, dice)
    if dice.chance(0.5):
        deep, lift = width + dice.between(0.1, 0.3), dice.between(0, 0.12)
        face = light.face(colour, dice.side())
        wall.polygon([(width, 0), (deep, lift), (deep, top), (width, top)], face)
    wall.rectangle(-width, 0, width, top, colour)
    if dice.chance(0.6):
        dark, across, up = shade(any_colour(dice, 0.4), 0.5), dice.whole(1, 3), dice.whole(1, 3)
        for column in range(across):
            for row in range(up):
                x, y = width * (2 * (column + 0.5) / across - 1), top * (row + 0.5) / up
                half, high = 0.5 * width / across, 0.28 * top / up
                brush.rectangle(x - half, y - high, x + half, y + high, dark)
    return colour


def draw_gable(brush: Brush, dice: Dice, width: float, foot: float, top: float) -> None:
    """A triangle or trapezoid from `foot` to `top`."""
    ridge, lean = dice.pick((0.0, 0.0, 0.6)) * width, dice.between(-0.15, 0.15)
    points = [(-width, foot), (lean - ridge, top), (lean + ridge, top), (width, foot)]
    part(brush, dice).polygon(points, any_colour(dice))


def draw_house(brush: Brush, dice: Dice, light: Light) -> None:
    """A block under a gable."""
    width, eaves = dice.between(0.3, 0.7), dice.between(0.4, 0.7)
    draw_block(brush, dice, light, width, eaves)
    draw_gable(brush, dice, width + dice.between(0, 0.15), eaves, dice.between(0.85, 1.1))


def draw_box(brush: Brush, dice: Dice, light: Light) -> None:
    """A block with nothing on top."""
    draw_block(brush, dice, light, dice.between(0.25, 0.6), dice.between(0.5, 1.1))


def draw_tent(brush: Brush, dice: Dice, light: Light) -> None:
    """A gable on the ground."""
    draw_gable(brush, dice, dice.between(0.35, 0.8), 0, dice.between(0.5, 0.9))


def draw_wheel(brush: Brush, dice: Dice, light: Light) -> None:
    """A disc with a hub, no body on it."""
    radius = dice.between(0.2, 0.4)
    draw_hubbed(brush, dice, 0, radius, shade(any_colour(dice), dice.between(0.3, 1)))


def draw_hubbed(brush: Brush, dice: Dice, x: float, radius: float, colour: Colour) -> None:
    brush.disc(x, radius, radius, colour)
    brush.disc(x, radius, radius * dice.between(0.3, 0.55), any_colour(dice, 0.3))


def draw_cart(brush: Brush, dice: Dice, light: Light) -> None:
    """A body, maybe with a cabin, on two or three wheels."""
    half, radius, top = dice.between(0.45, 0.9), dice.between(0.1, 0.2), dice.between(0.35, 0.6)
    colour, body = any_colour(dice), part(brush, dice)
    body.rectangle(-half, radius, half, top, colour)
    if dice.chance(0.7):
        left, right, roof = -half * dice.random(), half * dice.random(), top + dice.between(0.15, 0.35)
        body.polygon(
            [(left - 0.1, top), (left, roof), (right, roof), (right + 0.15, top)], shade(colour, 0.9)
        )
        brush.rectangle(left, top + 0.03, right, roof - 0.05, shade(any_colour(dice, 0.4), 0.6))
    wheels, tyre = dice.whole(2, 3), shade(any_colour(dice), 0.4)
    for number in range(wheels):
        draw_hubbed(brush, dice, half * 0.7 * (2 * number / (wheels - 1) - 1), radius, tyre)


def draw_pole(brush: Brush, dice: Dice, light: Light) -> None:
    """A pole with nothing on it, or a short arm."""
    width, colour = dice.between(0.08, 0.18), any_colour(dice, 0.5)
    brush.line([(0, 0), (dice.between(-0.1, 0.1), 1.1)], width, colour)
    if dice.chance(0.3):
        brush.line([(0, 1), (0.35, dice.between(0.9, 1.1))], width, colour)


def draw_plate(brush: Brush, dice: Dice, light: Light) -> None:
    """A pole that carries a plate: a rectangle, a disc or a triangle, maybe with a mark."""
    brush.line([(0, 0), (0, 0.8)], dice.between(0.06, 0.14), any_colour(dice, 0.5))
    colour, half, shape = any_colour(dice), dice.between(0.25, 0.45), dice.whole(0, 2)
    plate = part(brush, dice)
    if shape == 0:
        plate.rectangle(-half * 1.3, 0.5, half * 1.3, 1.0, colour)
    elif shape == 1:
        plate.disc(0, 0.75, half * 0.9, colour)
    else:
        plate.polygon([(-half, 0.5), (0, 1.1), (half, 0.5)], colour)
    if dice.chance(0.6):
        brush.rectangle(-half * 0.5, 0.66, half * 0.5, dice.between(0.72, 0.85), any_colour(dice))


def draw_lump(brush: Brush, dice: Dice, y: float, size: float) -> None:
    """A few overlapping discs around (0, y), lighter and darker."""
    lump, colour = part(brush, dice), any_colour(dice)
    for _ in range(dice.whole(3, 6)):
        x, up = dice.between(-0.6, 0.6) * size, y + dice.between(-0.5, 0.5) * size
        lump.disc(x, up, size * dice.between(0.5, 0.8), shade(colour, dice.between(0.8, 1.15)))


def draw_tree(brush: Brush, dice: Dice, light: Light) -> None:
    """A lump on a stem."""
    brush.line([(0, 0), (0, 0.6)], dice.between(0.08, 0.18), any_colour(dice, 0.6))
    draw_lump(brush, dice, 0.75, dice.between(0.25, 0.4))


def draw_bush(brush: Brush, dice: Dice, light: Light) -> None:
    """A lump on the ground."""
    size = dice.between(0.25, 0.4)
    draw_lump(brush, dice, size, size)


def draw_hull(brush: Brush, dice: Dice, top: float) -> None:
    """A trapezoid, narrower below."""
    wide, narrow = dice.between(0.45, 0.7), dice.between(0.2, 0.42)
    corners = [(-narrow, 0.0), (-wide, top), (wide, top), (narrow, 0.0)]
    part(brush, dice).polygon(corners, any_colour(dice))


def draw_boat(brush: Brush, dice: Dice, light: Light) -> None:
    """A hull with a mast and one or two sails."""
    draw_hull(brush, dice, dice.between(0.18, 0.3))
    brush.line([(0, 0.2), (0, 1.15)], 0.07, any_colour(dice, 0.5))
    sail, colour = part(brush, dice), any_colour(dice, 0.6)
    sail.polygon([(0.05, 0.3), (0.05, 1.1), (dice.between(0.35, 0.6), 0.3)], colour)
    if dice.chance(0.5):
        sail.polygon([(-0.05, 0.3), (-0.05, 0.95), (-dice.between(0.25, 0.5), 0.3)], shade(colour, 0.9))


def draw_bowl(brush: Brush, dice: Dice, light: Light) -> None:
    """A hull with nothing on it."""
    draw_hull(brush, dice, dice.between(0.25, 0.5))


def draw_beast(brush: Brush, dice: Dice, light: Light) -> None:
    """An oval body on four legs, a head at one end."""
    colour, half, low = any_colour(dice), dice.between(0.4, 0.6), dice.between(0.2, 0.4)
    for place in (-0.8, -0.5, 0.5, 0.8):
        brush.line([(place * half, 0), (place * half, low + 0.1)], 0.09, shade(colour, 0.8))
    part(brush, dice).ellipse(-half, low, half, low + dice.between(0.3, 0.45), colour)
    brush.disc(half * 1.1, low + dice.between(0.2, 0.5), dice.between(0.12, 0.18), shade(colour, 0.9))


def draw_figure(brush: Brush, dice: Dice, light: Light) -> None:
    """A head on a trunk with two legs and two arms."""
    trunk, legs, arm = any_colour(dice), any_colour(dice), dice.between(0.3, 0.75)
    for way in (-1, 1):
        brush.line([(0.08 * way, 0.4), (dice.between(0.08, 0.16) * way, 0)], 0.11, legs)
        brush.line([(0.14 * way, 0.75), (dice.between(0.2, 0.34) * way, arm)], 0.09, trunk)
    part(brush, dice).rectangle(-0.16, 0.38, 0.16, 0.8, trunk)
    brush.disc(0, 0.92, dice.between(0.1, 0.15), any_colour(dice))


def draw_hoop(brush: Brush, dice: Dice, light: Light) -> None:
    """A ring through which one sees what is behind."""
    radius = dice.between(0.3, 0.45)
    angles = [math.tau * step / 16 for step in range(18)]  # past a full turn, or the seam shows
    points = [(radius * math.cos(angle), radius * (1 + math.sin(angle))) for angle in angles]
    brush.line(points, dice.between(0.1, 0.2), any_colour(dice))


THINGS: tuple[Callable[[Brush, Dice, Light], None], ...] = (
    draw_house, draw_box, draw_tent, draw_cart, draw_wheel, draw_plate, draw_pole,
    draw_tree, draw_bush, draw_boat, draw_bowl, draw_beast, draw_figure, draw_hoop,
)  # fmt: skip

CLASSES = (
    "plain", "speckle", "mottle", "ripple", "blades", "courses", "cloudy", "leafy", "stripes", "checks",
    *(draw_thing.__name__.removeprefix("draw_") for draw_thing in THINGS),
)  # fmt: skip
SURFACES = len(CLASSES) - len(THINGS)
