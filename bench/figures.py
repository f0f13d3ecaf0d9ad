"""The report's pictures: which there are, in the order of the page, and their files.

Each is made by a function that takes a ladder and gives a figure, or says why there is none. Same records,
same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.style

from bench import curves, gallery, mistakes, timelines
from bench.ink import STYLE, Drawn
from bench.ladder import Ladder


@dataclass(frozen=True)
class Picture:
    """A PNG of the report: what it is called, what it shows, or why there is none (`path` None)."""

    title: str
    caption: str
    path: Path | None


def draw(ladder: Ladder, out: Path, target: float | None) -> list[Picture]:
    """Write every figure that the records allow into `out`; the others say why not. `target` in points, None
    where scores mean nothing: then no figure shows any."""
    plan = _plan(ladder, target)
    drawn: list[Picture] = []
    with matplotlib.style.context(STYLE, after_reset=True):
        for name in NAMES:
            path = out / f"{name}.png"
            path.unlink(missing_ok=True)  # a page never shows what other records drew
            if name not in plan:
                continue
            title, make = plan[name]
            figure, caption = make()
            if figure is not None:
                figure.savefig(path, metadata={"Software": None})
            drawn.append(Picture(title, caption, path if figure is not None else None))
    return drawn


NAMES = (
    "miou-epoch", "batch-size", "miou-time", "miou-wall", "pareto", "phases", "device-busy", "memory",
    "power", "iou-class", "confusion", "predictions",
)  # fmt: skip


def _plan(ladder: Ladder, target: float | None) -> dict[str, tuple[str, Callable[[], Drawn]]]:
    sensed = timelines.sense(ladder)
    plan: dict[str, tuple[str, Callable[[], Drawn]]] = {
        "phases": ("Where the seconds went", lambda: timelines.phases(ladder)),
        "device-busy": ("How busy the device was", lambda: timelines.busy(sensed)),
        "memory": ("Memory over time", lambda: timelines.memory(sensed)),
    }
    if timelines.powered(sensed):  # else the hardware table says why not, and that is enough
        plan["power"] = ("Power over time", lambda: timelines.power(sensed))
    if target is not None:
        plan |= {
            "miou-epoch": ("mIoU against epoch, step by step", lambda: curves.steps(ladder)),
            "batch-size": ("mIoU and throughput against batch size", lambda: curves.batches(ladder)),
            "miou-time": ("mIoU against time to train", lambda: curves.times(ladder, target, "train_s")),
            "miou-wall": ("mIoU against wall-clock time", lambda: curves.times(ladder, target, "wall_s")),
            "pareto": ("What the time buys", lambda: curves.pareto(ladder)),
            "iou-class": ("IoU by class", lambda: mistakes.classes(ladder)),
            "confusion": ("What is taken for what", lambda: mistakes.confusion(ladder)),
            "predictions": ("Predictions beside labels", lambda: gallery.predictions(ladder)),
        }
    return plan
