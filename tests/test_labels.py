"""Labels: they stay apart, and near what they name."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure

from bench import labels


def test_labels_of_points_that_nearly_coincide_do_not_overlap() -> None:
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    random = np.random.default_rng(0)
    points = [(1 + 0.01 * random.random(), 30 + 0.1 * random.random(), f"{i:02d} a rung") for i in range(9)]
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o")
    axes.set(xlim=(0, 2), ylim=(20, 40))
    labels.place_labels(axes, points)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 9
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


@pytest.mark.parametrize(
    ("heights", "expected"),
    [([0.0, 10.0], [0.0, 10.0]), ([5.0, 5.0], [4.0, 6.0]), ([3.0, 2.0, 9.0], [3.5, 1.5, 9.0]), ([], [])],
)
def test_heights_are_spread_as_little_as_needed(heights: list[float], expected: list[float]) -> None:
    assert labels.spread_out(heights, 2.0) == pytest.approx(expected)


def test_a_label_lies_nearer_to_its_own_point_than_to_another() -> None:
    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    points = [(1.0, 26.1, "06"), (1.0, 25.9, "07")]
    axes.plot([0.2, 1.0], [29.0, 26.1])
    axes.plot([1.0, 1.8], [25.9, 23.0])
    axes.set(xlim=(0, 2), ylim=(20, 30))
    labels.place_labels(axes, points, [([0.2, 1.0], [29.0, 26.1]), ([1.0, 1.8], [25.9, 23.0])])
    upper, lower = (text.get_window_extent() for text in axes.texts)
    assert (upper.y0 + upper.y1) > (lower.y0 + lower.y1)
