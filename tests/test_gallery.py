"""The colours of classes."""

from __future__ import annotations

import numpy as np
import pytest

from bench import gallery


@pytest.mark.parametrize("count", [1, 12, 150])
def test_a_palette_has_a_different_colour_for_every_class(count: int) -> None:
    colors = gallery.palette(count)
    assert colors.shape == (count + 1, 3)
    assert len({tuple(color) for color in colors}) == count + 1


def test_the_first_colours_of_a_palette_differ_in_grey() -> None:
    grey = sorted(gallery.palette(12) @ (0.299, 0.587, 0.114))
    assert min(np.diff(grey)) > 8
