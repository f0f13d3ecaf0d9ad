"""How the report's pictures look: size, colours, dashes, marks, hatches.

Nothing is said by colour alone: lines differ in lightness and dash, points in shape, bars in hatching, and
each carries its name beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from bench.ladder import Rung

Drawn = tuple[Figure | None, str]  # a figure and its caption, or None and why there is none
WIDTH = 8.0  # inches; a page shows it about 800 pixels wide
INK, GREY, FAINT = "#1d2733", "#8a939c", "#e3e6e9"
BEFORE, AFTER = "#8a939c", "#0b5fa5"
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
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
    "text.parse_math": False,  # a $ in a name is a $
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


def looks(rungs: Sequence[Rung]) -> list[tuple[Rung, dict[str, Any]]]:
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
