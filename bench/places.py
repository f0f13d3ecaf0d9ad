"""Places: the kinds of scene of the workload `mini`, each a setting and the things that stand in it.

Only sensible ones: boats float, cars keep to the road, no road runs through a lake.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.brush import HEIGHT, Canvas, Dice, Light, blend, shade
from bench.scenery import (
    WHITE,
    Course,
    World,
    animal,
    boat,
    bush,
    car,
    car_ahead,
    clutter,
    hills,
    house,
    in_the_air,
    lake,
    lawn,
    person,
    road,
    sign,
    sky,
    skyline,
    street_across,
    terrace,
    tree,
)

Thing = Callable[[World, float, float, float], None]
Range = tuple[float, float]


class Cast:
    """The things of a scene: gathered first, then drawn from far to near."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.parts: list[tuple[float, Thing, float, float]] = []

    def add(self, thing: Thing, x: float, y: float, size: float) -> None:
        self.parts.append((y, thing, x, size * self.world.scale(y)))

    def scatter(self, thing: Thing, count: int, rows: Range, size: Range, columns: Range = (4, 76)) -> None:
        """`count` things between two y and two x, in a column each: so they seldom hide one another."""
        dice, (left, right) = self.world.dice, columns
        width = (right - left) / max(1, count)
        for column in range(count):
            self.add(
                thing,
                left + width * (column + dice.between(0.1, 0.9)),
                dice.between(*rows),
                dice.between(*size),
            )

    def beside(self, thing: Thing, count: int, course: Course, size: Range, gap: Range = (1.15, 1.5)) -> None:
        """`count` things along the sides of a road."""
        dice = self.world.dice
        for _ in range(count):
            y = course.horizon + dice.between(0.3, 1.0) * (HEIGHT - course.horizon)
            self.add(
                thing,
                course.middle(y) + dice.side() * course.half(y) * dice.between(*gap),
                y,
                dice.between(*size),
            )

    def on(self, thing: Thing, course: Course, lanes: Sequence[float], size: Range) -> None:
        """One thing a lane, lanes in half widths of the road."""
        dice = self.world.dice
        for lane in lanes:
            y = course.horizon + dice.between(0.4, 0.95) * (HEIGHT - course.horizon)
            self.add(thing, course.middle(y) + lane * course.half(y), y, dice.between(*size))

    def play(self) -> None:
        for y, thing, x, size in sorted(self.parts, key=lambda part: part[0]):
            thing(self.world, x, y, size)


# Heights of people, signs and trees, lengths of cars, animals and boats: pixels, at the lower edge
PERSONS, SIGNS, TREES = (21.0, 31.0), (27.0, 37.0), (32.0, 54.0)
CARS, ANIMALS, BOATS = (29.0, 40.0), (24.0, 34.0), (30.0, 46.0)


def town_street(world: World) -> None:
    """A street between two rows of houses, or between houses and trees."""
    dice = world.dice
    course = Course(dice.between(30, 50), dice.between(30, 50), 0, dice.between(22, 34), world.horizon)
    if dice.chance(0.5):
        hills(world)
    lawn(world)
    road(world, course)
    cast, both = Cast(world), dice.chance(0.6)
    lined = (-1, 1) if both else (dice.side(),)
    for side in lined:
        terrace(world, course, side)
    if not both:
        cast.beside(tree, dice.whole(2, 4), course, TREES, (1.4, 1.8))
    lanes = [-0.5, 0.5] if dice.chance(0.45) else [dice.pick((-0.5, 0.5))]
    cast.on(car_ahead, course, lanes, CARS)
    cast.beside(person, dice.whole(1, 3), course, PERSONS, (0.8, 1.15))
    cast.beside(sign, dice.whole(1, 2), course, SIGNS, (1.0, 1.2))
    cast.beside(animal, dice.whole(0, 1), course, (16, 21), (0.9, 1.1))
    cast.beside(clutter, dice.whole(0, 3), course, (22, 30), (1.2, 1.5))
    cast.play()


