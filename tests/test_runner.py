"""The runner against a trainer without torch; the processes, signals and locks are real."""

from __future__ import annotations

import atexit
import errno
import fcntl
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from bench import BenchError, doctor, prepare, record, runner
from bench.progress import Progress
from bench.recipe import Recipe
from bench.recipe import load as load_recipe
from bench.seat import Seat
from bench.workload import Workload
from bench.workload import load as load_workload
from tests import fake_data, small

TRAINER = "tests.fake_train"
BASE = load_recipe("00-mmseg-baseline")
MINI = load_workload("mini")
FOLDER = {
    **MINI.values,
    "data": {**MINI.values["data"], "source": "folder", "train_images": 0, "val_images": 0},
}
PHOTOGRAPHS = replace(MINI, values={**FOLDER, "train": {**MINI.values["train"], "at_once": 1}})
SIDE_BY_SIDE = replace(MINI, values={**FOLDER, "train": {**MINI.values["train"], "at_once": 2}})


@functools.cache
def pictures() -> Path:
    """A data set of one pair a split."""
    made = tempfile.TemporaryDirectory()
    atexit.register(made.cleanup)
    return small.pair(Path(made.name))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


class Watcher:
    """A display that keeps what it is told, and calls `act` at each news of a run."""

    def __init__(self, act: Callable[[Progress], None] = lambda _: None) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.prepared: list[tuple[str, int, int]] = []
        self.errors: dict[tuple[str, int], str | None] = {}
        self._act = act

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def prepare(self, what: str, done: int, total: int) -> None:
        self.prepared.append((what.split()[0], done, total))

    def start(self, key: tuple[str, int], resumed: bool) -> None:
        self.events.append(("resume" if resumed else "start", *key))

    def tell(self, key: tuple[str, int], progress: Progress) -> None:
        self._act(progress)

    def end(
        self, key: tuple[str, int], status: str, record: Mapping[str, Any] | None, error: str | None
    ) -> None:
        self.events.append((status, *key))
        self.errors[key] = error

    def skip(self, key: tuple[str, int], status: str, record: Mapping[str, Any] | None) -> None:
        self.events.append(("skip", *key))

    def tick(self) -> None:
        pass

    def stopping(self) -> None:
        self.events.append(("stopping",))


def ladder(*titles: str) -> list[Recipe]:
    """Recipes named as what they do in the fake trainer."""
    return [replace(BASE, name=title, title=title) for title in titles]


def make_plan(recipes: Sequence[Recipe], results: Path, seeds: int = 1, **options: Any) -> list[runner.Run]:
    return runner.plan(recipes, PHOTOGRAPHS, seeds, results, data=pictures(), trainer=TRAINER, **options)


def train(
    recipes: Sequence[Recipe], results: Path, seeds: int = 1, watcher: Watcher | None = None, **options: Any
) -> runner.Result:
    plan = make_plan(recipes, results, seeds)
    return runner.run(plan, watcher or Watcher(), trainer=TRAINER, **options)


def folder_of(results: Path, recipe: str, seed: int = 0) -> Path:
    return record.run_folder(results, "mini", recipe, seed)


def statuses(result: runner.Result) -> list[str]:
    return [each.status for each in result.outcomes]


def edit(folder: Path, **values: Any) -> None:
    record.write(folder, {**record.read(folder), **values})


# ------------------------------------------------------------------------------------------------- the order


def test_each_seed_begins_one_recipe_later() -> None:
    order = [(recipe.name, seed) for recipe, seed in runner.order(ladder("a", "b", "c"), 4)]
    names = ["".join(name for name, seed in order if seed == wanted) for wanted in range(4)]
    assert names == ["abc", "bca", "cab", "abc"]


def test_reference_records_are_never_written(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="reference"):
        make_plan(ladder("one"), tmp_path / "results" / "reference" / "here")


