"""The ladder in curves and points: mIoU against epoch, batch size and time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from bench import stats
from bench.ink import AFTER, BEFORE, DASHES, GREY, INK, NAMES, SYNCED, UNSYNCED, WIDTH, Drawn, looks
from bench.labels import name_ends, place_labels, settled
from bench.ladder import BATCH_KEYS, Ladder, Rung, changed
from bench.sheet import clock_unit


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
        axes.set_title(ladder.step(after).title, fontsize=9.5)
        axes.margins(x=0.02)
        ends.append((axes, lines))
    for axes in grid[:, 0]:
        axes.set_ylabel("mIoU, points")
    for column in range(columns):
        lowest = max(row for row in range(rows) if row * columns + column < len(pairs))
        grid[lowest, column].set_xlabel("epoch")
        grid[lowest, column].tick_params(labelbottom=True)
    scale = settled(figure).dpi / 72
    for axes, lines in ends:
        name_ends(axes, lines, scale)
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


CLOCKS = {
    "train_s": ("time to train", "Evaluations and checkpoints are not in the time."),
    "wall_s": ("wall-clock time", "Set-up, evaluations and checkpoints are in the time."),
}


def times(ladder: Ladder, target: float, clock: str) -> Drawn:
    """Mean mIoU of every rung against its mean time by one of CLOCKS."""
    rungs = [rung for rung in ladder.all if rung.values("train_s")]
    if not rungs:
        return None, "every run was resumed, so that no time counts."
    size, unit = clock_unit([s for rung in rungs for s in rung.values(clock)])
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    lines, ends, names = [], [], []
    for rung, look in looks(rungs):
        xs, ys = _mean_curve(rung, clock, size)
        axes.plot(xs, ys, **{**look, "marker": ""}, linewidth=1.6)
        axes.plot(xs[-1], ys[-1], **look, markersize=6, zorder=3)
        names.append(Line2D([], [], **look, label=rung.label))
        lines.append((xs, ys))
        ends.append((xs[-1], ys[-1], rung.short))
    axes.set_xlim(0, 1.08 * max(x for x, _, _ in ends))
    axes.set_ylim(*_around([y for _, ys in lines for y in ys] + [target]))
    _target(axes, target)
    axes.set_xlabel(f"{CLOCKS[clock][0]}, {unit}")
    axes.set_ylabel("mIoU, points")
    figure.legend(handles=names, loc="outside right upper", handlelength=3.4, **NAMES)
    place_labels(axes, ends, [*lines, ([0, axes.get_xlim()[1]], [target, target])])
    return figure, f"Mean over seeds; the mark is the last evaluation. {CLOCKS[clock][1]}"


def _mean_curve(rung: Rung, clock: str, size: float) -> tuple[list[float], list[float]]:
    curves = [run.curve(clock) for run in rung.runs if run.timed]
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


def batches(ladder: Ladder) -> Drawn:
    """The blog's Figure 5: rungs that differ in BATCH_KEYS alone."""
    last = ladder.rungs[-1]
    alike = [r for r in ladder.all if changed(r.recipe, last.recipe).keys() <= BATCH_KEYS]
    if len({_batch(rung) for rung in alike}) < 2:
        return None, "no two rungs differ in batch size, its learning rate and sync BN alone."
    fields = {"final_miou": "mIoU, points", "images_per_s": "throughput, img/s"}
    known = {field: label for field, label in fields.items() if any(rung.values(field) for rung in alike)}
    figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
    panels = figure.subplots(1, len(known), squeeze=False).flat
    for axes, (field, label) in zip(panels, known.items(), strict=True):
        _against_batch(axes, alike, field)
        axes.set_title(label)
        axes.set_xlabel("batch size, images a step")
    shapes = [
        Line2D([], [], **SYNCED, label="sync BN"),
        Line2D([], [], **UNSYNCED, label="no sync BN"),
        Line2D([], [], color=GREY, marker="_", markersize=9, linestyle="", label="one seed"),
    ]
    figure.legend(handles=shapes, loc="outside lower center", ncols=3)
    untimed = " Every run was resumed, so that no throughput counts." if len(known) < len(fields) else ""
    return figure, (
        "Rungs that differ in batch size, its learning rate and sync BN alone; the mark is the mean over "
        f"seeds.{untimed}"
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
            faint = min(1.0, 12 / len(seeds))
            axes.plot(
                [x] * len(seeds), seeds, "-_", color=GREY, linewidth=0.8, markersize=9, alpha=faint, zorder=1
            )
            lines.append(([x] * len(seeds), seeds))
        axes.plot(xs, ys, **(SYNCED if synced else UNSYNCED), zorder=3)
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
        return None, "it needs two rungs whose times count."
    size, unit = clock_unit([s for rung in rungs for s in rung.values("train_s")])
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    points, bars = [], []
    best = frontier([(fmean(r.values("train_s")), fmean(r.values("final_miou"))) for r in rungs])
    names = []
    for index, (rung, look) in enumerate(looks(rungs)):
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