def row_of_houses(world: World) -> None:
    """Fronts behind a road that runs across."""
    dice, foot = world.dice, world.horizon + world.dice.between(4, 8)
    if dice.chance(0.4):
        hills(world)
    lawn(world)
    skyline(world, foot, 9, foot - 4)
    top = foot + dice.between(1, 7)
    bottom = min(HEIGHT - 4, top + dice.between(15, 22))
    street_across(world, top, bottom)
    cast = Cast(world)
    cast.scatter(car, dice.whole(1, 2), (top + 7, bottom - 1), CARS)
    cast.scatter(person, dice.whole(1, 3), (bottom, HEIGHT), PERSONS)
    cast.scatter(sign, dice.whole(0, 2), (bottom, bottom + 4), SIGNS)
    cast.scatter(tree, dice.whole(1, 3), (top - 1, top), TREES)
    cast.scatter(bush, dice.whole(0, 2), (bottom, HEIGHT + 2), (9, 14))
    cast.scatter(animal, dice.whole(0, 1), (bottom, HEIGHT), (17, 24))
    cast.scatter(clutter, dice.whole(0, 3), (bottom, HEIGHT), (22, 30))
    cast.play()


def country_road(world: World) -> None:
    """A bending road through meadows, with cattle and now and then a farm."""
    dice = world.dice
    hills(world)
    lawn(world)
    course = Course(
        dice.between(10, 70), dice.between(20, 60), dice.between(-18, 18), dice.between(16, 27), world.horizon
    )
    road(world, course)
    cast, pasture = Cast(world), dice.side()
    cast.scatter(tree, dice.whole(0, 3), (world.horizon + 2, world.horizon + 6), TREES)
    cast.beside(tree, dice.whole(0, 2), course, TREES, (1.6, 3.0))
    if dice.chance(0.5):
        cast.beside(house, 1, course, (22, 30), (2.4, 3.2))
    cast.on(car_ahead, course, [dice.pick((-0.25, 0.25))] if dice.chance(0.7) else [], CARS)
    cast.beside(sign, dice.whole(0, 2), course, SIGNS, (1.1, 1.4))
    cast.beside(person, dice.whole(0, 1), course, PERSONS, (1.0, 1.4))
    columns = (4, course.start - 14) if pasture < 0 else (course.start + 14, 76)
    if columns[1] - columns[0] > 12:
        cast.scatter(animal, dice.whole(1, 3), (world.horizon + 8, HEIGHT - 1), ANIMALS, columns)
    cast.play()


def lakeside(world: World) -> None:
    """A lake below hills, with people and animals on the near bank."""
    dice = world.dice
    hills(world)
    lawn(world)
    shore = dice.between(world.horizon + 15, HEIGHT - 6)
    if dice.chance(0.4):
        far = Cast(world)
        far.scatter(house, dice.whole(1, 2), (world.horizon + 1, world.horizon + 2), (16, 24))
        far.scatter(tree, dice.whole(1, 3), (world.horizon + 1, world.horizon + 2), TREES)
        far.play()
    lake(world, shore)
    cast = Cast(world)
    cast.scatter(boat, dice.whole(1, 3), (world.horizon + 7, shore - 1), BOATS)
    cast.scatter(tree, dice.whole(0, 2), (shore + 2, HEIGHT + 3), TREES)
    cast.scatter(bush, dice.whole(0, 2), (shore + 4, HEIGHT + 3), (10, 16))
    cast.scatter(person, dice.whole(0, 2), (shore + 2, HEIGHT), PERSONS)
    cast.scatter(animal, dice.whole(0, 3), (shore + 3, HEIGHT), ANIMALS)
    cast.scatter(sign, dice.whole(0, 1), (shore + 2, HEIGHT), SIGNS)
    cast.scatter(clutter, dice.whole(0, 2), (shore + 2, HEIGHT), (20, 28))
    cast.play()


