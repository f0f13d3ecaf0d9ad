"""What is to be done about each run of a matrix, and what stops one before anything is trained."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import BenchError, matrix, prepare, record, runner
from bench.workload import load as load_workload
from tests import fake_data, small
from tests.fake_matrix import (
    BASE,
    FOLDER,
    MINI,
    PHOTOGRAPHS,
    TRAINER,
    Watcher,
    edit,
    folder_of,
    ladder,
    make_plan,
    pictures,
    statuses,
    train,
)

pytestmark = pytest.mark.usefixtures("own_cache")


# -------------------------------------------------------------------------------------------------- the order


def test_each_seed_begins_one_recipe_later() -> None:
    order = [(recipe.name, seed) for recipe, seed in matrix.order(ladder("a", "b", "c"), 4)]
    names = ["".join(name for name, seed in order if seed == wanted) for wanted in range(4)]
    assert names == ["abc", "bca", "cab", "abc"]


def test_reference_records_are_never_written(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="reference"):
        make_plan(ladder("one"), tmp_path / "results" / "reference" / "here")


# -------------------------------------------------------------------------------------------------- the lanes


@pytest.mark.parametrize(
    ("threads", "at_once", "usable", "expected"),
    [
        (1, 2, {0, 1}, [(0,), (1,)]),
        (1, 2, {3, 5, 7}, [(3,), (5,)]),
        (1, 2, {4}, [()]),
        (2, 4, {0, 1, 2, 3, 4}, [(0, 1), (2, 3)]),
        (8, 2, {0, 1}, [()]),
        (0, 1, {0, 1}, [()]),
    ],
)
def test_each_run_has_cores_of_its_own(
    threads: int,
    at_once: int,
    usable: set[int],
    expected: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: usable)
    train = {**MINI.values["train"], "threads": threads, "at_once": at_once}
    workload = replace(MINI, values={**MINI.values, "train": train})
    assert matrix.lanes(workload, "cpu") == expected
    assert matrix.lanes(workload, "cuda") == [()]


# --------------------------------------------------------------------------------------------------- the plan


def test_a_finished_matrix_is_trained_once_and_then_skipped(tmp_path: Path) -> None:
    first = train(ladder("one", "two"), tmp_path, seeds=2)
    watcher = Watcher()
    again = train(ladder("one", "two"), tmp_path, seeds=2, watcher=watcher)
    assert statuses(first) == statuses(again) == ["finished"] * 4
    assert watcher.events == [
        ("skip", "one", 0), ("skip", "two", 0), ("skip", "two", 1), ("skip", "one", 1)
    ]  # fmt: skip
    assert [each.record for each in first.outcomes] == [each.record for each in again.outcomes]


@pytest.mark.parametrize(
    ("status", "action"),
    [
        ("finished", "skip"),
        ("diverged", "skip"),
        ("failed", "retry"),
        ("interrupted", "resume"),
        ("running", "resume"),
    ],
)
def test_what_is_to_do_follows_from_the_status(tmp_path: Path, status: str, action: str) -> None:
    train(ladder("one"), tmp_path)
    edit(folder_of(tmp_path, "one"), status=status)
    assert [each.action for each in make_plan(ladder("one"), tmp_path)] == [action]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("protocol", "native"),
        ("device_count", 8),
        ("cpu", "slide rule"),
        ("torch", None),
        ("threads", 64),
        ("data_workers", 3),
        ("deterministic", True),
        ("data_cache", True),
        ("seed", 5),
    ],
)
def test_a_record_of_something_else_stops_the_plan_before_training(
    tmp_path: Path, field: str, value: Any
) -> None:
    results = tmp_path / "local"
    train(ladder("one"), results)
    (tmp_path / "local-2").mkdir()
    edit(folder_of(results, "one"), **{field: value})
    with pytest.raises(BenchError) as caught:
        make_plan(ladder("other", "one"), results)
    assert f"its {field} is {'unknown' if value is None else value}, now it is " in caught.value.message
    assert str(folder_of(results, "one")) in caught.value.message
    assert f"--results {tmp_path}/local-3" in caught.value.hint
    assert not folder_of(results, "other").exists()


@pytest.mark.parametrize("file", ["recipe", "workload"])
def test_a_file_that_changed_since_is_named_and_is_to_be_renamed(tmp_path: Path, file: str) -> None:
    train(ladder("one"), tmp_path)
    edit(folder_of(tmp_path, "one"), **{f"{file}_fingerprint": "f00"})
    with pytest.raises(BenchError, match=f"holds a run of before the {file} changed") as caught:
        make_plan(ladder("one"), tmp_path)
    assert f"give the {file} file another name to keep both" in caught.value.hint


def test_a_run_that_failed_before_it_knew_its_machine_is_tried_again(tmp_path: Path) -> None:
    train(ladder("one"), tmp_path)
    edit(folder_of(tmp_path, "one"), status="failed", cpu=None)
    assert [each.action for each in make_plan(ladder("one"), tmp_path)] == ["retry"]


def test_a_run_that_failed_before_it_set_its_threads_is_tried_again(tmp_path: Path) -> None:
    few = replace(MINI, values={**FOLDER, "train": {**MINI.values["train"], "threads": 2}})
    first = matrix.plan([BASE], few, 1, tmp_path, data=pictures(), device="cpu", trainer=TRAINER)
    known = matrix.identity(first[0].job) | dict(first[0].job.facts)  # as a trainer's early failure notes it
    record.write(first[0].job.folder, {**known, "status": "failed", "error": "image 7 is damaged"})
    again = matrix.plan([BASE], few, 1, tmp_path, data=pictures(), device="cpu", trainer=TRAINER)
    assert [each.action for each in again] == ["retry"]


def test_a_deterministic_run_is_found_again_on_a_gpu(tmp_path: Path) -> None:
    plan = make_plan(ladder("one"), tmp_path, deterministic=True)
    job = replace(plan[0].job, facts={**plan[0].job.facts, "cudnn_benchmark": True})
    runner.run([replace(plan[0], job=job)], Watcher(), trainer=TRAINER)
    edit(job.folder, cudnn_benchmark=False)  # what a deterministic run notes
    assert (
        runner.run([replace(plan[0], job=job)], Watcher(), trainer=TRAINER).outcomes[0].status == "finished"
    )


def test_a_cache_goes_to_the_run_and_into_its_record(tmp_path: Path) -> None:
    prepare.cache(pictures(), tmp_path / "cache", fake_data.Watcher())
    plan = make_plan(ladder("one"), tmp_path / "results", cache=tmp_path / "cache")
    runner.run(plan, Watcher(), trainer=TRAINER)
    assert plan[0].job.cache == tmp_path / "cache"
    assert record.read(plan[0].job.folder)["data_cache"] is True
    with pytest.raises(BenchError, match="its data_cache is True, now it is False"):
        make_plan(ladder("one"), tmp_path / "results")


def test_a_cache_that_does_not_fit_stops_the_plan(tmp_path: Path) -> None:
    prepare.cache(small.pair(tmp_path / "others"), tmp_path / "cache", fake_data.Watcher())
    (tmp_path / "others/images/training/a.png").rename(tmp_path / "others/images/training/a.jpg")
    with pytest.raises(BenchError, match="was made of other pictures than .*others holds"):
        matrix.plan([BASE], PHOTOGRAPHS, 1, tmp_path, data=tmp_path / "others", cache=tmp_path / "cache")
    with pytest.raises(BenchError, match="mini makes its own pictures") as caught:
        matrix.plan([BASE], MINI, 1, tmp_path, cache=tmp_path / "cache")
    assert caught.value.hint == "leave --cache out"


def test_planning_writes_nothing(tmp_path: Path) -> None:
    make_plan(ladder("one"), tmp_path / "results")
    assert list(tmp_path.iterdir()) == []


def damage(results: Path, text: str) -> None:
    folder_of(results, "one").mkdir(parents=True)
    (folder_of(results, "one") / "run.json").write_text(text)


@pytest.mark.parametrize("text", ['{"schema": 1, "sta', "[1, 2]", "{}", '{"schema": 999}', "\x00\xff"])
def test_a_record_that_cannot_be_read_stops_the_plan(tmp_path: Path, text: str) -> None:
    damage(tmp_path, text)
    with pytest.raises(BenchError, match=r"run\.json") as caught:
        make_plan(ladder("other", "one"), tmp_path)
    assert "--results" in caught.value.hint or "segbench" in caught.value.hint
    assert not folder_of(tmp_path, "other").exists()


def test_a_file_in_the_place_of_a_run_stops_the_plan(tmp_path: Path) -> None:
    folder_of(tmp_path, "one").parent.mkdir(parents=True)
    folder_of(tmp_path, "one").touch()
    with pytest.raises(BenchError, match="is not a folder"):
        make_plan(ladder("one"), tmp_path)


def test_an_absent_device_stops_the_plan(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no CUDA device"):
        make_plan(ladder("one"), tmp_path, device="cuda")


def test_a_recipe_that_the_workload_rules_out_stops_the_plan(tmp_path: Path) -> None:
    odd = replace(BASE, values={**BASE.values, "optim": {**BASE.values["optim"], "batch_size": 15}})
    with pytest.raises(BenchError, match="batch_size = 15"):
        make_plan([odd], tmp_path)


@pytest.mark.parametrize("data", [None, Path("/nowhere")])
def test_a_workload_of_pictures_needs_their_folder(tmp_path: Path, data: Path | None) -> None:
    with pytest.raises(BenchError) as caught:
        matrix.plan(ladder("one"), PHOTOGRAPHS, 1, tmp_path, data=data, trainer=TRAINER)
    assert "--data DIR" in caught.value.hint


def test_a_workload_of_scenes_takes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="makes its own pictures"):
        matrix.plan(ladder("one"), MINI, 1, tmp_path, data=tmp_path, trainer=TRAINER)


def test_noise_takes_no_folder_and_needs_none(tmp_path: Path) -> None:
    noise = load_workload("ade20k-fake")
    noise = replace(noise, values={**noise.values, "system": MINI.values["system"]})
    with pytest.raises(BenchError, match="makes its own pictures"):
        matrix.plan(ladder("one"), noise, 1, tmp_path, data=tmp_path, trainer=TRAINER)
    plan = matrix.plan(ladder("one"), noise, 1, tmp_path, trainer=TRAINER)
    watcher = Watcher()
    [outcome] = runner.run(plan, watcher, trainer=TRAINER).outcomes
    assert (outcome.status, outcome.job.data) == ("finished", None)
    assert watcher.prepared == []  # no weights either
