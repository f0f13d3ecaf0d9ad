"""The clock: phases add up to the wall, whoever reads it and whenever."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.clock import PHASES, Clock


class Time:
    """Seconds that pass only when told to, and how often somebody waited for the device."""

    def __init__(self) -> None:
        self.seconds, self.waits = 100.0, 0

    def __call__(self) -> float:
        return self.seconds

    def wait(self) -> None:
        """The device takes a second to become idle."""
        self.waits += 1
        self.seconds += 1


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def clock(time: Time) -> Clock:
    return Clock(now=time)


def spend(clock: Clock, time: Time, *spans: tuple[str, float]) -> None:
    for phase, seconds in spans:
        clock.enter(phase)
        time.seconds += seconds


def test_it_starts_in_set_up(clock: Clock, time: Time) -> None:
    time.seconds += 3
    assert clock.phase == "setup"
    assert clock.seconds("setup") == clock.wall() == 3


def test_time_goes_to_the_open_phase_and_phases_add_up_to_the_wall(clock: Clock, time: Time) -> None:
    spend(clock, time, ("setup", 0.5), ("train", 8), ("eval", 2), ("checkpoint", 0.25))
    spend(clock, time, ("train", 16), ("eval", 4))
    assert clock.state() == {"setup": 0.5, "train": 24, "eval": 6, "checkpoint": 0.25}
    assert clock.wall() == time.seconds - 100 == 30.75


def test_one_phase_ends_at_the_instant_the_next_begins() -> None:
    ticks = iter(range(100))
    clock = Clock(now=lambda: next(ticks))  # each look at it takes a second
    for phase in ("train", "eval", "train"):
        clock.enter(phase)
    assert clock.state() == {"setup": 1, "train": 2, "eval": 1, "checkpoint": 0}


def test_reading_changes_nothing(clock: Clock, time: Time) -> None:
    spend(clock, time, ("train", 2))
    assert [clock.seconds("train") for _ in range(3)] == [2, 2, 2]
    clock.state()["train"] = 1000
    time.seconds += 1
    assert clock.wall() == clock.seconds("train") == 3


def test_entering_the_phase_it_is_in_loses_no_time(clock: Clock, time: Time) -> None:
    spend(clock, time, ("train", 2), ("train", 3))
    assert clock.seconds("train") == clock.wall() == 5


def test_work_still_queued_is_paid_by_the_phase_that_queued_it(time: Time) -> None:
    clock = Clock(now=time, wait=time.wait)
    spend(clock, time, ("train", 2), ("eval", 5), ("train", 0))
    assert time.waits == 3
    assert clock.state() == {"setup": 1, "train": 3, "eval": 6, "checkpoint": 0}


def test_a_plain_reading_does_not_wait_for_the_device(time: Time) -> None:
    clock = Clock(now=time, wait=time.wait)
    clock.state(), clock.seconds("train"), clock.wall()
    assert time.waits == 0


def test_it_goes_on_from_a_state_in_set_up(clock: Clock, time: Time) -> None:
    spend(clock, time, ("train", 7), ("checkpoint", 1))
    resumed = Clock(now=time, state=clock.state())
    time.seconds += 2
    spend(resumed, time, ("train", 4))
    assert resumed.state() == {"setup": 2, "train": 11, "eval": 0, "checkpoint": 1}
    assert resumed.wall() == clock.wall() - clock.seconds("checkpoint") + 1 + 6


def test_the_state_it_went_on_from_is_left_alone(time: Time) -> None:
    state = dict.fromkeys(PHASES, 1.0)
    clock = Clock(now=time, state=state)
    spend(clock, time, ("train", 3), ("eval", 3))
    assert state == dict.fromkeys(PHASES, 1.0)


def test_a_state_without_a_phase_is_refused(time: Time) -> None:
    with pytest.raises(KeyError, match="eval"):
        Clock(now=time, state={"setup": 1, "train": 1, "checkpoint": 1})


def test_it_can_have_started_before_it_was_made(time: Time) -> None:
    clock = Clock(now=time, started=90.0)
    assert clock.seconds("setup") == clock.wall() == 10


@pytest.mark.parametrize("call", [lambda clock: clock.enter("tea"), lambda clock: clock.enter("")])
def test_an_unknown_phase_is_refused_and_costs_nothing(call: Callable[[Clock], None], time: Time) -> None:
    clock = Clock(now=time, wait=time.wait)
    with pytest.raises(ValueError, match="phases are setup, train, eval, checkpoint"):
        call(clock)
    assert (clock.phase, time.waits) == ("setup", 0)


def test_its_own_time_is_monotonic() -> None:
    clock = Clock()
    readings = [clock.wall() for _ in range(100)]
    assert readings == sorted(readings)
    assert readings[0] >= 0
