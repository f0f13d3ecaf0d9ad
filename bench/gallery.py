"""Predictions beside labels, in colours that differ in grey, too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from PIL import Image
from scipy import ndimage

from bench import BenchError
from bench.ink import GREY, WIDTH, Drawn
from bench.labels import settled
from bench.ladder import Ladder, Run, Rung
from bench.tables import LEGEND

GREY_OF_RGB = (0.299, 0.587, 0.114)  # ITU-R BT.601


def predictions(ladder: Ladder) -> Drawn:
    """Validation images, labels, and what the first and the last rung of the ladder make of them."""
    if not ladder.workload.values["data"]["redistributable"]:
        return None, "the pictures of this workload may not be redistributed."
    chain = ladder.chain()
    rungs = chain if len(chain) < 2 else [chain[0], chain[-1]]
    folders = [run.folder / "samples" for rung in rungs if (run := _sampled(rung)) is not None]
    names = (
        sorted(path.name.removesuffix("-image.png") for path in folders[0].glob("*-image.png"))
        if folders
        else []
    )
    if len(folders) < len(rungs) or not names:
        return None, "the records hold no sample predictions."
    try:
        rows = [_sample(folders, name) for name in names]
    except BenchError as error:
        return None, f"{error.message}."
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
    columns = len(titles)
    tall = WIDTH / columns * shape[0] / shape[1]
    height = 0.985 * tall * len(rows) + 0.2
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
    if len(names) <= LEGEND:
        figure.set_figheight(height + _explain(figure, names, colors))
    return figure


def _explain(figure: Figure, names: Sequence[str], colors: Any) -> float:
    """The legend of the classes, in as many columns as there is room for; its height in inches."""
    patches = [
        Patch(facecolor=colors[i + 1] / 255, edgecolor=GREY, linewidth=0.5, label=f"{i + 1} {name}")
        for i, name in enumerate(names)
    ]
    for columns in range(min(6, len(names)), 0, -1):
        legend = figure.legend(
            handles=patches, loc="outside lower center", ncols=columns, fontsize=8, handlelength=1.4
        )
        settled(figure)
        extent = legend.get_window_extent()
        if columns == 1 or extent.width <= WIDTH * figure.dpi:
            break
        legend.remove()
    return float(extent.height) / figure.dpi + 0.05


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
