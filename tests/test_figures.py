"""The figures: what they hold, and that their labels stay apart."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from bench import figures, tables, workload
from tests import fake_records

ALL = {"miou-epoch", "batch-size", "miou-time", "pareto", "phases", "device-busy", "predictions"}


def ladder(results: Path, **arguments: object) -> tables.Ladder:
    fake_records.make(results, **arguments)  # type: ignore[arg-type]
    return tables.read(results)[0]


def test_a_whole_ladder_gives_every_figure_at_the_width_of_a_page(tmp_path: Path) -> None:
    pictures = figures.draw(ladder(tmp_path / "results"), tmp_path, 30.0)
    assert {picture.path.stem for picture in pictures if picture.path} == ALL
    for picture in pictures:
        assert picture.path is not None
        with Image.open(picture.path) as image:
            assert image.width == 1200
            assert "Software" not in image.info
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn


def test_one_run_gives_the_figures_that_need_no_second(tmp_path: Path) -> None:
    pictures = figures.draw(ladder(tmp_path / "results", seeds=1, rungs=("03",)), tmp_path, 30.0)
    drawn = {picture.path.stem for picture in pictures if picture.path}
    assert drawn == ALL - {"batch-size", "pareto"}
    assert all(picture.caption.startswith("Not drawn") for picture in pictures if picture.path is None)


def test_pictures_that_may_not_be_redistributed_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / "predictions.png").write_bytes(b"of an earlier report")
    guarded = fake_records.altered(workload.load("mini"), "data", redistributable=False)
    pictures = figures.draw(
        ladder(tmp_path / "results", seeds=1, rungs=("00",), setting=guarded), tmp_path, 30.0
    )
    assert pictures[-1].path is None
    assert "redistributed" in pictures[-1].caption
    assert not (tmp_path / "predictions.png").exists()


def test_labels_of_points_that_nearly_coincide_do_not_overlap() -> None:
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    random = np.random.default_rng(0)
    points = [(1 + 0.01 * random.random(), 30 + 0.1 * random.random(), f"{i:02d} a rung") for i in range(9)]
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o")
    axes.set(xlim=(0, 2), ylim=(20, 40))
    figures.place_labels(axes, points)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 9
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


@pytest.mark.parametrize(
    ("heights", "expected"),
    [([0.0, 10.0], [0.0, 10.0]), ([5.0, 5.0], [4.0, 6.0]), ([3.0, 2.0, 9.0], [3.5, 1.5, 9.0]), ([], [])],
)
def test_heights_are_spread_as_little_as_needed(heights: list[float], expected: list[float]) -> None:
    assert figures.spread_out(heights, 2.0) == pytest.approx(expected)


def test_the_frontier_holds_what_nothing_beats() -> None:
    points = [(3.0, 30.0), (2.0, 30.0), (1.0, 20.0), (4.0, 35.0), (4.5, 34.0)]
    assert figures.frontier(points) == {1, 2, 3}


@pytest.mark.parametrize("count", [1, 12, 150])
def test_a_palette_has_a_different_colour_for_every_class(count: int) -> None:
    colors = figures.palette(count)
    assert colors.shape == (count + 1, 3)
    assert len({tuple(color) for color in colors}) == count + 1


def test_the_first_colours_of_a_palette_differ_in_grey() -> None:
    grey = sorted(figures.palette(12) @ (0.299, 0.587, 0.114))
    assert min(np.diff(grey)) > 8
