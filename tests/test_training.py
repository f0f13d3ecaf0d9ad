"""What becomes of a run, however its processes end; the processes, signals and locks are real."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from bench import record, runner, training
from bench.seat import Seat
from tests.fake_matrix import (
    BASE,
    TRAINER,
    Watcher,
    edit,
    folder_of,
    ladder,
    make_plan,
    send,
    statuses,
    train,
)

pytestmark = pytest.mark.usefixtures("own_cache")


# ------------------------------------------------------------------------------------------------- one device


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


def train_on(devices: int, title: str, results: Path, watcher: Watcher | None = None) -> training.Outcome:
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
    monkeypatch.setattr(training, "PEERS_S", 0.5)
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
    monkeypatch.setattr(training, "PEERS_S", 0.0)
    outcome = train_on(2, "save|wait", tmp_path, Watcher(send(signal.SIGINT)))
    assert outcome.status == "interrupted"
    assert (outcome.job.folder / "checkpoint.pt").exists()


# --------------------------------------------------------------------------------------------------- the lock


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    first = training.Lock.take(tmp_path)
    assert first is not None
    assert training.Lock.take(tmp_path) is None
    first.close()
    second = training.Lock.take(tmp_path)
    assert second is not None
    second.close()
