"""The report's pictures, one function each: a ladder in, a PNG out.

Nothing is said by colour alone: lines differ in lightness and dash, points in shape, bars in hatching, and
each carries its name beside it. Labels are placed where nothing else is drawn. Same records, same bytes.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator
from PIL import Image
from scipy import ndimage

from bench import BenchError, stats
from bench.tables import BATCH_KEYS, LEGEND, Ladder, Run, Rung, changed, clock_unit, step_title

WIDTH = 8.0  # inches; a page shows it about 800 pixels wide
INK, GREY, FAINT = "#1d2733", "#8a939c", "#e3e6e9"
BEFORE, AFTER = "#8a939c", "#0b5fa5"
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
GREY_OF_RGB = (0.299, 0.587, 0.114)  # ITU-R BT.601
MARKERS = "osD^vPX*h<>p"
SYNCED: dict[str, Any] = {"color": AFTER, "marker": "o", "markersize": 6, "linewidth": 1.6}
UNSYNCED = {**SYNCED, "marker": "s", "mfc": "white", "linestyle": DASHES[1]}
PHASES = {
    "setup": ("#d9dee3", ""),
    "train": ("#0b5fa5", ""),
    "eval": ("#f2b134", "////"),
    "checkpoint": ("#6b3d63", "xxxx"),
}
NAMES: dict[str, Any] = {"fontsize": 8.5, "labelspacing": 0.8}  # of a legend that lists rungs
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "hatch.color": "white",
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    "savefig.dpi": 150,
    "figure.dpi": 150,
    "figure.facecolor": "white",
}


@dataclass(frozen=True)
class Picture:
    """A PNG of the report: what it is called, what it shows, or why there is none (`path` None)."""

    title: str
    caption: str
    path: Path | None


def draw(ladder: Ladder, out: Path, target: float) -> list[Picture]:
    """Write every figure that the records allow into `out`; the others say why not."""
    drawn: list[Picture] = []
    with matplotlib.style.context(STYLE, after_reset=True):
        for name, title, make in _plan(ladder, target):
            path = out / f"{name}.png"
            path.unlink(missing_ok=True)  # a page never shows what other records drew
            figure, caption = make()
            if figure is not None:
                figure.savefig(path, metadata={"Software": None})
            drawn.append(Picture(title, caption, path if figure is not None else None))
    return drawn


Drawn = tuple[Figure | None, str]


def _plan(ladder: Ladder, target: float) -> list[tuple[str, str, Callable[[], Drawn]]]:
    speed: list[tuple[str, str, Callable[[], Drawn]]] = [
        ("phases", "Where the seconds went", lambda: phases(ladder)),
        ("device-busy", "How busy the device was", lambda: busy(ladder)),
    ]
    if not ladder.scored:
        return speed
    return [
        ("miou-epoch", "mIoU against epoch, step by step", lambda: steps(ladder)),
        ("batch-size", "mIoU and throughput against batch size", lambda: batches(ladder)),
        ("miou-time", "mIoU against time to train", lambda: times(ladder, target)),
        ("pareto", "What the time buys", lambda: pareto(ladder)),
        *speed,
        ("predictions", "Predictions beside labels", lambda: predictions(ladder)),
    ]


# ---- curves ------------------------------------------------------------------------------------


def steps(ladder: Ladder) -> Drawn:
    """The blog's Figures 2 to 4: each step against the rung before it, every seed and their band."""
    chain = ladder.steps()
    pairs: list[tuple[Rung | None, Rung]] = list(zip(chain, chain[1:], strict=False)) or [(None, chain[0])]
    columns = min(2, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    figure = Figure(figsize=(WIDTH, 0.5 + 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(pairs) :]:
        axes.set_axis_off()
    ends = []
    for axes, (before, after) in zip(grid.flat, pairs, strict=False):
        lines = [] if before is None else [_curves(axes, before, BEFORE, DASHES[1], "s")]
        lines.append(_curves(axes, after, AFTER, "-", "o"))
        axes.set_title(step_title(ladder, after), fontsize=9.5)
        axes.margins(x=0.02)
        ends.append((axes, lines))
    for axes in grid[:, 0]:
        axes.set_ylabel("mIoU, points")
    for column in range(columns):
        lowest = max(row for row in range(rows) if row * columns + column < len(pairs))
        grid[lowest, column].set_xlabel("epoch")
        grid[lowest, column].tick_params(labelbottom=True)
    scale = _settled(grid[0, 0]).dpi / 72
    for axes, lines in ends:
        _end_labels(axes, lines, scale)
    return figure, (
        "Blue, solid: the step; grey, dashed: the rung before it. Thin lines are single seeds, the thick "
        "line is their mean, the band reaches from the lowest seed to the highest."
    )


def _curves(axes: Axes, rung: Rung, color: str, dash: Any, marker: str) -> tuple[float, float, str, str]:
    """Seeds, band and mean of a rung; returns the mean's end, label and colour."""
    epochs = [epoch for epoch, _ in rung.runs[0].curve("epoch")]
    seeds = np.array([[miou for _, miou in run.curve("epoch")][: len(epochs)] for run in rung.runs])
    if len(seeds) > 1:
        axes.fill_between(epochs, seeds.min(0), seeds.max(0), color=color, alpha=0.16, linewidth=0)
        for seed in seeds:
            axes.plot(epochs, seed, color=color, linewidth=0.6, alpha=0.75)
    mean = seeds.mean(0)
    axes.plot(epochs, mean, color=color, linewidth=2.0, linestyle=dash, marker=marker, markersize=3.2)
    return epochs[-1], float(mean[-1]), f"{rung.short}  {mean[-1]:.1f}", color


def _end_labels(axes: Axes, lines: Sequence[tuple[float, float, str, str]], scale: float) -> None:
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


def _settled(axes: Axes) -> Figure:
    """The figure with its layout done, so that pixels mean something."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    return figure


def spread_out(heights: Sequence[float], gap: float) -> list[float]:
    """The heights moved as little as makes neighbours at least `gap` apart, in the same order (isotonic
    regression by pooling of adjacent violators)."""
    order = sorted(range(len(heights)), key=lambda i: (heights[i], i))
    blocks: list[tuple[float, int]] = []
    for rank, i in enumerate(order):
        mean, size = heights[i] - rank * gap, 1
        while blocks and blocks[-1][0] > mean:
            other, count = blocks.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        blocks.append((mean, size))
    levels = [mean for mean, size in blocks for _ in range(size)]
    moved = [0.0] * len(heights)
    for rank, i in enumerate(order):
        moved[i] = levels[rank] + rank * gap
    return moved


def times(ladder: Ladder, target: float) -> Drawn:
    """Mean mIoU of every rung against its mean time to train."""
    rungs = [rung for rung in ladder.all if rung.values("train_s")]
    if not rungs:
        return None, "Not drawn: every run was resumed, so that no time counts."
    size, unit = clock_unit([s for rung in rungs for s in rung.values("train_s")])
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    lines, ends, names = [], [], []
    for rung, look in _looks(rungs):
        xs, ys = _mean_curve(rung, size)
        axes.plot(xs, ys, **{**look, "marker": ""}, linewidth=1.6)
        axes.plot(xs[-1], ys[-1], **look, markersize=6, zorder=3)
        names.append(Line2D([], [], **look, label=rung.label))
        lines.append((xs, ys))
        ends.append((xs[-1], ys[-1], rung.short))
    axes.set_xlim(0, 1.08 * max(x for x, _, _ in ends))
    axes.set_ylim(*_around([y for _, ys in lines for y in ys] + [target]))
    _target(axes, target)
    axes.set_xlabel(f"time to train, {unit}")
    axes.set_ylabel("mIoU, points")
    figure.legend(handles=names, loc="outside right upper", handlelength=3.4, **NAMES)
    place_labels(axes, ends, [*lines, ([0, axes.get_xlim()[1]], [target, target])])
    return figure, (
        "Mean over seeds; the mark is the end of training. Evaluations and checkpoints are not in the time."
    )


def _mean_curve(rung: Rung, size: float) -> tuple[list[float], list[float]]:
    curves = [run.curve("train_s") for run in rung.runs if run.timed]
    rows = list(zip(*curves, strict=False))
    return (
        [fmean(time for time, _ in row) / size for row in rows],
        [fmean(miou for _, miou in row) for row in rows],
    )


def _target(axes: Axes, target: float) -> None:
    axes.axhline(target, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
    axes.annotate(
        f"target {target:g}",
        (0, target),
        (4, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=8,
        va="bottom",
    )


def _around(values: Sequence[float], share: float = 0.07) -> tuple[float, float]:
    """Limits of an axis that leave some room around the values."""
    low, high = min(values), max(values)
    room = share * (high - low) or 1.0
    return low - room, high + room


def _looks(rungs: Sequence[Rung]) -> list[tuple[Rung, dict[str, Any]]]:
    """Colour, dash and mark of each rung, the same in every figure that shows them all."""
    return [
        (
            rung,
            {
                "color": shade(index, len(rungs)),
                "linestyle": DASHES[index % len(DASHES)],
                "marker": MARKERS[index % len(MARKERS)],
            },
        )
        for index, rung in enumerate(rungs)
    ]


def shade(index: int, count: int) -> tuple[float, float, float, float]:
    """One of `count` ordered colours, dark to light, that differ for every kind of sight."""
    share = 0.0 if count < 2 else index / (count - 1)
    red, green, blue, alpha = matplotlib.colormaps["viridis"](0.84 * share)
    return red, green, blue, alpha


# ---- points ------------------------------------------------------------------------------------


def batches(ladder: Ladder) -> Drawn:
    """The blog's Figure 5: rungs that differ in BATCH_KEYS alone."""
    last = ladder.rungs[-1]
    alike = [r for r in ladder.all if changed(r.recipe, last.recipe).keys() <= BATCH_KEYS]
    if len({_batch(rung) for rung in alike}) < 2:
        return None, "Not drawn: no two rungs differ in batch size, its learning rate and sync BN alone."
    figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, field, label in zip(
        panels, ("final_miou", "images_per_s"), ("mIoU, points", "throughput, img/s"), strict=True
    ):
        _against_batch(axes, alike, field)
        axes.set_title(label)
        axes.set_xlabel("batch size, images a step")
    shapes = [
        Line2D([], [], **SYNCED, label="sync BN"),
        Line2D([], [], **UNSYNCED, label="no sync BN"),
        Line2D([], [], color=GREY, marker="_", markersize=9, linestyle="", label="one seed"),
    ]
    figure.legend(handles=shapes, loc="outside lower center", ncols=3)
    return figure, (
        "Rungs that differ in batch size, its learning rate and sync BN alone; the mark is the mean over "
        "seeds."
    )


def _batch(rung: Rung) -> int:
    return int(rung.recipe.values["optim"]["batch_size"])


def _against_batch(axes: Axes, rungs: Sequence[Rung], field: str) -> None:
    known = sorted((rung for rung in rungs if rung.values(field)), key=_batch)
    points, lines = [], []
    for synced in (True, False):
        group = [rung for rung in known if rung.recipe.values["replicas"]["sync_bn"] is synced]
        if not group:
            continue
        xs, ys = [float(_batch(rung)) for rung in group], [fmean(rung.values(field)) for rung in group]
        for x, rung in zip(xs, group, strict=True):
            seeds = rung.values(field)
            axes.plot([x] * len(seeds), seeds, "-_", color=GREY, linewidth=0.8, markersize=9)
            lines.append(([x] * len(seeds), seeds))
        axes.plot(xs, ys, **(SYNCED if synced else UNSYNCED))
        points += [(x, y, rung.short) for x, y, rung in zip(xs, ys, group, strict=True)]
        lines.append((xs, ys))
    axes.set_xscale("log", base=2)
    sizes = sorted({_batch(rung) for rung in known})
    axes.set_xlim(sizes[0] / 1.35, sizes[-1] * 1.35)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    place_labels(axes, points, lines)


def pareto(ladder: Ladder) -> Drawn:
    """Final mIoU against time to train; no rung above and left of the frontier."""
    rungs = [rung for rung in ladder.all if rung.values("train_s")]
    if len(rungs) < 2:
        return None, "Not drawn: it needs two rungs whose times count."
    size, unit = clock_unit([s for rung in rungs for s in rung.values("train_s")])
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    points, bars = [], []
    best = frontier([(fmean(r.values("train_s")), fmean(r.values("final_miou"))) for r in rungs])
    names = []
    for index, (rung, look) in enumerate(_looks(rungs)):
        seconds, mious = [s / size for s in rung.values("train_s")], rung.values("final_miou")
        x, y = fmean(seconds), fmean(mious)
        wide, high = stats.deviation(seconds) or 0.0, stats.deviation(mious) or 0.0
        axes.errorbar(x, y, high, wide, color=GREY, elinewidth=0.8, linestyle="", zorder=1)
        look |= {"linestyle": "", "mfc": look["color"] if index in best else "white"}
        axes.plot(x, y, **look, markersize=7.5, mew=1.4, zorder=3)
        names.append(Line2D([], [], **look, markersize=7, label=rung.label))
        points.append((x, y, rung.short))
        bars += [([x - wide, x, x + wide], [y, y, y]), ([x, x, x], [y - high, y, y + high])]
    line = sorted(points[index][:2] for index in best)
    axes.margins(0.1, 0.16)
    low, right = axes.get_ylim()[0], axes.get_xlim()[1]
    xs = [line[0][0], *(x for x, _ in line[1:] for _ in range(2)), right]
    ys = [y for _, y in line for _ in range(2)]
    axes.plot([line[0][0], *xs], [low, *ys], color=INK, linewidth=1.2, linestyle=DASHES[1], zorder=2)
    axes.set_ylim(low, None)
    axes.set_xlim(None, right)
    axes.set_xlabel(f"time to train, {unit}  (less is better)")
    axes.set_ylabel("final mIoU, points  (more is better)")
    figure.legend(handles=names, loc="outside right upper", **NAMES)
    place_labels(axes, points, [*bars, ([line[0][0], *xs], [low, *ys])])
    return figure, (
        "Filled: no other rung is both faster and better; the dashed line joins these. Bars: one standard "
        "deviation. Means alone decide who is on the line: read it with the intervals in the tables."
    )


def frontier(points: Sequence[tuple[float, float]]) -> set[int]:
    """Indices of the (time, mIoU) points that no other point beats in one and equals in the other."""
    return {
        i
        for i, (time, miou) in enumerate(points)
        if not any(t <= time and m >= miou and (t, m) != (time, miou) for t, m in points)
    }


def place_labels(
    axes: Axes, points: Sequence[tuple[float, float, str]], lines: Sequence[tuple[Any, Any]] = ()
) -> None:
    """Write the text of each (x, y, text) near its point where it covers neither points, lines nor other
    texts; a thin leader shows the way where there was no room close by."""
    scale = _settled(axes).dpi / 72
    frame = axes.get_window_extent()
    spots = axes.transData.transform([(x, y) for x, y, _ in points])
    taken = [_box(x, y, 9 * scale, 9 * scale) for x, y in spots]
    ink = np.concatenate(
        [spots, *(_trace(axes.transData.transform(np.column_stack(line))) for line in lines)]
    )
    for (x, y, text), spot in zip(points, spots, strict=True):
        note = axes.annotate(
            text, (x, y), (0, 0), textcoords="offset points", ha="center", va="center", fontsize=8.5, zorder=5
        )
        extent = note.get_window_extent()
        size = extent.width + 3 * scale, extent.height + scale
        places = [Place(spot, shift, *size, scale) for shift in _candidates(*size, scale)]
        best = min(places, key=lambda place: place.cost(taken, ink, frame))
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

    def cost(self, taken: Sequence[Box], ink: Any, frame: Any) -> float:
        """How bad the place is: what text and leader cover counts most, then the distance."""
        left, bottom, right, top = self.box
        covered = sum(_shared(self.box, other) for other in taken)
        crossed = ((ink > (left, bottom)) & (ink < (right, top))).all(1).sum()
        outside = max(0.0, frame.x0 - left) + max(0.0, right - frame.x1)
        outside += max(0.0, frame.y0 - bottom) + max(0.0, top - frame.y1)
        leader = np.linspace(self.spot, self.edge, 12)[4:-1] if self.gap > 11 * self.scale else ink[:0]
        hits = sum((np.abs(ink - at) < 2 * self.scale).all(1).any() for at in leader)
        hits += sum(((leader > box[:2]) & (leader < box[2:])).all(1).sum() for box in taken[:-1])
        return float(10 * covered + 60 * crossed + 50 * outside + 40 * hits + 4 * self.gap / self.scale)


def _shared(a: Box, b: Box) -> float:
    """Area that two boxes share, in square pixels."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


# ---- time --------------------------------------------------------------------------------------


def phases(ladder: Ladder) -> Drawn:
    """Mean seconds a phase, stacked; a bar a rung."""
    rungs = [rung for rung in ladder.all if rung.values("wall_s")]
    if not rungs:
        return None, "Not drawn: every run was resumed, so that no time counts."
    size, unit = clock_unit([s for rung in rungs for s in rung.values("wall_s")])
    figure = Figure(figsize=(WIDTH, 1.1 + 0.34 * len(rungs)), layout="constrained")
    axes = figure.subplots()
    start = np.zeros(len(rungs))
    for phase, (color, hatch) in PHASES.items():
        seconds = np.array([rung.mean(f"{phase}_s") or 0.0 for rung in rungs]) / size
        axes.barh(
            range(len(rungs)),
            seconds,
            0.66,
            start,
            color=color,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.6,
        )
        start = start + seconds
    for row, total in enumerate(start):
        axes.annotate(
            f"{total:.3g}", (total, row), (5, 0), textcoords="offset points", va="center", fontsize=8.5
        )
    axes.set_yticks(range(len(rungs)), [rung.label for rung in rungs])
    axes.invert_yaxis()
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, 1.07 * start.max())
    axes.set_xlabel(f"time of a run, mean over seeds, {unit}")
    patches = [
        Patch(facecolor=c, hatch=h, edgecolor="white", label=phase) for phase, (c, h) in PHASES.items()
    ]
    figure.legend(handles=patches, loc="outside upper right", ncols=len(patches))
    return figure, "The phases add up to the wall time by construction; the number is their sum."


def busy(ladder: Ladder) -> Drawn:
    """Device busy over the time of one run a rung, from its telemetry."""
    found = [(rung, sensed) for rung in ladder.all if (sensed := _telemetry(rung.runs[0]))]
    if not found:
        return None, "Not drawn: the records hold no telemetry."
    device = "GPU" if any(name != "cpu" for _, (_, _, _, name) in found) else "CPU"
    columns = min(3, len(found))
    rows = math.ceil(len(found) / columns)
    size, unit = clock_unit([sensed[0][-1] for _, sensed in found])
    figure = Figure(figsize=(WIDTH, 0.6 + 1.45 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(found) :]:
        axes.set_axis_off()
    for axes, (rung, (seconds, percent, spans, _)) in zip(grid.flat, found, strict=False):
        axes.broken_barh(spans / size, (0, 104), color=PHASES["eval"][0], alpha=0.5, linewidth=0.6)
        axes.plot(seconds / size, percent, color=AFTER, linewidth=1.0)
        axes.set_title(rung.label, fontsize=8.5, fontweight="normal")
        axes.set_ylim(0, 104)
        axes.set_yticks([0, 50, 100])
    for axes in grid[:, 0]:
        axes.set_ylabel("busy, %")
    for column in range(columns):
        lowest = max(row for row in range(rows) if row * columns + column < len(found))
        grid[lowest, column].set_xlabel(f"time since start, {unit}")
        grid[lowest, column].tick_params(labelbottom=True)
    seeds = sorted({rung.runs[0].record["seed"] for rung, _ in found})
    what = "any kernel running, mean over devices" if device == "GPU" else "the cores that the run may use"
    return figure, f"{device} ({what}), seed {', '.join(map(str, seeds))}. Shaded: evaluations."


def _telemetry(run: Run, points: int = 240) -> tuple[Any, Any, Any, str] | None:
    """(seconds, busy percent, (start, length) of each evaluation, device); None where not sensed.

    A row of telemetry ends an interval; busy is its mean, weighted by their lengths, over at most `points`
    stretches of a second or more, since a processor's own count is too coarse for less.
    """
    try:
        with (run.folder / "telemetry.csv").open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("device")]
        sensed = {row["device"] for row in rows if row["busy_pct"]}
        chosen = sorted(sensed - {"cpu"}) or sorted(sensed)
        parts = [_intervals([row for row in rows if row["device"] == device]) for device in chosen]
        ends, lengths, percent = (np.concatenate([part[column] for part in parts]) for column in range(3))
    except (OSError, ValueError, KeyError):
        return None
    known = np.isfinite(percent) & (lengths > 0)
    if known.sum() < 2:
        return None
    ends, lengths, percent = ends[known], lengths[known], percent[known]
    points = min(points, max(2, int(ends.max())))
    bins = np.minimum(((ends - lengths / 2) / ends.max() * points).astype(int), points - 1)
    weight = np.bincount(bins, lengths, points)
    full = weight > 0
    busy = np.bincount(bins, lengths * percent, points)[full] / weight[full]
    return (np.flatnonzero(full) + 0.5) * ends.max() / points, busy, parts[0][3], chosen[0]


def _intervals(rows: list[dict[str, str]]) -> tuple[Any, Any, Any, Any]:
    """Ends, lengths, busy percent (NaN: not sensed) of the rows of a device; the spans of its evaluations."""
    ends = np.array([float(row["t"]) for row in rows])
    lengths = np.diff(ends, prepend=0.0)
    percent = np.array([float(row["busy_pct"] or "nan") for row in rows])
    evaluating = np.array([row["phase"] == "eval" for row in rows])
    spans = np.column_stack([ends - lengths, lengths])[evaluating]
    return ends, lengths, percent, spans


# ---- predictions -------------------------------------------------------------------------------


def predictions(ladder: Ladder) -> Drawn:
    """Validation images, labels, and what the first and the last rung of the ladder make of them."""
    if not ladder.workload.values["data"]["redistributable"]:
        return None, "Not drawn: the pictures of this workload may not be redistributed."
    chain = ladder.chain()
    rungs = chain if len(chain) < 2 else [chain[0], chain[-1]]
    folders = [run.folder / "samples" for rung in rungs if (run := _sampled(rung)) is not None]
    names = (
        sorted(path.name.removesuffix("-image.png") for path in folders[0].glob("*-image.png"))
        if folders
        else []
    )
    if len(folders) < len(rungs) or not names:
        return None, "Not drawn: the records hold no sample predictions."
    try:
        rows = [_sample(folders, name) for name in names]
    except BenchError as error:
        return None, f"Not drawn: {error.message}."
    titles = ["image", "label", *(rung.label for rung in rungs)]
    return _gallery(rows, titles, ladder.workload.values["data"]["classes"]), (
        "One seed, after the last evaluation; white in a label: other, not scored. "
        "Numbers are those of the classes below."
    )


def _sampled(rung: Rung) -> Run | None:
    """The first run that kept sample predictions."""
    return next((run for run in rung.runs if any((run.folder / "samples").glob("*-prediction.png"))), None)


def _sample(folders: Sequence[Path], name: str) -> list[Any]:
    """Image, label and predictions of one validation image as arrays."""
    paths = [folders[0] / f"{name}-image.png", folders[0] / f"{name}-label.png"]
    paths += [folder / f"{name}-prediction.png" for folder in folders]
    try:
        return [np.asarray(Image.open(path)) for path in paths]
    except OSError as error:
        raise BenchError(f"a sample picture cannot be read ({error})", "run it again") from error


def _gallery(rows: Sequence[Sequence[Any]], titles: Sequence[str], names: Sequence[str]) -> Figure:
    shape = rows[0][0].shape
    columns, keys = len(titles), min(6, len(names))
    tall = WIDTH / columns * shape[0] / shape[1]
    legend = 0.22 * math.ceil(len(names) / keys)
    shown = len(names) <= LEGEND
    height = 0.98 * tall * len(rows) + 0.2 + (legend + 0.1 if shown else 0)
    engine = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    figure = Figure(figsize=(WIDTH, height), layout=engine)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    colors = palette(len(names))
    for line, row in zip(grid, rows, strict=True):
        for axes, pixels in zip(line, row, strict=True):
            axes.imshow(pixels if pixels.ndim == 3 else colors[pixels], interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            axes.spines[:].set(visible=True, color=GREY, linewidth=0.5)
            if pixels.ndim == 2:
                _number_regions(axes, pixels, colors)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    if shown:
        patches = [
            Patch(facecolor=colors[i + 1] / 255, edgecolor=GREY, linewidth=0.5, label=f"{i + 1} {name}")
            for i, name in enumerate(names)
        ]
        figure.legend(handles=patches, loc="outside lower center", ncols=keys, fontsize=8, handlelength=1.4)
    return figure


def _number_regions(axes: Axes, classes: Any, colors: Any) -> None:
    """The class number in the middle of every region that has room for it."""
    high = classes.shape[0]
    for value in np.unique(classes[classes > 0]):
        regions, count = ndimage.label(np.pad(classes == value, 1))
        for region in range(1, count + 1):
            depth = ndimage.distance_transform_edt(regions == region)
            if depth.max() < 0.055 * high:
                continue
            y, x = np.unravel_index(int(depth.argmax()), depth.shape)
            ink = "white" if colors[value] @ GREY_OF_RGB < 140 else "black"
            axes.text(float(x) - 1, float(y) - 1, str(value), color=ink, fontsize=7, ha="center", va="center")


def palette(count: int) -> Any:
    """(count + 1, 3) uint8: white for 0, then a colour a class. Classes take turns on levels of grey, so that
    they differ without colour, and each takes what lies there farthest from all before (in OKLab, Ottosson
    2020)."""
    grid = np.linspace(0, 1, 20)
    rgb = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), -1).reshape(-1, 3)
    lab = _oklab(rgb)
    calm = np.hypot(lab[:, 1], lab[:, 2]) < 0.16
    rgb, lab = rgb[calm], lab[calm]
    rungs = min(count, 16)
    levels = np.linspace(0.14, 0.88, rungs) if rungs > 1 else np.array([0.5])
    stride = next(s for s in range(max(1, round(0.62 * rungs)), 2 * rungs) if math.gcd(s, rungs) == 1)
    # The first is what lies farthest from orange, a blue: the first class often is the sky.
    nearest, start = np.full(len(lab), np.inf), np.hypot(lab[:, 1] - 0.1, lab[:, 2] - 0.1)
    chosen: list[int] = []
    for index in range(count):
        level = levels[(rungs // 2 + index * stride) % rungs]
        there = np.abs(rgb @ GREY_OF_RGB - level) < 0.012
        chosen.append(int(np.where(there, nearest if chosen else start, -1.0).argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
    return np.concatenate([[[255, 255, 255]], np.round(255 * rgb[chosen])]).astype(np.uint8)


def _oklab(rgb: Any) -> Any:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return np.cbrt(linear @ cones.T) @ lab.T