def quay(world: World) -> None:
    """A road along the water; a town or hills on the far bank."""
    dice = world.dice
    if dice.chance(0.75):
        hills(world)
    if dice.chance(0.5):
        skyline(world, world.horizon + 1, 6, 15)
    lawn(world)
    shore = dice.between(world.horizon + 11, world.horizon + 16)
    lake(world, shore)
    top = shore + dice.between(2, 5)
    cast = Cast(world)
    cast.scatter(boat, dice.whole(1, 2), (world.horizon + 7, shore - 2), BOATS)
    cast.play()
    street_across(world, top, HEIGHT if dice.chance(0.4) else HEIGHT - dice.between(3, 8))
    cast = Cast(world)
    cast.scatter(car, dice.whole(0, 2), (top + 7, HEIGHT - 4), CARS)
    cast.scatter(person, dice.whole(0, 2), (top + 4, HEIGHT), PERSONS)
    cast.scatter(sign, dice.whole(0, 2), (top, top + 3), SIGNS)
    cast.scatter(tree, dice.whole(0, 2), (top, top + 1), TREES)
    cast.scatter(clutter, dice.whole(0, 3), (top, top + 2), (20, 28))
    cast.play()


def meadow(world: World) -> None:
    """A park or a pasture: trees, animals, people, perhaps a house."""
    dice = world.dice
    if dice.chance(0.8):
        hills(world)
    lawn(world)
    cast = Cast(world)
    cast.scatter(tree, dice.whole(2, 5), (world.horizon + 2, world.horizon + 10), TREES)
    cast.scatter(house, dice.whole(0, 1), (world.horizon + 4, world.horizon + 10), (22, 30))
    cast.scatter(bush, dice.whole(0, 2), (world.horizon + 8, HEIGHT + 3), (10, 16))
    cast.scatter(animal, dice.whole(1, 3), (world.horizon + 10, HEIGHT - 1), ANIMALS)
    cast.scatter(person, dice.whole(0, 2), (world.horizon + 10, HEIGHT - 1), PERSONS)
    cast.scatter(sign, dice.whole(0, 1), (world.horizon + 10, HEIGHT - 1), SIGNS)
    cast.scatter(clutter, dice.whole(0, 3), (world.horizon + 8, HEIGHT - 1), (20, 28))
    cast.play()


# In about the proportions in which they are drawn
KINDS = (
    [town_street] * 5 + [row_of_houses] * 5 + [country_road] * 3 + [lakeside] * 6 + [quay] * 5 + [meadow] * 2
)


def weather(dice: Dice) -> Light:
    """A clear day, an overcast one, dusk or mist."""
    sun, kind = dice.side(), dice.random()
    shadow = dice.between(0.25, 0.45)
    if kind < 0.45:
        zenith, haze = (
            dice.tone([(92, 146, 208), (116, 160, 204), (74, 124, 190)]),
            dice.tone([(196, 216, 230), (176, 204, 226)]),
        )
        return Light(sun, zenith, haze, (1.02, 1.0, 0.97), 1.0, shadow)
    if kind < 0.7:
        gray = dice.tone([(164, 168, 174), (140, 146, 154), (190, 192, 194)])
        return Light(sun, gray, blend(gray, WHITE, 0.4), (0.94, 0.95, 0.97), dice.between(0.5, 0.8), 0.15)
    if kind < 0.88:
        zenith, haze = (
            dice.tone([(96, 100, 150), (128, 104, 140), (74, 84, 124)]),
            dice.tone([(236, 176, 128), (222, 150, 130), (240, 200, 150)]),
        )
        return Light(sun, zenith, haze, (0.92, 0.76, 0.7), 0.9, shadow)
    haze = dice.tone([(206, 206, 204), (190, 198, 204)])
    return Light(sun, shade(haze, 0.95), haze, (1.0, 1.0, 1.0), dice.between(0.4, 0.7), 0.1)


def compose(dice: Dice) -> World:
    """One scene of some kind, drawn; its canvas and its light give the picture."""
    kind = dice.pick(KINDS)
    world = World(Canvas(), dice, weather(dice), dice.between(17, 26))
    sky(world)
    if dice.chance(0.3):
        in_the_air(world)
    kind(world)
    return world