# ------------------------------------------------------------------------------------------------- the lanes


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
    assert runner.lanes(workload, "cpu") == expected
    assert runner.lanes(workload, "cuda") == [()]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_runs_train_side_by_side_where_the_workload_says_so(tmp_path: Path) -> None:
    watcher = Watcher()
    recipes = ladder("one", "two", "three", "fail")
    plan = runner.plan(recipes, SIDE_BY_SIDE, 1, tmp_path, data=pictures(), trainer=TRAINER)
    result = runner.run(plan, watcher, trainer=TRAINER)
    assert statuses(result) == ["finished", "finished", "finished", "failed"]
    assert [kind for kind, *_ in watcher.events[:2]] == ["start", "start"]
    started = sorted(key[0] for kind, *key in watcher.events if kind == "start")
    assert started == ["fail", "one", "three", "two"]
    assert [each.record["runs_at_once"] for each in result.outcomes if each.record] == [2] * 4
    again = runner.plan(recipes, SIDE_BY_SIDE, 1, tmp_path, data=pictures(), trainer=TRAINER)
    assert [each.action for each in again] == ["skip", "skip", "skip", "retry"]


# -------------------------------------------------------------------------------------------------- the plan


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
        ("recipe_fingerprint", "f00"),
        ("workload_fingerprint", "f00"),
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


def test_a_run_that_failed_before_it_knew_its_machine_is_tried_again(tmp_path: Path) -> None:
    train(ladder("one"), tmp_path)
    edit(folder_of(tmp_path, "one"), status="failed", cpu=None)
    assert [each.action for each in make_plan(ladder("one"), tmp_path)] == ["retry"]


def test_a_run_that_failed_before_it_set_its_threads_is_tried_again(tmp_path: Path) -> None:
    few = replace(MINI, values={**FOLDER, "train": {**MINI.values["train"], "threads": 2}})
    first = runner.plan([BASE], few, 1, tmp_path, data=pictures(), device="cpu", trainer=TRAINER)
    known = runner._identity(first[0].job) | dict(first[0].job.facts)  # as a trainer's early failure notes it
    record.write(first[0].job.folder, {**known, "status": "failed", "error": "image 7 is damaged"})
    again = runner.plan([BASE], few, 1, tmp_path, data=pictures(), device="cpu", trainer=TRAINER)
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
        runner.plan([BASE], PHOTOGRAPHS, 1, tmp_path, data=tmp_path / "others", cache=tmp_path / "cache")
    with pytest.raises(BenchError, match="mini makes its own pictures") as caught:
        runner.plan([BASE], MINI, 1, tmp_path, cache=tmp_path / "cache")
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
        runner.plan(ladder("one"), PHOTOGRAPHS, 1, tmp_path, data=data, trainer=TRAINER)
    assert "--data DIR" in caught.value.hint


def test_a_workload_of_scenes_takes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="makes its own pictures"):
        runner.plan(ladder("one"), MINI, 1, tmp_path, data=tmp_path, trainer=TRAINER)


def test_noise_takes_no_folder_and_needs_none(tmp_path: Path) -> None:
    noise = load_workload("ade20k-fake")
    noise = replace(noise, values={**noise.values, "system": MINI.values["system"]})
    with pytest.raises(BenchError, match="makes its own pictures"):
        runner.plan(ladder("one"), noise, 1, tmp_path, data=tmp_path, trainer=TRAINER)
    plan = runner.plan(ladder("one"), noise, 1, tmp_path, trainer=TRAINER)
    watcher = Watcher()
    [outcome] = runner.run(plan, watcher, trainer=TRAINER).outcomes
    assert (outcome.status, outcome.job.data) == ("finished", None)
    assert watcher.prepared == []  # no weights either


def test_a_data_set_is_looked_at_once_before_the_first_run(tmp_path: Path) -> None:
    for results, looks in (("first", [("verifying", 1, 2), ("verifying", 2, 2)]), ("second", [])):
        watcher = Watcher()
        train(ladder("one"), tmp_path / results, watcher=watcher)
        assert watcher.prepared == [("loading", 0, 1), *looks]


def test_a_damaged_picture_stops_the_matrix_before_it_trains(tmp_path: Path) -> None:
    data = small.pair(tmp_path / "pictures")
    (data / "images/validation/a.png").write_bytes(b"half a pic")
    plan = runner.plan(ladder("one"), PHOTOGRAPHS, 1, tmp_path / "results", data=data, trainer=TRAINER)
    with pytest.raises(BenchError, match=r"images/validation/a.png cannot be read"):
        runner.run(plan, Watcher(), trainer=TRAINER)
    assert list((tmp_path / "results").iterdir()) == []


def wide(weights: Path | None, results: Path) -> list[runner.Run]:
    """A plan for a backbone of torchvision's."""
    large = load_workload("ade20k").values["model"]
    work = replace(PHOTOGRAPHS, values={**PHOTOGRAPHS.values, "model": large})
    return runner.plan(
        ladder("one", "two"), work, 1, results, data=pictures(), weights=weights, trainer=TRAINER
    )


