"""The figures: which there are, for which records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import figures, workload
from bench.ladder import Ladder, read
from tests import fake_records

ALL = set(figures.NAMES) - {"power"}


def ladder(results: Path, **arguments: object) -> Ladder:
    fake_records.make(results, **arguments)  # type: ignore[arg-type]
    return read(results)[0]


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
    assert [picture.title for picture in pictures if picture.path is None] == [
        "mIoU and throughput against batch size",
        "What the time buys",
    ]


def test_power_is_drawn_where_a_device_tells_it_and_not_named_where_none_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "NAMES", ("memory", "power"))
    for gpus in (0, 8):
        found = ladder(tmp_path / f"results-{gpus}", seeds=1, rungs=("00",), gpus=gpus)
        pictures = figures.draw(found, tmp_path, 30.0)
        assert ("Power over time" in {picture.title for picture in pictures}) == (gpus > 0)
        assert (tmp_path / "power.png").exists() == (gpus > 0)


def test_pictures_that_may_not_be_redistributed_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / "predictions.png").write_bytes(b"of an earlier report")
    guarded = fake_records.altered(workload.load("mini"), "data", redistributable=False)
    pictures = figures.draw(
        ladder(tmp_path / "results", seeds=1, rungs=("00",), setting=guarded), tmp_path, 30.0
    )
    assert pictures[-1].path is None
    assert "redistributed" in pictures[-1].caption
    assert not (tmp_path / "predictions.png").exists()


def test_names_are_text_and_no_formulas(tmp_path: Path) -> None:
    setting = workload.load("mini")
    names = ["$$", "$x_{", "_hidden", r"\frac", *setting.values["data"]["classes"][4:]]
    setting = fake_records.altered(setting, "data", classes=names)
    found = ladder(tmp_path / "results", seeds=2, rungs=("04", "05"), setting=setting)
    drawn = {picture.path.stem for picture in figures.draw(found, tmp_path, 30.0) if picture.path}
    assert drawn == ALL
