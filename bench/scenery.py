"""Scenery: the things that the pictures of the workload `mini` show, one function a thing.

Things stand on the ground at (x, y), the middle of their foot in pixels; their shapes are given in units of
their size, y upwards. Colours of different classes overlap on purpose - gray walls, roads and cars; green
trees, grass and boats - so that shape, texture and surroundings have to tell them apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.brush import (
    BLADES,
    CLOUDY,
    COURSES,
    HEIGHT,
    LEAFY,
    MOTTLE,
    PLAIN,
    RIPPLE,
    SPECKLE,
    WIDTH,
    Brush,
    Canvas,
    Colour,
    Dice,
    Light,
    Point,
    blend,
    shade,
)

OTHER, SKY, HILL, BUILDING, ROAD, GRASS, TREE, WATER, CAR, PERSON, BOAT, SIGN, ANIMAL = range(13)

STONES: list[Colour] = [(132, 130, 130), (158, 150, 140), (104, 106, 112), (178, 172, 164)]
WALLS: list[Colour] = [
    *STONES,
    (196, 178, 142),
    (170, 96, 76),
    (206, 200, 190),
    (150, 168, 170),
    (188, 140, 96),
]
ROOFS: list[Colour] = [(150, 70, 52), (96, 62, 54), (84, 88, 98), (120, 110, 100), (92, 104, 84)]
ROADS: list[Colour] = [(92, 92, 98), (120, 118, 118), (148, 144, 138), (142, 118, 92), (78, 82, 92)]
LAWNS: list[Colour] = [(98, 138, 66), (80, 118, 58), (142, 152, 82), (176, 162, 96), (112, 124, 74)]
LEAVES: list[Colour] = [
    (58, 98, 48),
    (42, 80, 52),
    (92, 122, 58),
    (168, 112, 52),
    (150, 70, 46),
    (104, 128, 92),
]
ROCKS: list[Colour] = [(104, 122, 104), (116, 110, 112), (92, 112, 134), (128, 104, 84), (84, 104, 76)]
WATERS: list[Colour] = [(70, 112, 142), (92, 132, 136), (68, 96, 104), (110, 126, 138), (84, 122, 108)]
PAINTS: list[Colour] = [
    (186, 52, 46), (48, 78, 146), (212, 208, 204), (122, 126, 132),
    (52, 54, 60), (76, 112, 72), (208, 166, 56), (120, 150, 178),
]  # fmt: skip
CLOTHES: list[Colour] = [*PAINTS, (150, 84, 120), (226, 214, 190), (86, 70, 60), (60, 110, 120)]
SKINS: list[Colour] = [(232, 194, 164), (206, 160, 126), (150, 104, 76), (104, 72, 54)]
FURS: list[Colour] = [(226, 220, 210), (122, 82, 54), (66, 54, 50), (176, 136, 94), (148, 140, 134)]
BARKS: list[Colour] = [(92, 70, 52), (116, 106, 96), (66, 54, 46)]
HAIRS: list[Colour] = [(50, 38, 30), (96, 66, 40), (196, 164, 96), (150, 150, 150), (170, 60, 50)]
SAILS: list[Colour] = [(228, 226, 220), (232, 220, 190), (190, 80, 66), (150, 170, 190)]
PANES: list[Colour] = [(72, 88, 104), (40, 44, 54), (150, 172, 190), (230, 200, 120)]
PLATES: list[Colour] = [(190, 40, 36), (40, 84, 160), (222, 182, 44), (228, 226, 220), (52, 116, 74)]
METALS: list[Colour] = [(60, 66, 64), (118, 118, 120), (96, 74, 56)]
GLASS: Colour = (72, 88, 104)
WHITE: Colour = (228, 226, 220)
DARK: Colour = (42, 42, 46)


@dataclass(frozen=True)
class World:
    """One scene in the making."""

    canvas: Canvas
    dice: Dice
    light: Light
    horizon: float

    def scale(self, y: float) -> float:
        """Size of a thing at `y`, 1 at the lower edge; in true perspective far things would vanish."""
        return 0.45 + 0.55 * (y - self.horizon) / (HEIGHT - self.horizon)

    def far(self, colour: Colour, share: float) -> Colour:
        return blend(colour, self.light.haze, share)


# Sky and land


def sky(world: World) -> None:
    """Sky down to the horizon, with clouds and perhaps a sun."""
    dice, light = world.dice, world.light
    world.canvas.gradient(light.zenith, light.haze, world.horizon)
    brush = world.canvas.brush(SKY, CLOUDY, dice.between(0, 0.2))
    world.canvas.label.paste(brush.label, (0, 0, *world.canvas.label.size))
    world.canvas.texture.paste(brush.texture, (0, 0, *world.canvas.texture.size))
    if dice.chance(0.25):
        brush.disc(
            40 + light.sun * dice.between(8, 36), dice.between(3, 14), dice.between(2, 4), (255, 246, 206)
        )
    cloud = blend(light.haze, (250, 250, 250), dice.between(0.3, 0.9))
    for _ in range(dice.whole(0, 4)):
        x, y, size = dice.between(-5, 85), dice.between(1, world.horizon * 0.7), dice.between(4, 10)
        for shift in (-1.2, -0.5, 0.3, 1.1):
            radius = size * dice.between(0.3, 0.6)
            left, right = x + size * shift - radius * 1.3, x + size * shift + radius * 1.3
            brush.ellipse(left, y - radius * 0.75, right, y + radius * 0.55, cloud)


def hills(world: World) -> None:
    """One to three ridges, the far ones pale; sharp ones are mountains and may carry snow."""
    dice, layers = world.dice, world.dice.whole(1, 3)
    rock = dice.tone(ROCKS)
    for layer in range(layers):
        near = (layer + 1) / layers
        brush = world.canvas.brush(HILL, dice.pick((MOTTLE, LEAFY, SPECKLE)), dice.between(0.05, 0.3))
        colour = world.far(rock, 0.62 * (1 - near) + dice.between(0, 0.25))
        rise = dice.between(11, 21) * (1.25 - 0.55 * near)
        if dice.chance(0.45):
            _mountains(world, brush, colour, rise)
        else:
            _ridge(world, brush, colour, rise)


def _ridge(world: World, brush: Brush, colour: Colour, rise: float) -> None:
    first, second, step = (world.dice.between(0, 7) for _ in range(3))
    pace = world.dice.between(0.04, 0.09)

    def top(x: float) -> float:
        wave = 0.6 + 0.3 * math.sin(first + pace * x) + 0.14 * math.sin(second + (2 + step / 7) * pace * x)
        return world.horizon - rise * max(0.1, wave)

    crest: list[Point] = [(x, top(x)) for x in range(-2, WIDTH + 5, 3)]
    brush.polygon([(-2, world.horizon + 3), *crest, (WIDTH + 2, world.horizon + 3)], colour)


def _mountains(world: World, brush: Brush, colour: Colour, rise: float) -> None:
    dice, foot = world.dice, world.horizon + 3
    snow = dice.chance(0.4)
    brush.rectangle(0, world.horizon - rise * 0.25, WIDTH, foot, colour)
    for _ in range(dice.whole(2, 4)):
        x, height = dice.between(0, WIDTH), rise * dice.between(0.7, 1.3) + 3
        half, lean = height * dice.between(0.9, 1.7), dice.between(-3, 3)
        peak, middle = (x, foot - height), (x + lean, foot)
        for side in (-1, 1):
            face = world.light.face(colour, side)
            brush.polygon([peak, (x + side * half, foot), middle], face)
            if snow and height > 12:
                edge = (x + side * half * 0.3, foot - height * 0.7)
                brush.polygon(
                    [peak, edge, (x + lean * 0.2, foot - height * 0.62)], blend(face, (255, 255, 255), 0.8)
                )


def lawn(world: World) -> None:
    """Grass from the horizon to the lower edge; it may lie in strips or be full of flowers."""
    dice, top = world.dice, world.horizon
    kind, strength = dice.pick((BLADES, SPECKLE, MOTTLE)), dice.between(0.08, 0.34)
    brush, colour = world.canvas.brush(GRASS, kind, strength), dice.tone(LAWNS)
    strips = dice.whole(2, 5) if dice.chance(0.5) else 1
    y = top
    for strip in range(strips):
        share = (strip + 1) / strips
        brush.rectangle(
            0, y, WIDTH, HEIGHT, shade(world.far(colour, 0.3 * (1 - share)), dice.between(0.9, 1.1))
        )
        y += (HEIGHT - y) * dice.between(0.2, 0.6)
    for _ in range(dice.whole(0, 14) if dice.chance(0.3) else 0):  # flowers belong to the meadow
        brush.disc(dice.between(0, WIDTH), dice.between(top + 6, HEIGHT), 0.5, dice.pick(CLOTHES))


def lake(world: World, bottom: float) -> None:
    """Water from the horizon to a wavy shore at about `bottom`, and a strip of sand along it."""
    dice = world.dice
    colour = blend(dice.tone(WATERS), world.light.zenith, dice.between(0, 0.5))
    phase, wave = dice.between(0, 6), dice.between(0, 1.5)
    shore: list[Point] = [(x, bottom + wave * math.sin(phase + x * 0.11)) for x in range(-2, WIDTH + 5, 4)]
    sand = world.canvas.brush(OTHER, SPECKLE, 0.15)
    width = dice.between(0.4, 4)
    _below_horizon(
        world, sand, [(x, y + width) for x, y in shore], dice.tone([(200, 184, 146), (168, 156, 138)])
    )
    water = world.canvas.brush(WATER, RIPPLE, dice.between(0.06, 0.35))
    _below_horizon(world, water, shore, colour)
    for _ in range(dice.whole(0, 5)):  # glitter
        x, y = dice.between(0, WIDTH), dice.between(world.horizon + 2, bottom - 2)
        water.line([(x, y), (x + dice.between(3, 14), y)], 0.5, blend(colour, world.light.haze, 0.6))


def _below_horizon(world: World, brush: Brush, shore: list[Point], colour: Colour) -> None:
    brush.polygon([(-2, world.horizon), *shore, (WIDTH + 2, world.horizon)], colour)


@dataclass(frozen=True)
class Course:
    """A road that runs to the horizon: at `y` its middle lies at `middle(y)`, its half width is `half(y)`."""

    start: float
    end: float
    bend: float
    width: float
    horizon: float

    def near(self, y: float) -> float:
        return (y - self.horizon) / (HEIGHT - self.horizon)

    def middle(self, y: float) -> float:
        near = self.near(y)
        return self.end + (self.start - self.end) * near + self.bend * near * (1 - near)

    def half(self, y: float) -> float:
        return 0.6 + self.width * self.near(y)


def road(world: World, course: Course) -> None:
    """A road in perspective: surface, perhaps kerbs, perhaps marks down the middle."""
    dice = world.dice
    brush = world.canvas.brush(ROAD, dice.pick((SPECKLE, PLAIN, MOTTLE)), dice.between(0.03, 0.2))
    colour = dice.tone(ROADS)
    rows = [world.horizon + 0.5 + step * (HEIGHT - world.horizon + 1) / 10 for step in range(11)]

    def strip(left: float, right: float, paint: Colour, rows: Sequence[float] = rows) -> None:
        """From `left` to `right`, in half widths of the road."""
        edge = [(course.middle(y) + left * course.half(y), y) for y in rows]
        back = [(course.middle(y) + right * course.half(y), y) for y in reversed(rows)]
        brush.polygon(edge + back, paint)

    strip(-1, 1, colour)
    if dice.chance(0.5):
        kerb = blend(colour, WHITE, dice.between(0.2, 0.5))
        strip(-1.08, -0.95, kerb)
        strip(0.95, 1.08, kerb)
    if dice.chance(0.7):
        paint = dice.pick([WHITE, WHITE, (214, 180, 70)])
        y = world.horizon + 2.0
        while y < HEIGHT:
            length = 0.8 + 6 * course.near(y)
            strip(-0.035, 0.035, paint, (y, y + length / 2, y + length))
            y += 2 * length


def street_across(world: World, top: float, bottom: float) -> None:
    """A road from the left edge to the right one."""
    dice = world.dice
    brush = world.canvas.brush(ROAD, dice.pick((SPECKLE, PLAIN, MOTTLE)), dice.between(0.03, 0.2))
    colour, middle = dice.tone(ROADS), (top + bottom) / 2
    brush.rectangle(0, top, WIDTH, bottom, colour)
    if dice.chance(0.6):
        brush.rectangle(0, top, WIDTH, top + 1.5, blend(colour, WHITE, 0.35))
    if dice.chance(0.7):
        paint, gap = dice.pick([WHITE, (214, 180, 70)]), dice.between(8, 14)
        for step in range(-1, 10):
            x = step * gap + dice.between(0, 1)
            brush.rectangle(x, middle - 0.4, x + gap * 0.5, middle + 0.5, paint)


# Buildings


def wall(brush: Brush, corners: Sequence[Point], colour: Colour, dice: Dice, floors: int, bays: int) -> None:
    """A wall with windows and a door; it may run away in perspective.

    Corners: top left, top right, bottom right, bottom left; the two sides are upright.
    """
    (left, left_top), (right, right_top), (_, right_foot), (_, left_foot) = corners

    def at(across: float, down: float) -> Point:
        top = left_top + (right_top - left_top) * across
        foot = left_foot + (right_foot - left_foot) * across
        return left + (right - left) * across, top + (foot - top) * down

    def pane(across: float, down: float, width: float, height: float, glass: Colour) -> None:
        end, foot = across + width, down + height
        brush.polygon([at(across, down), at(end, down), at(end, foot), at(across, foot)], glass)

    brush.polygon(corners, colour)
    glass = blend(dice.pick(PANES), colour, dice.between(0, 0.4))
    wide, high = dice.between(0.4, 0.65) / bays, dice.between(0.4, 0.6) / floors
    door = dice.whole(0, bays - 1)
    for floor in range(floors):
        for bay in range(bays):
            across, down = (bay + 0.5) / bays - wide / 2, (floor + 0.28) / floors
            if floor == floors - 1 and bay == door:
                pane(across, 1 - 0.7 / floors, wide, 0.7 / floors, shade(glass, 0.6))
            else:
                pane(across, down, wide, high, glass)


def masonry(world: World) -> Brush:
    """A brush for one building."""
    dice = world.dice
    return world.canvas.brush(BUILDING, dice.pick((COURSES, PLAIN, SPECKLE)), dice.between(0.04, 0.25))


def house(world: World, x: float, y: float, size: float) -> None:
    """A house; its gable looks at us and one side is seen at an angle, or its roof slopes towards us.

    `size` is the height of its wall.
    """
    dice, light = world.dice, world.light
    half, rise, way = dice.between(0.55, 0.9), dice.between(0.45, 0.8), dice.side()
    world.canvas.shadow(x - light.sun * size * 0.4, y, size * half * 2.6, size * 0.25, light.shadow)
    colour, roof = dice.tone(WALLS), dice.tone(ROOFS)
    brush = masonry(world).at(x, y, size, way)
    front = [(-half, 1.0), (half, 1.0), (half, 0.0), (-half, 0.0)]
    if dice.chance(0.5):
        back = half * dice.between(1.8, 2.6)
        aside, ahead = light.face(colour, way), light.face(colour, -way)
        wall(brush, [(half, 1), (back, 1), (back, 0.06), (half, 0)], aside, dice, 1, 2)
        wall(brush, front, ahead, dice, dice.whole(1, 2), dice.whole(2, 3))
        brush.polygon([(-half, 1), (0, 1 + rise), (half, 1)], ahead)
        slope = [(0, 1 + rise), (back - half, 1 + rise), (back + 0.1, 0.9), (half + 0.1, 0.9)]
        brush.polygon(slope, light.face(roof, way))
    else:
        ridge = half * dice.between(0.4, 1)
        wall(brush, front, shade(colour, 0.95), dice, dice.whole(1, 2), dice.whole(2, 4))
        brush.polygon([(-half - 0.1, 0.9), (-ridge, 1 + rise), (ridge, 1 + rise), (half + 0.1, 0.9)], roof)
    if dice.chance(0.6):
        chimney = dice.between(0, 0.4) * half
        brush.rectangle(chimney, 1 + rise * 1.2, chimney + 0.14, 1 + rise * 0.5, shade(roof, 0.8))


def block(world: World, left: float, right: float, foot: float, height: float) -> None:
    """One front in a row of town houses, between two x; the roofs differ."""
    dice, brush = world.dice, masonry(world)
    colour, roof, kind = dice.tone(WALLS), dice.tone(ROOFS), dice.whole(0, 3)
    top, width = foot - height, right - left
    if kind == 0:  # a gable
        brush.polygon([(left, top), ((left + right) / 2, top - width * 0.45), (right, top)], colour)
    elif kind == 1:  # a slope
        inset = width * 0.1
        brush.polygon([(left, top), (left + inset, top - 5), (right - inset, top - 5), (right, top)], roof)
    elif kind == 2:  # a cornice
        brush.rectangle(left - 0.5, top - 1.5, right + 0.5, top, shade(colour, 0.7))
    corners = [(left, top), (right, top), (right, foot), (left, foot)]
    wall(brush, corners, colour, dice, max(1, round(height / 8)), max(1, round(width / 6)))
    if dice.chance(0.4):  # an awning over the shop
        awning = [(left + 1, foot - 6), (right - 1, foot - 6), (right, foot - 4), (left, foot - 4)]
        brush.polygon(awning, dice.pick(PAINTS))


def skyline(world: World, foot: float, lowest: float, highest: float) -> None:
    """A row of fronts from edge to edge, with a gap here and there."""
    dice, x = world.dice, -world.dice.between(0, 8)
    while x < WIDTH:
        width = dice.between(9, 20)
        if dice.chance(0.88):
            block(world, x, x + width, foot, dice.between(lowest, highest))
        x += width


def terrace(world: World, course: Course, side: int) -> None:
    """Houses along one side of a road that runs to the horizon, drawn from far to near."""
    dice = world.dice
    gap, near = dice.between(1.08, 1.3), 0.1
    while near < 1.6:
        far, near = near, near * dice.between(1.5, 2.1) + 0.03
        brush, height = masonry(world), dice.between(22, 46)
        feet, tops = [], []
        for share in (near, far) if side < 0 else (far, near):
            y = world.horizon + share * (HEIGHT - world.horizon)
            x = course.middle(y) + side * (gap * course.half(y) + 1)
            feet.append((x, y))
            tops.append((x, y - height * share - 4))
        if dice.chance(0.5):  # a roof that slopes away from the road
            rise = dice.between(0.1, 0.3)
            ridge = []
            for (x, top), (_, foot) in zip(tops, feet, strict=True):
                ridge.append((x + side * (foot - top) * 0.08, top - (foot - top) * rise))
            brush.polygon([*tops, *reversed(ridge)], dice.tone(ROOFS))
        colour = world.light.face(dice.tone(WALLS), -side)
        wall(brush, [*tops, *reversed(feet)], colour, dice, dice.whole(2, 4), dice.whole(2, 3))


# Plants


def tree(world: World, x: float, y: float, size: float) -> None:
    """A leafy tree, a conifer or a poplar; `size` is its height."""
    dice, sun = world.dice, world.light.sun
    world.canvas.shadow(x - sun * size * 0.25, y, size * 0.8, size * 0.12, world.light.shadow)
    texture = dice.pick((LEAFY, LEAFY, MOTTLE))
    brush = world.canvas.brush(TREE, texture, dice.between(0.15, 0.5)).at(x, y, size, sun)
    bark = dice.tone(BARKS, 10)
    brush.polygon([(-0.045, 0.6), (0.045, 0.6), (0.07, 0), (-0.07, 0)], bark)
    colour, kind = dice.tone(LEAVES), dice.random()
    if kind < 0.3:
        conifer(brush, colour, dice)
    elif kind < 0.45:
        half = dice.between(0.14, 0.2)
        brush.ellipse(-half, 1, half, 0.12, shade(colour, 0.8))
        brush.ellipse(-half * 0.1, 0.95, half * 0.9, 0.2, colour)
    else:
        crown(brush, 0.64, 0.36, colour, dice)


def conifer(brush: Brush, colour: Colour, dice: Dice) -> None:
    """Tiers of branches, the sunny half of each lighter."""
    tiers, half = dice.whole(3, 4), dice.between(0.22, 0.32)
    for tier in range(tiers):
        low, reach = 0.12 + 0.62 * tier / tiers, half * (1 - 0.7 * tier / tiers)
        peak = (0, min(1, low + 0.42))
        brush.polygon([peak, (reach, low), (-reach, low)], shade(colour, 0.78))
        brush.polygon([peak, (reach, low), (reach * 0.1, low)], colour)


def crown(brush: Brush, middle: float, radius: float, colour: Colour, dice: Dice) -> None:
    """Clumps of leaves about a middle, each drawn dark, then smaller and lighter towards the sun."""
    clumps = [(dice.between(0, 6.3), dice.between(0.3, 0.65), dice.between(0.4, 0.62)) for _ in range(6)]
    for lit, light in ((0.0, 0.72), (0.22, 1.0), (0.4, 1.18)):
        for angle, reach, size in clumps:
            x = radius * (reach * math.cos(angle) + lit * 0.6)
            y = middle + radius * (reach * math.sin(angle) + lit * 0.7)
            brush.disc(x, y, radius * size * (1 - lit), shade(colour, light))


def bush(world: World, x: float, y: float, size: float) -> None:
    """A bush; for the labels it is a tree. `size` is its height."""
    dice = world.dice
    world.canvas.shadow(x, y, size * 1.6, size * 0.3, world.light.shadow)
    brush = world.canvas.brush(TREE, LEAFY, dice.between(0.15, 0.45)).at(x, y, size, world.light.sun)
    colour = dice.tone(LEAVES)
    brush.rectangle(-0.4, 0.3, 0.4, 0, shade(colour, 0.7))
    crown(brush, 0.45, 0.6, colour, dice)


# Things that move


def car(world: World, x: float, y: float, size: float) -> None:
    """A car or a van from the side; `size` is its length."""
    dice = world.dice
    world.canvas.shadow(x, y, size * 1.1, size * 0.14, world.light.shadow + 0.15)
    brush = world.canvas.brush(CAR).at(x, y, size, dice.side())
    paint, glass = dice.tone(PAINTS), blend(GLASS, world.light.haze, dice.between(0, 0.5))
    belt, high, tail = 0.23, dice.between(0.37, 0.43), -dice.between(0.3, 0.46)
    nose, front, back = dice.between(0.2, 0.26), 0.1, tail + 0.11
    if dice.chance(0.25):  # a van
        high, tail, nose, front, back = high + 0.08, -0.48, 0.33, 0.25, -0.46
    eave = high - 0.035
    brush.polygon([(nose, belt), (front, high), (back, high), (tail, belt)], paint)
    brush.polygon([(nose - 0.05, belt), (front - 0.03, eave), (0.01, eave), (0.01, belt)], glass)
    brush.polygon([(-0.04, belt), (-0.04, eave), (back + 0.03, eave), (tail + 0.07, belt)], glass)
    brush.rectangle(-0.5, belt, 0.5, 0.07, paint)
    brush.rectangle(-0.5, 0.13, 0.5, 0.07, shade(paint, 0.72))
    brush.disc(0.47, 0.18, 0.03, (246, 236, 190))
    brush.disc(-0.47, 0.18, 0.03, (190, 40, 34))
    for wheel in (-0.29, 0.29):
        brush.disc(wheel, 0.1, 0.1, DARK)
        brush.disc(wheel, 0.1, 0.045, (150, 150, 150))


def car_ahead(world: World, x: float, y: float, size: float) -> None:
    """A car from behind or from the front; `size` is the length it would have from the side."""
    dice = world.dice
    world.canvas.shadow(x, y, size * 0.72, size * 0.14, world.light.shadow + 0.15)
    brush = world.canvas.brush(CAR).at(x, y, size)
    paint, glass = dice.tone(PAINTS), blend(GLASS, world.light.haze, dice.between(0, 0.5))
    high, belt, behind = dice.between(0.43, 0.52), 0.26, dice.chance(0.5)
    lamp: Colour = (196, 36, 30) if behind else (246, 238, 196)
    for wheel in (-0.21, 0.21):
        brush.rectangle(wheel - 0.05, 0.14, wheel + 0.05, 0, DARK)
    brush.polygon([(-0.25, belt), (-0.18, high), (0.18, high), (0.25, belt)], paint)
    brush.polygon([(-0.2, belt), (-0.15, high - 0.04), (0.15, high - 0.04), (0.2, belt)], glass)
    brush.rectangle(-0.29, belt, 0.29, 0.07, paint)
    brush.rectangle(-0.29, 0.12, 0.29, 0.07, shade(paint, 0.65))
    for side in (-1, 1):
        brush.ellipse(side * 0.22 - 0.05, 0.23, side * 0.22 + 0.05, 0.17, lamp)
    brush.rectangle(-0.08, 0.19, 0.08, 0.15, WHITE if behind else DARK)


def person(world: World, x: float, y: float, size: float) -> None:
    """Somebody, standing or walking, in trousers or a skirt; `size` is the height."""
    dice, sun = world.dice, world.light.sun
    world.canvas.shadow(x - sun * size * 0.1, y, size * 0.5, size * 0.09, world.light.shadow)
    brush = world.canvas.brush(PERSON).at(x, y, size, dice.side())
    coat, legs, skin = dice.tone(CLOTHES), dice.tone(CLOTHES), dice.tone(SKINS, 8)
    wide, stride = dice.between(0.14, 0.2), dice.between(0.03, 0.13)
    brush.line([(-wide * 0.45, 0.46), (-stride - wide * 0.3, 0)], 0.12, shade(legs, 0.8))
    brush.line([(wide * 0.45, 0.46), (stride + wide * 0.3, 0)], 0.12, legs)
    if dice.chance(0.3):
        brush.polygon([(-wide, 0.5), (wide, 0.5), (wide * 1.35, 0.2), (-wide * 1.35, 0.2)], coat)
    for side in (-1, 1):
        hand = (side * (wide + dice.between(0.02, 0.14)), dice.between(0.42, 0.75))
        brush.line([(side * wide * 0.8, 0.78), hand], 0.08, shade(coat, 0.85))
        brush.disc(*hand, 0.04, skin)
    brush.polygon([(-wide, 0.82), (wide, 0.82), (wide * 0.85, 0.44), (-wide * 0.85, 0.44)], coat)
    brush.disc(0, 0.89, 0.115, skin)
    brush.ellipse(-0.12, 1.02, 0.12, 0.91, dice.tone(HAIRS))


def animal(world: World, x: float, y: float, size: float) -> None:
    """A sheep, or something with a longer neck: a cow, a horse, a dog; `size` is its length."""
    dice = world.dice
    world.canvas.shadow(x, y, size, size * 0.14, world.light.shadow)
    texture = dice.pick((PLAIN, MOTTLE, SPECKLE))
    brush = world.canvas.brush(ANIMAL, texture, dice.between(0, 0.3)).at(x, y, size, dice.side())
    fur, sheep, head = dice.tone(FURS, 12), dice.chance(0.35), dice.between(0.45, 0.8)
    for leg in (-0.32, -0.19, 0.19, 0.32):
        brush.line([(leg, 0.3), (leg, 0)], 0.085, DARK if sheep else shade(fur, 0.7))
    if sheep:
        for clump in (-0.27, -0.1, 0.1, 0.27):
            brush.disc(clump, dice.between(0.4, 0.48), 0.2, fur)
        brush.ellipse(0.41, head + 0.09, 0.61, head - 0.13, DARK)
        return
    brush.ellipse(-0.43, 0.68, 0.43, 0.26, fur)
    brush.rectangle(-0.38, 0.64, 0.38, 0.34, fur)
    if dice.chance(0.5):
        patch = dice.tone(FURS, 8)
        for _ in range(dice.whole(1, 3)):
            left, top = dice.between(-0.34, 0.2), dice.between(0.53, 0.65)
            brush.ellipse(left, top, left + dice.between(0.12, 0.24), top - dice.between(0.1, 0.2), patch)
    brush.line([(0.3, 0.54), (0.51, head)], 0.17, fur)
    brush.ellipse(0.38, head + 0.09, 0.64, head - 0.1, fur)
    brush.disc(0.43, head + 0.1, 0.04, shade(fur, 0.6))
    brush.line([(-0.4, 0.58), (-0.5, 0.26)], 0.05, shade(fur, 0.7))


def boat(world: World, x: float, y: float, size: float) -> None:
    """A sailing boat, a motor boat or a rowing boat on the water line `y`; `size` is its length."""
    dice = world.dice
    world.canvas.shadow(x, y + size * 0.05, size * 0.95, size * 0.14, world.light.shadow * 0.8)
    brush = world.canvas.brush(BOAT).at(x, y, size, dice.side())
    paint, deck, kind = dice.tone(PAINTS), dice.between(0.17, 0.25), dice.random()
    if kind < 0.55:
        mast, sail = dice.between(1.0, 1.3), dice.tone(SAILS, 10)
        brush.rectangle(-0.02, mast, 0.02, deck, DARK)
        brush.polygon([(-0.02, mast - 0.03), (-0.43, deck + 0.04), (-0.02, deck + 0.04)], sail)
        brush.polygon([(0.03, mast - 0.07), (0.4, deck + 0.04), (0.03, deck + 0.04)], shade(sail, 0.82))
    elif kind < 0.85:
        top = deck + dice.between(0.2, 0.32)
        brush.rectangle(-0.2, top + 0.16, -0.07, top, dice.pick(PAINTS))
        brush.polygon([(-0.35, deck), (-0.35, top), (0.1, top), (0.2, deck)], dice.tone(SAILS, 10))
        brush.rectangle(-0.28, top - 0.05, 0.08, top - 0.13, GLASS)
    brush.polygon([(-0.46, deck), (0.5, deck + 0.03), (0.34, 0), (-0.37, 0)], paint)
    stripe = [(-0.46, deck), (0.5, deck + 0.03), (0.46, deck - 0.05), (-0.45, deck - 0.05)]
    brush.polygon(stripe, blend(paint, WHITE, 0.6))


# Things made to be seen, and things nobody looks at


def sign(world: World, x: float, y: float, size: float) -> None:
    """A traffic sign or a board on a pole; `size` is the height. The pole is not a part of the class."""
    dice, kind = world.dice, world.dice.whole(0, 5)
    world.canvas.shadow(x, y, 5, 1.5, world.light.shadow)
    ground = dice.pick(PLATES)
    inner = dice.pick([(190, 40, 36), DARK] if ground == WHITE else [(222, 182, 44), DARK, WHITE])
    radius = dice.between(0.25, 0.31)
    world.canvas.brush(OTHER).at(x, y, size).rectangle(-0.025, 1 - radius, 0.025, 0, (142, 142, 146))
    # from here on the plate is the thing: its middle is the origin, its radius the unit
    plate = world.canvas.brush(SIGN).at(x, y - size * (1 - radius), size * radius)
    if kind == 0:  # a ban or a speed limit
        plate.disc(0, 0, 1, ground)
        plate.disc(0, 0, 0.7, inner)
        plate.rectangle(-0.4, 0.16, 0.4, -0.16, ground)
    elif kind in (1, 2):  # a triangle that warns, on its foot or on its tip
        tip = 1 if kind == 1 else -1
        for reach, paint in ((1.15, ground), (0.62, inner)):
            corners = [(0, tip * reach), (reach, -tip * reach * 0.8), (-reach, -tip * reach * 0.8)]
            plate.polygon(corners, paint)
    elif kind == 3:  # stop
        angles = [math.pi * (corner + 0.5) / 4 for corner in range(8)]
        plate.polygon([(math.cos(angle), math.sin(angle)) for angle in angles], ground)
        plate.rectangle(-0.65, 0.22, 0.65, -0.22, inner)
    else:
        wide = dice.between(0.9, 1.6)
        plate.rectangle(-wide, 0.95, wide, -0.95, inner)
        plate.rectangle(-wide + 0.1, 0.85, wide - 0.1, -0.85, ground)
        for row in (0.5, 0.05, -0.4):
            plate.rectangle(-wide * 0.65, row, wide * dice.between(0, 0.65), row - 0.14, inner)


def clutter(world: World, x: float, y: float, size: float) -> None:
    """What no class names: a lamp, a bin, a bench, a fence or a rock; `size` is the height of a lamp."""
    dice, kind = world.dice, world.dice.whole(0, 4)
    world.canvas.shadow(x, y, size * 0.3, size * 0.06, world.light.shadow)
    brush, colour = world.canvas.brush(OTHER).at(x, y, size), dice.tone(METALS)
    if kind == 0:
        brush.rectangle(-0.025, 1, 0.025, 0, colour)
        brush.ellipse(-0.09, 1.04, 0.09, 0.92, (240, 228, 180))
    elif kind == 1:
        brush.rectangle(-0.1, 0.26, 0.1, 0, colour)
        brush.ellipse(-0.12, 0.31, 0.12, 0.22, shade(colour, 0.7))
    elif kind == 2:
        for side in (-0.24, 0.24):
            brush.rectangle(side - 0.02, 0.28, side + 0.02, 0, shade(colour, 0.6))
        for bar in (0.16, 0.28):
            brush.rectangle(-0.3, bar, 0.3, bar - 0.07, colour)
    elif kind == 3:
        for bar in (0.14, 0.28):
            brush.rectangle(-0.6, bar, 0.6, bar - 0.04, colour)
        for post in (-0.5, 0, 0.5):
            brush.rectangle(post - 0.03, 0.34, post + 0.03, 0, colour)
    else:
        brush.ellipse(-0.22, 0.2, 0.22, -0.04, (120, 118, 114))
        brush.ellipse(-0.14, 0.2, 0.16, 0.06, (150, 148, 144))


def in_the_air(world: World) -> None:
    """Birds, or a balloon."""
    dice = world.dice
    brush = world.canvas.brush(OTHER)
    if dice.chance(0.35):
        brush, paint = (
            brush.at(dice.between(8, 72), dice.between(7, 13), dice.between(4, 6)),
            dice.tone(PAINTS),
        )
        brush.disc(0, 0, 1, paint)
        brush.ellipse(-0.4, 1, 0.4, -1, blend(paint, WHITE, 0.6))
        brush.polygon([(-0.7, -0.7), (0.7, -0.7), (0, -1.5)], shade(paint, 0.7))
        brush.rectangle(-0.25, -1.5, 0.25, -1.9, (96, 70, 46))
        return
    for _ in range(dice.whole(2, 5)):
        x, y = dice.between(4, 76), dice.between(2, world.horizon * 0.6)
        brush.line([(x - 2, y - 1), (x, y + 0.4), (x + 2, y - 1)], 0.8, (52, 50, 56))