def test_weights_are_asked_for_once_and_refused_before_anything_trains(tmp_path: Path) -> None:
    (tmp_path / "wrong").mkdir()
    (tmp_path / "right").mkdir()
    watcher = Watcher()
    with pytest.raises(BenchError, match="the weights do not fit"):
        runner.run(wide(tmp_path / "wrong", tmp_path / "results"), watcher, trainer=TRAINER)
    assert watcher.events == []
    assert list((tmp_path / "results").iterdir()) == []
    watcher = Watcher()
    result = runner.run(wide(tmp_path / "right", tmp_path / "results"), watcher, trainer=TRAINER)
    assert statuses(result) == ["finished", "finished"]
    assert [event for event in watcher.prepared if event[0] == "loading"] == [("loading", 0, 1)]


def test_each_kind_of_weights_is_asked_for(tmp_path: Path) -> None:
    """v1 of the first recipe is fine; v2 of the second is not."""
    (tmp_path / "wrong-v2").mkdir()
    large = load_workload("ade20k").values["model"]
    work = replace(PHOTOGRAPHS, values={**PHOTOGRAPHS.values, "model": large})
    [first, second] = ladder("one", "two")
    second = replace(second, values={**second.values, "model": {"weights": "v2"}})
    plan = runner.plan(
        [first, second],
        work,
        1,
        tmp_path / "r",
        data=pictures(),
        weights=tmp_path / "wrong-v2",
        trainer=TRAINER,
    )
    watcher = Watcher()
    with pytest.raises(BenchError, match="the weights do not fit"):
        runner.run(plan, watcher, trainer=TRAINER)
    assert [event for event in watcher.prepared if event[0] == "loading"] == [
        ("loading", 0, 2),
        ("loading", 1, 2),
    ]
    assert watcher.events == []


def test_a_stop_while_weights_are_fetched_ends_it(tmp_path: Path) -> None:
    (tmp_path / "slow").mkdir()
    watcher = Watcher()
    watcher.prepare = lambda what, done, total: (  # type: ignore[method-assign]
        os.kill(os.getpid(), signal.SIGINT) if what.startswith("loading") else None
    )
    plan = wide(tmp_path / "slow", tmp_path / "results")
    with pytest.raises(KeyboardInterrupt):
        runner.run(plan, watcher, trainer=TRAINER)
    assert list((tmp_path / "results").iterdir()) == []


def test_weights_are_refused_where_there_are_none_or_none_are_needed(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="there is no file or folder"):
        wide(tmp_path / "nowhere", tmp_path)
    with pytest.raises(BenchError, match="the weights of workload mini travel with segbench"):
        make_plan(ladder("one"), tmp_path, weights=tmp_path)


def few_scenes() -> Workload:
    few = {**MINI.values["data"], "train_images": 2, "val_images": 1}
    return replace(MINI, values={**MINI.values, "data": few})


def test_scenes_are_drawn_once_before_the_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "cache"))
    for results, drawn in (("first", [("drawing", done, 3) for done in (1, 2, 3)]), ("second", [])):
        plan = runner.plan(ladder("one"), few_scenes(), 1, tmp_path / results, trainer=TRAINER)
        watcher = Watcher()
        [outcome] = runner.run(plan, watcher, trainer=TRAINER).outcomes
        assert watcher.prepared == [("loading", 0, 1), *drawn]
        assert watcher.events == [("start", "one", 0), ("finished", "one", 0)]
        assert outcome.job.data is not None
        assert outcome.job.data.parent == tmp_path / "cache"


def test_a_stop_while_scenes_are_drawn_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "cache"))
    plan = runner.plan(ladder("one"), few_scenes(), 1, tmp_path / "results", trainer=TRAINER)
    watcher = Watcher()
    watcher.prepare = lambda what, done, total: os.kill(os.getpid(), signal.SIGINT)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        runner.run(plan, watcher, trainer=TRAINER)
    assert not list(tmp_path.glob("cache/*"))
    assert list((tmp_path / "results").iterdir()) == []


# ------------------------------------------------------------------------------------- what becomes of a run


