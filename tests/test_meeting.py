"""The meeting of processes that torchrun started: all come, or all hear who does not and why."""

from __future__ import annotations

import re
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from bench import BenchError, meeting
from bench.seat import Seat


@pytest.fixture
def seats(monkeypatch: pytest.MonkeyPatch) -> list[Seat]:
    """Two processes that know one address; the first keeps the store."""
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setattr(meeting, "LOOK_S", 0.01)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}/0"
    return [Seat(rank, 2, 0, 1, address, launched=True) for rank in range(2)]


def in_turn(*calls: Any) -> list[Future[Any]]:
    """All calls at the same time, to their ends."""
    with ThreadPoolExecutor(len(calls)) as threads:
        return [threads.submit(function, *arguments) for function, *arguments in calls]


def test_all_get_one_store_when_all_have_come(seats: list[Seat]) -> None:
    first, second = in_turn(*((meeting.enter, seat.at("rung/0")) for seat in seats))
    first.result().set("word", "said")
    assert second.result().get("word") == b"said"


@pytest.mark.parametrize("absent", [0, 1])
@pytest.mark.parametrize("key", ["rung/0", None])
def test_who_comes_hears_why_the_other_does_not(seats: list[Seat], absent: int, key: str | None) -> None:
    """Also where the store ends with who does not come; before a run, or before all of them."""
    away, here = seats[absent], seats[1 - absent].at("rung/0")
    excused, entered = in_turn(
        (meeting.excuse, away.at(key) if key else away, "no data"), (meeting.enter, here)
    )
    excused.result()
    with pytest.raises(BenchError, match=f"device {absent}: no data") as caught:
        entered.result()
    assert "start all of them again" in caught.value.hint


def test_who_has_heard_stays_until_the_last_has(seats: list[Seat]) -> None:
    """Their processes, or what started them, may keep what the third has yet to hear."""
    three = [replace(seat, devices=3).at("rung/0") for seat in (*seats, replace(seats[0], rank=2))]
    with ThreadPoolExecutor(2) as threads:
        host = threads.submit(meeting.enter, three[0])
        away = threads.submit(meeting.excuse, three[1], "no data")
        store = meeting._open(three[1], meeting.TIMEOUT)
        while store.add("0/rung/0/heard", 0) < 2:
            assert not host.done()
        assert not host.done()
        assert not away.done()
        with pytest.raises(BenchError, match="device 1: no data"):
            meeting.enter(three[2])
        with pytest.raises(BenchError, match="device 1: no data"):
            host.result()


def test_the_first_excuse_stands_and_is_that_of_one_run(
    seats: list[Seat], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "HEAR_S", 1.0)
    runs = [[seat.at(f"rung/{seed}") for seat in seats] for seed in range(2)]
    store = meeting._open(seats[0], meeting.TIMEOUT)
    for why in ("no data", "no weights"):
        meeting.excuse(runs[0][1], why)
    store.add("0/rung/1/come", 1)  # the other has come to the second run
    meeting.enter(runs[1][1])
    assert store.get("0/rung/0/excuse") == b"device 1: no data"


def test_who_never_comes_is_not_waited_for_without_end(
    seats: list[Seat], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "PATIENCE_S", 0.1)
    with pytest.raises(BenchError, match=re.escape(f"only 1 of 2 processes have come to {seats[0].meeting}")):
        meeting.enter(seats[0].at("rung/0"))


def test_an_excuse_that_nobody_can_hear_is_no_error(
    seats: list[Seat], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "HEAR_S", 0.1)
    for seat in seats:
        meeting.excuse(seat, "no data")


def test_a_store_that_is_gone_is_said_in_a_line(seats: list[Seat], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")  # which nobody started
    monkeypatch.setattr(meeting, "TIMEOUT", timedelta(seconds=1))
    address = seats[1].meeting.partition("/")[0]
    with pytest.raises(BenchError, match=f"^the store at {address} does not answer: [^\n]+$"):
        meeting.enter(seats[1].at("rung/0"))
