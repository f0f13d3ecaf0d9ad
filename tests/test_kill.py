"""A run that is killed with SIGKILL, at whatever moment, goes on and ends as if nothing had happened."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import checkpoint, learner, record, train
from bench.matrix import Job
from tests import small

SHORT = "[train]\nepochs = 3\n"
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # a pool of threads would not survive the forks
    return small.data(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Job:
    job = small.job(tmp_path_factory.mktemp("undisturbed"), pictures, workload=SHORT)
    assert child(job) == 0
    return job


def child(job: Job, arm: Callable[[], None] = lambda: None) -> int | None:
    """Exit code of a process that arms a trap and trains `job`."""

    def work() -> None:
        arm()
        train.train(job, lambda _: None)

    process = FORK.Process(target=work)
    process.start()
    process.join()
    return process.exitcode


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(owner: Any, name: str, number: int, after: bool = False) -> Callable[[], None]:
    """A trap: the process dies at (or right after) call `number` of a function."""

    def arm() -> None:
        real, calls = getattr(owner, name), []

        def trapped(*arguments: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) == number and not after:
                die()
            result = real(*arguments, **options)
            if len(calls) == number:
                die()
            return result

        setattr(owner, name, trapped)

    return arm


def outcome(job: Job) -> tuple[Any, ...]:
    """What must be as without the kill, to the last bit: evaluations, losses, the scores of the record."""
    run, evals = record.read(job.folder), record.read_evals(job.folder)
    scores = {name: run[name] for name in record.FIELD if name.startswith(("final_", "best_", "steps"))}
    kept = [{name: row[name] for name in row if name not in ("train_s", "wall_s")} for row in evals]
    rows = list(csv.reader((job.folder / "steps.csv").read_text().splitlines()))
    confusion = (job.folder / "confusion.csv").read_text()
    return scores, run["per_class_iou"], kept, [row[:3] for row in rows], confusion


# A run of this workload: 12 steps, evaluations after 4, 8 and 12, a checkpoint after each. The warm-up
# has two steps. os.replace: telemetry, recipe, workload, evals and run.json at the start; then, after each
# evaluation, the checkpoint (two renames from the second on), evals, steps and run.json; run.json at the end.
MOMENTS: dict[str, Callable[[], None]] = {
    "in set-up, before anything is written": at_call(learner.Learner, "__init__", 1),
    "in the warm-up": at_call(learner.Learner, "train_step", 2),
    "before the first real step": at_call(learner.Learner, "train_step", 3),
    "in the middle of a step": at_call(torch.optim.SGD, "step", 8),
    "after a step and before the next": at_call(learner.Learner, "train_step", 8, after=True),
    "in the middle of the first evaluation": at_call(learner.Learner, "evaluate", 1),
    "in the middle of a later evaluation": at_call(learner.Learner, "evaluate", 2),
    "after an evaluation, before its checkpoint": at_call(learner.Learner, "evaluate", 2, after=True),
    "while a checkpoint is packed": at_call(torch, "save", 2),
    "after a checkpoint, before the record": at_call(checkpoint, "save", 2, after=True),
    "at the end, before the confusion matrix": at_call(train.artifacts, "write_confusion", 1),
    "at the end, before the last record": at_call(train.artifacts, "write_samples", 1, after=True),
    "at the end, before the checkpoint goes": at_call(checkpoint, "remove", 1),
}
LAST_RENAME = 20
AROUND = (1, 3, 4, 5, *range(6, 12), *range(15, LAST_RENAME + 1))  # the first and the last evaluation, whole
# Before one lies on the disk what lay there after the one before it, and a file to be renamed: of those there
# are five kinds, and the last of all.
RENAMES = [(number, True) for number in AROUND] + [
    (number, False) for number in (1, *range(6, 11), LAST_RENAME)
]
MOMENTS |= {
    f"{'after' if after else 'before'} rename {number}": at_call(os, "replace", number, after)
    for number, after in RENAMES
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_any_moment_ends_as_the_undisturbed_one(
    tmp_path: Path, pictures: Path, undisturbed: Job, moment: str
) -> None:
    job = small.job(tmp_path, pictures, workload=SHORT)
    assert child(job, MOMENTS[moment]) == -signal.SIGKILL
    finished = (job.folder / "run.json").exists() and record.read(job.folder)["status"] == "finished"
    had_checkpoint = any((job.folder / name).exists() for name in (checkpoint.NAME, checkpoint.BEFORE))
    assert child(job) == 0
    assert outcome(job) == outcome(undisturbed)
    run = record.read(job.folder)
    phases = ("setup_s", "train_s", "eval_s", "checkpoint_s")
    assert run["status"] == "finished"
    assert sum(run[phase] for phase in phases) == pytest.approx(run["wall_s"])
    assert run["resumed"] == int(had_checkpoint) or finished
    assert run["lost_s"] >= 0
    assert [row["step"] for row in record.read_evals(job.folder)] == [4, 8, 12]
    assert not any(path.suffix == ".pt" for path in job.folder.iterdir())


def test_the_moments_reach_to_the_last_rename(tmp_path: Path, pictures: Path) -> None:
    job = small.job(tmp_path, pictures, workload=SHORT)
    assert child(job, at_call(os, "replace", LAST_RENAME + 1)) == 0


INSTANTS = np.random.default_rng(0).uniform(0, 1, 20).round(3).tolist()


@pytest.mark.parametrize("share", INSTANTS)
def test_a_run_killed_at_a_random_instant_ends_as_the_undisturbed_one(
    tmp_path: Path, pictures: Path, undisturbed: Job, share: float
) -> None:
    """The instant is a share of the undisturbed run's seconds; a kernel timer, so it may strike anywhere."""
    job = small.job(tmp_path, pictures, workload=SHORT)
    seconds = share * record.read(undisturbed.folder)["wall_s"]

    def arm() -> None:
        signal.signal(signal.SIGALRM, lambda *_: die())
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))

    assert child(job, arm) in (0, -signal.SIGKILL)  # a faster run may be done before
    assert child(job) == 0
    assert outcome(job) == outcome(undisturbed)


def test_two_kills_in_a_row_are_counted_and_what_was_lost_adds_up(
    tmp_path: Path, pictures: Path, undisturbed: Job
) -> None:
    job = small.job(tmp_path, pictures, workload=SHORT)
    for number in (8, 4):  # real steps 6 and, after going on from step 4 with its own warm-up, 6 again
        assert child(job, at_call(learner.Learner, "train_step", number)) == -signal.SIGKILL
    assert child(job) == 0
    assert record.read(job.folder)["resumed"] == 2
    assert outcome(job) == outcome(undisturbed)