def test_a_run_is_recorded_with_its_job(tmp_path: Path) -> None:
    plan = make_plan(ladder("one"), tmp_path, command="segbench run --recipe one", deterministic=True)
    [outcome] = runner.run(plan, Watcher(), trainer=TRAINER).outcomes
    run = record.read(outcome.job.folder)
    assert run == outcome.record
    assert (run["command"], run["deterministic"], run["cpu"]) == ("segbench run --recipe one", True, "abacus")
    assert "segbench run --recipe one" in outcome.job.log.read_text()


def test_the_matrix_goes_on_after_every_kind_of_end(tmp_path: Path) -> None:
    watcher = Watcher()
    result = train(ladder("fail", "bug", "kill", "mute", "diverge", "fine"), tmp_path, watcher=watcher)
    assert statuses(result) == ["failed", "failed", "failed", "failed", "diverged", "finished"]
    assert not result.stopped
    assert {name: error for (name, _), error in watcher.errors.items()} == {
        "fail": "image 7 is damaged",
        "bug": "ValueError: no such thing",
        "kill": "killed by SIGKILL, perhaps for want of memory",
        "mute": "something odd happened",
        "diverge": "the loss was nan at step 3",
        "fine": None,
    }
    for outcome in result.outcomes:
        assert record.read(outcome.job.folder)["status"] == outcome.status
        assert record.read(outcome.job.folder)["error"] == outcome.error
        assert record.read(outcome.job.folder)["host"] == "attic"


def test_a_known_error_leaves_its_hint_and_no_traceback(tmp_path: Path) -> None:
    [outcome] = train(ladder("fail"), tmp_path).outcomes
    assert outcome.hint == "fetch it again"
    log = outcome.job.log.read_text()
    assert "Error: image 7 is damaged\nHint: fetch it again" in log
    assert "Traceback" not in log


def test_a_bug_leaves_its_traceback_in_the_log(tmp_path: Path) -> None:
    [outcome] = train(ladder("bug"), tmp_path).outcomes
    assert "Traceback" in outcome.job.log.read_text()


def test_a_failure_from_before_is_not_taken_for_one_of_now(tmp_path: Path) -> None:
    train(ladder("bug"), tmp_path)
    edit(folder_of(tmp_path, "bug"), error="something of yesterday")
    [outcome] = train(ladder("bug"), tmp_path).outcomes
    assert (outcome.status, outcome.error) == ("failed", "ValueError: no such thing")


def test_a_failed_run_is_tried_again(tmp_path: Path) -> None:
    train(ladder("kill"), tmp_path)
    mended = [replace(BASE, name="kill", title="fine")]
    assert statuses(train(mended, tmp_path)) == ["finished"]


# -------------------------------------------------------------------------------------------- several devices


def train_on(devices: int, title: str, results: Path, watcher: Watcher | None = None) -> runner.Outcome:
    """What becomes of a run whose devices do what `title` says."""
    recipes = [replace(BASE, name="shared", title=title)]
    plan = make_plan(recipes, results, seat=Seat(devices=devices, local_devices=devices))
    [outcome] = runner.run(plan, watcher or Watcher(), trainer=TRAINER).outcomes
    return outcome


@pytest.mark.parametrize(
    ("title", "error"),
    [
        ("fail|stubborn", "image 7 is damaged"),
        ("mute|stubborn", ""),
        ("stubborn|fail", "device 1: image 7 is damaged"),
        ("stubborn|bug", "device 1: "),
        ("stubborn|kill", "device 1: killed by SIGKILL, perhaps for want of memory"),
        ("stubborn|stubborn|fail|stubborn", "device 2: image 7 is damaged"),
        ("fail|fail", "image 7 is damaged"),
    ],
)
def test_the_device_that_failed_is_named_and_not_one_that_waited_for_it_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, title: str, error: str
) -> None:
    monkeypatch.setattr(runner, "PEERS_S", 0.5)
    outcome = train_on(title.count("|") + 1, title, tmp_path)
    assert outcome.status == "failed"
    assert (outcome.error or "").startswith(error)
    assert ("SIGKILL" in (outcome.error or "")) == ("kill" in title)
    assert record.read(outcome.job.folder)["error"] == outcome.error


def test_a_second_stop_of_several_devices_is_no_failure_of_one(tmp_path: Path) -> None:
    outcome = train_on(2, "stubborn|stubborn", tmp_path, Watcher(send(signal.SIGINT, signal.SIGINT)))
    assert outcome.status == "interrupted"
    assert record.read(outcome.job.folder)["status"] == "interrupted"


