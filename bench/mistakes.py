"""Which classes a rung gets right, and what it takes the others for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.ink import AFTER, BEFORE, FAINT, WIDTH, Drawn
from bench.ladder import Ladder
from bench.tables import class_iou, confusion_pixels

MOST = 24  # classes of a matrix whose cells can still be read
FIRST: dict[str, Any] = {"color": BEFORE, "marker": "s", "mfc": "white", "markersize": 4.5, "linestyle": ""}
LAST: dict[str, Any] = {"color": AFTER, "marker": "o", "markersize": 4.5, "linestyle": ""}


def classes(ladder: Ladder) -> Drawn:
    """IoU of every class, of the first rung and of the last, best class first."""
    chain = ladder.chain()
    rungs = [chain[0], chain[-1]] if len(chain) > 1 else chain
    names = list(ladder.workload.values["data"]["classes"])
    known = [(name, [class_iou(rung, name) for rung in rungs]) for name in names]
    rows = [(name, ious) for name, ious in known if ious[-1] is not None]
    if not rows:
        return None, "the records hold no IoU by class."
    rows.sort(key=lambda row: -(row[1][-1] or 0.0))
    columns = 1 if len(rows) <= MOST else 2 if len(rows) <= 3 * MOST else 3
    deep = math.ceil(len(rows) / columns)
    pitch, size = (0.24, 8.5) if columns == 1 else (0.165, 7.5) if columns == 2 else (0.145, 6.5)
    figure = Figure(figsize=(WIDTH, 0.9 + pitch * deep), layout="constrained")
    grid = figure.subplots(1, columns, sharex=True, squeeze=False)[0]
    for place, axes in enumerate(grid):
        _dots(axes, rows[place * deep : (place + 1) * deep], deep, size)
        axes.set_xlabel("IoU, points")
    top = max(iou for _, ious in rows for iou in ious if iou is not None)
    grid[0].set_xlim(-0.02 * top, 1.04 * top)
    looks = [FIRST, LAST][-len(rungs) :]
    names_of = [Line2D([], [], **look, label=rung.label) for look, rung in zip(looks, rungs, strict=True)]
    figure.legend(handles=names_of, loc="outside upper right", ncols=2)
    absent = len(names) - len(rows)
    more = f" {absent} classes never occur." if absent > 1 else " One class never occurs." * absent
    return (
        figure,
        f"At the last evaluation, mean over seeds; best class of rung {rungs[-1].short} first.{more}",
    )


def _dots(axes: Axes, rows: Sequence[tuple[str, Sequence[float | None]]], deep: int, size: float) -> None:
    heights = range(len(rows))
    if rows and len(rows[0][1]) > 1:
        for height, (_, (first, last)) in zip(heights, rows, strict=True):
            if first is not None and last is not None:
                axes.plot([first, last], [height, height], color=BEFORE, linewidth=0.9, zorder=1)
        axes.plot([math.nan if ious[0] is None else ious[0] for _, ious in rows], heights, **FIRST)
    axes.plot([math.nan if ious[-1] is None else ious[-1] for _, ious in rows], heights, **LAST)
    axes.set_yticks(heights, [name for name, _ in rows], fontsize=size)
    axes.set_ylim(deep - 0.4, -0.6)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)


def confusion(ladder: Ladder) -> Drawn:
    """What the last rung takes each class for, in per cent of the label's pixels."""
    rung = ladder.chain()[-1]
    pixels = confusion_pixels(ladder, rung)
    if pixels is None:
        return None, "the records hold no confusion matrix."
    names = list(ladder.workload.values["data"]["classes"])
    chosen = _worst(pixels, MOST)
    total = pixels.sum(1, keepdims=True)
    percent = 100 * pixels / np.where(total > 0, total, 1)
    figure = _matrix(percent[np.ix_(chosen, chosen)], [names[i] for i in chosen])
    few = ""
    if len(chosen) < len(names):
        few = f" The {len(chosen)} classes with most pixels mistaken for or by them; all are in the CSV."
    together = f"all {len(rung.runs)} seeds together" if len(rung.runs) > 1 else "one seed"
    return figure, (
        f"Rung {rung.label}, last evaluation, {together}: of the pixels of a label "
        f"(row), how many per cent get which prediction (column); below 0.5 no number. [All pixels, as "
        f"CSV](tables/confusion.csv).{few}"
    )


def _worst(pixels: Any, most: int) -> list[int]:
    """The classes with most wrong pixels, as label or as prediction, in the data set's order."""
    wrong = pixels - np.diag(np.diag(pixels))
    order = np.argsort(-(wrong.sum(0) + wrong.sum(1)), kind="stable")
    return sorted(int(i) for i in order[:most])


def _matrix(percent: Any, names: Sequence[str]) -> Figure:
    count = len(names)
    small = count > 14
    figure = Figure(figsize=(WIDTH, min(6.8, 1.3 + 0.33 * count)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for row, column in zip(*np.nonzero(percent >= 0.5), strict=True):
        value = percent[row, column]
        axes.text(
            column, row, f"{value:.0f}", ha="center", va="center", fontsize=7 if small else 8.5,
            color="white" if value > 55 else "black",
        )  # fmt: skip
    size = 7.5 if small else 9
    axes.set_xticks(range(count), names, rotation=90 if small else 40, fontsize=size)
    if not small:
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count), names, fontsize=size)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
    return figure
