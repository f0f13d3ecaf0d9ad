"""Where the processes of a run find each other before they can talk, and hear why one will not come.

What `segbench run` starts meets over a file, and ends together. What torchrun starts on several machines has
nothing in common but the address of a store: who cannot begin says so there, or the others would wait.
"""

from __future__ import annotations

import contextlib
import os
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from bench import BenchError
from bench.seat import Seat

PATIENCE_S = 3600.0  # until all have come: meanwhile they may verify a data set, or fetch weights
HEAR_S = 30.0  # until all have heard why somebody does not come, where the store ends with who says so
LOOK_S = 0.2
TIMEOUT = timedelta(minutes=10)  # of a collective: an evaluation of rank 0 alone is never that long

stores: Any = dist  # torch exports them without saying so


def enter(seat: Seat) -> Any:
    """The store in which torch connects the processes of a run, once all of them have come.

    BenchError: one says that it will not come, or does not come.
    """
    if not seat.launched:
        return stores.FileStore(seat.meeting, seat.devices)
    store = _open(seat, timedelta(seconds=PATIENCE_S))
    here, everywhere = (stores.PrefixStore(key, store) for key in _keys(seat))
    here.add("come", 1)
    until = time.monotonic() + PATIENCE_S
    while (come := here.add("come", 0)) < seat.devices:
        for place in (here, everywhere):
            if place.check(["excuse"]):
                place.add("heard", 1)
                _linger(seat, place)
                raise BenchError(place.get("excuse").decode(), "mend it there, then start all of them again")
        if time.monotonic() > until:
            raise BenchError(
                f"only {come} of {seat.devices} processes have come to {seat.meeting}",
                "start the same command on every machine; what the others print says why they did not come",
            )
        time.sleep(LOOK_S)
    store.set_timeout(TIMEOUT)
    return here


def excuse(seat: Seat, why: str) -> None:
    """Tell all others that torchrun started that this process will not come to `seat`'s meeting."""
    with contextlib.suppress(RuntimeError):  # there may be nobody left to tell
        store = _open(seat, timedelta(seconds=HEAR_S))
        place = stores.PrefixStore(_keys(seat)[0], store)
        if not place.check(["excuse"]):  # else another's was first
            place.set("excuse", f"device {seat.rank}: {why}")
        _linger(seat, place)


def _linger(seat: Seat, place: Any) -> None:
    """Where the store ends with this process, let all others hear first."""
    until = time.monotonic() + HEAR_S
    while _hosts(seat) and place.add("heard", 0) < seat.devices - 1 and time.monotonic() < until:
        time.sleep(LOOK_S)


def _open(seat: Seat, timeout: timedelta) -> Any:
    """The store that all processes reach, torchrun's own or one that the first process keeps."""
    host, _, port = seat.meeting.partition("/")[0].rpartition(":")
    return stores.TCPStore(
        host, int(port), seat.devices, _hosts(seat), timeout=timeout, wait_for_workers=False
    )


def _hosts(seat: Seat) -> bool:
    return seat.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def _keys(seat: Seat) -> tuple[str, str]:
    """Under what the store keeps this meeting, and what concerns all meetings of this attempt of torchrun."""
    key = seat.meeting.partition("/")[2]
    return key, key.partition("/")[0]
