"""Steps: what each one gave, when it is known, and how it is written."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import steps
from bench.steps import MOST_ROWS, Steps

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Time:
    seconds = 50.0

    def perf_counter(self) -> float:
        return self.seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(steps, "time", time)
    return time


def run(log: Steps, time: Time, *losses: float, seconds: float = 0.25) -> None:
    for loss in losses:
        time.seconds += seconds
        log.end(torch.tensor(loss), 0.5)


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# On a CPU


def test_a_step_gives_loss_rate_and_milliseconds(time: Time) -> None:
    log = Steps(5, CPU)
    log.begin()
    run(log, time, 3.0, 2.0)
    time.seconds += 1
    log.end(torch.tensor(1.0), 0.125)
    assert log.done == 0
    assert log.drain() is None
    assert log.done == 3
    assert log.filled().tolist() == [[3, 0.5, 250], [2, 0.5, 250], [1, 0.125, 1000]]


def test_what_happens_between_steps_is_left_out_when_they_begin_anew(time: Time) -> None:
    log = Steps(5, CPU)
    log.begin()
    run(log, time, 1.0)
    time.seconds += 100  # an evaluation
    log.begin()
    run(log, time, 1.0)
    log.drain()
    assert log.filled()[:, 2].tolist() == [250, 250]


def test_nothing_is_drained_twice(time: Time) -> None:
    log = Steps(5, CPU)
    log.begin()
    run(log, time, 1.0)
    log.drain(), log.drain(wait=True)
    assert log.done == 1


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_the_first_loss_that_is_not_finite_is_told_and_stays_told(time: Time, loss: float) -> None:
    log = Steps(9, CPU)
    log.begin()
    run(log, time, 1.0, 2.0)
    assert log.drain() is None
    run(log, time, 1e38, loss, 3.0, math.nan)
    step, told = log.drain() or (None, 0.0)
    assert step == 3
    assert told == loss or math.isnan(told) and math.isnan(loss)
    run(log, time, 1.0)
    assert (log.drain() or (None,))[0] == log.bad[0] == 3
    assert log.done == 7


def test_it_goes_on_from_what_is_filled(time: Time) -> None:
    log = Steps(6, CPU)
    log.begin()
    run(log, time, 5.0, 4.0)
    log.drain()
    kept = log.filled()
    resumed = Steps(6, CPU, kept)
    resumed.begin()
    run(resumed, time, 3.0)
    resumed.drain()
    assert resumed.done == 3
    assert resumed.filled()[:, 0].tolist() == [5, 4, 3]
    run(log, time, 9.0)
    log.drain()
    kept[0, 0] = 0  # a copy: a checkpoint holds these rows alone, and nobody else's
    assert log.filled()[0, 0] == 5
    assert kept.untyped_storage().nbytes() == 2 * 3 * 8


def test_means_and_quantiles_are_numpys(time: Time) -> None:
    log, rng = Steps(50, CPU), np.random.default_rng(0)
    losses, seconds = rng.random(40), rng.random(40)
    log.begin()
    for loss, duration in zip(losses, seconds, strict=True):
        run(log, time, loss, seconds=duration)
    log.drain()
    for since in (0, 17, 39):
        assert log.mean_loss(since) == pytest.approx(losses[since:].mean(), rel=1e-6)
    for share in (0.0, 0.5, 0.95, 1.0):
        assert log.ms_quantile(share) == pytest.approx(1000 * np.quantile(seconds, share))


# The file


@pytest.mark.parametrize(
    ("count", "rows"), [(1, 1), (999, 999), (1000, 1000), (1001, 501), (2000, 1000), (2001, 667)]
)
def test_no_more_than_a_thousand_rows_are_written(count: int, rows: int, tmp_path: Path) -> None:
    table = torch.rand(count, 3, dtype=torch.float64)
    Steps(count, CPU, table).write(tmp_path / "steps.csv")
    written = read(tmp_path / "steps.csv")
    assert len(written) == rows <= MOST_ROWS
    stride = math.ceil(count / MOST_ROWS)
    assert [int(row["step"]) for row in written] == list(range(0, count, stride))
    for row in (written[0], written[-1]):
        assert float(row["loss"]) == pytest.approx(table[int(row["step"]), 0].item(), rel=1e-5)


def test_a_run_in_its_middle_writes_the_rows_it_will_still_have_at_its_end(tmp_path: Path) -> None:
    table = torch.rand(2500, 3, dtype=torch.float64)
    whole, part = tmp_path / "whole.csv", tmp_path / "part.csv"
    Steps(2500, CPU, table).write(whole)
    Steps(2500, CPU, table[:1300]).write(part)
    assert whole.read_text().startswith(part.read_text())
    assert len(read(part)) == 434


def test_a_run_without_steps_writes_a_header(tmp_path: Path) -> None:
    Steps(5, CPU).write(tmp_path / "steps.csv")
    assert (tmp_path / "steps.csv").read_text() == "step,loss,lr,ms\n"


# On a GPU, as its events tell


class Event:
    """A CUDA event: it is done when the test says so."""

    finished = 0
    made: list[Event] = []
    waited: list[int] = []

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.number = len(self.made)
        self.made.append(self)

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return self.number < self.finished

    def synchronize(self) -> None:
        self.waited.append(self.number)

    def elapsed_time(self, other: Event) -> float:
        assert self.number in self.waited or self.number == 0 or self.query()
        return 10.0 * (other.number - self.number)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    yield Event
    Event.finished, Event.made, Event.waited = 0, [], []


def test_a_gpu_is_not_waited_for_until_told(gpu: Any) -> None:
    log = Steps(9, CUDA)
    log.begin()
    for loss in (3.0, 2.0, 1.0):
        log.end(torch.tensor(loss), 0.5)
    log.drain()
    assert log.done == 0
    gpu.finished = 3  # the begin and two steps
    log.drain()
    assert log.done == 2
    assert max(gpu.waited) == 2
    log.drain(wait=True)
    assert log.done == 3
    assert log.filled().tolist() == [[3, 0.5, 10], [2, 0.5, 10], [1, 0.5, 10]]


def test_a_bad_loss_found_while_waiting_is_still_told_at_the_next_step(gpu: Any) -> None:
    log = Steps(9, CUDA)
    log.begin()
    log.end(torch.tensor(math.nan), 0.5)
    assert log.drain() is None
    log.drain(wait=True)  # before an evaluation, say
    assert (log.drain() or (None,))[0] == 0
