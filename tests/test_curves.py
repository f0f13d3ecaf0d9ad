"""The frontier of time and mIoU."""

from __future__ import annotations

from bench import curves


def test_the_frontier_holds_what_nothing_beats() -> None:
    points = [(3.0, 30.0), (2.0, 30.0), (1.0, 20.0), (4.0, 35.0), (4.5, 34.0)]
    assert curves.frontier(points) == {1, 2, 3}