def test_a_device_that_saves_is_given_its_time_when_the_others_have_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PEERS_S", 0.0)
    outcome = train_on(2, "save|wait", tmp_path, Watcher(send(signal.SIGINT)))
    assert outcome.status == "interrupted"
    assert (outcome.job.folder / "checkpoint.pt").exists()


# --------------------------------------------------------------------------------------------------- stopping


def send(*signals: int) -> Callable[[Progress], None]:
    """Send this process one of the signals at each news of step 7; then the news must come to an end."""
    left = [*signals, *[0] * 300]

    def act(progress: Progress) -> None:
        if progress.step == 7:
            os.kill(os.getpid(), left.pop(0))

    return act


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_waits_for_the_checkpoint_and_the_same_command_goes_on(tmp_path: Path, number: int) -> None:
    watcher = Watcher(send(number))
    result = train(ladder("fine", "wait", "later"), tmp_path, watcher=watcher)
    assert result.stopped
    assert statuses(result) == ["finished", "interrupted"]
    assert record.read(folder_of(tmp_path, "wait"))["steps_done"] == 7
    assert watcher.events[-2:] == [("stopping",), ("interrupted", "wait", 0)]

    watcher = Watcher()
    result = train(ladder("fine", "wait", "later"), tmp_path, watcher=watcher)
    assert statuses(result) == ["finished"] * 3
    assert watcher.events[:2] == [("skip", "fine", 0), ("resume", "wait", 0)]
    assert record.read(folder_of(tmp_path, "wait"))["resumed"] == 1


def test_a_second_stop_kills(tmp_path: Path) -> None:
    result = train(ladder("stubborn"), tmp_path, watcher=Watcher(send(signal.SIGINT, signal.SIGINT)))
    assert statuses(result) == ["interrupted"]
    assert record.read(folder_of(tmp_path, "stubborn"))["status"] == "interrupted"


def test_patience_with_a_run_that_does_not_stop_is_bounded(tmp_path: Path) -> None:
    watcher = Watcher(send(signal.SIGTERM))
    result = train(ladder("stubborn"), tmp_path, watcher=watcher, patience_s=0.0)
    assert result.stopped
    assert statuses(result) == ["interrupted"]


def test_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(ladder("fine"), tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


# --------------------------------------------------------------------------------------- more than one runner


def test_a_run_that_another_runner_trains_is_left_to_it_and_looked_at_last(tmp_path: Path) -> None:
    plan = make_plan(ladder("one", "two"), tmp_path)
    watcher = Watcher()
    lock = runner.Lock.take(plan[0].job.folder)
    assert lock is not None
    try:
        result = runner.run(plan, watcher, trainer=TRAINER)
    finally:
        lock.close()
    assert watcher.events == [("start", "two", 0), ("finished", "two", 0), ("taken", "one", 0)]
    assert statuses(result) == ["taken", "finished"]
    assert not (folder_of(tmp_path, "one") / "run.json").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_that_cannot_begin_ends_all_that_torchrun_started(tmp_path: Path, rank: int) -> None:
    """Each would wait for the others, at another run than they."""
    seat = Seat(rank, 2, 0, 1, "nowhere:1/0", launched=True)
    plan = make_plan(ladder("one", "two"), tmp_path, seat=seat)
    lock = runner.Lock.take(plan[0].job.folder) if rank == 0 else None
    if rank:
        (tmp_path / "mini").write_text("where folders ought to be")
    watcher = Watcher()
    with pytest.raises(
        BenchError, match="one/seed-0: " + ("cannot", "another segbench trains it")[rank == 0]
    ):
        runner.run(plan, watcher, trainer=TRAINER)
    assert watcher.events == []
    if lock is not None:
        lock.close()


def test_a_run_that_another_runner_finished_meanwhile_is_not_trained_again(tmp_path: Path) -> None:
    plan = make_plan(ladder("one"), tmp_path)
    train(ladder("one"), tmp_path)
    watcher = Watcher()
    result = runner.run(plan, watcher, trainer=TRAINER)
    assert watcher.events == [("finished", "one", 0)]
    assert statuses(result) == ["finished"]


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    first = runner.Lock.take(tmp_path)
    assert first is not None
    assert runner.Lock.take(tmp_path) is None
    first.close()
    second = runner.Lock.take(tmp_path)
    assert second is not None
    second.close()


ORPHANING = """
import sys
from pathlib import Path
from tests import test_runner as tests

if __name__ == "__main__":
    watcher = tests.Watcher(lambda news: print(news.step, flush=True))
    tests.train(tests.ladder("wait"), Path(sys.argv[1]), watcher=watcher)
"""


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty temporary folder; its path is short, since sockets lie in it."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture
def orphaned(tmp_path: Path, temporary: Path) -> Iterator[Path]:
    """The folder of a run whose runner was killed while it trained."""
    script = tmp_path / "matrix.py"
    script.write_text(ORPHANING)
    root = str(Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, script, tmp_path],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root, "TMPDIR": str(temporary)},
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != b"7":
            assert process.poll() is None
        process.kill()
        yield folder_of(tmp_path, "wait")


