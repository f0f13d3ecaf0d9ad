"""Packets between processes: everybody gets everybody's, round after round, whoever is late."""

from __future__ import annotations

import multiprocessing
import random

import numpy as np
import pytest

from bench import mailbox
from bench.mailbox import ROOM, Mailbox

FORK = multiprocessing.get_context("fork")
ROUNDS = 400


def packet(rank: int, number: int) -> np.ndarray:
    """What `rank` says in a round: of a size and type that change from round to round."""
    kinds = (np.float32, np.float64, np.int64, np.uint8)
    return np.full((number % 5 + 1, 3), 7 * number % 251 + rank, kinds[number % 4])


def member(box: Mailbox, rank: int, processes: int, wrong: object) -> None:
    draw = random.Random(rank)
    for number in range(ROUNDS):
        np.ones(draw.randrange(20_000)).sum()  # each is late in some rounds
        said = box.swap(rank, packet(rank, number))
        for other in range(processes):
            expected = packet(other, number)
            if said.dtype != expected.dtype or not np.array_equal(said[other], expected):
                wrong.value += 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("patience", [0.0, 0.002], ids=["asleep at once", "looking"])
@pytest.mark.parametrize("processes", [2, 3, 5])
def test_all_hear_all_in_every_round(
    processes: int, patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "LOOK_S", patience)
    box, wrong = Mailbox(FORK, processes), FORK.Value("i", 0)
    members = [
        FORK.Process(target=member, args=(box, rank, processes, wrong), daemon=True)
        for rank in range(processes)
    ]
    for each in members:
        each.start()
    for each in members:
        each.join(60)
    assert [each.exitcode for each in members] == [0] * processes
    assert wrong.value == 0


def test_the_largest_packet_fills_a_slot_and_no_more() -> None:
    box = Mailbox(FORK, 1)
    for value in (1, 2, 3):  # both slots, and the first again
        assert np.array_equal(box.swap(0, np.full(ROOM, value, np.uint8)), np.full((1, ROOM), value))
    with pytest.raises(ValueError, match=f"{ROOM + 1} bytes does not fit"):
        box.swap(0, np.zeros(ROOM + 1, np.uint8))


def test_one_whom_nobody_answers_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "TIMEOUT_S", 0.01)
    monkeypatch.setattr(mailbox, "SLEEP_S", 0.01)
    with pytest.raises(TimeoutError, match="device 1 has waited 0 s for the others of its run"):
        Mailbox(FORK, 2).swap(1, np.zeros(4))


class Leaping:
    """A semaphore that nobody posts `times` times: the wall clock, by which the kernel waits, leaps ahead."""

    def __init__(self, times: int) -> None:
        self.left, self.asked = times, []

    def acquire(self, block: bool = True, timeout: float = 0.0) -> bool:
        if not block:
            return False
        self.asked.append(timeout)
        self.left -= 1
        return self.left < 0


def test_a_wall_clock_that_leaps_ahead_ends_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "LOOK_S", 0.0)
    box, posts = Mailbox(FORK, 2), Leaping(3)
    monkeypatch.setattr(box, "_posts", [posts, FORK.Semaphore(0)])
    box.swap(0, np.zeros(4))
    assert len(posts.asked) == 4
