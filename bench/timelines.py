"""Where the seconds went, and what the machine did meanwhile."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from bench import machines
from bench.ink import AFTER, PHASES, WIDTH, Drawn
from bench.ladder import Ladder, Run, Rung
from bench.sheet import clock_unit


def phases(ladder: Ladder) -> Drawn:
    """Mean seconds a phase, stacked; a bar a rung."""
    rungs = [rung for rung in ladder.all if rung.values("wall_s")]
    if not rungs:
        return None, "every run was resumed, so that no time counts."
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


@dataclass(frozen=True)
class Telemetry:
    """What a run's sensors said, thinned: times in seconds since the start, values by column of
    `telemetry.csv`, (start, length) of each evaluation. `device`: "GPU", or "CPU" where it used none."""

    device: str
    end: float
    curves: Mapping[str, tuple[Any, Any]]
    evaluations: Any


Sensed = Sequence[tuple[Rung, Telemetry]]


def sense(ladder: Ladder) -> Sensed:
    """One run a rung, the first that left telemetry."""
    found = []
    for rung in ladder.all:
        told = next((told for run in rung.runs if (told := _telemetry(run)) is not None), None)
        if told is not None:
            found.append((rung, told))
    return found


def busy(sensed: Sensed) -> Drawn:
    """Share of time in which the device was busy."""
    figure, caption = _panels(sensed, "busy_pct", "busy, %", 100.0)
    what = {
        "GPU": "GPU: share of time in which any kernel ran, mean over devices",
        "CPU": "CPU: share of the cores that the run may use, by any program",
    }
    return figure, f"{_devices(sensed, what)}. {caption}" if figure else caption


def memory(sensed: Sensed) -> Drawn:
    """Memory in use: of the GPU where there is one, else of the processes."""
    figure, caption = _panels(sensed, "memory_mib", "memory, MiB")
    what = {
        "GPU": "GPU memory in use, by any program, on the busiest device",
        "CPU": "Proportional set size of the run's processes",
    }
    return figure, f"{_devices(sensed, what)}. {caption}" if figure else caption


def power(sensed: Sensed) -> Drawn:
    """Power of all devices together."""
    figure, caption = _panels(sensed, "power_w", "power, W")
    return figure, f"All devices together. {caption}" if figure else caption


def powered(sensed: Sensed) -> bool:
    """Whether any run knows its power."""
    return any("power_w" in told.curves for _, told in sensed)


def _devices(sensed: Sensed, words: Mapping[str, str]) -> str:
    return "; ".join(words[device] for device in dict.fromkeys(told.device for _, told in sensed))


def _panels(sensed: Sensed, column: str, label: str, top: float | None = None) -> Drawn:
    """A panel a rung, with the same axes."""
    found = [(rung, told) for rung, told in sensed if column in told.curves]
    if not found:
        return None, "the records hold no telemetry of it."
    top = top or max(float(told.curves[column][1].max()) for _, told in found) or 1.0
    columns = min(3, len(found))
    rows = math.ceil(len(found) / columns)
    size, unit = clock_unit([told.end for _, told in found])
    figure = Figure(figsize=(WIDTH, 0.6 + 1.45 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(found) :]:
        axes.set_axis_off()
    for axes, (rung, told) in zip(grid.flat, found, strict=False):
        seconds, values = told.curves[column]
        spans = told.evaluations / size
        axes.broken_barh(spans, (0, 1.04 * top), color=PHASES["eval"][0], alpha=0.5, linewidth=0.6)
        axes.plot(seconds / size, values, color=AFTER, linewidth=1.0)
        axes.set_title(rung.label, fontsize=8.5, fontweight="normal")
        axes.set_ylim(0, 1.04 * top)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    for axes in grid[:, 0]:
        axes.set_ylabel(label)
    for place in range(columns):
        lowest = max(row for row in range(rows) if row * columns + place < len(found))
        grid[lowest, place].set_xlabel(f"time since start, {unit}")
        grid[lowest, place].tick_params(labelbottom=True)
    return figure, "One run a rung. Shaded: evaluations."


# How the devices of a run make one curve, and whether its points are the peaks of stretches of time.
TOGETHER: Mapping[str, tuple[Callable[..., Any], bool]] = {
    "busy_pct": (np.nanmean, False),
    "memory_mib": (np.nanmax, True),
    "power_w": (np.nansum, False),
}
OF_PROCESSES: Mapping[str, Callable[..., Any]] = {"memory_mib": np.nansum}  # where the devices are machines


def _telemetry(run: Run, points: int = 240) -> Telemetry | None:
    """The telemetry of a run over at most `points` stretches of a second or more, since a processor's own
    count is too coarse for less; None where there is none."""
    try:
        table = _table(machines.all_rows(run.folder))
        ends, devices = np.array(table["t"], dtype=float), np.array(table["device"])
        evaluating = np.array(table["phase"]) == "eval"
        known = {
            name: np.array([cell or "nan" for cell in table[name]], dtype=float)
            for name in TOGETHER
            if name in table
        }
    except (OSError, ValueError, KeyError, csv.Error):
        return None
    if not (np.isfinite(ends).all() and ends.max(initial=0.0) > 0):
        return None
    names = sorted(set(devices.tolist()))
    processors = [name for name in names if name.endswith("/cpu")]
    chosen = [name for name in names if name not in processors] or names
    points = min(points, max(2, int(ends.max())))
    bins = _Bins(ends.max() / points, points)
    curves = {}
    parts = [np.flatnonzero(devices == name) for name in chosen]
    lengths = [np.diff(ends[part], prepend=0.0) for part in parts]
    for name, values in known.items():
        together, peak = TOGETHER[name]
        if chosen == processors:
            together = OF_PROCESSES.get(name, together)
        each = [bins.put(ends[p], span, values[p], peak) for p, span in zip(parts, lengths, strict=True)]
        curve = np.array(each)
        there = np.isfinite(curve).any(0)
        if there.any():
            curves[name] = bins.middles[there], together(curve[:, there], axis=0)
    first = evaluating[parts[0]]
    spans = np.column_stack([ends[parts[0]] - lengths[0], lengths[0]])[first]
    return Telemetry("CPU" if chosen == processors else "GPU", float(ends.max()), curves, spans)


def _table(paths: Sequence[Path]) -> dict[str, list[str]]:
    """The columns of the rows of all machines, a device named by machine, too. OSError, csv.Error."""
    table: dict[str, list[str]] = {}
    for number, path in enumerate(paths):
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
        whole = [line for line in lines[1:] if len(line) == len(lines[0])]
        for name, cells in zip(lines[0], zip(*whole, strict=True), strict=True) if whole else ():
            named = [f"{number}/{cell}" for cell in cells] if name == "device" else cells
            table.setdefault(name, []).extend(named)
    return table


@dataclass(frozen=True)
class _Bins:
    """`count` stretches of time of `width` seconds."""

    width: float
    count: int

    @property
    def middles(self) -> Any:
        return (np.arange(self.count) + 0.5) * self.width

    def put(self, ends: Any, lengths: Any, values: Any, peak: bool) -> Any:
        """The values of intervals by stretch, their mean weighted by length or their peak; NaN where none
        is known."""
        known = np.isfinite(values) & ((lengths > 0) | peak)
        ends, lengths, values = ends[known], lengths[known], values[known]
        place = np.minimum(((ends - lengths / 2) / self.width).astype(int), self.count - 1)
        found = np.full(self.count, np.nan)
        if peak:
            np.fmax.at(found, place, values)
            return found
        weight = np.bincount(place, lengths, self.count)
        full = weight > 0
        found[full] = np.bincount(place, lengths * values, self.count)[full] / weight[full]
        return found
