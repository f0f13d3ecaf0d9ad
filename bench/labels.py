"""Where a label goes: near what it names, and where nothing else is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from bench.ink import GREY


def name_ends(axes: Axes, lines: Sequence[tuple[float, float, str, str]], scale: float) -> None:
    """Names at the right ends of lines, pushed apart where the ends are close."""
    heights = [float(axes.transData.transform((x, y))[1]) / scale for x, y, _, _ in lines]
    for (x, y, text, color), old, new in zip(lines, heights, spread_out(heights, 12), strict=True):
        axes.annotate(
            text,
            (x, y),
            (7, new - old),
            textcoords="offset points",
            va="center",
            color="#59636d" if color == GREY else color,
            fontweight="bold",
            fontsize=8.5,
            annotation_clip=False,
        )


def settled(figure: Figure) -> Figure:
    """The figure with its layout done, so that pixels mean something."""
    figure.draw_without_rendering()
    return figure


def figure_of(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def spread_out(heights: Sequence[float], gap: float) -> list[float]:
    """The heights moved as little as makes neighbours at least `gap` apart, in the same order: a monotone fit
    to what is left of them when each has given up the gaps below it."""
    order = np.argsort(heights, kind="stable")
    room = gap * np.arange(len(heights))
    moved = np.empty(len(heights))
    moved[order] = isotonic_regression(np.asarray(heights)[order] - room).x + room
    return [float(height) for height in moved]


def place_labels(
    axes: Axes, points: Sequence[tuple[float, float, str]], lines: Sequence[tuple[Any, Any]] = ()
) -> None:
    """Write the text of each (x, y, text) near its point where it covers neither points, lines nor other
    texts; a thin leader shows the way where there was no room close by."""
    scale = settled(figure_of(axes)).dpi / 72
    frame = axes.get_window_extent()
    spots = axes.transData.transform([(x, y) for x, y, _ in points])
    taken = [_box(x, y, 9 * scale, 9 * scale) for x, y in spots]
    ink = np.concatenate(
        [spots, *(_trace(axes.transData.transform(np.column_stack(line))) for line in lines)]
    )
    for index, ((x, y, text), spot) in enumerate(zip(points, spots, strict=True)):
        note = axes.annotate(
            text, (x, y), (0, 0), textcoords="offset points", ha="center", va="center", fontsize=8.5, zorder=5
        )
        extent = note.get_window_extent()
        size = extent.width + 3 * scale, extent.height + scale
        places = [Place(spot, shift, *size, scale) for shift in _candidates(*size, scale)]
        others = np.delete(spots, index, axis=0)
        best = min(places, key=lambda place: place.cost(others, taken, ink, frame))
        taken.append(best.box)
        note.xyann = (best.shift[0] / scale, best.shift[1] / scale)
        if best.gap > 11 * scale:
            ends = axes.transData.inverted().transform([spot, best.edge])
            axes.plot(*ends.T, color=GREY, linewidth=0.6, zorder=1, scalex=False, scaley=False)


Box = tuple[float, float, float, float]


def _box(x: float, y: float, wide: float, high: float) -> Box:
    return x - wide / 2, y - high / 2, x + wide / 2, y + high / 2


def _trace(corners: Any) -> Any:
    """Points a few pixels apart along a line."""
    pieces = [corners[:1]]
    for start, end in zip(corners, corners[1:], strict=False):
        count = max(1, int(np.hypot(*(end - start)) / 4))
        pieces.append(start + (end - start) * np.linspace(0, 1, count + 1)[1:, None])
    return np.concatenate(pieces)


def _candidates(wide: float, high: float, scale: float) -> list[tuple[float, float]]:
    """Offsets of a text's centre from its point: right, left, above, below and between, near before far."""
    found = []
    for distance in (7, 13, 20, 30, 42, 58):
        for turn in range(24):
            x, y = math.cos(turn * math.pi / 12), math.sin(turn * math.pi / 12)
            reach = distance * scale
            found.append((x * reach + x * wide / 2, y * reach + y * high / 2))
    return found


@dataclass(frozen=True)
class Place:
    """A text of `wide` x `high` pixels whose centre is `shift` away from its point at `spot`."""

    spot: Any
    shift: tuple[float, float]
    wide: float
    high: float
    scale: float

    @property
    def box(self) -> Box:
        return _box(self.spot[0] + self.shift[0], self.spot[1] + self.shift[1], self.wide, self.high)

    @property
    def edge(self) -> tuple[float, float]:
        """The point of the box that is nearest to the spot."""
        left, bottom, right, top = self.box
        return min(max(self.spot[0], left), right), min(max(self.spot[1], bottom), top)

    @property
    def gap(self) -> float:
        return math.hypot(self.edge[0] - self.spot[0], self.edge[1] - self.spot[1])

    def cost(self, others: Any, taken: Sequence[Box], ink: Any, frame: Any) -> float:
        """How bad the place is: what text covers, what lies between it and its point, and whether another
        point lies nearer counts most, then the distance."""
        left, bottom, right, top = self.box
        covered = sum(_shared(self.box, other) for other in taken)
        crossed = ((ink > (left, bottom)) & (ink < (right, top))).all(1).sum()
        outside = max(0.0, frame.x0 - left) + max(0.0, right - frame.x1)
        outside += max(0.0, frame.y0 - bottom) + max(0.0, top - frame.y1)
        way = np.linspace(self.spot, self.edge, 12)[:-1]
        leader = way[np.hypot(*(way - self.spot).T) > 6 * self.scale]  # what is nearer is the mark itself
        hits = sum((np.abs(ink - at) < 2 * self.scale).all(1).any() for at in leader)
        hits += sum(((leader > box[:2]) & (leader < box[2:])).all(1).sum() for box in taken[:-1])
        middle = np.add(self.spot, self.shift)
        nearer = np.hypot(*(others - middle).T) < math.hypot(*self.shift) + 2 * self.scale
        hits += 2 * nearer.sum()
        return float(10 * covered + 60 * crossed + 50 * outside + 40 * hits + 4 * self.gap / self.scale)


def _shared(a: Box, b: Box) -> float:
    """Area that two boxes share, in square pixels."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
