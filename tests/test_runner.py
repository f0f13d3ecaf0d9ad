"""The runner against a trainer without torch; the processes, signals and locks are real."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench import STOPS, BenchError, doctor, matrix, record, runner, training
from bench.seat import Seat
from bench.workload import Workload
from bench.workload import load as load_workload
from tests import small
from tests.fake_matrix import (
    MINI,
    PHOTOGRAPHS,
    SIDE_BY_SIDE,
    TRAINER,
    Watcher,
    folder_of,
    ladder,
    make_plan,
    pictures,
    send,
    statuses,
    train,
)

pytestmark = pytest.mark.usefixtures("own_cache")


# ----------------------------------------------------------------------------------------------- side by side


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_runs_train_side_by_side_where_the_workload_says_so(tmp_path: Path) -> None:
    watcher = Watcher()
    recipes = ladder("one", "two", "three", "fail")
    plan = matrix.plan(recipes, SIDE_BY_SIDE, 1, tmp_path, data=pictures(), trainer=TRAINER)
    result = runner.run(plan, watcher, trainer=TRAINER)
    assert statuses(result) == ["finished", "finished", "finished", "failed"]
    assert [kind for kind, *_ in watcher.events[:2]] == ["start", "start"]
    started = sorted(key[0] for kind, *key in watcher.events if kind == "start")
    assert started == ["fail", "one", "three", "two"]
    assert [each.record["runs_at_once"] for each in result.outcomes if each.record] == [2] * 4
    again = matrix.plan(recipes, SIDE_BY_SIDE, 1, tmp_path, data=pictures(), trainer=TRAINER)
    assert [each.action for each in again] == ["skip", "skip", "skip", "retry"]


# --------------------------------------------------------------------------------------- before the first run


def test_a_data_set_is_looked_at_once_before_the_first_run(tmp_path: Path) -> None:
    for results, looks in (("first", [("verifying", 1, 2), ("verifying", 2, 2)]), ("second", [])):
        watcher = Watcher()
        train(ladder("one"), tmp_path / results, watcher=watcher)
        assert watcher.prepared == [("loading", 0, 1), *looks]


def test_a_damaged_picture_stops_the_matrix_before_it_trains(tmp_path: Path) -> None:
    data = small.pair(tmp_path / "pictures")
    (data / "images/validation/a.png").write_bytes(b"half a pic")
    plan = matrix.plan(ladder("one"), PHOTOGRAPHS, 1, tmp_path / "results", data=data, trainer=TRAINER)
    with pytest.raises(BenchError, match=r"images/validation/a.png cannot be read"):
        runner.run(plan, Watcher(), trainer=TRAINER)
    assert list((tmp_path / "results").iterdir()) == []


def wide(weights: Path | None, results: Path) -> list[matrix.Run]:
    """A plan for a backbone of torchvision's."""
    large = load_workload("ade20k").values["model"]
    work = replace(PHOTOGRAPHS, values={**PHOTOGRAPHS.values, "model": large})
    return matrix.plan(
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
    plan = matrix.plan(
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
        plan = matrix.plan(ladder("one"), few_scenes(), 1, tmp_path / results, trainer=TRAINER)
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
    plan = matrix.plan(ladder("one"), few_scenes(), 1, tmp_path / "results", trainer=TRAINER)
    watcher = Watcher()
    watcher.prepare = lambda what, done, total: os.kill(os.getpid(), signal.SIGINT)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        runner.run(plan, watcher, trainer=TRAINER)
    assert not list(tmp_path.glob("cache/*"))
    assert list((tmp_path / "results").iterdir()) == []


# --------------------------------------------------------------------------------------------------- stopping


@pytest.mark.parametrize("number", STOPS)
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


@pytest.mark.skipif(signal.SIGHUP not in STOPS, reason="nohup has us ignore it")
@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGHUP, signal.SIGHUP), (signal.SIGHUP, signal.SIGTERM), (signal.SIGTERM, signal.SIGHUP)],
)
def test_a_terminal_that_goes_away_may_say_so_twice_and_who_ends_its_session_beside(
    tmp_path: Path, numbers: tuple[int, int]
) -> None:
    result = train(ladder("wait"), tmp_path, watcher=Watcher(send(*numbers)))
    assert statuses(result) == ["interrupted"]
    assert record.read(folder_of(tmp_path, "wait"))["steps_done"] == 7


def test_patience_with_a_run_that_does_not_stop_is_bounded(tmp_path: Path) -> None:
    watcher = Watcher(send(signal.SIGTERM))
    result = train(ladder("stubborn"), tmp_path, watcher=watcher, patience_s=0.0)
    assert result.stopped
    assert statuses(result) == ["interrupted"]


def test_handlers_are_put_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in STOPS]
    train(ladder("fine"), tmp_path)
    assert [signal.getsignal(number) for number in STOPS] == before
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


# --------------------------------------------------------------------------------------- more than one runner


def test_a_run_that_another_runner_trains_is_left_to_it_and_looked_at_last(tmp_path: Path) -> None:
    plan = make_plan(ladder("one", "two"), tmp_path)
    watcher = Watcher()
    lock = training.Lock.take(plan[0].job.folder)
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
    lock = training.Lock.take(plan[0].job.folder) if rank == 0 else None
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


ORPHANING = """
import sys
from pathlib import Path
from tests import fake_matrix as tests

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
