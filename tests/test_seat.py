"""Seats: where a process stands among those that share a run, as it is told or as torchrun says."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import BenchError
from bench.seat import ALONE, launched, on_this_machine

SAID = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node-0",
    "MASTER_PORT": "29500",
}


def test_processes_of_one_machine_meet_at_one_file(tmp_path: Path) -> None:
    seats = on_this_machine(4, tmp_path)
    assert [(seat.rank, seat.local_rank) for seat in seats] == [(rank, rank) for rank in range(4)]
    assert {(seat.devices, seat.local_devices, seat.launched) for seat in seats} == {(4, 4, False)}
    assert len({seat.meeting for seat in seats}) == 1
    assert not Path(seats[0].meeting).exists()


def test_a_process_that_nobody_launched_has_no_seat() -> None:
    assert launched({}) is None
    assert launched({"MASTER_PORT": "29500", "LOCAL_RANK": "0"}) is None  # as other launchers leave it
    assert (ALONE.rank, ALONE.devices, ALONE.launched) == (0, 1, False)


def test_torchruns_environment_is_understood() -> None:
    seat = launched(SAID)
    assert seat is not None
    assert (seat.rank, seat.devices, seat.local_rank, seat.local_devices) == (5, 8, 1, 4)
    assert (seat.meeting, seat.launched) == ("node-0:29500/0", True)
    assert seat.at("00-base/2").meeting == "node-0:29500/0/00-base/2"


def test_a_second_attempt_meets_elsewhere() -> None:
    again = launched({**SAID, "TORCHELASTIC_RESTART_COUNT": "1"})
    assert again is not None
    assert again.meeting == "node-0:29500/1"


@pytest.mark.parametrize("missing", SAID)
def test_half_an_environment_is_refused(missing: str) -> None:
    with pytest.raises(BenchError, match=f"but {missing} is not") as caught:
        launched({name: value for name, value in SAID.items() if name != missing})
    assert "torchrun" in caught.value.hint


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"])
def test_what_is_no_number_is_refused(name: str) -> None:
    with pytest.raises(BenchError, match="invalid literal"):
        launched({**SAID, name: "two"})
