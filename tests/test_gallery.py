"""Predictions beside labels: the colours of classes, and room for their names."""

from __future__ import annotations

from pathlib import Path

import matplotlib.style
import numpy as np
import pytest

from bench import gallery, workload
from bench.ink import STYLE
from bench.labels import settled
from bench.ladder import read
from tests import fake_records


@pytest.mark.parametrize("count", [1, 12, 150])
def test_a_palette_has_a_different_colour_for_every_class(count: int) -> None:
    colors = gallery.palette(count)
    assert colors.shape == (count + 1, 3)
    assert len({tuple(color) for color in colors}) == count + 1


def test_the_first_colours_of_a_palette_differ_in_grey() -> None:
    grey = sorted(gallery.palette(12) @ (0.299, 0.587, 0.114))
    assert min(np.diff(grey)) > 8


@pytest.mark.parametrize("count", [3, 12, 50, 60])
def test_the_names_of_the_classes_fit_and_the_pictures_lie_close(tmp_path: Path, count: int) -> None:
    names = [f"a class of number {i}" for i in range(count)]
    setting = fake_records.altered(workload.load("mini"), "data", classes=names)
    fake_records.make(tmp_path, seeds=1, rungs=("00", "01"), setting=setting)
    with matplotlib.style.context(STYLE, after_reset=True):
        figure, _ = gallery.predictions(read(tmp_path)[0])
        assert figure is not None
        settled(figure)
    (legend,) = figure.legends
    extent = legend.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.x1
    top, bottom = figure.axes[0].get_window_extent(), figure.axes[4].get_window_extent()
    assert 0 < top.y0 - bottom.y1 < 0.15 * figure.dpi
    assert 0 < bottom.y0 - extent.y1 < 0.25 * figure.dpi
