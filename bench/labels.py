"""Where a label goes: near what it names, and where nothing else is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression
from scipy.spatial import cKDTree

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
    taken = list(_boxes(spots, 9 * scale, 9 * scale))
    ink = np.concatenate(
        [spots, *(_trace(axes.transData.transform(np.column_stack(line))) for line in lines)]
    )
    for index, ((x, y, text), spot) in enumerate(zip(points, spots, strict=True)):
        note = axes.annotate(
            text, (x, y), (0, 0), textcoords="offset points", ha="center", va="center", fontsize=8.5, zorder=5
        )
        extent = note.get_window_extent()
        places = Places.around(spot, extent.width + 3 * scale, extent.height + scale, scale)
        others = np.delete(spots, index, axis=0)
        costs = places.costs(others, np.array(taken), ink, frame)
        best = int(np.argmin(costs.round(6)))  # of equals the first, whatever their rounding
        taken.append(places.boxes[best])
        note.xyann = tuple(places.shifts[best] / scale)
        if places.gaps[best] > 11 * scale:
            ends = axes.transData.inverted().transform([spot, places.edges[best]])
            axes.plot(*ends.T, color=GREY, linewidth=0.6, zorder=1, scalex=False, scaley=False)


def _boxes(centres: Any, wide: float, high: float) -> Any:
    """(N, 4): left, bottom, right and top of rectangles around (N, 2) centres."""
    reach = np.array([wide, high]) / 2
    return np.hstack([centres - reach, centres + reach])


def _trace(corners: Any) -> Any:
    """Points a few pixels apart along a line."""
    pieces = [corners[:1]]
    for start, end in zip(corners, corners[1:], strict=False):
        count = max(1, int(np.hypot(*(end - start)) / 4))
        pieces.append(start + (end - start) * np.linspace(0, 1, count + 1)[1:, None])
    return np.concatenate(pieces)


def _candidates(wide: float, high: float, scale: float) -> Any:
    """(N, 2): offsets of a text's centre from its point: right, left, above, below and between, near before
    far."""
    turns = np.arange(24) * np.pi / 12
    ways = np.column_stack([np.cos(turns), np.sin(turns)])
    reaches = np.array([7, 13, 20, 30, 42, 58]) * scale
    return (ways * (reaches[:, None, None] + np.array([wide, high]) / 2)).reshape(-1, 2)


@dataclass(frozen=True)
class Places:
    """Where a text may stand whose point is at `spot`, in pixels: `shifts` of its centre (N, 2), its `boxes`
    (N, 4), the points of their `edges` (N, 2) that are nearest to the spot, and the `gaps` (N,) between."""

    spot: Any
    shifts: Any
    boxes: Any
    edges: Any
    gaps: Any
    scale: float

    @classmethod
    def around(cls, spot: Any, wide: float, high: float, scale: float) -> Places:
        """All places for a text of `wide` x `high` pixels."""
        shifts = _candidates(wide, high, scale)
        boxes = _boxes(spot + shifts, wide, high)
        edges = np.clip(spot, boxes[:, :2], boxes[:, 2:])
        return cls(spot, shifts, boxes, edges, np.hypot(*(edges - spot).T), scale)

    def costs(self, others: Any, taken: Any, ink: Any, frame: Any) -> Any:
        """(N,): how bad each place is. What text covers, what lies between it and its point, and whether
        another point lies nearer counts most, then the distance."""
        low, high = self.boxes[:, None, :2], self.boxes[:, None, 2:]
        shared = np.minimum(high, taken[:, 2:]) - np.maximum(low, taken[:, :2])
        covered = shared.clip(0).prod(2).sum(1)
        crossed = ((ink > low) & (ink < high)).all(2).sum(1)
        outside = (frame.min - self.boxes[:, :2]).clip(0).sum(1)
        outside += (self.boxes[:, 2:] - frame.max).clip(0).sum(1)
        leaders = np.linspace(np.broadcast_to(self.spot, self.edges.shape), self.edges, 12, axis=1)[:, :-1]
        way = np.hypot(*np.moveaxis(leaders - self.spot, 2, 0))
        drawn = way > 6.5 * self.scale  # what is nearer is the mark itself
        near, _ = cKDTree(ink).query(leaders, p=np.inf)
        over = leaders[:, :, None]
        written = ((over > taken[:, :2]) & (over < taken[:, 2:])).all(3).sum(2)
        hits = (drawn * ((near < 2 * self.scale) + written)).sum(1)
        away = np.hypot(*np.moveaxis(others - (self.spot + self.shifts)[:, None], 2, 0))
        hits += 2 * (away < np.hypot(*self.shifts.T)[:, None] + 2 * self.scale).sum(1)
        return 10 * covered + 60 * crossed + 50 * outside + 40 * hits + 4 * self.gaps / self.scale
