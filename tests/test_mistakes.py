"""IoU by class and confusion: what is summed, what is shown of many classes, and that rows stay apart."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bench import mistakes, tables, workload
from bench.labels import settled
from bench.ladder import Ladder, read
from tests import fake_records


def ladder(results: Path, classes: int) -> Ladder:
    names = [f"a class of number {i}" for i in range(classes)]
    setting = fake_records.altered(workload.load("mini"), "data", classes=names)
    fake_records.make(results, seeds=2, rungs=("00", "01"), setting=setting)
    return read(results)[0]


@pytest.mark.parametrize("count", [3, 24, 50, 72, 150])
def test_names_of_classes_neither_touch_nor_lie_far_apart(tmp_path: Path, count: int) -> None:
    figure, _ = mistakes.classes(ladder(tmp_path, count))
    assert figure is not None
    settled(figure)
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
        gaps = [above.y0 - below.y1 for above, below in pairwise(boxes)]
        assert all(0 <= gap < boxes[0].height * 1.2 for gap in gaps)
        assert all(box.x0 >= 0 for box in boxes)


def test_the_confusion_is_that_of_all_seeds_and_a_damaged_file_counts_for_none(tmp_path: Path) -> None:
    found = ladder(tmp_path, 4)
    rung = found.chain()[-1]
    files = [run.folder / "confusion.csv" for run in rung.runs]
    parts = [np.loadtxt(path, delimiter=",", skiprows=1, usecols=range(1, 5)) for path in files]
    assert (tables.confusion_pixels(found, rung) == sum(parts)).all()
    files[0].write_text("label,x\nx,1\n")
    assert (tables.confusion_pixels(found, rung) == parts[1]).all()
    for damage in (f"label,x\nx,{10**30}\n", f'label,"{"x" * 200_000}"\n'):
        files[1].write_text(damage)
        assert tables.confusion_pixels(found, rung) is None
    files[1].unlink()
    assert tables.confusion_pixels(found, rung) is None
    assert mistakes.confusion(found) == (None, "the records hold no confusion matrix.")


def test_of_many_classes_the_most_mistaken_are_shown_in_order(tmp_path: Path) -> None:
    pixels = np.diag([100] * 5)
    pixels[4, 1] = 9
    pixels[0, 3] = 5
    assert mistakes._worst(pixels, 3) == [0, 1, 4]
    figure, caption = mistakes.confusion(ladder(tmp_path, 30))
    assert figure is not None
    assert len(figure.axes[0].get_yticklabels()) == mistakes.MOST
    assert "The 24 classes with most pixels mistaken" in caption
