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
HEAR_S = 30.0  # until all have heard why somebody does not come
LOOK_S = 0.2
TIMEOUT = timedelta(minutes=10)  # of a collective: an evaluation of rank 0 alone is never that long

stores: Any = dist  # torch exports them without saying so


def enter(seat: Seat) -> Any:
    """The store in which torch connects the processes of a run, once all of them have come.

    BenchError: one says that it will not come, or does not come, or has ended and the store with it.
    """
    if not seat.launched:
        return stores.FileStore(seat.meeting, seat.devices)
    try:
        return _await_all(seat)
    except stores.DistError as error:
        raise BenchError(
            f"the store at {seat.meeting.partition('/')[0]} does not answer: {str(error).splitlines()[0]}",
            "another process has ended, what it printed says why; start all of them again",
        ) from error


def _await_all(seat: Seat) -> Any:
    store = _open(seat, timedelta(seconds=PATIENCE_S) if _is_kept_by_us() else TIMEOUT)
    here, everywhere = (stores.PrefixStore(key, store) for key in _keys(seat))
    here.add("come", 1)
    until = time.monotonic() + PATIENCE_S
    while (come := here.add("come", 0)) < seat.devices:
        for place in (here, everywhere):
            if place.check(["excuse"]):
                why = place.get("excuse").decode()
                _hear(seat, place)
                raise BenchError(why, "mend it there, then start all of them again")
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
    with contextlib.suppress(stores.DistError):  # there may be nobody left to tell
        place = stores.PrefixStore(_keys(seat)[0], _open(seat, timedelta(seconds=HEAR_S)))
        if not place.check(["excuse"]):  # else another's was first
            place.set("excuse", f"device {seat.rank}: {why}")
        _hear(seat, place)


def _hear(seat: Seat, place: Any) -> None:
    """Count this process among those that know, and give the others a while to hear, too: the store may end
    with it, or with the torchrun that started it."""
    until = time.monotonic() + HEAR_S
    heard = place.add("heard", 1)
    while heard < seat.devices and time.monotonic() < until:
        time.sleep(LOOK_S)
        heard = place.add("heard", 0)


def _open(seat: Seat, timeout: timedelta) -> Any:
    """The store that all processes reach, torchrun's own or one that the first process keeps."""
    host, _, port = seat.meeting.partition("/")[0].rpartition(":")
    keeps = seat.rank == 0 and _is_kept_by_us()
    return stores.TCPStore(host, int(port), seat.devices, keeps, timeout=timeout, wait_for_workers=False)


def _is_kept_by_us() -> bool:
    """Whether the first process keeps the store, which is then not there before it; torchrun's own is."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def _keys(seat: Seat) -> tuple[str, str]:
    """Under what the store keeps this meeting, and what concerns all meetings of this attempt of torchrun."""
    key = seat.meeting.partition("/")[2]
    return key, key.partition("/")[0]
