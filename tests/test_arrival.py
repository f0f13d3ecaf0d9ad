"""Time to the target and whether the mean reaches it: two clocks, misses, resumed runs, systems rungs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench import arrival, contrasts, record, workload
from bench.arrival import Arrival
from bench.ladder import read
from tests import fake_records


def judge(results: Path, target: float) -> dict[str, Arrival]:
    (ladder,) = read(results)
    return arrival.judge(ladder, contrasts.judge(ladder), target)


def rescore(folder: Path, *mious: float) -> None:
    """Give the run these evaluations, one every 10 s of training, 12 s of wall time; 3 s of set-up."""
    *_, last = record.read_evals(folder)
    rows = [
        {**last, "miou": miou, "train_s": 10.0 * i, "wall_s": 3 + 12.0 * i, "step": 1200 * i // len(mious)}
        for i, miou in enumerate(mious, start=1)
    ]
    record.write_evals(folder, rows)
    known = {"final_miou": mious[-1], "best_miou": max(mious), "setup_s": 3.0, "eval_s": 1.0}
    seconds = 10.0 * len(mious) + 0.001 * int(folder.name[-1])
    known |= {"train_s": seconds, "checkpoint_s": 0.5, "wall_s": seconds + 4.5}
    edit(folder, **known, images_per_s=1200 * 16 / seconds, steps=1200, steps_done=1200)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    setting = fake_records.altered(workload.load("mini"), "evaluation", evaluations=3)
    fake_records.make(tmp_path, rungs=("00",), setting=setting)
    found = list(record.folders(tmp_path))
    for folder, mious in zip(found, ((10, 26, 24), (10, 20, 27), (10, 20, 22)), strict=True):
        rescore(folder, *map(float, mious))
    return found


def test_a_miss_counts_as_infinite_on_both_clocks(tmp_path: Path, folders: list[Path]) -> None:
    (each,) = judge(tmp_path, 25.0).values()
    assert (each.hits, each.runs, each.timed) == (2, 3, 3)
    assert each.times["train_s"] == arrival.Time(30.0, 10.0)
    assert each.times["wall_s"] == arrival.Time(39.0, 12.0)
    (each,) = judge(tmp_path, 26.5).values()
    assert (each.hits, each.times["train_s"].median) == (1, math.inf)


def test_the_best_evaluation_reaches_the_target_and_the_mean_of_the_last_need_not(
    tmp_path: Path, folders: list[Path]
) -> None:
    (each,) = judge(tmp_path, 23.0).values()
    assert (each.hits, each.times["train_s"].median) == (2, 30.0)
    assert each.mean is not None
    assert each.mean.delta == pytest.approx((24 + 27 + 22) / 3 - 23)
    assert each.mean.verdict == "not shown"


def test_a_resumed_run_counts_among_those_that_reached_it_and_has_no_time(
    tmp_path: Path, folders: list[Path]
) -> None:
    edit(folders[1], resumed=1)
    (each,) = judge(tmp_path, 25.0).values()
    assert (each.hits, each.runs, each.timed) == (2, 3, 2)
    assert each.times["train_s"].median == math.inf
    for folder in folders:
        edit(folder, resumed=1)
    (each,) = judge(tmp_path, 25.0).values()
    assert (each.hits, each.times) == (2, {})
    assert arrival.short(each, 1.0) == "– (2 of 3)"


def test_the_sheet_names_both_clocks_and_prints_p(tmp_path: Path, folders: list[Path]) -> None:
    (ladder,) = read(tmp_path)
    sheet = arrival.sheet(ladder, judge(tmp_path, 25.0), 25.0)
    (row,) = ([cell.text for cell in row] for row in sheet.rows)
    assert row[1:4] == ["2 of 3", "30.0 ± 10.0", "39.0 ± 12.0"]
    assert "p = " in row[4]
    assert row[4].endswith(")")
    (numbers,) = sheet.records()
    assert numbers["time_to_target_wall_s"] == 39.0
    assert 0.5 < numbers["final_miou_less_target_p"] < 1