def test_a_run_whose_runner_is_killed_saves_itself_before_it_lets_go_of_the_lock(orphaned: Path) -> None:
    handle = os.open(orphaned, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)  # waits for the last holder
    os.close(handle)
    run = record.read(orphaned)
    assert (run["status"], run["steps_done"]) == ("interrupted", 7)


def test_a_killed_runner_leaves_nothing_of_its_own_among_temporary_files(
    orphaned: Path, temporary: Path
) -> None:
    left = [path.name for path in temporary.iterdir()]
    assert not [name for name in left if name.startswith("segbench-")]


# ----------------------------------------------------------------------------------------- the results folder


@pytest.mark.parametrize("results", ["/proc/results", "/dev/null/results"])
def test_results_that_cannot_be_written_stop_the_matrix_before_training(results: str) -> None:
    with pytest.raises(BenchError, match="cannot write") as caught:
        train(ladder("one"), Path(results))
    assert "--results" in caught.value.hint


def test_a_full_disk_stops_the_matrix_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    watcher = Watcher()
    with pytest.raises(BenchError, match="No space left on device"):
        train(ladder("one"), tmp_path, watcher=watcher)
    assert watcher.events == []


def test_a_disk_too_full_for_the_log_is_said_and_the_matrix_goes_on(tmp_path: Path) -> None:
    folder_of(tmp_path, "fine").mkdir(parents=True)
    (folder_of(tmp_path, "fine") / "log.txt").symlink_to("/dev/full")
    full, later = train(ladder("fine", "later"), tmp_path).outcomes
    assert (full.status, later.status) == ("failed", "finished")
    assert full.error == f"cannot write {full.job.log}: No space left on device"
    assert "--results" in full.hint


def test_a_finished_matrix_on_a_read_only_disk_is_still_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(ladder("one"), tmp_path)

    def refuse(path: Path, text: str) -> None:
        raise AssertionError(f"wrote {path}")

    monkeypatch.setattr(record, "write_atomic", refuse)
    assert statuses(train(ladder("one"), tmp_path)) == ["finished"]


def test_nothing_is_left_in_the_results_folder_but_runs(tmp_path: Path) -> None:
    train(ladder("one"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mini"]
    assert json.loads((folder_of(tmp_path, "one") / "run.json").read_text())["status"] == "finished"


def test_the_runner_imports_no_torch() -> None:
    code = "import sys, bench.runner; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# What the doctor found


def examinations(folder: Path) -> list[str]:
    """The state of the line on the load in each examination that is kept beside a record."""
    return [
        line["state"] for each in doctor.read(folder) for line in each["lines"] if line["check"] == "load"
    ]


def test_what_the_doctor_found_lies_beside_each_record_and_changes_no_identity(tmp_path: Path) -> None:
    train(ladder("one", "two"), tmp_path)
    assert examinations(folder_of(tmp_path, "one")) == examinations(folder_of(tmp_path, "two")) == ["warn"]
    (folder_of(tmp_path, "one") / doctor.FILE).unlink()
    assert [each.action for each in make_plan(ladder("one", "two"), tmp_path)] == ["skip", "skip"]


def test_the_machine_is_examined_once_a_matrix_and_not_where_nothing_is_to_be_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(doctor, "examine", lambda work, **options: asked.append(options["device"]) or [])
    train(ladder("one", "two"), tmp_path, seeds=2)
    assert asked == ["cpu"]
    train(ladder("one", "two"), tmp_path, seeds=2)
    assert asked == ["cpu"]
